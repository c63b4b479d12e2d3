"""What a data set of images is to the rest of the package."""

from typing import NamedTuple

import numpy as np

CLASSES = 10
SIDE = 32


class Images(NamedTuple):
    """(n, 32, 32, 3) uint8 images and (n,) uint8 labels, train and test."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
