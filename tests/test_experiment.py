"""The host loop: what is recorded when, and that stopping and resuming change nothing."""

import errno
import json
import os
import shutil
import signal

import numpy as np
import pytest

from lr_order_jax import (
    checkpoint,
    directory,
    experiment,
    placement,
    progress,
    results,
    spec,
    verify,
)
from lr_order_jax.algorithm import Cause, Status
from lr_order_jax.fields import ConfigError


@pytest.fixture
def config(tiny):
    """Rates that do not divide each other: members are due at steps of their own."""

    def make(**changes):
        base = {
            "eta_init": (0.2, 0.07, 0.03),
            "eta_2": (0.03,),
            "flow_time_1": 2.0,
            "flow_time_2": 1.5,
            "num_records": 7,
            "n": 40,
        }
        return tiny(**(base | changes))

    return make


def run(values, folder):
    return experiment.run(spec.parse(values), folder)


def test_records_stand_on_the_common_time_grid(config, tmp_path):
    ds = run(config(), tmp_path / "run")
    np.testing.assert_allclose(ds["flow_time"], np.linspace(0, 3.5, 8))
    for h, rate in enumerate(ds["eta_init"].values):
        steps = ds["step"].isel(seed=0, eta_init=h).values
        for time, step, now in zip(ds["flow_time"].values, steps, range(8), strict=True):
            first = int(2.0 / rate + 1e-9) if rate > 0.03 else 10**9
            taken = step * rate if step <= first else first * rate + (step - first) * 0.03
            last_rate = rate if step <= first else 0.03
            if now < 7:  # reached by this step and not by the one before
                assert time - 1e-9 <= taken < time + last_rate + 1e-9, rate
            else:  # ended as close before the last point as steps fit
                assert time - last_rate - 0.07 < taken <= time + 1e-9, rate
    rates = ds["learning_rate"].isel(seed=0).values
    np.testing.assert_array_equal(rates[2], 0.03)
    np.testing.assert_array_equal(rates[0], [0.2] * 4 + [0.03] * 4)
    assert ds.attrs["complete"] == 1


def test_no_q_only_examples_leave_an_empty_panel(config, tmp_path):
    ds = run(config(q0=0.0), tmp_path / "run")
    assert ds["train_loss_q_only"].isnull().all()
    assert (tmp_path / "run" / "figures" / "learning_order.png").exists()


def test_status_and_times_of_members(config, tmp_path):
    ds = run(config(), tmp_path / "run")
    assert (ds["status"] == Status.COMPLETED).all()
    np.testing.assert_allclose(ds["annealed_at"].isel(seed=0), [2.0, 28 * 0.07, np.nan])
    np.testing.assert_allclose(ds["ended_at"].isel(seed=1), [3.5, 28 * 0.07 + 1.5, 116 * 0.03])
    assert list(ds["status"].attrs["flag_values"]) == [s.value for s in Status]
    assert ds["status"].attrs["flag_meanings"].split() == [s.name.lower() for s in Status]
    for variable in ds.variables.values():
        assert {"long_name", "units"} <= set(variable.attrs)


def test_records_equal_a_plain_run_of_the_same_member(config, tmp_path):
    """One member stepped one by one, evaluated at the recorded steps, gives the same figures."""
    import jax
    import jax.numpy as jnp

    from lr_order_jax import algorithm, engine, sweep
    from lr_order_jax.problem import Model

    run_spec = spec.parse(config())
    ds = experiment.run(run_spec, tmp_path / "run")
    grid = sweep.make_grid(run_spec.problem, run_spec.seeds, ())
    s, h = 1, 1
    pick = lambda leaf: leaf[s, h]  # noqa: E731
    state = jax.tree.map(pick, sweep.init_state(run_spec.problem, grid))
    hypers = algorithm.on_device(jax.tree.map(pick, grid.hypers))
    data = sweep.data_of_seed(grid.data, s)
    step = jax.jit(
        lambda s, t: engine.train_step(run_spec.problem, data, hypers, s, t, grid.keys[1], 40)[0]
    )
    evaluate = engine.make_evaluate(run_spec.problem, "scan")
    wanted = ds.isel(seed=s, eta_init=h)
    seen = 0
    for t in range(int(wanted["step"].max()) + 1):
        for i in np.flatnonzero(wanted["step"].values == t):
            model = Model(state.params, state.stats)
            out = evaluate(data, None, model)
            for name in run_spec.problem.variables:
                value = float(wanted[name].values[i])
                assert float(out[name]) == pytest.approx(value, rel=1e-4, abs=1e-5), name
            seen += 1
        state = step(state, jnp.int32(t))
    assert seen == 8


