"""Posteriors of squared circuits: marginals from signed flows, samples by conditional distribution functions."""

from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import Univariate, draw
from pcircuits.errors import StructureError
from pcircuits.evidence import Evidence
from pcircuits.kernels import finite
from pcircuits.operations.inputs import densities_of, log_mass_between
from pcircuits.operations.signed_flows import signed_flows
from pcircuits.plan import InputLevel
from pcircuits.posterior import Posterior
from pcircuits.queries import MPE, Moments, moments_of
from pcircuits.types import Bool, Float, Shaped, Tensor

_CHUNK_ELEMENTS = 1 << 22
_BISECTIONS = 60
_TAILS = 12.0  # standard deviations: beyond them a Gaussian has less than 1e-32


class SignedPosterior(Posterior):
    """`p(x | evidence)` of a non-negative circuit with signed weights inside; made by its `condition`.

    What needs non-negative flows is refused by name. Values that rounding makes negative count as zero.
    """

    def __init__(self, circuit: Circuit, evidence: Evidence, log_evidence: Float[Tensor, " B"]) -> None:
        self.circuit, self.evidence = circuit, evidence
        self._log_evidence, self._version = log_evidence, circuit.version

    def marginals(
        self, *, out: Float[Tensor, "B D V"] | None = None
    ) -> Float[Tensor, "B D V"] | list[Tensor | Moments]:
        evidence = self._possible()
        if out is not None:
            self._require_room(out)
        found = _marginals(self.circuit, evidence)
        probabilities = [m for m in found if isinstance(m, Tensor)]
        same = len({p.shape[-1] for p in probabilities}) == 1 and len(probabilities) == len(found)
        return torch.stack(probabilities, 1, out=out) if same else found

    def moment(self, order: int) -> Float[Tensor, "B D"]:
        return moments_of(self.marginals(), order)

    def sample(
        self,
        n: int = 1,
        *,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        variables: Bool[Tensor, "B D"] | None = None,
    ) -> Shaped[Tensor, "N B D"]:
        """`n` exact samples, (n, B, D): variable by variable from its conditional given those before, each one upward
        and one backward pass; continuous ones by inverting their distribution function. All variables are drawn,
        whichever `variables` are asked for.
        """
        evidence = self._possible()
        if temperature != 1.0:
            raise StructureError("temperatures other than 1 sharpen units' distributions; these have signed weights")
        self._check_number(n)
        with torch.no_grad():
            parts = [_sampled(self.circuit, part, generator) for part in _chunks(self.circuit, evidence.repeat(n))]
        return torch.cat(parts).view(n, evidence.batch_size, -1)

    def mpe(self, *, marginalize: Bool[Tensor, "B D"] | None = None, search: int = 0) -> MPE:
        self._refuse("max-product", "non-negative weights")

    def rsample(
        self, n: int = 1, *, generator: torch.Generator | None = None, temperature: float = 1.0, hard: bool = True
    ) -> Tensor | list[Tensor]:
        self._refuse("differentiable sampling", "non-negative weights")

    def covariance(self) -> Float[Tensor, "B D D"]:
        self._refuse("covariance of all variables", "non-negative weights; pair_marginals has those of discrete ones")

    def entropy(self) -> Float[Tensor, " B"]:
        self._refuse("exact entropy", "a deterministic circuit of non-negative weights; use estimate_entropy")

    def _refuse(self, what: str, needs: str) -> NoReturn:
        raise StructureError(f"{what} needs {needs}; this circuit's are signed")


def _marginals(circuit: Circuit, evidence: Evidence) -> list[Tensor | Moments]:
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for level, flows in signed_flows(circuit, evidence):
            given, prepared = evidence.of_variables(level.variables), circuit.prepared()[level.group]
            values = level.family.posterior(prepared, level.rows, given, flows, True)
            for row, variable in enumerate(level.variables):
                found[variable] = found[variable] + values[row] if variable in found else values[row]
    return [_marginal(found[v], circuit.inputs[v].is_discrete) for v in sorted(found)]


