"""Strict JAX for all tests, and small things they share."""

import importlib.util
import pathlib

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Many tests compile the same tiny programs; child processes find the cache by the environment.
COMPILATION_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
jax.config.update("jax_compilation_cache_dir", COMPILATION_CACHE["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(items):
    """The longest file first: at the end the others would wait for it."""
    items.sort(key=lambda item: item.path.name != "test_processes.py")


def load_config(name: str, variant: str = ""):
    """The ConfigDict of configs/<name>.py, or of one of its variants."""
    path = ROOT / "configs" / f"{name}.py"
    module_spec = importlib.util.spec_from_file_location(f"config_{name}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()


def pytest_terminal_summary(terminalreporter):
    """The counts that tests recorded as "faults: ..." or "cases: ...", with what was lost."""
    counts: dict[str, int] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, count in report.user_properties:
                if report.when == "call" and name.startswith(("faults: ", "cases: ")):
                    counts[name] = counts.get(name, 0) + count
    if counts:
        terminalreporter.section("faults injected and cases tried; each that is lost fails a test")
        for name, count in sorted(counts.items()):
            terminalreporter.line(f"{count:6} {name}")


@pytest.fixture
def tiny():
    """A function that gives the values of the smoke config with changes: tiny(d=4, ...)."""

    def make(**changes):
        config = load_config("sweep", "smoke")
        values = dict(config.items())
        assert set(changes) <= set(values), "no such field in configs/sweep.py"
        return values | {"d": 6, "n": 12, "m_w": 4, "m_v": 8, "num_test": 16} | changes

    return make
