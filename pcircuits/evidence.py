"""What is known of each variable: a value, an interval, nothing, or a non-negative weight per value."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pcircuits.errors import EvidenceError, ShapeError
from pcircuits.kernels import logsumexp
from pcircuits.types import Bool, Float, Int, Shaped, Tensor


class InputEvidence(NamedTuple):
    """The evidence of the variables of one input level, variables first. `soft` says where `log_weights` count,
    `summed` where a maximisation sums.
    """

    values: Shaped[Tensor, "F B"]
    observed: Bool[Tensor, "F B"]
    log_weights: Float[Tensor, "F B V"] | None
    latent: Float[Tensor, "F B K"] | None = None
    summed: Bool[Tensor, "F B"] | None = None
    weighted_values: Int[Tensor, "F B W"] | None = None
    memory: "Memory | None" = None
    interval: Float[Tensor, "F B 2"] | None = None
    parameters: Mapping[str, Shaped[Tensor, "F B K *P"]] | None = None

    @property
    def bounded(self) -> Bool[Tensor, "F B"]:
        """Where an interval says something."""
        if self.interval is None:
            return torch.zeros_like(self.observed)
        return ~self.observed & self.interval.isfinite().any(-1)

    def latent_of(self, arity: int) -> Float[Tensor, "R B K"] | None:
        """Potentials of the units of regions of `arity` variables each, whose own add up."""
        if self.latent is None or arity == 1:
            return self.latent
        return self.latent.unflatten(0, (-1, arity)).sum(1)

    @property
    def soft(self) -> Bool[Tensor, "F B"]:
        return torch.zeros_like(self.observed) if self.log_weights is None else ~self.observed

    def recall(self, table: Tensor) -> "Known | None":
        """Values of this table's units under the same weights, of no fewer positions, from an earlier call."""
        known = None if self.memory is None else self.memory.known
        if known is None or known.table is not table or known.versions != self._versions(table):
            return None
        assert self.log_weights is not None
        constant = not (torch.is_grad_enabled() and (table.requires_grad or self.log_weights.requires_grad))
        return known if constant and not (self.soft & ~known.soft).any() else None

    def remember(self, table: Tensor, values: Float[Tensor, "F B K"], scale: Float[Tensor, "F B"]) -> "Known":
        """Keeps the values for evidence that observes more of the same variables."""
        versions = self._versions(table)
        known = Known(table, versions, self.soft, values, scale)
        if self.memory is not None and versions is not None and not values.requires_grad:
            self.memory.known = known
        return known

    def _versions(self, table: Tensor) -> tuple[int, int] | None:
        """Change when table or weights are changed in place; None where that is not told."""
        weights = self.log_weights
        if weights is None or weights.is_inference() or table.is_inference():
            return None
        return table._version, weights._version


class Known(NamedTuple):
    """Linear values of a table's units under soft evidence, where `soft`, and the log of their scale."""

    table: Tensor
    versions: tuple[int, int] | None
    soft: Bool[Tensor, "F B"]
    values: Float[Tensor, "F B K"]
    scale: Float[Tensor, "F B"]


@dataclass
class Memory:
    """Of one input level: at a language model's vocabulary these values cost more than everything else."""

    known: Known | None = None


