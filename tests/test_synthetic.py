"""The distribution of section 2, its schedule and its measurements."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lr_order_jax import engine, fields, spec
from lr_order_jax.algorithm import NEVER
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import Data
from lr_order_jax.problems import synthetic

N, D, GAMMA0, A = 20_000, 12, 0.3, 5.0


def unit(seed, d=D):
    w = jax.random.normal(jax.random.key(seed), (d,))
    return w / jnp.linalg.norm(w)


@pytest.fixture(scope="module")
def examples():
    groups = synthetic.sample_groups(jax.random.key(9), N, 0.1, 0.3)
    return synthetic.sample_examples(jax.random.key(1), N, groups, unit(2), GAMMA0, A)


@pytest.mark.parametrize("w_star", [jnp.eye(D)[3], unit(5), -unit(6)])
def test_p_is_a_half_gaussian_beyond_the_margin(w_star):
    y = jax.random.rademacher(jax.random.key(0), (N,), jnp.float32)
    x1 = np.asarray(synthetic.sample_p(jax.random.key(1), y, w_star, GAMMA0))
    along = np.asarray(y) * (x1 @ np.asarray(w_star)) - GAMMA0
    assert along.min() >= -1e-6  # the margin
    # The component along w* beyond the margin is |N(0, 1/d)|.
    deviation = 1 / np.sqrt(D)
    assert along.mean() == pytest.approx(deviation * np.sqrt(2 / np.pi), rel=0.03)
    assert (along**2).mean() == pytest.approx(deviation**2, rel=4 * np.sqrt(2 / N))
    # The rest is a Gaussian of covariance (I - w* w*^T)/d, independent of the label.
    rest = x1 - (x1 @ np.asarray(w_star))[:, None] * np.asarray(w_star)[None]
    wanted = (np.eye(D) - np.outer(w_star, w_star)) / D
    np.testing.assert_allclose(np.cov(rest.T), wanted, atol=5 * np.sqrt(2 / N) / D)
    np.testing.assert_allclose(
        (np.asarray(y)[:, None] * rest).mean(0), 0, atol=5 * deviation / N**0.5
    )


def test_p_norms(examples):
    """E |x1|^2 = 1 + gamma0^2 + 2 gamma0 sqrt(2/(pi d)) for examples with a P pattern."""
    norms = np.sum(np.asarray(examples.x1)[np.asarray(examples.group) != 1] ** 2, axis=1)
    wanted = 1 + GAMMA0**2 + 2 * GAMMA0 * np.sqrt(2 / (np.pi * D))
    assert norms.mean() == pytest.approx(wanted, abs=5 * norms.std() / np.sqrt(norms.size))


def test_group_fractions_and_label_balance(examples):
    fractions = np.bincount(examples.group, minlength=3) / N
    np.testing.assert_allclose(fractions, [0.1, 0.3, 0.6], atol=4 * 0.5 / np.sqrt(N))
    assert abs(float(jnp.mean(examples.y))) < 4 / np.sqrt(N)
    for group in range(3):
        labels = np.asarray(examples.y)[np.asarray(examples.group) == group]
        assert abs(labels.mean()) < 4 / np.sqrt(labels.size)


def test_groups_leave_out_the_other_pattern(examples):
    group = np.asarray(examples.group)
    has_p = np.any(np.asarray(examples.x1) != 0, axis=1)
    has_q = np.any(np.asarray(examples.q_coefficients) != 0, axis=1)
    np.testing.assert_array_equal(has_p, group != 1)
    np.testing.assert_array_equal(has_q, group != 0)


def test_q_has_one_direction_by_label_and_uniform_alpha(examples):
    has_q = np.asarray(examples.group) != 0
    coefficients = np.asarray(examples.q_coefficients)[has_q]
    y = np.asarray(examples.y)[has_q]
    assert (np.count_nonzero(coefficients, axis=1) == 1).all()
    direction = coefficients.argmax(axis=1)
    assert (direction[y > 0] == 0).all()
    negative = direction[y < 0]
    assert set(negative) == {1, 2}
    assert abs((negative == 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(negative.size)
    alpha = coefficients.max(axis=1)
    assert alpha.min() >= 0
    assert alpha.max() <= A
    assert alpha.mean() == pytest.approx(A / 2, abs=4 * A / np.sqrt(12 * alpha.size))
    assert alpha.var() == pytest.approx(A**2 / 12, rel=0.03)


def test_geometry():
    w_star, directions = synthetic.sample_geometry(jax.random.key(0), 30, 0.2)
    z, plus, minus = np.asarray(directions)
    zeta = plus - z
    assert np.linalg.norm(w_star) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(z) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(zeta) == pytest.approx(0.2, abs=1e-6)
    assert z @ zeta == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(z - zeta, minus, atol=1e-6)


def test_test_examples_are_apart_from_training_ones(tiny):
    problem = spec.parse(tiny(p0=0.0, q0=0.0)).problem
    data = problem.make_data(engine.stream_key(engine.seed_key(0), engine.Stream.DATA), ())
    assert not np.isin(np.asarray(data.train.x1)[:, 0], np.asarray(data.test.x1)[:, 0]).any()


def member(tiny, data=None, **changes):
    values = tiny(**changes)
    problem = spec.parse(values).problem
    if data is None:
        data = problem.make_data(jax.random.key(0), ())
    section = problem.fields
    swept = fields.swept_fields(type(section))
    picked = {name: (getattr(section, name) or (None,))[0] for name in swept}
    return problem.hypers(picked, Data((), data)), data


def test_the_mitigation_anneals_the_noise_of_algorithm_2(tiny):
    """At flow time 5, or by the loss, as Algorithm 1 its rate; without a factor there is nothing
    to anneal."""
    small = {"eta_init": (0.05,), "eta_2": (0.05,), "flow_time_1": 5.0, "flow_time_2": 7.0}
    noise = {"noise_init": (0.4,), "epsilon_1": (0.1,)}
    hypers, data = member(tiny, **small, **noise, noise_factor=(0.25,))
    np.testing.assert_array_equal(hypers.phase_steps, [100, 140])
    np.testing.assert_array_equal(hypers.rates, [0.05, 0.05])
    np.testing.assert_allclose(hypers.activation_noise, [0.4, 0.1])
    q = np.mean(np.asarray(data.train.group) == 1)
    assert hypers.loss_thresholds[0] == pytest.approx(0.1 + q * np.log(2))
    hypers, _ = member(tiny, **small, **noise, noise_factor=(1.0,))
    np.testing.assert_array_equal(hypers.phase_steps, [0, 240])
    assert member(tiny, **small)[0].activation_noise is None


def test_algorithm_1_anneals_at_flow_time_1(tiny):
    hypers, _ = member(tiny, eta_init=(0.2,), eta_2=(0.05,), flow_time_1=5.0, flow_time_2=7.0)
    np.testing.assert_array_equal(hypers.phase_steps, [25, 140])
    np.testing.assert_array_equal(hypers.rates, [0.2, 0.05])
    assert (hypers.loss_thresholds == -np.inf).all()


def test_algorithm_1_anneals_at_epsilon_1_plus_q_log_2(tiny):
    hypers, data = member(tiny, n=50, q0=0.4, epsilon_1=(0.1,), epsilon_2=(0.05,))
    q = np.mean(np.asarray(data.train.group) == 1)
    assert 0 < q < 1
    np.testing.assert_allclose(hypers.loss_thresholds, [0.1 + q * np.log(2), 0.05])


def test_algorithm_1_anneals_at_a_step(tiny):
    assert member(tiny, anneal_step=(3,))[0].phase_steps[0] == 3
    assert member(tiny, anneal_step=(NEVER,))[0].phase_steps[0] == 25


def test_algorithm_2_has_one_phase_of_the_same_flow_time(tiny):
    hypers, _ = member(
        tiny, eta_init=(0.05,), eta_2=(0.05,), epsilon_1=(0.3,), epsilon_2=(0.1,), eta_1=0.2
    )
    np.testing.assert_array_equal(hypers.phase_steps, [0, 200])
    np.testing.assert_array_equal(hypers.loss_thresholds, [-np.inf, 0.1])


def test_as_many_steps_as_fit_into_the_flow_time():
    assert synthetic.num_steps(1.0, 0.3) == 3
    assert synthetic.num_steps(1e308, 1e-308) == NEVER
    assert synthetic.num_steps(1.0, 0.1) == 10
    assert synthetic.num_steps(100.0, 0.00625) == 16_000
    assert synthetic.num_steps(0.0, 0.1) == 0


def test_tau_xi_follows_from_assumption_3_1_unless_set(tiny):
    hypers, _ = member(tiny, noise_scale=(2.0,), lam=(0.01,), tau0_w=0.5, tau0_v=3.0)
    per_tau = 2.0 * np.sqrt(0.01 * (2 - 0.2 * 0.01) / 0.2)
    assert hypers.tau_xi["W"] == pytest.approx(0.5 * per_tau)
    assert hypers.tau_xi["V"] == pytest.approx(3.0 * per_tau)
    hypers, _ = member(tiny, tau_xi=(0.7,), noise_scale=(2.0,))
    assert hypers.tau_xi == {"W": 1.4, "V": 1.4}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"p0": 0.6, "q0": 0.5}, "config.p0"),
        ({"eta_2": (0.3,)}, "config.eta_2"),
        ({"lam": (20.0,)}, "config.lam"),
        ({"flow_time_1": 0.0, "flow_time_2": 0.0}, "config.flow_time_1"),
    ],
)
def test_contradictions_are_refused(tiny, changes, told):
    with pytest.raises(ConfigError, match=told):
        spec.parse(tiny(**changes))


def test_members_in_the_wrong_order_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"eta_init = 0\.01"):
        member(tiny, eta_init=(0.01,), eta_2=(0.05,), eta_1=0.2)
    with pytest.raises(ConfigError, match="too many steps"):
        member(tiny, eta_init=(0.2,), eta_2=(1e-10,))
    with pytest.raises(ConfigError, match="one step is longer than flow_time_1"):
        member(tiny, eta_init=(6.0,))


def test_noise_that_no_step_would_have_is_refused(tiny):
    """Algorithm 2 alone may have a step longer than flow_time_1: it has no phase of that length."""
    small = {"eta_init": (0.5,), "eta_2": (0.5,), "flow_time_1": 0.4, "flow_time_2": 4.6}
    np.testing.assert_array_equal(member(tiny, **small)[0].phase_steps, [0, 10])
    with pytest.raises(ConfigError, match=r"eta_init = 0\.5: one step is longer than flow_time_1"):
        member(tiny, **small, noise_init=(0.4,), noise_factor=(0.25,))
    kept, _ = member(tiny, **small, noise_init=(0.4,), noise_factor=(1.0,))
    np.testing.assert_array_equal(kept.phase_steps, [0, 10])
    without = small | {"flow_time_1": 0.0}
    skipped, _ = member(tiny, **without, noise_init=(0.4,), noise_factor=(0.25,))
    np.testing.assert_array_equal(skipped.phase_steps, [0, 9])


def test_the_mixture_error_weighs_the_groups():
    section = dataclasses.make_dataclass("S", ["p0", "q0"])(0.1, 0.3)
    sums = {
        "loss": jnp.array([1.0, 4.0, 9.0]),
        "count": jnp.array([1.0, 2.0, 3.0]),
        "wrong": jnp.array([10.0, 20.0, 40.0]),
        "test_loss": jnp.array([50.0, 60.0, 70.0]),
        "num_test": jnp.float32(100),
        "loss_of_r": jnp.float32(8.0),
    }
    out = synthetic.summarize(section, sums, jnp.array([1.0, 2.0, 5.0]))
    assert float(out["train_loss"]) == pytest.approx(14 / 6)
    assert float(out["train_loss_q_only"]) == pytest.approx(2.0)
    assert float(out["test_error"]) == pytest.approx(0.1 * 0.1 + 0.3 * 0.2 + 0.6 * 0.4)
    assert float(out["test_loss"]) == pytest.approx(0.1 * 0.5 + 0.3 * 0.6 + 0.6 * 0.7)
    assert float(out["test_loss_p_only"]) == pytest.approx(0.5)
    assert float(out["second_difference"]) == 2.0 + 5.0 - 2 * 1.0
    assert float(out["train_loss_on_m2"]) == pytest.approx((4 + 9) / 5)
    assert float(out["train_loss_of_r_on_m1"]) == pytest.approx(8 / 4)


def test_an_output_of_zero_is_an_error():
    r, g, y = jnp.array([0.0, 1.0]), jnp.array([0.0, -3.0]), jnp.array([1.0, 1.0])
    np.testing.assert_array_equal(synthetic.count_errors(r, g, r + g, y), [1, 2, 2])
    nan = jnp.array([jnp.nan, 1.0])
    np.testing.assert_array_equal(synthetic.count_errors(nan, nan, nan, y), [1, 1, 1])
