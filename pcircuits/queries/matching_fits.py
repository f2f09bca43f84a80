"""How a variable's weights are set from its target and from what the other variables say of it.

Axes: B batch, D variables, R rows in which a variable is free, M free positions, V values, W those fitted one by one,
K units, U rows that have weights.
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from pcircuits.evidence import Evidence
from pcircuits.kernels import finite, mm
from pcircuits.plan import InputLevel
from pcircuits.types import Bool, Float, Int, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit


@runtime_checkable
class Fit(Protocol):
    """What a walk asks: the weights of one variable after another, and the evidence that they make."""

    def values(
        self, variable: int, rows: Int[Tensor, " R"], table: Float[Tensor, "V K"], message: Float[Tensor, "R K"]
    ) -> tuple[Bool[Tensor, " R"], Float[Tensor, "U K"]]:
        """Sets the variable's weights under a message from all other variables. Returns where there are any, and there
        the values of the input's units.
        """
        ...

    def evidence(self) -> Evidence: ...


class AllValues:
    """`target / prediction` for every value, or for those that the evidence gives weights to."""

    def __init__(self, start: Evidence, log_targets: Float[Tensor, "B D W"]) -> None:
        assert start.log_weights is not None
        self.start, self.log_targets = start, log_targets
        self.columns = list(start.log_weights.unbind(1))

    def values(
        self, variable: int, rows: Tensor, table: Float[Tensor, "V K"], message: Float[Tensor, "R K"]
    ) -> tuple[Bool[Tensor, " R"], Float[Tensor, "U K"]]:
        ids = self.start.weighted_values
        of_values = None if ids is None else table[ids[rows, variable]]
        weights = _target_over(self.log_targets[rows, variable], _predict(message, table, of_values))
        usable = ~weights.isneginf().all(-1)
        rows, weights = rows[usable], weights[usable]
        weights = weights - weights.detach().amax(-1, keepdim=True)
        column = self.columns[variable]
        self.columns[variable] = column.index_copy(0, rows, weights.to(column.dtype))
        linear = weights.exp().to(message.dtype)
        return usable, mm(linear, table) if of_values is None else _weighted(linear, of_values[usable])

    def evidence(self) -> Evidence:
        return self.start.replace(log_weights=torch.stack(self.columns, 1), weighted_values=self.start.weighted_values)


class LikeliestValues:
    """`target / prediction` for the likeliest values of each variable; for all others together, `target / m` times one
    factor, m being the circuit's marginals given the evidence.

    The others' sum over the table is worked out once for all positions and serves every visit.
    """

    def __init__(self, circuit: "Circuit", evidence: Evidence, log_targets: Float[Tensor, "B D V"], count: int) -> None:
        self.circuit, self.start = circuit, evidence
        self.free = ~evidence.observed
        self.index = self.free.flatten().cumsum(0).view(self.free.shape) - 1  # of M, where free
        log_targets = log_targets.flatten(0, 1) if self.free.all() else log_targets[self.free]
        marginals = circuit.condition(evidence).free_marginals()
        self.ids = largest(log_targets.detach(), count)
        self.log_top = log_targets.gather(-1, self.ids)
        others = _target_over(log_targets, marginals).scatter_(-1, self.ids, -torch.inf)
        peak = finite(others.detach().amax(-1, keepdim=True))
        self.others = others.sub_(peak)
        linear = self.others.exp().to(marginals.dtype)
        mass = torch.bmm(linear.unsqueeze(1), marginals.unsqueeze(-1)).flatten()
        self.log_mass = _log(mass) + peak.squeeze(-1)
        self.summed = self._sum_over_tables(linear)
        self.log_weights, self.factor = self.log_top.new_zeros(self.log_top.shape), self.log_mass.new_zeros(len(mass))
        self.found = self.summed.new_ones(self.summed.shape)
        self.usable = torch.zeros_like(mass, dtype=torch.bool)

    def values(
        self, variable: int, rows: Tensor, table: Float[Tensor, "V K"], message: Float[Tensor, "R K"]
    ) -> tuple[Bool[Tensor, " R"], Float[Tensor, "U K"]]:
        at = self.index[rows, variable]
        message = message / message.detach().sum(-1, keepdim=True).clamp_min(torch.finfo(message.dtype).tiny)
        of_values, summed = table[self.ids[at]], self.summed[at]
        top = _target_over(self.log_top[at], _predict(message, table, of_values))
        factor = _target_over(self.log_mass[at], (message * summed).sum(-1))
        peak = torch.maximum(top.detach().amax(-1), factor.detach())
        usable = ~peak.isneginf()
        at, top, factor, peak = at[usable], top[usable], factor[usable], peak[usable]
        top, factor = top - peak.unsqueeze(-1), factor - peak
        values = factor.exp().to(message.dtype).unsqueeze(-1) * summed[usable]
        values = values + _weighted(top.exp().to(message.dtype), of_values[usable])
        self.log_weights, self.factor = self.log_weights.index_copy(0, at, top), self.factor.index_copy(0, at, factor)
        self.found, self.usable = self.found.index_copy(0, at, values), self.usable.index_fill(0, at, True)
        return usable, values

    def evidence(self) -> Evidence:
        """With all weights, and with what the visits found of them, so that nothing is summed over the table again."""
        others = self.others + self.factor.unsqueeze(-1)
        weights = others.scatter_(-1, self.ids, self.log_weights)
        if not self.usable.all():
            weights = torch.where(self.usable.unsqueeze(-1), weights, 0.0)
        log_weights = weights.view(*self.free.shape, -1) if self.free.all() else self._placed(weights)
        evidence = self.start.replace(log_weights=log_weights)
        if not (torch.is_grad_enabled() and self.found.requires_grad):
            self._remember(evidence)
        return evidence

    def _placed(self, rows: Float[Tensor, "M X"]) -> Float[Tensor, "B D X"]:
        placed = rows.new_zeros(*self.free.shape, rows.shape[-1])
        placed[self.free] = rows
        return placed

    def _remember(self, evidence: Evidence) -> None:
        values, prepared = self._placed(self.found), self.circuit.prepared()
        for level in _input_levels(self.circuit):
            given, of_level = evidence.of_variables(level.variables), values[:, list(level.variables)].transpose(0, 1)
            scale = torch.zeros(of_level.shape[:2], dtype=torch.float64, device=of_level.device)
            given.remember(prepared[level.group].linear, of_level, scale)

    def _sum_over_tables(self, linear: Float[Tensor, "M V"]) -> Float[Tensor, "M K"]:
        """`sum_v linear[m,v] table[v]`, one product a table."""
        prepared, column = self.circuit.prepared(), self.free.nonzero(as_tuple=True)[1]
        summed = linear.new_zeros(len(linear), self.circuit.num_units)
        for level in _input_levels(self.circuit):
            variables = torch.tensor(level.variables, device=column.device)
            for group in range(len(prepared[level.group].linear)):
                mine = torch.isin(column, variables[level.rows == group])
                chosen = linear if mine.all() else linear[mine]
                if len(chosen):
                    summed = summed.index_put(
                        (mine.nonzero().squeeze(-1),), chosen @ prepared[level.group].linear[group]
                    )
        return summed


def _input_levels(circuit: "Circuit") -> list[Any]:
    return [level for level in circuit.plan.levels if isinstance(level, InputLevel)]


def largest(x: Float[Tensor, "M V"], count: int) -> Int[Tensor, "M W"]:
    """Where the `count` largest entries of each row are: they lie in the blocks of largest maximum, and what is left
    over.
    """
    width = 64
    blocks = x.shape[-1] // width
    if blocks <= 2 * count:
        return x.topk(count, -1).indices
    best = x[:, : blocks * width].unflatten(-1, (blocks, width)).amax(-1).topk(count, -1).indices
    inside = (best.unsqueeze(-1) * width + torch.arange(width, device=x.device)).flatten(1)
    rest = torch.arange(blocks * width, x.shape[-1], device=x.device).expand(len(x), -1)
    places = torch.cat([inside, rest], -1)
    return places.gather(-1, x.gather(-1, places).topk(count, -1).indices)


def _predict(message: Float[Tensor, "R K"], table: Float[Tensor, "V K"], of_values: Tensor | None) -> Tensor:
    """`sum_k message[k] table[v,k]`."""
    return mm(message, table.mT) if of_values is None else torch.bmm(of_values, message.unsqueeze(-1)).squeeze(-1)


def _weighted(weights: Float[Tensor, "R W"], of_values: Float[Tensor, "R W K"]) -> Float[Tensor, "R K"]:
    return torch.bmm(weights.unsqueeze(1), of_values).squeeze(1)


def _target_over(log_targets: Float[Tensor, "..."], prediction: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`log target - log prediction`, and `-inf` where the circuit excludes the value."""
    if not prediction.requires_grad and prediction.numel() and prediction.min() > 0:
        return log_targets - prediction.log().to(log_targets.dtype)
    possible = prediction > 0
    found = log_targets - torch.where(possible, prediction, 1.0).log().to(log_targets.dtype)
    return torch.where(possible, found, -torch.inf)


def _log(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    possible = x > 0
    return torch.where(possible, torch.where(possible, x, 1.0).log(), -torch.inf)
