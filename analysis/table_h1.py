"""The table of appendix H.1: final clean accuracies without augmentation, with and without noise.

    python -m analysis.table_h1 DIR

DIR is a run of configs/cifar.py, without patches. Writes DIR/figures/table_h1.png, .pdf and .md.
"""

import pathlib

import xarray as xr

from analysis import script
from analysis.script import Compared
from lr_order_jax import figures, load, results

PAPER = {"large": "90.41 % ?", "noise": "89.65 % ?", "small": "84.93 % ?"}
REMARK = (
    "?: the paper's accuracies of the three arms are quoted from memory and not confirmed; the "
    "difference, 4.72 points, stands in its main text."
)


def compared(dataset: xr.Dataset) -> list[Compared]:
    end = 100 * results.final(dataset, "clean_accuracy")
    rows = [Compared(a, told, script.with_unit(end.sel(arm=a), "%")) for a, told in PAPER.items()]
    lift = script.with_unit(end.sel(arm="noise") - end.sel(arm="small"), "points")
    return [*rows, Compared("noise less small", "4.72 points", lift)]


def main(folder: pathlib.Path) -> int:
    run = load(folder)
    dataset = run.dataset
    script.need_arms(dataset, list(PAPER))
    rows = compared(dataset)
    title = f"final clean accuracy, {results.title_of(dataset)}, {dataset.sizes['seed']} seeds"
    title += " (?: from memory, not confirmed)"
    draw = lambda: figures.table(title, ("arm", "paper", "this run"), rows)  # noqa: E731
    script.paper_figure(run, "table_h1", draw, script.COLUMN, rows, REMARK)
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.table_h1 DIR", 1, main)
