"""A problem without signal: its loss is `level` whatever the weights, so only decay and noise act.

The weights then follow the noise part of (3.4) alone, which is known exactly.
"""

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lr_order_jax import fields
from lr_order_jax.algorithm import NEVER, Hypers
from lr_order_jax.problem import Model, Variable, Ways

SIZE = 2000


@dataclasses.dataclass(frozen=True)
class Section:
    eta: tuple[float, ...] = fields.positive(many=True)
    lam: tuple[float, ...] = fields.non_negative(many=True)
    free: tuple[float, ...] | None = fields.positive(many=True, optional=True)


@dataclasses.dataclass(frozen=True)
class Toy:
    fields: Any
    tau_0: float = 1.0
    tau_xi: float = 1.0
    level: float = 1.0  # the loss
    traces: Any = dataclasses.field(default_factory=lambda: types.SimpleNamespace(count=0))

    clock = "flow_time"
    ways = {"cpu": Ways("scan", "vmap")}  # noqa: RUF012
    variables = {"mean": Variable("mean weight")}  # noqa: RUF012
    batch_sizes = (1,)
    num_evaluation_batches = 1
    table, figures, study_figures = "none", (), ()

    def horizon(self):
        return 1.0

    def time_per_step(self, hypers):
        return hypers.rates

    def load(self):
        return ()

    def make_data(self, key, shared):
        return jnp.float32(0)

    def init(self, key):
        keys = jax.random.split(key)
        params = {
            "a": self.tau_0 * jax.random.normal(keys[0], (SIZE,)),
            "b": self.tau_0 * jax.random.normal(keys[1], (SIZE,)),
        }
        return Model(params, {})

    def hypers(self, values, data):
        return Hypers(
            rates=np.array([values["eta"]] * 2),
            phase_steps=np.array([0, NEVER]),
            loss_thresholds=np.full(2, -np.inf),
            weight_decay=np.float64(values["lam"]),
            tau_xi=None if self.tau_xi is None else np.float64(self.tau_xi),
        )

    def batch(self, data, task, key, step, size):
        return data.own

    def loss(self, params, stats, batch, noise_level, key):
        self.traces.count += 1  # counts tracings, not calls
        return self.level + 0.0 * jnp.sum(params["a"]), stats

    def evaluate(self, data, task, model, index):
        return jnp.float32(0)

    def summarize(self, data, task, model, sums):
        return {"mean": jnp.mean(model.params["a"])}


def make(eta=(0.1,), lam=(0.1,), **changes) -> Toy:
    return Toy(Section(eta=eta, lam=lam, free=None), **changes)
