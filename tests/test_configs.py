"""Every shipped config is built in each of its variants; the smallest are run in test_main."""

import contextlib
import importlib.util

import numpy as np
import pytest
from conftest import ROOT, load_config

from lr_order_jax import fields, spec, sweep
from lr_order_jax.fields import ConfigError


def shipped():
    for path in sorted((ROOT / "configs").glob("*.py")):
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        for variant in module.VARIANTS:
            yield path.stem, variant


@pytest.mark.parametrize(("name", "variant"), list(shipped()))
def test_a_shipped_config_is_valid(name, variant):
    run_spec = spec.parse_study(load_config(name, variant)).specs[0]
    axes = sweep.make_axes(fields.swept_values(run_spec.problem.fields), run_spec.common.zipped)
    assert len(sweep.make_members(axes)) >= 2


def another(value):
    """A value of the same kind, as the command line could give it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(another(v) for v in value) if value else (1,)
    return f"{value}x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize(("name", "variant"), list(shipped()))
def test_a_field_set_by_itself_changes_no_other(name, variant):
    for field, value in load_config(name, variant).items():
        config = load_config(name, variant)
        before = dict(config.items())
        for candidate in (7, (7,), "x") if value is None else (another(value),):
            with contextlib.suppress(TypeError):  # not of the kind that the field has
                config[field] = candidate
        after = dict(config.items())
        assert {f for f in before if before[f] != after[f]} == {field}


@pytest.mark.parametrize("name", ["patch_cifar", "cifar"])
def test_records_are_one_an_epoch_unless_they_are_set(name):
    config = load_config(name, "smoke")
    unset = spec.parse(config).what
    assert unset["num_records"] == unset["epochs"] == 3
    config.num_records = 2
    assert spec.parse(config).what == unset | {"num_records": 2}
    with pytest.raises(ConfigError, match=r"config\.num_records = 2000000: must be a whole number"):
        spec.parse(dict(load_config(name, "smoke").items()) | {"epochs": 2_000_000})
    with pytest.raises(ConfigError, match=r"config\.num_records is not set: only a time in epochs"):
        spec.parse(dict(load_config("sweep", "smoke").items()) | {"num_records": None})


def test_the_default_sweep_meets_its_promise():
    """At least 5 rates from eta_2 to eta_1 over a ratio of 16, 4 seeds, 20,000 test examples."""
    run_spec = spec.parse(load_config("sweep"))
    section = run_spec.problem.fields
    assert len(section.eta_init) >= 5
    assert min(section.eta_init) == section.eta_2[0]
    assert section.eta_1 / section.eta_2[0] >= 16
    assert len(run_spec.seeds) >= 4
    assert run_spec.seeds == tuple(range(len(run_spec.seeds)))
    assert section.num_test >= 20_000
    records = np.linspace(0, run_spec.problem.horizon(), run_spec.num_records + 1)
    assert 40.0 in records  # where the promise is measured
