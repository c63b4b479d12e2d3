"""Theorems 3.4 and 3.5 and the lemmas of sections 4 and 5 on the results of a run: what was
measured beside its scale.

The lemmas give orders of magnitude: constants and logarithms of d are hidden. In the scales they
are taken as 1, so a ratio of measured to predicted that stays bounded as d grows is what a lemma
claims, not one near 1. All bound from above but Theorem 3.5 and the ||alpha|| of Lemma 5.3.
Times are flow times (learning rate x steps).

epsilon_1 is the field of that name, or, in a run annealed by its flow time, what it would have
been: the training loss when L-S was annealed, less q log 2 (NaN if that is not positive).
epsilon_2' is the field epsilon_2 at S, or, in a run without it, the larger of the last losses of
L-S and S, which both reach. Lemma 5.1 prints epsilon_2 without a prime in two of its terms; they
are read with it, as a time until the loss is epsilon_2' has to grow as epsilon_2' falls.

A scale *says nothing* in a run where its bound could not fail: `scales` tells why.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from lr_order_jax import results


class Panel(NamedTuple):
    """A variable of the results and the scales that a lemma predicts for it."""

    title: str
    variable: str
    scales: tuple[str, ...]


PANELS = (
    Panel("4.1, 5.1: ||Wbar||^2", "signal_squared_w", ("signal_4_1", "signal_5_1")),
    Panel("4.1, 5.1: ||Vbar||^2", "signal_squared_v", ("signal_4_1", "signal_5_1")),
    Panel("4.2: |second difference|", "second_difference", ("difference_4_2",)),
    Panel("4.3: training loss", "train_loss", ("loss_4_3",)),
    Panel("4.3: displacement since annealing", "displacement_squared", ("displacement_4_3",)),
    Panel("4.4: loss of r on M1", "train_loss_of_r_on_m1", ("loss_4_3",)),
    Panel("4.4: loss of g on its complement", "train_loss_q_only", ("loss_4_4",)),
    Panel("5.1: loss on M2", "train_loss_on_m2", ("loss_5_1",)),
    Panel("5.2: ||Wbar^(2)||", "m2_gradient_norm", ("gradient_5_2",)),
    Panel("5.3: ||alpha||", "alpha_norm", ("alpha_5_3",)),
    Panel("5.3: residual of 2 <alpha, x>", "odd_part_residual", ("residual_5_3",)),
    Panel("3: activations that differ, V", "activation_difference_v", ()),
    Panel("3: activations that differ, W", "activation_difference_w", ()),
    Panel("3: output gap of g", "output_gap_v", ()),
    Panel("3: output gap of r", "output_gap_w", ()),
)


class Scale(NamedTuple):
    """What a lemma claims: a quantity is at most ("<=") or at least (">=") of the order of this."""

    relation: str
    formula: str


SCALES = {
    "error_3_4": Scale("<=", "p kappa log(1/epsilon_1)"),
    "loss_3_4": Scale("<=", "p kappa log(1/epsilon_1)"),
    "time_3_4": Scale("<=", "d/epsilon_1 + 1/(epsilon_1^3 r)"),
    "error_3_5": Scale(">=", "p"),
    "loss_3_5": Scale(">=", "p"),
    "time_3_5": Scale("<=", "d/epsilon_2'"),
    "time_4_1": Scale("<=", "d/epsilon_1"),
    "signal_4_1": Scale("<=", "d log^2(1/epsilon_1)"),
    "difference_4_2": Scale("<=", "r^2/lambda"),
    "window_4_2": Scale("<=", "1/lambda"),
    "time_4_3": Scale("<=", "1/(epsilon_1^3 r)"),
    "loss_4_3": Scale("<=", "sqrt(epsilon_1/q)"),
    "displacement_4_3": Scale("<=", "1/(epsilon_1^2 r)"),
    "loss_4_4": Scale("<=", "sqrt(epsilon_1/q^3)"),
    "time_5_1": Scale("<=", "1/(epsilon_2'^3 r)"),
    "time_5_1_all": Scale("<=", "1/(epsilon_2'^3 r) + N p/epsilon_2'"),
    "signal_5_1": Scale("<=", "1/(epsilon_2'^2 r) + N p"),
    "loss_5_1": Scale("<=", "epsilon_2'"),
    "gradient_5_2": Scale("<=", "d^(15/32)/epsilon_2'"),
    "alpha_5_3": Scale(">=", "sqrt(N p)"),
    "residual_5_3": Scale("<=", "d^(-1/32)/epsilon_2'"),
}


def _columns(dataset: xr.Dataset) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The first columns of L-S and S.

    Raises:
      ValueError: if the run lacks one of them.
    """
    found = results.the_two_algorithms(dataset)
    if not found["L-S"] or not found["S"]:
        raise ValueError("must hold a member of each algorithm: eta_init = eta_1 and = eta_2")
    return found["L-S"][0], found["S"][0]


