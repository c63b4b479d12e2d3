"""From a ConfigDict to frozen, validated sections; the only code that sees a ConfigDict.

A configuration says *what* is computed (the problem's section and `Common`), which names the
default workdir and is compared on resume, and *how* (`How`), which is free to change: no choice in
it changes the meaning of a result.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax

from lr_order_jax import fields, problem, sweep
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import Ways


@dataclasses.dataclass(frozen=True)
class Common:
    """What is computed, apart from the problem."""

    seeds: tuple[int, ...] | None = fields.integer(0, many=True, optional=True)
    num_seeds: int | None = fields.integer(
        1, 1_000_000, optional=True
    )  # stands for seeds 0..num_seeds-1
    zipped: tuple[str, ...] = fields.words()  # each "a+b": fields a and b are one axis
    num_records: int | None = fields.integer(  # points of the time grid after the one at 0
        1, 1_000_000, optional=True
    )  # unset: one an epoch


@dataclasses.dataclass(frozen=True)
class How:
    """How it is computed. Unset ways are the problem's own for the platform (`Problem.ways`)."""

    driving: str | None = fields.choice("scan", "dispatch", optional=True)
    mapping: str | None = fields.choice("vmap", "unroll", "map", "loop", optional=True)
    devices: int | None = fields.integer(1, optional=True)  # of those of a process; unset: all
    distributed: bool = fields.switch()  # joins other processes, see `processes.join`
    shard: str | None = fields.text(
        "i/n, i from 1 to n, of 9 digits at most", r"[1-9]\d{0,8}/[1-9]\d{0,8}", optional=True
    )
    group_size: int | None = fields.integer(1, optional=True)  # columns of members at once, at most
    checkpoint_every: float = fields.non_negative()  # seconds between checkpoints
    keep_at: tuple[float, ...] = fields.real(  # times whose checkpoints are never deleted
        "a time >= 0", lambda v: v >= 0, many=True, swept=False, optional=True
    )
    profile: bool = fields.switch()  # a JAX profiler trace of one chunk


@dataclasses.dataclass(frozen=True)
class Spec:
    """A resolved configuration. `problem` is built from its section, `what` is plain data."""

    problem: problem.Problem
    common: Common
    how: How
    what: Mapping[str, Any]

    @property
    def how_as_run(self) -> dict[str, Any]:
        """How it is computed, with the problem's fields that do not change what is."""
        rules = fields.rules(type(self.problem.fields))
        paths = {
            k: getattr(self.problem.fields, k) for k, rule in rules.items() if not rule.is_what
        }
        return dataclasses.asdict(self.how) | paths

    programs = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        assert self.common.seeds is not None  # `parse` resolves them
        return self.common.seeds

    @property
    def num_records(self) -> int:
        assert self.common.num_records is not None  # `parse` resolves them
        return self.common.num_records

    @property
    def ways(self) -> Ways:
        assert self.how.driving is not None  # `parse` resolves them
        assert self.how.mapping is not None
        return Ways(self.how.driving, self.how.mapping)


def parse(config: Any) -> Spec:
    """The spec of a ConfigDict (or a mapping of the same fields).

    Raises:
      ConfigError: for an unknown, missing or wrong field.
    """
    values = dict(config.items())
    name = values.pop("problem", None)
    builder = problem.lookup(name)
    sections = (builder.Fields, Common, How)
    known = {field for section in sections for field in fields.rules(section)}
    for field in values:
        if field not in known:
            raise ConfigError(f"config.{field}: problem {name!r} has no such field")
    section, common, how = (fields.parse(s, values) for s in sections)
    common = _resolve_seeds(common)
    task = builder.build(section)
    common = _resolve_records(common, task)
    rules = fields.rules(builder.Fields)
    of_task = {k: v for k, v in dataclasses.asdict(task.fields).items() if rules[k].is_what}
    what = {"problem": name, **of_task, **dataclasses.asdict(common)}
    return Spec(task, common, _resolve_ways(how, task), json.loads(json.dumps(what)))


