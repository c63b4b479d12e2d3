"""--check: what is whole is found whole, and each kind of damage is named."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import xarray as xr
from conftest import load_config

from lr_order_jax import experiment, results, spec, study, verify
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
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["what"]["d"] = 7
    path.write_text(json.dumps(config))


DAMAGE = {
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
    "no metrics": (lambda f: (f / "metrics.jsonl").unlink(), "metrics.jsonl: is missing"),
    "rubbish in the metrics": (
        lambda f: change_line(f, 5, lambda line: "x" * len(line)),
        "line 6 is no record of this run",
    ),
    "a member that lacks its end": (
        lambda f: rewrite(f, lambda ds: drop_last_step(ds)),
        "a member that completed lacks its last record",
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
    "another config": (other_config, "is of another config than config.json: d is 7 there"),
}


def drop_last_step(dataset):
    dataset["step"][(0,) * (dataset["step"].ndim - 1) + (-1,)] = np.nan


def change_both(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    change_line(folder, 4, lambda line: lines[3])


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
    (folder / "results.nc").unlink()
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


def test_the_programs_of_a_study_are_checked_each(tiny, tmp_path):
    study.run(spec.parse_study(tiny(d=(4, 6))), tmp_path / "study")
    report = verify.verify(tmp_path / "study")
    assert report.wrong == []
    assert any(line.startswith("d=4: metrics.jsonl") for line in report.found)
    flip(largest_file(newest(tmp_path / "study" / "d=6") / "arrays"))
    wrong = verify.verify(tmp_path / "study").wrong
    assert wrong
    assert all(line.startswith("d=6: checkpoint of step") for line in wrong), wrong
