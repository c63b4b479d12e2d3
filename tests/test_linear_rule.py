"""The best linear rule against SciPy's optimum and where the answer is known."""

import numpy as np
import pytest
from scipy.optimize import minimize

from lr_order_jax.problems import linear_rule


def examples(n, d, seed, margin=0.1):
    """x = y (|component| + margin) along the first axis, as P."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1.0, 1.0], n)
    x = rng.normal(size=(n, d)) / np.sqrt(d)
    x[:, 0] = y * (np.abs(x[:, 0]) + margin)
    return x, y


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
@pytest.mark.parametrize("n", [8, 30])
def test_the_fit_is_the_minimum(n, penalty):
    x, y = examples(n, 10, 0)

    def objective(w):
        return np.mean(np.logaddexp(0, -y * (x @ w))) + penalty * w @ w / 2

    wanted = minimize(objective, np.zeros(10), method="BFGS", options={"gtol": 1e-9}).x
    w = x.T @ linear_rule.fit(x @ x.T, y, penalty)
    np.testing.assert_allclose(w, wanted, atol=1e-5)
    assert objective(w) <= objective(wanted) + 1e-12


def test_a_strong_penalty_is_the_mean_rule():
    x, y = examples(20, 10, 1)
    w = x.T @ linear_rule.fit(x @ x.T, y, 1e4)
    cosine = w @ (y @ x) / np.linalg.norm(w) / np.linalg.norm(y @ x)
    assert cosine > 0.9999


def test_more_examples_make_a_better_rule():
    x_test, y_test = examples(4000, 20, 2)
    few, many = (
        linear_rule.best_error(*(a[:n] for a in examples(160, 20, 3)), x_test, y_test)
        for n in (10, 160)
    )
    assert many < 0.5 * few < 0.25
    assert linear_rule.best_error(x_test[:0], y_test[:0], x_test, y_test) == 0.5
