"""Results as labelled arrays: the history while a run goes on, `results.nc`, and the table.

`results.nc` (NetCDF, written by xarray) has one dimension `seed`, one for each axis of the sweep
and one of time, never reduced over members. It is written aside and renamed, so that a reader never
sees half a file, and holds no wall time, so that equal runs give equal bytes.
"""

import enum
import errno
import hashlib
import itertools
import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import xarray as xr

from lr_order_jax import __version__, files
from lr_order_jax.algorithm import Cause, Status
from lr_order_jax.fields import in_one_line
from lr_order_jax.problem import Variable
from lr_order_jax.sweep import Axis

TIME_UNITS = {"flow_time": "learning rate x steps", "epoch": "epochs"}

METRICS_KEPT = "metrics.jsonl.before"  # lines of a run that starts again, until it ends

MOST_COLUMNS = 9  # of what was measured, in a table; with more each is a row
MOST_TOLD = 10  # members that diverged which a table names

MEMBER_TIMES = {  # in the units of the clock
    "annealed_at": Variable("time at which the member was first annealed; NaN if it was not"),
    "ended_at": Variable("time at which the member ended; NaN while it runs"),
}

CAUSES = {  # as a table tells them
    Cause.WEIGHTS_NAN: "weights not a number",
    Cause.WEIGHTS_INFINITE: "weights infinite",
    Cause.LOSS: "training loss not finite",
}

HOST_VARIABLES = {  # what the host loop knows without an evaluation
    "learning_rate": Variable("learning rate of the next step"),
    "activation_noise": Variable("level of the noise before activations at the next step"),
    "step": Variable("steps taken"),
}


def blank_history(variables: Mapping[str, Variable], shape: Sequence[int]) -> dict[str, np.ndarray]:
    """Records not yet made: a float64 array of NaN a variable, (S, H, points of time, ...)."""
    return {name: np.full((*shape, *v.shape), np.nan) for name, v in variables.items()}


def make_dataset(
    *,
    what: Mapping[str, Any],
    shard: str | None,
    clock: str,
    variables: Mapping[str, Variable],
    axes: Sequence[Axis],
    seeds: Sequence[int],
    time: np.ndarray,
    history: Mapping[str, np.ndarray],
    status: np.ndarray,
    cause: np.ndarray,
    steps: np.ndarray,
    member_times: Mapping[str, np.ndarray],
    seed_variables: Mapping[str, Variable],
    seed_values: Mapping[str, np.ndarray],
) -> xr.Dataset:
    """The labelled arrays of a run.

    Args:
      what: what was computed, stored as JSON in the attribute `config`.
      shard: which part of it, "i/n"; None: all.
      variables: those recorded at each point of time.
      history: (S, H, T, ...) arrays by variable name.
      status: (S, H) values of `Status`.
      cause: (S, H) values of `Cause`.
      steps: (S, H) steps that each member has taken.
      member_times: (S, H) arrays by the names in MEMBER_TIMES.
      seed_variables: what is told of each seed's data.
      seed_values: its numbers, (S,) each.
    """
    grid = [len(seeds), *(len(axis) for axis in axes)]
    member_dims = ["seed", *(axis.name for axis in axes)]
    coords: dict[str, Any] = {
        "seed": ("seed", np.asarray(seeds, np.int64), {"long_name": "seed", "units": "1"}),
        clock: (clock, time, {"long_name": clock.replace("_", " "), "units": TIME_UNITS[clock]}),
    }
    for axis in axes:
        for field, values in axis.values.items():
            field_attributes = {"long_name": f"config field {field}", "units": "1"}
            coords[field] = (axis.name, np.asarray(values), field_attributes)
    arrays: dict[str, Any] = {}
    for name, variable in variables.items():
        shaped = history[name].reshape(*grid, len(time), *variable.shape)
        dims = [*member_dims, clock, *(dim for dim, _ in variable.over)]
        arrays[name] = (dims, shaped, variable.attributes)
    for name, variable in MEMBER_TIMES.items():
        units = {"units": TIME_UNITS[clock]}
        shaped = member_times[name].reshape(grid)
        arrays[name] = (member_dims, shaped, variable.attributes | units)
    for name, variable in seed_variables.items():
        arrays[name] = (("seed",), seed_values[name], variable.attributes)
    told = Variable("steps that the member has taken in all").attributes
    arrays["steps_taken"] = (member_dims, steps.astype(np.int32).reshape(grid), told)
    of_enum: tuple[tuple[str, str, np.ndarray, type[enum.IntEnum]], ...] = (
        ("status", "state of the member", status, Status),
        ("cause", "what was not finite in a member that diverged", cause, Cause),
    )
    for name, long_name, codes, kind in of_enum:
        flags: dict[str, Any] = {
            "long_name": long_name,
            "units": "1",
            "flag_values": np.array([s.value for s in kind], np.int32),
            "flag_meanings": " ".join(s.name.lower() for s in kind),
        }
        arrays[name] = (member_dims, codes.astype(np.int32).reshape(grid), flags)
    attributes: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "title": "Learning order under large and small initial learning rates",
        "problem": what["problem"],
        **({"dataset": what["dataset"]} if "dataset" in what else {}),
        **({"shard": shard} if shard else {}),
        "source": f"lr_order_jax {__version__}",
        "config": json.dumps(what, sort_keys=True),
        "complete": np.int32(np.all(status != Status.RUNNING)),
    }
    return xr.Dataset(arrays, coords, attributes)


