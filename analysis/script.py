"""What the scripts share: directories in, one line and exit status 2 where they cannot serve."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import logging

from lr_order_jax import figures
from lr_order_jax.checkpoint import NoCheckpoint


def save_figure(figure: Any, folder: pathlib.Path, name: str) -> None:
    """Writes a figure beside those of a run, and says where."""
    path = folder / "figures" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    figures.save(figure, path)
    print(f"figure: {path}")


def run(usage: str, count: int, body: Callable[..., int]) -> None:
    """Calls body(directory, ...) with the arguments of the command line and exits with its status.

    A file that cannot be read (OSError) and results that do not fit (the other errors below) are
    told in one line.
    """
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it only reads
    folders = [pathlib.Path(argument) for argument in sys.argv[1:]]
    if len(folders) != count:
        print(f"usage: {usage}", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(body(*folders))
    except OSError as error:
        told = f"{error.filename or folders[0]}: cannot be read ({error.strerror or error})"
    except (KeyError, TypeError, ValueError, NoCheckpoint) as error:
        told = f"{' '.join(map(str, folders))}: {error.args[0] if error.args else error}"
    print(f"error: {told}", file=sys.stderr)
    sys.exit(2)
