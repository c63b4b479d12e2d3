"""Several processes that run one program together, on JAX's distributed runtime.

Each holds and trains a part of the grid of members, on devices of its own. All of them run the same
host loop: where members stand and what is recorded is known to all, so they take the same
decisions. The first process alone tells what happens and writes the files, but for checkpoints, of
which each writes its part, see `checkpoint`. Functions that wait for the others say so: all
processes must call them in the same order. With one process they cost nothing.
"""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from lr_order_jax import progress
from lr_order_jax.fields import ConfigError, in_one_line
from lr_order_jax.progress import say

PyTree = Any
T = TypeVar("T")

LOST_AFTER = 30
"""Seconds without a sign of life after which a process is lost, and the others end."""

OURS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Environment variables that name the processes where no cluster does; all of them or none."""

SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
"""Environment variables from which JAX detects SLURM; all of them or none."""

PLACES = ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NODELIST")
"""Those that are no numbers."""

COUNT_AND_INDEX = {OURS: OURS[1:], SLURM: SLURM[2:4]}
"""Those that say how many processes there are, and which this one is."""

WORDS_AT_ONCE = 2**24
"""Of 4 bytes, of all processes, in an exchange: each device has so many beside its members."""

MOST_TOLD = 3
"""Fields in which the configs of processes differ, named."""

JOIN_WITHIN = 300
"""Seconds in which all processes must have joined."""


class Elsewhere(Exception):
    """Another process has failed, and tells why.

    Attributes:
      status: its exit status, which is to be that of all.
    """

    def __init__(self, process: int, status: int):
        super().__init__(f"process {process} has failed, and tells why")
        self.status = status


def _settings() -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize` from the environment; {} where JAX is to detect.

    Raises:
      ConfigError: if the variables are incomplete or wrong.
    """
    told = "config.distributed = True"
    for names, hint in ((OURS, "set all three or none"), (SLURM, "start it by srun")):
        given = [name for name in names if os.environ.get(name)]
        missing = [name for name in names if name not in given]
        by_mpi = any(name.startswith("OMPI_") for name in os.environ)
        if not given or (names is SLURM and by_mpi):
            continue
        if missing:
            raise ConfigError(f"{told}: {missing[0]} is not set, but {given[0]} is: {hint}")
        numbers = {name: os.environ[name] for name in names if name not in PLACES}
        for name, number in numbers.items():
            if not (number.isascii() and number.isdigit()):
                raise ConfigError(f"{told}: {name} = {number!r}: must be a whole number >= 0")
        of_count, of_index = COUNT_AND_INDEX[names]
        count, index = int(numbers[of_count]), int(numbers[of_index])
        if not index < count:
            raise ConfigError(f"{told}: {of_index} = {index}: must be below {of_count} = {count}")
        if names is OURS:
            address = os.environ[OURS[0]]
            host, _, port = address.rpartition(":")
            if not (host and port.isascii() and port.isdigit() and int(port) < 2**16):
                raise ConfigError(f"{told}: {OURS[0]} = {address!r}: must be HOST:PORT")
            return {"coordinator_address": address, "num_processes": count, "process_id": index,
                    "cluster_detection_method": "deactivate"}  # fmt: skip
    return {}


def join() -> None:
    """Joins the other processes, before anything is computed; waits for them.

    By the environment variables `OURS`, or else as JAX detects them: under SLURM, Open MPI or
    Kubernetes, on a TPU slice.

    Raises:
      ConfigError: if there is nothing to join, or it cannot be reached.
    """
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms and "cpu" not in platforms.split(","):
        raise ConfigError(
            f"config.distributed = True: JAX_PLATFORMS={platforms}: leaves out the CPU, by which "
            f"checkpoints are written; must be {platforms},cpu"
        )
    if settings := _settings():
        _tell_and_probe(settings)
    elif os.environ.get("SLURM_PROCID", "0") == "0":
        found = ", ".join(f"{name} = {os.environ[name]}" for name in SLURM if name in os.environ)
        detected = f"the processes of {found}" if found else "what JAX detects here"
        say(f"joining {detected}, within {JOIN_WITHIN} s")
    faulthandler.disable()  # absl's: where JAX aborts this process as another is lost, it says so
    # Signals are ours, see `experiment.Signals`: JAX's own service takes SIGTERM away.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **settings,
            initialization_timeout=JOIN_WITHIN,
            heartbeat_timeout_seconds=LOST_AFTER,
            shutdown_timeout_seconds=LOST_AFTER,
        )
    except ValueError as error:
        raise ConfigError(
            f"config.distributed = True: no cluster is detected ({in_one_line(error)}): start it "
            f"by srun, mpirun or on a TPU slice, or set {', '.join(OURS)}"
        ) from None
    except RuntimeError as error:
        raise ConfigError(
            f"config.distributed = True: cannot join ({in_one_line(error)})"
        ) from None
    if not is_first():
        progress.keep_quiet(f"process {jax.process_index()}")
    how = "by " + ", ".join(OURS) if settings else "detected by JAX"
    counts = [len(jax.local_devices(i)) for i in range(jax.process_count())]
    say(
        f"process {jax.process_index()} of {jax.process_count()} ({how}), "
        f"{jax.device_count()} devices, {jax.local_device_count()} of them here"
    )
    if len(set(counts)) > 1:
        told = ConfigError(
            f"config.distributed = True: the processes have {counts} devices, must have as many "
            "each"
        )
        raise told if is_first() else Elsewhere(0, 2)


