"""Figure 1 and the table of H.1: initial rates on plain CIFAR-10, with and without noise.

Purpose   A large initial rate generalizes better once it is annealed, although the small rate fits
          faster (Figure 1). Noise before the activations, annealed with the rate, makes up for part
          of the difference (table of H.1: the paper reports +4.72 points for the small rate).
Variants  (none)   WideResNet-16-10 without augmentation, 200 epochs, annealed at 60, 120 and 150.
                   For a GPU.
          small    WideResNet-16-2 on 10,000 images averaged to 16x16, 20 epochs: for 2 CPU cores.
          smoke    a toy network on the procedural stand-in: under a minute, no effect.
Expected  `small`, seeds 0 and 1: clean accuracy at the end 64.0 % (large), 55.6 % (small), 62.5 %
          (small with noise). The published variant has not been run to the end.
Time      `small`: 40 minutes on 2 cores, both seeds.
Data      As for configs/patch_cifar.py.
Command   python -m lr_order_jax.main --config=configs/cifar.py:small
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("patch_cifar.py")))
VARIANTS = BASE["VARIANTS"]


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The fields of configs/patch_cifar.py, where they are documented, with no patch."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/cifar.py has no variant {variant!r}, use small or smoke")
    c = BASE["get_config"](variant)
    c.eta_init = (0.1, 0.01, 0.01)
    c.rate_factor = (0.2, 0.2, 0.2)  # of the rate each time it is annealed
    c.noise_factor = (1.0, 1.0, 0.2)  # of the level each time it is annealed
    # No image has a patch: only clean accuracies are measured.
    c.clean_share, c.alone_share, c.patch_side, c.zeta_scale = 1.0, 0.0, 7, 0.0

    if not variant:
        c.schedule, c.epochs = "default", 200  # annealed at epochs 60, 120 and 150
        c.keep_at = (0.0, 59.0, 119.0, 149.0, 200.0)
    if variant == "small":
        c.widen_factor = 2
        c.anneal_epochs, c.epochs = (12, 16, 18), 20
        c.keep_at = (0.0, 11.0, 20.0)
    if variant == "smoke":
        c.anneal_epochs = (2, 3)
    return c
