"""Whether the directory of a run is whole: `python -m lr_order_jax.main --check=DIR`.

Everything is read and compared with the rest: config.json, results.nc, metrics.jsonl and every
checkpoint. Nothing is written, nothing of it is executed, and no problem is built.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lr_order_jax import checkpoint, directory, results, spec
from lr_order_jax.algorithm import Status
from lr_order_jax.fields import ConfigError

MOST_TOLD = 5  # wrong lines of metrics.jsonl that are told one by one


class Report(NamedTuple):
    """What there is, and what is wrong with it, each a line."""

    found: list[str]
    wrong: list[str]


def verify(workdir: str | pathlib.Path) -> Report:
    """Checks a run's directory, or a study's with those of its programs.

    Raises:
      ConfigError: if it is no directory of a run.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "config.json").is_file():
        raise ConfigError(f"--check={workdir}: is not the directory of a run (no config.json)")
    report = Report([], [])
    what = directory.read_config(workdir)["what"]
    dataset = _results(workdir, what, report)
    programs = sorted(path.parent for path in workdir.glob("*/config.json"))
    if programs:
        for folder in programs:
            of_program = verify(folder)
            report.found.extend(f"{folder.name}: {line}" for line in of_program.found)
            report.wrong.extend(f"{folder.name}: {line}" for line in of_program.wrong)
    else:
        step, history, metrics_bytes = _checkpoints(workdir, what, report)
        if dataset is not None:
            _history(dataset, step, history, report)
            _metrics(workdir / "metrics.jsonl", dataset, metrics_bytes, report)
    for path in sorted(workdir.glob(".*.writing")):
        report.found.append(f"{path.name}: left by a write that was cut short; can be removed")
    if (aside := workdir / "damaged_checkpoints").is_dir():
        steps = ", ".join(sorted(path.name for path in aside.iterdir()))
        report.found.append(f"damaged_checkpoints: set aside by a run, of steps {steps}")
    return report


def _results(workdir: pathlib.Path, what: Mapping[str, Any], report: Report) -> xr.Dataset | None:
    """results.nc, checked against config.json and against its own attributes."""
    if not (workdir / "results.nc").exists():
        report.found.append("results.nc: not there yet")
        return None
    try:
        dataset = results.read_results(workdir)
        stored = json.loads(dataset.attrs["config"])
        status, complete = dataset["status"].values, bool(dataset.attrs["complete"])
        clock = dataset[results.clock_of(dataset)].values
        step = dataset["step"]
        told_of_diverged = results.diverged(dataset)
    except Exception as error:  # whatever a damaged file makes HDF5 or xarray raise
        report.wrong.append(f"results.nc: cannot be read ({type(error).__name__}: {error})")
        return None
    if told := spec.difference(what, stored):
        report.wrong.append(f"results.nc: is of another config than config.json: {told}")
    if unknown := set(status.ravel().tolist()) - {s.value for s in Status}:
        report.wrong.append(f"results.nc: holds the unknown status {sorted(unknown)}")
    if complete != bool(np.all(status != Status.RUNNING)):
        report.wrong.append("results.nc: its attribute `complete` contradicts its status")
    if not np.all(np.diff(clock) > 0):
        report.wrong.append("results.nc: its times do not increase")
    steps = step.transpose("seed", ..., results.clock_of(dataset)).values
    made = np.isfinite(steps)
    if np.any(~made[..., :-1] & made[..., 1:]):
        report.wrong.append("results.nc: a member has records after a point without one")
    if np.any(np.diff(steps)[made[..., :-1] & made[..., 1:]] < 0):
        report.wrong.append("results.nc: a member's steps go back")
    if np.any(~made[..., -1] & (status == Status.COMPLETED).reshape(made.shape[:-1])):
        report.wrong.append("results.nc: a member that completed lacks its last record")
    of_status = ", ".join(
        f"{int(np.sum(status == s))} {s.name.lower()}" for s in Status if np.any(status == s)
    )
    state = "complete" if complete else "unfinished, the same command continues"
    report.found.append(f"results.nc: {state}; members: {of_status}")
    for line in told_of_diverged:
        report.found.append(f"results.nc: {line}")
    return dataset


