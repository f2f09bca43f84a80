"""Drawing from unnormalised weights by inverting their cumulative sums."""

import torch

from pcircuits.types import Float, Int, Tensor


def draw(weights: Float[Tensor, "M J"], generator: torch.Generator | None) -> Int[Tensor, " M"]:
    """One index a row with probability proportional to its weight; an index of weight zero is never drawn."""
    cumulative = weights.double().cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    target = torch.rand(total.shape, dtype=torch.float64, device=weights.device, generator=generator) * total
    index = torch.searchsorted(cumulative, target, right=True)
    last_positive = torch.searchsorted(cumulative, total)
    return torch.minimum(index, last_positive).squeeze(-1)
