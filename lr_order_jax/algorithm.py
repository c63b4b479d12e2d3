"""Algorithms 1 (L-S) and 2 (S) as transitions of one state: phases, triggers, noisy gradient step.

A schedule is a sequence of K *phases*, each with a constant learning rate. A phase ends after its
number of steps, or as soon as the training loss is at or below its threshold; when the last phase
ends, so does the member. "Never" is data: `NEVER` steps, or a threshold of minus infinity. So

    Algorithm 1 (L-S):  phase 0 at eta_1 until the loss is below epsilon_1 + q log 2, phase 1 at
                        eta_2 until it is below epsilon_2;
    Algorithm 2 (S):    a phase 0 of no steps, phase 1 at eta_2 until it is below epsilon_2

are two rows of numbers for one compiled program. The update is (3.1) of the paper with the noise
outside the gradient (as printed it stands inside),

    U <- (1 - gamma lambda) U - gamma (grad L(U) + tau_xi xi),   xi ~ N(0, I),         (3.1), (3.2)

or, where a member has momentum, Nesterov's with the same noisy gradient.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lr_order_jax.fields import ConfigError

PyTree = Any

NEVER = 2**31 - 1
"""A number of steps that no phase reaches."""


class Status(enum.IntEnum):
    """Why a member is where it is. All but RUNNING are terminal."""

    RUNNING = 0
    COMPLETED = 1  # the last phase took all its steps
    STOPPED = 2  # the training loss reached the threshold of its last phase
    DIVERGED = 3  # the training loss is not finite


class Cause(enum.IntEnum):
    """What was not finite in a member that diverged."""

    NONE = 0  # it did not diverge
    WEIGHTS_NAN = 1
    WEIGHTS_INFINITE = 2
    LOSS = 3  # the weights are finite, the training loss is not


def cause_of(params: PyTree) -> Cause:
    """Why a member diverged, by its weights at the end, which it keeps."""
    leaves = jax.tree.leaves(params)
    if any(np.isnan(leaf).any() for leaf in leaves):
        return Cause.WEIGHTS_NAN
    if any(np.isinf(leaf).any() for leaf in leaves):
        return Cause.WEIGHTS_INFINITE
    return Cause.LOSS


class Hypers(NamedTuple):
    """What may differ between members, as array leaves. K is the number of phases.

    On the host the leaves are float64 and int64; `on_device` gives the arrays of the program. What
    is None is absent from the program of all members: no noise is drawn, no velocity kept.
    """

    rates: Any  # (K,) learning rate gamma of each phase
    phase_steps: Any  # (K,) steps after which a phase ends at the latest; 0: the phase is skipped
    loss_thresholds: Any  # (K,) training loss at or below which a phase ends
    weight_decay: Any  # () lambda
    tau_xi: PyTree  # () per block of the parameters: deviation of the gradient noise; or None
    momentum: Any = None  # () of the velocity; or None
    activation_noise: Any = None  # (K,) level of the noise before activations; or None
    task: PyTree = None  # numbers of the problem's own, e.g. on which examples a member is trained


class TrainState(NamedTuple):
    """One member's state. The step counter and the keys are not in it: they are shared."""

    params: PyTree
    stats: PyTree
    velocity: PyTree  # like params; {} without momentum
    watched: PyTree  # what probes carry through the steps; {} without
    phase: jax.Array  # () int32: the phase that the next step belongs to
    phase_counts: jax.Array  # (K,) int32: steps taken in each phase
    status: jax.Array  # () int32: a `Status`


def on_device(hypers: Hypers) -> Hypers:
    """Host hyperparameters as float32 and int32 arrays.

    Raises:
      ConfigError: for a whole number that int32 does not hold.
    """

    def convert(leaf):
        host = np.asarray(leaf)
        if not np.issubdtype(host.dtype, np.integer):
            return jnp.asarray(leaf, jnp.float32)
        if np.any((host > NEVER) | (host < -NEVER)):
            raise ConfigError(f"a member's hyperparameters: hold a number beyond {NEVER}")
        return jnp.asarray(leaf, jnp.int32)

    return jax.tree.map(convert, hypers)


