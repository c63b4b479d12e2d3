"""Both algorithms with every probe: what the lemmas of sections 4 and 5 speak of, along a run.

Purpose   Signal and noise parts of the weights (3.4), the activations on which they differ, and
          each lemma's quantity beside the scale that it predicts.
Variants  (none)   the problem of configs/sweep.py
          by_loss  annealed by the loss, so that the time of Lemma 4.1 is measured; q0 = 0.6, since
                   the losses of Lemmas 4.3 and 4.4 are below log 2, that of a network which has
                   learned nothing, only for epsilon_1 < q^3 log^2 2
          smoke    seconds, no effect
Expected  See the README. The lemmas speak of orders of magnitude, and of a setting that no computer
          can hold (see the audit that is printed before the run).
Time      3 minutes on 2 cores (10 members, 32,000 steps of the smallest rate)
Command   python -m lr_order_jax.main --config=configs/lemmas.py --workdir=DIR
          python -m analysis.lemmas DIR     (the table)
          python -m analysis.figure2 DIR    (the network around the circle in the plane of Q)
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sweep.py")))
VARIANTS = ("", "by_loss", "smoke")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The fields of configs/sweep.py."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/lemmas.py has no variant {variant!r}, use by_loss, smoke or none"
        )
    c = BASE["get_config"]("smoke" if variant == "smoke" else "")
    c.probes = ("decomposition", "lemma_5_2", "lemma_5_3")
    if variant != "smoke":
        c.eta_init = (0.2, 0.00625)
        c.num_test = 2000
    if variant == "by_loss":
        c.q0, c.epsilon_1 = (0.6,), (0.1,)
    if not variant:
        c.keep_at = (3.0, 40.0)  # of S; L-S is then at 96, before it is annealed, and at 137
    return c
