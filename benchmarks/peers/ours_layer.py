"""This library on one level: product of two children with its rescale, dense sum; flows and counts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import pcircuits as pc
from pcircuits.semirings import Scaled, SumWeights, Values


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    linear, values = torch.from_numpy(arrays["weights"]), torch.from_numpy(arrays["values"])
    weights = SumWeights(linear=linear, logits=linear.log())
    count, batch, units = values.shape
    scale = torch.zeros(count, batch, dtype=torch.float64)
    children = [Values(values[: count // 2], scale[: count // 2]), Values(values[count // 2 :], scale[count // 2 :])]
    flows = torch.full((count // 2, batch, units), 1.0 / units)

    workspace = pc.Workspace()

    @torch.no_grad()
    def upward() -> tuple[Scaled, Values, Values]:
        workspace.begin()
        semiring = Scaled(torch.float32, memory=workspace)
        product = semiring.product("hadamard", children)
        return semiring, product, semiring.dense_sum(weights, product)

    @torch.no_grad()
    def train() -> torch.Tensor:
        semiring, product, raw = upward()
        counts = semiring.sum_flows(weights, product, raw, flows, True)[1]
        assert counts is not None
        return counts

    def log_values() -> torch.Tensor:
        out = upward()[2]
        return out.v.log() + out.s.unsqueeze(-1)

    return {"forward": upward, "train": train, "values": log_values, "counts": train}
