"""The best linear rule on P patterns: a line of reference for what can be learned from N examples.

The logistic loss with a penalty on |w|^2 is minimised for a range of penalties, and the rule with
the least test error counts: an oracle's choice, so that no linear rule of this kind does better.
The strongest penalty is the mean rule w = sum y x, the weakest close to the hard margin.
"""

from typing import Any

import numpy as np
from scipy.special import expit

from lr_order_jax import memory

PENALTIES = np.geomspace(1e-5, 1e2, 8)
"""Of |w|^2/2 against the mean logistic loss."""

MATRICES = 4
"""Of all examples by all that `fit` holds at once."""


def fit(gram: np.ndarray, y: np.ndarray, penalty: float, start: Any = 0.0) -> np.ndarray:
    """Coefficients c of w = X^T c that minimise mean log(1 + exp(-y f)) + penalty |w|^2/2.

    Newton's method with halved steps on the n coefficients, f = X X^T c.

    Args:
      gram: (n, n) X X^T, float64.
      y: (n,) labels.
      start: (n,) coefficients to start from.
    """
    n = len(y)
    c = np.zeros(n) + start

    def value(c):
        f = gram @ c
        return np.mean(np.logaddexp(0, -y * f)) + penalty * (c @ f) / 2

    for _ in range(30):
        f = gram @ c
        gradient = penalty * c - y * expit(-y * f) / n  # before multiplication by the Gram matrix
        curvature = expit(f) * expit(-f) / n
        step = np.linalg.solve(curvature[:, None] * gram + penalty * np.eye(n), gradient)
        size = 1.0
        while value(c - size * step) > value(c) and size > 1e-4:
            size /= 2
        c = c - size * step
        if np.abs(gradient).max() < 1e-10:
            break
    return c


def best_error(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    """Test error of the best linear rule that n examples give; one half without examples.

    Args:
      x: (n, d) training examples.
      y: (n,) their labels, -1 or 1.
      x_test: (k, d) test examples.
      y_test: (k,) their labels.

    Raises:
      ConfigError: if there is no memory for so many examples.
    """
    if len(y) == 0:
        return 0.5
    x, x_test = np.asarray(x, np.float64), np.asarray(x_test, np.float64)
    taken = MATRICES * x.itemsize * len(x) ** 2
    memory.refuse_beyond(memory.free_on_host(), taken, "the linear rule of all examples")
    gram = x @ x.T
    rules = [np.zeros(len(y))]
    for penalty in PENALTIES[::-1]:  # from the strongest on, each from the one before
        rules.append(fit(gram, y, penalty, rules[-1]))
    outputs = x_test @ (x.T @ np.stack(rules[1:], axis=1))  # (k, penalties)
    wrong = ~(np.asarray(y_test)[:, None] * outputs > 0)
    return float(wrong.mean(axis=0).min())
