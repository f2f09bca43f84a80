"""Random tensorised structures (RAT-SPN)."""

import torch

from pcircuits.structures.region_graph import Region, RegionGraph
from pcircuits.structures.validation import require_integer


def rat(
    num_variables: int,
    depth: int,
    *,
    num_repetitions: int,
    seed: int | torch.Generator,
    num_units: int | None = None,
) -> RegionGraph:
    """The root mixes `num_repetitions` random binary splits, random halves `depth` times over (Peharz et al. 2020).

    A region at the bottom that still has several variables is factorised by one partition into input regions.
    Repetitions share no region, so each has input regions of its own. 2 ** depth may be at most D; depth 0 is a
    mixture of factorised distributions.
    """
    num_variables = require_integer("num_variables", num_variables, minimum=1)
    depth = require_integer("depth", depth, minimum=0, maximum=num_variables.bit_length() - 1)
    num_repetitions = require_integer("num_repetitions", num_repetitions, minimum=1)
    generator = _generator(seed)
    regions: list[Region] = []
    splits = [
        _append_children(regions, torch.randperm(num_variables, generator=generator).tolist(), depth)
        for _ in range(num_repetitions)
    ]
    return RegionGraph((*regions, Region.split(*splits)), num_units=num_units)


def _generator(seed: int | torch.Generator) -> torch.Generator:
    if isinstance(seed, torch.Generator):
        return seed
    return torch.Generator().manual_seed(require_integer("seed", seed, minimum=0, maximum=2**63 - 1))


def _append_children(regions: list[Region], variables: list[int], depth: int) -> tuple[int, ...]:
    """Appends all that lies below a region over `variables`, in their random order; the ids of its one partition."""
    if depth == 0:
        return tuple(_append(regions, [variable], 0) for variable in variables)
    half = len(variables) // 2
    return tuple(_append(regions, part, depth - 1) for part in (variables[:half], variables[half:]))


def _append(regions: list[Region], variables: list[int], depth: int) -> int:
    """Appends a region over `variables` after all that lies below it; its id."""
    if len(variables) == 1:
        regions.append(Region.input(variables[0]))
    else:
        regions.append(Region.split(_append_children(regions, variables, depth)))
    return len(regions) - 1
