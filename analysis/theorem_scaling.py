"""Theorems 3.4 and 3.5 as trends: the final P-only error against what a study varies.

    python -m analysis.theorem_scaling DIR

DIR is a study of configs/scaling.py, or any over one shape with both algorithms; of one that is not
finished the programs that are count. Writes
DIR/figures/theorem_scaling.png, .pdf and .md: slopes in log-log with 95 % intervals beside what the
theorems say of P-only examples, O(kappa) for L-S and Omega(1) for S.
"""

import pathlib

import numpy as np

from analysis import script
from analysis.script import Compared
from lr_order_jax import figures, load, results

Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> x (K,), errors (seeds, K)

CLAIMS = {"L-S": "error = O(kappa): at least 1", "S": "error = Omega(1): 0"}


def compared(label: str, curves: Curves) -> list[Compared]:
    """Slopes of the curves of `results.errors_against_shape`, and the errors of L-S and S."""
    rows = []
    for name, (x, errors) in curves.items():
        slope = results.plus_minus(*results.fit_slope(x, errors))
        rule = figures.RULE_LABELS.get(name, name)
        claim = CLAIMS.get(name, "-") if label.startswith("kappa") else "-"
        rows.append(Compared(f"slope against {label}, {rule}", claim, slope))
        if name not in CLAIMS:
            continue
        if len(x) > 2:  # where these two differ, the error is no power
            ends = (results.fit_slope(x[at], errors[:, at]) for at in (slice(2), slice(-2, None)))
            told = " to ".join(results.plus_minus(*end) for end in ends)
            rows.append(
                Compared(f"slope from the first two values to the last two, {name}", "-", told)
            )
        means = ", ".join(
            f"{at:.3g}: {results.with_error(e, 100)}" for at, e in zip(x, errors.T, strict=True)
        )
        rows.append(Compared(f"error in % at {label}, {name}", "-", means))
    return rows


def main(folder: pathlib.Path) -> int:
    run = load(folder)
    dataset = run.dataset
    if "test_error_p_only" not in dataset:
        problem = dataset.attrs["problem"]
        raise ValueError(f"must be a study of configs/scaling.py: {problem} has no P-only error")
    label, found = results.errors_against_shape(dataset)
    curves = {}
    for name, (x, errors) in found.items():
        ended = np.isfinite(errors).any(axis=0)
        curves[name] = x[ended], errors[:, ended]
    if not {"L-S", "S"} <= set(curves):
        raise ValueError("must hold members of both algorithms")
    for name in ("L-S", "S"):
        if len(found[name][0]) >= 2 > len(curves[name][0]):
            raise ValueError(f"has fewer than two final errors of {name} yet")
        if len(found[name][0]) < 2:
            raise ValueError(
                "must vary a field of the distribution or eta_2, as configs/scaling.py does: "
                f"{name} has one value of {label}"
            )
    rows = compared(label, curves)
    draw = lambda: figures.error_against_shape(dataset)  # noqa: E731
    script.paper_figure(run, "theorem_scaling", draw, script.COLUMN, rows)
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.theorem_scaling DIR", 1, main)
