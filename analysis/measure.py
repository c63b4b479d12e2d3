"""Measurements on the checkpoints of a run, of all members at once.

    python -m analysis.measure NAME DIR [--steps=STEP,...] [OPTION ...]

NAME is one of the functions below. Each takes a run (`lr_order_jax.load(DIR)`) and returns labelled
arrays with dimensions `checkpoint` (its step), `seed` and those of the run's axes, and the variable
`time`, at which each member then was. The members of one checkpoint that are trained together are
at the same step, at different flow times; those of other groups (`group_size`) are before their
first step or after their last. The command prints the last checkpoint's, means over seeds with
standard errors, writes DIR/analysis/NAME.nc and draws DIR/figures/NAME.png; what options make
another measurement stands in the name. Nothing is trained, and a run that is not finished is
measured up to its newest checkpoint. Of a study, DIR is the directory of one of its programs; of
merged parts, that of one of these.
"""

import argparse
import ast
import dataclasses
import inspect
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import xarray as xr

from analysis import script
from lr_order_jax import engine, fields, figures, load, results, sweep
from lr_order_jax.algorithm import Status
from lr_order_jax.problem import Data, Model, ShowsActivations, Variable
from lr_order_jax.problems.patch_cifar import EVALUATION_BATCH, PatchCifar
from lr_order_jax.progress import Occasionally
from lr_order_jax.stored import Checkpoint, StoredRun, data_of_seeds

PyTree = Any


# What the measurements share.


def _models(checkpoint: Checkpoint) -> Model:
    state = checkpoint.state
    return Model(state.params, state.stats, state.watched)


