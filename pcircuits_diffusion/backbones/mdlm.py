"""MDLM (Sahoo et al. 2024) and BD3-LM (Arriola et al. 2025): plain tensors out, a time in, the mask id behind the
tokens (V of V + 1), no padding.

SUBS, upstream's parameterisation, is what every `ModuleBackbone` does: the mask column -inf, then normalised. Upstream
writes it into the module's logits; here they stay as they are.
"""

from typing import Any

import torch

import pcircuits as pc
from pcircuits.types import Float, Int, Tensor
from pcircuits_diffusion.backbone import ModuleBackbone

MIN_MASK_RATIO = 1e-3  # upstream's `eps`: its noise never starts at zero, nor does it end at one


def absorbing_sigma(tokens: Int[Tensor, "B L"], mask_id: int) -> Float[Tensor, " B"]:
    """The log-linear noise level at which a row's own share of masks is expected: -log(1 - ratio)."""
    ratio = (tokens == mask_id).float().mean(1).clamp(MIN_MASK_RATIO, 1 - MIN_MASK_RATIO)
    return -torch.log1p(-ratio)


def mdlm(module: Any, *, vocab_size: int, **options: Any) -> ModuleBackbone:
    """`module(ids, sigma (B,))` -> logits (B, L, V + 1): the repository's `DIT`, or the `MDLM` of the hub."""
    return _timed(module, vocab_size, options)


def bd3lm(module: Any, *, vocab_size: int, **options: Any) -> ModuleBackbone:
    """`module(ids, timesteps, sample_mode=True)`: every position sees its own block and those before.

    Blocks are counted from the first token of a row, padding left out; let those that you decode begin where they do.

    Raises:
        pc.ParameterError: attention other than "sdpa", the only one that upstream can sample with.
    """
    if (attention := getattr(getattr(module, "config", None), "attn_backend", "sdpa")) != "sdpa":
        raise pc.ParameterError(f"BD3-LM samples with `attn_backend` 'sdpa' only, this module has {attention!r}")
    return _timed(module, vocab_size, options, sample_mode=True)


def _timed(module: Any, vocab_size: int, options: dict[str, Any], **arguments: Any) -> ModuleBackbone:
    """Both get zeros for a time unless they were trained with times, as upstream."""
    timed = bool(getattr(getattr(module, "config", None), "time_conditioning", False))

    def call(module: Any, tokens: Tensor, valid: Tensor | None) -> Any:
        sigma = absorbing_sigma(tokens, vocab_size)
        return module(tokens, sigma if timed else torch.zeros_like(sigma), **arguments)

    output_layer = getattr(getattr(module, "backbone", module), "output_layer", None)
    options = {"output_layer": output_layer, "columns": vocab_size + 1, **options}
    return ModuleBackbone(module, vocab_size, vocab_size, call=call, **options)
