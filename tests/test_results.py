"""The table, half times, and files written aside."""

import numpy as np
import pytest
import xarray as xr

from lr_order_jax import figures, files, results
from lr_order_jax.algorithm import Cause, Status


@pytest.fixture
def dataset():
    """Two seeds, two rates: the large one learns P then Q, the small one Q then P."""
    time = np.arange(5.0)
    nan = np.nan
    p_loss = np.array([[[0.7, 0.4, 0.3, 0.3, 0.3], [0.7, 0.7, 0.7, 0.4, 0.3]]] * 2)
    second = np.array([[[0.0, 0.0, 0.0, -0.6, -0.8], [0.0, -0.6, -0.8, -0.8, -0.8]]] * 2)
    error = np.array([[[0.5, 0.4, 0.2, 0.1, 0.1], [0.5, 0.4, 0.3, 0.3, 0.3]]] * 2)
    error[1] += 0.02
    error[1, 1] += 0.02
    curves = ("seed", "eta_init", "flow_time")
    variables = {
        "train_loss_p_only": (curves, p_loss),
        "train_loss_q_only": (curves, p_loss),
        "second_difference": (curves, second),
        "test_error_p_only": (curves, error),
        "test_error_q_only": (curves, error),
        "test_error_both": (curves, error),
        "test_error": (curves, error),
        "step": (curves, np.broadcast_to(time, (2, 2, 5)).copy()),
        "annealed_at": (("seed", "eta_init"), np.array([[2.0, nan]] * 2)),
        "ended_at": (("seed", "eta_init"), np.full((2, 2), float(time[-1]))),
        "status": (("seed", "eta_init"), np.full((2, 2), Status.COMPLETED.value)),
        "steps_taken": (("seed", "eta_init"), np.full((2, 2), 40)),
        "cause": (("seed", "eta_init"), np.full((2, 2), Cause.NONE.value)),
    }
    coords = {"seed": [0, 1], "eta_init": [0.2, 0.1], "flow_time": time}
    return xr.Dataset(variables, coords, {"problem": "two_layer"})


def test_half_times(dataset):
    p, q = results.half_times(dataset)
    np.testing.assert_array_equal(p, [[1, 3]] * 2)
    np.testing.assert_array_equal(q, [[3, 1]] * 2)


def test_the_last_record_of_a_member_that_ended_early(dataset):
    for name in ("step", "test_error"):
        dataset[name][0, 1, 3:] = np.nan
    np.testing.assert_allclose(results.final(dataset, "test_error"), [[0.1, 0.3], [0.12, 0.34]])
    assert float(results.final(dataset, "step")[0, 1]) == 2


def test_a_member_that_still_runs_has_no_final_value(dataset):
    dataset["status"][1, 0] = Status.RUNNING.value
    dataset.attrs["complete"] = 0
    np.testing.assert_allclose(results.final(dataset, "test_error"), [[0.1, 0.3], [np.nan, 0.34]])
    table = results.learning_order_table(dataset)
    assert table.title.startswith("two_layer (not finished): 2 seeds")
    assert table.remarks[0].endswith("paired by seed: not finished")
    assert table.rows[0][table.columns.index("P-only %")] == "10.00"
    figure = figures.error_against_rate(dataset)
    assert "(not finished)" in figure.get_suptitle()


def test_the_table_shows_order_and_errors(dataset):
    table = results.learning_order_table(dataset)
    large, small = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (large["eta_init"], large["order"]) == ("0.2", "P, Q (2/2)")
    assert (small["eta_init"], small["order"]) == ("0.1", "Q, P (2/2)")
    assert large["annealed at"] == "2.0 +- 0.0"
    assert small["annealed at"] == "-"
    assert large["P-only %"] == "11.00 +- 1.00"
    assert large["diverged"] == ""
    assert "21.00 +- 1.00" in table.remarks[0]


