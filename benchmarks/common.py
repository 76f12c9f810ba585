"""What the measurements share: lines of JSON that survive a kill, memory, and pages of docs/."""

import json
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def read_lines(file: Path, mend: bool = True) -> list[dict[str, Any]]:
    """The finished measurements; a last line that a kill cut short is taken out of the file.

    `mend` leaves the file alone where it is false: the line may be on its way.
    """
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        if mend:
            file.write_text("".join(lines))
    return [json.loads(line) for line in lines]


def append_line(file: Path, record: dict[str, Any]) -> None:
    """Adds a finished measurement."""
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def resident(field: str) -> int:
    """A field of this process's status, such as VmRSS or its high-water mark VmHWM, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def restart_high_water() -> int:
    """Lets the high-water mark of this process start here, and gives the bytes that it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def median_range(values: Iterable[float]) -> str:
    """Median (least–most); of a single value, the value."""
    numbers = sorted(values)
    if not numbers:
        return "–"
    middle, low, high = (
        f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
        for number in (statistics.median(numbers), numbers[0], numbers[-1])
    )
    return middle if len(numbers) == 1 else f"{middle} ({low}–{high})"


def replace_section(docs: Path, name: str, text: str) -> None:
    """Puts a text between the marks of its section in docs/results.md."""
    docs.mkdir(exist_ok=True, parents=True)
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    file = docs / "results.md"
    old = file.read_text() if file.exists() else "# Results\n"
    if begin not in old:
        old += f"\n{begin}\n{end}\n"
    before, rest = old.split(begin)
    file.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def save_figure(figure: "Figure", file: Path) -> None:
    """Writes an SVG that is the same file for the same data."""
    import matplotlib
    import matplotlib.pyplot as plt

    file.parent.mkdir(exist_ok=True, parents=True)
    with matplotlib.rc_context({"svg.hashsalt": "gumbelpool"}):
        figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
