"""Inputs whose units have parameters of their own in every sample."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from pcircuits.distributions.family import InputFamily, Picks, Rows, Smoothing
from pcircuits.errors import ParameterError, ShapeError
from pcircuits.evidence import InputEvidence
from pcircuits.types import Bool, Float, Shaped, Tensor
from pcircuits.workspace import Memory


@dataclass(frozen=True)
class Units:
    """A group's own parameters, prepared and as they are."""

    prepared: Any
    parameters: Mapping[str, Tensor]
    support: Tensor | None


class Unfolded:
    """An input level in which every sample is a row of its own, so that rows of parameters are samples."""

    def __init__(self, base: InputFamily, units: Units, rows: Rows, evidence: InputEvidence) -> None:
        self.shape = evidence.values.shape
        given, (num_rows, batch) = evidence.parameters or {}, self.shape

        def own(x: Tensor) -> Tensor:
            return x[rows].unsqueeze(1).expand(-1, batch, *x.shape[1:]).flatten(0, 1)

        parameters = {name: own(x) for name, x in units.parameters.items()}
        for name in parameters.keys() & given.keys():
            x, wanted = given[name].flatten(0, 1), parameters[name]
            for axis, size in enumerate(wanted.shape[2:], start=2):  # other variables may have more values
                x = x.narrow(axis, 0, size)
            parameters[name] = x.to(wanted.dtype)
        self.prepared = base.prepare(parameters, None if units.support is None else own(units.support))
        self.rows = torch.arange(num_rows * batch, device=rows.device)
        alone = {k: self.alone(x) for k, x in evidence._asdict().items() if isinstance(x, Tensor)}
        self.evidence = evidence._replace(memory=None, parameters=None, **alone)

    def alone(self, x: Shaped[Tensor, "F B *S"]) -> Shaped[Tensor, "N 1 *S"]:
        return x.flatten(0, 1).unsqueeze(1)

    def together(self, x: Shaped[Tensor, "N 1 *S"]) -> Shaped[Tensor, "F B *S"]:
        return x.squeeze(1).unflatten(0, self.shape)


@dataclass(frozen=True)
class PerSample(InputFamily):
    """Units of another family with parameters that come with the evidence, say from a network, in every sample:
    `Evidence(..., parameters={"mean": (B, D, K), ...})`, unconstrained, by the names that the family gives them. What
    the evidence does not give is the circuit's own.

    Gradients reach the evidence's parameters. EM learns the circuit's own, from evidence that gives none.

    Raises:
        ParameterError: `base` is no family that can be wrapped.
    """

    base: InputFamily
    name = "per_sample"

    def __post_init__(self) -> None:
        base = self.base
        if not isinstance(base, InputFamily) or isinstance(base, PerSample) or base.num_variables > 1:
            raise ParameterError(f"PerSample wraps a family of one variable such as Gaussian(), got {base!r:.80}")

    @property
    def num_categories(self) -> int | None:  # type: ignore[override]
        return self.base.num_categories

    @property
    def is_integer(self) -> bool:  # type: ignore[override]
        return self.base.is_integer

    @property
    def is_normal(self) -> bool:  # type: ignore[override]
        return self.base.is_normal

    @property
    def learns_by_em(self) -> bool:  # type: ignore[override]
        return self.base.learns_by_em

    @property
    def fixed(self) -> frozenset[str]:  # type: ignore[override]
        return self.base.fixed

    @property
    def domain(self) -> tuple[float, float]:
        return self.base.domain

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter, what follows its (B, D, K) axes."""
        start = self.base.initialise(1, 1, torch.Generator().manual_seed(0))
        return {name: tuple(x.shape[2:]) for name, x in start.items()}

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return self.base.initialise(groups, units, generator)

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Units:
        return Units(self.base.prepare(parameters, support), parameters, support)

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        self.base.validate(evidence, variables)
        for name in self.sizes.keys() & (evidence.parameters or {}).keys():
            found, size = tuple(evidence.parameters[name].shape[3:]), self.sizes[name]  # type: ignore[index]
            if len(found) != len(size) or any(n < wanted for n, wanted in zip(found, size, strict=True)):
                raise ShapeError(f"`parameters` {name!r} of {self!r} must have {size} after (B, D, K), got {found}")

    def dtype_of(self, prepared: Units) -> torch.dtype:
        return self.base.dtype_of(prepared.prepared)

    def log_values(
        self, prepared: Units, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        return self._each(self.base.log_values, prepared, rows, evidence, maximise)

    def scaled_values(
        self, prepared: Units, rows: Rows, evidence: InputEvidence, memory: Memory
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
        if not self._given(evidence):
            return self.base.scaled_values(prepared.prepared, rows, evidence, memory)
        flat = Unfolded(self.base, prepared, rows, evidence)
        values, scale = self.base.scaled_values(flat.prepared, flat.rows, flat.evidence, memory)
        return flat.together(values), flat.together(scale)

    def posterior(
        self, prepared: Units, rows: Rows, evidence: InputEvidence, flows: Float[Tensor, "F B K"], exact: bool
    ) -> Tensor:
        return self._each(self.base.posterior, prepared, rows, evidence, flows, exact)

    def expected_log(self, prepared: Units, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        return self._each(self.base.expected_log, prepared, rows, evidence)

    def statistics(
        self, prepared: Units, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool, memory: Memory
    ) -> dict[str, Tensor]:
        if self._given(evidence):
            raise ParameterError("expected counts cannot set `parameters` that come with the evidence: use Adam")
        return self.base.statistics(prepared.prepared, rows, evidence, flows, exact, memory)

    def maximise(
        self, prepared: Units, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        return self.base.maximise(prepared.prepared, statistics, smooth, support)

    def sample(
        self,
        prepared: Units,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Shaped[Tensor, " M"]:
        if not self._given(evidence):
            return self.base.sample(prepared.prepared, rows, evidence, picks, temperature, generator)
        flat = Unfolded(self.base, prepared, rows, evidence)
        row, batch, unit = picks
        picks = Picks(row * flat.shape[1] + batch, torch.zeros_like(batch), unit)
        return self.base.sample(flat.prepared, flat.rows, flat.evidence, picks, temperature, generator)

    def overlap(self, prepared: Units, rows: Rows) -> Bool[Tensor, "F K K"]:
        """Always: where units are positive may differ from sample to sample."""
        return torch.ones_like(self.base.overlap(prepared.prepared, rows))

    def to_json(self) -> dict[str, Any]:
        return {"family": self.name, "base": self.base.to_json()}

    def _given(self, evidence: InputEvidence) -> bool:
        return bool(self.sizes.keys() & (evidence.parameters or {}).keys())

    def _each(
        self, method: Callable[..., Tensor], units: Units, rows: Rows, evidence: InputEvidence, *rest: Any
    ) -> Tensor:
        """A method of the base family whose tensors, in and out, have axes F and B in front."""
        if not self._given(evidence):
            return method(units.prepared, rows, evidence, *rest)
        flat = Unfolded(self.base, units, rows, evidence)
        rest = tuple(flat.alone(x) if isinstance(x, Tensor) else x for x in rest)
        return flat.together(method(flat.prepared, flat.rows, flat.evidence, *rest))
