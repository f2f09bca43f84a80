"""Differentiable samples given the evidence: relaxed draws on the way down."""

import torch

from pcircuits.errors import StructureError
from pcircuits.evaluator import Evaluation, downward, upward
from pcircuits.plan import InputLevel
from pcircuits.semirings import Gumbel
from pcircuits.types import Float, Tensor


def rsample(
    evaluation: Evaluation, n: int, generator: torch.Generator | None, temperature: float, hard: bool
) -> Float[Tensor, "N B D V"] | list[Tensor]:
    """`n` samples a batch row: (relaxed) one-hot vectors of discrete variables, numbers of Gaussian ones."""
    plan, batch = evaluation.fast.plan, evaluation.fast.evidence.batch_size
    semiring = Gumbel(temperature, hard, generator)
    p = upward(plan, evaluation.fast.prepared, evaluation.fast.evidence.repeat(n), semiring)
    flows, _ = downward(p, torch.ones(n * batch, dtype=torch.float64, device=p.evidence.device))
    found: dict[int, Tensor] = {}
    discrete: dict[int, bool] = {}
    for index, input_flows in flows.items():
        level = plan.levels[index]
        assert isinstance(level, InputLevel)
        _require_closed_form(level)
        given, prepared = p.evidence.of_variables(level.variables), p.prepared[level.group]
        values = level.family.posterior(prepared, level.rows, given, input_flows, True)
        for row, variable in enumerate(level.variables):
            found[variable] = found[variable] + values[row] if variable in found else values[row]
            discrete[variable] = level.family.is_discrete
    drawn = [_drawn(found[v], discrete[v], semiring).unflatten(0, (n, batch)) for v in sorted(found)]
    same = all(discrete.values()) and len({x.shape[-1] for x in drawn}) == 1
    return torch.stack(drawn, 2) if same else drawn


def _drawn(values: Tensor, discrete: bool, semiring: Gumbel) -> Tensor:
    if discrete:
        return semiring.relaxed(values)
    mean, second = values.unbind(-1)
    noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=semiring.generator)
    variance = second - mean.square()
    spread = variance > 1e-12 * second  # the gradient of a root is infinite at zero: an observed variable has no noise
    return mean + torch.where(spread, torch.where(spread, variance, 1.0).sqrt() * noise, 0.0)


def _require_closed_form(level: InputLevel) -> None:
    if level.family.num_variables > 1 or not (level.family.is_discrete or level.family.is_normal):
        raise StructureError(f"differentiable samples of {level.family!r} are not known")
