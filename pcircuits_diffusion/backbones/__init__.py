"""Backbones, one family a file; each is a configuration of `ModuleBackbone`."""

from pcircuits_diffusion.backbones.diffusion_gemma import DiffusionGemma
from pcircuits_diffusion.backbones.dream import dream
from pcircuits_diffusion.backbones.guidance import Guided
from pcircuits_diffusion.backbones.llada import llada
from pcircuits_diffusion.backbones.load import load_backbone
from pcircuits_diffusion.backbones.masked_lm import bert, esm, masked_lm
from pcircuits_diffusion.backbones.mdlm import bd3lm, mdlm
from pcircuits_diffusion.backbones.sedd import sedd
from pcircuits_diffusion.backbones.transformer import MaskedTransformer, TransformerConfig

__all__ = [
    "DiffusionGemma",
    "Guided",
    "MaskedTransformer",
    "TransformerConfig",
    "bd3lm",
    "bert",
    "dream",
    "esm",
    "llada",
    "load_backbone",
    "masked_lm",
    "mdlm",
    "sedd",
]
