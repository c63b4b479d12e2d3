"""Every field of every kind of config with wrong, odd and huge values: one line, or accepted as it
is. Nothing is clamped in silence, nothing else is raised, and what is accepted runs. The command
line is in test_main."""

import json
import math
import random
import time

import numpy as np
import pytest
from conftest import load_config

from lr_order_jax import memory, progress, results, spec, study, verify
from lr_order_jax.fields import ConfigError

NUMBERS = (0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**63, 10**400, -(10**400), 0.0, -0.0, 0.5, 1.0, -1.0)
EXTREMES = (1e-320, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan)
WORDS = ("", "x", "0.5", "1,2", "a+b", "eta_init+lam", "nan", "\n", "x" * 5000, b"bytes")
TUPLES = ((), (0,), (1, 2), (0.5, 0.5), (0.5, 1), (None,), ("a", "b"), ("eta_init+eta_2",))
NESTED = ((math.nan, 1.0), ((1, 2), 3), [1.0, 2.0], [], {}, {"a": 1}, {1, 2}, range(3))
OBJECTS = (object(), len, 1j, np.float32(0.5), np.int64(3), np.array([1.0, 2.0]), np.array(2))
VALUES = (None, True, False, *NUMBERS, *EXTREMES, *WORDS, *TUPLES, *NESTED, *OBJECTS)
CONFIGS = ("sweep", "lazy_limit", "patch_cifar")


def config_of(name):
    return dict(load_config(name, "smoke").items())


def plain(value):
    """A value as config.json would hold it, a list where it is several or could be."""
    several = list(value) if isinstance(value, list | tuple | range) else [value]
    if len(several) == 1 and isinstance(several[0], str) and "," in several[0]:
        several = several[0].split(",")
    return [v.item() if hasattr(v, "item") else v for v in several]


def told_or_taken(values, changed):
    """Whether the config was taken. What is refused is told in one line; what is taken stands in
    the result as it was given."""
    try:
        study = spec.parse_study(values)
    except ConfigError as error:
        line = str(error)
        assert line, changed
        assert "\n" not in line, changed
        assert "config" in line, changed
        return False
    text = json.dumps(study.what, allow_nan=False)
    for field in changed:
        if field in study.what and values[field] is not None:
            assert plain(json.loads(text)[field]) == plain(values[field]), field
    return True


@pytest.mark.parametrize("name", CONFIGS)
def test_any_value_of_any_field_is_taken_as_it_is_or_told(name, record_property):
    base = config_of(name)
    taken = [told_or_taken(base | {f: v}, [f]) for f in base for v in VALUES]
    record_property("cases: values of config fields", len(taken))
    assert len(taken) > 1000
    assert 0 < sum(taken) < 0.5 * len(taken)


@pytest.mark.parametrize("name", CONFIGS)
def test_several_wrong_fields_at_once(name, record_property):
    base, draw = config_of(name), random.Random(5)
    record_property("cases: several values of config fields at once", 300)
    for _ in range(300):
        changed = draw.sample(sorted(base), 3)
        told_or_taken(base | {field: draw.choice(VALUES) for field in changed}, changed)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_missing_or_unknown_field_is_told(name):
    base = config_of(name)
    for field in base:
        with pytest.raises(ConfigError, match=f"config.{field}"):
            spec.parse_study({k: v for k, v in base.items() if k != field})
    for field in ("", "x", "eta init", "\n", "ETA_INIT", 3):
        with pytest.raises(ConfigError, match="has no such field"):
            spec.parse_study(base | {field: 1})


class Enough(Exception):
    """A run has gone on for as long as we wait."""


SMALL = {"num_test": 10, "num_records": 2}
TINY = {
    "sweep": SMALL | {"d": 4, "n": 6, "m_w": 2, "m_v": 4, "flow_time_1": 1.0, "flow_time_2": 1.0},
    "lazy_limit": SMALL | {"d": 4, "n": 6, "flow_time_1": 1.0, "flow_time_2": 1.0},
    "patch_cifar": {"num_train": 8, "num_test": 4, "num_train_eval": 4, "num_patch_eval": 4}
    | {"batch_size": 4, "num_seeds": 1},
}
SECONDS = {"sweep": 25, "lazy_limit": 15, "patch_cifar": 20}  # in all, or two complete runs
ODD = (*VALUES, 1e-3, 1e3, 1e6, 1e300, 100, 10_000, "weights\udcff", "a\0", ("x", "y", "\u03b1"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # numbers overflow, figures are empty
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_accepted_runs_to_the_end_or_is_refused(
    name, tmp_path, monkeypatch, record_property
):
    """One or two odd values at once, each a whole run; what takes long is let go after a second."""
    monkeypatch.setattr(memory, "free_on_host", lambda: 2**30)
    base, draw = config_of(name) | TINY[name], random.Random(7)
    refused = ""
    begin, outcomes = time.monotonic(), {"refused": 0, "complete": 0, "let go": 0}
    told = progress.Progress.update

    def update(self, *arguments):
        first.append(time.monotonic())  # compiled by then
        if first[-1] - first[0] > 1:
            raise Enough
        told(self, *arguments)

    monkeypatch.setattr(progress.Progress, "update", update)
    while time.monotonic() - begin < SECONDS[name] or outcomes["complete"] < 2:
        fields = draw.sample(sorted(base), draw.choice([1, 2]))
        changed = {field: draw.choice(ODD) for field in fields}
        if not told_or_taken(base | changed, list(changed)):
            continue
        folder = tmp_path / f"run{sum(outcomes.values())}"
        first: list[float] = []
        try:
            dataset = study.run(spec.parse_study(base | changed), folder)
        except ConfigError as error:
            outcomes["refused"] += 1
            refused += str(error)
        except Enough:
            outcomes["let go"] += 1
        except Exception as error:
            raise AssertionError(f"{changed}: {error}") from error
        else:
            assert dataset.attrs["complete"] == 1, changed
            assert results.read_results(folder).attrs["complete"] == 1, changed
            assert verify.verify(folder).wrong == [], changed
            outcomes["complete"] += 1
    record_property(f"cases: accepted configs run, {name}", sum(outcomes.values()))
    assert "\n" not in refused