def stationary_tau_xi(tau_0, eta_1, weight_decay):
    """Deviation of the gradient noise under which the noise part keeps variance tau_0^2 at eta_1.

    Solves Assumption 3.1, (3.3): (1 - eta_1 lambda)^2 tau_0^2 + eta_1^2 tau_xi^2 = tau_0^2, so
    tau_xi^2 = tau_0^2 lambda (2 - eta_1 lambda) / eta_1.

    Examples:
        >>> tau_xi = stationary_tau_xi(3.0, eta_1=0.2, weight_decay=1e-3)
        >>> round((1 - 0.2 * 1e-3) ** 2 * 3.0**2 + 0.2**2 * tau_xi**2, 9)
        9.0
    """
    return tau_0 * (weight_decay * (2 - eta_1 * weight_decay) / eta_1) ** 0.5


def _following(hypers: Hypers, phase):
    """The first phase after `phase` that has steps, and whether there is one."""
    index = jnp.arange(hypers.phase_steps.shape[-1], dtype=jnp.int32)
    later = (index > phase) & (hypers.phase_steps > 0)
    return jnp.argmax(later).astype(jnp.int32), jnp.any(later)


def init_state(hypers: Hypers, params: PyTree, stats: PyTree, watched: PyTree) -> TrainState:
    """The state before the first step, in the first phase that has steps."""
    phase, is_one = _following(hypers, jnp.int32(-1))
    return TrainState(
        params=params,
        stats=stats,
        velocity={} if hypers.momentum is None else jax.tree.map(jnp.zeros_like, params),
        watched=watched,
        phase=phase,
        phase_counts=jnp.zeros(hypers.phase_steps.shape[-1], jnp.int32),
        status=jnp.where(is_one, jnp.int32(Status.RUNNING), jnp.int32(Status.COMPLETED)),
    )


def read_rate(hypers: Hypers, phase):
    """The learning rate gamma of a phase."""
    return hypers.rates[phase]


def is_annealed(hypers: Hypers, phase):
    """Whether a phase comes after the first one that has steps."""
    return phase > _following(hypers, jnp.int32(-1))[0]


def read_activation_noise(hypers: Hypers, phase):
    """The level of the noise before activations in a phase; None if no member has any."""
    return None if hypers.activation_noise is None else hypers.activation_noise[phase]


def after_loss(hypers: Hypers, phase, status, loss):
    """Phase and status once the loss at the present weights is known, before the update.

    A loss at or below the phase's threshold ends it, so the update that follows already has the
    next phase's rate: gamma_t = eta_1 for t < t_0, where t_0 is the first step with
    L(U_t) <= epsilon_1 + q log 2. In the last phase the member stops at these weights. One loss
    can end several phases. A loss that is not finite ends the member in any phase.
    """
    diverged = (status == Status.RUNNING) & ~jnp.isfinite(loss)
    status = jnp.where(diverged, jnp.int32(Status.DIVERGED), status)
    for _ in range(hypers.phase_steps.shape[-1]):
        reached = (status == Status.RUNNING) & (loss <= hypers.loss_thresholds[phase])
        following, is_one = _following(hypers, phase)
        status = jnp.where(reached & ~is_one, jnp.int32(Status.STOPPED), status)
        phase = jnp.where(reached & is_one, following, phase)
    return phase, status


def after_step(hypers: Hypers, phase, status, phase_counts):
    """Phase, status and counts after one update in `phase`: it may have been the phase's last."""
    running = status == Status.RUNNING
    phase_counts = phase_counts.at[phase].add(running.astype(jnp.int32))
    full = running & (phase_counts[phase] >= hypers.phase_steps[phase])
    following, is_one = _following(hypers, phase)
    status = jnp.where(full & ~is_one, jnp.int32(Status.COMPLETED), status)
    return jnp.where(full & is_one, following, phase), status, phase_counts


