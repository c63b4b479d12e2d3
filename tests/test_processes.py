"""Several processes on the loopback address run one program together: the numbers of one process,
files written once, and an end of all when one is lost."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import COMPILATION_CACHE, ROOT
from test_checkpoint import flip_a_bit

from lr_order_jax import checkpoint, processes, progress, results, verify
from lr_order_jax.algorithm import Status
from lr_order_jax.fields import ConfigError

SMOKE = ("--config=configs/sweep.py:smoke", "--config.num_records=3", "--config.d=200")
SMOKE += ("--config.num_seeds=4", "--config.n=200")
LONG = ("--config=configs/sweep.py:smoke", "--config.flow_time_1=1000.0", "--config.m_v=1000")
LONG += ("--config.checkpoint_every=0.5", "--config.num_records=20")
PATCHES = ("--config=configs/patch_cifar.py:smoke",)
RTOL, ATOL = 1e-4, 1e-5  # see test_invariance


def start(count, workdir, *arguments, devices=1, **variables):
    """`launch/processes.sh` with so many processes of so many devices each; 0: one, without it."""
    environment = os.environ | COMPILATION_CACHE | {"JAX_NUM_CPU_DEVICES": str(devices)}
    environment |= {"PYTHON": sys.executable} | variables
    command = ["bash", "launch/processes.sh", str(count)]
    if not count:
        command = [environment["PYTHON"], "-m", "lr_order_jax.main"]
    command += [*arguments, f"--workdir={workdir}"]
    with open(f"{workdir}.log", "w") as log:
        streams = {"stdout": log, "stderr": log, "start_new_session": True}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)


def told(workdir):
    """What stands in the log, without the lines of C++ and of the audit."""
    lines = pathlib.Path(f"{workdir}.log").read_text().splitlines()
    return [line for line in lines if not re.match(r"\[Gloo\]|(holds|fails|open)  ", line)]


def finish(count, workdir, *arguments, **keywords):
    assert start(count, workdir, *arguments, **keywords).wait() == 0, told(workdir)
    assert verify.verify(workdir).wrong == []
    return results.read_results(workdir)


def states_must_agree(*workdirs):
    """The newest checkpoints of two runs."""
    one, other = (checkpoint.by_path(checkpoint.restore(at)[0]) for at in workdirs)
    assert set(one) == set(other)
    for path, leaf in one.items():
        np.testing.assert_allclose(other[path], leaf, rtol=RTOL, atol=ATOL, err_msg=path)


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_numbers_are_those_of_one_process(tmp_path, record_property):
    """On one device: on two, which have two seeds each, bit for bit; on four within a bound."""
    wanted = finish(0, tmp_path / "one", *SMOKE, devices=1)
    for count, devices in ((2, 1), (4, 1)):
        workdir = tmp_path / f"{count}x{devices}"
        found = finish(count, workdir, *SMOKE, devices=devices)
        if count * devices == 2:
            assert found.identical(wanted)
        for name, variable in wanted.data_vars.items():
            np.testing.assert_allclose(found[name], variable, rtol=RTOL, atol=ATOL, err_msg=name)
        assert len(lines_of(workdir)) == len(lines_of(tmp_path / "one"))
        states_must_agree(tmp_path / "one", workdir)
        text = told(workdir)
        assert text[0].startswith(f"{count} processes are to join at 127.0.0.1:")
        assert text[1].startswith(f"process 0 of {count} (by JAX_COORDINATOR_ADDRESS")
        assert sum("members (4 seeds x 2 eta_init)" in line for line in text) == 1
        assert sum("results: " in line for line in text) == 1
    record_property("cases: numbers of processes", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        (SMOKE[0], "--config.mapping=unroll"),
        (SMOKE[0], "--config.driving=dispatch"),
        ("--config=configs/sweep.py:smoke", "--config.num_seeds=1", "--config.d=10,20"),
        PATCHES,
        (*SMOKE[:1], "--config.num_seeds=1", "--config.noise_scale=1.0,1e38",
         "--config.group_size=3"),
    ],
    ids=["apart", "dispatched", "more devices than members, a study", "patches",
         "groups of columns, two diverge"],
)  # fmt: skip
def test_other_ways_on_several_processes(tmp_path, arguments):
    wanted = finish(0, tmp_path / "one", *arguments, devices=2)
    found = finish(2, tmp_path / "two", *arguments, devices=1)
    wild = found.noise_scale == 1e38 if "noise_scale" in found.dims else False
    assert ((found.status == Status.DIVERGED) == wild).all()
    for name, variable in wanted.data_vars.items():
        np.testing.assert_allclose(found[name], variable, rtol=RTOL, atol=ATOL, err_msg=name)


def python_that(tmp_path, name, body):
    """A Python that runs modules after some lines, in which `run` is `experiment._Run`."""
    first, python = tmp_path / f"{name}.py", tmp_path / name
    first.write_text(f"""
