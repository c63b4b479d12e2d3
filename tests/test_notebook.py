"""The Colab notebook: executed headless as it stands, and its set-up with stand-ins for pip and
for Colab's Drive."""

import os
import subprocess
import sys

import nbformat
import pytest
from conftest import COMPILATION_CACHE, ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "launch" / "colab.ipynb"
EXECUTED = ROOT / "build" / "colab.ipynb"  # to be looked at


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_without_outputs():
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def execute(folder):
    """What the cells print, and their images as (cell's id, PNG); a cell that fails raises."""
    notebook = read()
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    EXECUTED.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, EXECUTED)
    outputs = [(cell.id, out) for cell in notebook.cells for out in cell.get("outputs", [])]
    images = [(name, out.data["image/png"]) for name, out in outputs if "data" in out]
    return "".join(out.get("text", "") for _, out in outputs), images


@pytest.mark.slow
def test_it_runs_shows_figures_and_a_second_time_says_that_nothing_is_left(tmp_path, monkeypatch):
    for name, value in (COMPILATION_CACHE | {"PYTHONPATH": str(ROOT)}).items():
        monkeypatch.setenv(name, value)
    told, images = execute(tmp_path)
    assert "6 members (2 seeds x 3 eta_init)" in told
    assert "on cpu" in told
    assert [name for name, _ in images] == ["figures", "figures", "results"]
    assert all(len(png) > 10_000 for _, png in images)
    told, again = execute(tmp_path)
    assert "nothing left to run" in told
    assert again == images


@pytest.fixture
def set_up(tmp_path):
    """A function that runs the cells up to the set-up as a program, beside stand-ins for pip and
    for Colab, and gives its exit status and what it prints and says last."""
    (tmp_path / "stubs" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "stubs" / "google" / "colab" / "drive.py").write_text("mount = print")
    (tmp_path / "stubs" / "pip.py").write_text(
        "import pathlib, sys\n"
        "pathlib.Path('called').write_text(' '.join(sys.argv[1:]))\n"
        "sys.exit('ERROR: no such versions' if pathlib.Path('unfit').exists() else 0)\n"
    )

    def run(with_package=False, **variables):
        cells = {cell.id: cell.source for cell in read().cells}
        changes = [f"{name} = {value!r}" for name, value in variables.items()]
        path = [tmp_path / "stubs", *([ROOT] if with_package else [])]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join((cells["variables"], *changes, cells["setup"]))],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(str(p) for p in path)},
        )  # fmt: skip
        return done.returncode, done.stdout + "".join(done.stderr.splitlines()[-1:])

    return run


def test_where_the_package_is_nothing_is_cloned_or_installed(set_up, tmp_path):
    status, told = set_up(with_package=True, KEEP_ON_DRIVE=True)
    assert status == 0, told
    assert told.startswith("/content/drive\njax ")
    assert told.endswith("results in /content/drive/MyDrive/lr_order_jax/colab\n")
    assert [path.name for path in tmp_path.iterdir()] == ["stubs"]


def test_it_is_cloned_and_its_requirements_added_to_the_jax_that_is_there(set_up, tmp_path):
    assert "set REPOSITORY" in set_up()[1]
    assert "Stop: nowhere could not be cloned" in set_up(REPOSITORY="nowhere")[1]
    repository = tmp_path / "repository"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repository)]
    repository.mkdir()
    (repository / "requirements.txt").write_text("numpy")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    status, told = set_up(REPOSITORY=repository.as_uri())
    assert status == 0, told
    assert told.endswith(f"results in {tmp_path}/runs/colab\n")
    wanted = f"install --quiet -c constraints.txt -r {tmp_path}/source/requirements.txt"
    assert (tmp_path / "called").read_text() == wanted
    jax, jaxlib = (tmp_path / "constraints.txt").read_text().split()
    assert jax.startswith("jax==")
    assert jaxlib.startswith("jaxlib==")
    (tmp_path / "unfit").touch()
    status, told = set_up(REPOSITORY="nowhere")  # it is there already
    assert status == 1
    assert f"the requirements do not fit this runtime, whose {jax} and {jaxlib} are kept" in told
    assert told.endswith("(pip: no such versions)")
