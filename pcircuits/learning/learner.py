"""What a way to learn must offer: a new learner is one subclass."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from pcircuits.circuit import Circuit
from pcircuits.errors import DataError, ParameterError
from pcircuits.statistics import Statistics
from pcircuits.types import Float, Tensor
from pcircuits.workspace import Workspace

Objective = Callable[[nn.Module, Any], Tensor]
"""`objective(model, batch)`: a loss to minimise (no axes), or the log likelihood of each row, (B,)."""


class Batch(NamedTuple):
    """One batch: evidence, or whatever an objective reads, and the weights of its rows (None: one each)."""

    data: Any
    weights: Float[Tensor, " B"] | None


class Score(NamedTuple):
    """A summed loss and the weight it is summed over."""

    loss: float
    weight: float


class Learner(ABC):
    """Turns batches into updates. Subclasses are dataclasses of settings; what a run changes is made in `begin`.

    `fit` works on a copy, so one learner may serve several runs.
    """

    name: ClassVar[str]

    @abstractmethod
    def begin(self, model: nn.Module, objective: Objective | None) -> None:
        """Start a run from the model's present parameters; refuse what cannot be learned this way."""

    @abstractmethod
    def update(self, batch: Batch) -> Score:
        """Learn from one batch; its loss is that of the parameters before the update."""

    def end_epoch(self) -> None:  # noqa: B027 - most learners do nothing then
        """What is done once all batches were seen."""

    def state(self) -> dict[str, Tensor]:
        """All that an interrupted run needs beside the model's parameters."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027 - nor have a state
        """Go on from what `state` returned."""


class StatisticsLearner(Learner):
    """Learns from expected counts, so from the likelihood of a circuit and nothing else. `recompute`: in less memory
    and more time, as `Circuit.statistics` says.
    """

    circuit: Circuit
    recompute: bool

    def begin(self, model: nn.Module, objective: Objective | None) -> None:
        if objective is not None:
            raise ParameterError(
                f"{self!r} learns from expected counts and cannot follow an `objective`: EM and anemone divide by "
                "flows that objective (7), like any difference of log likelihoods, makes negative; use learner='adam'"
            )
        if not isinstance(model, Circuit):
            raise ParameterError(
                f"{self!r} needs a Circuit, whose expected counts it maximises; got {type(model).__name__}"
            )
        self.circuit = model
        self._workspace = Workspace()

    def statistics(self, batch: Batch) -> Statistics:
        """Expected counts of a batch, which last until those of the next one."""
        return self.circuit.statistics(
            batch.data, sample_weights=batch.weights, workspace=self._workspace, recompute=self.recompute
        )


def score_of(statistics: Statistics) -> Score:
    return Score(-float(statistics.log_likelihood), statistics.weight)


def mean_loss(model: nn.Module, objective: Objective | None, batch: Batch) -> tuple[Float[Tensor, ""], float]:
    """The loss of a batch, differentiable, and the weight it stands for in an epoch's mean.

    Log likelihoods l: `-sum_b w_b l_b / sum_b w_b`, of weight `sum_b w_b`. A loss without axes: itself, of weight 1.
    """
    if objective is None:
        assert isinstance(model, Circuit)
        found = model.condition(batch.data).log_evidence
    else:
        found = objective(model, batch.data)
    if not isinstance(found, Tensor) or found.ndim > 1 or not found.is_floating_point():
        raise ParameterError(f"`objective` must return a loss without axes or log likelihoods (B,), got {found!r:.80}")
    if found.ndim == 0 and batch.weights is None:
        return found, 1.0
    if found.ndim == 0 or (batch.weights is not None and found.shape != batch.weights.shape):
        raise ParameterError(
            f"weighted rows need an `objective` that returns a log likelihood for each, got shape {tuple(found.shape)}"
        )
    weights = torch.ones_like(found) if batch.weights is None else batch.weights.to(found)
    total = weights.sum()
    if not total > 0:
        raise DataError("the weights of a batch are all zero; at least one row must count")
    return -(weights * found).sum() / total, float(total)


def pack(statistics: Statistics) -> dict[str, Tensor]:
    """Statistics as named tensors; `unpack` is the inverse."""
    counts = {f"{group}/{part}": value for group, parts in statistics.counts.items() for part, value in parts.items()}
    weight = torch.tensor(statistics.weight, dtype=torch.float64)
    return {**counts, "log_likelihood": statistics.log_likelihood, "weight": weight}


def unpack(tensors: Mapping[str, Tensor], device: torch.device) -> Statistics:
    rest = {name: value.to(device) for name, value in tensors.items()}
    log_likelihood, weight = rest.pop("log_likelihood"), float(rest.pop("weight"))
    counts: dict[str, dict[str, Tensor]] = {}
    for name, value in rest.items():
        group, part = name.rsplit("/", 1)
        counts.setdefault(group, {})[part] = value
    return Statistics(counts, log_likelihood, weight)
