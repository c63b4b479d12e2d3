"""The scripts of the paper's figures: PNG, PDF and numbers beside the paper's, on tiny runs."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, load_config

from analysis import figure1, figure2, figure3, table_h1, theorem_scaling
from lr_order_jax import experiment, load, results, spec, study

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
    assert "python -m lr_order_jax.main" in text
    assert "| quantity | paper | this run |" in text
    assert "not finished" not in text
    assert len(text.splitlines()) > 4


def test_widths_are_those_of_a_paper(runs):
    figure3.main(runs / "patch_cifar")
    content = (runs / "patch_cifar" / "figures" / "figure3.pdf").read_bytes()
    box = content[content.index(b"/MediaBox") :].split(b"[")[1].split(b"]")[0].split()
    assert float(box[2]) == pytest.approx(6.75 * 72, abs=0.5)  # points


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


def test_an_unfinished_run_says_so(runs, tmp_path, capsys):
    folder = tmp_path / "half"
    shutil.copytree(runs / "patch_cifar", folder)
    dataset = results.read_results(folder)
    last = dataset["epoch"] == dataset["epoch"][-1]
    for name, variable in dataset.data_vars.items():
        if "epoch" in variable.dims:
            dataset[name] = variable.where(~last).assign_attrs(variable.attrs)
    dataset.attrs["complete"] = np.int32(0)
    results.write_results(dataset, folder / "results.nc")
    assert figure3.main(folder) == 0
    assert "The run is not finished." in capsys.readouterr().out


@pytest.mark.parametrize("module", SCRIPTS, ids=lambda m: m.__name__.removeprefix("analysis."))
def test_the_wrong_run_is_one_line(runs, module):
    other = "lemmas" if SCRIPTS[module] != "lemmas" else "cifar"
    command = [sys.executable, "-m", module.__name__, str(runs / other)]
    if module is theorem_scaling:
        command[-1] = str(runs / "cifar")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