import os, runpy, signal, sys

sys.path[0] = os.getcwd()
import jax
from lr_order_jax.experiment import _Run as run
{body}
del sys.argv[:2]
runpy.run_module("lr_order_jax.main", run_name="__main__", alter_sys=True)
""")
    python.write_text(
        f'#!/bin/sh\n[ "$1" != -m ] || set -- {first} "$@"\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return str(python)


@pytest.mark.slow
def test_each_process_holds_its_part_alone(tmp_path):
    """Five seeds of two rates: one of the rates each."""
    body = """
def save(this, *arguments, **keywords):
    held = {leaf.shape[:2] for leaf in jax.tree.leaves(this.kept)}
    put = {leaf.shape[0] for of_block in this.members._state for leaf in jax.tree.leaves(of_block)}
    os.write(2, f"holds {jax.process_index()} {held} {put}\\n".encode())
    return saved(this, *arguments, **keywords)

saved, run.save = run.save, save
"""
    python, workdir = python_that(tmp_path, "shows", body), tmp_path / "run"
    finish(2, workdir, *SMOKE, "--config.num_seeds=5", PYTHON=python)
    held = {line for line in told(workdir) if line.startswith("holds ")}
    # The column of the large rate has ended before, and is on no device any more.
    assert held == {"holds 0 {(5, 1)} set()", "holds 1 {(5, 1)} {5}"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "sizes"), [(4, (5, 6)), (3, (2, 1))], ids=["cut both ways", "one without a part"]
)
def test_a_member_that_breaks_is_found_wherever_it_is(tmp_path, count, sizes):
    """Its weights are NaN just before it is measured, so that the host has to end it."""
    body = """
def record(this):
    if this.step >= 3 and this.status[1, -1] == 0:
        this.fetch()
        rows, columns = range(this.grid.shape[0]), range(this.grid.shape[1])
        if 1 in rows[this.part.rows] and columns[-1] in columns[this.part.columns]:
            this.kept.params["W"][rows[this.part.rows].index(1), -1] = float("nan")
        this.put_columns(this.columns)
    recorded(this)

recorded, run.record = run.record, record
"""
    python = python_that(tmp_path, "breaks", body)
    rates = ",".join(str(0.2 / 2**i) for i in range(sizes[1]))
    asked = (*SMOKE[:2], f"--config.num_seeds={sizes[0]}", f"--config.eta_init={rates}")
    asked += ("--config.eta_1=0.2", f"--config.eta_2={0.2 / 2 ** (sizes[1] - 1)}")
    wanted = finish(0, tmp_path / "one", *asked, devices=2, PYTHON=python)
    found = finish(count, tmp_path / "several", *asked, PYTHON=python)
    states_must_agree(tmp_path / "one", tmp_path / "several")
    broken = np.zeros(wanted.status.shape, bool).reshape(sizes)
    broken[1, -1] = True
    for dataset in (wanted, found):
        assert np.array_equal(dataset.status.values.reshape(sizes) == Status.DIVERGED, broken)
    for name, variable in wanted.data_vars.items():
        np.testing.assert_allclose(found[name], variable, rtol=RTOL, atol=ATOL, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(0, 2), (2, 0)])
def test_groups_go_on_with_another_number_of_processes(tmp_path, first, then):
    """Stopped as the second of two groups has started."""
    body = """
