"""The WideResNet on images with patches: what a member sees, its schedule, evaluation and runs."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config

from lr_order_jax import (
    algorithm,
    checkpoint,
    engine,
    experiment,
    fields,
    placement,
    progress,
    results,
    spec,
    sweep,
)
from lr_order_jax.algorithm import Status
from lr_order_jax.data import procedural
from lr_order_jax.data.images import Images
from lr_order_jax.fields import ConfigError
from lr_order_jax.problem import Data
from lr_order_jax.problems import patch_cifar
from lr_order_jax.problems.patch_cifar import PIXEL_DEVIATION, PIXEL_MEAN


@pytest.fixture
def small():
    """A function that gives the values of the smoke config with changes: small(epochs=4, ...)."""

    def make(name="patch_cifar", **changes):
        values = dict(load_config(name, "smoke").items())
        assert set(changes) <= set(values), f"no such field in configs/{name}.py"
        base = {"num_train": 70, "num_test": 30, "num_train_eval": 60, "num_patch_eval": 40}
        base |= {"num_seeds": 1}
        return values | base | changes

    return make


@pytest.fixture
def build(small):
    def make(**changes):
        problem = spec.parse(small(**changes)).problem
        grid = sweep.make_grid(problem, (0,), small(**changes)["zipped"])
        return problem, sweep.data_of_seed(grid.data, 0), grid

    return make


KEY = engine.stream_key(engine.seed_key(0), engine.Stream.BATCH)


def batches(problem, data, steps, task=None, key=KEY):
    make = jax.jit(problem.batch, static_argnums=4)
    sizes, made = problem.batch_sizes, []
    for t in steps:
        epoch = problem.draw_epoch(data, key, t // len(sizes))
        now = data._replace(epoch=epoch)
        made.append(make(now, task, key, jnp.int32(t), sizes[t % len(sizes)]))
    return made


def which(problem, data, images):
    """The index of the training image that each clean image is."""
    known = np.asarray(problem.normalised(data.shared.train_images))
    distance = np.abs(np.asarray(images)[:, None] - known[None]).max(axis=(2, 3, 4))
    assert (distance.min(axis=1) < 1e-5).all()
    return distance.argmin(axis=1)


# Batches.


def test_an_epoch_is_a_permutation_drawn_anew_with_a_short_last_batch(build):
    problem, data, _ = build(clean_share=1.0)
    assert problem.batch_sizes == (32, 32, 6)
    epochs = []
    for epoch in range(2):
        seen = batches(problem, data, range(3 * epoch, 3 * epoch + 3))
        assert [len(b.images) for b in seen] == [32, 32, 6]
        index = np.concatenate([which(problem, data, b.images) for b in seen])
        np.testing.assert_array_equal(np.sort(index), np.arange(70))
        labels = np.concatenate([b.labels for b in seen])
        np.testing.assert_array_equal(labels, np.asarray(data.shared.train_labels)[index])
        epochs.append(index)
    assert (epochs[0] != epochs[1]).any()
    other = batches(problem, data, range(3), key=jax.random.key(9))
    assert (which(problem, data, other[0].images) != epochs[0][:32]).any()


def test_a_batch_size_that_divides_the_set_has_no_short_batch(build):
    assert build(batch_size=35)[0].batch_sizes == (35, 35)
    assert build(batch_size=100)[0].batch_sizes == (70,)


def borders(images):
    """Pixels that no patch reaches: they tell which image it is, or that it was set to zero."""
    return np.asarray(images)[:, 0].reshape(len(images), -1)


def kinds_by_image(problem, data, epochs):
    """For each epoch and training image: 0 clean, 1 with a patch, 2 patch alone; and the patch."""
    known = np.asarray(problem.normalised(data.shared.train_images))
    order_key = jax.random.fold_in(KEY, 0)
    kinds, patches = np.full((epochs, 70), -1), np.zeros((epochs, 70, 4, 4, 3))
    for epoch in range(epochs):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), 70)
        seen = batches(problem, data, range(3 * epoch, 3 * epoch + 3))
        images = np.concatenate([b.images for b in seen])
        for i, image in zip(np.asarray(order), images, strict=True):
            if np.abs(image - known[i]).max() < 1e-5:
                kinds[epoch, i] = 0
            elif np.abs(image[0]).max() == 0:
                kinds[epoch, i] = 2
            else:
                np.testing.assert_allclose(image[:2], known[i][:2], atol=1e-5)
                kinds[epoch, i] = 1
            patches[epoch, i] = image[2:6, 2:6]
    return kinds, patches


def test_partition_by_access_redraws_all_but_the_clean_images(build):
    problem, data, _ = build(partition="access")
    kinds, _ = kinds_by_image(problem, data, 4)
    clean = np.asarray(data.own.train.clean)
    assert (kinds[:, clean] == 0).all()
    assert (kinds[:, ~clean] > 0).all()
    assert (kinds[0] != kinds[1]).any()


def test_a_fixed_partition_never_changes(build):
    problem, data, _ = build(partition="fixed")
    kinds, patches = kinds_by_image(problem, data, 3)
    assert set(kinds[0]) == {0, 1, 2}
    np.testing.assert_array_equal(kinds[1:], kinds[:-1])
    np.testing.assert_allclose(patches[1:], patches[:-1], atol=1e-5)


def test_members_of_the_clean_part_see_clean_images_alone(build):
    names = ("mixture", "clean_part", "all_clean")
    problem, data, grid = build(
        train_set=names,
        zipped=("arm+train_set",),
        arm=names,
        eta_init=(0.1,),
        rate_factor=(1.0,),
        noise_init=(0.0,),
        noise_factor=(1.0,),
    )
    tasks = grid.hypers.task[0]
    clean = np.flatnonzero(data.own.train.clean)
    for task, name in zip(tasks, names, strict=True):
        seen = batches(problem, data, range(3), jnp.int32(task))
        images = np.concatenate([b.images for b in seen])
        if name == "mixture":
            assert (np.abs(images[:, 0]).max(axis=(1, 2)) == 0).any()
            continue
        index = which(problem, data, images)
        wanted = clean if name == "clean_part" else np.arange(70)
        np.testing.assert_array_equal(np.unique(index), wanted)


def test_images_are_averaged_and_normalised(build):
    problem, data, _ = build(side=8)
    raw = np.asarray(data.shared.train_images[:5], np.float64)
    means = raw.reshape(5, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    wanted = (means - np.array(PIXEL_MEAN)) / np.array(PIXEL_DEVIATION)
    np.testing.assert_allclose(problem.normalised(data.shared.train_images[:5]), wanted, atol=1e-5)


def test_augmentation_crops_reflected_borders_and_mirrors(build):
    images = jax.random.randint(jax.random.key(0), (64, 32, 32, 3), 0, 256).astype(jnp.uint8)
    moved = np.asarray(patch_cifar._crop_and_flip(jax.random.key(1), images))
    wide = np.pad(np.asarray(images), ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    flips = []
    for image, after in zip(wide, moved, strict=True):
        found = [
            flip
            for flip in (False, True)
            for i in range(9)
            for j in range(9)
            if np.array_equal(image[i : i + 32, j : j + 32][:, :: -1 if flip else 1], after)
        ]
        assert len(found) == 1
        flips += found
    assert 10 < sum(flips) < 54
    problem, data, _ = build(augmentation="crop_flip", clean_share=1.0)
    (first,), (again,) = (batches(problem, data, [0]) for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    plain, of_plain, _ = build(augmentation="none", clean_share=1.0)
    (still,) = batches(plain, of_plain, [0])
    np.testing.assert_array_equal(first.labels, still.labels)
    assert np.mean(np.abs(first.images - still.images).max(axis=(1, 2, 3)) > 1e-3) > 0.9


# Schedules and arms.


def published(name, **changes):
    values = dict(load_config(name).items()) | changes
    return spec.parse(values).problem


def hypers_of(problem, zipped):
    members = sweep.make_members(sweep.make_axes(fields.swept_values(problem.fields), zipped))
    return [problem.hypers(values, Data((), ())) for values in members]


def test_figure_3_is_as_published():
    """.1 -> .004 at epoch 30; .004 fixed; .004 fixed with noise .4 -> 4e-6 at epoch 30."""
    problem = published("patch_cifar")
    assert len(problem.batch_sizes) == 391
    assert problem.batch_sizes[-2:] == (128, 80)
    large, small, noise = hypers_of(problem, load_config("patch_cifar").zipped)
    np.testing.assert_allclose(large.rates, [0.1, 0.004])
    np.testing.assert_array_equal(large.phase_steps, [29 * 391, 31 * 391])
    np.testing.assert_allclose(small.rates, [0.004, 0.004])
    np.testing.assert_array_equal(small.phase_steps, [60 * 391, 0])
    np.testing.assert_array_equal(small.activation_noise, 0)
    np.testing.assert_allclose(noise.rates, [0.004, 0.004])
    np.testing.assert_allclose(noise.activation_noise, [0.4, 4e-6])
    np.testing.assert_array_equal(noise.phase_steps, large.phase_steps)
    assert (float(large.momentum), float(large.weight_decay)) == (0.9, 5e-4)
    assert large.tau_xi is None


def test_figure_1_is_as_published():
    problem = published("cifar")
    large, small, _ = hypers_of(problem, load_config("cifar").zipped)
    np.testing.assert_allclose(large.rates, 0.1 * 0.2 ** np.arange(4))
    np.testing.assert_allclose(small.rates, 0.01 * 0.2 ** np.arange(4))
    np.testing.assert_array_equal(large.phase_steps, np.array([59, 60, 30, 51]) * 391)
    assert set(problem.variables) == {"train_loss", "train_accuracy", "clean_accuracy"}


def test_a_schedule_that_is_cut_short_skips_its_later_phases():
    (large, *_) = hypers_of(published("cifar", epochs=100), load_config("cifar").zipped)
    np.testing.assert_array_equal(large.phase_steps, np.array([59, 41, 0, 0]) * 391)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"side": 12}, "config.side = 12: must divide 32"),
        ({"patch_side": 9}, "config.patch_side = 9: must be at most side = 8"),
        ({"depth": 12}, "config.depth = 12: must be 6 n + 4"),
        ({"noise_shared": ("batch", "pixel")}, "'pixel' is not one of batch, height"),
        ({"num_train": 60_000}, "config.num_train = 60000: must be at most 50000"),
        ({"num_test": 20_000}, "config.num_test = 20000: must be at most 10000"),
        ({"rate_factor": None}, "config.rate_factor is not set"),
        ({"anneal_epochs": (3, 2)}, "must be one or more, rising"),
        ({"anneal_epochs": ()}, "must be one or more, rising"),
        ({"anneal_epochs": (1,)}, "must be a whole number from 2"),
        ({"num_train_eval": 71}, "config.num_train_eval = 71: must be at most num_train = 70"),
        ({"schedule": "early"}, "schedule 'early' has its own"),
        ({"schedule": "late"}, "config.schedule = 'late': must be one of default, early, custom"),
        ({"train_set": ("dirty",)}, "must be one of mixture, clean_part, all_clean"),
        ({"momentum": (1.0,)}, "from 0 to below 1"),
        ({"arm": ()}, "config.arm = (): must hold at least one value"),
        ({"epochs": 800_000_000}, "config.epochs = 800000000: at 3 steps an epoch too many steps"),
        ({"dataset": "imagenet"}, "must be one of cifar10, procedural"),
    ],
)
def test_wrong_fields_are_refused(small, changes, told):
    with pytest.raises(ConfigError, match="config") as error:
        spec.parse(small(**changes))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_clean_part_without_images_is_refused(small):
    values = small(train_set=("clean_part",), clean_share=1e-6)
    with pytest.raises(ConfigError, match=r"clean_share = 1e-06: none of the 70 training images"):
        sweep.make_grid(spec.parse(values).problem, (0,), values["zipped"])


def test_where_data_lie_does_not_change_what_is_computed(small):
    here, there = (spec.parse(small(data_dir=d)) for d in (None, "/somewhere"))
    assert spec.digest(here) == spec.digest(there)
    real = spec.parse(small(dataset="cifar10"))
    assert spec.digest(here) != spec.digest(real)


# Loss and evaluation.


def test_noise_of_level_zero_is_no_noise(build):
    problem, data, _ = build()
    model = problem.init(jax.random.key(0))
    (batch,) = batches(problem, data, [0])
    loss = jax.jit(problem.loss)
    of_level = {
        level: loss(
            model.params,
            model.stats,
            batch,
            None if level is None else jnp.float32(level),
            jax.random.key(1),
        )
        for level in (None, 0.0, 0.4)
    }
    assert float(of_level[None][0]) == pytest.approx(float(of_level[0.0][0]), rel=1e-6)
    assert abs(float(of_level[None][0]) - float(of_level[0.4][0])) > 1e-3


@pytest.mark.parametrize("train_set", [None, *patch_cifar.TRAIN_SETS])
def test_evaluation_against_plain_sums(build, train_set, monkeypatch):
    """Groups of different sizes share batches, of which the last is padded; a member of the clean
    part is judged by its own training images."""
    monkeypatch.setattr(patch_cifar, "EVALUATION_BATCH", 48)
    problem, data, _ = build(record_examples="yes")
    assert problem.group_sizes == (60, 30, 30, 40)
    assert problem.num_evaluation_batches == 4
    task = None if train_set is None else jnp.int32(patch_cifar.TRAIN_SETS.index(train_set))
    model = problem.init(jax.random.key(0))
    values = engine.make_evaluate(problem, "dispatch")(data, task, model)
    own, shared = data.own, data.shared

    def judge(images, labels, draws):
        labels = jnp.asarray(labels).astype(jnp.int32)
        inputs = problem.patched(problem.normalised(images), labels, own, draws)
        variables = {"params": model.params, "batch_stats": model.stats}
        logits = np.asarray(problem.network.apply(variables, inputs, False))
        losses = -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(labels)), labels]
        return logits.argmax(1) == labels, losses

    draws = jax.tree.map(lambda leaf: leaf[:60], own.train)
    if train_set == "all_clean":
        draws = draws._replace(clean=jnp.ones(60, bool))
    right, losses = judge(shared.train_images[:60], shared.train_labels[:60], draws)
    judged = np.asarray(draws.clean) if train_set == "clean_part" else np.ones(60, bool)
    assert float(values["train_loss"]) == pytest.approx(losses[judged].mean(), rel=1e-4)
    assert float(values["train_accuracy"]) == pytest.approx(right[judged].mean())
    np.testing.assert_array_equal(np.asarray(values["train_right"])[judged], right[judged])
    unpatched = own.test._replace(clean=jnp.ones(30, bool))
    of_test = shared.test_images, shared.test_labels
    for name, arguments in {
        "clean": (*of_test, unpatched),
        "mixed": (*of_test, own.test),
        "patch": (jnp.tile(shared.test_images, (2, 1, 1, 1))[:40], own.alone_labels, own.alone),
    }.items():
        wanted = judge(*arguments)[0].mean()
        assert float(values[f"{name}_accuracy"]) == pytest.approx(wanted), name


def test_the_stand_in_is_what_the_problem_loads(build):
    _, data, _ = build()
    key = jax.random.key(0, impl="threefry2x32")
    wanted = procedural.load(70, 30, key)
    np.testing.assert_array_equal(data.shared.test_images, wanted.test_images)


# Whole runs.


def run(values, folder):
    return experiment.run(spec.parse(values), folder)


def test_a_run_follows_the_contract(small, tmp_path):
    ds = run(small(record_examples="yes"), tmp_path / "run")
    assert ds["train_loss"].dims == ("seed", "arm", "epoch")
    np.testing.assert_allclose(ds["epoch"], [0, 1, 2, 3])
    assert list(ds["arm"].values) == ["large", "small", "noise"]
    np.testing.assert_allclose(ds["eta_init"], [0.1, 0.004, 0.004])
    contract = (
        "train_loss", "train_accuracy", "clean_accuracy", "mixed_accuracy", "patch_accuracy",
        "learning_rate", "activation_noise",
    )  # fmt: skip
    for name in contract:
        assert np.isfinite(ds[name]).all(), name
    np.testing.assert_allclose(ds["learning_rate"].sel(arm="large")[0], [0.1, 0.004, 0.004, 0.004])
    np.testing.assert_allclose(ds["activation_noise"].sel(arm="noise")[0], [0.4] + [4e-6] * 3)
    np.testing.assert_array_equal(ds["annealed_at"][0], [1, np.nan, 1])
    np.testing.assert_array_equal(ds["step"].isel(seed=0, arm=1), [0, 3, 6, 9])
    assert (ds["status"] == Status.COMPLETED).all()
    assert ds.attrs["dataset"] == "procedural"
    assert ds["train_right"].dims == ("seed", "arm", "epoch", "example")
    np.testing.assert_allclose(ds["train_right"].mean("example"), ds["train_accuracy"], atol=1e-6)
    assert results.first_learned(ds)[0].dims == ("seed", "arm", "example")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 4
    last = json.loads(lines[-1])
    assert (last["arm"], last["dataset"]) == ("noise", "procedural")
    assert "train_right" not in json.loads(lines[-1])
    tree, meta = checkpoint.restore(tmp_path / "run")
    assert tree["velocity"]["linear"]["kernel"].shape == (1, 3, 64, 10)
    assert meta["step"] == 9
    for name in ("accuracy", "patch_accuracy"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").exists()


def test_members_are_paired_at_the_start(build):
    problem, _, grid = build()
    state = sweep.init_state(problem, grid)
    kernel = np.asarray(state.params["conv"]["kernel"])
    np.testing.assert_array_equal(kernel[0, 0], kernel[0, 2])


@pytest.mark.parametrize("mapping", ["loop", "unroll"])
def test_a_run_that_was_stopped_goes_on_bit_by_bit(small, tmp_path, monkeypatch, mapping):
    values = small(mapping=mapping, keep_at=(0.0, 1.0, 3.0))
    run(values, tmp_path / "whole")
    original, seen = progress.Progress.update, []

    def update(self, *arguments):
        seen.append(None)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "update", update)
        patch.setattr(experiment, "CHUNK_SECONDS", 0.0)
        with pytest.raises(experiment.Interrupted):
            run(values, tmp_path / "parts")
    run(values, tmp_path / "parts")
    for name in ("results.nc", "metrics.jsonl"):
        whole, parts = (tmp_path / d / name for d in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()
    ends = [checkpoint.restore(tmp_path / name)[0] for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert checkpoint.restore(tmp_path / "parts")[1]["kept"] == [0, 3, 9]
    assert {0, 3, 9} <= set(checkpoint.stored_steps(tmp_path / "parts"))
    assert checkpoint.restore(tmp_path / "parts", step=3)[1]["time"] == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["loop", "unroll"])
def test_an_arm_that_diverges_leaves_the_others_as_they_are(small, tmp_path, mapping):
    """Not a bit of their records, weights, velocities and running statistics differs."""
    rates = small()["eta_init"]
    run(small(mapping=mapping), tmp_path / "calm")
    wild = run(small(mapping=mapping, eta_init=(1e30, *rates[1:])), tmp_path / "wild")
    np.testing.assert_array_equal(wild["status"], [[Status.DIVERGED] + [Status.COMPLETED] * 2])
    calm = results.read_results(tmp_path / "calm")
    for name in (name for name in calm.data_vars if "arm" in calm[name].dims):
        np.testing.assert_array_equal(calm[name][:, 1:], wild[name][:, 1:])
    ends = [checkpoint.restore(tmp_path / name)[0] for name in ("calm", "wild")]
    of_others = [jax.tree.map(lambda leaf: leaf[:, 1:], end) for end in ends]
    jax.tree.map(np.testing.assert_array_equal, *of_others)
    assert not all(np.isfinite(leaf[:, 0]).all() for leaf in jax.tree.leaves(ends[1]["params"]))


def test_ways_to_map_members_agree(small):
    """After three steps; float32 sums in another order, which a network without much depth keeps
    small."""
    ends = {}
    problem = spec.parse(small()).problem
    grid = sweep.make_grid(problem, (0,), small()["zipped"])
    state = sweep.init_state(problem, grid)
    for driving, mapping in (("dispatch", "loop"), ("dispatch", "unroll"), ("scan", "vmap")):
        members = placement.place_members(problem, grid, driving, mapping)
        members.put(state, range(3))
        members.advance(0, 3)
        ends[mapping] = members.fetch("params")
    for mapping in ("unroll", "vmap"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
            ends[mapping],
            ends["loop"],
        )


def test_the_way_on_a_cpu_keeps_convolutions_out_of_loops_and_groups(small):
    """No compiled loop and no grouped convolution in the programs of the default way."""
    parsed = spec.parse(small(mapping=None))
    assert jax.default_backend() == "cpu"
    assert parsed.ways == ("dispatch", "unroll")
    problem, grid = parsed.problem, sweep.make_grid(parsed.problem, (0,), small()["zipped"])
    together = placement.place_members(problem, grid, *parsed.ways, 1)
    together.put(sweep.init_state(problem, grid), range(3))
    ((members, _, _),) = together._parts  # those of the one device
    data = next(members._epochs(0, 1))[0][0]
    model = problem.init(jax.random.key(0))
    step = lambda s: engine.train_step(  # noqa: E731
        problem, data, members._hypers[0][0], s, jnp.int32(0), members._keys[0], 32
    )
    texts = [
        str(jax.make_jaxpr(step)(members._state[0][0])),
        str(jax.make_jaxpr(problem.evaluate)(data, None, model, jnp.int32(0))),
    ]
    for text in texts:
        assert "conv_general_dilated" in text
        assert "batch_group_count=1" in text
        assert "feature_group_count=3" not in text
        loops = [line for line in text.splitlines() if "while[" in line or "scan[" in line]
        assert not loops or all("conv" not in line for line in loops)


@pytest.mark.parametrize("name", ["patch_cifar", "cifar"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_published_configs_are_built_to_the_last_shape(name, dtype):
    """Traced without computing anything: data, state, a step of each batch size, an evaluation."""
    problem = published(name, compute_dtype=dtype)
    n, m = 50_000, 10_000
    uint8 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.uint8)  # noqa: E731
    shared = Images(uint8(n, 32, 32, 3), uint8(n), uint8(m, 32, 32, 3), uint8(m))
    key = engine.seed_key(0)
    own = jax.eval_shape(problem.make_data, key, shared)
    data = Data(shared, own, jax.eval_shape(problem.draw_epoch, Data(shared, own), key, 0))
    model = jax.eval_shape(problem.init, key)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == 17_116_634
    hypers = algorithm.on_device(hypers_of(problem, load_config(name).zipped)[0])
    state = jax.eval_shape(algorithm.init_state, hypers, *model)
    for size in set(problem.batch_sizes):
        step = lambda d, s, size=size: engine.train_step(  # noqa: E731
            problem, d, hypers, s, jnp.int32(0), key, size
        )
        after, _ = jax.eval_shape(step, data, state)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
            lambda a: (a.shape, a.dtype), state
        )
    sums = jax.eval_shape(problem.evaluate, data, None, model, jnp.int32(0))
    values = jax.eval_shape(problem.summarize, data, None, model, sums)
    assert set(values) == set(problem.variables)


def test_gradient_noise_moves_the_weights_of_a_network(small):
    """tau_xi sweeps with the rest: its member differs from the one without by about gamma tau."""
    arms = {"arm": ("without", "with"), "tau_xi": (0.0, 0.5), "zipped": ("arm+tau_xi",)}
    single = {"eta_init": (0.01,), "rate_factor": (1.0,), "noise_init": (0.0,)}
    problem = spec.parse(small(**arms, **single, noise_factor=(1.0,))).problem
    grid = sweep.make_grid(problem, (0,), arms["zipped"])
    members = placement.place_members(problem, grid, "dispatch", "loop")
    members.put(sweep.init_state(problem, grid), range(2))
    members.advance(0, 1)
    kernel = members.fetch("params")["group3_block1"]["conv2"]["kernel"][0]
    step = 0.01 * 1.9 * 0.5  # Nesterov's first step: rate (1 + mu) noise
    assert np.std(kernel[1] - kernel[0]) == pytest.approx(step, rel=4 / np.sqrt(2 * kernel[0].size))


def test_bfloat16_keeps_float32_parameters_and_statistics(build):
    problem, data, grid = build(compute_dtype="bfloat16")
    model = problem.init(jax.random.key(0))
    state = algorithm.init_state(
        algorithm.on_device(jax.tree.map(lambda leaf: leaf[0, 0], grid.hypers)), *model
    )
    hypers = algorithm.on_device(jax.tree.map(lambda leaf: leaf[0, 0], grid.hypers))
    data = data._replace(epoch=problem.draw_epoch(data, KEY, 0))
    step = jax.jit(lambda s: engine.train_step(problem, data, hypers, s, jnp.int32(0), KEY, 32))
    after, info = step(state)
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.stats))} == {
        jnp.dtype("float32")
    }
    assert np.isfinite(info["loss"])
    exact, _, _ = build()
    plain, _ = exact.loss(*model[:2], *batches(exact, data, [0]), None, KEY)
    assert float(info["loss"]) == pytest.approx(float(plain), rel=0.05)
