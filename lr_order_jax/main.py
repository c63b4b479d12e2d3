"""Command line: flags in, `study.run` out.

    python -m lr_order_jax.main --config=configs/sweep.py[:ARGUMENT] [--workdir=DIR]
                                [--config.FIELD=VALUE ...]
    python -m lr_order_jax.main --check=DIR

Exit status: 0 when results are whole (or nothing is found wrong), 1 where a check finds something
wrong, a disk is full or fails (what was saved before is whole), or the program itself fails, 2 with
one line on stderr for a wrong config or input, 130 after SIGINT, 143 after SIGTERM and 129 after
SIGHUP (a terminal that is closed), with everything saved. With LR_ORDER_JAX_TRACEBACK=1 in the
environment a failure of the program is told by its traceback instead of one line.
"""

import signal

from lr_order_jax import progress

if __name__ == "__main__":  # before other modules load
    progress.open_streams()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to save yet

import contextlib
import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from lr_order_jax import (
    __version__,
    cache,
    directory,
    experiment,
    memory,
    processes,
    results,
    spec,
    study,
    verify,
)
from lr_order_jax.fields import ConfigError, in_one_line
from lr_order_jax.progress import say

TRACEBACK = "LR_ORDER_JAX_TRACEBACK"
ONE_COMMAND = "LR_ORDER_JAX_ONE_COMMAND"  # set by a launcher that starts all processes

_ALLOWED = {  # in Python's words for what it cannot convert
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}


def _told_once() -> contextlib.AbstractContextManager[None]:
    """Where what is wrong with the words of a command is told: by the first of the processes that
    one launcher starts by it."""
    is_told = bool(os.environ.get(ONE_COMMAND)) and os.environ.get("JAX_PROCESS_ID", "0") != "0"
    return progress.silent() if is_told else contextlib.nullcontext()


try:
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, or FILE:VARIANT.")
except flags.Error as error:  # a --flagfile is read here
    with _told_once():
        say(f"error: {str(error).removeprefix('ERROR:: ')}")
    sys.exit(2)
_CHECK = flags.DEFINE_string("check", None, "Directory of a run to verify; nothing is computed.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; see the README.")


def _config_file(argv: Sequence[str]) -> str:
    """The value of --config on the command line ('' if none)."""
    value = ""
    for i, argument in enumerate(argv):
        if match := re.fullmatch(r"--?config(=(.*))?", argument):
            value = match[2] if match[1] else "".join(argv[i + 1 : i + 2])
    return value


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Flags in, one line and exit status 2 for a wrong one (absl would print a traceback)."""
    with _told_once():
        return _parsed(argv)


def _parsed(argv: Sequence[str]) -> list[str]:
    file = _config_file(argv)
    path = file.partition(":")[0]
    logging.set_verbosity(logging.FATAL)  # Orbax tells every file it writes
    try:
        if path and not pathlib.Path(path).is_file():
            raise ConfigError(f"--config={file}: {path} is not a file")
        rest = flags.FLAGS(list(argv))
        if _CHECK.value is not None and (file or _WORKDIR.value is not None):
            raise ConfigError("--check: stands alone, without --config and --workdir")
        if _CHECK.value == "":
            raise ConfigError("--check= is empty: name the directory of a run")
        if _WORKDIR.value == "":
            raise ConfigError("--workdir= is empty: name a directory, or leave it out")
        if not file and _CHECK.value is None:
            raise ConfigError("--config is missing: give --config=configs/sweep.py")
        if len(rest) > 1:
            raise ConfigError(
                f"{rest[1]!r}: no such argument, options are --config, --workdir, --check"
            )
        if file and not hasattr(_CONFIG.value, "items"):
            raise ConfigError(f"--config={file}: its get_config must return a ConfigDict")
        return rest
    except ConfigError as error:
        _refuse(error)
    except flags.Error as error:
        _refuse(_of_flag(_one_line(error)))
    except (AttributeError, KeyError) as error:
        cause = error.args[0] if error.args else error  # of an AttributeError a KeyError
        cause = cause.args[0] if isinstance(cause, KeyError) else cause
        name, _, hint = str(cause).partition("\n")
        field = name.strip("\"'")
        if any(re.match(rf"--?config\.{re.escape(field)}\b", argument) for argument in argv):
            _refuse(f"config.{field}: {path} has no such field{hint and f' ({hint})'}")
        _refuse(f"--config={file}: {_one_line(error)}")
    except Exception as error:  # a config file is a program: it can raise anything
        _refuse(f"--config={file}: {_one_line(error)}")


def _of_flag(line: str) -> str:
    """absl's line about a value that a field cannot take, with what is allowed."""
    for told, allowed in _ALLOWED.items():
        if (found := re.match(r"flag --(config\.\S+?)=(.*?): ", line)) and told in line:
            return f"{found[1]} = {found[2]}: must be {allowed}"
    return line


