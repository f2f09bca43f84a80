"""What families with attention masks share: which tokens see which, and where a token stands in its row."""

import torch

from pcircuits.types import Bool, Int, Tensor


def visible_pairs(valid: Bool[Tensor, "B L"]) -> Bool[Tensor, "B 1 L L"]:
    """True where a query may look at a key: at real tokens, and always at itself, so that no query of padding is empty
    and NaN.
    """
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return (valid[:, None, :] | itself)[:, None]


def positions_in_row(valid: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """0, 1, ... for the real tokens of each row, 0 on padding before them."""
    return (valid.long().cumsum(1) - 1).clamp(min=0)
