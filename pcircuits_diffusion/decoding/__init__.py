"""Decoding: one loop, made of a quota, a score, a region and a reviser around a sampler."""

from pcircuits_diffusion.decoding.canvas import Canvas, Marks
from pcircuits_diffusion.decoding.gaps import Masks, gaps_of, restored
from pcircuits_diffusion.decoding.loop import Models, Step, decode
from pcircuits_diffusion.decoding.predictions import require_marginals
from pcircuits_diffusion.decoding.prompts import PromptIds, Prompts
from pcircuits_diffusion.decoding.proposals import SAMPLERS
from pcircuits_diffusion.decoding.quota import ADAPTIVE, SCHEDULES
from pcircuits_diffusion.decoding.randomness import Randomness
from pcircuits_diffusion.decoding.region import REGIONS, Region, Sizes
from pcircuits_diffusion.decoding.reviser import REVISERS, Revision
from pcircuits_diffusion.decoding.score import SCORES, Candidates
from pcircuits_diffusion.decoding.settings import Settings
from pcircuits_diffusion.decoding.view import Commit, Rule, View

__all__ = [
    "ADAPTIVE",
    "REGIONS",
    "REVISERS",
    "SAMPLERS",
    "SCHEDULES",
    "SCORES",
    "Candidates",
    "Canvas",
    "Commit",
    "Marks",
    "Masks",
    "Models",
    "PromptIds",
    "Prompts",
    "Randomness",
    "Region",
    "Revision",
    "Rule",
    "Settings",
    "Sizes",
    "Step",
    "View",
    "decode",
    "gaps_of",
    "require_marginals",
    "restored",
]
