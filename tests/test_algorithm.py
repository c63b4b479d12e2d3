"""Algorithms 1 and 2: triggers from hand-built states, noise, the update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lr_order_jax import algorithm, engine, placement, spec, sweep
from lr_order_jax.algorithm import NEVER, Hypers, Status, TrainState
from lr_order_jax.fields import ConfigError


def hypers(steps=(10, 20), thresholds=(0.5, 0.1), rates=(0.4, 0.1)) -> Hypers:
    return algorithm.on_device(
        Hypers(np.array(rates), np.array(steps), np.array(thresholds), np.float64(0.0), 0.0)
    )


def test_whole_numbers_that_would_wrap_are_refused():
    np.testing.assert_array_equal(hypers(steps=(0, NEVER)).phase_steps, [0, NEVER])
    for steps in ((0, NEVER + 1), (-NEVER - 1, 0)):
        with pytest.raises(ConfigError, match="hold a number beyond 2147483647"):
            hypers(steps=steps)


def state(phase=0, counts=(0, 0), status=Status.RUNNING, weight=1.0) -> TrainState:
    return TrainState(
        params={"a": jnp.array([weight])},
        stats={"s": jnp.array([7.0])},
        velocity={},
        watched={},
        phase=jnp.int32(phase),
        phase_counts=jnp.array(counts, jnp.int32),
        status=jnp.int32(status),
    )


def move(h, s, loss, grads, stats, xi):
    update = functools.partial(algorithm.descend, h, s, grads, stats, xi)
    return algorithm.transition(h, s, jnp.float32(loss), update)


def step(h, s, loss, grad=1.0):
    xi = {"a": jnp.array([0.0])}
    stats = {"s": jnp.array([8.0])}
    return move(h, s, loss, {"a": jnp.array([grad])}, stats, xi)


def test_a_plain_step_uses_the_rate_of_its_phase():
    after = step(hypers(), state(phase=0, counts=(3, 0)), loss=0.9)
    assert (int(after.phase), int(after.status)) == (0, Status.RUNNING)
    np.testing.assert_array_equal(after.phase_counts, [4, 0])
    np.testing.assert_allclose(after.params["a"], [1.0 - 0.4])
    np.testing.assert_array_equal(after.stats["s"], [8.0])


@pytest.mark.parametrize("loss", [0.5, 0.2])
def test_the_loss_threshold_anneals_before_the_update(loss):
    after = step(hypers(), state(phase=0, counts=(3, 0)), loss)
    assert int(after.phase) == 1
    np.testing.assert_array_equal(after.phase_counts, [3, 1])
    np.testing.assert_allclose(after.params["a"], [1.0 - 0.1])


def test_annealing_is_a_latch():
    after = step(hypers(), state(phase=1, counts=(3, 4)), loss=5.0)
    assert int(after.phase) == 1
    np.testing.assert_array_equal(after.phase_counts, [3, 5])


def test_the_last_step_of_a_phase_anneals_after_the_update():
    after = step(hypers(), state(phase=0, counts=(9, 0)), loss=0.9)
    assert int(after.phase) == 1
    np.testing.assert_array_equal(after.phase_counts, [10, 0])
    np.testing.assert_allclose(after.params["a"], [1.0 - 0.4])


def test_minus_infinity_never_anneals():
    h = hypers(steps=(NEVER, 20), thresholds=(-np.inf, -np.inf))
    after = step(h, state(phase=0, counts=(10**6, 0)), loss=-1e30)
    assert (int(after.phase), int(after.status)) == (0, Status.RUNNING)


def test_the_last_phase_completes_after_its_steps():
    after = step(hypers(), state(phase=1, counts=(10, 19)), loss=0.9)
    assert int(after.status) == Status.COMPLETED
    np.testing.assert_allclose(after.params["a"], [1.0 - 0.1])


def test_the_stop_threshold_keeps_the_weights_that_reached_it():
    after = step(hypers(), state(phase=1, counts=(10, 5)), loss=0.1)
    assert int(after.status) == Status.STOPPED
    np.testing.assert_array_equal(after.phase_counts, [10, 5])
    np.testing.assert_array_equal(after.params["a"], [1.0])
    np.testing.assert_array_equal(after.stats["s"], [7.0])


@pytest.mark.parametrize("loss", [np.nan, np.inf])
@pytest.mark.parametrize("phase", [0, 1])
def test_a_loss_that_is_not_finite_ends_the_member(loss, phase):
    after = step(hypers(), state(phase=phase, counts=(3, 0)), loss, grad=np.nan)
    assert int(after.status) == Status.DIVERGED
    assert int(after.phase) == phase
    np.testing.assert_array_equal(after.params["a"], [1.0])
    np.testing.assert_array_equal(after.phase_counts, [3, 0])


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.STOPPED, Status.DIVERGED])
def test_an_ended_member_is_frozen(status):
    before = state(phase=1, counts=(10, 20), status=status)
    after = step(hypers(), before, loss=0.01, grad=np.nan)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_init_passes_over_phases_of_no_steps():
    init = lambda steps: algorithm.init_state(hypers(steps=steps), {}, {}, {})  # noqa: E731
    assert int(init((10, 20)).phase) == 0
    assert int(init((0, 20)).phase) == 1
    assert int(init((0, 20)).status) == Status.RUNNING
    assert int(init((0, 0)).status) == Status.COMPLETED


def test_phases_of_no_steps_are_passed_over_anywhere():
    h = hypers(steps=(10, 0, 5, 0), thresholds=(-np.inf,) * 4, rates=(0.4, 0.3, 0.2, 0.1))
    inner = step(h, state(phase=0, counts=(9, 0, 0, 0)), loss=0.9)
    assert (int(inner.phase), int(inner.status)) == (2, Status.RUNNING)
    last = step(h, state(phase=2, counts=(10, 0, 4, 0)), loss=0.9)
    assert (int(last.phase), int(last.status)) == (2, Status.COMPLETED)
    np.testing.assert_array_equal(last.phase_counts, [10, 0, 5, 0])


def test_one_loss_can_end_several_phases():
    after = step(hypers(thresholds=(0.5, 0.1)), state(phase=0, counts=(3, 0)), loss=0.05)
    assert (int(after.phase), int(after.status)) == (1, Status.STOPPED)
    np.testing.assert_array_equal(after.phase_counts, [3, 0])
    np.testing.assert_array_equal(after.params["a"], [1.0])


def test_stationary_tau_xi_solves_assumption_3_1():
    tau_0, eta, lam = 0.7, 0.3, 0.05
    tau_xi = algorithm.stationary_tau_xi(tau_0, eta, lam)
    assert (1 - eta * lam) ** 2 * tau_0**2 + eta**2 * tau_xi**2 == pytest.approx(tau_0**2)
    assert noise_deviation(tau_xi, eta, lam) == pytest.approx(tau_0)


def noise_deviation(tau_xi, eta, lam):
    """Where the noise part's deviation relaxes to at rate eta: the fixed point of (3.3)."""
    return tau_xi * np.sqrt(eta / (lam * (2 - eta * lam)))


