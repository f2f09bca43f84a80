"""Coupled output heads for discrete diffusion models: joint sampling of the tokens of a step (Li et al. 2026)."""

from pcircuits_diffusion import constraints, corpus, embedded, evaluate
from pcircuits_diffusion.backbone import Backbone, CallableBackbone
from pcircuits_diffusion.backbones import MaskedTransformer, TransformerConfig
from pcircuits_diffusion.coupling import CoupledPosterior, Independent
from pcircuits_diffusion.decoding import Step
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.logit_cache import cache_logits
from pcircuits_diffusion.model import CoupledDiffusion, Generated
from pcircuits_diffusion.prior_start import em_start, split_blocks
from pcircuits_diffusion.training import train_head

__all__ = [
    "Backbone",
    "CallableBackbone",
    "CoupledDiffusion",
    "CoupledHead",
    "CoupledPosterior",
    "Generated",
    "Independent",
    "MaskedTransformer",
    "Step",
    "TransformerConfig",
    "cache_logits",
    "constraints",
    "corpus",
    "em_start",
    "embedded",
    "evaluate",
    "split_blocks",
    "train_head",
]
