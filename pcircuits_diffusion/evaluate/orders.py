"""Random orders in which a block's tokens are committed, and the nested masks that they induce.

Axes: S orders a window, N windows, L positions of the block.
"""

from collections.abc import Iterable

import torch

from pcircuits.types import Bool, Int, Tensor

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def draw_orders(num_orders: int, num_windows: int, length: int, *, generator: torch.Generator) -> Int[Tensor, "S N L"]:
    """`ranks[s, n, i]`: when order s commits position i of window n, 0 first; uniformly random permutations."""
    return torch.rand(num_orders, num_windows, length, generator=generator).argsort(-1)


def masked_at(ranks: Int[Tensor, "*N L"], masked: int) -> Bool[Tensor, "*N L"]:
    """The positions still masked when `masked` are: the last ones of each order, so that masks of one order nest."""
    return ranks >= ranks.shape[-1] - masked


def next_group(ranks: Int[Tensor, "*N L"], masked: int, size: int) -> Bool[Tensor, "*N L"]:
    """The `size` positions that each order commits next when `masked` are masked."""
    first = ranks.shape[-1] - masked
    return (ranks >= first) & (ranks < first + size)


def masked_counts(length: int, ratios: Iterable[float] = RATIOS) -> tuple[int, ...]:
    """`round(ratio * length)` of each ratio, at least 1, without repetition, ascending.

    >>> masked_counts(32)
    (3, 10, 16, 22, 29, 32)
    """
    return tuple(sorted({max(1, round(ratio * length)) for ratio in ratios}))


def step_sizes(length: int, steps: int) -> list[int]:
    """Tokens that each of `steps` steps commits: `length // steps`, the remainder one each to the first steps.

    >>> step_sizes(32, 5)
    [7, 7, 6, 6, 6]
    """
    if not 1 <= steps <= length:
        raise ValueError(f"`steps` must be between 1 and the block's {length} tokens, got {steps}")
    size, rest = divmod(length, steps)
    return [size + (step < rest) for step in range(steps)]
