"""This library on a circuit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import pcircuits as pc

KEEP = 1e-6
"""Share of an EM step, so that repetitions work on nearly the same parameters."""


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    graph = pc.structures.RegionGraph.from_json(options["graph"])
    inputs = pc.Categorical(options["num_categories"])
    circuit = pc.Circuit(
        graph, inputs, num_units=options["num_units"], layer=options["layer"], seed=options.get("seed")
    )
    return _actions(circuit, torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["observed"]))


def _actions(circuit: pc.Circuit, x: torch.Tensor, observed: torch.Tensor) -> dict[str, Callable[[], Any]]:
    generator = torch.Generator().manual_seed(0)
    workspace = pc.Workspace()
    half = pc.Evidence(x, observed=observed)
    kept: list[torch.Tensor] = []

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return circuit.log_prob(x, workspace=workspace)

    def train() -> torch.Tensor:
        return circuit.statistics(x, workspace=workspace).log_likelihood

    def em() -> torch.Tensor:
        found = circuit.statistics(x, workspace=workspace)
        circuit.maximise(found, pseudocount=1e-3, relative=True, step=KEEP)
        return found.log_likelihood

    def gradient() -> list[float]:
        circuit.zero_grad()
        circuit.log_prob(x).sum().backward()
        sums = {"sum": 0.0, "input": 0.0}
        for name, parameter in circuit.named_parameters():
            assert parameter.grad is not None
            sums[name.split(".")[1].split("_")[0]] += parameter.grad.double().square().sum().item()
        return list(sums.values())

    def marginals() -> torch.Tensor:
        with torch.no_grad():
            found = circuit.condition(half, workspace=workspace).marginals(out=kept.pop() if kept else None)
        assert isinstance(found, torch.Tensor)
        kept.append(found)
        return found

    def half_missing() -> torch.Tensor:
        with torch.no_grad():
            return circuit.condition(half, workspace=workspace).log_evidence

    @torch.no_grad()
    def exact_means() -> torch.Tensor:
        found = circuit.marginals()
        assert isinstance(found, torch.Tensor)
        return found @ torch.arange(found.shape[-1], dtype=found.dtype)

    def conditional_sample() -> torch.Tensor:
        with torch.no_grad():
            return circuit.condition(half, workspace=workspace).sample(1, generator=generator)

    return {
        "forward": forward,
        "train": train,
        "em": em,
        "gradient": gradient,
        "marginals": marginals,
        "half_missing": half_missing,
        "train_half_missing": lambda: circuit.statistics(half, workspace=workspace).log_likelihood,
        "sample": lambda: circuit.sample(1000, generator=generator),
        "sample_means": lambda: circuit.sample(20_000, generator=generator).double().mean(0),
        "exact_means": exact_means,
        "conditional_sample": conditional_sample,
    }
