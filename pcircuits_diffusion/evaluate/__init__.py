"""How well a coupled head models masked tokens: exact likelihoods, paired intervals, generation metrics, run time."""

from pcircuits_diffusion.evaluate.bootstrap import DocumentBootstrap, Interval
from pcircuits_diffusion.evaluate.continuations import ContinuationScore, Scheme, score_continuations
from pcircuits_diffusion.evaluate.curves import FACTORISED, SEQUENTIAL, Curves, MaskRatioCurves, StepLikelihoods
from pcircuits_diffusion.evaluate.generation import GenerationMetrics, generation_metrics
from pcircuits_diffusion.evaluate.likelihood import Setting, Study, perplexity_vs_mask_ratio, study
from pcircuits_diffusion.evaluate.orders import draw_orders, masked_counts, step_sizes
from pcircuits_diffusion.evaluate.overhead import Overhead, head_overhead
from pcircuits_diffusion.evaluate.rules import prior_alone, unigram

__all__ = [
    "FACTORISED",
    "SEQUENTIAL",
    "ContinuationScore",
    "Curves",
    "DocumentBootstrap",
    "GenerationMetrics",
    "Interval",
    "MaskRatioCurves",
    "Overhead",
    "Scheme",
    "Setting",
    "StepLikelihoods",
    "Study",
    "draw_orders",
    "generation_metrics",
    "head_overhead",
    "masked_counts",
    "perplexity_vs_mask_ratio",
    "prior_alone",
    "score_continuations",
    "step_sizes",
    "study",
    "unigram",
]
