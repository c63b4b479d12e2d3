"""What files hold is data: seals over what stands in JSON, and which errors of a read are not
about a file."""

import errno
import hashlib
import json
import re
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
