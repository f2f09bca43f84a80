"""What all pictures are drawn on."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SUM, INPUT, EDGE = "#333333", "#1f6fb4", "#2a9d6f", "#9a9a9a"


def new_axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pcircuits.plot needs matplotlib: pip install 'pcircuits[plot]'") from error
    return plt.subplots(layout="constrained")[1]


def heat_map(ax: "Axes", image: np.ndarray, label: str, **options: Any) -> None:
    drawn = ax.imshow(image, aspect="auto", interpolation="nearest", **options)
    ax.figure.colorbar(drawn, ax=ax, label=label)
    ax.locator_params(integer=True)


def colours(n: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](share) for share in np.linspace(0.0, 0.85, n)]