def test_a_member_that_stops_is_recorded_once_more_and_then_nan(config, tmp_path):
    ds = run(config(epsilon_2=(100.0,)), tmp_path / "run")  # stops at once in the last phase
    assert (ds["status"] == Status.STOPPED).all()
    small = ds.isel(eta_init=2, seed=0)  # Algorithm 2: stops before its first step
    np.testing.assert_array_equal(np.isfinite(small["train_loss"]), [True] + [False] * 7)
    large = ds.isel(eta_init=0, seed=0)
    assert float(large["ended_at"]) == 2.0
    np.testing.assert_array_equal(np.isfinite(large["train_loss"]), [True] * 5 + [False] * 3)


def test_a_threshold_anneals_by_the_loss(config, tmp_path):
    ds = run(config(epsilon_1=(100.0,)), tmp_path / "run")
    np.testing.assert_array_equal(ds["annealed_at"].values, [[0.0, 0.0, np.nan]] * 2)
    np.testing.assert_allclose(ds["ended_at"].isel(eta_init=0), 1.5)


def test_a_diverged_member_ends_alone_and_is_marked(config, tmp_path):
    zipped = {"zipped": ("eta_init+noise_scale",)}
    clean = run(config(noise_scale=(1.0, 1.0, 1.0), **zipped), tmp_path / "clean")
    wild = run(config(noise_scale=(1e38, 1.0, 1.0), **zipped), tmp_path / "wild")
    assert (wild["status"].isel(eta_init=0) == Status.DIVERGED).all()
    first = wild.isel(eta_init=0)
    assert np.isfinite(first["train_loss"].isel(flow_time=0)).all()
    assert np.isnan(first["train_loss"].isel(flow_time=slice(1, None))).all()
    assert (first["ended_at"] <= 0.6).all()  # at its first record at the latest
    for name in ("train_loss", "second_difference", "test_error_p_only"):
        np.testing.assert_array_equal(
            wild[name].isel(eta_init=[1, 2]), clean[name].isel(eta_init=[1, 2])
        )


@pytest.mark.parametrize("when", ["start", "middle", "annealing"])
@pytest.mark.parametrize(
    ("value", "cause"),
    [(np.nan, Cause.WEIGHTS_NAN), (-np.inf, Cause.WEIGHTS_INFINITE), (3e38, Cause.LOSS)],
)
def test_one_member_that_breaks_is_named_and_changes_no_other_by_a_bit(
    config, tmp_path, monkeypatch, when, value, cause
):
    """NaN, infinity and overflow in the weights of a member of rate 0.2, at several steps."""
    at = {"start": 0, "middle": 3, "annealing": 10}[when]
    clean = run(config(), tmp_path / "clean")
    record, s, h = experiment._Run.record, 1, 0

    def record_and_break(this):
        record(this)
        if this.step == at:
            this.fetch()
            this.kept.params["W"][s, h] = value
            this.put_columns(this.columns)

    monkeypatch.setattr(experiment._Run, "record", record_and_break)
    broken = run(config(), tmp_path / "broken")
    status = broken["status"].values
    assert status[s, h] == Status.DIVERGED
    assert (np.delete(status.ravel(), 3 * s + h) == Status.COMPLETED).all()
    assert broken["cause"].values[s, h] == cause
    assert np.delete(broken["cause"].values.ravel(), 3 * s + h).sum() == 0
    assert broken["steps_taken"].values[s, h] == at
    (line,) = results.diverged(broken)
    assert line.startswith("seed 1, eta_init = 0.2: diverged at flow time ")
    assert line.endswith(f"after {at} steps: {results.CAUSES[cause]}")
    assert line in results.learning_order_table(broken).remarks
    of_members = [name for name, array in clean.items() if array.ndim > 1]
    for name in of_members:
        ours, theirs = (ds[name].values.copy() for ds in (broken, clean))
        ours[s, h], theirs[s, h] = 0, 0
        np.testing.assert_array_equal(ours, theirs, err_msg=str(name))


