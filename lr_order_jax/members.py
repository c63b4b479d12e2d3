"""Members one by one, as an optimiser asks for them, instead of a grid of axes."""

import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from lr_order_jax import experiment, fields, problem, spec
from lr_order_jax.fields import ConfigError


def run_members(
    config: Any,
    members: Sequence[Mapping[str, Any]],
    workdir: str | os.PathLike | None = None,
) -> xr.Dataset:
    """Runs members that are given one by one, all in one compiled program.

    Those of a seed share data, initial weights and noise, as in a sweep, whatever the batch: a
    member's results depend by rounding alone on which others are asked for with it. Equal ones are
    run once.

    Args:
      config: a ConfigDict, as a config file's `get_config` returns it, or a mapping of its fields.
      members: each a mapping of the same swept fields to one value; at least one.
      workdir: the directory of the run, which is continued if it is there; None: a temporary one.

    Returns:
      The results, with a dimension `member` in the order of `members` in place of their fields'
      axes, and `seed` and time as ever. The fields are coordinates along it.

    Raises:
      ConfigError: for wrong members or fields. `eta_1` must be set where `eta_init` is asked for:
        it would else be the largest of a batch, and the noise with it.
    """
    if not hasattr(config, "items"):
        raise ConfigError(f"config = {config!r}: must be a ConfigDict or a mapping of its fields")
    values, names = dict(config.items()), _names(members)
    rules = fields.rules(problem.lookup(values.get("problem")).Fields)
    for name in names:
        if name not in rules or not rules[name].swept:
            swept = ", ".join(name for name, rule in rules.items() if rule.swept)
            raise ConfigError(f"members: {name!r} is not swept, use some of {swept}")
    if "eta_init" in names and "eta_1" in rules and values.get("eta_1") is None:
        raise ConfigError("config.eta_1 is not set: members would depend on the batch they are in")
    points = [
        tuple(_value(i, name, member[name], rules[name]) for name in names)
        for i, member in enumerate(members)
    ]
    distinct = list(dict.fromkeys(points))
    entries = fields.convert(
        "zipped", values.get("zipped", ()), fields.rules(spec.Common)["zipped"]
    )
    zipped = [entry for entry in entries if not set(entry.split("+")) & set(names)]
    values |= {name: tuple(p[i] for p in distinct) for i, name in enumerate(names)}
    values["shard"] = None
    values["zipped"] = (*zipped, *(["+".join(names)] if len(names) > 1 else []))
    asked = spec.parse(values)
    if workdir is None:
        with tempfile.TemporaryDirectory() as folder:
            dataset = experiment.run(asked, pathlib.Path(folder) / "run")
    else:
        dataset = experiment.run(asked, pathlib.Path(workdir))
    index = xr.DataArray([distinct.index(point) for point in points], dims="member")
    axis = names[0]
    if axis in dataset.dims:
        dataset = dataset.isel({axis: index}).drop_vars(names, errors="ignore")
    else:  # an axis of one point is not shown, but that of the initial rate
        dataset = dataset.drop_vars(names, errors="ignore").expand_dims(member=len(points), axis=1)
    told = {name: ("member", [point[i] for point in points]) for i, name in enumerate(names)}
    return dataset.assign_coords(told)


def _names(members: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The fields of all members."""
    wanted = "members: must be a list of one or more mappings, each of one field or more"
    if not isinstance(members, Sequence) or not all(isinstance(m, Mapping) for m in members):
        raise ConfigError(wanted)
    if not members or not members[0]:
        raise ConfigError(wanted)
    names = tuple(members[0])
    for i, member in enumerate(members):
        if set(member) != set(names):
            raise ConfigError(
                f"members: number {i} has the fields {', '.join(map(str, member))}, "
                f"the first {', '.join(map(str, names))}"
            )
    return names


def _value(i: int, name: str, value: Any, rule: fields.Rule) -> Any:
    """The one value of a member's field."""
    try:
        (one,) = fields.convert(name, value, rule)
    except ConfigError as error:
        raise ConfigError(f"members: number {i}: {error}") from None
    except ValueError:
        raise ConfigError(f"members: number {i}: {name} = {value!r}: must be one value") from None
    return one
