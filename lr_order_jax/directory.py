"""The directory of a run: its name, its lock, and `config.json`."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import xarray as xr

from lr_order_jax import __version__, files, processes, results
from lr_order_jax.fields import ConfigError
from lr_order_jax.progress import say
from lr_order_jax.spec import Spec, Study, difference, digest


def default(config_name: str, run_spec: Spec | Study) -> pathlib.Path:
    """runs/<config>-<hash of what is computed>, and which shard of it."""
    part = f"-shard-{shard.replace('/', '-of-')}" if (shard := _shard_of(run_spec)) else ""
    return pathlib.Path("runs") / f"{config_name}-{digest(run_spec)}{part}"


def _shard_of(run_spec: Spec | Study) -> str | None:
    return run_spec.how_as_run["shard"]


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the directory and holds it against other live runs (the lock dies with the process).

    A directory made here is removed again if nothing came to be written into it.
    """
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError:  # what is written there knows no other names
        raise ConfigError(f"--workdir={str(workdir)!r}: must be a name in UTF-8") from None
    try:
        if workdir.is_symlink() and not workdir.exists():
            raise ConfigError(f"--workdir={workdir}: is a link to what is not there")
        if workdir.exists() and not workdir.is_dir():
            raise ConfigError(f"--workdir={workdir}: is not a directory")
        is_new = not workdir.exists()
        ours = any((workdir / name).exists() for name in (".lock", "config.json"))
        if not is_new and not ours and any(workdir.iterdir()):
            raise ConfigError(f"--workdir={workdir}: holds other files, give an empty or new one")
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "a")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), os.stat(workdir / ".lock")):
                raise FileNotFoundError  # removed with its directory by a run that was refused
        except (BlockingIOError, FileNotFoundError):
            raise ConfigError(f"--workdir={workdir}: is in use by a live run") from None
        except OSError as error:  # some mounted file systems know no locks
            say(f"{workdir}: cannot be locked ({error.strerror}); start no second run there")
        with contextlib.suppress(OSError):  # a full disk is told where something is lost by it
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), f"{platform.node()} {os.getpid()} {time.time_ns()}\n".encode())
            os.fsync(lock.fileno())  # other hosts look at it, see `must_be_common`
        try:
            yield
        except Exception:
            with contextlib.suppress(OSError):
                if is_new and {p.name for p in workdir.iterdir()} <= {".lock", "checkpoints"}:
                    if (workdir / "checkpoints").exists():
                        (workdir / "checkpoints").rmdir()  # fails if it holds any
                    (workdir / ".lock").unlink()
                    workdir.rmdir()
            raise


SEEN_WITHIN = 30
"""Seconds after which a file that one host has written is seen by all."""


def must_be_common(workdir: pathlib.Path) -> None:
    """Refuses a directory that is not the same one for all processes. Waits for the others.

    Raises:
      ConfigError: in the first of the processes that do not see the lock which `held` has made.
      Elsewhere: in the others.
    """
    if not processes.are_several():
        return

    def read() -> str | None:
        with contextlib.suppress(OSError):
            return (workdir / ".lock").read_text()
        return None

    token = processes.json_of_first(processes.first_does(read))

    def look() -> None:
        deadline = time.monotonic() + SEEN_WITHIN
        while token is None or read() != token:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"--workdir={workdir}: process {jax.process_index()} does not see what process "
                    "0 writes there; must be a directory that all hosts share"
                )
            time.sleep(0.1)

    processes.all_do(look)


def read_whole_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The stored config.json, which its `seal` is compared with.

    Raises:
      FileNotFoundError: if there is none.
      ConfigError: if it is no such file, or has been changed.
    """
    path = workdir / "config.json"
    try:
        stored = json.loads(path.read_text())
        told = stored.pop("seal", None)
        parts = {"what": dict(stored["what"]), "sessions": list(stored["sessions"])}
        parts |= {"how": dict(stored.get("how", {})), "programs": list(stored.get("programs", ()))}
        if not all(isinstance(name, str) for name in parts["programs"]):
            raise TypeError("a program is named by a string")
        is_whole = told == files.seal(stored)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{path}: is not a readable config.json; restore or remove it") from None
    if not is_whole:
        raise ConfigError(f"{path}: does not match its seal; restore or remove it")
    return {**stored, **parts}


def write_whole_config(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Writes config.json with a seal."""
    files.write_json({**config, "seal": files.seal(config)}, workdir / "config.json")


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The stored config.json; {} if there is none."""
    return read_whole_config(workdir) if (workdir / "config.json").exists() else {}


def _whole_results(workdir: pathlib.Path) -> xr.Dataset | None:
    """The results in a directory; None if there are none, or damaged ones."""
    try:
        return results.read_results(workdir)
    except (FileNotFoundError, ValueError):
        return None


def results_of(workdir: pathlib.Path, run_spec: Spec | Study) -> xr.Dataset | None:
    """The results in a directory if they are of this config and shard; else None."""
    dataset = _whole_results(workdir)
    if dataset is None or difference(results.config_of(dataset), run_spec.what):
        return None
    return dataset if dataset.attrs.get("shard") == _shard_of(run_spec) else None


def check_config(workdir: pathlib.Path, run_spec: Spec | Study) -> None:
    """Refuses a directory in which something else was computed, by config.json or, where that is
    lost, by results.nc. What its checkpoints hold is compared as they are restored."""
    for path in (workdir / name for name in FILES):
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a file; move it away")
    if stored := read_config(workdir):
        if stored.get("merged"):
            raise ConfigError(f"--workdir={workdir}: holds merged parts, which no run continues")
        what, theirs = stored["what"], stored["how"].get("shard")
    elif (dataset := _whole_results(workdir)) is not None:
        what, theirs = results.config_of(dataset), dataset.attrs.get("shard")
    else:
        return
    if told := difference(what, run_spec.what):
        raise ConfigError(f"--workdir={workdir}: holds a run of another config: {told}")
    if (ours := _shard_of(run_spec)) != theirs:
        there, here = (f"shard {shard}" if shard else "all members" for shard in (theirs, ours))
        raise ConfigError(f"--workdir={workdir}: holds {there} of this config, not {here}")


FILES = ("config.json", "metrics.jsonl", "results.nc")
"""Those of every run."""

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "xarray")
"""Those whose versions are kept."""


def _kind_of(device: jax.Device) -> str:
    """What a device is called; of a CPU, as Linux calls it, where it does."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
        if device.platform == "cpu" and found:
            return found[1].strip()
    return device.device_kind


def write_config(workdir: pathlib.Path, run_spec: Spec | Study, audit: Sequence[Any]) -> None:
    """Writes config.json: what and how, the directories of a study's programs, which assumptions
    hold, and the command and machine of each session so far."""
    device = jax.devices()[0]
    session: dict[str, Any] = {
        "command": sys.argv,
        "versions": {
            "lr_order_jax": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
        "device": {
            "platform": device.platform,
            "kind": _kind_of(device),
            "count": jax.device_count(),
        },
        "processes": jax.process_count(),
    }
    config = {
        "what": run_spec.what,
        "how": run_spec.how_as_run,
        "programs": run_spec.programs,
        "audit": audit,
        **session,
        "sessions": [*read_config(workdir).get("sessions", []), session],
    }
    write_whole_config(config, workdir)
