"""What is free to choose changes no number: ways, chunks, intervals, groups, order and number of
members, devices (also test_placement). Signals and kills are in `faults`, each way against the
plain one in test_sweep.

Where members are computed one by one (`map`, `loop`), not a bit differs. Under `vmap` a product of
all members' columns is blocked by their number, and each of its sums of k terms may differ by k
UNIT of the size of its terms, UNIT = 2^-24. In a step here sums of d + m_v + n = 34 terms follow
each other and the weights are rounded about 4 times; over 60 steps that is at most 60 x 38 UNIT =
1.4e-4 to first order, where training makes no difference grow. The bound below is
tighter than that.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from conftest import COMPILATION_CACHE, ROOT, load_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lr_order_jax import experiment, results, spec

RATES = (0.2, 0.11, 0.07, 0.05, 0.03)
SEEDS = (0, 1, 2)
NAMES = ("train_loss", "second_difference", "test_error_both", "train_loss_p_only", "step")
RTOL, ATOL = 1e-4, 1e-5


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """By mapping: the results of all rates, from one uninterrupted run."""
    return {
        mapping: run(tmp_path_factory.mktemp(mapping) / "run", RATES, SEEDS, mapping=mapping)
        for mapping in ("vmap", "map")
    }


def run(folder, rates, seeds, **how):
    values = dict(load_config("sweep", "smoke").items())
    values |= {"d": 6, "n": 20, "m_w": 4, "m_v": 8, "num_test": 16, "num_records": 4}
    values |= {"eta_1": 0.2, "eta_2": (0.03,), "flow_time_1": 1.0, "flow_time_2": 0.6}
    return experiment.run(
        spec.parse(values | {"eta_init": tuple(rates), "seeds": tuple(seeds)} | how), folder
    )


def assert_same(found, wanted, rates, seeds, exact):
    for rate in rates:
        for name in NAMES:
            member = {"eta_init": rate, "seed": list(seeds)}
            ours, theirs = (ds[name].sel(member).values for ds in (found, wanted))
            if exact or name == "step":
                np.testing.assert_array_equal(ours, theirs, err_msg=name)
            else:
                np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=ATOL, err_msg=name)


@pytest.mark.slow
@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    rates=st.lists(st.sampled_from(RATES), min_size=1, unique=True),
    seeds=st.lists(st.sampled_from(SEEDS), min_size=1, unique=True),
    mapping=st.sampled_from(["vmap", "map", "loop"]),
    driving=st.sampled_from(["scan", "dispatch"]),
    group_size=st.sampled_from([None, 1, 2]),
    checkpoint_every=st.sampled_from([0.0, 300.0]),
    chunk_seconds=st.sampled_from([0.0, 0.002, 1.0]),
)
def test_any_members_in_any_order_in_any_way(
    reference,
    record_property,
    rates,
    seeds,
    mapping,
    driving,
    group_size,
    checkpoint_every,
    chunk_seconds,
):
    record_property("cases: orders of members and ways", 1)  # of each example
    if mapping == "loop" and driving == "scan":
        driving = "dispatch"
    how = {"driving": driving, "group_size": group_size, "checkpoint_every": checkpoint_every}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "CHUNK_SECONDS", chunk_seconds)
        found = run(pathlib.Path(folder) / "run", rates, seeds, mapping=mapping, **how)
    is_alone = mapping == "map" and driving == "scan"
    assert_same(found, reference["map" if is_alone else "vmap"], rates, seeds, exact=is_alone)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["sweep", "patch_cifar"])
def test_the_number_of_devices(tmp_path, record_property, config):
    """Bit for bit where each device has two or more seeds (and columns, also of those that have not
    ended: they are spread anew when one ends) or computes members one by one; else a product of
    fewer members is made in another order, bounded as above."""
    smoke = [f"--config=configs/{config}.py:smoke"]
    if config == "sweep":
        smoke += ["--config.num_records=2", "--config.num_seeds=4", "--config.d=200"]
        smoke += ["--config.n=200", "--config.eta_init=0.2,0.1,0.05"]
    found = {}
    counts = (1, 2, 3, 4, 8) if config == "sweep" else (1, 3)
    for count in counts:
        workdir = tmp_path / str(count)
        command = [sys.executable, "-m", "lr_order_jax.main", *smoke, f"--workdir={workdir}"]
        environment = os.environ | COMPILATION_CACHE | {"JAX_NUM_CPU_DEVICES": str(count)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if count > 1:
            assert re.search(r"compiled in .* on [23468] devices, cpu", done.stderr)
        found[count] = results.read_results(workdir)
        assert found[count].attrs["complete"] == 1
    wanted = found.pop(1)
    if config == "sweep":
        assert found[2].identical(wanted)
    for other in found.values():
        for name in wanted.data_vars:
            ours, theirs = other[name].values, wanted[name].values
            if config == "patch_cifar":
                np.testing.assert_array_equal(ours, theirs, err_msg=name)
            else:
                np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=ATOL, err_msg=name)
    record_property("cases: numbers of CPU devices", len(counts) - 1)