def test_columns_of_which_all_members_break_change_no_other_by_a_bit(config, tmp_path):
    """They are not dropped while the others run: last digits can depend on how many there are."""
    rates = (0.03, 0.03, 0.03, 0.03)
    noise = {"zipped": ("eta_init+noise_scale",), "eta_init": rates, "eta_1": 0.2}
    clean = run(config(noise_scale=(0.5, 0.6, 0.7, 1.0), **noise), tmp_path / "clean")
    wild = run(config(noise_scale=(1e38, 9e37, 8e37, 1.0), **noise), tmp_path / "wild")
    assert (wild["status"].isel(eta_init=[0, 1, 2]) == Status.DIVERGED).all()
    for name in ("train_loss", "second_difference", "test_error_p_only"):
        ours, theirs = (ds[name].isel(eta_init=3).values for ds in (wild, clean))
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_no_second_phase_means_no_step_in_it(config, tmp_path):
    ds = run(config(flow_time_2=0.0), tmp_path / "run")
    np.testing.assert_allclose(ds["ended_at"].isel(seed=0), [2.0, 28 * 0.07, 66 * 0.03])
    assert ds["annealed_at"].isnull().all()


def test_metrics_name_every_field_of_an_axis(config, tmp_path):
    zipped = {"zipped": ("eta_init+noise_scale",), "noise_scale": (0.0, 1.0)}
    run(config(eta_init=(0.2, 0.2), **zipped), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["noise_scale"] for line in lines} == {0.0, 1.0}


def test_the_rate_may_follow_another_field_of_its_axis(config, tmp_path):
    """The table and both figures are drawn; the axis bears the first field's name."""
    zipped = {"zipped": ("noise_scale+eta_init",), "noise_scale": (0.0, 1.0)}
    ds = run(config(eta_init=(0.2, 0.03), **zipped), tmp_path / "run")
    assert ds["train_loss"].dims == ("seed", "noise_scale", "flow_time")
    assert ds["eta_init"].dims == ("noise_scale",)
    table = results.learning_order_table(ds)
    assert table.columns[:2] == ("noise_scale", "eta_init")
    assert len(table.rows) == 2
    assert len(table.remarks) == 1


def test_metrics_have_one_line_a_record(config, tmp_path):
    ds = run(config(), tmp_path / "run")
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 2 * 3 * 8
    line = lines[-1]
    point = ds.sel(seed=line["seed"], eta_init=line["eta_init"]).sel(flow_time=line["flow_time"])
    assert line["second_difference"] == float(point["second_difference"])
    assert isinstance(line["step"], int)


def files(folder):
    return {name: (folder / name).read_bytes() for name in ("results.nc", "metrics.jsonl")}


