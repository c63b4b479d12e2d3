"""Compiled programs are kept in the user's cache directory, unless the user says otherwise."""

import os
import pwd
import subprocess
import sys

import jax
import pytest
from conftest import ROOT
from test_main import SMOKE, call

from lr_order_jax import cache
from lr_order_jax.data import cifar10
from lr_order_jax.fields import ConfigError


def test_programs_are_kept_for_the_next_start(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    folder = tmp_path / "cache" / "lr_order_jax" / "programs"
    done = call(SMOKE, f"--workdir={tmp_path / 'one'}", environment=environment)
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in folder.iterdir()}
    assert kept
    done = call(SMOKE, f"--workdir={tmp_path / 'two'}", environment=environment)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == kept  # nothing was compiled anew
    one, two = ((tmp_path / name / "results.nc").read_bytes() for name in ("one", "two"))
    assert one == two
    for path in folder.glob("*-cache"):
        path.write_bytes(b"rubbish")
    done = call(SMOKE, f"--workdir={tmp_path / 'three'}", environment=environment)
    assert done.returncode == 0
    assert (tmp_path / "three" / "results.nc").read_bytes() == one
    assert done.stderr.count("programs cannot be read or kept there") == 1
    assert "Warning" not in done.stderr


def kept_by_jax(tmp_path, **environment):
    """The cache of JAX after `keep_programs` in a fresh process."""
    code = "import jax; from lr_order_jax import cache; cache.keep_programs(); "
    code += "print(jax.config.jax_compilation_cache_dir)"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment = (
        inherited | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | environment
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_what_the_user_set_stands(tmp_path):
    assert kept_by_jax(tmp_path) == str(tmp_path / "lr_order_jax" / "programs")
    assert kept_by_jax(tmp_path, JAX_COMPILATION_CACHE_DIR="elsewhere") == "elsewhere"


def test_a_user_without_home_has_no_cache(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    kept = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        cache.keep_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
    with pytest.raises(ConfigError, match="no home directory: set HOME, or XDG_CACHE_HOME"):
        cifar10.load(None)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    with pytest.raises(ConfigError, match="holds no folder cifar10 prepared by TFDS"):
        cifar10.load(None)


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    assert kept_by_jax(tmp_path / "file") == "None"


def test_the_oldest_programs_go(tmp_path):
    for i, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (i, i))
    cache._drop_oldest(tmp_path, most=250)
    assert {path.name for path in tmp_path.iterdir()} == {"c", "d"}
