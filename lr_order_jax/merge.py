"""Parts of a grid, each run in a directory of its own, joined into one.

Parts are shards of one config (`config.shard`), or runs that differ in seeds and in the values of
swept axes alone; or studies of which that is true of each program. A finished run is extended by
running what is new elsewhere, and joining the two: no member is computed again or changed.
"""

import contextlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lr_order_jax import directory, figures, files, results, verify
from lr_order_jax.fields import ConfigError, in_one_line
from lr_order_jax.problem import Problem
from lr_order_jax.problems import assumptions
from lr_order_jax.spec import difference
from lr_order_jax.stored import StoredRun

MOST_TOLD = 10  # members that are missing, named


def merge(workdirs: Sequence[str | os.PathLike], out: str | os.PathLike) -> xr.Dataset:
    """Joins finished parts and writes DIR/config.json, metrics.jsonl, results.nc and figures; of
    studies those of each program, in its directory, and those of all.

    The checkpoints stay where they are; `config.json` names the parts, and is written first: a
    merge that was cut off is done again by the same call.

    Args:
      workdirs: directories of runs; which part each is, is read from its results.
      out: a directory that is new or empty, or holds a merge of the same parts.

    Returns:
      The results of all members.

    Raises:
      ConfigError: if a part is unfinished, damaged or of another config, if two disagree on a
        member, if members of the grid that they span are missing (these are named), or if `out`
        cannot serve. Nothing is written.
      OSError: if a file cannot be written.
    """
    out = pathlib.Path(out)
    once = {pathlib.Path(workdir).resolve(): pathlib.Path(workdir) for workdir in workdirs}
    runs = [_open(workdir) for workdir in once.values()]
    names = runs[0].config["programs"]
    for run in runs:
        if run.config["programs"] != names:
            there = ", ".join(run.config["programs"]) or "one program"
            other = f"not those of {runs[0].workdir} ({', '.join(names) or 'one program'})"
            raise ConfigError(f"{run.workdir}: holds {there}, {other}")
    whole = (_whole_of_study if names else _whole_of_run)(runs, out)
    with _held(out, whole.config):
        _write(whole, out)
    return whole.dataset


class _Whole(NamedTuple):
    """What is to be written of joined parts."""

    dataset: xr.Dataset
    config: Mapping[str, Any]
    figures: Sequence[str]
    lines: Sequence[str] | None  # of metrics.jsonl, which a study has in its programs
    programs: Mapping[str, "_Whole"]  # of a study, by their directories


def _write(whole: _Whole, out: pathlib.Path) -> None:
    directory.write_whole_config(whole.config, out)
    for name, program in whole.programs.items():
        (out / name).mkdir(exist_ok=True)
        _write(program, out / name)
    if whole.lines is not None:
        text = "".join(f"{line}\n" for line in whole.lines)
        files.write_aside(out / "metrics.jsonl", lambda aside: aside.write_text(text))
    results.write_results(whole.dataset, out / "results.nc")
    figures.draw(whole.dataset, whole.figures, out / "figures")


def _whole_of_run(runs: Sequence[StoredRun], out: pathlib.Path) -> _Whole:
    """Of parts of one program, which is to stand in `out`."""
    parts = [_read(run) for run in runs]
    lines = dict.fromkeys(itertools.chain.from_iterable(map(_lines, runs, parts)))
    dims = [str(dim) for dim in parts[0]["status"].dims]
    what = _common(runs, parts, dims)
    for (run, part), (other, of_other) in itertools.combinations(zip(runs, parts, strict=True), 2):
        _compare(part, of_other, dims, f"{run.workdir} and {other.workdir}")
    whole = join(parts, dims)
    for dim in dims:
        for name in _fields_along(whole, dim):
            key = "seeds" if name == "seed" else name
            what[key] = whole[name].values.tolist()
    what["num_seeds"] = whole.sizes["seed"]
    if difference(what, asked := runs[0].config["what"]) == "":
        what = asked  # as it was resolved, to the letter
    whole.attrs["config"] = json.dumps(what, sort_keys=True)
    # Where a member is in two parts their counts do not add up: none is told then.
    is_parted = sum(part["status"].size for part in parts) == whole["status"].size
    audit = assumptions.join([r.config.get("audit", ()) for r in runs]) if is_parted else []
    for line in verify.wrong_lines("\n".join(lines), whole):
        raise ConfigError(f"the joined results contradict the parts' metrics.jsonl: {line}")
    config = _config_of(runs, what, out) | {"audit": audit}
    return _Whole(whole, config, _problem_of(runs[0]).figures, list(lines), {})


