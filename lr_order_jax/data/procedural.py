"""A stand-in for CIFAR-10 where that is not at hand: textures whose class sets their pattern.

Nothing measured on it says anything about CIFAR-10. Each class has two plane waves (direction,
wavelength, colour); an image is their sum with phases and strengths of its own, a few plain
rectangles before it, and noise. So a class is not a mean image: it must be learned as a texture.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lr_order_jax.data.images import CLASSES, SIDE, Images

WAVES = 2
RECTANGLES = 3


def load(num_train: int, num_test: int, key) -> Images:
    """Images and uniform labels as a function of a typed key."""
    key_law, key_train, key_test = jax.random.split(key, 3)
    law = _class_law(key_law)
    train, test = _draw(key_train, num_train, law), _draw(key_test, num_test, law)
    return Images(*train, *test)


def _class_law(key):
    """Wave vectors (classes, waves, 2) in cycles a pixel and colours (classes, waves, 3)."""
    key_angle, key_length, key_colour = jax.random.split(key, 3)
    angle = jax.random.uniform(key_angle, (CLASSES, WAVES), maxval=jnp.pi)
    length = jax.random.uniform(key_length, (CLASSES, WAVES), minval=4.0, maxval=12.0)
    direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return direction / length[..., None], jax.random.normal(key_colour, (CLASSES, WAVES, 3))


def _draw(key, n: int, law) -> tuple[np.ndarray, np.ndarray]:
    labels = jax.random.randint(jax.random.fold_in(key, 0), (n,), 0, CLASSES)
    keys = jax.random.split(jax.random.fold_in(key, 1), n)

    @jax.jit
    def make(keys, labels):
        def one(image):
            return _image(image[0], image[1], law)

        return jax.lax.map(one, (keys, labels), batch_size=500)

    images = make(keys, labels)
    return np.asarray(images), np.asarray(labels, np.uint8)


def _image(key, label, law):
    """One image (SIDE, SIDE, 3), uint8."""
    key_phase, key_strength, key_place, key_colour, key_noise = jax.random.split(key, 5)
    vectors, colours = law[0][label], law[1][label]
    pixels = jnp.arange(SIDE, dtype=jnp.float32)
    phase = jax.random.uniform(key_phase, (WAVES,), maxval=2 * jnp.pi)
    strength = jax.random.uniform(key_strength, (WAVES,), minval=0.3)
    cycles = (
        vectors[:, 0, None, None] * pixels[None, :, None]
        + vectors[:, 1, None, None] * pixels[None, None, :]
    )
    waves = strength[:, None, None] * jnp.sin(2 * jnp.pi * cycles + phase[:, None, None])
    image = jnp.sum(waves[..., None] * colours[:, None, None, :], axis=0)
    places = jax.random.randint(key_place, (RECTANGLES, 2, 2), 0, SIDE)
    shades = jax.random.normal(key_colour, (RECTANGLES, 3))
    for place, shade in zip(places, shades, strict=True):
        inside = [
            (pixels >= jnp.min(ends).astype(jnp.float32))
            & (pixels < jnp.max(ends).astype(jnp.float32))
            for ends in place
        ]
        covered = inside[0][:, None] & inside[1][None, :]
        image = jnp.where(covered[..., None], shade[None, None, :], image)
    image += 0.3 * jax.random.normal(key_noise, image.shape)
    return jnp.clip(128 + 48 * image, 0, 255).astype(jnp.uint8)
