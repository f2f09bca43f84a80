"""The region graph of a circuit."""

from typing import TYPE_CHECKING

import numpy as np

from pcircuits.circuit import Circuit
from pcircuits.errors import StructureError
from pcircuits.plot.canvas import EDGE, INK, INPUT, SUM, new_axes
from pcircuits.structures import RegionGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LABELS = 40


def structure(graph: Circuit | RegionGraph, *, ax: "Axes | None" = None) -> "Axes":
    """The region graph: variables at the bottom (green), sums over regions (blue), their partitions as black squares.

    Raises:
        StructureError: neither a circuit nor a region graph.
    """
    if not isinstance(graph, Circuit | RegionGraph):
        raise StructureError(f"structure draws a Circuit or a RegionGraph, got {type(graph).__name__}")
    graph = graph.graph if isinstance(graph, Circuit) else graph
    ax = new_axes(ax)
    x, y = _places(graph), np.array(graph.heights, dtype=float)
    size = 2000 / max(8, 6 + np.bincount(graph.heights).max(), 6 + graph.depth) ** 1.2
    inputs = {i: ",".join(map(str, r.variables)) for i, r in enumerate(graph.regions) if r.is_input}
    inner = [i for i in range(len(graph.regions)) if i not in inputs]
    squares, lines = _partitions(graph, x, y)
    ax.plot(*lines.T, color=EDGE, linewidth=0.8, zorder=1)
    ax.scatter(squares[:, 0], squares[:, 1], s=size / 8, marker="s", color=INK, zorder=2)
    ax.scatter(x[inner], y[inner], s=size, color=SUM, zorder=3)
    ax.scatter(x[list(inputs)], y[list(inputs)], s=size, color=INPUT, zorder=3)
    for i, variables in inputs.items() if len(inputs) <= _MOST_LABELS else ():
        below = (0, -4 - size**0.5 / 2)
        ax.annotate(variables, (x[i], y[i]), below, textcoords="offset points", ha="center", va="top", fontsize=8)
    ax.set_title(f"{graph.num_variables} variables, {len(graph.regions)} regions, {graph.num_partitions} partitions")
    ax.margins(0.08)
    ax.set_axis_off()
    return ax


def _places(graph: RegionGraph) -> np.ndarray:
    """Horizontal places: each region above the middle of its variables, moved apart from others of its height."""
    x = np.array([np.mean(graph.scope(i)) for i in range(len(graph.regions))])
    heights = np.array(graph.heights)
    for height in range(graph.depth + 1):
        level = np.flatnonzero(heights == height)
        level = level[np.argsort(x[level], kind="stable")]
        apart = np.maximum.accumulate(x[level] - np.arange(len(level))) + np.arange(len(level))
        x[level] = apart + (x[level] - apart).mean()
    return x


def _partitions(graph: RegionGraph, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where partitions lie, (P, 2), and the lines from each to its regions, NaN in between."""
    squares, lines = [np.full(2, np.nan)], [np.full(2, np.nan)]
    for above, region in enumerate(graph.regions):
        for n, partition in enumerate(region.partitions):
            squares.append(np.array([x[above] + 0.3 * (n - (len(region.partitions) - 1) / 2), y[above] - 0.35]))
            for end in (above, *partition.children):
                lines += [squares[-1], np.array([x[end], y[end]]), np.full(2, np.nan)]
    return np.stack(squares), np.stack(lines)
