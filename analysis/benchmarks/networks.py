"""The WideResNet of a config of `patch_cifar` trained by the package, by the same step without its
engine, and by PyTorch. Each way is a function take(start, count), see `turns`.

    ours                the package's programs, in its default way
    DRIVING:MAPPING     the same in this way
    plain:loop          one jitted step a member, called in turn
    plain:unroll        one jit with all members inside
    torch               PyTorch, channels last, members in turn
    torch:contiguous    the same in PyTorch's default layout

All but the package's own train on one batch that is ready in memory; those draw, gather and patch a
batch in each step.
"""

from typing import Any

from analysis.benchmarks import turns


def prepare(config: Any, width: int, members: int, dtype: str) -> Any:
    """The config of one workload; noise in every second member, the first one among them."""
    c = config.copy_and_resolve_references()
    with c.unlocked():
        c.update({"dataset": "procedural", "num_test": 1, "num_train_eval": 1})
        c.update({"widen_factor": width, "num_seeds": 1, "num_patch_eval": 1})
        c.compute_dtype = "bfloat16" if dtype == "bfloat16" else "float32"
        c.arm = tuple(f"member {i}" for i in range(members))
        c.eta_init = tuple(0.01 * (i + 1) for i in range(members))
        c.rate_factor = c.noise_factor = (1.0,) * members
        c.noise_init = tuple(0.4 * ((i + 1) % 2) for i in range(members))
    return c


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


def in_torch(config: Any, dtype: str, layout_name: str) -> Any:
    """The network of torch_net.py with SGD, noise where the arm has it."""
    import torch

    from analysis.benchmarks.torch_net import TorchNet

    if config.depth != 16:
        raise ValueError("the network of torch_net.py has depth 16")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype != "float32"
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    layout = torch.contiguous_format if layout_name == "contiguous" else torch.channels_last

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


def make(way: str, config: Any, dtype: str) -> turns.Take:
    """take(start, count) of a way."""
    kind, _, mapping = way.partition(":")
    if kind == "torch":
        return in_torch(config, dtype, mapping)
    import jax

    if dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    if way == "ours":
        return turns.ours(config)
    return plain(config, mapping) if kind == "plain" else turns.ours(config, kind, mapping)
