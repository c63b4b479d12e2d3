"""Which premises of the paper a member meets."""

import json
import math

import pytest
from conftest import load_config
from hypothesis import given
from hypothesis import strategies as st

from lr_order_jax import spec
from lr_order_jax.problems import assumptions
from lr_order_jax.problems.assumptions import audit, describe, summarize

KAPPA, P, Q, D = 0.3, 0.045, 0.5, 1e80

# Meets every premise that can be decided: p0 = kappa^2/2, and d so large that epsilon_1 has room.
LITERAL = {
    "d": D,
    "n": D / KAPPA**2,
    "r": D**-0.75,
    "lam": D**-1.25,
    "q_scale": 1.0,
    "gamma0": D**-0.5,
    "eta_init": 1e-5,
    "eta_1": 1e-5,
    "eta_2": 1e-9,
    "epsilon_1": 1.5e-5,
    "epsilon_2": math.sqrt(1.5e-5 / Q),
    "p0": P,
    "q0": Q,
    "p": P,
    "q": Q,
    "stationary_variance": {"W": 1.0, "V": 1.0},
    "widths": {"W": (1e300, 1e-90), "V": (1e300, 1e-25)},
}
S = {"eta_init": 1e-9, "epsilon_2": 5e-3}  # the same as Algorithm 2

POLYNOMIAL = {
    f"{block}: {bound}, degree 1"
    for block in "WV"
    for bound in ("tau_0 <= 1/poly(d/epsilon_1)", "m >= poly(d/(epsilon_1 tau_0))")
}
SATURATION = "V: |D| up to r^2 tau_0 sqrt(m)/pi >= 1"
ONLY_L_S = {"L-S: epsilon_2 = sqrt(epsilon_1/q)"}
ONLY_S = {"S: epsilon_2' > d^(-c) = eta_2/eta_1", "S: epsilon_2' <= sqrt(epsilon_1/q)"}


def verdicts(**changes):
    return {c.statement: c.holds for c in audit(**(LITERAL | changes))}


def statements(found, holds):
    return {statement for statement, h in found.items() if h is holds}


@pytest.mark.parametrize(("changes", "other"), [({}, ONLY_S), (S, ONLY_L_S)], ids=["L-S", "S"])
def test_a_literal_member_meets_every_premise(changes, other):
    found = verdicts(**changes)
    assert statements(found, False) == set()
    assert statements(found, None) == POLYNOMIAL | other
    assert len(found) == len(audit(**LITERAL))  # no statement stands twice


def test_infinite_width_meets_assumption_3_2():
    found = verdicts(widths={})
    assert found["infinite width, 1/m = 0"] is True
    assert statements(found, None) == ONLY_S


