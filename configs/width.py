"""Finite networks against the limit of infinite width, as the width of V grows.

Purpose   The gap max over t of |D_net - D_limit|, D the second difference, falls with m_v; |D| of
          a network saturates near r^2 tau0 sqrt(m_v)/pi, since a unit no longer tells z from
          z +- zeta once its signal exceeds r tau0. The variant `limit` is the limit itself.
Variants  (none)   networks of four widths
          limit    infinite width, same seeds and records
          smoke    seconds, no effect; its limit is configs/lazy_limit.py:smoke
Expected  See the README.
Command   python -m lr_order_jax.main --config=configs/width.py --workdir=NETS
          python -m lr_order_jax.main --config=configs/width.py:limit --workdir=LIMIT
          python -m analysis.limit_gap NETS LIMIT
"""

import pathlib
import runpy

import ml_collections

NET = runpy.run_path(str(pathlib.Path(__file__).with_name("sweep.py")))
LIMIT = runpy.run_path(str(pathlib.Path(__file__).with_name("lazy_limit.py")))
VARIANTS = ("", "limit", "smoke")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The fields of configs/sweep.py, or for `limit` those of configs/lazy_limit.py."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/width.py has no variant {variant!r}, use limit, smoke or none")
    base = LIMIT if variant == "limit" else NET
    c = base["get_config"]("smoke" if variant == "smoke" else "")
    if variant == "smoke":
        c.m_v = (32, 64)
        return c
    c.eta_init, c.eta_2 = (0.2, 0.0125), (0.0125,)
    c.num_seeds = 8
    c.num_test = 200  # errors are not what this measures
    if not variant:
        c.m_v = (500, 2_000, 8_000, 32_000)
        c.m_w = (100,)
    return c