def join(
    what: Mapping[str, Any], axes: Sequence[Axis], parts: Sequence[xr.Dataset | None]
) -> xr.Dataset:
    """The labelled arrays of several programs as one: with a dimension for each of their axes.

    Args:
      what: as computed by all of them.
      axes: those along which the programs differ.
      parts: the results of each program, C order; None for one that has none yet, which is filled
        with NaN and the status RUNNING. At least one is there.
    """
    there = [part for part in parts if part is not None]
    blank = there[0].map(
        lambda v: xr.full_like(v, np.nan if v.dtype.kind == "f" else 0), keep_attrs=True
    )
    row = [part if part is not None else blank for part in parts]
    for axis in reversed(axes):  # the last axis varies fastest
        row = [
            xr.concat(row[i : i + len(axis)], axis.name, combine_attrs="override")
            for i in range(0, len(row), len(axis))
        ]
    (whole,) = row
    of_axes = {}
    for axis in axes:
        for field, values in axis.values.items():
            told = {"long_name": f"config field {field}", "units": "1"}
            of_axes[field] = (axis.name, np.asarray(values), told)
    whole = whole.assign_coords(of_axes)
    whole.attrs["config"] = json.dumps(what, sort_keys=True)
    whole.attrs["complete"] = np.int32(
        len(there) == len(parts) and all(part.attrs["complete"] for part in there)
    )
    names = [axis.name for axis in axes]
    return whole.transpose("seed", *names, ...)


def split(joined: xr.Dataset, axes: Sequence[Axis]) -> list[xr.Dataset]:
    """The parts of which `join` has made labelled arrays, C order; the config stays that of all."""
    fields = [field for axis in axes for field in axis.values]
    parts = []
    for index in np.ndindex(*(len(axis) for axis in axes)):
        at = dict(zip([axis.name for axis in axes], index, strict=True))
        part = joined.isel(at).drop_vars(fields)
        part.attrs["complete"] = np.int32(np.all(part["status"] != Status.RUNNING))
        parts.append(part)
    return parts


def digest(dataset: xr.Dataset) -> str:
    """A digest of all that a reader of the labelled arrays sees, but for the attribute `digest`."""
    seen = hashlib.blake2b(digest_size=16)

    def tell(value: Any) -> None:
        text = json.dumps(value, default=lambda array: np.asarray(array).tolist())
        seen.update(text.encode() + b"\n")

    tell({name: v for name, v in sorted(dataset.attrs.items()) if name != "digest"})
    tell(sorted(map(str, dataset.data_vars)))
    for name, variable in sorted(dataset.variables.items()):
        values = variable.values
        tell([name, variable.dims, values.shape, sorted(variable.attrs.items())])
        if values.dtype.kind in "OU":
            tell(values)
        else:
            tell(values.dtype.str)
            seen.update(np.ascontiguousarray(values).tobytes())
    return seen.hexdigest()


