"""The figure of the arithmetic benchmark."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"backbone alone": "#d1495b", "coupled": "#1f6fb4"}
FAINT = "#8a8a8a"
FIELDS = {"well_formed": "well formed", "right": "arithmetically right"}


def plot_right(rows: Sequence[dict[str, Any]], published: dict[str, Any]) -> "Figure":
    """Shares of annotations that are well formed, and right, against the steps of a block; one column a rule."""
    from matplotlib.figure import Figure

    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure = Figure(figsize=(1.5 + 3.4 * len(rules), 6.0), layout="constrained")
    grid = figure.subplots(len(FIELDS), len(rules), sharex=True, sharey="row", squeeze=False)
    for panels, (field, label) in zip(grid, FIELDS.items(), strict=True):
        for axes, rule in zip(panels, rules, strict=True):
            _shares(axes, sorted((row for row in rows if row["rule"] == rule), key=lambda row: row["steps"]), field)
        panels[0].set_ylabel(label)
        panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        panels[0].set_ylim(bottom=0)
    for top, bottom, rule in zip(grid[0], grid[-1], rules, strict=True):
        top.set_title(f"order: {rule.replace('_', ' ')}", size=10, loc="left")
        bottom.set_xlabel("steps a block")
    grid[0, 0].legend(frameon=False, labelcolor="linecolor", loc="lower right")
    real = " and ".join(f"{published[field].estimate:.0%} {label}" for field, label in FIELDS.items())
    figure.suptitle(
        f"of all annotations; published solutions: {real}; bands: 95% intervals over problems", size=8.5, color=FAINT
    )
    return figure


def _shares(axes: "Axes", rows: Sequence[dict[str, Any]], field: str) -> None:
    steps = [row["steps"] for row in rows]
    for name, colour in COLOURS.items():
        estimates, low, high = zip(*(row[name][field] for row in rows), strict=True)
        axes.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(steps, estimates, color=colour, marker="o", markersize=4, linewidth=2, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
