"""Marginals of every variable given the evidence, from flows."""

from typing import NamedTuple

import torch

from pcircuits.distributions.discrete import Discrete
from pcircuits.evaluator import Evaluation, Pass, downward
from pcircuits.layout import samples_last
from pcircuits.plan import InputLevel, Plan
from pcircuits.types import Float, Tensor


class Moments(NamedTuple):
    """Mean and variance of a continuous variable given the evidence."""

    mean: Float[Tensor, " *B"]
    variance: Float[Tensor, " *B"]


def marginals(
    evaluation: Evaluation, out: Float[Tensor, "B D V"] | None = None
) -> Float[Tensor, "B D V"] | list[Tensor | Moments]:
    """`p(X_i | evidence)` of every variable: each input unit's conditional, weighted by its flow."""
    plan = evaluation.fast.plan
    widths = _widths(plan)
    if len(set(widths)) == 1 and widths[0] > 0:
        redone = None if evaluation.exact is None else _stack(evaluation.exact, widths)
        found = evaluation.merge(_stack(evaluation.fast, widths, out), redone)
        return found if out is None or found.data_ptr() == out.data_ptr() else out.copy_(found)
    fast = _per_variable(evaluation.fast)
    exact = [None] * len(fast) if evaluation.exact is None else _per_variable(evaluation.exact)
    merged = [evaluation.merge(*pair) for pair in zip(fast, exact, strict=True)]
    return [x if width > 0 else Moments(x[:, 0], _variance(x)) for x, width in zip(merged, widths, strict=True)]


def free_marginals(evaluation: Evaluation) -> Float[Tensor, "M V"]:
    """Those of the unobserved variables alone, row by row of the evidence."""
    p = evaluation.fast
    free = ~p.evidence.observed
    inputs = [level for level in p.plan.levels if isinstance(level, InputLevel)]
    level, family = inputs[0], inputs[0].family
    in_order = level.variables == tuple(range(free.shape[1]))
    if evaluation.exact is not None or len(inputs) > 1 or not in_order or not isinstance(family, Discrete):
        found = marginals(evaluation)
        assert isinstance(found, Tensor)
        return found[free]
    (flows,) = downward(p, torch.ones_like(p.records[-1].values.v[0, :, 0]))[0].values()
    given = p.evidence.of_variables(level.variables)
    found = family.free_posterior(p.prepared[level.group], level.rows, given, flows)
    if free.shape[0] == 1 or free.shape[1] == 1:
        return found
    order = free.T.flatten().cumsum(0).view(free.shape[1], -1).T[free] - 1  # theirs: variable by variable
    return found[order]


def _variance(moments: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
    mean, second = moments.unbind(-1)
    return (second - mean.square()).clamp_min(0.0)


def _stack(p: Pass, widths: list[int], out: Float[Tensor, "R D V"] | None = None) -> Float[Tensor, "R D V"]:
    """In `out`, if given, where it saves memory."""
    inputs = [level for level in p.plan.levels if isinstance(level, InputLevel)]
    in_order = len(inputs) == 1 and inputs[0].variables == tuple(range(len(widths)))
    if in_order and p.evidence.log_weights is None:
        return _input_posteriors(p, normalise=True, out=out)[0][1].transpose(0, 1)
    levels = _input_posteriors(p)
    values = levels[0][1]
    if not in_order:
        last = samples_last(values)  # rows are added fastest as they lie in memory
        whole = values.new_zeros(len(widths), *(values.mT if last else values).shape[1:])
        for level, part in levels:
            variables = torch.tensor(level.variables, device=part.device)
            whole = whole.index_add(0, variables, part.mT if last else part)
        values = whole.mT if last else whole
    return _normalised(values).transpose(0, 1)


def _per_variable(p: Pass) -> list[Tensor]:
    """One (R, V) or (R, 2) tensor a variable; several input regions of one variable share its flow."""
    found: dict[int, Tensor] = {}
    for level, values in _input_posteriors(p):
        for row, variable in enumerate(level.variables):
            found[variable] = found[variable] + values[row] if variable in found else values[row]
    widths = _widths(p.plan)
    return [_normalised(found[v]) if widths[v] > 0 else found[v] for v in sorted(found)]


def _normalised(probabilities: Tensor) -> Tensor:
    return probabilities / probabilities.sum(-1, keepdim=True)


def _input_posteriors(
    p: Pass, *, normalise: bool = False, out: Float[Tensor, "R D V"] | None = None
) -> list[tuple[InputLevel, Tensor]]:
    """Of every input level, its flows made to add up to one for each of its rows if asked for. `out` may be written
    into where there is one level.
    """
    top = p.records[-1].values.v
    flows, _ = downward(p, torch.ones(top.shape[1], dtype=top.dtype, device=top.device))
    result = []
    for n, input_flows in flows.items():
        level = p.plan.levels[n]
        assert isinstance(level, InputLevel)
        given = p.evidence.of_variables(level.variables)
        family, prepared, exact, memory = level.family, p.prepared[level.group], p.semiring.exact, p.semiring.memory
        room = None if out is None else out.transpose(0, 1)
        if isinstance(family, Discrete):
            found = family.posterior(
                prepared, level.rows, given, input_flows, exact, normalise=normalise, memory=memory, out=room
            )
        else:
            mine = input_flows / input_flows.sum(-1, keepdim=True) if normalise else input_flows
            found = family.posterior(prepared, level.rows, given, mine, exact)
        result.append((level, found))
    return result


def _widths(plan: Plan) -> list[int]:
    """Number of values of every variable, 0 for continuous ones."""
    width = {
        v: level.family.num_categories or 0
        for level in plan.levels
        if isinstance(level, InputLevel)
        for v in level.variables
    }
    return [width[v] for v in sorted(width)]
