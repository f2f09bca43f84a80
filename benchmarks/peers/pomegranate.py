"""pomegranate's DenseHMM with the same parameters; its end probabilities are one, which is to have none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pomegranate.distributions import Categorical
from pomegranate.hmm import DenseHMM


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    x = torch.from_numpy(arrays["x"]).unsqueeze(-1)

    def build() -> DenseHMM:
        emissions = [Categorical(torch.from_numpy(row).view(1, -1)) for row in arrays["emission"]]
        ends = np.ones_like(arrays["initial"])
        return DenseHMM(emissions, edges=arrays["transition"], starts=arrays["initial"], ends=ends)

    hmm = build()

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return hmm.log_probability(x)

    def transition_counts() -> torch.Tensor:
        fresh = build()
        with torch.no_grad():
            fresh.summarize(x)
            return fresh._xw_sum

    learner = build()

    def em() -> list[float]:
        with torch.no_grad():
            total = learner.summarize(x).sum().item()
            learner.from_summaries()
        return [total]

    return {"forward": forward, "em": em, "transition_counts": transition_counts}
