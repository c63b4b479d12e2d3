"""CIFAR-10 as arrays: the cache file, its checksum, and the real data where they are at hand."""

import importlib.util
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, load_config

from lr_order_jax import spec
from lr_order_jax.data import cifar10
from lr_order_jax.fields import ConfigError

SHARED = ROOT.parent / "shared" / "data" / "cifar10"


@pytest.fixture
def small():
    """A data set of a few images: the cache does not care how many."""
    draw = np.random.default_rng(0).integers
    images = [draw(0, 256, (n, 32, 32, 3), np.uint8) for n in (6, 4)]
    labels = [draw(0, 10, n, np.uint8) for n in (6, 4)]
    return cifar10.Images(images[0], labels[0], images[1], labels[1])


def test_the_cache_file_gives_the_arrays_back(small, tmp_path):
    cache = tmp_path / "deep" / "cifar10.npz"
    cifar10._write_cache(small, cache)
    for a, b in zip(cifar10.load(None, cache), small, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.name for p in cache.parent.iterdir()] == ["cifar10.npz"]


@pytest.mark.parametrize("damage", ["flip", "cut", "text"])
def test_a_damaged_cache_is_refused_in_one_line(small, tmp_path, damage):
    cache = tmp_path / "cifar10.npz"
    cifar10._write_cache(small, cache)
    raw = bytearray(cache.read_bytes())
    raw[len(raw) // 3] ^= 1
    cache.write_bytes({"flip": bytes(raw), "cut": raw[: len(raw) // 2], "text": b"words"}[damage])
    with pytest.raises(ConfigError, match=r"cifar10\.npz: .*remove it") as error:
        cifar10.load(None, cache)
    assert "\n" not in str(error.value)


WRONG_SHAPES = {
    "train_images": lambda a: a[:, :16],
    "train_labels": lambda a: a[:-1],
    "test_images": lambda a: a.astype(np.float32),
    "test_labels": lambda a: a + 10,
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_a_cache_of_other_arrays_is_refused(small, tmp_path, name):
    """Although its checksum is right."""
    cache = tmp_path / "cifar10.npz"
    cifar10._write_cache(small._replace(**{name: WRONG_SHAPES[name](getattr(small, name))}), cache)
    with pytest.raises(ConfigError, match="does not hold images and labels of CIFAR-10"):
        cifar10.load(None, cache)


@pytest.mark.parametrize(("field", "count"), [("num_train", 7), ("num_test", 5)])
def test_more_images_than_there_are_is_refused(small, tmp_path, monkeypatch, field, count):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cifar10._write_cache(small, cifar10.cache_file())
    fields = {"dataset": "cifar10", "num_train": 6, "num_test": 4, "num_train_eval": 6}
    values = dict(load_config("patch_cifar", "smoke").items()) | fields
    assert len(spec.parse(values).problem.load().train_labels) == 6
    with pytest.raises(ConfigError, match=rf"config\.{field} = {count}: the data hold {count - 1}"):
        spec.parse(values | {field: count}).problem.load()


def test_no_data_are_told_at_once(tmp_path):
    begin = time.monotonic()
    with pytest.raises(ConfigError, match="holds no folder cifar10") as error:
        cifar10.load(str(tmp_path), tmp_path / "cifar10.npz")
    assert time.monotonic() - begin < 2
    assert "\n" not in str(error.value)


def test_a_wrong_directory_is_refused_although_there_is_a_cache(small, tmp_path):
    cache = tmp_path / "cifar10.npz"
    cifar10._write_cache(small, cache)
    with pytest.raises(ConfigError, match="holds no folder cifar10 prepared by TFDS; "):
        cifar10.load("/nowhere", cache)


def test_the_cache_file_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cifar10.cache_file() == tmp_path / "lr_order_jax" / "cifar10.npz"


READ = """
import pathlib, sys
from lr_order_jax.data import cifar10
cifar10.load(sys.argv[1] or None, pathlib.Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real CIFAR-10 is not at {SHARED}")
@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is None, reason="TFDS is not installed"
)
def test_the_real_data_in_the_original_order(tmp_path, monkeypatch):
    """Prepared by TFDS, read by a process of its own ($TFDS_DATA_DIR), compared with the source."""
    prepare = [sys.executable, SHARED / "prepare_tfds.py", "--data_dir", tmp_path / "tfds"]
    subprocess.run(prepare, check=True, capture_output=True)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    cache = tmp_path / "cifar10.npz"
    subprocess.run([sys.executable, "-c", READ, "", cache], cwd=ROOT, check=True)
    images = cifar10.load(None, cache)
    assert images.train_images.shape == (50_000, 32, 32, 3)
    assert images.test_images.shape == (10_000, 32, 32, 3)
    for split, labels in (("train", images.train_labels), ("test", images.test_labels)):
        wanted = np.fromfile(SHARED / f"{split}_labels.u8", np.uint8)
        np.testing.assert_array_equal(labels, wanted)
    mean = images.train_images.mean((0, 1, 2))
    np.testing.assert_allclose(mean, [125.3, 123.0, 113.9], atol=0.1)  # the authors' pixel mean
    from PIL import Image

    with Image.open(SHARED / "train_00.webp") as sheet:
        tiles = np.asarray(sheet)
    np.testing.assert_array_equal(tiles[32:64, 32:64], images.train_images[101])
