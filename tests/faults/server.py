"""Runs the command line in forks of one process that has imported everything once.

Each run is a process of its own, with JAX started in it, and is really killed; only the seconds of
the imports are saved. On stdin come requests, a JSON object a line; on stdout goes one answer each:

    {"run": [ARGUMENT, ...], "workdir": DIR, "log": FILE, "fault": {...}}  ->  its process number
    {"signal": NUMBER, "to": process number}  ->  null
    {"wait": process number}  ->  its exit status, as `subprocess` gives it

stdout and stderr of a run go to FILE.out and FILE.err; FILE gets a line for each operation of
Python's that changes a file of DIR. The fault, if any, happens right before the operation of
number "at" (from 1), counted among those in whose line "of" stands: {"kill": SECONDS} kills the
process so much later, with "begun" right after it has opened the file, which is empty then;
{"error": ERRNO} fails it and all that follow. {"bytes": N} is a limit on the size of any file.
{"figures": false} draws none, which takes a third of a run's time.
"""

import itertools
import json
import os
import resource
import signal
import sys
import threading
import time

import h5netcdf  # noqa: F401 (what runs import late is here once for all)
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
from absl import app

from lr_order_jax import figures, main

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}


def is_change(event: str, arguments: tuple) -> bool:
    """Whether an audited event of Python's is about to change a file."""
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in CHANGES


def install(workdir: str, log: str, fault: dict) -> None:
    """Logs each change of a file in the workdir, and lets the fault happen."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    counted, is_ours = itertools.count(1), False  # next() is one step for all threads

    def kill() -> None:
        time.sleep(fault["kill"])
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal is_ours
        if is_ours or not is_change(event, arguments):
            return
        paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, str | bytes | os.PathLike)]
        if not paths or workdir not in paths[0]:
            return
        line = f"{event} {' '.join(paths)}"
        number = next(counted) if fault.get("of", "") in line else 0
        os.write(out, f"{line}\n".encode())
        at = fault.get("at", sys.maxsize)
        if "kill" in fault and number == at:
            if fault.get("begun"):
                is_ours = True
                open(paths[0], "wb").close()
            if fault["kill"]:
                threading.Thread(target=kill, daemon=True).start()
            else:
                kill()
        if "error" in fault and number >= at:
            raise OSError(fault["error"], os.strerror(fault["error"]), paths[0])

    sys.addaudithook(hook)


def child(request: dict) -> None:
    """Becomes the run that was asked for."""
    log, fault = request["log"], request.get("fault") or {}
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    if "bytes" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], fault["bytes"]))
    if fault.get("figures") is False:
        figures.draw = lambda *_: []
    install(request["workdir"], log, fault)
    sys.argv = ["lr_order_jax/main.py", *request["run"], f"--workdir={request['workdir']}"]
    app.run(main._main, flags_parser=main._parse_flags)


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif "signal" in request:
            answer = os.kill(request["to"], request["signal"])  # not yet waited for: it is there
        else:
            answer = os.fork()
            if not answer:
                child(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
