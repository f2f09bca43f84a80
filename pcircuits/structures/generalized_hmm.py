"""The structure of hidden Markov models with several emissions a step."""

from collections.abc import Sequence

from pcircuits.errors import StructureError
from pcircuits.structures.region_graph import Region, RegionGraph
from pcircuits.structures.validation import require_integer, require_order


def generalized_hmm(
    num_steps: int, emissions: int | Sequence[Sequence[int]] = 1, *, num_units: int | None = None
) -> RegionGraph:
    """Region u_t is the product of the leaves that step t emits and u_{t+1}, then a dense sum, for T steps.

    u_t[i'] = sum_i p(z_t = i | z_{t-1} = i') prod_{v in step t} p(x_v | z_t = i) u_{t+1}[i]

    Without ties every step has a transition and emissions of its own: an inhomogeneous HMM. `Circuit(sum_ties=...,
    input_ties=...)` makes it homogeneous.

    Args:
        emissions: how many variables each step emits (step t: the variables t E .. t E + E - 1), or which ones: one
            sequence of variables a step, each variable once.
    """
    num_steps = require_integer("num_steps", num_steps, minimum=1)
    blocks = _blocks(num_steps, emissions)
    num_variables = sum(map(len, blocks))
    regions = [Region.input(variable) for variable in range(num_variables)]
    later: tuple[int, ...] = ()
    for block in reversed(blocks):
        regions.append(Region.split((*block, *later)))
        later = (len(regions) - 1,)
    return RegionGraph(tuple(regions), num_units=num_units, default_layer="cp-t")


def _blocks(num_steps: int, emissions: int | Sequence[Sequence[int]]) -> list[list[int]]:
    if isinstance(emissions, Sequence):
        blocks = [list(block) for block in emissions]
        if len(blocks) != num_steps or not all(blocks):
            raise StructureError(f"emissions must name at least one variable for each of {num_steps} steps")
        every = [variable for block in blocks for variable in block]
        require_order("emissions", every, len(every))
        return blocks
    size = require_integer("emissions", emissions, minimum=1)
    return [list(range(step * size, (step + 1) * size)) for step in range(num_steps)]
