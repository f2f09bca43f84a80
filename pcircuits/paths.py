"""The way down of samples and maximisers: one branch a sum, from the root to the inputs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pcircuits.distributions import Picks
from pcircuits.evaluator import Pass
from pcircuits.levels import level_weights, product_of
from pcircuits.plan import Gather, Index, InnerLevel, InputLevel, MixingLevel
from pcircuits.types import Bool, Int, Tensor


class Path(NamedTuple):
    """Units that samples go through: level row, batch row, number of the draw, and unit."""

    row: Int[Tensor, " M"]
    sample: Int[Tensor, " M"]
    draw: Int[Tensor, " M"]
    unit: Int[Tensor, " M"]

    def at(self, mask: Bool[Tensor, " M"]) -> "Path":
        return Path(*(x[mask] for x in self))


def select(
    upward_pass: Pass, num_samples: int, generator: torch.Generator | None
) -> list[tuple[InputLevel, Picks, Int[Tensor, " M"]]]:
    """Choose one branch a sum from the root down, as the semiring says: drawn, or the maximiser.

    Returns, for each input level, the chosen units and the index of the sample each belongs to.
    """
    plan, device = upward_pass.plan, upward_pass.evidence.device
    cells = torch.arange(upward_pass.evidence.batch_size * num_samples, device=device)
    zero = torch.zeros_like(cells)
    pending: list[list[Path]] = [[] for _ in plan.levels]
    pending[-1].append(Path(zero, cells // num_samples, cells % num_samples, zero))
    chosen = []
    for n in reversed(range(len(plan.levels))):
        level = plan.levels[n]
        if not pending[n]:
            continue
        path = Path(*(torch.cat(xs) for xs in zip(*pending[n], strict=True)))
        pending[n] = []
        if isinstance(level, InputLevel):
            chosen.append((level, Picks(path.row, path.sample, path.unit), path.draw))
            continue
        for g, below in zip(level.children, _choose_children(level, upward_pass, n, path, generator), strict=True):
            _follow(g, below, level.num_rows, pending)
    return chosen


def _follow(g: Gather, path: Path, num_rows: int, pending: list[list[Path]]) -> None:
    """Adds each unit of a path to those of the level that it lies in."""
    for part in g.parts:
        if part.rows is None:
            pending[part.level].append(path._replace(row=_rows_of(part.index, path.row)))
            continue
        place = torch.full((num_rows,), -1, device=path.row.device)
        place[part.rows] = torch.arange(len(place[part.rows]), device=path.row.device)
        place = place[path.row]
        mine = place >= 0
        pending[part.level].append(path.at(mine)._replace(row=_rows_of(part.index, place[mine])))


def _rows_of(index: Index, place: Int[Tensor, " M"]) -> Int[Tensor, " M"]:
    if index is None:
        return place
    return index.start + place * (index.step or 1) if isinstance(index, slice) else index[place]


def _choose_children(
    level: InnerLevel | MixingLevel, upward_pass: Pass, n: int, path: Path, generator: torch.Generator | None
) -> Sequence[Path]:
    """What each child position is asked for."""
    branch = path.unit
    if level.weights is not None:
        branch = _choose_branches(level, upward_pass, n, path, generator)
    if isinstance(level, MixingLevel):
        return [path.at(branch == a) for a in range(len(level.children))]
    if level.product == "kronecker":
        right = upward_pass.plan.levels[level.children[1].parts[0].level].num_units
        return [path._replace(unit=branch // right), path._replace(unit=branch % right)]
    return [path._replace(unit=branch)] * len(level.children)


def _choose_branches(
    level: InnerLevel | MixingLevel, upward_pass: Pass, n: int, path: Path, generator: torch.Generator | None
) -> Int[Tensor, " M"]:
    """The child of each chosen sum unit. Where samples outnumber units, the distributions are worked out once."""
    terms = product_of(level, upward_pass.records[n], upward_pass.records, upward_pass.semiring).v
    weights = level_weights(level, upward_pass.prepared, upward_pass.evidence)
    shape = (level.num_rows, upward_pass.evidence.batch_size, level.num_units)
    row, sample, unit, index = path.row, path.sample, path.unit, None
    if len(row) > math.prod(shape):
        index = (row * shape[1] + sample) * shape[2] + unit
        row, sample, unit = (
            x.flatten() for x in torch.unravel_index(torch.arange(math.prod(shape), device=row.device), shape)
        )
    terms = terms[:, row, sample, unit].T if isinstance(level, MixingLevel) else terms[row, sample]
    return upward_pass.semiring.choose(weights, (row, sample, unit), terms, generator, index)
