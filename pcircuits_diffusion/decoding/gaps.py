"""Texts with gaps: which positions are to be filled, and the filled texts in the shape of the given ones."""

from collections.abc import Sequence

import torch

import pcircuits as pc
from pcircuits.types import Bool, Tensor
from pcircuits_diffusion.decoding.prompts import PromptIds, Prompts

Masks = Tensor | Sequence[Tensor] | Sequence[Sequence[bool]] | Sequence[bool]


def gaps_of(
    texts: Prompts, mask: Masks | None, mask_id: int, valid: Bool[Tensor, "B N"] | None = None
) -> Bool[Tensor, "B P"]:
    """What a mask of the given texts' own shape says, or all positions that hold the mask id; aligned with `texts`.

    Raises:
        pc.ShapeError: a mask that is not bool or not as long as its text. pc.DataError: there is nothing to fill.
    """
    gaps = texts.valid & (texts.tokens == mask_id)
    if mask is not None:
        rows = [torch.as_tensor(row) for row in (mask if _is_nested(mask) else [mask])]
        if len(rows) != len(gaps):
            raise pc.ShapeError(f"`mask` must have one row for each of {len(gaps)} texts, got {len(rows)}")
        for row, given in enumerate(rows):
            length = int(texts.valid[row].sum()) if valid is None else valid.shape[1]
            if given.dtype != torch.bool or given.shape != (length,):
                raise pc.ShapeError(
                    f"`mask` of row {row} must be bool of shape ({length},), got {given.dtype} {tuple(given.shape)}"
                )
            gaps[row, texts.valid[row]] = given if valid is None else given[valid[row]]
    if not gaps.any():
        raise pc.DataError(f"there is nothing to fill: no position is masked (the mask id is {mask_id})")
    return gaps


def restored(filled: list[Tensor], given: PromptIds, valid: Bool[Tensor, "B N"] | None) -> Tensor | list[Tensor]:
    """Filled texts as a tensor of the given one's shape, or as a list where a list of rows was given."""
    if not isinstance(given, Tensor):
        return filled if _is_nested(given) else filled[0]
    result = given.clone()
    rows = result.unsqueeze(0) if given.ndim == 1 else result
    for row, text in enumerate(filled):
        kept = slice(None) if valid is None else valid[row]
        rows[row, kept] = text.to(result)
    return result


def _is_nested(rows: Masks | PromptIds) -> bool:
    if isinstance(rows, Tensor):
        return rows.ndim > 1
    return any(not isinstance(row, int) for row in rows)
