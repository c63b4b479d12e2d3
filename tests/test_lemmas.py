"""The lemmas' quantities and scales, from a run of the smoke config and from made results."""

import json
import math

import numpy as np
import pytest
from conftest import load_config

import lr_order_jax
from analysis import figure2, limit_gap
from lr_order_jax import experiment, figures, lemmas, results, spec, study


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    values = dict(load_config("lemmas", "smoke").items()) | {"keep_at": (2.0,)}
    folder = tmp_path_factory.mktemp("lemmas") / "run"
    return folder, experiment.run(spec.parse(values), folder)


def test_the_scales_are_those_of_the_lemmas(run):
    _, ds = run
    scales = lemmas.scales(ds)
    config = results.config_of(ds)
    d, n, r, lam = config["d"], config["n"], config["r"], config["lam"][0]
    seed = ds.isel(seed=0)
    large = seed.sel(eta_init=0.2)
    at = large["flow_time"] >= float(large["annealed_at"]) - 1e-9
    epsilon_1 = float(large["train_loss"][at.values][0]) - float(seed["q"]) * math.log(2)
    epsilon_2s = float(seed["train_loss"].isel(flow_time=-1).max())
    q, p = float(seed["q"]), float(seed["p"])
    trend = p * math.sqrt(d / n) * math.log(1 / epsilon_1)
    wanted = {
        "error_3_4": trend,
        "loss_3_4": trend,
        "time_3_4": d / epsilon_1 + 1 / (epsilon_1**3 * r),
        "error_3_5": p,
        "loss_3_5": p,
        "time_3_5": d / epsilon_2s,
        "time_4_1": d / epsilon_1,
        "signal_4_1": d * math.log(1 / epsilon_1) ** 2,
        "difference_4_2": r**2 / lam,
        "window_4_2": 1 / lam,
        "time_4_3": 1 / (epsilon_1**3 * r),
        "loss_4_3": math.sqrt(epsilon_1 / q),
        "displacement_4_3": 1 / (epsilon_1**2 * r),
        "loss_4_4": math.sqrt(epsilon_1 / q**3),
        "time_5_1": 1 / (epsilon_2s**3 * r),
        "time_5_1_all": 1 / (epsilon_2s**3 * r) + n * p / epsilon_2s,
        "signal_5_1": 1 / (epsilon_2s**2 * r) + n * p,
        "loss_5_1": epsilon_2s,
        "gradient_5_2": d ** (15 / 32) / epsilon_2s,
        "alpha_5_3": math.sqrt(n * p),
        "residual_5_3": d ** (-1 / 32) / epsilon_2s,
    }
    assert set(wanted) == set(scales.data_vars) == set(lemmas.SCALES)
    for name, value in wanted.items():
        assert float(scales[name][0]) == pytest.approx(value, rel=1e-6), name
    lower = [name for name, scale in scales.items() if scale.attrs["relation"] == ">="]
    assert lower == ["error_3_5", "loss_3_5", "alpha_5_3"]


