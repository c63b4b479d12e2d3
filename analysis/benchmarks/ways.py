"""Which way to drive and map is fastest on this machine, against plain code and PyTorch?

    python -m analysis.benchmarks.ways [--widths=1,4] [--members=1,3] [--out=ways.json]
        [--config.batch_size=64] [--config.FIELD=VALUE ...]

Trains the members of configs/patch_cifar.py (on the stand-in, with noise in every second member) by
each way of `networks.py`. Every system runs in a process of its own, which gives its peak memory
and lets one fail alone; they take their steps in turns, so that a slow spell of the machine meets
all. Reported are medians over the rounds: milliseconds a member and image, the ratios to the
fastest JAX way and to PyTorch, seconds to compile, MiB.
"""

import itertools
import statistics
import sys
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from analysis.benchmarks import networks, turns

WAYS = "dispatch:unroll,dispatch:loop,plain:unroll,plain:loop,torch"

_CONFIG = config_flags.DEFINE_config_file("config", "configs/patch_cifar.py", "Config file.")
_WIDTHS = flags.DEFINE_list("widths", ["1", "4"], "Widen factors.")
_MEMBERS = flags.DEFINE_list("members", ["1", "3"], "Members, all of one seed.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32"], "float32, tf32 (GPU), bfloat16.")
_WAYS = flags.DEFINE_list("ways", WAYS.split(","), "DRIVING:MAPPING, plain:..., torch.")
_STEPS = flags.DEFINE_integer("steps", 2, "Steps a round.", lower_bound=1)
_CHILD = flags.DEFINE_string("child", None, "Way to run in this process (used internally).")


def child(way: str, width: int, members: int, dtype: str) -> None:
    """Prepares one way, then answers each line "START COUNT" by the seconds it took."""
    config = networks.prepare(_CONFIG.value, width, members, dtype)
    turns.serve(lambda: networks.make(way, config, dtype))


def workload(width: int, members: int, dtype: str) -> list[dict[str, Any]]:
    """A row for each way."""
    passed = [a for a in sys.argv[1:] if a.startswith("--config")]
    passed += [f"--widths={width}", f"--members={members}", f"--dtypes={dtype}"]
    children = {
        way: turns.Child("analysis.benchmarks.ways", [*passed, f"--child={way}"], turns.LIMIT.value)
        for way in _WAYS.value
    }
    rows = turns.measure(children, turns.ROUNDS.value, lambda way, child: _STEPS.value)
    images = members * _CONFIG.value.batch_size
    table: list[dict[str, Any]] = []
    for way, row in rows.items():
        row = {"width": width, "members": members, "dtype": dtype, "way": way, **row}
        if "error" not in row:
            row["ms_a_member_image"] = 1e3 * statistics.median(row["seconds"]) / images
        table.append(row)
    times = {row["way"]: row["ms_a_member_image"] for row in table if "error" not in row}
    bases = {"to_fastest": min((v for w, v in times.items() if w != "torch"), default=None)}
    bases["to_torch"] = times.get("torch")
    for row in table:
        for name, base in bases.items():
            row[name] = times[row["way"]] / base if base and row["way"] in times else None
    return table


FORMS = ("{:>5}", "{:>7}", "{:>8}", "{:<16}", "{:>15}", "{:>8}", "{:>6}", "{:>9}", "{:>7}")
HEAD = [
    *("width", "members", "dtype", "way", "ms/member-image"),
    *("/fastest", "/torch", "compile,s", "MiB"),
]


def line(values: Any) -> str:
    return " ".join(form.format(value) for form, value in zip(FORMS, values, strict=True))


def main(argv: list[str]) -> None:
    widths, members = ([int(v) for v in flag.value] for flag in (_WIDTHS, _MEMBERS))
    if _CHILD.value:
        child(_CHILD.value, widths[0], members[0], _DTYPES.value[0])
        return
    print(line(HEAD), flush=True)
    table: list[dict[str, Any]] = []
    for dtype, width, count in itertools.product(_DTYPES.value, widths, members):
        for row in workload(width, count, dtype):
            table.append(row)
            first = [row["width"], row["members"], row["dtype"], row["way"]]
            if "error" in row:
                print(line([*first, "failed", "", "", "", ""]), row["error"], flush=True)
                continue
            ratios = [
                "-" if row[n] is None else f"{row[n]:.2f}" for n in ("to_fastest", "to_torch")
            ]
            numbers = [f"{row['ms_a_member_image']:.4f}", *ratios]
            print(
                line([*first, *numbers, f"{row['compile']:.1f}", f"{row['mib']:.0f}"]), flush=True
            )
        turns.write_table(table)


if __name__ == "__main__":
    app.run(main)
