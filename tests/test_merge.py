"""Parts of a grid: shards and extensions are joined into what one run would have written."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from conftest import ROOT

import lr_order_jax
from analysis import measure
from lr_order_jax import directory, experiment, results, spec, study, sweep, verify
from lr_order_jax.fields import ConfigError
from lr_order_jax.merge import merge

RATES, SEEDS = (0.2, 0.11, 0.05), (3, 1, 2, 0)
RTOL, ATOL = 1e-4, 1e-5  # of sums made in another order, see test_invariance


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function that runs a part once and gives its directory."""
    folder, made = tmp_path_factory.mktemp("parts"), {}

    def run(tiny, name, **changes):
        if name not in made:
            values = {"eta_1": 0.2, "num_records": 3, "eta_init": RATES, "seeds": SEEDS}
            made[name] = folder / name
            experiment.run(spec.parse(tiny(**(values | changes))), made[name])
        return made[name]

    return run


def assert_joined(whole, wanted):
    """All members in the same order, the same attributes, and numbers equal up to rounding."""
    assert whole.attrs.keys() == wanted.attrs.keys()
    assert whole.attrs["complete"] == 1
    for name, variable in wanted.variables.items():
        assert (whole[name].dims, whole[name].dtype) == (variable.dims, variable.dtype)
        assert whole[name].attrs.keys() == variable.attrs.keys()
        np.testing.assert_allclose(whole[name].values, variable.values, rtol=RTOL, atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 6])
def test_merged_shards_are_the_whole_run(tiny, make, tmp_path, count):
    one = make(tiny, "one")
    shards = [make(tiny, f"{i}of{count}", shard=f"{i}/{count}") for i in range(1, count + 1)]
    sizes = [lr_order_jax.load(shard).dataset["status"].size for shard in shards]
    assert sum(sizes) == len(RATES) * len(SEEDS)
    assert max(sizes) - min(sizes) <= 1
    whole = merge(shards[::-1], tmp_path / "whole")
    assert_joined(whole, results.read_results(one))
    assert verify.verify(tmp_path / "whole").wrong == []
    merged = lr_order_jax.load(tmp_path / "whole")
    assert merged.config["what"] == lr_order_jax.load(one).config["what"]
    assert merged.grid.seeds == SEEDS
    assert len(merged.checkpoints) == 0
    assert (tmp_path / "whole" / "figures" / "learning_order.png").exists()
    for ours, theirs in zip(
        merged.config["audit"], lr_order_jax.load(one).config["audit"], strict=True
    ):
        for name in ("source", "statement", "relation", "holds", "decided", "members"):
            assert ours[name] == theirs[name]
    assert merged.command.startswith(f"python -m analysis.merge {shards[-1]} ")
    twice = merge([*shards, shards[0]], tmp_path / "twice")  # as by a shell's pattern
    assert twice.identical(merge(shards, tmp_path / "once"))
    assert lr_order_jax.load(tmp_path / "twice").config["audit"]


@pytest.mark.parametrize("mapping", ["vmap", "map"])
def test_zipped_axes_that_repeat_a_value_are_merged_by_all_of_their_fields(
    tiny, make, tmp_path, mapping
):
    """As in configs/mitigation.py: S without noise and with it have one initial rate."""
    values = {
        "eta_init": (0.2, 0.05, 0.05),
        "noise_init": (0.0, 0.0, 1.0),
        "zipped": ("eta_init+noise_init",),
        "seeds": (3,),
        "mapping": mapping,
    }
    one = make(tiny, f"one zipped {mapping}", **values)
    shards = [make(tiny, f"{i}of3 {mapping}", shard=f"{i}/3", **values) for i in range(1, 4)]
    whole = merge(shards[::-1], tmp_path / "whole")
    wanted = results.read_results(one)
    assert_joined(whole, wanted)
    assert whole["noise_init"].values.tolist() == [0.0, 0.0, 1.0]
    losses = results.final(whole, "train_loss").values.ravel()
    assert abs(losses[2] - losses[1]) > 1e-3  # else the arms could be mixed up unseen
    assert verify.verify(tmp_path / "whole").wrong == []
    with pytest.raises(ConfigError, match=r"missing: seed = 3, eta_init = 0.05, noise_init = 1"):
        merge(shards[:2], tmp_path / "third missing")
    more = make(tiny, f"more zipped {mapping}", **(values | {"seeds": (5,)}))
    extended = merge([one, more], tmp_path / "extended")
    assert extended["seed"].values.tolist() == [3, 5]
    xr.testing.assert_equal(extended.sel(seed=[3]), wanted)
    assert verify.verify(tmp_path / "extended").wrong == []


