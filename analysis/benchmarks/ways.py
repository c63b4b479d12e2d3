"""Which way to drive and map is fastest on this machine, against plain code and PyTorch?

    python -m analysis.benchmarks.ways [--widths=1,4] [--members=1,3] [--out=ways.json]
        [--config.batch_size=64] [--config.FIELD=VALUE ...]

Trains the members of configs/patch_cifar.py (on the stand-in, with noise in every second member) by
each way of the package (DRIVING:MAPPING), and by the same step without its engine:

    plain:loop      one jitted step a member, called in turn
    plain:unroll    one jit with all members inside
    torch           PyTorch, channels last, members in turn (where it is installed)

The latter three train on one batch that is ready in memory; the package's ways draw, gather and
patch a batch in each step. Every system runs in a process of its own, which gives its peak memory
and lets one fail alone; they take their steps in turns, so that a slow spell of the machine meets
all. Reported are medians over the rounds: milliseconds a member and image, the ratios to the
fastest JAX way and to PyTorch, seconds to compile, MiB.
"""

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from absl import app, flags
from ml_collections import config_flags

WAYS = "dispatch:unroll,dispatch:loop,plain:unroll,plain:loop,torch"

_CONFIG = config_flags.DEFINE_config_file("config", "configs/patch_cifar.py", "Config file.")
_WIDTHS = flags.DEFINE_list("widths", ["1", "4"], "Widen factors.")
_MEMBERS = flags.DEFINE_list("members", ["1", "3"], "Members, all of one seed.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32"], "float32, tf32 (GPU), bfloat16.")
_WAYS = flags.DEFINE_list("ways", WAYS.split(","), "DRIVING:MAPPING, plain:..., torch.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2, "Steps a round.", lower_bound=1)
_SECONDS = flags.DEFINE_integer("seconds", 300, "Limit of one answer of one way.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file for the table.")
_CHILD = flags.DEFINE_string("child", None, "Way to run in this process (used internally).")


def prepare(width: int, members: int, dtype: str) -> Any:
    """The config of one workload, noise in every second member."""
    c = _CONFIG.value.copy_and_resolve_references()
    with c.unlocked():
        c.update({"dataset": "procedural", "num_test": 1, "num_train_eval": 1})
        c.update({"widen_factor": width, "num_seeds": 1, "num_patch_eval": 1})
        c.compute_dtype = "bfloat16" if dtype == "bfloat16" else "float32"
        c.arm = tuple(f"member {i}" for i in range(members))
        c.eta_init = tuple(0.01 * (i + 1) for i in range(members))
        c.rate_factor = c.noise_factor = (1.0,) * members
        c.noise_init = tuple(0.4 * (i % 2) for i in range(members))
    return c


def ours(config: Any, driving: str, mapping: str) -> Any:
    """A function that takes steps with the package's own programs."""
    import jax
    import numpy as np

    from lr_order_jax import spec, sweep

    config.driving, config.mapping = driving, mapping
    parsed = spec.parse(config)
    grid = sweep.make_grid(parsed.problem, parsed.seeds, parsed.common.zipped)
    members = sweep.place_members(parsed.problem, grid, driving, mapping)
    state = jax.tree.map(np.array, sweep.init_state(parsed.problem, grid))
    members.put(state, range(grid.shape[1]))

    def take(start, count):
        members.advance(start, count)
        members.fetch("status")

    return take


def plain(config: Any, mapping: str) -> Any:
    """The same network, optimiser and batches without the package's engine."""
    import jax
    import jax.numpy as jnp

    from lr_order_jax import engine, spec, sweep
    from lr_order_jax.algorithm import nesterov_step

    parsed = spec.parse(config)
    problem: Any = parsed.problem
    grid = sweep.make_grid(problem, parsed.seeds, parsed.common.zipped)
    data = sweep.data_of_seed(grid.data, 0)
    key = engine.stream_key(grid.keys[0], engine.Stream.BATCH)
    data = data._replace(epoch=problem.draw_epoch(data, key, 0))
    model = problem.init(key)
    size, decay, momentum = problem.batch_sizes[0], config.lam[0], config.momentum[0]
    ready = jax.jit(problem.batch, static_argnums=4)(data, None, key, jnp.int32(0), size)

    def one(member, rate, level, t, batch):
        params, stats, velocity = member

        loss = jax.value_and_grad(problem.loss, has_aux=True)
        (_, stats), grads = loss(params, stats, batch, level, jax.random.fold_in(key, t))
        params, velocity = nesterov_step(params, velocity, grads, rate, decay, momentum)
        return params, stats, velocity

    rates = [jnp.float32(rate) for rate in config.eta_init]
    levels = [jnp.float32(level) for level in config.noise_init]
    first = (model.params, model.stats, jax.tree.map(jnp.zeros_like, model.params))
    state = [jax.tree.map(jnp.copy, first) for _ in rates]
    if mapping == "loop":
        step = jax.jit(one, donate_argnums=0)
        every = lambda state, t: [  # noqa: E731
            step(*member, t, ready) for member in zip(state, rates, levels, strict=True)
        ]
    else:
        together = jax.jit(
            lambda state, rates, levels, t, ready: [
                one(*member, t, ready) for member in zip(state, rates, levels, strict=True)
            ],
            donate_argnums=0,
        )
        every = lambda state, t: together(state, rates, levels, t, ready)  # noqa: E731

    def take(start, count):
        nonlocal state
        for t in range(start, start + max(count, 1)):
            state = every(state, jnp.int32(t))
        jax.block_until_ready(state)

    return take


def in_torch(config: Any, dtype: str) -> Any:
    """The network of torch_net.py with SGD, channels last, noise where the arm has it."""
    import torch

    from analysis.benchmarks.torch_net import TorchNet

    if config.depth != 16:
        raise ValueError("the network of torch_net.py has depth 16")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype != "float32"
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    layout = torch.channels_last

    def make() -> Any:
        net: Any = TorchNet(config.widen_factor).to(device)
        return net.to(memory_format=layout)

    nets = [make() for _ in config.eta_init]
    optimisers = [
        torch.optim.SGD(
            net.parameters(), rate, config.momentum[0], weight_decay=config.lam[0], nesterov=True
        )
        for net, rate in zip(nets, config.eta_init, strict=True)
    ]
    side, size = config.side, config.batch_size
    images = torch.randn(size, 3, side, side, device=device)
    images = images.contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (size,), device=device)

    def take(start, count):
        for _ in range(max(count, 1)):
            for net, optimiser, level in zip(nets, optimisers, config.noise_init, strict=True):
                optimiser.zero_grad()
                with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                    loss = torch.nn.functional.cross_entropy(net(images, level), labels)
                loss.backward()
                optimiser.step()
        if gpu:
            torch.cuda.synchronize()

    return take


