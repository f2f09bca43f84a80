"""Small circuits and evidence of every kind, made from seeds: what the hypothesis strategies and parametrised tests
draw from.
"""

import math
import random
from collections.abc import Callable, Sequence

import networkx as nx
import torch

from pcircuits import structures
from pcircuits.circuit import Circuit
from pcircuits.distributions import Bernoulli, Categorical, Gaussian, InputFamily
from pcircuits.errors import StructureError
from pcircuits.evidence import Evidence
from pcircuits.folding import LAYERS
from pcircuits.hmm import HMM
from pcircuits.structures import RegionGraph

INPUTS = ("categorical", "bernoulli", "gaussian", "mixed")
WEIGHTS = ("dense", "peaked", "sparse", "deterministic")
EVIDENCE = ("observed", "missing", "hard", "soft", "mixed", "spread", "interval", "potentials", "impossible")

__all__ = [
    "EVIDENCE",
    "INPUTS",
    "LAYERS",
    "STRUCTURES",
    "WEIGHTS",
    "example_circuit",
    "example_evidence",
    "example_graph",
    "has_kind",
    "reshape_weights",
]


def _nested_pairs(num_variables: int, seed: int) -> RegionGraph:
    """Pairs of variables that lie apart, below a structure of two repetitions."""
    variables = random.Random(seed).sample(range(num_variables), num_variables)
    groups = [variables[v : v + 2] for v in range(0, num_variables, 2)]
    above = structures.rat(len(groups), min(1, len(groups) - 1), num_repetitions=2, seed=seed)
    return structures.nested(above, [structures.chain(len(group)) for group in groups], groups)


