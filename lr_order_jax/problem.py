"""The Problem protocol and the registry of names: all the engine knows of a task.

A problem is built from its section of the configuration and describes one member of a sweep as
pure functions of arrays. The engine, the sweep and the host loop call these functions and nothing
else, so that a new task needs no change to them.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from lr_order_jax.algorithm import Hypers
from lr_order_jax.fields import ConfigError

PyTree = Any


class Model(NamedTuple):
    """A network's arrays: `params` are trained by gradient, `stats` are carried beside them.

    `stats` holds what the loss needs but the optimiser must not touch: a fixed second layer, or
    the running statistics of batch normalisation.
    """

    params: PyTree
    stats: PyTree


class Variable(NamedTuple):
    """Attributes of a variable of `results.nc`."""

    long_name: str
    units: str = "1"


class Problem(Protocol):
    """What a task must provide. Arrays of one member: no function sees the grid."""

    Fields: type
    """Declares the problem's section of the configuration; the first swept field is its rate."""

    @classmethod
    def build(cls, section: Any) -> "Problem":
        """The problem of a parsed section; refuses fields that contradict each other."""
        ...

    clock: str
    """Name of the time dimension of the results: `flow_time` or `epoch`."""

    variables: Mapping[str, Variable]
    """What `summarize` returns, in the order in which files show it. `train_loss` is among them: a
    member is marked as diverged where it is not finite."""

    table: str
    """Name of its table in `results.TABLES`."""

    figures: tuple[str, ...]
    """Names of its figures in `figures.FIGURES`."""

    fields: Any
    """The problem's section of the configuration, resolved."""

    def horizon(self) -> float:
        """End of the time grid which is common to all members, in units of the clock."""
        ...

    def make_data(self, key) -> PyTree:
        """The data of one seed; `key` is the seed's data stream."""
        ...

    def init(self, key) -> Model:
        """Initial model of one seed; `key` is the seed's initialisation stream."""
        ...

    def hypers(self, values: Mapping[str, Any], data: PyTree) -> Hypers:
        """Hyperparameters of one member, on the host: NumPy leaves in float64 and int64.

        `values` maps each sweepable field to this member's value; `data` is the seed's data.
        """
        ...

    def time_per_step(self, hypers: Hypers):
        """Clock units that one step takes in each phase: host array like `hypers.rates`."""
        ...

    def batch(self, data: PyTree, key, step) -> PyTree:
        """The examples of one training step."""
        ...

    def loss(self, params: PyTree, stats: PyTree, batch: PyTree, key) -> tuple[Any, PyTree]:
        """Training loss without weight decay, and the stats after the step."""
        ...

    def evaluation_batches(self, data: PyTree) -> PyTree:
        """All that is evaluated at a record, cut into batches along a leading axis."""
        ...

    def evaluate(self, model: Model, batch: PyTree) -> PyTree:
        """Sums over one evaluation batch; the engine adds them up."""
        ...

    def summarize(self, data: PyTree, model: Model, sums: PyTree) -> dict[str, Any]:
        """Scalars named as in `variables`, from the sums over all batches and the model itself."""
        ...


_BUILDERS = {
    "two_layer": "lr_order_jax.problems.two_layer:TwoLayer",
}


def lookup(name: Any) -> Any:
    """The class of a problem by its name in the config; its `Fields` declare its section.

    Raises:
      ConfigError: if no problem has that name.
    """
    if not isinstance(name, str) or name not in _BUILDERS:
        allowed = ", ".join(sorted(_BUILDERS))
        raise ConfigError(f"config.problem = {name!r}: must be one of {allowed}")
    module, attribute = _BUILDERS[name].split(":")
    return getattr(importlib.import_module(module), attribute)
