"""The picture of section H.2: the patches, and images before and after they get one.

    python -m analysis.patch_picture --out=FILE.png [--config=configs/patch_cifar.py:small]
        [--config.FIELD=VALUE ...]

Shows the first images of the first training step of the first seed. With
--config.dataset=procedural they are the stand-in's, which may be shared freely.
"""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from lr_order_jax import engine, figures, results, spec, sweep
from lr_order_jax.fields import ConfigError
from lr_order_jax.problems.patch_cifar import PIXEL_DEVIATION, PIXEL_MEAN, PatchCifar

IMAGES = 11
AMPLIFIED = 6.0  # how much zeta is enlarged to be seen

_CONFIG = config_flags.DEFINE_config_file("config", "configs/patch_cifar.py", "Config file.")
_OUT = flags.DEFINE_string("out", None, "PNG file.", required=True)


def colours(normalised) -> np.ndarray:
    """Normalised values as colours in [0, 1]."""
    raw = np.asarray(normalised) * np.array(PIXEL_DEVIATION) + np.array(PIXEL_MEAN)
    return np.clip(raw / 255, 0, 1)


def draw(parsed: spec.Spec):
    """The figure for a configuration of `patch_cifar`."""
    problem = parsed.problem
    if not isinstance(problem, PatchCifar) or not problem.has_patches:
        raise ConfigError("config: must be of patch_cifar, with clean_share < 1")
    seed = parsed.seeds[0]
    grid = sweep.make_grid(problem, (seed,), parsed.common.zipped)
    data = sweep.data_of_seed(grid.data, 0)
    key = engine.stream_key(grid.keys[0], engine.Stream.BATCH)
    data = data._replace(epoch=problem.draw_epoch(data, key, 0))
    size = problem.batch_sizes[0]

    def first_batch(of):
        return jax.jit(of.batch, static_argnums=4)(data, None, key, jnp.int32(0), size)

    after = first_batch(problem)
    unpatched = PatchCifar(dataclasses.replace(problem.fields, clean_share=1.0))
    before = first_batch(unpatched)
    patches = data.own.patches
    return figures.patch_examples(
        colours(patches.z),
        colours(AMPLIFIED * patches.zeta),
        colours(before.images[:IMAGES]),
        colours(after.images[:IMAGES]),
        f"{results.data_label(problem.fields.dataset)}, seed {seed}",
    )


def main(argv: list[str]) -> None:
    try:
        if not pathlib.Path(_OUT.value).absolute().parent.is_dir():
            raise ConfigError(f"--out={_OUT.value}: its directory does not exist")
        figure = draw(spec.parse(_CONFIG.value))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    figure.savefig(_OUT.value, dpi=150)


if __name__ == "__main__":
    app.run(main)
