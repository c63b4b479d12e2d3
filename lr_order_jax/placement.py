"""How one member's functions are mapped over a grid of members, on one device or on several.

On the devices the members are `Stacked` (the same arrays, mapped by `vmap` or a compiled loop) or
`Apart` (arrays of their own, one after the other in one program, or each in a program of its own).
Members never communicate, so the grid is cut into rectangles of seeds and columns, one a device.
All of it is about one process: of several, each places its own part of the grid.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lr_order_jax import algorithm, engine, memory
from lr_order_jax.algorithm import Status, TrainState
from lr_order_jax.engine import Stream
from lr_order_jax.problem import Data, DrawsEpochs, Model, Problem
from lr_order_jax.sweep import Grid, data_of_seed, even_parts, spread

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


class _Epochs:
    """The data with what is drawn for the present epoch, as the members want them arranged."""

    def __init__(self, problem: Problem, grid: Grid, arrange: Callable[[Data], Any]):
        self._problem, self._grid, self._arrange = problem, grid, arrange
        self._drawn: tuple[int | None, Any] = (None, None)

        @jax.jit
        def draw(data, keys, epoch):
            def of_seed(own, key):
                key = engine.stream_key(key, Stream.BATCH)
                return problem.draw_epoch(Data(data.shared, own), key, epoch)  # type: ignore

            return jax.vmap(of_seed)(data.own, keys)

        self._draw = draw

    def shapes(self) -> PyTree:
        """Of what is drawn for all seeds, as `jax.ShapeDtypeStruct`s."""
        if not isinstance(self._problem, DrawsEpochs):
            return self._grid.data.epoch
        return jax.eval_shape(self._draw, self._grid.data, self._grid.keys, jnp.int32(0))

    def __call__(self, start: int, count: int) -> Iterator[tuple[Any, int, int]]:
        """Steps [start, start + count) cut at epochs: (data, first step, steps) each."""
        for epoch, first, steps in engine.epochs(self._problem, start, count):
            if self._drawn[1] is None or epoch != self._drawn[0]:
                data, keys = self._grid.data, self._grid.keys
                if epoch is not None:
                    data = data._replace(epoch=self._draw(data, keys, jnp.int32(epoch)))
                self._drawn = epoch, self._arrange(data)
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


class _Sheet:
    """How `Stacked` lies on its devices: a sheet of a x b of them, a parts of the seeds and b of
    the columns. What does not divide is padded with copies. The programs are here, no arrays."""

    def __init__(self, members: "Stacked", parts: tuple[int, int]):
        self.parts, (a, b) = parts, parts
        devices = np.array(members.devices[: a * b]).reshape(parts)
        self.mesh, self._axis = Mesh(devices, ("seed", "member")), members.axis
        step, sizes = mapped_step(members.problem, members.mapping), members.problem.batch_sizes
        self.advance = engine.Driver(step, members.driving, sizes, self.over)
        self.measure = jax.jit(self.over_measured(members.measure_due))
        self.pick = jax.jit(members.task_and_model, out_shardings=self.sharding(SHARED))

    def padded(self, seeds: int, columns: int) -> tuple[int, int]:
        """How many there are with the copies."""
        a, b = self.parts
        return -(-seeds // a) * a, -(-columns // b) * b

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    def put(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
        return jax.device_put(tree, self.sharding(spec))

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


class _Blocks:
    """The data and keys of a sheet in blocks of seeds, `together` of each device, which are arrays
    of their own and take their steps one block after the other: lists, an entry a block."""

    def __init__(self, problem: Problem, grid: Grid, sheet: _Sheet, together: int):
        self.sheet, self.rows = sheet, sheet.parts[0] * together
        starts = range(0, sheet.padded(len(grid.seeds), 1)[0], self.rows)
        self.slices = slices = [slice(start, start + self.rows) for start in starts]

        def put(tree):
            """Leaves (S, ...), the seeds of each block over the devices."""

            def taken(leaf, rows):
                index = np.minimum(np.arange(rows.start, rows.stop), len(leaf) - 1)
                return leaf if np.array_equal(index, np.arange(len(leaf))) else leaf[index]

            trees = (jax.tree.map(functools.partial(taken, rows=r), tree) for r in slices)
            return [sheet.put(of_block, SEEDS) for of_block in trees]

        shared = sheet.put(grid.data.shared, SHARED)
        self.data = without_epoch = [Data(shared, own) for own in put(grid.data.own)]
        self.keys = put(grid.keys)

        def arrange(data):  # knows no `self`: a cycle would keep the arrays
            parts = zip(without_epoch, put(data.epoch), strict=True)
            return [of_block._replace(epoch=epoch) for of_block, epoch in parts]

        self.epochs = _Epochs(problem, grid, arrange)


class Stacked:
    """Members in common arrays, see `members_axis`: S seeds, C columns of hyperparameters."""

    def __init__(
        self, problem: Problem, grid: Grid, driving: str, mapping: str, devices: Sequence[Any]
    ):
        self.problem, self.grid, self.driving, self.mapping = problem, grid, driving, mapping
        self.devices, self.axis = devices, functools.partial(members_axis, mapping)
        self._sheet_of = functools.cache(functools.partial(_Sheet, self))
        blocks = functools.partial(_Blocks, problem, grid)
        self._blocks_of = functools.lru_cache(maxsize=1)(blocks)  # the data are there once
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
        return self._sheet.mesh.size if self._state else 0

    def _layout(self, state: TrainState, columns: int) -> tuple[_Sheet, int]:
        """The sheet for so many columns of a host state, and how many seeds each of its devices
        takes through a chunk together."""
        a, b = spread(len(self.grid.seeds), columns, len(self.devices))
        together = seeds = -(-len(self.grid.seeds) // a)
        if self.mapping == "vmap" and memory.devices_share_the_host():
            members = seeds * -(-columns // b)
            size = memory.size_of(state) // state.status.size
            together = seeds_together(seeds, members * size)
        return self._sheet_of((a, b)), together

    def put(self, state: TrainState, columns: Sequence[int]) -> None:
        """Puts these columns of a host state, and no others, on the devices."""
        self._state, self._hypers, self._columns = [], [], len(columns)
        if not columns:
            return
        self._blocks = self._blocks_of(*self._layout(state, len(columns)))
        self._sheet = self._blocks.sheet
        seeds, count = self.grid.shape[0], len(columns)
        all_seeds, all_columns = self._sheet.padded(seeds, count)
        rows = np.minimum(np.arange(all_seeds), seeds - 1)
        index = np.asarray(columns)[np.minimum(np.arange(all_columns), count - 1)]
        take = lambda leaf: np.asarray(leaf)[rows[:, None], index]  # noqa: E731
        taken = jax.tree.map(take, state)
        taken.status[seeds:] = taken.status[:, count:] = Status.COMPLETED  # the copies are idle
        hypers = jax.tree.map(take, self.grid.hypers)
        for rows_here in self._blocks.slices:
            of_block = jax.tree.map(operator.itemgetter(rows_here), (taken, hypers))
            self._state.append(self._sheet.put_members(arranged(self.mapping, of_block[0])))
            self._hypers.append(self._sheet.put(algorithm.on_device(of_block[1]), MEMBERS))

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
        sheet, together = self._layout(state, len(columns))
        a, (all_seeds, count) = sheet.parts[0], sheet.padded(self.grid.shape[0], len(columns))
        seeds = a * together

        def planned(spec, leaf, *shape):
            shape = (*shape, *leaf.shape[len(shape) :])
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sheet.sharding(spec))

        def planned_member(leaf):
            spec, shape = sheet.spec(leaf), [seeds, *leaf.shape[2:]]
            shape.insert(self.axis(leaf.ndim), count)
            return planned(spec, leaf, *shape)

        given = self.grid.data
        drawn = _Epochs(self.problem, self.grid, lambda data: data).shapes()
        own, epoch, keys = jax.tree.map(
            lambda leaf: planned(SEEDS, leaf, seeds), (given.own, drawn, self.grid.keys)
        )
        data = Data(jax.tree.map(lambda leaf: planned(SHARED, leaf), given.shared), own, epoch)
        hypers = jax.tree.map(
            lambda leaf: planned(MEMBERS, leaf, seeds, count),
            algorithm.on_device(self.grid.hypers),
        )
        of_state = jax.tree.map(planned_member, state)
        taken = sheet.advance.memory(data, hypers, of_state, keys)
        other_blocks = memory.size_of((hypers, of_state)) // sheet.mesh.size
        other_blocks += memory.size_of((own, epoch)) // a
        taken += (all_seeds // seeds - 1) * other_blocks
        return taken * (sheet.mesh.size if memory.devices_share_the_host() else 1)

    def advance(self, start: int, count: int) -> None:
        """Takes steps; 0 of them compile the programs."""
        if not self._state:
            return
        for data, first, steps in self._blocks.epochs(start, count):
            blocks = zip(data, self._hypers, self._state, self._blocks.keys, strict=True)
            for i, of_members in enumerate(blocks):
                self._state[i] = self._sheet.advance(*of_members, first, steps)
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
        seeds, columns = due.shape
        of_blocks = [(h.task, _model(s)) for h, s in zip(self._hypers, self._state, strict=True)]
        if self.driving == "scan":
            all_due = np.zeros(self._sheet.padded(seeds, columns), bool)
            all_due[:seeds, :columns] = due
            out = blank_values(self.problem, all_due.shape)
            blocks = zip(self._blocks.slices, self._blocks.data, of_blocks, strict=True)
            for of_block, data, models in blocks:
                if (due_here := all_due[of_block]).any():
                    for name, values in self._sheet.measure(data, *models, due_here).items():
                        out[name][of_block] = values
            return {name: values[:seeds, :columns] for name, values in out.items()}
        device = self.devices[0]

        def one(s, h):
            block, row = divmod(s, self._blocks.rows)
            picked = self._sheet.pick(*of_blocks[block], jnp.int32(row), jnp.int32(h))
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


def blank_values(problem: Problem, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Nothing measured yet: {variable: (S, C, ...)}, NaN."""
    return {name: np.full((*shape, *v.shape), np.nan) for name, v in problem.variables.items()}


def _measure_in_turn(problem: Problem, due: np.ndarray, evaluate: Callable) -> dict[str, Any]:
    """`Stacked.measure` by a function (s, h) -> values of that member."""
    out = blank_values(problem, due.shape)
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
        self._parts = self._cut(len(columns)) if columns else []

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
        out = blank_values(self._problem, due.shape)

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
