"""The two-layer sweep as its users would write it without this package, in JAX and in PyTorch.

Each system is a function (`Sweep`) -> take(start, count), which takes steps of (3.1)-(3.2) for all
members and leaves their weights in `Sweep.weights`. Members differ in rate and seed; each draws
noise of its own.

    jax:steps     one jitted step, called for each member and step
    jax:scan      a jitted scan over steps, called for each member
    jax:vmap      vmap of that scan over the members: one program
    torch:loop    autograd and an update in place, for each member and step
    torch:vmap    torch.func: vmap of grad over stacked members, a step at a time
    torch:compile the same, compiled
"""

import dataclasses
import functools
import runpy
from typing import Any

import numpy as np

SYSTEMS = ("jax:steps", "jax:scan", "jax:vmap", "torch:loop", "torch:vmap", "torch:compile")


@dataclasses.dataclass
class Sweep:
    """A sweep in host arrays, float32: M members, N examples, d dimensions of each block."""

    rates: np.ndarray  # (M,)
    seeds: np.ndarray  # (M,) index of each member's seed
    lam: float
    tau_xi: dict[str, float]  # by block
    x1: np.ndarray  # (S, N, d)
    x2: np.ndarray  # (S, N, d); for planar V (S, N, 3), coefficients over the three directions
    directions: np.ndarray | None  # for planar V: (3, 2) in its plane, and g(alpha v) = alpha g(v)
    y: np.ndarray  # (S, N)
    second: dict[str, np.ndarray]  # "W", "V": (S, m) second layer of each block
    weights: Any  # "W", "V": (M, m, d) initial weights, (M, m, 2) for planar V; then the present


def sweep_of(config: Any) -> Sweep:
    """The sweep of a config of `two_layer` with eta_init and seeds as its only axes."""
    import jax

    from lr_order_jax import spec, sweep
    from lr_order_jax.problems.synthetic import of_all

    parsed = spec.parse(config)
    c: Any = parsed.problem.fields
    grid = sweep.make_grid(parsed.problem, parsed.seeds, ())
    state = sweep.init_state(parsed.problem, grid)
    train = grid.data.own.train
    x2, directions, v = np.asarray(train.q_coefficients), None, state.params["V"]
    if isinstance(v, dict):
        directions = np.array([[1, 0], [1, c.r], [1, -c.r]], np.float32)
        v = np.stack([v["z"], v["zeta"]], axis=-2)
    else:
        x2 = x2 @ np.asarray(grid.data.own.directions)

    def members(leaf):
        """(S, H, d, m) -> (M, m, d), contiguous: PyTorch would keep the strides of a view."""
        return np.ascontiguousarray(np.swapaxes(leaf.reshape(-1, *leaf.shape[2:]), 1, 2))

    hypers = grid.hypers
    tau_xi = hypers.tau_xi or dict.fromkeys(("W", "V"), np.zeros((1, 1)))  # None: no noise
    return Sweep(
        rates=np.array([value["eta_init"] for value in grid.members] * len(parsed.seeds)),
        seeds=np.repeat(np.arange(len(parsed.seeds)), len(grid.members)),
        lam=float(hypers.weight_decay[0, 0]),
        tau_xi={name: float(tau[0, 0]) for name, tau in tau_xi.items()},
        x1=np.asarray(jax.vmap(lambda x1: of_all(x1, c.n))(train.x1)),  # they multiply all rows
        x2=x2,
        directions=directions,
        y=np.asarray(train.y),
        second={"W": state.stats["w"][:, 0], "V": state.stats["v"][:, 0]},
        weights={"W": members(state.params["W"]), "V": members(v)},
    )


RATES = tuple(0.2 / 2**i for i in range(8))


def endless(file: str) -> dict[str, Any]:
    """The values of a config of the synthetic problems, whose members do not end."""
    values = dict(runpy.run_path(f"configs/{file}.py")["get_config"]().items())
    return values | {"num_test": 1, "num_records": 1, "flow_time_1": 1e5, "flow_time_2": 1e5}


def rows_with_p(config: Any) -> int:
    """Examples whose x1 the package multiplies."""
    from lr_order_jax import spec, sweep

    parsed = spec.parse(config)
    return sweep.make_grid(parsed.problem, parsed.seeds, ()).data.own.train.x1.shape[1]


def products(config: Any) -> Any:
    """What `ours` multiplies by and for W, arranged as there, and nothing else; take(start, count).

    The rows are orthonormal or zero, so the numbers neither grow nor vanish.
    """
    import jax
    import jax.numpy as jnp

    from lr_order_jax.models.two_layer import product

    seeds, rates = config["num_seeds"], len(config["eta_init"])
    d, m = config["d"][0], config["m_w"][0]
    k = rows_with_p(config)
    x = jnp.zeros((seeds, k, d)).at[:, jnp.arange(k), jnp.arange(k) % d].set(jnp.arange(k) < d)
    weights = jax.random.normal(jax.random.key(0), (seeds, d, rates * m))

    @jax.jit
    def steps(weights, count):
        def both(_, w):
            return jax.vmap(lambda x, w: product(x.T, product(x, w)))(x, w)

        return jax.lax.fori_loop(0, count, both, weights)

    def take(start, count):
        nonlocal weights
        weights = jax.block_until_ready(steps(weights, count))

    return take


