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
        names = directory.read_config(workdir).get("programs", [])
        if missing := sorted(set(names) - {folder.name for folder in programs}):
            is_complete = dataset is not None and dataset.attrs["complete"]
            told = f"programs {', '.join(missing)}: not there"
            (report.wrong if is_complete else report.found).append(told)
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
    """results.nc, checked against its digest, config.json and its own attributes. None if it
    cannot be compared with anything else."""
    path = workdir / "results.nc"
    if not path.exists():
        report.found.append("results.nc: not there yet")
        return None
    try:
        dataset, told = results.read_with_digest(path)
        is_whole = told == results.digest(dataset)
        stored = dict(json.loads(dataset.attrs["config"]))
        _check_itself(dataset, report)
    except Exception as error:  # whatever a damaged file makes HDF5 or xarray raise
        reason = str(error).strip().split("\n")[0][:200]
        report.wrong.append(f"results.nc: cannot be read ({type(error).__name__}: {reason})")
        return None
    if told := spec.difference(what, stored):
        report.wrong.append(f"results.nc: is of another config than config.json: {told}")
        return None
    if not is_whole:
        report.wrong.append("results.nc: does not match its digest")
    return dataset


def _check_itself(dataset: xr.Dataset, report: Report) -> None:
    """Whether the labelled arrays contradict themselves."""
    clock = results.clock_of(dataset)
    status, complete = dataset["status"].values, bool(dataset.attrs["complete"])
    if unknown := set(status.ravel().tolist()) - {s.value for s in Status}:
        report.wrong.append(f"results.nc: holds the unknown status {sorted(unknown)}")
    if complete != bool(np.all(status != Status.RUNNING)):
        report.wrong.append("results.nc: its attribute `complete` contradicts its status")
    if not np.all(np.diff(dataset[clock].values) > 0):
        report.wrong.append("results.nc: its times do not increase")
    steps = dataset["step"].transpose("seed", ..., clock).values
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
    for line in results.diverged(dataset):
        report.found.append(f"results.nc: {line}")


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
            except (OSError, ValueError) as error:
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
    of_checkpoint = f"the checkpoint of step {step}"
    for name, records in history.items():
        if name not in dataset:
            report.wrong.append(f"results.nc: lacks {name}, which the checkpoints have")
            return
        if dataset[name].size != records.size:
            report.wrong.append(f"results.nc: its {name} has another shape than {of_checkpoint}")
            return
    if not history:
        return
    made = np.isfinite(history["step"])  # (S, H, points of time)
    ours_made = np.isfinite(dataset["step"].values.reshape(made.shape))
    for name, records in history.items():
        ours = dataset[name].values.reshape(records.shape)
        both = made & ours_made
        if not np.array_equal(ours[both], records[both], equal_nan=True):
            report.wrong.append(f"results.nc: its {name} differs from that of {of_checkpoint}")
    if np.any(made & ~ours_made):
        told = f"results.nc: is older than {of_checkpoint}; the same command writes it again"
        (report.wrong if dataset.attrs["complete"] else report.found).append(told)
    if np.any(ours_made & ~made):
        told = f"results.nc: goes beyond {of_checkpoint}; the same command computes that again"
        report.found.append(told)


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
    of_points = {name for name, values in arrays.items() if values.ndim == len(dims)}
    names_of_record = of_points | {name for names in along.values() for name in names}
    seen = set()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            index = tuple(at[d][tuple(record[n] for n in names)] for d, names in along.items())
            values = {n: np.nan if record[n] is None else float(record[n]) for n in of_points}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            yield f"line {number} is no record of this run"
            continue
        if set(record) - {"dataset"} != names_of_record:
            yield f"line {number} has other names than results.nc"
        if index in seen:
            yield f"line {number} repeats a record"
        seen.add(index)
        if not np.isfinite(arrays["step"][index]):
            continue  # results.nc is written less often
        for name, value in sorted(values.items()):
            ours = arrays[name][index]
            if not (ours == value or (np.isnan(ours) and np.isnan(value))):
                yield f"line {number} has {name} = {value}, results.nc {ours}"
    made = np.argwhere(np.isfinite(arrays["step"]))
    if missing := {tuple(map(int, index)) for index in made} - seen:
        yield f"{len(missing)} records of results.nc along {clock} are not in it"
