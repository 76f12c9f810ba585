"""The `--out` folder of a run: settings, results, checkpoints, models, each written atomically."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import InputError, cannot_write

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are then the user's to avoid
    fcntl = None


class RunFolder:
    """config.json, results.jsonl, a checkpoint per unfinished part and a file per finished one.

    Args:
        path: The folder.
        part: What a run consists of: folds, or seeds.
    """

    def __init__(self, path: Path, part: str = "fold") -> None:
        self.path, self.part = path, part
        self.results = path / "results.jsonl"

    @contextmanager
    def open(self, config: dict[str, Any]) -> Iterator[None]:
        """Make the folder, or check that what it holds was made with the same settings.

        Until the context ends, by whatever cause, no other run can open the same folder.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                _lock(stack.enter_context((self.path / "lock").open("w")), self.path)
                stored = self.path / "config.json"
                if stored.exists():
                    _check_same(json.loads(stored.read_text(encoding="utf-8")), config, self.path)
                else:
                    write_atomically(stored, (json.dumps(config, indent=2) + "\n").encode())
            except OSError as error:
                raise InputError(f"cannot write to --out {self.path}: {error.strerror}") from error
            except json.JSONDecodeError as error:
                raise InputError(f"{stored} is not JSON: {error}") from error
            yield

    def finished(self) -> list[dict[str, Any]]:
        """The results so far; a torn last line (a copy cut short) is not counted."""
        if not self.results.exists():
            return []
        lines = self.results.read_text(encoding="utf-8", errors="replace").splitlines()
        results = []
        for number, line in enumerate(lines, start=1):
            try:
                results.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise InputError(f"{self.results}, line {number} is not JSON") from error
        return results

    def append(self, result: dict[str, Any]) -> None:
        """Add one line to results.jsonl, in place of a torn one."""
        lines = [json.dumps(line) + "\n" for line in [*self.finished(), result]]
        write_atomically(self.results, "".join(lines).encode())

    def checkpoint(self, number: int) -> Path:
        """Where an unfinished part keeps its state."""
        return self.path / f"{self.part}-{number}.ckpt"

    def model(self, number: int) -> Path:
        """Where a finished part keeps the `state_dict` of its best model."""
        return self.path / f"{self.part}-{number}.pt"


def _lock(file: IO[str], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another run is writing to --out {path}") from error


def _check_same(stored: dict[str, Any], config: dict[str, Any], path: Path) -> None:
    differences = [
        f"{key}: {stored.get(key)!r} there, {config.get(key)!r} here"
        for key in sorted(stored.keys() | config.keys())
        if stored.get(key) != config.get(key)
    ]
    if differences:
        raise InputError(
            f"--out {path} holds a run with other settings ({'; '.join(differences)}); "
            "choose another folder, or the same settings to continue that run"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write the file so that whoever looks, whenever, sees the old content or the new one.

    Where that fails, a full disk for one, the old content stays, and nothing of the new.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