def start_group(this, waiting):
    started(this, waiting)
    if not this.waiting:
        os.kill(os.getpid(), signal.SIGTERM)

started, run.start_group = run.start_group, start_group
"""
    asked = (SMOKE[0], "--config.num_seeds=1", "--config.noise_scale=1.0,0.5")
    asked += ("--config.group_size=2",)
    wanted, workdir = finish(0, tmp_path / "whole", *asked), tmp_path / "run"
    python = python_that(tmp_path, "stops", body)
    assert start(first, workdir, *asked, PYTHON=python).wait() == 143, told(workdir)
    found = finish(then, workdir, *asked)
    assert any("continuing at step" in line for line in told(workdir))
    for name, variable in wanted.data_vars.items():
        np.testing.assert_allclose(found[name], variable, rtol=RTOL, atol=ATOL, err_msg=name)


@pytest.mark.slow
def test_a_directory_that_is_not_common_is_refused(tmp_path):
    """As where each host has a disk of its own."""
    body = """
from lr_order_jax import directory
directory.SEEN_WITHIN = 1
if os.environ["JAX_PROCESS_ID"] == "1":
    (i,) = (i for i, word in enumerate(sys.argv) if word.startswith("--workdir="))
    sys.argv[i] += "-of-another-host"
"""
    python, workdir = python_that(tmp_path, "apart", body), tmp_path / "run"
    assert start(2, workdir, *SMOKE[:2], PYTHON=python).wait() == 2, told(workdir)
    (line,) = (line for line in told(workdir) if "error" in line)
    there = f"{workdir}-of-another-host"
    assert line.startswith(f"process 1: error: --workdir={there}: process 1 does not see what")
    assert line.endswith("must be a directory that all hosts share")
    assert not workdir.exists()


KEPT = (*SMOKE, "--config.keep_at=0.0,1.0")  # several checkpoints


@pytest.fixture(scope="module")
def by_one_process(tmp_path_factory):
    """Directory and results of `KEPT`."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    return workdir, finish(0, workdir, *KEPT, devices=2)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_cannot_write_its_part_ends_all(tmp_path, by_one_process, index):
    """It tells why; what was saved before is whole, and the same command finishes."""
    body = f"""
import resource

def save(this, *arguments, **keywords):
    if this.step > 100 and jax.process_index() == {index}:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, 2**12))
    return saved(this, *arguments, **keywords)

saved, run.save = run.save, save
"""
    (_, wanted), workdir = by_one_process, tmp_path / "run"
    begin = time.monotonic()
    python = python_that(tmp_path, "full", body)
    assert start(2, workdir, *KEPT, PYTHON=python).wait() == 1, told(workdir)
    assert time.monotonic() - begin < 90
    (line,) = (line for line in told(workdir) if "File too large" in line)
    assert line.startswith("process 1: error: " if index else "error: ")
    assert line.endswith("the same command continues")
    assert verify.verify(workdir).wrong == []
    assert finish(2, workdir, *KEPT).identical(wanted)
    assert any("continuing at step" in line for line in told(workdir))