def _along(
    run: StoredRun,
    checkpoints: Iterable[Checkpoint],
    measure: Callable[[Checkpoint], Mapping[str, Any]],
    variables: Mapping[str, Variable],
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> xr.Dataset:
    """Labelled arrays of what is measured at each checkpoint, (S, H, ...) arrays by variable.

    Members that have diverged are NaN.
    """
    grid, clock = run.grid, run.problem.clock
    rows: dict[str, list[Any]] = {name: [] for name in ("time", "status", *variables)}
    found_at, progress = [], Occasionally()
    for checkpoint in checkpoints:
        progress.say(f"measuring the checkpoint of step {checkpoint.step}")
        found_at.append(checkpoint.step)
        found = {**measure(checkpoint), "time": checkpoint.time, "status": checkpoint.state.status}
        for name, row in rows.items():
            row.append(np.asarray(found[name]))
    dims = ["checkpoint", *run.member_dims]
    shape = [len(found_at), len(grid.seeds), *(len(axis) for axis in grid.axes)]
    at: dict[str, Any] = {"checkpoint": found_at, "seed": list(grid.seeds), **(coords or {})}
    for axis in grid.axes:
        at |= {field: (axis.name, list(values)) for field, values in axis.values.items()}
    told = {"time": Variable(clock.replace("_", " "), results.TIME_UNITS[clock]), **variables}
    arrays = {
        name: (
            [*dims, *(dim for dim, _ in variable.over)],
            np.stack(rows[name]).astype(float).reshape(*shape, *variable.shape),
            variable.attributes,
        )
        for name, variable in told.items()
    }
    status = np.stack(rows["status"]).reshape(shape)
    dataset = xr.Dataset(arrays, at)
    dataset = dataset.where(xr.DataArray(status, dims=dims) != Status.DIVERGED)
    dataset["status"] = (dims[1:], status[-1])
    what = run.config["what"]
    of_data = {"dataset": what["dataset"]} if "dataset" in what else {}
    return dataset.assign_attrs(
        problem=what["problem"],
        config=json.dumps(what, sort_keys=True),
        complete=np.int32(run.complete),
        **of_data,
    )


def _of_members(run: StoredRun, of_member: Callable) -> Callable[[Checkpoint], Any]:
    """A function of one member, (data, hypers, model), as one of a checkpoint."""
    mapped = run.mapped(of_member)
    return lambda checkpoint: mapped(run.data, _models(checkpoint))


def _check_steps(run: StoredRun, option: str, steps: Sequence[int]) -> None:
    """Raises ValueError if one of these is not the step of a checkpoint, or there is none."""
    there = list(run.checkpoints)
    if not there:
        raise ValueError("has no checkpoint yet")
    for step in steps:
        if step not in there:
            raise ValueError(f"{option}: {step} is none of {', '.join(map(str, there))}")


def _checkpoints(
    run: StoredRun, steps: Sequence[int] | None, after: int = -1
) -> Iterator[Checkpoint]:
    """The checkpoints asked for, or all that are still there after a step, oldest first.

    Raises:
      ValueError: if there is none, or not one of those asked for.
    """
    _check_steps(run, "--steps", steps or ())
    return run.checkpoints.still_there(sorted(set(steps)) if steps else None, after)


def _needs_weights(run: StoredRun) -> None:
    if not jax.tree.leaves(run.state_structure.params):
        raise ValueError(f"problem {run.config['what']['problem']} has no weights")


# The measurements.


def evaluation(
    run: StoredRun, steps: Sequence[int] | None = None, changed: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Losses and accuracies or errors by group, as a run records them, on any evaluation set.

    Args:
      changed: config fields with other values, such as num_test = 10000 or another law of the
        examples: the evaluation sets are drawn with these (by the seed's own stream), the weights
        are those of the run. What is said of training examples is then of examples drawn anew.

    Raises:
      ValueError: if a field is none of the problem's, or the weights do not fit it, or it makes no
        difference.
    """
    problem, grid = run.problem, run.grid
    if changed:
        problem = _changed(run, changed)
        shapes = [
            jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(p.init, grid.keys[0]))
            for p in (problem, run.problem)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(f"--changed: the weights of the run do not fit {dict(changed)}")
        grid = run.grid_of(problem)
        if _is_same_evaluation(run, problem, grid):
            raise ValueError(f"--changed: {dict(changed)} changes nothing of an evaluation")
    evaluate = engine.make_evaluate(problem, run.spec.ways.driving)
    mapped = run.mapped(lambda data, hypers, model: evaluate(data, hypers.task, model))
    of_seeds = data_of_seeds(grid)
    numbers = {name: v for name, v in problem.variables.items() if not v.over}
    dataset = _along(
        run, _checkpoints(run, steps), lambda at: mapped(of_seeds, _models(at)), numbers
    )
    if changed:
        told = ", ".join(f"{name} = {value}" for name, value in changed.items())
        dataset.attrs |= {"changed": json.dumps(changed), "variant": f"evaluated with {told}"}
        if "dataset" in dataset.attrs:
            dataset.attrs["dataset"] = problem.fields.dataset
    return dataset


def _changed(run: StoredRun, changed: Mapping[str, Any]) -> Any:
    """The run's problem with other values of some of its fields."""
    rules = fields.rules(type(run.problem.fields))
    for name in changed:
        if name not in rules:
            raise ValueError(f"--changed: {name} is no field of the problem")
        if rules[name].swept:
            raise ValueError(f"--changed: {name} is swept, it says nothing of an evaluation")
    values = {name: fields.convert(name, value, rules[name]) for name, value in changed.items()}
    return type(run.problem).build(dataclasses.replace(run.problem.fields, **values))


def _is_same_evaluation(run: StoredRun, problem: Any, grid: sweep.Grid) -> bool:
    """Whether an evaluation is the same computation, on the same data, as that of the run."""

    def told(problem, grid):
        data = sweep.data_of_seed(grid.data, 0)
        task = jax.tree.map(lambda leaf: leaf[0, 0], run.grid.hypers.task)
        traced = jax.make_jaxpr(engine.make_evaluate(problem, "scan"))(data, task, model)
        return re.sub(r" at 0x\w+", "", str(traced)), [*jax.tree.leaves(data), *traced.consts]

    state = run.state_structure
    model = Model(state.params, state.stats, state.watched)
    (ours, our_arrays), (theirs, their_arrays) = told(run.problem, run.grid), told(problem, grid)
    return ours == theirs and all(map(np.array_equal, our_arrays, their_arrays))


def wrong_patch(run: StoredRun, steps: Sequence[int] | None = None) -> xr.Dataset:
    """Clean test images that bear the whole patch of a wrong class: which of the two is believed?

    The class is the true one moved by 1 to 9, drawn once a seed by a stream of its own; the patches
    are those of the mixed test images.

    Raises:
      ValueError: for a run without patches.
    """
    problem = run.problem
    if not isinstance(problem, PatchCifar) or not problem.has_patches:
        raise ValueError("must be a run of patch_cifar with patches")
    size = min(problem.fields.num_test, EVALUATION_BATCH)

    @jax.jit
    def batch_of(data: Data, key, start):
        own = data.own
        rows = start + jnp.arange(size)
        counts = rows < problem.fields.num_test
        rows = jnp.minimum(rows, problem.fields.num_test - 1)
        labels = data.shared.test_labels[rows].astype(jnp.int32)
        shift = jax.random.randint(jax.random.fold_in(key, start), (size,), 1, 10)
        wrong = (labels + shift) % 10
        draws = jax.tree.map(lambda leaf: leaf[rows], own.test)
        none = jnp.zeros(size, bool)
        images = problem.normalised(data.shared.test_images[rows])
        patched = problem.patched(images, wrong, own, draws._replace(clean=none, alone=none))
        return patched, labels, wrong, counts

    @jax.jit
    def sums_of(batch, model: Model):
        images, labels, wrong, counts = batch
        variables: Any = {"params": model.params, "batch_stats": model.stats}
        believed = jnp.argmax(problem.network.apply(variables, images, False), axis=-1)
        return jnp.stack([jnp.sum(counts & (believed == of)) for of in (labels, wrong)])

    starts = range(0, problem.fields.num_test, size)

    def of_member(of_seed, hypers, model):
        sums = [sums_of(batch_of(*of_seed, jnp.int32(i)), model) for i in starts]
        right, wrong = sum(sums) / problem.fields.num_test
        return {"accuracy_under_wrong_patch": right, "wrong_patch_believed": wrong}

    variables = {
        "accuracy_under_wrong_patch": Variable(
            "accuracy on test images with the patch of a wrong class"
        ),
        "wrong_patch_believed": Variable("share of these taken for the class of the patch"),
    }
    keys = [engine.stream_key(key, engine.Stream.ANALYSIS) for key in run.grid.keys]
    of_seeds, mapped = list(zip(run.data, keys, strict=True)), run.mapped(of_member)
    return _along(
        run, _checkpoints(run, steps), lambda at: mapped(of_seeds, _models(at)), variables
    )


def activations(run: StoredRun, steps: Sequence[int] | None = None) -> xr.Dataset:
    """How many units are active and how many directions their activations span, layer by layer.

    `active`: share of activations above 0. `effective_rank`: exp of the entropy of the normalised
    singular values (Roy and Vetterli 2007) of the matrix of activations, examples by units,
    averaged over pixels where a layer has any.

    Where examples have the Q pattern alone, as V's in `two_layer`, they are the three directions z,
    z + zeta and z - zeta, each once: three rows, and an effective rank of at most 3.

    Raises:
      ValueError: if the problem shows no activations.
    """
    problem = run.problem
    if not isinstance(problem, ShowsActivations):
        raise ValueError(f"problem {run.config['what']['problem']} shows no activations")
    show = jax.jit(problem.activations)
    state = run.state_structure
    data = run.data[0]
    task = jax.tree.map(lambda leaf: leaf[0, 0], run.grid.hypers.task)
    shown = jax.eval_shape(show, data, task, Model(state.params, state.stats, state.watched))
    layers = list(shown)

    @jax.jit
    def of_layer(shown, counts):
        wide = counts.astype(jnp.float32)
        active = jnp.mean((shown > 0).reshape(len(shown), -1), axis=1)
        features = jnp.mean(shown.reshape(len(shown), -1, shown.shape[-1]), axis=1)
        values = jnp.linalg.svd(features * wide[:, None], compute_uv=False)
        share = values / jnp.maximum(jnp.sum(values), jnp.finfo(values.dtype).tiny)
        entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(share), 0.0))
        rank = jnp.where(jnp.any(share > 0), jnp.exp(entropy), 0.0)  # 0: nothing is active
        return jnp.sum(active * wide) / jnp.sum(wide), rank

    def of_member(data, hypers, model):
        shown = show(data, hypers.task, model)
        active, rank = zip(*(of_layer(*shown[name]) for name in layers), strict=True)
        return {"active": jnp.stack(active), "effective_rank": jnp.stack(rank)}

    over = (("layer", len(layers)),)
    variables = {
        "active": Variable("share of activations above 0", over=over),
        "effective_rank": Variable("effective rank of the activations", over=over),
    }
    return _along(
        run, _checkpoints(run, steps), _of_members(run, of_member), variables, {"layer": layers}
    )


def norms(run: StoredRun, steps: Sequence[int] | None = None) -> xr.Dataset:
    """Frobenius norms of the weights by block, and how far they are from the initial ones.

    With the probe `decomposition` also of their signal and noise parts, (3.4).
    """
    _needs_weights(run)
    init = jax.jit(lambda key: run.problem.init(engine.stream_key(key, engine.Stream.INIT)).params)
    starts = [init(key) for key in run.grid.keys]
    blocks = list(run.state_structure.params)
    has_signal = "signal" in run.state_structure.watched

    def norm(tree):
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))

    @jax.jit
    def of_member(start, hypers, model: Model):
        minus = lambda a, b: jax.tree.map(jnp.subtract, a, b)  # noqa: E731
        params = model.params
        parts = {"norm": params, "distance_from_start": minus(params, start)}
        if has_signal:
            signal = model.watched["signal"]
            parts |= {"signal_norm": signal, "noise_norm": minus(params, signal)}
        return {
            name: jnp.stack([norm(part[block]) for block in blocks]) for name, part in parts.items()
        }

    told = {
        "norm": "Frobenius norm of the weights",
        "distance_from_start": "Frobenius norm of the weights less the initial ones",
        "signal_norm": "Frobenius norm of the weights' signal part (3.4)",
        "noise_norm": "Frobenius norm of the weights' noise part (3.4)",
    }
    over = (("block", len(blocks)),)
    names = list(told)[: 4 if has_signal else 2]
    variables = {name: Variable(told[name], over=over) for name in names}
    mapped = run.mapped(of_member)
    return _along(
        run,
        _checkpoints(run, steps),
        lambda at: mapped(starts, _models(at)),
        variables,
        {"block": blocks},
    )


