"""Where on the canvas a step may commit, and what the backbone and the head see of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch

import pcircuits as pc
from pcircuits.types import Bool, Int, Tensor
from pcircuits_diffusion.decoding.quota import spread


class Region(NamedTuple):
    """Columns of the canvas: `seen` are given to the backbone, `decoded` are what the head looks at (its own length, or
    more for dynamic windows), `chosen` are those that may be committed, in at most `steps` (B,) steps a row.
    """

    seen: slice
    decoded: slice
    chosen: slice
    steps: Int[Tensor, " B"] | None

    @property
    def span(self) -> slice:
        """The decoded columns among the seen ones."""
        return slice(self.decoded.start - self.seen.start, self.decoded.stop - self.seen.start)


class Sizes(NamedTuple):
    """What a layout of regions depends on: see `Settings`. `head_length`: 0 without a head. `whole`: the head looks at
    all columns through windows, whatever the block (texts with gaps, which need not begin where a block does).
    """

    block_length: int
    head_length: int
    steps: int | None
    see_ahead: bool
    max_context: int | None
    whole: bool = False

    @property
    def window(self) -> int:
        """Columns looked at together: a block, or the head's window that holds several blocks."""
        return max(self.block_length, self.head_length)


def blocks(wanted: Bool[Tensor, "B C"], first: int, sizes: Sizes) -> list[Region]:
    """Blocks left to right from column `first` on, aligned with the canvas's end.

    The backbone sees the latest tokens that fit, up to the end of the block's window (block diffusion), or with
    `see_ahead` to the end of the canvas (LLaDA's loop). A row's steps are spread over the blocks in which it wants
    anything.
    """
    length, stop, regions = sizes.block_length, wanted.shape[1], []
    grid = range(first - (first - stop) % length, stop, length)
    chosen = [slice(max(first, start), start + length) for start in grid]
    chosen = [columns for columns in chosen if wanted[:, columns].any()]
    for columns, steps in zip(chosen, _steps([wanted[:, c].any(1) for c in chosen], sizes.steps), strict=True):
        start = first + (columns.start - first) // sizes.window * sizes.window
        decoded = slice(first, stop) if sizes.whole else slice(start, start + sizes.window)
        seen = _seen(decoded, stop if sizes.see_ahead else decoded.stop, sizes)
        regions.append(Region(seen, decoded, columns, steps))
    return regions


def canvas(wanted: Bool[Tensor, "B C"], first: int, sizes: Sizes) -> list[Region]:
    """One region: everything from column `first` on, in any order (full diffusion)."""
    everything = slice(first, wanted.shape[1])
    seen = _seen(everything, everything.stop, sizes)
    return [Region(seen, everything, everything, steps) for steps in _steps([wanted.any(1)], sizes.steps)]


REGIONS: dict[str, Callable[[Tensor, int, Sizes], list[Region]]] = {"blocks": blocks, "canvas": canvas}


def _seen(decoded: slice, end: int, sizes: Sizes) -> slice:
    """The latest columns before `end` that fit into the backbone's context."""
    start = 0 if sizes.max_context is None else max(0, end - sizes.max_context)
    if start > decoded.start:
        raise pc.ParameterError(
            f"the backbone takes {sizes.max_context} tokens, fewer than one block of {end - decoded.start}"
        )
    return slice(start, end)


def _steps(needed: list[Bool[Tensor, " B"]], steps: int | None) -> list[Int[Tensor, " B"] | None]:
    """Each row's steps in every block: spread over the blocks that it needs, 0 in the others."""
    if steps is None:
        return [None for _ in needed]
    found = torch.zeros(len(needed), len(needed[0]), dtype=torch.long, device=needed[0].device)
    for row, uses in enumerate(torch.stack(needed).T):
        if uses.any():
            found[uses, row] = torch.tensor(spread(steps, int(uses.sum())), device=found.device)
    return list(found)
