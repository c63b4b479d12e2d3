"""One table: the package's sweeps beside what its users would otherwise write, on this machine.

    python -m analysis.benchmarks.suite [--workloads=large-32,default-20k] [--systems=ours,jax:vmap]
                                        [--rounds=5] [--seconds=1] [--out=suite.json]

Workloads, noise on in all of them:

    small-M, large-M    two-layer sweeps of M = 8, 32, 128 members (8 rates, M/8 seeds), V in all d
                        dimensions: N = 250, d = m = 64; N = d = 400, m = 512
    default-20k, -100k  configs/sweep.py (30 members), planar V of that many units and g by three
                        directions on all sides
    lazy                configs/lazy_limit.py (30 members)
    wrn-W-M             WideResNet-16-W of configs/patch_cifar.py, M members, batch 64 of 32x32

Systems: `ours` is what the package does by default, `products` the matrix products of W in that
and nothing else; the others are in `two_layer.py` and `networks.py` here. Each runs in a process of
its own and they take turns. Reported are, as medians over the rounds,

    ms        a step of one member
    /ours     this time over ours
    GFLOP/s   executed: operations of the matrix products that the system does, over the time. The
              package leaves out examples without P pattern, and knows g on all of Q from three
              directions, where V is in all d dimensions too
    done      share of the operations that multiplying all rows takes
    of peak   executed, over the best product of two 1536 x 1536 matrices in the same turns
    compile   seconds before the second step
    MiB       peak memory of the process

Executed operations are those of matrix products only, and are not counted for networks and `lazy`.
"""

import math
import runpy
import statistics
from typing import Any

from absl import app, flags

from analysis.benchmarks import networks, turns, two_layer

WORKLOADS_FLAG = flags.DEFINE_list("workloads", None, "Names as above; all by default.")
_SYSTEMS = flags.DEFINE_list("systems", None, "Names as in the table; all by default.")
_CHILD = flags.DEFINE_list("child", None, "WORKLOAD,SYSTEM to run here (used internally).")

SIDE = 1536  # of the square matrices whose product is the peak


def _shapes(n: int, d: int, m: int) -> dict[str, Any]:
    return {"n": (n,), "d": (d,), "m_w": (m,), "m_v": (m,), "v_representation": "ambient"}


SIZES = {"small": _shapes(250, 64, 64), "large": _shapes(400, 400, 512)}
WORKLOADS: dict[str, tuple[str, ...]] = {
    **{
        f"{size}-{m}": ("ours", "products", *two_layer.SYSTEMS)
        for size in SIZES
        for m in (8, 32, 128)
    },
    **{f"default-{k}k": ("ours", *two_layer.SYSTEMS) for k in (20, 100)},
    "lazy": ("ours", "scan:map", "dispatch:loop"),
    **{
        f"wrn-{w}-{m}": ("ours", "plain:loop", "plain:unroll", "torch:contiguous", "torch")
        for w in (1, 4)
        for m in (1, 4)
    },
}


def config_of(workload: str) -> dict[str, Any]:
    """The config of a two-layer or lazy workload, whose members do not end."""
    kind, _, number = workload.partition("-")
    file = "lazy_limit" if kind == "lazy" else "sweep"
    values = two_layer.endless(file)
    if kind == "default":
        values["m_v"] = (1000 * int(number[:-1]),)
    if kind in SIZES:
        rates = two_layer.RATES
        values |= SIZES[kind] | {"eta_init": rates, "eta_2": rates[-1:]}
        values["num_seeds"] = int(number) // len(rates)
    return values


def peak(library: str) -> turns.Take:
    """Products of two square matrices."""
    if library == "jax":
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_default_matmul_precision", "highest")
        a, product = jnp.ones((SIDE, SIDE)), jax.jit(jnp.matmul)
        return lambda start, count: [product(a, a).block_until_ready() for _ in range(count)]
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(SIDE, SIDE, device=device)

    def take(start, count):
        for _ in range(count):
            matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()

    return take


def make(workload: str, system: str) -> turns.Take:
    """The system on the workload."""
    if system.startswith("peak:"):
        return peak(system.partition(":")[2])
    if workload.startswith("wrn-"):
        _, width, members = workload.split("-")
        whole = runpy.run_path("configs/patch_cifar.py")["get_config"]()
        whole.batch_size, whole.num_train = 64, 6400  # no short last batch: it is a program more
        config = networks.prepare(whole, int(width), int(members), "float32")
        return networks.make(system, config, "float32")
    config = config_of(workload)
    if system == "ours":
        return turns.ours(config)
    if workload == "lazy":
        return turns.ours(config, *system.split(":"))
    if system == "products":
        return two_layer.products(config)
    return two_layer.make(system, two_layer.sweep_of(config))


