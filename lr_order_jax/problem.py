"""The Problem protocol and the registry of names: all the engine knows of a task.

A problem is built from its section of the configuration and describes one member of a sweep as
pure functions of arrays. The engine, the sweep and the host loop call these functions and nothing
else, so that a new task needs no change to them.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lr_order_jax.algorithm import Hypers
from lr_order_jax.fields import ConfigError, in_one_line

PyTree = Any


class Model(NamedTuple):
    """A network's arrays: `params` are trained by gradient, `stats` are carried beside them.

    `stats` holds what the loss needs but the optimiser must not touch: a fixed second layer, or
    the running statistics of batch normalisation. `watched` is for measurements alone, see
    `Watches`.
    """

    params: PyTree
    stats: PyTree
    watched: PyTree = {}  # noqa: RUF012


class Variable(NamedTuple):
    """A variable of `results.nc`: one number a member and point of time, or an array of them."""

    long_name: str
    units: str = "1"
    over: tuple[tuple[str, int], ...] = ()  # dimensions after that of time: name and size of each

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.over)

    @property
    def attributes(self) -> dict[str, str]:
        return {"long_name": self.long_name, "units": self.units}


class Data(NamedTuple):
    """What a member is trained and evaluated on."""

    shared: PyTree  # one for all seeds: a data set
    own: PyTree  # drawn for the seed
    epoch: PyTree = ()  # drawn for the seed's present epoch, see `DrawsEpochs`


class Ways(NamedTuple):
    """How a problem's steps are driven and its members mapped; see `engine.Driver` and `sweep`."""

    driving: str
    mapping: str


class Problem(Protocol):
    """What a task must provide. Arrays of one member: no function sees the grid."""

    Fields: type
    """Declares the problem's section of the configuration; the first swept field is its rate."""

    @classmethod
    def build(cls, section: Any) -> "Problem":
        """The problem of a parsed section; refuses fields that contradict each other."""
        ...

    @property
    def clock(self) -> str:
        """Name of the time dimension of the results: `flow_time` or `epoch`."""
        ...

    @property
    def ways(self) -> Mapping[str, Ways]:
        """The fastest measured way to run on each platform; that of "cpu" where none is named."""
        ...

    @property
    def variables(self) -> Mapping[str, Variable]:
        """What `summarize` returns, in the order in which files show it. `train_loss` is among
        them: a member is marked as diverged where it is not finite."""
        ...

    @property
    def table(self) -> str:
        """Name of its table in `results.TABLES`."""
        ...

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of its figures in `figures.FIGURES`."""
        ...

    @property
    def study_figures(self) -> tuple[str, ...]:
        """Names of the figures of several programs of it, see `study`."""
        ...

    @property
    def fields(self) -> Any:
        """The problem's section of the configuration, resolved."""
        ...

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Examples in the batch of each step of a cycle (an epoch): step t has that of
        t % len(batch_sizes). Each size is a program of its own."""
        ...

    @property
    def num_evaluation_batches(self) -> int:
        """How many batches an evaluation takes."""
        ...

    def horizon(self) -> float:
        """End of the time grid which is common to all members, in units of the clock."""
        ...

    def load(self) -> PyTree:
        """The data that all seeds share, host arrays: () if there are none."""
        ...

    def make_data(self, key, shared: PyTree) -> PyTree:
        """The own data of one seed; `key` is the seed's data stream."""
        ...

    def init(self, key) -> Model:
        """Initial model of one seed; `key` is the seed's initialisation stream."""
        ...

    def hypers(self, values: Mapping[str, Any], data: Data) -> Hypers:
        """Hyperparameters of one member, on the host: NumPy leaves in float64 and int64.

        `values` maps each sweepable field to this member's value; `data` is the seed's data.
        """
        ...

    def time_per_step(self, hypers: Hypers):
        """Clock units that one step takes in each phase: host array like `hypers.rates`."""
        ...

    def batch(self, data: Data, task: PyTree, key, step, size: int) -> PyTree:
        """The `size` examples of one training step; `key` is the seed's batch stream, the same at
        all steps: fold in the step, or the epoch. `task` is that of `Hypers`."""
        ...

    def loss(
        self, params: PyTree, stats: PyTree, batch: PyTree, noise_level: Any, key
    ) -> tuple[Any, PyTree]:
        """Training loss without weight decay, and the stats after the step. `noise_level` is that
        of the activation noise, None where no member has any."""
        ...

    def evaluate(self, data: Data, task: PyTree, model: Model, index) -> PyTree:
        """Sums over evaluation batch `index` (int32, which may be traced); the engine adds them."""
        ...

    def summarize(self, data: Data, task: PyTree, model: Model, sums: PyTree) -> dict[str, Any]:
        """Values named and shaped as in `variables`, from the sums over all batches and the model
        itself."""
        ...