def _at(dataset: xr.Dataset, values: xr.DataArray, time: xr.DataArray) -> xr.DataArray:
    """A variable at the first record at or after a time of each seed; NaN if there is none."""
    known = (dataset["flow_time"] >= time - 1e-9) & values.notnull()
    first = known.argmax("flow_time")
    return values.isel(flow_time=first, drop=True).where(known.any("flow_time"))


def scales(dataset: xr.Dataset) -> xr.Dataset:
    """The predicted scales, each over `seed`, named as in SCALES.

    Their attributes are `relation` and `formula`, and `silent`: why the scale says nothing in this
    run, "" if it does.
    """
    dataset = results.at_first_value(dataset, (results.rate_dim(dataset),))
    large, small = _columns(dataset)
    d, n, r, lam = (results.value_of(dataset, name, large) for name in ("d", "n", "r", "lam"))
    of_large = dataset.isel(large).reset_coords(drop=True)
    p, q = of_large["p"], of_large["q"]
    epsilon_1 = xr.full_like(q, float(results.value_of(dataset, "epsilon_1", large)))
    if float(epsilon_1[0]) < 0:
        loss = _at(dataset, of_large["train_loss"], of_large["annealed_at"])
        epsilon_1 = loss - q * math.log(2)
        epsilon_1 = epsilon_1.where(epsilon_1 > 0)
    stop = float(results.value_of(dataset, "epsilon_2", small))
    last = results.final(dataset, "train_loss").reset_coords(drop=True)
    both = np.maximum(last.isel(small), last.isel(large))
    epsilon_2s = xr.full_like(q, stop) if stop > 0 else both
    one = xr.ones_like(q)
    trend_3_4 = p * (d / n) ** 0.5 * np.log(1 / epsilon_1)
    values = {
        "error_3_4": trend_3_4,
        "loss_3_4": trend_3_4,
        "time_3_4": d / epsilon_1 + 1 / (epsilon_1**3 * r),
        "error_3_5": p,
        "loss_3_5": p,
        "time_3_5": d / epsilon_2s,
        "time_4_1": d / epsilon_1,
        "signal_4_1": d * np.log(1 / epsilon_1) ** 2,
        "difference_4_2": one * (r**2 / lam if lam else math.inf),
        "window_4_2": one * (1 / lam if lam else math.inf),
        "time_4_3": 1 / (epsilon_1**3 * r),
        "loss_4_3": (epsilon_1 / q) ** 0.5,
        "displacement_4_3": 1 / (epsilon_1**2 * r),
        "loss_4_4": (epsilon_1 / q**3) ** 0.5,
        "time_5_1": 1 / (epsilon_2s**3 * r),
        "time_5_1_all": 1 / (epsilon_2s**3 * r) + n * p / epsilon_2s,
        "signal_5_1": 1 / (epsilon_2s**2 * r) + n * p,
        "loss_5_1": epsilon_2s,
        "gradient_5_2": d ** (15 / 32) / epsilon_2s,
        "alpha_5_3": (n * p) ** 0.5,
        "residual_5_3": d ** (-1 / 32) / epsilon_2s,
    }
    silent = _silent(dataset, values)
    told = {
        name: {**scale._asdict(), "silent": silent.get(name, "")} for name, scale in SCALES.items()
    }
    return xr.Dataset({name: value.assign_attrs(told[name]) for name, value in values.items()})


