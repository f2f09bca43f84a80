"""The text that is decided step by step: prompts and new columns, or a text with gaps.

Axes: B rows, C columns of the canvas, N columns of them that are new (all where gaps are filled), L of a region.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.decoding.prompts import Prompts
from pcircuits_diffusion.decoding.randomness import Randomness
from pcircuits_diffusion.decoding.region import Region


class Marks(NamedTuple):
    """What stands for the undecided and for the end.

    `mask_id`: stands for an undecided token. `eos_id`: ends a row once it is decided among the new columns; None: no
    token does. `noise`: None, or V for a backbone without a mask token, which sees undecided tokens as noise, uniform
    over V: all positions of a region are then predicted, and may be decided anew, in every step until it is decided as
    a whole; `mask_id` only marks what is undecided in results.
    """

    mask_id: int
    eos_id: int | None = None
    noise: int | None = None


class Canvas:
    """Tokens (B, C), which of them are undecided, which are wanted, and which are padding.

    Columns that are masked but not wanted (the rest of a last block that is not asked for in full) are never decided.
    `asked`: the columns that are returned; a row's end is looked for from their first one on.
    """

    def __init__(
        self,
        text: tuple[Int[Tensor, "B C"], Bool[Tensor, "B C"]],
        mask: Bool[Tensor, "B C"],
        wanted: Bool[Tensor, "B C"],
        asked: slice,
        marks: Marks,
    ) -> None:
        tokens, self.valid = text
        self.tokens: Int[Tensor, "B C"] = tokens.masked_fill(mask, marks.mask_id)
        self.mask, self.new, self.wanted = mask.clone(), mask, wanted
        self.asked, self.first = asked, int(asked.start)
        self.mask_id, self.eos_id, self.noise = marks
        self.confidence: Float[Tensor, "B C"] = torch.zeros(mask.shape, device=mask.device)

    @classmethod
    def after(cls, prompts: Prompts, columns: int, max_new_tokens: int, marks: Marks) -> "Canvas":
        """Prompts followed by `columns` undecided ones, of which the first `max_new_tokens` are wanted."""
        asked = slice(prompts.tokens.shape[1], prompts.tokens.shape[1] + max_new_tokens)
        tokens, valid = F.pad(prompts.tokens, (0, columns)), F.pad(prompts.valid, (0, columns), value=True)
        mask, wanted = torch.zeros_like(valid), torch.zeros_like(valid)
        mask[:, asked.start :], wanted[:, asked] = True, True
        return cls((tokens, valid), mask, wanted, asked, marks)

    @classmethod
    def filling(cls, texts: Prompts, gaps: Bool[Tensor, "B P"], head_length: int, marks: Marks) -> "Canvas":
        """Texts with gaps. A text shorter than the head is followed by as many undecided columns, not wanted, as it
        lacks.
        """
        width = max(head_length, texts.tokens.shape[1])
        sizes = texts.valid.sum(1, keepdim=True)
        columns = torch.arange(width, device=gaps.device) - (width - sizes.clamp(min=head_length))
        inside = (columns >= 0) & (columns < sizes)
        tokens, wanted = torch.zeros_like(columns), torch.zeros_like(inside)
        tokens[inside], wanted[inside] = texts.tokens[texts.valid], gaps[texts.valid]
        return cls((tokens, columns >= 0), wanted | (columns >= sizes), wanted, slice(0, width), marks)

    def ended(self) -> Bool[Tensor, "B N"]:
        """New columns from a row's first end-of-text token on."""
        if self.eos_id is None:
            return torch.zeros_like(self.mask[:, self.first :])
        is_eos = (self.tokens == self.eos_id) & ~self.mask
        return is_eos[:, self.first :].cumsum(1) > 0

    def open(self, region: Region) -> Bool[Tensor, "B L"]:
        """Wanted columns of the region that may be committed: undecided ones before a row's end."""
        chosen = torch.zeros_like(self.mask)
        chosen[:, region.chosen] = self.wanted[:, region.chosen]
        undecided = chosen & self.mask
        undecided[:, self.first :] &= ~self.ended()
        if self.noise is not None:
            undecided = chosen & undecided.any(-1, keepdim=True)
        return undecided[:, region.decoded]

    def hidden(self, region: Region) -> Bool[Tensor, "B L"]:
        """Columns of the region whose tokens are no evidence."""
        return (self.mask if self.noise is None else self.new)[:, region.decoded]

    def decided(self, region: Region) -> Bool[Tensor, "B L"]:
        """Columns of the region that earlier steps decided, before a row's end."""
        decided = torch.zeros_like(self.mask)
        decided[:, region.chosen] = (self.wanted & ~self.mask)[:, region.chosen]
        decided[:, self.first :] &= ~self.ended()
        return decided[:, region.decoded]

    def commit(
        self,
        region: Region,
        rows: Int[Tensor, " R"],
        tokens: Int[Tensor, "R L"],
        positions: Bool[Tensor, "R L"],
        confidence: Float[Tensor, "R L"],
    ) -> Bool[Tensor, "B N"]:
        """Decides some positions of some rows; returns them as columns of the new part."""
        committed = torch.zeros_like(self.mask)
        committed[rows, region.decoded] = positions
        if self.noise is not None:
            self.mask[rows, region.chosen] = self.new[rows, region.chosen]
        self.tokens[rows, region.decoded] = torch.where(positions, tokens, self.tokens[rows, region.decoded])
        self.confidence[rows, region.decoded] = torch.where(
            positions, confidence.to(self.confidence), self.confidence[rows, region.decoded]
        )
        self.mask &= ~committed
        return self.shown(committed)

    def remask(self, region: Region, rows: Int[Tensor, " R"], positions: Bool[Tensor, "R L"]) -> Bool[Tensor, "B N"]:
        """Takes decisions back; returns them as columns of the new part."""
        taken_back = torch.zeros_like(self.mask)
        taken_back[rows, region.decoded] = positions
        self.mask |= taken_back
        self.tokens.masked_fill_(taken_back, self.mask_id)
        return self.shown(taken_back)

    def renew_noise(self, rows: Int[Tensor, " R"], randomness: Randomness) -> None:
        """Draws the undecided tokens of some rows anew, for a backbone that sees them."""
        if self.noise is None:
            return
        for index, generator in randomness.groups(rows, torch.zeros_like(rows, dtype=torch.bool)):
            undecided = torch.zeros_like(self.mask)
            undecided[rows[index]] = self.mask[rows[index]]
            count = int(undecided.sum())
            self.tokens[undecided] = torch.randint(self.noise, (count,), generator=generator, device=rows.device)

    def close_ended(self) -> None:
        """Fills what follows a row's end with the end-of-text token, as decided."""
        if self.eos_id is None:
            return
        ended = self.ended()
        self.tokens[:, self.first :].masked_fill_(ended, self.eos_id)
        self.mask[:, self.first :] &= ~ended

    def shown(self, x: Tensor) -> Tensor:
        """(B, C) as the columns that were asked for, (B, N)."""
        return x[:, self.asked]

    def generated(self) -> Int[Tensor, "B N"]:
        """The new tokens: the mask where undecided, end-of-text after a row's end."""
        new = torch.where(self.mask, self.mask_id, self.tokens)
        if self.eos_id is not None:
            new[:, self.first :].masked_fill_(self.ended(), self.eos_id)
        return self.shown(new)
