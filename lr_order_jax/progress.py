"""What a run tells while it goes on: a bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator

PLAIN_EVERY = 20.0  # seconds between plain lines


def open_streams() -> None:
    """Opens stdin, stdout and stderr to nowhere where a caller has closed them (`2>&-`): else the
    next file that is opened would take their place and what libraries print."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (to the end)


_quiet_as: str | None = None  # name of a process beside the one that tells what happens
_is_silent = False


def keep_quiet(name: str) -> None:
    """Tells errors alone from now on, with this name before them."""
    global _quiet_as
    _quiet_as = name


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Tells nothing, where another process tells the same."""
    global _is_silent
    _is_silent = True
    try:
        yield
    finally:
        _is_silent = False


def say(text: str) -> None:
    """One line to the user, apart from results: on stderr. A closed stderr ends no run."""
    if _is_silent:
        return
    if _quiet_as is not None:
        if not text.startswith("error: "):
            return
        text = f"{_quiet_as}: {text}"
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Occasionally:
    """Says what it is given if nothing was said for `PLAIN_EVERY` seconds."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def say(self, text: str) -> None:
        if time.monotonic() - self._told >= PLAIN_EVERY:
            self._told = time.monotonic()
            say(text)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class Progress:
    """Progress in member-steps: members that ended need no more, so the time left is honest.

    A host resource: `close` it before printing anything else.
    """

    def __init__(self, done: int):
        self._first = done
        self._start, self._plain = time.monotonic(), Occasionally()
        self._bar = None
        if sys.stderr.isatty() and _quiet_as is None:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=None, completed=done)
            self._bar.start()

    def update(
        self, done: int, total: int, clock: str, now: float, alive: int, step: int, speed: float
    ) -> None:
        """Tells the state of the run.

        Args:
          done: member-steps taken.
          total: those and the ones that are at most to come; falls when members end early.
          now: least time of the running members, in units of the clock.
          alive: members that still run.
          speed: steps a second of the whole grid, lately.
        """
        elapsed = time.monotonic() - self._start
        pace = (done - self._first) / elapsed if elapsed > 0 else 0.0
        left = _duration((total - done) / pace) if pace > 0 else "?"
        text = (
            f"{clock.replace('_', ' ')} {now:.4g}, {alive} members alive, step {step}, "
            f"{speed:.3g} steps/s, {left} left"
        )
        if self._bar is not None:
            with contextlib.suppress(OSError):  # a terminal that is gone
                self._bar.update(self._task, completed=done, total=total, description=text)
        else:
            self._plain.say(f"{done / max(total, 1):4.0%}  {text}")

    def close(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
            self._bar = None
