"""Declared configuration fields: which values each may take, and the one error that says so.

A section of the configuration is a frozen dataclass whose fields are made by `integer`, `real`,
`choice`, `text`, `words`, `switch` or `path` below. `parse` turns plain values into such a section
or raises `ConfigError` with one line: the field, the value and what is allowed. No field has a
default here: the defaults are those of the config file, which a user can read.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Section = TypeVar("Section")


FLOAT32 = 1e-38, 1e38
"""Magnitudes of numbers that the programs can hold; their squares fit into the host's float64."""


class ConfigError(ValueError):
    """A wrong configuration or input, told in one plain line."""


def in_one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text, which may be long.

    Examples:
        >>> in_one_line(ValueError("no\\nmore"))
        'ValueError: no'
    """
    kind, lines = type(error).__name__, str(error).strip().splitlines()
    return f"{kind}: {lines[0][:200]}" if lines else kind


@dataclasses.dataclass(frozen=True)
class Rule:
    """What one value of a field may be.

    `kind` is int, float, str or bool; `allows` tests a value of that kind and `allowed` says the
    same in words; `many` marks a tuple of values; `swept` one whose values can be an axis of the
    grid; `optional` lets the field stay unset (None); `is_what` is false for a field that does not
    change what is computed (a path); `outer` is true for one which the compiled program depends on
    (a shape), and of which several values are several programs, see `spec.parse_study`.
    """

    kind: type
    allows: Callable[[Any], bool]
    allowed: str
    many: bool = False
    swept: bool = False
    optional: bool = False
    is_what: bool = True
    outer: bool = False


def _field(rule: Rule) -> Any:
    return dataclasses.field(metadata={"rule": rule})


def integer(
    low: int,
    high: int = 2**31 - 1,
    *,
    many: bool = False,
    swept: bool = True,
    optional: bool = False,
    outer: bool = False,
) -> Any:
    """A whole number in [low, high]; with `many` a tuple of them, an axis of the grid if swept."""
    allowed = f"a whole number from {low} to {high}"
    inside = lambda v: low <= v <= high  # noqa: E731
    return _field(Rule(int, inside, allowed, many, many and swept, optional, outer=outer))


def real(
    allowed: str = "a finite number",
    allows: Callable[[float], bool] = lambda v: True,
    *,
    many: bool = False,
    swept: bool = True,
    optional: bool = False,
    outer: bool = False,
) -> Any:
    """A finite number which passes `allows`; `allowed` says the same in words."""
    return _field(Rule(float, allows, allowed, many, many and swept, optional, outer=outer))


def _at_most(most: float) -> str:
    return "" if most == math.inf else f", at most {most:g}"


def positive(most: float = math.inf, *, many=False, optional=False, outer=False) -> Any:
    """A finite number above 0, and at most `most`."""
    told = f"a finite number > 0{_at_most(most)}"
    allows = lambda v: 0 < v <= most  # noqa: E731
    return real(told, allows, many=many, optional=optional, outer=outer)


def non_negative(most: float = math.inf, *, many=False, optional=False, outer=False) -> Any:
    """A finite number, 0 or more, and at most `most`."""
    told = f"a finite number >= 0{_at_most(most)}"
    allows = lambda v: 0 <= v <= most  # noqa: E731
    return real(told, allows, many=many, optional=optional, outer=outer)


def choice(*names: str, many: bool = False, swept: bool = True, optional: bool = False) -> Any:
    """One of the given names; with `many` a tuple of them, an axis of the grid if swept."""
    allowed = "one of " + ", ".join(names)
    return _field(Rule(str, lambda v: v in names, allowed, many, many and swept, optional))


def text(allowed: str, pattern: str, *, optional: bool = False) -> Any:
    """A string of a form, given as a regular expression."""
    return _field(
        Rule(str, lambda v: bool(re.fullmatch(pattern, v)), allowed, False, False, optional)
    )


def words(allowed: str = "a tuple of names", *, swept: bool = False) -> Any:
    """A tuple of strings; where it is not swept it may be empty."""
    return _field(Rule(str, lambda v: bool(v), allowed, True, swept, optional=not swept))


def switch() -> Any:
    """True or False."""
    return _field(Rule(bool, lambda v: True, "True or False"))


def path() -> Any:
    """A file or directory, or unset. Where data lie does not change what is computed."""
    return _field(Rule(str, lambda v: bool(v), "a path", optional=True, is_what=False))


def rules(section: type) -> dict[str, Rule]:
    """The rules of a section's fields by name."""
    return {f.name: f.metadata["rule"] for f in dataclasses.fields(section)}


def outer_values(section: type, values: Mapping[str, Any]) -> dict[str, tuple]:
    """The values of the fields of which each is a program of its own, by field.

    Raises:
      ConfigError: if one is not allowed.
    """
    outer = {}
    for name, rule in rules(section).items():
        if rule.outer and values.get(name) is not None:
            many = dataclasses.replace(rule, many=True, swept=True)
            outer[name] = convert(name, values[name], many)
    return outer


def swept_values(section: Any) -> dict[str, tuple]:
    """The values of the fields of a section that can be swept, by field; (None,) if unset."""
    return {name: getattr(section, name) or (None,) for name in swept_fields(type(section))}


def swept_fields(section: type) -> tuple[str, ...]:
    """Names of the fields of a section that can be swept."""
    return tuple(name for name, rule in rules(section).items() if rule.swept)


def _one(name: str, value: Any, rule: Rule) -> Any:
    wrong = ConfigError(f"config.{name} = {value!r}: must be {rule.allowed}")
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a NumPy scalar
        value = value.item()
    if isinstance(value, bool) != (rule.kind is bool):
        raise wrong
    if rule.kind is float and isinstance(value, int):
        try:
            value = float(value)
        except OverflowError:
            raise wrong from None
    if not isinstance(value, rule.kind) or (isinstance(value, float) and not math.isfinite(value)):
        raise wrong
    if isinstance(value, str) and not value.isprintable():  # files of all kinds are to hold it
        raise ConfigError(f"config.{name} = {value!r}: must be printable text")
    if not rule.allows(value):
        raise wrong
    if isinstance(value, float) and value and not FLOAT32[0] <= abs(value) <= FLOAT32[1]:
        low, high = FLOAT32
        raise ConfigError(f"config.{name} = {value!r}: must be 0 or {low:g} to {high:g} in size")
    return value


def convert(name: str, value: Any, rule: Rule) -> Any:
    """`value` as the rule wants it: ints of a float field become floats, one value a tuple, and
    strings with commas several.

    Raises:
      ConfigError: if the rule forbids it.
    """
    if value is None:
        if rule.optional:
            return () if rule.many and not rule.swept else None
        raise ConfigError(f"config.{name} is not set: must be {rule.allowed}")
    if rule.outer and not rule.many and isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if not rule.many:
        return _one(name, value, rule)
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if rule.kind is str:  # on the command line a tuple of strings is one string
        values = tuple(p for v in values for p in (v.split(",") if isinstance(v, str) else (v,)))
    if not values and (rule.swept or not rule.optional):
        raise ConfigError(f"config.{name} = (): must hold at least one value, {rule.allowed}")
    return tuple(_one(name, v, rule) for v in values)


def parse(section: type[Section], values: Mapping[str, Any]) -> Section:
    """A section from exactly its fields in `values` (others are not looked at).

    Raises:
      ConfigError: if a field is missing or its value is not allowed.
    """
    parsed = {}
    for name, rule in rules(section).items():
        if name not in values:
            raise ConfigError(f"config.{name} is missing from the config file")
        parsed[name] = convert(name, values[name], rule)
    return section(**parsed)
