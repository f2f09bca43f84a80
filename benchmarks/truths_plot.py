"""The figure of the enumerable truths."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.truths_tables import circuit_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.truths import Row

COLOURS = {"product": "#b08d2e", "corrected": "#2a9d6f", "projected": "#1f6fb4"}
BACKBONE, ALONE = "#d1495b", "#8a8a8a"
SHOWN = ("permutations of 5", "one of 5 replaced", "one of 6 removed", "4x4 Latin squares", "4x4 sudoku")


def plot_truths(rows: "Sequence[Row]") -> "Figure":
    """Validity against steps, one line a number of states, and in one step against the number of states."""
    from matplotlib.figure import Figure

    rows = sorted((row for row in rows if row.backbone == "oracle"), key=lambda row: row.states)
    found = list(dict.fromkeys(row.task for row in rows))
    tasks = [task for task in SHOWN if task in found] or found
    figure = Figure(figsize=(1.2 + 3.0 * len(tasks), 6.4), layout="constrained")
    grid = figure.subplots(2, len(tasks), sharey=True, squeeze=False)
    for (top, bottom), task in zip(grid.T, tasks, strict=True):
        chosen = [row for row in rows if row.task == task]
        _against_steps(top, chosen)
        _against_states(bottom, chosen)
        top.set_title(task, size=10, loc="left")
    grid[0, 0].set_ylabel("valid, projected")
    grid[1, 0].set_ylabel("valid in one step")
    grid[0, 0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    grid[0, 0].set_ylim(0, 1.04)
    grid[1, -1].legend(frameon=False, fontsize=8, loc="upper left")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    return figure


def _against_steps(axes: "Axes", rows: "Sequence[Row]") -> None:
    from matplotlib import colormaps

    lines = [row for row in rows if row.coupling in ("backbone alone", "projected")]
    for place, row in enumerate(lines):
        colour = colormaps["Blues"](0.35 + 0.6 * place / len(lines)) if row.states else BACKBONE
        label = circuit_name(row) or "oracle alone"
        steps = list(row.distances)
        values = [row.distances[step].validity for step in steps]
        axes.plot(
            steps,
            values,
            color=colour,
            marker="o",
            markersize=3.5,
            linewidth=1.8,
            linestyle="-" if row.states else "--",
            zorder=2 if row.states else 3,
            label=label,
        )
    axes.set_xscale("log", base=2)
    steps = list(rows[0].distances)
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.legend(frameon=False, fontsize=7, loc="lower right", title="states", title_fontsize=7)


def _against_states(axes: "Axes", rows: "Sequence[Row]") -> None:
    first = min(rows[0].distances)
    for coupling, colour in COLOURS.items():
        line = [row for row in rows if row.coupling == coupling]
        values = [row.distances[first].validity for row in line]
        axes.plot([row.states for row in line], values, color=colour, marker="o", markersize=3.5, label=coupling)
    circuits = [row for row in rows if row.coupling == "projected"]
    axes.plot(
        [r.states for r in circuits],
        [r.alone or 0.0 for r in circuits],
        color=ALONE,
        linestyle=":",
        label="circuit alone",
    )
    axes.axhline(rows[0].distances[first].validity, color=BACKBONE, linewidth=1.2, linestyle="--", label="oracle alone")
    axes.set_xscale("log", base=2)
    axes.set_xlabel(
        "states; the last exact, 32 of grids by rows" if "4x4" in rows[0].task else "states; the last exact"
    )
