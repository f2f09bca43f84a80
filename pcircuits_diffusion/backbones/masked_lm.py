"""Masked language models of transformers: BERT, RoBERTa, ModernBERT, ESM.

They were trained with about 15% of the tokens masked: at high ratios they are asked what they have not learned.
"""

from typing import Any

import pcircuits as pc
from pcircuits.types import Tensor
from pcircuits_diffusion.backbone import ModuleBackbone
from pcircuits_diffusion.backbones.attention import positions_in_row

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def bert(module: Any, **options: Any) -> ModuleBackbone:
    """Positions count from 0 wherever a row begins; left to itself the module would count padding."""
    return ModuleBackbone(module, call=_call_bert, pads=True, **options)


def masked_lm(module: Any, **options: Any) -> ModuleBackbone:
    """RoBERTa, which tells padding by `pad_id` too, and ModernBERT, whose positions are relative."""
    return ModuleBackbone(module, call=_call, pads=True, **options)


def esm(module: Any, **options: Any) -> ModuleBackbone:
    """ESM-2 scales its embeddings by 1 / (1 - mask ratio): a row of nothing but masks would divide by zero."""
    mask_id = options["mask_id"]

    def call(module: Any, tokens: Tensor, valid: Tensor | None) -> Any:
        open_or_padding = tokens == mask_id if valid is None else (tokens == mask_id) | ~valid
        if (bad := open_or_padding.all(1)).any():
            rows = bad.nonzero().flatten()[:8].tolist()
            raise pc.DataError(f"rows {rows} hold nothing but masks, where ESM divides by zero; keep <cls> and <eos>")
        return _call(module, tokens, valid)

    return ModuleBackbone(module, call=call, pads=True, **options)


def _call(module: Any, tokens: Tensor, valid: Tensor | None) -> Any:
    return module(tokens, attention_mask=None if valid is None else valid.long())


def _call_bert(module: Any, tokens: Tensor, valid: Tensor | None) -> Any:
    if valid is None:
        return module(tokens)
    return module(tokens, attention_mask=valid.long(), position_ids=positions_in_row(valid))
