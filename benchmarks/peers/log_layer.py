"""One level as log-einsum-exp (Peharz et al. 2020, Sec. 3.2), which most libraries compute, with autograd's flows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    log_weights = torch.from_numpy(arrays["weights"]).log().requires_grad_()
    left, right = torch.from_numpy(arrays["values"]).log().chunk(2)
    units = left.shape[-1]
    flows = torch.full_like(left, 1.0 / units)

    def values(linear: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
        peak = product.detach().amax(-1, keepdim=True)
        return torch.bmm((product - peak).exp(), linear.mT).log() + peak

    @torch.no_grad()
    def forward() -> torch.Tensor:
        return values(linear, left + right)

    linear = log_weights.detach().exp()

    def train() -> torch.Tensor:
        a, b = left.detach().requires_grad_(), right.detach().requires_grad_()
        values(log_weights.exp(), a + b).backward(flows)
        gradient, log_weights.grad = log_weights.grad, None
        assert gradient is not None
        return gradient

    return {"forward": forward, "train": train, "values": forward, "counts": train}
