"""The oracle: every question that a posterior answers, by summing over all worlds."""

import math
from collections.abc import Callable, Mapping

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import Bernoulli, Categorical, Gaussian, InputFamily
from pcircuits.errors import StructureError
from pcircuits.evidence import Evidence
from pcircuits.queries import Moments
from pcircuits.testing.recursion import Node, leaf_parameters, log_root
from pcircuits.types import Float, Int, Shaped, Tensor

MOST_WORLDS = 1 << 12
Edges = Mapping[int, Float[Tensor, " E"]]


def worlds(circuit: Circuit, edges: Edges | None = None) -> Int[Tensor, "W D"]:
    """Every joint assignment of cells. A discrete variable's cells are its values; a continuous one's are the
    intervals between its `edges`, by default one.

    Raises:
        StructureError: more than 4,096 worlds.
    """
    sizes = [family.num_categories or len((edges or {}).get(v, ())) + 1 for v, family in enumerate(circuit.inputs)]
    if math.prod(sizes) > MOST_WORLDS:
        raise StructureError(f"this circuit has {math.prod(sizes)} worlds; enumeration takes at most {MOST_WORLDS}")
    return torch.cartesian_prod(*[torch.arange(size) for size in sizes]).view(-1, len(sizes))


class Enumeration:
    """A posterior by brute force, in float64: `joint[b, w] = p(world w, evidence b)` for all worlds, and everything
    else from that table.

    Args:
        circuit: of at most 4,096 worlds, on the CPU.
        evidence: as for `Circuit.condition`.
        edges: (E,) ascending cell boundaries of continuous variables, to make cells of their values.
    """

    def __init__(self, circuit: Circuit, evidence: Evidence, *, edges: Edges | None = None) -> None:
        self.circuit, self.evidence, self.edges = circuit, evidence, dict(edges or {})
        self.worlds = worlds(circuit, edges)
        self.log_joint: Float[Tensor, "B W"] = log_root(circuit, self._leaf, evidence=evidence) + self._log_weights(
            self.worlds
        )

    @property
    def log_evidence(self) -> Float[Tensor, " B"]:
        return self.log_joint.logsumexp(-1)

    @property
    def probabilities(self) -> Float[Tensor, "B W"]:
        """`p(world | evidence)`; NaN where the evidence is impossible."""
        return (self.log_joint - self.log_evidence.unsqueeze(-1)).exp()

    def cells(self, variable: int) -> int:
        """How many cells a variable has."""
        return int(self.worlds[:, variable].max()) + 1

    def marginal(self, variable: int) -> Float[Tensor, "B V"]:
        return self._cell_sums(self.worlds[:, variable], self.cells(variable))

    def pair(self, first: int, second: int) -> Float[Tensor, "B V1 V2"]:
        """`p(X_first, X_second | evidence)`."""
        index = self.worlds[:, first] * self.cells(second) + self.worlds[:, second]
        return self._cell_sums(index, self.cells(first) * self.cells(second)).unflatten(
            -1, (self.cells(first), self.cells(second))
        )

    def marginals(self) -> Float[Tensor, "B D V"] | list[Tensor | Moments]:
        """As `Posterior.marginals`."""
        sizes = {family.num_categories for family in self.circuit.inputs}
        found = [self.marginal(v) if f.is_discrete else self.moments(v) for v, f in enumerate(self.circuit.inputs)]
        if len(sizes) == 1 and None not in sizes:
            return torch.stack([m for m in found if isinstance(m, Tensor)], 1)
        return found

    def moments(self, variable: int) -> Moments:
        """Mean and variance of a Gaussian variable given the evidence.

        The evidence is linear in the variable's unit values, so putting `E[x] + c` (positive for a large c) and
        `E[x^2]` in their place gives the moments.
        """
        plain = Enumeration(self.circuit, _without(self.evidence, variable))
        shift = 2.0 + max(float(p["mean"].abs().max()) for p in self._leaves_of(variable))
        shifted = plain._expectation(variable, lambda mean, std: mean + shift)
        square = plain._expectation(variable, lambda mean, std: std.square() + mean.square())
        mean, observed = shifted - shift, self.evidence.observed[:, variable]
        value = self.evidence.values[:, variable].double()
        variance = torch.where(observed, 0.0, square - mean.square())
        return Moments(torch.where(observed, value, mean), variance)

    def mpe(self) -> tuple[Shaped[Tensor, "B D"], Float[Tensor, " B"]]:
        """The most probable completion and its log probability given the evidence.

        Raises:
            StructureError: a continuous variable is not observed.
        """
        continuous = torch.tensor([not family.is_discrete for family in self.circuit.inputs])
        if (continuous & ~self.evidence.observed).any():
            raise StructureError(
                "the most probable explanation is enumerated only where all continuous variables are observed"
            )
        best = self.log_joint.max(-1)
        values = torch.where(
            self.evidence.observed, self.evidence.values, self.worlds[best.indices].to(self.evidence.values.dtype)
        )
        return values, best.values - self.log_evidence

    def log_prob(self, x: Shaped[Tensor, "... B D"]) -> Float[Tensor, "... B"]:
        """`log p(x | evidence)`, with densities for continuous variables."""
        stacked = x.reshape(-1, *x.shape[-2:])
        everything = torch.ones_like(self.evidence.observed)
        complete = [self.evidence.replace(values=v, observed=everything, log_weights=None) for v in stacked]
        rows = [Enumeration(self.circuit, evidence).log_evidence for evidence in complete]
        soft = torch.stack([self._log_weight_of(values) for values in stacked])
        return (torch.stack(rows) + soft - self.log_evidence).view(x.shape[:-1])

    def _cell_sums(self, index: Int[Tensor, " W"], size: int) -> Float[Tensor, "B V"]:
        probabilities = self.probabilities
        return probabilities.new_zeros(len(probabilities), size).index_add(1, index, probabilities)

    def _leaf(self, node: Node) -> Float[Tensor, "B W K"]:
        family, parameters = self.circuit.inputs[node.variable], leaf_parameters(self.circuit, node)
        if family.is_discrete:
            return log_table(family, parameters).mT[self.worlds[:, node.variable]].unsqueeze(0)
        observed = self.evidence.observed[:, node.variable]
        density = log_density(
            family, parameters, torch.where(observed, self.evidence.values[:, node.variable], 0.0).double()
        )
        mass = self._interval_log_mass(node.variable, parameters)[self.worlds[:, node.variable]]
        return torch.where(observed.view(-1, 1, 1), density.unsqueeze(1), mass.unsqueeze(0))

    def _interval_log_mass(self, variable: int, parameters: dict[str, Tensor]) -> Float[Tensor, "C K"]:
        inner = self.edges.get(variable, torch.zeros(0)).double()
        bounds = torch.cat([inner.new_tensor([-torch.inf]), inner, inner.new_tensor([torch.inf])])
        if variable not in self.edges:
            return torch.zeros(1, len(next(iter(parameters.values()))), dtype=torch.float64)
        mean, std = _normal(self.circuit.inputs[variable], parameters)
        below = torch.special.ndtr((bounds.unsqueeze(-1) - mean) / std)
        return below.diff(dim=0).log()

    def _log_weights(self, cells: Int[Tensor, "W D"]) -> Float[Tensor, "B W"]:
        """What the evidence multiplies each world with."""
        total = torch.zeros(self.evidence.batch_size, len(cells), dtype=torch.float64)
        for variable, family in enumerate(self.circuit.inputs):
            observed, values = self.evidence.observed[:, variable], self.evidence.values[:, variable]
            if not family.is_discrete:
                values = torch.bucketize(
                    torch.where(observed, values, 0.0).double(), self.edges.get(variable, torch.zeros(0)).double()
                )
            cell = cells[:, variable]
            hard = torch.where(cell == values.unsqueeze(-1), 0.0, -torch.inf).double()
            soft = torch.zeros_like(hard)
            if self.evidence.log_weights is not None and family.is_discrete:
                soft = self.evidence.log_weights[:, variable].double()[:, cell]
            total = total + torch.where(observed.unsqueeze(-1), hard, soft)
        return total

    def _log_weight_of(self, x: Shaped[Tensor, "B D"]) -> Float[Tensor, " B"]:
        evidence = self.evidence
        total = torch.zeros(len(x), dtype=torch.float64)
        total[(evidence.observed & (x != evidence.values)).any(-1)] = -torch.inf
        for row, variable in (~evidence.observed).nonzero().tolist():
            if evidence.log_weights is not None and self.circuit.inputs[variable].is_discrete:
                total[row] += evidence.log_weights[row, variable, int(x[row, variable])].double()
        return total

    def _leaves_of(self, variable: int) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = []

        def leaf(node: Node) -> Tensor:
            if node.variable == variable:
                found.append(leaf_parameters(self.circuit, node))
            return torch.zeros(node.num_units, dtype=torch.float64)

        log_root(self.circuit, leaf)
        return found

    def _expectation(self, variable: int, statistic: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, " B"]:
        """`E[statistic | evidence]` of an unobserved Gaussian variable, from its expectation under each unit, which
        must be positive.
        """

        def leaf(node: Node) -> Tensor:
            if node.variable != variable:
                return self._leaf(node)
            return statistic(*_normal(self.circuit.inputs[variable], leaf_parameters(self.circuit, node))).log()

        weighted = log_root(self.circuit, leaf, evidence=self.evidence) + self._log_weights(self.worlds)
        return (weighted.logsumexp(-1) - self.log_evidence).exp()


