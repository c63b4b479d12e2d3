"""What the scripts share: directories in, one line and exit status 2 where they cannot serve."""

import argparse
import contextlib
import errno
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import xarray as xr

from lr_order_jax import figures, files, memory, results
from lr_order_jax.checkpoint import NoCheckpoint
from lr_order_jax.fields import ConfigError
from lr_order_jax.stored import StoredRun

COLUMN, PAGE = 3.25, 6.75
"""Widths of a paper's column and of its page, in inches."""

SMALL_TYPE: Any = {"font.size": 8.0, "lines.linewidth": 1.1, "pdf.fonttype": 42}


class Parser(argparse.ArgumentParser):
    """A command line that is wrong gives one line."""

    def __init__(self, **named: Any):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=raw, **named)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (--help tells more)", file=sys.stderr)
        sys.exit(2)


class NotWritten(Exception):
    """A file cannot be written; its cause is the OSError."""


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Where a file is written: an OSError there is `NotWritten`, told as such."""
    try:
        yield
    except OSError as error:
        told = error.strerror or error
        raise NotWritten(f"{error.filename or path}: cannot be written ({told})") from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""A disk that is full or fails, where others are a wrong place to write to."""


class Compared(NamedTuple):
    """What the paper says of a quantity, and what a run measured."""

    quantity: str
    paper: str
    ours: str


def paper_figure(
    run: StoredRun,
    name: str,
    draw: Callable[[], Any],
    width: float,
    compared: Sequence[Compared],
    remark: str = "",
) -> None:
    """Writes figures/NAME.png, NAME.pdf and NAME.md of a run's directory.

    Args:
      draw: () -> the figure; it is brought to the width with its proportions.
      compared: stands in NAME.md, with the command that made the data and what they are, and is
        printed.
      remark: stands below.
    """
    import matplotlib

    folder = run.workdir / "figures"
    with writing(folder):
        folder.mkdir(exist_ok=True)
    with matplotlib.rc_context(SMALL_TYPE):
        figure = draw()
        wide, high = figure.get_size_inches()
        figure.set_size_inches(width, max(high * width / wide, 0.32 * width))
        for form in ("png", "pdf"):
            path = folder / f"{name}.{form}"
            dated = {"metadata": {"CreationDate": None}} if form == "pdf" else {}
            write = functools.partial(figure.savefig, dpi=300, format=form, **dated)
            with writing(path):
                files.write_aside(path, write)
            print(f"figure: {path}")
    lines = [f"Data: {results.title_of(run.dataset)}, by `{run.command}`", ""]
    if not run.dataset.attrs["complete"]:
        lines += ["The run is not finished.", ""]
    rows = [Compared("quantity", "paper", "this run"), Compared("---", "---", "---"), *compared]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", remark] if remark else []
    text = "\n".join(lines) + "\n"
    with writing(path := folder / f"{name}.md"):
        files.write_aside(path, lambda aside: aside.write_text(text))
    print(text, end="")


def with_unit(values: Any, unit: str, digits: int = 2) -> str:
    """Mean over seeds +- its standard error and the unit, as text; "-" if there is none."""
    told = results.with_error(values, digits=digits)
    return told if told == "-" else f"{told} {unit}"


def need_arms(dataset: xr.Dataset, arms: Sequence[str]) -> None:
    """Raises ValueError for what is no run on plain CIFAR-10 with these arms on its only axis."""
    there = dataset["arm"].values.tolist() if "arm" in dataset else []
    if not set(arms) <= set(there) or dataset["status"].dims != ("seed", "arm"):
        raise ValueError(
            f"must be a run of configs/cifar.py, with the arms {', '.join(arms)} alone"
        )
    if "patch_accuracy" in dataset:
        raise ValueError("must be a run without patches, as of configs/cifar.py")


def save_figure(figure: Any, folder: pathlib.Path, name: str) -> None:
    """Writes a figure beside those of a run, and says where."""
    path = folder / "figures" / f"{name}.png"
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        figures.save(figure, path)
    print(f"figure: {path}")


def run(usage: str, count: int, body: Callable[..., int]) -> None:
    """Calls body(directory, ...) with the arguments of the command line and exits with its status,
    as `told` does.

    Args:
      usage: a command; its last `count` words are the names of directories.
    """
    words = usage.split()
    parser = Parser(prog=" ".join(words[:-count]), description=sys.modules[body.__module__].__doc__)
    for name in words[-count:]:
        parser.add_argument(name, type=pathlib.Path)
    folders = list(vars(parser.parse_args()).values())
    told(folders, lambda: body(*folders))


def told(folders: Sequence[pathlib.Path], body: Callable[[], int]) -> NoReturn:
    """Exits with the status that body() returns.

    A file that cannot be read (OSError) or written, results that do not fit (ConfigError and the
    like) and too little memory are told in one line, with status 2; a disk that is full or fails,
    with status 1.
    """
    status = 2
    try:
        status_of_body = body()
        sys.stdout.flush()
        sys.exit(status_of_body)
    except NotWritten as error:
        line = str(error)
        status = 1 if getattr(error.__cause__, "errno", None) in FULL else 2
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still buffered
        sys.exit(0)
    except OSError as error:
        if error.errno in FULL and error.filename is None:  # our own output
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            line, status = f"stdout: cannot be written ({error.strerror})", 1
        else:
            line = f"{error.filename or folders[0]}: cannot be read ({error.strerror or error})"
    except (ConfigError, KeyError, TypeError, ValueError, NoCheckpoint) as error:
        line = f"{' '.join(map(str, folders))}: {error.args[0] if error.args else error}"
    except Exception as error:
        if not memory.is_exhausted(error):
            raise
        line = f"{' '.join(map(str, folders))}: needs more memory than there is"
    print(f"error: {line}", file=sys.stderr)
    sys.exit(status)
