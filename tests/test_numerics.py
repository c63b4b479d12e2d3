"""Rounding: gradients against finite differences in float64, losses of huge outputs, long sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_two_layer import build

from lr_order_jax import algorithm, engine
from lr_order_jax.engine import Stream
from lr_order_jax.problem import Data
from lr_order_jax.problems import synthetic

UNIT = 2.0**-24  # the relative error of one rounding in float32


def test_loss_and_gradient_of_huge_outputs():
    """log(1 + e^(-y f)) of |f| up to 1e4 against float64: nothing overflows, the far side of an
    example that is right is 0 and that of a wrong one is |f|."""
    outputs = np.concatenate([-np.logspace(4, -6, 60), [0.0], np.logspace(-6, 4, 60)])
    outputs = np.asarray(outputs, np.float32)
    f = np.asarray(outputs, np.float64)
    for y in (-1.0, 1.0):
        loss, slope = jax.vmap(jax.value_and_grad(synthetic.logistic_loss), (0, None))(
            outputs, jnp.float32(y)
        )
        wanted = np.logaddexp(0, -y * f)
        np.testing.assert_allclose(loss, wanted, rtol=16 * UNIT, atol=1e-37)
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(slope, -y / (1 + np.exp(y * f)), rtol=16 * UNIT, atol=1e-37)
    assert float(synthetic.logistic_loss(jnp.float32(1e4), jnp.float32(-1))) == 1e4


def loss_in_float64(params, stats, x1, x2, y):
    f = np.maximum(x1 @ params["W"], 0) @ stats["w"] + np.maximum(x2 @ params["V"], 0) @ stats["v"]
    return np.mean(np.logaddexp(0, -y * f))


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_gradient_against_finite_differences_in_float64(tiny, size):
    """Of every weight, at initial weights and at ones that give outputs of hundreds. Central
    differences are off by h^2 |f'''|, h = 1e-6 of the weights, unless a unit's sign changes."""
    problem, key, data, model, _ = build(tiny, v_representation="ambient", r=0.5)
    model = model._replace(params=jax.tree.map(lambda leaf: size * leaf, model.params))
    grads = jax.grad(lambda p: problem.loss(p, model.stats, data, None, key)[0])(model.params)
    params, stats, train = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (model.params, model.stats, data.train)
    )
    x2 = train.q_coefficients @ np.asarray(data.directions, np.float64)
    x1 = np.zeros((len(train.y), params["W"].shape[0]))
    x1[: len(train.x1)] = train.x1  # the last examples have no P pattern
    arguments = (stats, x1, x2, train.y)
    for name, array in params.items():
        found = np.zeros_like(array)
        h = 1e-6 * np.abs(array).max()
        for index in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = array.copy()
                moved[index] += sign * h
                ends.append(loss_in_float64(params | {name: moved}, *arguments))
            found[index] = (ends[0] - ends[1]) / (2 * h)
        largest = np.abs(found).max()
        np.testing.assert_allclose(grads[name], found, rtol=1e-5, atol=1e-5 * largest)
        assert largest > 0


@pytest.mark.slow
def test_signal_and_noise_add_up_to_the_weights_after_100_000_steps(tiny):
    """Ubar + Utilde = U, (3.4), each carried for itself.

    A step rounds each of the three at most 4 times, relative to the largest weight ever; decay
    shrinks what came before by 1 - gamma lambda, so that at most 12 UNIT / (gamma lambda) of it add
    up, however many steps there are.
    """
    gamma, lam = 0.1, 0.01
    changes = {"eta_init": (gamma,), "eta_2": (gamma,), "eta_1": gamma, "lam": (lam,)}
    changes |= {"probes": ("decomposition",), "v_representation": "ambient"}
    problem, key, data, model, hypers = build(tiny, **changes)
    hypers = hypers._replace(phase_steps=jnp.full_like(hypers.phase_steps, 10**6))

    def one(t, carry):
        state, noise, largest = carry
        draw = algorithm.gradient_noise(engine.stream_key(key, Stream.GRADIENT_NOISE, t), noise)
        scaled = algorithm.noisy_gradient(jax.tree.map(jnp.zeros_like, noise), draw, hypers.tau_xi)
        noise = algorithm.gradient_step(noise, scaled, hypers.rates[0], hypers.weight_decay)
        size = problem.batch_sizes[0]
        state = engine.train_step(problem, Data((), data), hypers, state, t, key, size)[0]
        largest = jax.tree.map(lambda m, u: jnp.maximum(m, jnp.abs(u).max()), largest, state.params)
        return state, noise, largest

    start = algorithm.init_state(hypers, *model)
    zeros = jax.tree.map(lambda leaf: jnp.float32(0), model.params)
    steps = 100_000
    run = jax.jit(lambda: jax.lax.fori_loop(0, steps, one, (start, model.params, zeros)))
    state, noise, largest = run()
    assert int(state.phase_counts.sum()) == steps
    for name, u in state.params.items():
        total = np.asarray(state.watched["signal"][name], np.float64) + np.asarray(noise[name])
        bound = 12 * UNIT / (gamma * lam) * float(largest[name])
        assert np.abs(total - u).max() <= bound
        assert np.abs(np.asarray(noise[name])).max() > 10 * bound  # it is a bound that can fail
        assert np.abs(np.asarray(state.watched["signal"][name])).max() > 10 * bound
