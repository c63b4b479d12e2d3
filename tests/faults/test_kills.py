"""Processes that are really killed: at every change of a file, in the middle of writes, at random
moments, by signals. The same command continues and nothing differs from the run that was let be."""

import functools
import random
import signal
import time

import pytest
from faulty import (
    BY_SIGNAL,
    GROUPS,
    OFTEN,
    PATCHES,
    STUDY,
    SWEEP,
    Run,
    assert_whole,
    files,
    finish,
    servers,
)

from lr_order_jax.results import read_results

pytestmark = pytest.mark.slow

LONGER = (*SWEEP, "--config.flow_time_1=400.0", "--config.m_v=4000")
LONGER += ("--config.checkpoint_every=0.1",)
PROBLEMS = {"sweep": (*SWEEP, OFTEN), "longer": LONGER, "patches": (*PATCHES, OFTEN)}
PROBLEMS |= {"groups": (*GROUPS, OFTEN), "study": (*STUDY, OFTEN)}


@pytest.fixture(scope="module")
def pool():
    with servers(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def whole(pool, tmp_path_factory):
    """A function of a problem's name: the files of its run without a fault, and the changes of
    files that it made."""

    @functools.cache
    def of_problem(name):
        workdir = tmp_path_factory.mktemp(name) / "run"
        run = pool.submit(finish, PROBLEMS[name], workdir).result()
        return files(workdir), run.changes

    return of_problem


@pytest.fixture(scope="module")
def pace(pool, whole, tmp_path_factory):
    """A function of a problem's name: seconds until its first step, and from there to its end, with
    all programs in the cache."""

    def measure(server, name, workdir):
        begin = time.monotonic()
        run = Run(server, PROBLEMS[name], workdir)
        while "compiled" not in run.told:
            time.sleep(0.01)
        compiled = time.monotonic()
        assert run.wait() == 0, run.told
        return compiled - begin, time.monotonic() - compiled

    @functools.cache
    def of_problem(name):
        whole(name)
        workdir = tmp_path_factory.mktemp(name) / "pace"
        return pool.submit(measure, name, workdir).result()

    return of_problem


def kill_and_finish(server, arguments, workdir, faults):
    """Kills one run after the other by these faults, then lets the last one be.

    Returns:
      How many were killed, and how many of them left a checkpoint and results half written.
    """
    kills = of_checkpoints = of_results = 0
    for fault in faults:
        run = Run(server, arguments, workdir, **fault)
        status = run.wait()
        assert status in (0, -signal.SIGKILL), run.told
        kills += status != 0
        of_checkpoints += any(workdir.rglob("*.orbax-checkpoint-tmp*"))
        of_results += any(workdir.rglob(".results.nc.writing"))
        assert_whole(run)
    finish(server, arguments, workdir, figures=False)
    return kills, of_checkpoints, of_results


def run_chains(pool, arguments, tmp_path, chains, wanted, record_property):
    """Runs the chains of faults, compares the files of each and records the counts."""
    waiting = [
        pool.submit(kill_and_finish, arguments, tmp_path / f"run{i}", chain)
        for i, chain in enumerate(chains)
    ]
    counts = [sum(column) for column in zip(*(each.result() for each in waiting), strict=True)]
    for i in range(len(chains)):
        assert files(tmp_path / f"run{i}") == wanted
    names = ("processes killed", "in a checkpoint's write", "in the write of results")
    for name, count in zip(names, counts, strict=True):
        record_property(f"faults: {name}", count)
    return counts


def test_a_kill_before_each_change_of_a_file(pool, whole, tmp_path, record_property):
    """From the first file to the second checkpoint. The second kill is in the resume; a few resumes
    have fewer changes left than that: how many there are depends on the speed of the machine."""
    wanted, changes = whole("sweep")
    saved = [i for i, line in enumerate(changes) if line.endswith("/results.nc")]
    draw = random.Random(0)
    chains = [
        [{"at": i, "kill": 0}, {"at": draw.randrange(3, 20), "kill": 0}]
        for i in range(1, saved[1] + 2)
    ]
    # The number of the change that renames results.nc hangs on the speed too: these are named.
    folders = [f"{tmp_path / f'run{len(chains) + i}'}/" for i in range(2)]
    chains += [
        [{"of": f"os.rename {folder}.results.nc.writing", "at": at, "kill": 0}]
        for at, folder in enumerate(folders, 1)
    ]
    kills, of_checkpoints, of_results = run_chains(
        pool, PROBLEMS["sweep"], tmp_path, chains, wanted, record_property
    )
    assert kills >= 100
    assert of_checkpoints > 30
    assert of_results >= 2  # each before a rename


def test_kills_in_the_middle_of_writes(pool, whole, tmp_path, record_property):
    """Milliseconds after the write of a checkpoint began, most of which is done by libraries. The
    second one comes in the resume's first write."""
    wanted, changes = whole("sweep")
    begun = [i for i, line in enumerate(changes) if "mkdir" in line and "arrays" in line]
    draw = random.Random(1)
    chains = [
        [{"at": draw.choice(begun[:n]) + 1, "kill": draw.uniform(0, 0.02)} for n in (4, 1)]
        for _ in range(6)
    ]
    kills, of_checkpoints, _ = run_chains(
        pool, PROBLEMS["sweep"], tmp_path, chains, wanted, record_property
    )
    assert kills == 12
    assert of_checkpoints > 0


@pytest.mark.parametrize("name", ["sweep", "study"])
def test_kills_in_the_write_of_results(pool, whole, tmp_path, name, record_property):
    """With nothing in the file written aside, and with all of it before it takes its place; of the
    run or of a program, and of the joined ones of a study."""
    first = "d=10/" if name == "study" else ""

    def opened(folder, at):
        return {"of": f"open {folder}.results.nc.writing", "at": at, "kill": 0, "begun": True}

    def renamed(folder):
        return {"of": f"os.rename {folder}.results.nc.writing", "at": 1, "kill": 0}

    folders = [f"{tmp_path / f'run{i}'}/" for i in range(2)]
    chains = [
        [opened(folders[0] + first, 1), renamed(folders[0])],
        [renamed(folders[1] + first), opened(folders[1], 2)],
    ]
    kills, _, of_results = run_chains(
        pool, PROBLEMS[name], tmp_path, chains, whole(name)[0], record_property
    )
    assert kills == of_results == 4


@pytest.mark.parametrize("name", ["groups", "study"])
def test_groups_and_studies_killed_at_changes_of_files(
    pool, whole, tmp_path, name, record_property
):
    """Somewhere in the first half of the run, and then in the first third of what is left; or in
    the second half, and once more if that is not the end."""
    wanted, changes = whole(name)
    draw, half = random.Random(4), len(changes) // 2
    chains = [
        [
            {"at": draw.randrange(3, half), "kill": 0},
            {"at": draw.randrange(3, half // 3), "kill": 0},
        ],
        [
            {"at": draw.randrange(half, 2 * half), "kill": 0},
            {"at": draw.randrange(3, 30), "kill": 0},
        ],
    ]
    kills, _, _ = run_chains(pool, PROBLEMS[name], tmp_path, chains, wanted, record_property)
    assert kills >= 2  # the second of a chain can come too late


def is_complete(workdir):
    return (workdir / "results.nc").exists() and read_results(workdir).attrs["complete"] == 1


def signal_and_finish(server, arguments, workdir, signum, delays):
    """Signals runs, one after the other, so many seconds after each began, then lets the last be.

    A run that has ended before its signal is started anew in another directory and gets it after
    half the time, so that every one of them is in time.

    Returns:
      The directory of those that were signalled.
    """
    for delay in delays:
        while True:
            run = Run(server, arguments, workdir)
            time.sleep(delay)
            server.ask(signal=signum, to=run.pid)
            status = run.wait()
            # Before the run and after it, with all saved, a signal may end it as any process.
            is_outside = "compiled" not in run.told or is_complete(workdir)
            assert status in (0, BY_SIGNAL[signum], *([-signum] if is_outside else [])), run.told
            assert "Traceback" not in run.told
            assert_whole(run)
            if status == 128 + signum:
                told = ("all that was computed is saved; ", "nothing was saved yet")
                assert sum(line in run.told for line in told) == 1
            if status != 0:
                break
            workdir, delay = workdir.with_name(f"{workdir.name}-again"), delay / 2
    finish(server, arguments, workdir)
    return workdir


@pytest.mark.parametrize("name", ["longer", "patches"])
@pytest.mark.parametrize("signum", list(BY_SIGNAL), ids=lambda s: s.name)
def test_signals_at_random_moments(pool, whole, pace, tmp_path, name, signum, record_property):
    """While it starts, or in its first third, three in turn."""
    draw, (start, steps) = random.Random(signum), pace(name)
    chains = 3 if name == "longer" else 1
    waiting = [
        pool.submit(
            signal_and_finish, PROBLEMS[name], tmp_path / f"run{i}", signum,
            [draw.uniform(0.5, start + steps / 3) for _ in range(3)],
        )
        for i in range(chains)
    ]  # fmt: skip
    for each in waiting:
        assert files(each.result()) == whole(name)[0]
    record_property(f"faults: {signum.name} at a random moment, {name}", 3 * chains)


def test_the_wide_resnet_killed_at_changes_of_files(pool, whole, tmp_path, record_property):
    wanted, changes = whole("patches")
    draw = random.Random(2)
    chains = [
        [{"at": draw.randrange(3, len(changes)), "kill": draw.choice([0, 0.01])} for _ in range(3)]
        for _ in range(4)
    ]
    kills, _, _ = run_chains(pool, PROBLEMS["patches"], tmp_path, chains, wanted, record_property)
    assert kills >= 6  # of 12: the later ones may be beyond what is left to do


def race(server, arguments, workdir):
    """Two runs started at once in one directory, each with a log of its own: one is refused with
    one line, the other one ends. Their exit statuses."""
    logs = [workdir.with_name(f"{workdir.name}-{i}.log") for i in range(2)]
    runs = [Run(server, arguments, workdir, log) for log in logs]
    status = {run.wait(): run.told for run in runs}
    assert status[2].count("\n") == 1
    assert "in use by a live run" in status[2]
    return sorted(status)


def test_two_runs_on_one_directory(pool, whole, tmp_path, record_property):
    problems = ("sweep", "sweep", "sweep", "patches")
    waiting = [
        pool.submit(race, PROBLEMS[problem], tmp_path / f"run{i}")
        for i, problem in enumerate(problems)
    ]
    assert [each.result() for each in waiting] == [[0, 2]] * 4
    for i, problem in enumerate(problems):
        assert files(tmp_path / f"run{i}") == whole(problem)[0]
    record_property("faults: second runs on a directory, refused", 4)