@pytest.mark.slow
def test_shards_change_no_bit_where_members_are_computed_one_by_one(tiny, make, tmp_path):
    values = {"mapping": "map", "seeds": (3, 1), "eta_init": (0.2, 0.05)}
    one = make(tiny, "one by map", **values)
    shards = [make(tiny, f"{i}of4 by map", shard=f"{i}/4", **values) for i in range(1, 5)]
    whole = merge(shards, tmp_path / "whole")
    wanted = results.read_results(one)
    for name, variable in wanted.variables.items():
        np.testing.assert_array_equal(whole[name].values, variable.values, err_msg=name)


def test_a_finished_run_is_extended_by_seeds_and_rates(tiny, make, tmp_path):
    old = make(tiny, "old", seeds=(3, 1), eta_init=(0.2, 0.05))
    seeds = make(tiny, "seeds", seeds=(2, 0), eta_init=(0.2, 0.05))
    rates = make(tiny, "rates", eta_init=(0.11,))
    whole = merge([old, seeds, rates], tmp_path / "whole")
    wanted = results.read_results(make(tiny, "one"))
    assert whole["eta_init"].values.tolist() == [0.2, 0.05, 0.11]
    by_rate = wanted.sel(eta_init=[0.2, 0.05, 0.11])
    assert_joined(whole, by_rate)
    what = json.loads(whole.attrs["config"])
    assert (what["seeds"], what["num_seeds"]) == (list(SEEDS), 4)
    assert what["eta_init"] == [0.2, 0.05, 0.11]
    assert lr_order_jax.load(tmp_path / "whole").grid.shape == (4, 3)


