"""Exact joint samples given the evidence: one branch a sum, drawn from the root down, then the inputs."""

import torch

from pcircuits.distributions import Picks
from pcircuits.evaluator import Evaluation, Pass
from pcircuits.paths import select
from pcircuits.plan import InputLevel, Plan
from pcircuits.types import Bool, Shaped, Tensor

_CHUNK_ELEMENTS = 1 << 22


def sample(
    evaluation: Evaluation,
    n: int,
    generator: torch.Generator | None,
    temperature: float,
    variables: Bool[Tensor, "B D"] | None = None,
) -> Shaped[Tensor, "N B D"]:
    """`n` samples a batch row; with `variables` of these only, the others stay zero. As many at a time as fit into
    temporaries of bounded size: memory grows with what is returned.
    """
    batch = evaluation.fast.evidence.batch_size
    step = max(1, _CHUNK_ELEMENTS // (batch * _widest(evaluation.fast.plan, batch)))
    sizes = [min(step, n - start) for start in range(0, n, step)]
    return torch.cat([_together(evaluation, size, generator, temperature, variables) for size in sizes])


def _widest(plan: Plan, batch: int) -> int:
    """The most child values that the sums of one level draw from, a sample; one where those of all units are worked out
    before.
    """
    most = 1
    for level in plan.levels:
        if not isinstance(level, InputLevel):
            width = plan.groups[level.weights.group].num_children if level.weights else level.num_units
            before = level.num_rows * batch * level.num_units * width <= _CHUNK_ELEMENTS
            most = max(most, level.num_rows * (1 if before else width))
    return most


def _together(
    evaluation: Evaluation,
    n: int,
    generator: torch.Generator | None,
    temperature: float,
    variables: Bool[Tensor, "B D"] | None,
) -> Shaped[Tensor, "N B D"]:
    def of(p: Pass) -> Tensor:
        return decode(p, n, generator, temperature, variables)

    if variables is None or evaluation.exact is None or evaluation.rows is None:
        return evaluation.combine(of, batch_dim=1)
    exact = decode(evaluation.exact, n, generator, temperature, variables[evaluation.rows])
    return evaluation.merge(of(evaluation.fast), exact, 1)


def decode(
    p: Pass,
    n: int,
    generator: torch.Generator | None,
    temperature: float,
    variables: Bool[Tensor, "R D"] | None = None,
) -> Shaped[Tensor, "N R D"]:
    """Choose branches as the pass's semiring says, then draw the chosen input units' values."""
    batch, width = p.evidence.values.shape
    out = torch.zeros(
        n, batch, width, dtype=_value_dtype(p.plan, p.records[-1].values.v.dtype), device=p.evidence.device
    )
    for level, every, draws in select(p, n, generator):
        given, picks, draw_index = p.evidence.of_variables(level.variables), every, draws
        if variables is not None:
            of_regions = variables.T[list(level.variables)].unflatten(0, (level.num_rows, -1)).any(1)
            wanted = of_regions[every[0], every[1]]
            picks, draw_index = Picks(*(x[wanted] for x in every)), draws[wanted]
        values = level.family.sample(p.prepared[level.group], level.rows, given, picks, temperature, generator)
        row, sample_row, _ = picks
        variable = torch.tensor(level.variables, device=row.device).view(level.num_rows, -1)[row]
        place = ((draw_index * batch + sample_row) * width).unsqueeze(-1) + variable
        out.view(-1).scatter_(0, place.flatten(), values.to(out.dtype).flatten())
    return out


def _value_dtype(plan: Plan, floating: torch.dtype) -> torch.dtype:
    discrete = all(level.family.is_discrete for level in plan.levels if isinstance(level, InputLevel))
    return torch.long if discrete else floating
