"""The other structures of appendix F: units that see both blocks, and a two-layer convolution.

Purpose   Whether the learning order is inverted there as it is where each unit sees one block.
Variants  coupled       f = u^T relu(W x1 + V x2)
          convolution   f = u^T relu(U x1) + u^T relu(U x2); one tau0 has to serve both patterns,
                        and zeta is longer
          smoke         a coupled net, seconds, no effect
Expected  See the README.
Command   python -m lr_order_jax.main --config=configs/structures.py:coupled
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sweep.py")))
VARIANTS = ("coupled", "convolution", "smoke")


def get_config(variant: str = "coupled") -> ml_collections.ConfigDict:
    """The fields of configs/sweep.py."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/structures.py has no variant {variant!r}, use {', '.join(VARIANTS)}"
        )
    c = BASE["get_config"]("smoke" if variant == "smoke" else "")
    c.structure = "convolution" if variant == "convolution" else "coupled"
    c.probes = ("decomposition",)
    if variant == "smoke":
        c.m_w = c.m_v
        return c
    c.eta_init, c.eta_2 = (0.2, 0.0125), (0.0125,)
    c.d = c.n = (100,)
    c.m_w = c.m_v = (2_000,)
    c.num_seeds = 4
    if variant == "convolution":
        c.v_representation = "ambient"
        c.tau0_w = c.tau0_v = (0.3,)
        c.r, c.lam = (0.3,), (4e-3,)
    return c
