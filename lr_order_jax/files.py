"""Files are written whole or not at all, what stands in JSON has a seal, and an error of the
machine is not taken for damage."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

_OF_THE_FILE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
)
"""Numbers of errors that damage to a file, or to what names it, can cause."""


def write_aside(path: str | os.PathLike, write: Callable[[pathlib.Path], Any]) -> None:
    """Writes a file beside `path` by `write(temporary path)`, flushes it and renames it, for good
    where the file system can flush a directory."""
    path = pathlib.Path(path)
    aside = path.with_name(f".{path.name}.writing")
    try:
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # not each names the file
    finally:
        aside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(value: Any, path: str | os.PathLike) -> None:
    """Writes a JSON file, whole or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    write_aside(path, lambda aside: aside.write_text(text))


def seal(value: Any) -> str:
    """A digest of a JSON value."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def errno_of(error: BaseException) -> int | None:
    """The system's number of an error; None if it has none. TensorStore has it in the text of a
    ValueError, HDF5 in that of an OSError."""
    if found := re.search(r"(?:os_error_code='|errno = )(\d+)", str(error)):
        return int(found[1])
    return getattr(error, "errno", None)


def is_of_the_machine(error: BaseException) -> bool:
    """Whether an error of a read says nothing about the file, which must not be taken for damaged:
    the next read may succeed."""
    number = errno_of(error)
    return isinstance(error, MemoryError) or (number is not None and number not in _OF_THE_FILE)
