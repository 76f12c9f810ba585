"""What the user can mend, in one line."""

import errno
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(Exception):
    """The user's input cannot be used, or a file not be written; the text says why, in one line."""


def cannot_write(path: Path, error: OSError) -> InputError:
    """A file that could not be written, and what to do."""
    mend = "make room there" if error.errno in FULL else "mend that"
    return InputError(
        f"cannot write {path}: {error.strerror}; {mend}, then the same command continues from here"
    )
