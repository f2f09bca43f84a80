"""This library on a circuit of any size, built here from its description: what building and running it cost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import pcircuits as pc


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """`structure` and its `arguments`, `num_categories`, `num_units`, `layer`, `batch`, `seed`."""

    def build() -> pc.Circuit:
        graph = getattr(pc.structures, options["structure"])(**options["arguments"])
        inputs = pc.Categorical(options["num_categories"])
        return pc.Circuit(graph, inputs, num_units=options["num_units"], layer=options["layer"], seed=options["seed"])

    circuit = build()
    workspace = pc.Workspace()
    generator = torch.Generator().manual_seed(options["seed"])
    x = torch.randint(options["num_categories"], (options["batch"], circuit.num_variables), generator=generator)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return circuit.log_prob(x, workspace=workspace)

    def em() -> None:
        circuit.maximise(circuit.statistics(x, workspace=workspace), pseudocount=1e-3, relative=True, step=1e-6)

    return {
        "build": build,
        "forward": forward,
        "train": lambda: circuit.statistics(x, workspace=workspace).log_likelihood,
        "em": em,
        "sizes": lambda: [circuit.num_parameters, len(circuit.graph.regions)],
    }
