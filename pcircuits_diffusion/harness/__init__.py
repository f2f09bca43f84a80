"""A model for the lm-evaluation-harness (extra `lm-eval`): `import pcircuits_diffusion.harness` registers it."""

from pcircuits_diffusion.harness.model import CoupledDiffusionLM

__all__ = ["CoupledDiffusionLM"]
