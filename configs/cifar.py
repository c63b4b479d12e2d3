"""Figure 1 and the table of H.1: initial rates on plain CIFAR-10, with and without noise.

Purpose   A large initial rate generalizes better once it is annealed, although the small rate fits
          faster (Figure 1). Noise before the activations, annealed with the rate, makes up for part
          of the difference (table of H.1: the paper reports +4.72 points for the small rate).
Variants  (none)   WideResNet-16-10 without augmentation, 200 epochs, annealed at 60, 120 and 150.
                   For a GPU.
          small    WideResNet-16-2 on 10,000 images averaged to 16x16, 20 epochs: for 2 CPU cores.
          smoke    a toy network on the procedural stand-in: under a minute, no effect.
Expected  Neither `small` nor the published variant has been run to the end yet.
Data      As for configs/patch_cifar.py.
Command   python -m lr_order_jax.main --config=configs/cifar.py:small
"""

import ml_collections
from ml_collections import config_dict

VARIANTS = ("", "small", "smoke")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/cifar.py has no variant {variant!r}, use small or smoke")
    c = ml_collections.ConfigDict()
    c.problem = "patch_cifar"

    # Members. The arms are one axis: their fields are zipped.
    c.arm = ("large", "small", "noise")
    c.eta_init = (0.1, 0.01, 0.01)  # initial rates
    c.rate_factor = (0.2, 0.2, 0.2)  # of the rate each time it is annealed
    c.noise_init = (0.0, 0.0, 0.4)  # initial level of the noise before activations
    c.noise_factor = (1.0, 1.0, 0.2)  # of the level each time it is annealed
    c.train_set = ("mixture",)
    c.zipped = ("arm+eta_init+rate_factor+noise_init+noise_factor",)
    c.momentum = (0.9,)  # Nesterov
    c.lam = (5e-4,)  # weight decay, on all parameters
    c.tau_xi = (0.0,)  # deviation of Gaussian gradient noise
    c.num_seeds = 2  # stands for the seeds 0 and 1
    c.seeds = config_dict.placeholder(tuple)  # explicit seeds instead

    # Schedule.
    c.epochs = 200
    c.batch_size = 128  # at most the training set
    c.schedule = "default"  # at 60, 120 and 150; "early": at epoch 30; "custom": at anneal_epochs
    c.anneal_epochs = ()  # epochs, counted from 1, at whose start members are annealed

    # Data. No image has a patch: only clean accuracies are measured.
    c.dataset = "cifar10"  # or "procedural"
    c.data_dir = config_dict.placeholder(str)  # of TFDS; unset: the cache file, $TFDS_DATA_DIR
    c.num_train = 50_000  # the first so many training images
    c.num_test = 10_000  # the first so many test images
    c.num_train_eval = 10_000  # of the training images are evaluated at a record
    c.num_patch_eval = 1000  # patches alone are evaluated at a record
    c.record_examples = "no"  # "yes": which of the evaluated training images are right
    c.side = 32  # images are averaged down to so many pixels a side
    c.augmentation = "none"  # or "crop_flip"
    c.clean_share = 1.0
    c.alone_share = 0.0
    c.patch_side = 7
    c.zeta_scale = 0.0
    c.partition = "access"
    c.patch_mode = "overwrite"
    c.alpha_on = "zeta"

    # Network.
    c.depth = 16
    c.widen_factor = 10
    c.noise_shared = ("batch", "channel")  # axes along which the activation noise is one draw
    c.compute_dtype = "float32"  # or "bfloat16", with float32 parameters and statistics

    c.num_records = c.get_ref("epochs")  # points of the time grid after 0: one an epoch

    # How it is computed: free to change on resume.
    c.driving = config_dict.placeholder(str)  # "scan" or "dispatch"; unset: as measured fastest
    c.mapping = config_dict.placeholder(str)  # "vmap", "map", "unroll" or "loop"; unset: likewise
    c.checkpoint_every = 300.0  # seconds
    c.keep_at = (
        0.0,
        59.0,
        119.0,
        149.0,
        200.0,
    )  # the checkpoints after so many epochs are kept for good

    if variant == "small":
        c.widen_factor = 2
        c.side = 16
        c.num_train, c.num_test, c.batch_size = 10_000, 1000, 64
        c.num_train_eval = 1000
        c.schedule, c.anneal_epochs, c.epochs = "custom", (12, 16, 18), 20
        c.keep_at = (0.0, 11.0, 20.0)
    if variant == "smoke":
        c.dataset = "procedural"
        c.depth, c.widen_factor, c.side = 10, 1, 8
        c.num_train, c.num_test, c.batch_size = 150, 100, 32
        c.num_train_eval = c.num_patch_eval = 100
        c.schedule, c.anneal_epochs, c.epochs = "custom", (2, 3), 3
        c.mapping = "loop"  # one member's program compiles sooner than that of all
        c.checkpoint_every, c.keep_at = 20.0, ()
    return c
