"""Values of fields: what is allowed, and the one line that says what is not."""

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lr_order_jax import fields
from lr_order_jax.fields import ConfigError


@dataclasses.dataclass(frozen=True)
class Section:
    width: int = fields.integer(1)
    rate: float = fields.positive()
    rates: tuple[float, ...] = fields.positive(many=True)
    law: str = fields.choice("sign", "gaussian")
    names: tuple[str, ...] = fields.words()
    maybe: float | None = fields.non_negative(optional=True)
    small: float = fields.positive(10.0)
    margin: float = fields.non_negative(10.0)


GOOD = {
    "width": 3,
    "rate": 1,
    "rates": [1, 0.5],
    "law": "sign",
    "names": None,
    "maybe": None,
    "small": 10,
    "margin": 0,
    "unused": object(),
}


def test_a_section_is_coerced():
    section = fields.parse(Section, GOOD)
    assert section == Section(3, 1.0, (1.0, 0.5), "sign", (), None, 10.0, 0.0)
    assert isinstance(section.rate, float)
    assert fields.swept_fields(Section) == ("rates",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0),
        ("width", -3),
        ("width", 2.0),
        ("width", True),
        ("width", None),
        ("width", 2**40),
        ("rate", 0.0),
        ("rate", math.nan),
        ("rate", 1e300),
        ("rate", 1e-300),
        ("rate", math.inf),
        ("rate", "0.1"),
        ("rate", 10**400),
        ("rate", (0.1,)),
        ("rates", ()),
        ("rates", (0.1, math.nan)),
        ("rates", ("a",)),
        ("rates", None),
        ("law", "uniform"),
        ("law", 3),
        ("names", (3,)),
        ("names", ("large", "\udcff")),
        ("names", ("a\0b",)),
        ("names", ("a\nb",)),
        ("maybe", -1.0),
        ("small", 0.0),
        ("small", 10.1),
        ("margin", -0.1),
        ("margin", 1e300),
    ],
)
def test_a_wrong_value_is_one_line_with_field_and_rule(name, value):
    with pytest.raises(ConfigError) as error:
        fields.parse(Section, GOOD | {name: value})
    line = str(error.value)
    assert f"config.{name}" in line
    assert "must" in line
    assert "\n" not in line


def test_a_missing_field_is_named():
    values = {k: v for k, v in GOOD.items() if k != "rate"}
    with pytest.raises(ConfigError, match=r"config\.rate is missing"):
        fields.parse(Section, values)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.complex_numbers()
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(scalars, scalars)))
def test_any_value_is_taken_or_refused_in_one_line(record_property, value):
    record_property("cases: values drawn by hypothesis", len(GOOD))  # of each example
    for name in dataclasses.asdict(fields.parse(Section, GOOD)):
        told = ""
        try:
            fields.parse(Section, GOOD | {name: value})
        except ConfigError as error:
            told = str(error)
        assert "\n" not in told
