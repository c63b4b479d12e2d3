"""Axes and members, and that no way of driving or mapping them changes a number."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lr_order_jax import algorithm, engine, fields, placement, spec, sweep
from lr_order_jax.algorithm import Status, TrainState
from lr_order_jax.fields import ConfigError

RATES = (0.2, 0.1, 0.05)


@pytest.fixture
def problem(tiny):
    return spec.parse(tiny(eta_init=RATES, eta_2=(0.05,), r=0.4, flow_time_1=2.0, n=60)).problem


WAYS = [
    (driving, mapping)
    for driving in ("scan", "dispatch")
    for mapping in ("vmap", "map", "unroll", "loop")
]


def start(problem, seeds=(0, 1)):
    grid = sweep.make_grid(problem, seeds, ())
    return grid, sweep.init_state(problem, grid)


def fetch(members):
    return TrainState(*(members.fetch(name) for name in TrainState._fields))


def run(problem, steps, driving="scan", mapping="vmap", chunks=None, change=lambda s: s):
    grid, state = start(problem)
    members = placement.place_members(problem, grid, driving, mapping)
    members.put(change(state), range(grid.shape[1]))
    t = 0
    for count in chunks or (steps,):
        members.advance(t, count)
        t += count
    assert t == steps
    return fetch(members)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Axes.


def test_axes_are_a_product_in_c_order():
    problem = toy.make(eta=(0.1, 0.2), lam=(0.0, 0.1, 0.2))
    axes = sweep.make_axes(fields.swept_values(problem.fields), ())
    assert [(a.name, len(a)) for a in axes] == [("eta", 2), ("lam", 3), ("free", 1)]
    members = sweep.make_members(axes)
    assert members[0] == {"eta": 0.1, "lam": 0.0, "free": None}
    assert members[1] == {"eta": 0.1, "lam": 0.1, "free": None}
    assert members[3] == {"eta": 0.2, "lam": 0.0, "free": None}
    assert len(members) == 6


def test_zipped_fields_are_one_axis_named_after_the_first():
    problem = toy.make(eta=(0.1, 0.2), lam=(0.0, 0.1))
    axes = sweep.make_axes(fields.swept_values(problem.fields), ("lam+eta",))
    assert [a.name for a in axes] == ["lam", "free"]
    members = sweep.make_members(axes)
    assert [(m["lam"], m["eta"]) for m in members] == [(0.0, 0.1), (0.1, 0.2)]
    grid = sweep.make_grid(problem, (0,), ("lam+eta",))
    assert [a.name for a in grid.axes] == ["lam"]  # no dimension of one point


@pytest.mark.parametrize(
    ("zipped", "told"),
    [
        (("eta+mu",), "'mu' is no axis of this kind"),
        (("eta+eta",), "twice"),
        (("eta+lam",), "equal length: eta has 2, lam has 3"),
        (("eta+free",), "config.free is not set"),
    ],
)
def test_wrong_zips_are_refused(zipped, told):
    problem = toy.make(eta=(0.1, 0.2), lam=(0.0, 0.1, 0.2))
    with pytest.raises(ConfigError, match=told):
        sweep.make_axes(fields.swept_values(problem.fields), zipped)


def test_a_repeated_name_is_refused(tiny):
    @dataclasses.dataclass(frozen=True)
    class Named:
        eta: tuple = fields.positive(many=True)
        arm: tuple = fields.words(swept=True)

    with pytest.raises(ConfigError, match="same value twice"):
        sweep.make_axes(fields.swept_values(Named(eta=(0.1, 0.2), arm=("a", "a"))), ("arm+eta",))


def test_a_repeated_value_is_refused_but_not_a_repeated_zipped_field():
    with pytest.raises(ConfigError, match="same value twice"):
        sweep.make_axes(fields.swept_values(toy.make(eta=(0.1, 0.1)).fields), ())
    axes = sweep.make_axes(
        fields.swept_values(toy.make(eta=(0.1, 0.1), lam=(0.0, 0.1)).fields), ("eta+lam",)
    )
    assert len(axes[0]) == 2


# What members share.


def test_members_of_a_seed_share_data_and_initial_weights(problem):
    grid, state = start(problem)
    assert grid.data.own.train.x1.shape[0] == 2  # one data set a seed
    w = np.asarray(state.params["W"])
    assert w.shape[:2] == (2, 3)
    np.testing.assert_array_equal(w[:, 0], w[:, 2])
    assert (w[0] != w[1]).all()


def test_a_seed_has_the_same_data_and_weights_in_any_company(problem):
    alone, state_alone = start(problem, seeds=(1,))
    among, state_among = start(problem, seeds=(5, 1, 0))
    x1, in_company = alone.data.own.train.x1[0], among.data.own.train.x1[1]
    assert_equal(x1, in_company[: len(x1)])
    assert not in_company[len(x1) :].any()  # there because of another seed
    assert_equal(alone.data.own.train.y[0], among.data.own.train.y[1])
    assert_equal(state_alone.params["W"][0], state_among.params["W"][1])


# Ways of driving and mapping.


@pytest.mark.parametrize("mapping", ["vmap", "map", "unroll", "loop"])
def test_what_is_put_on_the_device_is_fetched_again(problem, mapping):
    """However it is arranged there, and with some columns only."""
    grid, state = start(problem)
    numbers = itertools.count()
    state = jax.tree.map(
        lambda leaf: (np.arange(leaf.size) + next(numbers)).reshape(leaf.shape).astype(leaf.dtype),
        state,
    )
    members = placement.place_members(problem, grid, "scan", mapping)
    members.put(state, (2, 0))
    for name in state._fields:
        assert_equal(members.fetch(name), sweep.take_columns(getattr(state, name), (2, 0)))


def test_members_stand_side_by_side_before_the_last_axis():
    """Then the products of all of them with the examples of a seed are one."""
    assert [placement.members_axis("vmap", ndim) for ndim in (2, 3, 4, 5)] == [1, 1, 2, 3]
    assert [placement.members_axis("map", ndim) for ndim in (2, 3, 4, 5)] == [1, 1, 1, 1]


def test_chunk_length_is_irrelevant_bitwise(problem):
    whole = run(problem, 60)
    assert_equal(whole, run(problem, 60, chunks=(1, 2, 17, 40)))
    assert_equal(whole, run(problem, 60, chunks=(59, 1)))


@pytest.mark.parametrize(("driving", "mapping"), WAYS)
def test_driving_and_mapping_change_rounding_at_most(problem, driving, mapping):
    """float32 sums in another order: relative 1e-5 after 60 steps of a net that is not chaotic."""
    plain = run(problem, 60)
    other = run(problem, 60, driving, mapping)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, other)
    assert_equal((plain.phase, plain.phase_counts), (other.phase, other.phase_counts))


@pytest.mark.parametrize(("driving", "mapping"), WAYS)
def test_batches_of_several_sizes_come_in_their_turn_however_chunks_are_cut(driving, mapping):
    """Each step adds its batch size, weighted by the step, to the weights; and 100 to the power of
    its epoch, which is drawn for the epoch."""
    sizes = (4, 4, 3)

    @dataclasses.dataclass(frozen=True)
    class Counting(toy.Toy):
        batch_sizes = sizes

        def draw_epoch(self, data, key, epoch):
            return 100.0 ** epoch.astype(jnp.float32)

        def batch(self, data, task, key, step, size):
            return jnp.float32(size) * (step.astype(jnp.float32) + 1) + data.epoch

        def loss(self, params, stats, batch, noise_level, key):
            return -batch * jnp.mean(params["a"]) * toy.SIZE, stats

    problem = Counting(toy.make(eta=(1.0, 2.0), lam=(0.0,)).fields, tau_0=0.0, tau_xi=None)
    grid, state = start(problem)
    for chunks in ((7,), (1, 2, 3, 1), (0, 2, 0, 5)):
        members = placement.place_members(problem, grid, driving, mapping)
        members.put(state, range(2))
        t = 0
        for count in chunks:
            members.advance(t, count)
            t += count
        wanted = sum(sizes[t % 3] * (t + 1) + 100.0 ** (t // 3) for t in range(7))
        a = members.fetch("params")["a"]
        np.testing.assert_allclose(a[:, 0], wanted, rtol=1e-6)
        np.testing.assert_allclose(a[:, 1], 2 * wanted, rtol=1e-6)


def test_mapped_members_equal_single_runs(problem):
    grid, state = start(problem)
    hypers = algorithm.on_device(grid.hypers)
    together = run(problem, 60)
    size = problem.batch_sizes[0]
    step = jax.jit(lambda d, h, s, t, k: engine.train_step(problem, d, h, s, t, k, size)[0])
    for s in range(2):
        data = sweep.data_of_seed(grid.data, s)
        for h in range(len(RATES)):
            pick = lambda leaf, s=s, h=h: leaf[s, h]  # noqa: E731
            single = jax.tree.map(pick, state)
            member_hypers = jax.tree.map(pick, hypers)
            for t in range(60):
                single = step(data, member_hypers, single, jnp.int32(t), grid.keys[s])
            wanted = jax.tree.map(pick, together)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), single, wanted
            )


@pytest.mark.parametrize(("driving", "mapping"), WAYS)
def test_chunks_of_any_length_agree_bitwise_in_every_way(problem, driving, mapping):
    whole = run(problem, 9, driving, mapping)
    assert_equal(whole, run(problem, 9, driving, mapping, chunks=(0, 1, 5, 0, 3)))


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_new_values_do_not_retrace(mapping):
    problem = toy.make(eta=(0.1, 0.2), lam=(0.0,))
    grid, state = start(problem)
    members = placement.place_members(problem, grid, "scan", mapping)
    traces = set()
    for eta, lam, steps in ((0.1, 0.0, 3), (0.3, 0.1, 5), (1.0, 0.2, 8)):
        values = toy.make(eta=(eta, 2 * eta), lam=(lam,), traces=problem.traces)
        grid.hypers.rates[:] = sweep.make_grid(values, (4, 5), ()).hypers.rates
        grid.hypers.weight_decay[:] = lam
        members.put(state, range(2))
        members.advance(steps, steps)
        traces.add(problem.traces.count)
    assert len(traces) == 1
    assert traces.pop() > 0


@pytest.mark.parametrize("mapping", ["vmap", "map", "unroll", "loop"])
def test_a_nan_member_ends_alone(problem, mapping):
    """Members (0, 1) and (1, 2) get weights that are not finite; no other changes by a bit."""

    def spoil(state):
        spoiled = jax.tree.map(np.copy, state)
        spoiled.params["W"][0, 1, 0, 0] = np.nan
        spoiled.params["V"]["z"][1, 2, 0] = np.inf
        return spoiled

    clean, spoiled = (
        run(problem, 30, mapping=mapping),
        run(problem, 30, mapping=mapping, change=spoil),
    )
    bad = np.zeros((2, 3), bool)
    bad[0, 1] = bad[1, 2] = True
    np.testing.assert_array_equal(spoiled.status == Status.DIVERGED, bad)
    np.testing.assert_array_equal(spoiled.phase_counts[bad], 0)
    assert_equal(*(jax.tree.map(lambda leaf: leaf[~bad], s) for s in (clean, spoiled)))


@pytest.mark.parametrize(("driving", "mapping"), WAYS)
def test_measure_evaluates_the_due_members_alone(problem, driving, mapping):
    grid, state = start(problem)
    members = placement.place_members(problem, grid, driving, mapping)
    members.put(state, range(3))
    everyone = members.measure(np.ones((2, 3), bool))
    due = np.array([[False, True, False], [True, False, True]])
    some = members.measure(due)
    for name in problem.variables:
        assert np.isfinite(everyone[name]).all()
        np.testing.assert_array_equal(some[name][due], everyone[name][due])
        assert np.isnan(some[name][~due]).all()


def test_evaluation_is_the_same_in_every_way(problem):
    grid, state = start(problem)
    values = []
    for driving, mapping in WAYS:
        members = placement.place_members(problem, grid, driving, mapping)
        members.put(state, range(3))
        values.append(members.measure(np.ones((2, 3), bool)))
    for other in values[1:]:
        for name in problem.variables:
            np.testing.assert_allclose(other[name], values[0][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mapping", ["vmap", "unroll", "loop"])
def test_dropping_columns_leaves_the_others_as_they_are(problem, mapping):
    """Bit by bit where each member has products of its own. Where those of all columns are one, a
    sum may be made in another order: 20 steps then differ by a few roundings."""
    grid, state = start(problem)
    members = placement.place_members(problem, grid, "scan", mapping)
    members.put(state, range(3))
    members.advance(0, 20)
    host = fetch(members)
    members.advance(20, 20)
    whole = fetch(members)
    members.put(host, [0, 2])
    members.advance(20, 20)
    wanted, got = sweep.take_columns(whole, [0, 2]), fetch(members)
    if mapping == "vmap":
        close = functools.partial(np.testing.assert_allclose, rtol=20 * 2**-24, atol=20 * 2**-24)
        jax.tree.map(close, got, wanted)
    else:
        assert_equal(wanted, got)
