"""Groups of members that are trained one after the other, and the memory that asks for them."""

import signal

import jax
import numpy as np
import pytest
from test_experiment import config, interrupt_after, run  # noqa: F401 (a fixture)

from lr_order_jax import (
    checkpoint,
    experiment,
    memory,
    placement,
    results,
    spec,
    sweep,
    verify,
)
from lr_order_jax.algorithm import Status
from lr_order_jax.fields import ConfigError
from lr_order_jax.problems import linear_rule

RATES = (0.2, 0.11, 0.07, 0.03)


@pytest.mark.parametrize("mapping", ["map", "loop"])
def test_groups_change_no_bit_where_members_are_computed_one_by_one(
    config,  # noqa: F811
    tmp_path,
    mapping,
):
    values = {"eta_init": RATES, "mapping": mapping}
    run(config(**values), tmp_path / "whole")
    run(config(**values, group_size=2), tmp_path / "groups")
    whole, groups = ((tmp_path / name / "results.nc").read_bytes() for name in ("whole", "groups"))
    assert whole == groups
    # The weights of every group, although none but the last was saved while it was on the device.
    whole, groups = (checkpoint.restore(tmp_path / name)[0] for name in ("whole", "groups"))
    for part in ("params", "stats", "phase_counts", "status"):
        jax.tree.map(np.testing.assert_array_equal, whole[part], groups[part])


