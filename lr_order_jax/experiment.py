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
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import signal
import time
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lr_order_jax import (
    directory,
    figures,
    files,
    memory,
    parts,
    placement,
    processes,
    results,
    spec,
    sweep,
)
from lr_order_jax.algorithm import NEVER, Status, TrainState, cause_of
from lr_order_jax.checkpoint import (
    Checkpoints,
    NoCheckpoint,
    by_path,
    digests,
    reading,
    stored_steps,
)
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import HasTheory
from lr_order_jax.progress import Progress, say

CHUNK_SECONDS = 1.0  # a chunk is cut to about this, so that a signal is answered soon
DROP_SHARE = 0.75  # ended columns are dropped once at most this share of them is left
PROFILED_STEPS = 20  # at most: a trace has an event for each operation
FORMAT = 2  # of the state in checkpoints: to be raised where it changes and its shapes may not
SLACK = 1e-6  # steps: a point of the time grid is reached although rounding says "almost"


class Interrupted(Exception):
    """A signal ended the run early; everything is saved."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Signals:
    """Remembers SIGINT, SIGTERM or SIGHUP, so that the loop can end between chunks. A second one
    kills. A SIGHUP that is ignored, as under nohup, stays so."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def _remember(self, signum, frame) -> None:
        self.received = signum
        signal.signal(signum, signal.SIG_DFL)
        say(f"{signal.Signals(signum).name}: stopping after this chunk, with all of it saved")

    def check(self) -> None:
        """Raises Interrupted if a signal has come to any process. Waits for the others."""
        if signum := int(processes.gathered(self.received or 0).max()):
            raise Interrupted(signum)

    def __exit__(self, *unused) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


