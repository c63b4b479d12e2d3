"""The check of a config's promise tells a run with the effect from one without."""

import numpy as np
import pytest
import xarray as xr

from analysis import effect, script
from lr_order_jax import results


@pytest.fixture
def command(monkeypatch):
    """Exit status of the script for a directory."""

    def run(folder):
        monkeypatch.setattr("sys.argv", ["effect", str(folder)])
        with pytest.raises(SystemExit) as ended:
            script.run("effect DIR", 1, effect.main)
        return ended.value.code

    return run


def dataset(small_at_40, large_at_40, large_end, errors):
    time = np.array([0.0, 40.0, 80.0])
    second = np.array([[[0.0, large_at_40, large_end], [0.0, small_at_40, -0.9]]] * 3)
    error = np.repeat(np.asarray(errors)[:, :, None], 3, axis=2)
    dims = ("seed", "eta_init", "flow_time")
    return xr.Dataset(
        {
            "second_difference": (dims, second),
            "test_error_p_only": (dims, error),
            "step": (dims, np.zeros((3, 2, 3))),
            "status": (("seed", "eta_init"), np.ones((3, 2), int)),
        },
        {"seed": [0, 1, 2], "eta_init": [0.2, 0.1], "flow_time": time},
        {"problem": "two_layer", "complete": 1},
    )


CLEAR = [[0.01, 0.03], [0.02, 0.04], [0.01, 0.035]]


def test_the_three_numbers():
    numbers = [p.measured for p in effect.of_sweep(dataset(-0.6, -0.2, -0.8, CLEAR))]
    difference = np.array([0.02, 0.02, 0.025])
    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(3))
    assert numbers == [pytest.approx(3), pytest.approx(4), pytest.approx(t)]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ((-0.6, -0.2, -0.8, CLEAR), 0),
        ((-0.4, -0.2, -0.8, CLEAR), 1),
        ((-0.6, -0.2, -0.5, CLEAR), 1),
        ((np.nan, -0.2, -0.8, CLEAR), 1),
        ((-0.6, -0.2, -0.8, [[0.01, 0.03], [0.04, 0.02], [0.01, 0.01]]), 1),
    ],
)
def test_exit_status(values, status, tmp_path, capsys, command):
    results.write_results(dataset(*values), tmp_path / "results.nc")
    assert command(tmp_path) == status
    assert ("MISSED" in capsys.readouterr().out) == bool(status)


def test_results_of_another_shape_are_one_line(tmp_path, capsys, command):
    early = dataset(-0.6, -0.2, -0.8, CLEAR).isel(flow_time=[0, 2])
    results.write_results(early, tmp_path / "results.nc")
    assert command(tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unfinished_run_is_not_judged(tmp_path, capsys, command):
    half = dataset(-0.6, -0.2, -0.8, CLEAR).assign_attrs(complete=0)
    results.write_results(half, tmp_path / "results.nc")
    assert command(tmp_path) == 2
    told = capsys.readouterr()
    assert told.err == f"error: {tmp_path}: is not finished: what is promised is of its end\n"
    assert told.out == ""


def test_no_results_is_one_line(tmp_path, capsys, command):
    assert command(tmp_path / "none") == 2
    told = capsys.readouterr().err
    assert told.endswith("results.nc: cannot be read (no results have been written yet)\n")
    assert told.count("\n") == 1


def test_help_is_told(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["effect", "--help"])
    with pytest.raises(SystemExit) as ended:
        script.run("effect DIR", 1, effect.main)
    assert ended.value.code == 0
    assert "Does a run show the effect" in capsys.readouterr().out


def patched(small_patch, large_clean, large_end):
    """Two seeds; the second has the smaller differences."""
    epoch = np.array([0.0, 1.0, 2.0])
    clean = np.array([[[0.1, large_clean, large_end], [0.1, 0.4, 0.5]]] * 2)
    patch = np.array([[[0.1, 0.1, 0.9], [0.1, small_patch, 0.9]]] * 2)
    clean[0, 0] += 0.05
    patch[0, 1] += 0.05
    dims = ("seed", "arm", "epoch")
    return xr.Dataset(
        {
            "clean_accuracy": (dims, clean),
            "patch_accuracy": (dims, patch),
            "step": (dims, np.zeros((2, 2, 3))),
            "annealed_at": (("seed", "arm"), np.array([[1.0, np.nan]] * 2)),
            "status": (("seed", "arm"), np.ones((2, 2), int)),
        },
        {"seed": [0, 1], "arm": ["large", "small"], "epoch": epoch},
        {"problem": "patch_cifar", "dataset": "procedural", "complete": 1},
    )


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ((0.5, 0.5, 0.6), 0),
        ((0.38, 0.5, 0.6), 1),
        ((0.5, 0.38, 0.6), 1),
        ((0.5, 0.5, 0.48), 1),
        ((np.nan, 0.5, 0.6), 1),
        ((0.5, 0.4, 0.6), 1),  # equal is not more
    ],
)
def test_a_run_with_patches_is_judged_by_its_worst_seed(values, status, tmp_path, capsys, command):
    results.write_results(patched(*values), tmp_path / "results.nc")
    assert command(tmp_path) == status
    assert ("MISSED" in capsys.readouterr().out) == bool(status)


def test_a_problem_without_promises_is_one_line(tmp_path, capsys, command):
    other = patched(0.5, 0.5, 0.6).assign_attrs(problem="mine:Line")
    results.write_results(other, tmp_path / "results.nc")
    assert command(tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def plain(large, small, noise):
    epoch = np.array([0.0, 1.0])
    clean = np.array([[[0.1, large], [0.1, small], [0.1, noise]]] * 2)
    dims = ("seed", "arm", "epoch")
    return xr.Dataset(
        {
            "clean_accuracy": (dims, clean),
            "step": (dims, np.zeros((2, 3, 2))),
            "status": (("seed", "arm"), np.ones((2, 3), int)),
        },
        {"seed": [0, 1], "arm": ["large", "small", "noise"], "epoch": epoch},
        {"problem": "patch_cifar", "dataset": "procedural", "complete": 1},
    )


@pytest.mark.parametrize(
    ("values", "status"), [((0.6, 0.5, 0.55), 0), ((0.5, 0.5, 0.55), 1), ((0.6, 0.5, 0.45), 1)]
)
def test_a_run_without_patches_is_judged_at_its_end(values, status, tmp_path, capsys, command):
    results.write_results(plain(*values), tmp_path / "results.nc")
    assert command(tmp_path) == status
    assert "the procedural stand-in (not CIFAR-10), 2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(("with_noise", "error", "status"), [(-0.1, 0.01, 0), (-0.3, 0.01, 1),
                                                             (-0.1, 0.05, 1)])  # fmt: skip
def test_mitigation(with_noise, error, status, tmp_path, capsys, command):
    two = dataset(-0.6, -0.2, -0.8, CLEAR)
    third = two.isel(eta_init=[1]).copy(deep=True)
    third["second_difference"][..., 1] = with_noise
    third["test_error_p_only"][:] = error + np.array([0, 0.01, 0.005])[:, None, None]
    arms = xr.concat([two, third], "eta_init")
    arms["annealed_at"] = ("seed", "eta_init"), np.full((3, 3), 80.0)
    arms = arms.assign_coords(noise_init=("eta_init", [0.0, 0.0, 1.0]))
    results.write_results(arms, tmp_path / "results.nc")
    assert command(tmp_path) == status
    told = capsys.readouterr().out
    assert ("MISSED" in told) == bool(status)
    assert "without over with it" in told
