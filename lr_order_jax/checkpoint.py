"""Checkpoints of a run: Orbax writes and keeps them, checksums of our own guard them.

A checkpoint is a tree of arrays (the state of all members, the history and the host's counters)
and a small JSON object. Orbax restores a flipped bit or a truncated directory without complaint, so
each leaf's digest stands in the JSON and is compared on restore, newest checkpoint first. Several
processes write one together, each its part of the state; each reads alone, whatever number wrote
it. This is the only module that imports Orbax.
"""

import contextlib
import hashlib
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from lr_order_jax import files, parts, processes
from lr_order_jax.fields import in_one_line
from lr_order_jax.parts import Part

PyTree = Any
Keep = Callable[[str, np.ndarray], np.ndarray]


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
    return {path: _digest(leaf) for path, leaf in by_path(tree).items()}


def _digest(leaf) -> str:
    array = np.ascontiguousarray(leaf)
    return _hash(f"{array.dtype.str}{array.shape}".encode(), array.reshape(-1).view(np.uint8).data)


def _hash(*pieces) -> str:
    found = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _digests_of_blocks(tree: PyTree) -> dict[str, str]:
    """The same for leaves that are cut into blocks, one a process: of the digests of the blocks,
    of which each process has its own. Waits for the others."""
    ours = digests(tree)
    rows = np.zeros((jax.process_count(), len(ours), 32), np.uint8)
    for i, digest in enumerate(ours.values()):
        rows[jax.process_index(), i] = np.frombuffer(digest.encode(), np.uint8)
    rows = processes.total(rows)
    return {path: _hash(rows[:, i].tobytes()) for i, path in enumerate(ours)}


def _whole(leaf: np.ndarray, blocks: dict[str, Any]) -> tuple[str, np.ndarray]:
    """The digest of a leaf that was written in blocks, and the leaf (S, H, ...) of all members."""
    of_process = np.split(leaf, blocks["processes"])
    digest = _hash("".join(map(_digest, of_process)).encode())
    return digest, parts.joined(of_process, tuple(blocks["shape"]), tuple(blocks["ways"]))


