"""The memorizable patch of section 6: what it looks like and which images bear it.

All classes share a pattern z; class c has a small pattern zeta_c of its own, added with a random
sign, so that z + zeta_c and z - zeta_c mean c as z + zeta and z - zeta mean -1 in the distribution
Q of the theory. No linear rule can use it for more than half of the images, and it varies so little
that it is easily memorized.

Of the training images a share is clean for good. The others bear the patch, on the image or alone
(the image is set to the pixel mean, which is 0 after normalisation). The authors' code decides
between the two, and draws the sign and alpha, at each access; the paper speaks of fixed parts.
Images are (n, side, side, 3) in normalised units.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lr_order_jax.data.images import CLASSES

Z_SCALE = 1.25  # deviation of z's entries
ALPHA_SCALE = 1.75  # zeta of a patch that stands alone is multiplied by this times alpha


class Patches(NamedTuple):
    """The patterns of one seed, k pixels a side."""

    z: jax.Array  # (k, k, 3) ~ N(0, 1.25^2)
    zeta: jax.Array  # (CLASSES, k, k, 3) ~ U(-zeta_scale, zeta_scale)


class Draws(NamedTuple):
    """What happens to each of n images, all leaves (n,)."""

    clean: jax.Array  # bool: no patch at all
    alone: jax.Array  # bool: the patch without the image
    sign: jax.Array  # -1. or 1.
    alpha: jax.Array  # in [0, 1)


def sample_patches(key, side: int, zeta_scale: float) -> Patches:
    key_z, key_zeta = jax.random.split(key)
    shape = (side, side, 3)
    zeta = jax.random.uniform(key_zeta, (CLASSES, *shape), minval=-zeta_scale, maxval=zeta_scale)
    return Patches(Z_SCALE * jax.random.normal(key_z, shape), zeta)


def sample_draws(key, n: int, clean_share: float, alone_share: float) -> Draws:
    """Draws for n images; `alone_share` is that of the images which are not clean."""
    key_clean, key_alone, key_sign, key_alpha = jax.random.split(key, 4)
    return Draws(
        clean=jax.random.uniform(key_clean, (n,)) < clean_share,
        alone=jax.random.uniform(key_alone, (n,)) < alone_share,
        sign=jax.random.rademacher(key_sign, (n,), jnp.float32),
        alpha=jax.random.uniform(key_alpha, (n,)),
    )


def apply(images, labels, patches: Patches, draws: Draws, mode: str, alpha_on: str) -> jax.Array:
    """The images with their patches in the middle.

    Args:
      labels: (n,) the class of each image's zeta.
      mode: "overwrite" the pixels (the authors' code) or "add" to them.
      alpha_on: "zeta": alpha, times 1.75, scales zeta of the patches that stand alone (the authors'
        code); "patch": it scales every whole patch, as alpha does in (2.5).

    Returns:
      An array like `images`; clean images are unchanged.
    """
    per_image = lambda leaf: leaf[:, None, None, None]  # noqa: E731
    alpha = per_image(draws.alpha)
    signed = per_image(draws.sign) * patches.zeta[labels]
    if alpha_on == "zeta":
        signed = jnp.where(per_image(draws.alone), ALPHA_SCALE * alpha * signed, signed)
        patch = patches.z[None] + signed
    else:
        patch = alpha * (patches.z[None] + signed)
    size, side = patch.shape[1], images.shape[1]
    low = (side - size) // 2
    base = jnp.where(per_image(draws.alone), 0.0, images)
    window = base[:, low : low + size, low : low + size]
    patched = base.at[:, low : low + size, low : low + size].set(
        patch + window if mode == "add" else patch
    )
    return jnp.where(per_image(draws.clean), images, patched)
