"""One training step for any problem, how a run of steps is driven, and how a model is evaluated.

*Step* t means: the (t+1)-th update, from U_t to U_{t+1}; the step counter is shared by all members
of a sweep, and a member's own count is smaller only if it has ended.

Randomness is a function of (seed, stream, step): `stream_key` folds the stream and the step into
the seed's key. No key is stored or split, so neither resuming nor the length of a chunk nor the
number of members can change a draw.
"""

import enum
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lr_order_jax import algorithm, memory
from lr_order_jax.algorithm import Hypers, TrainState
from lr_order_jax.problem import Data, DrawsEpochs, Model, MovesItself, Problem, Watches

PyTree = Any


class Stream(enum.IntEnum):
    """Independent streams of random numbers of one seed. Never renumber: results depend on it."""

    DATA = 0
    INIT = 1
    BATCH = 2
    MODEL = 3
    GRADIENT_NOISE = 4
    ANALYSIS = 5


def seed_key(seed) -> jax.Array:
    """The typed threefry key of a seed."""
    return jax.random.key(seed, impl="threefry2x32")


def stream_key(key, stream: Stream, step=None) -> jax.Array:
    """The key of a stream of a seed, at a step where the stream has one draw a step."""
    key = jax.random.fold_in(key, int(stream))
    return key if step is None else jax.random.fold_in(key, step)


