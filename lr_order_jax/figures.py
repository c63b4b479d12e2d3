"""Every figure as a function of results: labelled arrays in, a matplotlib figure out.

matplotlib is imported inside, so that importing the package does not pull it in.
"""

import functools
import itertools
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lr_order_jax import files, results
from lr_order_jax import lemmas as lemma_statements
from lr_order_jax.progress import say


def _colours(count: int):
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, count))


def hex_colours(count: int) -> list[str]:
    """Colours as "#rrggbb" for lines on white: of a contrast of 3 or more (WCAG, graphics)."""
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(c) for c in matplotlib.colormaps["plasma"](np.linspace(0.0, 0.62, count))]


def _rate_columns(dataset: xr.Dataset) -> list[dict[str, int]]:
    """The columns along the initial rate, at the first value of every other axis."""
    rate = results.rate_dim(dataset)
    return [c for c in results.columns_of(dataset) if not any(c[a] for a in c if a != rate)]


def _rate_labels(dataset: xr.Dataset) -> tuple[str, list[str]]:
    """What tells the columns along the initial rate apart: a title, and a label each (the rate, and
    the fields that are zipped with it if the rate does not)."""
    columns = _rate_columns(dataset)
    told = [results.label_of(dataset, column) for column in columns]
    rates = [labels["eta_init"] for labels in told]
    if len(set(rates)) == len(rates):
        return "initial rate", rates
    of_axis = [n for n in told[0] if dataset[n].dims[0] == results.rate_dim(dataset)]
    varied = [n for n in of_axis if len({labels[n] for labels in told}) > 1]
    return ", ".join(varied), [", ".join(labels[n] for n in varied) for labels in told]


