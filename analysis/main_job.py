"""Does a run of configs/sweep.py show the effect? Three numbers against what was promised.

    python -m analysis.main_job DIR

Means over seeds, smallest against largest initial rate. Exit status 1 if one is missed.
"""

import sys

import numpy as np
import xarray as xr

from lr_order_jax import results


def effect(dataset: xr.Dataset) -> list[tuple[str, float, float]]:
    """What was measured and the least value promised: (quantity, measured, promised) each."""
    rates = dataset["eta_init"].values
    small, large = int(rates.argmin()), int(rates.argmax())
    at_40 = dataset["second_difference"].sel(flow_time=40.0).mean("seed").values
    at_end = results.final(dataset, "second_difference").mean("seed").values
    error = results.final(dataset, "test_error_p_only").transpose("seed", "eta_init").values
    mean, standard_error = results.mean_and_error(error[:, small] - error[:, large])
    return [
        (
            "|second difference| at flow time 40, smallest rate over largest",
            float(np.abs(at_40[small] / at_40[large])),
            2.5,
        ),
        (
            "|second difference| of the largest rate, end over flow time 40",
            float(np.abs(at_end[large] / at_40[large])),
            3.0,
        ),
        (
            "P-only error, smallest rate less largest, in standard errors of the paired difference",
            float(mean / standard_error),
            2.0,
        ),
    ]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m analysis.main_job DIR", file=sys.stderr)
        return 2
    try:
        dataset = results.read_results(arguments[0])
    except OSError as error:
        print(f"error: {arguments[0]}: holds no results.nc ({error.strerror})", file=sys.stderr)
        return 2
    try:
        with np.errstate(all="ignore"):  # a NaN or infinity is a number like any other here
            numbers = effect(dataset)
    except (KeyError, ValueError):
        print(
            f"error: {arguments[0]}: must have eta_init as its only axis, and flow time 40",
            file=sys.stderr,
        )
        return 2
    missed = 0
    for quantity, measured, promised in numbers:
        shown = "holds" if measured >= promised else "MISSED"
        missed += shown == "MISSED"
        print(f"{shown:6}  {measured:6.2f} (at least {promised})  {quantity}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
