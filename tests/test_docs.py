"""The API reference is built without a warning, and the examples in docstrings and README hold."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys

import matplotlib
import pytest
from conftest import ROOT, load_config

import lr_order_jax
from lr_order_jax import __version__, experiment, spec


def modules():
    for found in pkgutil.walk_packages(lr_order_jax.__path__, "lr_order_jax."):
        if found.name != "lr_order_jax.main":  # defines flags when it is imported
            yield importlib.import_module(found.name)


def test_examples_in_docstrings_hold():
    tried = 0
    for module in modules():
        failed, of_module = doctest.testmod(module)
        assert failed == 0, module.__name__
        tried += of_module
    assert tried >= 12


def test_every_module_is_in_the_reference():
    pages = (ROOT / "launch" / "docs" / "pages").glob("*.md")
    told = {name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)}
    files = [p for folder in ("lr_order_jax", "analysis") for p in (ROOT / folder).rglob("*.py")]
    names = {str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in files}
    names = {name.removesuffix(".__init__") for name in names}
    packages = {"analysis", "lr_order_jax.data", "lr_order_jax.models", "lr_order_jax.problems"}
    small = {"lr_order_jax.main", "analysis.patch_picture"}
    benchmarks = {name for name in names if name.startswith("analysis.benchmarks")}
    assert told == names - packages - small - benchmarks


def test_the_reference_is_built_and_a_warning_is_an_error(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--config-file", "launch/docs/mkdocs.yml"],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "second_difference" in (tmp_path / "problems.html").read_text()


@pytest.mark.slow
def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert len(blocks) == 2
    for code, name in zip(blocks, ("patch_cifar", "sweep"), strict=True):
        config = dict(load_config(name, "smoke").items())
        if name == "sweep":
            config |= {"eta_init": (0.2, 0.00625), "eta_2": (0.00625,)}
        experiment.run(spec.parse(config), tmp_path / name)
        (directory,) = set(re.findall(r'"(runs/[^"]*)"', code))
        with monkeypatch.context() as patch, matplotlib.rc_context({"backend": "agg"}):
            patch.chdir(tmp_path)
            exec(code.replace(directory, name), {})
    assert (tmp_path / "figure3.png").stat().st_size > 1000


def test_the_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert text.count(f"version: {__version__}\n") == 2