def test_what_a_scale_cannot_tell(run):
    """In the smoke run, by hand; and in results that are made so that each scale does speak."""
    _, ds = run
    silent = {name: scale.attrs["silent"] for name, scale in lemmas.scales(ds).items()}
    told = {name: words for name, words in silent.items() if words}
    own = ds["train_loss"].isel(flow_time=-1)
    count = int((own.sel(eta_init=0.05) >= own.sel(eta_init=0.2)).sum())
    for name in ("time_5_1_all", "time_3_5"):
        assert told.pop(name, "").startswith("prescribed") == bool(count)
    assert told == {
        "error_3_4": "above p/2, a coin toss on the P-only examples",
        "time_5_1": "longer than the run",
        "time_4_1": "prescribed: not annealed by the loss",
        "time_3_4": "reached when annealed",
        "time_4_3": "reached when annealed",
        "loss_4_3": "above log 2",
        "loss_4_4": "above log 2",
        "loss_5_1": "above log 2",
        "difference_4_2": "above every |D| of the run",
        "gradient_5_2": "above all of ||Wbar||",
        "residual_5_3": "above r(x) - r(-x)",
    }
    speaks = ds.copy(deep=True)
    config = results.config_of(ds) | {"epsilon_1": [0.01], "epsilon_2": [0.2], "n": 10**4}
    speaks.attrs["config"] = json.dumps(config)
    speaks["q"][:] = 0.7
    speaks["annealed_at"][0, :] = [4.8, np.nan]  # the first seed by the loss, one step early
    for name in ("second_difference", "odd_part", "signal_squared_w"):
        speaks[name][:] *= 1e6
    speaks = speaks.assign_coords(flow_time=[*speaks["flow_time"].values[:-1], 1e8])
    silent = {name: scale.attrs["silent"] for name, scale in lemmas.scales(speaks).items()}
    told = {name: words for name, words in silent.items() if words}
    assert told == {"time_4_1": "prescribed in 1 of 2 seeds: not annealed by the loss"}
    figures.lemmas(speaks)


def test_every_lemma_is_measured_and_told(run):
    folder, ds = run
    found = lemmas.measured(ds)
    theorems, of_lemmas = {"3.4", "3.5"}, {"4.1", "4.2", "4.3", "4.4", "5.1", "5.2", "5.3"}
    assert {statement for statement, *_ in found} == theorems | of_lemmas
    old = lemmas.measured(ds.drop_vars(["test_loss", "test_loss_p_only"]))
    assert len(old) == len(found) - 2  # of a run of a former version
    by_name = {told: values for _, told, values, _ in found}
    large, small = ds.sel(eta_init=0.2), ds.sel(eta_init=0.05)
    np.testing.assert_allclose(by_name["time of annealing"], 5.0)
    at_5 = large.sel(flow_time=5.0)
    np.testing.assert_allclose(
        by_name["||Ubar||^2 at annealing"], at_5["signal_squared_w"] + at_5["signal_squared_v"]
    )
    np.testing.assert_allclose(
        by_name["largest ||Wbar^(2)||_F"], small["m2_gradient_norm"].max("flow_time")
    )
    fitted = by_name["time until the loss on all is epsilon_2'"].isel(seed=0)
    target = float(ds["train_loss"].isel(seed=0, flow_time=-1).max())
    of_s = small["train_loss"].isel(seed=0)
    assert float(fitted) == float(ds["flow_time"][(of_s <= target).values][0])
    table = lemmas.lemma_table(ds)
    assert len(table.rows) == len(found)
    assert (folder / "figures" / "lemmas.png").stat().st_size > 20_000


def test_a_run_of_one_algorithm_is_refused(run):
    _, ds = run
    with pytest.raises(ValueError, match="a member of each algorithm"):
        lemmas.lemma_table(ds.isel(eta_init=[0]))


def test_further_axes_and_zipped_ones_are_no_hindrance(tmp_path):
    changes = {"eta_init": (0.2, 0.05), "lam": (1e-3, 2e-3), "zipped": ("eta_init+lam",)}
    values = dict(load_config("lemmas", "smoke").items()) | changes | {"num_records": 2}
    ds = experiment.run(spec.parse(values), tmp_path / "zipped")
    assert (tmp_path / "zipped" / "figures" / "lemmas.png").exists()
    assert len(lemmas.lemma_table(ds).rows) >= 18
    values |= {"zipped": (), "m_v": (32, 64)}
    whole = study.run(spec.parse_study(values), tmp_path / "both")
    first = results.read_results(tmp_path / "both" / "m_v=32")
    assert lemmas.lemma_table(whole).rows == lemmas.lemma_table(first).rows


