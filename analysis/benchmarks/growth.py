"""How the cost of a two-layer sweep grows: time a step and memory against each of its sizes.

    python -m analysis.benchmarks.growth [--axes=members,m_v] [--rounds=3] [--seconds=1]
                                         [--out=growth.json]

From configs/sweep.py with m_v = 2000, 8 rates and one seed, one size at a time is changed: the
members (up to 8 as rates of one seed, then as seeds of 8 rates), the width m_v of V, dimension d,
examples n; or how many steps are taken at once. Each point is a process of its own; a round goes
over all points in turn, and medians over rounds are reported. Printed, written as JSON (--out) and
drawn beside it are

    ms        a step of all members; for the steps, all of them together
    slope     of log time between this point and the one before it: 1 is linear
    MiB       peak memory beyond that of a process that only has its libraries loaded
    planned   what the package plans for the same before a run, host copies left out
"""

import itertools
import json
import math
import pathlib
import statistics
import sys
import time
from typing import Any

from absl import app, flags

from analysis.benchmarks import turns, two_layer
from analysis.benchmarks.two_layer import RATES

_AXES = flags.DEFINE_list("axes", None, "Of members, m_v, d, n, steps; all by default.")
_POINT = flags.DEFINE_list("point", None, "AXIS,VALUE to measure here (used internally).")

BASE: dict[str, Any] = {"num_seeds": 1, "m_v": (2000,), "eta_init": RATES}
AXES: dict[str, tuple[int, ...]] = {
    "members": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "m_v": (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "d": (50, 100, 200, 400, 800, 1600),
    "n": (50, 100, 200, 400, 800, 1600),
    "steps": (1, 10, 100, 1000),
}


def config_of(axis: str, value: int) -> dict[str, Any]:
    """The config of one point."""
    values = two_layer.endless("sweep") | BASE
    if axis == "members":
        values |= {"eta_init": RATES[:value], "num_seeds": max(1, value // len(RATES))}
    elif axis != "steps":
        values[axis] = (value,)
    return values | {"eta_2": values["eta_init"][-1:]}


def measure_point(axis: str, value: int) -> dict[str, float]:
    """Time and memory of one point, in this process."""
    import jax.numpy as jnp

    jnp.zeros(1).block_until_ready()
    before = turns.peak_mib()
    members, state = turns.placed(config_of(axis, value))
    planned = members.memory(state, range(state.status.shape[1]))
    del state
    steps = turns.stepping(members)

    def take(start: int, count: int) -> float:
        begun = time.perf_counter()
        steps(start, count)
        return time.perf_counter() - begun

    take(0, 0)
    take(0, 1)
    count = value if axis == "steps" else max(1, round(turns.SECONDS.value / take(1, 1)))
    seconds = statistics.median(take(2 + i * count, count) for i in range(3))
    return {
        "ms": 1e3 * seconds / (1 if axis == "steps" else count),
        "mib": turns.peak_mib() - before,
        "planned": planned / 2**20,
    }


def in_a_process(axis: str, value: int) -> dict[str, float]:
    """`measure_point` in a process of its own.

    Raises:
      RuntimeError: with its last line, if it fails.
    """
    arguments = [f"--point={axis},{value}", f"--seconds={turns.SECONDS.value}"]
    child = turns.Child("analysis.benchmarks.growth", arguments, turns.LIMIT.value)
    told, error = child.answer(), child.close()
    if told is None:
        raise RuntimeError(f"{axis} = {value}: {error}")
    return told


def slopes(rows: list[dict[str, Any]]) -> None:
    """Adds each row's slope against the one before it on the same axis."""
    for before, now in itertools.pairwise(rows):
        if before["axis"] == now["axis"]:
            times = math.log(now["ms"] / before["ms"])
            now["slope"] = times / math.log(now["value"] / before["value"])


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """A panel an axis: time (left, dashed: linear) and memory, measured and planned."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["axis"] for row in rows))
    figure = Figure(figsize=(3.2 * len(names), 5.5), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        of_axis = [row for row in rows if row["axis"] == name]
        x = [row["value"] for row in of_axis]
        upper, lower = panels[:, column]
        upper.loglog(x, [row["ms"] for row in of_axis], "o-", color="C0")
        upper.loglog(x, [of_axis[-1]["ms"] * v / x[-1] for v in x], "--", color="0.6")
        lower.loglog(x, [row["mib"] for row in of_axis], "o-", color="C1", label="peak")
        lower.loglog(x, [row["planned"] for row in of_axis], "s:", color="C2", label="planned")
        upper.set_ylabel("all of them, ms" if name == "steps" else "a step, ms")
        lower.set_ylabel("memory, MiB")
        lower.set_xlabel(name)
    panels[1, 0].legend()
    figure.savefig(path, dpi=150)


FORM = "{:<8} {:>9} {:>10} {:>6} {:>8} {:>8}"


def main(argv: list[str]) -> None:
    del argv
    if asked := _POINT.value:
        print(json.dumps(measure_point(asked[0], int(asked[1]))))
        return
    points = [(name, value) for name in turns.asked(_AXES, AXES) for value in AXES[name]]
    found: dict[tuple[str, int], list[dict[str, float]]] = {point: [] for point in points}
    for number in range(turns.ROUNDS.value):
        for point in points:
            found[point].append(in_a_process(*point))
        print(f"round {number + 1} of {turns.ROUNDS.value}", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for (name, value), takes in found.items():
        medians = {key: statistics.median(take[key] for take in takes) for key in takes[0]}
        rows.append({"axis": name, "value": value, **medians})
    slopes(rows)
    print(FORM.format("axis", "value", "ms", "slope", "MiB", "planned"))
    for row in rows:
        slope = f"{row['slope']:.2f}" if "slope" in row else ""
        numbers = (f"{row['ms']:.3f}", slope, f"{row['mib']:.0f}", f"{row['planned']:.0f}")
        print(FORM.format(row["axis"], row["value"], *numbers))
    turns.write_table(rows)
    if turns.OUT.value:
        draw(rows, pathlib.Path(turns.OUT.value).with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
