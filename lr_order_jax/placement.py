"""How one member's functions are mapped over a grid of members, on one device or on several.

On the devices the members are `Stacked` (the same arrays, mapped by `vmap` or a compiled loop) or
`Apart` (arrays of their own, one after the other in one program, or each in a program of its own).
Members never communicate, so the grid is cut into rectangles of seeds and columns, one a device.
Of several processes each places its own part of the grid here.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lr_order_jax import algorithm, engine, memory
from lr_order_jax.algorithm import Status, TrainState
from lr_order_jax.engine import Stream
from lr_order_jax.problem import Data, Model, Problem
from lr_order_jax.sweep import Grid, data_of_seed, even_parts, ways_to_cut

PyTree = Any


def place_members(
    problem: Problem, grid: Grid, driving: str, mapping: str, devices: int | None = None
) -> "Members":
    """The members of a grid, to be put on devices and driven and mapped in one of the ways.

    The numbers are the same whichever way and on however many devices, up to rounding.

    Args:
      driving: `scan` or `dispatch`, see `engine.Driver`; evaluation follows it.
      mapping: `vmap` (batched arrays; what depends on step and key alone is computed once a seed),
        `map` (a compiled loop over members), `unroll` (members one after the other in one program)
        or `loop` (each in turn by a program for one member).
      devices: how many of those of this process; all of them by default.
    """
    way = Stacked if mapping in ("vmap", "map") else Apart
    return way(problem, grid, driving, mapping, jax.local_devices()[:devices])


def spread(seeds: int, columns: int, devices: int) -> tuple[int, int]:
    """Into how many parts seeds and columns are cut, (a, b), for a b devices at most.

    The device with the most members has as few as can be, by the fewest devices that do.

    Examples:
        >>> spread(5, 6, 4), spread(8, 1, 8), spread(1, 6, 4)
        ((2, 2), (8, 1), (1, 3))
    """
    ways = [way for d in range(1, devices + 1) for way in ways_to_cut((seeds, columns), d)[:1]]
    a, b = min(ways, key=functools.partial(_most_on_one, seeds, columns))
    return a, b


def _most_on_one(seeds: int, columns: int, way: tuple[int, ...]) -> int:
    """How many members the device with the most of them has."""
    return -(-seeds // way[0]) * -(-columns // way[1])


class Part(NamedTuple):
    """The rectangle of a grid that one of several processes holds."""

    rows: slice
    columns: slice
    is_copy: bool  # of what the last process before it holds: there are more processes than parts

    def columns_of(self, columns: Sequence[int]) -> list[int]:
        """Those of these columns that it holds."""
        here = range(self.columns.start, self.columns.stop)
        return [] if self.is_copy else [h for h in columns if h in here]


def part_of(shape: tuple[int, int], count: int, index: int) -> Part:
    """The part of a grid (S, H) that process `index` of so many holds.

    Examples:
        >>> part_of((5, 6), 4, 1)
        Part(rows=slice(0, 2, None), columns=slice(3, 6, None), is_copy=False)
    """
    a, b = spread(*shape, count)
    i, j = divmod(min(index, a * b - 1), b)
    return Part(even_parts(shape[0], a)[i], even_parts(shape[1], b)[j], index >= a * b)


def in_turns(shape: tuple[int, int], count: int) -> list[int]:
    """All columns of a grid, those of each of so many processes in turns.

    Examples:
        >>> in_turns((1, 6), 2)
        [0, 3, 1, 4, 2, 5]
    """
    cuts = even_parts(shape[1], spread(*shape, count)[1])
    return sorted(range(shape[1]), key=lambda h: next(h - c.start for c in cuts if h < c.stop))


class _Epochs:
    """The data with what is drawn for the present epoch, as the members want them arranged."""

    def __init__(self, problem: Problem, grid: Grid, arrange: Callable[[Data], Any]):
        self._problem, self._grid, self._arrange = problem, grid, arrange
        self._drawn: tuple[int | None, Any] = (None, arrange(grid.data))

        @jax.jit
        def draw(data, keys, epoch):
            def of_seed(own, key):
                key = engine.stream_key(key, Stream.BATCH)
                return problem.draw_epoch(Data(data.shared, own), key, epoch)  # type: ignore

            return jax.vmap(of_seed)(data.own, keys)

        self._draw = draw

    def __call__(self, start: int, count: int) -> Iterator[tuple[Any, int, int]]:
        """Steps [start, start + count) cut at epochs: (data, first step, steps) each."""
        for epoch, first, steps in engine.epochs(self._problem, start, count):
            if epoch != self._drawn[0]:
                data, keys = self._grid.data, self._grid.keys
                drawn = self._draw(data, keys, jnp.int32(epoch))
                self._drawn = epoch, self._arrange(data._replace(epoch=drawn))
            yield self._drawn[1], first, steps


def members_axis(mapping: str, ndim: int) -> int:
    """Where on the device the members of a seed stand in a leaf of `ndim` axes, seeds first.

    For `vmap` before the last axis: (S, d, C, m). The product of data (n, d) with the weights
    (d, m) of all members is then one of (n, d) with (d, C m), and so is that for their gradient.
    A compiled loop goes along the first axis after the seeds.
    """
    return max(1, ndim - 2) if mapping == "vmap" else 1


def arranged(mapping: str, tree: PyTree) -> PyTree:
    """Host leaves (S, C, ...) as the device has them."""
    return jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, members_axis(mapping, leaf.ndim)), tree)


CACHE_BYTES = 2**24
"""Of the state of the seeds that a CPU takes through a chunk together: more leave its caches.