@pytest.mark.slow
def test_parts_of_a_study_are_joined_program_by_program(tiny, tmp_path, monkeypatch):
    """Shards of one study, and a study with further seeds; a merge that is cut off in the middle of
    a program is done again."""

    def make(name, **changes):
        values = {"d": (6, 8), "n": (12, 16), "zipped": ("d+n",), "num_records": 3}
        values |= {"seeds": (3, 1), "eta_init": (0.2, 0.05), "mapping": "map"}
        study.run(spec.parse_study(tiny(**(values | changes))), tmp_path / name)
        return tmp_path / name

    one, shards = make("one"), [make(f"{i}of2", shard=f"{i}/2") for i in (1, 2)]
    unfinished = tmp_path / "unfinished"
    shutil.copytree(shards[1], unfinished)
    shutil.rmtree(unfinished / "d=8,n=16")
    with pytest.raises(ConfigError, match="unfinished: is unfinished"):
        merge([shards[0], unfinished], tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"d=6,n=12: holds one program, not those of .*1of2 \(d=6"
    ):
        merge([shards[0], shards[1] / "d=6,n=12"], tmp_path / "out")
    with pytest.raises(ConfigError, match="members are missing: seed = "):
        merge(shards[:1], tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(results, "write_results", unwritable)
        with pytest.raises(OSError, match="No space"):
            merge(shards, tmp_path / "out")
    assert merge(shards, tmp_path / "out").identical(results.read_results(tmp_path / "out"))
    wanted = results.read_results(one)
    found = results.read_results(tmp_path / "out")
    assert found.attrs["config"] == wanted.attrs["config"]
    for name, variable in wanted.variables.items():
        np.testing.assert_array_equal(found[name].values, variable.values, err_msg=name)
    assert verify.verify(tmp_path / "out").wrong == []
    assert (tmp_path / "out" / "figures" / "error_against_shape.png").exists()
    run = lr_order_jax.load(tmp_path / "out")
    assert [program.grid.shape for program in run.programs] == [(2, 2), (2, 2)]
    more = merge([tmp_path / "out", make("more", seeds=(7,))], tmp_path / "extended")
    assert more["seed"].values.tolist() == [3, 1, 7]
    assert json.loads(more.attrs["config"])["seeds"] == [3, 1, 7]
    assert verify.verify(tmp_path / "extended").wrong == []
    (tmp_path / "extended" / "d=8,n=16" / "results.nc").unlink()
    (wrong,) = verify.verify(tmp_path / "extended").wrong
    assert wrong == "d=8,n=16: results.nc: is missing; the same merge writes it again"


def unwritable(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
def test_what_cannot_be_merged_is_told(tiny, make, tmp_path):
    first, second = (make(tiny, f"{i}of4", shard=f"{i}/4") for i in (1, 2))
    with pytest.raises(ConfigError, match=r"missing: seed = 2, eta_init = 0.2; .*seed = 0"):
        merge([first, second], tmp_path / "out")
    other = make(tiny, "other", lam=(2e-3,))
    with pytest.raises(ConfigError, match=r"other: is of another config: lam is \[0.001\] in"):
        merge([first, other], tmp_path / "out")
    records = make(tiny, "records", num_records=4)
    with pytest.raises(ConfigError, match="records: is of another config: num_records"):
        merge([first, records], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    changed = results.read_results(first)
    changed["train_loss"] = changed["train_loss"] * 0 + 0.5
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(first / "config.json", again)
    lines = map(json.loads, (first / "metrics.jsonl").read_text().splitlines())
    text = "".join(f"{json.dumps(line | {'train_loss': 0.5})}\n" for line in lines)
    (again / "metrics.jsonl").write_text(text)
    results.write_results(changed, again / "results.nc")
    told = "1of4 and .*again disagree on the member seed = 3, eta_init = 0.2: train_loss by up to 5"
    with pytest.raises(ConfigError, match=told):
        merge([first, again], tmp_path / "out")
    axes = make(tiny, "axes", eta_init=(0.2,), noise_scale=(0.5, 1.0))
    with pytest.raises(ConfigError, match=r"1of4: its axes differ from those of .*axes"):
        merge([axes, first], tmp_path / "out")
    results.write_results(changed.assign_attrs(complete=np.int32(0)), again / "results.nc")
    with pytest.raises(ConfigError, match="again: is unfinished"):
        merge([first, again], tmp_path / "out")
    content = bytearray((first / "results.nc").read_bytes())
    content[len(content) // 2] ^= 0x40
    (again / "results.nc").write_bytes(content)
    with pytest.raises(ConfigError, match=r"again.results\.nc: (cannot be read|does not match)"):
        merge([again], tmp_path / "out")
    with pytest.raises(ConfigError, match="out="):
        merge([make(tiny, "one")], make(tiny, "old", seeds=(3, 1), eta_init=(0.2, 0.05)))


@pytest.mark.parametrize(
    ("shard", "told"),
    [
        ("5/4", "i from 1 to n"),
        ("0/4", "i from 1 to n"),
        ("1/5", "4 x 3 members cannot be cut into 5 .*, n can be 1, 2, 3, 4, 6, 8, 9"),
        ("1/13", "cannot be cut .*, n can be 1, 2, 3, 4, 6, 8, 9, 12"),
        ("one/4", "i from 1 to n"),
    ],
)
def test_shards_that_there_are_not(tiny, tmp_path, shard, told):
    def run():
        run_spec = spec.parse(tiny(eta_init=RATES, seeds=SEEDS, shard=shard))
        experiment.run(run_spec, tmp_path / "run")

    with pytest.raises(ConfigError, match=f"config.shard = '{shard}': .*{told}"):
        run()
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_shard_is_refused(tiny, make):
    folder = make(tiny, "1of4", shard="1/4")
    values = {"eta_1": 0.2, "num_records": 3, "eta_init": RATES, "seeds": SEEDS}
    with pytest.raises(ConfigError, match="holds shard 1/4 of this config, not all members"):
        experiment.run(spec.parse(tiny(**values)), folder)


def test_the_numbers_of_shards_that_are_told_are_possible():
    for sizes, near in (((4, 2), 7), ((5, 6), 17), ((1000, 7), 6999), ((10**6, 9), 10_000)):
        for count in (told := sweep.possible_parts(sizes, near)):
            assert sweep.ways_to_cut(sizes, count)
        assert len(told) <= sweep.MOST_TOLD
    assert sweep.possible_parts((4, 2), 100) == [1, 2, 3, 4, 6, 8]


def test_every_member_is_in_one_shard():
    for sizes in ((5, 6), (1, 7), (3, 2, 4)):
        for count in range(1, 25):
            for way in sweep.ways_to_cut(sizes, count)[:1]:
                assert np.prod(way) == count
                for size, parts in zip(sizes, way, strict=True):
                    cuts = sweep.even_parts(size, parts)
                    indices = [i for cut in cuts for i in range(size)[cut]]
                    assert indices == list(range(size))
                    assert all(cut.stop > cut.start for cut in cuts)


@pytest.fixture
def two(tiny, make, tmp_path):
    """Copies of two parts, to be spoilt."""
    return [
        pathlib.Path(shutil.copytree(make(tiny, f"{i}of2", shard=f"{i}/2"), tmp_path / f"part{i}"))
        for i in (1, 2)
    ]


def make_a_file(part):
    shutil.rmtree(part)
    part.write_text("")


def make_config_a_directory(part):
    (part / "config.json").unlink()
    (part / "config.json").mkdir()


def change_a_value(part):
    path = part / "metrics.jsonl"
    first, *rest = path.read_text().splitlines()
    changed = json.dumps(json.loads(first) | {"train_loss": 7.0})
    path.write_text("\n".join([changed, *rest, ""]))


def name_another_problem(part):
    """In both files, as where its module cannot be imported here."""
    config = directory.read_whole_config(part)
    config["what"]["problem"] = "nowhere:Problem"
    directory.write_whole_config(config, part)
    dataset = results.read_results(part)
    dataset.attrs["config"] = json.dumps(config["what"])
    results.write_results(dataset, part / "results.nc")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (make_a_file, "part1: is not the directory of a run"),
        (make_config_a_directory, r"part1.config\.json: cannot be read \(Is a directory\)"),
        (change_a_value, r"part1.metrics\.jsonl: is damaged \(line 1 has train_loss = 7.0, .*"),
        (lambda p: os.truncate(p / "metrics.jsonl", 900), r"damaged \(line .*see --check=.*part1"),
        (lambda p: (p / "metrics.jsonl").write_bytes(b"\xff\n\x80"), "line 1 is no record"),
        (lambda p: (p / "metrics.jsonl").unlink(), r"part1.metrics\.jsonl: is missing"),
        (name_another_problem, "part1: its problem cannot be built .*nowhere"),
    ],
)
def test_a_part_that_is_spoilt_is_told_and_nothing_is_written(two, tmp_path, spoil, told):
    for part in two[: 2 if spoil is name_another_problem else 1]:
        spoil(part)
    with pytest.raises(ConfigError, match=told):
        merge(two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_was_cut_off_is_done_again(two, tmp_path, monkeypatch):
    out, write = tmp_path / "out", results.write_results

    def full(dataset, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(results, "write_results", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*results\.nc'"):
        merge(two, out)
    assert json.loads((out / "config.json").read_text())["merged"] == ["../part1", "../part2"]
    monkeypatch.setattr(results, "write_results", write)
    (out / ".results.nc.writing").touch()
    with pytest.raises(ConfigError, match=r"--out=.*: holds a merge of other parts"):
        merge(two[::-1], out)
    whole = merge(two, out)
    assert verify.verify(out).wrong == []
    assert merge(two, out).identical(whole)


def test_what_a_merge_would_overwrite_is_refused(two, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(two[0], out)
    with pytest.raises(ConfigError, match=r"--out=.*: holds a run"):
        merge(two, out)
    (out / "config.json").unlink()  # all else of a run is there
    with pytest.raises(ConfigError, match=r"--out=.*: holds other files"):
        merge(two, out)
    assert results.read_results(out).identical(results.read_results(two[0]))
    with pytest.raises(ConfigError, match=r"--out=.*results\.nc: is not a directory"):
        merge(two, out / "results.nc")
    shutil.rmtree(out)
    out.mkdir()
    for name in (".lock", ".config.json.writing"):  # killed before anything was whole
        (out / name).touch()
    merge(two, out)


@pytest.mark.slow
def test_the_command(tiny, make, tmp_path):
    shards = [str(make(tiny, f"{i}of2", shard=f"{i}/2")) for i in (1, 2)]

    def call(*arguments):
        command = [sys.executable, "-m", "analysis.merge", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    for _ in range(2):
        done = call(*shards, f"--out={tmp_path / 'out'}")
        assert done.returncode == 0, done.stderr
        assert "12 members (4 seed x 3 eta_init) of 2 parts" in done.stdout
    with pytest.raises(ValueError, match=r"is joined of parts, .*: .*1of2, .*2of2"):
        measure.main(tmp_path / "out", "norms", {})
    for arguments, told in (
        ([*shards, "--out="], "error: --out= is empty"),
        ([*shards, f"--out={shards[0]}"], "error: --out="),
        ([*shards, f"--out={ROOT / 'README.md'}"], "error: --out="),
        ([shards[0], f"--out={tmp_path / 'new'}"], "error: members are missing"),
    ):
        done = call(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(told)
        assert done.stderr.count("\n") == 1