def log_table(family: InputFamily, parameters: dict[str, Tensor]) -> Float[Tensor, "K V"]:
    """Log probabilities of a discrete family's units, in float64."""
    if isinstance(family, Categorical):
        raw = parameters["logits"]
    elif isinstance(family, Bernoulli):
        raw = torch.stack([torch.zeros_like(parameters["logit"]), parameters["logit"]], -1)
    else:
        return log_density(family, parameters, torch.arange(family.num_categories or 0)).mT
    raw = raw.masked_fill(~parameters["support"], -torch.inf) if "support" in parameters else raw
    return raw - raw.logsumexp(-1, keepdim=True)


def log_density(family: InputFamily, parameters: dict[str, Tensor], x: Shaped[Tensor, " N"]) -> Float[Tensor, "N K"]:
    """Log density of each unit at each value, in float64; families of others answer for themselves, one unit and value
    at a time.
    """
    if isinstance(family, Gaussian):
        mean, std = _normal(family, parameters)
        return torch.distributions.Normal(mean, std).log_prob(x.unsqueeze(-1))
    support = parameters.get("support")
    plain = {name: value.unsqueeze(0) for name, value in parameters.items() if name != "support"}
    prepared = family.prepare(plain, None if support is None else support.unsqueeze(0))
    row = torch.zeros(1, dtype=torch.long)
    values = [family.log_values(prepared, row, Evidence(v.view(1, 1)).of_variables((0,)), False)[0, 0] for v in x]
    return torch.stack(values).double()


def _normal(family: InputFamily, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    if not isinstance(family, Gaussian):
        raise StructureError(f"cells and moments are enumerated for Gaussian variables only, not for {family!r}")
    return parameters["mean"], family.min_std + torch.nn.functional.softplus(parameters["raw_std"])


def _without(evidence: Evidence, variable: int) -> Evidence:
    observed = evidence.observed.clone()
    observed[:, variable] = False
    return evidence.replace(observed=observed)
