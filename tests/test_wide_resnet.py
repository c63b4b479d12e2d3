"""The WideResNet: its size, its initial weights and its activation noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lr_order_jax.models.wide_resnet import Activation, WideResNet


def shapes(model):
    """Shapes of all variables, without computing anything."""
    rngs = {"params": jax.random.key(0), "activation_noise": jax.random.key(1)}
    image = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda: model.init(rngs, image, True, 0.1))


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_parameter_count_is_that_of_the_authors_network():
    assert count(shapes(WideResNet(depth=16, widen_factor=10))["params"]) == 17_116_634


def test_there_are_13_noise_sites():
    """Draws in the program of a training pass, each of one image for all examples and channels."""
    model = WideResNet(depth=16, widen_factor=1)
    x, variables = jnp.zeros((2, 32, 32, 3)), shapes(model)

    def apply(variables, level):
        rngs = {"activation_noise": jax.random.key(0)}
        return model.apply(variables, x, True, level, mutable=["batch_stats"], rngs=rngs)

    def draws(jaxpr):
        inner = [v.jaxpr for e in jaxpr.eqns for v in e.params.values() if hasattr(v, "jaxpr")]
        here = sum(e.primitive.name == "random_bits" for e in jaxpr.eqns)
        return here + sum(draws(sub) for sub in inner)

    for level, sites in ((jnp.float32(0.4), 13), (None, 0)):
        assert draws(jax.make_jaxpr(apply)(variables, level).jaxpr) == sites


def test_a_wrong_depth_is_refused():
    with pytest.raises(ValueError, match="6 n"):
        shapes(WideResNet(depth=17))


def test_initial_weights():
    model = WideResNet(depth=16, widen_factor=4)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), False)["params"]
    kernel = np.asarray(params["group3_block2"]["conv1"]["kernel"])
    assert kernel.shape == (3, 3, 256, 256)
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)
    shortcut = np.asarray(params["group2_block1"]["shortcut"]["kernel"])
    assert shortcut.std() == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    linear = np.asarray(params["linear"]["kernel"])
    assert np.abs(linear).max() == pytest.approx(256**-0.5, rel=0.01)
    assert not np.asarray(params["linear"]["bias"]).any()


# Activation noise.


def noisy(shared, level=2.0, train=True, seed=3):
    """Pre-activations' noise of one site: relu(0 + level eps + 50) - 50 shows eps / level."""
    x = jnp.zeros((4, 5, 6, 7))
    module = Activation(shared)
    variables = module.init({"params": jax.random.key(0)}, x, False, None)
    bn = {"scale": jnp.ones(7), "bias": jnp.full(7, 50.0)}
    variables = {**variables, "params": {"bn": bn}}
    y = module.apply(
        variables,
        x,
        train,
        level,
        rngs={"activation_noise": jax.random.key(seed)},
        mutable=["batch_stats"] if train else False,
    )
    return np.asarray(y[0] if train else y) - 50.0


def test_activation_noise_is_one_image_for_all_examples_and_channels():
    eps = noisy(("batch", "channel"))
    assert (eps == eps[:1, :, :, :1]).all()
    assert np.unique(eps[0, :, :, 0]).size == 30
    assert eps[0, :, :, 0].std() == pytest.approx(2.0, rel=0.5)


def test_activation_noise_can_be_independent_everywhere():
    eps = noisy(())
    assert np.unique(eps).size == eps.size
    assert eps.std() == pytest.approx(2.0, rel=4 / math.sqrt(2 * eps.size))


def test_activation_noise_is_fresh_and_absent_in_evaluation():
    assert (noisy(("batch",), seed=3) != noisy(("batch",), seed=4)).any()
    np.testing.assert_allclose(noisy(("batch",), train=False), 0.0, atol=1e-4)
    np.testing.assert_allclose(noisy(("batch",), level=0.0), 0.0, atol=1e-4)
