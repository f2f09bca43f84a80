"""Families of one real or integer variable: what evidence means for them, in one place."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from pcircuits.distributions.family import InputFamily, Picks, Rows
from pcircuits.distributions.quadrature import Nodes, draw_between, integer_nodes, real_nodes
from pcircuits.errors import EvidenceError
from pcircuits.evidence import InputEvidence, rows_of
from pcircuits.kernels import logsumexp
from pcircuits.types import Bool, Float, Tensor

POSITIVE = torch.finfo(torch.float32).tiny  # the least value of families over positive numbers
_CHUNK_ELEMENTS = 1 << 23
Statistic = Callable[[Any, Tensor], Tensor]  # a unit's parameters and values (...) to (..., S)


class Univariate(InputFamily):
    """A family with a density (a probability where `is_integer`) that rises to one peak and falls from there.

    What `prepare` returns is a NamedTuple of tensors (G, K); later entries may have a further axis, which comes last.
    The hooks below get it as `unit`, its entries picked and shaped so that they broadcast against values.

    A subclass gives the density, the mode, the mean and the mean square, and a draw. Intervals come from quadrature
    of the density; a family with closed forms overrides `log_mass` or `truncated`.
    """

    @abstractmethod
    def log_density(self, unit: Any, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log density (log probability where `is_integer`) of values inside the domain."""

    @abstractmethod
    def mode(self, unit: Any) -> Float[Tensor, "..."]:
        """Where the density is largest."""

    @abstractmethod
    def moments(self, unit: Any) -> tuple[Tensor, Tensor]:
        """Mean and mean square."""

    @abstractmethod
    def draw(self, unit: Any, generator: torch.Generator | None) -> Float[Tensor, " M"]:
        """One draw a unit; the entries of `unit` have shape (M,)."""

    @property
    def logarithmic(self) -> bool:
        """Whether the density is integrated over log x: for positive values, whose density may rise steeply at 0."""
        return False

    def peak_and_scale(self, unit: Any) -> tuple[Tensor, Tensor]:
        """Where the density has its peak on the axis that it is integrated over, and how wide it is there."""
        mean, square = self.moments(unit)
        return self.mode(unit), (square - mean.square()).clamp_min(1e-300).sqrt()

    def mode_between(self, unit: Any, low: Tensor, high: Tensor) -> Float[Tensor, "..."]:
        """Where the density is largest in `[low, high]`."""
        low, high = (low.ceil(), high.floor()) if self.is_integer else (low, high)
        return torch.maximum(torch.minimum(self.mode(unit), high), low)

    def log_mass(self, unit: Any, low: Tensor, high: Tensor) -> Float[Tensor, "..."]:
        """Log probability of `[low, high]`."""
        return logsumexp(self._nodes(unit, low, high).log_terms(self._on_axis(unit)))

    def truncated(self, unit: Any, low: Tensor, high: Tensor, statistic: Statistic) -> Float[Tensor, "... S"]:
        """Expectation of a statistic given that the value lies in `[low, high]`; 0 where that is impossible."""
        nodes = self._nodes(unit, low, high)
        share = nodes.log_terms(self._on_axis(unit))
        share = (share - share.amax(-1, keepdim=True).clamp_min(-1e300)).exp()
        share = share / share.sum(-1, keepdim=True).clamp_min(1e-300)
        found = statistic(_spread(unit), self._value(nodes.x))
        return (share.unsqueeze(-1) * torch.where(share.unsqueeze(-1) > 0, found, 0.0)).sum(-2)

    def draw_between(
        self, unit: Any, low: Tensor, high: Tensor, temperature: float, generator: torch.Generator | None
    ) -> Float[Tensor, " M"]:
        """One draw a unit from `p(x)^(1/temperature)` over `[low, high]`."""
        log_density = self._on_axis(unit, temperature)
        drawn = self._value(draw_between(log_density, self._nodes(unit, low, high, temperature), generator))
        drawn = drawn.round() if self.is_integer else drawn
        return torch.maximum(torch.minimum(drawn, high), low)

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        values = evidence.values
        outside = (values < self.domain[0]) | (values > self.domain[1])
        if values.is_floating_point():
            outside |= values.isinf() | ((values != values.round()) if self.is_integer else values.isnan())
        if (bad := outside & evidence.observed).any():
            row = int(bad.any(1).nonzero()[0])
            raise EvidenceError(
                f"variable {variables[row]} is {self!r}: values must be {self._domain_in_words()}, got "
                f"{values[row][bad[row]][0].item():g} in batch rows {rows_of(bad.any(0))}"
            )
        if evidence.log_weights is not None and (bad := evidence.log_weights.ne(0).any(-1) & ~evidence.observed).any():
            variable = variables[int(bad.any(1).nonzero()[0])]
            raise EvidenceError(
                f"variable {variable} is {self!r}: `log_weights` must be zero there, weights are for discrete variables"
            )

    def log_values(self, prepared: Any, rows: Rows, evidence: InputEvidence, maximise: bool) -> Float[Tensor, "F B K"]:
        unit = _at(type(prepared)(*(t.double() for t in prepared)), rows, 1)
        values = self.log_density(unit, self._values(evidence, torch.float64))
        if not evidence.observed.all():
            free = self.log_density(unit, self.mode(unit)) if maximise else torch.zeros_like(values[:, :1])
            values = torch.where(evidence.observed.unsqueeze(-1), values, free)
        if evidence.bounded.any():
            pieces = self._bounded(prepared, rows, evidence)
            best = [self._log_best(*piece) if maximise else self.log_mass(*piece) for piece in pieces]
            values = values.index_put(evidence.bounded.nonzero(as_tuple=True), torch.cat(best))
        return values

    def posterior(
        self, prepared: Any, rows: Rows, evidence: InputEvidence, flows: Float[Tensor, "F B K"], exact: bool
    ) -> Float[Tensor, "F B 2"]:
        expected = torch.stack(self.moments(_at(prepared, rows, 1)), -1).to(flows.dtype)
        found = self.expectations(prepared, rows, evidence, _first_two, expected)
        return (flows.unsqueeze(-1) * found).sum(2)

    def expectations(
        self, prepared: Any, rows: Rows, evidence: InputEvidence, statistic: Statistic, expected: Tensor
    ) -> Float[Tensor, "F B #K S"]:
        """A statistic of each unit's value given the evidence; `expected` (F, 1, K, S) is what it is without any."""
        dtype, hard = expected.dtype, evidence.observed[..., None, None]
        certain = statistic(_at(prepared, rows, 1), self._values(evidence, dtype)).to(dtype)
        found = certain if hard.all() else torch.where(hard, certain, expected)
        if evidence.bounded.any():
            pieces = self._bounded(prepared, rows, evidence)
            inside = torch.cat([self.truncated(*piece, statistic) for piece in pieces]).to(dtype)
            found = found.index_put(evidence.bounded.nonzero(as_tuple=True), inside)
        return found

    def sample(
        self,
        prepared: Any,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Float[Tensor, " M"]:
        row, batch, unit = picks
        chosen = type(prepared)(*(t[rows[row], unit] for t in prepared))
        dtype = self.dtype_of(prepared)
        low, high = (torch.full(row.shape, end, dtype=torch.float64, device=row.device) for end in self.domain)
        if evidence.interval is not None:
            ends = torch.where(evidence.observed.unsqueeze(-1), torch.nan, evidence.interval)[row, batch].unbind(-1)
            low, high = torch.fmax(low, ends[0]), torch.fmin(high, ends[1])
        if temperature == 0.0:
            drawn = self.mode_between(_double(chosen), low, high)
        elif temperature == 1.0:
            drawn = self.draw(chosen, generator)
            between = evidence.bounded[row, batch].nonzero().squeeze(-1)
        else:
            drawn = torch.zeros(row.shape, dtype=dtype, device=row.device)
            between = torch.arange(len(row), device=row.device)
        if temperature != 0.0 and len(between):
            part = type(prepared)(*(t.double()[between] for t in chosen))
            inside = self.draw_between(part, low[between], high[between], temperature, generator)
            drawn = drawn.index_copy(0, between, inside.to(drawn.dtype))
        drawn = _rounded_within(drawn.to(dtype), low, high)
        return torch.where(evidence.observed[row, batch], evidence.values[row, batch].to(dtype), drawn)

    def overlap(self, prepared: Any, rows: Rows) -> Bool[Tensor, "F K K"]:
        units = prepared[0].shape[1]
        return torch.ones(len(rows), units, units, dtype=torch.bool, device=prepared[0].device)

    def expected_log(self, prepared: Any, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        unit = _double(_at(prepared, rows, 1))

        def density(unit: Any, x: Tensor) -> Tensor:
            return self.log_density(unit, x).unsqueeze(-1)

        low, high = (torch.full_like(unit[0], end, dtype=torch.float64) for end in self.domain)
        free = self.truncated(unit, low, high, density)
        found = self.expectations(_double(prepared), rows, evidence, density, free).squeeze(-1)
        return found.expand(-1, -1, free.shape[2])

    def dtype_of(self, prepared: Any) -> torch.dtype:
        return prepared[0].dtype

    def _log_best(self, unit: Any, low: Tensor, high: Tensor) -> Tensor:
        low, high = self._inside(low, high)
        best = self.log_density(unit, torch.where(low <= high, self.mode_between(unit, low, high), self._anywhere))
        return torch.where(low <= high, best, -torch.inf)

    def _bounded(self, prepared: Any, rows: Rows, evidence: InputEvidence) -> list[tuple[Any, Tensor, Tensor]]:
        """Units and ends of all intervals, (P, K) each, in float64 and in pieces that quadrature has the memory for."""
        assert evidence.interval is not None
        row, batch = evidence.bounded.nonzero(as_tuple=True)
        units = prepared[0].shape[1]
        size = max(1, _CHUNK_ELEMENTS // (units * 1024))
        pieces = []
        for r, b in zip(row.split(size), batch.split(size), strict=True):
            low, high = evidence.interval[r, b].unsqueeze(1).expand(-1, units, -1).unbind(-1)
            pieces.append((type(prepared)(*(t.double()[rows[r]] for t in prepared)), low, high))
        return pieces

    def _inside(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        least = 0.0 if self.logarithmic else self.domain[0]
        low, high = low.clamp_min(least), high.clamp_max(self.domain[1])
        return (low.ceil(), high.floor()) if self.is_integer else (low, high)

    def _nodes(self, unit: Any, low: Tensor, high: Tensor, temperature: float = 1.0) -> Nodes:
        unit = type(unit)(*(t.detach() for t in unit))
        low, high = self._inside(low, high)
        if self.is_integer:
            return integer_nodes(self.mode(unit), low, high)
        peak, scale = self.peak_and_scale(unit)
        if self.logarithmic:
            low, high = low.clamp_min(0.0).log(), high.clamp_min(0.0).log()
        empty = ~(low < high)
        low, high = torch.where(empty, peak, low), torch.where(empty, peak, high)
        scale = scale * max(1.0, temperature)
        return real_nodes(self._on_axis(unit, temperature), peak, scale, low, high)

    def _on_axis(self, unit: Any, temperature: float = 1.0) -> Callable[[Tensor], Tensor]:
        """The log density over the axis of integration."""
        spread = _spread(unit)
        if self.logarithmic:
            return lambda y: self.log_density(spread, y.exp()) / temperature + y
        return lambda x: self.log_density(spread, x) / temperature

    def _value(self, x: Tensor) -> Tensor:
        return x.exp() if self.logarithmic else x

    def _values(self, evidence: InputEvidence, dtype: torch.dtype) -> Float[Tensor, "F B 1"]:
        return torch.where(evidence.observed, evidence.values, self._anywhere).to(dtype).unsqueeze(-1)

    @property
    def _anywhere(self) -> float:
        """A value inside the domain, to calculate with where there is none."""
        low, high = self.domain
        middle = (low + high) / 2
        if math.isfinite(middle):
            return float(round(middle)) if self.is_integer else middle
        return low + 1.0 if math.isfinite(low) else 0.0

    def _domain_in_words(self) -> str:
        low, high = self.domain
        kind = "integers" if self.is_integer else "finite numbers"
        if math.isinf(low) and math.isinf(high):
            return kind
        if low == POSITIVE:
            return f"positive {kind}"
        return f"{kind} of at least {low:g}" if math.isinf(high) else f"{kind} from {low:g} to {high:g}"


def _first_two(unit: Any, x: Tensor) -> Tensor:
    return torch.stack([x, x.square()], -1)


def _at(prepared: Any, rows: Rows, axis: int) -> Any:
    return type(prepared)(*(t[rows].unsqueeze(axis) for t in prepared))


def _rounded_within(x: Float[Tensor, " M"], low: Float[Tensor, " M"], high: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    """Values whose rounding to float32 carried them beyond an end of their interval, one step back."""
    down, up = (torch.nextafter(x, x.new_tensor(end)) for end in (-math.inf, math.inf))
    return torch.where(x.double() > high, down, torch.where(x.double() < low, up, x))


def _spread(unit: Any) -> Any:
    """With an axis for several values of each unit, after the axes of `unit[0]`."""
    return type(unit)(*(t.unsqueeze(unit[0].ndim) for t in unit))


def _double(unit: Any) -> Any:
    return type(unit)(*(t.double() for t in unit))
