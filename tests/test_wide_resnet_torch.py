"""The WideResNet against the same network in PyTorch (analysis/benchmarks/torch_net.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lr_order_jax import algorithm
from lr_order_jax.models.wide_resnet import WideResNet

torch = pytest.importorskip("torch", reason="parity needs PyTorch, which is not installed")

from analysis.benchmarks.torch_net import TorchNet  # noqa: E402 (needs PyTorch)


def from_torch(net, part):
    """The torch module's weights, gradients (`part` picks) or statistics as our variables."""

    def kernel(layer):
        weight = part(layer.weight)
        axes = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
        return {"kernel": jnp.asarray(weight.detach().numpy().transpose(axes).copy())}

    def array(tensor):
        return jnp.asarray(part(tensor).detach().numpy().copy())

    def norm(bn):
        return {"bn": {"scale": array(bn.weight), "bias": array(bn.bias)}}

    params = {"conv": kernel(net.conv), "act": norm(net.act.bn)}
    params["linear"] = {**kernel(net.linear), "bias": array(net.linear.bias)}
    for i, block in enumerate(net.blocks):
        of_block = {"act1": norm(block.act1.bn), "act2": norm(block.act2.bn)}
        of_block |= {"conv1": kernel(block.conv1), "conv2": kernel(block.conv2)}
        if block.shortcut is not None:
            of_block["shortcut"] = kernel(block.shortcut)
        params[f"group{i // 2 + 1}_block{i % 2 + 1}"] = of_block
    return params


def stats_from_torch(net):
    def norm(bn):
        mean, var = bn.running_mean.numpy().copy(), bn.running_var.numpy().copy()
        return {"bn": {"mean": jnp.asarray(mean), "var": jnp.asarray(var)}}

    stats = {"act": norm(net.act.bn)}
    for i, block in enumerate(net.blocks):
        of_block = {"act1": norm(block.act1.bn), "act2": norm(block.act2.bn)}
        stats[f"group{i // 2 + 1}_block{i % 2 + 1}"] = of_block
    return stats


def assert_close(ours, theirs, what):
    """1e-4 relative, each leaf by its own largest entry."""
    ours, structure = jax.tree_util.tree_flatten_with_path(ours)
    theirs, their_structure = jax.tree.flatten(theirs)
    assert structure == their_structure
    for (path, a), b in zip(ours, theirs, strict=True):
        error = np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()
        assert error < 1e-4, f"{what} {jax.tree_util.keystr(path)}: {error}"


def test_logits_gradients_statistics_and_three_sgd_steps_equal_torch():
    """Nesterov momentum, weight decay, a change of rate and a last short batch."""
    torch.manual_seed(0)
    net = TorchNet(widen=1)
    for module in net.modules():  # scales and shifts that are not all one and zero
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    model = WideResNet(depth=16, widen_factor=1)
    params, stats = from_torch(net, lambda t: t), stats_from_torch(net)
    images = np.random.default_rng(0).normal(size=(22, 3, 32, 32)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 10, 22)
    batches = [slice(0, 8), slice(8, 16), slice(16, 22)]
    rates = [0.1, 0.1, 0.02]

    def loss_of(params, stats, x, y):
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(variables, x, True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, (new["batch_stats"], logits)

    gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    optimiser = torch.optim.SGD(
        net.parameters(), lr=rates[0], momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    velocity = jax.tree.map(jnp.zeros_like, params)
    for batch, rate in zip(batches, rates, strict=True):
        x = jnp.asarray(images[batch].transpose(0, 2, 3, 1))
        (loss, (stats, logits)), grads = gradient(params, stats, x, jnp.asarray(labels[batch]))
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        their_logits = net(torch.from_numpy(images[batch]))
        their_loss = torch.nn.functional.cross_entropy(
            their_logits, torch.from_numpy(labels[batch])
        )
        their_loss.backward()
        assert float(loss) == pytest.approx(their_loss.item(), rel=1e-4)
        assert_close({"logits": logits}, {"logits": their_logits.detach().numpy()}, "logits")
        assert_close(grads, from_torch(net, lambda t: t if t.grad is None else t.grad), "gradient")
        assert_close(stats, stats_from_torch(net), "statistics")
        optimiser.step()
        numbers = (jnp.float32(number) for number in (rate, 5e-4, 0.9))
        params, velocity = algorithm.nesterov_step(params, velocity, grads, *numbers)
        assert_close(params, from_torch(net, lambda t: t), "weights")
    net.eval()
    with torch.no_grad():
        theirs = net(torch.from_numpy(images)).numpy()
    ours = model.apply(
        {"params": params, "batch_stats": stats}, jnp.asarray(images.transpose(0, 2, 3, 1)), False
    )
    assert_close({"logits": ours}, {"logits": theirs}, "evaluation")


def test_activation_noise_stands_where_pytorch_has_it(monkeypatch):
    """The same eps at all sites of both networks: logits and statistics of a training pass."""

    def eps(height, width):
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        return np.sin(rows) + np.cos(2 * columns)

    torch.manual_seed(1)
    net, model = TorchNet(widen=1), WideResNet(depth=16, widen_factor=1)
    variables = {"params": from_torch(net, lambda t: t), "batch_stats": stats_from_torch(net)}
    images = np.random.default_rng(2).normal(size=(8, 3, 32, 32)).astype(np.float32)

    def drawn(key, shape, dtype=jnp.float32):
        if shape[0] == shape[-1] == 1:
            return jnp.asarray(eps(*shape[1:3]))[None, :, :, None]
        return jnp.zeros(shape, dtype)  # Flax compares the shapes of initial weights

    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "normal", drawn)
        logits, updated = model.apply(
            variables,
            jnp.asarray(images.transpose(0, 2, 3, 1)),
            True,
            jnp.float32(0.7),
            mutable=["batch_stats"],
            rngs={"activation_noise": jax.random.key(0)},
        )
    monkeypatch.setattr(torch, "randn", lambda *s, device: torch.from_numpy(eps(*s[2:])))
    theirs = net(torch.from_numpy(images), 0.7).detach().numpy()
    assert_close({"logits": logits}, {"logits": theirs}, "logits")
    assert_close(updated["batch_stats"], stats_from_torch(net), "statistics")
    quiet = net(torch.from_numpy(images)).detach().numpy()
    assert np.abs(quiet - theirs).max() > 0.01 * np.abs(theirs).max()