def make(system: str, sweep: Sweep) -> Any:
    """take(start, count) of a system."""
    library, way = system.split(":")
    return in_jax(sweep, way) if library == "jax" else in_torch(sweep, way)


def in_jax(sweep: Sweep, way: str) -> Any:
    import jax
    import jax.numpy as jnp

    lam, tau_xi, directions = sweep.lam, sweep.tau_xi, sweep.directions

    def block(x, weights, second):
        return jax.nn.relu(x @ weights.T) @ second

    def loss(weights, data):
        x1, x2, y, second = data
        f = block(x1, weights["W"], second["W"])
        if directions is None:
            f = f + block(x2, weights["V"], second["V"])
        else:
            f = f + x2 @ block(directions, weights["V"], second["V"])
        return jnp.mean(jax.nn.softplus(-y * f))

    def step(weights, data, rate, key, t):
        grads = jax.grad(loss)(weights, data)
        keys = jax.random.split(jax.random.fold_in(key, t))
        after = {}
        for key_of, name in zip(keys, ("W", "V"), strict=True):
            u = weights[name]
            xi = jax.random.normal(key_of, u.shape)
            after[name] = (1 - rate * lam) * u - rate * (grads[name] + tau_xi[name] * xi)
        return after

    def scan(weights, data, rate, key, ts):
        return jax.lax.scan(lambda w, t: (step(w, data, rate, key, t), None), weights, ts)[0]

    rates = jnp.asarray(sweep.rates, jnp.float32)
    of_seeds = jax.tree.map(jnp.asarray, (sweep.x1, sweep.x2, sweep.y, sweep.second))
    data = jax.tree.map(lambda leaf: leaf[sweep.seeds], of_seeds)
    keys = jax.random.split(jax.random.key(0), len(rates))
    pick = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: E731
    weights = jax.tree.map(jnp.asarray, sweep.weights)
    one = jax.jit(scan if way == "scan" else step, donate_argnums=0)
    together = jax.jit(jax.vmap(scan, in_axes=(0, 0, 0, 0, None)), donate_argnums=0)
    apart = [(pick(data, i), rates[i], keys[i]) for i in range(len(rates))]
    if way != "vmap":
        weights = [pick(weights, i) for i in range(len(rates))]

    def take(start, count):
        nonlocal weights
        ts = jnp.arange(start, start + count)
        if way == "vmap":
            weights = together(weights, data, rates, keys, ts)
        elif way == "scan":
            weights = [one(w, *a, ts) for w, a in zip(weights, apart, strict=True)]
        else:
            for t in ts:
                weights = [one(w, *a, t) for w, a in zip(weights, apart, strict=True)]
        sweep.weights = jax.block_until_ready(weights)

    return take


def in_torch(sweep: Sweep, way: str) -> Any:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    lam, tau_xi = sweep.lam, sweep.tau_xi
    put = lambda leaf: torch.tensor(np.array(leaf), dtype=torch.float32, device=device)  # noqa: E731

    directions = None if sweep.directions is None else put(sweep.directions)

    def block(x: Any, weights: Any, second: Any) -> Any:
        return torch.relu(x @ weights.T) @ second

    def loss(weights: Any, x1: Any, x2: Any, y: Any, second: Any) -> Any:
        f = block(x1, weights["W"], second["W"])
        if directions is None:
            f = f + block(x2, weights["V"], second["V"])
        else:
            f = f + x2 @ block(directions, weights["V"], second["V"])
        return torch.nn.functional.softplus(-y * f).mean()

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    blocks = ("W", "V")
    data = [put(leaf) for leaf in (sweep.x1, sweep.x2, sweep.y)]
    second = {name: put(sweep.second[name]) for name in blocks}
    torch.manual_seed(0)
    if way == "loop":
        members: list[Any] = []
        for i, s in enumerate(sweep.seeds):
            weights = {name: put(sweep.weights[name][i]).requires_grad_() for name in blocks}
            of_seed: list[Any] = [leaf[s] for leaf in data]
            of_seed.append({name: second[name][s] for name in blocks})
            members.append((weights, of_seed))

        def take(start, count):
            for _ in range(count):
                for rate, (weights, of_seed) in zip(sweep.rates, members, strict=True):
                    loss(weights, *of_seed).backward()
                    with torch.no_grad():
                        for name, w in weights.items():
                            noisy = w.grad + tau_xi[name] * torch.randn_like(w)
                            w.mul_(1 - rate * lam).sub_(noisy, alpha=rate)
                            w.grad = None
            sweep.weights = [{n: w.detach() for n, w in m[0].items()} for m in members]
            finish()

        return take

    index = torch.as_tensor(sweep.seeds, device=device)
    data = [leaf[index] for leaf in data]
    second = {name: leaf[index] for name, leaf in second.items()}
    grads_of: Any = torch.func.vmap(torch.func.grad(loss))
    rates = put(sweep.rates)[:, None, None]

    def step(weights):
        grads = grads_of(weights, *data, second)
        after = {}
        for name, w in weights.items():
            noisy = grads[name] + tau_xi[name] * torch.randn_like(w)
            after[name] = (1 - rates * lam) * w - rates * noisy
        return after

    step = torch.compile(step) if way == "compile" else step
    sweep.weights = {name: put(sweep.weights[name]) for name in blocks}

    def take_stacked(start, count):
        with torch.no_grad():
            sweep.weights = functools.reduce(lambda w, _: step(w), range(count), sweep.weights)
        finish()

    return take_stacked