def _silent(dataset: xr.Dataset, values: Mapping[str, xr.DataArray]) -> dict[str, str]:
    """Why scales say nothing, by name; by means over seeds.

    A loss above log 2 is that of a network that has learned nothing; a time that the config
    prescribes was not measured; and a bound may be above all that the run could have shown.
    """
    large, small = _columns(dataset)
    of_l, of_s = (dataset.isel(of).reset_coords(drop=True) for of in (large, small))
    mean_of = lambda of: float(results.mean_and_error(of.values)[0])  # noqa: E731
    mean = {name: mean_of(value) for name, value in values.items()}
    found = {}
    for name in ("loss_3_4", "loss_4_3", "loss_4_4", "loss_5_1"):
        if mean[name] >= math.log(2):
            found[name] = "above log 2"
    if mean["error_3_4"] >= mean["error_3_5"] / 2:
        found["error_3_4"] = "above p/2, a coin toss on the P-only examples"

    def prescribed(which, name, why):
        count = int(which.sum())
        if count:
            of = "" if count == which.size else f" in {count} of {which.size} seeds"
            found[name] = f"prescribed{of}: {why}"

    annealed = of_l["annealed_at"]
    prescribed(~_by_loss(dataset, large, annealed), "time_4_1", "not annealed by the loss")
    at_annealing = mean_of(_at(dataset, of_l["train_loss"], annealed))
    if at_annealing <= mean["loss_4_3"]:
        found["time_4_3"] = found["time_3_4"] = "reached when annealed"
    length = float(dataset["flow_time"][-1])
    for name in ("time_3_4", "time_3_5", "time_4_1", "time_4_3", "time_5_1", "time_5_1_all"):
        begin = mean_of(annealed) if name == "time_4_3" else 0
        if name not in found and mean[name] >= length - begin:
            found[name] = "longer than the run"
    if not mean["difference_4_2"] < float(abs(dataset["second_difference"]).max()):
        found["difference_4_2"] = "above every |D| of the run"
    if results.value_of(dataset, "epsilon_2", small) == 0:
        own = results.final(dataset, "train_loss").isel(small) >= values["loss_5_1"]
        prescribed(own, "time_5_1_all", "until S's own last loss")
        prescribed(own, "time_3_5", "until S's own last loss")
    if "signal_squared_w" in dataset:
        whole = mean_of(of_s["signal_squared_w"].max("flow_time")) ** 0.5
        if mean["gradient_5_2"] >= whole:
            found["gradient_5_2"] = "above all of ||Wbar||"
    if "odd_part" in dataset:
        odd = mean_of(results.final(dataset, "odd_part").isel(small))
        if mean["residual_5_3"] >= odd:
            found["residual_5_3"] = "above r(x) - r(-x)"
    return found


def _by_loss(
    dataset: xr.Dataset, column: Mapping[str, int], annealed: xr.DataArray
) -> xr.DataArray:
    """Whether a column was annealed by its loss, over `seed`: before it had to be."""
    of = {n: results.value_of(dataset, n, column) for n in ("eta_init", "epsilon_1", "anneal_step")}
    latest = min(
        results.value_of(dataset, "flow_time_1", column),
        (of["anneal_step"] or math.inf) * of["eta_init"],
    )
    step = max(of["eta_init"], results.config_of(dataset).get("flow_step", 0))
    return (annealed <= latest - step + 1e-6) & (of["epsilon_1"] >= 0)


