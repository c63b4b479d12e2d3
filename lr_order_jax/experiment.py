"""The host loop: restore -> chunk -> measure -> record -> checkpoint -> finish.

All members advance by a shared step counter, in *chunks*. A chunk ends at the next *event*: the
first step at which a running member is due at a point of the time grid or ends a phase. Rates
differ, so members are due at different steps; only those are evaluated. Between events a chunk may
be cut anywhere (to report, to save, to stop on a signal): the numbers do not depend on it. What
could (dropping ended members from the grid) happens at events alone, and the next event's step is
part of the checkpoint.

Time is counted on the host from integer step counts and float64 rates: sums of float32 rates drift.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lr_order_jax import __version__, algorithm, figures, results, spec, sweep
from lr_order_jax.algorithm import NEVER, Status, TrainState
from lr_order_jax.checkpoint import Checkpoints, NoCheckpoint
from lr_order_jax.fields import ConfigError
from lr_order_jax.progress import Progress, say

CHUNK_SECONDS = 1.0  # a chunk is cut to about this, so that a signal is answered soon
FIRST_CHUNK = 8  # steps, before the speed is known
DROP_SHARE = 0.75  # ended columns are dropped once at most this share of them is left


class Interrupted(Exception):
    """A signal ended the run early; everything is saved."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class _Signals:
    """Remembers SIGINT or SIGTERM, so that the loop can end between chunks. A second one kills."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def _remember(self, signum, frame) -> None:
        self.received = signum
        signal.signal(signum, signal.SIG_DFL)
        say(f"{signal.Signals(signum).name}: finishing the chunk and saving")

    def __exit__(self, *unused) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


def default_workdir(config_name: str, run_spec: spec.Spec) -> pathlib.Path:
    """runs/<config>-<hash of what is computed>."""
    return pathlib.Path("runs") / f"{config_name}-{spec.digest(run_spec)}"


@contextlib.contextmanager
def _held(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the directory and holds it against other live runs (the lock dies with the process)."""
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir}: is not a directory")
    ours = (".lock", "config.json")
    if workdir.is_dir() and not any((workdir / name).exists() for name in ours):
        if any(workdir.iterdir()):
            raise ConfigError(f"--workdir={workdir}: holds other files, give an empty or new one")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "w")
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--workdir={workdir}: is in use by a live run") from None
        yield


