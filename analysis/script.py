"""What the scripts share: directories in, one line and exit status 2 where they cannot serve."""

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from lr_order_jax import figures, results
from lr_order_jax.checkpoint import NoCheckpoint
from lr_order_jax.fields import ConfigError
from lr_order_jax.stored import StoredRun

COLUMN, PAGE = 3.25, 6.75
"""Widths of a paper's column and of its page, in inches."""

SMALL_TYPE: Any = {"font.size": 8.0, "lines.linewidth": 1.1, "pdf.fonttype": 42}


class Compared(NamedTuple):
    """What the paper says of a quantity, and what a run measured."""

    quantity: str
    paper: str
    ours: str


def paper_figure(
    run: StoredRun, name: str, draw: Callable[[], Any], width: float, compared: Sequence[Compared]
) -> None:
    """Writes figures/NAME.png, NAME.pdf and NAME.md of a run's directory.

    Args:
      draw: () -> the figure; it is brought to the width with its proportions.
      compared: stands in NAME.md, with the command that made the data, and is printed.
    """
    import matplotlib

    folder = run.workdir / "figures"
    folder.mkdir(exist_ok=True)
    with matplotlib.rc_context(SMALL_TYPE):
        figure = draw()
        wide, high = figure.get_size_inches()
        figure.set_size_inches(width, max(high * width / wide, 0.32 * width))
        for form in ("png", "pdf"):
            path = folder / f"{name}.{form}"
            dated = {"metadata": {"CreationDate": None}} if form == "pdf" else {}
            write = functools.partial(figure.savefig, dpi=300, format=form, **dated)
            results.write_aside(path, write)
            print(f"figure: {path}")
    lines = [f"Data: `{run.command}`", ""]
    if not run.dataset.attrs["complete"]:
        lines += ["The run is not finished.", ""]
    rows = [Compared("quantity", "paper", "this run"), Compared("---", "---", "---"), *compared]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    text = "\n".join(lines) + "\n"
    results.write_aside(folder / f"{name}.md", lambda aside: aside.write_text(text))
    print(text, end="")


def save_figure(figure: Any, folder: pathlib.Path, name: str) -> None:
    """Writes a figure beside those of a run, and says where."""
    path = folder / "figures" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    figures.save(figure, path)
    print(f"figure: {path}")


def run(usage: str, count: int, body: Callable[..., int]) -> None:
    """Calls body(directory, ...) with the arguments of the command line and exits with its status,
    as `told` does."""
    folders = [pathlib.Path(argument) for argument in sys.argv[1:]]
    if len(folders) != count:
        print(f"usage: {usage}", file=sys.stderr)
        sys.exit(2)
    told(folders, lambda: body(*folders))


def told(folders: Sequence[pathlib.Path], body: Callable[[], int]) -> NoReturn:
    """Exits with the status that body() returns.

    A file that cannot be read (OSError) and results that do not fit (the other errors below) are
    told in one line.
    """
    try:
        sys.exit(body())
    except OSError as error:
        line = f"{error.filename or folders[0]}: cannot be read ({error.strerror or error})"
    except (ConfigError, KeyError, TypeError, ValueError, NoCheckpoint) as error:
        line = f"{' '.join(map(str, folders))}: {error.args[0] if error.args else error}"
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