# One row a structure, from a number of variables and a seed.
_BUILDERS: dict[str, Callable[[int, int], RegionGraph]] = {
    "chain": lambda n, seed: structures.chain(n),
    "binary_tree": lambda n, seed: structures.binary_tree(n, random.Random(seed).sample(range(n), n)),
    "rat": lambda n, seed: structures.rat(n, min(2, n.bit_length() - 1), num_repetitions=2 + seed % 2, seed=seed),
    "chow_liu": lambda n, seed: structures.chow_liu(_data(n, seed), num_categories=3),
    "hclt": lambda n, seed: structures.hclt(_data(n, seed)),
    "factorized": lambda n, seed: structures.factorized(n),
    "from_networkx": lambda n, seed: structures.from_networkx(_random_digraph(n, random.Random(seed))),
    "hmm": lambda n, seed: structures.chain(n),
    "quad_tree": lambda n, seed: structures.quad_tree(*_image(n), arity=2 + 2 * (seed % 2)),
    "quad_graph": lambda n, seed: structures.quad_graph(*_image(n)),
    "poon_domingos": lambda n, seed: structures.poon_domingos(*_image(n), delta=1 + seed % 2),
    "generalized_hmm": lambda n, seed: structures.generalized_hmm((n + 1) // 2, _pairs(n)),
    "tensor_train": lambda n, seed: structures.tensor_train(n),
    "nested": _nested_pairs,
}
STRUCTURES = tuple(_BUILDERS)


def _data(num_variables: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 3, (40, num_variables), generator=torch.Generator().manual_seed(seed))


def example_graph(structure: str, num_variables: int, seed: int = 0) -> RegionGraph:
    """A region graph by each builder; "from_networkx" draws any valid graph: shared regions, several partitions, one
    or three children.

    "hmm" is a chain; `example_circuit` ties it. "chow_liu" is for three categories.
    """
    if structure not in _BUILDERS:
        raise StructureError(f"`structure` must be one of {', '.join(STRUCTURES)}; got {structure!r}")
    return _BUILDERS[structure](num_variables, seed)


def _image(num_variables: int) -> tuple[int, int]:
    """Height and width of an image of that many pixels, as square as can be."""
    height = max(h for h in range(1, math.isqrt(num_variables) + 1) if num_variables % h == 0)
    return height, num_variables // height


def _pairs(num_variables: int) -> list[list[int]]:
    """The variables by twos, the last one alone where their number is odd."""
    return [list(range(v, min(v + 2, num_variables))) for v in range(0, num_variables, 2)]


def example_inputs(inputs: str, num_variables: int, num_categories: int = 3) -> list[InputFamily]:
    """One family a variable; "mixed" has every family, and unequal numbers of values."""
    kinds: dict[str, Sequence[InputFamily]] = {
        "categorical": [Categorical(num_categories)],
        "bernoulli": [Bernoulli()],
        "gaussian": [Gaussian()],
        "mixed": [Categorical(num_categories), Gaussian(), Bernoulli(), Categorical(2)],
    }
    return [kinds[inputs][v % len(kinds[inputs])] for v in range(num_variables)]


def example_circuit(
    structure: str = "binary_tree",
    layer: str = "cp",
    inputs: str = "categorical",
    *,
    weights: str = "dense",
    num_variables: int = 4,
    num_units: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Circuit:
    """A circuit of one structure, layer, input kind and weight kind; "hmm" shares all weights, and all inputs of one
    family.
    """
    graph = example_graph(structure, num_variables, seed)
    families = example_inputs(inputs, num_variables)
    units = 3 if structure == "chow_liu" else num_units
    if (structure, layer, inputs) == ("hmm", "cp-t", "categorical"):
        circuit: Circuit = HMM(units, 3, num_variables, seed=seed, dtype=dtype)
    else:
        ties = _chain_ties(graph, families) if structure == "hmm" else ({}, {})
        circuit = Circuit(
            graph, families, num_units=units, layer=layer, seed=seed, dtype=dtype, sum_ties=ties[0], input_ties=ties[1]
        )
    reshape_weights(circuit, weights, seed)
    return circuit


@torch.no_grad()
def reshape_weights(circuit: Circuit, weights: str, seed: int = 0) -> None:
    """Make all sums and discrete inputs "dense" (as they are), "peaked" (log weights tens apart), "sparse" (about half
    exact zeros) or "deterministic" (one child a unit)."""
    generator = torch.Generator().manual_seed(seed + 1)
    for group in circuit.groups.values():
        name = next((n for n in ("log_weights", "logits") if hasattr(group, n)), None)
        if name is None or weights == "dense":
            continue
        parameter = group.get_parameter(name)
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if weights == "peaked":
            parameter.copy_(15 * noise)
        elif name == "log_weights" or group.support is None:
            keep = noise > 0 if weights == "sparse" else torch.zeros_like(noise, dtype=torch.bool)
            group.restrict(keep.scatter(-1, noise.argmax(-1, keepdim=True), True))  # type: ignore[operator]


def example_evidence(circuit: Circuit, kind: str, *, batch: int = 3, seed: int = 0) -> Evidence:
    """Evidence of one kind for a circuit.

    "observed": all values. "missing": none. "hard": some values, the others missing. "soft": weights for all discrete
        variables, some `-inf`. "mixed": values, missing and weights in one batch. "spread": weights up to a hundred
        nats apart and far-off continuous values, beside values and missing.
    "interval": values, missing, and intervals of which some leave a side open.
    "potentials": "mixed", or "hard" where no variable is discrete, with latent potentials, some `-inf`, and gates, of
        blocks or, for even seeds, of rank 2.
    "impossible": "mixed" whose first row has no possible value of a variable.

    Raises:
        StructureError: weights asked for where no variable is discrete.
    """
    if kind not in EVIDENCE:
        raise StructureError(f"`kind` must be one of {', '.join(EVIDENCE)}; got {kind!r}")
    discrete = torch.tensor([family.is_discrete for family in circuit.inputs])
    if kind in ("soft", "mixed", "impossible") and not discrete.any():
        raise StructureError(f"{kind} evidence needs a discrete variable")
    if kind == "potentials":
        return _with_potentials(
            circuit, example_evidence(circuit, "mixed" if discrete.any() else "hard", batch=batch, seed=seed), seed
        )
    generator = torch.Generator().manual_seed(seed)
    values = _example_values(circuit, batch, 40.0 if kind == "spread" else 1.0, generator)
    roles = _deal(_ROLES[kind], values.shape, generator)
    roles[:, ~discrete] = torch.where(roles[:, ~discrete] == _SOFT, _MISSING, roles[:, ~discrete])
    if kind in ("observed", "missing", "hard"):
        return Evidence(values, observed=roles == _OBSERVED)
    if kind == "interval":
        return _with_intervals(circuit, values, roles, generator)
    if discrete.any() and not (roles == _SOFT).any():
        roles[-1, discrete.nonzero()[-1]] = _SOFT
    log_weights = _example_weights(circuit, roles == _SOFT, 30.0 if kind == "spread" else 1.5, generator)
    if kind == "spread":
        log_weights = log_weights + 25.0 * log_weights.sign()
    if kind == "impossible":
        variable = discrete.nonzero()[0]
        roles[0, variable], log_weights[0, variable] = _SOFT, -torch.inf
    return Evidence(values, observed=roles == _OBSERVED, log_weights=log_weights)


def has_kind(circuit: Circuit, evidence: Evidence, kind: str) -> bool:
    """Whether evidence is of the kind that it was drawn for; tests assert it, so that a strategy that misses its case
    fails.
    """
    observed, soft, excluded = (
        evidence.observed,
        torch.zeros_like(evidence.observed),
        torch.zeros_like(evidence.observed),
    )
    widest = 0.0
    if evidence.log_weights is not None:
        for variable, family in enumerate(circuit.inputs):
            weights = evidence.log_weights[:, variable, : family.num_categories or 1]
            soft[:, variable] = weights.ne(0).any(-1) & ~observed[:, variable]
            excluded[:, variable] = weights.isneginf().all(-1) & ~observed[:, variable]
        finite = evidence.log_weights[soft].masked_fill(evidence.log_weights[soft].isneginf(), 0.0)
        widest = float((finite.amax(-1) - finite.amin(-1)).max()) if soft.any() else 0.0
    zeros = evidence.log_weights is not None and bool(evidence.log_weights[soft].isneginf().any())
    missing = ~observed & ~soft
    far = any(
        not f.is_discrete and bool((evidence.values[:, v].abs() > 20)[observed[:, v]].any())
        for v, f in enumerate(circuit.inputs)
    )
    return {
        "observed": bool(observed.all()),
        "missing": bool(missing.all()),
        "hard": bool(observed.any() and missing.any() and not soft.any()),
        "soft": bool(soft.any() and not observed.any()) and zeros,
        "mixed": bool(observed.any() and missing.any() and soft.any()) and zeros,
        "spread": widest > 20 or far,
        "interval": evidence.interval is not None and bool(evidence.interval.isfinite().any()),
        "potentials": evidence.latent is not None and bool(evidence.latent.any()),
        "impossible": bool(excluded.any()),
    }[kind]


_OBSERVED, _MISSING, _SOFT = 0, 1, 2
_ROLES = {
    "observed": (_OBSERVED,),
    "missing": (_MISSING,),
    "hard": (_OBSERVED, _MISSING),
    "soft": (_SOFT,),
    "mixed": (_OBSERVED, _MISSING, _SOFT),
    "spread": (_OBSERVED, _SOFT, _SOFT, _MISSING),
    "interval": (_OBSERVED, _MISSING),
    "impossible": (_OBSERVED, _MISSING, _SOFT),
}


def _deal(roles: Sequence[int], shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """The roles in equal numbers, shuffled over batch and variables."""
    size = math.prod(shape)
    dealt = torch.tensor(roles).repeat(size // len(roles) + 1)[:size]
    return dealt[torch.randperm(size, generator=generator)].view(*shape)


def _example_values(circuit: Circuit, batch: int, far: float, generator: torch.Generator) -> torch.Tensor:
    columns = [example_column(f, batch, far, generator) for f in circuit.inputs]
    dtype = torch.long if all(f.is_discrete for f in circuit.inputs) else circuit.dtype
    return torch.stack([c.to(dtype) for c in columns], 1)


def example_column(family: InputFamily, batch: int, far: float, generator: torch.Generator) -> torch.Tensor:
    """Values of a family's domain, continuous ones about `far` from its middle or its end."""
    if family.num_categories:
        return torch.randint(0, family.num_categories, (batch,), generator=generator)
    share, sign = torch.rand(batch, generator=generator), torch.randn(batch, generator=generator).sign()
    low, high = family.domain
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * share
    column = far * (0.5 + share) * (sign if math.isinf(low) else 1) + (low if math.isfinite(low) else 0.0)
    return column.round() if family.is_integer else column


def _with_intervals(
    circuit: Circuit, values: torch.Tensor, roles: torch.Tensor, generator: torch.Generator
) -> Evidence:
    """Intervals around values of the domain at two of three free positions, a third of them open at each side."""
    wide = torch.tensor([1.0 if f.num_categories or f.is_integer else 0.7 for f in circuit.inputs])
    below, above = (wide * torch.rand(values.shape, generator=generator).double() for _ in range(2))
    sides = _deal((0, 1, 2, 3), values.shape, generator)
    low = torch.where((sides == 0) | (sides == 3), -torch.inf, values.double() - below)
    high = torch.where((sides == 1) | (sides == 3), torch.inf, values.double() + above)
    if not (roles == _OBSERVED).all() and low[roles != _OBSERVED].isinf().all():
        low = values.double() - below
    return Evidence(values, observed=roles == _OBSERVED, interval=(low, high))


def _with_potentials(circuit: Circuit, evidence: Evidence, seed: int) -> Evidence:
    """Potentials tens of nats apart; one unit excluded where there are several."""
    generator = torch.Generator().manual_seed(seed)
    shape, units = evidence.values.shape, circuit.num_units
    latent = 4.0 * torch.randn(*shape, units, generator=generator).to(circuit.dtype)
    if units > 1:
        latent[0, -1, latent[0, -1].argmin()] = -torch.inf
    blocks = next(n for n in (3, 2, 1) if units % n == 0)
    gates = 4.0 * torch.randn(*shape, blocks, blocks, generator=generator).to(circuit.dtype)
    gates[0, -1, 0, 0] = -torch.inf if blocks > 1 else 0.0
    factors = 4.0 * torch.randn(*shape, 2, 2, units, generator=generator).to(circuit.dtype)
    if units > 1:
        factors[0, -1, 0, :, 0] = -torch.inf
    has_gates, of_blocks = circuit.layer != "tucker", bool(seed % 2)
    return Evidence(
        evidence.values,
        observed=evidence.observed,
        log_weights=evidence.log_weights,
        latent=latent,
        gates=gates if has_gates and of_blocks else None,
        gate_factors=factors if has_gates and not of_blocks else None,
    )


def _example_weights(circuit: Circuit, soft: torch.Tensor, spread: float, generator: torch.Generator) -> torch.Tensor:
    """Zero where not soft; elsewhere normal times `spread`, one in five values excluded: never all, and the least
    likely one in the first soft row.
    """
    width = max(f.num_categories or 1 for f in circuit.inputs)
    log_weights = spread * torch.randn(*soft.shape, width, generator=generator).to(circuit.dtype)
    excluded = torch.rand(log_weights.shape, generator=generator) < 0.2
    for variable, family in enumerate(circuit.inputs):
        usable = log_weights[:, variable, : family.num_categories or width]
        least, most = usable.argmin(-1, keepdim=True), usable.argmax(-1, keepdim=True)
        excluded[:, variable].scatter_(
            -1, least, excluded[:, variable].gather(-1, least) | (soft[:, variable].cumsum(0) == 1).unsqueeze(-1)
        )
        excluded[:, variable].scatter_(-1, most, False)
    return log_weights.masked_fill(excluded, -torch.inf).masked_fill(~soft.unsqueeze(-1), 0.0)


def _chain_ties(graph: RegionGraph, families: Sequence[InputFamily]) -> tuple[dict[int, str], dict[int, str]]:
    """An HMM's ties: one initial distribution, one transition, one emission a family. The last step's sum has no
    sibling, so it is tied where its arity fits.
    """
    inner = [i for i, region in enumerate(graph.regions) if not region.is_input]
    arity = {i: len(graph.regions[i].partitions[0].children) for i in inner}
    sums = {i: "initial" if i == graph.root else f"transition_{arity[i]}" for i in inner}
    inputs = {
        i: f"emission_{families[region.variables[0]]!r}" for i, region in enumerate(graph.regions) if region.is_input
    }
    return sums, {i: "".join(c if c.isalnum() else "_" for c in name) for i, name in inputs.items()}


def _random_digraph(num_variables: int, rng: random.Random) -> nx.DiGraph:
    graph: nx.DiGraph = nx.DiGraph()
    shared: dict[tuple[int, ...], list[str]] = {}

    def region(scope: tuple[int, ...], depth: int) -> str:
        known = shared.setdefault(scope, [])
        if known and rng.random() < 0.5:
            return rng.choice(known)
        name = f"region_{len(graph)}"
        if len(scope) == 1 and rng.random() < 0.8:
            graph.add_node(name, variable=scope[0])
        else:
            graph.add_node(name)
            for _ in range(rng.choice((1, 2)) if depth < 2 else 1):
                _add_partition(graph, name, [region(part, depth + 1) for part in _random_split(scope, rng)])
        known.append(name)
        return name

    region(tuple(range(num_variables)), 0)
    return graph


def _add_partition(graph: nx.DiGraph, parent: str, children: list[str]) -> None:
    partition = f"partition_{len(graph)}"
    graph.add_node(partition, partition=True)
    graph.add_edges_from([(parent, partition), *((partition, child) for child in children)])


def _random_split(scope: tuple[int, ...], rng: random.Random) -> list[tuple[int, ...]]:
    """A scope in one part (rarely), two or three."""
    wanted = min(len(scope), rng.choice((1, 2, 2, 2, 3)) if len(scope) > 1 else 1)
    shuffled = rng.sample(scope, len(scope))
    cuts = sorted(rng.sample(range(1, len(scope)), wanted - 1))
    return [tuple(sorted(shuffled[a:b])) for a, b in zip([0, *cuts], [*cuts, len(scope)], strict=True)]
