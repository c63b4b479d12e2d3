"""Checkpoints of a run: Orbax writes and keeps them, checksums of our own guard them.

A checkpoint is a tree of arrays (the state of all members, the history and the host's counters)
and a small JSON object. Orbax restores a flipped bit or a truncated directory without complaint, so
each leaf's digest stands in the JSON and is compared on restore, newest checkpoint first. This is
the only module that imports Orbax.
"""

import contextlib
import hashlib
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from lr_order_jax import files
from lr_order_jax.fields import in_one_line

PyTree = Any


class NoCheckpoint(LookupError):
    """There is no such checkpoint."""


def by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, "stats/w". A field of a NamedTuple has the path of a
    dict's key: Orbax stores the first and gives back the second."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def arranged_like(template: PyTree, stored: PyTree) -> PyTree:
    """The stored leaves, copied, in the structure of another tree with the same paths."""
    leaves = by_path(stored)
    copies = [np.array(leaves[path]) for path in by_path(template)]
    return jax.tree.unflatten(jax.tree.structure(template), copies)


def _plain(path: str) -> str:
    """The path of `by_path` for one written as JAX shows it, as the first versions did:
    "['stats']['w']"."""
    return re.sub(r"\['?|'?\]", "/", path).strip("/").replace("//", "/")


def digests(tree: PyTree) -> dict[str, str]:
    """A digest of each leaf's type, shape and bytes, by its path."""

    def digest(leaf) -> str:
        array = np.ascontiguousarray(leaf)
        head = f"{array.dtype.str}{array.shape}".encode()
        return hashlib.blake2b(head + array.tobytes(), digest_size=16).hexdigest()

    return {path: digest(leaf) for path, leaf in by_path(tree).items()}


def _alone() -> ocp.options.MultiprocessingOptions:
    """That this process does not wait for others: one of them has them all, see `processes`."""
    index = jax.process_index()
    several = jax.process_count() > 1
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index} if several else None
    )


