"""Probes of the two-layer network: what sections 3 to 5 say of its weights, along a run.

    decomposition  U = Ubar + Utilde, (3.4): what all gradients have contributed, and what is left
                   of the initial weights and the noise. Carried through the steps.
    lemma_5_2      Wbar^(2), (5.1): what the gradients on M2 (examples with a Q pattern) have
                   contributed to W. Carried through the steps.
    lemma_5_3      r(x) - r(-x) against 2 <alpha, x> with alpha in the span of the P-only examples.
                   Computed at each record by a map that is made once for the data of a seed.

What they cost in configs/lemmas.py (10 members, d = 200, m_v = 20,000; 2 cores, `python -m
analysis.benchmarks.probes`), times the same without probes:

                   a step   a record   the whole run of 32,000 steps and 101 records
    decomposition    1.21       1.61   1.22
    lemma_5_2        1.13       1.03   1.13
    lemma_5_3        1.00       1.49   1.00
    all              1.28       2.15   1.28

The losses of Lemmas 4.4 and 5.1 and the second difference of Lemma 4.2 need no probe. In the other
structures of appendix F (see `two_layer`) a unit's activations and outputs are those on one pattern
alone, and in a convolution, where V is W, what is said of W includes what Q contributes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lr_order_jax import algorithm
from lr_order_jax.algorithm import Hypers
from lr_order_jax.models.two_layer import product
from lr_order_jax.problem import Variable
from lr_order_jax.problems.synthetic import Examples

PROBES: dict[str, dict[str, Variable]] = {
    "decomposition": {
        "signal_squared_w": Variable("squared Frobenius norm of W's signal part (3.4)"),
        "signal_squared_v": Variable("squared Frobenius norm of V's signal part (3.4)"),
        "displacement_squared": Variable(
            "squared Frobenius norm by which the signal part has moved since annealing (Lemma 4.3)"
        ),
        "activation_difference_w": Variable(
            "fraction of W's activations on training examples that the noise part alone changes"
        ),
        "activation_difference_v": Variable(
            "fraction of V's activations on the three directions that the noise part alone changes"
        ),
        "output_gap_w": Variable(
            "root mean square of r less r with the noise part's activations, training examples"
        ),
        "output_gap_v": Variable(
            "root mean square of g less g with the noise part's activations, training examples"
        ),
    },
    "lemma_5_2": {
        "m2_gradient_norm": Variable(
            "Frobenius norm of the gradient of W accumulated on M2 (Lemma 5.2)"
        ),
    },
    "lemma_5_3": {
        "odd_part": Variable("root mean square of r(x) - r(-x), test examples (Lemma 5.3)"),
        "odd_part_residual": Variable(
            "root mean square of r(x) - r(-x) - 2 <alpha, x>, test examples (Lemma 5.3)"
        ),
        "alpha_norm": Variable("norm of alpha in the span of the P-only examples (Lemma 5.3)"),
    },
}

NUM_FIT = 2000
"""Test examples at most on which Lemma 5.3 is fitted."""


def variables(probes) -> dict[str, Variable]:
    """What these probes measure."""
    return {name: variable for probe in probes for name, variable in PROBES[probe].items()}


def init(probes, params) -> dict[str, Any]:
    """Before the first step nothing has been contributed. {} for probes that carry nothing."""
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)  # noqa: E731
    watched = {}
    if "decomposition" in probes:
        watched["signal"] = zeros(params)
        watched["signal_at_annealing"] = zeros(params)
        watched["annealed"] = jnp.bool_(False)
    if "lemma_5_2" in probes:
        watched["m2_gradient"] = zeros(params["W"])
    return watched


def watch(watched: Mapping[str, Any], hypers: Hypers, phase, grads, m2_grad) -> dict[str, Any]:
    """The carried quantities after a step in a phase.

    (3.4) and (5.1) step by step:

        Ubar <- (1 - gamma lambda) Ubar - gamma grad L,
        Wbar^(2) <- (1 - gamma lambda) Wbar^(2) + gamma (1/N) sum over M2 of grad L_i.

    The signal at annealing is that before the first step of a later phase.

    Args:
      grads: gradient of the loss without noise, like the parameters.
      m2_grad: function () -> the share of W's gradient that comes from M2, (d, m_w).
    """
    rate = algorithm.read_rate(hypers, phase)
    after = dict(watched)
    if "signal" in watched:
        signal, annealed = watched["signal"], algorithm.is_annealed(hypers, phase)
        after["signal"] = algorithm.gradient_step(signal, grads, rate, hypers.weight_decay)
        after["signal_at_annealing"] = jax.tree.map(
            lambda old, now: jnp.where(watched["annealed"], old, now),
            watched["signal_at_annealing"],
            signal,
        )
        after["annealed"] = annealed
    if "m2_gradient" in watched:
        past = watched["m2_gradient"]
        after["m2_gradient"] = (1 - rate * hypers.weight_decay) * past + rate * m2_grad()
    return after


def v_of(params: Mapping[str, Any]) -> Any:
    """V; in a convolution that is W."""
    return params.get("V", params["W"])


def _squared(tree) -> jax.Array:
    return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)), start=jnp.float32(0))


def _coupling(u, before, of_signal):
    """Where activations by U and by Utilde = U - Ubar differ, and the difference of the outputs.

    Args:
      u: (m,) second layer.
      before, of_signal: U x and Ubar x, (n, m).

    Returns:
      (n,) fraction of units that differ, and (n,) N_U(u, U; x) - N_Utilde(u, U; x).
    """
    differ = (before >= 0) != (before - of_signal >= 0)
    # 1(U x) - 1(Utilde x) is the sign of U x where they differ.
    return jnp.mean(differ, axis=1), product(jnp.where(differ, jnp.abs(before), 0.0), u)


def decomposition(stats, params, watched, before_w, before_v, train: Examples) -> dict[str, Any]:
    """The variables of the probe `decomposition`.

    Args:
      before_w: function from U to W x1 of the first k training examples, (k, m_w).
      before_v: function from U to V x2 at the three directions, (3, m_v).
    """
    signal = watched["signal"]
    differ_w, gap_w = _coupling(stats["w"], before_w(params), before_w(signal))
    differ_v, gap_v = _coupling(stats["v"], before_v(params), before_v(signal))
    has_p = train.group[: len(differ_w)] != 1
    gap_of_examples = product(train.q_coefficients, gap_v)
    moved = _squared(jax.tree.map(jnp.subtract, signal, watched["signal_at_annealing"]))
    return {
        "signal_squared_w": _squared(signal["W"]),
        "signal_squared_v": _squared(v_of(signal)),
        "displacement_squared": jnp.where(watched["annealed"], moved, jnp.nan),
        "activation_difference_w": jnp.mean(differ_w, where=has_p),
        "activation_difference_v": jnp.mean(differ_v),
        "output_gap_w": jnp.sqrt(jnp.sum(gap_w**2) / len(train.y)),
        "output_gap_v": jnp.sqrt(jnp.mean(gap_of_examples**2)),
    }


def fit_of_alpha(x1_test, train: Examples) -> jax.Array:
    """The linear map from r(x) - r(-x) to the alpha of Lemma 5.3, which the data alone decide.

    Least squares of r(x) - r(-x) by 2 <alpha, x>, alpha in the span of the P-only examples; of
    several that fit alike the one with the least coefficients.

    Args:
      x1_test: (k, d) random x1.

    Returns:
      (d, k).
    """
    is_p_only = train.group[: len(train.x1)] == 0
    p_only = jnp.where(is_p_only[:, None], train.x1, 0.0)
    design = 2 * product(x1_test, p_only.T)  # (k, n), with columns of zeros
    return product(p_only.T, jnp.linalg.pinv(design))


def lemma_5_3(u, w, x1_test, fit) -> dict[str, Any]:
    """r(x) - r(-x) against 2 <alpha, x>.

    As relu(h) - relu(-h) = h, r(x) - r(-x) = u^T W x, which is linear in x.

    Args:
      u: (m,) second layer of r.
      w: (d, m) W.
      x1_test: (k, d) random x1.
      fit: (d, k) `fit_of_alpha` of these.
    """
    odd = product(x1_test, product(w, u))
    alpha = product(fit, odd)
    residual = odd - 2 * product(x1_test, alpha)
    root_mean_square = lambda v: jnp.sqrt(jnp.mean(v**2))  # noqa: E731
    return {
        "odd_part": root_mean_square(odd),
        "odd_part_residual": root_mean_square(residual),
        "alpha_norm": jnp.linalg.norm(alpha),
    }
