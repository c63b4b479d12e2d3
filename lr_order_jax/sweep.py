"""A grid of members [seed, hyper] from named axes, and how one member's functions are mapped on it.

A *member* is one training run. The members of a seed differ in hyperparameters alone: they share
data, initial weights and, at equal step, the gradient noise xi_t, so that they can be compared in
pairs. The grid is the Cartesian product of the axes; fields that are zipped advance together along
one axis, which is named after the first of them. In the arrays the axes are flattened into one, in
C order: `state` leaves are (S, H, ...), `data` leaves (S, ...).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lr_order_jax import algorithm, engine, fields
from lr_order_jax.algorithm import Hypers, TrainState
from lr_order_jax.engine import Stream
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import Model, Problem

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
    data: PyTree  # leaves (S, ...)
    hypers: Hypers  # host leaves (S, H, ...)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.seeds), len(self.members)


def make_axes(section: Any, zipped: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of a section of the configuration.

    A field with several values is an axis. Those with one value are axes of one point.

    Args:
      zipped: entries like "eta_init+noise_scale": fields of equal length that make one axis.

    Raises:
      ConfigError: if zipped fields are unknown, unset, named twice or of different lengths, or if
        an axis holds the same point twice.
    """
    names = fields.swept_fields(type(section))
    together = [tuple(entry.split("+")) for text in zipped for entry in text.split(",")]
    named = [name for group in together for name in group]
    for name in named:
        if name not in names:
            raise ConfigError(
                f"config.zipped = {tuple(zipped)!r}: {name!r} cannot be swept, "
                f"use some of {', '.join(names)}"
            )
        if named.count(name) > 1:
            raise ConfigError(f"config.zipped = {tuple(zipped)!r}: {name!r} stands in it twice")
        if getattr(section, name) is None:
            raise ConfigError(f"config.zipped = {tuple(zipped)!r}: config.{name} is not set")
    # A group takes the place of its first field.
    groups = {group[0]: group for group in together}
    followers = {name for group in together for name in group[1:]}
    axes = []
    for name in names:
        if name in followers:
            continue
        group = groups.get(name, (name,))
        values = {field: getattr(section, field) or (None,) for field in group}
        lengths = {field: len(v) for field, v in values.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{field} has {k}" for field, k in lengths.items())
            raise ConfigError(f"config.zipped: fields of one axis must be of equal length: {told}")
        points = list(zip(*values.values(), strict=True))
        if len(set(points)) != len(points):
            raise ConfigError(f"config.{'+'.join(group)} = {points}: holds the same value twice")
        axes.append(Axis(name, values))
    return tuple(axes)


def make_members(axes: Sequence[Axis]) -> tuple[Mapping[str, Any], ...]:
    """Every combination of points of the axes, in C order: field -> value."""
    members = []
    for index in itertools.product(*(range(len(axis)) for axis in axes)):
        pairs = zip(axes, index, strict=True)
        members.append({field: v[i] for axis, i in pairs for field, v in axis.values.items()})
    return tuple(members)


def make_grid(problem: Problem, seeds: Sequence[int], zipped: Sequence[str]) -> Grid:
    """Axes, members, data and hyperparameters of a sweep."""
    axes = make_axes(problem.fields, zipped)
    members = make_members(axes)
    keys = jnp.stack([engine.seed_key(seed) for seed in seeds])
    data = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: problem.make_data(engine.stream_key(key, Stream.DATA)), keys
        )
    )(keys)
    rows = []
    for s in range(len(seeds)):
        of_seed = jax.tree.map(lambda leaf, s=s: leaf[s], data)
        row = [problem.hypers(values, of_seed) for values in members]
        rows.append(jax.tree.map(lambda *leaves: np.stack(leaves), *row))
    hypers = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    always = fields.swept_fields(type(problem.fields))[0]  # the initial rate
    shown = tuple(axis for axis in axes if always in axis.values or len(axis) > 1)
    return Grid(shown, members, tuple(seeds), keys, data, hypers)


