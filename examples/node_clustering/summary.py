"""The closing table of a run."""

from typing import Any

import numpy as np

from ..shared.tables import aligned

COLUMNS = {
    "NMI": "nmi", "ARI": "ari", "accuracy": "accuracy", "modularity": "modularity",
    "conductance": "conductance",
}  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """A row per seed, and the means."""
    rows = [["seed", *COLUMNS, "clusters", "seconds"]]
    for result in sorted(results, key=lambda result: result["seed"]):
        numbers = [f"{result[field]:.3f}" for field in COLUMNS.values()]
        used = str(result["clusters_used"])
        rows.append([str(result["seed"]), *numbers, used, f"{result['seconds']:.1f}"])
    if len(results) > 1:
        values = np.array([[result[field] for field in COLUMNS.values()] for result in results])
        rows.append(["mean", *(f"{mean:.3f}" for mean in values.mean(0)), "", ""])
        rows.append(["± std", *(f"{std:.3f}" for std in values.std(0)), "", ""])
    return "\n".join(aligned(rows))