class Evidence:
    """Batched evidence, mixed freely across variables and samples.

    Args:
        values: (B, D). Read where observed; anything finite elsewhere. May be left out if `log_weights` is given.
        observed: (B, D) bool. True: the value is hard evidence and weights there are ignored. False: the weights if
            given, else missing.
            None means all True without `log_weights` and `interval`, and all False with them.
        log_weights: (B, D, V) natural logarithms of non-negative weights of discrete values (soft or virtual evidence,
            Pearl 1988). `-inf` is allowed;
            they need not be normalised, and their scale is part of the log evidence. All zeros is the same as missing.
        weighted_values: (B, D, W) the W different values that `log_weights` (B, D, W) belong to at each position; all
            other values there have weight zero. Left out: `log_weights` is of all V values.
        latent: (B, D, K) log potentials of the K units of each variable's input regions, evidence of the latent
            variable that they stand for (Li et al. 2026, equation 10). `-inf` is allowed; zeros say nothing.
        gates: (B, D, G, G) log factors of the weights of the sums right above each variable's input, block by block:
            the weight of output o of O for child j of J is multiplied with `exp(gates[b, d, o G // O, j G // J])`, in
            an HMM the transition into step d (what Liu et al. 2024 call block gates, one set a sample and position).
            Sums with a single output have none. Where several inputs meet in a sum, their factors multiply.
        gate_factors: (B, D, 2, R, K) the same with a factor of its own for each weight, of low rank: the weight of
            output o for child j is multiplied with `sum_r exp(f[b, d, 0, r, o] + f[b, d, 1, r, j])`.
        interval: `(low, high)`, each a number or a tensor that broadcasts to (B, D), or both in one tensor (B, D, 2). A
            variable that is not observed lies in `[low, high]`, both ends included: what counts is its probability, so
            that a continuous one may as well leave them out, and `low = high` is impossible for it. `-inf` and `inf`
            leave a side open. Weights at the same position multiply.
        parameters: by name, (B, D, K, ...): unconstrained parameters of the K units of each variable's input regions,
            one set a sample, in place of the circuit's own. Read by variables of a `PerSample` family.

    Raises:
        ShapeError: shapes or dtypes that do not fit together, or an empty batch.
        EvidenceError: NaN among observed values or parameters, NaN or `+inf` among used weights, potentials or gates,
            or an interval that is empty or has a NaN end.
    """

    def __init__(  # noqa: PLR0913 - all that may be known, in one object
        self,
        values: Shaped[Tensor, "B D"] | None = None,
        *,
        observed: Bool[Tensor, "B D"] | None = None,
        log_weights: Float[Tensor, "B D V"] | None = None,
        weighted_values: Int[Tensor, "B D W"] | None = None,
        latent: Float[Tensor, "B D K"] | None = None,
        gates: Float[Tensor, "B D G G"] | None = None,
        gate_factors: Float[Tensor, "B D 2 R K"] | None = None,
        interval: tuple[Tensor | float | int, Tensor | float | int] | Float[Tensor, "B D 2"] | None = None,
        parameters: Mapping[str, Float[Tensor, "B D K *P"]] | None = None,
    ) -> None:
        if values is None:
            if log_weights is None:
                raise EvidenceError("Evidence needs `values` or `log_weights`; neither was given")
            _require_weights(log_weights, None)
            values = torch.zeros(log_weights.shape[:2], dtype=torch.long, device=log_weights.device)
            observed = torch.zeros_like(values, dtype=torch.bool) if observed is None else observed
        _require_values(values)
        if observed is None:
            hard = log_weights is None and interval is None
            observed = torch.full(values.shape, hard, dtype=torch.bool, device=values.device)
        if not isinstance(observed, Tensor) or observed.dtype != torch.bool or observed.shape != values.shape:
            raise ShapeError(
                f"`observed` must be a bool tensor of shape {tuple(values.shape)}, got {describe(observed)}"
            )
        if values.is_floating_point() and (bad := (values.isnan() & observed)).any():
            raise EvidenceError(
                f"`values` is NaN at observed positions in batch rows {rows_of(bad)}; for missing values "
                "use Evidence.from_nan"
            )
        if log_weights is not None:
            _require_weights(log_weights, values)
            peak = log_weights.detach().amax(-1)  # NaN where one is
            if (bad := (peak.isnan() | peak.isposinf()) & ~observed).any():
                raise EvidenceError(
                    f"`log_weights` has NaN or +inf at unobserved positions in batch rows {rows_of(bad)}"
                )
        _require_weighted(weighted_values, log_weights, observed)
        _require_potentials("latent", latent, values, "K")
        _require_potentials("gates", gates, values, "G, G")
        _require_potentials("gate_factors", gate_factors, values, "2, R, K")
        _require_parameters(parameters, values)
        self.values, self.observed, self.log_weights = values, observed, log_weights
        self.weighted_values, self.latent, self.gates = weighted_values, latent, gates
        self.gate_factors = gate_factors
        self.summed: Bool[Tensor, "B D"] | None = None
        self._memory: dict[tuple[int, ...], Memory] = {}
        self.interval = None if interval is None else _interval(interval, values, observed)
        self.parameters = None if parameters is None else dict(parameters)

    @classmethod
    def from_sets(
        cls, allowed: Sequence[Mapping[int, Iterable[int]]], num_variables: int, num_categories: int
    ) -> "Evidence":
        """Discrete variables that take one of several values: for each batch row the `allowed` values of some
        variables; the others are missing. The same as weights 1 and 0 over `num_categories` values.

        Raises:
            EvidenceError: no row, an empty set, or a variable or value that does not exist.
        """
        if not allowed:
            raise EvidenceError("`allowed` needs at least one row, a mapping from variables to sets of values")
        log_weights = torch.zeros(len(allowed), num_variables, num_categories)
        for row, sets in enumerate(allowed):
            for variable, values in sets.items():
                chosen = sorted(set(values))
                if not 0 <= variable < num_variables or not chosen or not 0 <= chosen[0] <= chosen[-1] < num_categories:
                    raise EvidenceError(
                        f"`allowed` row {row}: variable {variable!r} must be one of {num_variables} and its set hold "
                        f"values in 0..{num_categories - 1}, got {chosen!r:.80}"
                    )
                log_weights[row, variable] = -torch.inf
                log_weights[row, variable, chosen] = 0.0
        return cls(log_weights=log_weights)

    @classmethod
    def from_nan(cls, values: Float[Tensor, "B D"]) -> "Evidence":
        """Hard evidence wherever `values` is not NaN, missing where it is."""
        if not isinstance(values, Tensor) or not values.is_floating_point():
            raise ShapeError(f"`values` must be a floating point tensor to hold NaN, got {describe(values)}")
        observed = ~values.isnan()
        return cls(values.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf), observed=observed)

    @classmethod
    def nothing(cls, batch: int, num_variables: int, device: torch.device | None = None) -> "Evidence":
        """Every variable missing: conditioning on it gives the circuit itself."""
        values = torch.zeros(batch, num_variables, dtype=torch.long, device=device)
        return cls(values, observed=torch.zeros_like(values, dtype=torch.bool))

    @property
    def batch_size(self) -> int:
        return self.values.shape[0]

    @property
    def num_variables(self) -> int:
        return self.values.shape[1]

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def is_complete(self) -> bool:
        """Whether all variables are observed."""
        return bool(self.observed.all())

    @property
    def says_nothing(self) -> bool:
        """Whether no variable is observed and there are no weights, potentials, gates or parameters."""
        given = (self.log_weights, self.latent, self.gates, self.gate_factors, self.parameters)
        return not self.observed.any() and all(x is None for x in given)

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient of any of it is asked for."""
        tensors = [*vars(self).values(), *(self.parameters or {}).values()]
        return any(x.requires_grad for x in tensors if isinstance(x, Tensor))

    @property
    def has_gates(self) -> bool:
        """Whether there are gates or factors of gates."""
        return self.gates is not None or self.gate_factors is not None

    @property
    def all_gates(self) -> Float[Tensor, "B D G G"] | None:
        """Gates and factors of gates in one, a gate for each weight where there are factors."""
        if self.gate_factors is None:
            return self.gates
        left, right = self.gate_factors.double().unbind(2)
        log = logsumexp((left.unsqueeze(-1) + right.unsqueeze(-2)).movedim(2, -1))
        if self.gates is None:
            return log
        each = log.shape[-1] // self.gates.shape[-1]
        return log + self.gates.repeat_interleave(each, -1).repeat_interleave(each, -2)

    def gated(self, variables: Sequence[Sequence[int]]) -> bool:
        """Whether there are gates at groups of variables."""
        return self.has_gates and any(variables)

    def rows(self, index: Shaped[Tensor, " M"]) -> "Evidence":
        """The evidence of some batch rows: an index or a bool mask over B."""
        return self._each(lambda x: x[index])

    def repeat(self, n: int) -> "Evidence":
        """The batch n times over, (n B, D)."""
        return self._each(lambda x: x.expand(n, *x.shape).flatten(0, 1))

    def to(self, device: torch.device | str) -> "Evidence":
        """The same evidence on another device."""
        return self._each(lambda x: x.to(device))

    def replace(self, **fields: Any) -> "Evidence":
        """With other arguments of the constructor in place of its own. `log_weights` are of all values unless
        `weighted_values` come with them.
        """
        names = ("values", "observed", "latent", "gates", "gate_factors", "interval", "parameters")
        kept = {name: getattr(self, name) for name in names}
        if "log_weights" not in fields:
            kept |= {"log_weights": self.log_weights, "weighted_values": self.weighted_values}
        evidence = Evidence(**{**kept, **fields})
        evidence.summed = self.summed
        return evidence

    def summing(self, variables: Bool[Tensor, "B D"] | None) -> "Evidence":
        """The same evidence; maximisation sums these variables out where they are not observed (None: no variable)."""
        evidence = self._each(lambda x: x)
        evidence.summed = variables
        return evidence

    def observe(self, values: Shaped[Tensor, "B D"], observed: Bool[Tensor, "B D"]) -> "Evidence":
        """With these observations; what is known of all other variables stays, and what was worked out for them."""
        if (self.observed & ~observed).any():
            return self.replace(values=values, observed=observed)
        evidence = self.replace(values=values, observed=observed, log_weights=None)  # its weights are known to be fit
        evidence.log_weights, evidence.weighted_values = self.log_weights, self.weighted_values
        evidence._memory = self._memory
        return evidence

    def weighing_intervals(self, sizes: Sequence[int | None]) -> "Evidence":
        """The same evidence with the intervals of discrete variables, those of `sizes` values, as weights 1 and 0."""
        if self.interval is None or not any(sizes):
            return self
        discrete = torch.tensor([size is not None for size in sizes], device=self.device)
        width = max(size or 1 for size in sizes) if self.log_weights is None else self.log_weights.shape[-1]
        low, high = self.interval.split(1, -1)
        grid = torch.arange(width, device=self.device) if self.weighted_values is None else self.weighted_values
        inside = ((low <= grid) & (grid <= high)) | ~discrete.unsqueeze(-1)
        log_weights = torch.where(inside, torch.zeros((), device=self.device), -torch.inf)
        found = self._each(lambda x: x)
        found.log_weights = log_weights if self.log_weights is None else self.log_weights + log_weights
        rest = torch.where(discrete.unsqueeze(-1), self.interval.new_tensor([-torch.inf, torch.inf]), self.interval)
        found.interval = None if discrete.all() else rest
        return found

    def of_variables(self, variables: Sequence[int]) -> InputEvidence:
        """The evidence of one input level's variables (F,), variables first."""
        in_order = list(variables) == list(range(self.num_variables))
        index = None if in_order else torch.tensor(variables, device=self.device)

        def take(x: Tensor | None) -> Tensor | None:
            x = None if x is None else x.transpose(0, 1)
            if x is None or index is None:
                return x
            return (x.contiguous() if x.ndim == 2 else x).index_select(0, index)  # whole rows are copied at once

        values, observed = take(self.values), take(self.observed)
        assert values is not None and observed is not None
        return InputEvidence(
            values,
            observed,
            take(self.log_weights),
            take(self.latent),
            take(self.summed),
            take(self.weighted_values),
            self._memory.setdefault(tuple(variables), Memory()),
            take(self.interval),
            self.parameters
            and {
                name: x.transpose(0, 1) if index is None else x.transpose(0, 1).index_select(0, index)
                for name, x in self.parameters.items()
            },
        )

    def gates_of(
        self, variables: Sequence[Sequence[int]]
    ) -> Float[Tensor, "F B G G"] | Float[Tensor, "F B 2 R K"] | None:
        """Per group of variables the sum of their gates, or the factors of that if it has some; None where nothing is
        gated.
        """
        if not self.gated(variables):
            return None
        if self.gate_factors is not None and self.gates is None and all(len(group) == 1 for group in variables):
            return torch.stack([self.gate_factors[:, v] for group in variables for v in group])
        gates = self.all_gates
        assert gates is not None
        zero = torch.zeros_like(gates[:, 0])
        return torch.stack([sum((gates[:, v] for v in group), zero) for group in variables])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Evidence":
        """Every field changed alike; nothing is validated again."""
        evidence = type(self).__new__(type(self))
        for name, value in vars(self).items():
            setattr(evidence, name, change(value) if isinstance(value, Tensor) else None)
        evidence.parameters = self.parameters and {name: change(x) for name, x in self.parameters.items()}
        evidence._memory = {}
        return evidence

    def __repr__(self) -> str:
        soft = "" if self.log_weights is None else f", log_weights over {self.log_weights.shape[-1]} values"
        soft += "" if self.weighted_values is None else " of more"
        share = f"{self.observed.float().mean():.0%} observed"
        names = ("latent", "gates", "gate_factors", "interval", "parameters")
        more = "".join(f", {name}" for name in names if getattr(self, name) is not None)
        return f"Evidence({self.batch_size} samples, {self.num_variables} variables, {share}{soft}{more})"


