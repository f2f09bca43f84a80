"""Figures of likelihood studies; each function returns a matplotlib figure (the `plot` extra) to save or show."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pcircuits_diffusion.evaluate.bootstrap import DocumentBootstrap, Interval
from pcircuits_diffusion.evaluate.curves import FACTORISED, SEQUENTIAL, Curves, MaskRatioCurves, StepLikelihoods

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#333333", "#8a8a8a"
BACKBONE_COLOUR = "#d1495b"
HEAD_COLOURS = ("#1f6fb4", "#2a9d6f", "#8e5aa8", "#c98a1b", "#4aa8b5")
LABELS = {
    SEQUENTIAL: "backbone, one token at a time",
    FACTORISED: "backbone, one step",
    "coupled": "coupled head, one step",
    "prior alone": "circuit alone",
}


def plot_mask_ratios(
    curves: MaskRatioCurves,
    bootstrap: DocumentBootstrap,
    *,
    title: str,
    published: Mapping[float, float] | None = None,
) -> "Figure":
    """Perplexity against the share of masked tokens, and below it the share of the gap that each head closes.

    Bands and bars are 95 % intervals over documents. `published` are shares closed by mask ratio, for comparison.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 6.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(2.4, 1.0), sharex=True)
    _heading(upper, title, f"{_sizes(curves, bootstrap)}; bands and bars: 95 % intervals over documents")
    _perplexities(upper, curves, bootstrap)
    _shares(lower, curves, bootstrap, published or {})
    lower.set_xticks(curves.ratios, [f"{ratio:.0%}" for ratio in curves.ratios])
    lower.set_xlabel(f"masked tokens of a block of {curves.block_length}")
    return figure


