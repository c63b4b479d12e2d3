"""Disks that are full, fail or cannot be written, and files that were damaged: one line each, what
was saved before is whole, and the same command continues."""

import errno
import functools
import os
import random
import shutil
import signal
import subprocess

import pytest
from faulty import OFTEN, PATCHES, SWEEP, Run, assert_whole, files, finish, servers

from lr_order_jax import verify
from lr_order_jax.results import read_results

pytestmark = pytest.mark.slow

PROBLEMS = {"sweep": (*SWEEP, OFTEN), "patches": (*PATCHES, OFTEN)}
ARGUMENTS = PROBLEMS["sweep"]


@pytest.fixture(scope="module")
def pool():
    with servers(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def whole_of(pool, tmp_path_factory):
    """Of a problem: the directory of the run without a fault, and the changes of files that it
    made."""

    @functools.cache
    def run(problem):
        workdir = tmp_path_factory.mktemp(problem) / "run"
        return workdir, pool.submit(finish, PROBLEMS[problem], workdir).result().changes

    return run


@pytest.fixture(scope="module")
def whole(whole_of):
    return whole_of("sweep")


def assert_told(run: Run, status: int) -> None:
    """The run failed with one plain line at the end."""
    assert status in (1, 2), run.told
    assert "Traceback" not in run.told, run.told
    lines = run.told.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], run.told
    assert_whole(run)


def fail_and_finish(server, workdir, fault, arguments=ARGUMENTS):
    """A run that fails, and then one that does not. Whether the first failed."""
    run = Run(server, arguments, workdir, **fault)
    status = run.wait()
    if status:
        assert_told(run, status)
    finish(server, arguments, workdir, figures=False)
    return status != 0


def fail_in_time(server, workdir, fault):
    """Fails a run at a change, in another directory at an earlier one if it has ended before: how
    many changes it makes depends on the speed of the machine. The directory of the run that
    failed."""
    while not fail_and_finish(server, workdir, fault):
        workdir = workdir.with_name(f"{workdir.name}-again")
        fault = fault | {"at": fault["at"] // 2}
    return workdir


def test_errors_of_the_disk_at_changes_of_files(pool, whole, tmp_path, record_property):
    """From one change on all fail, as on a disk that is full, was remounted or is broken."""
    folder, changes = whole
    draw = random.Random(3)
    numbers = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)
    faults = [
        {"at": at, "error": draw.choice(numbers)}
        for at in [*range(1, 12), *(draw.randrange(12, len(changes)) for _ in range(8))]
    ]
    waiting = [
        pool.submit(fail_in_time, tmp_path / f"run{i}", fault) for i, fault in enumerate(faults)
    ]
    for each in waiting:
        assert files(each.result()) == files(folder)
    record_property("faults: errors of the disk", len(faults))


def test_a_limit_on_the_size_of_files(pool, whole, tmp_path, record_property):
    """Each size up to the largest file fails in another place, also inside of libraries."""
    folder, _ = whole
    sizes = sorted({p.stat().st_size - 1 for p in folder.rglob("*") if p.stat().st_size > 5000})
    faults = [{"bytes": size} for size in sizes]  # what is on stderr is less than that
    waiting = [
        pool.submit(fail_and_finish, tmp_path / f"run{i}", fault) for i, fault in enumerate(faults)
    ]
    failed = [each.result() for each in waiting]
    assert sum(failed) >= 4
    for i in range(len(faults)):
        assert files(tmp_path / f"run{i}") == files(folder)
    record_property("faults: limits on the size of files", sum(failed))


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a small disk, or changes it: disk("size=64k")."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options):
        options = f"remount,{options}" if mounted else options
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
        mounted.append(options)
        return folder

    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs the right to mount a tmpfs: not root")
    yield mount
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


FULL = [("sweep", size) for size in (8, 48, 96, 160, 260, 400)]
FULL += [("patches", size) for size in (300, 5000)]  # in the first and in the second checkpoint


@pytest.mark.parametrize(("problem", "size"), FULL)
def test_a_disk_that_fills_up(pool, whole_of, disk, problem, size, record_property):
    workdir, arguments = disk(f"size={size}k") / "run", PROBLEMS[problem]

    def fill(server):
        run = Run(server, arguments, workdir, log=workdir.parent.parent / "log")
        assert_told(run, run.wait())
        assert "No space left on device" in run.told
        disk("size=50m")
        finish(server, arguments, workdir, figures=False)

    pool.submit(fill).result()
    assert files(workdir) == files(whole_of(problem)[0])
    record_property("faults: full disks", 1)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_disk_that_is_remounted_for_reading_only(
    pool, whole_of, disk, tmp_path, problem, record_property
):
    workdir, log, arguments = disk("size=50m") / "run", tmp_path / "log", PROBLEMS[problem]

    def run_and_remount(server):
        killed = Run(server, arguments, workdir, log, at=70, kill=0)
        assert killed.wait() < 0
        disk("ro")
        for folder in (workdir, workdir.parent / "another"):
            run = Run(server, arguments, folder, log)
            assert run.wait() == 2
            assert run.told.count("\n") == 1
            assert "cannot be written (Read-only file system)" in run.told
        disk("rw")
        finish(server, arguments, workdir)

    pool.submit(run_and_remount).result()
    assert files(workdir) == files(whole_of(problem)[0])
    record_property("faults: disks for reading only", 2)


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 10])