def write_results(dataset: xr.Dataset, path: str | os.PathLike) -> None:
    """Writes `results.nc`, whole or not at all, with a digest of its content."""
    dataset = dataset.assign_attrs(digest=digest(dataset))
    content = dataset.to_netcdf(engine="h5netcdf")  # HDF5 itself crashes where a disk is full
    files.write_aside(path, lambda aside: aside.write_bytes(content))


def read_results(workdir: str | os.PathLike) -> xr.Dataset:
    """The labelled arrays of a run's directory, in memory; the file is closed again.

    Raises:
      FileNotFoundError: if none have been written.
      OSError: if they cannot be read now, which says nothing about them.
      ValueError: if they are damaged.
    """
    path = pathlib.Path(workdir) / "results.nc"
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no results have been written yet", str(path))
    try:
        dataset, told = read_with_digest(path)
        is_whole = told == digest(dataset)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file makes HDF5 or xarray raise
        if files.is_of_the_machine(error):
            raise
        raise ValueError(f"{path}: cannot be read ({in_one_line(error)})") from error
    if not is_whole:
        raise ValueError(f"{path}: does not match its digest")
    return dataset


def count_records(dataset: xr.Dataset | None) -> int:
    """How many points of time of all members have a record; 0 without results."""
    return 0 if dataset is None else int(dataset["step"].notnull().sum())


def read_with_digest(path: str | os.PathLike) -> tuple[xr.Dataset, str]:
    """What `write_results` wrote, and the digest that stands in the file; "" if there is none."""
    dataset = xr.load_dataset(path, engine="h5netcdf")
    return dataset, str(dataset.attrs.pop("digest", ""))


def clock_of(dataset: xr.Dataset) -> str:
    """Name of the time dimension."""
    return "flow_time" if "flow_time" in dataset.dims else "epoch"


