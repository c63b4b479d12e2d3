"""The command as users type it, in processes of its own: exit status, one line, resume, kills."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import COMPILATION_CACHE, ROOT

from lr_order_jax import main, results, verify

SWEEP = "--config=configs/sweep.py"
SMOKE = "--config=configs/sweep.py:smoke"


def command(*arguments):
    return [sys.executable, "-m", "lr_order_jax.main", *map(os.fsdecode, arguments)]


def call(*arguments, cwd=ROOT, environment=COMPILATION_CACHE):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_smoke_writes_everything_and_prints_the_table(tmp_path):
    done = call(SMOKE, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "4 members (2 seeds x 2 eta_init)" in done.stderr
    assert "compiled in" in done.stderr
    assert "P-only error, smallest less largest rate" in done.stdout
    names = {p.name for p in (tmp_path / "run").iterdir()}
    files = {"config.json", "metrics.jsonl", "results.nc", "checkpoints", "figures"}
    assert names == files | {".lock"}
    figures = {p.name for p in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"learning_order.png", "error_against_rate.png"}
    assert results.read_results(tmp_path / "run").attrs["complete"] == 1
    again = call(SMOKE, f"--workdir={tmp_path / 'run'}")
    assert again.returncode == 0
    assert "nothing left to run" in again.stderr
    check = call("--check", tmp_path / "run")
    assert (check.returncode, check.stderr) == (0, "")
    assert check.stdout.endswith("nothing wrong found\n")
    other = call(SMOKE, f"--workdir={tmp_path / 'run'}", "--config.d=30")
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr.count("\n") == 1
    assert "d is 20 there, 30 here" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--config is missing"),
        (["--check=analysis"], "--check=analysis: is not the directory of a run"),
        ([SMOKE, "--check=runs"], "--check: stands alone"),
        (["--config=configs/swep.py"], "configs/swep.py is not a file"),
        (["--config=configs"], "configs is not a file"),
        (
            ["--config=configs/sweep.py:smok"],
            "error: configs/sweep.py has no variant 'smok', use 'smoke' or none",
        ),
        ([SMOKE, "--config.widht=3"], "config.widht: configs/sweep.py has no such field"),
        ([SMOKE, "--config.etainit=3"], """no such field (Did you mean "eta_init" instead of"""),
        ([SMOKE, "--config.group_size=1.5"], "config.group_size = 1.5: must be a whole number"),
        ([SMOKE, "--config.profile=yes"], "config.profile = yes: must be true or false"),
        ([SMOKE, "--config.flow_time_1=1,2"], "config.flow_time_1 = 1,2: must be a number"),
        ([SMOKE, "--config.m_v=-3"], "config.m_v = -3: must be a whole number from 1"),
        ([SMOKE, "--config.m_v=wide"], "config.m_v"),
        ([SMOKE, "--config.r=nan"], "config.r = 'nan': must be a finite number > 0"),
        ([SMOKE, "--config.eta_init=0.1,nan"], "config.eta_init = '0.1,nan'"),
        ([SMOKE, "--config.eta_2=0.5"], "config.eta_2 = 0.5: must be at most eta_1 = 0.2"),
        (
            [SMOKE, "--config.eta_2=1e-320"],
            "config.eta_2 = 1e-320: must be 0 or 1e-38 to 1e+38 in size",
        ),
        ([SMOKE, "--config.eta_2=1e-30"], "too many steps"),
        ([SMOKE, "--config.flow_time_1=1e38", "--config.flow_time_2=1e38"], "too many steps"),
        ([SMOKE, "--config.d=2000000000", "--config.n=2000000"], "more memory than there is"),
        ([SMOKE, f"--workdir={'x' * 300}"], "File name too long"),
        ([SMOKE, "--config.p0=0.6", "--config.q0=0.5"], "config.p0 + config.q0 = 1.1"),
        ([SMOKE, "--wrokdir=x"], "wrokdir"),
        ([SMOKE, "--workdir="], "--workdir= is empty"),
        (["--check="], "--check= is empty"),
        (["--check=x", "--workdir="], "--check: stands alone"),
        ([SMOKE, b"--workdir=/tmp/\xff"], "--workdir='/tmp/\\udcff': must be a name in UTF-8"),
        ([SMOKE, "--flagfile=/nonexistent"], "Unable to open flagfile"),
        (
            [SMOKE, "--config.gamma0=1e30"],
            "config.gamma0 = 1e+30: must be a finite number >= 0, at most 1000",
        ),
        ([SMOKE, "--config.m_v=2000000000"], "for the models of all seeds, of "),
        ([SMOKE, "more"], "'more': no such argument"),
        ([SMOKE, "--workdir=/proc/none/run"], "--workdir=/proc/none/run: cannot be written"),
        ([SMOKE, "--config.seeds=1,1"], "config.seeds"),
        ([SMOKE, "--config.seeds=-1,"], "config.seeds"),
        ([SMOKE, "--config.driving=fast"], "config.driving = 'fast'"),
        ([SMOKE, "--config.group_size=0"], "config.group_size = 0"),
        ([SMOKE, "--config.zipped=eta_init+lamb"], "config.zipped"),
        ([SMOKE, "--check"], "check"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, told, tmp_path, record_property):
    record_property("cases: command lines and config files in processes", 1)
    if not any(os.fsdecode(a).startswith(("--workdir", "--check")) for a in arguments):
        arguments = [*arguments, f"--workdir={tmp_path / 'run'}"]
    done = call(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_config():\n  return undefined_name\n", "undefined_name"),
        ("import ml_collections as m\ndef get_config():\n  return m.Confg()\n", "Confg"),
        ("def get_config(:\n", "syntax"),
        ("x = 1\n", "get_config"),
        ("def get_config():\n  return {'problem': 'two_layer'}\n", "config.eta_init is missing"),
        ("def get_config():\n  return 3\n", "get_config must return a ConfigDict"),
        ("def get_config():\n  return None\n", "get_config must return a ConfigDict"),
        ("def get_config():\n  raise RuntimeError('no\\nmore')\n", "broken.py"),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, text, told, record_property):
    record_property("cases: command lines and config files in processes", 1)
    (tmp_path / "broken.py").write_text(text)
    done = call(f"--config={tmp_path / 'broken.py'}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


BROKEN = """
from lr_order_jax.fields import ConfigError
from lr_order_jax.problems.two_layer import TwoLayer
class Refuses(TwoLayer):
    @classmethod
    def build(cls, section):
        raise ConfigError("no\\nmore")
class Fails(TwoLayer):
    @classmethod
    def build(cls, section):
        raise RuntimeError("no\\nmore")
"""


@pytest.mark.parametrize(
    ("problem", "status", "told"),
    [
        ("broken:Refuses", 2, "error: no more\n"),
        ("broken:Fails", 1, "error: RuntimeError: no; LR_ORDER_JAX_TRACEBACK=1 in the environment"),
        ("raises:Any", 2, "MODULE:CLASS of your own (ValueError: two)"),
    ],
)
def test_a_problem_that_fails_is_one_line(tmp_path, problem, status, told):
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "raises.py").write_text("raise ValueError('two\\nlines')")
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    arguments = [SMOKE, f"--config.problem={problem}", f"--workdir={tmp_path / 'run'}"]
    done = call(*arguments, environment=COMPILATION_CACHE | environment)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
    if status == 1:
        environment |= {"LR_ORDER_JAX_TRACEBACK": "1"}
        done = call(*arguments, environment=COMPILATION_CACHE | environment)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_the_same_command_does_is_told_as_it_is(tmp_path):
    assert main._continues(tmp_path) == "the same command starts anew, nothing was saved yet"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()
    assert "starts anew" in main._continues(tmp_path)
    (tmp_path / "d=3" / "checkpoints" / "7").mkdir(parents=True)  # of a program
    assert main._continues(tmp_path) == "the same command continues"


def test_a_directory_that_is_removed_meanwhile_is_no_failure(tmp_path, monkeypatch):
    def vanishes(folder, pattern):
        raise FileNotFoundError(folder)
        yield

    monkeypatch.setattr(main.pathlib.Path, "glob", vanishes)
    assert "starts anew" in main._continues(tmp_path)
    monkeypatch.setattr(main.processes, "is_first", lambda: False)
    assert main._continues(tmp_path) == "the same command continues"


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    environment = COMPILATION_CACHE | {"JAX_PLATFORMS": "abacus"}
    done = call(SMOKE, f"--workdir={tmp_path / 'run'}", environment=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "JAX_PLATFORMS=abacus: JAX has no such device here" in done.stderr


def test_output_that_cannot_be_written_is_one_line_and_the_files_are_whole(tmp_path):
    folder = tmp_path / "run"
    environment = os.environ | COMPILATION_CACHE | {"PYTHONPATH": str(ROOT)}

    def into(stdout, *arguments):
        with stdout:
            return subprocess.run(
                command(*arguments), cwd=ROOT, env=environment, stdout=stdout,
                stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip

    def closed_pipe():
        reader, writer = os.pipe()
        os.close(reader)
        return os.fdopen(writer, "w")

    told = "error: stdout: No space left on device; the files are whole\n"
    done = into(open("/dev/full", "w"), SMOKE, f"--workdir={folder}")  # noqa: SIM115
    assert (done.returncode, done.stderr[-len(told) :]) == (1, told)
    assert "Traceback" not in done.stderr
    done = into(open("/dev/full", "w"), f"--check={folder}")  # noqa: SIM115
    assert (done.returncode, done.stderr) == (1, told)
    done = into(closed_pipe(), f"--check={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    done = into(closed_pipe(), SMOKE, f"--workdir={folder}")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


# Long enough to be hit while it runs: some seconds of steps, a checkpoint every 0.2 s.
LONG = [SMOKE, "--config.flow_time_1=500.", "--config.flow_time_2=500.", "--config.m_v=4000"]
LONG += ["--config.num_records=100", "--config.checkpoint_every=0.2"]


def started(arguments, workdir):
    """A process that has begun its steps."""
    child = subprocess.Popen(
        command(*arguments, f"--workdir={workdir}"),
        cwd=ROOT,
        env=os.environ | COMPILATION_CACHE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in child.stderr:
        if line.startswith("compiled"):
            return child
    raise AssertionError(f"it ended before its first step, status {child.wait()}")


def written(workdir):
    return {name: (workdir / name).read_bytes() for name in ("results.nc", "metrics.jsonl")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files of the long run without interruption."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = call(*LONG, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return written(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_the_same_command_finishes_with_equal_bytes(whole, tmp_path, signum):
    child = started(LONG, tmp_path / "run")
    time.sleep(0.7)
    child.send_signal(signum)
    begin = time.monotonic()
    _, told = child.communicate(timeout=60)
    assert child.returncode == 128 + signum, told
    assert time.monotonic() - begin < 10
    assert "all that was computed is saved" in told
    assert "Traceback" not in told
    assert results.read_results(tmp_path / "run").attrs["complete"] == 0
    # Once more as a user has it, compiled afresh.
    fresh = {name: "" for name in COMPILATION_CACHE if name.endswith("DIR")}
    done = call(*LONG, f"--workdir={tmp_path / 'run'}", environment=fresh)
    assert done.returncode == 0, done.stderr
    assert "continuing at step" in done.stderr
    assert written(tmp_path / "run") == whole


def test_streams_that_are_closed_change_nothing(tmp_path):
    """No file takes their numbers, so nothing that is printed gets into one."""
    words = " ".join(command(SMOKE, f"--workdir={tmp_path / 'run'}"))
    shell = ["bash", "-c", f"exec {words} <&- >&- 2>&-"]
    environment = os.environ | COMPILATION_CACHE
    assert subprocess.run(shell, cwd=ROOT, env=environment, check=False).returncode == 0
    assert verify.verify(tmp_path / "run").wrong == []
    assert results.read_results(tmp_path / "run").attrs["complete"] == 1


def test_a_terminal_that_is_gone_ends_no_run(tmp_path):
    ours, theirs = os.openpty()
    environment = os.environ | COMPILATION_CACHE
    child = subprocess.Popen(
        command(SMOKE, f"--workdir={tmp_path / 'run'}"),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)  # each write of theirs fails from now on
    told, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    assert b"P-only error" in told


def test_the_default_workdir_is_named_after_config_and_what_is_computed(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = call(SMOKE, "--config.num_records=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sweep-smoke-")
    assert len(folder.name) == len("sweep-smoke-") + 8


PATCH = "--config=configs/patch_cifar.py:smoke"


def test_no_cifar_is_one_line_within_seconds(tmp_path):
    """Neither a cache file nor TFDS's data: nothing is downloaded and no directory made."""
    nothing = {"XDG_CACHE_HOME": str(tmp_path), "TFDS_DATA_DIR": str(tmp_path)}
    begin = time.monotonic()
    done = call(
        PATCH, "--config.dataset=cifar10", f"--workdir={tmp_path / 'run'}",
        environment=COMPILATION_CACHE | nothing,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "tfds build cifar10" in done.stderr
    assert "--config.dataset=procedural" in done.stderr
    assert time.monotonic() - begin < 30
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patch_cifar", "cifar"])
def test_the_smoke_configs_of_the_wide_resnet_name_the_stand_in(tmp_path, name):
    config = f"--config=configs/{name}.py:smoke"
    done = call(config, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "6 members (2 seeds x 3 arm)" in done.stderr
    assert "not CIFAR-10" in done.stdout
    assert results.read_results(tmp_path / "run").attrs["dataset"] == "procedural"
    other = call(config, f"--workdir={tmp_path / 'run'}", "--config.dataset=cifar10")
    assert (other.returncode, other.stdout) == (2, "")
    assert "dataset is 'procedural' there, 'cifar10' here" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scaling", "lemmas", "mitigation", "width", "rate_or_noise"])
def test_the_smoke_configs_of_the_theory_run(tmp_path, name):
    done = call(f"--config=configs/{name}.py:smoke", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "fails  (2.5)" in done.stderr  # the audit: A is not 1
    dataset = results.read_results(tmp_path / "run")
    assert dataset.attrs["complete"] == 1
    assert dataset["train_loss"].isel({results.clock_of(dataset): -1}).notnull().all()
    figures = {p.stem for p in (tmp_path / "run" / "figures").iterdir()}
    wanted = {
        "scaling": "error_against_shape",
        "width": "error_against_shape",
        "lemmas": "lemmas",
        "rate_or_noise": "learning_order_map",
    }
    assert wanted.get(name, "learning_order") in figures


@pytest.mark.slow
def test_a_signal_in_a_study_saves_and_the_same_command_finishes(tmp_path):
    """Two programs; the signal comes in the second: the first is in the joined results."""
    arguments = ["--config=configs/scaling.py:smoke", "--config.d=10,400", "--config.n=10,400"]
    arguments += [f"--workdir={tmp_path / 'run'}", "--config.num_test=20000"]
    arguments += ["--config.flow_time_2=100.0", "--config.eta_2=0.001,", "--config.eta_init=0.2,"]
    environment = os.environ | COMPILATION_CACHE | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = iter(process.stderr)
        next(line for line in lines if "program 2 of 2" in line)
        next(line for line in lines if "compiled" in line)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(timeout=120) == 143
    dataset = results.read_results(tmp_path / "run")
    assert dataset.attrs["complete"] == 0
    assert dataset["train_loss"].sel(d=10).notnull().all()
    assert not dataset["train_loss"].sel(d=400).notnull().all()
    short = [a for a in arguments if "flow_time_2" not in a]
    other = call(*short)
    assert other.returncode == 2
    assert "flow_time_2 is 100.0 there" in other.stderr
    assert other.stderr.count("\n") == 1