def flipped(path):
    """A bit in each hundred bytes: what is read lies somewhere in a block."""
    content, draw = bytearray(path.read_bytes()), random.Random(path.name)
    for i in range(50, len(content), 100):
        content[i] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


def missing(path):
    path.unlink()


def damage_and_finish(server, whole, workdir, name, damage, arguments=ARGUMENTS):
    """A run that was cut off, the same file of its newest checkpoint damaged, and the rest of it.

    Returns:
      Whether the damage was noticed: a bit that nothing reads may be any.
    """
    shutil.copytree(whole, workdir)
    (workdir / "results.nc").unlink()
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    newest = workdir / "checkpoints" / str(steps[-1])
    damage(newest / name)
    run = Run(server, arguments, workdir, figures=False)
    assert run.wait() == 0, run.told
    assert "Traceback" not in run.told
    if f"checkpoint of step {steps[-1]}: " in run.told:
        assert run.continued_at == steps[-2]
        assert (workdir / "damaged_checkpoints" / str(steps[-1])).is_dir()
        return True
    return False


def damage_kill_and_check(server, whole, workdir, name, at):
    """A damaged newest checkpoint, kills of the resumes before their changes of files of these
    numbers, and a look at the directory after each.

    Returns:
      How many resumes were killed.
    """
    shutil.copytree(whole, workdir)
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    damage = workdir / "checkpoints" / str(steps[-1]) / name
    flipped(damage)
    assert any(f"checkpoint of step {steps[-1]}: " in w for w in verify.verify(workdir).wrong)
    kills = 0
    for number in at:
        run = Run(server, ARGUMENTS, workdir, at=number, kill=0)
        status = run.wait()
        assert status in (0, -signal.SIGKILL), run.told
        kills += status != 0
        if (workdir / "damaged_checkpoints" / str(steps[-1])).exists():  # else killed before
            assert verify.verify(workdir).wrong == []
            assert read_results(workdir)["step"].notnull().all()  # no record was overwritten
    finish(server, ARGUMENTS, workdir, figures=False)
    assert verify.verify(workdir).wrong == []
    return kills


def test_a_damaged_checkpoint_and_then_kills_of_the_resume(pool, whole, tmp_path, record_property):
    folder, _ = whole
    newest = max((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    (name,) = (p.relative_to(newest) for p in newest.glob("meta/metadata"))
    waiting = [
        pool.submit(damage_kill_and_check, folder, tmp_path / f"run{i}", name, at)
        for i, at in enumerate([(3, 12), (5, 16), (8, 14), (12, 20)])
    ]
    kills = sum(each.result() for each in waiting)
    for i in range(len(waiting)):
        assert files(tmp_path / f"run{i}") == files(folder)
    assert kills >= 6
    record_property("faults: processes killed, after a damaged checkpoint", kills)


# Any change of these is noticed. Of the blocks in arrays/ocdbt.process_0 some are read; the rest
# are Orbax's notes for itself.
NOTICED = ("arrays/_METADATA", "arrays/manifest.ocdbt", "arrays/d/*", "meta/metadata")
SOME_NOTICED = "arrays/ocdbt.process_0/d/*"


@pytest.mark.parametrize("damage", [truncated, flipped, missing])
def test_every_file_of_the_newest_checkpoint(pool, whole, tmp_path, damage, record_property):
    folder, _ = whole
    newest = max((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    names = [p.relative_to(newest) for p in newest.rglob("*") if p.is_file() and p.stat().st_size]
    waiting = [
        pool.submit(damage_and_finish, folder, tmp_path / f"run{i}", name, damage)
        for i, name in enumerate(names)
    ]
    pairs = zip(names, waiting, strict=True)
    noticed = {name for name, each in pairs if each.result()}
    for i in range(len(names)):
        assert files(tmp_path / f"run{i}") == files(folder)
    for pattern in NOTICED:
        of_pattern = {name for name in names if name.match(pattern)}
        assert of_pattern
        assert of_pattern <= noticed, pattern
    assert any(name.match(SOME_NOTICED) for name in noticed)
    record_property("faults: damaged newest checkpoints", len(names))


def test_the_wide_resnet_with_a_damaged_checkpoint(pool, whole_of, tmp_path, record_property):
    whole, _ = whole_of("patches")
    newest = max((whole / "checkpoints").iterdir(), key=lambda p: int(p.name))
    largest = max(newest.rglob("*"), key=lambda p: p.stat().st_size).relative_to(newest)
    (metadata,) = (p.relative_to(newest) for p in newest.glob("meta/metadata"))
    faults = [(largest, damage) for damage in (truncated, flipped, missing)]
    faults += [(metadata, damage) for damage in (truncated, flipped, missing)]
    waiting = [
        pool.submit(damage_and_finish, whole, tmp_path / f"run{i}", *fault, PROBLEMS["patches"])
        for i, fault in enumerate(faults)
    ]
    assert all(each.result() for each in waiting)
    for i in range(len(faults)):
        assert files(tmp_path / f"run{i}") == files(whole)
    record_property("faults: damaged newest checkpoints", len(faults))
