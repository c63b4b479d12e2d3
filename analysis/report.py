"""A report of one run or several, side by side: one HTML file that needs no network.

    python -m analysis.report DIR [DIR ...] [--out=FILE.html]

Holds what ran, the audit of the theory's assumptions, the tables, the figures, what
`analysis.measure` has found, and curves of all members that can be zoomed, hovered and switched.
DIR is the directory of a run or a study, finished or not; FILE is by default the first one's
report.html. Nothing is trained. What was measured at checkpoints older than the newest is marked.
"""

import base64
import html
import io
import itertools
import json
import os
import pathlib
import textwrap
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
import xarray as xr

from analysis import figure2, script
from lr_order_jax import __version__, figures, files, lemmas, load, results
from lr_order_jax.checkpoint import NoCheckpoint
from lr_order_jax.problems import assumptions
from lr_order_jax.results import Table
from lr_order_jax.stored import StoredRun, as_typed

PANELS = 4
MOST_IN_KEY = 24  # members whose colour is told above the panels; hovering tells all
SHOWN_FIRST = (
    "second_difference",
    "train_loss_p_only",
    "train_loss_q_only",
    "test_error_p_only",
    "clean_accuracy",
    "patch_accuracy",
    "train_accuracy",
    "train_loss",
)
"""Variables in the panels when the report is opened, those that there are."""

WIDEST_LABEL = 40  # characters on a line beside a panel

DASHES = {"solid": "", "dashed": "6", "dotted": "2 4", "dotdash": "2 4 6 4"}
"""Of the runs in turn, with what SVG has for it."""


class Picture(NamedTuple):
    """A figure as it stands in the page."""

    name: str  # with what it is of, where that is not the whole directory
    source: str  # a data URL
    told: str  # what it shows

    @property
    def alt(self) -> str:
        return f"{_capital(self.name)}: {self.told}"


class Part(NamedTuple):
    """What the report says of one directory."""

    title: str
    folder: pathlib.Path
    state: str
    facts: list[tuple[str, str]]
    fields: list[tuple[str, str]]
    audit: Sequence[Mapping[str, Any]]
    audit_of: str
    tables: list[Table]
    pictures: list[Picture]
    notes: list[str]
    links: list[tuple[str, str]]
    dataset: xr.Dataset


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _picture(figure: Any, name: str, told: str | None) -> Picture:
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    encoded = base64.b64encode(content.getvalue()).decode()
    text = _capital(" ".join((told or name).split("\n\n")[0].split()))
    return Picture(name.replace("_", " "), f"data:image/png;base64,{encoded}", text)


def _pictures(dataset: xr.Dataset, names: Iterable[str], of: str = "") -> Iterable[Picture]:
    """The figures that these results can show; `of` is what they are of, if that is to be told."""
    for name in names:
        function = figures.FIGURES[name]
        try:
            figure = function(dataset)
        except figures.NothingToShow:
            continue
        except (KeyError, ValueError, IndexError) as error:
            print(f"figure {name}: not drawn ({type(error).__name__}: {error})")
            continue
        yield _picture(figure, name + of, function.__doc__)


def _around_the_circle(run: StoredRun) -> Iterable[Picture]:
    """Figure 2, where the run has checkpoints and what is drawn."""
    try:
        draw, _ = figure2.drawing(run)
    except (ValueError, NoCheckpoint):
        return
    told = (
        "The directions of Q, and from checkpoints the network's g around the circle in its plane"
    )
    yield _picture(draw(), "figure 2", f"{told}; seed {run.grid.seeds[0]}")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(one) for one in value)
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _span(values: Sequence[float | None] | None) -> str:
    """Least and largest of a number over members, as in the audit."""
    if not values or None in values:
        return "-"
    low, high = (f"{value:.3g}" for value in values)
    return low if low == high else f"{low} to {high}"


def _measured(run: StoredRun, of: str) -> Iterable[tuple[Table, Picture] | str]:
    """What `analysis.measure` has found in the directory of a run or a study, a table and a figure
    each, or a line where a file cannot be shown; `of` says of what."""
    for path in sorted((run.workdir / "analysis").glob("*.nc")):
        try:
            measured = xr.load_dataset(path, engine="h5netcdf")
            table, figure = results.measured_table(measured), figures.measured(measured)
        except Exception as error:  # whatever a file that is not one of ours makes HDF5 raise
            reason = str(error).strip().split("\n")[0][:200]
            yield f"{path}: cannot be shown ({type(error).__name__}: {reason})"
            continue
        name = f"{path.stem.replace('_', ' ')}{of}"
        if older := _older(run, measured):
            name += f" ({older})"
        found = measured.drop_vars(["time", "status"], errors="ignore").data_vars.values()
        shown = [v.attrs["long_name"] for v in found if "long_name" in v.attrs]
        told = f"{'; '.join(shown)} ({results.title_of(measured)})"
        titled = table._replace(title=f"{_capital(name)}: {table.title}")
        yield titled, _picture(figure, name, told)


