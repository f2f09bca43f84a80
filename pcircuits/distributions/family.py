"""What an input distribution must offer: a new family is one subclass in one file."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import torch

from pcircuits.errors import DataError, ParameterError, StructureError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import LEAST_COUNT, LEAST_PROBABILITY, em_step
from pcircuits.types import Bool, Float, Int, Shaped, Tensor
from pcircuits.workspace import Memory

__all__ = ["LEAST_COUNT", "LEAST_PROBABILITY", "InputFamily", "Picks", "Rows", "Smoothing", "location_and_scale"]

Rows = Int[Tensor, " F"]
"""For every row of an input level, the row of its parameter group; tied variables share one."""


class Picks(tuple):
    """Selected input units `(level row, batch row, unit)`, each (M,): what sampling and maximisation ask an input
    family about.
    """

    def __new__(cls, row: Int[Tensor, " M"], batch: Int[Tensor, " M"], unit: Int[Tensor, " M"]) -> "Picks":
        return super().__new__(cls, (row, batch, unit))


class InputFamily(ABC):
    """A distribution family over K units, of one variable unless it says otherwise; subclasses are frozen dataclasses,
    so that equal specifications fold together.

    Families of M variables get evidence with M rows for each of F regions, theirs one after the other, and `posterior`
    returns as many; `sample` returns (M picks, M variables).

    Parameters are a dict of tensors whose first axes are (G, K). `prepare` turns them into what the other methods read.
    """

    name: ClassVar[str]
    num_variables: int = 1  # of each input region: more for families of joint distributions
    num_categories: int | None = None  # V for discrete families over 0..V-1
    is_integer: ClassVar[bool] = False  # of families that are not discrete: whether values are integers, without bound
    learns_by_em: ClassVar[bool] = True  # whether statistics of a fixed size determine the parameters
    gradients_by_counts: ClassVar[bool] = False  # whether `gradient` finds them from expected counts
    fixed: ClassVar[frozenset[str]] = frozenset()  # names of parameters that no learner changes
    is_normal: ClassVar[bool] = False  # given a unit, the variable is its mean plus its deviation times normal noise

    @property
    def is_discrete(self) -> bool:
        return self.num_categories is not None

    @property
    def domain(self) -> tuple[float, float]:
        """The least and the largest value, both included where they are finite."""
        return (-math.inf, math.inf) if self.num_categories is None else (0, self.num_categories - 1)

    @classmethod
    def from_data(cls, x: Shaped[Tensor, " N"]) -> "InputFamily":
        """The family whose units start where a column of data lies, without missing values.

        Raises:
            ParameterError: a family that has nothing to take from data.
        """
        raise ParameterError(f"{cls.__name__} takes nothing from data; give its arguments")

    @abstractmethod
    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Random unconstrained parameters, each with leading axes (G, K)."""

    @abstractmethod
    def prepare(self, parameters: dict[str, Tensor], support: Bool[Tensor, "G K V"] | None) -> Any:
        """Normalised parameters in the form that the methods below read."""

    @abstractmethod
    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        """Raise EvidenceError, naming the variable, where observed values lie outside the domain."""

    @abstractmethod
    def log_values(self, prepared: Any, rows: Rows, evidence: InputEvidence, maximise: bool) -> Float[Tensor, "F B K"]:
        """Log of each unit's value under the evidence (float64): unobserved values summed out, or maximised out."""

    def log_maxima(self, prepared: Any, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        """As `log_values` maximised, but summed out where the evidence says `summed`."""
        found = self.log_values(prepared, rows, evidence, True)
        if evidence.summed is None:
            return found
        return torch.where(evidence.summed.unsqueeze(-1), self.log_values(prepared, rows, evidence, False), found)

    def scaled_values(
        self, prepared: Any, rows: Rows, evidence: InputEvidence, memory: Memory
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
        """Linear unit values in the parameters' dtype and the log of the scale they were divided by (float64): tensors
        that the caller may overwrite.
        """
        log_values = self.log_values(prepared, rows, evidence, maximise=False)
        peak = log_values.detach().amax(-1, keepdim=True)
        peak = torch.where(peak.isneginf(), 0.0, peak)
        return (log_values - peak).exp().to(self.dtype_of(prepared)), peak.squeeze(-1)

    def normal_values(
        self, prepared: Any, rows: Rows, evidence: InputEvidence, memory: Memory, *, samples_last: bool = False
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]] | None:
        """As `scaled_values`, largest values in [1, 1024] where not all are zero; None where that takes looking at them
        all. They lie in memory samples last or as it comes.
        """
        return None

    @abstractmethod
    def dtype_of(self, prepared: Any) -> torch.dtype:
        """The parameters' dtype."""

    def gradient(
        self, parameters: dict[str, Tensor], prepared: Any, statistics: dict[str, Tensor], support: Tensor | None
    ) -> dict[str, Tensor]:
        """Of the log evidence, by each parameter, from the expected counts of `statistics` and what `scores` found."""
        raise NotImplementedError(f"{self.name} is differentiated by autograd")

    @abstractmethod
    def posterior(
        self, prepared: Any, rows: Rows, evidence: InputEvidence, flows: Float[Tensor, "F B K"], exact: bool
    ) -> Tensor:
        """Flow-weighted conditional of the variable: (F, B, V) probabilities of a discrete family, (F, B, 2) first and
        second moments else.

        `exact` asks for log space, where linear values may have underflowed.
        """

    @abstractmethod
    def statistics(
        self,
        prepared: Any,
        rows: Rows,
        evidence: InputEvidence,
        flows: Float[Tensor, "F B K"],
        exact: bool,
        memory: Memory,
    ) -> dict[str, Float[Tensor, "G K S"]]:
        """Expected sufficient statistics summed over rows and batch, in `memory` if need be; unobserved values count
        with their conditional expectation.
        """

    def scores(
        self,
        prepared: Any,
        rows: Rows,
        evidence: InputEvidence,
        flows: Float[Tensor, "F B K"],
        exact: bool,
        memory: Memory,
    ) -> dict[str, Tensor]:
        """What `gradient` needs: `statistics`, unless a family has something that is quicker to make."""
        return self.statistics(prepared, rows, evidence, flows, exact, memory)

    @abstractmethod
    def maximise(
        self, prepared: Any, statistics: dict[str, Tensor], smooth: "Smoothing", support: Bool[Tensor, "G K V"] | None
    ) -> dict[str, Tensor]:
        """New unconstrained parameters from expected sufficient statistics."""

    def maximise_in_place(
        self,
        parameters: dict[str, Tensor],
        prepared: Any,
        statistics: dict[str, Tensor],
        smooth: "Smoothing",
        support: Bool[Tensor, "G K V"] | None,
    ) -> Any:
        """As `maximise`, writing over the parameters and over `prepared`, which is returned. None: not offered."""
        return None

    @abstractmethod
    def sample(
        self,
        prepared: Any,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Shaped[Tensor, " M"]:
        """Draw a value for each pick from `p(x | unit, evidence)^(1/temperature)`; its mode at temperature 0."""

    @abstractmethod
    def overlap(self, prepared: Any, rows: Rows) -> Bool[Tensor, "F K K"]:
        """Whether two units can both be positive on one value: what determinism is decided from."""

    def expected_log(self, prepared: Any, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        """`E[log (p(x | unit) w(x))]` under each unit's own conditional given the evidence with weights w, in nats,
        float64: the part of an entropy that the inputs have. 0 log 0 is 0.

        Raises:
            StructureError: the family has no closed form.
        """
        raise StructureError(f"entropies need the expected log probability of {self!r}, which has no closed form here")

    def covariance(self, prepared: Any, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K M M"]:
        """Covariances of a region's M variables under each unit given the evidence: asked of joint families."""
        raise StructureError(f"{self!r} is of one variable, so its units have no covariances")

    def without(self, kept: Sequence[int]) -> "InputFamily":
        """The family of some of a region's variables, by their places in it, in that order."""
        raise StructureError(f"{self!r} is of one variable, of which no part can be left out")

    def reduced(self, prepared: Any, evidence: InputEvidence, kept: Sequence[int]) -> Any:
        """Of one group row, what `without` reads: the variables kept given those observed, the others summed out."""
        raise StructureError(f"{self!r} is of one variable, of which no part can be left out")

    def to_json(self) -> dict[str, Any]:
        return {"family": self.name, **asdict(self)}  # type: ignore[call-overload]


class Smoothing(NamedTuple):
    """How counts become parameters.

    `theta <- (1 - step) theta + step (n + a/k) / (sum n + a)` with k children and a the pseudocount; with `relative`,
    that times `sum n`.
    """

    pseudocount: float
    relative: bool
    step: float

    def probabilities(self, counts: Tensor, old: Tensor, support: Tensor | None) -> Tensor:
        """New probabilities over the last axis; a unit that was never reached keeps its old ones."""
        return em_step(counts, old, support, dim=-1, **self._asdict())


def location_and_scale(x: Shaped[Tensor, " N"], floor: float = 1e-2) -> tuple[float, float]:
    """Mean and standard deviation of a column, the latter at least `floor` times the largest value's size or 1."""
    if x.ndim != 1 or len(x) == 0 or not x.isfinite().all():
        raise DataError("a column of data must be a tensor with one axis, not empty, and finite")
    column = x.double()
    least = floor * max(1.0, float(column.abs().max()) * 1e-3)
    return float(column.mean()), max(float(column.std(correction=0)), least)
