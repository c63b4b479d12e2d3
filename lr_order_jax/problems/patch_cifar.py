"""A WideResNet on CIFAR-10, with or without the memorizable patch (section 6, Figures 1 and 3).

Time is counted in epochs: passes over the training set, in an order drawn anew for each, of which
the last batch is short where the batch size does not divide the set. Epochs are numbered from 1 and
a schedule names those *at whose start* the rate and the noise level are multiplied by their
factors: annealing "at epoch 30" happens after 29 epochs. A member of factors 1 is never annealed.

A record evaluates the network with running statistics on four groups of images: training images as
the member is trained on them, clean test images, test images patched by the law of the training
images (mixed), and patches alone with random labels. Their patches are drawn once for a seed.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from lr_order_jax import fields
from lr_order_jax.algorithm import NEVER, Hypers
from lr_order_jax.data import cifar10, patches, procedural
from lr_order_jax.data.images import CLASSES, SIDE, Images
from lr_order_jax.data.patches import Draws, Patches
from lr_order_jax.fields import ConfigError
from lr_order_jax.models.wide_resnet import AXES, Activation, WideResNet
from lr_order_jax.problem import Model, Variable, Ways

PIXEL_MEAN = (125.3, 123.0, 113.9)
PIXEL_DEVIATION = (63.0, 62.1, 66.7)

SCHEDULES = {  # epochs at whose start a member is annealed, and the factor of its rate
    "default": ((60, 120, 150), 0.2),
    "early": ((30,), 0.04),
}

TRAIN_SETS = ("mixture", "clean_part", "all_clean")
GROUPS = ("train", "clean", "mixed", "patch")
EVALUATION_BATCH = 500  # images, of whatever groups

VARIABLES = {
    "train_loss": Variable("cross-entropy of training images, in evaluation mode"),
    "train_accuracy": Variable("accuracy on training images, in evaluation mode"),
    "clean_accuracy": Variable("accuracy on test images without patch"),
    "mixed_accuracy": Variable("accuracy on test images patched as the training images are"),
    "patch_accuracy": Variable("accuracy on patches alone"),
}


class Own(NamedTuple):
    """The own data of one seed. n training images."""

    patches: Patches
    train: Draws  # (n,) `clean` is for good; the others are used where the partition is fixed
    clean_first: jax.Array  # (n,) int32: training images, the clean ones first
    test: Draws  # (num_test,)
    alone: Draws  # (num_patch_eval,) patches without image
    alone_labels: jax.Array  # (num_patch_eval,) int32


class Batch(NamedTuple):
    images: jax.Array  # (size, side, side, 3) float32, normalised
    labels: jax.Array  # (size,) int32


@dataclasses.dataclass(frozen=True)
class PatchCifar:
    """Problem `patch_cifar`. `fields` is its section of the configuration, resolved."""

    fields: Any

    clock = "epoch"
    # On a CPU a convolution in a compiled loop is some 40 times slower, and one whose weights are
    # batched several times; one program for all members is about a tenth faster than one for each.
    # What is fastest elsewhere is not measured yet; a program for each member takes least memory.
    ways = {  # noqa: RUF012
        "cpu": Ways("dispatch", "unroll"),
        "gpu": Ways("dispatch", "loop"),
        "tpu": Ways("dispatch", "loop"),
    }
    table, study_figures = "accuracy", ()

    @dataclasses.dataclass(frozen=True)
    class Fields:
        # Members; tuples are swept.
        eta_init: tuple[float, ...] = fields.positive(many=True)  # initial rate
        arm: tuple[str, ...] = fields.words("a name", swept=True)  # names of the members
        rate_factor: tuple[float, ...] | None = fields.positive(many=True, optional=True)
        noise_init: tuple[float, ...] = fields.non_negative(many=True)  # level before activations
        noise_factor: tuple[float, ...] = fields.non_negative(many=True)
        train_set: tuple[str, ...] = fields.choice(*TRAIN_SETS, many=True)
        momentum: tuple[float, ...] = fields.real(
            "a number from 0 to below 1", lambda v: 0 <= v < 1, many=True
        )
        lam: tuple[float, ...] = fields.non_negative(many=True)  # weight decay
        tau_xi: tuple[float, ...] = fields.non_negative(many=True)  # deviation of gradient noise
        # Schedule.
        epochs: int = fields.integer(1)
        batch_size: int = fields.integer(1)
        schedule: str = fields.choice(*SCHEDULES, "custom")
        anneal_epochs: tuple[int, ...] = fields.integer(2, many=True, swept=False, optional=True)
        # Data.
        dataset: str = fields.choice("cifar10", "procedural")
        data_dir: str | None = fields.path()
        num_train: int = fields.integer(1)
        num_test: int = fields.integer(1)
        num_train_eval: int = fields.integer(1)
        num_patch_eval: int = fields.integer(1, 100_000)
        record_examples: str = fields.choice("no", "yes")
        side: int = fields.integer(8, SIDE)  # images are averaged down to so many pixels a side
        augmentation: str = fields.choice("none", "crop_flip")
        # The patch.
        clean_share: float = fields.real("a number from 0 to 1", lambda v: 0 <= v <= 1)
        alone_share: float = fields.real("a number from 0 to 1", lambda v: 0 <= v <= 1)
        patch_side: int = fields.integer(1, SIDE)
        zeta_scale: float = fields.non_negative()
        partition: str = fields.choice("access", "fixed")
        patch_mode: str = fields.choice("overwrite", "add")
        alpha_on: str = fields.choice("zeta", "patch")
        # Network.
        depth: int = fields.integer(10, 1000)
        widen_factor: int = fields.integer(1, 1000)
        noise_shared: tuple[str, ...] = fields.words("names of axes")
        compute_dtype: str = fields.choice("float32", "bfloat16")

    @classmethod
    def build(cls, section: Any) -> "PatchCifar":
        """The problem of a section of the configuration."""
        if SIDE % section.side:
            raise ConfigError(f"config.side = {section.side}: must divide {SIDE}")
        if section.patch_side > section.side:
            raise ConfigError(
                f"config.patch_side = {section.patch_side}: must be at most side = {section.side}"
            )
        if (section.depth - 4) % 6:
            raise ConfigError(f"config.depth = {section.depth}: must be 6 n + 4, e.g. 10, 16, 28")
        if wrong := set(section.noise_shared) - set(AXES):
            raise ConfigError(
                f"config.noise_shared = {section.noise_shared}: {min(wrong)!r} is not one of "
                f"{', '.join(AXES)}"
            )
        sizes = cifar10.SIZES
        for name in ("num_train", "num_test"):
            most = sizes[name.removeprefix("num_")]
            if (given := getattr(section, name)) > most:
                raise ConfigError(f"config.{name} = {given}: must be at most {most}")
        if section.num_train_eval > section.num_train:
            raise ConfigError(
                f"config.num_train_eval = {section.num_train_eval}: must be at most "
                f"num_train = {section.num_train}"
            )
        if section.schedule == "custom":
            if section.rate_factor is None:
                raise ConfigError("config.rate_factor is not set: schedule 'custom' needs it")
            epochs = section.anneal_epochs
            if not epochs or list(epochs) != sorted(set(epochs)):
                raise ConfigError(f"config.anneal_epochs = {epochs}: must be one or more, rising")
        elif section.anneal_epochs:
            raise ConfigError(
                f"config.anneal_epochs = {section.anneal_epochs}: "
                f"schedule {section.schedule!r} has its own: unset it by =(), or take 'custom'"
            )
        else:
            epochs, factor = SCHEDULES[section.schedule]
            section = dataclasses.replace(
                section, anneal_epochs=epochs, rate_factor=section.rate_factor or (factor,)
            )
        problem = cls(section)
        if section.epochs * len(problem.batch_sizes) >= NEVER:
            raise ConfigError(
                f"config.epochs = {section.epochs}: at {len(problem.batch_sizes)} steps an epoch "
                f"too many steps, must be below {NEVER}"
            )
        return problem

    @property
    def has_patches(self) -> bool:
        """Whether any image bears a patch: without, only the first two groups are evaluated."""
        return self.fields.clean_share < 1

    @property
    def groups(self) -> tuple[str, ...]:
        return GROUPS if self.has_patches else GROUPS[:2]

    @property
    def variables(self) -> Mapping[str, Variable]:
        names = {f"{group}_accuracy" for group in self.groups} | {"train_loss"}
        numbers = {name: told for name, told in VARIABLES.items() if name in names}
        if self.fields.record_examples == "no":
            return numbers
        told = "1 where a training image (example: its number) is classified rightly, else 0"
        over = (("example", self.fields.num_train_eval),)
        return numbers | {"train_right": Variable(told, over=over)}

    @property
    def figures(self) -> tuple[str, ...]:
        return ("accuracy", "patch_accuracy") if self.has_patches else ("accuracy",)

    # Time.

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        whole, rest = divmod(self.fields.num_train, self.fields.batch_size)
        return (self.fields.batch_size,) * whole + ((rest,) if rest else ())

    def horizon(self) -> float:
        return float(self.fields.epochs)

    def time_per_step(self, hypers):
        return np.full_like(hypers.rates, 1 / len(self.batch_sizes))

    def hypers(self, values, data):
        c, steps = self.fields, len(self.batch_sizes)
        phases = np.arange(len(c.anneal_epochs) + 1)
        ends = [min(epoch - 1, c.epochs) * steps for epoch in c.anneal_epochs]
        phase_steps = np.diff([0, *ends, c.epochs * steps])
        if values["rate_factor"] == 1 and values["noise_factor"] == 1:  # nothing to anneal
            phase_steps = np.where(phases == 0, c.epochs * steps, 0)
        if values["train_set"] == "clean_part" and not np.any(data.own.train.clean):
            raise ConfigError(
                f"config.clean_share = {c.clean_share:g}: none of the {c.num_train} training "
                "images is clean, train_set 'clean_part' is empty"
            )
        has_noise = max(c.tau_xi) > 0
        only_mixture = set(c.train_set) == {"mixture"}
        return Hypers(
            rates=values["eta_init"] * values["rate_factor"] ** phases.astype(np.float64),
            phase_steps=phase_steps.astype(np.int64),
            loss_thresholds=np.full(len(phases), -np.inf),
            weight_decay=np.float64(values["lam"]),
            tau_xi=np.float64(values["tau_xi"]) if has_noise else None,
            momentum=np.float64(values["momentum"]) if max(c.momentum) > 0 else None,
            activation_noise=values["noise_init"]
            * values["noise_factor"] ** phases.astype(np.float64),
            task=None if only_mixture else np.int64(TRAIN_SETS.index(values["train_set"])),
        )

    # Data.

    def load(self) -> Images:
        c = self.fields
        if c.dataset == "procedural":
            return procedural.load(c.num_train, c.num_test, jax.random.key(0, impl="threefry2x32"))
        images = cifar10.load(c.data_dir)
        for name, held in (("num_train", images.train_labels), ("num_test", images.test_labels)):
            if (asked := getattr(c, name)) > len(held):
                raise ConfigError(f"config.{name} = {asked}: the data hold {len(held)} such images")
        train, test = slice(c.num_train), slice(c.num_test)
        return Images(*(array[train] for array in images[:2]), *(a[test] for a in images[2:]))

    def make_data(self, key, shared) -> Own:
        c = self.fields
        key_patches, key_train, key_test, key_alone, key_labels = jax.random.split(key, 5)
        train = patches.sample_draws(key_train, c.num_train, c.clean_share, c.alone_share)
        return Own(
            patches=patches.sample_patches(key_patches, c.patch_side, c.zeta_scale),
            train=train,
            clean_first=jnp.argsort(~train.clean, stable=True).astype(jnp.int32),
            test=patches.sample_draws(key_test, c.num_test, c.clean_share, c.alone_share),
            alone=patches.sample_draws(key_alone, c.num_patch_eval, 0.0, 1.0),
            alone_labels=jax.random.randint(key_labels, (c.num_patch_eval,), 0, CLASSES),
        )

    def normalised(self, images) -> jax.Array:
        """uint8 images, averaged down to `side` and normalised by the mean and deviation of CIFAR's
        pixels: (n, 32, 32, 3) -> (n, side, side, 3) float32."""
        side, factor = self.fields.side, SIDE // self.fields.side
        blocks = images.astype(jnp.float32).reshape(-1, side, factor, side, factor, 3)
        mean, deviation = (jnp.array(v, jnp.float32) for v in (PIXEL_MEAN, PIXEL_DEVIATION))
        return (jnp.mean(blocks, axis=(2, 4)) - mean.reshape(1, 1, 1, 3)) / deviation.reshape(
            1, 1, 1, 3
        )

    def patched(self, images, labels, own: Own, draws: Draws) -> jax.Array:
        """Normalised images with their patches."""
        if not self.has_patches:
            return images
        c = self.fields
        return patches.apply(images, labels, own.patches, draws, c.patch_mode, c.alpha_on)

    def draw_epoch(self, data, key, epoch):
        """The order of the training set in an epoch."""
        order_key = jax.random.fold_in(jax.random.fold_in(key, 0), epoch)
        return jax.random.permutation(order_key, self.fields.num_train)

    def batch(self, data, task, key, step, size):
        """`size` images of the epoch's order; the patches are drawn by the step, or fixed."""
        c, steps = self.fields, len(self.batch_sizes)
        shared, own, order = data
        key_step = jax.random.fold_in(jax.random.fold_in(key, 1), step)
        key_draws, key_augment = jax.random.split(key_step)
        index = jax.lax.dynamic_slice(order, (step % steps * c.batch_size,), (size,))
        if task is not None:  # the clean part is passed over several times an epoch
            num_clean = jnp.sum(own.train.clean, dtype=jnp.int32)
            of_part = own.clean_first[index % num_clean]
            index = jnp.where(task == TRAIN_SETS.index("clean_part"), of_part, index)
        if c.partition == "access":
            draws = patches.sample_draws(key_draws, size, 0.0, c.alone_share)
        else:
            draws = jax.tree.map(lambda leaf: leaf[index], own.train)
        images, labels = shared.train_images[index], shared.train_labels[index].astype(jnp.int32)
        if c.augmentation == "crop_flip":
            images = _crop_and_flip(key_augment, images)
        draws = draws._replace(clean=_is_clean(own, task, index))
        return Batch(self.patched(self.normalised(images), labels, own, draws), labels)

    # Network.

    @functools.cached_property
    def network(self) -> WideResNet:
        c = self.fields
        return WideResNet(
            c.depth, c.widen_factor, CLASSES, c.noise_shared, jnp.dtype(c.compute_dtype)
        )

    def init(self, key) -> Model:
        side = self.fields.side
        variables = self.network.init(key, jnp.zeros((1, side, side, 3)), False)
        return Model(variables["params"], variables["batch_stats"])

    def loss(self, params, stats, batch, noise_level, key):
        """Mean cross-entropy of the batch, and the running statistics after it."""
        logits, updated = self.network.apply(
            {"params": params, "batch_stats": stats},
            batch.images,
            True,
            noise_level,
            mutable=["batch_stats"],
            rngs={"activation_noise": key},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return jnp.mean(losses), updated["batch_stats"]

    # Evaluation.

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Images evaluated of each group."""
        c = self.fields
        return (c.num_train_eval, c.num_test, c.num_test, c.num_patch_eval)[: len(self.groups)]

    @property
    def num_evaluation_batches(self) -> int:
        return -(-sum(self.group_sizes) // EVALUATION_BATCH)

    def evaluation_batch(self, data, task, index) -> tuple[Batch, jax.Array, jax.Array]:
        """A batch of the images of all groups, one group after the other; and of each image its
        group, or -1 where it does not count, and its row in the group."""
        shared, own, _ = data
        ends = np.cumsum(self.group_sizes)
        slot = index * EVALUATION_BATCH + jnp.arange(EVALUATION_BATCH, dtype=jnp.int32)
        group = jnp.searchsorted(jnp.asarray(ends, jnp.int32), slot, side="right")
        group = group.astype(jnp.int32)
        starts = jnp.asarray([0, *ends], jnp.int32)
        row = slot - starts[group]
        in_train, alone = group == 0, group == 3
        row = jnp.minimum(row, jnp.asarray([*self.group_sizes, 1], jnp.int32)[group] - 1)

        def choose(of_train, of_test, of_alone):
            """Row by row from the group's array; rows past the end of the others are not used."""
            wide = (-1,) + (1,) * (of_train.ndim - 1)
            of_other = jnp.where(alone.reshape(wide), _rows(of_alone, row), _rows(of_test, row))
            return jnp.where(in_train.reshape(wide), _rows(of_train, row), of_other)

        images = choose(shared.train_images, shared.test_images, shared.test_images)
        labels = choose(shared.train_labels, shared.test_labels, own.alone_labels.astype(jnp.uint8))
        labels = labels.astype(jnp.int32)
        draws = jax.tree.map(choose, own.train, own.test, own.alone)
        clean = jnp.where(in_train, _is_clean(own, task, row), draws.clean | (group == 1))
        images = self.patched(self.normalised(images), labels, own, draws._replace(clean=clean))
        counts = slot < ends[-1]
        if task is not None:  # the training images of the clean part alone
            in_part = clean | (task != TRAIN_SETS.index("clean_part"))
            counts &= in_part | ~in_train
        return Batch(images, labels), jnp.where(counts, group, -1), row

    def evaluate(self, data, task, model, index):
        batch, group, row = self.evaluation_batch(data, task, index)
        variables = {"params": model.params, "batch_stats": model.stats}
        logits: Any = self.network.apply(variables, batch.images, False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        right = (jnp.argmax(logits, axis=-1) == batch.labels).astype(jnp.float32)
        of_group = jax.nn.one_hot(group, len(self.groups))  # a row of zeros for -1

        def by_group(values):
            return jnp.sum(values[:, None] * of_group, axis=0)

        sums = {"loss": by_group(losses), "right": by_group(right)}
        sums["count"] = by_group(jnp.ones_like(right))
        if self.fields.record_examples == "yes":  # each batch adds its own rows
            size = self.fields.num_train_eval
            row = jnp.where(group == 0, row, size)
            sums["each"] = jnp.zeros(size).at[row].set(right, mode="drop")
        return sums

    def activations(self, data, task, model):
        """After each noise site, in evaluation mode, on the first training images (at most one
        evaluation batch): (n, height, width, channels)."""
        batch, group, _ = self.evaluation_batch(data, task, jnp.int32(0))
        size = min(EVALUATION_BATCH, self.fields.num_train_eval)
        _, kept = self.network.apply(
            {"params": model.params, "batch_stats": model.stats},
            batch.images[:size],
            False,
            capture_intermediates=lambda module, name: isinstance(module, Activation),
            mutable=["intermediates"],
        )
        layers = traverse_util.flatten_dict(kept["intermediates"], sep="/")
        counts = group[:size] == 0
        return {
            name.removesuffix("/__call__"): (shown, counts) for name, (shown,) in layers.items()
        }

    def summarize(self, data, task, model, sums):
        accuracy = sums["right"] / sums["count"]
        train_loss = sums["loss"][0] / sums["count"][0]
        values = {f"{group}_accuracy": accuracy[i] for i, group in enumerate(self.groups)}
        values["train_loss"] = train_loss
        if self.fields.record_examples == "yes":
            values["train_right"] = sums["each"]
        return values


def _rows(array, index) -> jax.Array:
    """Rows of an array; its last one for an index beyond the end."""
    return array[jnp.minimum(index, len(array) - 1)]


def _is_clean(own: Own, task, index) -> jax.Array:
    """Whether a member sees these training images without patch."""
    clean = _rows(own.train.clean, index)
    return clean if task is None else clean | (task == TRAIN_SETS.index("all_clean"))


def _crop_and_flip(key, images) -> jax.Array:
    """Each image moved by up to 4 pixels (borders reflected) and mirrored at random."""
    key_place, key_flip = jax.random.split(key)
    pad = 4
    wide = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    places = jax.random.randint(key_place, (len(images), 2), 0, 2 * pad + 1)

    def crop(image, place):
        return jax.lax.dynamic_slice(image, (place[0], place[1], 0), images.shape[1:])

    flip = jax.random.bernoulli(key_flip, shape=(len(images), 1, 1, 1))
    cropped = jax.vmap(crop)(wide, places)
    return jnp.where(flip, cropped[:, :, ::-1], cropped)
