"""What the scripts share: directories in, one line and exit status 2 where they cannot serve."""

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lr_order_jax import figures
from lr_order_jax.checkpoint import NoCheckpoint
from lr_order_jax.fields import ConfigError


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