def _older(run: StoredRun, measured: xr.Dataset) -> str:
    """Says how far what was measured lies behind the run; "" if it does not."""
    if "checkpoint" in measured.dims:
        last, newest = int(measured["checkpoint"].max()), max(run.checkpoints, default=0)
        return f"older: up to step {last}, the newest checkpoint is {newest}" * (last < newest)
    behind = int(measured.attrs.get("steps_taken", 0)) < int(run.dataset["steps_taken"].sum())
    return "older: the run has gone on since" * behind


def part_of(folder: pathlib.Path, title: str, beside: pathlib.Path) -> Part:
    """What there is to say of a directory; `beside` is where the report will be."""
    run = load(folder)
    config, dataset = run.config, run.dataset
    is_study = run.programs != (run,)
    if not run.programs:
        raise ValueError("none of its programs is here")
    problem = run.programs[0].problem
    sessions = config["sessions"]
    of_parts = sessions if config.get("merged") else []
    versions = config.get("versions", {})
    statuses = {}
    for value, name in zip(
        dataset["status"].attrs["flag_values"],
        dataset["status"].attrs["flag_meanings"].split(),
        strict=True,
    ):
        if count := int((dataset["status"] == value).sum()):
            statuses[name] = count
    facts = [
        ("problem", results.title_of(dataset)),
        ("members", ", ".join(f"{count} {name}" for name, count in statuses.items())),
        ("seeds", _text([int(seed) for seed in dataset["seed"]])),
        ("command", run.command),
        *(("of a run that was joined", as_typed(s["command"])) for s in of_parts),
        ("sessions", str(len(sessions))),
        ("machine", _text(list(config.get("device", {}).values()))),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
    ]
    tables = [results.TABLES[problem.table](dataset)]
    names = [*(problem.study_figures if is_study else problem.figures)]
    notes = []
    if "lemmas" in names:
        try:
            tables.append(lemmas.lemma_table(dataset))
        except ValueError as error:  # it needs a member of each algorithm
            notes.append(f"Table of the lemmas: {error}")
    pictures = [*_pictures(dataset, names), *(() if is_study else _around_the_circle(run))]
    if is_study:  # the joined results at the first value of each field
        of = f" of {config['programs'][0]} (the first of {len(config['programs'])} programs)"
        more = [name for name in problem.figures if name not in names]
        pictures += _pictures(dataset, more, of)
    for at in (run, *run.programs) if is_study else (run,):
        for found in _measured(at, "" if at is run else f" of {at.workdir.name}"):
            if isinstance(found, str):
                print(found)
                notes.append(found)
            else:
                tables.append(found[0])
                pictures.append(found[1])
    names_of_files = ("results.nc", "metrics.jsonl", "config.json", "checkpoints", "analysis")
    there = [name for name in names_of_files if (folder / name).exists()]
    links = [
        (name, urllib.parse.quote(os.path.relpath(folder / name, beside).replace(os.sep, "/")))
        for name in there
    ]
    state = "complete" if dataset.attrs["complete"] else "not finished"
    if shard := dataset.attrs.get("shard"):
        state += f", shard {shard}"
    fields = [(name, _text(value)) for name, value in sorted(config["what"].items())]
    audit = assumptions.join([program.config.get("audit", []) for program in run.programs])
    audit_of = f"{title}, all {len(run.programs)} programs" if is_study else title
    return Part(
        title, folder, state, facts, fields, audit, audit_of, tables, pictures, notes, links,
        dataset,
    )  # fmt: skip


# The curves.


class Line(NamedTuple):
    """A line of all panels: of a member (kind "seed"), or of a combination of hyperparameters the
    mean over seeds ("mean") or an edge of one standard error about it ("error")."""

    xs: np.ndarray
    label: str
    kind: str
    colour: str
    dash: str
    width: float
    curves: Mapping[str, np.ndarray]  # by variable
    chosen: Mapping[str, str]  # its values along the axes, by which it is switched


Members = tuple[tuple[str, str], ...]  # of one colour: the values of swept fields


class Lines(NamedTuple):
    """All lines, as the columns of a Bokeh data source: those of `Line`, each variable, and each
    axis as "choice NAME"."""

    columns: dict[str, list[Any]]
    choices: dict[str, list[str]]  # the values of each axis
    told: dict[str, str]  # long name of each variable


