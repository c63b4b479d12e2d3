"""The mitigation of F.1: noise before the activations in place of the large rate.

Purpose   Three arms: L-S; S; and S with Gaussian noise before the activations, which is annealed
          when L-S anneals its rate. With the noise the small rate does not learn Q (its second
          difference stays small) until the noise is annealed.
Variants  (none)   the network of configs/sweep.py, one fresh perturbation of the weights a step
          limit    infinite width
          smoke    seconds, no effect
Expected  See the README.
Command   python -m lr_order_jax.main --config=configs/mitigation.py:limit
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
        raise ValueError(
            f"configs/mitigation.py has no variant {variant!r}, use limit, smoke or none"
        )
    base = LIMIT if variant == "limit" else NET
    c = base["get_config"]("smoke" if variant == "smoke" else "")
    large, small = max(c.eta_init), c.eta_2[0]
    c.eta_init = (large, small, small)
    c.noise_init = (0.0, 0.0, 1.0)
    c.noise_factor = (0.0, 0.0, 0.01)
    c.zipped = ("eta_init+noise_init+noise_factor",)
    if variant == "limit":
        c.flow_step = 0.05
        c.num_seeds = 8
    return c
