"""A fuzz of what is stored: reading it gives what was written or one line, and executes nothing."""

import contextlib
import json
import pathlib
import pickle
import random
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, load_config

from lr_order_jax import checkpoint, directory, experiment, results, spec, verify
from lr_order_jax.checkpoint import NoCheckpoint
from lr_order_jax.data import cifar10
from lr_order_jax.fields import ConfigError

pytestmark = pytest.mark.slow

CASES = 300
TEXTS = (b"", b"null", b"[]", b"{}", b"3", b'{"what": 3, "sessions": []}', b'{"meta": {}}')
TEXTS += (b'{"what": {}, "sessions": {}}', b'{"meta": {"digests": 3}, "seal": 1}', b"\xff\xfe")


@pytest.fixture(scope="module")
def config():
    values = dict(load_config("sweep", "smoke").items())
    return values | {"num_records": 2, "m_v": 8, "checkpoint_every": 0.0}


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    experiment.run(spec.parse(config), workdir)
    return workdir


def mutated(content, draw):
    """Other bytes: some flipped, cut off, repeated, lost, or something else altogether."""
    kind = draw.randrange(5)
    if kind == 0 or not content:
        return draw.choice(TEXTS)
    at = draw.randrange(len(content))
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + content[at // 2 :]
    if kind == 3:
        return content[:at] + content[at + draw.randrange(1, 30) :]
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 4])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def one_line(error):
    assert str(error)
    assert "\n" not in str(error)
    return 1


def mutations(folder, names, seed, count):
    """Files of a folder that are mutated one after the other, and made whole again."""
    draw = random.Random(seed)
    for _ in range(count):
        path = folder / draw.choice(names)
        content = path.read_bytes()
        path.write_bytes(mutated(content, draw))
        if path.read_bytes() != content:
            yield path
        path.write_bytes(content)


def test_a_checkpoint_gives_what_was_written_or_says_that_it_is_damaged(
    whole, tmp_path, record_property
):
    folder = shutil.copytree(whole, tmp_path / "run")
    step = checkpoint.stored_steps(folder)[-1]
    wanted, meta = checkpoint.restore(folder, step)
    newest = folder / "checkpoints" / str(step)
    names = sorted(p for p in newest.rglob("*") if p.is_file())
    refused = cases = 0
    for path in mutations(folder, names, 0, CASES):
        cases += 1
        try:
            found, told = checkpoint.restore(folder, step)
        except (ValueError, NoCheckpoint) as error:
            refused += one_line(error)
            continue
        assert told == meta, path
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    record_property("cases: mutated files of checkpoints", cases)
    assert refused > CASES / 4
    assert checkpoint.restore(folder, step)[1] == meta


# h5netcdf closes, when it is collected, a file that it could not open.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function File.close")
def test_check_tells_of_any_mutated_file_in_lines(whole, tmp_path, record_property):
    folder = shutil.copytree(whole, tmp_path / "run")
    names = ["config.json", "results.nc", "metrics.jsonl"]
    dataset = results.read_results(folder)
    config = directory.read_config(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wrong = cases = 0
    for path in mutations(folder, names, 1, CASES):
        cases += 1
        try:
            report = verify.verify(folder)
        except ConfigError as error:
            wrong += one_line(error)
            continue
        wrong += bool(report.wrong)
        if not report.wrong:  # then a reader finds what was written
            assert results.read_results(folder).identical(dataset), path
            assert directory.read_config(folder) == config
            text = (folder / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in text] == lines
    record_property("cases: mutated config.json, results.nc, metrics.jsonl", cases)
    assert wrong > CASES / 2


def test_a_mutated_data_file_is_refused_or_gives_the_same_images(tmp_path, record_property):
    draw = np.random.default_rng(0).integers
    images = [draw(0, 256, (n, 32, 32, 3), np.uint8) for n in (6, 4)]
    labels = [draw(0, 10, n, np.uint8) for n in (6, 4)]
    wanted = cifar10.Images(images[0], labels[0], images[1], labels[1])
    cifar10._write_cache(wanted, tmp_path / "cifar10.npz")
    refused = cases = 0
    for path in mutations(tmp_path, ["cifar10.npz"], 3, CASES):
        cases += 1
        try:
            found = cifar10.load(None, path)
        except ConfigError as error:
            refused += one_line(error)
            continue
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    record_property("cases: mutated data files", cases)
    assert refused > CASES / 2


def test_a_run_with_a_mutated_config_json_is_refused_or_ends(whole, config, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    run_spec = spec.parse(config)
    for _ in mutations(folder, ["config.json"], 2, 100):
        try:
            directory.check_config(folder, run_spec)
        except ConfigError as error:
            one_line(error)
    for text in TEXTS:
        (folder / "config.json").write_bytes(text)
        with pytest.raises(ConfigError, match=r"config"):
            directory.check_config(folder, run_spec)


def test_reading_executes_nothing(whole):
    """No pickle, no import of what a file names: in a process whose audit hook refuses both."""
    program = f"""
import sys
from lr_order_jax import checkpoint, results, verify
workdir = {str(whole)!r}
verify.verify(workdir)  # imports what is needed
def refuse(event, arguments):
    if event in ("pickle.find_class", "exec", "compile", "os.system", "subprocess.Popen"):
        raise RuntimeError(f"{{event}} {{arguments}}")
sys.addaudithook(refuse)
checkpoint.restore(workdir)
results.read_results(workdir)
verify.verify(workdir)
print("read")
try:
    import pickle
    pickle.loads(pickle.dumps(len))
except RuntimeError:
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["read", "refused"], done.stderr


class Marks:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function File.close")
def test_a_pickle_in_the_place_of_a_file_is_not_executed(whole, tmp_path, record_property):
    mark, folder = tmp_path / "executed", shutil.copytree(whole, tmp_path / "run")
    pickled = pickle.dumps(Marks(mark))
    pickle.loads(pickled)
    assert mark.exists()  # it would
    mark.unlink()
    data = tmp_path / "cifar10.npz"
    objects = np.array([Marks(mark)] * 4, dtype=object)
    np.savez(data, digest="", **dict.fromkeys(cifar10.Images._fields, objects))
    with pytest.raises(ConfigError, match="cannot be read"):
        cifar10.load(None, data)
    step = checkpoint.stored_steps(folder)[-1]
    newest = folder / "checkpoints" / str(step)
    paths = sorted(p for p in newest.rglob("*") if p.is_file())
    record_property("cases: pickles in the place of files", len(paths) + 4)
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(pickled)
        with contextlib.suppress(ValueError):  # not each file is read
            checkpoint.restore(folder, step)
        path.write_bytes(content)
    for name in ("config.json", "results.nc", "metrics.jsonl"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(pickled)
        try:
            assert verify.verify(folder).wrong
        except ConfigError as error:
            one_line(error)
        (folder / name).write_bytes(content)
    assert not mark.exists()
    assert verify.verify(folder).wrong == []


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function File.close")
def test_a_results_file_that_is_json_or_nothing_is_told(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    for text in (b"", json.dumps({"a": 1}).encode()):
        (folder / "results.nc").write_bytes(text)
        assert any("results.nc: cannot be read" in line for line in verify.verify(folder).wrong)
    with pytest.raises(Exception, match=r"."):
        results.read_results(folder)