def child(way: str, width: int, members: int, dtype: str) -> None:
    """Prepares one way, then answers each line "START COUNT" by the seconds it took."""
    config = prepare(width, members, dtype)
    start = time.perf_counter()
    if way == "torch":
        take = in_torch(config, dtype)
    else:
        import jax

        if dtype == "float32":
            jax.config.update("jax_default_matmul_precision", "highest")
        kind, mapping = way.split(":")
        take = plain(config, mapping) if kind == "plain" else ours(config, kind, mapping)
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
    """A way running in a process of its own. It is dead once it gave no answer in time."""

    def __init__(self, way: str, arguments: list[str]):
        command = [sys.executable, "-m", "analysis.benchmarks.ways", *arguments, f"--child={way}"]
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        pipe = subprocess.PIPE
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self.process: Any = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, env=environment
        )
        self.alive = True

    def answer(self, *question: int) -> dict | None:
        """What it says, to numbers if any are given; None if it is dead."""
        if not self.alive:
            return None
        timer = threading.Timer(_SECONDS.value, self.process.kill)
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
        return lines[-1] if lines else f"no answer within {_SECONDS.value} s"


def workload(width: int, members: int, dtype: str) -> list[dict[str, Any]]:
    """A row for each way: compiled one after the other, then timed in turns."""
    passed = [a for a in sys.argv[1:] if a.startswith("--config")]
    passed += [f"--widths={width}", f"--members={members}", f"--dtypes={dtype}"]
    children: dict[str, Child] = {}
    rows: dict[str, dict[str, Any]] = {}
    for way in _WAYS.value:
        children[way] = Child(way, passed)
        rows[way] = {"way": way, "seconds": [], **(children[way].answer() or {})}
    for i in range(_ROUNDS.value):
        for way, running in children.items():
            if told := running.answer(1 + i * _STEPS.value, _STEPS.value):
                rows[way]["seconds"].append(told["seconds"])
                rows[way]["mib"] = told["mib"]
    images = members * _CONFIG.value.batch_size * _STEPS.value
    table: list[dict[str, Any]] = []
    for way, running in children.items():
        row = {"width": width, "members": members, "dtype": dtype, **rows[way]}
        was_alive, error = running.alive, running.close()
        if was_alive:
            row["ms_a_member_image"] = 1e3 * statistics.median(row["seconds"]) / images
        else:
            row["error"] = error
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
        if _OUT.value:
            with open(_OUT.value, "w") as file:
                json.dump(table, file, indent=2)


if __name__ == "__main__":
    app.run(main)
