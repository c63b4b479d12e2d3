"""--check: what is whole is found whole, and each kind of damage is named."""

import json
import os
import pathlib
import re
import shutil
import tempfile

import numpy as np
import pytest
import xarray as xr
from conftest import load_config

from lr_order_jax import checkpoint, directory, experiment, results, spec, study, verify
from lr_order_jax.algorithm import Status
from lr_order_jax.fields import ConfigError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run, as `tiny` makes it."""
    values = dict(load_config("sweep", "smoke").items())
    values |= {"d": 6, "n": 12, "m_w": 4, "m_v": 8, "num_test": 16, "keep_at": (0.0, 5.0)}
    folder = tmp_path_factory.mktemp("verify") / "run"
    experiment.run(spec.parse(values), folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_finished_run_is_whole(folder):
    report = verify.verify(folder)
    assert report.wrong == []
    told = "\n".join(report.found)
    assert "results.nc: complete; members: 4 completed" in told
    assert "44 records, compared" in told  # 4 members at 11 points
    assert "checkpoints: steps 0, " in told


def results_alone(dataset, path):
    """Writes results without a new digest."""
    path.write_bytes(dataset.to_netcdf(engine="h5netcdf"))


def rewrite(folder, change, write=results.write_results):
    with xr.load_dataset(folder / "results.nc", engine="h5netcdf") as dataset:
        changed = change(dataset)
        write(dataset if changed is None else changed, folder / "results.nc")


def set_value(dataset, name, value):
    dataset[name][(0,) * dataset[name].ndim] = value


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def newest(folder):
    return max((p for p in (folder / "checkpoints").iterdir()), key=lambda p: int(p.name))


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def change_line(folder, number, change):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[number] = change(lines[number])
    path.write_text("\n".join(lines) + "\n")


def other_loss(line):
    """The same length, so that the bytes still add up."""
    record = json.loads(line)
    text = json.dumps(record["train_loss"])
    return line.replace(text, text[:-1] + ("1" if text[-1] != "1" else "2"), 1)


def with_loss(line, value):
    return json.dumps(json.loads(line) | {"train_loss": value})


def other_config(folder):
    config = directory.read_whole_config(folder)
    config["what"]["d"] = 7
    directory.write_whole_config(config, folder)


def other_shard(folder):
    config = directory.read_whole_config(folder)
    config["how"]["shard"] = "2/2"
    directory.write_whole_config(config, folder)


def shard_of_results(folder):
    other_shard(folder)
    rewrite(folder, lambda ds: ds.attrs.update(shard="2/2"))


DAMAGE = {
    "another shard in config.json": (
        other_shard,
        "results.nc: is of all members, config.json of shard 2/2",
    ),
    "another shard in config.json and results": (
        shard_of_results,
        r"checkpoint of step \d+: is of all members, config.json of shard 2/2",
    ),
    "other seeds in the results": (
        lambda f: rewrite(f, lambda ds: ds.assign_coords(seed=ds["seed"] + 5)),
        r"checkpoint of step \d+: is of other members than results.nc: seed is \[0, 1\] there",
    ),
    "no results": (
        lambda f: (f / "results.nc").unlink(),
        "results.nc: is missing; the same command writes it again",
    ),
    "no results and no metrics": (
        lambda f: ((f / "results.nc").unlink(), (f / "metrics.jsonl").unlink()),
        "metrics.jsonl: is missing; the same command writes it again",
    ),
    "no results and no checkpoints": (
        lambda f: ((f / "results.nc").unlink(), shutil.rmtree(f / "checkpoints")),
        "checkpoints: lost, although there are results",
    ),
    "a flipped bit in a checkpoint": (
        lambda f: flip(largest_file(newest(f) / "arrays")),
        r"checkpoint of step \d+: ",
    ),
    "metadata of a checkpoint": (
        lambda f: (newest(f) / "meta" / "metadata").write_text("{"),
        r"checkpoint of step \d+: cannot be read",
    ),
    "results cut short": (
        lambda f: (f / "results.nc").write_bytes((f / "results.nc").read_bytes()[:3000]),
        "results.nc: cannot be read",
    ),
    "another number in the results": (
        lambda f: rewrite(f, lambda ds: set_value(ds, "train_loss", 9.0)),
        "its train_loss differs from that of the checkpoint",
    ),
    "another number in the metrics": (
        lambda f: change_line(f, 3, other_loss),
        r"metrics.jsonl: line 4 has train_loss = .*, results.nc ",
    ),
    "a record twice": (
        lambda f: change_both(f),
        "repeats a record",
    ),
    "a lost record": (
        lambda f: (f / "metrics.jsonl").write_text(
            "".join((f / "metrics.jsonl").read_text().splitlines(keepends=True)[:-1])
        ),
        "1 records of results.nc along flow_time are not in it",
    ),
    "a record of no point of time": (
        lambda f: add_line(f, {"flow_time": 3.3, "train_loss": 123.0}),
        "line 45 is no record of this run",
    ),
    "a record that the results do not have": (
        lambda f: (
            rewrite(f, lambda ds: drop_last_step(ds)),
            add_line(f, {"train_loss": 123.0}),
        ),
        "line 45 is of no record of results.nc",
    ),
    "no metrics": (lambda f: (f / "metrics.jsonl").unlink(), "metrics.jsonl: is missing"),
    "rubbish in the metrics": (
        lambda f: change_line(f, 5, lambda line: "x" * len(line)),
        "line 6 is no record of this run",
    ),
    "a member that lacks its end": (
        lambda f: rewrite(f, lambda ds: drop_last_step(ds)),
        "a member that ended lacks its last record",
    ),
    "a hole in the records": (
        lambda f: rewrite(f, lambda ds: set_value(ds, "step", np.nan)),
        "records after a point without one",
    ),
    "steps that go back": (
        lambda f: rewrite(f, lambda ds: set_value(ds, "step", 1e6)),
        "a member's steps go back",
    ),
    "a status that is none": (
        lambda f: rewrite(f, lambda ds: set_value(ds, "status", 17)),
        r"unknown status \[17\]",
    ),
    "a claim to be unfinished": (
        lambda f: rewrite(f, lambda ds: ds.attrs.update(complete=np.int32(0))),
        "`complete` contradicts its status",
    ),
    "times that go back": (
        lambda f: rewrite(f, lambda ds: ds.assign_coords(flow_time=ds["flow_time"][::-1].values)),
        "times do not increase",
    ),
    "another number, with the old digest": (
        lambda f: rewrite(f, lambda ds: set_value(ds, "annealed_at", 3.0), results_alone),
        "does not match its digest",
    ),
    "a variable that is lost": (
        lambda f: rewrite(f, lambda ds: ds.drop_vars("annealed_at"), results_alone),
        "does not match its digest",
    ),
    "no digest": (
        lambda f: rewrite(f, lambda ds: ds.attrs.pop("digest") and None, results_alone),
        "does not match its digest",
    ),
    "a number lost": (
        lambda f: rewrite(f, lambda ds: set_value(ds, "second_difference", np.nan)),
        "its second_difference differs from that of the checkpoint",
    ),
    "fewer records": (
        lambda f: rewrite(f, lambda ds: ds.isel(flow_time=slice(-3, None))),
        "its .* has another shape than the checkpoint",
    ),
    "another dimension of the status": (
        lambda f: rewrite(f, lambda ds: ds.assign(status=ds["status"].isel(eta_init=0))),
        "results.nc: cannot be read",
    ),
    "a config that is a list": (
        lambda f: rewrite(f, lambda ds: ds.attrs.update(config="[1]")),
        "results.nc: cannot be read",
    ),
    "a list for a number": (
        lambda f: change_line(f, 5, lambda line: with_loss(line, [1, 2])),
        "line 6 is no record of this run",
    ),
    "a number beyond all bounds": (
        lambda f: change_line(f, 5, lambda line: with_loss(line, 10**400)),
        "line 6 is no record of this run",
    ),
    "brackets": (
        lambda f: change_line(f, 5, lambda line: "[" * 200_000),
        "line 6 is no record of this run",
    ),
    "another name in a record": (
        lambda f: change_line(f, 5, lambda line: line.replace("train_loss_b", "train_lots_b")),
        "line 6 is no record of this run",
    ),
    "one name more in a record": (
        lambda f: change_line(f, 5, lambda line: line.replace("{", '{"colour": 3, ')),
        "line 6 has other names than results.nc",
    ),
    "metrics that are a directory": (
        lambda f: ((f / "metrics.jsonl").unlink(), (f / "metrics.jsonl").mkdir()),
        r"metrics.jsonl: cannot be checked \(IsADirectoryError: ",
    ),
    "checkpoints of another layout": (
        lambda f: reseal(f, lambda tree, meta: ({"a": np.zeros(3)}, meta)),
        r"checkpoint of step \d+: KeyError: 'history'",
    ),
    "metadata of another layout": (
        lambda f: reseal(f, lambda tree, meta: (tree, {"metrics_bytes": "many", "what": {}})),
        r"checkpoint of step \d+: invalid literal for int",
    ),
    "checkpoints that are gone": (
        lambda f: shutil.rmtree(f / "checkpoints"),
        "checkpoints: lost, although there are results",
    ),
    "checkpoints that are emptied": (
        lambda f: [shutil.rmtree(path) for path in (f / "checkpoints").iterdir()],
        "checkpoints: lost, although there are results",
    ),
    "checkpoints that are a file": (
        lambda f: (shutil.rmtree(f / "checkpoints"), (f / "checkpoints").touch()),
        "checkpoints: cannot be checked .* is not a directory",
    ),
    "another config": (other_config, "is of another config than config.json: d is 7 there"),
}


def add_line(folder, changes):
    """One more line, the first of a member's last point with changes."""
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    last = max(record["flow_time"] for record in records)
    (first, *_) = [r for r in records if r["flow_time"] == last and r["seed"] == 0]
    record = next(r for r in records if r["seed"] == 0 and r["eta_init"] == 0.2 and r is not first)
    with open(path, "a") as file:
        file.write(json.dumps(record | {"flow_time": last} | changes) + "\n")


