"""The changing kernel of an infinitely wide block of relu units, and sums that remember it cheaply.

A unit is active by its noise part alone (section 3: the signal is far smaller). Two of its
activations, at times s <= t on inputs a and b, agree by the correlation rho(t, s) of its noise part
at the two times and the angle between the inputs. In the limit of infinite width a gradient step on
a at s moves the output on b at t by

    k(a, b) = <a, b> (1/2 - arccos(rho c) / (2 pi)) = <a, b> (1/4 + arcsin(rho c) / (2 pi)),

c = cos angle(a, b). Now rho(t, s) = exp(-(sigma_t - sigma_s)) for a clock sigma of the noise, and
arcsin(c e^-u) is a sum of decaying exponentials in u, exactly the power series

    arcsin(c e^-u) = sum_j a_j c^(2j+1) e^-((2j+1) u).

So the sum over all past steps needs no history: one running sum an exponential. The series is short
for small c; where c is near 1 (an input with itself, the three directions of Q) a fit by few
exponentials of geometrically spaced rates takes its place.
"""

import functools

import numpy as np
from scipy.optimize import nnls

FIT_RATES = np.geomspace(1.0, 1e6, 40)
"""Decay rates of the fit: `exponential_weights` is then within 3e-6 for c <= 0.995, and for c = 1
within 7e-5 beyond u = 1e-6 and 3e-4 below it (arcsin has a root there)."""


def arcsine_series(count: int) -> np.ndarray:
    """The first coefficients a_j of arcsin(x) = sum_j a_j x^(2j+1), (count,) float64.

    Examples:
        >>> print(arcsine_series(3) * [1, 6, 40])  # x + x^3/6 + 3 x^5/40 + ...
        [1. 1. 3.]
    """
    coefficients = np.ones(count)
    for j in range(1, count):
        coefficients[j] = coefficients[j - 1] * (2 * j - 1) ** 2 / (2 * j * (2 * j + 1))
    return coefficients


def series_length(cosine: float, tolerance: float = 1e-7, most: int = 40) -> int:
    """Terms after which the series at |c| <= cosine leaves less than the tolerance; at most `most`.

    At `most` terms it may leave more: for c = 0.9, 2e-6.
    """
    coefficients = arcsine_series(most + 1)
    for count in range(1, most):
        rest = coefficients[count] * cosine ** (2 * count + 1) / (1 - min(cosine**2, 0.999))
        if rest < tolerance:
            return count
    return most


@functools.cache
def exponential_weights(cosine: float) -> np.ndarray:
    """Weights w >= 0 with arcsin(c e^-u) close to sum_k w_k e^-(FIT_RATES[k] u) for u >= 0.

    Args:
      cosine: c in [0, 1].
    """
    u = np.concatenate([[0.0], np.geomspace(1e-8, 40.0, 600)])
    weights, _ = nnls(np.exp(-np.outer(u, FIT_RATES)), np.arcsin(cosine * np.exp(-u)), maxiter=4000)
    return weights
