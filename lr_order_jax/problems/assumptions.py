"""Audit of one member: which premises of the paper's theorems hold at its numbers.

No run on a computer meets all of them (the range of epsilon_1 in Theorem 3.4 is empty up to about
d = 10^74), and no run has to: this says how far from them it is. Conditions follow the corrected
readings in the README. How what the paper leaves open is read here:

    "="                            within a relative 1 %
    constants and logarithms       1, where a statement says so (Assumption 3.1, Lemma 4.2)
    polynomials (Assumption 3.2)   not decided; the bound of degree 1 is given as a number
    x <= kappa^O(1)                x = kappa^c with c > 0; not defined for kappa >= 1
    c < 1/16 (Theorem 3.4)         the limit 1/16, which gives the widest range for epsilon_1
    c > 0 (Theorem 3.5)            the largest that the rates allow, d^-c = eta_2/eta_1

A check is open (`holds` is None) where it is not decided, or one of its numbers is NaN: a threshold
that is not set, or one of the other algorithm. Pure numbers: nothing here is traced.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 0.01
"""Relative difference within which numbers count as equal."""

LARGEST_C = 1 / 16
"""Of c in Theorem 3.4, which must be below."""

RELATIONS = {
    "=": lambda a, b: math.isclose(a, b, rel_tol=TOLERANCE),
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


class Check(NamedTuple):
    """One premise at the numbers of one member: `measured` `relation` `required`."""

    source: str  # where the paper asks for it
    statement: str  # one line, ASCII
    measured: float  # NaN: not defined for this member
    relation: str  # a key of RELATIONS
    required: float
    holds: bool | None  # None: open


def _check(source, statement, measured, relation, required, decided=True) -> Check:
    measured, required = float(measured), float(required)
    with np.errstate(all="ignore"):
        defined = not np.isnan(np.subtract(measured, required))  # inf against inf is not
    holds = bool(RELATIONS[relation](measured, required)) if decided and defined else None
    return Check(source, statement, measured, relation, required, holds)


@np.errstate(all="ignore")
def audit(
    *,
    d: float,
    n: float,
    r: float,
    lam: float,
    q_scale: float,
    gamma0: float,
    eta_init: float,
    eta_1: float,
    eta_2: float,
    epsilon_1: float,
    epsilon_2: float,
    p0: float,
    q0: float,
    p: float,
    q: float,
    stationary_variance: Mapping[str, float],
    widths: Mapping[str, tuple[float, float]],
) -> tuple[Check, ...]:
    """Checks of one member, in the order of the paper. Which there are depends on the names of the
    blocks alone. Never raises for numbers >= 0.

    Arguments that are not listed are the fields of those names.

    Args:
      epsilon_1: of the threshold epsilon_1 + q log 2; negative: none.
      epsilon_2: loss at which the member stops, epsilon_2' of Theorem 3.5 if it is Algorithm 2
        (eta_init = eta_2); 0: none.
      p: fraction of P-only examples in the member's data.
      q: fraction of Q-only examples.
      stationary_variance: by block, eta_1 tau_xi^2/(lambda (2 - eta_1 lambda) tau_0^2): the
        variance to which the noise part of the weights relaxes at eta_1, over tau_0^2. 0, or an
        empty mapping: no noise.
      widths: by block, (m, tau_0); empty: the limit of infinite width.
    """
    d, n, r, lam = np.float64(d), np.float64(n), np.float64(r), np.float64(lam)
    eta_1, eta_2 = np.float64(eta_1), np.float64(eta_2)
    p, q = np.float64(p), np.float64(q)
    epsilon_1 = np.float64(epsilon_1 if epsilon_1 >= 0 else np.nan)
    epsilon_2 = np.float64(epsilon_2 if epsilon_2 > 0 else np.nan)
    algorithm_2 = eta_init == eta_2
    kappa = np.sqrt(d / n)
    share = kappa**2 * p**2 * q**3
    stop = np.sqrt(epsilon_1 / q) if q > 0 else np.nan

    def exponent(x):
        """c of x = kappa^c."""
        return np.log(x) / np.log(kappa) if 0 < kappa < 1 else np.nan

    checks = [
        _check("Section 2", "gamma_0 = 1/sqrt(d)", gamma0, "=", d**-0.5),
        _check("(2.5)", "A = 1, that is alpha ~ U[0, 1]", q_scale, "=", 1),
    ]

    source = "Assumption 3.1"
    for block, variance in (stationary_variance or {"all": 0.0}).items():
        statement = f"{block}: noise keeps its variance tau_0^2 at eta_1"
        checks.append(_check(source, statement, variance, "=", 1))
    statement = "eta_1 <= epsilon_1, constant taken as 1"
    checks.append(_check(source, statement, eta_1, "<=", epsilon_1))

    source = "Assumption 3.2"
    if not widths:
        checks.append(_check(source, "infinite width, 1/m = 0", 0, "=", 0))
    for block, (m, tau_0) in widths.items():
        statement = f"{block}: tau_0 <= 1/poly(d/epsilon_1), degree 1"
        checks.append(_check(source, statement, tau_0, "<=", epsilon_1 / d, decided=False))
        statement = f"{block}: m >= poly(d/(epsilon_1 tau_0)), degree 1"
        bound = d / (epsilon_1 * np.float64(tau_0))
        checks.append(_check(source, statement, m, ">=", bound, decided=False))
    if "V" in widths:
        # A unit no longer tells z from z +- zeta once its signal exceeds r tau_0.
        m, tau_0 = widths["V"]
        saturation = r**2 * np.float64(tau_0) * np.sqrt(m) / np.pi
        statement = "V: |D| up to r^2 tau_0 sqrt(m)/pi >= 1"
        checks.append(_check(f"{source} (our measure)", statement, saturation, ">=", 1))

    source = "Assumption 3.3"
    checks += [
        _check(source, "kappa = sqrt(d/N) < 1", kappa, "<", 1),
        _check(source, "r = d^(-3/4)", r, "=", d**-0.75),
        _check(source, "p0 = kappa^2/2", p0, "=", kappa**2 / 2),
        _check(source, "q0 > 0, constant in d", q0, ">", 0),
        _check(source, "q0 < 1", q0, "<", 1),
        _check(source, "lambda = d^(-5/4)", lam, "=", d**-1.25),
        _check(source, "1/(r d) = kappa^c with c > 0", exponent(1 / (r * d)), ">", 0),
        _check(source, "d lambda = kappa^c with c > 0", exponent(d * lam), ">", 0),
        _check(source, "lambda/r = kappa^c with c > 0", exponent(lam / r), ">", 0),
        _check(source, "lambda >= r^2/(kappa^2 q^3 p^2)", lam, ">=", r**2 / share),
    ]

    source = "Theorem 3.4"
    lowest = d**-LARGEST_C
    checks += [
        _check(source, "room: kappa^2 p^2 q^3 > d^(-1/16)", share, ">", lowest),
        _check(source, "epsilon_1 > d^(-1/16)", epsilon_1, ">", lowest),
        _check(source, "epsilon_1 < kappa^2 p^2 q^3", epsilon_1, "<", share),
        _check(
            source,
            "L-S: epsilon_2 = sqrt(epsilon_1/q)",
            np.nan if algorithm_2 else epsilon_2,
            "=",
            stop,
        ),
    ]

    source = "Theorem 3.5"
    c = np.log(eta_1 / eta_2) / np.log(d) if d > 1 else np.nan
    stop_s = epsilon_2 if algorithm_2 else np.nan
    checks += [
        _check(source, "eta_2 = eta_1 d^(-c) with c > 0", c, ">", 0),
        _check(source, "S: epsilon_2' > d^(-c) = eta_2/eta_1", stop_s, ">", eta_2 / eta_1),
        _check(source, "S: epsilon_2' <= sqrt(epsilon_1/q)", stop_s, "<=", stop),
    ]

    start = eta_2 if algorithm_2 else eta_1
    statement = "starts at eta_1 (L-S) or at eta_2 (S)"
    checks.append(_check("Theorems 3.4, 3.5", statement, eta_init, "=", start))
    # In flow time: annealed by then (Lemma 4.1), and Q not learned until then (Lemma 4.2).
    statement = "d/epsilon_1 <= 1/lambda, logarithms taken as 1"
    checks.append(_check("Lemmas 4.1, 4.2", statement, d / epsilon_1, "<=", 1 / lam))
    return tuple(checks)


def _extent(values: Sequence[float]) -> list[float | None]:
    """Least and largest of the values that are not NaN; None for what is not finite."""
    known = [v for v in values if not math.isnan(v)]
    ends = [min(known), max(known)] if known else [math.nan, math.nan]
    return [v if math.isfinite(v) else None for v in ends]


def summarize(audits: Sequence[tuple[Check, ...]]) -> list[dict[str, Any]]:
    """One entry a check over the audits of the members of one run, fit for JSON.

    `measured` and `required` are [least, largest], None for what is not finite; `holds` is the
    number of members of which it holds, None if it is open for all; `decided` the number for which
    it is not open.

    Raises:
      ValueError: if the members were not audited for the same checks.
    """
    entries = []
    if len({tuple((c.source, c.statement) for c in checks) for checks in audits}) > 1:
        raise ValueError("members with different checks have no common summary")
    for column in zip(*audits, strict=True):
        decided = [c.holds for c in column if c.holds is not None]
        entries.append(
            {
                "source": column[0].source,
                "statement": column[0].statement,
                "relation": column[0].relation,
                "measured": _extent([c.measured for c in column]),
                "required": _extent([c.required for c in column]),
                "holds": sum(decided) if decided else None,
                "decided": len(decided),
                "members": len(column),
            }
        )
    return entries


def join(summaries: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One summary of several, of the programs of a study: of the checks that all of them have."""
    by_check = [{(e["source"], e["statement"]): e for e in summary} for summary in summaries]
    entries = []
    for check, first in by_check[0].items() if by_check else ():
        if not all(check in of_program for of_program in by_check):
            continue
        column = [of_program[check] for of_program in by_check]
        decided = [e["holds"] for e in column if e["holds"] is not None]
        entry = {**first, "holds": sum(decided) if decided else None}
        for name in ("measured", "required"):
            known = [e[name] for e in column if e[name] != [None, None]]  # else not defined
            lows, highs = ([extent[i] for extent in known] for i in (0, 1))
            entry[name] = [
                None if not known or None in lows else min(lows),
                None if not known or None in highs else max(highs),
            ]
        for name in ("decided", "members"):
            entry[name] = sum(e[name] for e in column)
        entries.append(entry)
    return entries