def interrupt_after(monkeypatch, updates, signum):
    """Sends this process a signal at the given progress update."""
    original, seen = progress.Progress.update, []

    def update(self, *arguments):
        seen.append(None)
        if len(seen) == updates:
            os.kill(os.getpid(), signum)
        return original(self, *arguments)

    monkeypatch.setattr(progress.Progress, "update", update)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_the_same_command_continues_bit_by_bit(
    config, tmp_path, monkeypatch, signum
):
    run(config(), tmp_path / "whole")
    for updates in (1, 4, 9):
        with monkeypatch.context() as patch:
            interrupt_after(patch, updates, signum)
            patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
            with pytest.raises(experiment.Interrupted) as interruption:
                run(config(), tmp_path / "parts")
            assert interruption.value.signum == signum
        partial = results.read_results(tmp_path / "parts")
        assert partial.attrs["complete"] == 0
        assert np.isnan(partial["train_loss"]).any()
    run(config(), tmp_path / "parts")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_checkpoint_interval_and_ways_to_drive_are_free_to_change(config, tmp_path, monkeypatch):
    run(config(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5, signal.SIGTERM)
        with pytest.raises(experiment.Interrupted):
            run(config(checkpoint_every=0.0), tmp_path / "parts")
    run(config(checkpoint_every=0.0, driving="dispatch"), tmp_path / "parts")
    whole, parts = (results.read_results(tmp_path / name) for name in ("whole", "parts"))
    for name in ("train_loss", "second_difference"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-5)


def test_running_again_says_that_all_is_done(config, tmp_path, capsys):
    run(config(), tmp_path / "run")
    before = files(tmp_path / "run")
    capsys.readouterr()
    run(config(), tmp_path / "run")
    assert "nothing left to run" in capsys.readouterr().err
    assert files(tmp_path / "run") == before


def test_lost_results_are_written_again_from_the_checkpoint(config, tmp_path):
    run(config(), tmp_path / "run")
    before = files(tmp_path / "run")
    (tmp_path / "run" / "results.nc").unlink()
    run(config(), tmp_path / "run")
    assert files(tmp_path / "run") == before


def test_a_damaged_newest_checkpoint_costs_no_more_than_itself(
    config, tmp_path, monkeypatch, capsys
):
    run(config(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 9, signal.SIGTERM)
        with pytest.raises(experiment.Interrupted):
            run(config(checkpoint_every=0.0), tmp_path / "parts")
    steps = sorted(int(p.name) for p in (tmp_path / "parts" / "checkpoints").iterdir())
    assert len(steps) > 1
    newest = tmp_path / "parts" / "checkpoints" / str(steps[-1])
    for path in newest.rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])
    capsys.readouterr()
    run(config(), tmp_path / "parts")
    told = capsys.readouterr().err
    assert f"checkpoint of step {steps[-1]}" in told
    assert f"continuing at step {steps[-2]}" in told
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_alone(config, tmp_path):
    run(config(checkpoint_every=0.0), tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])
    before = snapshot(tmp_path / "run")
    with pytest.raises(ConfigError, match="every checkpoint is damaged"):
        run(config(), tmp_path / "run")
    assert snapshot(tmp_path / "run") == before


def test_checkpoints_of_another_config_are_refused_without_a_config_json(config, tmp_path):
    """By results.nc, and without it by the checkpoints."""
    run(config(), tmp_path / "run")
    for lost, told in (("config.json", "a run of another config"), ("results.nc", "belongs to an")):
        (tmp_path / "run" / lost).unlink()
        before = snapshot(tmp_path / "run")
        with pytest.raises(ConfigError, match=rf"{told}.*: r is 0\.1 there, 0\.3 here"):
            run(config(r=0.3), tmp_path / "run")
        assert snapshot(tmp_path / "run") == before
    run(config(), tmp_path / "run")  # its own config continues


def test_another_shard_is_refused_by_whatever_is_left(config, tmp_path):
    """By config.json, without it by results.nc, and without that by the members of the
    checkpoints: a seed's numbers are never taken for another's."""
    asked = {part: config(seeds=(3, 4), eta_init=(0.2,), shard=part) for part in ("1/2", "2/2")}
    run(asked["1/2"], tmp_path / "run")
    told = ("holds shard 1/2", "holds shard 1/2", r"holds other members: seed is \[3\] there")
    for lost, line in zip((None, "config.json", "results.nc"), told, strict=True):
        if lost:
            (tmp_path / "run" / lost).unlink()
        before = snapshot(tmp_path / "run")
        with pytest.raises(ConfigError, match=line):
            run(asked["2/2"], tmp_path / "run")
        assert snapshot(tmp_path / "run") == before
    run(asked["1/2"], tmp_path / "run")
    assert results.read_results(tmp_path / "run")["seed"].values.tolist() == [3]