A step of seeds of 13 MB took 1.3 to 1.7 times as long in sixteens as one by one; one of seeds of
0.3 MB took 1.1 times as long one by one.
"""


def seeds_together(seeds: int, state_bytes: int) -> int:
    """How many seeds are taken through a chunk together: the most that divide them and whose state
    fits into a cache.

    Examples:
        >>> seeds_together(16, 16 * 2**20), seeds_together(16, 64 * 2**20), seeds_together(5, 2**30)
        (16, 4, 1)
    """
    divisors = [k for k in range(1, seeds + 1) if seeds % k == 0]
    return max((k for k in divisors if k * state_bytes <= CACHE_BYTES * seeds), default=1)


SHARED, SEEDS, MEMBERS = PartitionSpec(), PartitionSpec("seed"), PartitionSpec("seed", "member")


class _Sheets:
    """How `Stacked` lies on its devices: a sheet of a x b of them, a parts of the seeds and b of
    the columns. What does not divide is padded with copies.

    Blocks of seeds, `together` of each device, are arrays of their own, which take their steps one
    block after the other: `data`, `keys` and what is put are lists, an entry for each block.
    """

    def __init__(self, members: "Stacked", parts: tuple[int, int], together: int):
        self.parts, (a, b) = parts, parts
        devices = np.array(members.devices[: a * b]).reshape(parts)
        self.mesh, self._axis = Mesh(devices, ("seed", "member")), members.axis
        data, self.rows = members.grid.data, a * together  # of a block
        starts = range(0, self.padded(len(members.grid.seeds), 1)[0], self.rows)
        self.blocks = [slice(start, start + self.rows) for start in starts]
        shared, own = self.put(data.shared, SHARED), self.put_rows(data.own)
        self.data, self.keys = (
            [Data(shared, part) for part in own],
            self.put_rows(members.grid.keys),
        )

        def arrange(data):
            parts = zip(self.data, self.put_rows(data.epoch), strict=True)
            return [of_block._replace(epoch=epoch) for of_block, epoch in parts]

        self.epochs = _Epochs(members.problem, members.grid, arrange)
        step, sizes = mapped_step(members.problem, members.mapping), members.problem.batch_sizes
        self.advance = engine.Driver(step, members.driving, sizes, self.over)
        self.measure = jax.jit(self.over_measured(members.measure_due))
        self.pick = jax.jit(members.task_and_model, out_shardings=NamedSharding(self.mesh, SHARED))

    def padded(self, seeds: int, columns: int) -> tuple[int, int]:
        """How many there are with the copies."""
        a, b = self.parts
        return -(-seeds // a) * a, -(-columns // b) * b

    def put(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    def put_rows(self, tree: PyTree) -> list[PyTree]:
        """Leaves (S, ...), the seeds of each block over the devices."""

        def taken(leaf, rows):
            index = np.minimum(np.arange(rows.start, rows.stop), len(leaf) - 1)
            return leaf if np.array_equal(index, np.arange(len(leaf))) else leaf[index]

        return [
            self.put(jax.tree.map(functools.partial(taken, rows=rows), tree), SEEDS)
            for rows in self.blocks
        ]

    def put_members(self, tree: PyTree) -> PyTree:
        """Leaves (S, C, ...) of a block, arranged."""
        specs = jax.tree.map(self.spec, tree)
        return jax.tree.map(self.put, tree, specs)

    def spec(self, leaf) -> PartitionSpec:
        """Of a leaf of members as the devices have them."""
        return PartitionSpec("seed", *[None] * (self._axis(leaf.ndim) - 1), "member")

    def _on_each(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """The function on each device, of what it has."""
        options = {"mesh": self.mesh, "in_specs": in_specs, "out_specs": out_specs}
        return jax.shard_map(function, **options, check_vma=False)

    def over(self, function: Callable) -> Callable:
        """See `engine.Driver`: each device takes steps of its own members."""

        def on_all(data, hypers, state, keys, *numbers):
            of_state = jax.tree.map(self.spec, state)
            specs = Data(SHARED, SEEDS, SEEDS), MEMBERS, of_state, SEEDS, *[SHARED] * len(numbers)
            return self._on_each(function, specs, of_state)(data, hypers, state, keys, *numbers)

        return on_all

    def over_measured(self, function: Callable) -> Callable:
        """The same for a function (data, tasks, models, due) -> leaves (S, C, ...)."""

        def on_all(data, tasks, models, due):
            specs = Data(SHARED, SEEDS, SEEDS), MEMBERS, jax.tree.map(self.spec, models), MEMBERS
            return self._on_each(function, specs, MEMBERS)(data, tasks, models, due)

        return on_all


class Stacked:
    """Members in common arrays, see `members_axis`: S seeds, C columns of hyperparameters."""

    def __init__(
        self, problem: Problem, grid: Grid, driving: str, mapping: str, devices: Sequence[Any]
    ):
        self.problem, self.grid, self.driving, self.mapping = problem, grid, driving, mapping
        self.devices, self.axis = devices, functools.partial(members_axis, mapping)
        self._sheets_of = functools.cache(functools.partial(_Sheets, self))
        self._evaluate = engine.make_evaluate(problem, driving)

    def _of_member(self, tree: PyTree, s, h) -> PyTree:
        """The leaves of one member."""

        def index(leaf):
            return jax.lax.dynamic_index_in_dim(leaf[s], h, self.axis(leaf.ndim) - 1, False)

        return jax.tree.map(index, tree)

    def task_and_model(self, tasks, models, s, h):
        """Those of one member."""
        return jax.tree.map(lambda leaf: leaf[s, h], tasks), self._of_member(models, s, h)

    @property
    def devices_used(self) -> int:
        """By the members that are put."""
        return self._sheets.mesh.size

    def _sheets_for(self, state: TrainState, columns: int) -> _Sheets:
        """Those for so many columns of a host state."""
        a, b = spread(len(self.grid.seeds), columns, len(self.devices))
        together = seeds = -(-len(self.grid.seeds) // a)
        if self.mapping == "vmap" and memory.devices_share_the_host():
            members = seeds * -(-columns // b)
            size = memory.size_of(state) // state.status.size
            together = seeds_together(seeds, members * size)
        return self._sheets_of((a, b), together)

    def put(self, state: TrainState, columns: Sequence[int]) -> None:
        """Puts these columns of a host state, and no others, on the devices."""
        self._sheets, self._columns = self._sheets_for(state, len(columns)), len(columns)
        seeds, count = self.grid.shape[0], len(columns)
        all_seeds, all_columns = self._sheets.padded(seeds, count)
        rows = np.minimum(np.arange(all_seeds), seeds - 1)
        index = np.asarray(columns)[np.minimum(np.arange(all_columns), count - 1)]
        take = lambda leaf: np.asarray(leaf)[rows[:, None], index]  # noqa: E731
        taken = jax.tree.map(take, state)
        taken.status[seeds:] = taken.status[:, count:] = Status.COMPLETED  # the copies are idle
        hypers = jax.tree.map(take, self.grid.hypers)
        self._state, self._hypers = [], []
        for block in self._sheets.blocks:
            of_block = jax.tree.map(operator.itemgetter(block), (taken, hypers))
            self._state.append(self._sheets.put_members(arranged(self.mapping, of_block[0])))
            self._hypers.append(self._sheets.put(algorithm.on_device(of_block[1]), MEMBERS))

    def fetch(self, name: str) -> PyTree:
        """A part of the state on the host, leaves (S, C, ...)."""

        def members(*blocks):
            axis = self.axis(blocks[0].ndim)
            host = [np.moveaxis(np.asarray(leaf), axis, 1) for leaf in blocks]
            together = host[0] if len(host) == 1 else np.concatenate(host)
            return together[: self.grid.shape[0], : self._columns]

        return jax.tree.map(members, *(getattr(state, name) for state in self._state))

    def memory(self, state: TrainState, columns: Sequence[int]) -> int:
        """Bytes on a device with these columns of a host state there, see `Driver.memory`; on all
        devices where they share the memory of the host."""
        sheets = self._sheets_for(state, len(columns))
        (data, *_), _, _ = next(sheets.epochs(0, 0))
        seeds, (_, count) = sheets.rows, sheets.padded(1, len(columns))

        def planned(leaf):
            shape = [seeds, *leaf.shape[2:]]
            shape.insert(self.axis(leaf.ndim), count)
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        def planned_hypers(leaf):
            return jax.ShapeDtypeStruct((seeds, count, *leaf.shape[2:]), leaf.dtype)

        hypers = algorithm.on_device(self.grid.hypers)
        hypers, of_state = jax.tree.map(planned_hypers, hypers), jax.tree.map(planned, state)
        taken = sheets.advance.memory(data, hypers, of_state, sheets.keys[0])
        of_seeds = memory.size_of((data.own, data.epoch)) // sheets.parts[0]
        other_blocks = memory.size_of((hypers, of_state)) // sheets.mesh.size + of_seeds
        taken += (len(sheets.blocks) - 1) * other_blocks
        return taken * (sheets.mesh.size if memory.devices_share_the_host() else 1)

    def advance(self, start: int, count: int) -> None:
        """Takes steps; 0 of them compile the programs."""
        sheets = self._sheets
        for data, first, steps in sheets.epochs(start, count):
            blocks = zip(data, self._hypers, self._state, sheets.keys, strict=True)
            for i, of_members in enumerate(blocks):
                self._state[i] = sheets.advance(*of_members, first, steps)
                if count == 0:  # compiled for all
                    return
                if len(self._state) > 1:  # XLA's CPU backend would run several at once
                    jax.block_until_ready(self._state[i])

    def measure(self, due: np.ndarray) -> dict[str, np.ndarray]:
        """Evaluates members, given by an (S, C) bool array, one after the other.

        Members reach the points of the time grid at different steps, so only those that are due
        are evaluated; how many is data and compiles nothing anew, and a member's figures do not
        depend on which others are due.

        Returns:
          {variable: (S, C, ...) array, NaN where not due}.
        """
        sheets, (seeds, columns) = self._sheets, due.shape
        of_blocks = [(h.task, _model(s)) for h, s in zip(self._hypers, self._state, strict=True)]
        if self.driving == "scan":
            all_due = np.zeros(sheets.padded(seeds, columns), bool)
            all_due[:seeds, :columns] = due
            out = _blank(self.problem, all_due.shape)
            for rows, data, models in zip(sheets.blocks, sheets.data, of_blocks, strict=True):
                if all_due[rows].any():
                    for name, values in sheets.measure(data, *models, all_due[rows]).items():
                        out[name][rows] = values
            return {name: values[:seeds, :columns] for name, values in out.items()}
        device = self.devices[0]

        def one(s, h):
            block, row = divmod(s, sheets.rows)
            picked = sheets.pick(*of_blocks[block], jnp.int32(row), jnp.int32(h))
            on_first = jax.tree.map(lambda leaf: leaf.addressable_data(0), picked)
            task, model = jax.device_put(on_first, device)
            return self._evaluate(data_of_seed(self.grid.data, s), task, model)

        return _measure_in_turn(self.problem, due, one)

    def measure_due(self, data, tasks, models, due):
        """`measure` of the members on one device."""
        order = jnp.argsort(~due, axis=1, stable=True).astype(jnp.int32)
        counts = jnp.sum(due, axis=1, dtype=jnp.int32)

        def row(of_seed):
            own, s, tasks_of_seed, columns, count = of_seed

            def one(i, out):
                h = columns[i]
                task = jax.tree.map(lambda leaf: leaf[h], tasks_of_seed)
                model = self._of_member(models, s, h)
                values = self._evaluate(Data(data.shared, own), task, model)
                return {name: out[name].at[h].set(v) for name, v in values.items()}

            blank = {
                name: jnp.full((*columns.shape, *variable.shape), jnp.nan)
                for name, variable in self.problem.variables.items()
            }
            return jax.lax.fori_loop(0, count, one, blank)

        seeds = jnp.arange(len(counts), dtype=jnp.int32)
        return jax.lax.map(row, (data.own, seeds, tasks, order, counts))


def _model(state: TrainState) -> Model:
    return Model(state.params, state.stats, state.watched)


def _blank(problem: Problem, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Nothing measured yet, (S, C, ...) by variable."""
    return {name: np.full((*shape, *v.shape), np.nan) for name, v in problem.variables.items()}


