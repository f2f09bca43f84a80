"""Drawing from unnormalised weights by inverting their cumulative sums."""

import torch

from pcircuits.types import Float, Int, Tensor

_FEW = 8  # shares that are compared sooner than searched


def draw(
    weights: Float[Tensor, "R J"], generator: torch.Generator | None, rows: Int[Tensor, " M"] | None = None
) -> Int[Tensor, " M"]:
    """One index a row with probability proportional to its weight, or one for each of `rows`, which may repeat.

    What has weight zero is never drawn.
    """
    cumulative = weights.double().cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    last_positive = torch.searchsorted(cumulative, total)
    if rows is not None:
        shares = torch.where(total > 0, cumulative / total, 1.0)
        return _draw_many(shares, last_positive, rows, generator)
    target = torch.rand(total.shape, dtype=torch.float64, device=weights.device, generator=generator) * total
    index = torch.searchsorted(cumulative, target, right=True)
    return torch.minimum(index, last_positive).squeeze(-1)


def _draw_many(
    shares: Float[Tensor, "R J"],
    last_positive: Int[Tensor, "R 1"],
    rows: Int[Tensor, " M"],
    generator: torch.Generator | None,
) -> Int[Tensor, " M"]:
    """All rows end to end are one increasing sequence, row r from r to r + 1; a few shares are looked at each."""
    count, width = shares.shape
    target = torch.rand(rows.shape, dtype=torch.float64, device=rows.device, generator=generator)
    if width <= _FEW:  # the last share is one
        passed = (share[rows] <= target for share in shares[:, :-1].T.contiguous())
        return sum(passed, torch.zeros_like(rows))
    ends = (shares + torch.arange(count, device=rows.device).unsqueeze(-1)).flatten()
    index = torch.searchsorted(ends, target + rows, right=True) - rows * width
    return torch.minimum(index.clamp_min(0), last_positive.squeeze(-1)[rows])
