"""The launch scripts, with a stand-in for the virtual environment's Python."""

import shutil
import subprocess

import pytest
from conftest import ROOT


@pytest.fixture
def clone(tmp_path):
    """The scripts and requirements beside a .venv whose programs tell their arguments."""
    names = ("launch", "tests/requirements.txt", "tests/requirements-ci.txt", "requirements.txt")
    for name in names:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True, parents=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target)
        else:
            shutil.copy(ROOT / name, target)
    for tool in ("python", "ruff", "mypy"):
        path = tmp_path / ".venv" / "bin" / tool
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {tool} "$@"\n')
        path.chmod(0o755)
    return tmp_path


def call(script, *arguments, cwd):
    done = subprocess.run(
        ["bash", script, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


MAIN = "python -m lr_order_jax.main"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], f"{MAIN} --config=configs/sweep.py"),
        (["--workdir=a b"], f"{MAIN} --config=configs/sweep.py --workdir=a b"),
        (["--config=x.py:y"], f"{MAIN} --config=x.py:y"),
        (["--config", "x.py"], f"{MAIN} --config x.py"),
        (["--config.d=3"], f"{MAIN} --config=configs/sweep.py --config.d=3"),
    ],
)
def test_local_passes_its_arguments_on_and_config_replaces_the_default(clone, arguments, wanted):
    assert call(clone / "launch" / "local.sh", *arguments, cwd="/")[-1] == wanted


def test_pip_runs_only_when_requirements_changed(clone):
    script = clone / "launch" / "local.sh"
    first = call(script, cwd=clone)
    assert "python -m pip install" in first[0]
    assert len(call(script, cwd=clone)) == 1
    assert "-r tests/requirements.txt" in call(clone / "launch" / "test.sh", cwd=clone)[0]
    assert len(call(script, cwd=clone)) == 1  # the test script's set-up does not undo it
    (clone / "requirements.txt").write_text("numpy")
    assert "python -m pip install" in call(script, cwd=clone)[0]


def test_test_runs_every_check_and_passes_arguments_to_pytest(clone):
    lines = call(clone / "launch" / "test.sh", "-m", "not slow", cwd="/")
    assert lines[-4:] == [
        "ruff format --check .",
        "ruff check .",
        "mypy",
        "python -m pytest -m not slow",
    ]


def on_a_gpu(clone, otherwise):
    """A Python that says that JAX runs on a GPU, and does something else when run with -m."""
    python = f'#!/bin/sh\n[ "$1" = -c ] && echo gpu && exit\n{otherwise}\n'
    (clone / ".venv" / "bin" / "python").write_text(python)


def test_figure_3_is_refused_without_a_gpu(clone):
    (clone / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho cpu\n")
    done = subprocess.run(
        ["bash", clone / "launch" / "figure3_gpu.sh"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "error: JAX runs on cpu here, not on a GPU\n")


def test_figure_3_on_a_gpu_passes_its_arguments_on(clone):
    on_a_gpu(clone, 'echo python "$@"')
    lines = call(clone / "launch" / "figure3_gpu.sh", "--config.compute_dtype=bfloat16", cwd="/")
    wanted = f"{MAIN} --config=configs/patch_cifar.py --config.num_seeds=1 --workdir=runs/figure3"
    assert lines[0] == f"{wanted} --config.compute_dtype=bfloat16"
    assert lines[1] == "done: runs/figure3/figures/patch_accuracy.png"


def test_figure_3_on_a_gpu_stops_after_its_slice_and_says_so(clone):
    on_a_gpu(clone, "exec sleep 60")
    done = subprocess.run(
        ["bash", clone / "launch" / "figure3_gpu.sh"],
        env={"LIMIT": "1", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (75, "not finished: run the same command again\n")