def describe(x: object) -> str:
    """Type, dtype and shape of an argument, for error messages."""
    return f"{x.dtype} tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def rows_of(bad: Bool[Tensor, "B ..."], limit: int = 8) -> list[int]:
    """The first batch rows that hold a True, for error messages."""
    return bad.reshape(bad.shape[0], -1).any(1).nonzero().flatten()[:limit].tolist()


def _require_values(values: object) -> None:
    if not isinstance(values, Tensor) or values.ndim != 2 or values.is_complex():
        raise ShapeError(f"`values` must be a real (B, D) tensor, got {describe(values)}")
    if values.shape[0] == 0:
        raise ShapeError("`values` has an empty batch; at least one sample is needed")


def _interval(
    ends: Sequence[Tensor | float | int] | Tensor, values: Tensor, observed: Bool[Tensor, "B D"]
) -> Float[Tensor, "B D 2"]:
    try:
        low, high = ends.unbind(-1) if isinstance(ends, Tensor) else ends
        sides = [
            torch.as_tensor(end, dtype=torch.float64, device=values.device).expand(values.shape) for end in (low, high)
        ]
    except (TypeError, RuntimeError, ValueError) as error:
        raise ShapeError(
            f"`interval` must be a pair (low, high) of numbers or tensors that broadcast to {tuple(values.shape)}"
        ) from error
    interval = torch.stack(sides, -1)
    low, high = interval.unbind(-1)
    if (bad := ~((low <= high) & (low < torch.inf) & (high > -torch.inf)) & ~observed).any():
        raise EvidenceError(
            f"`interval` must have low <= high, low < inf, high > -inf and no NaN; not so in batch rows {rows_of(bad)}"
        )
    return interval