def drop_last_step(dataset):
    dataset["step"][(0,) * (dataset["step"].ndim - 1) + (-1,)] = np.nan


def reseal(folder, change):
    """A whole checkpoint of other content in place of the newest, and none before it."""
    steps = checkpoint.stored_steps(folder)
    tree, meta = change(*checkpoint.restore(folder, steps[-1]))
    shutil.rmtree(folder / "checkpoints")
    writer = checkpoint.Checkpoints(folder / "checkpoints")
    writer.save(steps[-1], tree, meta)
    writer.close()


def change_both(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    change_line(folder, 4, lambda line: lines[3])


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function File.close")
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(folder, name):
    damage, told = DAMAGE[name]
    damage(folder)
    wrong = verify.verify(folder).wrong
    assert wrong
    assert any(re.search(told, line) for line in wrong), wrong
    assert all("\n" not in line for line in wrong)


def test_a_results_file_older_than_the_checkpoint_is_told_and_not_wrong(folder):
    def earlier(dataset):
        for name, variable in dataset.data_vars.items():
            if "flow_time" in variable.dims:
                last = dataset["flow_time"] == dataset["flow_time"][-1]
                dataset[name] = variable.where(~last).assign_attrs(variable.attrs)
        dataset["status"] = xr.zeros_like(dataset["status"]).assign_attrs(dataset["status"].attrs)
        dataset.attrs["complete"] = np.int32(0)

    rewrite(folder, earlier)
    report = verify.verify(folder)
    assert report.wrong == []
    assert "is older than the checkpoint of step" in "\n".join(report.found)


def test_a_config_of_brackets_is_one_line(folder):
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(ConfigError, match=r"is not a readable config.json"):
        verify.verify(folder)


def test_leftovers_and_what_was_set_aside_are_told_and_not_wrong(folder):
    (folder / ".results.nc.writing").write_text("half")
    (folder / "damaged_checkpoints" / "7").mkdir(parents=True)
    report = verify.verify(folder)
    assert report.wrong == []
    told = "\n".join(report.found)
    assert ".results.nc.writing: left by a write that was cut short" in told
    assert "set aside by a run, of steps 7" in told


def test_a_run_without_results_yet(folder):
    """Killed after its first checkpoint: there are no figures and no second one."""
    (folder / "results.nc").unlink()
    shutil.rmtree(folder / "figures")
    for step in checkpoint.stored_steps(folder)[1:]:
        shutil.rmtree(folder / "checkpoints" / str(step))
    report = verify.verify(folder)
    assert report.wrong == []
    assert "results.nc: not there yet" in report.found


def test_zipped_fields_tell_members_of_one_rate_apart(tiny, tmp_path):
    zipped = {"eta_init": (0.2, 0.2), "noise_scale": (1.0, 0.5), "eta_2": (0.05,)}
    values = tiny(**zipped, zipped=("eta_init+noise_scale",))
    experiment.run(spec.parse(values), tmp_path / "run")
    assert verify.verify(tmp_path / "run").wrong == []
    change_line(tmp_path / "run", 1, other_loss)
    assert "line 2 has train_loss" in verify.verify(tmp_path / "run").wrong[0]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not the directory of a run"):
        verify.verify(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a readable config"):
        verify.verify(tmp_path)


@pytest.mark.parametrize("programs", [None, 3, [3], "null"])
def test_programs_that_are_none_are_one_line(folder, programs):
    config = directory.read_whole_config(folder)
    directory.write_whole_config(config | {"programs": programs}, folder)
    if programs == "null":  # a list of four letters, none of which is there
        assert any("programs n, u, l, l: not there" in w for w in verify.verify(folder).wrong)
        return
    with pytest.raises(ConfigError, match=r"is not a readable config.json"):
        verify.verify(folder)


@pytest.mark.parametrize("ends", ["by its loss", "annealed early", "before the last point"])
def test_a_member_that_ends_early_is_whole(tiny, tmp_path, ends):
    changes = {
        "by its loss": {"epsilon_2": (100.0,)},
        "annealed early": {"anneal_step": (1,), "epsilon_1": (100.0,)},
        "before the last point": {"eta_init": (0.3,), "eta_2": (0.07,)},
    }
    dataset = experiment.run(spec.parse(tiny(**changes[ends])), tmp_path / "run")
    ended = np.isin(dataset["status"], (Status.COMPLETED, Status.STOPPED))
    assert ended.all()
    if ends != "before the last point":
        assert (dataset["ended_at"] < dataset["flow_time"][-1]).any()
        assert dataset["train_loss"][..., -1].isnull().any()
    assert verify.verify(tmp_path / "run").wrong == []
    rewrite(tmp_path / "run", lambda ds: ds.assign(step=without_last(ds["step"])))
    wrong = verify.verify(tmp_path / "run").wrong
    assert "results.nc: a member that ended lacks its last record" in wrong


def without_last(steps):
    """Each member's last record left out."""
    kept = steps.notnull().sum("flow_time") - 1
    index = np.arange(steps.sizes["flow_time"])
    return steps.where(index < kept.values[..., None]).assign_attrs(steps.attrs)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's identity")
def test_files_that_may_not_be_read_are_told(finished):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        folder = pathlib.Path(shutil.copytree(finished, pathlib.Path(place) / "run"))
        for name in ("results.nc", "metrics.jsonl", "checkpoints", "config.json"):
            mode = (folder / name).stat().st_mode
            os.chmod(folder / name, 0)
            os.seteuid(65534)
            try:
                if name == "config.json":
                    with pytest.raises(PermissionError):
                        verify.verify(folder)
                    continue
                wrong = verify.verify(folder).wrong
            finally:
                os.seteuid(0)
                os.chmod(folder / name, mode)
            assert len(wrong) == 1, wrong
            assert re.match(rf"{name}: .*Permission", wrong[0])


def test_a_nested_run_turns_off_no_check(folder, finished):
    shutil.copytree(finished, folder / "nested")
    assert verify.verify(folder).wrong == []
    (folder / "metrics.jsonl").unlink()
    assert any("metrics.jsonl: is missing" in line for line in verify.verify(folder).wrong)


def test_checkpoints_that_a_live_run_removes_are_not_wrong(folder, monkeypatch):
    """One is gone when it comes to be read, as where the newest three go on."""
    restore = checkpoint.Checkpoints.restore

    def gone(self, step):
        if step == 0:
            shutil.rmtree(self.directory / "0")
        return restore(self, step)

    monkeypatch.setattr(checkpoint.Checkpoints, "restore", gone)
    report = verify.verify(folder)
    assert report.wrong == []
    assert not any("steps 0" in line for line in report.found)


def test_checkpoints_of_another_version_are_told(folder, tiny, monkeypatch):
    """--check compares what it knows of; a run refuses to continue."""
    told = "is of another version of lr_order_jax, which alone continues it"
    assert not any(told in line for line in verify.verify(folder).found)
    monkeypatch.setattr(experiment, "FORMAT", experiment.FORMAT + 1)
    report = verify.verify(folder)
    assert report.wrong == []
    assert any(told in line for line in report.found)
    values = tiny(keep_at=(0.0, 5.0))
    with pytest.raises(ConfigError, match="are of another version of lr_order_jax; give a new"):
        experiment.run(spec.parse(values), folder)


def test_the_programs_of_a_study_are_checked_each(tiny, tmp_path):
    study.run(spec.parse_study(tiny(d=(4, 6))), tmp_path / "study")
    report = verify.verify(tmp_path / "study")
    assert report.wrong == []
    assert any(line.startswith("d=4: metrics.jsonl") for line in report.found)
    flip(largest_file(newest(tmp_path / "study" / "d=6") / "arrays"))
    wrong = verify.verify(tmp_path / "study").wrong
    assert wrong
    assert all(line.startswith("d=6: checkpoint of step") for line in wrong), wrong


@pytest.fixture(scope="module")
def finished_study(tmp_path_factory):
    values = dict(load_config("sweep", "smoke").items())
    values |= {"d": (4, 6), "n": (8, 9), "r": (0.1, 0.2), "zipped": ("d+n",), "num_test": 16}
    values |= {"m_w": 4, "m_v": 8, "num_records": 3}
    folder = tmp_path_factory.mktemp("verify") / "study"
    study.run(spec.parse_study(values), folder)
    return folder


def rejoined(folder, change, names=None):
    """The joined results of some of the programs, changed."""
    config = directory.read_config(folder)
    parts = [results.read_results(folder / name) for name in config["programs"]]
    parts = [part if names is None or i in names else None for i, part in enumerate(parts)]
    changed = results.join(config["what"], verify.axes_of(config), parts)
    change(changed)
    results.write_results(changed, folder / "results.nc")


def test_the_joined_results_of_a_study_are_those_of_its_programs(finished_study, tmp_path):
    folder = pathlib.Path(shutil.copytree(finished_study, tmp_path / "study"))
    whole = (folder / "results.nc").read_bytes()
    rejoined(folder, lambda ds: None)
    assert (folder / "results.nc").read_bytes() == whole
    assert verify.verify(folder).wrong == []
    rejoined(folder, lambda ds: set_value(ds, "train_loss", 9.0))
    (wrong,) = verify.verify(folder).wrong
    assert wrong == "results.nc: its train_loss differs from that of the programs"
    rejoined(folder, lambda ds: set_value(ds, "annealed_at", 9.0))
    (wrong,) = verify.verify(folder).wrong
    assert wrong == "results.nc: differs from the results of the programs"
    rejoined(folder, lambda ds: None, names=(0, 1, 2))  # a kill before the last was joined
    report = verify.verify(folder)
    assert report.wrong == []
    assert any("results.nc: is older than the programs" in line for line in report.found)
    rejoined(folder, lambda ds: set_value(ds, "train_loss", 9.0), names=(0, 1, 2))
    (wrong,) = verify.verify(folder).wrong
    assert wrong == "results.nc: its train_loss differs from that of the programs"
    shutil.rmtree(folder / "d=6,n=9,r=0.2")
    (folder / "results.nc").write_bytes(whole)
    report = verify.verify(folder)
    (told,) = (line for line in report.wrong if line.startswith("d=6,n=9,r=0.2: "))
    assert "checkpoints are lost" in told  # and the command refuses, instead of computing it again
    assert "programs d=6,n=9,r=0.2: not there" in report.wrong
    assert not any("computes that again" in line for line in (*report.found, *report.wrong))


def test_what_follows_the_last_line_of_a_finished_run_is_told(folder):
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("rubbish")
    (told,) = verify.verify(folder).wrong
    assert told.endswith("is no record of this run")


def test_a_program_that_lost_its_config_json_is_told(finished_study, tmp_path):
    folder = pathlib.Path(shutil.copytree(finished_study, tmp_path / "study"))
    name = directory.read_config(folder)["programs"][-1]
    rejoined(folder, lambda ds: None, names=(0, 1, 2))  # the last one is not joined yet
    (folder / name / "config.json").unlink()
    told = f"{name}: config.json is missing; the same command writes it again"
    assert told in verify.verify(folder).wrong
