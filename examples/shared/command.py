"""What every command does: errors in one line, an exit status, outputs tried before the work."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import InputError


def run_command(action: Callable[[], None]) -> int:
    """Run, and turn what the user can mend into one line; returns the exit status."""
    try:
        action()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # wherever the output goes
        print(f"error: {error}; the same command continues from here", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: the same command continues from here", file=sys.stderr)
        return 130
    return 0


def check_writable(picture: Path) -> None:
    """Find out before the training whether the picture can be written after it; leave no trace."""
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=picture.parent).close()
    except OSError as error:
        raise InputError(f"cannot write --picture {picture}: {error.strerror}") from error
