"""Samples as rows or as images."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pcircuits.circuit import Circuit
from pcircuits.errors import ShapeError
from pcircuits.evidence import describe
from pcircuits.plot.canvas import SUM, heat_map, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def samples(
    source: Circuit | Tensor,
    n: int = 16,
    *,
    shape: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Samples as rows of a heat map, or with `shape` (height, width) as images side by side.

    `source` is a circuit, of which `n` samples are drawn, or values (N, D), of which the first `n` are shown.

    Raises:
        ShapeError: values that are not (N, D), or a `shape` of another size than D.
    """
    values = source.sample(n, generator=generator) if isinstance(source, Circuit) else source
    if not isinstance(values, Tensor) or values.ndim != 2 or not values.numel():
        raise ShapeError(f"samples draws a Circuit or values (N, D), got {describe(source)}")
    values = values[:n].detach().cpu().double()
    ax = new_axes(ax)
    if shape is None:
        heat_map(ax, values.numpy(), "value")
        ax.set_xlabel("variable")
        ax.set_ylabel("sample")
        return ax
    if shape[0] * shape[1] != values.shape[1]:
        raise ShapeError(f"`shape` {tuple(shape)} does not hold {values.shape[1]} variables")
    ax.imshow(_tiled(values.view(-1, *shape)), cmap="gray", interpolation="nearest")
    ax.set(xticks=[], yticks=[], facecolor=SUM)  # what shows between images
    return ax


def _tiled(images: Tensor) -> np.ndarray:
    """Images (N, H, W) in a near square of rows, a pixel apart; NaN in between."""
    across = int(np.ceil(np.sqrt(len(images))))
    empty = images.new_full((-len(images) % across, *images.shape[1:]), torch.nan)
    framed = torch.nn.functional.pad(torch.cat([images, empty]), (0, 1, 0, 1), value=torch.nan)
    rows = framed.unflatten(0, (-1, across))
    return rows.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1).numpy()[:-1, :-1]