def interpolation(
    run: StoredRun,
    steps: Sequence[int] | None = None,
    start: int | None = None,
    to: int | None = None,
    points: int = 11,
) -> xr.Dataset:
    """Losses and errors on the straight line from a checkpoint's weights to others', and barriers.

    Running statistics of batch normalisation are interpolated as the weights are, not computed anew
    at each place: between the ends they are not those of the network there, and a barrier can be
    theirs alone. The second layer u is the same for the members of a seed.

    Args:
      steps: where the lines end; all after `start`.
      start: the checkpoint from which all lines start; the oldest. Not with `to`.
      to: index of a column of members (C order of the axes): the lines lead from each member to the
        one of the same seed in this column, at the same checkpoint.
      points: on each line, ends included.

    Returns:
      The recorded losses, errors and accuracies along `t` from 0 to 1, and `barrier`: max over t of
      the training loss above the straight line between its ends.
    """
    _needs_weights(run)
    if points < 2:
        raise ValueError(f"--points: {points}, must be at least 2")
    if to is None:
        origin = _origin(run, steps, start)
        checkpoints = _checkpoints(run, steps, origin.step)
        leads = f"on lines from step {origin.step}"
        ends = f"t (0: step {origin.step}, 1: the checkpoint)"
    else:
        if start is not None:
            raise ValueError(f"--start: {start}, must not be given with --to")
        if not 0 <= to < len(run.grid.members):
            raise ValueError(f"--to: {to}, must be from 0 to {len(run.grid.members) - 1}")
        origin, checkpoints = None, _checkpoints(run, steps)
        column = _told(run, to)
        leads, ends = f"on lines to {column}", f"t (0: the member, 1: that of {column})"
    over = (("t", points),)
    numbers = {
        name: Variable(v.long_name, v.units, over)
        for name, v in run.problem.variables.items()
        if not v.over and any(word in name for word in ("loss", "error", "accuracy"))
    }
    told = "largest training loss on the line, above the straight line between its ends"
    variables = numbers | {"barrier": Variable(told)}
    t = np.linspace(0.0, 1.0, points)
    evaluate = engine.make_evaluate(run.problem, run.spec.ways.driving)
    mapped = run.mapped(lambda data, hypers, model: evaluate(data, hypers.task, model))
    moves = False  # whether the running statistics of some line's ends differ

    def line(checkpoint: Checkpoint) -> dict[str, Any]:
        nonlocal moves
        here = _models(checkpoint)
        if origin is not None:
            begin, end = _models(origin), here
        else:
            begin, end = here, jax.tree.map(lambda a: np.broadcast_to(a[:, [to]], a.shape), here)
        moves |= not all(map(np.array_equal, *map(jax.tree.leaves, (begin.stats, end.stats))))
        on_line = [mapped(run.data, _between(begin, end, share)) for share in t]
        along = {name: np.stack([v[name] for v in on_line], axis=-1) for name in numbers}
        return along | {"barrier": barrier(along["train_loss"], t)}

    dataset = _along(run, checkpoints, line, variables, {"t": list(t)})
    dataset["t"].attrs["long_name"] = ends
    dataset.attrs["variant"] = leads
    if moves:
        dataset.attrs["remark"] = (
            "Running statistics are interpolated as the weights are, not computed anew: losses "
            "between the ends, and barriers, can be theirs alone."
        )
    return dataset