def _require_weights(log_weights: object, values: Tensor | None) -> None:
    if not isinstance(log_weights, Tensor) or log_weights.ndim != 3 or not log_weights.is_floating_point():
        raise ShapeError(f"`log_weights` must be a floating point (B, D, V) tensor, got {describe(log_weights)}")
    if values is not None and log_weights.shape[:2] != values.shape:
        raise ShapeError(f"`log_weights` must have shape {(*values.shape, 'V')}, got {tuple(log_weights.shape)}")
    if log_weights.shape[0] == 0:
        raise ShapeError("`log_weights` has an empty batch; at least one sample is needed")


def _require_weighted(ids: object, log_weights: Tensor | None, observed: Tensor) -> None:
    if ids is None:
        return
    shape = None if log_weights is None else log_weights.shape
    if not isinstance(ids, Tensor) or ids.dtype != torch.long or ids.shape != shape:
        raise ShapeError(f"`weighted_values` must be int64 of the shape of `log_weights`, {shape}; got {describe(ids)}")
    ordered = ids.sort(-1).values
    if (bad := (ordered[..., 1:] == ordered[..., :-1]).any(-1) & ~observed).any():
        raise EvidenceError(f"`weighted_values` names a value twice in batch rows {rows_of(bad)}")


def _require_potentials(name: str, potentials: object, values: Tensor, axes: str) -> None:
    if potentials is None:
        return
    ndim = 3 + axes.count(",")
    if not isinstance(potentials, Tensor) or not potentials.is_floating_point() or potentials.ndim != ndim:
        raise ShapeError(f"`{name}` must be a floating point (B, D, {axes}) tensor, got {describe(potentials)}")
    square = {"G, G": potentials.shape[-1] == potentials.shape[-2], "2, R, K": potentials.shape[2] == 2}.get(axes, True)
    if potentials.shape[:2] != values.shape or not square:
        raise ShapeError(
            f"`{name}` must have shape ({values.shape[0]}, {values.shape[1]}, {axes}), got {tuple(potentials.shape)}"
        )
    if (bad := potentials.isnan() | potentials.isposinf()).any():
        raise EvidenceError(f"`{name}` has NaN or +inf in batch rows {rows_of(bad)}")


def _require_parameters(parameters: object, values: Tensor) -> None:
    if parameters is None:
        return
    if not isinstance(parameters, Mapping) or not parameters:
        raise ShapeError(f"`parameters` must be a mapping from names to tensors, got {describe(parameters)}")
    for name, x in parameters.items():
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 3 or x.shape[:2] != values.shape:
            wanted = f"a floating point ({values.shape[0]}, {values.shape[1]}, K, ...) tensor"
            raise ShapeError(f"`parameters` {name!r} must be {wanted}, got {describe(x)}")
        if (bad := x.isnan()).any():
            raise EvidenceError(f"`parameters` {name!r} has NaN in batch rows {rows_of(bad)}")