def _verdict(entry: Mapping[str, Any]) -> str:
    holds, decided = entry["holds"], entry["decided"]
    if holds is None:
        return "open"
    if decided == entry["members"] and holds in (0, decided):
        return "holds" if holds else "fails"
    return f"{holds}/{decided}"


def _range(extent: Sequence[float | None]) -> str:
    low, high = extent
    if low is None and high is None:
        return "-"
    words = ["-inf" if low is None else f"{low:.3g}", "inf" if high is None else f"{high:.3g}"]
    return words[0] if words[0] == words[1] else "..".join(words)


def describe(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a check of `summarize`: verdict, source, statement, and the numbers on both sides.

    The verdict is "holds" or "fails" (for all members), "3/30" (for 3 of the 30 for which it is
    decided) or "open"; "-" is a number that is not defined, a..b the least and the largest.
    """
    verdicts = [_verdict(entry) for entry in summary]
    width = max(map(len, verdicts), default=0)
    source = max((len(entry["source"]) for entry in summary), default=0)
    return [
        f"{verdict:<{width}}  {entry['source']:<{source}}  {entry['statement']}: "
        f"{_range(entry['measured'])} {entry['relation']} {_range(entry['required'])}"
        for verdict, entry in zip(verdicts, summary, strict=True)
    ]
