"""Exact joint samples given the evidence: one branch a sum, drawn from the root down, then the inputs."""

import torch

from pcircuits.evaluator import Evaluation, Pass, select
from pcircuits.plan import InputLevel, Plan
from pcircuits.types import Shaped, Tensor


def sample(
    evaluation: Evaluation, n: int, generator: torch.Generator | None, temperature: float
) -> Shaped[Tensor, "N B D"]:
    """`n` samples a batch row."""
    return evaluation.combine(lambda p: decode(p, n, generator, temperature), batch_dim=1)


def decode(p: Pass, n: int, generator: torch.Generator | None, temperature: float) -> Shaped[Tensor, "N R D"]:
    """Choose branches as the pass's semiring says, then draw the chosen input units' values."""
    batch, variables = p.evidence.values.shape
    out = torch.zeros(
        n, batch, variables, dtype=_value_dtype(p.plan, p.records[-1].values.v.dtype), device=p.evidence.device
    )
    for level, picks, draw_index in select(p, n, generator):
        given = p.evidence.of_variables(level.variables)
        values = level.family.sample(p.prepared[level.group], level.rows, given, picks, temperature, generator)
        row, sample_row, _ = picks
        variable = torch.tensor(level.variables, device=row.device)[row]
        out[draw_index, sample_row, variable] = values.to(out.dtype)
    return out


def _value_dtype(plan: Plan, floating: torch.dtype) -> torch.dtype:
    discrete = all(level.family.is_discrete for level in plan.levels if isinstance(level, InputLevel))
    return torch.long if discrete else floating
