"""Figure 3: large against small initial rate on CIFAR-10 with a patch that can be memorized.

Purpose   Shows the learning order inverted on a real task: the small rate learns the patch (hard to
          fit, easy to generalize) early and neglects the images; the large rate does not see the
          patch before it is annealed, and learns more of the images. A third arm has the small rate
          and noise before the activations.
Variants  (none)   as published: WideResNet-16-10, 50,000 images of 32x32, 60 epochs. For a GPU.
          small    WideResNet-16-4 on 10,000 images averaged to 16x16, 6x6 patch, zeta 0.15: a
                   preset in which the effect shows on 2 CPU cores, about 40 minutes a seed.
          smoke    a toy network on the procedural stand-in: under a minute, no effect.
Expected  Of `small`, seeds 0 and 1, just before annealing: accuracy on patches alone 79 and 43 % at
          the small rate, 10 and 10 % at the large one; on clean images 41 and 46 % against 50 and
          54 %, at the end 42 and 42 % against 61 and 64 %. The published variant is not run yet.
Data      CIFAR-10 prepared by TFDS (see the README), or --config.dataset=procedural, a stand-in of
          textures on which nothing is claimed.
Command   python -m lr_order_jax.main --config=configs/patch_cifar.py:small
"""

import ml_collections
from ml_collections import config_dict

VARIANTS = ("", "small", "smoke")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/patch_cifar.py has no variant {variant!r}, use small or smoke")
    c = ml_collections.ConfigDict()
    c.problem = "patch_cifar"

    # Members. The arms are one axis: their fields are zipped.
    c.arm = ("large", "small", "noise")
    c.eta_init = (0.1, 0.004, 0.004)  # initial rates
    c.rate_factor = (0.04, 1.0, 1.0)  # of the rate when annealed; 1: fixed; unset: the schedule's
    c.noise_init = (0.0, 0.0, 0.4)  # initial level of the noise before activations
    c.noise_factor = (1.0, 1.0, 1e-5)  # of the level when annealed
    c.train_set = ("mixture",)  # or "clean_part", "all_clean": the paper's reference lines
    c.zipped = ("arm+eta_init+rate_factor+noise_init+noise_factor",)
    c.momentum = (0.9,)  # Nesterov
    c.lam = (5e-4,)  # weight decay, on all parameters
    c.tau_xi = (0.0,)  # deviation of Gaussian gradient noise
    c.num_seeds = 2  # stands for the seeds 0 and 1
    c.seeds = config_dict.placeholder(tuple)  # explicit seeds instead

    # Schedule.
    c.epochs = 60
    c.batch_size = 128  # at most the training set
    c.schedule = "early"  # at epoch 30; "default": at 60, 120 and 150; "custom": at anneal_epochs
    c.anneal_epochs = ()  # epochs, counted from 1, at whose start members are annealed

    # Data.
    c.dataset = "cifar10"  # or "procedural"
    c.data_dir = config_dict.placeholder(str)  # of TFDS; unset: the cache file, $TFDS_DATA_DIR
    c.num_train = 50_000  # the first so many training images
    c.num_test = 10_000  # the first so many test images
    c.num_train_eval = 10_000  # of the training images are evaluated at a record
    c.num_patch_eval = 1000  # patches alone are evaluated at a record
    c.record_examples = "no"  # "yes": which of the evaluated training images are right
    c.side = 32  # images are averaged down to so many pixels a side
    c.augmentation = "none"  # or "crop_flip"

    # Patch: z + sign zeta_class in the middle.
    c.clean_share = 0.2  # of the images never have a patch
    c.alone_share = 0.2  # of the others are a patch alone
    c.patch_side = 7  # pixels
    c.zeta_scale = 0.1  # zeta ~ U(-zeta_scale, zeta_scale) in normalised units
    c.partition = "access"  # image or patch alone, sign, alpha: at each access; "fixed": for good
    c.patch_mode = "overwrite"  # or "add" to the image
    c.alpha_on = "zeta"  # of patches alone; "patch": alpha scales every whole patch

    # Network.
    c.depth = 16
    c.widen_factor = 10
    c.noise_shared = ("batch", "channel")  # axes along which the activation noise is one draw
    c.compute_dtype = "float32"  # or "bfloat16", with float32 parameters and statistics

    c.num_records = config_dict.placeholder(int)  # points of the time grid; unset: one an epoch

    # How it is computed: free to change on resume.
    c.driving = config_dict.placeholder(str)  # "scan" or "dispatch"; unset: as measured fastest
    c.mapping = config_dict.placeholder(str)  # "vmap", "map", "unroll" or "loop"; unset: likewise
    c.devices = config_dict.placeholder(int)  # how many of this machine's; unset: all
    c.shard = config_dict.placeholder(str)  # "i/n": the i-th of n parts of the grid, see the README
    c.distributed = False  # joins the other processes of a cluster, see the README
    c.group_size = config_dict.placeholder(int)  # columns at once, at most; unset: as many as fit
    c.checkpoint_every = 300.0  # seconds
    c.keep_at = (0.0, 29.0, 60.0)  # the checkpoints after so many epochs are kept for good
    c.profile = False  # a JAX profiler trace of one chunk, in DIR/profile

    if variant == "small":
        c.widen_factor = 4
        c.side, c.patch_side, c.zeta_scale = 16, 6, 0.15
        c.num_train, c.num_test, c.batch_size = 10_000, 1000, 64
        c.num_train_eval = 1000
        c.schedule, c.anneal_epochs, c.epochs = "custom", (8,), 12
        c.keep_at = (0.0, 7.0, 12.0)
    if variant == "smoke":
        c.dataset = "procedural"
        c.depth, c.widen_factor = 10, 1
        c.side, c.patch_side = 8, 4
        c.num_train, c.num_test, c.batch_size = 150, 100, 32
        c.num_train_eval = c.num_patch_eval = 100
        c.schedule, c.anneal_epochs, c.epochs = "custom", (2,), 3
        c.mapping = "loop"  # one member's program compiles sooner than that of all
        c.checkpoint_every, c.keep_at = 20.0, ()
    return c
