"""Imports run one way, and importing the package is light."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

from lr_order_jax import problem

PACKAGE = ROOT / "lr_order_jax"

# Each room may import those on the floors below it, never one above.
FLOORS = [
    {"fields", "progress"},
    {"cache", "algorithm", "files", "processes"},
    {"memory", "problem", "models", "data"},
    {"engine", "problems"},
    {"sweep"},
    {"placement", "parts"},
    {"spec", "results", "checkpoint"},
    {"lemmas"},
    {"figures", "directory"},
    {"experiment"},
    {"study", "verify", "members"},
    {"stored"},
    {"main", "merge"},
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


def imported(path):
    """Modules of the package that a file imports, as rooms."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lr_order_jax"):
            parts = node.module.split(".")
            if len(parts) > 1:
                yield parts[1]
            else:
                yield from (alias.name for alias in node.names if alias.name != "__version__")
        if isinstance(node, ast.Import):
            yield from (
                a.name.split(".")[1] for a in node.names if a.name.startswith("lr_order_jax.")
            )


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(p for p in PACKAGE.rglob("*.py") if room_of(p) != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    room = room_of(path)
    for other in imported(path):
        assert other == room or FLOOR[other] < FLOOR[room], f"{room} imports {other}"


def test_the_engine_and_the_algorithm_know_no_problem():
    for name in (
        "engine",
        "algorithm",
        "sweep",
        "placement",
        "parts",
        "experiment",
        "results",
        "checkpoint",
    ):
        rooms = set(imported(PACKAGE / f"{name}.py"))
        assert not rooms & {"problems", "models"}


def test_no_code_branches_on_the_name_of_a_problem():
    """Names of problems are strings of the registry alone."""
    for path in FILES:
        if path.name == "problem.py":
            continue
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & set(problem._BUILDERS), path


def test_only_one_module_each_sees_orbax_and_config_dicts():
    text = {p: p.read_text() for p in FILES}
    assert {p.name for p in FILES if "orbax" in text[p] and "import orbax" in text[p]} == {
        "checkpoint.py"
    }
    assert {p.name for p in FILES if "import config_flags" in text[p]} == {"main.py"}


def test_configs_import_nothing_of_the_package():
    for path in (ROOT / "configs").glob("*.py"):
        assert not list(imported(path))


def test_importing_the_package_is_light():
    code = (
        "import sys, lr_order_jax, lr_order_jax.experiment; "
        "heavy = {'matplotlib', 'tensorflow_datasets', 'tensorflow', 'flax'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
