"""Measurements on checkpoints: against brute force on tiny networks, and on runs cut short."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from conftest import ROOT, load_config

import lr_order_jax
from analysis import figure2, measure, report
from lr_order_jax import directory, engine, experiment, figures, progress, results, spec
from lr_order_jax.algorithm import Status
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import Model
from lr_order_jax.problems import patch_cifar
from lr_order_jax.stored import HOW_IT_IS_READ

TINY = {
    "d": 6, "n": 20, "m_w": 4, "m_v": 5, "num_test": 50, "eta_init": (0.2, 0.05), "eta_2": (0.05,),
    "flow_time_1": 2.0, "flow_time_2": 2.0, "num_records": 4, "seeds": (3, 4), "num_seeds": None,
    "keep_at": (1.0, 2.0), "probes": ("decomposition",), "tau0_w": 0.5, "tau0_v": 0.5,
}  # fmt: skip


def parse(name, variant, **fields):
    return spec.parse(dict(load_config(name, variant).items()) | fields)


class Cut(Exception):
    """Ends a run half-way."""


def half_a_run(run_spec, workdir, monkeypatch):
    """A run that is cut short after its second checkpoint."""
    save, count = experiment._Run.save, []

    def save_twice(self, *arguments, **named):
        saved = save(self, *arguments, **named)
        count.append(1)
        if len(count) == 2:
            raise Cut
        return saved

    monkeypatch.setattr(experiment._Run, "save", save_twice)
    with pytest.raises(Cut):
        experiment.run(run_spec, workdir)
    monkeypatch.undo()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "run"
    experiment.run(parse("sweep", "smoke", **TINY), folder)
    return lr_order_jax.load(folder)


def member_of(run, step, s, h):
    state = run.checkpoints[step].state
    params, stats, watched = jax.tree.map(
        lambda leaf: leaf[s, h], (state.params, state.stats, state.watched)
    )
    return Model(params, stats, watched)


def test_runs_of_former_versions_and_of_several_processes_are_read(run, tmp_path):
    """The first versions had fewer fields that say how a run is made; none of them matters."""
    of_how = {field.name for field in dataclasses.fields(spec.How)}
    assert set(HOW_IT_IS_READ) == of_how - {"shard"}
    config = dict(run.config)
    for how in ({}, {"distributed": True, "devices": 8, "driving": "dispatch"}):
        directory.write_whole_config(config | {"how": how}, tmp_path)
        read = lr_order_jax.load(tmp_path)
        assert read.spec.how == run.spec.how
        assert read.grid.shape == run.grid.shape


def test_a_module_that_a_file_names_is_not_imported(run, tmp_path, monkeypatch):
    """Only where the caller has said so."""
    mark = tmp_path / "executed"
    (tmp_path / "strange_module.py").write_text(f"open({str(mark)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    config = dict(run.config)
    config["what"] = config["what"] | {"problem": "strange_module:Problem"}
    directory.write_whole_config(config, tmp_path)
    for name in ("problem", "grid", "data"):
        with pytest.raises(ConfigError, match="set LR_ORDER_JAX_PROBLEMS=strange_module in"):
            getattr(lr_order_jax.load(tmp_path), name)
    assert not mark.exists()
    monkeypatch.setenv("LR_ORDER_JAX_PROBLEMS", "other,strange_module")
    with pytest.raises(ConfigError, match="has no attribute 'Problem'"):
        _ = lr_order_jax.load(tmp_path).problem
    assert mark.exists()


def test_load_reads_what_a_run_has_written(run):
    assert list(run.checkpoints) == sorted(run.checkpoints)
    last = run.checkpoints[max(run.checkpoints)]
    np.testing.assert_allclose(last.time, 4.0)
    np.testing.assert_array_equal(run.dataset["status"].values, last.state.status)
    assert run.programs == (run,)
    with pytest.raises(KeyError, match="step 1: must be one of"):
        run.checkpoints[1]
    with pytest.raises(FileNotFoundError):
        lr_order_jax.load(run.workdir / "nowhere")


def test_evaluation_is_what_the_run_recorded(run):
    found = measure.evaluation(run)
    assert found["test_error"].dims == ("checkpoint", "seed", "eta_init")
    for name in run.problem.variables:
        expected = results.final(run.dataset, name).transpose("seed", "eta_init")
        np.testing.assert_allclose(
            found[name].isel(checkpoint=-1), expected, rtol=1e-5, err_msg=name
        )


def test_evaluation_on_other_examples(run):
    found = measure.evaluation(run, steps=[max(run.checkpoints)], changed={"num_test": 5000})
    mine = results.final(run.dataset, "test_error_both").mean()
    assert float(abs(found["test_error_both"].mean() - mine)) < 0.1
    counts = found["test_error_both"] * 5000
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-2)
    weaker = measure.evaluation(run, changed={"q_scale": 0.01})
    np.testing.assert_allclose(  # what Q says is no longer heard
        weaker["test_error_both"], weaker["test_error_p_only"], atol=0.1
    )
    with pytest.raises(ValueError, match="do not fit"):
        measure.evaluation(run, changed={"d": 7})
    with pytest.raises(ValueError, match="colour is no field"):
        measure.evaluation(run, changed={"colour": 7})
    with pytest.raises(ValueError, match="eta_init is swept"):
        measure.evaluation(run, changed={"eta_init": (0.1,)})
    with pytest.raises(ValueError, match=r"'flow_time_2': 9.0} changes nothing of an evaluation"):
        measure.evaluation(run, changed={"flow_time_2": 9.0})


def dense_hessian(run, step, s, h):
    model = member_of(run, step, s, h)
    own = run.data[s].own
    flat, unravel = jax.flatten_util.ravel_pytree(model.params)

    def loss(vector):
        return run.problem.loss(unravel(vector), model.stats, own, None, None)[0]

    return jax.jacrev(jax.grad(loss))(flat)


def test_sharpness_is_the_top_eigenvalue_of_the_dense_hessian(run):
    found = measure.sharpness(run)
    for c, step in enumerate(run.checkpoints):
        for s in range(2):
            for h in range(2):
                top = np.linalg.eigvalsh(np.asarray(dense_hessian(run, step, s, h), float))[-1]
                mine = float(found["sharpness"][c, s, h])
                assert abs(mine / top - 1) < 2e-3, (step, s, h)
    rates = run.dataset["learning_rate"].isel(flow_time=-1).values
    last = found.isel(checkpoint=-1)
    np.testing.assert_allclose(last["rate_times_sharpness"], rates * last["sharpness"])


def test_what_takes_long_tells_how_far_it_is(run, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    last = list(run.checkpoints)[-1]
    measure.sharpness(run, steps=(last,), iterations=2)
    assert capsys.readouterr().err.splitlines() == [
        f"measuring the checkpoint of step {last}",
        "product 1 of the Hessian with a vector, of 2 at most",
        "product 2 of the Hessian with a vector, of 2 at most",
    ]


def test_lines_between_checkpoints(run):
    found = measure.interpolation(run, points=5)
    first, *rest = run.checkpoints
    assert list(found["checkpoint"].values) == rest
    at = measure.evaluation(run)
    for name in ("train_loss", "test_error_both"):
        ends = found[name].isel(t=[0, -1])
        np.testing.assert_allclose(ends[..., 1], at[name].sel(checkpoint=rest), rtol=1e-5)
        start = at[name].sel(checkpoint=first).broadcast_like(ends[..., 0])
        np.testing.assert_allclose(ends[..., 0], start.transpose(*ends[..., 0].dims), rtol=1e-5)
    model, other = (member_of(run, step, 1, 0) for step in (first, rest[-1]))
    middle = jax.tree.map(lambda a, b: (a + b) / 2, model.params, other.params)
    loss, _ = run.problem.loss(middle, model.stats, run.data[1].own, None, None)
    np.testing.assert_allclose(found["train_loss"][-1, 1, 0, 2], loss, rtol=1e-5)
    assert (found["barrier"] >= 0).all()
    words = ("loss", "error", "barrier", "time", "status")
    assert all(any(word in name for word in words) for name in found.data_vars)
    assert found["t"].attrs["long_name"] == f"t (0: step {first}, 1: the checkpoint)"
    assert "remark" not in found.attrs  # the second layer u does not move
    later = measure.interpolation(run, start=rest[0], points=2)
    assert list(later["checkpoint"].values) == rest[1:]
    only = measure.interpolation(run, steps=rest[-1:], points=2)
    np.testing.assert_allclose(only["train_loss"][0], found["train_loss"][-1][..., [0, -1]])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"start": 5}, "--start: 5 is none of"),
        ({"start": -1, "steps": [0]}, "--steps: {0}, must be after --start {-1}"),
        ({"steps": [0]}, "--steps: {0}, must be after the oldest, {0}"),
        ({"start": -1}, "has no checkpoint after step {-1}, a line needs two"),
        ({"start": 0, "to": 0}, "--start: {0}, must not be given with --to"),
        ({"to": 9}, "--to: 9, must be from 0 to 1"),
    ],
)
def test_lines_that_cannot_be_drawn(run, options, line):
    """Negative numbers and 0 stand for the places of checkpoints."""
    there = list(run.checkpoints)
    given = dict(options)
    if given.get("start") in (0, -1):
        given["start"] = there[given["start"]]
    if "steps" in given:
        given["steps"] = [there[at] for at in given["steps"]]
    for at in (0, -1):
        line = line.replace(f"{{{at}}}", str(there[at]))
    with pytest.raises(ValueError, match=re.escape(line)):
        measure.interpolation(run, **given)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"iterations": 0}, "--iterations: 0, must be at least 1"),
        ({"tolerance": -0.1}, "--tolerance: -0.1, must be a finite number, 0 or more"),
        ({"tolerance": float("nan")}, "--tolerance: nan, must be a finite number, 0 or more"),
    ],
)
def test_numbers_that_sharpness_cannot_take(run, options, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        measure.sharpness(run, **options)


def test_a_wrong_step_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        measure._parser().parse_args(["norms", "somewhere", "--steps=a"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "error: argument --steps: 'a', must be steps, as 100 or 100,200" in told


def test_lines_between_members(run):
    step = max(run.checkpoints)
    found = measure.interpolation(run, steps=[step], to=0, points=3)
    np.testing.assert_allclose(found["barrier"][0, :, 0], 0, atol=1e-6)  # to itself
    loss = found["train_loss"].transpose(..., "t").values
    above = loss - (loss[..., :1] + (loss[..., -1:] - loss[..., :1]) * [0, 0.5, 1])
    np.testing.assert_allclose(found["barrier"], above.max(axis=-1), atol=1e-6)
    assert measure.barrier(np.array([1.0, 3.0, 2.0]), np.array([0, 0.5, 1])) == 1.5
    a, b = (member_of(run, step, 0, h).params for h in (1, 0))
    middle = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    stats = member_of(run, step, 0, 0).stats
    loss, _ = run.problem.loss(middle, stats, run.data[0].own, None, None)
    np.testing.assert_allclose(found["train_loss"][0, 0, 1, 1], loss, rtol=1e-5)
    assert found["t"].attrs["long_name"] == "t (0: the member, 1: that of eta_init = 0.2)"


def test_norms_and_their_signal_and_noise(run):
    found = measure.norms(run)
    step = max(run.checkpoints)
    model = member_of(run, step, 1, 0)
    w = np.asarray(model.params["W"])
    here = found.sel(checkpoint=step, block="W").isel(seed=1, eta_init=0)
    np.testing.assert_allclose(here["norm"], np.linalg.norm(w), rtol=1e-6)
    signal = np.asarray(model.watched["signal"]["W"])
    np.testing.assert_allclose(here["signal_norm"], np.linalg.norm(signal), rtol=1e-6)
    np.testing.assert_allclose(here["noise_norm"], np.linalg.norm(w - signal), rtol=1e-6)
    assert (found["distance_from_start"] > 0).all()


def test_the_residual_is_that_of_the_eigenvector(run, monkeypatch):
    """With one iteration the vector is the start: its residual is known."""
    step = max(run.checkpoints)
    found = measure.sharpness(run, steps=[step], iterations=1)
    hessian = np.asarray(dense_hessian(run, step, 1, 0), float)
    v = np.random.default_rng(0).standard_normal(len(hessian))
    v /= np.linalg.norm(v)
    top = v @ hessian @ v
    np.testing.assert_allclose(found["sharpness"][0, 1, 0], top, rtol=1e-4)
    residual = np.linalg.norm(hessian @ v - top * v)
    np.testing.assert_allclose(found["sharpness_error"][0, 1, 0], residual, rtol=1e-4)


def test_one_member_that_is_not_finite_leaves_the_others(run):
    """Of a product that is not finite, too: the others are found as alone, and stop as alone."""
    a = np.diag([3.0, 1.0, -4.0, 0.5]).astype(np.float32)
    calls = []

    def product(v):
        calls.append(1)
        out = v @ a
        out[0, 1] = np.inf
        return out

    weights = np.zeros((2, 2, 4), np.float32)
    weights[1, 0, 2] = np.nan
    state = run.checkpoints[max(run.checkpoints)].state._replace(params={"W": weights})
    top, error = measure._lanczos(product, state, 60, 1e-3)
    np.testing.assert_allclose(top, [[3, np.nan], [np.nan, 3]], rtol=1e-3)
    np.testing.assert_array_equal(np.isnan(error), [[False, True], [True, False]])
    assert len(calls) <= 5
    top, _ = measure._lanczos(lambda v: v * np.nan, state, 60, 1e-3)
    assert np.isnan(top).all()


def test_activations_against_numpy(run):
    found = measure.activations(run)
    step = max(run.checkpoints)
    model, train = member_of(run, step, 0, 1), run.data[0].own.train
    has_p = np.asarray(train.group[: len(train.x1)]) != 1
    shown = np.maximum(np.asarray(train.x1)[has_p] @ np.asarray(model.params["W"]), 0)
    here = found.sel(checkpoint=step, layer="W").isel(seed=0, eta_init=1)
    np.testing.assert_allclose(here["active"], np.mean(shown > 0), rtol=1e-5)
    share = np.linalg.svd(shown, compute_uv=False)
    share = share / share.sum()
    rank = np.exp(-np.sum(share[share > 0] * np.log(share[share > 0])))
    np.testing.assert_allclose(here["effective_rank"], rank, rtol=1e-4)


def test_a_run_cut_short_is_measured(tmp_path, monkeypatch):
    half_a_run(parse("sweep", "smoke", **TINY), tmp_path / "run", monkeypatch)
    half = lr_order_jax.load(tmp_path / "run")
    assert len(half.checkpoints) == 2
    assert not half.dataset.attrs["complete"]
    for name in ("activations", "evaluation", "interpolation", "norms", "sharpness"):
        found = measure.MEASURES[name](half)
        for variable in found.data_vars.values():
            if variable.name not in ("status", "train_loss_q_only"):
                assert np.isfinite(variable).any(), (name, variable.name)


def test_a_healthy_member_is_measured_beside_one_that_diverged(tmp_path):
    """Each measurement gives what it gives without the other."""
    few = TINY | {"eta_init": (0.05,), "noise_scale": (1.0,)}
    experiment.run(parse("sweep", "smoke", **few, tau_xi=(0.1,)), tmp_path / "one")
    experiment.run(parse("sweep", "smoke", **few, tau_xi=(0.1, 1e38)), tmp_path / "two")
    one, two = (lr_order_jax.load(tmp_path / name) for name in ("one", "two"))
    assert (two.dataset["status"].sel(tau_xi=1e38) == Status.DIVERGED).all()
    for name in ("activations", "evaluation", "interpolation", "norms", "sharpness"):
        alone, both = (measure.MEASURES[name](run).isel(eta_init=0) for run in (one, two))
        for key in set(alone.data_vars) - {"status", "time"}:
            last = both[key].isel(checkpoint=-1)
            wanted = alone[key].isel(checkpoint=-1)
            exact = last.sel(tau_xi=0.1).transpose(*wanted.dims)
            tolerance = {"rtol": 1e-3, "atol": 1e-3} if "error" in key else {"rtol": 1e-3}
            np.testing.assert_allclose(exact, wanted, **tolerance, err_msg=key)
            assert np.isnan(last.sel(tau_xi=1e38)).all(), key
        assert figures.measured(both.expand_dims(eta_init=[0.05], axis=2)) is not None


def test_checkpoints_that_the_run_removes_are_left_out(run, tmp_path, capsys):
    shutil.copytree(run.workdir, tmp_path / "live")
    live = lr_order_jax.load(tmp_path / "live")
    first, *rest = live.checkpoints  # listed before they are removed
    listed = ", ".join(map(str, live.checkpoints))
    assert str(live.checkpoints) == f"StoredCheckpoints(steps {listed})"
    shutil.rmtree(live.workdir / "checkpoints" / str(first))
    assert measure.norms(live)["checkpoint"].values.tolist() == rest
    gone = f"checkpoint of step {first}: the run has removed it"
    assert capsys.readouterr().err == f"{gone}; left out\n"
    with pytest.raises(LookupError, match=gone):
        measure.norms(live, steps=[first, rest[-1]])
    assert len(figure2.curves_of(live)[0]) < len(figure2.curves_of(run)[0])
    found = measure.interpolation(live, points=2)
    assert found.attrs["variant"] == f"on lines from step {rest[0]}"
    assert found["checkpoint"].values.tolist() == rest[1:]
    for step in rest:
        shutil.rmtree(live.workdir / "checkpoints" / str(step))
    with pytest.raises(LookupError, match="all checkpoints listed; ask again"):
        measure.norms(live)


def test_what_makes_another_measurement_is_told_and_kept_apart(run, tmp_path, capsys):
    shutil.copytree(run.workdir, tmp_path / "run")
    step, folder = max(run.checkpoints), tmp_path / "run"
    options = {"steps": [step]}
    measure.main(folder, "evaluation", options)
    measure.main(folder, "evaluation", options | {"changed": {"num_test": 60, "q_scale": 0.5}})
    measure.main(folder, "interpolation", {"points": 2})
    measure.main(folder, "interpolation", options | {"points": 2, "to": 1})
    told = " ".join(capsys.readouterr().out.split())
    assert f"two_layer, evaluated with num_test = 60, q_scale = 0.5 at step {step}" in told
    assert f"two_layer, on lines to eta_init = 0.05 at step {step}" in told
    names = {path.stem for path in (folder / "analysis").iterdir()}
    changed = f"evaluation-steps={step},num_test=60,q_scale=0.5"
    lines = {"interpolation-points=2", f"interpolation-steps={step},to=1,points=2"}
    assert names == {f"evaluation-steps={step}", changed, *lines}
    assert {path.stem for path in (folder / "figures").iterdir()} >= names
    found = xr.load_dataset(folder / "analysis" / f"{changed}.nc")
    assert json.loads(found.attrs["changed"]) == {"num_test": 60, "q_scale": 0.5}
    assert found.attrs["complete"] == 1
    assert "evaluated with num_test = 60" in figures.measured(found).get_suptitle()


def test_names_of_files_hold_no_separators():
    changed = {"data_dir": "/some/where", "side": 8}
    name = measure.file_name("evaluation", {"changed": changed, "steps": (1, 20)})
    assert name == "evaluation-steps=1+20,data_dir=_some_where,side=8"
    assert measure.file_name("evaluation", {"changed": None, "steps": None}) == "evaluation"
    assert measure.file_name("interpolation", {"start": 0, "to": None}) == "interpolation-start=0"


def test_a_diverged_member_is_not_measured(tmp_path):
    fields = TINY | {"eta_init": (0.2, 0.05), "tau_xi": (1e38,), "noise_scale": (1.0,)}
    experiment.run(parse("sweep", "smoke", **fields), tmp_path / "run")
    found = measure.norms(lr_order_jax.load(tmp_path / "run"))
    assert (found["status"] == Status.DIVERGED).all()
    assert np.isnan(found["norm"].isel(checkpoint=-1)).all()


@pytest.mark.parametrize("structure", ["coupled", "convolution"])
def test_other_structures_show_activations(tmp_path, structure):
    same = {"m_v": 4, "v_representation": "ambient", "probes": (), "structure": structure}
    experiment.run(parse("sweep", "smoke", **(TINY | same)), tmp_path / "run")
    found = measure.activations(lr_order_jax.load(tmp_path / "run"))
    assert set(found["layer"].values) == ({"units"} if structure == "coupled" else {"W", "V"})
    assert ((found["active"] > 0) & (found["active"] < 1)).any()


def test_the_limit_has_no_weights(tmp_path):
    experiment.run(parse("lazy_limit", "smoke", num_seeds=1), tmp_path / "run")
    run = lr_order_jax.load(tmp_path / "run")
    assert np.isfinite(measure.evaluation(run)["train_loss"]).all()
    for name in ("activations", "interpolation", "norms", "sharpness"):
        with pytest.raises(ValueError, match=r"has no weights|shows no activations"):
            measure.MEASURES[name](run)


OF_IMAGES = {"record_examples": "yes", "num_seeds": 1, "keep_at": (1.0,), "epochs": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "run"
    experiment.run(parse("patch_cifar", "smoke", **OF_IMAGES), folder)
    return lr_order_jax.load(folder)


@pytest.mark.slow
def test_a_run_of_images_cut_short_is_measured(tmp_path, monkeypatch):
    fields = OF_IMAGES | {"keep_at": (0.0, 1.0)}
    half_a_run(parse("patch_cifar", "smoke", **fields), tmp_path / "run", monkeypatch)
    half = lr_order_jax.load(tmp_path / "run")
    assert len(half.checkpoints) == 2
    assert not half.dataset.attrs["complete"]
    options = {"interpolation": {"points": 2}, "sharpness": {"iterations": 2}}
    for name, function in measure.MEASURES.items():
        found = function(half, **options.get(name, {}))
        for variable in found.data_vars.values():
            assert np.isfinite(variable).any(), (name, variable.name)


@pytest.mark.slow
def test_measurements_of_a_wide_resnet(images):
    run, step = images, max(images.checkpoints)
    found = measure.evaluation(run)
    for name in ("train_loss", "clean_accuracy", "patch_accuracy"):
        expected = results.final(run.dataset, name).transpose("seed", "arm")
        np.testing.assert_allclose(found[name].isel(checkpoint=-1), expected, rtol=1e-5)
    shown = measure.activations(run, steps=[step])
    assert len(shown["layer"]) == 7  # two a block of depth 10 and the last
    assert {"act", "group1_block1/act1", "group3_block1/act2"} <= set(shown["layer"].values)
    assert ((shown["active"] > 0) & (shown["active"] < 1)).all()
    assert (shown["effective_rank"] >= 1).all()
    assert {"conv", "group1_block1", "linear"} <= set(measure.norms(run)["block"].values)
    line = measure.interpolation(run, points=3)
    np.testing.assert_allclose(
        line["train_loss"].isel(checkpoint=-1, t=-1),
        found["train_loss"].isel(checkpoint=-1),
        rtol=1e-4,
    )


@pytest.mark.slow
def test_hessian_products_of_a_wide_resnet_add_up_over_batches(images):
    """Against forward over reverse on the whole training loss."""
    run, step = images, max(images.checkpoints)
    assert run.problem.num_evaluation_batches == 1
    several = measure.EVALUATION_BATCH // 8
    problem = run.problem
    model, data = member_of(run, step, 0, 0), run.data[0]
    flat, unravel = jax.flatten_util.ravel_pytree(model.params)
    v = np.random.default_rng(1).standard_normal(flat.size).astype(np.float32)
    evaluate = engine.make_evaluate(problem, "dispatch")

    def loss(weights):
        return evaluate(data, None, Model(unravel(weights), model.stats))["train_loss"]

    expected = jax.jvp(jax.grad(loss), (flat,), (jnp.asarray(v),))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_cifar, "EVALUATION_BATCH", several)  # 62 images: seven batches
        assert problem.num_evaluation_batches == 7
        product = measure._hessian(run)(run.checkpoints[step])
        mine = product(np.broadcast_to(v, (*run.grid.shape, v.size)))[0, 0]
    np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


class SeesTheImage:
    """A network that finds the test image under the patch, and is right."""

    def __init__(self, run):
        shared = run.data[0].shared
        self.images = run.problem.normalised(shared.test_images)
        self.labels = jnp.asarray(shared.test_labels, jnp.int32)

    def apply(self, variables, images, train):
        is_same = jnp.abs(images[:, None] - self.images[None]) < 1e-4  # beside the patch
        found = jnp.argmax(jnp.sum(is_same, axis=(2, 3, 4)), axis=1)
        return jax.nn.one_hot(self.labels[found], 10)


@pytest.mark.slow
def test_wrong_patches(images):
    found = measure.wrong_patch(images)
    total = found["accuracy_under_wrong_patch"] + found["wrong_patch_believed"]
    assert ((total >= 0) & (total <= 1)).all()
    counts = found["wrong_patch_believed"] * images.problem.fields.num_test
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(images.problem.__dict__, "network", SeesTheImage(images))
        seen = measure.wrong_patch(images)
    assert (seen["accuracy_under_wrong_patch"] == 1).all()
    assert (seen["wrong_patch_believed"] == 0).all()
    again = measure.wrong_patch(images)  # the classes are drawn by the seed
    assert again.identical(found)


@pytest.mark.slow
def test_first_learned(images):
    found = measure.first_learned(images)
    right = images.dataset["train_right"].values[:, :, 1:]
    ever, at_end = np.nanmax(right, axis=2) == 1, right[:, :, -1] == 1
    np.testing.assert_allclose(found["learned"].values, ever.mean(axis=-1))
    np.testing.assert_allclose(found["right_to_the_end"].values, at_end.mean(axis=-1))
    assert (found["learned_for_good"] >= found["first_learned"]).values[at_end].all()


@pytest.mark.slow
def test_images_are_measured_beside_a_member_that_diverged(tmp_path):
    rates = {"eta_init": (1e30, 0.004, 0.004)}
    experiment.run(parse("patch_cifar", "smoke", **(OF_IMAGES | rates)), tmp_path / "run")
    run = lr_order_jax.load(tmp_path / "run")
    assert (run.dataset["status"].sel(arm="large") == Status.DIVERGED).all()
    options = {"interpolation": {"points": 2}, "sharpness": {"iterations": 2}}
    for name, function in measure.MEASURES.items():
        found = function(run, **options.get(name, {}))
        for variable in found.drop_vars(["status", "time"], errors="ignore").data_vars.values():
            assert np.isnan(variable.sel(arm="large")).all(), (name, variable.name)
            assert np.isfinite(variable.sel(arm="small")).any(), (name, variable.name)
        assert figures.measured(found) is not None
        assert ("remark" in found.attrs) == (name == "interpolation")
        table = results.measured_table(found)
        assert "the procedural stand-in" in table.title
        assert bool(table.remarks) == (name == "interpolation")


@pytest.mark.slow
def test_another_data_set_is_told(images):
    found = measure.evaluation(images, steps=[max(images.checkpoints)], changed={"num_test": 50})
    assert results.title_of(found) == (
        "patch_cifar on the procedural stand-in (not CIFAR-10), evaluated with num_test = 50"
    )


def test_the_name_of_a_changed_data_set_stands_in_the_title():
    found = xr.Dataset(attrs={"problem": "p", "dataset": "cifar10", "variant": "evaluated with x"})
    assert results.title_of(found) == "p on CIFAR-10, evaluated with x"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "analysis.measure", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_writes_and_draws(run):
    done = command("norms", run.workdir, f"--steps={max(run.checkpoints)}")
    assert done.returncode == 0, done.stderr
    assert "signal_norm" in done.stdout
    stem = f"norms-steps={max(run.checkpoints)}"
    found = xr.load_dataset(run.workdir / "analysis" / f"{stem}.nc")
    assert found["norm"].dims == ("checkpoint", "seed", "eta_init", "block")
    assert json.loads(found.attrs["config"])["d"] == 6
    assert (run.workdir / "figures" / f"{stem}.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("norms", "{run}", "--steps=5"), "--steps: 5 is none of"),
        (("first_learned", "{run}"), "problem two_layer does not record single examples"),
        (("wrong_patch", "{run}"), "must be a run of patch_cifar with patches"),
        (("norms", "nowhere"), "cannot be read"),
        (("evaluation", "{run}", "--changed", "num_test=0"), "config.num_test"),
        (("interpolation", "{run}", "--points=1"), "--points: 1, must be at least 2"),
    ],
)
def test_wrong_input_gives_one_line(run, arguments, line):
    done = command(*(str(a).replace("{run}", str(run.workdir)) for a in arguments))
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "names"),
    [
        ("run", ("evaluation", "activations", "interpolation", "norms")),
        ("images", ("first_learned", "wrong_patch")),
    ],
)
def test_the_report_shows_all_measurements(request, tmp_path, of, names):
    """As they are read from their files."""
    of = request.getfixturevalue(of)
    folder = shutil.copytree(of.workdir, tmp_path / "run")
    shutil.rmtree(folder / "analysis", ignore_errors=True)
    for name in names:
        found = measure.MEASURES[name](of)
        assert len(figures.measured(found).axes) >= 2
        (folder / "analysis").mkdir(exist_ok=True)
        results.write_results(found, folder / "analysis" / f"{name}.nc")
    report.report([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for name in names:
        told = name.replace("_", " ").capitalize()
        assert f"<caption>{told}: " in page
        assert f'alt="{told}: ' in page
    assert "(older: " not in page
