"""A grid of members [seed, hyper] from named axes, and how one member's functions are mapped on it.

A *member* is one training run. The members of a seed differ in hyperparameters alone: they share
data, initial weights and, at equal step, the gradient noise xi_t, so that they can be compared in
pairs. The grid is the Cartesian product of the axes; fields that are zipped advance together along
one axis, which is named after the first of them. In the arrays the axes are flattened into one, in
C order: on the host, leaves of the state are (S, H, ...).

On the device the members are `Stacked` (the same arrays, mapped by `vmap` or a compiled loop) or
`Apart` (arrays of their own, one after the other in one program, or each in a program of its own).
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lr_order_jax import algorithm, engine, fields, memory
from lr_order_jax.algorithm import Hypers, Status, TrainState
from lr_order_jax.engine import Stream
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import Data, Model, Problem, TrimsData

PyTree = Any


class Axis(NamedTuple):
    """A dimension of the grid: its name and the values of each of its fields along it."""

    name: str
    values: Mapping[str, tuple]

    def __len__(self) -> int:
        return len(self.values[self.name])


class Grid(NamedTuple):
    """The members of a sweep and what they share. S seeds, H combinations of hyperparameters."""

    axes: tuple[Axis, ...]  # those of several points, and always that of the initial rate
    members: tuple[Mapping[str, Any], ...]  # (H,): value of each sweepable field
    seeds: tuple[int, ...]  # (S,)
    keys: jax.Array  # (S,) typed keys
    data: Data  # leaves of `own` and `epoch` are (S, ...)
    hypers: Hypers  # host leaves (S, H, ...)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.seeds), len(self.members)


def make_axes(given: Mapping[str, tuple], zipped: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of a grid.

    A field with several values is an axis. Those with one value are axes of one point.

    Args:
      given: the values of each field that can be swept; (None,) for one that is not set.
      zipped: entries like "eta_init+noise_scale": fields of equal length that make one axis.

    Raises:
      ConfigError: if zipped fields are unknown, unset, named twice or of different lengths, or if
        an axis holds the same point twice.
    """
    names = tuple(given)
    together = [tuple(entry.split("+")) for entry in zipped]
    named = [name for group in together for name in group]
    for name in named:
        if name not in names:
            raise ConfigError(
                f"config.zipped = {tuple(zipped)!r}: {name!r} is no axis of this kind, use some of "
                f"{', '.join(names)} (swept fields and shapes cannot share an axis)"
            )
        if named.count(name) > 1:
            raise ConfigError(f"config.zipped = {tuple(zipped)!r}: {name!r} stands in it twice")
        if given[name] == (None,):
            raise ConfigError(f"config.zipped = {tuple(zipped)!r}: config.{name} is not set")
    # A group takes the place of its first field.
    groups = {group[0]: group for group in together}
    followers = {name for group in together for name in group[1:]}
    axes = []
    for name in names:
        if name in followers:
            continue
        group = groups.get(name, (name,))
        values = {field: given[field] for field in group}
        lengths = {field: len(v) for field, v in values.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{field} has {k}" for field, k in lengths.items())
            raise ConfigError(f"config.zipped: fields of one axis must be of equal length: {told}")
        points = list(zip(*values.values(), strict=True))
        # A name in the first field is all that tells one member from another.
        distinct = {p[0] for p in points} if isinstance(points[0][0], str) else set(points)
        if len(distinct) != len(points):
            shown = points if len(group) > 1 else values[name]
            raise ConfigError(f"config.{'+'.join(group)} = {shown}: holds the same value twice")
        axes.append(Axis(name, values))
    return tuple(axes)


def make_members(axes: Sequence[Axis]) -> tuple[Mapping[str, Any], ...]:
    """Every combination of points of the axes, in C order: field -> value.

    Examples:
        >>> rates = Axis("eta_init", {"eta_init": (0.2, 0.1), "lam": (1e-3, 2e-3)})  # zipped
        >>> make_members([rates, Axis("noise_scale", {"noise_scale": (1.0,)})])[1]
        {'eta_init': 0.1, 'lam': 0.002, 'noise_scale': 1.0}
    """
    members = []
    for index in itertools.product(*(range(len(axis)) for axis in axes)):
        pairs = zip(axes, index, strict=True)
        members.append({field: v[i] for axis, i in pairs for field, v in axis.values.items()})
    return tuple(members)


def make_grid(problem: Problem, seeds: Sequence[int], zipped: Sequence[str]) -> Grid:
    """Axes, members, data and hyperparameters of a sweep."""
    axes = make_axes(fields.swept_values(problem.fields), zipped)
    members = make_members(axes)
    keys = jnp.stack([engine.seed_key(seed) for seed in seeds])
    shared = jax.device_put(problem.load())

    @jax.jit
    def make_own(keys, shared):
        def of_seed(key):
            return problem.make_data(engine.stream_key(key, Stream.DATA), shared)

        return jax.lax.map(of_seed, keys)

    # An error of the device (no memory) is raised here: XLA's CPU backend can wait for ever where
    # another program reads what has failed.
    own = jax.block_until_ready(make_own(keys, shared))
    data = Data(shared, problem.trim_data(own) if isinstance(problem, TrimsData) else own)
    rows = []
    for s in range(len(seeds)):
        of_seed = data_of_seed(data, s)
        row = [problem.hypers(values, of_seed) for values in members]
        rows.append(jax.tree.map(lambda *leaves: np.stack(leaves), *row))
    hypers = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    always = fields.swept_fields(type(problem.fields))[0]  # the initial rate
    shown = tuple(axis for axis in axes if always in axis.values or len(axis) > 1)
    return Grid(shown, members, tuple(seeds), keys, data, hypers)


def data_of_seed(data: Data, s: int) -> Data:
    """The data of the seed with index s."""
    own, epoch = _row((data.own, data.epoch), s)
    return Data(data.shared, own, epoch)


@jax.jit
def _row(tree: PyTree, index) -> PyTree:
    """Leaves at an index of their first axis, in one program."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def init_state(problem: Problem, grid: Grid) -> TrainState:
    """The state of all members before the first step, host arrays with leaves (S, H, ...).

    One model a seed. A column at a time: more members than fit on the device can be kept here.
    """

    @jax.jit
    @jax.vmap
    def of_seed(key, hypers):
        model = problem.init(engine.stream_key(key, Stream.INIT))
        return algorithm.init_state(hypers, *model)

    hypers = algorithm.on_device(grid.hypers)
    columns = (jax.tree.map(lambda leaf, h=h: leaf[:, h], hypers) for h in range(grid.shape[1]))
    state: Any = None
    for h, column in enumerate(columns):
        made = jax.tree.map(np.asarray, of_seed(grid.keys, column))
        if state is None:
            blank = lambda leaf: np.empty((*grid.shape, *leaf.shape[1:]), leaf.dtype)  # noqa: E731
            state = jax.tree.map(blank, made)
        for leaf, of_column in zip(jax.tree.leaves(state), jax.tree.leaves(made), strict=True):
            leaf[:, h] = of_column
    return state


def take_columns(tree: PyTree, columns: Sequence[int]) -> PyTree:
    """The hyper columns of a tree with leaves (S, H, ...)."""
    index = np.asarray(columns)
    return jax.tree.map(lambda leaf: leaf[:, index], tree)


def place_members(problem: Problem, grid: Grid, driving: str, mapping: str) -> "Members":
    """The members of a grid, to be put on the device and driven and mapped in one of the ways.

    The numbers are the same whichever way, up to rounding.

    Args:
      driving: `scan` or `dispatch`, see `engine.Driver`; evaluation follows it.
      mapping: `vmap` (batched arrays; what depends on step and key alone is computed once a seed),
        `map` (a compiled loop over members), `unroll` (members one after the other in one program)
        or `loop` (each in turn by a program for one member).
    """
    way = Stacked if mapping in ("vmap", "map") else Apart
    return way(problem, grid, driving, mapping)


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


class Stacked:
    """Members in common arrays, see `members_axis`: S seeds, C columns of hyperparameters."""

    def __init__(self, problem: Problem, grid: Grid, driving: str, mapping: str):
        self._problem, self._grid, self._driving = problem, grid, driving
        self._mapping, self._axis = mapping, functools.partial(members_axis, mapping)
        self._epochs = _Epochs(problem, grid, lambda data: data)
        sizes = problem.batch_sizes
        self._advance = engine.Driver(mapped_step(problem, mapping), driving, sizes)
        self._evaluate = engine.make_evaluate(problem, driving)
        self._measure_in_a_loop = jax.jit(self._measure_due)
        self._pick = jax.jit(self._of_member)

    def _of_member(self, tree: PyTree, s, h) -> PyTree:
        """The leaves of one member."""

        def index(leaf):
            return jax.lax.dynamic_index_in_dim(leaf[s], h, self._axis(leaf.ndim) - 1, False)

        return jax.tree.map(index, tree)

    def put(self, state: TrainState, columns: Sequence[int]) -> None:
        """Puts these columns of a host state, and no others, on the device."""
        taken = arranged(self._mapping, take_columns(state, columns))
        self._state = jax.device_put(taken)
        self._hypers = algorithm.on_device(take_columns(self._grid.hypers, columns))

    def fetch(self, name: str) -> PyTree:
        """A part of the state on the host, leaves (S, C, ...)."""
        part = jax.tree.map(np.asarray, getattr(self._state, name))
        return jax.tree.map(lambda leaf: np.moveaxis(leaf, self._axis(leaf.ndim), 1), part)

    def memory(self, state: TrainState, columns: Sequence[int]) -> int:
        """Bytes on the device with these columns of a host state there; see `Driver.memory`."""
        data, _, _ = next(self._epochs(0, 0))
        hypers = algorithm.on_device(take_columns(self._grid.hypers, columns))

        def planned(leaf):
            shape = [leaf.shape[0], *leaf.shape[2:]]
            shape.insert(self._axis(leaf.ndim), len(columns))
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        planned_state = jax.tree.map(planned, state)
        return self._advance.memory(data, hypers, planned_state, self._grid.keys)

    def advance(self, start: int, count: int) -> None:
        """Takes steps; 0 of them compile the programs."""
        for data, first, steps in self._epochs(start, count):
            of_members = data, self._hypers, self._state, self._grid.keys
            self._state = self._advance(*of_members, first, steps)

    def measure(self, due: np.ndarray) -> dict[str, np.ndarray]:
        """Evaluates members, given by an (S, C) bool array, one after the other.

        Members reach the points of the time grid at different steps, so only those that are due
        are evaluated; how many is data and compiles nothing anew, and a member's figures do not
        depend on which others are due.

        Returns:
          {variable: (S, C, ...) array, NaN where not due}.
        """
        data, tasks, models = self._grid.data, self._hypers.task, _model(self._state)
        if self._driving == "scan":
            order = np.argsort(~due, axis=1, kind="stable").astype(np.int32)
            counts = due.sum(axis=1).astype(np.int32)
            values = self._measure_in_a_loop(data, tasks, models, order, counts)
            return {name: np.asarray(v) for name, v in values.items()}

        def one(s, h):
            task = jax.tree.map(lambda leaf: leaf[s, h], tasks)
            model = self._pick(models, jnp.int32(s), jnp.int32(h))
            return self._evaluate(data_of_seed(data, s), task, model)

        return _measure_in_turn(self._problem, due, one)

    def _measure_due(self, data, tasks, models, order, counts):
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
                for name, variable in self._problem.variables.items()
            }
            return jax.lax.fori_loop(0, count, one, blank)

        seeds = jnp.arange(len(counts), dtype=jnp.int32)
        return jax.lax.map(row, (data.own, seeds, tasks, order, counts))


def _model(state: TrainState) -> Model:
    return Model(state.params, state.stats, state.watched)


def _measure_in_turn(problem: Problem, due: np.ndarray, evaluate: Callable) -> dict[str, Any]:
    """`Stacked.measure` by a function (s, h) -> values of that member."""
    out = {name: np.full((*due.shape, *v.shape), np.nan) for name, v in problem.variables.items()}
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
    """Members as arrays of their own, in S rows of C; the methods of `Stacked`."""

    def __init__(self, problem: Problem, grid: Grid, driving: str, mapping: str):
        self._problem, self._grid, self._mapping = problem, grid, mapping
        self._rows = range(len(grid.seeds))
        self._epochs = _Epochs(
            problem, grid, lambda data: [data_of_seed(data, s) for s in self._rows]
        )
        self._keys = list(grid.keys)

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
        hypers = algorithm.on_device(self._grid.hypers)

        def member(tree, s, h):
            return jax.tree.map(lambda leaf: jnp.array(leaf[s, h]), tree)  # a copy of its own

        self._state = [[member(state, s, h) for h in columns] for s in self._rows]
        self._hypers = [[member(hypers, s, h) for h in columns] for s in self._rows]

    def memory(self, state: TrainState, columns: Sequence[int]) -> int:
        data, _, _ = next(self._epochs(0, 0))
        hypers = jax.tree.map(lambda leaf: leaf[0, 0], algorithm.on_device(self._grid.hypers))
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), state)
        if self._mapping == "loop":
            others = (len(columns) * len(self._rows) - 1) * memory.size_of(shapes)
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
            return self._evaluate(data_of_seed(self._grid.data, s), task, model)

        return _measure_in_turn(self._problem, due, one)


Members = Stacked | Apart
