"""Figure 2 of the paper and, from checkpoints, the network around the circle in the plane of Q.

    python -m analysis.figure2 DIR

DIR is a run of `two_layer` with planar V and with checkpoints kept by `keep_at`, as of
configs/lemmas.py; of a study, the directory of one of its programs. Members of one checkpoint have
different flow times: those that are trained together are at the same step, those of other groups
before their first or after their last. The first seed is drawn; the table has means over the seeds
that are at the flow time of the first. Writes DIR/figures/figure2.png, .pdf and .md.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from analysis import script
from analysis.script import Compared
from lr_order_jax import figures, load, results
from lr_order_jax.algorithm import TrainState
from lr_order_jax.problems.two_layer import TwoLayer
from lr_order_jax.stored import StoredRun

FAR = np.linspace(0.6, np.pi, 120)
ANGLES = np.concatenate([-FAR[::-1], np.linspace(-0.599, 0.599, 600), FAR])  # fine near z


def outputs(
    state: TrainState, members: tuple[Any, Any], along_z: np.ndarray, along_zeta: np.ndarray
) -> np.ndarray:
    """g of members at K points of the plane of Q, (..., K); V is planar.

    Args:
      members: which, as an index of leaves (S, H, ...).
      along_z: (K,), the points' coordinate along z.
      along_zeta: (K,), that along zeta/|zeta|.
    """
    z, zeta = (state.params["V"][name][members] for name in ("z", "zeta"))
    u = state.stats["v"][members]
    points = zip(along_z, along_zeta, strict=True)  # one by one: V is large
    g = [np.einsum("...m,...m", np.maximum(a * z + b * zeta, 0), u) for a, b in points]
    return np.stack(g, axis=-1)


def curves_of(run: StoredRun):
    """The curves of `figures.around_the_circle`, each algorithm at each checkpoint, and g of the
    seeds at z - zeta, z and z + zeta for each of them, (S', 3).

    Raises:
      ValueError: if V is not planar.
    """
    if not isinstance(run.problem, TwoLayer) or run.problem.fields.v_representation != "planar":
        raise ValueError("must be a run of two_layer with v_representation = 'planar'")
    columns = results.columns_of(run.dataset)
    r = run.problem.fields.r
    curves, of_directions = [], []
    drawn: dict = {}  # times of the last curves: a member that has ended is drawn once
    for stored in run.checkpoints.still_there():
        for name, of_name in results.the_two_algorithms(run.dataset).items():
            for h in (columns.index(column) for column in of_name[:1]):
                time = float(stored.time[0, h])
                if drawn.get(name) != time:
                    g = outputs(stored.state, (0, h), np.cos(ANGLES), np.sin(ANGLES))
                    curves.append((name, time, ANGLES, g))
                    there = stored.time[:, h] == time
                    three = outputs(stored.state, (there, h), np.ones(3), np.array([-r, 0.0, r]))
                    of_directions.append(three)
                drawn[name] = time
    return curves, of_directions


def drawing(run: StoredRun) -> tuple[Callable[[], Any], list[Compared]]:
    """A function that draws the figure of a run, and its table.

    Raises:
      ValueError: if V is not planar, or nothing is there to draw.
      NoCheckpoint: if there is none yet.
    """
    curves, of_directions = curves_of(run)
    if not curves:
        raise ValueError("must hold a member of Algorithm 1 or 2 and a checkpoint")
    rows = []
    for (name, time, *_), here in zip(curves, of_directions, strict=True):
        told = f"g at z - zeta, z, z + zeta, {name} at flow time {time:.4g}, {len(here)} seeds"
        rows.append(Compared(told, "-, +, -", ", ".join(map(results.with_error, here.T))))
    title = f"{results.title_of(run.dataset)}, seed {run.grid.seeds[0]}"
    r = run.problem.fields.r
    return lambda: figures.around_the_circle(r, curves, title), rows


def main(folder: pathlib.Path) -> int:
    run = load(folder)
    draw, rows = drawing(run)
    script.paper_figure(run, "figure2", draw, script.PAGE, rows)
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.figure2 DIR", 1, main)