def gradient_noise(key, params: PyTree) -> PyTree:
    """xi_t ~ N(0, I) shaped like the parameters; each leaf has a stream of its own, (3.2).

    The barrier keeps the compiler from fusing the generator into the update of each member: the
    members of a seed share xi_t, and must not compute it again for each of them.
    """
    leaves, structure = jax.tree.flatten(params)
    draws = [
        jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, jax.lax.optimization_barrier(draws))


def noisy_gradient(grads: PyTree, xi: PyTree, tau_xi: PyTree) -> PyTree:
    """grad + tau_xi xi, block by block; `tau_xi` is a prefix of the tree: one number a block."""
    tau_of_leaf = jax.tree.broadcast(tau_xi, grads)

    def add(g, x, tau):
        # x either way. But vmap now has x along the axis of g's members: the product of a shared
        # array and a member's number it would put along the first, and XLA move the whole of it.
        return g + tau * jnp.where(g == g, x, x)

    return jax.tree.map(add, grads, xi, tau_of_leaf)


def gradient_step(params: PyTree, grads: PyTree, rate, weight_decay) -> PyTree:
    """(3.1): U <- (1 - gamma lambda) U - gamma grad, with the noise already in `grads`."""
    return jax.tree.map(lambda u, g: (1 - rate * weight_decay) * u - rate * g, params, grads)


def nesterov_step(
    params: PyTree, velocity: PyTree, grads: PyTree, rate, weight_decay, momentum
) -> tuple[PyTree, PyTree]:
    """Weight decay, then momentum, then the rate, which stays outside the velocity (as PyTorch):

        d = grad + lambda U,   v <- mu v + d,   U <- U - gamma (d + mu v).

    With mu = 0 this is `gradient_step`.

    Returns:
      Parameters and velocity after the step.
    """
    decayed = jax.tree.map(lambda u, g: g + weight_decay * u, params, grads)
    velocity = jax.tree.map(lambda v, d: momentum * v + d, velocity, decayed)
    params = jax.tree.map(lambda u, d, v: u - rate * (d + momentum * v), params, decayed, velocity)
    return params, velocity


def descend(hypers: Hypers, state: TrainState, grads, stats, xi, phase) -> TrainState:
    """The algorithm's own update: a noisy gradient step at a phase's rate, with momentum or not.

    Args:
      xi: the gradient noise (3.2); None if hypers.tau_xi is.
    """
    rate = read_rate(hypers, phase)
    if hypers.tau_xi is not None:
        grads = noisy_gradient(grads, xi, hypers.tau_xi)
    velocity = state.velocity
    if hypers.momentum is None:
        params = gradient_step(state.params, grads, rate, hypers.weight_decay)
    else:
        params, velocity = nesterov_step(
            state.params, velocity, grads, rate, hypers.weight_decay, hypers.momentum
        )
    return state._replace(params=params, stats=stats, velocity=velocity)


def transition(
    hypers: Hypers, state: TrainState, loss, update: Callable[[Any], TrainState]
) -> TrainState:
    """One step: triggers by the loss, the update at the rate of the phase, the phase's end.

    A member that has ended, or ends by this loss, keeps its weights, velocity and stats bit by bit.

    Args:
      loss: training loss at the present weights.
      update: phase of the update -> the state with new params, stats, velocity and watched.
    """
    phase, status = after_loss(hypers, state.phase, state.status, loss)
    updated = update(phase)
    running = status == Status.RUNNING
    kept = jax.tree.map(lambda new, old: jnp.where(running, new, old), updated, state)
    next_phase, next_status, counts = after_step(hypers, phase, status, state.phase_counts)
    return kept._replace(phase=next_phase, phase_counts=counts, status=next_status)
