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
    whole = join(parts, dims)
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
            "audit": [],  # each part has its own members
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


def join(parts: Sequence[xr.Dataset], dims: Sequence[str]) -> xr.Dataset:
    """The labelled arrays of all members of parts with the same dimensions.

    Along a dimension the points stand in the order of the attribute `config`, where all parts have
    one config, else in the order in which the parts bring them.

    Args:
      dims: the dimensions of members.

    Raises:
      ConfigError: if two parts disagree on a member, or members are missing.
    """
    try:
        whole = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="override")
    except xr.MergeError as error:
        told = str(error).partition(" on objects")[0]
        raise ConfigError(f"parts disagree on members that both have: {told}") from None
    except ValueError:  # an index cannot tell points apart
        told = "an axis holds a value twice (zipped with others), such parts cannot be merged"
        raise ConfigError(told) from None
    is_one_config = len({part.attrs["config"] for part in parts}) == 1
    asked = json.loads(parts[0].attrs["config"]) if is_one_config else {}
    for dim in dims:
        brought = itertools.chain.from_iterable(part[dim].values.tolist() for part in parts)
        order = asked.get("seeds" if dim == "seed" else dim) or list(dict.fromkeys(brought))
        whole = whole.reindex({dim: order})
    absent = whole["status"].isnull()
    if absent.any():
        missing = [
            ", ".join(f"{dim} = {whole[dim].values[k]}" for dim, k in zip(dims, index, strict=True))
            for index in np.argwhere(absent.values)
        ]
        told = "; ".join(results.first_of(missing, MOST_TOLD, "members"))
        raise ConfigError(f"members are missing: {told}")
    for name, variable in parts[0].variables.items():  # an outer join makes floats of integers
        whole[name] = whole[name].astype(variable.dtype).assign_attrs(variable.attrs)
    whole.attrs.pop("shard", None)
    return whole.transpose(*dims, ...)
