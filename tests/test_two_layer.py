"""The two-layer net: one golden step against NumPy, and planar against ambient V."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lr_order_jax import algorithm, engine, fields, placement, spec, sweep
from lr_order_jax.engine import Stream
from lr_order_jax.problem import Data
from lr_order_jax.problems import synthetic


def build(tiny, **changes):
    problem = spec.parse(tiny(**changes)).problem
    key = engine.seed_key(3)
    data = problem.make_data(engine.stream_key(key, Stream.DATA), ())
    model = problem.init(engine.stream_key(key, Stream.INIT))
    members = sweep.make_members(sweep.make_axes(fields.swept_values(problem.fields), ()))
    hypers = algorithm.on_device(problem.hypers(members[0], Data((), data)))
    return problem, key, data, model, hypers


def plain_numpy_step(data, model, hypers, xi, v_dirs):
    """(3.1)-(3.2) written out for f = w^T relu(W x1) + v^T relu(V x2); V in R^d."""
    x1, y = np.asarray(data.train.x1, np.float64), np.asarray(data.train.y, np.float64)
    x2 = np.asarray(data.train.q_coefficients, np.float64) @ v_dirs
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
    w, v = (np.asarray(model.stats[name], np.float64) for name in ("w", "v"))
    big_w, big_v = params["W"], params["V"]
    f = np.maximum(x1 @ big_w, 0) @ w + np.maximum(x2 @ big_v, 0) @ v
    loss = np.mean(np.log1p(np.exp(-y * f)))
    dloss = -y / (1 + np.exp(y * f)) / len(y)  # d(mean loss)/df_n
    grad_w = np.einsum("n,nm,m,nd->dm", dloss, x1 @ big_w > 0, w, x1)
    grad_v = np.einsum("n,nm,m,nd->dm", dloss, x2 @ big_v > 0, v, x2)
    gamma, lam = float(hypers.rates[0]), float(hypers.weight_decay)
    tau = {k: float(t) for k, t in hypers.tau_xi.items()}
    return loss, {
        "W": (1 - gamma * lam) * big_w - gamma * (grad_w + tau["W"] * np.asarray(xi["W"])),
        "V": (1 - gamma * lam) * big_v - gamma * (grad_v + tau["V"] * np.asarray(xi["V"])),
    }


def test_golden_step_against_numpy(tiny):
    """If this fails after a deliberate change of the update rule, change the formula above too."""
    problem, key, data, model, hypers = build(tiny, v_representation="ambient", lam=(0.05,))
    state = algorithm.init_state(hypers, *model)
    after, info = engine.train_step(
        problem, Data((), data), hypers, state, jnp.int32(5), key, problem.batch_sizes[0]
    )
    xi = algorithm.gradient_noise(engine.stream_key(key, Stream.GRADIENT_NOISE, 5), model.params)
    directions = np.asarray(data.directions, np.float64)
    loss, wanted = plain_numpy_step(data, model, hypers, xi, directions)
    assert float(info["loss"]) == pytest.approx(loss, rel=1e-5)
    for name in ("W", "V"):
        np.testing.assert_allclose(after.params[name], wanted[name], rtol=2e-5, atol=2e-6)
        assert np.abs(np.asarray(after.params[name]) - np.asarray(model.params[name])).max() > 1e-3
    np.testing.assert_array_equal(after.phase_counts, [1, 0])


def projected(data, tree, r):
    """V (d, m_v) in the coordinates of the planar representation."""
    z = data.directions[0]
    zeta = (data.directions[1] - z) / r
    v = tree["V"]
    return {"W": tree["W"], "V": {"z": z @ v, "zeta": zeta @ v}}


def move(hypers, state, loss, grads, xi):
    update = functools.partial(algorithm.descend, hypers, state, grads, state.stats, xi)
    return algorithm.transition(hypers, state, loss, update)


def test_planar_v_follows_ambient_v_with_the_same_draws(tiny):
    """The gradient of f lies in the plane of Q, so projecting commutes with every step."""
    sizes = {"d": 10, "n": 30, "m_v": 16, "r": 0.4, "lam": (0.01,)}
    ambient, key, data, model, hypers = build(tiny, v_representation="ambient", **sizes)
    planar, *_ = build(tiny, v_representation="planar", **sizes)
    r = ambient.fields.r
    big = algorithm.init_state(hypers, *model)
    small = algorithm.init_state(hypers, projected(data, model.params, r), model.stats, {})
    grad = lambda problem: jax.jit(jax.value_and_grad(problem.loss, has_aux=True))  # noqa: E731
    grads = {"ambient": grad(ambient), "planar": grad(planar)}
    for t in range(40):
        xi = algorithm.gradient_noise(engine.stream_key(key, Stream.GRADIENT_NOISE, t), big.params)
        (loss_a, _), g_a = grads["ambient"](big.params, big.stats, data, None, key)
        (loss_p, _), g_p = grads["planar"](small.params, small.stats, data, None, key)
        assert float(loss_a) == pytest.approx(float(loss_p), rel=1e-5)
        big = move(hypers, big, loss_a, g_a, xi)
        small = move(hypers, small, loss_p, g_p, projected(data, xi, r))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        projected(data, big.params, r),
        small.params,
    )
    np.testing.assert_allclose(
        ambient.g_of_directions(big.params, big.stats, data),
        planar.g_of_directions(small.params, small.stats, data),
        rtol=1e-4,
        atol=1e-5,
    )


def final_second_differences(tiny, representation, seeds):
    values = tiny(
        v_representation=representation, d=5, n=20, m_v=24, m_w=2, r=0.5, eta_init=(0.2,),
        eta_2=(0.2,), eta_1=0.2, tau0_v=1.0, q_scale=4.0, lam=(0.05,),
    )  # fmt: skip
    problem = spec.parse(values).problem
    grid = sweep.make_grid(problem, seeds, ())
    members = placement.place_members(problem, grid, "scan", "vmap")
    members.put(sweep.init_state(problem, grid), range(1))
    members.advance(0, 60)
    g = jax.vmap(problem.g_of_directions)(
        *(jax.tree.map(lambda leaf: leaf[:, 0], members.fetch(n)) for n in ("params", "stats")),
        grid.data.own,
    )
    return np.asarray(g[:, 1] + g[:, 2] - 2 * g[:, 0]), np.asarray(g[:, 0])


def test_planar_and_ambient_v_have_the_same_law_with_independent_draws(tiny):
    """Two-sample Kolmogorov-Smirnov over 400 independent runs a side, after 60 noisy steps."""
    ambient = final_second_differences(tiny, "ambient", range(400))
    planar = final_second_differences(tiny, "planar", range(1000, 1400))
    for a, b in zip(ambient, planar, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
        assert stats.ks_2samp(a, b + 0.5 * a.std()).pvalue < 1e-3  # the test can tell


SHARED = {"m_w": 10, "m_v": 10, "tau0_w": 0.3, "tau0_v": 0.3, "v_representation": "ambient"}


def numpy_gradient(structure, w, v, u, x1, x2, y):
    """f of each example and the gradient of the loss by W and V, written out from the docstring."""
    if structure == "coupled":
        active = x1 @ w + x2 @ v > 0
        f = (active * (x1 @ w + x2 @ v)) @ u
        active = {"W": active, "V": active}
    else:
        active = {"W": x1 @ w > 0, "V": x2 @ v > 0}
        f = np.maximum(x1 @ w, 0) @ u + np.maximum(x2 @ v, 0) @ u
    dloss = -y / (1 + np.exp(y * f)) / len(y)
    inputs = {"W": x1, "V": x2}
    return f, {k: np.einsum("n,nm,m,nd->dm", dloss, active[k], u, inputs[k]) for k in "WV"}


@pytest.mark.parametrize("structure", ["coupled", "convolution"])
def test_other_structures_against_numpy(tiny, structure):
    """Loss, gradient and evaluation; the second layer is one, and a convolution has one U."""
    changes = SHARED | {"structure": structure, "n": 30, "num_test": 200, "q_scale": 3.0}
    problem, key, data, model, _ = build(tiny, **changes)
    u = np.asarray(model.stats["w"], np.float64)
    np.testing.assert_array_equal(model.stats["w"], model.stats["v"])
    w = np.asarray(model.params["W"], np.float64)
    v = w if structure == "convolution" else np.asarray(model.params["V"], np.float64)
    directions = np.asarray(data.directions, np.float64)

    def inputs(examples):
        x2 = np.asarray(examples.q_coefficients, np.float64) @ directions
        return np.asarray(examples.x1, np.float64), x2, np.asarray(examples.y, np.float64)

    f, grads = numpy_gradient(structure, w, v, u, *inputs(data.train))
    losses = np.log1p(np.exp(-np.asarray(data.train.y) * f))
    (loss, _), got = jax.value_and_grad(problem.loss, has_aux=True)(
        model.params, model.stats, data, None, key
    )
    assert float(loss) == pytest.approx(losses.mean(), rel=1e-5)
    if structure == "convolution":
        assert set(got) == {"W"}
        grads = {"W": grads["W"] + grads["V"]}
    for name, wanted in grads.items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-6)
    values = engine.make_evaluate(problem, "scan")(Data((), data), None, model)
    x1, x2, y = inputs(data.test)
    none = np.zeros_like(x1)
    for name, of_pattern in (("p_only", (x1, none)), ("q_only", (none, x2)), ("both", (x1, x2))):
        out, _ = numpy_gradient(structure, w, v, u, *of_pattern, y)
        assert float(values[f"test_error_{name}"]) == pytest.approx(np.mean(y * out <= 0))
        if name == "p_only":
            wanted = np.log1p(np.exp(-y * out)).mean()
            assert float(values["test_loss_p_only"]) == pytest.approx(wanted, rel=1e-5)
    r_and_g = [numpy_gradient(structure, w, v, u, *of, y)[0] for of in ((x1, none), (none, x2))]
    whole = numpy_gradient(structure, w, v, u, x1, x2, y)[0]
    assert np.allclose(sum(r_and_g), whole) == (structure == "convolution")


@pytest.mark.parametrize("law", [None, "weights", "units"])
@pytest.mark.parametrize("structure", ["separate", "coupled", "convolution"])
def test_leaving_out_rows_without_p_changes_nothing(tiny, structure, law):
    """Loss, gradient and measurements, with noise before the activations of either law."""
    changes = SHARED | {"structure": structure, "n": 30, "q0": 0.3, "noise_law": law or "units"}
    problem, key, data, model, _ = build(tiny, **changes)
    stacked = jax.tree.map(lambda leaf: leaf[None], data)
    trimmed = jax.tree.map(lambda leaf: leaf[0], problem.trim_data(stacked))
    with_p = int(np.sum(np.asarray(data.train.group) != 1))
    assert trimmed.train.x1.shape[0] == with_p < data.train.x1.shape[0] == 30
    level = None if law is None else jnp.float32(0.5)

    def everything(data):
        grad = jax.value_and_grad(problem.loss, has_aux=True)
        (loss, _), grads = grad(model.params, model.stats, data, level, key)
        return loss, grads, engine.make_evaluate(problem, "scan")(Data((), data), None, model)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        everything(trimmed),
        everything(data),
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"structure": "coupled", "m_w": 9}, "m_w = 9 and m_v = 10 must be equal"),
        ({"structure": "convolution", "tau0_v": 1.0}, "tau0_w = 0.3 and tau0_v = 1 must be equal"),
        ({"structure": "convolution", "v_representation": "planar"}, "must be 'ambient'"),
        ({"structure": "dense"}, "structure = 'dense'"),
    ],
)
def test_a_structure_that_cannot_be_is_refused(tiny, changes, told):
    with pytest.raises(fields.ConfigError, match=told):
        spec.parse(tiny(**(SHARED | changes)))


@pytest.mark.parametrize("representation", ["planar", "ambient"])
def test_evaluation_against_numpy(tiny, representation):
    changes = {"n": 40, "num_test": 300, "v_representation": representation, "r": 0.5}
    problem, _, data, model, _ = build(tiny, **changes)
    evaluate = engine.make_evaluate(problem, "scan")
    out = {k: float(v) for k, v in evaluate(Data((), data), None, model).items()}
    w, v = np.asarray(model.stats["w"]), np.asarray(model.stats["v"])
    big_w, r = np.asarray(model.params["W"]), problem.fields.r
    if representation == "planar":
        plane = [np.asarray(model.params["V"][name]) for name in ("z", "zeta")]
        hidden = np.stack([plane[0] + slope * plane[1] for slope in (0, r, -r)])
    else:
        hidden = np.asarray(data.directions) @ np.asarray(model.params["V"])
    g3 = np.maximum(hidden, 0) @ v

    def outputs(examples):
        r = np.maximum(np.asarray(examples.x1) @ big_w, 0) @ w
        return r, np.asarray(examples.q_coefficients) @ g3, np.asarray(examples.y)

    r, g, y = outputs(data.train)
    losses = np.log1p(np.exp(-y * (r + g)))
    group = np.asarray(data.train.group)
    assert out["train_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    for i, name in enumerate(synthetic.GROUPS):
        assert out[f"train_loss_{name}"] == pytest.approx(losses[group == i].mean(), rel=1e-5)
    r, g, y = outputs(data.test)
    for name, f in (("p_only", r), ("q_only", g), ("both", r + g)):
        assert out[f"test_error_{name}"] == pytest.approx(np.mean(y * f <= 0), abs=1e-6)
    share = problem.fields.p0, problem.fields.q0, 1 - problem.fields.p0 - problem.fields.q0
    losses = [np.log1p(np.exp(-y * f)).mean() for f in (r, g, r + g)]
    assert out["test_loss"] == pytest.approx(np.dot(share, losses), rel=1e-5)
    assert out["test_loss_p_only"] == pytest.approx(losses[0], rel=1e-5)
    second_difference = g3[1] + g3[2] - 2 * g3[0]
    assert abs(second_difference) > 0.01
    assert out["second_difference"] == pytest.approx(second_difference, rel=1e-5)
    assert set(out) == set(problem.variables)


@pytest.mark.parametrize("law", ["sign", "gaussian"])
def test_second_layer_has_variance_one_over_width(tiny, law):
    _, _, _, model, _ = build(tiny, m_v=4000, u_law=law)
    v = np.asarray(model.stats["v"])
    assert v.var() * 4000 == pytest.approx(1, rel=4 * np.sqrt(2 / 4000))
    assert (np.unique(np.abs(v)).size == 1) == (law == "sign")


def test_initial_weights_have_deviation_tau_0_by_block(tiny):
    _, _, _, model, _ = build(tiny, m_w=500, d=40, m_v=20_000, tau0_w=0.05, tau0_v=3.0)
    slack = 4 * np.sqrt(1 / (2 * 20_000))
    assert np.std(model.params["W"]) == pytest.approx(0.05, rel=slack)
    assert np.std(model.params["V"]["z"]) == pytest.approx(3.0, rel=slack)
    assert np.std(model.params["V"]["zeta"]) == pytest.approx(3.0, rel=slack)
