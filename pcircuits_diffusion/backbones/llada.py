"""LLaDA (Nie et al. 2025): bidirectional, no shift, no time, a mask token inside the vocabulary.

Its published modelling files differ in padding: some read neither `attention_mask` nor `attention_bias`, some both.
Those that read a 2-D mask build their bias from it in ways of their own; an explicit bias leaves no choice, and whether
it is read is tried out.
"""

from typing import Any

import torch

from pcircuits.types import Tensor
from pcircuits_diffusion.backbone import ModuleBackbone
from pcircuits_diffusion.backbones.attention import visible_pairs

MASK_ID = 126336


def llada(module: Any, *, mask_id: int = MASK_ID, **options: Any) -> ModuleBackbone:
    """`module(ids, attention_bias=(B, 1, L, L) bool).logits`; `options` are those of `ModuleBackbone`.

    Where the module ignores the bias, rows of different length run one after another.
    """
    return ModuleBackbone(module, mask_id=mask_id, call=_call, pads=_reads_bias(module), **options)


def _call(module: Any, tokens: Tensor, valid: Tensor | None) -> Any:
    bias = None if valid is None else visible_pairs(valid)
    return module(
        tokens, attention_bias=bias, use_cache=False
    )  # its configuration need not say, and a cache is refused


@torch.no_grad()
def _reads_bias(module: Any) -> bool:
    """Whether two different tokens behind the padding mask leave the prediction beside them as it is."""
    device = next((parameter.device for parameter in module.parameters()), None)
    tokens = torch.tensor([[0, 0], [1, 0]], device=device)
    logits = _call(module, tokens, torch.tensor([[False, True]] * 2, device=device)).logits[:, 1].float()
    return bool((logits[0] - logits[1]).abs().max() <= 1e-5 * logits.abs().max())
