"""The check of the main job tells a run with the effect from one without."""

import numpy as np
import pytest
import xarray as xr

from analysis import main_job
from lr_order_jax import results


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
    )


CLEAR = [[0.01, 0.03], [0.02, 0.04], [0.01, 0.035]]


def test_the_three_numbers():
    numbers = [m for _, m, _ in main_job.effect(dataset(-0.6, -0.2, -0.8, CLEAR))]
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
def test_exit_status(values, status, tmp_path, capsys):
    results.write_results(dataset(*values), tmp_path / "results.nc")
    assert main_job.main([str(tmp_path)]) == status
    assert ("MISSED" in capsys.readouterr().out) == bool(status)


def test_results_of_another_shape_are_one_line(tmp_path, capsys):
    early = dataset(-0.6, -0.2, -0.8, CLEAR).isel(flow_time=[0, 2])
    results.write_results(early, tmp_path / "results.nc")
    assert main_job.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_results_is_one_line(tmp_path, capsys):
    assert main_job.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
