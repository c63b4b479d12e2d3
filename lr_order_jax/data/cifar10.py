"""CIFAR-10 as uint8 arrays: through TensorFlow Datasets without TensorFlow, and from a cache file.

TFDS reads `array_record` by `tfds.data_source`. Reading and decoding 60,000 pictures takes some
seconds, so the arrays are kept in one file of the user's cache directory, with digests that are
checked each time; that file alone is enough on a machine without TFDS.
"""

import hashlib
import io
import os
import pathlib

import numpy as np

from lr_order_jax.cache import directory as cache_directory
from lr_order_jax.data.images import CLASSES, SIDE, Images
from lr_order_jax.fields import ConfigError, in_one_line
from lr_order_jax.progress import say

SIZES = {"train": 50_000, "test": 10_000}


def cache_file() -> pathlib.Path:
    """Where the arrays are kept, in the user's cache directory."""
    return cache_directory() / "cifar10.npz"


def load(data_dir: str | None, cache: pathlib.Path | None = None) -> Images:
    """CIFAR-10 in the original order, from the cache file or else from TFDS, which fills it.

    Args:
      data_dir: the directory in which TFDS has prepared cifar10 (it holds a folder `cifar10`);
        None: $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
      cache: the cache file, which is read instead where it exists; None: `cache_file()`.

    Raises:
      ConfigError: if the data are nowhere, with what to do. Nothing is downloaded.
    """
    cache = cache or cache_file()
    folder = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    folder = pathlib.Path(os.path.expanduser(folder))  # as it is where there is no home
    is_prepared = bool(list(folder.glob("cifar10/*/dataset_info.json")))
    if cache.exists() and (is_prepared or not data_dir):
        return _read_cache(cache)
    if not is_prepared:
        nor = "" if data_dir else f", nor is there {cache}"
        raise ConfigError(
            f"config.data_dir = {str(folder)!r}: holds no folder cifar10 prepared by TFDS{nor}; "
            "prepare it by `tfds build cifar10 --file_format=array_record --data_dir=DIR`, or take "
            "the stand-in, --config.dataset=procedural"
        )
    images = _read_tfds(folder)
    try:
        _write_cache(images, cache)
    except OSError as error:
        say(f"{cache}: cannot be written ({error.strerror}); the next start reads TFDS again")
    return images


def _read_tfds(folder: pathlib.Path) -> Images:
    import tensorflow_datasets as tfds
    from PIL import Image

    arrays = []
    for split, size in SIZES.items():
        images = np.zeros((size, SIDE, SIDE, 3), np.uint8)
        labels = np.full(size, CLASSES, np.uint8)
        try:
            # All records at once, with the pictures left as PNG: three times as fast as one by one.
            raw = {"image": tfds.decode.SkipDecoding()}
            source = tfds.data_source("cifar10", split=split, data_dir=folder, decoders=raw)
            for example in source.__getitems__(range(len(source))):
                index = int(example["id"].decode().removeprefix(f"{split}_"))  # original order
                images[index] = np.asarray(Image.open(io.BytesIO(example["image"])))
                labels[index] = example["label"]
        except Exception as error:  # another file format, a damaged record: TFDS raises many kinds
            raise ConfigError(
                f"config.data_dir = {str(folder)!r}: its cifar10 cannot be read as array_record "
                f"({in_one_line(error)})"
            ) from None
        if labels.max() >= CLASSES:
            raise ConfigError(f"config.data_dir = {str(folder)!r}: {split} is not all of CIFAR-10")
        arrays += [images, labels]
    return Images(*arrays)


def _digest(images: Images) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in images:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _write_cache(images: Images, cache: pathlib.Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    aside = cache.with_name(f".{cache.stem}.{os.getpid()}.npz")
    try:
        np.savez(aside, digest=np.array(_digest(images)), **images._asdict())
        os.replace(aside, cache)
    finally:
        aside.unlink(missing_ok=True)


def _read_cache(cache: pathlib.Path) -> Images:
    try:
        with open(cache, "rb") as file, np.load(file, allow_pickle=False) as stored:
            images = Images(*(stored[name] for name in Images._fields))
            digest = str(stored["digest"])
    except Exception as error:  # a damaged zip file can raise anything
        raise ConfigError(f"{cache}: cannot be read ({type(error).__name__}); remove it") from None
    if _digest(images) != digest:
        raise ConfigError(f"{cache}: does not match its checksum; remove it")
    for of_images, of_labels in (images[:2], images[2:]):
        count = len(of_images) if of_images.ndim else 0
        is_right = of_images.shape == (count, SIDE, SIDE, 3) and of_labels.shape == (count,)
        is_right &= of_images.dtype == of_labels.dtype == np.uint8
        if not (is_right and np.all(of_labels < CLASSES)):
            raise ConfigError(f"{cache}: does not hold images and labels of CIFAR-10; remove it")
    return images
