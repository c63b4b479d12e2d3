"""What a sweep takes of memory, what there is, and how many members fit at once."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lr_order_jax.fields import ConfigError

SHARE = 0.8
"""Of the memory that is free a sweep takes at most this share."""

HOST_COPIES = 3
"""Of the state of a process's members: the one kept on its host, and those made while a checkpoint
is written."""


def size_of(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(np.dtype(leaf.dtype).itemsize * leaf.size for leaf in jax.tree.leaves(tree))


def of_program(program: Any) -> int:
    """Bytes that a compiled program takes, all it is given included, as the compiler plans it."""
    plan = program.memory_analysis()
    taken = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    return taken + plan.output_size_in_bytes - plan.alias_size_in_bytes


def refuse_beyond(free: int | None, taken: int, what: str) -> None:
    """Refuses what surely does not fit, before it is allocated: the system would kill the process.

    Raises:
      ConfigError: if `taken` bytes are more than are free; None: this is not known.
    """
    if free is not None and taken > free:
        raise ConfigError(
            f"this config needs more memory than there is: {human(taken)} for {what}, of "
            f"{human(free)} that are free; reduce sizes, widths or members"
        )


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the host or on a device."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    return isinstance(error, MemoryError)


def free_on_host() -> int | None:
    """Bytes that a process can still take, within its control group too; None where Linux does not
    tell."""
    found = []
    try:
        text = pathlib.Path("/proc/meminfo").read_text()
        lines = dict(line.split(":", 1) for line in text.splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
        group = pathlib.Path("/sys/fs/cgroup")
        most, now = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        found.append(int(most) - int(now))
    except (OSError, ValueError, KeyError):
        pass  # no limit of a group, or no Linux
    return min(found, default=None)


def devices_share_the_host() -> bool:
    """Whether the devices have no memory of their own."""
    return jax.local_devices()[0].platform == "cpu"


def free_on_device() -> int | None:
    """Bytes free on the first device; those of the host if it is the CPU. None if not known."""
    if devices_share_the_host():
        return free_on_host()
    told = jax.local_devices()[0].memory_stats() or {}
    return told["bytes_limit"] - told["bytes_in_use"] if "bytes_limit" in told else None


def columns_that_fit(need: Callable[[int], int], count: int, free: int | None) -> int:
    """How many of `count` columns (a member of each seed) fit into `free` bytes at once.

    Args:
      need: bytes of so many columns; asked for all of them first, as it compiles.

    Raises:
      ConfigError: if not even one fits.
    """
    if free is None:
        return count
    most, taken = SHARE * free, need(count)
    while taken > most:
        if count == 1:
            raise ConfigError(
                f"this config takes {human(taken)} for one member of each seed, of "
                f"{human(most)} that it may take here: reduce sizes, widths or seeds"
            )
        count = max(1, min(count - 1, int(count * most / taken)))
        taken = need(count)
    return count


def human(count: float) -> str:
    """A number of bytes as it is read: "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
