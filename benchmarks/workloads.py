"""The circuits and models that the benchmarks run, with their parameters and data as plain arrays for every side.

w1: an image of 28 x 28 pixels with 256 values each, quad graph, CP layers. w2: 100 binary variables, RAT of depth 4
with 10 repetitions, 10 units a region, Tucker layers. h1: an HMM over 32 steps of 5000 values. h2: an HMM over 512
steps of 50 values.
"""

from typing import Any

import numpy as np
import torch

import pcircuits as pc
from benchmarks.side import Workload
from pcircuits.structures import RegionGraph


def w1(num_units: int, seed: int, *, batch: int = 128, side: int = 28) -> Workload:
    graph = pc.structures.quad_graph(side, side)
    name = f"w1, K={num_units}" + ("" if side == 28 else f", {side} x {side} pixels")
    return circuit_workload(name, graph, num_categories=256, num_units=num_units, layer="cp", batch=batch, seed=seed)


def w2(seed: int, *, batch: int = 512) -> Workload:
    graph = pc.structures.rat(100, 4, num_repetitions=10, seed=seed)
    return circuit_workload("w2", graph, num_categories=2, num_units=10, layer="tucker", batch=batch, seed=seed)


def h1(num_states: int, seed: int, *, batch: int = 64) -> Workload:
    return hmm_workload(
        f"h1, H={num_states}", num_states=num_states, num_categories=5000, length=32, batch=batch, seed=seed
    )


def h2(seed: int) -> Workload:
    return hmm_workload("h2", num_states=64, num_categories=50, length=512, batch=16, seed=seed)


def circuit_workload(
    name: str, graph: RegionGraph, *, num_categories: int, num_units: int, layer: str, batch: int, seed: int
) -> Workload:
    """A circuit of categorical variables with random parameters, uniform data `x` and a mask `observed` of half of
    them.

    The arrays "sum:<group>" (G, O, J) and "input:<group>" (G, K, V) are unconstrained logarithms of the parameters;
    `rows` says which row of which group a region's part takes, as in `pcircuits.plan.Plan`.
    """
    options: dict[str, Any] = {
        "graph": graph.to_json(),
        "num_categories": num_categories,
        "num_units": num_units,
        "layer": layer,
        "seed": seed,
    }
    circuit = pc.Circuit(graph, pc.Categorical(num_categories), num_units=num_units, layer=layer, seed=seed)
    rows = circuit.plan.rows
    mixing = {group for (_, part), (group, _) in rows.items() if part.endswith("_mixing")}
    parameters = {name.split(".")[1]: p.detach().numpy() for name, p in circuit.named_parameters()}
    options["rows"] = [[region, part, group, row] for (region, part), (group, row) in rows.items()]
    options["products"] = [
        list(p.shape) for group, p in parameters.items() if group.startswith("sum") and group not in mixing
    ]
    options["num_parameters"] = circuit.num_parameters
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(num_categories, (batch, graph.num_variables), generator=generator)
    observed = torch.rand(x.shape, generator=generator) < 0.5
    arrays = {f"{group.split('_')[0]}:{group}": p for group, p in parameters.items()}
    return Workload(name, {**arrays, "x": x.numpy(), "observed": observed.numpy()}, options)


def hmm_workload(name: str, *, num_states: int, num_categories: int, length: int, batch: int, seed: int) -> Workload:
    """An HMM with random `initial` (H,), `transition` (H, H) and `emission` (H, V), and uniform data `x`."""
    generator = np.random.default_rng(seed)

    def rows(*shape: int) -> np.ndarray:
        table = 0.01 + generator.random(shape)
        return (table / table.sum(-1, keepdims=True)).astype(np.float32)

    arrays = {
        "initial": rows(num_states),
        "transition": rows(num_states, num_states),
        "emission": rows(num_states, num_categories),
        "x": generator.integers(num_categories, size=(batch, length)),
    }
    return Workload(name, arrays, {"num_states": num_states, "length": length, "batch": batch})
