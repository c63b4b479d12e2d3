"""One training step for any problem, how a run of steps is driven, and how a model is evaluated.

*Step* t means: the (t+1)-th update, from U_t to U_{t+1}; the step counter is shared by all members
of a sweep, and a member's own count is smaller only if it has ended.

Randomness is a function of (seed, stream, step): `stream_key` folds the stream and the step into
the seed's key. No key is stored or split, so neither resuming nor the length of a chunk nor the
number of members can change a draw.
"""

import enum
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lr_order_jax import algorithm
from lr_order_jax.algorithm import Hypers, TrainState
from lr_order_jax.problem import Model, Problem

PyTree = Any


class Stream(enum.IntEnum):
    """Independent streams of random numbers of one seed. Never renumber: results depend on it."""

    DATA = 0
    INIT = 1
    BATCH = 2
    MODEL = 3
    GRADIENT_NOISE = 4


def seed_key(seed) -> jax.Array:
    """The typed threefry key of a seed."""
    return jax.random.key(seed, impl="threefry2x32")


def stream_key(key, stream: Stream, step=None) -> jax.Array:
    """The key of a stream of a seed, at a step where the stream has one draw a step."""
    key = jax.random.fold_in(key, int(stream))
    return key if step is None else jax.random.fold_in(key, step)


def train_step(
    problem: Problem, data: PyTree, hypers: Hypers, state: TrainState, step, key
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of one member.

    `step` and `key` (the seed's) must reach this function unbatched over the members of a seed:
    then `vmap` draws the gradient noise xi_t once for all of them.

    Returns:
      The state after the step, and the training loss at the weights before it.
    """
    batch = problem.batch(data, stream_key(key, Stream.BATCH, step), step)
    (loss, stats), grads = jax.value_and_grad(problem.loss, has_aux=True)(
        state.params, state.stats, batch, stream_key(key, Stream.MODEL, step)
    )
    xi = algorithm.gradient_noise(stream_key(key, Stream.GRADIENT_NOISE, step), state.params)
    return algorithm.transition(hypers, state, loss, grads, stats, xi), {"loss": loss}


def drive(one_step: Callable, how: str) -> Callable:
    """A function that takes `count` steps from step `start`, from one that takes a single step.

    Args:
      one_step: (data, hypers, state, step, keys) -> state.
      how: `scan` (one compiled loop; `count` is data, so no length compiles anew) or `dispatch`
        (one compiled step, called in turn).

    Returns:
      A function (data, hypers, state, keys, start, count) -> state. It consumes `state`, whose
      buffers it may overwrite. `count` may be 0 (to compile).
    """
    if how == "scan":

        @functools.partial(jax.jit, donate_argnums=2)
        def loop(data, hypers, state, keys, start, count):
            def body(i, carry):
                return one_step(data, hypers, carry, start + i, keys)

            return jax.lax.fori_loop(0, count, body, state)

        return lambda data, hypers, state, keys, start, count: loop(
            data, hypers, state, keys, jnp.int32(start), jnp.int32(count)
        )

    single = jax.jit(one_step, donate_argnums=2)

    def dispatch(data, hypers, state, keys, start, count):
        if count == 0:  # compile on a copy, and keep the state
            single(data, hypers, jax.tree.map(jnp.copy, state), jnp.int32(start), keys)
        for step in range(start, start + count):
            state = single(data, hypers, state, jnp.int32(step), keys)
        return state

    return dispatch


def evaluate(problem: Problem, data: PyTree, model: Model) -> dict[str, jax.Array]:
    """The problem's variables for one model: its sums added over all evaluation batches."""
    batches = problem.evaluation_batches(data)
    count = jax.tree.leaves(batches)[0].shape[0]
    sums = problem.evaluate(model, jax.tree.map(lambda leaf: leaf[0], batches))
    for i in range(1, count):
        more = problem.evaluate(model, jax.tree.map(lambda leaf, i=i: leaf[i], batches))
        sums = jax.tree.map(jnp.add, sums, more)
    return problem.summarize(data, model, sums)