def _heading(dataset: xr.Dataset) -> str:
    """Above a figure: of what it is, of how many seeds."""
    count = dataset.sizes["seed"]
    return f"{results.title_of(dataset)}, {count} seed{'s' * (count > 1)}"


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
    title, rates = _rate_labels(dataset)
    figure = Figure(figsize=(12.5, 4.0), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (name, label, scale) in zip(axes, panels, strict=True):
        for column, rate, colour in zip(columns, rates, _colours(len(columns)), strict=True):
            _mean_and_band(axis, dataset[name].isel(column), colour, rate)
            annealed, _ = results.mean_and_error(dataset["annealed_at"].isel(column).values)
            if np.isfinite(annealed):
                axis.axvline(annealed, color=colour, ls=":", lw=0.8)
        axis.set_xlabel("flow time (learning rate x steps)")
        axis.set_ylabel(label)
        if np.any(dataset[name] > 0) or scale == "linear":
            axis.set_yscale(scale)
    axes[0].legend(title=title, fontsize="small")
    figure.suptitle(f"Learning order, {_heading(dataset)} (band: one standard error)")
    return figure


def error_against_rate(dataset: xr.Dataset) -> Any:
    """Final P-only test error against the initial learning rate: each seed, mean, standard error.

    Seeds are paired (same data, initial weights and noise), so each is a line of its own.
    """
    from matplotlib.figure import Figure

    columns = _rate_columns(dataset)
    error = results.final(dataset, "test_error_p_only")
    values = 100 * np.stack([error.isel(column).values for column in columns])  # (rates, seeds)
    if not np.isfinite(values).any():
        raise NothingToShow("no member has ended")
    rates = dataset["eta_init"].values
    by_rate = np.argsort(rates, kind="stable")
    title, labels = _rate_labels(dataset)
    is_rate = len(set(rates)) == len(rates)
    if not is_rate:  # members that differ in what is zipped with the rate stand side by side
        by_rate = rates = np.arange(len(labels))
    figure = Figure(figsize=(5.5, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates[by_rate], values[by_rate], color="0.75", lw=0.8, marker=".", ms=4)
    spread = np.array([results.mean_and_error(row) for row in values[by_rate]])
    axis.errorbar(
        rates[by_rate], spread[:, 0], spread[:, 1], color="C0", marker="o", capsize=3,
        label="mean, standard error",
    )  # fmt: skip
    axis.plot([], [], color="0.75", marker=".", label="one seed")
    if is_rate:
        axis.set_xscale("log")
    else:
        axis.set_xticks(rates, labels, rotation=30, ha="right", fontsize="small")
    axis.set_xlabel("initial learning rate" if is_rate else title)
    axis.set_ylabel("final test error on P-only examples (%)")
    axis.legend(fontsize="small")
    figure.suptitle(_heading(dataset))
    return figure


RULE_LABELS = {
    "p_only": "best linear rule, P-only examples",
    "all_p": "best linear rule, all examples with P",
}


def error_against_shape(dataset: xr.Dataset) -> Any:
    """Final P-only error of Algorithms 1 and 2 against what a study varies, with fitted slopes.

    Theorems 3.4 and 3.5 as trends: O(p kappa) against Omega(p) in the whole error, that is O(kappa)
    against Omega(1) on P-only examples. Dashed: the best linear rules on the same data.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogFormatter, NullFormatter

    label, curves = results.errors_against_shape(dataset)
    if not curves:
        raise ValueError("no member is one of Algorithm 1 or 2")
    if not any(np.isfinite(curves[n][1]).any() for n in curves if n not in RULE_LABELS):
        raise NothingToShow("no member has ended")
    figure = Figure(figsize=(6.0, 4.4), layout="constrained")
    axis = figure.subplots()
    colours = {"L-S": "C0", "S": "C3", "p_only": "C3", "all_p": "C0"}
    sizes = np.unique(np.concatenate([x for x, _ in curves.values()]))
    for name, (x, errors) in curves.items():
        mean, error = results.mean_and_error(100 * errors)
        mean = np.where(mean > 0, mean, np.nan)  # an error of 0 has no place on a log scale
        if name in RULE_LABELS:
            axis.plot(x, mean, color=colours[name], ls="--", lw=1, label=RULE_LABELS[name])
            continue
        slope, half_width = results.fit_slope(x, errors)
        told = f": slope {results.plus_minus(slope, half_width)} (95 %)"
        told *= bool(np.isfinite(half_width))  # of several seeds
        bars = error * results.quantile_95(len(errors))
        axis.errorbar(x, mean, bars, color=colours[name], marker="o", capsize=3, label=name + told)
    if sizes[0] > 0:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(sizes, [f"{value:.3g}" for value in sizes])
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axis.tick_params(axis="y", which="minor", labelsize="x-small")
    axis.set_xlabel(label)
    axis.set_ylabel("final test error on P-only examples (%)")
    axis.legend(fontsize="small")
    figure.suptitle(f"{_heading(dataset)} (bars: 95 %)")
    return figure


class NothingToShow(ValueError):
    """Results that hold nothing yet, or never will, of what a figure shows."""


def learning_order_map(dataset: xr.Dataset) -> Any:
    """Is it the rate or the noise? Heat maps over initial rate x gradient noise.

    Left: how much of its final second difference a member has when the first is annealed (1: Q was
    learned before, 0: after). Right: the final P-only error. Means over seeds; further axes
    at their first value.

    Raises:
      NothingToShow: if the noise is not an axis of its own.
    """
    from matplotlib.figure import Figure

    rate = results.rate_dim(dataset)
    if "noise_scale" not in dataset.dims:
        raise NothingToShow("noise_scale must be an axis of its own")
    dataset = results.at_first_value(dataset, (rate, "noise_scale"))
    before = results.before_annealing(dataset, "second_difference").mean("seed")
    least = float(results.final(dataset, "second_difference").mean("seed").min())
    panels = (
        (before / least, "second difference before annealing,\nover the largest at the end", ".2f"),
        (
            100 * results.final(dataset, "test_error_p_only").mean("seed"),
            "final test error on P-only examples (%)",
            ".2f",
        ),
    )
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    for axis, (values, label, form) in zip(figure.subplots(1, 2), panels, strict=True):
        values = values.transpose("noise_scale", rate)
        shown = axis.imshow(values, origin="lower", aspect="auto", cmap="viridis")
        for (i, j), value in np.ndenumerate(values.values):
            dark = value < (values.min() + values.max()) / 2
            told = format(value, form)
            axis.text(j, i, told, ha="center", va="center", color="w" if dark else "k", fontsize=8)
        for ticks, name in ((axis.set_xticks, "eta_init"), (axis.set_yticks, "noise_scale")):
            ticks(range(dataset.sizes[dataset[name].dims[0]]), [f"{v:g}" for v in dataset[name]])
        axis.set(xlabel="initial learning rate", ylabel="noise, times that of Assumption 3.1")
        figure.colorbar(shown, ax=axis, label=label)
    figure.suptitle(_heading(dataset))
    return figure


def lemmas(dataset: xr.Dataset) -> Any:
    """What each lemma speaks of against flow time, and its predicted scale as a dashed line.

    Means over seeds. Constants and logarithms that the paper hides are taken as 1 in the scales.
    A scale that says nothing in this run (see `lemmas.scales`) is grey.
    """
    from matplotlib.figure import Figure

    dataset = results.at_first_value(dataset, (results.rate_dim(dataset),))
    panels = lemma_statements.PANELS
    known = [panel for panel in panels if panel.variable in dataset]
    figure = Figure(figsize=(13.0, 3.3 * -(-len(known) // 4)), layout="constrained")
    axes = figure.subplots(-(-len(known) // 4), 4, squeeze=False).ravel()
    scales = lemma_statements.scales(dataset)
    for axis, panel in zip(axes, known, strict=False):
        for (name, columns), colour in zip(
            results.the_two_algorithms(dataset).items(), ("C0", "C3"), strict=True
        ):
            if columns:
                _mean_and_band(axis, abs(dataset[panel.variable].isel(columns[0])), colour, name)
        for scale, style in zip(panel.scales, ("--", ":"), strict=False):
            value, _ = results.mean_and_error(scales[scale].values)
            told = scales[scale].attrs
            label = f"{told['relation']} {told['formula']}"
            label += ", says nothing" if told["silent"] else ""
            axis.axhline(value, color="0.7" if told["silent"] else "k", ls=style, lw=1, label=label)
        axis.set_title(panel.title, fontsize="small")
        axis.set_xlabel("flow time", fontsize="small")
        axis.set_yscale("log")
        axis.legend(fontsize="x-small")
    for axis in axes[len(known) :]:
        axis.axis("off")
    figure.suptitle(_heading(dataset))
    return figure


def limit_gap(nets: xr.Dataset, limit: xr.Dataset) -> Any:
    """Finite networks against the limit of infinite width: second differences, and their gap.

    Left: means over seeds against flow time, the limit in black. Right: max over time of the
    difference of the means over the largest of the limit (`results.limit_gaps`), against m_v, and
    the largest |D| at which a network saturates, r^2 tau0 sqrt(m_v)/pi, in the same unit.
    """
    from matplotlib.figure import Figure

    gaps = results.limit_gaps(nets, limit)
    rates = [float(rate) for rate in nets["eta_init"].values]
    figure = Figure(figsize=(4.4 * (len(rates) + 1), 4.0), layout="constrained")
    axes = figure.subplots(1, len(rates) + 1)
    widths = nets["m_v"].values
    for rate, axis in zip(rates, axes, strict=False):
        for width, colour in zip(widths, _colours(len(widths)), strict=True):
            curves = nets["second_difference"].sel(m_v=width, eta_init=rate)
            _mean_and_band(axis, curves, colour, f"m_v = {width}")
        mean = limit["second_difference"].sel(eta_init=rate).mean("seed")
        axis.plot(limit["flow_time"], mean, color="k", ls="--", lw=1.2, label="limit")
        axis.set(title=f"initial rate {rate:g}", xlabel="flow time", ylabel="second difference")
    axes[0].legend(fontsize="small")
    for rate, marker in zip(rates, itertools.cycle("osv^"), strict=False):
        axes[-1].plot(
            widths, gaps["gap"].sel(eta_init=rate), color="C0", marker=marker,
            label=f"gap, initial rate {rate:g}",
        )  # fmt: skip
    saturation = gaps["saturation"].max("eta_init")
    axes[-1].plot(widths, saturation, color="0.4", ls="--", label="saturation of |D|")
    axes[-1].axhline(0.2, color="0.7", lw=0.8)
    axes[-1].set(
        xscale="log", yscale="log", xlabel="m_v", ylabel="over the largest |D| of the limit"
    )
    axes[-1].legend(fontsize="small")
    figure.suptitle(f"{_heading(nets)} (band: one standard error)")
    return figure


def _magnify(axis: Any, most: float) -> None:
    """Shows the curves of an axis for |x| <= most, and all of them in an inset above."""
    whole = axis.inset_axes((0.25, 0.74, 0.5, 0.24))
    seen = []
    for line in axis.lines:
        angles, values = (np.asarray(part) for part in line.get_data())
        whole.plot(angles, values, color=line.get_color(), lw=0.8)
        seen.append(values[abs(angles) <= most])
    shown = np.concatenate([*seen, [0.0]])
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    span = max(high - low, 1e-6)
    axis.set(xlim=(-most, most), ylim=(low - 0.05 * span, high + 0.8 * span))
    whole.axhline(0, color="0.7", lw=0.5)
    whole.set(xlim=(-np.pi, np.pi), yticks=[])
    whole.set_xticks([-np.pi, 0, np.pi], ["-pi", "0", "pi"], fontsize="x-small")


def around_the_circle(
    r: float, curves: Sequence[tuple[str, float, np.ndarray, np.ndarray]], title: str
) -> Any:
    """Figure 2 of the paper, and the network's Q part around the circle in the plane of Q.

    Args:
      r: |zeta|.
      curves: (algorithm, flow time, angle from z in radians (k,), g at these points of the unit
        circle (k,)) each; a panel an algorithm, a colour a flow time.
      title: above all.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for name, *_ in curves))
    times = sorted({round(time) for _, time, *_ in curves})
    colours = dict(zip(times, _colours(len(times)), strict=True))
    figure = Figure(figsize=(4.4 * (len(names) + 1), 5.2), layout="constrained")
    first, *axes = figure.subplots(1, len(names) + 1)
    for (x, y), text, colour in (
        ((1.0, 0.0), "z: +1", "C0"),
        ((1.0, r), "z + zeta: -1", "C3"),
        ((1.0, -r), "z - zeta: -1", "C3"),
    ):
        first.annotate(
            "", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.5}
        )
        first.text(1.02, 2 * y, text, color=colour, va="center")
    first.set(xlim=(0, 2.2), ylim=(-0.5, 0.5), xlabel="along z", ylabel="along zeta/|zeta|")
    first.set_title("the three directions of Q")
    of_zeta = float(np.arctan(r))
    for name, axis in zip(names, axes, strict=True):
        for of, time, angles, g in curves:
            if of == name:
                axis.plot(angles, g, color=colours[round(time)])
        _magnify(axis, min(max(0.6, 2 * of_zeta), np.pi))
        for angle, colour in ((0.0, "C0"), (of_zeta, "C3"), (-of_zeta, "C3")):
            axis.axvline(angle, color=colour, ls=":", lw=1)
        axis.axhline(0, color="0.7", lw=0.8)
        axis.set(title=name, xlabel="angle from z (rad)", ylabel="g on the unit circle")
    for time, colour in colours.items():
        axes[-1].plot([], [], color=colour, label=f"flow time {time}")
    figure.legend(loc="outside lower center", ncols=min(len(times), 4), fontsize="small")
    figure.suptitle(title)
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
    figure.suptitle(f"{_heading(dataset)} (gray: annealing)")
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
      z: (k, k, 3) colours in [0, 1], as all that follow.
      zeta: (classes, k, k, 3), enlarged.
      before: (n, side, side, 3) images.
      after: the same images with their patches.
      title: above all.
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


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table of text as a figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 0.5 + 0.3 * (len(rows) + 1)), layout="constrained")
    axis = figure.subplots()
    axis.axis("off")
    axis.set_title(title, fontsize="small", wrap=True)
    drawn = axis.table(cellText=[list(row) for row in rows], colLabels=list(columns), loc="center")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(6.5)
    drawn.auto_set_column_width(range(len(columns)))
    drawn.scale(1, 1.3)
    return figure


