"""Families over 0..V-1, all through one table of log probabilities."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch

from pcircuits.distributions.draw import draw
from pcircuits.distributions.family import InputFamily, Picks, Rows, Smoothing
from pcircuits.errors import EvidenceError
from pcircuits.evidence import InputEvidence, rows_of
from pcircuits.kernels import finite, logsumexp, ratio
from pcircuits.types import Bool, Float, Int, Tensor

_CHUNK_ELEMENTS = 1 << 24


class Table(NamedTuple):
    """`log[g,k,v] = log p(v | unit k)`; `linear[g,v,k]` the same as probabilities, transposed for gathers and
    products.
    """

    log: Float[Tensor, "G K V"]
    linear: Float[Tensor, "G V K"]


class Discrete(InputFamily):
    """A family whose units are rows of a probability table. Subclasses give the table and the parameters that reach
    given counts.
    """

    num_categories: int

    @abstractmethod
    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K V"]:
        """Log probabilities, normalised over V."""

    @abstractmethod
    def from_table(self, table: Float[Tensor, "G K V"]) -> dict[str, Tensor]:
        """Unconstrained parameters with these probabilities."""

    def prepare(self, parameters: dict[str, Tensor], support: Bool[Tensor, "G K V"] | None) -> Table:
        log = self.log_table(parameters)
        if support is not None:
            log = torch.where(support, log, -torch.inf)
            log = log - finite(log.logsumexp(-1, keepdim=True))
        return Table(log, log.exp().mT.contiguous())

    def dtype_of(self, prepared: Table) -> torch.dtype:
        return prepared.linear.dtype

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        values, categories = evidence.values, self.num_categories
        outside = (values < 0) | (values >= categories)
        if values.is_floating_point():
            outside |= values != values.round()
        if (bad := outside & evidence.observed).any():
            row = int(bad.any(1).nonzero()[0])
            raise EvidenceError(
                f"variable {variables[row]} is {self!r}: values must be integers in 0..{categories - 1}, "
                f"got {values[row][bad[row]][0].item():g} in batch rows {rows_of(bad.any(0))}"
            )
        if evidence.log_weights is not None and evidence.log_weights.shape[-1] < categories:
            raise EvidenceError(
                f"`log_weights` covers {evidence.log_weights.shape[-1]} values, but {self!r} needs {categories}"
            )

    def scaled_values(
        self, prepared: Table, rows: Rows, evidence: InputEvidence
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
        hard, soft = evidence.observed, evidence.soft
        values = _gather(prepared.linear, rows, self._integers(evidence))
        scale = torch.zeros(values.shape[:2], dtype=torch.float64, device=values.device)
        if not hard.all():
            values = torch.where(hard.unsqueeze(-1), values, 1.0)
        if not soft.any():
            return values, scale
        if len(prepared.linear) > 1:
            weights, peak = self._linear_weights(evidence, prepared.linear.dtype)
            return torch.where(soft.unsqueeze(-1), _apply(prepared.linear, rows, weights), values), peak
        # tied rows: one product over the positions that have weights, and no others
        assert evidence.log_weights is not None
        where = soft.nonzero(as_tuple=True)
        weights, peak = self._peak_one(evidence.log_weights[where][:, : self.num_categories], prepared.linear.dtype)
        return values.index_put(where, weights @ prepared.linear[0]), scale.index_put(where, peak)

    def log_values(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        log, integers = prepared.log.double(), self._integers(evidence)
        values = _gather(log.mT, rows, integers)
        free = log.amax(-1) if maximise else log.logsumexp(-1)
        values = torch.where(evidence.observed.unsqueeze(-1), values, free[rows].unsqueeze(1))
        if evidence.soft.any():
            weighted = torch.stack([self._log_reduce(log[g], w, maximise) for g, w in self._soft_rows(rows, evidence)])
            values = torch.where(evidence.soft.unsqueeze(-1), weighted, values)
        return values

    def posterior(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool
    ) -> Float[Tensor, "F B V"]:
        hard, total = evidence.observed.unsqueeze(-1), flows.sum(-1, keepdim=True)
        certain = torch.nn.functional.one_hot(self._integers(evidence), self.num_categories).to(flows.dtype) * total
        if hard.all():
            return certain
        if exact:
            free = torch.stack([share.sum(1) for share in self._shares(prepared, rows, evidence, flows)])
        else:
            weights, shares = self._weights_and_ratio(prepared, rows, evidence, flows)
            free = weights * _apply(prepared.linear.mT, rows, shares)
        return torch.where(hard, certain, free)

    def statistics(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool
    ) -> dict[str, Tensor]:
        groups, units, categories = prepared.log.shape
        hard = evidence.observed.unsqueeze(-1)
        index = (rows.unsqueeze(1) * categories + self._integers(evidence)).flatten()
        counts = flows.new_zeros(groups * categories, units).index_add(
            0, index, torch.where(hard, flows, 0.0).flatten(0, 1)
        )
        counts = counts.view(groups, categories, units).mT
        if not hard.all():
            counts = counts + self._free_counts(prepared, rows, evidence, torch.where(hard, 0.0, flows), exact)
        return {"counts": counts}

    def _free_counts(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool
    ) -> Float[Tensor, "G K V"]:
        """Expected counts of the values that the evidence leaves open."""
        if evidence.log_weights is None:
            # tied rows share a table: their flows are added up, not tables of counts
            reached = flows.new_zeros(prepared.log.shape[:2]).index_add(0, rows, flows.sum(1))
            return reached.unsqueeze(-1) * prepared.log.exp().to(flows.dtype)
        if exact:
            per_row = torch.stack([share.sum(0) for share in self._shares(prepared, rows, evidence, flows)])
        else:
            weights, shares = self._weights_and_ratio(prepared, rows, evidence, flows)
            per_row = prepared.log[rows].exp() * torch.bmm(shares.mT, weights)
        return flows.new_zeros(prepared.log.shape).index_add(0, rows, per_row)

    def _weights_and_ratio(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights = self._linear_weights(evidence, flows.dtype)[0]
        return weights, ratio(flows, _apply(prepared.linear, rows, weights))

    def maximise(
        self, prepared: Table, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        old = prepared.log.exp()
        return self.from_table(smooth.probabilities(statistics["counts"].to(old.dtype), old, support))

    def sample(
        self,
        prepared: Table,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Int[Tensor, " M"]:
        row, batch, unit = picks
        log = prepared.log[rows[row], unit]
        if evidence.log_weights is not None:
            log = log + evidence.log_weights[row, batch, : self.num_categories].to(log.dtype)
        if temperature == 0.0:
            drawn = log.argmax(-1)
        else:
            drawn = draw(((log - log.amax(-1, keepdim=True)) / temperature).exp(), generator)
        return torch.where(evidence.observed[row, batch], self._integers(evidence)[row, batch], drawn)

    def overlap(self, prepared: Table, rows: Rows) -> Bool[Tensor, "F K K"]:
        possible = (prepared.linear > 0).to(torch.float32)
        return (possible.mT @ possible > 0)[rows]

    def expected_log(self, prepared: Table, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        log, integers = prepared.log.double(), self._integers(evidence)
        free = (log.exp() * finite(log)).sum(-1)
        values = torch.where(
            evidence.observed.unsqueeze(-1), finite(_gather(log.mT, rows, integers)), free[rows].unsqueeze(1)
        )
        if not evidence.soft.any():
            return values
        weighted = [_mean_log(log[g] + w.unsqueeze(1)) for g, w in self._soft_rows(rows, evidence)]
        return torch.where(evidence.soft.unsqueeze(-1), torch.stack(weighted), values)

    def _integers(self, evidence: InputEvidence) -> Int[Tensor, "F B"]:
        return torch.where(evidence.observed, evidence.values, 0).long()

    def _linear_weights(self, evidence: InputEvidence, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weights with maximum one (one everywhere where missing), and the log of their scale in float64."""
        if evidence.log_weights is None:
            ones = torch.ones((), dtype=dtype, device=evidence.values.device)
            return ones.expand(*evidence.values.shape, self.num_categories), evidence.values.new_zeros(
                1, dtype=torch.float64
            )
        log_weights = evidence.log_weights[..., : self.num_categories].masked_fill(evidence.observed.unsqueeze(-1), 0.0)
        return self._peak_one(log_weights, dtype)

    @staticmethod
    def _peak_one(
        log_weights: Float[Tensor, "... V"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "... V"], Float[Tensor, "..."]]:
        """Linear weights divided by the largest, and that one's logarithm in float64."""
        peak = finite(log_weights.detach().amax(-1, keepdim=True))
        return (log_weights - peak).exp().to(dtype), peak.squeeze(-1).double()

    def _soft_rows(self, rows: Rows, evidence: InputEvidence) -> Iterator[tuple[int, Tensor]]:
        """Per level row: its parameter row and its (B, V) log weights in float64, zero where missing or observed."""
        shape = (*evidence.values.shape, self.num_categories)
        if evidence.log_weights is None:
            log_weights = torch.zeros((), dtype=torch.float64, device=evidence.values.device).expand(shape)
        else:
            log_weights = (
                evidence.log_weights[..., : self.num_categories]
                .double()
                .masked_fill(evidence.observed.unsqueeze(-1), 0.0)
            )
        return zip(rows.tolist(), log_weights, strict=True)

    @staticmethod
    def _log_reduce(
        log: Float[Tensor, "K V"], log_weights: Float[Tensor, "B V"], maximise: bool
    ) -> Float[Tensor, "B K"]:
        step = max(1, _CHUNK_ELEMENTS // log.numel())
        terms = (log + part.unsqueeze(1) for part in log_weights.split(step))
        return torch.cat([t.amax(-1) if maximise else logsumexp(t) for t in terms])

    def _shares(self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Tensor) -> Iterator[Tensor]:
        """Per level row: `share[b,k,v]`, how a unit's flow divides over the values that the evidence leaves open."""
        for f, (g, log_weights) in enumerate(self._soft_rows(rows, evidence)):
            terms = prepared.log[g].double() + log_weights.unsqueeze(1)
            share = (terms - finite(logsumexp(terms)).unsqueeze(-1)).exp()
            yield share.to(flows.dtype) * flows[f].unsqueeze(-1)


def _mean_log(terms: Float[Tensor, "B K V"]) -> Float[Tensor, "B K"]:
    """Mean of the terms under their own softmax."""
    return ((terms - finite(logsumexp(terms)).unsqueeze(-1)).exp() * finite(terms)).sum(-1)


def _gather(table: Float[Tensor, "G V K"], rows: Rows, values: Int[Tensor, "F B"]) -> Float[Tensor, "F B K"]:
    groups, categories, units = table.shape
    index = rows.unsqueeze(1) * categories + values
    return table.reshape(groups * categories, units).index_select(0, index.flatten()).view(*values.shape, units)


def _apply(table: Float[Tensor, "G I O"], rows: Rows, x: Float[Tensor, "F B I"]) -> Float[Tensor, "F B O"]:
    """`out[f,b,:] = x[f,b,:] @ table[rows[f]]`, one matrix product where all rows are tied."""
    return x @ table[0] if table.shape[0] == 1 else torch.bmm(x, table[rows])
