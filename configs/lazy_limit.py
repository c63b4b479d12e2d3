"""The sweep of configs/sweep.py in the limit of infinite width.

Purpose   The learning order and the errors without what a finite width blurs: the outputs follow a
          memory equation in closed form (see problems/lazy_limit.py). Finite nets approach it as
          their width grows.
Expected  Means over seeds 0..4, least rate against largest: second difference at flow time 40 -0.63
          against -0.17, which grows to -0.80 by the end; final P-only error 1.71 % against 1.25 %,
          paired difference 0.46 +- 0.06 points.
Variants  (none)   the rates of configs/sweep.py, each step as the algorithm takes it
          A10      both algorithms with eta_1/eta_2 = 64 over flow times 200 + 200, alpha up to 10;
                   steps of up to 0.05 of flow time (for S 32 steps of the algorithm) at once
          A20      the same, alpha up to 20
          A20_fast the same as A20, five times the rates: eta_1 = 0.25 is beyond 2/curvature of the
                   common mode of Q, which oscillates until it is annealed
          smoke    seconds, no effect
Time      2 minutes on 2 cores (30 members, 32,000 steps of the smallest rate); the others half one
Command   python -m lr_order_jax.main --config=configs/lazy_limit.py
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sweep.py")))
# alpha up to, eta_1
LONG = {"A10": (10.0, 0.1), "A20": (20.0, 0.05), "A20_fast": (20.0, 0.25)}
VARIANTS = ("", *LONG, "smoke")
OF_A_NETWORK = (
    *("m_w", "m_v", "tau0_w", "tau0_v", "u_law", "v_representation"),
    *("structure", "noise_law", "noise_in", "probes"),
)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The fields of configs/sweep.py less those of a finite network; tau_xi is in units of tau0."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/lazy_limit.py has no variant {variant!r}, use {', '.join(LONG)} or smoke"
        )
    c = BASE["get_config"]("smoke" if variant == "smoke" else "")
    c.problem = "lazy_limit"
    for name in OF_A_NETWORK:
        del c[name]
    c.flow_step = 0.0  # flow time that one step may take; 0: the steps of the algorithm
    if variant in LONG:
        scale, large = LONG[variant]
        c.q_scale = (scale,)
        c.eta_init, c.eta_2 = (large, large / 64), (large / 64,)
        c.flow_time_1 = c.flow_time_2 = 200.0
        c.flow_step = 0.05
        c.num_seeds, c.num_records = 8, 40
    return c
