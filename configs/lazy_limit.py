"""The sweep of configs/sweep.py in the limit of infinite width.

Purpose   The learning order and the errors without what a finite width blurs: the outputs follow a
          memory equation in closed form (see problems/lazy_limit.py). Finite nets approach it as
          their width grows.
Expected  Means over seeds 0..4, least rate against largest: second difference at flow time 40 -0.63
          against -0.17, which grows to -0.80 by the end; final P-only error 1.71 % against 1.25 %,
          paired difference 0.46 +- 0.06 points.
Time      2.5 minutes on 2 cores (30 members, 32,000 steps of the smallest rate).
Command   python -m lr_order_jax.main --config=configs/lazy_limit.py
          python -m lr_order_jax.main --config=configs/lazy_limit.py:smoke   (seconds, no effect)
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sweep.py")))
VARIANTS = BASE["VARIANTS"]
OF_A_NETWORK = (
    *("m_w", "m_v", "tau0_w", "tau0_v", "u_law", "v_representation"),
    *("noise_law", "noise_in", "probes"),
)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The fields of configs/sweep.py less those of a finite network; tau_xi is in units of tau0."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/lazy_limit.py has no variant {variant!r}, use 'smoke' or none")
    c = BASE["get_config"](variant)
    c.problem = "lazy_limit"
    for name in OF_A_NETWORK:
        del c[name]
    c.flow_step = 0.0  # flow time that one step may take; 0: the steps of the algorithm
    return c