@pytest.mark.parametrize(
    ("changes", "flipped"),
    [
        ({"gamma0": 0.0}, {"gamma_0 = 1/sqrt(d)"}),
        ({"q_scale": 14.0}, {"A = 1, that is alpha ~ U[0, 1]"}),
        (
            {"stationary_variance": {"W": 1.0, "V": 1.02}},
            {"V: noise keeps its variance tau_0^2 at eta_1"},
        ),
        (
            {"stationary_variance": {"W": 0.0, "V": 0.0}},
            {f"{b}: noise keeps its variance tau_0^2 at eta_1" for b in "WV"},
        ),
        ({"eta_init": 1e-4, "eta_1": 1e-4}, {"eta_1 <= epsilon_1, constant taken as 1"}),
        ({"widths": {"W": (1e300, 1e-90), "V": (1e270, 1e-25)}}, {SATURATION}),
        ({"r": 1.02 * D**-0.75}, {"r = d^(-3/4)"}),
        ({"r": D**-0.6}, {"r = d^(-3/4)", "lambda >= r^2/(kappa^2 q^3 p^2)"}),
        ({"r": D**-1.01}, {"r = d^(-3/4)", "1/(r d) = kappa^c with c > 0", SATURATION}),
        (
            {"r": D**-1.3},
            {
                "r = d^(-3/4)",
                "1/(r d) = kappa^c with c > 0",
                "lambda/r = kappa^c with c > 0",
                SATURATION,
            },
        ),
        ({"p0": 0.1}, {"p0 = kappa^2/2"}),
        ({"q0": 0.0}, {"q0 > 0, constant in d"}),
        ({"q0": 1.0}, {"q0 < 1"}),
        ({"lam": 0.98 * D**-1.25}, {"lambda = d^(-5/4)"}),
        ({"lam": D**-1.6}, {"lambda = d^(-5/4)", "lambda >= r^2/(kappa^2 q^3 p^2)"}),
        (
            {"lam": 1 / D},
            {
                "lambda = d^(-5/4)",
                "d lambda = kappa^c with c > 0",
                "d/epsilon_1 <= 1/lambda, logarithms taken as 1",
            },
        ),
        (
            {"p": 0.02},
            {"room: kappa^2 p^2 q^3 > d^(-1/16)", "epsilon_1 < kappa^2 p^2 q^3"},
        ),
        ({"epsilon_2": 1e-3}, {"L-S: epsilon_2 = sqrt(epsilon_1/q)"}),
        (
            {"epsilon_1": 3e-5, "epsilon_2": math.sqrt(3e-5 / Q)},
            {"epsilon_1 < kappa^2 p^2 q^3"},
        ),
        (
            {"epsilon_1": 9e-6, "epsilon_2": math.sqrt(9e-6 / Q), "eta_init": 8e-6, "eta_1": 8e-6},
            {"epsilon_1 > d^(-1/16)"},
        ),
        ({"eta_2": 2e-5}, {"eta_2 = eta_1 d^(-c) with c > 0"}),
        ({"eta_init": 5e-6}, {"starts at eta_1 (L-S) or at eta_2 (S)"}),
        (S | {"epsilon_2": 6e-3}, {"S: epsilon_2' <= sqrt(epsilon_1/q)"}),
        (S | {"epsilon_2": 5e-5}, {"S: epsilon_2' > d^(-c) = eta_2/eta_1"}),
    ],
)
def test_a_violation_flips_its_own_checks(changes, flipped):
    assert statements(verdicts(**changes), False) == flipped


def test_kappa_of_one_or_more():
    """Nothing is a power of it, and p0 cannot be half of its square here."""
    found = verdicts(n=D)
    assert statements(found, False) == {"kappa = sqrt(d/N) < 1", "p0 = kappa^2/2"}
    assert {f"{x} = kappa^c with c > 0" for x in ("1/(r d)", "d lambda", "lambda/r")} <= statements(
        found, None
    )


def test_equal_is_within_one_percent():
    assert verdicts(r=0.991 * D**-0.75)["r = d^(-3/4)"] is True
    assert verdicts(r=0.989 * D**-0.75)["r = d^(-3/4)"] is False


def test_the_exponent_of_kappa():
    for c in (-2.0, 0.5, 3.0):
        checks = audit(**(LITERAL | {"d": 1e4, "n": 1e6, "lam": 0.1**c / 1e4}))
        (found,) = (x for x in checks if x.statement == "d lambda = kappa^c with c > 0")
        assert found.measured == pytest.approx(c)
        assert found.holds is (c > 0)


def test_epsilon_1_has_room_only_beyond_10_to_the_74():
    room = "room: kappa^2 p^2 q^3 > d^(-1/16)"
    assert verdicts(d=1e74, n=1e74 / KAPPA**2)[room] is False
    assert verdicts(d=1e75, n=1e75 / KAPPA**2)[room] is True


def test_thresholds_that_are_not_set_are_open():
    opened = statements(verdicts(epsilon_1=-1.0, epsilon_2=0.0), None)
    assert opened == {s for s in verdicts() if "epsilon" in s}
    assert statements(verdicts(**(S | {"epsilon_2": 0.0})), None) >= ONLY_S


def test_no_noise_has_no_stationary_variance():
    found = verdicts(stationary_variance={})
    assert statements(found, False) == {"all: noise keeps its variance tau_0^2 at eta_1"}


