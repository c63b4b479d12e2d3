"""Every shipped config is built in each of its variants; the smallest are run in test_main."""

import importlib.util

import numpy as np
import pytest
from conftest import ROOT, load_config

from lr_order_jax import fields, spec, sweep


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
    records = np.linspace(0, run_spec.problem.horizon(), run_spec.common.num_records + 1)
    assert 40.0 in records  # where the promise is measured
