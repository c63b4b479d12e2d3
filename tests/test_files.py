"""Files written whole or not at all."""

import os

import pytest

from lr_order_jax import files


def test_a_file_is_flushed_before_it_is_renamed_and_its_directory_after(tmp_path, monkeypatch):
    """As a machine that loses its power would show."""
    done = []
    replace, fsync = os.replace, os.fsync

    def told_fsync(descriptor):
        done.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def told_replace(source, target):
        done.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", told_fsync)
    monkeypatch.setattr(os, "replace", told_replace)
    files.write_json({"a": 1}, tmp_path / "a.json")
    file, folder = ((tmp_path / name).stat().st_ino for name in ("a.json", "."))
    assert done == [("fsync", file), ("replace", file), ("fsync", folder)]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    files.write_json({"a": 1}, tmp_path / "a.json")

    def fail(aside):
        aside.write_text("half")
        raise OSError(28, "No space left on device", str(aside))

    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.json'"):
        files.write_aside(tmp_path / "a.json", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'
