"""Conditional distributions of one variable as another varies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pcircuits.circuit import Circuit
from pcircuits.errors import ShapeError
from pcircuits.evidence import Evidence
from pcircuits.plot.canvas import colours, new_axes
from pcircuits.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CURVES, _CURVE_POINTS = 8, 200


@torch.no_grad()
def conditionals(
    circuit: Circuit,
    variable: int,
    given: int,
    *,
    values: Sequence[float | int] | None = None,
    evidence: Evidence | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """`p(x_variable | x_given = value)`, a curve for each of several values: densities of a continuous variable,
    probabilities of one that counts.

    Args:
        values: of the variable `given`; by default all of few discrete ones, else some around its mean.
        evidence: of the other variables, one row.

    Raises:
        ShapeError: no such variables, or two equal ones, or `evidence` of several rows.
        EvidenceError: values outside the domain, or impossible ones.
    """
    if not all(isinstance(v, int) and 0 <= v < circuit.num_variables for v in (variable, given)) or variable == given:
        raise ShapeError(f"conditionals draws two variables of 0..{circuit.num_variables - 1}, got {variable}, {given}")
    base = Evidence.nothing(1, circuit.num_variables, circuit.device) if evidence is None else evidence
    if base.batch_size != 1:
        raise ShapeError(f"`evidence` must be a single row, got {base.batch_size}")
    chosen = _some_values(circuit, base, given) if values is None else list(values)
    posterior = circuit.condition(_with_column(circuit, base, given, chosen))
    ax = new_axes(ax)
    x, curves = _curves(circuit, posterior, variable)
    counts = circuit.inputs[variable].is_discrete or circuit.inputs[variable].is_integer
    for value, curve, colour in zip(chosen, curves, colours(len(chosen)), strict=True):
        ax.plot(x, curve, color=colour, label=f"{value:.3g}", marker="o" if counts else "")
    ax.set(xlabel=f"variable {variable}", ylabel="probability" if counts else "density", ylim=(0, None))
    if counts:
        ax.locator_params(axis="x", integer=True)
    ax.legend(title=f"variable {given}")
    return ax


def _some_values(circuit: Circuit, evidence: Evidence, variable: int) -> list[float]:
    family = circuit.inputs[variable]
    if family.num_categories is not None and family.num_categories <= _MOST_CURVES:
        return [float(v) for v in range(family.num_categories)]
    mean, std = _mean_and_std(circuit.condition(evidence), variable)
    around = (mean[0] + std[0] * torch.linspace(-1.5, 1.5, 5, dtype=torch.float64)).clamp(*family.domain)
    around = around.round() if family.is_discrete or family.is_integer else around
    return [float(v) for v in around.unique()]


def _with_column(circuit: Circuit, evidence: Evidence, variable: int, values: Sequence[float | int]) -> Evidence:
    """The row once a value, with the variable observed."""
    rows = evidence.repeat(len(values))
    discrete = all(family.is_discrete for family in circuit.inputs)
    table = rows.values.to(rows.values.dtype if discrete else torch.float64).clone()
    observed = rows.observed.clone()
    table[:, variable], observed[:, variable] = torch.tensor(values, device=table.device).to(table), True
    return rows.replace(values=table, observed=observed)


def _curves(circuit: Circuit, posterior: Posterior, variable: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of a variable (N,), and its density or probability at each in every row, (B, N)."""
    family, rows = circuit.inputs[variable], posterior.evidence.values
    if family.num_categories is not None:
        x = torch.arange(family.num_categories, dtype=torch.float64)
    else:
        mean, std = _mean_and_std(posterior, variable)
        low, high = float((mean - 4 * std).min()), float((mean + 4 * std).max())
        x = torch.linspace(low, high, _CURVE_POINTS, dtype=torch.float64).clamp(*family.domain)
        x = x.round().unique() if family.is_integer else x
    points = rows.to(x.dtype if family.num_categories is None else rows.dtype).expand(len(x), -1, -1).clone()
    points[:, :, variable] = x.to(points).unsqueeze(1)
    only = torch.zeros_like(posterior.evidence.observed)
    only[:, variable] = True
    return x.numpy(), posterior.log_prob(points, variables=only).exp().mT.cpu().numpy()


def _mean_and_std(posterior: Posterior, variable: int) -> tuple[Tensor, Tensor]:
    first, second = (posterior.moment(order)[:, variable].double().cpu() for order in (1, 2))
    return first, (second - first.square()).clamp_min(1e-12).sqrt()
