"""The positions of an input level that have soft evidence, and the products with their weights."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from pcircuits.distributions.family import Rows
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import (
    choice,
    finite,
    mm,
    soft_counts,
    soft_posterior,
    soft_values,
    top_counts,
    top_posterior,
    top_values,
)
from pcircuits.types import Bool, Float, Int, Tensor

_CHUNK_ELEMENTS = 1 << 22


class Soft(NamedTuple):
    """The weights of M positions with soft evidence: of all values, or of the W in `ids`, the others' being zero."""

    where: tuple[Int[Tensor, " M"], Int[Tensor, " M"]]
    log_weights: Float[Tensor, "M W"]
    ids: Int[Tensor, "M W"] | None

    @classmethod
    def of(cls, evidence: InputEvidence, categories: int) -> "Soft":
        """No position that is observed is touched."""
        assert evidence.log_weights is not None
        where = places(evidence.soft)
        if evidence.weighted_values is not None:
            return cls(where, evidence.log_weights[where], evidence.weighted_values[where])
        every = len(where[0]) == evidence.observed.numel()
        chosen = evidence.log_weights.flatten(0, 1) if every else evidence.log_weights[where]
        return cls(where, chosen[:, :categories], None)

    def spread(self, shares: Float[Tensor, "M K"], table: Float[Tensor, "G V K"], rows: Rows) -> Float[Tensor, "M W"]:
        """`sum_k shares[m,k] table[g,v,k]` of the values that have weights."""
        if self.ids is not None:
            parts = zip(shares.split(self._step(table)), self._gathered(table, rows), strict=True)
            return torch.cat([torch.bmm(t, s.unsqueeze(-1)).squeeze(-1) for s, t in parts])
        if len(table) == 1:
            return mm(shares, table[0].mT)
        return self._each_row(shares, table.mT, rows)

    def dense(self, x: Float[Tensor, "M W"], categories: int, absent: float) -> Float[Tensor, "M V"]:
        """Of all values; `absent` where there is no weight."""
        if self.ids is None:
            return x
        return x.new_full((len(x), categories), absent).scatter(-1, self.ids, x)

    def sum(self, weights: Float[Tensor, "M W"], table: Float[Tensor, "G V K"], rows: Rows) -> Float[Tensor, "M K"]:
        """`sum_v weights[m,v] table[g,v]`: one matrix product over the positions that have weights, or one a group."""
        if self.ids is not None:
            parts = zip(weights.split(self._step(table)), self._gathered(table, rows), strict=True)
            return torch.cat([torch.bmm(w.unsqueeze(1), t).squeeze(1) for w, t in parts])
        if len(table) == 1:
            return mm(weights, table[0])
        return self._each_row(weights, table, rows)

    def outer(self, x: Float[Tensor, "M I"], y: Float[Tensor, "M O"], rows: Rows, groups: int) -> Tensor:
        """`sum_m x[m] y[m]` of each group's positions, (G, I, O)."""
        if groups == 1:
            return mm(x.mT, y).unsqueeze(0)
        sizes = self.sizes(rows).tolist()
        parts = torch.stack([a.mT @ b for a, b in zip(x.split(sizes), y.split(sizes), strict=True)])
        return parts.new_zeros(groups, *parts.shape[1:]).index_add(0, rows, parts)

    def sizes(self, rows: Rows) -> Int[Tensor, " F"]:
        """How many positions each level row has: they come row by row."""
        return torch.bincount(self.where[0], minlength=len(rows))

    def _each_row(self, x: Float[Tensor, "M I"], table: Float[Tensor, "G I O"], rows: Rows) -> Float[Tensor, "M O"]:
        sizes = self.sizes(rows)
        if (sizes == sizes[0]).all():
            return torch.bmm(x.view(len(rows), -1, x.shape[-1]), table[rows]).flatten(0, 1)
        parts = x.split(sizes.tolist())
        return torch.cat([part @ table[row] for part, row in zip(parts, rows.tolist(), strict=True)])

    def _step(self, table: Tensor) -> int:
        assert self.ids is not None
        return max(1, _CHUNK_ELEMENTS // max(1, self.ids.shape[1] * table.shape[-1]))

    def _gathered(self, table: Float[Tensor, "G V K"], rows: Rows) -> Iterator[Float[Tensor, "N W K"]]:
        assert self.ids is not None
        index = rows[self.where[0]].unsqueeze(-1) * table.shape[1] + self.ids
        flat = table.flatten(0, 1)
        return (flat[part] for part in index.split(self._step(table)))


class Weighing(NamedTuple):
    """Soft evidence on the units of a table. Weights are divided by the largest, whose logarithm is `peak`, in float64.
    `linear`: the weights so divided; None where kernels work them out as they read `soft.log_weights`.
    """

    soft: Soft
    table: Float[Tensor, "G V K"]
    rows: Rows
    peak: Float[Tensor, " M"]
    linear: Float[Tensor, "M W"] | None

    @classmethod
    def of(cls, soft: Soft, table: Float[Tensor, "G V K"], rows: Rows) -> "Weighing":
        peak = finite(soft.log_weights.detach().amax(-1, keepdim=True))
        if not choice.on_triton((table,)):
            linear = (soft.log_weights - peak).exp_().to(table.dtype)
            return cls(soft, table, rows, peak.squeeze(-1).double(), linear)
        if soft.log_weights.dtype != table.dtype:
            soft = soft._replace(log_weights=(soft.log_weights - peak).to(table.dtype))
        return cls(soft, table, rows, peak.squeeze(-1).double(), None)

    def values(self) -> Float[Tensor, "M K"]:
        """`sum_v weight[m,v] table[g,v]`."""
        soft = self.soft
        if self.linear is not None:
            return soft.sum(self.linear, self.table, self.rows)
        if soft.ids is not None:
            found, _ = top_values(self.table, self._row_of_each, soft.log_weights.unsqueeze(1), soft.ids.unsqueeze(1))
            return found.squeeze(1)
        blocks = self._blocks()
        return blocks.take(soft_values(self.table, blocks.rows, blocks.put(soft.log_weights, -torch.inf))[0])

    def posterior(self, shares: Float[Tensor, "M K"]) -> Float[Tensor, "M W"]:
        """`weight[m,v] sum_k shares[m,k] table[g,v,k]`, of the values that have weights."""
        soft = self.soft
        if self.linear is not None:
            return soft.spread(shares, self.table, self.rows) * self.linear
        if soft.ids is not None:
            weights, ids = soft.log_weights.unsqueeze(1), soft.ids.unsqueeze(1)
            return top_posterior(self.table, self._row_of_each, weights, ids, shares.unsqueeze(1)).squeeze(1)
        blocks = self._blocks()
        weights = blocks.put(soft.log_weights, -torch.inf)
        return blocks.take(soft_posterior(self.table, blocks.rows, weights, blocks.put(shares, 0.0)))

    def counts(self, shares: Float[Tensor, "M K"]) -> Float[Tensor, "G K V"]:
        """`sum_m shares[m,k] weight[m,v]` of each group's positions."""
        soft, (groups, categories, _) = self.soft, self.table.shape
        if self.linear is not None:
            return soft.outer(shares, soft.dense(self.linear, categories, 0.0), self.rows, groups)
        if soft.ids is not None:
            weights, ids = soft.log_weights.unsqueeze(1), soft.ids.unsqueeze(1)
            return top_counts(weights, ids, self._row_of_each, shares.unsqueeze(1), groups, categories).mT
        blocks = self._blocks()
        weights = blocks.put(soft.log_weights, -torch.inf)
        return soft_counts(weights, blocks.rows, blocks.put(shares, 0.0), groups).mT

    @property
    def _row_of_each(self) -> Int[Tensor, " M"]:
        return self.rows[self.soft.where[0]]

    def _blocks(self) -> "Blocks":
        if len(self.table) == 1:
            return Blocks(self.rows[:1], None, None)
        sizes = self.soft.sizes(self.rows)
        column = torch.arange(int(sizes.max()), device=sizes.device)
        taken = column < sizes.unsqueeze(1)
        index = (sizes.cumsum(0) - sizes).unsqueeze(1) + column
        return Blocks(self.rows, torch.where(taken, index, 0), taken)


class Blocks(NamedTuple):
    """Positions as kernels have them: of each level row as many, those of others masked; or of all rows one block."""

    rows: Rows
    positions: Int[Tensor, "F N"] | None
    taken: Bool[Tensor, "F N"] | None

    def put(self, x: Float[Tensor, "M I"], absent: float) -> Float[Tensor, "F N I"]:
        if self.positions is None or self.taken is None:
            return x.unsqueeze(0)
        return torch.where(self.taken.unsqueeze(-1), x[self.positions], absent)

    def take(self, x: Float[Tensor, "F N I"]) -> Float[Tensor, "M I"]:
        return x[0] if self.taken is None else x[self.taken]


def places(where: Bool[Tensor, "F B"]) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    row, batch = where.nonzero(as_tuple=True)
    return row, batch
