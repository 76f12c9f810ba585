"""The closing table of a run."""

from typing import Any

import numpy as np

from ..shared.tables import aligned

HEAD = ["fold", "test %", "val %", "best epoch", "seconds", "nodes", "edges", "clusters used"]


def table(results: list[dict[str, Any]]) -> str:
    """A row per fold, and the mean accuracy."""

    def sizes(values: list[float]) -> str:
        return " > ".join(f"{value:.1f}" for value in values)

    rows = [HEAD]
    for result in sorted(results, key=lambda result: result["fold"]):
        rows.append(
            [
                str(result["fold"]),
                f"{100 * result['test_accuracy']:.1f}",
                f"{100 * result['val_accuracy']:.1f}",
                str(result["best_epoch"]),
                f"{result['seconds']:.0f}",
                *(sizes(result[field]) for field in ("nodes", "edges", "clusters_used")),
            ]
        )
    lines = aligned(rows)
    test = 100 * np.array([result["test_accuracy"] for result in results])
    mean = f"{test.mean():.1f} % on 1 fold"
    if len(test) > 1:
        mean = f"{test.mean():.1f} ± {test.std():.1f} % (mean ± std over {len(test)} folds)"
    first = results[0]
    lines += ["", f"{first['dataset']}, --pool {first['pool']}: test accuracy {mean}"]
    return "\n".join(lines)
