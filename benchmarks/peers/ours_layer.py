"""This library on one level: product of two children, dense sum, rescale; flows and counts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pcircuits.semiring import Scaled, SumWeights, Values


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    linear, values = torch.from_numpy(arrays["weights"]), torch.from_numpy(arrays["values"])
    weights = SumWeights(linear.log(), linear)
    count, batch, units = values.shape
    scale = torch.zeros(count, batch, dtype=torch.float64)
    children = [Values(values[: count // 2], scale[: count // 2]), Values(values[count // 2 :], scale[count // 2 :])]
    flows = torch.full((count // 2, batch, units), 1.0 / units)

    @torch.no_grad()
    def upward() -> tuple[Scaled, Values, Values, Values]:
        semiring = Scaled(torch.float32)
        product = semiring.product("hadamard", children)
        raw = semiring.dense_sum(weights, product)
        return semiring, product, raw, semiring.normalise(raw)

    @torch.no_grad()
    def train() -> torch.Tensor:
        semiring, product, raw, _ = upward()
        counts = semiring.sum_flows(weights, product, raw, flows, True)[1]
        assert counts is not None
        return counts

    def log_values() -> torch.Tensor:
        out = upward()[3]
        return out.v.log() + out.s.unsqueeze(-1)

    return {"forward": upward, "train": train, "values": log_values, "counts": train}