def barrier(loss: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Largest of the losses (..., T) at places t from 0 to 1 above the line between its ends."""
    with np.errstate(invalid="ignore"):  # a loss can be infinite
        straight = loss[..., :1] * (1 - t) + loss[..., -1:] * t
        return np.max(loss - straight, axis=-1)


def _origin(run: StoredRun, steps: Sequence[int] | None, start: int | None) -> Checkpoint:
    """Where lines between checkpoints start.

    Raises:
      ValueError: if there is no such checkpoint, or none later at which they could end.
    """
    _check_steps(run, "--start", () if start is None else (start,))
    origin = next(run.checkpoints.still_there(None if start is None else [start]))
    for step in steps or ():
        if step <= origin.step:
            told = "--start" if start is not None else "the oldest,"
            raise ValueError(f"--steps: {step}, must be after {told} {origin.step}")
    if origin.step == max(run.checkpoints):
        raise ValueError(f"has no checkpoint after step {origin.step}, a line needs two")
    return origin


def _told(run: StoredRun, column: int) -> str:
    """A column of members by the values of its axes."""
    index = np.unravel_index(column, [len(axis) for axis in run.grid.axes])
    told = []
    for axis, i in zip(run.grid.axes, index, strict=True):
        is_told_apart = len(set(axis.values[axis.name])) == len(axis)
        names = [axis.name] if is_told_apart else axis.values
        told += [f"{name} = {axis.values[name][i]}" for name in names]
    return ", ".join(told)


def _between(start: PyTree, end: PyTree, share: float) -> PyTree:
    def mix(a, b):
        if a.dtype.kind != "f":
            return a
        return ((1 - share) * a + share * b).astype(a.dtype)

    with np.errstate(invalid="ignore", over="ignore"):  # members that have diverged
        return jax.tree.map(mix, start, end)


def sharpness(
    run: StoredRun,
    steps: Sequence[int] | None = None,
    iterations: int = 60,
    tolerance: float = 1e-3,
) -> xr.Dataset:
    """The largest eigenvalue of the Hessian of the training loss (without weight decay), by Lanczos
    with full reorthogonalisation on Hessian-vector products, all members at once.

    The loss is the recorded `train_loss`: in evaluation mode, on the evaluated training examples.
    A relu network's Hessian is that where no unit is at its kink.

    Args:
      iterations: at most so many products a member; as many vectors like the weights are kept.
      tolerance: stop when no member's eigenvalue can be off by more than this share of it.

    Returns:
      `sharpness`, `rate_times_sharpness` with the rate of the member's next step (2 is the edge of
      stability of plain gradient descent), and `sharpness_error`: |H v - sharpness v| of the unit
      vector v found, from one product more; a bound on the distance to the nearest eigenvalue. NaN
      for a member whose weights, or products, are not finite.

    Raises:
      ValueError: for no iterations, or a tolerance that is negative or not finite.
    """
    _needs_weights(run)
    if iterations < 1:
        raise ValueError(f"--iterations: {iterations}, must be at least 1")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"--tolerance: {tolerance:g}, must be a finite number, 0 or more")
    of_hessian, of_phases = _hessian(run), np.asarray(run.grid.hypers.rates)

    def at(checkpoint: Checkpoint) -> dict[str, Any]:
        state, phase = checkpoint.state, np.asarray(checkpoint.state.phase)
        top, error = _lanczos(of_hessian(checkpoint), state, iterations, tolerance)
        rates = np.take_along_axis(of_phases, phase[..., None], axis=-1)[..., 0]
        return {"sharpness": top, "sharpness_error": error, "rate_times_sharpness": rates * top}

    variables = {
        "sharpness": Variable("largest eigenvalue of the Hessian of the training loss"),
        "rate_times_sharpness": Variable("learning rate times the largest eigenvalue"),
        "sharpness_error": Variable("norm of the residual |H v - sharpness v| of the eigenvector"),
    }
    return _along(run, _checkpoints(run, steps), at, variables)


def _hessian(run: StoredRun) -> Callable:
    """checkpoint -> (v (S, H, P) -> Hessian of the training loss times v), weights as one vector.

    The training loss is a function of sums over evaluation batches and linear in those that depend
    on the weights (a mean). So the products of the batches add up, each batch's sums weighted by
    the derivative of the loss with respect to them.
    """
    problem = run.problem
    batches = range(problem.num_evaluation_batches)
    evaluate = jax.jit(problem.evaluate)

    @jax.jit
    def weigh(data, task, model, sums):
        leaves, structure = jax.tree.flatten(sums)

        def loss(leaves):
            of_leaves = jax.tree.unflatten(structure, leaves)
            return problem.summarize(data, task, model, of_leaves)["train_loss"]

        return jax.grad(loss)(leaves)

    def of_batch(data, task, model, weights, index):
        """The batch's part of the training loss, as a function of the weights in one vector."""
        flat, unravel = jax.flatten_util.ravel_pytree(model.params)

        def loss(vector):
            sums = problem.evaluate(data, task, model._replace(params=unravel(vector)), index)
            leaves = jax.tree.leaves(sums)
            return sum(jnp.vdot(a, b) for a, b in zip(weights, leaves, strict=True))

        return loss, flat

    @jax.jit
    def product_of_batch(data, task, model, weights, v, index):
        # Reverse over reverse: `models.two_layer.before` has no forward derivative.
        loss, flat = of_batch(data, task, model, weights, index)
        return jax.grad(lambda vector: jnp.vdot(jax.grad(loss)(vector), v))(flat)

    @jax.jit
    def matters(data, task, model, weights, index):
        loss, flat = of_batch(data, task, model, weights, index)
        return jnp.any(jax.grad(loss)(flat) != 0)

    def weigh_member(data, hypers, model):
        sums = [evaluate(data, hypers.task, model, jnp.int32(i)) for i in batches]
        return weigh(data, hypers.task, model, jax.tree.map(lambda *a: sum(a), *sums))

    def matters_to_member(data, hypers, model, weights):
        of = data, hypers.task, model, weights
        return jnp.stack([matters(*of, jnp.int32(i)) for i in batches])

    weigh_all, matter_to_all = run.mapped(weigh_member), run.mapped(matters_to_member)

    def at(checkpoint: Checkpoint) -> Callable:
        models = _models(checkpoint)
        weights = weigh_all(run.data, models)
        of_all = matter_to_all(run.data, models, weights)
        used = np.flatnonzero(of_all.reshape(-1, len(batches)).any(axis=0))  # hold training data

        def product(data, hypers, model, weights, v):
            of = data, hypers.task, model, weights, v
            return sum(product_of_batch(*of, jnp.int32(i)) for i in used)

        mapped = run.mapped(product)
        return lambda v: mapped(run.data, models, weights, v)

    return at