@pytest.mark.parametrize(
    "changes",
    [{"p": 0.0}, {"q": 0.0}, {"p": 0.0, "q": 0.0}, {"lam": 0.0}, {"epsilon_1": 0.0}, {"r": 0.0}],
    ids=str,
)
def test_zeros_fail_or_are_open(changes):
    found = verdicts(**changes)
    assert statements(found, False)
    if "p" in changes or "q" in changes:
        assert found["room: kappa^2 p^2 q^3 > d^(-1/16)"] is False
        assert found["lambda >= r^2/(kappa^2 q^3 p^2)"] is False
    if "q" in changes:
        assert found["L-S: epsilon_2 = sqrt(epsilon_1/q)"] is None
    if "epsilon_1" in changes:
        assert found["d/epsilon_1 <= 1/lambda, logarithms taken as 1"] is False


numbers = st.floats(min_value=0, allow_nan=False)
members = st.fixed_dictionaries(
    {name: numbers for name, value in LITERAL.items() if isinstance(value, float)}
    | {
        "d": numbers | st.integers(0, 10**300),
        "n": numbers | st.integers(0, 10**300),
        "epsilon_1": st.just(-1.0) | numbers,
        "stationary_variance": st.dictionaries(st.sampled_from("WV"), numbers),
        "widths": st.dictionaries(st.sampled_from("WV"), st.tuples(numbers, numbers)),
    }
)


@given(members)
def test_an_audit_never_raises_and_keeps_to_its_numbers(member):
    checks = audit(**member)
    for check in checks:
        assert type(check.measured) is type(check.required) is float
        assert check.holds in (None, True, False)
        assert check.statement.isascii()
        if math.isnan(check.measured) or math.isnan(check.required):
            assert check.holds is None
        if check.holds is not None:
            relation = assumptions.RELATIONS[check.relation]
            assert check.holds is relation(check.measured, check.required)
    summary = summarize([checks])
    assert describe(json.loads(json.dumps(summary, allow_nan=False))) == describe(summary)