def _tell_and_probe(settings: dict[str, Any]) -> None:
    """Says what is joined, and refuses an address that cannot serve: JAX would abort the process.

    Raises:
      ConfigError: if the first process cannot have the port, or none answers to another one.
    """
    address, count, index = (
        settings[name] for name in ("coordinator_address", "num_processes", "process_id")
    )
    host, _, port = address.rpartition(":")
    host, told = host.strip("[]"), f"config.distributed = True: {OURS[0]} = {address!r}"
    if index == 0:
        say(f"{count} processes are to join at {address} within {JOIN_WITHIN} s")
        try:
            with socket.create_server(("", int(port)), reuse_port=False):
                return
        except OSError as error:
            raise ConfigError(f"{told}: the port cannot be had ({error.strerror})") from None
    deadline = time.monotonic() + JOIN_WITHIN
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{told}: no answer within {JOIN_WITHIN} s ({error.strerror or error})"
                ) from None
        time.sleep(0.2)


def are_several() -> bool:
    """Whether there are others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def leave(status: int) -> NoReturn:
    """Ends this process after a failure that the others may not know of: they are not waited for,
    and end as they notice."""
    if are_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def is_first() -> bool:
    """Whether this process writes the files that are not written by all, and talks."""
    return jax.process_index() == 0


# Numbers that all processes know in the end.


def total(tree: PyTree) -> PyTree:
    """Host arrays whose bytes are the sum of those of all processes: of each number, all processes
    but one are to have zero. Waits for the others."""
    at_once = 4 * (WORDS_AT_ONCE // jax.process_count())
    if jax.process_count() == 1:
        return tree

    def sum_bytes(leaf):
        leaf = np.array(leaf, order="C")
        content = leaf.reshape(-1).view(np.uint8)
        for i in range(0, len(content), at_once):
            piece = content[i : i + at_once]
            words = np.zeros(-(-len(piece) // 4), np.uint32)
            words.view(np.uint8)[: len(piece)] = piece
            rows = multihost_utils.process_allgather(words)
            piece[:] = rows.sum(axis=0, dtype=np.uint32).view(np.uint8)[: len(piece)]
        return leaf

    return jax.tree.map(sum_bytes, tree)


def gathered(*numbers: float) -> np.ndarray:
    """(processes, numbers) float64: what each process gave. Waits for the others."""
    rows = np.zeros((jax.process_count(), len(numbers)))
    rows[jax.process_index()] = numbers
    return total(rows)


def json_of(process: int, value: Any) -> Any:
    """A JSON value as one process has it. Waits for the others."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    is_ours = jax.process_index() == process
    size = int(total(np.int64(len(content) if is_ours else 0)))
    return json.loads(total(content if is_ours else np.zeros(size, np.uint8)).tobytes())


def json_of_first(value: Any) -> Any:
    """A JSON value as the first process has it. Waits for the others."""
    return json_of(0, value)


# What fails in one process fails in all.


def all_do(function: Callable[[], T]) -> T:
    """What the function gives, once it has ended in all processes; it must not wait for them.

    Raises:
      Elsewhere: in all but the first of those in which it raises an exception, which is raised
        there.
    """
    if jax.process_count() == 1:
        return function()
    caught: Exception | None = None
    try:
        result = function()
    except Exception as error:
        caught = error
    status = 0 if caught is None else 2 if isinstance(caught, ConfigError) else 1
    failed = gathered(status)[:, 0]
    if failed.any():
        teller = int(np.argmax(failed > 0))
        if caught is not None and teller == jax.process_index():
            raise caught
        raise Elsewhere(teller, int(failed[teller]))
    return result


def first_does(function: Callable[[], T]) -> T | None:
    """What the function gives in the first process; None in the others, which wait for it.

    Raises:
      Elsewhere: in the others, if it raises an exception there.
    """
    return all_do(function if is_first() else lambda: None)


def must_agree(value: Any, name: str) -> None:
    """Refuses a JSON value that is not the same in all processes. Waits for the others.

    Raises:
      ConfigError: in the first process, with the others' numbers and, of mappings, the entries in
        which the first of these differs.
      Elsewhere: in the others.
    """
    text = json.dumps(value, sort_keys=True)
    (others,) = np.nonzero(gathered(text != json_of_first(text))[:, 0])
    if not len(others):
        return
    theirs = json_of(int(others[0]), json.loads(text))

    def refuse() -> None:
        told = ", ".join(str(i) for i in others)
        where = _apart(theirs, json.loads(text), f"in process {others[0]}")
        raise ConfigError(
            f"config.distributed = True: {name} of process {told} is another than that of "
            f"process 0, must be the same{where}"
        )

    first_does(refuse)


def _apart(theirs: Any, ours: Any, where: str) -> str:
    """The first few entries in which two mappings differ, with both values; '' of other values."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return ""
    names = [n for n in sorted({*theirs, *ours}) if theirs.get(n) != ours.get(n)]
    told = [f"{n} is {_short(theirs.get(n))} {where}, {_short(ours.get(n))} in 0" for n in names]
    more = [f"{len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return ": " + "; ".join(told[:MOST_TOLD] + more)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextlib.contextmanager
def first_holds(held: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """A context that the first process enters and leaves, and for whose entry the others wait."""
    with contextlib.ExitStack() as stack:
        first_does(lambda: stack.enter_context(held))
        yield