def _lanczos(product: Callable, state: Any, iterations: int, tolerance: float):
    """Largest eigenvalue and the norm of its residual, (S, H) each, of symmetric matrices given by
    their products with vectors (S, H, P). NaN where the weights or a product are not finite."""
    leaves = [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(state.params)]
    grid, size = leaves[0].shape[:2], sum(leaf.shape[-1] for leaf in leaves)
    finite = np.all([np.isfinite(leaf).all(axis=-1) for leaf in leaves], axis=0)

    def times(v):
        """The product, with zeros for members that are not finite."""
        nonlocal finite
        w = np.asarray(product(v), np.float64)
        finite = finite & np.isfinite(w).all(axis=-1)
        return np.where(finite[..., None], w, 0.0)

    v = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    v = np.broadcast_to(v / np.linalg.norm(v), (*grid, size))
    basis: list[np.ndarray] = []
    progress = Occasionally()
    small = np.zeros((*grid, iterations, iterations))  # the tridiagonal matrices
    for k in range(min(iterations, size)):
        progress.say(f"product {k + 1} of the Hessian with a vector, of {iterations} at most")
        basis.append(v)
        w = times(v)
        small[..., k, k] = np.sum(w * v, axis=-1)
        for _ in range(2):  # once leaves what rounding has put back
            for q in basis:
                w -= np.sum(w * q, axis=-1, keepdims=True) * q
        beta = np.linalg.norm(w, axis=-1)
        small[~finite] = 0.0
        values, vectors = np.linalg.eigh(small[..., : k + 1, : k + 1])
        left = beta * np.abs(vectors[..., -1, -1])  # the residual, but for rounding
        if np.all((left <= tolerance * np.abs(values[..., -1])) | ~finite) or np.all(beta == 0):
            break
        if k + 1 < iterations:
            small[..., k, k + 1] = small[..., k + 1, k] = beta
        v = (w / np.maximum(beta, 1e-30)[..., None]).astype(np.float32)
    v = sum(q * vectors[..., i, -1:] for i, q in enumerate(basis))
    v = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-30)).astype(np.float32)
    w = times(v)
    top = np.sum(w * v, axis=-1)
    error = np.linalg.norm(w - top[..., None] * v, axis=-1)
    return np.where(finite, top, np.nan), np.where(finite, error, np.nan)