def _measure_in_turn(problem: Problem, due: np.ndarray, evaluate: Callable) -> dict[str, Any]:
    """`Stacked.measure` by a function (s, h) -> values of that member."""
    out = _blank(problem, due.shape)
    for s, h in np.argwhere(due):
        for name, value in evaluate(s, h).items():
            out[name][s, h] = value
    return out


def mapped_step(problem: Problem, mapping: str) -> Callable:
    """One member's step mapped over stacked members, as `engine.Driver` wants it."""

    def vmapped(data, hypers, state, t, keys, size):
        def one(d, h, s, key):
            return engine.train_step(problem, d, h, s, t, key, size)[0]

        axes = jax.tree.map(lambda leaf: members_axis(mapping, leaf.ndim) - 1, state)
        over_hypers = jax.vmap(one, in_axes=(None, 0, axes, None), out_axes=axes)
        over_seeds = jax.vmap(over_hypers, in_axes=(Data(None, 0, 0), 0, 0, 0))
        return over_seeds(data, hypers, state, keys)

    def looped(data, hypers, state, t, keys, size):
        def row(of_seed):
            own, epoch, hs, ss, key = of_seed
            d = Data(data.shared, own, epoch)

            def one(member):
                return engine.train_step(problem, d, member[0], member[1], t, key, size)[0]

            return jax.lax.map(one, (hs, ss))

        return jax.lax.map(row, (data.own, data.epoch, hypers, state, keys))

    return vmapped if mapping == "vmap" else looped


