"""Results of a study as plain text, aligned."""

import math
from collections.abc import Mapping, Sequence

from pcircuits_diffusion.evaluate.bootstrap import DocumentBootstrap, Interval
from pcircuits_diffusion.evaluate.curves import FACTORISED, SEQUENTIAL, Curves, MaskRatioCurves, StepLikelihoods


def ratio_table(curves: MaskRatioCurves, bootstrap: DocumentBootstrap) -> str:
    """Perplexities of the masked tokens, one line a mask count; a single head's share of the gap closed beside them."""
    header = ["masked", *(name.replace("one-step ", "") for name in curves.names)]
    columns = [[f"{math.exp(nats):.2f}" for nats in curves.mean(name)] for name in curves.names]
    if len(curves.heads) == 1:
        header.append("gap closed")
        columns.append([_percent(i) for i in curves.share_closed(curves.heads[0], bootstrap)])
    return aligned([header, *zip(_labels(curves), *columns, strict=True)])


def share_table(curves: MaskRatioCurves, bootstrap: DocumentBootstrap) -> str:
    """The share of the gap that each head closes, one line a mask count."""
    columns = [[_percent(i) for i in curves.share_closed(name, bootstrap)] for name in curves.heads]
    return aligned([["masked", *curves.heads], *zip(_labels(curves), *columns, strict=True)])


def step_table(likelihoods: StepLikelihoods, bootstrap: DocumentBootstrap) -> str:
    """Nats a token of sampling in T steps, one line a step count; a single head's gain on the backbone beside them."""
    header = ["steps", "backbone alone", *likelihoods.heads]
    columns = [[f"{nats:.3f}" for nats in likelihoods.mean(name)] for name in (FACTORISED, *likelihoods.heads)]
    if len(likelihoods.heads) == 1:
        header.append("gain")
        columns.append([_signed(i) for i in likelihoods.gain(likelihoods.heads[0], bootstrap)])
    return aligned([header, *zip(_labels(likelihoods), *columns, strict=True)])


def gain_table(curves: Curves, bootstrap: DocumentBootstrap) -> str:
    """Nats a token that each head saves over the backbone alone, paired, one line a point."""
    return interval_table(_labels(curves), {name: curves.gain(name, bootstrap) for name in curves.heads})


def interval_table(labels: Sequence[str], columns: Mapping[str, Sequence[Interval]]) -> str:
    """Signed differences with intervals, one line a label; nothing without a column."""
    rows = zip(labels, *([_signed(i) for i in column] for column in columns.values()), strict=True)
    return aligned([["", *columns], *rows]) if columns else ""


def order_table(curves: MaskRatioCurves) -> str:
    """Perplexity of the sequential reference in each random order, one line a mask count."""
    orders = curves.by_order(SEQUENTIAL)
    columns = [[f"{math.exp(nats):.2f}" for nats in order] for order in orders]
    header = ["masked", *(f"order {i + 1}" for i in range(len(orders)))]
    return aligned([header, *zip(_labels(curves), *columns, strict=True)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns flushed right, the first one left, two spaces apart; the first row is underlined."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def _labels(curves: Curves) -> list[str]:
    masks = isinstance(curves, MaskRatioCurves)
    return [f"{point} of {curves.block_length}" if masks else str(point) for point in curves.points]


def _percent(interval: Interval) -> str:
    if math.isnan(interval.estimate):
        return "-"
    return "{:.0f}% [{:.0f}, {:.0f}]".format(*(100 * value for value in interval))


def _signed(interval: Interval) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)