def first_learned(run: StoredRun, steps: Sequence[int] | None = None) -> xr.Dataset:
    """The epochs at which each training example was first right, and from which on it stayed right.

    `first_learned` counts chance hits; `learned_for_good` is the first record from which on the
    example was right at all records made. NaN where there is none. Record 0, the initial weights,
    does not count. From the results of a run with record_examples = "yes": there is no dimension
    `checkpoint`.

    Raises:
      ValueError: for a run without.
    """
    if steps is not None:
        raise ValueError("--steps: first_learned is of the whole run")
    if "train_right" not in run.dataset:
        if not hasattr(run.problem.fields, "record_examples"):
            problem = run.config["what"]["problem"]
            raise ValueError(f"problem {problem} does not record single examples")
        raise ValueError("must have been run with --config.record_examples=yes")
    recorded = run.dataset
    first, for_good = results.first_learned(recorded)
    told = {
        "first_learned": (first, "epoch at which the example was first right", "epochs"),
        "learned_for_good": (for_good, "epoch from which on the example was right", "epochs"),
    }
    for epoch, of, median, share in (
        (first, "ever right", "median_epoch", "learned"),
        (for_good, "right to the end", "median_epoch_for_good", "right_to_the_end"),
    ):
        told[median] = (epoch.median("example"), f"median epoch, of examples {of}", "epochs")
        counted = epoch.notnull().mean("example").where(recorded["status"] != Status.DIVERGED)
        told[share] = (counted, f"share of examples {of}", "1")
    found = {n: v.assign_attrs(long_name=name, units=unit) for n, (v, name, unit) in told.items()}
    taken = {"steps_taken": int(recorded["steps_taken"].sum())}
    return xr.Dataset(found | {"status": recorded["status"]}, attrs=recorded.attrs | taken)


