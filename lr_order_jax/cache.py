"""The user's cache directory, and the programs compiled by JAX that are kept in it."""

import contextlib
import os
import pathlib
import warnings

import jax

from lr_order_jax.fields import ConfigError
from lr_order_jax.progress import say

MOST_BYTES = 2**30
"""Of kept programs; beyond it the oldest go."""


def directory() -> pathlib.Path:
    """$XDG_CACHE_HOME/lr_order_jax, by default under ~/.cache. Nothing is made here.

    Raises:
      ConfigError: if the user has no home directory.
    """
    try:
        root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError:
        raise ConfigError("no home directory: set HOME, or XDG_CACHE_HOME for caches") from None
    return pathlib.Path(root) / "lr_order_jax"


def keep_programs() -> None:
    """Lets JAX keep what it compiles, so that the same sweep starts at once the next time.

    Nothing is changed where the environment or the caller has set a cache of JAX
    (JAX_COMPILATION_CACHE_DIR; JAX_ENABLE_COMPILATION_CACHE=false keeps nothing), nor where the
    user's cache directory cannot be written or is none.
    """
    _tell_damage_once()
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        folder = directory() / "programs"
    except ConfigError:
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _drop_oldest(folder)
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _tell_damage_once() -> None:
    """One line instead of a warning of JAX for each program that cannot be read or kept."""
    show = warnings.showwarning
    told: list[object] = []

    def show_or_tell(message, *arguments, **named):
        if "persistent compilation cache" not in str(message):
            show(message, *arguments, **named)
        elif not told:
            told.append(message)
            folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
            say(f"{folder}: programs cannot be read or kept there, they are compiled anew")

    warnings.showwarning = show_or_tell


def _drop_oldest(folder: pathlib.Path, most: int = MOST_BYTES) -> None:
    """Leaves the newest files of at most so many bytes. Other runs may do the same beside us."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size