def noise(seed, t, shape=(40_000,)):
    key = engine.stream_key(engine.seed_key(seed), engine.Stream.GRADIENT_NOISE, t)
    return algorithm.gradient_noise(key, {"a": jnp.zeros(shape), "b": jnp.zeros(shape)})


def test_noise_has_mean_zero_and_variance_one():
    xi = np.asarray(noise(0, 0)["a"])
    assert abs(xi.mean()) < 4 / np.sqrt(xi.size)
    assert abs(xi.var() - 1) < 4 * np.sqrt(2 / xi.size)
    assert abs((xi**4).mean() - 3) < 4 * np.sqrt(96 / xi.size)


def test_noise_is_independent_across_steps_leaves_and_seeds():
    first = noise(0, 0)
    others = [first["b"], noise(0, 1)["a"], noise(1, 0)["a"], noise(1, 1)["b"]]
    for other in others:
        assert abs(np.corrcoef(first["a"], other)[0, 1]) < 4 / np.sqrt(first["a"].size)


def test_noise_enters_the_update_with_deviation_tau_xi_by_block():
    params = {"W": jnp.zeros(20_000), "V": {"z": jnp.zeros(20_000)}}
    grads = jax.tree.map(jnp.zeros_like, params)
    xi = algorithm.gradient_noise(jax.random.key(3), params)
    tau = {"W": jnp.float32(0.5), "V": jnp.float32(3.0)}
    noisy = algorithm.noisy_gradient(grads, xi, tau)
    moved = algorithm.gradient_step(params, noisy, jnp.float32(0.2), jnp.float32(0.1))
    slack = 4 * np.sqrt(2 / 20_000)
    assert np.var(moved["W"]) == pytest.approx(0.2**2 * 0.5**2, rel=slack)
    assert np.var(moved["V"]["z"]) == pytest.approx(0.2**2 * 3.0**2, rel=slack)


def test_noise_is_equal_across_rates_and_drawn_once_for_them():
    problem = toy.make(eta=(0.1, 0.2, 0.4), lam=(0.0,), tau_0=0.0)
    grid = sweep.make_grid(problem, (0, 1), ())
    state = sweep.init_state(problem, grid)
    members = placement.place_members(problem, grid, "scan", "vmap")
    members.put(jax.tree.map(np.array, state), range(3))
    members.advance(0, 1)
    by_rate = members.fetch("params")["a"] / np.array([0.1, 0.2, 0.4])[None, :, None]
    np.testing.assert_allclose(by_rate[:, 0], by_rate[:, 1], rtol=1e-5)
    np.testing.assert_allclose(by_rate[:, 0], by_rate[:, 2], rtol=1e-5)
    assert np.abs(by_rate[0] - by_rate[1]).max() > 1

    # Random bits are made for two seeds, never for two seeds times three rates.
    hyper = algorithm.on_device(grid.hypers)
    step = lambda *a: placement.mapped_step(problem, "vmap")(*a, 1)  # noqa: E731
    text = str(jax.make_jaxpr(step)(grid.data, hyper, state, jnp.int32(0), grid.keys))
    drawn = [line for line in text.splitlines() if "random_bits" in line]
    assert drawn
    assert all("[2,2000]" in line and "[2,3,2000]" not in line for line in drawn)


