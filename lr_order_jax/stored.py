"""A run in a directory, finished or not, as analyses read it: results, config, checkpoints.

Everything is read when it is first asked for. The problem, its data and the hyperparameters of all
members are made anew from `config.json`: they are functions of it.
"""

import functools
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from lr_order_jax import algorithm, checkpoint, directory, engine, results, spec, sweep
from lr_order_jax.algorithm import TrainState
from lr_order_jax.checkpoint import NoCheckpoint
from lr_order_jax.problem import Data, Problem, refuse_unasked
from lr_order_jax.progress import say

PyTree = Any

HOW_IT_IS_READ: Mapping[str, Any] = {  # the fields of `spec.How`: nothing is trained here
    "driving": None,
    "mapping": None,
    "devices": 1,
    "distributed": False,
    "group_size": None,
    "checkpoint_every": 0.0,
    "keep_at": (),
    "profile": False,
}


class Checkpoint(NamedTuple):
    """All members at one step. S seeds, H combinations of hyperparameters."""

    step: int
    state: TrainState  # NumPy leaves (S, H, ...)
    time: np.ndarray  # (S, H) float64: flow time or epoch of each member
    meta: Mapping[str, Any]


class StoredCheckpoints(Mapping[int, Checkpoint]):
    """The stored checkpoints by step, oldest first; each is restored when it is asked for."""

    def __init__(self, run: "StoredRun"):
        self._run = run

    def __repr__(self) -> str:
        return f"StoredCheckpoints(steps {', '.join(map(str, self.steps)) or 'none'})"

    @functools.cached_property
    def steps(self) -> tuple[int, ...]:
        if not (self._run.workdir / "checkpoints").is_dir():
            return ()
        return tuple(checkpoint.stored_steps(self._run.workdir))

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> Checkpoint:
        if step not in self.steps:
            raise KeyError(f"step {step}: must be one of {', '.join(map(str, self.steps))}")
        try:
            tree, meta = checkpoint.restore(self._run.workdir, step)
        except (NoCheckpoint, OSError, ValueError):
            if (self._run.workdir / "checkpoints" / str(step)).exists():
                raise
            raise NoCheckpoint(f"checkpoint of step {step}: the run has removed it") from None
        state = checkpoint.arranged_like(self._run.state_structure, tree)
        time_per_step = self._run.problem.time_per_step(self._run.grid.hypers)
        time = np.sum(time_per_step * state.phase_counts, axis=-1)
        return Checkpoint(step, state, time, meta)

    def still_there(
        self, steps: Sequence[int] | None = None, after: int = -1
    ) -> Iterator[Checkpoint]:
        """Restores the checkpoints of these steps, or all after a step, in turn.

        A run that goes on keeps the newest few: one that it has removed since they were listed is
        left out, which is said, unless its step was asked for.

        Raises:
          NoCheckpoint: if one of `steps` is gone, if all are, or if there is none yet.
        """
        if not self.steps:
            raise NoCheckpoint("has no checkpoint yet")
        count = 0
        for step in [s for s in self.steps if s > after] if steps is None else steps:
            try:
                found = self[step]
            except NoCheckpoint as error:
                if steps is not None:
                    raise
                say(f"{error}; left out")
                continue
            count += 1
            yield found
        if not count:
            raise NoCheckpoint("the run has removed all checkpoints listed; ask again")


def data_of_seeds(grid: sweep.Grid) -> list[Data]:
    """The data of each seed of a grid."""
    return [sweep.data_of_seed(grid.data, s) for s in range(len(grid.seeds))]


def as_typed(argv: Sequence[str]) -> str:
    """The command of a process with these words.

    Examples:
        >>> as_typed(["/here/lr_order_jax/main.py", "--config=configs/sweep.py"])
        'python -m lr_order_jax.main --config=configs/sweep.py'
        >>> as_typed(["search.py", "40"])  # which has called the package
        'python search.py 40'
    """
    program, *arguments = argv
    is_main = pathlib.Path(program).parts[-2:] == ("lr_order_jax", "main.py")
    return shlex.join(
        ["python", *(["-m", "lr_order_jax.main"] if is_main else [program]), *arguments]
    )


