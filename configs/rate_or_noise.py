"""Is it the rate or the noise? The learning order over initial rate x gradient noise.

Purpose   Each initial rate with 0 to 2 times the noise of Assumption 3.1 at eta_1. Without noise
          nothing is forgotten at any rate; the map shows where Q waits for annealing.
Variants  (none)   at infinite width
          smoke    seconds, no effect
Expected  See the README.
Command   python -m lr_order_jax.main --config=configs/rate_or_noise.py
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("lazy_limit.py")))
VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The fields of configs/lazy_limit.py."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/rate_or_noise.py has no variant {variant!r}, use smoke or none")
    c = BASE["get_config"](variant)
    c.noise_scale = (0.0, 1.0)
    if not variant:
        c.noise_scale = (0.0, 0.25, 0.5, 1.0, 2.0)
        c.flow_step = 0.05
        c.num_records = 20
    return c