def test_the_noise_part_is_stationary_at_eta_1_and_relaxes_after_annealing():
    """Assumption 3.1: variance tau_0^2 at eta_1; after annealing to eta_2 it falls as
    v_inf + (tau_0^2 - v_inf) (1 - eta_2 lambda)^(2 t), v_inf = eta_2 tau_xi^2/(lambda (2 - eta_2
    lambda))."""
    eta_1, eta_2, lam, tau_0 = 0.5, 0.125, 0.2, 1.5
    tau_xi = algorithm.stationary_tau_xi(tau_0, eta_1, lam)
    problem = toy.make(eta=(eta_1,), lam=(lam,), tau_0=tau_0, tau_xi=tau_xi)
    grid = sweep.make_grid(problem, range(4), ())
    grid.hypers.rates[:] = [eta_1, eta_2]
    grid.hypers.phase_steps[:] = [100, NEVER]
    members = placement.place_members(problem, grid, "scan", "vmap")
    members.put(sweep.init_state(problem, grid), range(1))

    def variance_after(start, count):
        members.advance(start, count)
        params = members.fetch("params")
        return np.concatenate([params["a"], params["b"]], axis=-1).var()

    slack = 4 * np.sqrt(2 / (4 * 2 * toy.SIZE))
    at_eta_1 = variance_after(0, 100)
    assert at_eta_1 == pytest.approx(tau_0**2, rel=slack)
    v_inf = noise_deviation(tau_xi, eta_2, lam) ** 2
    halfway = variance_after(100, 20)
    predicted = v_inf + (tau_0**2 - v_inf) * (1 - eta_2 * lam) ** 40
    assert halfway == pytest.approx(predicted, rel=slack)
    relaxed = variance_after(120, 400)
    assert relaxed == pytest.approx(v_inf, rel=slack)
    assert v_inf < 0.3 * tau_0**2


def test_nesterov_without_momentum_is_the_plain_step():
    draw = lambda i: {"a": jax.random.normal(jax.random.key(i), (50,))}  # noqa: E731
    numbers = jnp.float32(0.3), jnp.float32(0.1)
    plain = algorithm.gradient_step(draw(0), draw(1), *numbers)
    with_velocity, velocity = algorithm.nesterov_step(
        draw(0), draw(2), draw(1), *numbers, jnp.float32(0)
    )
    np.testing.assert_allclose(with_velocity["a"], plain["a"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(velocity["a"], draw(1)["a"] + 0.1 * draw(0)["a"], rtol=1e-6)


def test_nesterov_by_hand_over_two_steps_and_a_change_of_rate():
    """Weight decay, momentum, then the rate, which stays outside the velocity."""
    h = hypers(steps=(1, 5), thresholds=(-np.inf,) * 2, rates=(0.5, 0.1))
    h = h._replace(momentum=jnp.float32(0.9), weight_decay=jnp.float32(0.2), tau_xi=None)
    state = algorithm.init_state(h, {"a": jnp.array([2.0])}, {}, {})
    step = lambda s, g: move(h, s, 1.0, {"a": jnp.array([g])}, {}, None)  # noqa: E731
    u, v = 2.0, 0.0
    for gradient, rate in ((3.0, 0.5), (-1.0, 0.1)):
        state = step(state, gradient)
        d = gradient + 0.2 * u
        v = 0.9 * v + d
        u -= rate * (d + 0.9 * v)
        np.testing.assert_allclose(state.params["a"], [u], rtol=1e-6)
        np.testing.assert_allclose(state.velocity["a"], [v], rtol=1e-6)


def test_an_ended_member_keeps_its_velocity():
    h = hypers()._replace(momentum=jnp.float32(0.9), tau_xi=None)
    before = state(phase=1, status=Status.COMPLETED)._replace(velocity={"a": jnp.array([4.0])})
    after = move(h, before, 1.0, {"a": jnp.array([1.0])}, {"s": jnp.array([0.0])}, None)
    np.testing.assert_array_equal(after.velocity["a"], [4.0])


def test_the_activation_noise_follows_the_phase():
    h = hypers()._replace(activation_noise=jnp.array([0.4, 0.1]))
    assert float(algorithm.read_activation_noise(h, jnp.int32(1))) == pytest.approx(0.1)
    assert algorithm.read_activation_noise(hypers(), jnp.int32(1)) is None


def test_no_noise_is_drawn_where_no_member_has_any(tiny):
    problem = spec.parse(tiny(noise_scale=(0.0,))).problem
    grid = sweep.make_grid(problem, (0,), ())
    assert grid.hypers.tau_xi is None
    step = lambda *a: placement.mapped_step(problem, "vmap")(*a, 1)  # noqa: E731
    state = placement.arranged("vmap", sweep.init_state(problem, grid))
    arguments = grid.data, algorithm.on_device(grid.hypers), state
    text = str(jax.make_jaxpr(step)(*arguments, jnp.int32(0), grid.keys))
    assert "random_bits" not in text
