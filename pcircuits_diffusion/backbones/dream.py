"""Dream (Ye et al. 2025) and models made from it (DiffuCoder, Dream-Coder, d3LLM-Dream): an autoregressive model's
shift by one, a 4-D attention mask, explicit positions.

Upstream moves the logits with `cat([l[:, :1], l[:, :-1]], 1)`, so that position 0 keeps its own, which predict position
1: a mask there has no prediction and is refused. Upstream's mask leaves queries of padding without a key; here they see
themselves, which keeps NaN out and changes no real token.
"""

from typing import Any

from pcircuits.types import Tensor
from pcircuits_diffusion.backbone import ModuleBackbone
from pcircuits_diffusion.backbones.attention import positions_in_row, visible_pairs


def dream(module: Any, *, mask_id: int = 151666, **options: Any) -> ModuleBackbone:
    """`module(ids, "full" or (B, 1, L, L) bool, position_ids).logits`; `options` are those of `ModuleBackbone`."""
    return ModuleBackbone(module, mask_id=mask_id, call=_call, shift=True, pads=True, **options)


def _call(module: Any, tokens: Tensor, valid: Tensor | None) -> Any:
    if valid is None:
        return module(tokens, attention_mask="full")
    return module(tokens, attention_mask=visible_pairs(valid), position_ids=positions_in_row(valid))
