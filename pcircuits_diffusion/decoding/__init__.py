"""Decoding: one loop, made of a quota, a score, a region and a sampler."""

from pcircuits_diffusion.decoding.canvas import Canvas
from pcircuits_diffusion.decoding.loop import Models, Step, decode, require_marginals
from pcircuits_diffusion.decoding.prompts import PromptIds, Prompts
from pcircuits_diffusion.decoding.proposals import SAMPLERS, Commit, View
from pcircuits_diffusion.decoding.randomness import Randomness
from pcircuits_diffusion.decoding.region import Region, blocks
from pcircuits_diffusion.decoding.score import SCORES
from pcircuits_diffusion.decoding.settings import Settings

__all__ = [
    "SAMPLERS",
    "SCORES",
    "Canvas",
    "Commit",
    "Models",
    "PromptIds",
    "Prompts",
    "Randomness",
    "Region",
    "Settings",
    "Step",
    "View",
    "blocks",
    "decode",
    "require_marginals",
]