MEASURES: Mapping[str, Callable[..., xr.Dataset]] = {
    "activations": activations,
    "evaluation": evaluation,
    "first_learned": first_learned,
    "interpolation": interpolation,
    "norms": norms,
    "sharpness": sharpness,
    "wrong_patch": wrong_patch,
}


def _defaults(name: str) -> dict[str, Any]:
    """What the options of a measurement are where they are not given."""
    parameters = inspect.signature(MEASURES[name]).parameters
    return {key: p.default for key, p in parameters.items() if p.default is not p.empty}


def _assignment(text: str) -> tuple[str, Any]:
    """FIELD=VALUE, the value a Python literal or a word."""
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def _step_list(text: str) -> tuple[int, ...]:
    """STEP,..."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, must be steps, as 100 or 100,200") from None


def _parser() -> argparse.ArgumentParser:
    parser = script.Parser(prog="python -m analysis.measure", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, function in MEASURES.items():
        told = function.__doc__ or ""
        first = " ".join(told.split("\n\n")[0].split())
        command = commands.add_parser(name, help=first, description=told)
        command.add_argument("folder", type=pathlib.Path, metavar="DIR")
        command.add_argument("--steps", type=_step_list, help="checkpoints, by step; all")
        if name == "evaluation":
            command.add_argument("--changed", type=_assignment, nargs="+", metavar="FIELD=VALUE")
        if name == "interpolation":
            command.add_argument("--start", type=int, help="step at which the lines start; oldest")
            command.add_argument("--to", type=int, help="column of members where they lead")
            command.add_argument("--points", type=int, help="on a line")
        if name == "sharpness":
            command.add_argument("--iterations", type=int)
            command.add_argument("--tolerance", type=float)
        command.set_defaults(**_defaults(name))
    return parser


def file_name(name: str, options: Mapping[str, Any]) -> str:
    """NAME of a measurement's files, and what of its options makes it another measurement."""
    defaults = _defaults(name)
    told = {
        key: options[key] for key in defaults if options.get(key, defaults[key]) != defaults[key]
    }
    told |= told.pop("changed", {})
    if "steps" in told:
        told["steps"] = "+".join(map(str, told["steps"]))
    parts = ",".join(f"{key}={value}" for key, value in told.items())
    return "-".join([name, re.sub(r"[^\w.=,+-]+", "_", parts)]) if parts else name


def main(folder: pathlib.Path, name: str, options: Mapping[str, Any]) -> int:
    run = load(folder)
    if merged := run.config.get("merged"):
        raise ValueError(f"is joined of parts, which have the checkpoints: {', '.join(merged)}")
    measured = MEASURES[name](run, **options)
    results.print_table(results.measured_table(measured))
    stem = file_name(name, options)
    path = folder / "analysis" / f"{stem}.nc"
    with script.writing(path):
        path.parent.mkdir(exist_ok=True)
        results.write_results(measured, path)
    print(f"measured: {path}")
    script.save_figure(figures.measured(measured), folder, stem)
    return 0


if __name__ == "__main__":
    given = vars(_parser().parse_args())
    if given.get("changed"):
        given["changed"] = dict(given["changed"])
    folder, name = given.pop("folder"), given.pop("name")
    script.told([folder], lambda: main(folder, name, given))