def plot_steps(likelihoods: StepLikelihoods, bootstrap: DocumentBootstrap, *, title: str) -> "Figure":
    """Nats a token of sampling a block in T steps at temperature 1, against T."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 4.4), layout="constrained")
    axes = figure.subplots()
    subtitle = "exact likelihood of sampling in a random order at temperature 1"
    _heading(axes, title, f"{subtitle};\n{_sizes(likelihoods, bootstrap)}; bands: 95 % intervals over documents")
    ends: dict[str, tuple[float, str]] = {}
    for name in likelihoods.names:
        colour = _colour(likelihoods, name)
        intervals = likelihoods.nats_per_token(name, bootstrap)
        _line(axes, likelihoods.points, intervals, colour)
        label = "backbone alone" if name == FACTORISED else LABELS.get(name, name).split(",")[0]
        ends[label] = (intervals[0].estimate, colour)
    axes.set_xscale("log", base=2)
    axes.set_xticks(likelihoods.points, [str(point) for point in likelihoods.points])
    axes.minorticks_off()
    axes.set_xlabel(f"steps for a block of {likelihoods.block_length} tokens")
    axes.set_ylabel("nats a token (lower is better)")
    _clean(axes)
    _labels(axes, likelihoods.points[0], ends, (12, 8))
    return figure


def _perplexities(axes: "Axes", curves: MaskRatioCurves, bootstrap: DocumentBootstrap) -> None:
    ends: dict[str, tuple[float, str]] = {}
    for name in curves.names:
        if name == "unigram":
            continue  # a flat line far above the others
        colour = _colour(curves, name)
        intervals = [Interval(*np.exp(interval)) for interval in curves.nats_per_token(name, bootstrap)]
        _line(axes, curves.ratios, intervals, colour, dashed=name not in (SEQUENTIAL, FACTORISED, *curves.heads))
        ends[LABELS.get(name, name)] = (intervals[-1].estimate, colour)
    for order in curves.by_order(SEQUENTIAL):
        axes.plot(curves.ratios, np.exp(order), color=INK, linewidth=0.5, alpha=0.4)
    axes.set_yscale("log")
    _round_ticks(axes)
    axes.set_ylabel("perplexity of the masked tokens")
    _clean(axes)
    _labels(axes, curves.ratios[-1], ends, (10, 0))


def _shares(
    axes: "Axes", curves: MaskRatioCurves, bootstrap: DocumentBootstrap, published: Mapping[float, float]
) -> None:
    lowest = 0.0
    for place, name in enumerate(curves.heads):
        found = curves.share_closed(name, bootstrap)
        defined = [(ratio, i) for ratio, i in zip(curves.ratios, found, strict=True) if np.isfinite(i.estimate)]
        ratios = np.array([ratio for ratio, _ in defined]) + 0.012 * (place - (len(curves.heads) - 1) / 2)
        shares = np.array([i.estimate for _, i in defined])
        bars = np.array([(i.estimate - i.low, i.high - i.estimate) for _, i in defined]).T
        colour = _colour(curves, name)
        axes.errorbar(ratios, shares, bars, color=colour, marker="o", markersize=4, linewidth=1.2, capsize=2)
        lowest = min(lowest, float(shares.min()))
        if len(curves.heads) == 1:
            for ratio, share in zip(ratios, shares, strict=True):
                axes.annotate(f"{share:.0%}", (ratio, share), (5, 7), textcoords="offset points", color=colour, size=9)
    if published:
        axes.plot(list(published), list(published.values()), "x", color=FAINT, markersize=6)
        ratio = max(published)
        axes.annotate("published", (ratio, published[ratio]), (7, -3), textcoords="offset points", color=FAINT, size=9)
    axes.axhline(0.0, color=FAINT, linewidth=0.8)
    axes.set_ylim(max(lowest - 0.1, -0.6), 1.05)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.set_ylabel("gap closed")
    _clean(axes)


def _line(
    axes: "Axes", points: Sequence[float], intervals: Sequence[Interval], colour: str, *, dashed: bool = False
) -> None:
    estimates, low, high = np.array(intervals).T
    axes.fill_between(points, low, high, color=colour, alpha=0.13, linewidth=0)
    style = {"linestyle": (0, (4, 2)), "linewidth": 1.4} if dashed else {"marker": "o", "markersize": 4, "linewidth": 2}
    axes.plot(points, estimates, color=colour, **style)


def _labels(axes: "Axes", x: float, ends: Mapping[str, tuple[float, str]], offset: tuple[float, float]) -> None:
    """Names at lines' ends (points right and up of them), moved apart where they would overlap; call it last."""
    axes.figure.canvas.draw()
    points = 72 / axes.figure.dpi
    heights = {label: axes.transData.transform((x, value))[1] * points for label, (value, _) in ends.items()}
    placed = _apart(heights, 14.0)
    for label, (value, colour) in ends.items():
        place = (offset[0], offset[1] + placed[label] - heights[label])
        axes.annotate(
            label, (x, value), place, textcoords="offset points", color=colour, va="center", annotation_clip=False
        )


def _apart(heights: Mapping[str, float], distance: float) -> dict[str, float]:
    """Heights in the same order, at least `distance` from one another and close to where they were."""
    labels = sorted(heights, key=lambda label: heights[label])
    placed = np.array([heights[label] for label in labels])
    for _ in range(200):
        short = distance - np.diff(placed)
        if (short <= 1e-6).all():
            break
        push = np.clip(short, 0.0, None) / 2
        placed[:-1] -= push
        placed[1:] += push
    return dict(zip(labels, placed.tolist(), strict=True))


def _round_ticks(axes: "Axes") -> None:
    low, high = axes.get_ylim()
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 5000) if low <= t <= high]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _colour(curves: Curves, name: str) -> str:
    if name in curves.heads:
        return HEAD_COLOURS[curves.heads.index(name) % len(HEAD_COLOURS)]
    return {SEQUENTIAL: INK, FACTORISED: BACKBONE_COLOUR}.get(name, FAINT)


def _heading(axes: "Axes", title: str, subtitle: str) -> None:
    height = 19 + 11 * len(subtitle.splitlines())
    axes.annotate(title, (0, 1), (-48, height), "axes fraction", "offset points", size=13, weight="bold", color=INK)
    axes.annotate(subtitle, (0, 1), (-48, 14), "axes fraction", "offset points", size=8.5, color=FAINT)


def _sizes(curves: Curves, bootstrap: DocumentBootstrap) -> str:
    orders = next(iter(curves.nats.values())).shape[0]
    return f"{len(curves.documents)} windows of {bootstrap.num_documents} held-out documents, {orders} random orders"


def _clean(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