class Checkpoints:
    """The checkpoints in a directory: the newest few, and those kept for good.

    A host resource: `close` it. Of several processes only one has it.
    """

    def __init__(self, directory: str | os.PathLike, newest: int = 3, read_only: bool = False):
        self.directory = pathlib.Path(directory).resolve()
        self._newest, self._doomed = newest, self.directory / "deleted"
        self._kept: set[int] = set()  # steps kept for good; stands in each checkpoint's metadata
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,  # what a kill inside a write left behind
            create=False,
            # Renamed before it is deleted: a kill in between must leave no half of a checkpoint.
            todelete_subdir=None if read_only else self._doomed.name,
            save_interval_steps=0 if read_only else 1,
            read_only=read_only,
            multiprocessing_options=_alone(),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        if not read_only:
            shutil.rmtree(self._doomed, ignore_errors=True)  # of a run that was killed

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Which checkpoints (oldest first) stay: Orbax asks after each save."""
        first = len(checkpoints) - self._newest
        return [i >= first or c.step in self._kept for i, c in enumerate(checkpoints)]

    def close(self) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the stored checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, tree: PyTree, meta: dict, for_good: bool = False) -> None:
        """Stores a tree of nested dicts of NumPy arrays and a JSON object under a step.

        A checkpoint of that step which is there already is the same one: nothing is written.

        Raises:
          OSError: if it cannot be written, as where the disk is full.
        """
        if for_good:
            self._kept.add(step)
        if step in self._manager.all_steps():
            return
        meta = {**meta, "kept": sorted(self._kept), "digests": digests(tree)}
        sealed = {"meta": meta, "seal": files.seal(meta)}
        arguments = ocp.args.Composite(
            arrays=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(sealed)
        )
        try:
            self._manager.save(step, args=arguments, force=True)
        except Exception as error:
            if (number := files.errno_of(error)) is None:
                raise
            raise OSError(number, os.strerror(number), str(self.directory)) from error
        shutil.rmtree(self._doomed, ignore_errors=True)

    def restore(self, step: int) -> tuple[PyTree, dict]:
        """The tree and the JSON object of a step, checked against their digests.

        Raises:
          ValueError: if the checkpoint is damaged; the message says how.
          OSError: if it cannot be read now, which says nothing about the checkpoint.
        """
        arguments = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=arguments)
            meta, seal = restored.meta["meta"], restored.meta["seal"]
            tree = jax.tree.map(np.asarray, restored.arrays)
        except Exception as error:  # whatever a damaged file makes Orbax or TensorStore raise
            if files.is_of_the_machine(error):
                if (number := files.errno_of(error)) is None:
                    raise
                reason = f"{os.strerror(number)} (if it stays so, move this checkpoint away)"
                raise OSError(number, reason, str(self.directory / str(step))) from error
            raise ValueError(f"cannot be read ({in_one_line(error)})") from error
        if files.seal(meta) != seal:
            raise ValueError("its metadata do not match their checksum")
        if meta.get("step", step) != step:
            raise ValueError(f"it is the checkpoint of step {meta['step']}, under another name")
        found = digests(tree)
        told = {_plain(path): digest for path, digest in meta["digests"].items()}
        for path in sorted(set(found) | set(told)):
            if found.get(path) != told.get(path):
                raise ValueError(f"array {path} does not match its checksum")
        return tree, meta

    def restore_latest(self, say: Callable[[str], None]) -> tuple[PyTree, dict]:
        """The newest checkpoint that is whole; newer, damaged ones are set aside, which is said.

        Raises:
          NoCheckpoint: if none is stored.
          ValueError: if all are damaged; nothing is moved then.
          OSError: if one cannot be read now; nothing is moved then.
        """
        damaged: dict[int, ValueError] = {}
        for step in reversed(self.steps()):
            try:
                found = self.restore(step)
            except ValueError as error:
                damaged[step] = error
                continue
            for bad, reason in damaged.items():
                aside = self._set_aside(bad)
                say(f"checkpoint of step {bad}: {reason}; moved to {aside}, using step {step}")
            self._kept = set(found[1].get("kept", ()))
            return found
        if damaged:
            told = "; ".join(f"step {step} {reason}" for step, reason in damaged.items())
            raise ValueError(f"{self.directory}: every checkpoint is damaged: {told}")
        raise NoCheckpoint(f"{self.directory} holds no checkpoint")

    def _set_aside(self, step: int) -> pathlib.Path:
        folder = self.directory.parent / "damaged_checkpoints"
        folder.mkdir(exist_ok=True)
        names = (f"{step}{'.' * (i > 0)}{i or ''}" for i in itertools.count())
        aside = next(folder / name for name in names if not (folder / name).exists())
        os.replace(self.directory / str(step), aside)
        self._manager.reload()
        return aside


def restore(workdir: str | os.PathLike, step: int | None = None) -> tuple[PyTree, dict]:
    """A checkpoint of a run for analysis: nested dicts of NumPy arrays, leaves (S, H, ...).

    The tree holds `params`, `stats`, `velocity`, `phase`, `phase_counts`, `status`, `history`
    (points of the time grid along the third axis) and `next_record`. The JSON object has the step
    and the time of the members furthest behind. Nothing is written.

    Args:
      workdir: the run's directory.
      step: which checkpoint, see `stored_steps`; None: the newest.

    Raises:
      NoCheckpoint: if there is no such checkpoint.
      ValueError: if it is damaged.
    """
    with reading(workdir) as checkpoints:
        steps = checkpoints.steps()
        if not steps or (step is not None and step not in steps):
            raise NoCheckpoint(f"{checkpoints.directory} holds steps {steps}, not {step}")
        return checkpoints.restore(steps[-1] if step is None else step)


def stored_steps(workdir: str | os.PathLike) -> list[int]:
    """Steps of a run's stored checkpoints, oldest first.

    Raises:
      NoCheckpoint: if there is no directory of them.
    """
    with reading(workdir) as checkpoints:
        return checkpoints.steps()


@contextlib.contextmanager
def reading(workdir: str | os.PathLike) -> Iterator[Checkpoints]:
    """The checkpoints of a run's directory, to be read only.

    Raises:
      NoCheckpoint: if there is no directory of them.
    """
    directory = pathlib.Path(workdir) / "checkpoints"
    if not directory.is_dir():
        raise NoCheckpoint(f"{directory} is not a directory")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it only reads
    try:
        checkpoints = Checkpoints(directory, read_only=True)
    finally:
        logging.set_verbosity(verbosity)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