def _lines_of_part(
    part: Part,
    names: Iterable[str],
    of_run: dict[str, str],
    dash: str,
    colours: Mapping[Members, str],
) -> Iterable[Line]:
    """The lines of a directory, of the variables that it has."""
    dataset = part.dataset
    time = dataset[results.clock_of(dataset)].values.astype(np.float32)
    for column in results.columns_of(dataset):
        labels = results.label_of(dataset, column)
        colour = colours[tuple(labels.items())]
        labels = of_run | labels
        points = of_run | results.point_of(dataset, column)
        label = ", ".join(f"{name} {value}" for name, value in labels.items())
        chosen = {axis: points[axis] for axis in (*of_run, *column)}
        curves = {
            name: dataset[name].isel(column).transpose("seed", ...).values
            for name in names
            if name in dataset
        }
        spread = {name: results.mean_and_error(values) for name, values in curves.items()}
        means = {name: mean for name, (mean, _) in spread.items()}
        yield Line(time, f"{label}, mean", "mean", colour, dash, 2.2, means, chosen)
        for sign, told in ((-1, "less"), (1, "plus")):
            edge = {name: mean + sign * error for name, (mean, error) in spread.items()}
            line = f"{label}, mean {told} one standard error"
            yield Line(time, line, "error", colour, dash, 0.7, edge, chosen)
        for i, seed in enumerate(map(str, dataset["seed"].values)):
            one = {name: values[i] for name, values in curves.items()}
            of_seed = chosen | {"seed": seed}
            yield Line(time, f"{label}, seed {seed}", "seed", colour, dash, 1.2, one, of_seed)


def lines_of(parts: Sequence[Part]) -> Lines:
    """The lines of directories with one clock, and the values by which they can be chosen."""
    told: dict[str, str] = {}
    for part in parts:
        clock = results.clock_of(part.dataset)
        for name, variable in part.dataset.data_vars.items():
            if variable.dims[-1:] == (clock,):
                told.setdefault(str(name), variable.attrs["long_name"])
    members: dict[Members, None] = {}  # what is equal in several runs has one colour
    for part in parts:
        for column in results.columns_of(part.dataset):
            members[tuple(results.label_of(part.dataset, column).items())] = None
    colours = dict(zip(members, figures.hex_colours(len(members)), strict=True))
    lines: list[Line] = []
    for part, dash in zip(parts, itertools.cycle(DASHES), strict=False):
        of_run = {"run": part.title} if len(parts) > 1 else {}
        lines += _lines_of_part(part, told, of_run, dash, colours)
    columns: dict[str, list[Any]] = {
        name: [getattr(line, name) for line in lines] for name in Line._fields[:6]
    }
    for name in told:
        blank = [np.full(len(line.xs), np.nan) for line in lines]
        curves = [line.curves.get(name, none) for line, none in zip(lines, blank, strict=True)]
        columns[name] = [np.asarray(curve, np.float32) for curve in curves]
    choices: dict[str, list[str]] = {}
    for line in lines:
        for axis, value in line.chosen.items():
            if value not in choices.setdefault(axis, []):
                choices[axis].append(value)
    for axis in choices:
        columns[f"choice {axis}"] = [line.chosen.get(axis, "") for line in lines]
    return Lines(columns, choices, told)


CHOOSE = """
const data = source.data, indices = []
boxes.seed.disabled = each.active == 0  // a mean is over all of them
const kinds = each.active == 0 ? ['mean', 'error'] : ['seed']
for (let i = 0; i < data.kind.length; i++) {
  let shown = kinds.includes(data.kind[i])
  for (const [axis, box] of Object.entries(boxes)) {
    const value = data['choice ' + axis][i]
    if (value != '' && !box.active.includes(box.labels.indexOf(value))) shown = false
  }
  if (shown) indices.push(i)
}
filter.indices = indices
"""

TURN = """
for (const line of lines) line.glyph.ys = {field: picked.value}
axis.axis_label = told[picked.value]
"""


