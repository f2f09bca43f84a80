"""The marginals of all variables."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pcircuits.circuit import Circuit
from pcircuits.errors import ShapeError
from pcircuits.evidence import Evidence, describe
from pcircuits.plot.canvas import INPUT, heat_map, new_axes
from pcircuits.posterior import Posterior
from pcircuits.queries import Moments

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def marginals(source: Circuit | Posterior | Tensor, *, row: int = 0, ax: "Axes | None" = None) -> "Axes":
    """`p(X_i | evidence)` of one batch row: a heat map of values by variables; continuous variables as mean and
    standard deviation on an axis of their own.

    `source` is a circuit, a posterior, or probabilities (B, D, V) or (D, V).

    Raises:
        ShapeError: a tensor of another shape, or no such `row`.
    """
    entries = _of_row(source, row)
    tables = {i: entry for i, entry in enumerate(entries) if isinstance(entry, Tensor)}
    moments = {i: entry for i, entry in enumerate(entries) if isinstance(entry, Moments)}
    ax = new_axes(ax)
    if tables:
        image = np.full((max(len(table) for table in tables.values()), len(entries)), np.nan)
        for i, table in tables.items():
            image[: len(table), i] = table.numpy()
        heat_map(ax, image, "probability", vmin=0.0, vmax=1.0, origin="lower")
        ax.set_ylabel("value")
    if moments:
        side = ax.twinx() if tables else ax
        mean, variance = (torch.stack(part) for part in zip(*moments.values(), strict=True))
        side.errorbar(list(moments), mean.numpy(), variance.sqrt().numpy(), fmt="o", color=INPUT, capsize=3)
        side.set_ylabel("mean and standard deviation")
    ax.set_xlabel("variable")
    return ax


@torch.no_grad()
def _of_row(source: Circuit | Posterior | Tensor, row: int) -> list[Tensor | Moments]:
    """One entry a variable: probabilities (V,), or moments."""
    if isinstance(source, Circuit):
        source = source.condition(Evidence.nothing(1, source.num_variables, source.device))
    found = source.marginals() if isinstance(source, Posterior) else source
    if isinstance(found, Tensor):
        found = found.unsqueeze(0) if found.ndim == 2 else found
        if found.ndim != 3 or not found.is_floating_point():
            raise ShapeError(f"marginals draws probabilities (B, D, V) or (D, V), got {describe(source)}")
        found = list(found.unbind(1))
    batch = len(found[0][0] if isinstance(found[0], Moments) else found[0])
    if not -batch <= row < batch:
        raise ShapeError(f"`row` must be one of {batch} rows, got {row}")
    return [Moments(*(m[row].cpu() for m in x)) if isinstance(x, Moments) else x[row].detach().cpu() for x in found]
