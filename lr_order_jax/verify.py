"""Whether the directory of a run is whole: `python -m lr_order_jax.main --check=DIR`.

Everything is read and compared with the rest: config.json, results.nc, metrics.jsonl and every
checkpoint. Nothing is written, nothing of it is executed, and no problem is built. Where a run goes
on in the directory, what it writes or removes meanwhile is not wrong.
"""

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lr_order_jax import checkpoint, directory, experiment, results, spec
from lr_order_jax.algorithm import Status
from lr_order_jax.fields import ConfigError, in_one_line
from lr_order_jax.sweep import Axis

MADE_AGAIN = 1e-3  # of a variable's largest value: on other devices or mapped otherwise, records
# differ by what rounding grows to
MOST_TOLD = 5  # wrong lines of metrics.jsonl that are told one by one
NONE_WHOLE: tuple[int, Mapping[str, Any], int] = (-1, {}, 0)  # as `_checkpoints` returns it


class Report(NamedTuple):
    """What there is, and what is wrong with it, each a line."""

    found: list[str]
    wrong: list[str]


def verify(workdir: str | pathlib.Path) -> Report:
    """Checks a run's directory, or a study's with those of its programs.

    Raises:
      ConfigError: if it is no directory of a run.
      OSError: if its config.json cannot be read.
    """
    workdir = pathlib.Path(workdir)
    try:
        config = directory.read_whole_config(workdir)
    except (FileNotFoundError, NotADirectoryError):
        told = f"--check={workdir}: is not the directory of a run (no config.json)"
        raise ConfigError(told) from None
    report = Report([], [])
    dataset = _part("results.nc", report, _results, workdir, config)
    if config["programs"]:
        _part("programs", report, _programs, workdir, config, dataset)
    else:
        newest = _part("checkpoints", report, _checkpoints, workdir, config, dataset)
        step, history, metrics_bytes = newest or NONE_WHOLE
        if dataset is not None:
            _part(
                "results.nc", report, _records, dataset, f"the checkpoint of step {step}", history
            )
        if dataset is not None or metrics_bytes:
            path = workdir / "metrics.jsonl"
            _part("metrics.jsonl", report, _metrics, path, dataset, metrics_bytes, history)
        elif (workdir / "metrics.jsonl").exists():
            report.found.append("metrics.jsonl: there is nothing yet to compare it with")
    _part(".", report, _leftovers, workdir)
    return report


def _part(name: str, report: Report, check: Callable[..., Any], *arguments: Any) -> Any:
    """The result of one check, which adds to the report. Whatever it raises is wrong: a file that
    cannot be read, or damage of a kind that it does not know of."""
    try:
        return check(*arguments, report)
    except Exception as error:
        report.wrong.append(f"{name}: cannot be checked ({in_one_line(error)})")
        return None


def _leftovers(workdir: pathlib.Path, report: Report) -> None:
    """What faults have left, and is not wrong."""
    for path in sorted(workdir.glob(".*.writing")):
        report.found.append(f"{path.name}: left by a write that was cut short; can be removed")
    if (workdir / results.METRICS_KEPT).exists():
        report.found.append(f"{results.METRICS_KEPT}: lines of a run that has started again")
    if (aside := workdir / "damaged_checkpoints").is_dir():
        steps = ", ".join(sorted(path.name for path in aside.iterdir()))
        report.found.append(f"damaged_checkpoints: set aside by a run, of steps {steps}")


def _results(workdir: pathlib.Path, config: Mapping[str, Any], report: Report) -> xr.Dataset | None:
    """results.nc, checked against its digest, config.json and its own attributes. None if it
    cannot be compared with anything else."""
    path = workdir / "results.nc"
    if not path.exists():
        if _had_results(workdir, config):
            again = "the same merge" if config.get("merged") else "the same command"
            report.wrong.append(f"results.nc: is missing; {again} writes it again")
        else:
            report.found.append("results.nc: not there yet")
        return None
    try:
        dataset, told = results.read_with_digest(path)
        is_whole = told == results.digest(dataset)
        stored = dict(json.loads(dataset.attrs["config"]))
        _check_itself(dataset, report)
    except Exception as error:  # whatever a damaged file makes HDF5 or xarray raise
        report.wrong.append(f"results.nc: cannot be read ({in_one_line(error)})")
        return None
    if told := spec.difference(config["what"], stored):
        report.wrong.append(f"results.nc: is of another config than config.json: {told}")
        return None
    if told := _other_shard(dataset.attrs.get("shard"), config):
        report.wrong.append(f"results.nc: {told}")
        return None
    if not is_whole:
        report.wrong.append("results.nc: does not match its digest")
    return dataset