def train_step(
    problem: Problem, data: Data, hypers: Hypers, state: TrainState, step, key, size: int
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of one member on a batch of `size` examples.

    `step` and `key` (the seed's) must reach this function unbatched over the members of a seed:
    then `vmap` draws the gradient noise xi_t once for all of them.

    Returns:
      The state after the step, and the training loss at the weights before it.
    """
    batch = problem.batch(data, hypers.task, stream_key(key, Stream.BATCH), step, size)
    noise_level = algorithm.read_activation_noise(hypers, state.phase)
    model_key = stream_key(key, Stream.MODEL, step)
    of_loss = state.params, state.stats, batch, noise_level, model_key
    model = Model(state.params, state.stats, state.watched)
    if isinstance(problem, MovesItself):
        loss, _ = problem.loss(*of_loss)

        def update(phase):
            moved = problem.move(hypers, model, batch, phase)
            return state._replace(params=moved.params, stats=moved.stats)

    else:
        (loss, stats), grads = jax.value_and_grad(problem.loss, has_aux=True)(*of_loss)
        xi = None
        if hypers.tau_xi is not None:
            noise_key = stream_key(key, Stream.GRADIENT_NOISE, step)
            xi = algorithm.gradient_noise(noise_key, state.params)

        def update(phase):
            updated = algorithm.descend(hypers, state, grads, stats, xi, phase)
            if isinstance(problem, Watches) and state.watched:
                of_watch = hypers, model, batch, grads, phase, noise_level, model_key
                updated = updated._replace(watched=problem.watch(*of_watch))
            return updated

    return algorithm.transition(hypers, state, loss, update), {"loss": loss}


def epochs(problem: Problem, start: int, count: int) -> Iterator[tuple[int | None, int, int]]:
    """Steps [start, start + count) cut at epochs: (epoch, first step, steps) each.

    One piece with None for a problem that draws nothing once an epoch.
    """
    if not isinstance(problem, DrawsEpochs):
        yield None, start, count
        return
    stop, length = start + count, len(problem.batch_sizes)
    while True:
        epoch = start // length
        end = min(stop, (epoch + 1) * length)
        yield epoch, start, end - start
        if end == stop:
            return
        start = end


def runs(batch_sizes: Sequence[int], start: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Steps [start, start + count) as runs of one batch size: (size, first step, steps) each."""
    if len(set(batch_sizes)) == 1:
        yield batch_sizes[0], start, count
        return
    size_of = lambda step: batch_sizes[step % len(batch_sizes)]  # noqa: E731
    for size, steps in itertools.groupby(range(start, start + count), size_of):
        first, *rest = steps
        yield size, first, 1 + len(rest)


class Driver:
    """Takes steps by a function that takes a single one.

    Args:
      one_step: (data, hypers, state, step, keys, size) -> state; `size` is static.
      how: `scan` (one compiled loop; how many steps is data, so no length compiles anew) or
        `dispatch` (one compiled step, called in turn).
      batch_sizes: of each step of a cycle, as in `Problem`.
      over: makes of a function (data, hypers, state, keys, *numbers) -> state, which is to run on
        one device, the one that runs on all of them.
    """

    def __init__(
        self,
        one_step: Callable,
        how: str,
        batch_sizes: Sequence[int],
        over: Callable[[Callable], Callable] = lambda function: function,
    ):
        self._how, self._batch_sizes = how, batch_sizes

        def loop(data, hypers, state, keys, start, count, size):
            def on_one_device(data, hypers, state, keys, start, count):
                def body(i, carry):
                    return one_step(data, hypers, carry, start + i, keys, size)

                return jax.lax.fori_loop(0, count, body, state)

            return over(on_one_device)(data, hypers, state, keys, start, count)

        def single(data, hypers, state, keys, step, size):
            def on_one_device(data, hypers, state, keys, step):
                return one_step(data, hypers, state, step, keys, size)

            return over(on_one_device)(data, hypers, state, keys, step)

        self._loop = jax.jit(loop, donate_argnums=2, static_argnums=6)
        self._single = jax.jit(single, donate_argnums=2, static_argnums=5)

    def __call__(self, data, hypers, state, keys, start: int, count: int):
        """The state after steps [start, start + count). `state` is consumed: its buffers may be
        overwritten. With a count of 0 all that will be needed is compiled."""
        if self._how == "scan":
            several = [(size, start, 0) for size in set(self._batch_sizes)]
            for size, first, steps in runs(self._batch_sizes, start, count) if count else several:
                first, steps = jnp.int32(first), jnp.int32(steps)
                state = self._loop(data, hypers, state, keys, first, steps, size)
            return state
        if count == 0:  # on a copy, and keep the state
            for size in set(self._batch_sizes):
                copy = jax.tree.map(jnp.copy, state)
                self._single(data, hypers, copy, keys, jnp.int32(start), size)
        for step in range(start, start + count):
            size = self._batch_sizes[step % len(self._batch_sizes)]
            state = self._single(data, hypers, state, keys, jnp.int32(step), size)
        return state

    def memory(self, data, hypers, state, keys) -> int:
        """Bytes that the program takes, all it is given included, as the compiler plans it.

        The arguments may be `jax.ShapeDtypeStruct`s: nothing of their size is allocated. A run of
        the same shapes takes the program that is compiled here.
        """
        step, most = jnp.int32(0), 0
        for size in set(self._batch_sizes):
            if self._how == "scan":
                lowered = self._loop.lower(data, hypers, state, keys, step, step, size)
            else:
                lowered = self._single.lower(data, hypers, state, keys, step, size)
            most = max(most, memory.of_program(lowered.compile()))
        return most


def make_evaluate(problem: Problem, how: str) -> Callable:
    """A function (data, task, model) -> the problem's variables, for one model.

    With `scan` it is one traceable program, with a compiled loop over the batches; with `dispatch`
    it calls one compiled batch in turn.
    """
    count = problem.num_evaluation_batches

    def in_a_loop(data, task, model):
        def one(index):
            return problem.evaluate(data, task, model, index)

        sums = jax.lax.map(one, jnp.arange(count, dtype=jnp.int32))
        sums = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums)
        return problem.summarize(data, task, model, sums)

    if how == "scan":
        return in_a_loop
    one_batch, summarize = jax.jit(problem.evaluate), jax.jit(problem.summarize)

    def in_turn(data, task, model):
        sums = one_batch(data, task, model, jnp.int32(0))
        for index in range(1, count):
            more = one_batch(data, task, model, jnp.int32(index))
            sums = jax.tree.map(jnp.add, sums, more)
        return summarize(data, task, model, sums)

    return in_turn
