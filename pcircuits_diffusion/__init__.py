"""Coupled output heads for discrete diffusion models: joint sampling of the tokens of a step (Li et al. 2026)."""

from pcircuits_diffusion import backbones, constraints, corpus, embedded, evaluate
from pcircuits_diffusion.backbone import Backbone, CallableBackbone, ModuleBackbone
from pcircuits_diffusion.backbones import Guided, MaskedTransformer, TransformerConfig, load_backbone
from pcircuits_diffusion.convert import convert_head
from pcircuits_diffusion.coupling import CoupledPosterior, Independent
from pcircuits_diffusion.decoding import Step
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.hub import HubError
from pcircuits_diffusion.joint_training import train_jointly
from pcircuits_diffusion.logit_cache import cache_logits
from pcircuits_diffusion.mixture import HeadMixture, MixturePosterior
from pcircuits_diffusion.model import CoupledDiffusion, Generated
from pcircuits_diffusion.prior_start import em_start, split_blocks
from pcircuits_diffusion.training import Objective, train_head

__all__ = [
    "Backbone",
    "CallableBackbone",
    "CoupledDiffusion",
    "CoupledHead",
    "CoupledPosterior",
    "Generated",
    "Guided",
    "HeadMixture",
    "HubError",
    "Independent",
    "MaskedTransformer",
    "MixturePosterior",
    "ModuleBackbone",
    "Objective",
    "Step",
    "TransformerConfig",
    "backbones",
    "cache_logits",
    "constraints",
    "convert_head",
    "corpus",
    "em_start",
    "embedded",
    "evaluate",
    "load_backbone",
    "split_blocks",
    "train_head",
    "train_jointly",
]