def _had_results(workdir: pathlib.Path, config: Mapping[str, Any]) -> bool:
    """Whether results.nc must have been there: figures are drawn from it; the next checkpoint, or
    program of a study, comes after it; of merged parts it is all there is."""
    if config.get("merged") or (workdir / "figures").exists():
        return True
    if config["programs"]:
        return sum((workdir / name / "config.json").exists() for name in config["programs"]) > 1
    return _count_checkpoints(workdir) > 1


def _other_shard(shard: str | None, config: Mapping[str, Any]) -> str:
    """How a file's shard differs from that of config.json; "" if it does not."""
    ours = config["how"].get("shard")
    told = (f"of shard {name}" if name else "of all members" for name in (shard, ours))
    return "" if shard == ours else "is {}, config.json {}".format(*told)


def _programs(
    workdir: pathlib.Path, config: Mapping[str, Any], dataset: xr.Dataset | None, report: Report
) -> None:
    """The programs of a study, each in its directory, and their results against the joined ones."""
    names = config["programs"]
    is_complete = dataset is not None and bool(dataset.attrs["complete"])
    if missing := [name for name in names if not (workdir / name / "config.json").exists()]:
        told = f"programs {', '.join(missing)}: not there"
        (report.wrong if is_complete else report.found).append(told)
        for name in (name for name in missing if _holds_files(workdir / name)):
            report.wrong.append(f"{name}: config.json is missing; the same command writes it again")
    for name in (name for name in names if name not in missing):
        of_program = _part(name, report, lambda folder, _: verify(folder), workdir / name)
        for ours, theirs in zip(report, of_program or (), strict=False):
            ours.extend(f"{name}: {line}" for line in theirs)
    parts: list[xr.Dataset | None] = []
    for name in names:
        try:
            parts.append(results.read_results(workdir / name))
        except (OSError, ValueError):  # told above
            parts.append(None)
    if dataset is None:
        return
    for name, part in zip(names, results.split(dataset, axes_of(config)), strict=True):
        has_them = config.get("merged") or _count_checkpoints(workdir / name)
        if results.count_records(part) and not has_them:
            told = f"{name}: its checkpoints are lost, although results.nc holds records of it"
            report.wrong.append(f"{told}; restore them or give a new --workdir")
    if all(part is None for part in parts):
        return
    joined = results.join(config["what"], axes_of(config), parts)
    of_time = {
        str(name): values.values
        for name, values in joined.data_vars.items()
        if results.clock_of(joined) in values.dims
    }
    before = len(report.wrong)
    _records(dataset, "the programs", of_time, report, again="")
    is_same = results.digest(joined) == results.digest(dataset)
    if joined.attrs["complete"] and is_complete and not is_same and len(report.wrong) == before:
        report.wrong.append("results.nc: differs from the results of the programs")