@given(st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_the_checks_of_theorem_3_5_have_one_c_for_both(eta_1, eta_2, stop):
    member = {"eta_init": eta_2, "eta_1": eta_1, "eta_2": eta_2, "epsilon_2": stop, "d": 1e3}
    found = {c.statement: c for c in audit(**(LITERAL | member))}
    rates = found["eta_2 = eta_1 d^(-c) with c > 0"]
    least = found["S: epsilon_2' > d^(-c) = eta_2/eta_1"]
    if rates.holds:
        assert 1e3**-rates.measured == pytest.approx(least.required, rel=1e-9)
        assert eta_2 == pytest.approx(eta_1 * 1e3**-rates.measured, rel=1e-9)
    else:
        assert eta_2 >= eta_1


def swept(fractions=((0.1, 0.2),), **changes):
    """Audits of configs/sweep.py, a member a rate and pair (p, q)."""
    c = spec.parse(load_config("sweep")).problem.fields
    base = {
        "d": c.d,
        "n": c.n,
        "r": c.r,
        "lam": c.lam[0],
        "q_scale": c.q_scale,
        "gamma0": c.gamma0,
        "eta_1": c.eta_1,
        "eta_2": c.eta_2[0],
        "epsilon_1": c.epsilon_1[0],
        "epsilon_2": c.epsilon_2[0],
        "p0": c.p0,
        "q0": c.q0,
        "stationary_variance": {"W": 1.0, "V": 1.0},
        "widths": {"W": (c.m_w, c.tau0_w), "V": (c.m_v, c.tau0_v)},
    }
    return [
        audit(**(base | {"eta_init": eta, "p": p, "q": q} | changes))
        for p, q in fractions
        for eta in c.eta_init
    ]


def test_the_default_sweep_is_flagged_for_what_the_readme_says():
    """alpha up to 14, r = 0.1, N = d = 200, annealing at a flow time, no room for epsilon_1."""
    summary = summarize(swept())
    fails = {e["statement"] for e in summary if e["holds"] == 0}
    assert fails == {
        "A = 1, that is alpha ~ U[0, 1]",
        "r = d^(-3/4)",
        "kappa = sqrt(d/N) < 1",
        "p0 = kappa^2/2",
        "lambda = d^(-5/4)",  # 0.00100 for 0.00133
        "lambda >= r^2/(kappa^2 q^3 p^2)",
        "room: kappa^2 p^2 q^3 > d^(-1/16)",
    }
    opened = {e["statement"] for e in summary if e["holds"] is None}
    thresholds = {e["statement"] for e in summary if "epsilon" in e["statement"]}
    assert opened == thresholds | {
        f"{x} = kappa^c with c > 0" for x in ("1/(r d)", "d lambda", "lambda/r")
    }
    by_statement = {e["statement"]: e for e in summary}
    saturation = by_statement[SATURATION]
    assert saturation["holds"] == 6
    assert saturation["measured"] == pytest.approx([1.350, 1.350], abs=1e-3)
    c = by_statement["eta_2 = eta_1 d^(-c) with c > 0"]
    assert c["measured"][0] == pytest.approx(math.log(32) / math.log(200))
    assert by_statement["starts at eta_1 (L-S) or at eta_2 (S)"]["holds"] == 2  # of six rates


def test_a_summary_has_ranges_and_counts():
    summary = summarize(swept([(0.08, 0.2), (0.12, 0.2)]))
    by_statement = {e["statement"]: e for e in summary}
    room = by_statement["room: kappa^2 p^2 q^3 > d^(-1/16)"]
    assert room["measured"] == pytest.approx([0.08**2 * 0.2**3, 0.12**2 * 0.2**3])
    assert room["required"] == pytest.approx([200 ** (-1 / 16)] * 2)
    assert (room["holds"], room["decided"], room["members"]) == (0, 12, 12)
    assert by_statement["epsilon_1 > d^(-1/16)"]["measured"] == [None, None]
    json.dumps(summary, allow_nan=False)
    assert summarize([]) == []


def test_members_of_different_blocks_are_refused():
    with pytest.raises(ValueError, match="different checks"):
        summarize([audit(**LITERAL), audit(**(LITERAL | {"widths": {}}))])


def test_the_lines_that_are_printed():
    lines = describe(summarize(swept([(0.08, 0.2), (0.12, 0.2)])))
    # Sources are as wide as the longest, "Assumption 3.2 (our measure)".
    for line in (
        "fails  (2.5)                         A = 1, that is alpha ~ U[0, 1]: 14 = 1",
        "open   Assumption 3.1                eta_1 <= epsilon_1, constant taken as 1: 0.2 <= -",
        "fails  Assumption 3.3                kappa = sqrt(d/N) < 1: 1 < 1",
        "holds  Assumption 3.2 (our measure)  V: |D| up to r^2 tau_0 sqrt(m)/pi >= 1: 1.35 >= 1",
        "4/12   Theorems 3.4, 3.5             starts at eta_1 (L-S) or at eta_2 (S): "
        "0.00625..0.2 = 0.00625..0.2",
    ):
        assert line in lines
    literal = describe(summarize([audit(**LITERAL), audit(**(LITERAL | S))]))
    assert any(line.startswith("1/1") and "L-S: epsilon_2" in line for line in literal)
    assert max(map(len, lines + literal)) <= 110
    assert describe([]) == []


def test_a_range_without_end_says_so():
    entry = summarize([audit(**LITERAL), audit(**(LITERAL | {"lam": 0.0}))])[-1]
    assert entry["required"][1] is None
    assert describe([entry])[0].endswith("<= 1e+100..inf")


def test_the_summaries_of_several_programs_are_that_of_all_their_members():
    audits = [audit(**(LITERAL | {"d": d})) for d in (50, 100, 400)]
    joined = assumptions.join([summarize(audits[:1]), summarize(audits[1:])])
    assert joined == summarize(audits)
    assert any(len(set(map(str, entry["measured"]))) > 1 for entry in joined)
    assert assumptions.join([summarize(audits), []]) == []
    assert assumptions.join([]) == []
