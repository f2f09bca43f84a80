"""Backbones, one family a file."""

from pcircuits_diffusion.backbones.transformer import MaskedTransformer, TransformerConfig

__all__ = ["MaskedTransformer", "TransformerConfig"]