def init_state(problem: Problem, grid: Grid) -> TrainState:
    """The state of all members before the first step, leaves (S, H, ...): one model a seed."""

    def of_seed(key, hypers):
        model = problem.init(engine.stream_key(key, Stream.INIT))
        return jax.vmap(lambda h: algorithm.init_state(h, model.params, model.stats))(hypers)

    return jax.jit(jax.vmap(of_seed))(grid.keys, algorithm.on_device(grid.hypers))


def map_members(step: Callable, how: str) -> Callable:
    """One member's step on the whole grid; the same numbers whichever way, up to rounding.

    Args:
      step: (data, hypers, state, step, key) -> a tree of arrays, of one member.
      how: `vmap` (batched arrays; what depends on step and key alone is computed once a seed),
        `map` (a compiled loop over members) or `unroll` (members one after the other in one
        program).

    Returns:
      A function of the same signature over leaves (S, ...), (S, H, ...), (S, H, ...), (), (S,).
    """
    if how == "unroll":

        def unrolled(data, hypers, state, t, keys):
            seeds, columns = state.status.shape

            def at(tree, *index):
                return jax.tree.map(lambda leaf: leaf[index], tree)

            rows = []
            for s in range(seeds):
                d, k = at(data, s), keys[s]
                row = [step(d, at(hypers, s, h), at(state, s, h), t, k) for h in range(columns)]
                rows.append(jax.tree.map(lambda *leaves: jnp.stack(leaves), *row))
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

        return unrolled
    if how == "map":

        def looped(data, hypers, state, t, keys):
            def row(of_seed):
                d, hs, ss, k = of_seed
                return jax.lax.map(lambda member: step(d, *member, t, k), (hs, ss))

            return jax.lax.map(row, (data, hypers, state, keys))

        return looped
    over_hypers = jax.vmap(step, in_axes=(None, 0, 0, None, None))
    return jax.vmap(over_hypers, in_axes=(0, 0, 0, None, 0))


def make_advance(problem: Problem, driving: str, mapping: str) -> Callable:
    """The program that takes steps of a grid; see `engine.drive` for its signature."""

    def one_member(*arguments):
        return engine.train_step(problem, *arguments)[0]

    return engine.drive(map_members(one_member, mapping), driving)


def make_measure(problem: Problem) -> Callable:
    """The program that evaluates some members of a grid, one after the other.

    Members reach the points of the time grid at different steps, so only those that are due are
    evaluated; how many is data and compiles nothing anew, and a member's figures do not depend on
    which others are due.

    Returns:
      A function (data, state, due) -> {variable: (S, H) array, NaN where not due}, where `due` is
      a host (S, H) bool array.
    """

    @jax.jit
    def measure(data, state, order, counts):
        def row(of_seed):
            d, of_members, columns, count = of_seed

            def one(i, out):
                h = columns[i]
                params, stats = jax.tree.map(lambda leaf: leaf[h], of_members)
                values = engine.evaluate(problem, d, Model(params, stats))
                return {name: out[name].at[h].set(v) for name, v in values.items()}

            blank = {name: jnp.full(columns.shape, jnp.nan) for name in problem.variables}
            return jax.lax.fori_loop(0, count, one, blank)

        return jax.lax.map(row, (data, (state.params, state.stats), order, counts))

    def of_due(data, state: TrainState, due: np.ndarray) -> dict[str, np.ndarray]:
        order = np.argsort(~due, axis=1, kind="stable").astype(np.int32)
        values = measure(data, state, order, due.sum(axis=1).astype(np.int32))
        return {name: np.asarray(v) for name, v in values.items()}

    return of_due


def take_columns(tree: PyTree, columns: Sequence[int]) -> PyTree:
    """The hyper columns of a tree with leaves (S, H, ...)."""
    index = np.asarray(columns)
    return jax.tree.map(lambda leaf: leaf[:, index], tree)