def _whole_of_study(runs: Sequence[StoredRun], out: pathlib.Path) -> _Whole:
    """Of parts of a study, program by program."""
    config = _config_of(runs, runs[0].config["what"], out)
    for run in runs:
        if len(run.programs) < len(config["programs"]):
            raise ConfigError(f"{run.workdir}: is unfinished, run its command again")
    of_programs = zip(*(run.programs for run in runs), strict=True)
    programs = [
        _whole_of_run(parts, out / name)
        for name, parts in zip(config["programs"], of_programs, strict=True)
    ]
    axes = verify.axes_of(config)
    before, after = runs[0].programs[0].config["what"], programs[0].config["what"]
    what = config["what"] | {name: after[name] for name in after if after[name] != before[name]}
    dataset = results.join(what, axes, [program.dataset for program in programs])
    names = _problem_of(runs[0].programs[0]).study_figures
    named = dict(zip(config["programs"], programs, strict=True))
    return _Whole(dataset, config | {"what": what}, names, None, named)


def _config_of(
    runs: Sequence[StoredRun], what: Mapping[str, Any], out: pathlib.Path
) -> dict[str, Any]:
    """The config.json of the whole."""
    return {
        **runs[0].config,
        "what": what,
        "how": {**runs[0].config["how"], "shard": None},
        "merged": [os.path.relpath(run.workdir, out) for run in runs],
        "sessions": [session for run in runs for session in run.config["sessions"]],
    }


@contextlib.contextmanager
def _held(out: pathlib.Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Holds the directory of the whole, as `directory.held` does, if nothing else is in it.

    Raises:
      ConfigError: if it holds anything but what a merge of the same parts has written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(directory.held(out))
        except ConfigError as error:
            raise ConfigError(f"--out={str(error).removeprefix('--workdir=')}") from None
        try:
            stored = directory.read_config(out)
            others = [path.name for path in out.iterdir() if not _is_left(path.name)]
        except OSError as error:
            told = f"--out={out}: cannot be read ({error.strerror or error})"
            raise ConfigError(told) from None
        if not stored and others:
            raise ConfigError(f"--out={out}: holds other files, give an empty or new directory")
        if stored and "merged" not in stored:
            raise ConfigError(f"--out={out}: holds a run, give an empty or new directory")
        if stored and stored["merged"] != config["merged"]:
            raise ConfigError(
                f"--out={out}: holds a merge of other parts or in another order "
                f"({stored['merged']}), give an empty or new directory"
            )
        if stored and (told := difference(stored["what"], config["what"])):
            raise ConfigError(f"--out={out}: holds a merge of another config: {told}")
        yield


def _is_left(name: str) -> bool:
    """Whether a file is what a merge leaves that is cut off before anything was whole."""
    return name == ".lock" or (name.startswith(".") and name.endswith(".writing"))


def _open(workdir: pathlib.Path) -> StoredRun:
    try:
        return StoredRun(workdir)
    except (FileNotFoundError, NotADirectoryError):
        told = f"{workdir}: is not the directory of a run (no config.json)"
    except OSError as error:
        told = f"{workdir / 'config.json'}: cannot be read ({error.strerror or error})"
    raise ConfigError(told)


def _problem_of(run: StoredRun) -> Problem:
    try:
        return run.problem
    except Exception as error:  # a problem of the user's own can raise anything
        told = error if isinstance(error, ConfigError) else in_one_line(error)
        raise ConfigError(f"{run.workdir}: its problem cannot be built ({told})") from None


def _read(run: StoredRun) -> xr.Dataset:
    """The results of a finished part, checked against their digest."""
    path = run.workdir / "results.nc"
    check = f"see --check={run.workdir}"
    try:
        dataset, told = results.read_with_digest(path)
        is_whole = told == results.digest(dataset)
        of_config = difference(run.config["what"], results.config_of(dataset)) if is_whole else ""
    except FileNotFoundError:
        raise ConfigError(f"{run.workdir}: has no results.nc yet") from None
    except Exception as error:  # whatever a damaged file makes HDF5 or xarray raise
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__}), {check}") from None
    if not is_whole:
        raise ConfigError(f"{path}: does not match its digest, {check}")
    if of_config:
        raise ConfigError(f"{path}: is of another config than config.json, {check}")
    if not dataset.attrs["complete"]:
        raise ConfigError(f"{run.workdir}: is unfinished, run its command again")
    return dataset


