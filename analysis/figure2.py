"""Figure 2 of the paper and, from checkpoints, the network around the circle in the plane of Q.

    python -m analysis.figure2 DIR

DIR is a run of `two_layer` with planar V and with checkpoints kept by `keep_at`, as of
configs/lemmas.py. Members of one checkpoint are at the same step, at different flow times. The
first seed is drawn. Writes DIR/figures/figure2.png.
"""

import pathlib

import numpy as np

from analysis import script
from lr_order_jax import checkpoint, figures, results

ANGLES = np.linspace(-0.6, 0.6, 601)


def curves_of(folder: pathlib.Path):
    """r and the curves of `figures.around_the_circle`: each algorithm at each checkpoint.

    Raises:
      ValueError: if the run is none of planar V with both algorithms.
    """
    dataset = results.read_results(folder)
    config = results.config_of(dataset)
    if config.get("v_representation") != "planar" or isinstance(config["r"], list):
        raise ValueError("must be one run of two_layer with v_representation = 'planar'")
    columns = results.columns_of(dataset)
    curves = []
    newest, meta = checkpoint.restore(folder)
    counts: dict = {}  # of the curves drawn: a member that has ended is drawn once
    for step in sorted({*meta["kept"], meta["step"]}):
        tree = newest if step == meta["step"] else checkpoint.restore(folder, step)[0]
        v, u = tree["params"]["V"], tree["stats"]["v"]
        for name, of_name in results.the_two_algorithms(dataset).items():
            for column in of_name[:1]:
                h = columns.index(column)
                taken = tuple(tree["phase_counts"][0, h])
                if counts.get(name) == taken:
                    continue
                counts[name] = taken
                rates = [results.value_of(dataset, n, column) for n in ("eta_init", "eta_2")]
                time = float(np.dot(rates, taken))
                before = np.outer(np.cos(ANGLES), v["z"][0, h])
                before += np.outer(np.sin(ANGLES), v["zeta"][0, h])
                g = np.maximum(before, 0) @ u[0, h]
                curves.append((name, f"flow time {time:.0f}", ANGLES, g))
    return config["r"], curves


def main(folder: pathlib.Path) -> int:
    r, curves = curves_of(folder)
    if not curves:
        raise ValueError("must hold a member of Algorithm 1 or 2 and a checkpoint")
    script.save_figure(figures.around_the_circle(r, curves), folder, "figure2")
    return 0


if __name__ == "__main__":
    script.run("python -m analysis.figure2 DIR", 1, main)
