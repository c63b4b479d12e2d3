"""Parts of a grid, each run in a directory of its own, joined into one.

Parts are shards of one config (`config.shard`), or runs that differ in seeds and in the values of
swept axes alone: a finished run is extended by running what is new elsewhere, and joining the two.
No member is computed again, and none is changed.
"""

import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lr_order_jax import directory, figures, results
from lr_order_jax.fields import ConfigError
from lr_order_jax.results import TIME_UNITS
from lr_order_jax.spec import difference
from lr_order_jax.stored import StoredRun

MOST_TOLD = 10  # members that are missing, named


def merge(workdirs: Sequence[str | os.PathLike], out: str | os.PathLike) -> xr.Dataset:
    """Joins finished parts and writes DIR/results.nc, metrics.jsonl, config.json and figures.

    The checkpoints stay where they are; `config.json` names the parts.

    Args:
      workdirs: directories of runs; which part each is, is read from its results.
      out: a directory that is new or empty.

    Returns:
      The results of all members.

    Raises:
      ConfigError: if a part is unfinished, damaged or of another config, if two disagree on a
        member, or if members of the grid that they span are missing: these are named.
    """
    runs = [StoredRun(workdir) for workdir in workdirs]
    out = pathlib.Path(out)
    parts = [_read(run) for run in runs]
    dims = [str(dim) for dim in parts[0]["status"].dims]
    what = _common(runs, parts, dims)
    whole = join(parts, dims, [str(run.workdir) for run in runs])
    for dim in dims:
        for name in _fields_along(whole, dim):
            key = "seeds" if name == "seed" else name
            what[key] = whole[name].values.tolist()
    what["num_seeds"] = whole.sizes["seed"]
    if difference(what, asked := runs[0].config["what"]) == "":
        what = asked  # as it was resolved, to the letter
    whole.attrs["config"] = json.dumps(what, sort_keys=True)
    with directory.held(out):
        if (out / "config.json").exists():
            raise ConfigError(f"--out={out}: holds a run, give an empty or new directory")
        lines = dict.fromkeys(
            itertools.chain.from_iterable(
                (run.workdir / "metrics.jsonl").read_text().splitlines() for run in runs
            )
        )
        text = "".join(f"{line}\n" for line in lines)
        results.write_aside(out / "metrics.jsonl", lambda aside: aside.write_text(text))
        results.write_results(whole, out / "results.nc")
        config = {
            **runs[0].config,
            "what": what,
            "how": {**runs[0].config["how"], "shard": None},
            "merged": [os.path.relpath(run.workdir, out) for run in runs],
            "sessions": [session for run in runs for session in run.config["sessions"]],
        }
        results.write_json(config, out / "config.json")
        figures.draw(whole, runs[0].problem.figures, out / "figures")
    return whole


def _read(run: StoredRun) -> xr.Dataset:
    """The results of a finished part, checked against their digest."""
    path = run.workdir / "results.nc"
    if run.config.get("programs"):
        raise ConfigError(
            f"{run.workdir}: holds several programs, merge the directories of each program"
        )
    if not path.exists():
        raise ConfigError(f"{run.workdir}: has no results.nc yet")
    try:
        dataset, told = results.read_with_digest(path)
    except Exception as error:  # whatever a damaged file makes HDF5 or xarray raise
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None
    if told != results.digest(dataset):
        raise ConfigError(f"{path}: does not match its digest, see --check={run.workdir}")
    if not dataset.attrs["complete"]:
        raise ConfigError(f"{run.workdir}: is unfinished, run its command again")
    return dataset


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
        if not alike or set(part.variables) != set(parts[0].variables):
            raise ConfigError(f"{run.workdir}: has other axes or variables than {first.workdir}")
        if not np.array_equal(part[clock].values, parts[0][clock].values):
            raise ConfigError(f"{run.workdir}: has other points of {clock} than {first.workdir}")
    return dict(runs[0].config["what"])