def _lines(run: StoredRun, dataset: xr.Dataset) -> list[str]:
    """The lines of a part's metrics.jsonl, each compared with its results."""
    path = run.workdir / "metrics.jsonl"
    check = f"see --check={run.workdir}"
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        raise ConfigError(f"{path}: is missing, {check}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    for line in verify.wrong_lines(text, dataset):
        raise ConfigError(f"{path}: is damaged ({line}), {check}")
    return text.splitlines()


def _common(
    runs: Sequence[StoredRun], parts: Sequence[xr.Dataset], dims: Sequence[str]
) -> dict[str, Any]:
    """What all parts compute, without seeds and the fields of their common axes."""
    clock = results.clock_of(parts[0])
    free = {"seeds", "num_seeds"} | {f for dim in dims for f in _fields_along(parts[0], dim)}
    first = runs[0]
    fixed = [_without(run.config["what"], free) for run in runs]
    for run, part, of_run in zip(runs, parts, fixed, strict=True):
        if told := difference(fixed[0], of_run):
            told = told.replace(" there", f" in {first.workdir}").replace(" here", "")
            raise ConfigError(f"{run.workdir}: is of another config: {told}")
        alike = [str(dim) for dim in part["status"].dims] == list(dims)
        if not alike:
            told = f"{run.workdir}: its axes differ from those of {first.workdir}"
            raise ConfigError(f"{told} (a field is an axis where it has several values)")
        if set(part.variables) != set(parts[0].variables):
            raise ConfigError(f"{run.workdir}: has other variables than {first.workdir}")
        if not np.array_equal(part[clock].values, parts[0][clock].values):
            raise ConfigError(f"{run.workdir}: has other points of {clock} than {first.workdir}")
    return dict(runs[0].config["what"])


def _points(dataset: xr.Dataset, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The points of a dimension, as tuples of the values of its fields."""
    return list(zip(*(dataset[name].values.tolist() for name in names), strict=True))


def _without(what: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in what.items() if name not in names}


def _fields_along(dataset: xr.Dataset, dim: str) -> list[str]:
    """The fields whose values tell the points of a dimension apart."""
    return [str(name) for name, c in dataset.coords.items() if c.dims == (dim,)]


def _compare(ours: xr.Dataset, theirs: xr.Dataset, dims: Sequence[str], where: str) -> None:
    """Refuses two parts that disagree on a member that both have; names the first such member."""
    common = []
    for dim in dims:
        names = _fields_along(ours, dim)
        there = {point: i for i, point in enumerate(_points(theirs, names))}
        points = enumerate(_points(ours, names))
        common.append([(point, i, there[point]) for i, point in points if point in there])
    variables = [n for n in ours.data_vars if set(dims) <= set(ours[n].dims)]
    for member in itertools.product(*common):
        at, at_theirs = ({d: m[k] for d, m in zip(dims, member, strict=True)} for k in (1, 2))
        for name in variables:
            one, two = ours[name].isel(at).values, theirs[name].isel(at_theirs).values
            if not np.array_equal(one, two, equal_nan=one.dtype.kind == "f"):
                names = [n for dim in dims for n in _fields_along(ours, dim)]
                values = itertools.chain.from_iterable(point for point, _, _ in member)
                of = ", ".join(f"{n} = {v}" for n, v in zip(names, values, strict=True))
                size = np.nanmax(np.abs(np.asarray(one, float) - two), initial=0.0)
                raise ConfigError(
                    f"{where} disagree on the member {of}: {name} by up to {size:.2g} (parts that "
                    "were cut otherwise differ by rounding); leave one of them out"
                )


def join(parts: Sequence[xr.Dataset], dims: Sequence[str]) -> xr.Dataset:
    """The labelled arrays of all members of parts with the same dimensions.

    Along a dimension the points stand in the order of the attribute `config`, where all parts have
    one config, else in the order in which the parts bring them.

    Args:
      dims: the dimensions of members.

    Raises:
      ConfigError: if two parts disagree on a member, or members are missing.
    """
    is_one_config = len({part.attrs["config"] for part in parts}) == 1
    asked = json.loads(parts[0].attrs["config"]) if is_one_config else {}
    names = {dim: _fields_along(parts[0], dim) for dim in dims}
    points = {}  # those along each dimension; one value of a zipped field can stand in several
    for dim in dims:
        brought = [point for part in parts for point in _points(part, names[dim])]
        keys = ["seeds" if name == "seed" else name for name in names[dim]]
        in_order = zip(*(asked[key] for key in keys), strict=True) if asked else brought
        points[dim] = list(dict.fromkeys(in_order))

    def numbered(part: xr.Dataset) -> xr.Dataset:
        numbers = {
            dim: [points[dim].index(point) for point in _points(part, names[dim])] for dim in dims
        }
        fields = [name for dim in dims for name in names[dim]]
        return part.drop_vars(fields).assign_coords(numbers)

    try:
        whole = xr.merge(
            map(numbered, parts), join="outer", compat="no_conflicts", combine_attrs="override"
        )
    except xr.MergeError as error:
        told = str(error).partition(" on objects")[0]
        raise ConfigError(f"parts disagree on members that both have: {told}") from None
    whole = whole.reindex({dim: range(len(points[dim])) for dim in dims})
    absent = whole["status"].isnull()
    if absent.any():
        missing = [
            ", ".join(
                f"{name} = {value}"
                for dim, k in zip(dims, index, strict=True)
                for name, value in zip(names[dim], points[dim][k], strict=True)
            )
            for index in np.argwhere(absent.values)
        ]
        told = "; ".join(results.first_of(missing, MOST_TOLD, "members"))
        raise ConfigError(f"members are missing: {told}")
    whole = whole.drop_vars(dims)
    for dim in dims:
        columns = zip(*points[dim], strict=True)
        whole = whole.assign_coords(
            {name: (dim, list(c)) for name, c in zip(names[dim], columns, strict=True)}
        )
    for name, variable in parts[0].variables.items():  # an outer join makes floats of integers
        whole[name] = whole[name].astype(variable.dtype).assign_attrs(variable.attrs)
    whole.attrs.pop("shard", None)
    return whole.transpose(*dims, ...)
