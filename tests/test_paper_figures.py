"""The scripts of the paper's figures: PNG, PDF and numbers beside the paper's, on tiny runs."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from conftest import ROOT, load_config

from analysis import figure1, figure2, figure3, table_h1, theorem_scaling
from lr_order_jax import experiment, figures, load, results, spec, study

pytestmark = pytest.mark.slow


def fields_of(name, **changes):
    return dict(load_config(name, "smoke").items()) | changes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory of each kind that the scripts read."""
    folder = tmp_path_factory.mktemp("figures")
    for name in ("cifar", "patch_cifar"):
        experiment.run(spec.parse(fields_of(name)), folder / name)
    small = {"n": 12, "d": 6, "m_w": 4, "m_v": 8, "num_test": 16}
    experiment.run(spec.parse(fields_of("lemmas", **small, keep_at=(1.0,))), folder / "lemmas")
    sizes = {"d": (6, 6), "n": (12, 24), "p0": (0.3, 0.2), "zipped": ("n+p0",), "num_seeds": 3}
    of_study = fields_of("scaling", **(sizes | {"d": 6}))
    study.run(spec.parse_study(of_study), folder / "scaling")
    return folder


SCRIPTS = {
    figure1: "cifar",
    figure2: "lemmas",
    figure3: "patch_cifar",
    table_h1: "cifar",
    theorem_scaling: "scaling",
}


@pytest.mark.parametrize("module", SCRIPTS, ids=lambda m: m.__name__.removeprefix("analysis."))
def test_a_script_draws_and_compares(runs, module, capsys):
    folder, name = runs / SCRIPTS[module], module.__name__.removeprefix("analysis.")
    assert module.main(folder) == 0
    assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    text = (folder / "figures" / f"{name}.md").read_text()
    assert text in capsys.readouterr().out
    assert f"by `{load(folder).command}`" in text
    assert "| quantity | paper | this run |" in text
    assert "not finished" not in text
    assert ("the procedural stand-in (not CIFAR-10)" in text) == ("cifar" in SCRIPTS[module])
    assert ("from memory and not confirmed" in text) == (module is table_h1)
    assert len(text.splitlines()) > 4


def test_widths_are_those_of_a_paper(runs):
    figure3.main(runs / "patch_cifar")
    content = (runs / "patch_cifar" / "figures" / "figure3.pdf").read_bytes()
    box = content[content.index(b"/MediaBox") :].split(b"[")[1].split(b"]")[0].split()
    assert float(box[2]) == pytest.approx(6.75 * 72, abs=0.5)  # points


def test_the_numbers_of_figure_1():
    clean = np.array([[[0.1, 0.5, 0.6, 0.6, 0.65], [0.1, 0.3, 0.5, 0.7, 0.9]]] * 2)
    dataset = xr.Dataset(
        {
            "clean_accuracy": (("seed", "arm", "epoch"), clean),
            "annealed_at": (("seed", "arm"), np.array([[np.nan, 2.0]] * 2)),
            "status": (("seed", "arm"), np.ones((2, 2), int)),
            "step": (("seed", "arm", "epoch"), np.ones(clean.shape)),
        },
        {"seed": [0, 1], "arm": ["small", "large"], "epoch": np.arange(5.0)},
    )
    np.testing.assert_allclose(figure1.jump(dataset, "large"), 0.4)
    assert figure1.first_behind(dataset) == 3
    end, jump, behind = figure1.compared(dataset)
    assert end.ours.startswith("25.00 +- 0.00 points")
    assert jump.ours.startswith("40.00 +- 0.00 points")
    assert "annealing: after 2 epochs" in behind.quantity
    assert behind.ours == "3"


def test_the_numbers_beside_the_papers(runs):
    dataset = load(runs / "cifar").dataset
    end = results.final(dataset, "clean_accuracy")
    rows = {row.quantity: row for row in table_h1.compared(dataset)}
    mean = 100 * float(end.sel(arm="small").mean())
    assert rows["small"].ours.startswith(f"{mean:.2f}")
    assert rows["noise less small"].paper == "4.72 points"
    rows = figure3.compared(load(runs / "patch_cifar").dataset)
    assert len(rows) == 12
    assert sum(row.paper != "-" for row in rows) == 4


