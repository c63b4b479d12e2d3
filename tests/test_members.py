"""Members asked for one by one: the same numbers as in a grid, in the order asked."""

import numpy as np
import pytest
from conftest import load_config

import lr_order_jax
from analysis import optuna_search
from lr_order_jax import experiment, results, spec
from lr_order_jax.fields import ConfigError


@pytest.fixture
def config():
    values = dict(load_config("sweep", "smoke").items())
    small = {"d": 6, "n": 12, "m_w": 4, "m_v": 8, "num_test": 16, "num_records": 2}
    return values | small | {"eta_1": 0.2, "eta_init": (0.2, 0.05), "num_seeds": 2}


def test_members_are_those_of_a_grid(config, tmp_path):
    grid = experiment.run(spec.parse(config | {"lam": (1e-3, 1e-2)}), tmp_path / "grid")
    asked = [(0.05, 1e-2), (0.2, 1e-3), (0.05, 1e-2), (0.05, 1e-3)]
    found = lr_order_jax.run_members(config, [{"eta_init": e, "lam": w} for e, w in asked])
    assert found["train_loss"].dims == ("seed", "member", "flow_time")
    assert found.attrs["complete"]
    np.testing.assert_array_equal(found["lam"], [lam for _, lam in asked])
    for i, (eta, lam) in enumerate(asked):
        for name in ("train_loss", "test_error_p_only", "second_difference", "status"):
            expected = grid[name].sel(eta_init=eta, lam=lam).values
            np.testing.assert_allclose(found[name].isel(member=i), expected, rtol=2e-5, atol=1e-6)
    assert results.final(found, "test_error").dims == ("seed", "member")


@pytest.mark.parametrize("member", [{"eta_init": 0.1}, {"lam": 0.01}])
def test_one_member_alone(config, member):
    one = config | {"eta_init": (0.2,)}
    found = lr_order_jax.run_members(one, [member, member])
    assert found.sizes["member"] == 2
    (name,) = member
    np.testing.assert_array_equal(found[name], [member[name]] * 2)
    with_other = lr_order_jax.run_members(one, [member, {name: member[name] / 2}])
    np.testing.assert_allclose(
        found["train_loss"].isel(member=0).transpose("seed", ..., "flow_time").values.squeeze(),
        with_other["train_loss"]
        .isel(member=0)
        .transpose("seed", ..., "flow_time")
        .values.squeeze(),
        rtol=2e-5,
    )


def test_a_directory_is_continued(config, tmp_path):
    members = [{"eta_init": 0.1}, {"eta_init": 0.2}]
    first = lr_order_jax.run_members(config, members, tmp_path / "run")
    content = (tmp_path / "run" / "results.nc").read_bytes()
    again = lr_order_jax.run_members(config, members, tmp_path / "run")
    assert first.identical(again)
    assert (tmp_path / "run" / "results.nc").read_bytes() == content


@pytest.mark.parametrize(
    ("members", "changes", "line"),
    [
        ([], {}, "members: must be a list of one or more"),
        ([{}], {}, "members: must be a list of one or more"),
        ([{"eta_init": 0.1}, {"lam": 0.1}], {}, "members: number 1 has the fields lam"),
        ([{"d": 5}], {}, "members: 'd' is not swept, use some of eta_init, eta_2"),
        ([{"eta_init": 0.1}], {"eta_1": None}, "config.eta_1 is not set"),
        ([{"eta_init": -1.0}], {}, "config.eta_init = -1.0"),
        ([{"eta_init": "fast"}], {}, "config.eta_init"),
    ],
)
def test_wrong_members_are_one_line(config, members, changes, line):
    with pytest.raises(ConfigError) as caught:
        lr_order_jax.run_members(config | changes, members)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_optimiser_asks_and_is_told():
    pytest.importorskip("optuna")
    config = load_config("sweep", "smoke")
    config.eta_1, config.num_seeds, config.num_records = 0.2, 2, 2
    study = optuna_search.search(config, trials=3, batch=2)
    assert len(study.trials) == 4
    members = [trial.params for trial in study.trials]
    assert all(0.05 <= member["eta_init"] <= 0.2 for member in members)
    errors = results.final(lr_order_jax.run_members(config, members), "test_error_p_only")
    told = [trial.value for trial in study.trials]
    np.testing.assert_allclose(errors.mean("seed"), told, atol=0.02)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (3, "must be a list of one or more mappings"),
        ({"eta_init": 0.1}, "must be a list of one or more mappings"),
        ([0.1], "must be a list of one or more mappings"),
        ([{"eta_init": "fast"}], r"number 0: config\.eta_init = 'fast': must be"),
        ([{"eta_init": 0.1}, {"eta_init": (0.1, 0.2)}], "number 1: eta_init = .*: must be one"),
        ([{"eta_init": None}], r"number 0: config\.eta_init is not set"),
        ([{"eta_init": {}}], r"number 0: config\.eta_init = \{\}: must be"),
        ([{3: 0.1}], "members: 3 is not swept"),
    ],
)
def test_members_of_wrong_types_are_one_line(config, asked, told):
    with pytest.raises(ConfigError, match=told) as caught:
        lr_order_jax.run_members(config, asked)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="must be a ConfigDict"):
        lr_order_jax.run_members("configs/sweep.py", [{"eta_init": 0.1}])