def test_figure_2_shows_the_network_in_the_plane_of_q(run):
    """At the three directions the curve is g, whose second difference is in the results."""
    folder, ds = run
    stored = lr_order_jax.load(folder)
    r, (curves, of_directions) = stored.problem.fields.r, figure2.curves_of(stored)
    ends = {name: (time, g) for name, time, _, g in curves}
    assert ends["L-S"][0] == pytest.approx(10)
    assert len(curves) >= 4  # a kept checkpoint and the last, two algorithms
    time, g = ends["S"]
    assert time == pytest.approx(10)
    at, angle = math.atan(r), figure2.ANGLES
    g3 = np.interp([0, at, -at], angle, g) * [1, math.hypot(1, r), math.hypot(1, r)]
    wanted = float(ds["second_difference"].isel(seed=0, flow_time=-1).sel(eta_init=0.05))
    assert g3[1] + g3[2] - 2 * g3[0] == pytest.approx(wanted, abs=2e-3)
    g3 = {name: three for (name, *_), three in zip(curves, of_directions, strict=True)}["S"]
    wanted = ds["second_difference"].isel(flow_time=-1).sel(eta_init=0.05).values  # of all seeds
    np.testing.assert_allclose(g3 @ [1, -2, 1], wanted, atol=1e-5)
    assert figure2.main(folder) == 0
    assert (folder / "figures" / "figure2.png").exists()
    text = (folder / "figures" / "figure2.md").read_text()
    told = ", ".join(results.with_error(one) for one in g3.T)
    assert f"S at flow time 10, {len(wanted)} seeds | -, +, - | {told} |" in text


def test_the_gap_to_the_limit(tmp_path):
    nets = dict(load_config("width", "smoke").items())
    limit = dict(load_config("lazy_limit", "smoke").items())
    of_nets = study.run(spec.parse_study(nets), tmp_path / "nets")
    of_limit = experiment.run(spec.parse(limit), tmp_path / "limit")
    gaps = results.limit_gaps(of_nets, of_limit)
    d_net = of_nets["second_difference"].mean("seed").sel(m_v=64, eta_init=0.05).values
    d_limit = of_limit["second_difference"].mean("seed").sel(eta_init=0.05).values
    wanted = np.abs(d_net - d_limit).max() / np.abs(d_limit).max()
    assert float(gaps["gap"].sel(m_v=64, eta_init=0.05)) == pytest.approx(wanted)
    config = results.config_of(of_nets)
    saturation = config["r"] ** 2 * config["tau0_v"] * 8 / math.pi / np.abs(d_limit).max()
    assert float(gaps["saturation"].sel(m_v=64, eta_init=0.05)) == pytest.approx(saturation)
    assert limit_gap.main(tmp_path / "nets", tmp_path / "limit") == 0
    assert (tmp_path / "nets" / "figures" / "limit_gap.png").exists()
    with pytest.raises(ValueError, match="do not fit together"):
        limit_gap.main(tmp_path / "limit", tmp_path / "limit")


def test_the_figures_are_drawn_from_an_unfinished_run(run, tmp_path, capsys):
    _, ds = run
    half = ds.copy(deep=True)
    for variable in half.data_vars.values():
        if variable.ndim == 3:
            variable[1, 1, 4:] = np.nan
    assert len(figures.draw(half, ("lemmas",), tmp_path)) == 1
    half["status"][:] = 0
    assert len(figures.draw(half, ("lemmas", "learning_order"), tmp_path)) == 2
    values = dict(load_config("rate_or_noise", "smoke").items()) | {"num_records": 2}
    ds = experiment.run(spec.parse(values), tmp_path / "map")
    ds["second_difference"][0, 0, 0, 1:] = np.nan
    ds["status"][0, 0, 0] = 0
    assert len(figures.draw(ds, ("learning_order_map",), tmp_path)) == 1
    ds["status"][:] = 0
    assert len(figures.draw(ds, ("learning_order_map",), tmp_path)) == 1
    values["zipped"] = ("eta_init+noise_scale",)
    assert len(values["eta_init"]) == len(values["noise_scale"]) > 1
    ds = experiment.run(spec.parse(values), tmp_path / "pairs")
    assert not (tmp_path / "pairs" / "figures" / "learning_order_map.png").exists()
    assert "not drawn" not in capsys.readouterr().err
