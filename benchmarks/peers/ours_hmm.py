"""This library on an HMM."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import pcircuits as pc

KEEP = 1e-6
"""Share of an EM step, so that repetitions work on nearly the same parameters."""


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    x = torch.from_numpy(arrays["x"])
    tables = [torch.from_numpy(arrays[name]) for name in ("initial", "transition", "emission")]
    hmm = pc.HMM.from_probs(*tables, length=x.shape[1])
    workspace = pc.Workspace()
    generator = torch.Generator().manual_seed(0)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return hmm.log_prob(x, workspace=workspace)

    def em() -> torch.Tensor:
        found = hmm.statistics(x, workspace=workspace)
        hmm.maximise(found, step=KEEP)
        return found.log_likelihood.view(1)

    def gradient() -> None:
        hmm.zero_grad()
        hmm.log_prob(x, workspace=workspace).sum().backward()

    def em_transition() -> torch.Tensor:
        """The transition matrix after one EM step, which is then taken back."""
        hmm.maximise(hmm.statistics(x))
        found = hmm.transition.detach().clone()
        hmm.set_probs(*tables)
        return found

    return {
        "forward": forward,
        "forward_total": lambda: forward().sum().view(1),
        "em": em,
        "gradient": gradient,
        "em_transition": em_transition,
        "transition_counts": lambda: hmm.statistics(x).counts["transition"]["counts"][0],
        "sample": lambda: hmm.sample(1000, generator=generator),
    }