def executed(system: str, config: dict[str, Any], rows: int) -> tuple[float, float]:
    """Operations of the matrix products of one member's step: those done, and those of all rows.
    The package multiplies x1 of so many `rows`."""
    d, n, m_w, m_v = (config[name][0] for name in ("d", "n", "m_w", "m_v"))
    planar = config["v_representation"] == "planar"  # three directions on all sides
    of_directions = 4 * 3 * (2 if planar else d) * m_v
    whole = 4 * n * d * m_w + (of_directions if planar else 4 * n * d * m_v)
    with_p = 4 * rows * d * m_w
    done = {"ours": with_p + of_directions, "products": with_p}
    return done.get(system, whole), whole


def members_of(workload: str) -> int:
    """How many members a workload trains."""
    if workload.startswith(("small", "large", "wrn")):
        return int(workload.split("-")[-1])
    return 30


def systems_of(workload: str) -> list[str]:
    """Those asked for of the systems of a workload."""
    asked = _SYSTEMS.value
    return [system for system in WORKLOADS[workload] if asked is None or system in asked]


def measure(workload: str) -> list[dict[str, Any]]:
    """A row for each system."""
    systems = (*systems_of(workload), "peak:jax", "peak:torch")
    module = "analysis.benchmarks.suite"
    children = {
        system: turns.Child(module, [f"--child={workload},{system}"], turns.LIMIT.value)
        for system in systems
    }

    def steps(system: str, child: turns.Child) -> int:
        child.answer(1, 2)  # a scan compiles anew for each length
        told = child.answer(3, 2)
        count = max(1, round(2 * turns.SECONDS.value / told["seconds"])) if told else 1
        child.answer(5, count)
        return count

    rows = turns.measure(children, turns.ROUNDS.value, steps)
    median = {name: statistics.median(r["seconds"]) for name, r in rows.items() if r["seconds"]}
    best = max(2 * SIDE**3 / median[name] for name in systems if name in median and "peak" in name)
    members = members_of(workload)
    is_counted = not workload.startswith(("wrn", "lazy"))
    config = config_of(workload) if is_counted else {}
    with_p = two_layer.rows_with_p(config) if is_counted else 0
    table = []
    for system in systems_of(workload):
        row = {"workload": workload, "system": system, "members": members, **rows[system]}
        if system in median and "error" not in row:
            seconds = median[system]
            row |= {
                "ms": 1e3 * seconds / members,
                "to_ours": seconds / median.get("ours", math.nan),
            }
            if is_counted:
                done, whole = executed(system, config, with_p)
                row |= {"flops": done * members / seconds, "done": done / whole}
                row |= {"peak_flops": best, "of_peak": row["flops"] / best}
        table.append(row)
    return table


FORMS = ("{:<12}", "{:<16}", "{:>9}", "{:>7}", "{:>8}", "{:>6}", "{:>8}", "{:>8}", "{:>6}")
HEAD = ["workload", "system", "ms", "/ours", "GFLOP/s", "done", "of peak", "compile", "MiB"]


def line(values: Any) -> str:
    return " ".join(form.format(value) for form, value in zip(FORMS, values, strict=True))


def told(row: dict[str, Any]) -> str:
    """The line of one row."""
    if "error" in row or "ms" not in row:
        failed = [row["workload"], row["system"], "failed", *[""] * 6]
        return f"{line(failed)} {row.get('error', 'no answer')}"
    counted = ["-", "-", "-"]
    if "flops" in row:
        counted = [f"{row['flops'] / 1e9:.0f}", f"{row['done']:.2f}", f"{row['of_peak']:.2f}"]
    numbers = [f"{row['ms']:.3f}", f"{row['to_ours']:.2f}", *counted]
    ends = [f"{row['compile']:.1f}", f"{row['mib']:.0f}"]
    return line([row["workload"], row["system"], *numbers, *ends])


def main(argv: list[str]) -> None:
    del argv
    if child := _CHILD.value:
        turns.serve(lambda: make(*child))
        return
    print(line(HEAD), flush=True)
    table: list[dict[str, Any]] = []
    for name in turns.asked(WORKLOADS_FLAG, WORKLOADS):
        for row in measure(name):
            table.append(row)
            print(told(row), flush=True)
        turns.write_table(table)


if __name__ == "__main__":
    app.run(main)