@dataclasses.dataclass(frozen=True)
class Study:
    """What one command computes: a spec, or several that differ in fields on which the compiled
    program depends (shapes, the distribution), one program a spec."""

    axes: tuple[sweep.Axis, ...]  # of those fields, where they have several values
    points: tuple[Mapping[str, Any], ...]  # values of these fields by program, C order
    specs: tuple[Spec, ...]  # one a point
    what: Mapping[str, Any]

    @property
    def how_as_run(self) -> dict[str, Any]:
        return self.specs[0].how_as_run

    @property
    def programs(self) -> tuple[str, ...]:
        """Name of each program's directory, such as "d=100,n=400"; () if there is but one."""
        if not self.axes:
            return ()
        return tuple(",".join(f"{k}={v}" for k, v in point.items()) for point in self.points)


def is_distributed(config: Any) -> bool:
    """Whether a ConfigDict asks for several processes: JAX must know before all else is read.

    Raises:
      ConfigError: if that field is wrong.
    """
    rule = fields.rules(How)["distributed"]
    return fields.convert("distributed", config.get("distributed", False), rule)


def parse_study(config: Any) -> Study:
    """The specs of a ConfigDict whose outer fields (`fields.Rule.outer`) may have several values.

    They are combined as swept fields are: each an axis, or several one axis by `zipped`.

    Raises:
      ConfigError: for an unknown, missing or wrong field.
    """
    values = dict(config.items())
    section = problem.lookup(values.get("problem")).Fields
    outer = fields.outer_values(section, values)
    entries = fields.convert("zipped", values.get("zipped", ()), fields.rules(Common)["zipped"])
    zipped = [entry for entry in entries if set(entry.split("+")) & set(outer)]
    axes = tuple(axis for axis in sweep.make_axes(outer, zipped) if len(axis) > 1)
    points = sweep.make_members(axes)
    if "zipped" in values:
        values["zipped"] = tuple(entry for entry in entries if entry not in zipped)
    specs = tuple(parse({**values, **point}) for point in points)
    if not axes:
        return Study((), points, specs, specs[0].what)
    what = {"zipped": list(entries)}
    for name in specs[0].what:  # those of the axes, and what is resolved from them
        values_of = [run_spec.what[name] for run_spec in specs]
        what.setdefault(name, values_of[0] if len(_distinct(values_of)) == 1 else values_of)
    for axis in axes:
        what |= {field: list(v) for field, v in axis.values.items()}
    return Study(axes, points, specs, what)


def _distinct(values) -> set[str]:
    return {json.dumps(value) for value in values}


def _resolve_ways(how: How, task: problem.Problem) -> How:
    if how.devices is not None and how.devices > (there := jax.local_device_count()):
        raise ConfigError(
            f"config.devices = {how.devices}: must be at most {there}, the devices of this "
            f"machine ({jax.default_backend()})"
        )
    ways = task.ways.get(jax.default_backend(), task.ways.get("cpu", Ways("dispatch", "loop")))
    return dataclasses.replace(
        how, driving=how.driving or ways.driving, mapping=how.mapping or ways.mapping
    )


def _resolve_seeds(common: Common) -> Common:
    if common.seeds is not None:
        seeds = common.seeds
    elif common.num_seeds is not None:
        seeds = tuple(range(common.num_seeds))
    else:
        raise ConfigError("config.seeds is not set: give seeds, or num_seeds = k for 0..k-1")
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"config.seeds = {seeds}: must be distinct")
    return dataclasses.replace(common, seeds=seeds, num_seeds=len(seeds))


def _resolve_records(common: Common, task: problem.Problem) -> Common:
    if common.num_records is not None:
        return common
    if task.clock != "epoch":
        raise ConfigError("config.num_records is not set: only a time in epochs has one for each")
    rule = fields.rules(Common)["num_records"]
    count = fields.convert("num_records", round(task.horizon()), rule)
    return dataclasses.replace(common, num_records=count)


def digest(spec: Spec | Study) -> str:
    """Eight hexadecimal digits that stand for what is computed."""
    text = json.dumps(spec.what, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """One line naming the fields in which two runs differ in what they compute; '' if none."""
    names = sorted(set(stored) | set(asked))
    return "; ".join(
        f"{n} is {stored.get(n)!r} there, {asked.get(n)!r} here"
        for n in names
        if stored.get(n) != asked.get(n)
    )