def _holds_files(folder: pathlib.Path) -> bool:
    """Whether a run has come as far as to write a file there; its config.json is the first."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return any(path.name != ".lock" and not path.name.endswith(".writing") for path in paths)


def _count_checkpoints(folder: pathlib.Path) -> int:
    return sum(path.name.isdigit() for path in folder.glob("checkpoints/*"))


def axes_of(config: Mapping[str, Any]) -> list[Axis]:
    """The axes along which the programs of a study differ, as its config names them."""
    what = config["what"]
    names = [pair.partition("=")[0] for pair in config["programs"][0].split(",")]
    groups = {group[0]: group for entry in what["zipped"] if (group := entry.split("+"))}
    followers = {name for group in groups.values() for name in group[1:]}
    return [
        Axis(name, {field: tuple(what[field]) for field in groups.get(name, [name])})
        for name in names
        if name not in followers
    ]


def _check_itself(dataset: xr.Dataset, report: Report) -> None:
    """Whether the labelled arrays contradict themselves."""
    clock = results.clock_of(dataset)
    dims = dataset["step"].transpose("seed", ..., clock).dims
    status = dataset["status"].transpose(*dims[:-1]).values
    complete = bool(dataset.attrs["complete"])
    if unknown := set(status.ravel().tolist()) - {s.value for s in Status}:
        report.wrong.append(f"results.nc: holds the unknown status {sorted(unknown)}")
    if complete != bool(np.all(status != Status.RUNNING)):
        report.wrong.append("results.nc: its attribute `complete` contradicts its status")
    if not np.all(np.diff(dataset[clock].values) > 0):
        report.wrong.append("results.nc: its times do not increase")
    steps = dataset["step"].transpose(*dims).values
    made = np.isfinite(steps)
    if np.any(~made[..., :-1] & made[..., 1:]):
        report.wrong.append("results.nc: a member has records after a point without one")
    if np.any(np.diff(steps)[made[..., :-1] & made[..., 1:]] < 0):
        report.wrong.append("results.nc: a member's steps go back")
    ended = np.isin(status, (Status.COMPLETED, Status.STOPPED))
    if np.any(~_made_at_end(dataset, made) & ended):
        report.wrong.append("results.nc: a member that ended lacks its last record")
    of_status = ", ".join(
        f"{int(np.sum(status == s))} {s.name.lower()}" for s in Status if np.any(status == s)
    )
    state = "complete" if complete else "unfinished"
    report.found.append(f"results.nc: {state}; members: {of_status}")
    for line in results.diverged(dataset):
        report.found.append(f"results.nc: {line}")


def _made_at_end(dataset: xr.Dataset, made: np.ndarray) -> np.ndarray:
    """Whether each member has the record at the first point of time at or after its end, up to the
    rounding of its steps. `made` is (S, ..., T)."""
    clock = results.clock_of(dataset)
    time = dataset[clock].values
    ended_at = dataset["ended_at"].transpose(
        *dataset["step"].transpose("seed", ..., clock).dims[:-1]
    )
    last = np.searchsorted(time, ended_at.values - 1e-6 * time[-1]).clip(max=len(time) - 1)
    return np.take_along_axis(made, last[..., None], axis=-1)[..., 0]


def _checkpoints(
    workdir: pathlib.Path, config: Mapping[str, Any], dataset: xr.Dataset | None, report: Report
) -> tuple[int, Mapping[str, Any], int]:
    """Every checkpoint. Step, history and length of metrics.jsonl of the newest whole one."""
    newest, whole = NONE_WHOLE, []
    steps = checkpoint.stored_steps(workdir) if (workdir / "checkpoints").exists() else []
    if not steps:
        # A run writes them first.
        is_lost = not config.get("merged") and (
            dataset is not None or _had_results(workdir, config)
        )
        told = "lost, although there are results" if is_lost else "none yet"
        (report.wrong if is_lost else report.found).append(f"checkpoints: {told}")
        return newest
    with checkpoint.reading(workdir) as checkpoints:
        for step in steps:
            try:
                tree, meta = checkpoints.restore(step)
                found = step, dict(tree["history"]), int(meta["metrics_bytes"])
                told = spec.difference(config["what"], meta["what"])
            except Exception as error:
                if (checkpoints.directory / str(step)).exists():  # else a live run has removed it
                    reason = (
                        error if isinstance(error, OSError | ValueError) else in_one_line(error)
                    )
                    report.wrong.append(f"checkpoint of step {step}: {reason}")
                continue
            if told:
                report.wrong.append(f"checkpoint of step {step}: is of another config: {told}")
            if "members" in meta:  # the first versions told neither
                told = _other_shard(meta["shard"], config)
                if not told and dataset is not None:
                    told = _other_members(meta["members"], dataset)
                if told:
                    report.wrong.append(f"checkpoint of step {step}: {told}")
            if meta.get("format") != experiment.FORMAT:
                told = "is of another version of lr_order_jax, which alone continues it"
                report.found.append(f"checkpoint of step {step}: {told}")
            newest = found
            whole.append(step)
    if whole:
        report.found.append(f"checkpoints: steps {', '.join(map(str, whole))}, checksums compared")
    return newest


def _other_members(members: Mapping[str, Any], dataset: xr.Dataset) -> str:
    """How the members of a checkpoint differ from those of the results; "" if they do not."""
    there = {name: dataset[name].values.tolist() for name in members if name in dataset.coords}
    told = spec.difference(members, there)
    return f"is of other members than results.nc: {told}" if told else ""


def _records(
    dataset: xr.Dataset,
    of_checkpoint: str,
    history: Mapping[str, Any],
    report: Report,
    again: str = "; the same command computes that again",
) -> None:
    """The records of the newest whole checkpoint, or of a study's programs, against results.nc,
    which is written after it."""
    for name, records in history.items():
        if name not in dataset:
            report.wrong.append(f"results.nc: lacks {name}, which {of_checkpoint} has")
            return
        if dataset[name].size != records.size:
            report.wrong.append(f"results.nc: its {name} has another shape than {of_checkpoint}")
            return
    if not history:
        return
    made = np.isfinite(history["step"])  # (S, H, points of time)
    ours_made = np.isfinite(dataset["step"].values.reshape(made.shape))
    goes_beyond = bool(np.any(ours_made & ~made))  # these records have been made again
    for name, records in history.items():
        ours = dataset[name].values.reshape(records.shape)
        both = made & ours_made
        if not _are_equal(ours[both], records[both], _slack(ours, goes_beyond)):
            report.wrong.append(f"results.nc: its {name} differs from that of {of_checkpoint}")
    if np.any(made & ~ours_made):
        told = f"results.nc: is older than {of_checkpoint}; the same command writes it again"
        (report.wrong if dataset.attrs["complete"] else report.found).append(told)
    if goes_beyond:
        report.found.append(f"results.nc: goes beyond {of_checkpoint}{again}")


def _slack(values: np.ndarray, made_again: bool) -> float:
    """By how much records may differ from these."""
    return (
        MADE_AGAIN
        * float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0))
        * made_again
    )


def _are_equal(ours: np.ndarray, theirs: Any, slack: float) -> bool:
    return np.allclose(ours, theirs, rtol=0, atol=slack, equal_nan=True)


def _metrics(
    path: pathlib.Path,
    dataset: xr.Dataset | None,
    metrics_bytes: int,
    history: Mapping[str, Any],
    report: Report,
) -> None:
    """Each line of metrics.jsonl against results.nc, if there are any."""
    again = "; the same command writes it again" if metrics_bytes else ""
    if not path.exists():
        report.wrong.append(f"metrics.jsonl: is missing{again}")
        return
    content = path.read_bytes()
    if len(content) < metrics_bytes:
        report.wrong.append(
            f"metrics.jsonl: has {len(content)} bytes, the newest checkpoint knows of "
            f"{metrics_bytes}{again}"
        )
    if dataset is None:
        return
    whole = content
    if not dataset.attrs["complete"]:  # else nothing is being written
        whole = content[: max(metrics_bytes, content.rfind(b"\n") + 1)]
    known = np.isfinite(history["step"]) if history else None
    wrong = list(wrong_lines(whole.decode(errors="replace"), dataset, known))
    for line in results.first_of(wrong, MOST_TOLD, "lines are wrong"):
        report.wrong.append(f"metrics.jsonl: {line}")
    lines = content.count(b"\n")
    report.found.append(f"metrics.jsonl: {lines} records, compared with results.nc")


def wrong_lines(text: str, dataset: xr.Dataset, known: np.ndarray | None = None) -> Iterator[str]:
    """What is wrong with the lines of a metrics.jsonl, beside its results.

    Args:
      known: (S, H, points of time), which records must be there: those of the newest whole
        checkpoint, to which a run that resumes cuts the lines; None: all of the results.
    """
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
    made = np.isfinite(arrays["step"])
    if known is None or known.size != made.size:
        known = made
    known = made & known.reshape(made.shape)
    slack = {name: _slack(arrays[name], not np.array_equal(known, made)) for name in of_points}
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
            if dataset.attrs["complete"]:  # else results.nc is written less often
                yield f"line {number} is of no record of results.nc"
            continue
        for name, value in sorted(values.items()):
            ours = arrays[name][index]
            if not _are_equal(ours, value, slack[name]):
                yield f"line {number} has {name} = {value}, results.nc {ours}"
    if missing := {tuple(map(int, index)) for index in np.argwhere(known)} - seen:
        yield f"{len(missing)} records of results.nc along {clock} are not in it"