def _page_of_curves(parts: Sequence[Part]) -> tuple[str, str, str, list[str]]:
    """Bokeh's resources, the script, and the elements of the switches and of each panel."""
    from bokeh.embed import components
    from bokeh.layouts import column, row
    from bokeh.models import CDSView, ColumnDataSource, CustomJS, HoverTool, IndexFilter
    from bokeh.models.widgets import CheckboxButtonGroup, Div, RadioButtonGroup, Select
    from bokeh.plotting import figure
    from bokeh.resources import Resources

    lines = lines_of(parts)
    source = ColumnDataSource(lines.columns)
    kinds = lines.columns["kind"]
    shown = zip(*(lines.columns[name] for name in ("label", "kind", "colour", "dash")), strict=True)
    of_key = [
        '<span style="white-space:nowrap"><svg width="28" height="8" aria-hidden="true">'
        f'<line x1="0" y1="4" x2="28" y2="4" stroke="{colour}" stroke-width="3" '
        f'stroke-dasharray="{DASHES[dash]}"/></svg> '
        f"{html.escape(label.removesuffix(', mean'))}</span>"
        for label, kind, colour, dash in shown
        if kind == "mean"
    ]
    shown_first: Any = [i for i, kind in enumerate(kinds) if kind != "seed"]
    chosen = IndexFilter(shown_first)
    view = CDSView(filter=chosen)
    clock = results.clock_of(parts[0].dataset)
    names = [name for name in SHOWN_FIRST if name in lines.told]
    names += [name for name in lines.told if name not in names]
    options: list[Any] = [(name, lines.told[name]) for name in names]
    of_axis = {name: textwrap.fill(told, WIDEST_LABEL) for name, told in lines.told.items()}
    shared = None
    panels: list[Any] = []
    for first in names[:PANELS]:
        x_range: dict[str, Any] = {} if shared is None else {"x_range": shared}
        panel: Any = figure(
            height=330, sizing_mode="stretch_width", tools="pan,box_zoom,wheel_zoom,reset,save",
            toolbar_location=None, active_drag="box_zoom", x_axis_label=clock.replace("_", " "),
            y_axis_label=of_axis[first], output_backend="canvas", **x_range,
        )  # fmt: skip
        shared = panel.x_range
        drawn = panel.multi_line(
            "xs", first, source=source, view=view, line_color="colour", line_dash="dash",
            line_width="width", hover_line_width=4,
        )  # fmt: skip
        tips = [("", "@label"), (clock.replace("_", " "), "$snap_x"), ("value", "$snap_y")]
        panel.add_tools(HoverTool(renderers=[drawn], tooltips=tips, line_policy="nearest"))
        picked = Select(value=first, options=options, title="variable", sizing_mode="stretch_width")
        turn = {"lines": [drawn], "axis": panel.yaxis[0], "told": of_axis, "picked": picked}
        picked.js_on_change("value", CustomJS(args=turn, code=TURN))
        panels.append(column(picked, panel, sizing_mode="stretch_width"))
    each = RadioButtonGroup(labels=["mean and standard error", "each seed"], active=0)
    boxes = {
        axis: CheckboxButtonGroup(labels=values, active=list(range(len(values))))
        for axis, values in lines.choices.items()
    }
    boxes["seed"].disabled = True  # as long as means are shown
    choose = CustomJS(
        args={"source": source, "filter": chosen, "each": each, "boxes": boxes}, code=CHOOSE
    )
    for switch in (each, *boxes.values()):
        switch.js_on_change("active", choose)
    switches = [row(Div(text="show", width=110), each)]
    switches += [
        row(Div(text=html.escape(axis), width=110), box, sizing_mode="stretch_width")
        for axis, box in boxes.items()
    ]
    key = Div(text="&emsp;".join(of_key[:MOST_IN_KEY]), sizing_mode="stretch_width")
    made, elements = components((column(*switches, key, sizing_mode="stretch_width"), *panels))
    resources = Resources(mode="inline", components=["bokeh", "bokeh-widgets"])
    return resources.render(), made, elements[0], list(elements[1:])


def report(folders: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    """Writes the report of directories into a file, whole or not at all.

    Raises:
      FileNotFoundError: for a directory without results.
      ValueError: if the directories have different clocks, or one is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("one of them is given twice")
    titles = [folder.resolve().name for folder in folders]
    if len(set(titles)) < len(titles):
        titles = [str(folder) for folder in folders]
    parts = [
        part_of(folder, title, out.parent) for folder, title in zip(folders, titles, strict=True)
    ]
    clocks = {results.clock_of(part.dataset) for part in parts}
    if len(clocks) > 1:
        raise ValueError("some have epochs, some flow times: they cannot stand side by side")
    resources, made, switches, panels = _page_of_curves(parts)
    here = pathlib.Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["span"] = _span
    page = environment.get_template("report.html.j2").render(
        parts=parts, resources=resources, script=made, switches=switches, panels=panels,
        version=__version__, same_fields=_same_fields(parts),
    )  # fmt: skip
    with script.writing(out):
        files.write_aside(out, lambda aside: aside.write_text(page))


def _same_fields(parts: Sequence[Part]) -> set[str]:
    """Fields with the same value in all: what differs is marked."""
    told = [dict(part.fields) for part in parts]
    return {name for name in told[0] if len({json.dumps(of.get(name)) for of in told}) == 1}


def main() -> None:
    parser = script.Parser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--out", type=pathlib.Path, help="FILE.html; the first DIR's report.html")
    given = parser.parse_args()
    out = given.out or given.folders[0] / "report.html"

    def body() -> int:
        report(given.folders, out)
        print(f"report: {out}")
        return 0

    script.told(given.folders, body)


if __name__ == "__main__":
    main()
