"""The growing text: prompts, then columns that are decided step by step.

Axes: B rows, C columns of the canvas, N new columns.
"""

import torch

from pcircuits.types import Bool, Int, Tensor
from pcircuits_diffusion.decoding.prompts import Prompts
from pcircuits_diffusion.decoding.region import Region


class Canvas:
    """Tokens (B, C), which of them are still masked, and which are padding.

    Columns from `max_new_tokens` on (the rest of a last block that is not asked for in full) are never decided.
    """

    def __init__(
        self, prompts: Prompts, columns: int, max_new_tokens: int, *, mask_id: int, eos_id: int | None
    ) -> None:
        batch, self.context = prompts.tokens.shape
        new = prompts.tokens.new_full((batch, columns), mask_id)
        self.tokens: Int[Tensor, "B C"] = torch.cat([prompts.tokens, new], 1)
        self.valid: Bool[Tensor, "B C"] = torch.cat([prompts.valid, torch.ones_like(new, dtype=torch.bool)], 1)
        self.mask: Bool[Tensor, "B C"] = torch.zeros_like(self.valid)
        self.mask[:, self.context :] = True
        self.max_new_tokens, self.mask_id, self.eos_id = max_new_tokens, mask_id, eos_id

    def ended(self) -> Bool[Tensor, "B N"]:
        """New columns from a row's first end-of-text token on."""
        if self.eos_id is None:
            return torch.zeros_like(self.mask[:, self.context :])
        is_eos = (self.tokens == self.eos_id) & ~self.mask
        return is_eos[:, self.context :].cumsum(1) > 0

    def open(self, region: Region) -> Bool[Tensor, "B L"]:
        """Undecided columns of the region before a row's end."""
        allowed = self.mask.clone()
        allowed[:, self.context :] &= ~self.ended()
        allowed[:, self.context + self.max_new_tokens :] = False
        return allowed[:, region.decoded]

    def commit(
        self, region: Region, rows: Int[Tensor, " R"], tokens: Int[Tensor, "R L"], positions: Bool[Tensor, "R L"]
    ) -> Bool[Tensor, "B N"]:
        """Decides some positions of some rows; returns them as columns of the new part."""
        committed = torch.zeros_like(self.mask)
        committed[rows, region.decoded] = positions
        self.tokens[rows, region.decoded] = torch.where(positions, tokens, self.tokens[rows, region.decoded])
        self.mask &= ~committed
        return committed[:, self.context :][:, : self.max_new_tokens]

    def close_ended(self) -> None:
        """Fills what follows a row's end with the end-of-text token, as decided."""
        if self.eos_id is None:
            return
        ended = self.ended()
        self.tokens[:, self.context :].masked_fill_(ended, self.eos_id)
        self.mask[:, self.context :] &= ~ended

    def generated(self) -> Int[Tensor, "B N"]:
        """The new tokens: the mask where undecided, end-of-text after a row's end."""
        new = torch.where(self.mask, self.mask_id, self.tokens)[:, self.context :]
        if self.eos_id is not None:
            new = new.masked_fill(self.ended(), self.eos_id)
        return new[:, : self.max_new_tokens]
