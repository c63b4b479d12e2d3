"""Probes and the noise before activations against what the paper prints, summed by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_two_layer import build

from lr_order_jax import algorithm, engine
from lr_order_jax.engine import Stream
from lr_order_jax.problem import Data, Model

EVERY = ("decomposition", "lemma_5_2", "lemma_5_3")
SIZES = {"d": 6, "n": 24, "p0": 0.3, "q0": 0.3, "r": 0.5, "m_w": 5, "m_v": 7, "lam": (0.05,)}
SCHEDULE = {"eta_init": (0.4,), "eta_2": (0.1,), "flow_time_1": 8.0, "flow_time_2": 4.0}
STEPS = 60  # 20 at eta_1 and 40 at eta_2
EQUAL = {"m_w": 6, "m_v": 6, "tau0_w": 0.2, "tau0_v": 0.2}  # what a shared unit asks for
STRUCTURES = {
    "separate": {},
    "coupled": {"structure": "coupled", **EQUAL},
    "convolution": {"structure": "convolution", **EQUAL},
}
BUILDS = [(s, "ambient") for s in STRUCTURES] + [("separate", "planar"), ("coupled", "planar")]
of_each_structure = pytest.mark.parametrize("structure", STRUCTURES)


def trajectory(tiny, **changes):
    """Problem, data, hypers, and all states of a member with every probe; 60 steps, two phases."""
    changes = SIZES | SCHEDULE | {"probes": EVERY, "v_representation": "ambient"} | changes
    problem, key, data, model, hypers = build(tiny, **changes)
    step = jax.jit(
        lambda state, t: engine.train_step(problem, Data((), data), hypers, state, t, key, 24)[0]
    )
    states = [algorithm.init_state(hypers, *model)]
    for t in range(STEPS):
        states.append(step(states[-1], jnp.int32(t)))
    assert states[20].phase == 1
    assert states[-1].phase_counts.tolist() == [20, 40]
    return problem, key, data, hypers, states


def as_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def rates_of(hypers):
    return [float(hypers.rates[0])] * 20 + [float(hypers.rates[1])] * 40


def weights(hypers, t):
    """gamma_(s-1) prod_(s <= i < t) (1 - gamma_i lambda) for s = 1..t, as (3.4) prints them."""
    rates, lam = rates_of(hypers), float(hypers.weight_decay)
    return [rates[s - 1] * np.prod([1 - g * lam for g in rates[s:t]]) for s in range(1, t + 1)]


def summed(shares, trees):
    scaled = [jax.tree.map(lambda leaf, c=c: c * leaf, g) for c, g in zip(shares, trees)]  # noqa: B905
    return jax.tree.map(lambda *leaves: sum(leaves), *scaled)


@pytest.mark.parametrize(("structure", "representation"), BUILDS)
def test_the_decomposition_is_the_sums_of_3_4_as_printed(tiny, structure, representation):
    """With the sign corrected, in float64; and Ubar + Utilde = U within its rounding.

    Each step rounds each weight a few times: 60 steps leave at most 60 * 4 * 2^-24 of the largest.
    """
    changes = STRUCTURES[structure] | {"v_representation": representation}
    problem, key, data, hypers, states = trajectory(tiny, **changes)
    grad = jax.jit(jax.grad(lambda p, s: problem.loss(p, s, data, None, key)[0]))
    grads = [as_float64(grad(s.params, s.stats)) for s in states[:-1]]
    xi = []
    for t in range(STEPS):
        draw = algorithm.gradient_noise(
            engine.stream_key(key, Stream.GRADIENT_NOISE, t), states[0].params
        )
        scaled = algorithm.noisy_gradient(jax.tree.map(jnp.zeros_like, draw), draw, hypers.tau_xi)
        xi.append(as_float64(scaled))
    lam, rates = float(hypers.weight_decay), rates_of(hypers)
    for t in (1, 20, 21, STEPS):
        signal = jax.tree.map(lambda leaf: -leaf, summed(weights(hypers, t), grads))
        kept = np.prod([1 - g * lam for g in rates[:t]])
        of_noise = summed(weights(hypers, t), xi)
        noise = jax.tree.map(
            lambda u, x, kept=kept: kept * u - x, as_float64(states[0].params), of_noise
        )
        carried = as_float64(states[t].watched["signal"])
        whole = jax.tree.map(np.add, signal, noise)
        for got, wanted in ((carried, signal), (as_float64(states[t].params), whole)):
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
                size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole))
                np.testing.assert_allclose(a, b, atol=STEPS * 4 * 2**-24 * size)
    at_annealing = as_float64(states[-1].watched["signal_at_annealing"])
    jax.tree.map(
        np.testing.assert_array_equal, at_annealing, as_float64(states[20].watched["signal"])
    )
    assert not states[20].watched["annealed"]


@of_each_structure
def test_lemma_5_2_is_the_sum_of_the_examples_gradients(tiny, structure):
    """(5.1) with the gradient of each example of M2 by itself."""
    problem, _, data, hypers, states = trajectory(tiny, **STRUCTURES[structure])
    m2 = np.flatnonzero(np.asarray(data.train.group) != 0)

    def of_example(w, state, i):
        f = problem.train_f(state.params | {"W": w}, state.stats, data)
        return jax.nn.softplus(-data.train.y[i] * f[i])

    grad = jax.jit(jax.grad(of_example))
    each = [sum(as_float64(grad(s.params["W"], s, i)) for i in m2) / 24 for s in states[:-1]]
    wanted = summed(weights(hypers, STEPS), each)
    np.testing.assert_allclose(states[-1].watched["m2_gradient"], wanted, rtol=1e-4, atol=1e-6)
    everything = -np.asarray(states[-1].watched["signal"]["W"])
    assert np.abs(everything - wanted).max() > 0.1 * np.abs(wanted).max()  # M2 is not all


def measured(problem, data, hypers, state):
    model = Model(state.params, state.stats, state.watched)
    sums = problem.evaluate(Data((), data), hypers.task, model, 0)
    return problem.summarize(Data((), data), hypers.task, model, sums)


def blocks_of(params):
    """W and V; those of a convolution are one."""
    return {"W": params["W"], "V": params.get("V", params["W"])}


@of_each_structure
def test_what_the_probes_tell_against_numpy(tiny, structure):
    changes = STRUCTURES[structure] | {"tau0_w": 0.1, "tau0_v": 0.1, "p0": 0.12}
    problem, _, data, hypers, states = trajectory(tiny, **changes)
    values = {k: float(v) for k, v in measured(problem, data, hypers, states[-1]).items()}
    params, signal = as_float64(states[-1].params), as_float64(states[-1].watched["signal"])
    then = as_float64(states[20].watched["signal"])
    stats, train = as_float64(states[-1].stats), as_float64(data.train)
    x2 = train.q_coefficients @ as_float64(data.directions)
    has_p, has_q = train.group != 1, train.group != 0
    params, of_signal = blocks_of(params), blocks_of(signal)
    assert values["signal_squared_w"] == pytest.approx((signal["W"] ** 2).sum(), rel=1e-5)
    assert values["signal_squared_v"] == pytest.approx((of_signal["V"] ** 2).sum(), rel=1e-5)
    moved = sum(((now - then[k]) ** 2).sum() for k, now in signal.items())
    assert values["displacement_squared"] == pytest.approx(moved, rel=1e-4)
    differ = {}
    for block, x, u in (("W", train.x1, stats["w"]), ("V", x2, stats["v"])):
        by_u = x @ params[block] >= 0
        by_noise = x @ (params[block] - of_signal[block]) >= 0
        gap = (by_u * (x @ params[block])) @ u - (by_noise * (x @ params[block])) @ u
        name = f"output_gap_{block.lower()}"
        assert values[name] == pytest.approx(np.sqrt(np.mean(gap**2)), rel=1e-3)
        assert values[name] > 0
        differ[block] = (by_u != by_noise)[has_p if block == "W" else has_q].mean()
    assert values["activation_difference_w"] == pytest.approx(differ["W"], rel=1e-5)
    assert 0 < values["activation_difference_v"] < 1
    # Lemmas 4.4 and 5.1
    w1 = np.maximum(train.x1 @ params["W"], 0) @ stats["w"]
    if structure == "coupled":
        f = np.maximum(train.x1 @ params["W"] + x2 @ params["V"], 0) @ stats["w"]
    else:
        f = w1 + np.maximum(x2 @ params["V"], 0) @ stats["v"]
    loss = lambda out: np.log1p(np.exp(-train.y * out))  # noqa: E731
    assert values["train_loss_of_r_on_m1"] == pytest.approx(loss(w1)[has_p].mean(), rel=1e-5)
    assert values["train_loss_on_m2"] == pytest.approx(loss(f)[has_q].mean(), rel=1e-5)
    # Lemma 5.3
    t = as_float64(data.test.x1)
    r = lambda x: np.maximum(x @ params["W"], 0) @ stats["w"]  # noqa: E731
    odd, p_only = r(t) - r(-t), train.x1[train.group == 0]
    c, *_ = np.linalg.lstsq(2 * t @ p_only.T, odd, rcond=None)
    residual = odd - 2 * t @ p_only.T @ c
    assert np.abs(residual).max() > 0.01  # fewer P-only examples than dimensions
    assert values["odd_part"] == pytest.approx(np.sqrt(np.mean(odd**2)), rel=1e-4)
    assert values["odd_part_residual"] == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-3)
    assert values["alpha_norm"] == pytest.approx(np.linalg.norm(p_only.T @ c), rel=1e-3)


def test_lemma_5_3_finds_an_alpha_that_is_there(tiny):
    """Two units +-alpha make r linear: r(x) - r(-x) = 2 <alpha, x>, without residual."""
    problem, _, data, hypers, states = trajectory(tiny, m_w=2)
    alpha = 3 * jnp.sum(data.train.x1[data.train.group == 0], axis=0)
    state = states[0]._replace(
        params=states[0].params | {"W": jnp.stack([alpha, -alpha], axis=1)},
        stats=states[0].stats | {"w": jnp.array([1.0, -1.0])},
    )
    values = measured(problem, data, hypers, state)
    assert float(values["alpha_norm"]) == pytest.approx(float(jnp.linalg.norm(alpha)), rel=1e-4)
    assert float(values["odd_part_residual"]) < 1e-4 * float(values["odd_part"])


def test_before_the_first_step_there_is_no_signal(tiny):
    problem, _, data, hypers, states = trajectory(tiny)
    values = measured(problem, data, hypers, states[0])
    for name in ("signal_squared_w", "activation_difference_v", "output_gap_w", "m2_gradient_norm"):
        assert values[name] == 0
    assert np.isnan(values["displacement_squared"])


def test_probes_change_nothing_that_is_trained(tiny):
    with_probes = trajectory(tiny)[-1][-1]
    without = trajectory(tiny, probes=())[-1][-1]
    assert without.watched == {}
    jax.tree.map(np.testing.assert_array_equal, with_probes.params, without.params)


@pytest.mark.parametrize(("structure", "representation"), BUILDS)
@pytest.mark.parametrize("law", ["weights", "units"])
@pytest.mark.parametrize("where", ["pattern", "both"])
def test_noise_before_the_activations_against_numpy(tiny, law, where, structure, representation):
    """f = N_A(u, U; x) (2.6) with A x = U x + noise; in both occurrences N_A(u, A; x)."""
    changes = {"noise_law": law, "noise_in": where, "v_representation": representation}
    taus = (0.5, 0.5) if structure == "convolution" else (0.5, 0.8)
    noise = {"noise_init": (0.7,), "tau0_w": taus[0], "tau0_v": taus[1]}
    problem, key, data, model, _ = build(tiny, **(SIZES | STRUCTURES[structure] | changes | noise))
    got, _ = problem.loss(model.params, model.stats, data, jnp.float32(0.7), key)
    train, stats = as_float64(data.train), as_float64(model.stats)
    directions = as_float64(data.directions)
    big = blocks_of(model.params)
    v = np.asarray(big["V"]) if representation == "ambient" else None
    key_w, key_v = jax.random.split(key)
    if v is None:
        plane = as_float64(model.params["V"])
        at = np.array([plane["z"] + s * plane["zeta"] for s in (0, 0.5, -0.5)])
    else:
        at = directions @ v
    before = {"w": train.x1 @ as_float64(model.params["W"]), "v": train.q_coefficients @ at}
    if law == "weights":
        xi = as_float64(blocks_of(problem._gaussian(key_w, key_v)))
        xi_w, xi_v = xi["W"], xi["V"]
        if v is None:
            of_v = np.array([xi_v["z"] + s * xi_v["zeta"] for s in (0, 0.5, -0.5)])
        else:
            of_v = directions @ xi_v
        extra = {"w": train.x1 @ xi_w, "v": train.q_coefficients @ of_v}
    else:
        length = (
            np.linalg.norm(train.x1, axis=1),
            np.linalg.norm(train.q_coefficients @ directions, axis=1),
        )
        draws = (as_float64(jax.random.normal(k, before[b].shape)) for k, b in (
            (key_w, "w"), (key_v, "v")))  # fmt: skip
        extra = {
            b: tau * n[:, None] * e for b, tau, n, e in zip("wv", taus, length, draws, strict=True)
        }
    f = 0
    if structure == "coupled":
        before = {"w": before["w"] + before["v"]}
        extra = {"w": extra["w"] + extra["v"]}
    for block in before:
        decides = before[block] + 0.7 * extra[block]
        shown = decides if where == "both" else before[block]
        f = f + ((decides >= 0) * shown) @ stats[block]
    wanted = np.mean(np.log1p(np.exp(-train.y * f)))
    assert float(got) == pytest.approx(wanted, rel=1e-5)
    plain, _ = problem.loss(model.params, model.stats, data, None, key)
    silent, _ = problem.loss(model.params, model.stats, data, jnp.float32(0), key)
    assert float(silent) == pytest.approx(float(plain), rel=1e-6)
    assert abs(float(got) - float(plain)) > 1e-4


def test_the_probes_follow_the_noisy_gradient(tiny):
    """With noise before the activations Wbar^(2) is that of the noisy loss: if all examples are in
    M2 it is minus the signal part."""
    sizes = {"p0": 0.0, "q0": 0.3, "noise_init": (0.7,), "noise_factor": (0.5,)}
    watched = trajectory(tiny, **sizes)[-1][-1].watched
    np.testing.assert_allclose(
        watched["m2_gradient"], -watched["signal"]["W"], rtol=1e-4, atol=1e-7
    )
