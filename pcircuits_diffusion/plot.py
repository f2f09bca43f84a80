"""Figures of likelihood studies; each function returns a matplotlib figure (the `plot` extra) to save or show."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    """Nats a token of sampling a block in T steps at temperature 1, against T, and below it what each head gains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 5.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(2.2, 1.0), sharex=True)
    subtitle = "exact likelihood of sampling in a random order at temperature 1"
    intervals = "bands and bars: 95 % intervals over documents"
    _heading(upper, title, f"{subtitle};\n{_sizes(likelihoods, bootstrap)}; {intervals}")
    points = likelihoods.points
    lower.set_xscale("log", base=2)
    lower.set_xlim(points[0] / 2.2, points[-1] * 1.25)
    lower.set_xticks(points, [str(point) for point in points])
    lower.minorticks_off()
    lower.set_xlabel(f"steps for a block of {likelihoods.block_length} tokens")
    _step_gains(lower, likelihoods, bootstrap)
    _step_likelihoods(upper, likelihoods, bootstrap)
    return figure


def _step_likelihoods(axes: "Axes", likelihoods: StepLikelihoods, bootstrap: DocumentBootstrap) -> None:
    starts: dict[str, tuple[float, str]] = {}
    for name in likelihoods.names:
        colour = _colour(likelihoods, name)
        intervals = likelihoods.nats_per_token(name, bootstrap)
        _line(axes, _floats(likelihoods.points), intervals, colour)
        label = "backbone alone" if name == FACTORISED else LABELS.get(name, name).split(",")[0]
        starts[label] = (intervals[0].estimate, colour)
    axes.set_ylabel("nats a token")
    _clean(axes)
    _labels(axes, float(likelihoods.points[0]), starts, (-9.0, 0.0), align="right")


def _step_gains(axes: "Axes", likelihoods: StepLikelihoods, bootstrap: DocumentBootstrap) -> None:
    for name in likelihoods.heads:
        _error_bars(axes, _floats(likelihoods.points), likelihoods.gain(name, bootstrap), _colour(likelihoods, name))
    axes.axhline(0.0, color=FAINT, linewidth=0.8)
    axes.set_ylabel("gain, paired")
    _clean(axes)


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
    _labels(axes, curves.ratios[-1], ends, (10.0, 0.0))


HIGHEST = 1.05  # share of the gap; larger ones are written down at the edge


def _shares(
    axes: "Axes", curves: MaskRatioCurves, bootstrap: DocumentBootstrap, published: Mapping[float, float]
) -> None:
    lowest = 0.0
    for place, name in enumerate(curves.heads):
        found = curves.share_closed(name, bootstrap)
        defined = [(ratio, i) for ratio, i in zip(curves.ratios, found, strict=True) if np.isfinite(i.estimate)]
        ratios = [ratio + 0.012 * (place - (len(curves.heads) - 1) / 2) for ratio, _ in defined]
        colour = _colour(curves, name)
        _error_bars(axes, ratios, [interval for _, interval in defined], colour)
        lowest = min(lowest, *(interval.estimate for _, interval in defined))
        if len(curves.heads) == 1:
            for ratio, (_, (share, *_)) in zip(ratios, defined, strict=True):
                label, height = (f"{share:.0%} ↑", HIGHEST - 0.18) if share > HIGHEST else (f"{share:.0%}", share)
                axes.annotate(label, (ratio, height), (5, 7), textcoords="offset points", color=colour, size=9)
    if published:
        axes.plot(list(published), list(published.values()), "x", color=FAINT, markersize=6)
        ratio = max(published)
        axes.annotate("published", (ratio, published[ratio]), (7, -3), textcoords="offset points", color=FAINT, size=9)
    axes.axhline(0.0, color=FAINT, linewidth=0.8)
    axes.set_ylim(max(lowest - 0.1, -0.6), HIGHEST)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.set_ylabel("gap closed")
    _clean(axes)


def _line(
    axes: "Axes", points: Sequence[float], intervals: Sequence[Interval], colour: str, *, dashed: bool = False
) -> None:
    estimates, low, high = np.array(intervals).T
    axes.fill_between(points, low, high, color=colour, alpha=0.13, linewidth=0)
    style: dict[str, Any] = (
        {"linestyle": (0, (4, 2)), "linewidth": 1.4} if dashed else {"marker": "o", "markersize": 4, "linewidth": 2}
    )
    axes.plot(points, estimates, color=colour, **style)


def _error_bars(axes: "Axes", points: Sequence[float], intervals: Sequence[Interval], colour: str) -> None:
    estimates, low, high = np.array(intervals).T
    bars = [estimates - low, high - estimates]
    axes.errorbar(points, estimates, bars, color=colour, marker="o", markersize=4, linewidth=1.2, capsize=2)


def _labels(
    axes: "Axes",
    x: float,
    ends: Mapping[str, tuple[float, str]],
    offset: tuple[float, float],
    *,
    align: str = "left",
) -> None:
    """Names at lines' ends (points right and up of them), moved apart where they would overlap; call it last."""
    axes.figure.canvas.draw()
    points = 72 / axes.figure.dpi
    heights = {label: axes.transData.transform((x, value))[1] * points for label, (value, _) in ends.items()}
    placed = _apart(heights, 14.0)
    for label, (value, colour) in ends.items():
        place = (offset[0], offset[1] + placed[label] - heights[label])
        style: dict[str, Any] = {"color": colour, "va": "center", "ha": align, "annotation_clip": False}
        axes.annotate(label, (x, value), place, textcoords="offset points", **style)


def _floats(points: Sequence[int]) -> list[float]:
    return [float(point) for point in points]


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
    plural = "" if orders == 1 else "s"
    documents = f"{bootstrap.num_documents} held-out documents"
    return f"{len(curves.documents)} windows of {documents}, {orders} random order{plural}"


def _clean(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