class StoredRun:
    """A run's directory, read lazily; see `lr_order_jax.load`."""

    def __init__(self, workdir: str | os.PathLike):
        self.workdir = pathlib.Path(workdir)
        self.config = directory.read_whole_config(self.workdir)
        self.checkpoints = StoredCheckpoints(self)

    def __repr__(self) -> str:
        return f"StoredRun({str(self.workdir)!r})"

    @property
    def command(self) -> str:
        """The command that ran last in the directory, or has joined it of parts."""
        if parts := self.config.get("merged"):
            folders = [os.path.normpath(self.workdir / part) for part in parts]
            return shlex.join(["python", "-m", "analysis.merge", *folders, f"--out={self.workdir}"])
        return as_typed(self.config["command"])

    @functools.cached_property
    def dataset(self) -> xr.Dataset:
        """The labelled arrays of `results.nc`.

        Raises:
          FileNotFoundError: if none has been written yet.
        """
        return results.read_results(self.workdir)

    @property
    def complete(self) -> bool:
        """Whether all members have ended, as `results.nc` says."""
        there = (self.workdir / "results.nc").exists()
        return there and bool(self.dataset.attrs["complete"])

    @functools.cached_property
    def programs(self) -> tuple["StoredRun", ...]:
        """The runs of a study that have been begun, one a shape; of one program itself."""
        if not (names := self.config.get("programs")):
            return (self,)
        folders = [self.workdir / name for name in names]
        return tuple(StoredRun(folder) for folder in folders if (folder / "config.json").exists())

    @functools.cached_property
    def spec(self) -> spec.Spec:
        """The config, as it is run on this platform.

        Raises:
          ValueError: for a study.
          ConfigError: for a problem of one's own whose module was not imported.
        """
        if names := self.config.get("programs"):
            raise ValueError(
                f"holds {len(names)} programs, each in a directory of its own: name one, such as "
                f"{self.workdir / names[0]}"
            )
        refuse_unasked(self.config["what"].get("problem"))
        return spec.parse(
            {"shard": None, **self.config["what"], **self.config["how"], **HOW_IT_IS_READ}
        )

    @property
    def problem(self) -> Problem:
        return self.spec.problem

    @functools.cached_property
    def grid(self) -> sweep.Grid:
        """Members, data and hyperparameters."""
        return self.grid_of(self.problem)

    def grid_of(self, problem: Problem) -> sweep.Grid:
        """The same members on a problem whose fields differ, such as its evaluation sets."""
        seeds, zipped, shard = self.spec.seeds, self.spec.common.zipped, self.spec.how.shard
        return sweep.make_grid(problem, seeds, zipped, shard)

    @functools.cached_property
    def data(self) -> list[Data]:
        """The data of each seed."""
        return data_of_seeds(self.grid)

    @functools.cached_property
    def state_structure(self) -> TrainState:
        """The state of one member, shapes and types alone."""

        def first(key, hypers):
            model = self.problem.init(engine.stream_key(key, engine.Stream.INIT))
            return algorithm.init_state(hypers, *model)

        hypers = jax.tree.map(lambda leaf: leaf[0, 0], algorithm.on_device(self.grid.hypers))
        return jax.eval_shape(first, self.grid.keys[0], hypers)

    @property
    def member_dims(self) -> list[str]:
        return ["seed", *(axis.name for axis in self.grid.axes)]

    def mapped(self, function: Callable) -> Callable:
        """A function of one member, (of_seed, hypers, *of_member) -> arrays, over all members.

        Members of a seed are batched where the problem's steps are (`vmap`), else they are taken
        one after the other, and then the function should be made of compiled parts.

        Returns:
          A function (of_seeds, *trees): `of_seeds` has an entry for each seed, leaves of the trees
          are (S, H, ...), and so are the leaves of its result, on the host.
        """
        hypers = algorithm.on_device(self.grid.hypers)

        def in_turn(of_seed, *columns):
            count = len(jax.tree.leaves(columns)[0])
            rows = [
                function(of_seed, *jax.tree.map(lambda leaf, h=h: leaf[h], columns))
                for h in range(count)
            ]
            return jax.tree.map(lambda *leaves: np.stack([np.asarray(a) for a in leaves]), *rows)

        @jax.jit
        def batched(of_seed, *columns):
            return jax.vmap(lambda *of_member: function(of_seed, *of_member))(*columns)

        of_columns = batched if self.spec.ways.mapping == "vmap" else in_turn

        def of_all(of_seeds, *trees):
            rows = [
                of_columns(of_seed, *jax.tree.map(lambda leaf, s=s: leaf[s], (hypers, *trees)))
                for s, of_seed in enumerate(of_seeds)
            ]
            return jax.tree.map(lambda *leaves: np.stack([np.asarray(a) for a in leaves]), *rows)

        return of_all