def final(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """A variable at each member's last record; NaN for a member that diverged or still runs."""
    clock = clock_of(dataset)
    last = dataset["step"].notnull().sum(clock) - 1
    values = dataset[name].isel({clock: last.clip(min=0)}).drop_vars(clock)
    return values.where(~dataset["status"].isin([Status.DIVERGED, Status.RUNNING]))


def rate_dim(dataset: xr.Dataset) -> str:
    """The dimension along which the initial rate varies (another's name if it is zipped)."""
    return str(dataset["eta_init"].dims[0])


def first_time(dataset: xr.Dataset, holds: xr.DataArray) -> xr.DataArray:
    """Time of the first record at which something holds; NaN if it never does."""
    clock = clock_of(dataset)
    return dataset[clock].where(holds).min(clock)


def half_times(dataset: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """When each member had half learned P and Q: the times of half of the whole change.

    P by the training loss of the P-only examples, which starts at about log 2; Q by the magnitude
    of the second difference, which starts at about 0 and grows as Q is learned (Lemma 4.2). "The
    whole change" is that from the first record to the member's last. NaN if it diverged.
    """
    clock = clock_of(dataset)

    def first_half(name: str) -> xr.DataArray:
        start = dataset[name].isel({clock: 0}, drop=True)
        share = (dataset[name] - start) / (final(dataset, name) - start)
        return first_time(dataset, share >= 0.5)

    return first_half("train_loss_p_only"), first_half("second_difference")


def mean_and_error(values: Any) -> tuple[Any, Any]:
    """Mean over seeds, the first axis, and its standard error, of the finite values.

    The mean is NaN where there is no such value, the error where there are fewer than two.

    Examples:
        >>> mean, error = mean_and_error([[1.0, 5.0], [3.0, float("nan")]])
        >>> print(mean, error)
        [2. 5.] [ 1. nan]
    """
    values = np.asarray(values, float)
    count = np.isfinite(values).sum(axis=0)
    finite = np.where(np.isfinite(values), values, np.nan)
    mean = np.where(count > 0, np.nansum(finite, axis=0) / np.maximum(count, 1), np.nan)
    variance = np.nansum((finite - mean) ** 2, axis=0) / np.maximum(count - 1, 1)
    return mean[()], np.where(count > 1, np.sqrt(variance / np.maximum(count, 1)), np.nan)[()]


class Table(NamedTuple):
    """A table for the terminal: strings, and remarks under it."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    remarks: list[str]


def with_error(values: Any, scale: float = 1.0, digits: int = 2) -> str:
    """Mean over seeds +- its standard error, as text; "-" if there is none."""
    return plus_minus(*mean_and_error(np.asarray(values) * scale), digits)


def plus_minus(value: float, half_width: float, digits: int = 2) -> str:
    """A number with half its interval if it has one; "-" if there is none.

    Examples:
        >>> plus_minus(0.5, 0.12), plus_minus(0.5, math.nan), plus_minus(math.nan, math.nan)
        ('0.50 +- 0.12', '0.50', '-')
    """
    if math.isnan(value):
        return "-"
    value = round(float(value), digits) + 0.0  # no "-0.00"
    if math.isnan(half_width):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} +- {half_width:.{digits}f}"


def columns_of(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Every combination of hyperparameters in the dataset: {axis: value along it}, C order."""
    axes = [str(dim) for dim in dataset["status"].dims if dim != "seed"]
    points = itertools.product(*(range(dataset.sizes[axis]) for axis in axes))
    return [dict(zip(axes, point, strict=True)) for point in points]


def label_of(dataset: xr.Dataset, column: Mapping[str, int]) -> dict[str, str]:
    """The values of the swept fields of a column, as text, by field."""
    labels = {}
    for name, coordinate in dataset.coords.items():
        if coordinate.dims and coordinate.dims[0] in column:
            value = coordinate.values[column[str(coordinate.dims[0])]]
            labels[str(name)] = value if isinstance(value, str) else f"{value:g}"
    return labels


def learning_order(p_times: Any, q_times: Any) -> str:
    """Which pattern most members of a column half learned first, and how many; "-" if neither.

    Args:
      p_times: (seeds,) when each had half learned P, NaN if never, see `half_times`.
      q_times: (seeds,) the same of Q.

    Examples:
        >>> learning_order([70.0, 74.0, 71.0], [20.0, 80.0, 16.0])
        'Q, P (2/3)'
    """
    p_times, q_times = np.asarray(p_times), np.asarray(q_times)
    known = int(np.sum(np.isfinite(p_times) & np.isfinite(q_times)))
    p_first, q_first = int(np.sum(p_times < q_times)), int(np.sum(q_times < p_times))
    if p_first == q_first:
        return "-"
    name, count = ("P, Q", p_first) if p_first > q_first else ("Q, P", q_first)
    return f"{name} ({count}/{known})"


def first_of(lines: Sequence[str], most: int, what: str) -> list[str]:
    """The first lines, and one that says how many there are more of `what`."""
    rest = len(lines) - most
    return [*lines[:most], *([f"{rest} more {what}"] if rest > 0 else [])]


def diverged(dataset: xr.Dataset) -> list[str]:
    """A line for each member that diverged: which, when and why."""
    clock = clock_of(dataset)
    lines = []
    for column in columns_of(dataset):
        of_column = dataset.isel(column)
        label = ", ".join(f"{k} = {v}" for k, v in label_of(dataset, column).items())
        for s in np.flatnonzero(of_column["status"].values == Status.DIVERGED):
            seed = int(dataset["seed"].values[s])
            time = float(of_column["ended_at"].values[s])
            step = int(of_column["steps_taken"].values[s])
            cause = CAUSES[Cause(int(of_column["cause"].values[s]))]
            told = f"diverged at {clock.replace('_', ' ')} {time:.6g}, after {step} steps: {cause}"
            lines.append(f"seed {seed}, {label}: {told}")
    return lines


Cell = Callable[[Mapping[str, int]], str]  # from the index of a column to its text


def _cell(values: xr.DataArray, scale: float, digits: int) -> Cell:
    return lambda column: with_error(values.isel(column).values, scale, digits)


def _times(values: xr.DataArray) -> Cell:
    return _cell(values, 1.0, 1)


def _table_of_members(
    dataset: xr.Dataset, cells: Mapping[str, Cell], label: Callable, remarks: list[str]
) -> Table:
    """One row a combination of hyperparameters: its label, the cells, how many seeds diverged."""
    columns, rows = columns_of(dataset), []
    for column in columns:
        count = int((dataset["status"].isel(column) == Status.DIVERGED).sum())
        told = [cell(column) for cell in cells.values()]
        rows.append((*label(dataset, column).values(), *told, str(count or "")))
    told = first_of(diverged(dataset), MOST_TOLD, "members diverged")
    return Table(
        f"{title_of(dataset)}: {dataset.sizes['seed']} seeds, mean +- standard error",
        (*label(dataset, columns[0]), *cells, "diverged"),
        rows,
        [*remarks, *told],
    )


def learning_order_table(dataset: xr.Dataset) -> Table:
    """One row a combination of hyperparameters: annealing, learning order, final errors in %.

    Means over seeds with standard errors. `order` names the pattern that was half learned first
    (see `half_times`) and in how many seeds.
    """
    p_half, q_half = half_times(dataset)
    names = ("test_error_p_only", "test_error_q_only", "test_error_both", "test_error")
    errors = [final(dataset, name) for name in names]
    cells = {"annealed at": _times(dataset["annealed_at"])}
    cells["order"] = lambda at: learning_order(p_half.isel(at).values, q_half.isel(at).values)
    cells |= {"Q half at": _times(q_half), "P half at": _times(p_half)}
    heads = ("P-only %", "Q-only %", "both %", "test %")
    cells |= {head: _cell(error, 100, 2) for head, error in zip(heads, errors, strict=True)}
    remarks = []
    rates, dim = dataset["eta_init"].values, rate_dim(dataset)
    if len(rates) > 1:
        rest = {axis: 0 for axis in columns_of(dataset)[0] if axis != dim}
        pair = [{dim: int(at)} | rest for at in (rates.argmin(), rates.argmax())]
        small, large = (errors[0].isel(at) for at in pair)
        told = f"{with_error((small - large).values, 100)} points"
        if any((dataset["status"].isel(at) == Status.RUNNING).any() for at in pair):
            told = "not finished"
        where = " (other axes at their first value)" if rest else ""
        remarks.append(f"P-only error, smallest less largest rate, paired by seed: {told}{where}")
    return _table_of_members(dataset, cells, label_of, remarks)


def order_index(dataset: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """The learning-order index of each member of a run with patches.

    Returns:
      Clean accuracy at the first record at which the accuracy on patches alone exceeds one half
      (how much of the images was learned before the patch was), and the epoch of that record. NaN
      where it never does.
    """
    epoch = first_time(dataset, dataset["patch_accuracy"] > 0.5)
    clock = clock_of(dataset)
    return dataset["clean_accuracy"].where(dataset[clock] == epoch).max(clock), epoch


def first_learned(dataset: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """When each training example was learned, of a run with `record_examples`.

    The initial weights, record 0, are no training: what they have right by chance does not count.

    Returns:
      Times, (seed, those of the axes, `example`): of the first record at which the example was
      right, chance hits among them, and of the first from which on it was right at all records
      made. NaN where there is none, and for members that diverged.
    """
    clock = clock_of(dataset)
    trained = dataset.isel({clock: slice(1, None)})
    right, there = trained["train_right"], dataset["status"] != Status.DIVERGED
    back = {clock: slice(None, None, -1)}
    from_then_on = (right != 0).isel(back).astype(int).cumprod(clock).isel(back) == 1
    held = (right == 1, (right == 1) & from_then_on)
    first, for_good = (first_time(trained, holds).where(there) for holds in held)
    return first, for_good


def before_annealing(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """A variable at the last record before the first member of the grid was annealed.

    The same time for all members, so that those which never are can be compared; the last record
    if none was annealed.
    """
    clock = clock_of(dataset)
    first = float(dataset["annealed_at"].min())
    if math.isnan(first):
        return final(dataset, name)
    return dataset[name].isel({clock: int((dataset[clock] <= first + 1e-9).sum()) - 1}, drop=True)


def annealing_times(dataset: xr.Dataset) -> list[float]:
    """Every recorded time from which on some member has another learning rate or noise level."""
    clock = clock_of(dataset)
    changed = np.zeros(dataset.sizes[clock], bool)
    for name in ("learning_rate", "activation_noise"):
        if name in dataset:
            values = dataset[name].transpose(clock, ...).values.reshape(len(changed), -1)
            known = np.isfinite(values[1:]) & np.isfinite(values[:-1])
            changed[1:] |= np.any(known & (values[1:] != values[:-1]), axis=1)
    return [float(t) for t in dataset[clock].values[changed]]


def data_label(dataset: str) -> str:
    """A data set's name as figures and tables show it, so that none is taken for another."""
    names = {"cifar10": "CIFAR-10", "procedural": "the procedural stand-in (not CIFAR-10)"}
    return names.get(dataset, dataset)


def title_of(dataset: xr.Dataset) -> str:
    """The problem and, where there is one, the data set of a run, for tables and figures.

    Of what was measured also its `variant`, and of a run that goes on that it is not finished.
    """
    told = dataset.attrs["problem"]
    if "dataset" in dataset.attrs:
        told += f" on {data_label(dataset.attrs['dataset'])}"
    if "variant" in dataset.attrs:
        told += f", {dataset.attrs['variant']}"
    return told if dataset.attrs.get("complete", 1) else f"{told} (not finished)"


def accuracy_table(dataset: xr.Dataset) -> Table:
    """One row a member of the grid, accuracies in %: just before annealing and at the end.

    With patches also the learning-order index, see `order_index`. Means over seeds with standard
    errors.
    """
    groups = [g for g in ("clean", "mixed", "patch") if f"{g}_accuracy" in dataset]
    cells = {"annealed at": _times(dataset["annealed_at"])}
    if "patch" in groups:
        at_half, epoch = order_index(dataset)
        cells["patch > 50 % at epoch"] = _cell(epoch, 1.0, 3)
        cells["clean % then"] = _cell(at_half, 100.0, 1)
        for group in ("clean", "patch"):
            earlier = before_annealing(dataset, f"{group}_accuracy")
            cells[f"{group} % before annealing"] = _cell(earlier, 100.0, 1)
    for group in groups:
        cells[f"final {group} %"] = _cell(final(dataset, f"{group}_accuracy"), 100.0, 1)
    cells["final train loss"] = _cell(final(dataset, "train_loss"), 1.0, 3)
    return _table_of_members(dataset, cells, _short_label, [])


def _short_label(dataset: xr.Dataset, column: Mapping[str, int]) -> dict[str, str]:
    """`label_of` without the fields that are zipped with another, where that tells the points of
    an axis apart: one name an axis."""

    def is_needed(name: str) -> bool:
        dim = str(dataset[name].dims[0])
        return name == dim or len(np.unique(dataset[dim])) < dataset.sizes[dim]

    return {name: text for name, text in label_of(dataset, column).items() if is_needed(name)}


def point_of(dataset: xr.Dataset, column: Mapping[str, int]) -> dict[str, str]:
    """The point of a column on each axis, as text that no other point of the axis has."""
    texts: dict[str, list[str]] = {axis: [] for axis in column}
    for name, text in _short_label(dataset, column).items():
        axis = str(dataset[name].dims[0])
        texts[axis].append(text if name == axis else f"{name} {text}")
    return {axis: ", ".join(of_axis) for axis, of_axis in texts.items()}


def final_table(dataset: xr.Dataset) -> Table:
    """One row a combination of hyperparameters: every measured number at the last record.

    For problems without a table of their own. Means over seeds with standard errors.
    """
    clock = clock_of(dataset)
    cells = {
        f"final {name}": _cell(final(dataset, str(name)), 1.0, 4)
        for name, variable in dataset.data_vars.items()
        if variable.dims[-1:] == (clock,) and name not in HOST_VARIABLES
    }
    return _table_of_members(dataset, cells, label_of, [])


def measured_table(measured: xr.Dataset) -> Table:
    """One row a combination of hyperparameters: what `analysis.measure` found at the last
    checkpoint, of what is a single number or has a name (a layer, a block: a row each)."""
    where = ""
    if "checkpoint" in measured.dims:
        measured = measured.isel(checkpoint=-1)
        where = f" at step {int(measured['checkpoint'])}"
    columns = columns_of(measured)
    numbers, named = {}, {}
    for name, variable in measured.data_vars.items():
        extra = [dim for dim in variable.dims if dim != "seed" and dim not in columns[0]]
        if name != "status" and not extra:
            numbers[str(name)] = variable
        elif len(extra) == 1 and measured[extra[0]].dtype.kind in "UO":
            named[str(name)] = variable.rename({extra[0]: "of"})
    rows, entries = [], next(iter(named.values()))["of"].values if named else [None]
    for column in columns:
        for entry in entries:
            shown = [v.isel(column) for v in numbers.values()]
            shown += [v.isel(column).sel(of=entry) for v in named.values()]
            told = [f"{_significant(v)}" for v in shown]
            of = () if entry is None else (str(entry),)
            rows.append((*_short_label(measured, column).values(), *of, *told))
    heads = (*_short_label(measured, columns[0]), *(("of",) if named else ()), *numbers, *named)
    if len(heads) > MOST_COLUMNS:
        heads, *rows = (tuple(row) for row in zip(heads, *rows, strict=True))
    title = f"{title_of(measured)}{where}: {measured.sizes['seed']} seeds, mean +- standard error"
    return Table(
        title, heads, rows, [measured.attrs["remark"]] if "remark" in measured.attrs else []
    )


def _significant(values: xr.DataArray) -> str:
    mean, error = mean_and_error(values.values)
    if math.isnan(mean):
        return "-"
    return f"{mean:.4g}" if math.isnan(error) else f"{mean:.4g} +- {error:.2g}"


def config_of(dataset: xr.Dataset) -> dict[str, Any]:
    """What was computed: the resolved fields of the run."""
    return json.loads(dataset.attrs["config"])


def at_first_value(dataset: xr.Dataset, kept: Sequence[str]) -> xr.Dataset:
    """The results at the first value of every axis of the grid that is not in `kept`."""
    axes = [str(dim) for dim in dataset["status"].dims if dim != "seed"]
    return dataset.isel({axis: 0 for axis in axes if axis not in kept})


def value_of(dataset: xr.Dataset, field: str, column: Mapping[str, int]) -> Any:
    """The value of a field for a column: that along an axis, or that of the whole run."""
    if field in dataset.coords:
        coordinate = dataset[field]
        at = {axis: i for axis, i in column.items() if axis in coordinate.dims}
        return coordinate.isel(at).item()
    value = config_of(dataset)[field]
    return value[0] if isinstance(value, list) else value


def the_two_algorithms(dataset: xr.Dataset) -> dict[str, list[dict[str, int]]]:
    """The columns of Algorithm 1 (L-S: from eta_1, annealed) and Algorithm 2 (S: eta_2 throughout,
    without noise before the activations); others, such as rates in between, are left out."""
    eta_1 = config_of(dataset)["eta_1"]
    found: dict[str, list[dict[str, int]]] = {"L-S": [], "S": []}
    for column in columns_of(dataset):
        rates = [value_of(dataset, name, column) for name in ("eta_init", "eta_2")]
        if value_of(dataset, "noise_init", column) == 0 and rates[0] in (eta_1, rates[1]):
            found["S" if rates[0] == rates[1] else "L-S"].append(column)
    return found


def shape_axis(dataset: xr.Dataset) -> tuple[str, str]:
    """What a study varies: its axis, and the name of what it stands for. The first axis beside that
    of the initial rate, or else that one, along which eta_2 varies."""
    axes = [str(dim) for dim in dataset["status"].dims if dim != "seed"]
    axis = next((a for a in axes if a != rate_dim(dataset)), rate_dim(dataset))
    if axis in ("eta_2", rate_dim(dataset)):
        return axis, "eta_1/eta_2"
    return axis, "kappa = sqrt(d/N)" if axis == "n" and "d" not in dataset.coords else axis


def errors_against_shape(
    dataset: xr.Dataset,
) -> tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Final P-only errors along what a study varies (`shape_axis`), further axes at their first
    value.

    Returns:
      The name of x, and for L-S, S and the two best linear rules x (K,), rising, and errors
      (seeds, K).
    """
    axis, label = shape_axis(dataset)
    dataset = at_first_value(dataset, (axis, rate_dim(dataset)))
    error = final(dataset, "test_error_p_only")

    def x_of(column):
        if label == "eta_1/eta_2":
            return config_of(dataset)["eta_1"] / value_of(dataset, "eta_2", column)
        if label == axis:
            return float(value_of(dataset, axis, column))
        return math.sqrt(value_of(dataset, "d", column) / value_of(dataset, "n", column))

    curves: dict[str, dict[float, np.ndarray]] = {}
    for name, columns in the_two_algorithms(dataset).items():
        for column in columns:
            x = x_of(column)
            curves.setdefault(name, {})[x] = error.isel(column).values
            for rule in ("p_only", "all_p"):
                of_rule = dataset[f"linear_error_{rule}"]
                here = {dim: at for dim, at in column.items() if dim in of_rule.dims}
                curves.setdefault(rule, {})[x] = of_rule.isel(here).values
    return label, {
        name: (np.array(sorted(points)), np.stack([points[x] for x in sorted(points)], axis=1))
        for name, points in curves.items()
    }


def quantile_95(count: int) -> float:
    """Standard errors in half a 95 % interval of a mean over `count` seeds (Student); NaN for 1."""
    return float(scipy.special.stdtrit(count - 1, 0.975)) if count > 1 else math.nan


def fit_slope(x: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The slope of log(mean over seeds) against log x, and half its 95 % interval by jackknife.

    Seeds and x at which a value is not finite, or x or the mean not positive, are left out.

    Args:
      x: (K,).
      values: (seeds, K).

    Returns:
      NaN where fewer than two points are left (interval: two seeds).

    Examples:
        >>> x = np.array([1.0, 2.0, 4.0])
        >>> slope, half_width = fit_slope(x, np.stack([3 * x**2, 5 * x**2]))
        >>> f"{slope:.3f} +- {half_width:.3f}"
        '2.000 +- 0.000'
    """
    values = values[np.isfinite(values).all(axis=1)]
    count = len(values)
    if count == 0:
        return math.nan, math.nan
    usable = (x > 0) & (values.mean(axis=0) > 0)

    def slope(rows):
        mean = np.mean(rows, axis=0)[usable]
        if len(mean) < 2 or not np.all(mean > 0):
            return math.nan
        return float(np.polyfit(np.log(x[usable]), np.log(mean), 1)[0])

    if count < 2:
        return slope(values), math.nan
    left_out = np.array([slope(np.delete(values, i, axis=0)) for i in range(count)])
    variance = (count - 1) / count * np.sum((left_out - left_out.mean()) ** 2)
    return slope(values), float(np.sqrt(variance)) * quantile_95(count)


def limit_gaps(nets: xr.Dataset, limit: xr.Dataset) -> xr.Dataset:
    """How far networks of finite width are from the limit, over m_v and eta_init.

    Args:
      nets: a study of `two_layer` over m_v.
      limit: a run of `lazy_limit` at the same rates, records and seeds.

    Returns:
      `gap`: max over time of |mean D_net - mean D_limit| over max |mean D_limit|, D the second
      difference and means over seeds; `saturation`: r^2 tau0 sqrt(m_v)/pi, at about which |D| of a
      network saturates, in the same unit.

    Raises:
      KeyError, ValueError: if the runs do not fit together.
    """
    nets = at_first_value(nets, ("m_v", rate_dim(nets)))
    theirs, ours = config_of(limit), config_of(nets)
    apart = ("problem", "zipped", "num_test", "flow_step", "m_v")
    for name in sorted((set(theirs) & set(ours)) - set(apart)):
        if theirs[name] != ours[name]:
            raise ValueError(f"{name} is {ours[name]} and {theirs[name]}")
    of_nets = nets["second_difference"].mean("seed")
    of_limit = limit["second_difference"].sel(eta_init=nets["eta_init"]).mean("seed")
    largest = abs(of_limit).max("flow_time")
    gap = abs(of_nets - of_limit).max("flow_time") / largest
    r, tau_0 = (value_of(nets, name, {}) for name in ("r", "tau0_v"))
    width = r**2 * tau_0 * nets["m_v"] ** 0.5 / math.pi
    return xr.Dataset({"gap": gap, "saturation": width / largest})


TABLES: Mapping[str, Callable[[xr.Dataset], Table]] = {
    "accuracy": accuracy_table,
    "final": final_table,
    "learning_order": learning_order_table,
}


def print_table(table: Table) -> None:
    """Prints a table on the terminal, and its remarks under it."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title)
    for name in table.columns:
        shown.add_column(name, justify="right")
    for row in table.rows:
        shown.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as captured:  # it would end the process where a reader has gone
        for part in (shown, *table.remarks):
            console.print(part)
    print(captured.get(), end="")