@runtime_checkable
class DrawsEpochs(Protocol):
    """A problem that draws something once an epoch, a cycle of `batch_sizes`: such as its order."""

    def draw_epoch(self, data: Data, key, epoch) -> PyTree:
        """What `batch` finds in `Data.epoch`; `key` is the seed's batch stream."""
        ...


@runtime_checkable
class TrimsData(Protocol):
    """A problem that leaves out what is zero in the data of every seed."""

    def trim_data(self, own: PyTree) -> PyTree:
        """The own data of all seeds, leaves (S, ...), before anything is computed from them."""
        ...


@runtime_checkable
class MovesItself(Protocol):
    """A problem whose state is not weights brings its own update: it also has `move`."""

    def move(self, hypers: Hypers, model: Model, batch: PyTree, phase) -> Model:
        """The model after one step in a phase; instead of a noisy gradient step."""
        ...


@runtime_checkable
class Watches(Protocol):
    """A problem with stateful probes: quantities that take part in each step and change none.

    `init` puts their first values into `Model.watched` ({} where none is asked for), and
    `summarize` finds them there.
    """

    def watch(
        self, hypers: Hypers, model: Model, batch: PyTree, grads: PyTree, phase, noise_level, key
    ) -> PyTree:
        """`model.watched` after a step in a phase from the weights of `model`; `grads`, the noise
        level and the key are those of `loss` there."""
        ...


@runtime_checkable
class HasTheory(Protocol):
    """A problem that says of its own setting what theory asks for and what it is compared with."""

    @property
    def seed_variables(self) -> Mapping[str, Variable]:
        """Numbers of a seed's data that stand in the results once, over `seed` alone."""
        ...

    def seed_values(self, data: Data) -> Mapping[str, float]:
        """Their values for one seed."""
        ...

    def audit(self, members: Iterable[tuple[Mapping[str, Any], Data]]) -> tuple[list, list[str]]:
        """Which assumptions hold over members, each the values of its swept fields and the data of
        its seed: plain data for config.json, and lines to be read."""
        ...


@runtime_checkable
class ShowsActivations(Protocol):
    """A problem whose model has layers that can be looked at, as `analysis.measure` does."""

    def activations(self, data: Data, task: PyTree, model: Model) -> dict[str, tuple[Any, Any]]:
        """By layer the activations after the nonlinearity (n, ..., units) on training examples, and
        (n,) which of these count."""
        ...


_BUILDERS = {
    "lazy_limit": "lr_order_jax.problems.lazy_limit:LazyLimit",
    "patch_cifar": "lr_order_jax.problems.patch_cifar:PatchCifar",
    "two_layer": "lr_order_jax.problems.two_layer:TwoLayer",
}


def lookup(name: Any) -> Any:
    """The class of a problem by its name in the config; its `Fields` declare its section.

    A problem of your own is named by where it is: "module:Class".

    Raises:
      ConfigError: if there is no such problem.
    """
    if isinstance(name, str) and name in _BUILDERS:
        module, _, attribute = _BUILDERS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    module, _, attribute = str(name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        if not hasattr(found, "Fields"):
            raise TypeError(f"{attribute} has no Fields")
    except Exception as error:  # the module is a program: it can raise anything
        raise ConfigError(
            f"config.problem = {name!r}: must be one of {', '.join(sorted(_BUILDERS))}, or "
            f"MODULE:CLASS of your own ({in_one_line(error)})"
        ) from None
    return found


PROBLEMS = "LR_ORDER_JAX_PROBLEMS"
"""Environment variable: modules, with commas between, that are imported where a run's files name
them."""


def refuse_unasked(name: Any) -> None:
    """Refuses a problem that a file names, unless its module is of this package, was imported
    before or stands in `PROBLEMS`: to read a run must not execute what a stranger has put there.

    Raises:
      ConfigError: with what to do.
    """
    module = str(name).partition(":")[0]
    asked = os.environ.get(PROBLEMS, "").split(",")
    is_ours = isinstance(name, str) and name in _BUILDERS
    if not is_ours and module not in asked and module not in sys.modules:
        raise ConfigError(
            f"config.problem = {name!r}: its module is a program, and is not imported because a "
            f"file names it: import it first, or set {PROBLEMS}={module} in the environment"
        )