def _checkpoints(
    workdir: pathlib.Path, what: Mapping[str, Any], report: Report
) -> tuple[int, Mapping[str, Any], int]:
    """Every checkpoint. Step, history and length of metrics.jsonl of the newest whole one."""
    newest: tuple[int, Mapping[str, Any], int] = (-1, {}, 0)
    if not (workdir / "checkpoints").is_dir():
        report.found.append("checkpoints: none yet")
        return newest
    with checkpoint.reading(workdir) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            report.found.append("checkpoints: none yet")
        for step in steps:
            try:
                tree, meta = checkpoints.restore(step)
            except ValueError as error:
                report.wrong.append(f"checkpoint of step {step}: {error}")
                continue
            if told := spec.difference(what, meta.get("what", {})):
                report.wrong.append(f"checkpoint of step {step}: is of another config: {told}")
            newest = step, tree["history"], int(meta["metrics_bytes"])
    if newest[0] >= 0:
        report.found.append(f"checkpoints: steps {', '.join(map(str, steps))}, checksums compared")
    return newest


def _history(dataset: xr.Dataset, step: int, history: Mapping[str, Any], report: Report) -> None:
    """The records of the newest whole checkpoint against results.nc, which is written after it."""
    for name, records in history.items():
        if name not in dataset:
            report.wrong.append(f"results.nc: lacks {name}, which the checkpoints have")
            continue
        ours = dataset[name].values.reshape(records.shape)
        both = np.isfinite(ours) & np.isfinite(records)
        if not np.array_equal(ours[both], records[both]):
            report.wrong.append(
                f"results.nc: its {name} differs from that of the checkpoint of step {step}"
            )
        elif np.isfinite(records).sum() > both.sum():
            report.found.append(
                f"results.nc: is older than the checkpoint of step {step}; the same command "
                "writes it again"
            )
            return


def _metrics(path: pathlib.Path, dataset: xr.Dataset, metrics_bytes: int, report: Report) -> None:
    """Each line of metrics.jsonl against results.nc."""
    if not path.exists():
        report.wrong.append("metrics.jsonl: is missing; the same command writes it again")
        return
    content = path.read_bytes()
    if len(content) < metrics_bytes:
        report.wrong.append(
            f"metrics.jsonl: has {len(content)} bytes, the newest checkpoint knows of "
            f"{metrics_bytes}; the same command writes it again"
        )
    whole = content[: max(metrics_bytes, content.rfind(b"\n") + 1)]  # the rest was being written
    wrong = list(_wrong_lines(whole.decode(errors="replace"), dataset))
    for line in results.first_of(wrong, MOST_TOLD, "lines are wrong"):
        report.wrong.append(f"metrics.jsonl: {line}")
    lines = content.count(b"\n")
    report.found.append(f"metrics.jsonl: {lines} records, compared with results.nc")


def _wrong_lines(text: str, dataset: xr.Dataset) -> Iterator[str]:
    clock = results.clock_of(dataset)
    dims = [str(dim) for dim in dataset["step"].dims]
    along = {dim: [str(n) for n, c in dataset.coords.items() if c.dims == (dim,)] for dim in dims}
    at = {}  # by dimension: the values of all its fields, which are zipped, to their index
    for dim, names in along.items():
        points = zip(*(dataset[name].values.tolist() for name in names), strict=True)
        at[dim] = {point: i for i, point in enumerate(points)}
    arrays = {str(name): array.values for name, array in dataset.items()}
    seen = set()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            index = tuple(at[d][tuple(record[n] for n in names)] for d, names in along.items())
        except (ValueError, KeyError, TypeError):
            yield f"line {number} is no record of this run"
            continue
        if index in seen:
            yield f"line {number} repeats a record"
        seen.add(index)
        for name, value in record.items():
            if name in arrays and arrays[name].ndim == len(dims):
                ours = arrays[name][index]
                if np.isfinite(ours) and ours != value:
                    yield f"line {number} has {name} = {value}, results.nc {ours}"
    made = np.argwhere(np.isfinite(arrays["step"]))
    if missing := {tuple(map(int, index)) for index in made} - seen:
        yield f"{len(missing)} records of results.nc along {clock} are not in it"
