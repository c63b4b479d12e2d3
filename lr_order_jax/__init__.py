"""Learning order under large and small initial learning rates (Li, Wei and Ma 2019), in JAX."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray

    from lr_order_jax.stored import StoredRun

__version__ = "0.1.0"


def load(workdir: str | os.PathLike) -> "StoredRun":
    """The run in a directory, finished or not: labelled results, config and checkpoints.

    Nothing is read before it is asked for, and nothing is ever written.

    The run has `dataset` (xarray), `config`, `checkpoints` (a mapping from steps to states, each
    restored when it is asked for), `problem`, `grid` and, of a study, `programs`.

    Raises:
      FileNotFoundError: if there is no `config.json`.
      ConfigError: if it cannot be read.

    Examples:
        >>> run = lr_order_jax.load("runs/sweep-2534ce37")  # doctest: +SKIP
        >>> run.dataset["test_error"].isel(flow_time=-1).mean("seed")  # doctest: +SKIP
        >>> last = run.checkpoints[max(run.checkpoints)]  # doctest: +SKIP
        >>> last.state.params["W"].shape, last.time  # (seed, member, ...)  # doctest: +SKIP
    """
    from lr_order_jax.stored import StoredRun  # importing the package stays light

    return StoredRun(workdir)


def run_members(
    config: Any,
    members: Sequence[Mapping[str, Any]],
    workdir: str | os.PathLike | None = None,
) -> "xarray.Dataset":
    """Runs members that are given one by one, all in one compiled program; see
    `lr_order_jax.members.run_members`."""
    from lr_order_jax import members as of_members

    return of_members.run_members(config, members, workdir)