class _Manager(ocp.CheckpointManager):
    """Orbax's, which does not ask JAX whether this process is to end: see `experiment.Signals`."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints in a directory: the newest few, and those kept for good.

    A host resource: `close` it. Of several processes all have it to write, each by itself to read.

    Args:
      kept: steps of those that are kept for good so far, see the metadata of each.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        newest: int = 3,
        kept: Sequence[int] = (),
        read_only: bool = False,
    ):
        self.directory = pathlib.Path(directory).resolve()
        self._newest, self._doomed = newest, self.directory / "deleted"
        self._kept, index = set(kept), jax.process_index()
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
        waits_for = ocp.options.MultiprocessingOptions()  # all of them
        if read_only and jax.process_count() > 1:
            waits_for.primary_host, waits_for.active_processes = index, {index}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,  # what a kill inside a write left behind
            create=False,
            # Renamed before it is deleted: a kill in between must leave no half of a checkpoint.
            todelete_subdir=None if read_only else self._doomed.name,
            save_interval_steps=0 if read_only else 1,
            read_only=read_only,
            multiprocessing_options=waits_for,
        )
        handlers = {
            "arrays": ocp.PyTreeCheckpointHandler(multiprocessing_options=waits_for),
            "meta": ocp.JsonCheckpointHandler(multiprocessing_options=waits_for),
        }
        self._manager = _Manager(self.directory, options=options, item_handlers=handlers)
        if not read_only:
            self._remove_doomed()  # of a run that was killed

    def _remove_doomed(self) -> None:
        if processes.is_first():
            shutil.rmtree(self._doomed, ignore_errors=True)

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Which checkpoints (oldest first) stay: Orbax asks after each save."""
        first = len(checkpoints) - self._newest
        return [i >= first or c.step in self._kept for i, c in enumerate(checkpoints)]

    def close(self) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the stored checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, tree: PyTree, meta: dict, for_good: bool = False, part: Part | None = None
    ) -> None:
        """Stores a tree of NumPy arrays and a JSON object under a step.

        A checkpoint of that step which is there already is the same one: nothing is written. All
        processes have to save; NumPy arrays and the JSON object are those of the first one. Waits
        for them.

        Args:
          for_good: it is never deleted.
          part: of the members, that of this process; the leaves of the state are global arrays
            then, to which each process gave its block: `Part.as_block`.

        Raises:
          OSError: if it cannot be written, as where the disk is full. The other processes may not
            know of it: see `processes.leave`.
        """
        if for_good:
            self._kept.add(step)
        if processes.json_of_first(step in self.steps()):
            return
        arrays, blocks = by_path(tree), {}
        if part is not None:
            for path in [path for path, leaf in arrays.items() if isinstance(leaf, jax.Array)]:
                blocks[path] = arrays.pop(path).addressable_data(0)
            told = {"processes": jax.process_count(), "leaves": list(blocks)}
            meta = {**meta, "blocks": {**told, "shape": part.shape, "ways": part.ways}}
        found = {**digests(arrays), **_digests_of_blocks(blocks)}
        meta = {**meta, "kept": sorted(self._kept), "digests": found}
        sealed = {"meta": meta, "seal": files.seal(meta)}
        arguments = ocp.args.Composite(
            arrays=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(sealed)
        )
        try:
            self._manager.save(step, args=arguments, force=True)
        except Exception as error:
            if (number := files.errno_of(error)) is None:
                raise
            raise OSError(number, os.strerror(number), str(self.directory)) from error
        self._remove_doomed()

    def restore(self, step: int, keep: Keep = lambda path, leaf: leaf) -> tuple[PyTree, dict]:
        """The tree and the JSON object of a step, checked against their digests.

        Args:
          keep: (path, leaf of all members) -> what of it is to be in the tree. Of several processes
            each reads one leaf at a time.

        Raises:
          ValueError: if the checkpoint is damaged; the message says how.
          OSError: if it cannot be read now, which says nothing about the checkpoint.
        """
        with self._reading(step):
            sealed = self._restored(step, meta=ocp.args.JsonRestore()).meta
            meta, seal = sealed["meta"], sealed["seal"]
        if files.seal(meta) != seal:
            raise ValueError("its metadata do not match their checksum")
        if meta.get("step", step) != step:
            raise ValueError(f"it is the checkpoint of step {meta['step']}, under another name")
        told = {_plain(path): digest for path, digest in meta["digests"].items()}
        with self._reading(step):
            metadata = self._manager.item_metadata(step)
            numpy = ocp.RestoreArgs(restore_type=np.ndarray)
            asked = jax.tree.map(lambda _: numpy, metadata.arrays.tree)
        paths, structure = list(by_path(asked)), jax.tree.structure(asked)
        if other := set(paths) ^ set(told):
            raise ValueError(f"array {min(other)} does not match its checksum")
        kept: dict[str, np.ndarray] = {}
        at_once = [[path] for path in paths] if jax.process_count() > 1 else [paths]
        for some in at_once:
            with self._reading(step):
                item = jax.tree.unflatten(
                    structure, [numpy if p in some else ocp.PLACEHOLDER for p in paths]
                )
                arguments = ocp.args.PyTreeRestore(item, asked)
                read = by_path(self._restored(step, arrays=arguments).arrays)
            for path in some:
                kept[path] = keep(path, self._checked(path, read.pop(path), told[path], meta))
        return jax.tree.unflatten(structure, [kept[path] for path in paths]), meta

    def _checked(self, path: str, leaf: Any, told: str, meta: dict) -> np.ndarray:
        """The leaf of all members, from what is stored."""
        leaf, blocks = np.asarray(leaf), meta.get("blocks", {"leaves": ()})
        if path in blocks["leaves"]:
            digest, leaf = _whole(leaf, blocks)
        else:
            digest = _digest(leaf)
        if digest != told:
            raise ValueError(f"array {path} does not match its checksum")
        return leaf

    def _restored(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """What Orbax or TensorStore raise becomes what `restore` raises."""
        try:
            yield
        except Exception as error:  # whatever a damaged file makes them raise
            if files.is_of_the_machine(error):
                if (number := files.errno_of(error)) is None:
                    raise
                reason = f"{os.strerror(number)} (if it stays so, move this checkpoint away)"
                raise OSError(number, reason, str(self.directory / str(step))) from error
            raise ValueError(f"cannot be read ({in_one_line(error)})") from error

    def restore_latest(
        self, say: Callable[[str], None], keep: Keep = lambda path, leaf: leaf
    ) -> tuple[PyTree, dict]:
        """The newest checkpoint that is whole; newer, damaged ones are set aside, which is said.

        Raises:
          NoCheckpoint: if none is stored.
          ValueError: if all are damaged; nothing is moved then.
          OSError: if one cannot be read now; nothing is moved then.
        """
        damaged: dict[int, ValueError] = {}
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, keep)
            except ValueError as error:
                damaged[step] = error
                continue
            for bad, reason in damaged.items():
                aside = self._set_aside(bad)
                say(f"checkpoint of step {bad}: {reason}; moved to {aside}, using step {step}")
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
    """The checkpoints of a run's directory, to be read by this process alone.

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
