"""The matrix products alone: what a circuit or an HMM costs where everything else is free."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Actions = dict[str, Callable[[], Any]]


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> Actions:
    """Batched products of shapes `products`, (G, O, J), or an HMM's chain."""
    batch = len(arrays["x"]) if "x" in arrays else options["batch"]
    if "products" in options:
        return _batched([tuple(shape) for shape in options["products"]], batch)
    return _chained(options["num_states"], options["length"], batch)


def _batched(shapes: list[tuple[int, int, int]], batch: int) -> Actions:
    """Forward one product a level, training three: values, flows and counts. Buffers are allocated once."""
    levels = [
        (
            torch.rand(g, o, j),
            torch.rand(g, batch, j),
            torch.rand(g, batch, o),
            torch.empty(g, o, j),
            torch.empty(g, batch, j),
        )
        for g, o, j in shapes
    ]

    def forward() -> None:
        for weights, values, outputs, _, _ in levels:
            torch.bmm(values, weights.mT, out=outputs)

    def train() -> None:
        forward()
        for weights, values, outputs, counts, flows in levels:
            torch.bmm(outputs, weights, out=flows)
            torch.bmm(outputs.mT, values, out=counts)

    return {"forward": forward, "train": train}


def _chained(states: int, length: int, batch: int) -> Actions:
    """One product a step on the values of the last; the counts of all steps in one product."""
    transition, counts = torch.rand(states, states) / states, torch.empty(states, states)
    values, flows = torch.rand(length, batch, states), torch.rand(length, batch, states)

    def forward() -> None:
        for t in range(1, length):
            torch.mm(values[t - 1], transition, out=values[t])

    def train() -> None:
        forward()
        for t in range(length - 1, 0, -1):
            torch.mm(flows[t], transition.mT, out=flows[t - 1])
        torch.mm(values[:-1].view(-1, states).mT, flows[1:].view(-1, states), out=counts)

    return {"forward": forward, "train": train, "em": train, "gradient": train}