def test_an_edited_config_json_is_refused(config, tmp_path):
    run(config(), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    unsealed = {name: value for name, value in stored.items() if name != "seal"}
    changed = ({"how": stored["how"] | {"shard": "1/2"}}, {"audit": []}, {"seal": "0"})
    for config_json in (*(stored | changes for changes in changed), unsealed):
        path.write_text(json.dumps(config_json))
        with pytest.raises(ConfigError, match=r"config\.json: does not match its seal"):
            run(config(), tmp_path / "run")
    path.unlink()  # what else is there says whose it is
    run(config(), tmp_path / "run")
    assert verify.verify(tmp_path / "run").wrong == []


def test_lines_of_metrics_that_no_checkpoint_knows_are_kept_to_the_end(
    config, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    run(config(), folder)
    whole = (folder / "metrics.jsonl").read_text()
    for lost in ("checkpoints", "figures"):
        shutil.rmtree(folder / lost)
    (folder / "results.nc").unlink()
    for _ in range(2):  # what the second attempt finds is shorter
        with monkeypatch.context() as patch:
            patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
            patch.setattr(experiment._Run, "save", lambda *_, **__: 1 / 0)
            interrupt_after(patch, 3, signal.SIGTERM)
            with pytest.raises(ZeroDivisionError):
                run(config(), folder)
        assert (folder / results.METRICS_KEPT).read_text() == whole
        assert (folder / "metrics.jsonl").stat().st_size < len(whole)
    run(config(), folder)
    assert (folder / "metrics.jsonl").read_text() == whole
    assert not (folder / results.METRICS_KEPT).exists()


def test_whole_results_stay_until_a_run_that_fell_back_has_come_as_far(
    config, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    run(config(keep_at=(1.0,)), folder)
    whole = (folder / "results.nc").read_bytes()
    for step in checkpoint.stored_steps(folder)[1:]:
        shutil.rmtree(folder / "checkpoints" / str(step))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, signal.SIGTERM)
        patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
        with pytest.raises(experiment.Interrupted):
            run(config(keep_at=(1.0,)), folder)
    assert (folder / "results.nc").read_bytes() == whole
    report = verify.verify(folder)
    assert report.wrong == []
    assert "results.nc: goes beyond the checkpoint" in "\n".join(report.found)
    run(config(keep_at=(1.0,)), folder)
    assert (folder / "results.nc").read_bytes() == whole
    assert verify.verify(folder).wrong == []


def test_records_that_are_made_again_in_another_way_are_not_wrong(config, tmp_path, monkeypatch):
    """Their last digits may differ from those of results that still go beyond; more may not."""
    folder = tmp_path / "run"
    run(config(keep_at=(1.0,)), folder)
    for step in checkpoint.stored_steps(folder)[1:]:
        shutil.rmtree(folder / "checkpoints" / str(step))
    measure = placement.Stacked.measure
    off = [1 + 1e-6]

    def rounded(self, due):
        return {name: off[0] * value for name, value in measure(self, due).items()}

    for off[0], told in ((1 + 1e-6, False), (1.01, True)):
        with monkeypatch.context() as patch:
            interrupt_after(patch, 12, signal.SIGTERM)
            patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
            patch.setattr(placement.Stacked, "measure", rounded)
            with pytest.raises(experiment.Interrupted):
                run(config(keep_at=(1.0,)), folder)
        report = verify.verify(folder)
        assert "results.nc: goes beyond the checkpoint" in "\n".join(report.found)
        assert bool(report.wrong) == told


def test_what_a_run_that_goes_on_cannot_heed_is_told(config, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6, signal.SIGTERM)
        with pytest.raises(experiment.Interrupted):
            run(config(keep_at=(0.5,)), tmp_path / "run")
    capsys.readouterr()
    run(config(keep_at=(0.25, 0.5), group_size=1), tmp_path / "run")
    told = capsys.readouterr().err
    assert "config.keep_at = 0.25: the run has gone beyond it; not kept" in told
    assert "config.keep_at = 0.5" not in told
    assert "config.group_size = 1: 3 columns of members have started together" in told


def test_lines_of_another_run_are_not_removed(config, tmp_path):
    folder = tmp_path / "run"
    asked = {part: config(seeds=(3, 4), eta_init=(0.2,), shard=part) for part in ("1/2", "2/2")}
    run(asked["1/2"], folder)
    lines = (folder / "metrics.jsonl").read_text()
    for name in ("checkpoints", "figures"):
        shutil.rmtree(folder / name)
    for name in ("config.json", "results.nc"):
        (folder / name).unlink()
    run(asked["2/2"], folder)
    assert (folder / results.METRICS_KEPT).read_text() == lines


def test_results_that_are_lost_are_written_before_the_run_goes_on(config, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3, signal.SIGTERM)
        patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
        with pytest.raises(experiment.Interrupted):
            run(config(), folder)
    saved = (folder / "results.nc").read_bytes()
    (folder / "results.nc").unlink()
    monkeypatch.setattr(experiment._Run, "loop", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(config(), folder)
    assert (folder / "results.nc").read_bytes() == saved


def test_results_without_checkpoints_are_refused_and_left_alone(config, tmp_path):
    """To start anew would overwrite them."""
    folder = tmp_path / "run"
    run(config(), folder)
    shutil.rmtree(folder / "checkpoints")
    for lost in ("nothing", "config.json"):
        (folder / lost).unlink(missing_ok=True)
        before = snapshot(folder)
        with pytest.raises(ConfigError, match=r"none is left of the run whose records results\.nc"):
            run(config(), folder)
        assert snapshot(folder) == before
        assert not (folder / "checkpoints").exists()
    (folder / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="none is left"):
        run(config(), folder)
    (folder / "checkpoints").rmdir()
    (folder / "checkpoints").touch()
    with pytest.raises(ConfigError, match="checkpoints: is not a directory"):
        run(config(), folder)
    assert snapshot(folder) == before | {folder / "checkpoints": b""}


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "results.nc"])
def test_a_directory_in_the_place_of_a_file_is_refused(config, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / name).mkdir()
    with pytest.raises(ConfigError, match=rf"{name}: is not a file; move it away"):
        run(config(), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", name}


def test_a_workdir_that_is_a_link_to_nowhere_is_refused(config, tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is a link to what is not there"):
        run(config(), tmp_path / "run")


def test_a_lock_whose_directory_another_run_has_removed_is_none(config, tmp_path, monkeypatch):
    """A run that is refused removes the directory it made, perhaps after we have opened its lock;
    a third one could then lock a new file of that name."""
    flock = directory.fcntl.flock

    def lock_and_lose(lock, how):
        flock(lock, how)
        (tmp_path / "run" / ".lock").unlink()
        (tmp_path / "run" / ".lock").touch()

    monkeypatch.setattr(directory.fcntl, "flock", lock_and_lose)
    with pytest.raises(ConfigError, match="is in use by a live run"):
        run(config(), tmp_path / "run")


def test_a_file_system_without_locks_is_told(config, tmp_path, monkeypatch, capsys):
    def flock(*arguments):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(directory.fcntl, "flock", flock)
    run(config(num_records=1), tmp_path / "run")
    assert f"{tmp_path / 'run'}: cannot be locked (Operation not supported)" in (
        capsys.readouterr().err
    )


def test_config_json_keeps_every_session(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, signal.SIGTERM)
        with pytest.raises(experiment.Interrupted):
            run(config(), tmp_path / "run")
    run(config(mapping="map"), tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["what"]["eta_1"] == 0.2
    assert stored["how"]["mapping"] == "map"
    assert len(stored["sessions"]) == 2
    assert stored["device"]["platform"] == "cpu"


def test_lost_lines_of_metrics_are_written_again(config, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6, signal.SIGTERM)
        with pytest.raises(experiment.Interrupted):
            run(config(), tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    os.truncate(metrics, metrics.stat().st_size - 20)
    run(config(), tmp_path / "run")
    assert "lines are missing" in capsys.readouterr().err
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    points = {(line["seed"], line["eta_init"], line["flow_time"]) for line in lines}
    assert len(points) == len(lines) == 2 * 3 * 8


def snapshot(folder):
    """Every file of a folder but the lock, with its bytes."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_workdir_of_another_config_is_refused_and_left_alone(config, tmp_path):
    run(config(), tmp_path / "run")
    before = snapshot(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"r is 0\.1 there, 0\.2 here"):
        run(config(r=0.2), tmp_path / "run")
    assert snapshot(tmp_path / "run") == before


def test_a_workdir_with_other_files_is_refused_and_left_alone(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(ConfigError, match="holds other files"):
        run(config(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_workdir_that_is_a_file_is_refused(config, tmp_path):
    (tmp_path / "run").write_text("words")
    with pytest.raises(ConfigError, match="is not a directory"):
        run(config(), tmp_path / "run")


def test_a_workdir_in_use_is_refused(config, tmp_path):
    with directory.held(tmp_path / "run"), pytest.raises(ConfigError, match="in use"):
        run(config(), tmp_path / "run")


def test_a_refused_config_makes_no_directory(config, tmp_path):
    with pytest.raises(ConfigError):
        run(config(eta_init=(0.2, 0.01)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_checkpoint_holds_what_analysis_needs(config, tmp_path):
    ds = run(config(), tmp_path / "run")
    tree, meta = checkpoint.restore(tmp_path / "run")
    assert tree["params"]["W"].shape == (2, 3, 6, 4)
    assert tree["params"]["V"]["z"].shape == (2, 3, 8)
    np.testing.assert_array_equal(tree["history"]["train_loss"], ds["train_loss"])
    assert meta["step"] == int(ds["step"].max())


def test_axes_beside_the_rate_are_dimensions_and_zipped_ones_coordinates(config, tmp_path):
    ds = run(config(noise_scale=(0.0, 1.0), eta_init=(0.2, 0.07)), tmp_path / "product")
    assert ds["train_loss"].dims == ("seed", "eta_init", "noise_scale", "flow_time")
    zipped = config(noise_scale=(0.0, 1.0), eta_init=(0.2, 0.07), zipped=("eta_init+noise_scale",))
    both = run(zipped, tmp_path / "zipped")
    assert both["train_loss"].dims == ("seed", "eta_init", "flow_time")
    np.testing.assert_array_equal(both["noise_scale"], [0.0, 1.0])
    assert both["noise_scale"].dims == ("eta_init",)
    np.testing.assert_allclose(
        both["train_loss"].isel(eta_init=1),
        ds["train_loss"].isel(eta_init=1, noise_scale=1),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_scale": (0.0, 1.0)},
        {"lam": (0.0, 0.01)},
        {"zipped": ("eta_init+noise_scale",), "noise_scale": (1.0, 2.0)},
        {"eta_init": (0.2,), "eta_1": 0.3, "probes": ("lemma_5_2",)},
        {"tau0_v": 0.0, "noise_init": (0.5,), "noise_factor": (0.1,)},
    ],
)
def test_sweeps_of_every_kind_run_to_the_end(tiny, tmp_path, changes):
    """With the audit before and the figures after: members without noise or decay, zipped axes,
    neither of the two algorithms."""
    values = tiny(num_records=2, flow_time_1=1.0, flow_time_2=1.0, **changes)
    ds = experiment.run(spec.parse(values), tmp_path / "run")
    assert ds.attrs["complete"] == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["audit"]
    assert (tmp_path / "run" / "figures" / "learning_order.png").exists()


def test_a_profile_is_written_once_and_changes_nothing(config, tmp_path, monkeypatch, capsys):
    run(config(), tmp_path / "plain")
    run(config(profile=True), tmp_path / "profiled")
    assert files(tmp_path / "profiled") == files(tmp_path / "plain")
    folder = tmp_path / "profiled" / "profile"
    assert capsys.readouterr().err.count(f"in {folder}") == 1
    assert len(list(folder.rglob("*.trace.json.gz"))) == 1


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_changed_line_of_metrics_is_written_again(config, tmp_path, monkeypatch, is_finished):
    folder, path = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    if not is_finished:
        with monkeypatch.context() as patch:
            interrupt_after(patch, 6, signal.SIGTERM)
            with pytest.raises(experiment.Interrupted):
                run(config(), folder)
    else:
        run(config(), folder)
    text = path.read_text()
    at = text.index('"train_loss": 0.') + len('"train_loss": 0.')
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    assert "has train_loss = " in " ".join(verify.verify(folder).wrong)
    run(config(), folder)
    assert verify.verify(folder).wrong == []
    assert sorted(text.splitlines()) == sorted(
        line for line in path.read_text().splitlines() if line in set(text.splitlines())
    )


def test_a_lost_config_json_of_a_finished_run_is_written_again(config, tmp_path):
    run(config(), tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    run(config(), tmp_path / "run")
    assert verify.verify(tmp_path / "run").wrong == []
    assert directory.read_config(tmp_path / "run")["audit"]


def test_a_run_is_not_continued_on_other_data(config, tmp_path, monkeypatch):
    run(config(), tmp_path / "run")
    other = {"shared/images": "0"}
    monkeypatch.setattr(experiment._Run, "digests_of_data", other)
    with pytest.raises(ConfigError, match="its data set holds other numbers"):
        run(config(), tmp_path / "run")