def test_a_diverged_member_is_counted_and_left_out_of_the_errors(dataset):
    dataset["status"][1, 0] = Status.DIVERGED.value
    dataset["cause"][1, 0] = Cause.LOSS.value
    row = results.learning_order_table(dataset).rows[0]
    columns = results.learning_order_table(dataset).columns
    shown = dict(zip(columns, row, strict=True))
    assert shown["diverged"] == "1"
    assert shown["P-only %"] == "10.00"
    assert shown["order"] == "P, Q (1/1)"
    assert shown["Q half at"] == "3.0"
    errors = figures.error_against_rate(dataset).axes[0].lines[0].get_ydata()
    assert np.isnan(figures.error_against_rate(dataset).axes[0].lines[1].get_ydata()).any()
    assert np.isfinite(errors).all()


def test_mean_and_error():
    assert results.mean_and_error([1.0, 3.0]) == (2.0, pytest.approx(1.0))
    assert results.mean_and_error([1.0, np.nan])[0] == 1.0
    assert np.isnan(results.mean_and_error([np.nan])[0])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.nc"
    path.write_text("old")

    def half(aside):
        aside.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_aside(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_equal_results_are_equal_bytes(dataset, tmp_path):
    for name in ("a.nc", "b.nc"):
        results.write_results(dataset, tmp_path / name)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_results_that_do_not_match_their_digest_are_refused(dataset, tmp_path):
    path = tmp_path / "results.nc"
    with pytest.raises(FileNotFoundError):
        results.read_results(tmp_path)
    results.write_results(dataset, path)
    whole = path.read_bytes()
    assert results.read_results(tmp_path).identical(dataset)
    stored, told = results.read_with_digest(path)
    stored["step"][0, 0, 0] = 7.0
    for content, reason in (
        (bytes(stored.assign_attrs(digest=told).to_netcdf(engine="h5netcdf")), "not match its dig"),
        (bytes(stored.to_netcdf(engine="h5netcdf")), "does not match its digest"),
        (whole[:3000], "cannot be read"),
        (b"", "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=reason) as caught:
            results.read_results(tmp_path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


ELSEWHERE = {"error_against_shape", "learning_order_map", "lemmas"}  # test_study, test_lemmas


@pytest.mark.parametrize("name", sorted(set(figures.FIGURES) - ELSEWHERE))
def test_figures_are_drawn_from_whole_and_unfinished_results(dataset, patched, tmp_path, name):
    whole = patched if "accuracy" in name else dataset
    figures.draw(whole, [name], tmp_path)
    for variable in whole.data_vars.values():
        if variable.ndim == 3:
            variable[1, 1, 2:] = np.nan
    (path,) = figures.draw(whole, [name], tmp_path)
    assert path.stat().st_size > 10_000


def test_the_learning_order_figure_shows_the_means(dataset):
    axes = figures.learning_order(dataset).axes
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), [0, 0, 0, -0.6, -0.8])
    assert axes[0].get_legend_handles_labels()[1] == ["0.2", "0.1"]


@pytest.fixture
def patched():
    """Two seeds, two arms: the large rate learns images first, the small one the patch."""
    clean = np.array([[[0.1, 0.4, 0.5, 0.7, 0.7], [0.1, 0.2, 0.3, 0.4, 0.4]]] * 2)
    patch = np.array([[[0.1, 0.1, 0.1, 0.4, 0.9], [0.1, 0.6, 0.9, 0.9, 0.9]]] * 2)
    clean[1] += 0.02
    curves = ("seed", "arm", "epoch")
    names = ("train_loss", "train_accuracy", "clean_accuracy", "mixed_accuracy")
    variables = {
        **{name: (curves, clean.copy()) for name in names},
        "patch_accuracy": (curves, patch),
        "step": (curves, np.zeros((2, 2, 5))),
        "annealed_at": (("seed", "arm"), np.array([[2.0, np.nan]] * 2)),
        "ended_at": (("seed", "arm"), np.full((2, 2), 4.0)),
        "status": (("seed", "arm"), np.full((2, 2), Status.COMPLETED.value)),
        "steps_taken": (("seed", "arm"), np.full((2, 2), 40)),
        "cause": (("seed", "arm"), np.full((2, 2), Cause.NONE.value)),
    }
    coords = {
        "seed": [0, 1],
        "arm": ["large", "small"],
        "eta_init": ("arm", [0.1, 0.004]),
        "epoch": np.arange(5.0),
    }
    return xr.Dataset(variables, coords, {"problem": "patch_cifar", "dataset": "procedural"})


def test_the_learning_order_index_is_clean_accuracy_when_the_patch_is_half_known(patched):
    index, epoch = results.order_index(patched)
    np.testing.assert_array_equal(epoch, [[4, 1]] * 2)
    np.testing.assert_allclose(index, [[0.7, 0.2], [0.72, 0.22]])
    patched["patch_accuracy"][0, 0] = 0.5  # never above
    index, epoch = results.order_index(patched)
    assert np.isnan(epoch[0, 0])
    assert np.isnan(index[0, 0])


def test_before_annealing_is_one_time_for_all_members(patched):
    before = results.before_annealing(patched, "patch_accuracy")
    np.testing.assert_allclose(before, [[0.1, 0.9]] * 2)
    patched["annealed_at"][:] = np.nan
    np.testing.assert_allclose(results.before_annealing(patched, "patch_accuracy"), 0.9)


def test_the_accuracy_table(patched):
    table = results.accuracy_table(patched)
    assert "not CIFAR-10" in table.title
    large, small = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (large["arm"], small["arm"]) == ("large", "small")
    assert (large["annealed at"], small["annealed at"]) == ("2.0 +- 0.0", "-")
    assert small["patch % before annealing"] == "90.0 +- 0.0"
    assert small["clean % then"] == "21.0 +- 1.0"
    assert large["final clean %"] == "71.0 +- 1.0"


def test_the_accuracy_table_without_patches(patched):
    plain = patched.drop_vars(["patch_accuracy", "mixed_accuracy"])
    columns = results.accuracy_table(plain).columns
    assert columns == ("arm", "annealed at", "final clean %", "final train loss", "diverged")


def test_every_annealing_is_marked(patched):
    curves = ("seed", "arm", "epoch")
    rate = np.broadcast_to([[0.1, 0.1, 0.02, 0.02, 0.004], [0.004] * 5], (2, 2, 5))
    level = np.broadcast_to([[0.0] * 5, [0.4, 0.4, 0.4, 0.0, np.nan]], (2, 2, 5))
    patched["learning_rate"], patched["activation_noise"] = (curves, rate), (curves, level)
    assert results.annealing_times(patched) == [2.0, 3.0, 4.0]
    axis = figures.patch_accuracy(patched).axes[1]
    marks = [line.get_xdata()[0] for line in axis.lines if str(line.get_color()) == "0.6"]
    assert marks == [2.0, 3.0, 4.0]
    assert results.annealing_times(patched.drop_vars(["learning_rate"])) == [3.0]


def test_when_examples_were_learned(patched):
    """Of record 0 nothing is counted; a chance hit is no learning for good."""
    times = [
        [1, 0, 0, 0, 0],  # right by chance before training
        [0, 1, 0, 1, 1],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0],
    ]
    right = np.broadcast_to(np.transpose(times), (2, 2, 5, 4)).astype(float).copy()
    right[0, 1, 3:] = np.nan  # not recorded yet
    patched["train_right"] = (("seed", "arm", "epoch", "example"), right)
    patched["status"][1, 1] = Status.DIVERGED.value
    first, for_good = results.first_learned(patched)
    nan = np.nan
    np.testing.assert_array_equal(first[0, 0], [nan, 1, 1, 1])
    np.testing.assert_array_equal(for_good[0, 0], [nan, 3, 1, nan])
    np.testing.assert_array_equal(for_good[0, 1], [nan, nan, 1, 1])
    assert np.isnan(first[1, 1]).all()


@pytest.mark.parametrize("never", [False, True])
def test_bars_add_up_to_the_examples_learned(never):
    rng = np.random.default_rng(0)
    epochs = rng.integers(1, 4, (2, 2, 30)).astype(float)
    epochs[:, :, ::3] = np.nan
    if never:
        epochs[:] = np.nan
    dims = ("seed", "arm", "example")
    told = {"long_name": "epoch at which the example was first right"}
    found = xr.Dataset(
        {
            "first_learned": (dims, epochs, told),
            "learned": (dims[:2], np.ones((2, 2)), {"long_name": "share"}),
            "status": (dims[:2], np.ones((2, 2), int)),
        },
        {"arm": ["large", "small"], "seed": [0, 1]},
        {"problem": "patch_cifar"},
    )
    axis = figures.measured(found).axes[0]
    counts = [np.ptp(patch.get_xy(), axis=0)[1] for patch in axis.patches]
    for column, patch in enumerate(axis.patches):
        edges, heights = patch.get_xy()[1:-1:2, 0], patch.get_xy()[1:-1:2, 1]
        assert heights.sum() == np.isfinite(epochs[:, column]).sum(), (edges, heights)
    assert len(counts) == 2
    assert axis.get_xlabel() == "epoch at which the example was first\nright"
    assert axis.get_ylabel() == "examples of all seeds"


def measured_at(steps, **dims):
    """A measurement of two members and two seeds, as `analysis.measure` gives it."""
    rng = np.random.default_rng(0)
    grid = ("checkpoint", "seed", "eta_init")
    sizes = (len(steps), 2, 2)
    over = {dim: list(values) for dim, values in dims.items()}
    shape = (*sizes, *map(len, over.values()))
    told = {"long_name": "learning rate times the largest eigenvalue of something with a long name"}
    return xr.Dataset(
        {
            "time": (grid, rng.random(sizes), {"long_name": "flow time"}),
            "rate_times_sharpness": ((*grid, *over), rng.random(shape), told),
            "status": (grid[1:], np.ones((2, 2), int)),
        },
        {"checkpoint": list(steps), "seed": [0, 1], "eta_init": [0.2, 0.1], **over},
        {"problem": "two_layer"},
    )


def test_what_was_measured_at_one_checkpoint_can_be_seen():
    axis = figures.measured(measured_at([7])).axes[0]
    (edge,) = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert set(edge.get_ydata()) == {2}
    assert "plain gradient descent" in axis.texts[0].get_text()
    assert axis.get_ylim()[1] > 2
    shown = [line for line in axis.lines if line.get_marker() == "o"]
    assert len(shown) == len(axis.containers) == 2  # with error bars
    assert axis.get_ylabel().replace("\n", " ").startswith("learning rate times")


def test_layers_are_points_and_places_on_a_line_are_joined():
    figure = figures.measured(measured_at([7, 9], layer=["W", "V"]))
    assert {line.get_linestyle() for line in figure.axes[0].lines} <= {"None", "--"}
    assert "at step 9" in figure.get_suptitle()
    line = measured_at([7, 9], t=[0.0, 0.5, 1.0])
    line["t"].attrs["long_name"] = "t (0: step 7, 1: the checkpoint)"
    axis = figures.measured(line).axes[0]
    assert axis.get_xlabel() == "t (0: step 7, 1: the checkpoint)"
    assert {line.get_linestyle() for line in axis.lines} == {"-", "--"}


def test_panels_of_a_measurement_do_not_overlap():
    base = measured_at([7, 9])
    told = {"long_name": "a name of a variable that is much too long for one line of a panel"}
    many = base.assign({f"v{i}": base["time"].assign_attrs(told) for i in range(9)})
    figure = figures.measured(many)
    figure.canvas.draw()
    boxes = [axis.get_tightbbox() for axis in figure.axes if axis.axison]
    boxes += [text.get_window_extent() for text in [figure._suptitle, *figure.legends]]
    for i, box in enumerate(boxes):
        assert not any(box.padded(-1).overlaps(other.padded(-1)) for other in boxes[:i])


def test_the_circle_is_drawn_with_one_colour_a_flow_time():
    angles = np.linspace(-0.6, 0.6, 5)
    curves = [
        ("L-S", 96.0, angles, angles),
        ("S", 3.0, angles, angles),
        ("S", 96.4, angles, angles),
    ]
    figure = figures.around_the_circle(0.1, curves, "two_layer, seed 0")
    first, large, small = figure.axes
    assert large.lines[0].get_color() is not None
    np.testing.assert_array_equal(large.lines[0].get_color(), small.lines[1].get_color())
    assert not np.array_equal(small.lines[0].get_color(), small.lines[1].get_color())
    assert "(rad)" in small.get_xlabel()
    figure.set_size_inches(6.75, 2.6)
    figure.canvas.draw()
    for text in first.texts:
        assert text.get_window_extent().x1 < first.get_window_extent().x1
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["flow time 3", "flow time 96"]
