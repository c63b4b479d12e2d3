"""Several programs as one study: parsed, run, joined, and what is read from it."""

import json
import shutil
import signal

import numpy as np
import pytest
import xarray as xr
from conftest import load_config

import lr_order_jax
from lr_order_jax import directory, experiment, figures, results, spec, study
from lr_order_jax.fields import ConfigError


@pytest.fixture(scope="module")
def values():
    base = dict(load_config("lazy_limit", "smoke").items())
    sizes = {"num_test": 40, "num_records": 2, "flow_time_1": 2.0, "flow_time_2": 2.0}

    def make(**changes):
        assert set(changes) <= set(base), "no such field"
        return base | sizes | changes

    return make


def test_one_value_is_one_program_as_ever(values):
    asked = spec.parse_study(values(d=(20,), n=20))
    assert asked.axes == ()
    assert asked.what == spec.parse(values(d=20, n=(20,))).what
    assert asked.what["d"] == 20


def test_several_values_are_several_programs(values):
    asked = spec.parse_study(values(d=(10, 20), r=(0.1, 0.2, 0.3)))
    assert [axis.name for axis in asked.axes] == ["d", "r"]
    assert len(asked.specs) == 6
    assert asked.programs[1] == "d=10,r=0.2"
    section = asked.specs[1].problem.fields
    assert (section.d, section.r) == (10, 0.2)
    assert (asked.what["d"], asked.what["r"]) == ([10, 20], [0.1, 0.2, 0.3])
    assert len({spec.digest(s) for s in (*asked.specs, asked)}) == 7