@pytest.mark.slow
def test_a_kill_as_a_common_checkpoint_gets_its_name(tmp_path, by_one_process, record_property):
    """All parts are written, and none of them counts; the same command finishes, on three."""
    body = """
def killed(event, arguments):
    if event == "os.rename" and "orbax-checkpoint-tmp" in str(arguments[0]) and is_late:
        os.kill(os.getpid(), signal.SIGKILL)

def save(this, *arguments, **keywords):
    is_late.extend([True] * (this.step > 100 and jax.process_index() == 0))
    return saved(this, *arguments, **keywords)

is_late = []
sys.addaudithook(killed)
saved, run.save = run.save, save
"""
    (one, wanted), workdir = by_one_process, tmp_path / "run"
    python = python_that(tmp_path, "killed", body)
    assert start(2, workdir, *KEPT, PYTHON=python).wait() == 137, told(workdir)
    (left,) = workdir.glob("checkpoints/*orbax-checkpoint-tmp*")
    assert int(left.name.split(".")[0]) not in checkpoint.stored_steps(workdir)
    assert verify.verify(workdir).wrong == []
    found = finish(3, workdir, *KEPT)
    assert any("continuing at step" in line for line in told(workdir))
    assert not list(workdir.glob("checkpoints/*tmp*"))
    states_must_agree(one, workdir)
    for name, variable in wanted.data_vars.items():
        np.testing.assert_allclose(found[name], variable, rtol=RTOL, atol=ATOL, err_msg=name)
    record_property("faults: processes killed of several", 1)


@pytest.mark.slow
def test_a_part_that_is_damaged_is_found(tmp_path):
    """A bit of what one of two processes wrote; the run goes on from the checkpoint before."""
    wanted, workdir = finish(2, tmp_path / "run", *KEPT), tmp_path / "run"
    *_, newest = checkpoint.stored_steps(workdir)
    flip_a_bit(workdir / "checkpoints" / str(newest) / "arrays")
    assert len(verify.verify(workdir).wrong) == 1
    assert finish(2, workdir, *KEPT).identical(wanted)
    assert any(f"checkpoint of step {newest}: array" in line for line in told(workdir))


def when(workdir, pattern, seconds=120.0):
    """Waits until a line of the log matches."""
    for _ in range(int(seconds / 0.05)):
        if any(re.search(pattern, line) for line in told(workdir)):
            return
        time.sleep(0.05)
    raise AssertionError(told(workdir))


def process_of(launcher, index):
    """Process number of one of the processes that a launcher started."""
    children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    for pid in map(int, children.split()):
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"JAX_PROCESS_ID={index}".encode() in environment:
            return pid
    raise AssertionError(children)


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_process_that_is_killed_ends_the_others(tmp_path, record_property):
    """The rest ends within a minute and not with 0; the same command finishes the run, on another
    number of processes too, with the numbers of a run that was let be."""
    wanted = finish(2, tmp_path / "whole", *LONG)
    workdir = tmp_path / "run"
    for index in (1, 0):
        launcher = start(2, workdir, *LONG)
        when(workdir, "compiled in")
        when_saved(workdir)
        os.kill(process_of(launcher, index), signal.SIGKILL)
        begin = time.monotonic()
        assert launcher.wait() not in (0, 2)
        assert time.monotonic() - begin < 60
        last = told(workdir)[-1]
        assert re.fullmatch(
            rf"error: of 2 processes ended .*process {index} with status 137.*; "
            "the same command continues",
            last,
        ), last
        assert verify.verify(workdir).wrong == []
    found = finish(2, workdir, *LONG)
    assert any("continuing at step" in line for line in told(workdir))
    assert found.identical(wanted)
    record_property("faults: processes killed of several", 2)


def when_saved(workdir):
    before = {p.name for p in workdir.glob("checkpoints/*")}
    for _ in range(1200):
        if {p.name for p in workdir.glob("checkpoints/*") if p.name.isdigit()} - before:
            return
        time.sleep(0.05)
    raise AssertionError(told(workdir))


