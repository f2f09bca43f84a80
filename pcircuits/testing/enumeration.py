"""The oracle: every question that a posterior answers, by summing over all worlds."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import Bernoulli, Categorical, ChowLiuTree, Gaussian, InputFamily
from pcircuits.errors import StructureError
from pcircuits.evidence import Evidence
from pcircuits.queries import Moments
from pcircuits.testing.examples import example_column
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
        """Mean and variance of a continuous variable given the evidence.

        The evidence is linear in the variable's unit values, so putting `E[x] + c` (positive for a large c) and
        `E[x^2]` in their place, times the probability of the interval that it lies in, gives the moments.
        """
        plain = Enumeration(self.circuit, _without(self.evidence, variable))
        units = [self._unit_moments(variable, parameters) for parameters in self._leaves_of(variable)]
        shift = 2.0 + max(float(mean.abs().max()) for mean, _ in units)
        shifted = plain._expectation(variable, lambda mean, square: mean + shift)
        square = plain._expectation(variable, lambda mean, square: square)
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
        if len(node.variables) > 1:
            return log_joint_table(family, parameters, self.worlds[:, list(node.variables)]).unsqueeze(0)
        if family.is_discrete:
            return log_table(family, parameters).mT[self.worlds[:, node.variable]].unsqueeze(0)
        observed = self.evidence.observed[:, node.variable]
        anywhere = example_column(family, len(observed), 1.0, torch.Generator().manual_seed(0))
        density = log_density(
            family, parameters, torch.where(observed, self.evidence.values[:, node.variable], anywhere).double()
        )
        mass = self._interval_log_mass(node.variable, parameters)[:, self.worlds[:, node.variable]]
        return torch.where(observed.view(-1, 1, 1), density.unsqueeze(1), mass)

    def _interval_log_mass(self, variable: int, parameters: dict[str, Tensor]) -> Float[Tensor, "B C K"]:
        """Log probability of each cell within the evidence's interval, under each unit."""
        inner = self.edges.get(variable, torch.zeros(0)).double()
        bounds = torch.cat([inner.new_tensor([-torch.inf]), inner, inner.new_tensor([torch.inf])])
        low, high = self._ends(variable)
        if not len(inner) and low.isinf().all() and high.isinf().all():
            return torch.zeros(len(low), 1, len(next(iter(parameters.values()))), dtype=torch.float64)
        low, high = torch.maximum(bounds[:-1], low.unsqueeze(-1)), torch.minimum(bounds[1:], high.unsqueeze(-1))
        return log_mass(self.circuit.inputs[variable], parameters, low, torch.maximum(low, high))

    def _ends(self, variable: int) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        low, high = torch.tensor([-torch.inf, torch.inf]).double().expand(self.evidence.batch_size, -1).unbind(-1)
        if self.evidence.interval is None:
            return low, high
        observed, ends = self.evidence.observed[:, variable], self.evidence.interval[:, variable]
        return torch.where(observed, low, ends[:, 0]), torch.where(observed, high, ends[:, 1])

    def _unit_moments(self, variable: int, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return moments_between(self.circuit.inputs[variable], parameters, *self._ends(variable))

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
            if self.evidence.interval is not None and family.is_discrete:
                low, high = self.evidence.interval[:, variable].unsqueeze(-1).unbind(1)
                soft = soft.masked_fill((cell < low) | (cell > high), -torch.inf)
            total = total + torch.where(observed.unsqueeze(-1), hard, soft)
        return total

    def _log_weight_of(self, x: Shaped[Tensor, "B D"]) -> Float[Tensor, " B"]:
        evidence = self.evidence
        total = torch.zeros(len(x), dtype=torch.float64)
        total[(evidence.observed & (x != evidence.values)).any(-1)] = -torch.inf
        for row, variable in (~evidence.observed).nonzero().tolist():
            if evidence.log_weights is not None and self.circuit.inputs[variable].is_discrete:
                total[row] += evidence.log_weights[row, variable, int(x[row, variable])].double()
            if evidence.interval is not None:
                low, high = evidence.interval[row, variable].tolist()
                total[row] += 0.0 if low <= float(x[row, variable]) <= high else -torch.inf
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
        """`E[statistic | evidence]` of an unobserved continuous variable, from its expectation under each unit, which
        must be positive.
        """

        def leaf(node: Node) -> Tensor:
            if node.variable != variable:
                return self._leaf(node)
            parameters = leaf_parameters(self.circuit, node)
            expected = statistic(*self._unit_moments(variable, parameters)).log().unsqueeze(1)
            return expected + self._interval_log_mass(variable, parameters)

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


def log_joint_table(
    family: InputFamily, parameters: dict[str, Tensor], cells: Int[Tensor, "W M"]
) -> Float[Tensor, "W K"]:
    """Log probabilities of values of a discrete family's M variables, in float64; families of others answer for
    themselves.

    Raises:
        StructureError: a joint family of continuous variables.
    """
    if not family.is_discrete:
        raise StructureError(f"{family!r} has infinitely many worlds; its circuits are not enumerated")
    if not isinstance(family, ChowLiuTree):
        given = Evidence(cells).of_variables(range(cells.shape[1]))
        return family.log_values(_alone(family, parameters), torch.zeros(1, dtype=torch.long), given, False)[0]
    root, found = family.parents.index(-1), torch.zeros(len(cells), len(parameters["root_logits"])).double()
    tables = iter(parameters["link_logits"].log_softmax(-1).unbind(1))
    for variable, parent in enumerate(family.parents):
        if variable == root:
            found = found + parameters["root_logits"].log_softmax(-1)[:, cells[:, root]].T
        else:
            found = found + next(tables)[:, cells[:, parent], cells[:, variable]].T
    return found


def log_density(family: InputFamily, parameters: dict[str, Tensor], x: Shaped[Tensor, " N"]) -> Float[Tensor, "N K"]:
    """Log density of each unit at each value, in float64; families of others answer for themselves, one unit and value
    at a time.
    """
    if type(family) is Gaussian:
        mean, std = _normal(family, parameters)
        return torch.distributions.Normal(mean, std).log_prob(x.unsqueeze(-1))
    prepared, row = _alone(family, parameters), torch.zeros(1, dtype=torch.long)
    values = [family.log_values(prepared, row, Evidence(v.view(1, 1)).of_variables((0,)), False)[0, 0] for v in x]
    return torch.stack(values).double()


def log_mass(
    family: InputFamily, parameters: dict[str, Tensor], low: Float[Tensor, "B C"], high: Float[Tensor, "B C"]
) -> Float[Tensor, "B C K"]:
    """Log probability of intervals under each unit; families of others answer for themselves."""
    if type(family) is Gaussian:
        mean, std = _normal(family, parameters)
        left, right = ((end.unsqueeze(-1) - mean) / std for end in (low, high))
        left, right = torch.where(left > 0, -right, left), torch.where(left > 0, -left, right)
        return (_below(right) - _below(left)).log()
    prepared, row = _alone(family, parameters), torch.zeros(1, dtype=torch.long)
    given = _within(low.flatten(), high.flatten()).of_variables((0,))
    return family.log_values(prepared, row, given, False)[0].double().unflatten(0, low.shape)


def moments_between(
    family: InputFamily, parameters: dict[str, Tensor], low: Float[Tensor, " B"], high: Float[Tensor, " B"]
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Mean and mean square of each unit within intervals; families of others answer for themselves."""
    if type(family) is Gaussian:
        return _normal_between(*_normal(family, parameters), low.unsqueeze(-1), high.unsqueeze(-1))
    prepared, row = _alone(family, parameters), torch.zeros(1, dtype=torch.long)
    given = _within(low, high).of_variables((0,))
    units = torch.eye(len(next(iter(parameters.values()))), dtype=torch.float64)
    found = [family.posterior(prepared, row, given, one.expand(1, len(low), -1), True)[0] for one in units]
    return torch.stack([f[:, 0] for f in found], -1), torch.stack([f[:, 1] for f in found], -1)


def _below(z: Tensor) -> Tensor:
    """The normal distribution function, whose tail `torch.special.ndtr` loses from -8.3 on."""
    return torch.special.erfc(-z / math.sqrt(2)) / 2


def _normal_between(mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of a truncated normal distribution (Johnson, Kotz 1970, Section 13.10.1), on the side of its tail."""
    left, right = (low - mean) / std, (high - mean) / std
    sign = torch.where(left > 0, -1.0, 1.0)
    left, right = torch.where(left > 0, -right, left), torch.where(left > 0, -left, right)
    mass = _below(right) - _below(left)
    density = [torch.where(z.isinf(), 0.0, (-z.square() / 2).exp() / math.sqrt(2 * math.pi)) for z in (left, right)]
    finite = [torch.where(z.isinf(), 0.0, z) for z in (left, right)]
    shift = (density[0] - density[1]) / mass
    square = 1 + (finite[0] * density[0] - finite[1] * density[1]) / mass
    first = mean + sign * std * shift
    return first, mean.square() + 2 * mean * sign * std * shift + std.square() * square


def _alone(family: InputFamily, parameters: dict[str, Tensor]) -> Any:
    support = parameters.get("support")
    plain = {name: value.unsqueeze(0) for name, value in parameters.items() if name != "support"}
    return family.prepare(plain, None if support is None else support.unsqueeze(0))


def _within(low: Float[Tensor, " B"], high: Float[Tensor, " B"]) -> Evidence:
    return Evidence(torch.zeros(len(low), 1), interval=(low.unsqueeze(-1), high.unsqueeze(-1)))


def _normal(family: Gaussian, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    mean, raw = parameters["mean"], parameters["raw_std"]
    if family.max_std is None:
        return mean, family.min_std + torch.nn.functional.softplus(raw)
    return mean, family.min_std + (family.max_std - family.min_std) / (1 + (-raw).exp())


def _without(evidence: Evidence, variable: int) -> Evidence:
    observed = evidence.observed.clone()
    observed[:, variable] = False
    return evidence.replace(observed=observed)
