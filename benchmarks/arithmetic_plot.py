"""The figure of the arithmetic benchmark."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"backbone alone": "#d1495b", "coupled": "#1f6fb4"}
FAINT = "#8a8a8a"


def plot_right(rows: Sequence[dict[str, Any]], published: dict[str, Any]) -> "Figure":
    """Share of annotations that are arithmetically right against the steps of a block, one panel a rule."""
    from matplotlib.figure import Figure

    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure = Figure(figsize=(1.5 + 3.6 * len(rules), 3.8), layout="constrained")
    panels = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for axes, rule in zip(panels, rules, strict=True):
        found = sorted((row for row in rows if row["rule"] == rule), key=lambda row: row["steps"])
        steps = [row["steps"] for row in found]
        for name, colour in COLOURS.items():
            estimates, low, high = zip(*(row[name]["right"] for row in found), strict=True)
            axes.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(steps, estimates, color=colour, marker="o", markersize=4, linewidth=2, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()
        axes.set_title(f"order: {rule.replace('_', ' ')}", size=10, loc="left")
        axes.set_xlabel("steps for a block of 32 tokens")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    panels[0].set_ylabel("right of all annotations")
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, labelcolor="linecolor", loc="best")
    real = published["right"].estimate
    figure.text(0.99, 0.005, f"published solutions: {real:.0%}; bands: 95 % intervals", ha="right", size=8, color=FAINT)
    return figure