@pytest.mark.slow
def test_a_signal_stops_all_and_one_process_goes_on(tmp_path):
    """To one of them, to the launcher and to its group; a run is continued on another number of
    processes."""
    wanted, workdir = finish(0, tmp_path / "whole", *LONG, devices=2), tmp_path / "run"
    for signum, send in (
        (signal.SIGTERM, lambda launcher: os.kill(process_of(launcher, 1), signal.SIGTERM)),
        (signal.SIGINT, lambda launcher: launcher.send_signal(signal.SIGINT)),
        (signal.SIGTERM, lambda launcher: os.killpg(launcher.pid, signal.SIGTERM)),
    ):
        before = {p.name for p in workdir.glob("checkpoints/*")}
        launcher = start(2, workdir, *LONG)
        when(workdir, "compiled in")
        send(launcher)
        assert launcher.wait() == 128 + signum, told(workdir)
        text = told(workdir)
        line = f"{signum.name}: stopped, all that was computed is saved"
        assert sum(line in each for each in text) == 1
        assert not any(each.startswith("error") for each in text)
        assert {p.name for p in workdir.glob("checkpoints/*")} > before
    found = finish(0, workdir, *LONG, devices=2)
    assert any("continuing at step" in line for line in told(workdir))
    assert found.identical(wanted)


