"""Members over several devices: each has its share, and the numbers stay."""

import itertools

import jax
import numpy as np
import pytest
from conftest import load_config

from lr_order_jax import algorithm, memory, parts, placement, spec, sweep
from lr_order_jax.algorithm import Status, TrainState
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import Data

WAYS = list(itertools.product(("scan", "dispatch"), ("vmap", "map", "unroll", "loop")))


def advanced(problem, seeds, ways, devices, columns=None, steps=30):
    grid = sweep.make_grid(problem, seeds, ())
    members = placement.place_members(problem, grid, *ways, devices)
    members.put(sweep.init_state(problem, grid), columns or range(grid.shape[1]))
    members.advance(0, steps)
    values = members.measure(np.ones((len(seeds), len(columns or grid.members)), bool))
    return members, TrainState(*(members.fetch(name) for name in TrainState._fields)), values


@pytest.fixture
def problem(tiny):
    return spec.parse(tiny(eta_init=(0.2, 0.1, 0.05), eta_2=(0.05,), n=30)).problem


@pytest.mark.parametrize("ways", WAYS)
def test_two_devices_give_the_numbers_of_one(problem, ways):
    """Three seeds: on two devices there is one more, an idle copy, that no one sees."""
    plain, others = (advanced(problem, (5, 6, 7), ways, k) for k in (1, 2))
    assert (plain[0].devices_used, others[0].devices_used) == (1, 2)
    for a, b in zip(jax.tree.leaves(plain[1:]), jax.tree.leaves(others[1:]), strict=True):
        assert a.shape[:2] == b.shape[:2] == (3, 3)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert np.all(others[1].phase_counts.sum(axis=-1) == 30)


def test_seeds_over_devices_change_no_bit_where_two_or_more_are_left_on_each(problem):
    _, *plain = advanced(problem, (5, 6, 7, 8), ("scan", "vmap"), 1)
    _, *others = advanced(problem, (5, 6, 7, 8), ("scan", "vmap"), 2)
    jax.tree.map(np.testing.assert_array_equal, plain, others)


def test_columns_are_cut_where_there_is_one_seed(problem):
    members, state, _ = advanced(problem, (5,), ("scan", "vmap"), 2)
    assert members.devices_used == 2
    _, wanted, _ = advanced(problem, (5,), ("scan", "vmap"), 1)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, state, wanted)