def _check_config(workdir: pathlib.Path, run_spec: spec.Spec) -> None:
    """Refuses a directory in which something else was computed."""
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text())["what"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: is not a readable config.json; move it or the run away") from None
    told = spec.difference(stored, run_spec.what)
    if told:
        raise ConfigError(f"--workdir={workdir}: holds a run of another config: {told}")


def _describe(run_spec: spec.Spec) -> dict[str, Any]:
    """What `config.json` holds."""
    device = jax.devices()[0]
    return {
        "what": run_spec.what,
        "how": dataclasses.asdict(run_spec.how),
        "command": sys.argv,
        "versions": {
            "lr_order_jax": __version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
        },
        "device": {"platform": device.platform, "kind": device.device_kind},
    }


class _Run:
    """The moving parts of one run on the host. S seeds, H columns, T points of the time grid."""

    def __init__(self, run_spec: spec.Spec, workdir: pathlib.Path, checkpoints: Checkpoints):
        self.spec, self.workdir, self.checkpoints = run_spec, workdir, checkpoints
        self.problem, how = run_spec.problem, run_spec.how
        self.grid = sweep.make_grid(self.problem, run_spec.seeds, run_spec.common.zipped)
        self.time = np.linspace(0.0, self.problem.horizon(), run_spec.common.num_records + 1)
        self.time_per_step = self.problem.time_per_step(self.grid.hypers)
        self.advance = sweep.make_advance(self.problem, how.driving, how.mapping)
        self.measure = sweep.make_measure(self.problem)
        names = [*self.problem.variables, *results.HOST_VARIABLES]
        shape = self.grid.shape
        self.history = results.blank_history(names, (*shape, len(self.time)))
        self.next_record = np.zeros(shape, np.int64)  # first point of the grid not yet recorded
        self.step = self.target = 0  # present step, step of the next event
        self.metrics_bytes = 0  # length of metrics.jsonl that belongs to this state
        self.columns = list(range(shape[1]))  # columns that are on the device
        self.state: TrainState = sweep.init_state(self.problem, self.grid)
        self.kept = jax.tree.map(np.array, self.state)  # host copy of all columns, as last fetched

    # The state, and what it says.

    def fetch_counters(self) -> None:
        """Brings phases, counts and statuses of the running columns to the host."""
        for name in ("phase", "phase_counts", "status"):
            getattr(self.kept, name)[:, self.columns] = np.asarray(getattr(self.state, name))

    def fetch_all(self) -> None:
        """Brings the whole state of the running columns to the host."""

        def fetch(kept, leaf):
            kept[:, self.columns] = np.asarray(leaf)

        jax.tree.map(fetch, self.kept, self.state)

    def put_columns(self, columns: Sequence[int]) -> None:
        """Puts these columns, and no others, on the device."""
        self.columns = list(columns)
        self.state = jax.device_put(sweep.take_columns(self.kept, self.columns))
        hypers = sweep.take_columns(self.grid.hypers, self.columns)
        self.hypers = algorithm.on_device(hypers)

    @property
    def running(self) -> np.ndarray:
        return self.kept.status == Status.RUNNING

    def member_time(self) -> np.ndarray:
        """Time of each member, (S, H) float64."""
        return np.sum(self.time_per_step * self.kept.phase_counts, axis=-1)

    def at_phase(self, values: np.ndarray) -> np.ndarray:
        """(S, H, K) -> (S, H): the values of each member's present phase."""
        return np.take_along_axis(values, self.kept.phase[..., None], axis=-1)[..., 0]

    def steps_to_event(self) -> int:
        """Steps until a running member is due at the time grid or ends a phase, at least 1."""
        pace = self.at_phase(self.time_per_step)
        point = self.time[np.minimum(self.next_record, len(self.time) - 1)]
        to_record = np.ceil((point - self.member_time()) / pace - 1e-6)
        to_record = np.where(self.next_record < len(self.time), to_record, NEVER)
        in_phase = self.at_phase(self.kept.phase_counts)
        to_phase_end = self.at_phase(self.grid.hypers.phase_steps) - in_phase
        return max(1, int(np.min(np.minimum(to_record, to_phase_end)[self.running])))

    # Recording.

    def record(self) -> None:
        """Evaluates the members that are due and writes their points of the time grid.

        A member that ended is recorded once more, at the first point at or after its end; one that
        diverged is not.
        """
        ended = ~self.running
        reached = self.member_time() + 1e-6 * self.at_phase(self.time_per_step)
        passed = np.searchsorted(self.time, reached, side="right")  # points at or before now
        upto = np.where(ended, np.minimum(passed + 1, len(self.time)), passed)
        exactly = (passed > 0) & (np.abs(self.time[np.maximum(passed, 1) - 1] - reached) < 1e-5)
        upto = np.where(ended & exactly, passed, upto)
        open_ = self.next_record < len(self.time)
        diverged = self.kept.status == Status.DIVERGED
        due = open_ & ~diverged & (self.next_record < upto)
        if due.any():
            values = self.measure(self.grid.data, self.state, due[:, self.columns])
            rates = self.at_phase(self.grid.hypers.rates)
            steps = self.kept.phase_counts.sum(axis=-1)
            self._write_points(due, upto, values, rates, steps)
        self.next_record = np.where(due, upto, self.next_record)
        self.next_record = np.where(ended, len(self.time), self.next_record)

    def _write_points(self, due, upto, values, rates, steps) -> None:
        lines = []
        for s, h in np.argwhere(due):
            column = self.columns.index(h)
            point = {name: float(v[s, column]) for name, v in values.items()}
            point |= {"learning_rate": float(rates[s, h]), "step": float(steps[s, h])}
            where = slice(self.next_record[s, h], upto[s, h])
            for name, value in point.items():
                self.history[name][s, h, where] = value
            labels = {axis.name: self.grid.members[h][axis.name] for axis in self.grid.axes}
            for t in self.time[where]:
                head = {"seed": self.grid.seeds[s], **labels, self.problem.clock: float(t)}
                clean = {k: v if np.isfinite(v) else None for k, v in point.items()}
                lines.append(json.dumps(head | clean | {"step": int(steps[s, h])}))
        with open(self.workdir / "metrics.jsonl", "a") as file:
            file.writelines(line + "\n" for line in lines)
            self.metrics_bytes = file.tell()

    def drop_ended(self) -> None:
        """Takes columns whose members have all ended off the device, where that saves enough.

        Each drop compiles the program for a new shape, so they are dropped a quarter at a time.
        """
        alive = [h for h in self.columns if self.running[:, h].any()]
        if alive and len(alive) <= DROP_SHARE * len(self.columns):
            self.fetch_all()
            self.put_columns(alive)

    # Files.

    def dataset(self):
        ended = ~self.running
        first_rate = self.grid.hypers.rates[..., 0]
        annealed = (self.kept.phase > 0) & (self.grid.hypers.phase_steps[..., 0] > 0)
        first_phase = self.time_per_step[..., 0] * self.kept.phase_counts[..., 0]
        assert first_rate.shape == first_phase.shape
        return results.make_dataset(
            what=self.spec.what,
            clock=self.problem.clock,
            variables=self.problem.variables,
            axes=self.grid.axes,
            seeds=self.grid.seeds,
            time=self.time,
            history=self.history,
            status=self.kept.status,
            member_times={
                "annealed_at": np.where(annealed, first_phase, np.nan),
                "ended_at": np.where(ended, self.member_time(), np.nan),
            },
        )

    def save(self) -> None:
        """Checkpoint first, then results: what a reader sees can be continued."""
        self.fetch_all()
        metrics = self.workdir / "metrics.jsonl"
        if metrics.exists():
            with open(metrics, "rb+") as file:
                os.fsync(file.fileno())
        tree = {
            **self.kept._asdict(),
            "history": self.history,
            "next_record": self.next_record,
        }
        meta = {
            "format": 1,
            "step": self.step,
            "target": self.target,
            "columns": self.columns,
            "metrics_bytes": self.metrics_bytes,
            "what": spec.digest(self.spec),
        }
        self.checkpoints.save(self.step, tree, meta)
        results.write_results(self.dataset(), self.workdir / "results.nc")

    def restore(self) -> bool:
        """Continues from the newest whole checkpoint; False if there is none."""
        try:
            tree, meta = self.checkpoints.restore_latest(say)
        except NoCheckpoint:
            return False
        blank = {**self.kept._asdict(), "history": self.history, "next_record": self.next_record}
        shapes = [jax.tree.map(lambda a: (a.shape, str(a.dtype)), t) for t in (blank, tree)]
        if meta.get("format") != 1 or shapes[0] != shapes[1]:
            raise ConfigError(
                f"{self.checkpoints.directory}: its checkpoints are of another version of "
                "lr_order_jax; give a new --workdir"
            )
        self.kept = TrainState(**{name: tree[name] for name in TrainState._fields})
        self.history, self.next_record = tree["history"], tree["next_record"]
        self.step, self.target = meta["step"], meta["target"]
        self.metrics_bytes = meta["metrics_bytes"]
        self.columns = meta["columns"]
        return True

    def truncate_metrics(self) -> None:
        """Cuts metrics.jsonl back to the lines that belong to the present state."""
        path = self.workdir / "metrics.jsonl"
        path.touch()
        os.truncate(path, self.metrics_bytes)

    # The loop.

    def member_steps(self) -> tuple[int, int]:
        """Member-steps taken, and taken and at most to come."""
        counts, most = self.kept.phase_counts, self.grid.hypers.phase_steps
        taken = int(counts.sum())
        future = np.arange(counts.shape[-1]) >= self.kept.phase[..., None]
        left = np.where(future & self.running[..., None], most - counts, 0)
        return taken, taken + int(np.maximum(left, 0).sum())

    def loop(self, signals: _Signals) -> None:
        """Runs until every member has ended.

        Raises:
          Interrupted: after a signal, with everything saved.
        """
        taken, total = self.member_steps()
        bar = Progress(total, taken)
        saved_at, speed, compiled = time.monotonic(), 0.0, None
        try:
            while self.running.any():
                if self.step == self.target:
                    self.record()
                    self.drop_ended()
                    self.target = self.step + self.steps_to_event()
                if compiled != len(self.columns):  # the first call for a shape compiles
                    self.state, _ = self._advance(0)
                    compiled = len(self.columns)
                most = max(FIRST_CHUNK, int(speed * CHUNK_SECONDS))
                count = min(self.target - self.step, most)
                start = time.perf_counter()
                self.state, _ = self._advance(count)
                self.fetch_counters()
                speed = count / (time.perf_counter() - start)
                self.step += count
                taken, _ = self.member_steps()
                alive = int(self.running.sum())
                if alive:
                    now = float(self.member_time()[self.running].min())
                    bar.update(taken, self.problem.clock, now, alive, self.step, speed)
                if signals.received is not None:
                    self.save()
                    raise Interrupted(signals.received)
                if time.monotonic() - saved_at >= self.spec.how.checkpoint_every:
                    self.save()
                    saved_at = time.monotonic()
            self.record()
        finally:
            bar.close()

    def _advance(self, count: int):
        return self.advance(
            self.grid.data, self.hypers, self.state, self.grid.keys, self.step, count
        )

    def compile(self) -> float:
        """Compiles the training step for the columns at hand; the seconds it took."""
        start = time.perf_counter()
        self.state, _ = self._advance(0)
        jax.block_until_ready(self.state)
        return time.perf_counter() - start


def run(run_spec: spec.Spec, workdir: pathlib.Path):
    """Runs or continues an experiment in a directory and writes all its files.

    Returns:
      The results (an xarray Dataset).

    Raises:
      ConfigError: if the directory cannot serve; nothing in it is changed.
      Interrupted: after SIGINT or SIGTERM, with everything saved.
    """
    with _Signals() as signals, _held(workdir):
        _check_config(workdir, run_spec)
        # Everything that can be refused is built before the first file is written.
        checkpoints = Checkpoints(workdir / "checkpoints")
        try:
            this = _Run(run_spec, workdir, checkpoints)
            resumed = this.restore()
            results.write_json(_describe(run_spec), workdir / "config.json")
            this.truncate_metrics()
            this.put_columns(this.columns)
            _announce(this, resumed)
            if this.running.any():
                this.loop(signals)
            this.save()
        finally:
            checkpoints.close()
        dataset = this.dataset()
        results.write_results(dataset, workdir / "results.nc")
        figures.draw(dataset, this.problem.figures, workdir / "figures")
        return dataset


def _announce(this: _Run, resumed: bool) -> None:
    seeds, columns = this.grid.shape
    sizes = [f"{seeds} seeds", *(f"{len(axis)} {axis.name}" for axis in this.grid.axes)]
    say(f"{seeds * columns} members ({' x '.join(sizes)}) in {this.workdir}")
    if not this.running.any():
        say("all members have ended: nothing left to run")
        return
    if resumed:
        say(f"continuing at step {this.step}, {int(this.running.sum())} members alive")
    say(f"compiled in {this.compile():.1f} s on {jax.devices()[0].device_kind}")
