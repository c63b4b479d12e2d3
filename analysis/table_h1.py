"""The table of appendix H.1: final clean accuracies without augmentation, with and without noise.

    python -m analysis.table_h1 DIR

DIR is a run of configs/cifar.py. Writes DIR/figures/table_h1.png, .pdf and .md. Of the paper's
numbers the difference of the last two arms, 4.72 points, stands in its main text.
"""

import pathlib

import xarray as xr

from analysis import script
from analysis.script import Compared
from lr_order_jax import figures, load, results

PAPER = {"large": "90.41 %", "noise": "89.65 %", "small": "84.93 %"}


def compared(dataset: xr.Dataset) -> list[Compared]:
    end = 100 * results.final(dataset, "clean_accuracy")
    told = lambda values: results.with_error(values.values)  # noqa: E731
    rows = [Compared(arm, PAPER[arm], f"{told(end.sel(arm=arm))} %") for arm in PAPER]
    lift = told(end.sel(arm="noise") - end.sel(arm="small"))
    return [*rows, Compared("noise less small", "4.72 points", f"{lift} points")]


def main(folder: pathlib.Path) -> int:
    run = load(folder)
    dataset = run.dataset
    if not set(PAPER) <= set(dataset.get("arm", xr.DataArray([])).values.tolist()):
        raise ValueError(f"must be a run of configs/cifar.py, with the arms {', '.join(PAPER)}")
    rows = compared(dataset)
    title = f"final clean accuracy, {results.title_of(dataset)}, {dataset.sizes['seed']} seeds"
    draw = lambda: figures.table(title, ("arm", "paper", "this run"), rows)  # noqa: E731
    script.paper_figure(run, "table_h1", draw, script.COLUMN, rows)
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.table_h1 DIR", 1, main)