@pytest.mark.parametrize("size", [1, 2])
def test_groups_differ_by_rounding_alone(config, tmp_path, size):  # noqa: F811
    """A mapped axis of size 1, in a group or as the last that runs, gives other last digits."""
    values = {"eta_init": RATES}
    run(config(**values), tmp_path / "whole")
    run(config(**values, group_size=size), tmp_path / "groups")
    whole, groups = (results.read_results(tmp_path / name) for name in ("whole", "groups"))
    for name in ("train_loss", "second_difference", "test_error_both"):
        np.testing.assert_allclose(groups[name], whole[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(groups["step"], whole["step"])


def test_stopping_in_any_group_and_another_size_afterwards_change_nothing(
    config,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    values = {"eta_init": (*RATES, 0.05, 0.04), "keep_at": (1.0,), "mapping": "map"}
    run(config(**values), tmp_path / "whole")
    parts, told, steps = tmp_path / "parts", "", []
    for updates, size in ((3, 2), (30, 2), (60, 2), (5, 4)):
        with monkeypatch.context() as patch:
            interrupt_after(patch, updates, signal.SIGTERM)
            patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
            with pytest.raises(experiment.Interrupted):
                run(config(**values, group_size=size), parts)
        told += capsys.readouterr().err
        assert all(f"continuing at step {step}," in told for step in steps)
        steps.append(checkpoint.stored_steps(parts)[-1])  # counted over all groups
    assert steps == sorted(set(steps))
    assert "2 of 6 columns of members at once, 3 groups" in told
    assert results.read_results(parts).attrs["complete"] == 0
    run(config(**values), parts)
    assert (parts / "results.nc").read_bytes() == (tmp_path / "whole" / "results.nc").read_bytes()
    lines = {name: (tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")}
    assert sorted(lines["parts"].splitlines()) == sorted(lines["whole"].splitlines())


def test_what_is_free_when_a_run_goes_on_does_not_change_its_groups(
    config,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    values = {"eta_init": (*RATES, 0.05, 0.04)}
    fit = [2]
    monkeypatch.setattr(memory, "columns_that_fit", lambda need, asked, free: min(fit[0], asked))
    run(config(**values), tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3, signal.SIGTERM)
        patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
        with pytest.raises(experiment.Interrupted):
            run(config(**values), tmp_path / "parts")
    capsys.readouterr()
    fit = [99]
    run(config(**values), tmp_path / "parts")
    assert "2 of 4 columns of members at once, 2 groups" in capsys.readouterr().err
    whole, parts = (results.read_results(tmp_path / name) for name in ("whole", "parts"))
    assert whole.identical(parts)


def test_a_group_that_ends_without_a_step_has_its_own_checkpoint(
    config,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """Its members diverge before the first step."""
    record = experiment._Run.record

    def diverge(self):
        record(self)
        if self.columns == [1] and self.step == 0:
            self.mark_diverged(0, 1)
            self.mark_diverged(1, 1)

    monkeypatch.setattr(experiment._Run, "record", diverge)
    values = {"eta_init": RATES[:2], "group_size": 1, "checkpoint_every": 0.0}
    ds = run(config(**values), tmp_path / "run")
    assert ds["status"].values.tolist() == [[Status.COMPLETED, Status.DIVERGED]] * 2
    tree, _ = checkpoint.restore(tmp_path / "run")
    np.testing.assert_array_equal(tree["status"], ds["status"].values.reshape(2, 2))
    assert verify.verify(tmp_path / "run").wrong == []


def test_columns_that_ran_on_more_devices_are_refused_where_they_do_not_fit(
    config,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    values = {"eta_init": RATES}
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3, signal.SIGTERM)
        patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
        with pytest.raises(experiment.Interrupted):
            run(config(**values, devices=2), tmp_path / "run")
    monkeypatch.setattr(experiment._Run, "free_memory", lambda self: 1000)
    with pytest.raises(ConfigError, match=r"for the members that 2 devices had at once"):
        run(config(**values, devices=1), tmp_path / "run")
    run(config(**values, devices=2), tmp_path / "run")


def test_what_does_not_fit_is_split_and_what_cannot_is_refused(
    config,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    values = {"eta_init": RATES, "mapping": "map"}
    parsed = spec.parse(config(**values))
    grid = sweep.make_grid(parsed.problem, parsed.seeds, ())
    state = sweep.init_state(parsed.problem, grid)
    members = placement.place_members(parsed.problem, grid, *parsed.ways)
    taken = {k: members.memory(state, range(k)) for k in (2, 3, 4)}
    kept = memory.HOST_COPIES * memory.size_of(state)
    free = kept + (taken[2] + taken[3]) / 2 / memory.SHARE
    monkeypatch.setattr(memory, "refuse_beyond", lambda *_: None)  # tested below
    monkeypatch.setattr(memory, "free_on_host", lambda: free)
    run(config(**values), tmp_path / "split")
    told = capsys.readouterr().err
    assert "2 of 4 columns of members at once, 2 groups" in told
    assert f"memory: {memory.human(taken[2])} for 4 members" in told
    monkeypatch.setattr(memory, "free_on_host", lambda: None)
    run(config(**values), tmp_path / "whole")
    whole, split = ((tmp_path / name / "results.nc").read_bytes() for name in ("whole", "split"))
    assert whole == split
    monkeypatch.setattr(memory, "free_on_host", lambda: kept + 100)
    with pytest.raises(ConfigError, match="for one member of each seed, of 80 bytes"):
        run(config(**values), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_surely_does_not_fit_is_refused_before_it_is_allocated(
    config,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """By the plan of each part: a system that gives memory it has not would kill the process."""
    told, sizes = set(), {"n": 10, "m_v": 5000, "eta_init": (0.2, 0.15, 0.1, 0.07, 0.05, 0.03)}
    for num_records, frees in ((3000, (3_000, 100_000)), (7, (50_000, 600_000))):
        for free in frees:
            monkeypatch.setattr(memory, "free_on_host", lambda free=free: free)
            with pytest.raises(ConfigError, match=r"needs? more memory|for one member") as caught:
                run(config(**sizes, num_records=num_records), tmp_path / "none")
            told.add(str(caught.value).partition(" for ")[2].partition(",")[0])
    wanted = {f"the {what}" for what in ("data of all seeds", "models of all seeds")}
    assert wanted | {"the records of all members", "the state of the members"} <= told
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(memory, "free_on_host", lambda: 100)
    with pytest.raises(ConfigError, match="for the linear rule of all examples, of 100 bytes"):
        linear_rule.best_error(np.ones((9, 2)), np.ones(9), np.ones((3, 2)), np.ones(3))


@pytest.mark.parametrize(
    ("driving", "mapping"),
    [("scan", "vmap"), ("scan", "map"), ("dispatch", "unroll"), ("dispatch", "loop")],
)
def test_a_member_takes_at_least_its_weights_and_memory_grows_with_members(
    config,  # noqa: F811
    driving,
    mapping,
):
    parsed = spec.parse(config(eta_init=RATES, m_v=20_000))
    grid = sweep.make_grid(parsed.problem, parsed.seeds, ())
    state = sweep.init_state(parsed.problem, grid)
    members = placement.place_members(parsed.problem, grid, driving, mapping)
    taken = [members.memory(state, range(k)) for k in (2, 4)]
    column = memory.size_of(state) / len(RATES)  # of two seeds
    assert taken[0] >= 2 * column
    assert column <= (taken[1] - taken[0]) / 2 <= 8 * column


def test_columns_that_fit():
    need = lambda count: 1000 + 100 * count  # noqa: E731
    assert memory.columns_that_fit(need, 50, None) == 50
    assert memory.columns_that_fit(need, 50, 7500) == 50
    assert memory.columns_that_fit(need, 50, 5000) == 30
    assert memory.columns_that_fit(need, 50, 1375) == 1
    with pytest.raises(ConfigError, match="1\\.07 KiB for one member"):
        memory.columns_that_fit(need, 50, 1374)
    assert [memory.human(v) for v in (5, 2048, 3 * 2**20, 5.5 * 2**30)] == [
        *("5 bytes", "2 KiB", "3 MiB", "5.5 GiB")
    ]


def test_the_host_tells_what_is_free():
    free = memory.free_on_host()
    assert free is None or free > 2**20