def test_fields_of_programs_can_be_zipped(values):
    zipped = ("d+n", "eta_init+noise_scale")
    pairs = {"eta_init": (0.2, 0.05), "noise_scale": (1.0, 2.0)}
    asked = spec.parse_study(values(d=(10, 20), n=(30, 40), zipped=zipped, **pairs))
    assert [dict(point) for point in asked.points] == [{"d": 10, "n": 30}, {"d": 20, "n": 40}]
    assert asked.specs[0].common.zipped == ("eta_init+noise_scale",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"d": (10, 1)}, "config.d = 1: must be"),
        ({"d": (10, 10)}, "holds the same value twice"),
        ({"d": ()}, "config.d = (): must hold"),
        ({"d": (10, 20), "n": (30,), "zipped": ("d+n",)}, "must be of equal length"),
        ({"d": (10, 20), "zipped": ("d+eta_init",)}, "'eta_init' is no axis of this kind"),
        ({"p0": (0.5, 0.9), "q0": 0.2}, "config.p0 + config.q0"),
    ],
)
def test_wrong_values_are_one_line(values, changes, told):
    with pytest.raises(ConfigError) as caught:
        spec.parse_study(values(**changes))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def done(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    asked = spec.parse_study(values(d=(10, 20), n=(15, 25), zipped=("d+n",)))
    return asked, folder, study.run(asked, folder)


def test_load_finds_the_programs(done):
    _, folder, dataset = done
    run = lr_order_jax.load(folder)
    assert [program.workdir.name for program in run.programs] == ["d=10,n=15", "d=20,n=25"]
    assert [program.problem.fields.d for program in run.programs] == [10, 20]
    assert run.programs[1].checkpoints
    assert run.dataset.identical(dataset)
    with pytest.raises(ValueError, match="holds 2 programs"):
        _ = run.spec


def test_the_results_are_those_of_each_program_side_by_side(done):
    asked, folder, dataset = done
    assert dataset["train_loss"].dims == ("seed", "d", "eta_init", "flow_time")
    assert dataset["linear_error_all_p"].dims == ("seed", "d")
    assert dataset["n"].values.tolist() == [15, 25]
    assert dataset.attrs["complete"] == 1
    assert results.config_of(dataset)["d"] == [10, 20]
    for d, n in ((10, 15), (20, 25)):
        alone = results.read_results(folder / f"d={d},n={n}")
        for name in ("train_loss", "test_error_p_only", "annealed_at", "p"):
            np.testing.assert_array_equal(dataset[name].sel(d=d), alone[name])
    assert (folder / "figures" / "error_against_shape.png").stat().st_size > 5000
    whole = json.loads((folder / "config.json").read_text())
    assert whole["what"] == json.loads(json.dumps(asked.what))
    of_program = json.loads((folder / "d=10,n=15" / "config.json").read_text())
    assert {entry["source"] for entry in of_program["audit"]} >= {"Assumption 3.1", "Theorem 3.4"}


def test_the_same_command_again_changes_nothing(done, capsys):
    asked, folder, dataset = done
    before = (folder / "results.nc").read_bytes()
    xr.testing.assert_identical(study.run(asked, folder), dataset)
    assert (folder / "results.nc").read_bytes() == before
    assert capsys.readouterr().err.count("nothing left to run") == 2


def test_damaged_results_of_a_program_are_written_again(done, tmp_path):
    """Also those of the second program, which are joined after the first one."""
    asked, folder, dataset = done
    folder = shutil.copytree(folder, tmp_path / "run")
    for damage in (lambda path: path.read_bytes()[:3000], other_number, of_others):
        for name in asked.programs:
            path = folder / name / "results.nc"
            path.write_bytes(damage(path))
        xr.testing.assert_identical(study.run(asked, folder), dataset)


def other_number(path):
    """The bytes of results with another number under the old digest."""
    changed = xr.load_dataset(path, engine="h5netcdf")
    changed["train_loss"][0, 0, 0] = 9.0
    return bytes(changed.to_netcdf(engine="h5netcdf"))


def of_others(path):
    """Those of a program of other variables, whole."""
    changed = results.read_results(path.parent).drop_vars("train_loss")
    changed.attrs["config"] = json.dumps(results.config_of(changed) | {"d": 11})
    changed = changed.assign_attrs(digest=results.digest(changed))
    return bytes(changed.to_netcdf(engine="h5netcdf"))


def test_no_record_is_lost_from_the_joined_results(done, tmp_path):
    """The first program can be written again, of the second one nothing is whole but what has been
    joined: it is refused, and the joined results stay as they are."""
    asked, folder, dataset = done
    folder = shutil.copytree(folder, tmp_path / "run")
    for name in asked.programs:
        (folder / name / "results.nc").write_bytes(b"damaged")
    for path in (folder / asked.programs[1] / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(ConfigError, match="every checkpoint is damaged"):
        study.run(asked, folder)
    xr.testing.assert_identical(results.read_results(folder), dataset)


def test_joined_results_of_another_study_are_not_taken_for_this_one(done, tmp_path):
    asked, folder, dataset = done
    folder = shutil.copytree(folder, tmp_path / "run")
    strange = dataset.copy(deep=True)
    strange["train_loss"][:] = 9.0
    strange.attrs["config"] = json.dumps(results.config_of(dataset) | {"lam": [0.5]})
    results.write_results(strange, folder / "results.nc")
    xr.testing.assert_identical(study.run(asked, folder), dataset)


def test_a_program_of_another_config_is_refused_before_anything_is_written(done, values, tmp_path):
    _, folder, _ = done
    folder = shutil.copytree(folder, tmp_path / "run")
    for name in ("config.json", "results.nc"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match=r"d=10,n=15: holds a run of another config: r is"):
        study.run(spec.parse_study(values(d=(10, 20), n=(15, 25), zipped=("d+n",), r=0.3)), folder)
    assert not (folder / "config.json").exists()


def test_joined_results_of_a_program_that_is_lost_are_refused(done, tmp_path):
    asked, folder, _ = done
    folder = shutil.copytree(folder, tmp_path / "run")
    before = (folder / "results.nc").read_bytes()
    shutil.rmtree(folder / "d=20,n=25" / "checkpoints")
    with pytest.raises(ConfigError, match=r"d=20,n=25/checkpoints: none is left"):
        study.run(asked, folder)
    shutil.rmtree(folder / "d=20,n=25")
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"d=20,n=25/checkpoints: none is left"):
        study.run(asked, folder)
    assert (folder / "results.nc").read_bytes() == before
    assert not (folder / "config.json").exists()


def test_another_study_in_its_directory_is_refused(done, values):
    _, folder, _ = done
    with pytest.raises(ConfigError, match="holds a run of another config: d is"):
        study.run(spec.parse_study(values(d=(10, 30), n=(15, 25), zipped=("d+n",))), folder)
    assert directory.default("x", done[0]).name.startswith("x-")


def test_a_program_without_results_is_filled(done):
    asked, folder, _ = done
    part = results.read_results(folder / "d=10,n=15")
    joined = results.join(asked.what, asked.axes, [part, None])
    assert joined.attrs["complete"] == 0
    assert np.isnan(joined["train_loss"].isel(d=1)).all()
    assert (joined["status"].isel(d=1) == 0).all()
    assert joined["status"].dtype == part["status"].dtype
    np.testing.assert_array_equal(joined["train_loss"].isel(d=0), part["train_loss"])


def test_a_slope_is_found_with_its_interval():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    exact = np.stack([x**1.5, 3 * x**1.5])
    np.testing.assert_allclose(results.fit_slope(x, exact), [1.5, 0], atol=1e-12)
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        draws = x**0.5 * np.exp(0.2 * rng.normal(size=(8, 4)))
        slope, half_width = results.fit_slope(x, draws)
        covered.append(abs(slope - 0.5) < half_width)
    assert 0.91 < np.mean(covered) < 0.99
    assert np.isnan(results.fit_slope(x, np.zeros((2, 4)))[0])
    assert np.isnan(results.fit_slope(x[:1], np.ones((2, 1)))[0])
    # A seed that diverged, a point without errors, and x = 0 are left out.
    with_nan = np.vstack([exact, np.full(4, np.nan)])
    assert results.fit_slope(x, with_nan)[0] == pytest.approx(1.5)
    at_zero = np.hstack([np.zeros((2, 1)), np.ones((2, 1)), exact])
    assert results.fit_slope(np.array([0.1, 0.0, *x]), at_zero)[0] == pytest.approx(1.5)


def joined(**fields):
    """Results of a study over one axis, 2 seeds, L-S and S; errors .01 (d/10) and .02 (d/10)."""
    (name, points), *more = fields.items()
    x = np.asarray(points, float)
    error = 0.01 * np.array([1.0, 2.0])[None, None, :] * (x / x[0])[None, :, None]
    dims = ("seed", name, "eta_init", "flow_time")
    error = np.broadcast_to(error, (2, len(x), 2))[..., None]
    config = {"eta_1": 0.2, "eta_2": [0.1], "noise_init": [0.0], "d": 100, "n": 100} | dict(more)
    status = np.ones((2, len(x), 2), int)
    linear = np.full((2, len(x)), 0.5)
    return xr.Dataset(
        {
            "test_error_p_only": (dims, error),
            "step": (dims, np.zeros_like(error)),
            "status": (dims[:3], status),
            "linear_error_p_only": (dims[:2], linear),
            "linear_error_all_p": (dims[:2], linear / 5),
        },
        {"seed": [0, 1], name: list(points), "eta_init": [0.2, 0.1], "flow_time": [1.0]},
        {"config": json.dumps(config), "problem": "lazy_limit"},
    )


def test_errors_are_read_against_what_the_study_varies():
    label, curves = results.errors_against_shape(joined(r=(0.4, 0.1)))
    assert label == "r"
    np.testing.assert_array_equal(curves["L-S"][0], [0.1, 0.4])
    np.testing.assert_allclose(curves["L-S"][1], [[0.0025, 0.01]] * 2)
    np.testing.assert_allclose(curves["S"][1], [[0.005, 0.02]] * 2)
    np.testing.assert_allclose(curves["all_p"][1], 0.1)
    label, by_kappa = results.errors_against_shape(joined(n=(100, 400)))
    assert label == "kappa = sqrt(d/N)"
    np.testing.assert_allclose(by_kappa["S"][0], [0.5, 1.0])
    assert figures.error_against_shape(joined(n=(100, 400))) is not None


def test_an_unfinished_study_is_drawn(tmp_path):
    data = joined(r=(0.4, 0.1)).copy(deep=True)
    data["test_error_p_only"][0, 1] = np.nan
    data["step"][:, 1] = np.nan
    assert len(figures.draw(data, ("error_against_shape",), tmp_path)) == 1


def test_rates_alone_are_read_as_their_ratio():
    data = joined(r=(0.4,)).squeeze("r", drop=True)
    label, curves = results.errors_against_shape(data)
    assert label == "eta_1/eta_2"
    assert curves["L-S"][0] == [2.0]
    np.testing.assert_allclose(curves["S"][1], [[0.02], [0.02]])


def test_a_second_axis_is_read_at_its_first_value():
    twice = xr.concat([joined(r=(0.4, 0.1)), 9 * joined(r=(0.4, 0.1))], "lam", data_vars="all")
    twice = twice.assign(status=joined(r=(0.4, 0.1))["status"].expand_dims(lam=2, axis=3))
    twice.attrs = joined(r=(0.4, 0.1)).attrs
    _, curves = results.errors_against_shape(twice.transpose("seed", "r", "eta_init", "lam", ...))
    np.testing.assert_allclose(curves["L-S"][1], [[0.0025, 0.01]] * 2)


def test_results_without_the_two_algorithms_are_told_not_drawn(tmp_path, capsys):
    data = joined(r=(0.4, 0.1)).isel(eta_init=[0])
    data.attrs["config"] = json.dumps(results.config_of(data) | {"eta_1": 0.3})
    assert figures.draw(data, ("error_against_shape",), tmp_path / "figures") == []
    assert "not drawn (ValueError: no member is one of" in capsys.readouterr().err


def test_a_refused_study_leaves_nothing(values, tmp_path):
    """The second program's rates are longer than its flow time; the first is not run either."""
    wrong = values(d=(10, 20), eta_init=(50.0,))
    with pytest.raises(ConfigError, match="longer than"):
        study.run(spec.parse_study(wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_resolved_by_program_is_told_by_program(values):
    """gamma0 = d^-1/2 of each d is not gamma0 of the first d in all."""
    by_d = spec.parse_study(values(d=(10, 20)))
    fixed = spec.parse_study(values(d=(10, 20), gamma0=10**-0.5))
    assert by_d.what["gamma0"] == [10**-0.5, 20**-0.5]
    assert spec.digest(by_d) != spec.digest(fixed)
    assert spec.parse_study(values(gamma0=(0.1, 0.2))).what["gamma0"] == [0.1, 0.2]


def test_a_signal_between_programs_ends_the_study(values, tmp_path, monkeypatch):
    """It comes while the first program's figures are drawn, when nothing listens in its loop."""
    drawn = []

    def draw(*arguments):
        drawn.append(arguments)
        signal.raise_signal(signal.SIGTERM)
        return []

    monkeypatch.setattr(figures, "draw", draw)
    with pytest.raises(experiment.Interrupted):
        study.run(spec.parse_study(values(d=(10, 20))), tmp_path / "run")
    assert len(drawn) == 1
    assert results.read_results(tmp_path / "run").attrs["complete"] == 0
    monkeypatch.undo()
    assert study.run(spec.parse_study(values(d=(10, 20))), tmp_path / "run").attrs["complete"] == 1
