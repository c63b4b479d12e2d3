"""Checkpoints: what is stored comes back, and damage is noticed."""

import contextlib
import errno
import json
import shutil
from typing import NamedTuple

import numpy as np
import pytest

from lr_order_jax import checkpoint
from lr_order_jax.checkpoint import Checkpoints, NoCheckpoint


def tree(value=1.0):
    return {
        "params": {"W": np.full((2, 3, 40), value, np.float32), "V": {"z": np.arange(6.0)}},
        "status": np.zeros((2, 3), np.int32),
    }


@pytest.fixture
def stored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=2)
    for step in (5, 10, 15):
        checkpoints.save(step, tree(float(step)), {"step": step, "list": [1, 2]})
    yield checkpoints
    checkpoints.close()


def flip_a_bit(folder):
    largest = max(folder.rglob("d/*"), key=lambda p: p.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(bytes(raw))


def test_the_newest_comes_back_bit_by_bit(stored):
    assert stored.steps() == [10, 15]  # newest=2
    found, meta = stored.restore_latest(print)
    np.testing.assert_array_equal(found["params"]["W"], tree(15.0)["params"]["W"])
    assert found["params"]["V"]["z"].dtype == np.float64
    assert found["status"].dtype == np.int32
    assert (meta["step"], meta["list"]) == (15, [1, 2])


def damage_bit(folder):
    flip_a_bit(folder / "arrays")


def damage_truncated(folder):
    for path in (folder / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_missing_arrays(folder):
    for path in (folder / "arrays").rglob("*"):
        if path.is_file():
            path.unlink()


def damage_meta(folder):
    path = folder / "meta" / "metadata"
    sealed = json.loads(path.read_text())
    sealed["meta"]["list"] = [1, 3]
    path.write_text(json.dumps(sealed))


def damage_meta_text(folder):
    (folder / "meta" / "metadata").write_text("{")


def damage_name(folder):
    """An older checkpoint in its place."""
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("10"), folder)


@pytest.mark.parametrize(
    "damage",
    [
        *(damage_bit, damage_truncated, damage_missing_arrays, damage_meta, damage_meta_text),
        damage_name,
    ],
)
def test_a_damaged_newest_is_set_aside_and_told(stored, damage):
    damage(stored.directory / "15")
    said = []
    found, meta = stored.restore_latest(said.append)
    assert meta["step"] == 10
    np.testing.assert_array_equal(found["params"]["W"], tree(10.0)["params"]["W"])
    assert len(said) == 1
    assert "checkpoint of step 15" in said[0]
    assert "\n" not in said[0]
    assert (stored.directory.parent / "damaged_checkpoints" / "15").is_dir()
    stored.save(15, tree(15.5), {"step": 15})  # its place is free again
    assert stored.restore_latest(print)[0]["params"]["W"][0, 0, 0] == 15.5


def test_a_kill_in_a_deletion_leaves_no_half_of_a_checkpoint(tmp_path, monkeypatch):
    """It is renamed first; what is left of it is removed by the next run."""
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
    with contextlib.closing(Checkpoints(tmp_path, newest=1)) as killed:
        for step in (1, 2, 3):
            killed.save(step, tree(), {})
        assert killed.steps() == [3]
        assert (tmp_path / "deleted" / "1").is_dir()
    monkeypatch.undo()
    with contextlib.closing(Checkpoints(tmp_path, newest=1)) as again:
        assert again.steps() == [3]
        assert not (tmp_path / "deleted").exists()
        again.save(4, tree(), {})
    assert {p.name for p in tmp_path.iterdir()} == {"4"}


def test_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(NoCheckpoint):
        checkpoints.restore_latest(print)
    checkpoints.close()
    with pytest.raises(NoCheckpoint):
        checkpoint.restore(tmp_path / "elsewhere")


def test_restore_for_analysis(stored):
    workdir = stored.directory.parent
    assert checkpoint.restore(workdir)[1]["step"] == 15
    assert checkpoint.restore(workdir, 10)[1]["step"] == 10
    with pytest.raises(NoCheckpoint, match=r"\[10, 15\]"):
        checkpoint.restore(workdir, 5)


def test_checkpoints_kept_for_good_stay_also_after_a_restore(tmp_path):
    def store(checkpoints, steps, for_good=()):
        for step in steps:
            checkpoints.save(step, {"a": np.arange(3.0)}, {}, for_good=step in for_good)

    first = Checkpoints(tmp_path / "checkpoints", newest=2)
    store(first, range(6), for_good=(0, 2))
    assert first.steps() == [0, 2, 4, 5]
    first.close()
    kept = checkpoint.restore(tmp_path)[1]["kept"]
    second = Checkpoints(tmp_path / "checkpoints", newest=2, kept=kept)
    store(second, range(6, 9), for_good=(6,))
    assert second.steps() == [0, 2, 6, 7, 8]
    second.close()
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, step=2)[0]["a"], np.arange(3.0))


def test_a_named_tuple_is_found_again_and_older_paths_are_read(tmp_path):
    """Orbax gives back a dict; the first versions wrote the paths as JAX shows them."""
    tree = {"a": Pair(np.ones(2), np.zeros(3)), "b": {"c": np.arange(4)}}
    assert set(checkpoint.by_path(tree)) == {"a/left", "a/right", "b/c"}
    assert checkpoint._plain("['history']['activation_noise']") == "history/activation_noise"
    assert checkpoint._plain("b/c") == "b/c"
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, tree, {})
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        found, _ = checkpoints.restore(1)
    assert set(checkpoint.by_path(found)) == set(checkpoint.by_path(tree))
    np.testing.assert_array_equal(found["a"]["right"], np.zeros(3))


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


@pytest.mark.parametrize("older", [False, True])
def test_any_structure_comes_back(tmp_path, monkeypatch, older):
    """Lists, tuples, empty parts and odd keys, as a problem may have; also as the first versions
    wrote them."""
    if older:
        monkeypatch.setattr(checkpoint.ocp.args, "PyTreeSave", checkpoint.ocp.args.StandardSave)
        handler = checkpoint.ocp.StandardCheckpointHandler
        monkeypatch.setattr(checkpoint.ocp, "PyTreeCheckpointHandler", handler)
    tree = {"params": [np.ones(2), (np.zeros(3), {"a/b": np.arange(4)})], "stats": {}}
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(1, tree, {})
    monkeypatch.undo()
    found, _ = checkpoint.restore(tmp_path)
    assert found["stats"] == {}
    assert isinstance(found["params"], list)
    for path, leaf in checkpoint.by_path(tree).items():
        np.testing.assert_array_equal(checkpoint.by_path(found)[path], leaf)


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY]
)
def test_an_error_of_the_machine_is_no_damage(stored, monkeypatch, number):
    """TensorStore tells it as a ValueError with the system's number in its text."""

    def fails(*arguments, **named):
        raise ValueError(f"Error opening file [os_error_code='{number}'] " + "x" * 2000)

    monkeypatch.setattr(stored._manager, "restore", fails)
    with pytest.raises(OSError, match=str(stored.directory)) as caught:
        stored.restore_latest(lambda line: pytest.fail(line))
    assert caught.value.errno == number
    assert len(str(caught.value)) < 300
    assert not (stored.directory.parent / "damaged_checkpoints").exists()


def test_checkpoints_set_aside_under_one_step_are_all_kept(stored):
    for i, name in enumerate(("15", "15.1")):
        if i:
            stored.save(15, {"a": np.zeros(3)}, {})
        aside = stored._set_aside(15)
        assert aside.name == name
    assert {p.name for p in aside.parent.iterdir()} == {"15", "15.1"}
