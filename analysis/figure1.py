"""Figure 1 of the paper: training and validation accuracy of a large and a small initial rate.

    python -m analysis.figure1 DIR

DIR is a run of configs/cifar.py, without patches. Writes DIR/figures/figure1.png, .pdf and .md,
with the paper's statements beside what the run measured.
"""

import pathlib

import numpy as np
import xarray as xr

from analysis import script
from analysis.script import Compared
from lr_order_jax import figures, load, results


def jump(dataset: xr.Dataset, arm: str) -> np.ndarray:
    """Clean accuracy of an arm two epochs after its first annealing, less that at it: (seeds,).
    NaN until the run has come so far."""
    of_arm = dataset.sel(arm=arm)
    annealed = float(of_arm["annealed_at"].min())
    if np.isnan(annealed):
        return np.array([np.nan])
    clean = of_arm["clean_accuracy"]
    after = clean.sel(epoch=annealed + 2, method="nearest")
    return (after - clean.sel(epoch=annealed, method="nearest")).values


def first_behind(dataset: xr.Dataset) -> float:
    """The first epoch from which on the small rate's mean clean accuracy is below the large's, of
    those recorded; NaN if there is none."""
    mean = dataset["clean_accuracy"].sel(arm=["small", "large"]).mean("seed").dropna("epoch")
    ahead = (mean.sel(arm="small") >= mean.sel(arm="large")).values
    last = int(np.flatnonzero(ahead)[-1]) if ahead.any() else -1
    return float(mean["epoch"].values[last + 1]) if last + 1 < len(ahead) else np.nan


def compared(dataset: xr.Dataset) -> list[Compared]:
    end = 100 * results.final(dataset, "clean_accuracy")
    difference = (end.sel(arm="large") - end.sel(arm="small")).values
    annealed = float(dataset["annealed_at"].sel(arm="large").min())
    when = "not yet" if np.isnan(annealed) else f"after {annealed:g} epochs"
    behind = first_behind(dataset)
    return [
        Compared(
            "final clean accuracy, large less small rate",
            "above 0",
            script.with_unit(difference, "points"),
        ),
        Compared(
            "clean accuracy of the large rate, two epochs after annealing less at it",
            "a jump",
            script.with_unit(100 * jump(dataset, "large"), "points"),
        ),
        Compared(
            f"epoch from which on the small rate is behind (annealing: {when})",
            "after annealing",
            "-" if np.isnan(behind) else f"{behind:g}",
        ),
    ]


def main(folder: pathlib.Path) -> int:
    run = load(folder)
    dataset = run.dataset
    script.need_arms(dataset, ("large", "small"))
    draw = lambda: figures.accuracy(dataset)  # noqa: E731
    script.paper_figure(run, "figure1", draw, script.PAGE, compared(dataset))
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.figure1 DIR", 1, main)
