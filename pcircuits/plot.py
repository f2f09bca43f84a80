"""Pictures of structures, samples, marginals and conditionals with matplotlib (the `plot` extra); each function returns
its axes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.circuit import Circuit
from pcircuits.errors import ShapeError, StructureError
from pcircuits.evidence import Evidence, describe
from pcircuits.posterior import Posterior
from pcircuits.queries import Moments
from pcircuits.structures import RegionGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SUM, _INPUT, _EDGE = "#333333", "#1f6fb4", "#2a9d6f", "#9a9a9a"
_MOST_LABELS = 40
_MOST_CURVES, _CURVE_POINTS = 8, 200


def structure(graph: Circuit | RegionGraph, *, ax: "Axes | None" = None) -> "Axes":
    """The region graph: variables at the bottom (green), sums over regions (blue), their partitions as black squares.

    Raises:
        StructureError: neither a circuit nor a region graph.
    """
    if not isinstance(graph, Circuit | RegionGraph):
        raise StructureError(f"structure draws a Circuit or a RegionGraph, got {type(graph).__name__}")
    graph = graph.graph if isinstance(graph, Circuit) else graph
    ax = _axes(ax)
    x, y = _places(graph), np.array(graph.heights, dtype=float)
    size = 2000 / max(8, 6 + np.bincount(graph.heights).max(), 6 + graph.depth) ** 1.2
    inputs = {i: ",".join(map(str, r.variables)) for i, r in enumerate(graph.regions) if r.is_input}
    inner = [i for i in range(len(graph.regions)) if i not in inputs]
    squares, lines = _partitions(graph, x, y)
    ax.plot(*lines.T, color=_EDGE, linewidth=0.8, zorder=1)
    ax.scatter(squares[:, 0], squares[:, 1], s=size / 8, marker="s", color=_INK, zorder=2)
    ax.scatter(x[inner], y[inner], s=size, color=_SUM, zorder=3)
    ax.scatter(x[list(inputs)], y[list(inputs)], s=size, color=_INPUT, zorder=3)
    for i, variables in inputs.items() if len(inputs) <= _MOST_LABELS else ():
        below = (0, -4 - size**0.5 / 2)
        ax.annotate(variables, (x[i], y[i]), below, textcoords="offset points", ha="center", va="top", fontsize=8)
    ax.set_title(f"{graph.num_variables} variables, {len(graph.regions)} regions, {graph.num_partitions} partitions")
    ax.margins(0.08)
    ax.set_axis_off()
    return ax


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
    ax = _axes(ax)
    if shape is None:
        _heat_map(ax, values.numpy(), "value")
        ax.set_xlabel("variable")
        ax.set_ylabel("sample")
        return ax
    if shape[0] * shape[1] != values.shape[1]:
        raise ShapeError(f"`shape` {tuple(shape)} does not hold {values.shape[1]} variables")
    ax.imshow(_tiled(values.view(-1, *shape)), cmap="gray", interpolation="nearest")
    ax.set(xticks=[], yticks=[], facecolor=_SUM)  # what shows between images
    return ax


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
    ax = _axes(ax)
    if tables:
        image = np.full((max(len(table) for table in tables.values()), len(entries)), np.nan)
        for i, table in tables.items():
            image[: len(table), i] = table.numpy()
        _heat_map(ax, image, "probability", vmin=0.0, vmax=1.0, origin="lower")
        ax.set_ylabel("value")
    if moments:
        side = ax.twinx() if tables else ax
        mean, variance = (torch.stack(part) for part in zip(*moments.values(), strict=True))
        side.errorbar(list(moments), mean.numpy(), variance.sqrt().numpy(), fmt="o", color=_INPUT, capsize=3)
        side.set_ylabel("mean and standard deviation")
    ax.set_xlabel("variable")
    return ax


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
    ax, colours = _axes(ax), _colours(len(chosen))
    x, curves = _curves(circuit, posterior, variable)
    counts = circuit.inputs[variable].is_discrete or circuit.inputs[variable].is_integer
    for value, curve, colour in zip(chosen, curves, colours, strict=True):
        ax.plot(x, curve, color=colour, label=f"{value:.3g}", marker="o" if counts else "")
    ax.set(xlabel=f"variable {variable}", ylabel="probability" if counts else "density", ylim=(0, None))
    if counts:
        ax.locator_params(axis="x", integer=True)
    ax.legend(title=f"variable {given}")
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


def _colours(n: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](share) for share in np.linspace(0.0, 0.85, n)]


def _places(graph: RegionGraph) -> np.ndarray:
    """Horizontal places: each region above the middle of its variables, moved apart from others of its height."""
    x = np.array([np.mean(graph.scope(i)) for i in range(len(graph.regions))])
    heights = np.array(graph.heights)
    for height in range(graph.depth + 1):
        level = np.flatnonzero(heights == height)
        level = level[np.argsort(x[level], kind="stable")]
        apart = np.maximum.accumulate(x[level] - np.arange(len(level))) + np.arange(len(level))
        x[level] = apart + (x[level] - apart).mean()
    return x


def _partitions(graph: RegionGraph, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where partitions lie, (P, 2), and the lines from each to its regions, NaN in between."""
    squares, lines = [np.full(2, np.nan)], [np.full(2, np.nan)]
    for above, region in enumerate(graph.regions):
        for n, partition in enumerate(region.partitions):
            squares.append(np.array([x[above] + 0.3 * (n - (len(region.partitions) - 1) / 2), y[above] - 0.35]))
            for end in (above, *partition.children):
                lines += [squares[-1], np.array([x[end], y[end]]), np.full(2, np.nan)]
    return np.stack(squares), np.stack(lines)


def _tiled(images: Tensor) -> np.ndarray:
    """Images (N, H, W) in a near square of rows, a pixel apart; NaN in between."""
    across = int(np.ceil(np.sqrt(len(images))))
    empty = images.new_full((-len(images) % across, *images.shape[1:]), torch.nan)
    framed = torch.nn.functional.pad(torch.cat([images, empty]), (0, 1, 0, 1), value=torch.nan)
    rows = framed.unflatten(0, (-1, across))
    return rows.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1).numpy()[:-1, :-1]


def _heat_map(ax: "Axes", image: np.ndarray, label: str, **options: Any) -> None:
    drawn = ax.imshow(image, aspect="auto", interpolation="nearest", **options)
    ax.figure.colorbar(drawn, ax=ax, label=label)
    ax.locator_params(integer=True)


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pcircuits.plot needs matplotlib: pip install 'pcircuits[plot]'") from error
    return plt.subplots(layout="constrained")[1]
