"""The limit of infinite width against the sum over all past steps, and against wide networks."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config

from lr_order_jax import algorithm, experiment, placement, spec, sweep
from lr_order_jax.fields import ConfigError
from lr_order_jax.models.arcsine_kernel import (
    FIT_RATES,
    arcsine_series,
    exponential_weights,
    series_length,
)
from lr_order_jax.problem import MovesItself, lookup


def test_the_series_is_that_of_arcsin():
    x = np.array([0.5, -0.3, 0.05])
    powers = x[:, None] ** (2 * np.arange(30) + 1)
    np.testing.assert_allclose(powers @ arcsine_series(30), np.arcsin(x), rtol=1e-12)


@pytest.mark.parametrize("cosine", [0.05, 0.4, 0.8])
def test_the_series_is_as_long_as_it_needs(cosine):
    count = series_length(cosine)
    powers = cosine ** (2 * np.arange(count) + 1)
    assert abs(powers @ arcsine_series(count) - np.arcsin(cosine)) < 1e-6
    assert count < 40


@pytest.mark.parametrize(("cosine", "bound"), [(1.0, 7e-5), (0.995, 5e-6), (0.98, 5e-6), (0.0, 0)])
def test_the_fit_by_exponentials_is_as_close_as_it_says(cosine, bound):
    u = np.geomspace(1e-6, 60, 5000)
    fitted = np.exp(-np.outer(u, FIT_RATES)) @ exponential_weights(cosine)
    np.testing.assert_allclose(fitted, np.arcsin(cosine * np.exp(-u)), atol=bound)


@pytest.fixture
def values():
    def make(**changes):
        base = dict(load_config("lazy_limit", "smoke").items())
        assert set(changes) <= set(base), "no such field in configs/lazy_limit.py"
        sizes = {"d": 40, "n": 30, "num_test": 50, "r": 0.3, "q_scale": 5.0, "p0": 0.2, "q0": 0.3}
        return base | sizes | changes

    return make


def exact(problem, data, hypers, steps):
    """f on training examples, r on test examples and g at the three directions after steps: the
    sum over all past steps as it stands, in float64."""
    train, test = data.train, data.test
    x1, y, c = (np.asarray(a, np.float64) for a in (train.x1, train.y, train.q_coefficients))
    assert len(x1) < len(y)  # those without P pattern are left out
    x1 = np.pad(x1, [(0, len(y) - len(x1)), (0, 0)])
    t1 = np.asarray(test.x1, np.float64)
    directions = np.asarray(data.directions, np.float64)
    rates, decay, tau = np.asarray(hypers.rates), float(hypers.weight_decay), float(hypers.tau_xi)
    n, v, sigma = len(y), 1.0, 0.0
    noise = hypers.activation_noise if hypers.activation_noise is not None else (0.0, 0.0)
    past = []  # (source, sigma with the lapse by noise, product of decays since)

    def kernel(a, b, rho):
        inner = a @ b.T
        norms = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
        cosine = np.divide(inner, norms, out=np.zeros_like(inner), where=norms > 0)
        return inner * (0.5 - np.arccos(np.clip(rho * cosine, -1, 1)) / (2 * np.pi))

    def outputs(lapse=0.0):
        r, r_test, g3 = np.zeros(n), np.zeros(len(t1)), np.zeros(3)
        for source, then, share in past:
            rho = np.exp(-(sigma + lapse - then))
            r += share * kernel(x1, x1, rho) @ source
            r_test += share * kernel(t1, x1, rho) @ source
            g3 += share * kernel(directions, directions, rho) @ (c.T @ source)
        return r + c @ g3, r_test, g3

    for t in range(steps):
        phase = int(t >= hypers.phase_steps[0])
        rate = rates[phase]
        lapse = 0.5 * np.log1p(noise[phase] ** 2 / v)
        f = outputs(lapse)[0]
        source = rate * y / (1 + np.exp(y * f)) / n
        past = [(s, then, share * (1 - rate * decay)) for s, then, share in past]
        past.append((source, sigma - lapse, 1.0))
        fresh = (rate * tau) ** 2
        kept = (1 - rate * decay) ** 2 * v
        sigma += 0.5 * np.log1p(fresh / kept)
        v = kept + fresh
    return outputs()


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_memory_equals_the_sum_over_all_past_steps(values, noise):
    """Over two phases, in which the noise part relaxes: within 1e-3 of the largest output."""
    changes = {"eta_init": (0.4, 0.1), "eta_2": (0.1,), "lam": (0.02,)}
    changes |= {"noise_init": (noise,), "noise_factor": (0.1,)}
    problem = spec.parse(values(**changes, flow_time_1=6.0, flow_time_2=16.0)).problem
    grid = sweep.make_grid(problem, (3,), ())
    members = placement.place_members(problem, grid, "scan", "vmap")
    members.put(sweep.init_state(problem, grid), range(2))
    members.advance(0, 90)
    stats = members.fetch("stats")
    data = sweep.data_of_seed(grid.data, 0).own
    for h in range(2):
        hypers = jax.tree.map(lambda leaf, h=h: leaf[0, h], grid.hypers)
        f, r_test, g3 = exact(problem, data, hypers, min(90, int(hypers.phase_steps.sum())))
        of_member = jax.tree.map(lambda leaf, h=h: jnp.asarray(leaf[0, h]), stats)
        got = problem.train_f({}, of_member, data)
        np.testing.assert_allclose(got, f, atol=1e-3 * np.abs(f).max())
        np.testing.assert_allclose(
            problem.test_r({}, of_member, data), r_test, atol=1e-3 * np.abs(r_test).max()
        )
        difference = [
            d[1] + d[2] - 2 * d[0] for d in (problem.g_of_directions({}, of_member, data), g3)
        ]
        assert abs(difference[1]) > 0.02
        assert difference[0] == pytest.approx(difference[1], rel=0.01)


def test_the_memory_holds_over_a_hundred_thousand_steps(values):
    """Against the sum over all of them, in float64, of what the program has put in. The weight
    decay of the configs forgets after 5,000 steps; with next to none float32 rounds what each step
    adds to the sums of all."""
    count = 100_000
    times = {"flow_time_1": 0.1 * count, "flow_time_2": 0.1 * count, "d": 20, "n": 12}
    for decay, bound in ((1e-3, 1e-3), (1e-6, 1e-2)):
        changes = {"eta_init": (0.2,), "eta_2": (0.2,), "lam": (decay,), **times}
        problem = spec.parse(values(**changes)).problem
        grid = sweep.make_grid(problem, (3,), ())
        batch = sweep.data_of_seed(grid.data, 0)
        batch, own = batch.own, batch.own
        hypers = algorithm.on_device(jax.tree.map(lambda leaf: leaf[0, 0], grid.hypers))
        assert hypers.phase_steps.tolist() == [0, count]

        @jax.jit
        def run(model, problem=problem, batch=batch, hypers=hypers):
            def step(model, _):
                f, y = problem.train_f(model.params, model.stats, batch), batch.train.y
                source = 0.2 * y * jax.nn.sigmoid(-y * f) / len(y)
                return problem.move(hypers, model, batch, 1), source

            return jax.lax.scan(step, model, length=count)

        model, sources = run(problem.init(grid.keys[0]))
        sources = np.asarray(sources, np.float64)
        kept, fresh = 1 - 0.2 * decay, (0.2 * float(hypers.tau_xi)) ** 2
        v, lapses = 1.0, np.empty(count)
        for t in range(count):
            lapses[t] = 0.5 * np.log1p(fresh / (kept**2 * v))
            v = kept**2 * v + fresh
        left = np.cumsum(lapses[::-1])[::-1]  # of the clock, from each step to the end
        weighed = sources * kept ** np.arange(count - 1, -1, -1)[:, None]
        x1 = np.asarray(own.train.x1, np.float64)
        x1 = np.pad(x1, [(0, sources.shape[1] - len(x1)), (0, 0)])
        q = np.asarray(own.train.q_coefficients, np.float64)
        directions = np.asarray(own.directions, np.float64)

        def summed(a, weights, left=left):
            inner, norms = a @ a.T, np.linalg.norm(a, axis=1)
            norms = np.outer(norms, norms)
            cosine = np.divide(inner, norms, out=np.zeros_like(inner), where=norms > 0)
            out = np.zeros(len(a))
            for part in np.array_split(np.arange(count), 50):
                rho = np.exp(-left[part])[:, None, None]
                kernel = inner * (0.25 + np.arcsin(np.clip(rho * cosine, -1, 1)) / (2 * np.pi))
                out += np.einsum("tij,tj->i", kernel, weights[part])
            return out

        r = summed(x1, weighed)
        np.testing.assert_allclose(
            problem.train_r({}, model.stats, own), r, atol=bound * np.abs(r).max()
        )
        g = summed(directions, weighed @ q)
        got = np.asarray(problem.g_of_directions({}, model.stats, own), np.float64)
        np.testing.assert_allclose(got, g, atol=bound * np.abs(g).max())
        difference = g[1] + g[2] - 2 * g[0]
        assert got[1] + got[2] - 2 * got[0] == pytest.approx(difference, rel=bound)


def test_steps_taken_together_are_as_good_and_cost_less(values):
    """Eight at once: all that does not hang on the residuals is equal, the rest within 0.5 %."""
    changes = {"eta_init": (0.4, 0.02), "eta_2": (0.02,), "lam": (0.02,), "flow_time_2": 11.0}
    ends = []
    for flow_step in (0.0, 0.16):
        problem = spec.parse(values(**changes, flow_step=flow_step)).problem
        assert problem.together([0.4, 0.02]).tolist() == [1, 8 if flow_step else 1]
        grid = sweep.make_grid(problem, (0,), ())
        steps = int(grid.hypers.phase_steps.sum(axis=-1).max())
        members = placement.place_members(problem, grid, "scan", "vmap")
        members.put(sweep.init_state(problem, grid), range(2))
        members.advance(0, steps)
        ends.append((steps, members.fetch("stats"), members.measure(np.ones((1, 2), bool))))
    (each, memory, measured), (at_once, short_memory, short) = ends
    assert (each, at_once) == (800, 100)
    np.testing.assert_allclose(short_memory.variance[0, 1], memory.variance[0, 1], rtol=5e-5)
    for name in ("second_difference", "train_loss"):
        np.testing.assert_allclose(short[name], measured[name], rtol=5e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"flow_step": 2.0, "q_scale": 20.0}, "config.flow_step = 2: must be at most"),
        ({"flow_step": 0.1, "anneal_step": (3,)}, "config.anneal_step: cannot be set"),
        ({"flow_time_1": 0.0, "flow_time_2": 0.0}, "config.flow_time_1 + config.flow_time_2 = 0"),
    ],
)
def test_wrong_steps_are_one_line(values, changes, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        spec.parse(values(**changes))


def test_without_noise_nothing_is_forgotten(values):
    problem = spec.parse(values(noise_scale=(0.0,), eta_init=(0.2,), eta_2=(0.2,))).problem
    grid = sweep.make_grid(problem, (0,), ())
    assert grid.hypers.tau_xi is None
    members = placement.place_members(problem, grid, "scan", "vmap")
    members.put(sweep.init_state(problem, grid), range(1))
    members.advance(0, 20)
    memory = members.fetch("stats")
    np.testing.assert_allclose(memory.p_self[0, 0], np.broadcast_to(memory.p_linear[0], (40, 30)))


def test_the_distribution_is_that_of_the_network(values, tiny):
    """Same seed, same fields: the same examples, so that a net and its limit can be compared."""
    shared = {"d": 40, "n": 30, "num_test": 50, "r": 0.3, "q_scale": 5.0, "p0": 0.2, "q0": 0.3}
    limit = sweep.make_grid(spec.parse(values()).problem, (5,), ()).data.own
    net = sweep.make_grid(spec.parse(tiny(**shared)).problem, (5,), ()).data.own
    np.testing.assert_array_equal(limit.train.x1, net.train.x1)
    np.testing.assert_array_equal(limit.test.q_coefficients, net.test.q_coefficients)


@pytest.mark.slow
def test_a_wide_network_follows_the_limit(values, tiny):
    """Mean over seeds of the second difference and the training loss of nets of 20,000 units."""
    shared = {
        "d": 20, "n": 20, "num_test": 50, "r": 0.4, "q_scale": 6.0, "p0": 0.2, "q0": 0.3,
        "eta_init": (0.2, 0.05), "eta_2": (0.05,), "flow_time_1": 40.0, "flow_time_2": 40.0,
        "lam": (2e-3,), "num_seeds": 8,
    }  # fmt: skip
    wide = {"m_w": 2000, "m_v": 20_000, "tau0_w": 0.05, "tau0_v": 1.0}
    limit, net = (spec.parse(v).problem for v in (values(**shared), tiny(**shared, **wide)))
    ends = []
    for problem in (limit, net):
        grid = sweep.make_grid(problem, range(8), ())
        members = placement.place_members(problem, grid, "scan", "vmap")
        members.put(sweep.init_state(problem, grid), range(2))
        members.advance(0, 800)
        ends.append(members.measure(np.ones((8, 2), bool)))
    for name, bound in (("second_difference", 0.2), ("train_loss", 0.05)):
        of_limit, of_net = (end[name].mean(axis=0) for end in ends)
        assert (np.abs(of_limit) > 0.05).all()
        np.testing.assert_allclose(of_net, of_limit, rtol=bound)


def apart(seed, eta_1, rate, q_scale=10.0, d=200, n=200, p0=0.1, q0=0.2, r=0.1, lam=1e-3, dt=0.2):
    """Second differences and training losses of one arm of lazy_limit.py:A10 at flow times 200 and
    400, from other draws and other code, in float64, the memory of Q summed as it stands."""
    rng = np.random.default_rng(seed)
    y, u = rng.choice([-1.0, 1.0], n), rng.random(n)
    has_p, has_q = (u < p0) | (u >= p0 + q0), u >= p0
    w, z = rng.normal(size=d), rng.normal(size=(n, d)) / np.sqrt(d)
    w /= np.linalg.norm(w)
    x1 = (z * (np.sign(z @ w) * y)[:, None] + y[:, None] * w / np.sqrt(d)) * has_p[:, None]
    alpha = rng.uniform(0, q_scale, n) * has_q
    along = np.eye(3)[np.where(y > 0, 0, rng.integers(1, 3, n))] * alpha[:, None]
    gram, plane = x1 @ x1.T, np.array([[1, 0], [1, r], [1, -r]])
    lengths = np.maximum(np.sqrt(np.diag(gram)), 1e-9)
    cosines = gram / np.outer(lengths, lengths) * (1 - np.eye(n))
    of_plane = plane @ plane.T
    angles = of_plane / np.sqrt(np.outer(np.diag(of_plane), np.diag(of_plane)))
    powers = 2 * np.arange(7)[:, None] + 1  # the arcsine of cosines of at most 0.4 or so
    terms = gram * cosines ** powers[..., None] * arcsine_series(7)[:, None, None] / (2 * np.pi)
    linear, series, variance, clock, decayed = np.zeros(n), np.zeros((7, n)), 1.0, 0.0, 0.0
    after, steps = [], round(400 / dt)
    then, decayed_then = np.zeros((2, steps))
    of_q, own = np.zeros((steps, 3)), np.zeros((steps, n))
    for t in range(steps + 1):
        rho, decay = np.exp(then[:t] - clock), np.exp(decayed - decayed_then[:t])
        kernel = 0.5 - np.arccos(np.clip(rho[:, None, None] * angles, -1, 1)) / (2 * np.pi)
        g = -np.einsum("t,tjk,tj->k", decay, of_plane * kernel, of_q[:t])
        f = along @ g - linear - series.sum(axis=0)
        f -= np.diag(gram) * ((decay * np.arcsin(rho) / (2 * np.pi)) @ own[:t])
        if t in (steps // 2, steps):
            after += [g[1] + g[2] - 2 * g[0], np.logaddexp(0, -y * f).mean()]
        if t == steps:
            return after
        gamma = rate if t < steps // 2 else eta_1 / 64  # dt / gamma steps at once
        one = 1 - gamma * lam
        all_of_dt = one ** (dt / gamma)
        slope = -y / (1 + np.exp(y * f)) / n * gamma * (1 - all_of_dt) / (1 - one)
        fresh = gamma**2 * lam * (2 - eta_1 * lam) / eta_1 * (1 - all_of_dt**2) / (1 - one**2)
        lapse = np.log1p(fresh / (all_of_dt**2 * variance)) / 2
        decayed += np.log(all_of_dt)
        then[t], decayed_then[t] = clock + lapse / 2, decayed
        of_q[t], own[t] = along.T @ slope, slope * has_p
        linear = linear * all_of_dt + gram @ slope / 4
        series = series * all_of_dt * np.exp(-powers * lapse)
        series += terms @ slope * np.exp(-powers * lapse / 2)
        variance = all_of_dt**2 * variance + fresh
        clock += lapse


@pytest.mark.slow
def test_both_algorithms_end_as_in_an_implementation_apart(tmp_path):
    """Means of 8 seeds here and 16 there, within three standard errors of their difference."""
    values = dict(load_config("lazy_limit", "A10").items()) | {"num_test": 100, "num_records": 2}
    ds = experiment.run(spec.parse(values), tmp_path / "run")
    for i, rate in enumerate((0.1, 0.1 / 64)):
        ours = ds.isel(eta_init=i, flow_time=[1, 2])[["second_difference", "train_loss"]]
        ours = ours.to_array().transpose("seed", "flow_time", "variable").values.reshape(8, 4)
        theirs = np.array([apart(seed, 0.1, rate) for seed in range(16)])
        errors = np.hypot(*(x.std(axis=0, ddof=1) / np.sqrt(len(x)) for x in (ours, theirs)))
        assert (errors < 0.03 * np.abs(theirs.mean(axis=0))).all()  # it can tell
        assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 3 * errors).all()


def test_a_run_follows_the_contract(values, tmp_path):
    ds = experiment.run(spec.parse(values(num_records=4)), tmp_path / "run")
    assert ds["train_loss"].dims == ("seed", "eta_init", "flow_time")
    np.testing.assert_allclose(ds["train_loss"].isel(flow_time=0), np.log(2), rtol=1e-6)
    assert (ds["train_loss"].isel(flow_time=-1) < 0.69).all()
    written = (tmp_path / "run" / "results.nc").read_bytes()
    again = experiment.run(spec.parse(values(num_records=4)), tmp_path / "run")  # from the memory
    assert again.attrs["complete"] == 1
    assert (tmp_path / "run" / "results.nc").read_bytes() == written


def test_the_limit_moves_itself():
    assert issubclass(lookup("lazy_limit"), MovesItself)
    assert not issubclass(lookup("two_layer"), MovesItself)
