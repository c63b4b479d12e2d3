"""The guide's examples, as they stand in it, are run by its own commands."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import COMPILATION_CACHE, ROOT

from lr_order_jax import results

GUIDE = (ROOT / "lr_order_jax" / "problems" / "README.md").read_text()


@pytest.fixture
def folder(tmp_path):
    """A folder with every Python example of the guide under the name in its first line."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", GUIDE, re.DOTALL)
    assert [name for name, _ in blocks] == ["probes.py", "line.py", "line_config.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


def call(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"} | COMPILATION_CACHE
    command = [sys.executable, "-m", "lr_order_jax.main", *arguments, "--workdir=run"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return results.read_results(folder / "run"), done.stdout


def test_a_problem_of_ones_own(folder):
    assert "--config=line_config.py" in GUIDE
    way = ("--config.driving=dispatch", "--config.mapping=loop")
    ds, out = call(folder, "--config=line_config.py", *way)
    assert ds["slope"].dims == ("seed", "eta_init", "epoch")
    np.testing.assert_allclose(ds["slope"].sel(eta_init=0.1)[:, -1], 3, atol=0.05)
    assert (abs(ds["slope"].sel(eta_init=0.01)[:, -1] - 3) > 0.05).all()
    assert "final slope" in out


def test_a_run_of_ones_own_problem_is_read(folder):
    call(folder, "--config=configs/sweep.py:smoke", "--config.problem=probes:TwoLayerWithNorm")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"} | COMPILATION_CACHE
    command = [sys.executable, "-m", "analysis.measure", "norms", "run"]
    for asked, status in (({}, 2), ({"LR_ORDER_JAX_PROBLEMS": "probes"}, 0)):
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment | asked,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert ("LR_ORDER_JAX_PROBLEMS=probes in" in done.stderr) == (status == 2)
        assert done.stderr.count("\n") <= 1


def test_a_probe_of_ones_own(folder):
    problem = "--config.problem=probes:TwoLayerWithNorm"
    assert problem in GUIDE
    ds, _ = call(folder, "--config=configs/sweep.py:smoke", problem)
    assert (ds["w_norm"] > 0).all()


def arms(text):
    """The --config options of an indented command of the guide that contains `text`."""
    (command,) = (c for c in re.findall(r"(?:^    .*\n)+", GUIDE, re.MULTILINE) if text in c)
    return [word for word in command.replace("\\\n", " ").split() if word.startswith("--config.")]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["arm=large,middle,small", "arm=mixture,clean_part,all_clean"])
def test_arms_of_ones_own(folder, text):
    options = [*arms(text), "--config.num_seeds=1", "--config.num_train_eval=40"]
    ds, _ = call(folder, "--config=configs/patch_cifar.py:smoke", *options)
    assert list(ds["arm"].values) == text.removeprefix("arm=").split(",")
    assert np.isfinite(ds["clean_accuracy"]).all()
