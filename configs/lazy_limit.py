"""The sweep of configs/sweep.py in the limit of infinite width.

Purpose   The learning order and the errors without what a finite width blurs: the outputs follow a
          memory equation in closed form (see problems/lazy_limit.py). Finite nets approach it as
          their width grows.
Expected  Means over seeds 0..4, least rate against largest: second difference at flow time 40 -0.63
          against -0.17, which grows to -0.80 by the end; final P-only error 1.71 % against 1.25 %,
          paired difference 0.46 +- 0.06 points.
Time      2.5 minutes on 2 cores (30 members, 32,000 steps of the smallest rate).
Command   python -m lr_order_jax.main --config=configs/lazy_limit.py
          python -m lr_order_jax.main --config=configs/lazy_limit.py:smoke   (seconds, no effect)
"""

import ml_collections
from ml_collections import config_dict

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/lazy_limit.py has no variant {variant!r}, use 'smoke' or none")
    c = ml_collections.ConfigDict()
    c.problem = "lazy_limit"

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

    # Distribution (section 2).
    c.d = 200  # dimensions of each block
    c.n = 200  # training examples N
    c.p0 = 0.1  # probability of P-only examples
    c.q0 = 0.2  # probability of Q-only examples
    c.r = 0.1  # |zeta|
    c.gamma0 = config_dict.placeholder(float)  # margin of P; unset: 1/sqrt(d)
    c.q_scale = 14.0  # A: alpha ~ U[0, A]

    # Members and measurements.
    c.num_seeds = 5  # stands for the seeds 0..4
    c.seeds = config_dict.placeholder(tuple)  # explicit seeds instead
    c.zipped = ()  # "eta_init+noise_scale": these fields are one axis, not two
    c.num_test = 20_000  # test examples of each group
    c.num_records = 100  # points of the flow-time grid after 0

    # How it is computed: free to change on resume.
    c.driving = config_dict.placeholder(str)  # "scan" or "dispatch"; unset: as measured fastest
    c.mapping = config_dict.placeholder(str)  # "vmap", "map", "unroll" or "loop"; unset: likewise
    c.checkpoint_every = 20.0  # seconds
    c.keep_at = ()  # flow times whose checkpoints are kept for good

    if variant == "smoke":
        c.eta_init = (0.2, 0.05)
        c.eta_2 = (0.05,)
        c.flow_time_1 = c.flow_time_2 = 5.0
        c.d = c.n = 20
        c.num_seeds = 2
        c.num_test = 200
        c.num_records = 10
    return c