@pytest.mark.slow
def test_what_is_refused_is_told_once(tmp_path):
    """By the first process, whatever the stage; all end with 2."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "mine").touch()
    for folder, wrong, line in (
        (workdir, "--config.d=0", "error: config.d = 0: must be"),
        (workdir, "--config.dd=1", "error: config.dd: configs/sweep.py has no such field"),
        (tmp_path / "new", "--config.shard=1/13", "error: config.shard = '1/13': "),
        (workdir, "--config.d=6", f"error: --workdir={workdir}: holds other files"),
    ):
        assert start(2, folder, *SMOKE, wrong).wait() == 2, told(folder)
        errors = [text for text in told(folder) if "error" in text]
        assert len(errors) == 1, errors
        assert errors[0].startswith(line)
    assert [p.name for p in workdir.iterdir()] == ["mine"]


# What names the processes.

with socket.create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]
TWO = {
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{PORT}",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
SLURM = dict.fromkeys(processes.SLURM, "1") | {"SLURM_NTASKS": "2"}


@pytest.fixture
def environment(monkeypatch):
    """A function that sets the variables that name processes, and no others."""

    def set_them(variables):
        for name in (*processes.OURS, *processes.SLURM):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_them


def test_a_platform_without_a_cpu_is_refused(monkeypatch):
    monkeypatch.setattr(type(processes.jax.config), "jax_platforms", "cuda")
    with pytest.raises(ConfigError, match=r"JAX_PLATFORMS=cuda: leaves out the CPU.* cuda,cpu"):
        processes.join()


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"JAX_PROCESS_ID": "1"},
            "JAX_COORDINATOR_ADDRESS is not set, but JAX_PROCESS_ID is: set all three or none",
        ),
        (TWO | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES = 'two': must be a whole number"),
        (TWO | {"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID = 2: must be below JAX_NUM_PROCESSES = 2"),
        (TWO | {"JAX_COORDINATOR_ADDRESS": "here"}, "JAX_COORDINATOR_ADDRESS = 'here': must be"),
        (
            {name: "1" for name in SLURM if name != "SLURM_STEP_NODELIST"},
            "SLURM_STEP_NODELIST is not set, but SLURM_JOB_ID is: start it by srun",
        ),
        (
            {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
            "SLURM_JOB_ID is not set, but SLURM_NTASKS is: start it by srun",
        ),
        (SLURM | {"SLURM_NTASKS": "two"}, "SLURM_NTASKS = 'two': must be a whole number"),
        (SLURM | {"SLURM_PROCID": "2"}, "SLURM_PROCID = 2: must be below SLURM_NTASKS = 2"),
    ],
)
def test_variables_that_are_incomplete_or_wrong(environment, variables, line):
    environment(variables)
    with pytest.raises(ConfigError, match=f"config.distributed = True: {re.escape(line)}"):
        processes.join()


@pytest.fixture
def joined(monkeypatch):
    """What `jax.distributed.initialize` would be called with; it fails with `error` if it has
    one."""
    calls = {}

    def initialize(**arguments):
        if error := calls.pop("error", None):
            raise error
        calls.update(arguments)

    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes.jax.config, "update", lambda *_: None)
    return calls


def test_the_three_variables_leave_nothing_to_detect(environment, joined, capsys):
    environment(TWO | {"SLURM_JOB_ID": "7", "JAX_PROCESS_ID": "0"})
    processes.join()
    address = f"127.0.0.1:{PORT}"
    assert (joined["coordinator_address"], joined["num_processes"]) == (address, 2)
    assert (joined["process_id"], joined["cluster_detection_method"]) == (0, "deactivate")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"2 processes are to join at {address} within 300 s"
    assert told[1].startswith("process 0 of 1 (by JAX_COORDINATOR_ADDRESS, ")


def test_an_address_that_cannot_serve_is_refused(environment, joined, monkeypatch):
    """JAX would abort the process, without a word or after five minutes."""
    monkeypatch.setattr(processes, "JOIN_WITHIN", 0)
    environment(TWO)
    with pytest.raises(ConfigError, match=f"'127.0.0.1:{PORT}': no answer within 0 s"):
        processes.join()
    with socket.create_server(("", PORT)):
        environment(TWO | {"JAX_PROCESS_ID": "0"})
        with pytest.raises(ConfigError, match="the port cannot be had"):
            processes.join()


def test_mpirun_inside_of_slurm_is_left_to_jax(environment, joined, monkeypatch):
    environment({"SLURM_JOB_ID": "7"})
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    processes.join()
    assert "process_id" not in joined


def test_a_cluster_is_detected_by_jax(environment, joined, capsys):
    environment(SLURM | {"SLURM_PROCID": "0"})
    processes.join()
    assert {name for name in joined if not name.endswith(("_seconds", "_timeout"))} == set()
    told = capsys.readouterr().err
    assert told.startswith("joining the processes of SLURM_JOB_ID = ")
    assert "(detected by JAX), 2 devices, 2 of them here" in told


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("coordinator_address should be defined."), "no cluster is detected"),
        (RuntimeError("DEADLINE"), "cannot join"),
    ],
)
def test_what_cannot_be_joined_is_refused(environment, joined, error, line):
    environment({})
    joined["error"] = error
    with pytest.raises(ConfigError, match=line):
        processes.join()


def test_other_processes_tell_errors_alone(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_quiet_as", None)
    progress.keep_quiet("process 3")
    progress.say("4 members")
    progress.say("error: no more memory")
    assert capsys.readouterr().err == "process 3: error: no more memory\n"
    monkeypatch.setattr(progress, "_quiet_as", None)


def test_what_differs_between_processes_is_named():
    theirs, ours = {"a": 1, "b": list(range(99)), "c": 2, "e": 0}, {"a": 1, "b": 3, "c": 4, "d": 5}
    told = processes._apart(theirs, ours, "in process 2")
    assert re.fullmatch(
        r": b is \[0, 1, .*\.\.\. in process 2, 3 in 0; c is 2 in process 2, 4 in 0; "
        "d is None in process 2, 5 in 0; 1 more",
        told,
    )
    assert processes._apart([1], [2], "") == ""


@pytest.mark.slow
def test_processes_of_other_configs_are_refused(tmp_path):
    """Each by its own command, as where they are typed on each host."""
    python, workdir = tmp_path / "python", tmp_path / "run"
    python.write_text(
        f'#!/bin/sh\n[ "$JAX_PROCESS_ID" != 1 ] || set -- "$@" --config.num_seeds=3\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    assert start(2, workdir, *SMOKE[:2], PYTHON=str(python)).wait() == 2, told(workdir)
    (line,) = (line for line in told(workdir) if "error" in line)
    assert "config.distributed = True: the config of process 1 is another than" in line
    assert "num_seeds is 3 in process 1, 2 in 0; seeds is [0, 1, 2] in process 1, [0, 1]" in line
    assert not workdir.exists()
