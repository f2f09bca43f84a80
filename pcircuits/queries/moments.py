"""Moments and covariances of the variables given the evidence."""

from collections.abc import Iterator
from typing import Any

import torch

from pcircuits.distributions import InputFamily
from pcircuits.errors import ShapeError, StructureError
from pcircuits.evaluator import Evaluation, upward
from pcircuits.evidence import InputEvidence
from pcircuits.plan import InputLevel
from pcircuits.queries.marginal import Moments, marginals
from pcircuits.semirings import Log, Values
from pcircuits.types import Float, Tensor


def moment(evaluation: Evaluation, order: int) -> Float[Tensor, "B D"]:
    """`E[X_i^order | e]` of every variable, discrete ones counting as the numbers 0..V-1."""
    return moments_of(marginals(evaluation), order)


def moments_of(found: Float[Tensor, "B D V"] | list[Tensor | Moments], order: int) -> Float[Tensor, "B D"]:
    """Moments from marginals."""
    if not isinstance(order, int) or order < 1:
        raise ShapeError(f"`order` must be a positive integer, got {order!r}")
    return torch.stack([_moment(m, order) for m in (found.unbind(1) if isinstance(found, Tensor) else found)], 1)


def _moment(marginal: Float[Tensor, "B V"] | Moments, order: int) -> Float[Tensor, " B"]:
    if isinstance(marginal, Tensor):
        powers = torch.arange(marginal.shape[-1], dtype=torch.float64, device=marginal.device) ** order
        return marginal.double() @ powers
    if order > 2:
        raise StructureError(f"the moment of order {order} of a variable without finitely many values is not known")
    mean, variance = (m.double() for m in marginal)
    return mean if order == 1 else variance + mean.square()


def covariance(evaluation: Evaluation) -> Float[Tensor, "B D D"]:
    """`Cov(X_i, X_j | e)`.

    Variables are independent given the latent path, so for i != j this is the covariance of the means of the units
    that the path ends in. With the units of variable i multiplied by `exp(t_i mean)` it is the second derivative of
    the log evidence with respect to t_i and t_j at zero, in float64. Variables of one joint input have a covariance
    under each unit too, and `exp(t' covariance t / 2)` beside.
    """
    plan, prepared, evidence = evaluation.fast.plan, evaluation.fast.prepared, evaluation.fast.evidence
    levels = [level for level in plan.levels if isinstance(level, InputLevel)]
    with torch.no_grad():
        variances = moment(evaluation, 2) - moment(evaluation, 1).square()
        found = [
            _unit_moments(level, prepared[level.group], evidence.of_variables(level.variables)) for level in levels
        ]
    with torch.enable_grad():
        tilt = torch.zeros(evidence.values.shape, dtype=torch.float64, device=evidence.device, requires_grad=True)
        tilts = (_tilt(tilt.T[list(level.variables)], *m) for level, m in zip(levels, found, strict=True))
        log_evidence = upward(plan, prepared, evidence, _Tilted(tilts)).log_evidence
        (first,) = torch.autograd.grad(log_evidence.sum(), tilt, create_graph=True)
        columns = first.unbind(1) if first.requires_grad else ()  # without sums all variables are independent
        second = [torch.autograd.grad(column.sum(), tilt, retain_graph=True)[0] for column in columns]
    matrix = torch.stack(second, 1) if second else torch.diag_embed(torch.zeros_like(variances))
    matrix = (matrix + matrix.mT) / 2
    return torch.diagonal_scatter(matrix, variances.clamp_min(0.0), dim1=-2, dim2=-1)


class _Tilted(Log):
    """Input levels, in the order in which they are evaluated, take the next of `tilts` as log factors."""

    def __init__(self, tilts: Iterator[Float[Tensor, "F B K"]]) -> None:
        self.tilts = tilts

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        values = super().inputs(family, prepared, rows, evidence)
        return values._replace(v=values.v + next(self.tilts))


def _tilt(
    t: Float[Tensor, "N B"], means: Float[Tensor, "F M B K"], covariances: Float[Tensor, "F B K M M"] | None
) -> Float[Tensor, "F B K"]:
    t = t.view(means.shape[:3])
    linear = torch.einsum("fmb,fmbk->fbk", t, means)
    if covariances is None:
        return linear
    return linear + 0.5 * torch.einsum("fmb,fbkmn,fnb->fbk", t, covariances, t)


def _unit_moments(
    level: InputLevel, prepared: Any, given: InputEvidence
) -> tuple[Float[Tensor, "F M B K"], Float[Tensor, "F B K M M"] | None]:
    """Means of a level's M variables a region under each unit given their evidence, 0 where that is impossible, and
    their covariances where they are several.
    """
    means = torch.stack([_unit_mean(level, prepared, given, unit) for unit in range(level.num_units)], -1)
    joint = level.family.num_variables > 1
    covariances = level.family.covariance(prepared, level.rows, given) if joint else None
    return means.unflatten(0, (level.num_rows, -1)), covariances


def _unit_mean(level: InputLevel, prepared: Any, given: InputEvidence, unit: int) -> Float[Tensor, "N B"]:
    shape = (level.num_rows, given.values.shape[1], level.num_units)
    flows = torch.zeros(shape, dtype=torch.float64, device=given.values.device)
    flows[..., unit] = 1.0
    found = level.family.posterior(prepared, level.rows, given, flows, True)
    if level.family.num_categories is None:
        return found[..., 0]
    return found @ torch.arange(found.shape[-1], dtype=found.dtype, device=found.device)
