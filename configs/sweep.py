"""The main job: initial learning rates from eta_2 to eta_1 on the paper's synthetic distribution.

Purpose   Shows the learning order inverted (Theorems 3.4 and 3.5 as trends): with the largest
          initial rate the net learns P first and Q (the second difference) only after annealing;
          with the smallest, which is Algorithm 2, it learns Q at once and ends with a larger error
          on P-only examples.
Expected  Means over seeds 0..4, least rate against largest: second difference at flow time 40 -0.62
          against -0.19, which grows to -0.80 by the end; final P-only error 3.04 % against 2.34 %,
          paired difference 0.70 +- 0.04 points.
Time      3.5 minutes on 2 cores (30 members, 32,000 steps of the smallest rate).
Command   python -m lr_order_jax.main --config=configs/sweep.py
          python -m lr_order_jax.main --config=configs/sweep.py:smoke   (seconds, no effect)
"""

import ml_collections
from ml_collections import config_dict

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/sweep.py has no variant {variant!r}, use 'smoke' or none")
    c = ml_collections.ConfigDict()
    c.problem = "two_layer"

    # Schedule. Tuples are swept: each field with several values is an axis of the grid.
    c.eta_init = (0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625)  # initial rates; eta_2: Algorithm 2
    c.eta_2 = (0.00625,)  # rate after annealing: eta_1 / 32
    c.eta_1 = config_dict.placeholder(float)  # of Assumption 3.1; unset: the largest eta_init
    c.flow_time_1 = 100.0  # anneal by this flow time (sum of rates) at the latest
    c.flow_time_2 = 100.0  # run so long after annealing
    c.anneal_step = config_dict.placeholder(tuple)  # anneal at this step at the latest; unset: no
    c.epsilon_1 = (-1.0,)  # anneal below epsilon_1 + q log 2; negative: no loss threshold
    c.epsilon_2 = (0.0,)  # stop at this training loss; 0: no stop
    c.lam = (1e-3,)  # weight decay lambda
    c.tau_xi = config_dict.placeholder(tuple)  # noise deviation; unset: Assumption 3.1, by block
    c.noise_scale = (1.0,)  # multiplies tau_xi
    c.noise_init = (0.0,)  # Gaussian noise before the activations, relative to tau0 (F.1)
    c.noise_factor = (0.0,)  # times this once annealed

    # Distribution (section 2). Several values of these and of the network's sizes are several
    # programs, one after the other.
    c.d = (200,)  # dimensions of each block
    c.n = (200,)  # training examples N
    c.p0 = (0.1,)  # probability of P-only examples
    c.q0 = (0.2,)  # probability of Q-only examples
    c.r = (0.1,)  # |zeta|
    c.gamma0 = config_dict.placeholder(tuple)  # margin of P; unset: 1/sqrt(d)
    c.q_scale = (14.0,)  # A: alpha ~ U[0, A]

    # Network: U = [W; V], planar V (exact in distribution, see models/two_layer.py).
    c.structure = "separate"  # each block by its own units; "coupled", "convolution": appendix F
    c.m_w = (48,)  # width of W
    c.m_v = (20_000,)  # width of V
    c.tau0_w = (0.05,)  # deviation of W's initial entries
    c.tau0_v = (3.0,)  # deviation of V's initial entries
    c.u_law = "sign"  # second layer: +-1/sqrt(m); or "gaussian"
    c.v_representation = "planar"  # or "ambient": V in all d dimensions
    c.noise_law = "weights"  # noise before activations: "weights": fresh by weight; "units"
    c.noise_in = "pattern"  # it decides which units are active; "both": it enters the output too
    c.probes = ()  # of "decomposition", "lemma_5_2", "lemma_5_3": see problems/probes.py

    # Members and measurements.
    c.num_seeds = 5  # stands for the seeds 0..4
    c.seeds = config_dict.placeholder(tuple)  # explicit seeds instead
    c.zipped = ()  # "eta_init+noise_scale": these fields are one axis, not two
    c.num_test = 20_000  # test examples of each group
    c.num_records = 100  # points of the flow-time grid after 0

    # How it is computed: free to change on resume.
    c.driving = config_dict.placeholder(str)  # "scan" or "dispatch"; unset: as measured fastest
    c.mapping = config_dict.placeholder(str)  # "vmap", "map", "unroll" or "loop"; unset: likewise
    c.devices = config_dict.placeholder(int)  # how many of this machine's; unset: all
    c.shard = config_dict.placeholder(str)  # "i/n": the i-th of n parts of the grid, see the README
    c.distributed = False  # joins the other processes of a cluster, see the README
    c.group_size = config_dict.placeholder(int)  # columns at once, at most; unset: as many as fit
    c.checkpoint_every = 20.0  # seconds
    c.keep_at = ()  # flow times whose checkpoints are kept for good
    c.profile = False  # a JAX profiler trace of one chunk, in DIR/profile

    if variant == "smoke":
        c.eta_init = (0.2, 0.05)
        c.eta_2 = (0.05,)
        c.flow_time_1 = c.flow_time_2 = 5.0
        c.d = c.n = (20,)
        c.m_w, c.m_v = (8,), (64,)
        c.num_seeds = 2
        c.num_test = 200
        c.num_records = 10
    return c