def _marginal(values: Tensor, discrete: bool) -> Tensor | Moments:
    if discrete:
        positive = values.clamp_min(0.0)
        return positive / positive.sum(-1, keepdim=True)
    mean, second = values.unbind(-1)
    return Moments(mean, (second - mean.square()).clamp_min(0.0))


def _sampled(circuit: Circuit, evidence: Evidence, generator: torch.Generator | None) -> Shaped[Tensor, "B D"]:
    discrete = all(family.is_discrete for family in circuit.inputs)
    values = evidence.values.to(torch.long if discrete else torch.float64)
    observed = evidence.observed.clone()
    for variable, family in enumerate(circuit.inputs):
        rows = (~observed[:, variable]).nonzero().squeeze(-1)
        if len(rows):
            known = evidence.replace(values=values, observed=observed).rows(rows)
            flows = [(level, flow) for level, flow in signed_flows(circuit, known) if variable in level.variables]
            one = _discrete if family.is_discrete else _continuous
            values[rows, variable] = one(circuit, known, variable, flows, generator).to(values.dtype)
        observed[:, variable] = True
    return values


def _discrete(
    circuit: Circuit,
    evidence: Evidence,
    variable: int,
    flows: list[tuple[InputLevel, Tensor]],
    generator: torch.Generator | None,
) -> Tensor:
    total: Tensor | float = 0.0
    for level, flow in flows:
        given, prepared = evidence.of_variables(level.variables), circuit.prepared()[level.group]
        values = level.family.posterior(prepared, level.rows, given, flow, True)
        total = total + sum(values[row] for row, v in enumerate(level.variables) if v == variable)
    assert isinstance(total, Tensor)
    return draw(total.clamp_min(0.0), generator)


def _continuous(
    circuit: Circuit,
    evidence: Evidence,
    variable: int,
    flows: list[tuple[InputLevel, Tensor]],
    generator: torch.Generator | None,
) -> Tensor:
    """`x` with `sum_k flow_k P(X <= x | unit k) = u`, u uniform, by bisection."""
    units, shares = [], []
    for level, flow in flows:
        family, prepared = densities_of(level.family, circuit.prepared()[level.group])
        here = [row for row, v in enumerate(level.variables) if v == variable]
        units.append([x[level.rows[here]].double().flatten() for x in prepared])
        shares.append(flow[here].transpose(0, 1).flatten(1))
    unit, share = type(prepared)(*map(torch.cat, zip(*units, strict=True))), torch.cat(shares, 1)
    ends = _ends(family, evidence, variable)
    low, high = _bracket(family, unit, *ends)
    whole = log_mass_between(family, unit, *ends)
    u = torch.rand(low.shape, dtype=torch.float64, device=low.device, generator=generator)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        part = (log_mass_between(family, unit, ends[0], middle) - finite(whole)).exp()
        below = (share * part).sum(-1, keepdim=True) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).squeeze(-1)


def _ends(family: Univariate, evidence: Evidence, variable: int) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B 1"]]:
    """What the variable lies between, sample by sample."""
    least, largest = (torch.full((evidence.batch_size, 1), end).double().to(evidence.device) for end in family.domain)
    if evidence.interval is None:
        return least, largest
    low, high = evidence.interval[:, variable].double().split(1, -1)
    return torch.maximum(low, least), torch.minimum(high, largest)


def _bracket(
    family: Univariate, unit: Any, low: Float[Tensor, "B 1"], high: Float[Tensor, "B 1"]
) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B 1"]]:
    """Finite ends, outside of which less than rounding lies."""
    mean, square = family.moments(unit)
    reach = _TAILS * (square - mean.square()).clamp_min(0.0).sqrt()
    above = torch.maximum((mean + reach).max(), low + reach.max())
    below = torch.minimum((mean - reach).min(), high - reach.max())
    return torch.maximum(low, below), torch.minimum(high, above)


def _chunks(circuit: Circuit, evidence: Evidence) -> Iterator[Evidence]:
    rows = torch.arange(evidence.batch_size, device=evidence.device)
    step = max(1, _CHUNK_ELEMENTS // (circuit.num_units * circuit.num_variables))
    return (evidence.rows(part) for part in rows.split(step))
