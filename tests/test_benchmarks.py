"""The systems that the package is timed against compute the same, and the benchmarks print what
they say."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import COMPILATION_CACHE, ROOT

from analysis.benchmarks import growth, shares, suite, turns, two_layer

STEPS = 30


@pytest.fixture
def config(tiny):
    """A sweep of 2 rates and 2 seeds without gradient noise, whose members do not end."""

    def make(representation):
        changes = {"v_representation": representation, "noise_scale": (0.0,), "q0": 0.3}
        changes |= {"eta_init": (0.4, 0.1), "eta_2": (0.1,), "lam": (0.05,), "num_seeds": 2}
        return tiny(**changes, n=20, flow_time_1=1e3, flow_time_2=1e3)

    return make


@pytest.mark.parametrize("representation", ["ambient", "planar"])
@pytest.mark.parametrize("system", [s for s in two_layer.SYSTEMS if s != "torch:compile"])
def test_every_system_takes_the_steps_that_the_package_takes(config, system, representation):
    """The compiled one of PyTorch is the same function as torch:vmap."""
    if system.startswith("torch"):
        pytest.importorskip("torch", reason="PyTorch is not installed (it is in CI)")
    members, state = turns.placed(config(representation))
    members.advance(0, STEPS)
    theirs = two_layer.sweep_of(config(representation))
    start = jax.tree.map(np.array, theirs.weights)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        two_layer.make(system, theirs)(0, STEPS)
    params = members.fetch("params")
    if representation == "planar":
        params["V"] = np.stack([params["V"]["z"], params["V"]["zeta"]], axis=-2)
    found = theirs.weights
    if isinstance(found, list):
        found = {name: np.stack([np.asarray(w[name]) for w in found]) for name in "WV"}
    for name in "WV":
        ours = np.swapaxes(params[name], -1, -2).reshape(start[name].shape)
        assert np.abs(ours - start[name]).max() > 0.01
        np.testing.assert_allclose(found[name], ours, rtol=1e-4, atol=1e-5)
    assert state.status.shape == (2, 2)


def test_the_executed_operations_of_the_package_are_fewer():
    values = suite.config_of("small-8")
    rows = two_layer.rows_with_p(values)
    done, whole = suite.executed("ours", values, rows)
    n, d, m = 250, 64, 64
    assert whole == 4 * n * d * 2 * m
    assert done == 4 * d * m * (rows + 3)
    assert 0.7 * n < rows < 0.9 * n  # a fifth has no P pattern
    assert suite.executed("jax:vmap", values, rows) == (whole, whole)


def test_operations_of_a_profile_are_told_apart():
    program = """HloModule jit_step
%body.1 (p: f32[4]) -> f32[4] {
  ROOT %r = f32[4]{0} convolution(%p, %p), window={size=1}
}
%body.2 (p: f32[4]) -> f32[] {
  ROOT %r = f32[] reduce(%p, %zero), dimensions={0}
}
ENTRY %main (a: f32[4]) -> f32[4] {
  %ynn_fusion.7 = f32[4]{0} fusion(%a), kind=kCustom, calls=%body.1, metadata={op_name="x"}
  %ynn_fusion = f32[] fusion(%a), kind=kCustom, calls=%body.2
}
"""
    calls = shares.calls_of(program)
    names = ("ynn_fusion.7", "ynn_fusion", "transpose_copy_fusion.3", "dot.4", "add_fusion")
    kinds = ["convolution", "reduction", "transposition or copy", "product"]
    found = [shares.kind_of(name, calls.get(name)) for name in names]
    assert found == [*kinds, "elementwise and other"]
    events = [
        {"ph": "X", "dur": 2.0, "args": {"hlo_op": name, "hlo_module": "jit_step"}}
        for name in (*names, "while.3")
    ]
    of_program = {f"jit_step/{name}": text for name, text in calls.items()}
    assert shares.durations([*events, {"ph": "M", "name": "x"}], of_program) == {
        kind: 2.0 for kind in (*kinds, "elementwise and other")
    }


def test_slopes_are_of_logarithms_along_an_axis():
    values = [("a", 1, 2.0), ("a", 10, 200.0), ("b", 5, 1.0)]
    rows = [{"axis": axis, "value": value, "ms": ms} for axis, value, ms in values]
    growth.slopes(rows)
    assert [row.get("slope") for row in rows] == [None, pytest.approx(2.0), None]


def run(module, *arguments):
    command = [sys.executable, "-m", f"analysis.benchmarks.{module}", *arguments]
    environment = os.environ | COMPILATION_CACHE
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_suite_prints_a_table(tmp_path):
    out = tmp_path / "suite.json"
    done = run(
        "suite", "--workloads=small-8", "--systems=ours,products,jax:vmap", "--rounds=2",
        "--seconds=0.05", f"--out={out}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, products, plain = json.loads(out.read_text())
    assert [row["system"] for row in (ours, products, plain)] == ["ours", "products", "jax:vmap"]
    assert ours["to_ours"] == 1
    for row in (ours, products, plain):
        assert row["members"] == 8
        assert len(row["seconds"]) == 2
        assert 0 < row["of_peak"] < 2
    assert plain["done"] == 1 > ours["done"] > products["done"]
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path):
    out = tmp_path / "growth.json"
    done = run("growth", "--axes=steps", "--rounds=1", "--seconds=0.05", f"--out={out}")
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())
    assert [row["value"] for row in rows] == list(growth.AXES["steps"])
    assert rows[-1]["ms"] > 100 * rows[0]["ms"]
    assert out.with_suffix(".png").stat().st_size > 10_000
    for flag in ("--axes=colour", "--rounds=0"):
        assert run("growth", flag).returncode != 0


@pytest.mark.slow
def test_shares_add_up_to_the_whole():
    done = run("shares", "--workloads=small-8", "--steps=2")
    assert done.returncode == 0, done.stderr
    parts = [float(line.split("%")[0].split()[-1]) for line in done.stdout.splitlines()]
    assert sum(parts) == pytest.approx(100, abs=0.3)
    assert "product" in done.stdout


@pytest.mark.slow
def test_the_cost_of_each_probe_is_printed():
    done = run("probes", "--config=configs/lemmas.py:smoke", "--rounds=1", "--steps=2")
    assert done.returncode == 0, done.stderr
    told, _, *rows = done.stdout.splitlines()
    assert told == "a whole run: 200 steps and 11 records"
    names = [row.split()[0] for row in rows]
    assert names == ["none", "decomposition", "lemma_5_2", "lemma_5_3", "all"]
    assert rows[0].split()[2::2] == ["1.00", "1.00"]
    assert all(float(number) > 0 for row in rows for number in row.split()[1:])
    assert run("probes", "--steps=0").returncode != 0
