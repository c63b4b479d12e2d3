"""Figure 3 of the paper: accuracy on clean images and on patches alone, on patched CIFAR-10.

    python -m analysis.figure3 DIR

DIR is a run of configs/patch_cifar.py. Writes DIR/figures/figure3.png, .pdf and .md, with the
paper's statements (section 6) beside what the run measured. "Before annealing" is
one time for all arms, just before the first of them is annealed.
"""

import pathlib

import xarray as xr

from analysis import script
from analysis.script import Compared
from lr_order_jax import figures, load, results


def compared(dataset: xr.Dataset) -> list[Compared]:
    rows = []
    at = {
        "before annealing": lambda name: results.before_annealing(dataset, name),
        "at the end": lambda name: results.final(dataset, name),
    }
    said = {
        ("patch", "small", "before annealing"): "learned very quickly",
        ("patch", "large", "before annealing"): "not before annealing",
        ("patch", "noise", "before annealing"): "not before annealing",
        ("clean", "small", "at the end"): "about 70 % (83 % where trained on clean images alone)",
    }
    for group, what in (("patch", "patches alone"), ("clean", "clean images")):
        for when, values in at.items():
            accuracy = values(f"{group}_accuracy")
            for arm in dataset["arm"].values.tolist():
                ours = script.with_unit(100 * accuracy.sel(arm=arm), "%", 1)
                paper = said.get((group, arm, when), "-")
                rows.append(Compared(f"accuracy on {what} {when}, {arm}", paper, ours))
    return rows


def main(folder: pathlib.Path) -> int:
    run = load(folder)
    dataset = run.dataset
    if "patch_accuracy" not in dataset or dataset["status"].dims != ("seed", "arm"):
        raise ValueError("must be a run of configs/patch_cifar.py, with arm as its only axis")
    draw = lambda: figures.patch_accuracy(dataset)  # noqa: E731
    script.paper_figure(run, "figure3", draw, script.PAGE, compared(dataset))
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.figure3 DIR", 1, main)