class Apart:
    """Members as arrays of their own, in rectangles of S rows of C, one a device, each driven by a
    thread of its own; the methods of `Stacked`."""

    def __init__(
        self, problem: Problem, grid: Grid, driving: str, mapping: str, devices: Sequence[Any]
    ):
        self._problem, self._seeds, self._devices = problem, len(grid.seeds), devices
        make = functools.partial(_Rectangle, problem, grid, driving, mapping)
        self._rectangle = functools.cache(make)
        self._threads = ThreadPoolExecutor(len(devices)) if len(devices) > 1 else None

    def _cut(self, columns: int) -> list[tuple["_Rectangle", slice, slice]]:
        """The rectangle of each device, with its seeds and columns."""
        a, b = spread(self._seeds, columns, len(self._devices))
        parts = itertools.product(even_parts(self._seeds, a), even_parts(columns, b))
        return [
            (self._rectangle(device, rows.start, rows.stop), rows, cut)
            for device, (rows, cut) in zip(self._devices, parts, strict=False)
        ]

    @property
    def devices_used(self) -> int:
        return len(self._parts)

    def _each(self, function: Callable) -> list[Any]:
        """What the function gives for each (rectangle, seeds, columns)."""
        each = map if self._threads is None else self._threads.map
        return list(each(lambda part: function(*part), self._parts))

    def put(self, state: TrainState, columns: Sequence[int]) -> None:
        self._parts = self._cut(len(columns))

        def planned(leaf):
            shape = self._seeds, len(columns), *leaf.shape[2:]
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        self._planned = jax.tree.map(planned, state)
        self._each(lambda rectangle, _, cut: rectangle.put(state, columns[cut]))

    def memory(self, state: TrainState, columns: Sequence[int]) -> int:
        parts = self._cut(len(columns))
        taken = [rectangle.memory(state, columns[cut]) for rectangle, _, cut in parts]
        return sum(taken) if memory.devices_share_the_host() else max(taken)

    def fetch(self, name: str) -> PyTree:
        fetched = self._each(lambda rectangle, rows, cut: (rows, cut, rectangle.fetch(name)))
        blank = lambda leaf: np.empty(leaf.shape, leaf.dtype)  # noqa: E731
        whole = jax.tree.map(blank, getattr(self._planned, name))
        for rows, cut, part in fetched:
            for leaf, of_part in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
                leaf[rows, cut] = of_part
        return whole

    def advance(self, start: int, count: int) -> None:
        self._each(lambda rectangle, *_: rectangle.advance(start, count))

    def measure(self, due: np.ndarray) -> dict[str, np.ndarray]:
        out = _blank(self._problem, due.shape)

        def measure(rectangle, rows, cut):
            for name, values in rectangle.measure(due[rows, cut]).items():
                out[name][rows, cut] = values

        self._each(measure)
        return out


