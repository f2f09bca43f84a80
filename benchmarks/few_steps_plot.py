"""The figure of the few-steps benchmark."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.few_steps_tables import BACKBONE, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {BACKBONE: "#d1495b", "ours, trained": "#1f6fb4", "ours, untrained": "#76b7e5", "paper's": "#b08d2e"}
FAINT = "#8a8a8a"


def plot_few_steps(result: Result) -> "Figure":
    """Against the steps a block: well-formed annotations, and the judge's perplexity above the entropy of the text;
    one column a rule.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 2.9 * len(result.rules), 7.2), layout="constrained")
    grid = figure.subplots(3, len(result.rules), sharex=True, sharey="row", squeeze=False)
    for column, rule in zip(grid.T, result.rules, strict=True):
        for model in result.models:
            if result.curve(model, rule):
                _draw(column, result, model, rule)
        column[0].set_title(rule.replace("_", " "), size=10, loc="left")
        column[-1].set_xlabel("steps a block")
        column[0].set_xscale("log", base=2)
        column[0].set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        column[0].minorticks_off()
        for axes in column:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    for row, label in zip(grid, ("well formed", "judge's perplexity", "token entropy, nats"), strict=True):
        row[0].set_ylabel(label)
    grid[0, 0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    grid[0, 0].set_ylim(0, 1.02)
    _real(grid, result)
    grid[0, -1].legend(frameon=False, labelcolor="linecolor", loc="lower right", fontsize=8.5)
    return figure


def _draw(column: np.ndarray, result: Result, model: str, rule: str) -> None:
    """Into three axes."""
    curve, steps = result.curve(model, rule), result.steps(model, rule).tolist()
    style: dict[str, Any] = {
        "color": COLOURS[model],
        "marker": "o",
        "markersize": 3.5,
        "linewidth": 1.8,
        "label": model,
    }
    estimates, low, high = zip(*result.bootstrap.intervals(result.shares(model, rule)), strict=True)
    column[0].fill_between(steps, low, high, color=COLOURS[model], alpha=0.12, linewidth=0)
    column[0].plot(steps, estimates, **style)
    nats = [result.interval(result.cells[spec], "nats", "judged").estimate for spec in curve]
    column[1].plot(steps, [math.exp(value) for value in nats], **style)
    column[2].plot(steps, [result.cells[spec].entropy for spec in curve], **style)


def _real(grid: np.ndarray, result: Result) -> None:
    """The published solutions as a line, into axes of three rows."""
    perplexity = math.exp(result.interval(result.published, "nats", "judged").estimate)
    if math.isfinite(perplexity):  # there is a judge
        grid[1, 0].set_yscale("log")
    for row, value in zip(grid, (None, perplexity, result.published.entropy), strict=True):
        if value is not None and math.isfinite(value):
            for axes in row:
                axes.axhline(value, color=FAINT, linewidth=1, linestyle=":")
            row[0].annotate(
                "published", (0.02, value), xycoords=("axes fraction", "data"), size=8, color=FAINT, va="bottom"
            )
