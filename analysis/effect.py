"""Does a run show the effect that its config promises? Numbers against what was promised.

    python -m analysis.effect DIR

For runs of configs/sweep.py, configs/lazy_limit.py, configs/mitigation.py (also its variant limit),
configs/patch_cifar.py and configs/cifar.py (published or small). Exit status 1 if a promise is
missed, 2 if the run cannot be judged, as where it is not finished.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import xarray as xr

from analysis import script
from lr_order_jax import results


class Promise(NamedTuple):
    """A measured quantity and what it must exceed."""

    quantity: str
    measured: float
    least: float


def of_sweep(dataset: xr.Dataset) -> list[Promise]:
    """Means over seeds, smallest against largest initial rate."""
    rates = dataset["eta_init"].values
    small, large = int(rates.argmin()), int(rates.argmax())
    at_40 = dataset["second_difference"].sel(flow_time=40.0).mean("seed").values
    at_end = results.final(dataset, "second_difference").mean("seed").values
    error = results.final(dataset, "test_error_p_only").transpose("seed", "eta_init").values
    mean, standard_error = results.mean_and_error(error[:, small] - error[:, large])
    return [
        Promise(
            "|second difference| at flow time 40, smallest rate over largest",
            float(np.abs(at_40[small] / at_40[large])),
            2.5,
        ),
        Promise(
            "|second difference| of the largest rate, end over flow time 40",
            float(np.abs(at_end[large] / at_40[large])),
            3.0,
        ),
        Promise(
            "P-only error, smallest rate less largest, in standard errors of the paired difference",
            float(mean / standard_error),
            2.0,
        ),
    ]


def of_mitigation(dataset: xr.Dataset) -> list[Promise]:
    """The small rate with noise before the activations against that without, and the large rate;
    means over seeds (appendix F.1)."""
    rates, noise = dataset["eta_init"].values, dataset["noise_init"].values
    large, small = int(rates.argmax()), int(np.argmin(rates + noise))
    (noisy,) = np.flatnonzero(noise)
    until = float(dataset["annealed_at"].isel(eta_init=noisy).max())
    before = (dataset["flow_time"] > 0) & (dataset["flow_time"] < until)
    size = abs(dataset["second_difference"].mean("seed")).where(before, drop=True)
    share = size.isel(eta_init=small) / size.isel(eta_init=noisy)
    error = results.final(dataset, "test_error_p_only").transpose("seed", "eta_init").values
    mean, standard_error = results.mean_and_error(error[:, large] - error[:, noisy])
    return [
        Promise(
            "|second difference| of the small rate until the noise is annealed, without over with "
            "it, least",
            float(share.min(skipna=False)),
            3.0,
        ),
        Promise(
            "P-only error, largest rate less small rate with noise, in standard errors of the "
            "paired difference",
            float(mean / standard_error),
            -2.0,
        ),
    ]


def of_synthetic(dataset: xr.Dataset) -> list[Promise]:
    is_mitigation = "noise_init" in dataset.coords and dataset["noise_init"].dims == ("eta_init",)
    return of_mitigation(dataset) if is_mitigation else of_sweep(dataset)


def _least(values: xr.DataArray, more: str, less: str) -> float:
    """By how many points one arm is above another, in the seed in which it is least."""
    return 100 * float((values.sel(arm=more) - values.sel(arm=less)).min(skipna=False))


def of_cifar(dataset: xr.Dataset) -> list[Promise]:
    """Arms `large`, `small` and `noise` on plain CIFAR-10, in points: the worst seed."""
    end = results.final(dataset, "clean_accuracy")
    quantity = "accuracy on clean images at the end"
    return [
        Promise(f"{quantity}, large less small", _least(end, "large", "small"), 0.0),
        Promise(f"{quantity}, small with noise less small", _least(end, "noise", "small"), 0.0),
    ]


def of_images(dataset: xr.Dataset) -> list[Promise]:
    return of_patch(dataset) if "patch_accuracy" in dataset else of_cifar(dataset)


def of_patch(dataset: xr.Dataset) -> list[Promise]:
    """Arm `small` against arm `large`, in points: the seed in which the difference is least."""
    earlier = {g: results.before_annealing(dataset, f"{g}_accuracy") for g in ("patch", "clean")}
    end = results.final(dataset, "clean_accuracy")
    return [
        Promise(
            "accuracy on patches alone before annealing, small less large",
            _least(earlier["patch"], "small", "large"),
            30.0,
        ),
        Promise(
            "accuracy on clean images before annealing, large less small",
            _least(earlier["clean"], "large", "small"),
            0.0,
        ),
        Promise(
            "accuracy on clean images at the end, large less small",
            _least(end, "large", "small"),
            0.0,
        ),
    ]


OF_SYNTHETIC = (of_synthetic, "must have eta_init as its only axis, and flow time 40")
PROMISES = {
    "two_layer": OF_SYNTHETIC,
    "lazy_limit": OF_SYNTHETIC,
    "patch_cifar": (
        of_images,
        "must have arm as its only axis, with small and large (and without patches noise)",
    ),
}


def main(folder: pathlib.Path) -> int:
    dataset = results.read_results(folder)
    problem = dataset.attrs["problem"]
    if problem not in PROMISES:
        raise ValueError(f"nothing is promised of {problem}")
    if not dataset.attrs["complete"]:
        raise ValueError("is not finished: what is promised is of its end")
    promises, needed = PROMISES[problem]
    try:
        with np.errstate(all="ignore"):  # a NaN or infinity is a number like any other here
            measured = promises(dataset)
    except (KeyError, ValueError):
        raise ValueError(needed) from None
    print(f"{results.title_of(dataset)}, {dataset.sizes['seed']} seeds")
    missed = 0
    for promise in measured:
        holds = promise.measured > promise.least
        missed += not holds
        told = "holds" if holds else "MISSED"
        print(
            f"{told:6}  {promise.measured:6.2f} (more than {promise.least:g})  {promise.quantity}"
        )
    return int(missed > 0)


if __name__ == "__main__":
    script.run("python -m analysis.effect DIR", 1, main)
