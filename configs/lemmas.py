"""Both algorithms with every probe: what the lemmas of sections 4 and 5 speak of, along a run.

Purpose   Signal and noise parts of the weights (3.4), the activations on which they differ, and
          each lemma's quantity beside the scale that it predicts.
Variants  (none)   the problem of configs/sweep.py
          smoke    seconds, no effect
Expected  See the README. The lemmas speak of orders of magnitude, and of a setting that no computer
          can hold (see the audit that is printed before the run).
Command   python -m lr_order_jax.main --config=configs/lemmas.py --workdir=DIR
          python -m analysis.lemmas DIR     (the table)
          python -m analysis.figure2 DIR    (the network around the circle in the plane of Q)
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sweep.py")))
VARIANTS = BASE["VARIANTS"]


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The fields of configs/sweep.py."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/lemmas.py has no variant {variant!r}, use smoke or none")
    c = BASE["get_config"](variant)
    c.probes = ("decomposition", "lemma_5_2", "lemma_5_3")
    if not variant:
        c.eta_init = (0.2, 0.00625)
        c.num_test = 2000
        c.keep_at = (3.0, 40.0)  # of S; L-S is then at 96, before it is annealed, and at 137
    return c