class _Run:
    """The moving parts of one run on the host. S seeds, H columns, T points of the time grid.

    After each chunk that ends at an event the due points are recorded, so that every saved state
    holds all records up to its step.
    """

    def __init__(self, run_spec: spec.Spec, workdir: pathlib.Path):
        self.spec, self.workdir = run_spec, workdir
        self.problem = run_spec.problem
        shard = run_spec.how.shard
        self.grid = sweep.make_grid(self.problem, run_spec.seeds, run_spec.common.zipped, shard)
        self.time = np.linspace(0.0, self.problem.horizon(), run_spec.num_records + 1)
        self.time_per_step = self.problem.time_per_step(self.grid.hypers)
        self.part = parts.part_of(self.grid.shape, jax.process_count(), jax.process_index())
        ours = self.part.of_grid(self.grid)
        self.members = placement.place_members(
            self.problem, ours, *run_spec.ways, run_spec.how.devices
        )
        self.seed_variables, self.seed_values = self.theory_of_seeds()
        by_phase = {
            "learning_rate": self.grid.hypers.rates,
            "activation_noise": self.grid.hypers.activation_noise,
        }
        self.by_phase = {name: leaf for name, leaf in by_phase.items() if leaf is not None}
        told = {n: v for n, v in results.HOST_VARIABLES.items() if n in (*self.by_phase, "step")}
        self.variables = {**self.problem.variables, **told}
        shape = self.grid.shape
        numbers = sum(math.prod(variable.shape) for variable in self.variables.values())
        size = np.dtype(np.float64).itemsize * numbers * len(self.time) * math.prod(shape)
        memory.refuse_beyond(memory.free_on_host(), size, "the records of all members")
        self.history = results.blank_history(self.variables, (*shape, len(self.time)))
        self.next_record = np.zeros(shape, np.int64)  # first point of the grid not yet recorded
        self.step = self.target = 0  # present step, step of the next event; of the present group
        self.steps_before = 0  # steps and starts of the groups that have ended
        self.waiting: list[int] = []  # columns of the groups to come
        self.at_once: int | None = None  # columns that fit so far; None: not asked yet, or set
        self.kept_at: list[float] = []  # times that were to be kept when the checkpoint was written
        self.records_before = 0  # of the results that are there, until as many are written
        self.metrics_bytes = 0  # length of metrics.jsonl that belongs to this state
        self.metrics_digest: str | None = None  # of that, as the newest checkpoint has it
        self.kept: Any = sweep.init_state(self.problem, ours)  # of our part, as last fetched
        if not memory.devices_share_the_host():  # see `free_memory`
            to_come = self.host_bytes - memory.size_of(self.kept)
            what = "the copies of the members' state that are made to write it"
            memory.refuse_beyond(memory.free_on_host(), to_come, what)
        # Of all members, see `share_places`.
        self.phase = self.phase_counts = self.status = np.zeros(0, np.int32)
        self.columns: list[int] = []  # those on the devices

    @property
    def devices(self) -> int:
        """How many there are for the members, of all processes."""
        return self.part.count * len(jax.local_devices()[: self.spec.how.devices])

    # Of several processes each holds its part of the members; all know where all of them are.

    @property
    def columns_here(self) -> list[int]:
        """Those on the devices of this process, counted within its part."""
        return self.part.columns_in_part(self.columns)

    def share_places(self) -> None:
        """Tells all processes in which phases members are, and whether they have ended. Waits for
        the others."""
        phase, counts, status = self.kept.phase, self.kept.phase_counts, self.kept.status
        places = self.part.gather(
            np.concatenate([phase[..., None], status[..., None], counts], axis=-1)
        )
        self.phase, self.status, self.phase_counts = places[..., 0], places[..., 1], places[..., 2:]

    # What is known before the first step.

    def data_by_seed(self) -> list[Any]:
        return [sweep.data_of_seed(self.grid.data, s) for s in range(len(self.grid.seeds))]

    def theory_of_seeds(self):
        """Variables and values of each seed's data, (S,)."""
        if not isinstance(self.problem, HasTheory):
            return {}, {}
        rows = [self.problem.seed_values(of_seed) for of_seed in self.data_by_seed()]
        names = self.problem.seed_variables
        return names, {name: np.array([row[name] for row in rows]) for name in names}

    def audit(self) -> list[dict[str, Any]]:
        """Which assumptions of the theory hold, told and as plain data."""
        if not isinstance(self.problem, HasTheory):
            return []
        data, members = self.data_by_seed(), self.grid.members
        found, lines = self.problem.audit((v, d) for d in data for v in members)
        for line in lines:
            say(line)
        return found

    @functools.cached_property
    def digests_of_data(self) -> dict[str, str]:
        """Of what all seeds share: what was read, not drawn."""
        return digests({"shared": self.grid.data.shared})

    # Groups: columns that are on the devices at once. Each starts at step 0.

    def columns_at_once(self, waiting: Sequence[int]) -> int:
        """How many of the columns that wait are trained together: all, if they fit, but never more
        than before in this run: what is free then must not change its last digits."""
        if (asked := self.spec.how.group_size) is not None:
            return min(asked, len(waiting))
        free = self.free_memory()
        need = functools.cache(lambda count: self.memory_here(waiting[:count]))

        def fitting():
            count = memory.columns_that_fit(need, len(waiting), free)
            return count, need(count)

        counts, taken = processes.gathered(*processes.all_do(fitting)).T
        fit = int(counts.min())
        self.tell_memory(len(waiting), fit, int(taken.max()), free)
        self.at_once = min(self.at_once or fit, fit)
        return self.at_once

    def memory_here(self, columns: Sequence[int]) -> int:
        """Bytes that our part of these columns takes on a device, see `Stacked.memory`."""
        ours = self.part.columns_in_part(columns)
        return self.members.memory(self.kept, ours) if ours else 0

    @property
    def member_bytes(self) -> float:
        """Of a member's state."""
        return memory.size_of(self.kept) / self.kept.status.size

    @property
    def host_bytes(self) -> int:
        """What this process takes on its host for the state of its members, to write it."""
        return memory.HOST_COPIES * memory.size_of(self.kept)

    def free_memory(self) -> int | None:
        """Bytes that each process can give to its devices; None if one does not know."""
        free = memory.free_on_device()
        if memory.devices_share_the_host():  # as do the processes that run on it
            host = zlib.crc32(platform.node().encode())
            hosts, taken = processes.gathered(host, self.host_bytes).T
            if free is not None:
                is_here = hosts == host
                free = max(0, free - int(taken[is_here].sum())) // int(is_here.sum())
        least = processes.gathered(-1 if free is None else free).min()
        return None if least == -1 else int(least)

    def refuse_too_few_devices(self, meta: dict[str, Any]) -> None:
        """Refuses to go on with a checkpoint's columns, which started together on other devices,
        where these have no room for them: they cannot be parted, as all take the same steps."""
        before, columns = meta.get("devices", 0), meta["columns"]
        is_cut_anew = jax.process_count() != meta.get("processes", 1)
        if (self.devices >= before and not is_cut_anew) or not self.running.any():
            return
        free = self.free_memory()
        told = f"the members that {before} devices had at once, of this checkpoint"
        processes.all_do(lambda: memory.refuse_beyond(free, self.memory_here(columns), told))

    def start_group(self, waiting: Sequence[int]) -> None:
        """Puts the next columns that wait on the devices, at step 0. Groups are of even sizes.

        What the group before has become is fetched first. To start counts as a step, so that no two
        states have one number: the members of a group can end without a step.
        """
        if self.columns:
            self.fetch()
            self.step += 1
        groups = -(-len(waiting) // self.columns_at_once(waiting))
        size = -(-len(waiting) // groups)
        self.waiting = list(waiting[size:])
        self.steps_before, self.step, self.target = self.steps_before + self.step, 0, 0
        self.put_columns(waiting[:size])
        if groups > 1:
            say(f"{size} of {len(waiting)} columns of members at once, {groups} groups")

    def tell_memory(self, asked: int, fit: int, taken: int, free: int | None) -> None:
        """One line on what a member takes and what there is."""
        data, count = memory.size_of(self.grid.data), fit * len(self.grid.seeds)
        devices = min(self.devices, count)
        if memory.devices_share_the_host():
            devices = min(jax.process_count(), count)
        least = data + self.member_bytes * -(-count // devices)
        taken = max(taken, int(least))  # a step can take less data
        member = (taken - data) / -(-count // devices)
        several = f" on each of {devices}" if devices > 1 else ""
        text = f"memory: {memory.human(taken)}{several} for {count} members, "
        text += f"{memory.human(member)} a member and {memory.human(data)} of data"
        if free is not None:
            most = int(max(memory.SHARE * free - data, 0) / member) * devices
            text += (
                f"; {memory.human(free)} free, room for about {most} members of these seeds at once"
            )
        say(text)

    # The state, and what it says.

    def put_columns(self, columns: Sequence[int]) -> None:
        """Puts these columns, and no others, on the devices."""
        self.columns = list(columns)
        self.members.put(self.kept, self.columns_here)

    def fetch(self, names: Sequence[str] = TrainState._fields) -> None:
        """Brings these parts of the state of our columns on the devices to the host."""

        columns = self.columns_here

        def copy(kept, leaf):
            kept[:, columns] = leaf

        for name in names if columns else ():
            jax.tree.map(copy, getattr(self.kept, name), self.members.fetch(name))

    def take_steps(self, count: int) -> None:
        """Advances all members; 0 steps compile the programs."""
        self.members.advance(self.step, count)
        self.fetch(("phase", "phase_counts", "status"))
        self.share_places()
        self.step += count

    def take_profiled_steps(self, count: int) -> None:
        """Advances all members and writes a trace of it into DIR/profile."""
        folder = self.workdir / "profile"
        trace = jax.profiler.trace(str(folder))
        with trace if processes.is_first() else contextlib.nullcontext():
            self.take_steps(count)
        say(f"profile of {count} steps from step {self.step - count} in {folder}")

    @property
    def ended(self) -> np.ndarray:
        return self.status != Status.RUNNING

    @property
    def running(self) -> np.ndarray:
        """Members that have not ended and are on a device, of any process."""
        running = ~self.ended
        running[:, self.waiting] = False
        return running

    @property
    def steps_taken(self) -> np.ndarray:
        """Steps of each member, (S, H)."""
        return self.phase_counts.sum(axis=-1)

    def member_time(self) -> np.ndarray:
        """Time of each member, (S, H) float64."""
        return np.sum(self.time_per_step * self.phase_counts, axis=-1)

    def least_time(self) -> float:
        """Time of the running members that are furthest behind; the end of the grid if none is."""
        return float(np.min(self.member_time(), where=self.running, initial=self.time[-1]))

    def passes_kept_time(self, before: float, now: float) -> bool:
        """Whether a time of `keep_at` lies in (before, now], up to rounding."""
        slack = 1e-9 * self.time[-1]
        return any(before + slack < point <= now + slack for point in self.spec.how.keep_at)

    def at_phase(self, values: np.ndarray) -> np.ndarray:
        """(S, H, K) -> (S, H): the values of each member's present phase."""
        return np.take_along_axis(values, self.phase[..., None], axis=-1)[..., 0]

    def steps_of_schedule_left(self) -> np.ndarray:
        """(S, H): steps that a member's whole schedule still has, were it never ended early."""
        return np.maximum(self.grid.hypers.phase_steps.sum(axis=-1) - self.step, 0)

    def steps_to_event(self) -> int:
        """Steps until a running member is due at the time grid or ends a phase, at least 1.

        A diverged member keeps its scheduled end as an event, see `drop_ended`.
        """
        pace = self.at_phase(self.time_per_step)
        point = self.time[np.minimum(self.next_record, len(self.time) - 1)]
        to_record = np.ceil((point - self.member_time()) / pace - SLACK)
        to_record = np.where(self.next_record < len(self.time), to_record, NEVER)
        in_phase = self.at_phase(self.phase_counts)
        to_phase_end = self.at_phase(self.grid.hypers.phase_steps) - in_phase
        steps = np.where(self.running, np.minimum(to_record, to_phase_end), NEVER)
        schedule = self.steps_of_schedule_left()
        diverged = (self.status == Status.DIVERGED) & (schedule > 0)
        diverged[:, [h for h in range(diverged.shape[1]) if h not in self.columns]] = False
        return max(1, int(np.where(diverged, np.minimum(steps, schedule), steps).min()))

    def member_steps(self) -> tuple[int, int]:
        """Member-steps taken; these and those at most to come."""
        counts, most = self.phase_counts, self.grid.hypers.phase_steps
        future = np.arange(counts.shape[-1]) >= self.phase[..., None]
        left = np.where(future & ~self.ended[..., None], most - counts, 0)
        return int(counts.sum()), int(counts.sum() + left.sum())

    # Recording.

    def record(self) -> None:
        """Evaluates the members that are due and writes their points of the time grid.

        A running member is recorded at the points it has reached. One that ended is recorded for
        the last time at the first point at or after its end; one that diverged is not.
        """
        ended, now = self.ended, self.member_time()
        slack = SLACK * self.at_phase(self.time_per_step)
        reached = np.searchsorted(self.time, now + slack, side="right")
        first_after = np.searchsorted(self.time, now - slack, side="left") + 1
        upto = np.minimum(np.where(ended, first_after, reached), len(self.time))
        due = (self.next_record < upto) & (self.status != Status.DIVERGED)
        due[:, self.waiting] = False
        if due.any():
            self._write_points(due, upto)
        self.next_record = np.where(due, upto, self.next_record)
        self.next_record = np.where(ended, len(self.time), self.next_record)

    def measured(self, due: np.ndarray) -> dict[str, np.ndarray]:
        """{variable: (S, H, ...)} of the due members, each measured where it is."""
        values = placement.blank_values(self.problem, self.kept.status.shape)
        due_here = due[self.part.rows, self.part.columns][:, self.columns_here]
        if due_here.any():
            for name, found in self.members.measure(due_here).items():
                values[name][:, self.columns_here] = found
        return {name: self.part.gather(found) for name, found in values.items()}

    def _write_points(self, due: np.ndarray, upto: np.ndarray) -> None:
        """Points [next_record, upto) of the due members, into the history and metrics.jsonl.

        A member whose training loss is not finite by now has diverged: its point is not written.
        """
        values = self.measured(due)
        of_host = {name: self.at_phase(leaf) for name, leaf in self.by_phase.items()}
        of_host["step"] = self.steps_taken
        lines = []
        for s, h in np.argwhere(due):
            point = {name: v[s, h] for name, v in values.items()}
            if not np.isfinite(point["train_loss"]):
                self.mark_diverged(s, h)
                continue
            point |= {name: value[s, h] for name, value in of_host.items()}
            points = range(self.next_record[s, h], upto[s, h])
            for name, value in point.items():
                self.history[name][s, h, points] = value
            lines += [self.metrics_line(s, h, t) for t in points]

        def append():
            with open(self.workdir / "metrics.jsonl", "a") as file:
                file.writelines(lines)
                self.metrics_bytes = file.tell()

        processes.first_does(append)

    def metrics_line(self, s: int, h: int, t: int) -> str:
        """The line of metrics.jsonl of one member at one point of time: what is one number."""
        line: dict[str, Any] = {"seed": self.grid.seeds[s]}
        if "dataset" in self.spec.what:
            line["dataset"] = self.spec.what["dataset"]
        line |= {f: self.grid.members[h][f] for axis in self.grid.axes for f in axis.values}
        line[self.problem.clock] = float(self.time[t])
        numbers = [name for name, variable in self.variables.items() if not variable.over]
        point = {name: float(self.history[name][s, h, t]) for name in numbers}
        line |= {name: v if np.isfinite(v) else None for name, v in point.items()}
        return json.dumps(line | {"step": int(point["step"])}) + "\n"

    def mark_diverged(self, s: int, h: int) -> None:
        """Ends a member, on its device and on the host. All processes have to do so."""
        self.fetch()
        diverged = np.zeros(self.grid.shape, bool)
        diverged[s, h] = True
        self.kept.status[diverged[self.part.rows, self.part.columns]] = Status.DIVERGED
        self.share_places()
        self.put_columns(self.columns)

    def drop_ended(self) -> None:
        """Takes columns whose members have all ended off the device, where that saves enough.

        Each drop compiles the program for a new shape, so a column here and there is kept. The
        last digits of a member can depend on the number of columns, so a diverged member keeps its
        place to the end of its schedule: the others must not change by a bit because of it (where
        ends are scheduled; members that end by their loss can still move a drop by an event).
        """
        diverged = self.status == Status.DIVERGED
        holds = self.running | (diverged & (self.steps_of_schedule_left() > 0))
        alive = [h for h in self.columns if holds[:, h].any()]
        if self.running.any() and len(alive) <= DROP_SHARE * len(self.columns):
            self.fetch()
            self.put_columns(alive)
            self.take_steps(0)  # compiles, outside the timing of a chunk

    # Files.

    def causes(self) -> np.ndarray:
        """(S, H): why members diverged, by the state as last fetched."""
        causes = np.zeros(self.kept.status.shape, np.int32)
        for s, h in np.argwhere(self.kept.status == Status.DIVERGED):
            causes[s, h] = cause_of([leaf[s, h] for leaf in jax.tree.leaves(self.kept.params)])
        return self.part.gather(causes)

    def dataset(self):
        first = np.argmax(self.grid.hypers.phase_steps > 0, axis=-1)  # phase of the initial rate
        annealed = self.phase > first
        spent = self.time_per_step * self.phase_counts
        in_first_phase = np.take_along_axis(spent, first[..., None], axis=-1)[..., 0]
        return results.make_dataset(
            what=self.spec.what,
            shard=self.spec.how.shard,
            clock=self.problem.clock,
            variables=self.variables,
            axes=self.grid.axes,
            seeds=self.grid.seeds,
            time=self.time,
            history=self.history,
            status=self.status,
            cause=self.causes(),
            steps=self.steps_taken,
            member_times={
                "annealed_at": np.where(annealed, in_first_phase, np.nan),
                "ended_at": np.where(self.ended, self.member_time(), np.nan),
            },
            seed_variables=self.seed_variables,
            seed_values=self.seed_values,
        )

    def save(self, checkpoints: Checkpoints, for_good: bool = False):
        """Checkpoint first, then results: what a reader sees can be continued. All processes write
        the checkpoint, each its part of the state; the first one writes the results.

        Args:
          for_good: the checkpoint is never deleted.

        Returns:
          The results as written.
        """
        self.fetch()
        processes.first_does(self._sync_metrics)
        meta = self.checkpoint_meta()
        tree, part = self.tree(), None
        if processes.are_several():
            tree |= jax.tree.map(self.part.as_block, self.kept._asdict())
            part = self.part
        checkpoints.save(meta["step"], tree, meta, for_good, part)
        dataset = self.dataset()
        processes.first_does(lambda: self._write_results(dataset))
        return dataset

    def _write_results(self, dataset) -> None:
        """Unless those that are there go further: then a newer checkpoint was damaged, and they
        are what is left of it until this run has come as far."""
        if self.ended.all() or results.count_records(dataset) >= self.records_before:
            results.write_results(dataset, self.workdir / "results.nc")
            self.records_before = 0

    def take_up_results(self) -> None:
        """Counts the records of the results that are there; writes them if a run was killed between
        its checkpoint and them, or lost them. Waits for the others."""

        def count():
            stored = directory.results_of(self.workdir, self.spec)
            self.records_before = results.count_records(stored)

        path = self.workdir / "results.nc"
        if processes.json_of_first(path.exists()):
            processes.first_does(count)
        else:
            dataset = self.dataset()
            processes.first_does(lambda: results.write_results(dataset, path))

    def _sync_metrics(self) -> None:
        with open(self.workdir / "metrics.jsonl", "rb+") as file:
            os.fsync(file.fileno())
        self.metrics_digest = self._digest_of_metrics()

    def checkpoint_meta(self) -> dict[str, Any]:
        """What stands in a checkpoint beside the arrays; that of the first process is written."""
        return {
            "format": FORMAT,
            "step": self.steps_before + self.step,
            "steps_before": self.steps_before,
            "waiting": self.waiting,
            "at_once": self.at_once,
            "keep_at": list(self.spec.how.keep_at),
            "time": self.least_time(),
            "target": self.target,
            "columns": self.columns,
            "metrics_bytes": self.metrics_bytes,
            "metrics_digest": self.metrics_digest,
            "data": self.digests_of_data,
            "what": dict(self.spec.what),
            "shard": self.spec.how.shard,
            "devices": self.devices,
            "processes": jax.process_count(),
            "members": self.names_of_members(),
        }

    def names_of_members(self) -> dict[str, list[Any]]:
        """Seeds, and values of the fields of each axis: whose numbers a checkpoint holds."""
        of_axes = {f: list(v) for axis in self.grid.axes for f, v in axis.values.items()}
        return {"seed": list(self.grid.seeds), **of_axes}

    def tree(self) -> dict[str, Any]:
        """What is stored; the state is that of our part."""
        host = {"history": self.history, "next_record": self.next_record}
        return {**self.kept._asdict(), **host}

    def take_tree(self, tree: dict[str, Any]) -> None:
        """Takes up what was stored, of the state our part."""
        stored = by_path(tree)
        for path, leaf in by_path(self.tree()).items():
            leaf[...] = stored[path]

    def restore(self) -> list[int] | None:
        """Continues from the newest whole checkpoint, which the first process finds. Waits for the
        others.

        Returns:
          Steps of the checkpoints that are kept for good; None if there is no checkpoint.
        """
        found = processes.first_does(self._read_newest)
        meta = processes.json_of_first(found and found[1])
        if meta is None:
            return None

        def read():  # by all at once, each alone
            if found:
                return found
            try:
                with reading(self.workdir) as checkpoints:
                    return checkpoints.restore(meta["step"], self.keep_ours)
            except (NoCheckpoint, ValueError) as error:
                told = f"{self.workdir}: process {jax.process_index()} cannot read step"
                raise ConfigError(
                    f"{told} {meta['step']}, which process 0 has read: {error}"
                ) from None

        tree, _ = processes.all_do(read)
        self.take_tree(tree)
        self.share_places()
        self.waiting, self.steps_before = meta.get("waiting", []), meta.get("steps_before", 0)
        self.at_once, self.kept_at = meta.get("at_once"), meta.get("keep_at", [])
        self.step, self.target = meta["step"] - self.steps_before, meta["target"]
        self.metrics_bytes = meta["metrics_bytes"]
        self.metrics_digest = meta.get("metrics_digest")
        self.refuse_too_few_devices(meta)
        self.put_columns(meta["columns"])
        return meta.get("kept", [])

    def keep_ours(self, path: str, leaf: np.ndarray) -> np.ndarray:
        """Of a stored leaf of the state, (S, H, ...), our part; any other leaf as it is."""
        is_state = path.partition("/")[0] in TrainState._fields
        if not is_state or leaf.shape[:2] != self.grid.shape:  # of other members: is refused
            return leaf
        ours = leaf[self.part.rows, self.part.columns]
        return ours if ours.shape == leaf.shape else ours.copy()  # a view keeps the whole leaf

    def _read_newest(self) -> tuple[dict, dict] | None:
        """The tree and metadata of the newest whole checkpoint; None if there is none."""
        try:
            with reading(self.workdir) as checkpoints:
                tree, meta = checkpoints.restore_latest(say, self.keep_ours)
        except NoCheckpoint:
            return None
        except ValueError as error:
            raise ConfigError(f"{error}; give a new --workdir") from None
        told = f"{checkpoints.directory}: "
        if difference := spec.difference(meta.get("what", {}), self.spec.what):
            raise ConfigError(f"{told}belongs to another config: {difference}")
        members = self.names_of_members()
        if difference := spec.difference(meta.get("members", members), members):  # not in the first
            raise ConfigError(f"{told}holds other members: {difference}")
        if meta.get("data", self.digests_of_data) != self.digests_of_data:
            raise ConfigError(
                f"{told}its data set holds other numbers than the one that is read now; restore "
                "that or give a new --workdir"
            )
        stored, ours = (
            {path: (leaf.shape, leaf.dtype) for path, leaf in by_path(each).items()}
            for each in (tree, self.tree())
        )
        if meta.get("format") != FORMAT or stored != ours:
            raise ConfigError(
                f"{told}its checkpoints are of another version of lr_order_jax; give a new "
                "--workdir"
            )
        return tree, meta

    def open_metrics(self) -> None:
        """Cuts metrics.jsonl back to the lines of the present state, or writes all of them again
        if they are not those that the checkpoint knows of."""
        path = self.workdir / "metrics.jsonl"
        path.touch()
        if not self.metrics_bytes:
            self._keep_metrics(path)
        is_whole = self.metrics_digest in (None, self._digest_of_metrics())  # None: first versions
        if path.stat().st_size >= self.metrics_bytes and is_whole:
            os.truncate(path, self.metrics_bytes)
            return
        say(f"{path}: lines are missing or damaged, writing it again from the checkpoint")
        made = np.argwhere(np.isfinite(np.moveaxis(self.history["step"], -1, 0)))
        lines = "".join(self.metrics_line(s, h, t) for t, s, h in made)
        files.write_aside(path, lambda aside: aside.write_text(lines))
        self.metrics_bytes = path.stat().st_size

    def _digest_of_metrics(self) -> str:
        """Of the lines that belong to the present state."""
        with open(self.workdir / "metrics.jsonl", "rb") as file:
            return hashlib.blake2b(file.read(self.metrics_bytes), digest_size=16).hexdigest()

    def _keep_metrics(self, path: pathlib.Path) -> None:
        """Keeps lines that belong to no checkpoint until this run has made them again: they may be
        all that is left of a longer one. Of two such files the longer one is kept."""
        kept = path.with_name(results.METRICS_KEPT)
        if path.stat().st_size > (kept.stat().st_size if kept.exists() else 0):
            os.replace(path, kept)
            path.touch()
            say(f"{path}: its lines belong to no checkpoint, kept as {kept.name} to the end")

    def drop_kept_metrics(self) -> None:
        """Removes the lines that were kept if this run has made all of them again."""
        kept = self.workdir / results.METRICS_KEPT
        if not kept.exists():
            return
        made = set((self.workdir / "metrics.jsonl").read_bytes().splitlines())
        lines = kept.read_bytes().splitlines(keepends=True)  # the last one can have been cut off
        if {line.rstrip() for line in lines if line.endswith(b"\n")} <= made:
            kept.unlink()
        else:
            say(f"{kept}: holds lines that this run has not made; left there")

    # The loop.

    def loop(self, checkpoints: Checkpoints, signals: Signals) -> None:
        """Runs until every member has ended.

        Raises:
          Interrupted: after a signal, with everything saved.
        """
        bar = Progress(self.member_steps()[0])
        saved_at, speed, profiled = time.monotonic(), 0.0, False
        try:
            while not self.ended.all():
                if not self.running.any():
                    self.start_group(self.waiting)
                    self.take_steps(0)
                    self.record()
                    continue  # none of them may be running
                if self.step == self.target:
                    self.target = self.step + self.steps_to_event()
                start = time.perf_counter()
                most = max(1, int(speed * CHUNK_SECONDS))
                count = min(self.target - self.step, most)
                before = self.least_time()
                if self.spec.how.profile and not profiled and speed:  # not the first: it is cold
                    count, profiled = min(count, PROFILED_STEPS), True
                    self.take_profiled_steps(count)
                else:
                    self.take_steps(count)
                speed, signalled, is_old = self.agree(
                    count / (time.perf_counter() - start),
                    signals.received,
                    time.monotonic() - saved_at,
                )
                if self.step == self.target or not self.running.any():
                    self.record()
                    self.drop_ended()
                least = self.least_time()
                alive = int(self.running.sum())
                taken, total = self.member_steps()
                step = self.steps_before + self.step
                bar.update(taken, total, self.problem.clock, least, alive, step, speed)
                if self.passes_kept_time(before, least):
                    self.save(checkpoints, for_good=True)
                if signalled:
                    self.save(checkpoints)
                    signals.check()
                if is_old:
                    self.save(checkpoints)
                    saved_at = time.monotonic()
        finally:
            bar.close()

    def agree(self, speed: float, signum: int | None, age: float) -> tuple[float, bool, bool]:
        """What all processes take for true: the lowest speed, whether a signal has come to any,
        whether the checkpoint of the first one is old."""
        rows = processes.gathered(speed, signum or 0, age)
        is_old = bool(rows[0, 2] >= self.spec.how.checkpoint_every)
        return float(rows[:, 0].min()), bool(rows[:, 1].any()), is_old

    def announce(self, resumed: bool) -> None:
        """Tells what will run, and compiles it."""
        sizes = [f"{len(self.grid.seeds)} seeds"]
        sizes += [f"{len(axis)} {axis.name}" for axis in self.grid.axes]
        part = f", shard {shard}" if (shard := self.spec.how.shard) else ""
        say(f"{self.running.size} members ({' x '.join(sizes)}{part}) in {self.workdir}")
        if idle := jax.process_count() - self.part.count:
            say(f"{idle} of {jax.process_count()} processes have no members")
        if self.ended.all():
            say("all members have ended: nothing left to run")
            return
        if resumed:
            step = self.steps_before + self.step
            say(f"continuing at step {step}, {self.running.sum()} members alive")
        for point in self.spec.how.keep_at:
            if point > self.time[-1]:
                say(f"config.keep_at = {point:g}: is beyond the end, {self.time[-1]:g}; not kept")
            elif resumed and point < self.least_time() and point not in self.kept_at:
                say(f"config.keep_at = {point:g}: the run has gone beyond it; not kept")
        if (size := self.spec.how.group_size) is not None and len(self.columns) > size:
            told = f"{len(self.columns)} columns of members have started together, and stay so"
            say(f"config.group_size = {size}: {told}")
        start = time.perf_counter()
        self.take_steps(0)
        used = processes.gathered(self.members.devices_used)
        count, kind = int(used.sum()), jax.devices()[0].device_kind
        device = kind if count == 1 else f"{count} devices, {kind}"
        say(f"compiled in {time.perf_counter() - start:.1f} s on {device}")


def _check_names(problem: Any) -> None:
    """Refuses a problem that names what is not there, before anything is computed."""
    known = {
        "clock": ((problem.clock,), results.TIME_UNITS),
        "table": ((problem.table,), results.TABLES),
        "figures": (problem.figures, figures.FIGURES),
        "study_figures": (problem.study_figures, figures.FIGURES),
    }
    for attribute, (names, allowed) in known.items():
        for name in names:
            if name not in allowed:
                raise ConfigError(
                    f"config.problem: its {attribute} names {name!r}, must be of {sorted(allowed)}"
                )
    if "train_loss" not in problem.variables:
        raise ConfigError("config.problem: its variables lack train_loss")


def check(run_spec: spec.Spec) -> None:
    """Refuses what a run would refuse before its first step.

    Raises:
      ConfigError: if a member's fields contradict each other.
    """
    _check_names(run_spec.problem)
    sweep.make_grid(run_spec.problem, run_spec.seeds[:1], run_spec.common.zipped)


def refuse_lost_checkpoints(workdir: pathlib.Path, has_records: bool = False) -> None:
    """Refuses results without checkpoints: a run writes these first, so they have been lost, and
    to start anew would overwrite what was computed.

    Args:
      has_records: whether joined results hold records of this run.
    """
    folder = workdir / "checkpoints"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is not a directory; restore it or give a new --workdir")
    steps = stored_steps(workdir) if folder.exists() else []
    if not steps and (has_records or (workdir / "results.nc").exists()):
        raise ConfigError(
            f"{folder}: none is left of the run whose records results.nc holds; restore them or "
            "give a new --workdir"
        )


def run(run_spec: spec.Spec, workdir: pathlib.Path, signals: Signals | None = None):
    """Runs or continues an experiment in a directory and writes all its files.

    Args:
      signals: those that are listened to already, of a study.

    Returns:
      The results (an xarray Dataset).

    Raises:
      ConfigError: if the config or the directory cannot serve; nothing there is overwritten.
      Interrupted: after SIGINT, SIGTERM or SIGHUP, with everything saved.
    """
    if signals is None:
        with Signals() as listening:
            return run(run_spec, workdir, listening)
    if run_spec.how.distributed and not jax.distributed.is_initialized():
        raise ConfigError("config.distributed = True: call lr_order_jax.processes.join() before")
    _check_names(run_spec.problem)
    with processes.first_holds(directory.held(workdir)):
        directory.must_be_common(workdir)
        processes.first_does(lambda: _check_directory(workdir, run_spec))
        this = processes.all_do(lambda: _Run(run_spec, workdir))
        this.share_places()
        if processes.are_several():
            processes.must_agree(digests(this.grid.data._asdict()), "the data")
        signals.check()  # nothing is there to save yet
        kept = this.restore()
        if not (resumed := kept is not None):
            this.start_group(range(this.grid.shape[1]))
        checkpoints = Checkpoints(workdir / "checkpoints", kept=kept or ())
        try:
            is_told = processes.json_of_first((workdir / "config.json").exists())
            if not (resumed and is_told and this.ended.all()):
                audit = this.audit()
                processes.first_does(lambda: directory.write_config(workdir, run_spec, audit))
            processes.first_does(this.open_metrics)
            if resumed:
                this.take_up_results()
            this.announce(resumed)
            signals.check()
            if not resumed:
                this.record()
                if this.passes_kept_time(-1.0, 0.0):
                    this.save(checkpoints, for_good=True)
            this.loop(checkpoints, signals)
            dataset = this.save(checkpoints)
            processes.first_does(this.drop_kept_metrics)
        finally:
            checkpoints.close()
        names, folder = this.problem.figures, workdir / "figures"
        processes.first_does(lambda: figures.draw(dataset, names, folder))
        return dataset


def _check_directory(workdir: pathlib.Path, run_spec: spec.Spec) -> None:
    directory.check_config(workdir, run_spec)
    refuse_lost_checkpoints(workdir)
