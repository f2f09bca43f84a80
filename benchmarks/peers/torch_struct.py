"""torch-struct's linear chain with the same parameters; its potentials have an entry a pair of states and step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch_struct import LinearChainCRF
from torch_struct.linearchain import LinearChain


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    x = torch.from_numpy(arrays["x"])
    initial = torch.from_numpy(arrays["initial"]).log().requires_grad_()
    # its edges lead from the last axis to the one before
    transition = torch.from_numpy(arrays["transition"]).log().mT.contiguous().requires_grad_()
    emission = torch.from_numpy(arrays["emission"]).log().mT.contiguous().requires_grad_()

    def log_evidence() -> torch.Tensor:
        return LinearChainCRF(LinearChain.hmm(transition, emission, initial, x)).partition

    def forward() -> torch.Tensor:
        return log_evidence().detach()

    def gradient() -> None:
        for parameter in (initial, transition, emission):
            parameter.grad = None
        log_evidence().sum().backward()

    def transition_counts() -> torch.Tensor:
        gradient()
        assert transition.grad is not None
        return transition.grad.mT

    return {"forward": forward, "gradient": gradient, "transition_counts": transition_counts}