EDGE = "edge of stability of plain gradient descent"


def measured(dataset: xr.Dataset) -> Any:
    """What `analysis.measure` found, a panel a variable and a colour a member, means over seeds.

    Against time, with one standard error; what has a further dimension (layer, block, place on a
    line) against that, at the last checkpoint; what was found of each example as a histogram.
    """
    from matplotlib.figure import Figure

    columns = results.columns_of(dataset)
    colours = _colours(len(columns))
    names = [str(name) for name in dataset.data_vars if name not in ("time", "status")]
    rows, wide = -(-len(names) // 3), min(len(names), 3)
    figure = Figure(figsize=(4.6 * wide + 1.2, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, wide, squeeze=False).ravel()
    at_last = ""
    for axis, name in zip(axes, names, strict=False):
        variable = dataset[name]
        told = textwrap.fill(variable.attrs["long_name"], 36)
        extra = [d for d in variable.dims if d not in ("checkpoint", "seed", *columns[0])]
        of_columns = [variable.isel(column).transpose("seed", ...) for column in columns]
        if extra == ["example"]:
            _histograms(axis, of_columns, colours)
            axis.set_xlabel(told, fontsize="small")
            continue
        axis.set_ylabel(told, fontsize="small")
        for i, (column, of_column, colour) in enumerate(
            zip(columns, of_columns, colours, strict=True)
        ):
            if extra:
                _of_last_checkpoint(
                    axis, of_column, str(extra[0]), colour, (i + 0.5) / len(columns)
                )
                at_last = f", at step {int(dataset['checkpoint'][-1])}"
            elif "checkpoint" in variable.dims:
                time, _ = results.mean_and_error(
                    dataset["time"].isel(column).transpose("seed", ...)
                )
                mean, error = results.mean_and_error(of_column)
                axis.errorbar(time, mean, error, color=colour, marker="o", ms=4, capsize=3)
                axis.set_xlabel(dataset["time"].attrs["long_name"])
            else:
                axis.plot([i] * len(of_column), of_column.values, "o", color=colour)
                axis.set_xticks([])
        if name == "rate_times_sharpness":
            axis.axhline(2, color="k", ls="--", lw=1)
            axis.set_ylim(top=1.15 * max(2, axis.get_ylim()[1]))
            of_axis = {"xycoords": ("axes fraction", "data"), "ha": "center", "va": "bottom"}
            axis.annotate(EDGE, (0.5, 2), **of_axis, fontsize="small")
    for axis in axes[len(names) :]:
        axis.axis("off")
    figure.suptitle(textwrap.fill(_heading(dataset) + at_last, 30 * wide + 10))
    _key_of_members(figure, dataset, colours)
    return figure


def _key_of_members(figure: Any, dataset: xr.Dataset, colours: Any) -> None:
    """Which colour is which member, beside the panels."""
    from matplotlib.lines import Line2D

    columns = results.columns_of(dataset)
    labels = [", ".join(results.point_of(dataset, column).values()) for column in columns]
    figure.legend(
        [Line2D([], [], color=colour, marker="o", ms=4) for colour in colours], labels,
        title=", ".join(columns[0]), loc="outside right upper", fontsize="x-small",
        ncols=-(-len(labels) // 20),
    )  # fmt: skip


def _histograms(axis: Any, of_columns: Sequence[xr.DataArray], colours: Any) -> None:
    """How many examples of each member have each whole number; NaN is left out."""
    counted = [values.values[values.notnull()] for values in of_columns]
    edges = np.arange(max((v.max() for v in counted if v.size), default=0) + 2) - 0.5
    for values, colour in zip(counted, colours, strict=True):
        axis.hist(values, edges, histtype="step", color=colour)
    axis.set_ylabel("examples" if of_columns[0].sizes["seed"] == 1 else "examples of all seeds")


def _of_last_checkpoint(axis: Any, of_column: xr.DataArray, dim: str, colour: Any, at: float):
    """A member's numbers along a dimension at the last checkpoint: a line along numbers; points
    where the dimension has names, `at` (0 to 1) says where beside them."""
    last = of_column.isel(checkpoint=-1)
    axis.set_xlabel(textwrap.fill(last[dim].attrs.get("long_name", dim), 44), fontsize="small")
    if last[dim].dtype.kind not in "UO":
        _mean_and_band(axis, last, colour, "")
        return
    mean, error = results.mean_and_error(last.values)
    places = np.arange(len(mean))
    shown = {"marker": "o", "ms": 4, "capsize": 2, "ls": ""}
    axis.errorbar(places + 0.6 * (at - 0.5), mean, error, color=colour, **shown)
    turned = {"rotation": 60, "ha": "right", "fontsize": "x-small"} if len(mean) > 4 else {}
    axis.set_xticks(places, last[dim].values, **turned)
    axis.set_xlim(-0.5, len(mean) - 0.5)


FIGURES: Mapping[str, Callable[[xr.Dataset], Any]] = {
    "accuracy": accuracy,
    "error_against_rate": error_against_rate,
    "error_against_shape": error_against_shape,
    "learning_order": learning_order,
    "learning_order_map": learning_order_map,
    "lemmas": lemmas,
    "patch_accuracy": patch_accuracy,
}


def draw(dataset: xr.Dataset, names: Sequence[str], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the named figures as PNG files into a folder and returns their paths.

    One that has nothing to show is left out, and one that these results cannot show too, which is
    told: it must not stop what runs after it.
    """
    folder.mkdir(exist_ok=True)
    paths = []
    for name in names:
        path = folder / f"{name}.png"
        try:
            figure = FIGURES[name](dataset)
        except NothingToShow:
            continue
        except Exception as error:
            say(f"figure {name}: not drawn ({type(error).__name__}: {error})")
            continue
        save(figure, path)
        paths.append(path)
    return paths


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a figure as a PNG file, whole or not at all."""
    files.write_aside(path, functools.partial(figure.savefig, dpi=150, format="png"))
