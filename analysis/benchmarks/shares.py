"""What the threads of a CPU do in a step, from a profile: convolutions, products, what is around.

    python -m analysis.benchmarks.shares [--workloads=wrn-1-1,wrn-4-1,large-32] [--steps=5]

The workloads are some of `suite` (by default these), run by the package in its default way. A row
is a kind of operation: its share of all the time in which a thread was in an operation, and
milliseconds a step of one member (of all threads together). What a call of YNNPACK computes is read
from the compiled program, which XLA is asked to write beside the profile.
"""

import collections
import gzip
import json
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from absl import app, flags

from analysis.benchmarks import suite, turns

_STEPS = flags.DEFINE_integer("steps", 5, "Steps in the profile.", lower_bound=1)

DEFAULT = ("wrn-1-1", "wrn-4-1", "large-32")
KINDS = (  # of an operation, by the first that its name or what it calls contains
    ("convolution", ("conv",)),
    ("product", ("dot",)),
    ("transposition or copy", ("transpose", "copy")),
    ("reduction", ("reduce",)),
)


def calls_of(program: str) -> dict[str, str]:
    """What each call of YNNPACK in a compiled program computes: name -> text of its operations."""
    bodies: dict[str, str] = {}
    inside, calls = "", {}
    for line in program.splitlines():
        if start := re.match(r"(?:ENTRY )?%?(\S+) \(.*-> .*\{", line):
            inside = start.group(1)
        bodies[inside] = bodies.get(inside, "") + line + "\n"
        if call := re.search(r"%(ynn_\S+) = .* calls=%([^,\s]+)", line):
            calls[call.group(1)] = call.group(2)
    return {name: bodies.get(body, "") for name, body in calls.items()}


def kind_of(name: str, called: str | None) -> str:
    """The kind of an operation of a profile, from what it calls if it is a call of YNNPACK."""
    if called is not None:
        found = re.findall(r" (convolution|dot|transpose|copy|reduce)\(", called)
        name = found[0] if found else name
    for kind, parts in KINDS:
        if any(part in name for part in parts) and "convert" not in name:
            return kind
    return "elementwise and other"


def durations(events: Iterable[Mapping[str, Any]], calls: Mapping[str, str]) -> dict[str, float]:
    """Microseconds of each kind over all threads, from the events of a trace. The names of `calls`
    are "program/operation"."""
    total: collections.Counter[str] = collections.Counter()
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        # A loop's time is that of what is inside.
        if event.get("ph") == "X" and operation and not operation.startswith("while"):
            called = calls.get(f"{event['args'].get('hlo_module')}/{operation}")
            total[kind_of(operation, called)] += event["dur"]
    return dict(total)


def profile(workload: str, folder: pathlib.Path) -> dict[str, float]:
    """`durations` of some steps of a workload, which is compiled here with its program written."""
    import jax

    take = suite.make(workload, "ours")
    take(0, 0)
    take(0, 2)
    with jax.profiler.trace(str(folder)):
        take(2, _STEPS.value)
    (trace,) = folder.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    modules = {e["args"]["hlo_module"] for e in events if "hlo_module" in e.get("args", {})}
    calls: dict[str, str] = {}
    for module in modules:
        paths = folder.glob(f"module_*.{module}.*cpu_after_optimizations.txt")
        found = [of_program for path in paths if (of_program := calls_of(path.read_text()))]
        if len(found) > 1:  # names of operations would not tell them apart
            raise RuntimeError(f"{workload}: has {len(found)} programs {module}")
        for of_program in found:
            calls |= {f"{module}/{name}": text for name, text in of_program.items()}
    return durations(events, calls)


def main(argv: list[str]) -> None:
    del argv
    asked = turns.asked(suite.WORKLOADS_FLAG, suite.WORKLOADS)
    for workload in asked if suite.WORKLOADS_FLAG.present else DEFAULT:
        child = os.fork()  # XLA's flags are read once in a process
        if child:
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                sys.exit(1)
            continue
        with tempfile.TemporaryDirectory() as name:
            dump = f"--xla_dump_to={name} --xla_dump_hlo_as_text"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump}"
            found = profile(workload, pathlib.Path(name))
        steps = _STEPS.value * suite.members_of(workload)
        for kind, time in sorted(found.items(), key=lambda item: -item[1]):
            share = time / sum(found.values())
            print(
                f"{workload:<12} {kind:<24} {share:6.1%} {1e-3 * time / steps:10.3f} ms", flush=True
            )
        return


if __name__ == "__main__":
    app.run(main)
