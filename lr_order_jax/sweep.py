"""A grid of members [seed, hyper] from named axes, with their data, hyperparameters and states.

A *member* is one training run. The members of a seed differ in hyperparameters alone: they share
data, initial weights and, at equal step, the gradient noise xi_t, so that they can be compared in
pairs. The grid is the Cartesian product of the axes; fields that are zipped advance together along
one axis, which is named after the first of them. In the arrays the axes are flattened into one, in
C order: on the host, leaves of the state are (S, H, ...).
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lr_order_jax import algorithm, engine, fields, memory
from lr_order_jax.algorithm import Hypers, TrainState
from lr_order_jax.engine import Stream
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import Data, Problem, TrimsData

PyTree = Any

MOST_TOLD = 12  # numbers of shards that are possible
MOST_PARTS = 10_000  # near which they are looked for


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


def ways_to_cut(sizes: Sequence[int], parts: int) -> list[tuple[int, ...]]:
    """The ways to cut dimensions of these sizes, each into some parts, so many parts in all.

    Those whose largest part is smallest stand first, and of equal ones those that cut the earlier
    dimensions: seeds before columns, as the members of a seed share its data and noise.

    Examples:
        >>> ways_to_cut((5, 6), 6)
        [(1, 6), (3, 2), (2, 3)]
    """
    ways: list[tuple[int, ...]] = [()]
    for size in sizes:
        ways = [(*way, k) for way in ways for k in range(1, min(size, parts) + 1)]
        ways = [way for way in ways if parts % math.prod(way) == 0]
    ways = [way for way in ways if math.prod(way) == parts]

    def cost(way):
        largest = [-(-size // k) for size, k in zip(sizes, way, strict=True)]
        return math.prod(largest), [-k for k in way]

    return sorted(ways, key=cost)


def possible_parts(sizes: Sequence[int], near: int) -> list[int]:
    """Numbers of parts into which dimensions of these sizes can be cut, those nearest to one.

    Examples:
        >>> possible_parts((4, 2), 7)
        [1, 2, 3, 4, 6, 8]
    """
    most = min(math.prod(sizes), 2 * near)
    found = {1}
    for size in sizes:
        found = {k * p for k in found for p in range(1, min(size, most // k) + 1)}
    return sorted(sorted(found, key=lambda k: (abs(k - near), k))[:MOST_TOLD])


def even_parts(count: int, parts: int) -> list[slice]:
    """range(count) cut into parts of nearly the same length."""
    ends = [count * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def _part(seeds: tuple[int, ...], axes: tuple[Axis, ...], shard: str):
    """The seeds and axes of shard "i/n", i from 1 to n: a rectangle of the grid."""
    i, n = (int(number) for number in shard.split("/"))
    sizes = len(seeds), *(len(axis) for axis in axes)
    told = f"config.shard = {shard!r}"
    if i > n:
        raise ConfigError(f"{told}: must be i/n with i from 1 to n")
    if not (ways := ways_to_cut(sizes, n)):
        most = " x ".join(str(size) for size in sizes if size > 1) or "1"
        can = ", ".join(map(str, possible_parts(sizes, min(n, MOST_PARTS))))
        raise ConfigError(
            f"{told}: {most} members cannot be cut into {n} equal ways along axes, n can be {can}"
        )
    index = np.unravel_index(i - 1, ways[0])
    cuts = [even_parts(size, k)[j] for size, k, j in zip(sizes, ways[0], index, strict=True)]
    parts = zip(axes, cuts[1:], strict=True)
    of_axes = [Axis(axis.name, {f: v[cut] for f, v in axis.values.items()}) for axis, cut in parts]
    return seeds[cuts[0]], tuple(of_axes)


def make_grid(
    problem: Problem, seeds: Sequence[int], zipped: Sequence[str], shard: str | None = None
) -> Grid:
    """Axes, members, data and hyperparameters of a sweep, or of shard "i/n" of it.

    Raises:
      ConfigError: for wrong axes, or a shard that there is not.
    """
    axes = make_axes(fields.swept_values(problem.fields), zipped)
    always = fields.swept_fields(type(problem.fields))[0]  # the initial rate
    are_shown = [always in axis.values or len(axis) > 1 for axis in axes]
    if shard is not None:
        seeds, axes = _part(tuple(seeds), axes, shard)
    members = make_members(axes)
    keys = jnp.stack([engine.seed_key(seed) for seed in seeds])
    shared = jax.device_put(problem.load())

    @jax.jit
    def make_own(keys, shared):
        def of_seed(key):
            return problem.make_data(engine.stream_key(key, Stream.DATA), shared)

        return jax.lax.map(of_seed, keys)

    program = make_own.lower(keys, shared).compile()
    free = memory.free_on_device()
    memory.refuse_beyond(free, memory.of_program(program), "the data of all seeds")
    # An error of the device (no memory) is raised here: XLA's CPU backend can wait for ever where
    # another program reads what has failed.
    own = jax.block_until_ready(program(keys, shared))
    data = Data(shared, problem.trim_data(own) if isinstance(problem, TrimsData) else own)
    rows = []
    for s in range(len(seeds)):
        of_seed = data_of_seed(data, s)
        row = [problem.hypers(values, of_seed) for values in members]
        rows.append(jax.tree.map(lambda *leaves: np.stack(leaves), *row))
    hypers = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    shown = tuple(itertools.compress(axes, are_shown))
    return Grid(shown, members, tuple(seeds), keys, data, hypers)


def data_of_seed(data: Data, s: int) -> Data:
    """The data of the seed with index s."""
    own, epoch = _row((data.own, data.epoch), s)
    return Data(data.shared, own, epoch)


@jax.jit
def _row(tree: PyTree, index) -> PyTree:
    """Leaves at an index of their first axis, in one program."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


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
    columns = [jax.tree.map(lambda leaf, h=h: leaf[:, h], hypers) for h in range(grid.shape[1])]
    program = of_seed.lower(grid.keys, columns[0]).compile()
    free = memory.free_on_device()
    memory.refuse_beyond(free, memory.of_program(program), "the models of all seeds")
    size = memory.size_of(jax.eval_shape(of_seed, grid.keys, columns[0])) * len(columns)
    memory.refuse_beyond(memory.free_on_host(), size, "the state of the members")
    state: Any = None
    for h, column in enumerate(columns):
        made = jax.tree.map(np.asarray, program(grid.keys, column))
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
