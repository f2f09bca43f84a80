"""Gaussian inputs over several variables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pcircuits.distributions.conditional_normal import Given, Normals, joined, patterns
from pcircuits.distributions.family import LEAST_COUNT, InputFamily, Picks, Rows, Smoothing
from pcircuits.distributions.gaussian import Gaussian, Normal
from pcircuits.errors import DataError, EvidenceError, ParameterError
from pcircuits.evidence import InputEvidence, rows_of
from pcircuits.types import Bool, Float, Tensor
from pcircuits.workspace import Memory


@dataclass(frozen=True)
class MultivariateGaussian(InputFamily):
    """Several real variables with a full covariance, for input regions over `size` of them (`Region.input(0, 1)`,
    `structures.grouped`). Parameters: `mean` (G, K, M) and `raw_factor` (G, K, M (M + 1) / 2), the lower triangle, row
    by row, of the covariance's Cholesky factor, whose diagonal is `min_std + softplus(...)`.

    Missing variables are integrated out, and drawn or expected given those observed, exactly. The evidence of such a
    variable is a value or nothing: weights and intervals are refused. `latent` potentials of the variables of a region
    add up.

    Args:
        size: M variables a region, at least 2.
        loc: where the data lies, a number or one a variable: units start there, and smoothing pulls there.
        scale: its standard deviations, likewise.
    """

    size: int
    loc: float | Sequence[float] = 0.0
    scale: float | Sequence[float] = 1.0
    min_std: float = 1e-3
    name = "multivariate_gaussian"

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 2:
            raise ParameterError(f"MultivariateGaussian needs a size of at least 2 variables, got {self.size!r:.80}")
        for name in ("loc", "scale"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list | tuple) else value)
        locs, scales = self._each(self.loc), self._each(self.scale)
        fits = len(locs) == len(scales) == self.size and all(map(_is_finite, (*locs, *scales, self.min_std)))
        if not fits or not self.min_std > 0 or not all(scale > self.min_std for scale in scales):
            raise ParameterError(
                f"MultivariateGaussian needs finite locs, scales > min_std > 0, one or {self.size}; got {self!r:.99}"
            )

    @classmethod
    def from_data(cls, x: Float[Tensor, "N M"]) -> "MultivariateGaussian":
        """The family whose units start where complete rows of its variables lie."""
        if x.ndim != 2 or len(x) == 0 or not x.isfinite().all():
            raise DataError("the variables of a region must be a tensor (N, M), not empty, and finite")
        scale = x.double().std(0, correction=0).clamp_min(1e-2)
        return cls(x.shape[1], tuple(x.double().mean(0).tolist()), tuple(scale.tolist()))

    @property
    def num_variables(self) -> int:  # type: ignore[override]
        return self.size

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        loc, scale = torch.tensor(self._each(self.loc)), torch.tensor(self._each(self.scale))
        mean = loc + scale * torch.randn(groups, units, self.size, generator=generator)
        return self._parameters(mean, scale.diag().expand(groups, units, -1, -1))

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Normals:
        mean, raw = parameters["mean"], parameters["raw_factor"]
        row, column = torch.tril_indices(self.size, self.size, device=raw.device)
        entries = torch.where(row == column, self.min_std + torch.nn.functional.softplus(raw), raw)
        factor = raw.new_zeros(*mean.shape[:-1], self.size**2).index_copy(-1, row * self.size + column, entries)
        return Normals(mean, factor.unflatten(-1, (self.size, self.size)))

    def dtype_of(self, prepared: Normals) -> torch.dtype:
        return prepared.mean.dtype

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        if evidence.values.is_floating_point() and (bad := evidence.values.isinf() & evidence.observed).any():
            raise EvidenceError(
                f"variable {_first(variables, bad)} is {self!r}: values must be finite numbers; they are not in batch "
                f"rows {rows_of(bad.any(0))}"
            )
        soft = {"interval": evidence.bounded}
        if evidence.log_weights is not None:
            soft["log_weights"] = evidence.log_weights.ne(0).any(-1) & ~evidence.observed
        for name, bad in soft.items():
            if bad.any():
                raise EvidenceError(
                    f"variable {_first(variables, bad)} is {self!r}: its evidence is a value or nothing, no `{name}` "
                    f"as in batch rows {rows_of(bad.any(0))}"
                )

    def log_values(
        self, prepared: Normals, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        return self._log_values(prepared, rows, evidence._replace(summed=None), maximise)

    def log_maxima(self, prepared: Normals, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        return self._log_values(prepared, rows, evidence, True)

    def posterior(
        self, prepared: Normals, rows: Rows, evidence: InputEvidence, flows: Float[Tensor, "F B K"], exact: bool
    ) -> Float[Tensor, "N B 2"]:
        """Rows are variables: all of the first region, then of the next."""

        def expected(given: Given) -> Float[Tensor, "F N M 2"]:
            means, covariance = given.moments()
            square = means.square() + covariance.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
            return torch.einsum("fnk,fkmns->fnms", _of(flows, given), torch.stack([means, square], -1))

        found = joined(expected, patterns(prepared, rows, evidence))
        return found.transpose(1, 2).flatten(0, 1).to(flows.dtype)

    def statistics(
        self,
        prepared: Normals,
        rows: Rows,
        evidence: InputEvidence,
        flows: Float[Tensor, "F B K"],
        exact: bool,
        memory: Memory,
    ) -> dict[str, Float[Tensor, "G K S"]]:
        """Counts, and sums of deviations from the present mean and of their products."""
        total = prepared.mean.new_zeros(*prepared.mean.shape[:2], 1 + self.size + self.size**2, dtype=torch.float64)
        for given in patterns(prepared, rows, evidence):
            share, (means, covariance) = _of(flows, given), given.moments()
            off = means - given.mean.unsqueeze(-1)
            count = share.sum(1).unsqueeze(-1)
            products = torch.einsum("fnk,fkin,fkjn->fkij", share, off, off) + count.unsqueeze(-1) * covariance
            sums = [count, torch.einsum("fnk,fkmn->fkm", share, off), products.flatten(2)]
            total = total.index_add(0, rows, torch.cat(sums, -1))
        return {"counts": total.to(flows.dtype)}

    def maximise(
        self, prepared: Normals, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        pseudocount, relative, step = smooth
        counts, mean, factor = statistics["counts"].double(), prepared.mean.double(), prepared.factor.double()
        total, sums = counts[..., :1], counts[..., 1:]
        extra = pseudocount * (total if relative else torch.ones_like(total))
        off = mean.new_tensor(self._each(self.loc)) - mean
        prior = mean.new_tensor(self._each(self.scale)).square().diag() + off.unsqueeze(-1) * off.unsqueeze(-2)
        estimate = (sums + extra * torch.cat([off, prior.flatten(2)], -1)) / (total + extra).clamp_min(LEAST_COUNT)
        old = torch.cat([torch.zeros_like(mean), (factor @ factor.mT).flatten(2)], -1)
        new = torch.where(total > LEAST_COUNT, (1 - step) * old + step * estimate, old)
        moved, products = new[..., : self.size], new[..., self.size :].unflatten(-1, (self.size, self.size))
        values, axes = torch.linalg.eigh(products - moved.unsqueeze(-1) * moved.unsqueeze(-2))
        covariance = (axes * values.clamp_min((2 * self.min_std) ** 2).unsqueeze(-2)) @ axes.mT
        found = self._parameters(mean + moved, torch.linalg.cholesky(covariance))
        return {name: value.to(prepared.mean.dtype) for name, value in found.items()}

    def sample(
        self,
        prepared: Normals,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "P M"]:
        """One row a pick: a draw of the unit, moved by what the observed variables are off it."""
        row, batch, unit = picks
        mean, factor = (x.double()[rows[row], unit] for x in prepared)
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        drawn = mean + temperature**0.5 * (factor @ noise.unsqueeze(-1)).squeeze(-1)
        place = torch.empty(evidence.values.shape[1], dtype=torch.long, device=batch.device)
        for given in patterns(prepared, rows, evidence):
            place.fill_(-1)[given.batch] = torch.arange(len(given.batch), device=batch.device)
            (mine,) = (place[batch] >= 0).nonzero(as_tuple=True)
            own, hard = row[mine], given.observed[row[mine]]
            values = given.values[own, place[batch[mine]]]
            off = torch.where(hard, values - drawn[mine], 0.0)
            moved = drawn[mine] + (given.gain[own, unit[mine]].mT @ off.unsqueeze(-1)).squeeze(-1)
            drawn = drawn.index_copy(0, mine, torch.where(hard, values, moved))
        return drawn.to(prepared.mean.dtype)

    def overlap(self, prepared: Normals, rows: Rows) -> Bool[Tensor, "F K K"]:
        units = prepared.mean.shape[1]
        return torch.ones(len(rows), units, units, dtype=torch.bool, device=prepared.mean.device)

    def expected_log(self, prepared: Normals, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        """The log density where all free variables have their mode, less a half for each of them."""
        found = self.log_values(prepared, rows, evidence, True)
        free = (~evidence.observed).unflatten(0, (-1, self.size)).sum(1)
        return found - 0.5 * free.unsqueeze(-1)

    def covariance(self, prepared: Normals, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K M M"]:
        def of_rows(given: Given) -> Float[Tensor, "F N K M M"]:
            return given.moments()[1].unsqueeze(1).expand(-1, len(given.batch), -1, -1, -1)

        return joined(of_rows, patterns(prepared, rows, evidence))

    def without(self, kept: Sequence[int]) -> InputFamily:
        locs, scales = ([self._each(value)[n] for n in kept] for value in (self.loc, self.scale))
        if len(kept) == 1:
            return Gaussian(locs[0], scales[0], self.min_std)
        return MultivariateGaussian(len(kept), tuple(locs), tuple(scales), self.min_std)

    def reduced(self, prepared: Normals, evidence: InputEvidence, kept: Sequence[int]) -> Normals | Normal:
        rows = torch.zeros(1, dtype=torch.long, device=prepared.mean.device)
        (given,) = patterns(prepared, rows, evidence)
        means, covariance = given.moments()
        mean, left = means[:, :, kept, 0], covariance[:, :, kept][..., kept]
        mean, factor = (x.to(prepared.mean.dtype) for x in (mean, torch.linalg.cholesky(left)))
        return Normal(mean.squeeze(-1), factor[..., 0, 0]) if len(kept) == 1 else Normals(mean, factor)

    def _log_values(
        self, prepared: Normals, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        return joined(lambda given: given.log_density.mT, patterns(prepared, rows, evidence, maximise))

    def _parameters(self, mean: Float[Tensor, "G K M"], factor: Float[Tensor, "G K M M"]) -> dict[str, Tensor]:
        row, column = torch.tril_indices(self.size, self.size, device=factor.device)
        entries = factor[..., row, column]
        excess = (entries - self.min_std).clamp_min(1e-6)
        return {"mean": mean, "raw_factor": torch.where(row == column, excess + (-(-excess).expm1()).log(), entries)}

    def _each(self, value: float | Sequence[float]) -> tuple[float, ...]:
        return (value,) * self.size if isinstance(value, int | float) else tuple(value)


def _of(flows: Float[Tensor, "F B K"], given: Given) -> Float[Tensor, "F N K"]:
    return flows[:, given.batch].double()


def _first(variables: tuple[int, ...], bad: Bool[Tensor, "N B"]) -> int:
    return variables[int(bad.any(1).nonzero()[0])]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
