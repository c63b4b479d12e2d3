"""Every figure as a function of results: labelled arrays in, a matplotlib figure out.

matplotlib is imported inside, so that importing the package does not pull it in.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lr_order_jax import results


def _colours(count: int):
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, count))


def _rate_columns(dataset: xr.Dataset) -> list[dict[str, int]]:
    """The columns along the initial rate, at the first value of every other axis."""
    rate = results.rate_dim(dataset)
    return [c for c in results.columns_of(dataset) if not any(c[a] for a in c if a != rate)]


def _mean_and_band(axis: Any, curves: xr.DataArray, colour: Any, label: str) -> None:
    """A line against time: mean over seeds, with a band of one standard error."""
    curves = curves.transpose("seed", ...)
    time = curves[curves.dims[1]].values
    mean, error = results.mean_and_error(curves.values)
    axis.plot(time, mean, color=colour, label=label)
    axis.fill_between(time, mean - error, mean + error, color=colour, alpha=0.25, lw=0)


def learning_order(dataset: xr.Dataset) -> Any:
    """Second difference and the losses of Q-only and P-only examples against flow time.

    One line an initial rate, mean over seeds with a band of one standard error; other axes at their
    first value. A dotted line marks the mean time at which the rate of its colour was annealed.
    """
    from matplotlib.figure import Figure

    panels = (
        ("second_difference", "second difference of g\n(negative: Q is learned)", "linear"),
        ("train_loss_q_only", "training loss, Q-only examples", "log"),
        ("train_loss_p_only", "training loss, P-only examples", "linear"),
    )
    columns = _rate_columns(dataset)
    figure = Figure(figsize=(12.5, 4.0), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (name, label, scale) in zip(axes, panels, strict=True):
        for column, colour in zip(columns, _colours(len(columns)), strict=True):
            rate = results.label_of(dataset, column)["eta_init"]
            _mean_and_band(axis, dataset[name].isel(column), colour, rate)
            annealed, _ = results.mean_and_error(dataset["annealed_at"].isel(column).values)
            if np.isfinite(annealed):
                axis.axvline(annealed, color=colour, ls=":", lw=0.8)
        axis.set_xlabel("flow time (learning rate x steps)")
        axis.set_ylabel(label)
        if np.any(dataset[name] > 0) or scale == "linear":
            axis.set_yscale(scale)
    axes[0].legend(title="initial rate", fontsize="small")
    figure.suptitle(f"Learning order, {dataset.sizes['seed']} seeds (band: one standard error)")
    return figure


def error_against_rate(dataset: xr.Dataset) -> Any:
    """Final P-only test error against the initial learning rate: each seed, mean, standard error.

    Seeds are paired (same data, initial weights and noise), so each is a line of its own.
    """
    from matplotlib.figure import Figure

    columns = _rate_columns(dataset)
    error = results.final(dataset, "test_error_p_only")
    values = 100 * np.stack([error.isel(column).values for column in columns])  # (rates, seeds)
    rates = dataset["eta_init"].values
    by_rate = np.argsort(rates)
    figure = Figure(figsize=(5.5, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates[by_rate], values[by_rate], color="0.75", lw=0.8, marker=".", ms=4)
    spread = np.array([results.mean_and_error(row) for row in values[by_rate]])
    axis.errorbar(
        rates[by_rate], spread[:, 0], spread[:, 1], color="C0", marker="o", capsize=3,
        label="mean, standard error",
    )  # fmt: skip
    axis.plot([], [], color="0.75", marker=".", label="one seed")
    axis.set_xscale("log")
    axis.set_xlabel("initial learning rate")
    axis.set_ylabel("final test error on P-only examples (%)")
    axis.legend(fontsize="small")
    return figure


def _accuracy_panels(dataset: xr.Dataset, panels: Sequence[tuple[str, str]]) -> Any:
    """Accuracies in % against epoch, a panel a variable and a line a member: mean over seeds, a
    band of one standard error, gray lines where members were annealed."""
    from matplotlib.figure import Figure

    columns = results.columns_of(dataset)
    annealings = results.annealing_times(dataset)
    figure = Figure(figsize=(4.8 * len(panels) + 0.4, 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, label) in zip(axes, panels, strict=True):
        for time in annealings:
            axis.axvline(time, color="0.6", lw=0.8)
        for column, colour in zip(columns, _colours(len(columns)), strict=True):
            labels = results.label_of(dataset, column)
            text = ", ".join(labels[axis_name] for axis_name in column)
            _mean_and_band(axis, 100 * dataset[name].isel(column), colour, text)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
    axes[0].legend(title=", ".join(columns[0]), fontsize="small")
    seeds = dataset.sizes["seed"]
    figure.suptitle(f"{results.title_of(dataset)}, {seeds} seeds (gray: annealing)")
    return figure


def accuracy(dataset: xr.Dataset) -> Any:
    """Figure 1 of the paper: training and (clean) validation accuracy against epoch."""
    return _accuracy_panels(
        dataset,
        (("train_accuracy", "training accuracy (%)"), ("clean_accuracy", "clean accuracy (%)")),
    )


def patch_accuracy(dataset: xr.Dataset) -> Any:
    """Figure 3 of the paper: accuracy on clean validation images and on patches alone."""
    return _accuracy_panels(
        dataset,
        (
            ("clean_accuracy", "accuracy on clean test images (%)"),
            ("patch_accuracy", "accuracy on patches alone (%)"),
        ),
    )


def patch_examples(z: Any, zeta: Any, before: Any, after: Any, title: str) -> Any:
    """The patches, and images before and after they get one (the picture of section H.2).

    Args:
      z, zeta, before, after: colours in [0, 1]: (k, k, 3), (classes, k, k, 3), and twice
        (n, side, side, 3).
    """
    from matplotlib.figure import Figure

    rows = [
        ("z, and each\nclass's zeta,\namplified", [z, *zeta]),
        ("before", before),
        ("after", after),
    ]
    columns = max(len(images) for _, images in rows)
    figure = Figure(figsize=(columns + 0.8, len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), columns)
    for row, (label, images) in zip(axes, rows, strict=True):
        row[0].set_ylabel(label, fontsize="small")
        for axis in row:
            axis.set(xticks=[], yticks=[])
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image)
        for axis in row[len(images) :]:
            axis.axis("off")
    figure.suptitle(title)
    return figure


FIGURES: Mapping[str, Callable[[xr.Dataset], Any]] = {
    "accuracy": accuracy,
    "error_against_rate": error_against_rate,
    "learning_order": learning_order,
    "patch_accuracy": patch_accuracy,
}


def draw(dataset: xr.Dataset, names: Sequence[str], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the named figures as PNG files into a folder and returns their paths."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name in names:
        path = folder / f"{name}.png"
        figure = FIGURES[name](dataset)
        save = functools.partial(figure.savefig, dpi=150, format="png")
        results.write_aside(path, save)
        paths.append(path)
    return paths
