"""Runs of the command line with faults in them, and what must hold after each."""

import contextlib
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conftest import COMPILATION_CACHE, ROOT

from lr_order_jax import checkpoint, verify

SWEEP = ("--config=configs/sweep.py:smoke", "--config.num_records=3")
PATCHES = ("--config=configs/patch_cifar.py:smoke",)
GROUPS = (*SWEEP, "--config.eta_init=0.2,0.1,0.05", "--config.group_size=1", "--config.mapping=map")
STUDY = (*SWEEP, "--config.d=10,20")
OFTEN = "--config.checkpoint_every=0.0"  # after each chunk
BY_SIGNAL = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}


class Server:
    """A process that has imported everything and forks the runs; see `server.py`."""

    def __init__(self) -> None:
        environment = os.environ | COMPILATION_CACHE | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name("server.py"))],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        with self._process:  # closes both ends
            self._process.stdin.close()


class Run:
    """A run that has been started, or has ended."""

    def __init__(self, server: Server, arguments, workdir: pathlib.Path, log=None, **fault: Any):
        self.workdir, self._server = workdir, server
        self._log = log or workdir.with_name(f"{workdir.name}.log")
        pathlib.Path(f"{self._log}.err").touch()  # read before the fork has opened it
        self.pid = server.ask(run=arguments, workdir=str(workdir), log=str(self._log), fault=fault)

    def wait(self) -> int:
        """Its exit status."""
        return self._server.ask(wait=self.pid)

    @property
    def told(self) -> str:
        """What stands on stderr."""
        return pathlib.Path(f"{self._log}.err").read_text()

    @property
    def changes(self) -> list[str]:
        """The operations that changed a file of the workdir, as far as Python sees them. The last
        one was not done if a kill without delay stopped it."""
        return self._log.read_text().splitlines()

    @property
    def continued_at(self) -> int | None:
        """The step at which it took up an earlier run."""
        return continued_at(self.told)


def continued_at(told: str) -> int | None:
    """The step at which a run took up an earlier one, by what it told."""
    found = re.search(r"continuing at step (\d+)", told)
    return int(found[1]) if found else None


@contextlib.contextmanager
def servers(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that call functions with a server of their own: pool.submit(f, ...)."""
    free: queue.SimpleQueue[Server] = queue.SimpleQueue()
    made = [Server() for _ in range(count)]
    for server in made:
        free.put(server)

    class Pool(ThreadPoolExecutor):
        def submit(self, function, /, *arguments, **keywords):
            def call():
                server = free.get()
                try:
                    return function(server, *arguments, **keywords)
                finally:
                    free.put(server)

            return super().submit(call)

    try:
        with Pool(count) as pool:
            yield pool
    finally:
        for server in made:
            server.close()


def committed(workdir: pathlib.Path) -> list[int]:
    """Steps of the checkpoints that stand there under their final names."""
    return sorted(int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit())


def assert_whole(run: Run) -> None:
    """Every file a reader may see is whole, none was written in its place, and no checkpoint that
    was written is lost."""
    opened = {pathlib.Path(line.split()[1]).name for line in run.changes if line.startswith("open")}
    assert not opened & {"results.nc", "config.json"}
    if (run.workdir / "config.json").exists():
        assert verify.verify(run.workdir).wrong == []
    renamed = [line.split()[-1] for line in run.changes[:-1] if line.startswith("os.rename")]
    written = {p.parent.parent: int(p.name) for p in map(pathlib.Path, renamed) if is_step(p)}
    for folder, step in written.items():  # the newest of each program
        assert committed(folder)[-1] >= step


def is_step(path: pathlib.Path) -> bool:
    return path.parent.name == "checkpoints" and path.name.isdigit()


def finish(server: Server, arguments, workdir: pathlib.Path, **fault: Any) -> Run:
    """The same command again, to the end: it continues at the newest checkpoint."""
    before = {path.parent: committed(path.parent) for path in workdir.rglob("checkpoints")}
    run = Run(server, arguments, workdir, **fault)
    assert run.wait() == 0, run.told
    _, *parts = re.split(r"program \d+ of \d+: (.*)\n", run.told)  # of a study, each in its turn
    told = {workdir / name: text for name, text in zip(parts[::2], parts[1::2], strict=True)}
    told = told or {workdir: run.told}
    for folder, steps in before.items():
        if steps and "nothing left to run" not in told[folder]:
            assert continued_at(told[folder]) == steps[-1]
    return run


def files(workdir: pathlib.Path) -> dict[str, Any]:
    """What must be equal, bit for bit: results and metrics, of a study those of all programs, and
    the digest of each array of the newest checkpoints."""
    found: dict[str, Any] = {
        str(path.relative_to(workdir)): path.read_bytes()
        for name in ("results.nc", "metrics.jsonl")
        for path in workdir.rglob(name)
    }
    for path in workdir.rglob("checkpoints"):
        _, meta = checkpoint.restore(path.parent)
        found[str(path.relative_to(workdir))] = meta["step"], meta["digests"]
    return found
