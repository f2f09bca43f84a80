"""Figures of the benchmarks of speed: bars of sides, and curves of cost against size."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.patches
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.bounds import BARE, OURS
from benchmarks.spread import plain

COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]


def bars(results: Mapping[str, Any], *, title: str) -> Figure:
    """Milliseconds of every side, on a log axis: a panel a workload, a group an action; whiskers from least to most."""
    sides = _sides([of_action for found in results.values() for of_action in found["milliseconds"].values()])
    heights = [sum(len(of_action) + 1 for of_action in found["milliseconds"].values()) for found in results.values()]
    figure = Figure(figsize=(8, 0.9 + 0.24 * sum(heights) + 0.5 * len(heights)), layout="constrained")
    panels = figure.subplots(len(results), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, found) in zip(panels, results.items(), strict=True):
        _bars(axes, found["milliseconds"], sides)
        axes.set_title(name, loc="left", fontsize=10)
    panels[-1].set_xlabel("milliseconds, median and range (log axis)")
    figure.suptitle(title)
    _legend(figure, sides)
    return figure


def growth(record: Mapping[str, Any], *, title: str) -> Figure:
    """Cost against size on log axes, a panel an axis, with the fitted exponents."""
    columns = 3
    rows = -(-len(record) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (name, found), axes in zip(record.items(), panels, strict=False):
        against = found.get("against", "size")
        sizes = [point[against] for point in found["points"]]
        for action in found["points"][0]["milliseconds"]:
            values = [point["milliseconds"][action]["median"] for point in found["points"]]
            axes.plot(sizes, values, marker="o", label=f"{action} ms, {found['exponents'][action]:.2f}")
        if "memory" in found["exponents"]:
            values = [point["megabytes"] for point in found["points"]]
            axes.plot(sizes, values, marker="s", linestyle="--", label=f"MiB, {found['exponents']['memory']:.2f}")
        axes.set(xscale="log", yscale="log", title=f"{name} (stated: {found['stated']})")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
        axes.xaxis.minorticks_off()
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_xlabel(against.removeprefix("num_"))
        axes.legend(fontsize=8, title="exponent", title_fontsize=8)
    for axes in list(panels):
        axes.set_visible(False)
    figure.suptitle(title)
    return figure


def memory(found: Mapping[str, Mapping[str, float]]) -> Figure:
    """Peak memory of every side, a group a workload."""
    sides = _sides(found.values())
    figure = Figure(figsize=(8, 1.2 + 0.3 * sum(len(of) + 1 for of in found.values())), layout="constrained")
    axes = figure.subplots()
    milliseconds = {
        name: {s: {"median": v, "least": v, "most": v} for s, v in of.items()} for name, of in found.items()
    }
    _bars(axes, milliseconds, sides)
    axes.set(xlabel="MiB above imports, peak of a training step (log axis)", title="Memory of a training step")
    _legend(figure, sides)
    return figure


def _bars(axes: Axes, groups: Mapping[str, Mapping[str, Mapping[str, float]]], sides: Sequence[str]) -> None:
    position, ticks = 0.0, {}
    for group, of_group in groups.items():
        ticks[position + (len(of_group) - 1) / 2] = group
        for side, spread in of_group.items():
            whiskers = [[spread["median"] - spread["least"]], [spread["most"] - spread["median"]]]
            colour = COLOURS[sides.index(side)]
            axes.barh(position, spread["median"], color=colour, xerr=whiskers, error_kw={"lw": 0.8})
            axes.annotate(f" {plain(spread['median'])}", (spread["most"], position), va="center", fontsize=7)
            position += 1
        position += 1
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_yticks(list(ticks), [label.replace("_", " ") for label in ticks.values()])
    axes.invert_yaxis()
    axes.margins(x=0.12)


def _sides(groups: Any) -> list[str]:
    """In order of appearance, ours and the bare products first."""
    found = dict.fromkeys([OURS, BARE])
    for group in groups:
        found.update(dict.fromkeys(group))
    present = {side for group in groups for side in group}
    return [side for side in found if side in present]


def _legend(figure: Figure, sides: Sequence[str]) -> None:
    handles = [matplotlib.patches.Patch(color=COLOURS[n], label=side) for n, side in enumerate(sides)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(sides)), fontsize=8)
