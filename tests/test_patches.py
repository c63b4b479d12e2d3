"""The patch: shares, readings of the paper, and that no linear rule can use it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from lr_order_jax.data import patches, procedural
from lr_order_jax.data.images import CLASSES

SIDE, PATCH = 16, 6
INSIDE = np.zeros((SIDE, SIDE), bool)
INSIDE[5:11, 5:11] = True


@pytest.fixture
def pattern():
    return patches.sample_patches(jax.random.key(0), PATCH, zeta_scale=0.15)


def make(pattern, draws, mode="overwrite", alpha_on="zeta"):
    key_images, key_labels = jax.random.split(jax.random.key(7))
    n = len(draws.sign)
    images = jax.random.normal(key_images, (n, SIDE, SIDE, 3))
    labels = jax.random.randint(key_labels, (n,), 0, CLASSES)
    after = patches.apply(images, labels, pattern, draws, mode, alpha_on)
    return np.asarray(images), np.asarray(labels), np.asarray(after)


def test_shares_of_clean_images_and_of_patches_alone():
    draws = patches.sample_draws(jax.random.key(1), 40_000, 0.2, 0.2)
    clean, alone = np.asarray(draws.clean), np.asarray(draws.alone)
    slack = 4 * np.sqrt(0.16 / 40_000)
    assert clean.mean() == pytest.approx(0.2, abs=slack)
    assert (alone & ~clean).mean() == pytest.approx(0.16, abs=slack)
    assert np.mean(draws.sign) == pytest.approx(0, abs=4 / 200)
    assert set(np.unique(draws.sign)) == {-1.0, 1.0}
    assert np.mean(draws.alpha) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / 40_000))


def test_the_patterns_have_the_scales_of_the_authors_code():
    pattern = patches.sample_patches(jax.random.key(2), 7, zeta_scale=0.1)
    assert pattern.z.shape == (7, 7, 3)
    assert np.std(pattern.z) == pytest.approx(1.25, rel=4 / np.sqrt(2 * 147))
    zeta = np.asarray(pattern.zeta)
    assert zeta.shape == (CLASSES, 7, 7, 3)
    assert np.abs(zeta).max() <= 0.1
    assert np.std(zeta) == pytest.approx(0.1 / np.sqrt(3), rel=0.1)


def test_the_patch_stands_in_the_middle_and_clean_images_are_left_alone(pattern):
    draws = patches.sample_draws(jax.random.key(3), 300, 0.3, 0.3)
    before, labels, after = make(pattern, draws)
    z, zeta = np.asarray(pattern.z), np.asarray(pattern.zeta)
    for i in range(300):
        sign, alpha = float(draws.sign[i]), float(draws.alpha[i])
        wanted = before[i].copy()
        if not draws.clean[i]:
            strength = 1.75 * alpha if draws.alone[i] else 1.0
            if draws.alone[i]:
                wanted[:] = 0
            wanted[5:11, 5:11] = z + sign * strength * zeta[labels[i]]
        np.testing.assert_allclose(after[i], wanted, rtol=1e-6, atol=1e-6)


def test_a_patch_of_seven_pixels_covers_rows_12_to_18_of_an_image_of_32():
    pattern = patches.sample_patches(jax.random.key(0), 7, 0.1)
    draws = patches.sample_draws(jax.random.key(1), 1, 0.0, 1.0)
    image = patches.apply(
        jnp.zeros((1, 32, 32, 3)), jnp.array([3]), pattern, draws, "overwrite", "zeta"
    )
    rows, columns = np.nonzero(np.abs(image[0]).max(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 18, 12, 18)


def test_the_patch_can_be_added_to_the_image(pattern):
    draws = patches.sample_draws(jax.random.key(3), 50, 0.0, 0.0)
    before, _, overwritten = make(pattern, draws)
    _, _, added = make(pattern, draws, mode="add")
    np.testing.assert_allclose(added[:, INSIDE], (before + overwritten)[:, INSIDE], atol=1e-5)
    np.testing.assert_array_equal(added[:, ~INSIDE], before[:, ~INSIDE])


def test_alpha_can_scale_the_whole_patch(pattern):
    """As in (2.5): alpha (z + sign zeta)."""
    draws = patches.sample_draws(jax.random.key(3), 50, 0.0, 0.5)
    _, labels, after = make(pattern, draws, alpha_on="patch")
    whole = np.asarray(pattern.z) + np.asarray(draws.sign)[:, None, None, None] * np.asarray(
        pattern.zeta[labels]
    )
    wanted = np.asarray(draws.alpha)[:, None, None, None] * whole
    np.testing.assert_allclose(after[:, 5:11, 5:11], wanted, rtol=1e-5, atol=1e-6)


def fit_linear(x, y):
    """Multinomial logistic regression with a little decay: weights (features + 1, CLASSES)."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    target = np.eye(CLASSES)[y]

    def loss(flat):
        weights = flat.reshape(-1, CLASSES)
        logits = x @ weights
        value = np.mean(special.logsumexp(logits, axis=1) - np.sum(logits * target, axis=1))
        gradient = x.T @ (special.softmax(logits, axis=1) - target) / len(x) + 1e-6 * weights
        return value + 5e-7 * np.sum(weights**2), gradient.ravel()

    start = np.zeros(x.shape[1] * CLASSES)
    fitted = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100})
    return lambda new: np.argmax(
        np.concatenate([new, np.ones((len(new), 1))], axis=1) @ fitted.x.reshape(-1, CLASSES),
        axis=1,
    )


def test_linear_rules_reach_at_most_55_percent_on_patches_alone(pattern):
    """Every class is z + zeta_c or z - zeta_c, so what a linear rule gains on one sign it loses on
    the other. A rule that is not linear knows the class."""
    draws = patches.sample_draws(jax.random.key(4), 12_000, 0.0, 1.0)
    _, labels, images = make(pattern, draws)
    x = images[:, INSIDE].reshape(len(images), -1)
    train, test = slice(8000), slice(8000, None)
    scaled = (x - x[train].mean(0)) / x[train].std(0)
    rule = fit_linear(scaled[train], labels[train])
    assert np.mean(rule(scaled[train]) == labels[train]) <= 0.55
    assert np.mean(rule(scaled[test]) == labels[test]) <= 0.55

    centred = x - np.asarray(pattern.z).ravel()
    templates = np.asarray(pattern.zeta).reshape(CLASSES, -1)
    templates = templates / np.linalg.norm(templates, axis=1, keepdims=True)
    knows = np.argmax(np.abs(centred @ templates.T), axis=1)
    assert np.mean(knows == labels) > 0.95


def test_the_stand_in_is_a_function_of_the_key_and_its_classes_can_be_told_apart():
    key = jax.random.key(0)
    images = procedural.load(2000, 500, key)
    assert images.train_images.shape == (2000, 32, 32, 3)
    assert images.train_images.dtype == images.test_labels.dtype == np.uint8
    again = procedural.load(2000, 500, key)
    for a, b in zip(images, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (procedural.load(2000, 500, jax.random.key(1)).train_images != images[0]).any()
    assert not (images.train_images[:500] == images.test_images).all(axis=(1, 2, 3)).any()
    # Phases are random, so pixels say little to a linear rule; the spectrum tells the class.
    spectrum = [
        np.abs(np.fft.rfft2(a.astype(float), axes=(1, 2)))[:, :9, :9].reshape(len(a), -1)
        for a in (images.train_images, images.test_images)
    ]
    scale = spectrum[0].std(0)
    rule = fit_linear(spectrum[0] / scale, images.train_labels)
    assert np.mean(rule(spectrum[1] / scale) == images.test_labels) > 0.5