def test_the_numbers_of_the_theorems_as_trends():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    bent = np.array([1.0, 2.0, 4.0, 16.0]) / 100
    curves = {"L-S": (x, np.stack([bent, 3 * bent])), "all": (x, np.full((2, 4), 0.5))}
    rows = {row.quantity: row for row in theorem_scaling.compared("kappa", curves)}
    of_large, *ends, means, rule = rows.values()
    assert of_large.paper == theorem_scaling.CLAIMS["L-S"]
    assert of_large.ours == "1.30 +- 0.00"  # least squares of 0, 1, 2, 4 on 0, 1, 2, 3
    assert [end.ours for end in ends] == ["1.00 +- 0.00 to 2.00 +- 0.00"]
    assert means.ours.startswith("1: 2.00 +- 1.00, 2: 4.00 +- 2.00")
    assert (rule.paper, rule.ours) == ("-", "0.00 +- 0.00")
    curves = {"L-S": tuple(part[..., :2] for part in curves["L-S"])}
    assert len(theorem_scaling.compared("A", curves)) == 2


def unfinished(folder, copy, points):
    """A run of which so many points of time have been recorded."""
    shutil.copytree(folder, copy)
    dataset = results.read_results(copy)
    clock = results.clock_of(dataset)
    made = dataset[clock] < dataset[clock][points]
    for name, variable in dataset.data_vars.items():
        if clock in variable.dims:
            dataset[name] = variable.where(made).assign_attrs(variable.attrs)
    late = dataset["annealed_at"] > dataset[clock][points - 1]
    dataset["annealed_at"] = dataset["annealed_at"].where(~late)
    dataset["status"] = dataset["status"].copy(data=0 * dataset["status"].values)
    dataset.attrs["complete"] = np.int32(0)
    results.write_results(dataset, copy / "results.nc")
    return copy


@pytest.mark.parametrize(("points", "annealed"), [(1, False), (3, True)])
def test_an_unfinished_run_says_so(runs, tmp_path, capsys, points, annealed):
    """And nothing of it is set beside what the paper says of an end."""
    folder = unfinished(runs / "patch_cifar", tmp_path / "patches", points)
    assert "(not finished)" in figures.patch_accuracy(load(folder).dataset).get_suptitle()
    assert figure3.main(folder) == 0
    told = capsys.readouterr().out
    assert "The run is not finished." in told
    rows = [line.strip("|").split("|") for line in told.splitlines() if "| accuracy" in line]
    ours = {quantity.strip(): value.strip() for quantity, _, value in rows}
    assert len(ours) == 12
    for quantity, value in ours.items():
        assert (value != "-") == (annealed and "before annealing" in quantity), quantity
    folder = unfinished(runs / "cifar", tmp_path / "plain", points)
    for module in (figure1, table_h1):
        assert module.main(folder) == 0
        told = capsys.readouterr().out
        assert "nan" not in told
        assert "(not finished)" in told
    folder = unfinished(runs / "scaling", tmp_path / "study", 1)
    with pytest.raises(ValueError, match="has fewer than two final errors of L-S yet"):
        theorem_scaling.main(folder)


def test_plain_figures_refuse_a_run_with_patches(runs):
    for module in (figure1, table_h1):
        with pytest.raises(ValueError, match="must be a run without patches"):
            module.main(runs / "patch_cifar")


def test_one_value_of_a_shape_is_refused_in_words(runs):
    with pytest.raises(ValueError, match=r"must vary a field .*: L-S has one value of eta_1/eta_2"):
        theorem_scaling.main(runs / "lemmas")
    with pytest.raises(ValueError, match="patch_cifar has no P-only error"):
        theorem_scaling.main(runs / "cifar")


def test_figure_2_of_a_study_names_its_programs(runs):
    with pytest.raises(ValueError, match=r"holds 2 programs, .* such as .*scaling/n=12,p0=0.3"):
        figure2.main(runs / "scaling")


@pytest.mark.parametrize("module", SCRIPTS, ids=lambda m: m.__name__.removeprefix("analysis."))
def test_the_wrong_run_is_one_line(runs, module):
    other = "lemmas" if SCRIPTS[module] != "lemmas" else "cifar"
    command = [sys.executable, "-m", module.__name__, str(runs / other)]
    if module is theorem_scaling:
        command[-1] = str(runs / "cifar")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
