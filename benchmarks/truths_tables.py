"""Results on enumerable truths as text and JSON."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pcircuits_diffusion.evaluate import tables

if TYPE_CHECKING:
    from benchmarks.truths import Row
    from benchmarks.truths_laws import Distance

ROW_STATES = 32  # of the circuit of valid rows of 4x4 grids


def all_tables(rows: "Sequence[Row]") -> str:
    """One table a task and backbone: valid share of samples / total variation from the uniform law, or valid share and
    its standard error where orders are sampled.
    """
    keys = list(dict.fromkeys((row.task, row.backbone) for row in rows))
    parts = []
    for key in keys:
        chosen = [row for row in rows if (row.task, row.backbone) == key]
        parts.append(
            f"\n{key[0]}, {key[1]}: valid / total variation (or +- standard error), by steps\n{task_table(chosen)}"
        )
    return "\n".join(parts)


def task_table(rows: "Sequence[Row]") -> str:
    steps = list(rows[0].distances)
    lines = [["coupling", "states", "circuit alone", *(str(step) for step in steps)]]
    for row in rows:
        alone = "" if row.alone is None else f"{row.alone:.1%}"
        lines.append(
            [
                row.coupling,
                circuit_name(row),
                alone,
                *(_cell(row.distances[step]) if step in row.distances else "" for step in steps),
            ]
        )
    return tables.aligned(lines)


def circuit_name(row: "Row") -> str:
    """States, and what they are where they are not by EM."""
    kind = " (exact)" if row.enough else " (rows)" if row.task.startswith("4x4") and row.states == ROW_STATES else ""
    return f"{row.states}{kind}" if row.states else ""


def to_json(row: "Row") -> dict[str, Any]:
    found = {
        str(steps): {k: v if math.isfinite(v) else None for k, v in d._asdict().items()}
        for steps, d in row.distances.items()
    }
    return {**row._asdict(), "distances": found}


def _cell(found: "Distance") -> str:
    if math.isnan(found.total_variation):
        return f"{found.validity:.1%} +- {found.deviation:.1%}"
    return f"{found.validity:.1%} / {max(found.total_variation, 0.0):.2f}"
