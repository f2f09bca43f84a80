"""Prompts of unequal length as one left-padded batch."""

from collections.abc import Sequence

import torch

import pcircuits as pc
from pcircuits.types import Bool, Int, Tensor

PromptIds = Tensor | Sequence[Tensor] | Sequence[Sequence[int]] | Sequence[int]


class Prompts:
    """Token ids (B, P), padded on the left; `valid` (B, P) is False on padding.

    Args:
        prompt_ids: (P,) or (B, P) ids, a list of ids, or a list of one sequence of ids a row. None is one empty prompt.
        valid: (B, P) bool for a padded tensor, padding on either side.
        start: the token that takes the place of an empty prompt.

    Raises:
        pc.ShapeError, pc.DataError: no rows, ids that are not integers, or an empty prompt without `start`.
    """

    def __init__(
        self,
        prompt_ids: PromptIds | None,
        *,
        valid: Bool[Tensor, "B P"] | None = None,
        start: int | None = None,
    ) -> None:
        rows = [row if len(row) else _start(start) for row in _rows(prompt_ids, valid)]
        if not rows:
            raise pc.ShapeError("`prompt_ids` has no rows; give at least one prompt, or None to start from nothing")
        length = max(len(row) for row in rows)
        device = rows[0].device
        self.tokens: Int[Tensor, "B P"] = torch.zeros(len(rows), length, dtype=torch.long, device=device)
        self.valid: Bool[Tensor, "B P"] = torch.zeros(len(rows), length, dtype=torch.bool, device=device)
        for i, row in enumerate(rows):
            self.tokens[i, length - len(row) :] = row
            self.valid[i, length - len(row) :] = True

    def require_tokens(self, vocab_size: int, mask_id: int, given: Bool[Tensor, "B P"] | None = None) -> None:
        """Raises where an id (of those that are given) is not a token of the backbone, or is its mask."""
        wrong = (self.tokens < 0) | (self.tokens >= vocab_size) | (self.tokens == mask_id)
        if (bad := wrong & (self.valid if given is None else given)).any():
            rows = bad.any(1).nonzero().flatten()[:8].tolist()
            raise pc.DataError(
                f"prompt rows {rows} hold ids that are the mask ({mask_id}) or outside 0..{vocab_size - 1}"
            )


def _rows(prompt_ids: PromptIds | None, valid: Tensor | None) -> list[Tensor]:
    if prompt_ids is None:
        return [torch.zeros(0, dtype=torch.long)]
    if not isinstance(prompt_ids, Tensor):
        if valid is not None:
            raise pc.ShapeError("`valid` belongs to a padded tensor of prompts; a list of prompts needs none")
        nested = [row for row in prompt_ids if not isinstance(row, int)]
        return [_ids(row) for row in nested] if nested or not prompt_ids else [_ids(prompt_ids)]
    batch = prompt_ids.unsqueeze(0) if prompt_ids.ndim == 1 else prompt_ids
    if batch.ndim != 2:
        raise pc.ShapeError(f"`prompt_ids` must have shape (P,) or (B, P), got {tuple(prompt_ids.shape)}")
    if valid is None:
        return [_ids(row) for row in batch]
    if valid.dtype != torch.bool or valid.shape != batch.shape:
        raise pc.ShapeError(
            f"`valid` must be bool of shape {tuple(batch.shape)}, got {valid.dtype} {tuple(valid.shape)}"
        )
    return [_ids(row[keep]) for row, keep in zip(batch, valid, strict=True)]


def _ids(row: object) -> Tensor:
    ids = row if isinstance(row, Tensor) else torch.tensor(row)
    if ids.ndim != 1 or (len(ids) and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)):
        raise pc.ShapeError(f"a prompt must be a sequence of integer ids, got {ids.dtype} of shape {tuple(ids.shape)}")
    return ids.long()


def _start(start: int | None) -> Tensor:
    if start is None:
        raise pc.DataError("an empty prompt starts from the end-of-text token; give `eos_id`, or a prompt")
    return torch.tensor([start])
