"""Systems timed in turns: each in a process of its own, so that a slow spell of the machine meets
all, each has its own peak memory, and one can fail alone.

A child says one JSON line when it is prepared, then answers each line "START COUNT" with the
seconds that steps [START, START + COUNT) took and its peak memory.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import app, flags

ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 1.0, "About how long a round of one system is.")
LIMIT = flags.DEFINE_float("limit", 600.0, "Seconds within which a system must answer.")
OUT = flags.DEFINE_string("out", None, "JSON file for the table.")

Take = Callable[[int, int], Any]
"""Takes steps [start, start + count) and waits for them; a count of 0 compiles."""


def serve(make: Callable[[], Take]) -> None:
    """The side of the child. Seconds to prepare and to compile go into its first line."""
    start = time.perf_counter()
    take = make()
    prepared = time.perf_counter()
    take(0, 0)
    take(0, 1)
    told = {"prepare": prepared - start, "compile": time.perf_counter() - prepared}
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        first, count = map(int, line.split())
        start = time.perf_counter()
        take(first, count)
        print(json.dumps({"seconds": time.perf_counter() - start, "mib": peak_mib()}), flush=True)


def asked(flag: Any, allowed: Iterable[str]) -> list[str]:
    """The names of a list flag; all that are allowed if it is not given.

    Raises:
      app.UsageError: if one is not allowed.
    """
    allowed = list(allowed)
    for name in flag.value or ():
        if name not in allowed:
            raise app.UsageError(f"--{flag.name}={name}: must be of {', '.join(allowed)}")
    return flag.value or allowed


def write_table(rows: Sequence[dict[str, Any]]) -> None:
    """The rows so far as JSON, where --out names a file."""
    if OUT.value:
        pathlib.Path(OUT.value).write_text(json.dumps(rows, indent=2))


def placed(config: Any) -> tuple[Any, Any]:
    """The members of a config before the first step, on the device, and their state on the host."""
    from lr_order_jax import placement, spec, sweep

    parsed = spec.parse(config)
    grid = sweep.make_grid(parsed.problem, parsed.seeds, parsed.common.zipped)
    members = placement.place_members(parsed.problem, grid, *parsed.ways)
    state = sweep.init_state(parsed.problem, grid)
    members.put(state, range(grid.shape[1]))
    return members, state


def stepping(members: Any) -> Take:
    """Takes steps of members that are placed."""

    def take(start, count):
        members.advance(start, count)
        members.fetch("status")  # waits

    return take


def ours(config: Any, driving: str | None = None, mapping: str | None = None) -> Take:
    """The package's own programs; in its default way unless one is named."""
    how = {"driving": driving, "mapping": mapping}
    return stepping(placed({**dict(config.items()), **how})[0])


def peak_mib() -> float:
    """Peak memory of this process: the accelerator's where there is one, else resident memory."""
    if "jax" in sys.modules:
        import jax

        if (told := jax.local_devices()[0].memory_stats()) and "peak_bytes_in_use" in told:
            return told["peak_bytes_in_use"] / 2**20
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class Child:
    """A system running in a process of its own. It is dead once it gave no answer in time."""

    def __init__(self, module: str, arguments: Sequence[str], seconds: float):
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        pipe = subprocess.PIPE
        self.seconds = seconds
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self.process: Any = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=pipe, stdout=pipe, stderr=self.errors, text=True, env=environment,
        )  # fmt: skip
        self.alive = True

    def answer(self, *question: int) -> dict | None:
        """What it says, to numbers if any are given; None if it is dead."""
        if not self.alive:
            return None
        timer = threading.Timer(self.seconds, self.process.kill)
        timer.start()
        try:
            if question:
                print(*question, file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (ValueError, BrokenPipeError):
            self.alive = False
            return None
        finally:
            timer.cancel()

    def close(self) -> str:
        """Ends it; returns the last line of its errors."""
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        self.errors.close()
        return lines[-1] if lines else f"no answer within {self.seconds:g} s"


def measure(
    children: dict[str, Child], rounds: int, steps: Callable[[str, Child], int]
) -> dict[str, dict[str, Any]]:
    """A row for each child: compiled one after the other, then timed in turns.

    Args:
      steps: name and child -> steps a round; called once all are compiled, and may ask the child.

    Returns:
      {name: {prepare, compile, steps, mib, seconds: a step, one a round}}, with `error` in the
      place of what failed.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, child in children.items():
        rows[name] = {"seconds": [], **(child.answer() or {})}
    for name, child in children.items():
        rows[name]["steps"] = steps(name, child)
    for i in range(rounds):
        for name, child in children.items():
            count = rows[name]["steps"]
            if told := child.answer(1 + i * count, count):
                rows[name]["seconds"].append(told["seconds"] / count)
                rows[name]["mib"] = told["mib"]
    for name, child in children.items():
        was_alive, error = child.alive, child.close()
        if not was_alive:
            rows[name]["error"] = error
    return rows