def test_each_device_holds_its_own_members_alone(problem):
    members, *_ = advanced(problem, (5, 6, 7), ("scan", "vmap"), 2)
    (state,) = members._state
    for leaf in jax.tree.leaves(state):
        assert len(leaf.sharding.device_set) == 2
        held = {shard.device: shard.data.size for shard in leaf.addressable_shards}
        assert list(held.values()) == [leaf.size // 2] * 2
    padding = np.asarray(state.status)[3:]
    assert np.all(padding == Status.COMPLETED)
    assert padding.size


def test_members_are_put_again_on_fewer_devices(problem):
    grid = sweep.make_grid(problem, (5,), ())
    members = placement.place_members(problem, grid, "scan", "vmap", 2)
    state = sweep.init_state(problem, grid)
    for columns, used in (((0, 1, 2), 2), ((1,), 1), ((2, 0), 2)):
        members.put(state, columns)
        assert members.devices_used == used
        members.advance(0, 2)
        fetched = members.fetch("params")
        assert fetched["W"].shape[:2] == (1, len(columns))
        assert members.memory(state, columns) > 0


def test_spread_is_best_by_brute_force():
    for seeds, columns, devices in itertools.product(range(1, 7), range(1, 7), range(1, 9)):
        a, b = sweep.spread(seeds, columns, devices)
        assert a * b <= devices
        load = lambda a, b: -(-seeds // a) * -(-columns // b)  # noqa: E731, B023
        every = [
            (load(i, j), i * j)
            for i, j in itertools.product(range(1, devices + 1), repeat=2)
            if i * j <= devices
        ]
        assert (load(a, b), a * b) == min(every)


def test_parts_of_processes_are_the_grid():
    for seeds, columns, count in itertools.product(range(1, 7), range(1, 7), range(1, 9)):
        held = np.zeros((seeds, columns), int)
        every = [parts.part_of((seeds, columns), count, i) for i in range(count)]
        for part in every:
            rows, all_columns = range(seeds)[part.rows], range(columns)[part.columns]
            assert rows
            assert all_columns  # of a copy too
            here = part.columns_in_part(range(columns))
            assert here == ([] if part.is_copy else list(range(len(all_columns))))
            held[part.rows, [all_columns[h] for h in here]] += 1
        assert np.all(held == 1)
        for size, start in itertools.product(range(1, columns + 1), range(columns)):
            group = range(columns)[start : start + size]
            sizes = [len(part.columns_in_part(group)) for part in every if not part.is_copy]
            assert max(sizes) - min(sizes) <= 1


def test_more_devices_than_there_are(tiny):
    with pytest.raises(ConfigError, match=r"config.devices = 99: must be at most \d+, the devices"):
        spec.parse(tiny(devices=99))


@pytest.mark.slow
def test_networks_of_images_on_two_devices():
    config = load_config("patch_cifar", "smoke")
    values = dict(config.items()) | {"num_seeds": 2}
    parsed = spec.parse(values)
    zipped = parsed.common.zipped
    states = []
    for devices in (1, 2):
        grid = sweep.make_grid(parsed.problem, (0, 1), zipped)
        members = placement.place_members(parsed.problem, grid, "dispatch", "loop", devices)
        members.put(sweep.init_state(parsed.problem, grid), range(grid.shape[1]))
        members.advance(0, 3)
        values = members.measure(np.ones(grid.shape, bool))
        states.append((members.fetch("params"), values))
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.parametrize("driving", ["scan", "dispatch"])
@pytest.mark.parametrize(("cache", "devices", "count"), [(0, 1, 7), (0, 2, 4), (2**40, 1, 1)])
def test_blocks_of_seeds_change_rounding_at_most(
    problem, monkeypatch, cache, devices, count, driving
):
    """Seven seeds: on two devices, an eighth one is an idle copy."""
    seeds = (5, 6, 7, 8, 9, 4, 3)
    monkeypatch.setattr(placement, "CACHE_BYTES", cache)
    members, *found = advanced(problem, seeds, (driving, "vmap"), devices)
    assert len(members._state) == count
    _, *wanted = advanced(problem, seeds, ("scan", "map"), 1)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, found, wanted)


@pytest.mark.parametrize("devices", [1, 2])
def test_memory_of_blocks_counts_all_of_them(problem, monkeypatch, devices):
    """Beside the first block the others need their arguments, and no memory to work in."""
    monkeypatch.setattr(placement, "CACHE_BYTES", 0)
    taken = {}
    for count in (1, 4):
        grid = sweep.make_grid(problem, range(5, 5 + count * devices), ())
        grid = grid._replace(data=Data(grid.data.shared, sweep_trimmed(grid)))
        state = sweep.init_state(problem, grid)
        members = placement.place_members(problem, grid, "scan", "vmap", devices)
        taken[count] = members.memory(state, range(grid.shape[1]))
        size = memory.size_of((state, algorithm.on_device(grid.hypers), grid.data.own)) // count
    assert taken[4] == taken[1] + 3 * size


def sweep_trimmed(grid):
    """The data of a grid with as many rows for any number of seeds."""
    own = grid.data.own
    return own._replace(train=own.train._replace(x1=own.train.x1[:, :20]))


def test_the_data_are_once_on_a_device_whatever_the_columns(problem, monkeypatch):
    grid = sweep.make_grid(problem, range(4), ())
    state = sweep.init_state(problem, grid)
    monkeypatch.setattr(placement, "CACHE_BYTES", memory.size_of(state) // 3)
    members = placement.place_members(problem, grid, "scan", "vmap", 1)
    before, blocks = sum(a.nbytes for a in jax.live_arrays()), set()
    for columns in (range(3), [0], range(3), [1, 2], []):
        members.memory(state, columns or [0])
        members.put(state, columns)
        blocks.add(len(members._state))
        members.advance(0, 1)
    del state
    assert blocks == {4, 2, 1, 0}
    assert members.devices_used == 0
    left = sum(a.nbytes for a in jax.live_arrays()) - before
    assert left < 1.1 * memory.size_of(grid.data.own)
