"""What "sum" means on the product of a chain and an automaton: log-sum-exp or maximum, both without false zeros.

Axes: B rows, M messages of a row, J summed, O output, E edges, C classes, Q automaton states, P pairs of states,
H hidden states.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.constraints.automaton import Edges

MOST_TERMS = 1 << 22  # terms that are laid out at once where no matrix product will do


class LogTable(NamedTuple):
    """Non-negative factors (*B, J, O), linear and in natural logarithms; one for all rows, or one a row."""

    linear: Float[Tensor, "*B J O"]
    log: Float[Tensor, "*B J O"]

    @classmethod
    def from_log(cls, log: Float[Tensor, "*B J O"]) -> "LogTable":
        return cls(log.exp(), log)

    @property
    def transposed(self) -> "LogTable":
        return LogTable(self.linear.mT, self.log.mT)


class Semiring(NamedTuple):
    """`matmul(rows, table)`: (B, M, J) log messages through a table, (B, M, O). `scatter(values, index, size)`:
    (B, E, H) summed by index, (B, size, H). `back(emitted, after, edges)`: what is emitted, (B, C, H), times what is
    after it, (B, Q, H), summed over the edges of each source, (B, Q, H). `add`: elementwise.
    """

    matmul: Callable[[Tensor, LogTable], Tensor]
    scatter: Callable[[Tensor, Tensor, int], Tensor]
    back: Callable[[Tensor, Tensor, Edges], Tensor]
    add: Callable[[Tensor, Tensor], Tensor]


def log_matmul(rows: Float[Tensor, "B M J"], table: LogTable) -> Float[Tensor, "B M O"]:
    """`log sum_j exp(rows[b, m, j]) table[j, o]`: one matrix product with the rows' peaks at one.

    Results so small that something may have vanished in them are worked out again term by term, structural zeros
    aside.
    """
    dtype = table.linear.dtype
    least = math.log(torch.finfo(dtype).tiny)
    peak = _finite(rows.amax(-1, keepdim=True))
    shifted = rows - peak
    found = shifted.masked_fill(shifted < least, -torch.inf).to(dtype).exp() @ table.linear
    result = found.double().log() + peak
    doubtful = found < math.exp(0.6 * least)
    if doubtful.any():
        terms = (~rows.isneginf()).to(dtype) @ (~table.log.isneginf()).to(dtype)
        _redo(result, rows, table, doubtful & (terms > 0))
    return result


def _redo(result: Tensor, rows: Tensor, table: LogTable, where: Tensor) -> None:
    for index in where.nonzero().split(max(1, MOST_TERMS // rows.shape[-1])):
        b, m, o = index.unbind(-1)
        column = table.log[:, o].mT if table.log.ndim == 2 else table.log[b, :, o]
        result[b, m, o] = (rows[b, m] + column).double().logsumexp(-1)


def log_scatter(values: Float[Tensor, "B E H"], index: Int[Tensor, " E"], size: int) -> Float[Tensor, "B size H"]:
    """`log sum_{e: index[e] = i} exp(values[b, e, h])`."""
    peak = _finite(max_scatter(values, index, size))
    total = torch.zeros_like(peak).index_add(1, index, (values - peak[:, index]).exp())
    return total.log() + peak


def log_back(emitted: Float[Tensor, "B C H"], after: Float[Tensor, "B Q H"], edges: Edges) -> Float[Tensor, "B Q H"]:
    """`log sum_{e: source[e] = q} exp(emitted[b, column[e], h] + after[b, target[e], h])`.

    Classes that lead from q to the same state are summed before they meet what is after it, by one matrix product of
    linear values, each row's peaks at one. Rows in which something may have vanished are worked out again edge by edge.
    """
    if not len(edges.source):
        return torch.full_like(after, -torch.inf)
    peaks = emitted.amax(-1)[:, edges.column] + after.amax(-1)[:, edges.target]  # (B, E)
    peak = _finite(max_scatter(peaks.unsqueeze(-1), edges.source, after.shape[1]))
    live, place = edges.source.unique(return_inverse=True)
    pairs, pair = (place * after.shape[1] + edges.target).unique(return_inverse=True)
    source, target = pairs // after.shape[1], pairs % after.shape[1]
    mixture = peaks.new_zeros(len(peaks), len(pairs), emitted.shape[1])
    mixture[:, pair, edges.column] = (peaks - peak[:, edges.source, 0]).exp()
    first, second = _peaked(emitted), _peaked(after)
    terms = (mixture @ first).mul_(second[:, target])
    total = terms.new_zeros(len(terms), len(live), terms.shape[2]).index_add_(1, source, terms)
    small = total < math.exp(0.6 * math.log(torch.finfo(total.dtype).tiny))
    result = torch.full_like(after, -torch.inf).index_copy_(1, live, total.log_().add_(peak[:, live]))
    if (rows := _vanished(small, emitted, after, edges._replace(source=place))).any():
        result[rows] = _edge_by_edge(log_scatter, emitted[rows], after[rows], edges)
    return result


def _peaked(log: Float[Tensor, "B J H"]) -> Float[Tensor, "B J H"]:
    return (log - _finite(log.amax(-1, keepdim=True))).exp_()


def _vanished(small: Tensor, emitted: Tensor, after: Tensor, edges: Edges) -> Bool[Tensor, " B"]:
    """Rows with a small value that is not zero by structure."""
    rows = small.flatten(1).any(1)
    for row in rows.nonzero().flatten().tolist():
        possible = ~emitted[row, edges.column].isneginf() & ~after[row, edges.target].isneginf()
        reached = torch.zeros_like(small[row], dtype=torch.int).index_add_(0, edges.source, possible.int())
        rows[row] = (small[row] & (reached > 0)).any()
    return rows


def _edge_by_edge(scatter: Callable, emitted: Tensor, after: Tensor, edges: Edges) -> Float[Tensor, "B Q H"]:
    """Rows by rows where the terms are many."""
    count = max(1, MOST_TERMS // max(1, len(edges.source) * after.shape[2]))
    parts = zip(emitted.split(count), after.split(count), strict=True)
    terms = (first[:, edges.column] + second[:, edges.target] for first, second in parts)
    return torch.cat([scatter(part, edges.source, after.shape[1]) for part in terms])


def max_back(emitted: Float[Tensor, "B C H"], after: Float[Tensor, "B Q H"], edges: Edges) -> Float[Tensor, "B Q H"]:
    """`max_{e: source[e] = q} emitted[b, column[e], h] + after[b, target[e], h]`."""
    return _edge_by_edge(max_scatter, emitted, after, edges)


def max_matmul(rows: Float[Tensor, "B M J"], table: LogTable) -> Float[Tensor, "B M O"]:
    """`max_j rows[b, m, j] + log table[j, o]`."""
    terms = table.log.shape[-1] * table.log.shape[-2] * len(rows)
    parts = rows.split(max(1, MOST_TERMS // max(1, terms)), 1)
    return torch.cat([(part.unsqueeze(-1) + _columns(table.log)).amax(-2) for part in parts], 1).double()


def max_scatter(values: Float[Tensor, "B E H"], index: Int[Tensor, " E"], size: int) -> Float[Tensor, "B size H"]:
    """`max_{e: index[e] = i} values[b, e, h]`."""
    start = values.new_full((values.shape[0], size, values.shape[2]), -torch.inf)
    return start.scatter_reduce(1, index.view(1, -1, 1).expand_as(values), values, "amax")


def _columns(log: Tensor) -> Tensor:
    return log if log.ndim == 2 else log.unsqueeze(1)


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isneginf(), 0.0, x)


SUM = Semiring(log_matmul, log_scatter, log_back, torch.logaddexp)
MAX = Semiring(max_matmul, max_scatter, max_back, torch.maximum)