def _without(what: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in what.items() if name not in names}


def _fields_along(dataset: xr.Dataset, dim: str) -> list[str]:
    """The fields whose values tell the points of a dimension apart."""
    return [str(name) for name, c in dataset.coords.items() if c.dims == (dim,)]


def _points(dataset: xr.Dataset, dim: str) -> list[tuple]:
    """The points of a dimension, each the values of all its fields."""
    columns = (dataset[name].values.tolist() for name in _fields_along(dataset, dim))
    return list(zip(*columns, strict=True))


def join(parts: Sequence[xr.Dataset], dims: Sequence[str], names: Sequence[str]) -> xr.Dataset:
    """The labelled arrays of all members of parts with the same dimensions, seeds first.

    Along a dimension the points stand in the order of the attribute `config`, where all parts have
    one config, else in the order in which the parts bring them.

    Args:
      dims: the dimensions of members.
      names: what messages call the parts.

    Raises:
      ConfigError: if two parts disagree on a member, or members are missing.
    """
    points = {
        dim: list(dict.fromkeys(itertools.chain.from_iterable(_points(p, dim) for p in parts)))
        for dim in dims
    }
    if len({part.attrs["config"] for part in parts}) == 1:
        stored = json.loads(parts[0].attrs["config"])
        for dim, found in points.items():
            columns = [stored[n if n != "seed" else "seeds"] for n in _fields_along(parts[0], dim)]
            order = list(zip(*columns, strict=True))
            found.sort(key=order.index)
    sizes = {dim: len(found) for dim, found in points.items()}
    owner = np.full(list(sizes.values()), -1)
    arrays = {
        name: np.zeros([sizes.get(str(d), v.sizes[d]) for d in v.dims], v.dtype)
        for name, v in parts[0].data_vars.items()
    }
    for i, part in enumerate(parts):
        at = {dim: [points[dim].index(point) for point in _points(part, dim)] for dim in dims}
        mine = np.ix_(*at.values())
        both = owner[mine] >= 0
        for name, values in part.data_vars.items():
            # Dimensions of members stand first.
            of_members = [str(dim) for dim in values.dims if dim in sizes]
            index = np.ix_(*(at[dim] for dim in of_members))
            known = both.any(axis=tuple(dims.index(d) for d in dims if d not in of_members))
            before, now = arrays[name][index], values.values
            if not np.array_equal(before[known], now[known], equal_nan=now.dtype.kind == "f"):
                other = names[int(owner[mine][both].max())]
                raise ConfigError(f"{names[i]}: its {name} differs from that of {other}")
            arrays[name][index] = now
        owner[mine] = i
    if np.any(owner < 0):
        missing = [
            ", ".join(
                f"{field} = {value:g}" if not isinstance(value, str) else f"{field} = {value}"
                for dim, k in zip(dims, index, strict=True)
                for field, value in zip(_fields_along(parts[0], dim), points[dim][k], strict=True)
            )
            for index in np.argwhere(owner < 0)
        ]
        told = "; ".join(results.first_of(missing, MOST_TOLD, "members"))
        raise ConfigError(f"members are missing: {told}")
    coords: dict[str, Any] = {}
    for dim in dims:
        for k, name in enumerate(_fields_along(parts[0], dim)):
            values = np.asarray([point[k] for point in points[dim]], parts[0][name].dtype)
            coords[name] = (dim, values, parts[0][name].attrs)
    clock = results.clock_of(parts[0])
    rest = {name: c for name, c in parts[0].coords.items() if name not in coords}
    whole = xr.Dataset(
        {n: (v.dims, arrays[n], v.attrs) for n, v in parts[0].data_vars.items()},
        {"seed": coords.pop("seed"), clock: rest.pop(clock), **coords, **rest},
        parts[0].attrs,
    )
    whole.attrs.pop("shard", None)
    return whole