def measured(dataset: xr.Dataset) -> list[tuple[str, str, xr.DataArray, str]]:
    """What is claimed: (theorem or lemma, quantity, values over `seed`, name of its scale).

    Theorem 3.4 and Lemmas 4.1 to 4.4 of the first L-S column, Theorem 3.5 and Lemmas 5.1 to 5.3 of
    the first S column, further axes at their first value; only what the run has recorded.
    """
    predicted = scales(dataset)
    dataset = results.at_first_value(dataset, (results.rate_dim(dataset),))
    large, small = _columns(dataset)
    of_l, of_s = (dataset.isel(of).reset_coords(drop=True) for of in (large, small))
    time, annealed = dataset["flow_time"], of_l["annealed_at"]
    found = []
    for theorem, of, column in (("3.4", "L-S", large), ("3.5", "S", small)):
        for name, told in (("test_error", "test error"), ("test_loss", "test loss")):
            if name in dataset:  # the first versions did not record the loss
                value = results.final(dataset, name).isel(column)
                scale = f"{name.removeprefix('test_')}_{theorem.replace('.', '_')}"
                found.append((theorem, f"{told} of {of} at the end", value, scale))
    found.append(("4.1", "time of annealing", annealed, "time_4_1"))

    def signal(of_arm):
        if results.config_of(dataset).get("structure") == "convolution":  # V is W
            return of_arm["signal_squared_w"]
        return of_arm["signal_squared_w"] + of_arm["signal_squared_v"]

    if "signal_squared_w" in dataset:
        value = _at(dataset, signal(of_l), annealed)
        found.append(("4.1", "||Ubar||^2 at annealing", value, "signal_4_1"))
    window = np.minimum(predicted["window_4_2"], annealed.fillna(np.inf))
    value = abs(of_l["second_difference"]).where(time <= window + 1e-9).max("flow_time")
    told = "largest |second difference| before annealing and 1/lambda"
    found.append(("4.2", told, value, "difference_4_2"))
    low = (time >= annealed) & (of_l["train_loss"] <= predicted["loss_4_3"])
    reached = results.first_time(of_l, low)
    found.append(
        ("4.3", "time from annealing to the loss of its scale", reached - annealed, "time_4_3")
    )
    found.append(("3.4", "time until the loss is the scale of Lemma 4.3", reached, "time_3_4"))
    end = results.final(dataset, "train_loss").isel(large)
    found.append(("4.3", "final training loss", end, "loss_4_3"))
    if "displacement_squared" in dataset:
        value = results.final(dataset, "displacement_squared").isel(large)
        found.append(("4.3", "||Ubar - Ubar_t0||^2 at the end", value, "displacement_4_3"))
    for name, told, scale in (
        ("train_loss_of_r_on_m1", "loss of r on M1 at the end", "loss_4_3"),
        ("train_loss_q_only", "loss of g on its complement at the end", "loss_4_4"),
    ):
        found.append(("4.4", told, results.final(dataset, name).isel(large), scale))
    fitted = results.first_time(of_s, of_s["train_loss_on_m2"] <= predicted["loss_5_1"])
    found.append(("5.1", "time until the loss on M2 is epsilon_2'", fitted, "time_5_1"))
    fitted = results.first_time(of_s, of_s["train_loss"] <= predicted["loss_5_1"])
    found.append(("5.1", "time until the loss on all is epsilon_2'", fitted, "time_5_1_all"))
    found.append(("3.5", "time until the loss on all is epsilon_2'", fitted, "time_3_5"))
    if "signal_squared_w" in dataset:
        value = signal(of_s).max("flow_time")
        found.append(("5.1", "largest ||Ubar||^2", value, "signal_5_1"))
    if "m2_gradient_norm" in dataset:
        value = of_s["m2_gradient_norm"].max("flow_time")
        found.append(("5.2", "largest ||Wbar^(2)||_F", value, "gradient_5_2"))
    if "alpha_norm" in dataset:
        value = results.final(dataset, "alpha_norm").isel(small)
        found.append(("5.3", "||alpha|| at the end", value, "alpha_5_3"))
        value = results.final(dataset, "odd_part_residual").isel(small)
        found.append(("5.3", "residual of r(x) - r(-x) at the end", value, "residual_5_3"))
    return sorted(found, key=lambda row: row[0])


def lemma_table(dataset: xr.Dataset) -> results.Table:
    """A row a quantity: measured, predicted and their ratio; means over seeds, standard errors.

    Raises:
      ValueError: if the run lacks a member of Algorithm 1 or 2.
    """
    predicted = scales(dataset)
    remarks = [
        "Constants and logarithms of d, which the lemmas leave open, are 1 in the scales.",
        "A claim is that measured is <= or >= the scale; where the last column has words, it could "
        "not fail here and says nothing.",
    ]
    others = [a for a in results.columns_of(dataset)[0] if a != results.rate_dim(dataset)]
    if others:
        first = ", ".join(f"{a} = {dataset[a].values[0]}" for a in others)
        remarks.append(f"Other axes at their first value: {first}.")
    if not dataset.attrs["complete"]:
        remarks.append("The run is not complete.")
    rows: list[tuple[str, ...]] = []
    for lemma, told, values, scale in measured(dataset):
        mean, error = results.mean_and_error(values.values)
        of_scale, _ = results.mean_and_error(predicted[scale].values)
        told_mean = f"{mean:.3g}" if math.isnan(error) else f"{mean:.3g} +- {error:.2g}"
        claim, formula, silent = (
            predicted[scale].attrs[n] for n in ("relation", "formula", "silent")
        )
        numbers = (told_mean, claim, f"{of_scale:.3g}", f"{mean / of_scale:.3g}")
        rows.append((lemma, told, *numbers, formula, silent))
    return results.Table(
        f"{results.title_of(dataset)}: {dataset.sizes['seed']} seeds, mean +- standard error",
        (
            "statement",
            "quantity",
            "measured",
            "claim",
            "scale",
            "ratio",
            "scale is",
            "says nothing",
        ),
        rows,
        remarks,
    )
