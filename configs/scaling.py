"""The error on P-only examples against d, kappa, p, A, eta_1/eta_2 and r, at infinite width.

Purpose   Theorems 3.4 and 3.5 as trends: O(p kappa) for L-S against Omega(p) for S, that is, on
          P-only examples, O(kappa) against Omega(1); beside the best linear rules that the pN
          P-only examples, and all (1 - q)N examples with P, would give.
Variants  d        dimensions, N = d: kappa = 1 and all else fixed
          kappa    N = d/kappa^2 with p0 = kappa^2/2 (Assumption 3.3)
          p        the share p0 of P-only examples, kappa = 1 and all else fixed
          A        the scale of Q
          ratio    eta_1/eta_2, at one eta_1
          r        |zeta|
          smoke    seconds, no effect
Expected  See the README.
Command   python -m lr_order_jax.main --config=configs/scaling.py:kappa
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("lazy_limit.py")))
VARIANTS = ("d", "kappa", "p", "A", "ratio", "r", "smoke")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The fields of configs/lazy_limit.py; several values of a field of the distribution are
    several programs (`lr_order_jax/study.py`)."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/scaling.py needs a variant, one of {', '.join(VARIANTS)}")
    c = BASE["get_config"]("smoke" if variant == "smoke" else "")
    if variant == "smoke":
        c.d, c.n = (10, 20), (10, 20)
        c.zipped = ("d+n",)
        return c
    c.q_scale = (20.0,)
    c.eta_init, c.eta_2 = (0.1, 0.00625), (0.00625,)
    c.flow_step = 0.05
    c.num_seeds = 8
    c.num_records = 20
    if variant == "d":
        c.d, c.n = (50, 100, 200, 400), (50, 100, 200, 400)
        c.zipped = ("d+n",)
    if variant == "kappa":
        c.d = (100,)
        c.n = (100, 140, 200, 280)  # beyond, errors are too small to be counted
        c.p0 = tuple(100 / n / 2 for n in c.n)  # kappa^2/2
        c.zipped = ("n+p0",)
    if variant == "p":
        c.p0 = (0.05, 0.1, 0.2, 0.4)
    if variant == "A":
        c.q_scale = (5.0, 10.0, 20.0, 40.0)
        c.eta_init, c.eta_2 = (0.025, 0.0015625), (0.0015625,)
        c.flow_step = 0.0125  # A = 40 is stable at these
    if variant == "ratio":
        c.eta_init = (0.1, 0.1, 0.1, 0.1, 0.05, 0.025, 0.00625, 0.0015625)
        c.eta_2 = (0.05, 0.025, 0.00625, 0.0015625, 0.05, 0.025, 0.00625, 0.0015625)
        c.zipped = ("eta_init+eta_2",)
    if variant == "r":
        c.r = (0.05, 0.1, 0.2, 0.4)
    return c
