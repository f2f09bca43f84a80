"""Growing: every unit becomes several noisy copies of itself."""

import math

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import ParameterError, StructureError
from pcircuits.hmm import HMM
from pcircuits.layers import InputGroup, SumGroup
from pcircuits.plan import InnerLevel, InputLevel
from pcircuits.types import Shaped, Tensor


@torch.no_grad()
def grow(circuit: Circuit, *, copies: int = 2, noise: float = 0.1, generator: torch.Generator | None = None) -> Circuit:
    """A new circuit with `copies` of every unit (Dang, Liu, Van den Broeck 2022): the weights of a sum are divided
    among the copies of its children, and normal noise, of standard deviation `noise`, is added to all log weights and
    unconstrained input parameters. Without noise it is the same distribution; with it, learning tells copies apart.
    Together with `prune`, units go where data needs them.

    Removed edges stay removed between all copies. Unit u becomes the units `u copies, ..., u copies + copies - 1`.

    Raises:
        StructureError: neither a Circuit nor an HMM, a single unit a region, or units that are the observed values.
        ParameterError: fewer than two copies, or a negative noise.
    """
    if not isinstance(copies, int) or copies < 2 or not 0 <= noise < math.inf:
        raise ParameterError(f"grow needs at least 2 copies and finite noise >= 0, got {copies!r} and {noise!r}")
    if type(circuit) not in (Circuit, HMM):
        raise StructureError(f"grow needs a Circuit or an HMM with weights of its own, got a {type(circuit).__name__}")
    if circuit.num_units < 2 or circuit.graph.observed_latents:
        raise StructureError("grow copies units of regions that have at least two, and that are not observed values")
    grown = _larger(circuit, copies)
    kinds = _kinds(circuit)
    for name, group in circuit.named_groups():
        new = grown.group(name)
        if isinstance(group, SumGroup) and isinstance(new, SumGroup):
            log = _copied(group.prepare().log, kinds[name], new.log_weights.shape, copies)
            new.log_weights.copy_(log + noise * _randn(log, generator))
            if group.support is not None:
                support = group.support.expand(group.log_weights.shape)
                new.restrict(_copied(support, kinds[name], new.log_weights.shape, copies))
                new.log_weights.masked_fill_(~new.support, 0.0)  # type: ignore[operator]
        elif isinstance(group, InputGroup) and isinstance(new, InputGroup):
            tensors = {**dict(group.named_parameters()), **{n: group.get_buffer(n) for n in group.family.fixed}}
            repeated = {n: x.repeat_interleave(copies, 1) for n, x in tensors.items()}
            noisy = repeated.keys() - group.family.fixed
            new.set_parameters({n: repeated[n] + noise * _randn(repeated[n], generator) for n in sorted(noisy)})
            new.set_parameters({n: repeated[n] for n in group.family.fixed})
            if group.support is not None:
                units = group.support if group.support.shape[1] == 1 else group.support.repeat_interleave(copies, 1)
                new.restrict(units)
    return grown


def _larger(circuit: Circuit, copies: int) -> Circuit:
    units = copies * circuit.num_units
    if isinstance(circuit, HMM):
        return HMM(units, circuit.num_categories or 0, circuit.length, seed=0, dtype=circuit.dtype).to(circuit.device)
    ties = {f"{part}_ties": named for part, named in circuit.ties.items()}
    options = {"num_units": units, "layer": circuit.layer, "seed": 0, "dtype": circuit.dtype}
    graph = circuit.graph.with_hints(num_units=None)
    return Circuit(graph, circuit.inputs, **options, **ties).to(circuit.device)  # type: ignore[arg-type]


def _kinds(circuit: Circuit) -> dict[str, str]:
    """What the sums of each group are over: "hadamard", "kronecker" or "mixing"."""
    inner = (level for level in circuit.plan.levels if not isinstance(level, InputLevel) and level.weights)
    return {x.weights.group: x.product if isinstance(x, InnerLevel) else "mixing" for x in inner if x.weights}


def _copied(x: Shaped[Tensor, "G O J"], kind: str, shape: torch.Size, copies: int) -> Shaped[Tensor, "G P L"]:
    """The entries of all copies; log weights are divided among those of a child."""
    if shape[1] != x.shape[1]:
        x = x.repeat_interleave(copies, 1)
    if kind == "mixing":
        return x
    shared = 0.0 if x.dtype == torch.bool else math.log(shape[2] / x.shape[2])
    if kind == "kronecker":
        side = math.isqrt(x.shape[2])
        x = x.unflatten(2, (side, side)).repeat_interleave(copies, 2).repeat_interleave(copies, 3).flatten(2)
    else:
        x = x.repeat_interleave(copies, 2)
    return x if x.dtype == torch.bool else x - shared


def _randn(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