class _Rectangle:
    """The members of some seeds on one device; the methods of `Stacked`, host states being those
    of all seeds."""

    def __init__(
        self, problem: Problem, grid: Grid, driving: str, mapping: str, device, first: int, end: int
    ):
        self._problem, self._mapping, self._seeds = problem, mapping, range(first, end)
        self._device = device
        self._hypers_of_all = algorithm.on_device(grid.hypers)
        shared = jax.device_put(grid.data.shared, device)

        def arrange(data):
            rows = [data_of_seed(data, s)._replace(shared=shared) for s in self._seeds]
            return jax.device_put(rows, device)

        self._data = arrange(grid.data)
        self._epochs = _Epochs(problem, grid, arrange)
        self._keys = jax.device_put([grid.keys[s] for s in self._seeds], device)

        def one(*arguments):
            return engine.train_step(problem, *arguments)[0]

        def all_of_them(data, hypers, state, t, keys, size):
            return [
                [one(d, h, s, t, key, size) for h, s in zip(hs, ss, strict=True)]
                for d, hs, ss, key in zip(data, hypers, state, keys, strict=True)
            ]

        step = one if mapping == "loop" else all_of_them
        self._advance = engine.Driver(step, driving, problem.batch_sizes)
        evaluate = engine.make_evaluate(problem, driving)
        self._evaluate = jax.jit(evaluate) if driving == "scan" else evaluate

    def put(self, state: TrainState, columns: Sequence[int]) -> None:
        def members(tree):
            def member(s, h):
                return jax.tree.map(lambda leaf: jnp.array(leaf[s, h]), tree)  # a copy of its own

            rows = [[member(s, h) for h in columns] for s in self._seeds]
            return jax.device_put(rows, self._device)

        self._state, self._hypers = members(state), members(self._hypers_of_all)

    def memory(self, state: TrainState, columns: Sequence[int]) -> int:
        data, _, _ = next(self._epochs(0, 0))
        hypers = jax.tree.map(lambda leaf: leaf[0, 0], self._hypers_of_all)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), state)
        if self._mapping == "loop":
            others = (len(columns) * len(self._seeds) - 1) * memory.size_of(shapes)
            return others + self._advance.memory(data[0], hypers, shapes, self._keys[0])
        all_hypers, all_shapes = ([[one] * len(columns) for _ in data] for one in (hypers, shapes))
        return self._advance.memory(data, all_hypers, all_shapes, self._keys)

    def fetch(self, name: str) -> PyTree:
        stack = lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves])  # noqa: E731
        rows = [jax.tree.map(stack, *(getattr(m, name) for m in row)) for row in self._state]
        return jax.tree.map(stack, *rows)

    def advance(self, start: int, count: int) -> None:
        for of_seeds, first, steps in self._epochs(start, count):
            if self._mapping == "unroll":
                of_members = of_seeds, self._hypers, self._state, self._keys
                self._state = self._advance(*of_members, first, steps)
            else:
                self._advance_in_turn(of_seeds, first, steps)

    def _advance_in_turn(self, of_seeds: list[Data], start: int, count: int) -> None:
        for s, row in enumerate(self._state):
            for h, state in enumerate(row):
                if int(state.status) == Status.RUNNING:
                    arguments = of_seeds[s], self._hypers[s][h], state, self._keys[s]
                    row[h] = self._advance(*arguments, start, count)
                    if count == 0:  # compiled for all
                        return

    def measure(self, due: np.ndarray) -> dict[str, np.ndarray]:
        def one(s, h):
            task, model = self._hypers[s][h].task, _model(self._state[s][h])
            return self._evaluate(self._data[s], task, model)

        return _measure_in_turn(self._problem, due, one)


Members = Stacked | Apart