def _one_line(error: Exception) -> str:
    """The telling line of an error whose text may hold a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Pass --help", "Traceback", "File "))]
    return lines[-1].removeprefix("ValueError: ") if lines else type(error).__name__


def _refuse(error: str | ConfigError) -> NoReturn:
    say(f"error: {' '.join(str(error).splitlines())}")  # of a problem of the user's own
    sys.exit(2)


def _tell_unraisable(report: Any) -> None:
    """Tells of an error that no one can catch, but for two that follow errors which we tell.

    After a read or write of Orbax's has failed, TensorStore's threads still report to its event
    loop, which is closed; h5netcdf closes a file that it could not open.
    """
    known = ("Event loop is closed", "'File' object has no attribute '_writable'")
    if str(report.exc_value) not in known:
        sys.__unraisablehook__(report)


def _check(workdir: str) -> None:
    """Tells what is in the directory of a run and what is wrong with it."""
    try:
        report = verify.verify(workdir)
    except ConfigError as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"--check={workdir}: cannot be read ({error.strerror})")
    lines = [*report.found, *(f"WRONG: {line}" for line in report.wrong)]
    lines.append(f"{len(report.wrong)} things are wrong" if report.wrong else "nothing wrong found")
    with _on_stdout():
        print("\n".join(lines), flush=True)
    sys.exit(1 if report.wrong else 0)


@contextlib.contextmanager
def _on_stdout() -> Iterator[None]:
    """Output that ends without a traceback where its reader has seen enough, and with one line and
    exit status 1 where it cannot be written."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still buffered
        if not isinstance(error, BrokenPipeError):
            say(f"error: stdout: {error.strerror}; the files are whole")
            sys.exit(1)


def _find_devices() -> None:
    """Refuses an environment in which JAX has nothing to run on."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        _refuse(f"JAX_PLATFORMS={asked}: JAX has no such device here ({in_one_line(error)})")


def _is_saved(workdir: pathlib.Path) -> bool:
    """Whether a run that was cut off has a checkpoint; of a study, a program may. The first process
    may be removing the directory: the others, which are quiet, must not look."""
    if not processes.is_first():
        return True
    with contextlib.suppress(OSError):
        there = (path.name for part in ("", "*/") for path in workdir.glob(f"{part}checkpoints/*"))
        return any(name.isdigit() for name in there)  # others were being written
    return False


def _continues(workdir: pathlib.Path) -> str:
    """What the same command does after a run was cut off."""
    anew = "starts anew, nothing was saved yet"
    return "the same command " + ("continues" if _is_saved(workdir) else anew)


def _run() -> None:
    """Runs the config, and tells each kind of failure in one line."""
    try:
        if spec.is_distributed(_CONFIG.value):
            processes.join()
        _find_devices()
        cache.keep_programs()
        asked = processes.all_do(lambda: spec.parse_study(_CONFIG.value))
        how = dataclasses.asdict(asked.specs[0].how)  # where data lie may differ
        config = {"version of lr_order_jax": __version__, **asked.what, **how}
        processes.must_agree(config, "the config")
    except ConfigError as error:
        _refuse(error)
    name, _, variant = _config_file(sys.argv).partition(":")
    stem = "-".join(part for part in (pathlib.Path(name).stem, variant) if part)
    workdir = pathlib.Path(_WORKDIR.value or directory.default(stem, asked))
    try:
        dataset = study.run(asked, workdir)
    except ConfigError as error:
        _refuse(error)
    except experiment.Interrupted as interruption:
        saved = ", all that was computed is saved" if _is_saved(workdir) else ""
        say(f"{interruption}: stopped{saved}; {_continues(workdir)}")
        sys.exit(128 + interruption.signum)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not memory.is_exhausted(error):
            raise
        say("error: this config needs more memory than there is: reduce sizes, widths or members")
        processes.leave(2)
    except OSError as error:
        say(f"error: {error}; what was saved before is whole, {_continues(workdir)}")
        processes.leave(1)
    if not processes.is_first():
        return
    assert dataset is not None
    with _on_stdout():
        results.print_table(results.TABLES[asked.specs[0].problem.table](dataset))
        print(f"results: {workdir / 'results.nc'}   figures: {workdir / 'figures'}", flush=True)


def _main(argv: Sequence[str]) -> None:
    sys.unraisablehook = _tell_unraisable
    try:
        if _CHECK.value is not None:
            _check(_CHECK.value)
        _run()
    except processes.Elsewhere as error:
        sys.exit(error.status) if error.status == 2 else processes.leave(error.status)
    except Exception as error:  # a mistake of this program, or of a problem of the user's own
        if os.environ.get(TRACEBACK):
            raise
        several = "; another process may be lost" if processes.are_several() else ""
        say(f"error: {in_one_line(error)}{several}; {TRACEBACK}=1 in the environment shows where")
        processes.leave(1)


if __name__ == "__main__":
    app.run(_main, flags_parser=_parse_flags)
