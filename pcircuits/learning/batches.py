"""Where batches come from: rows in memory, shuffled anew each epoch, or whatever streams them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from pcircuits.circuit import Circuit
from pcircuits.errors import DataError, ParameterError, ShapeError
from pcircuits.evidence import Evidence, describe, rows_of
from pcircuits.learning.learner import Batch
from pcircuits.types import Float, Int, Tensor

DEFAULT_BATCH_SIZE = 256


@runtime_checkable
class BatchStream(Protocol):
    """Batches that differ from epoch to epoch, with a quick way to start in the middle of one."""

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Any]: ...


Data = Tensor | Evidence | BatchStream | Iterable | Callable


class Source(ABC):
    """The batches of every epoch; the same call yields the same ones. `circuit` is None if an objective reads them."""

    num_batches: int | None = None
    description: str

    def __init__(self, circuit: Circuit | None, name: str) -> None:
        self.circuit, self.name = circuit, name

    @abstractmethod
    def items(self, epoch: int, start: int) -> Iterator[Any]:
        """What the data holds, from batch `start` on."""

    @abstractmethod
    def batch(self, item: Any, where: str) -> Batch | None:
        """An item, checked; None if no row of it counts."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch | None]:
        """An epoch's batches from number `start` on, None where no row counts. Those before are skipped at once."""
        items = self.items(epoch, start)
        return (self.batch(item, f"batch {n} of epoch {epoch} of `{self.name}`") for n, item in enumerate(items, start))


class Rows(Source):
    """Rows in memory. `seed` None: in the order they have."""

    def __init__(
        self,
        data: Tensor | Evidence,
        weights: Float[Tensor, " N"] | None,
        circuit: Circuit | None,
        *,
        batch_size: int,
        seed: int | None,
        name: str,
    ) -> None:
        super().__init__(circuit, name)
        self.data = data if circuit is None else as_evidence(data, circuit, f"`{name}`")
        self.num_rows = self.data.batch_size if isinstance(self.data, Evidence) else len(self.data)
        if self.num_rows == 0:
            raise DataError(f"`{name}` is empty; at least one row is needed")
        self.weights = None if weights is None else as_weights(weights, self.num_rows, "`sample_weights`")
        if self.weights is not None and not self.weights.any():
            raise DataError("`sample_weights` are all zero; at least one row must count")
        self.kept = torch.arange(self.num_rows) if self.weights is None else self.weights.cpu().nonzero().squeeze(-1)
        self.batch_size, self.seed = batch_size, seed
        self.num_batches = -(-len(self.kept) // batch_size)
        self.description = f"{self.num_rows} rows, {len(self.kept)} of them with weight, in batches of {batch_size}"

    def items(self, epoch: int, start: int) -> Iterator[Int[Tensor, " B"]]:
        order = self.kept
        if self.seed is not None:
            order = order[torch.randperm(len(order), generator=epoch_generator(self.seed, epoch))]
        return iter(order.split(self.batch_size)[start:])

    def batch(self, item: Int[Tensor, " B"], where: str) -> Batch:
        weights = None if self.weights is None else self.weights[item.to(self.weights.device)]
        if isinstance(self.data, Evidence):
            data = self.data.rows(item.to(self.data.device))
            return Batch(*_on_device(data, weights, self.circuit))
        return Batch(self.data[item.to(self.data.device)], weights)


class Stream(Source):
    """Batches that come ready-made: from a BatchStream, a function of the epoch number, or a repeatable iterable."""

    def __init__(self, data: Any, circuit: Circuit | None, *, name: str) -> None:
        super().__init__(circuit, name)
        if not isinstance(data, BatchStream) and not callable(data):
            if not isinstance(data, Iterable) or isinstance(data, str | bytes | dict):
                raise DataError(f"`{name}` must be a tensor, Evidence or batches; got {describe(data)}")
            if iter(data) is data:
                raise DataError(
                    f"`{name}` is an iterator, which is used up after one epoch; "
                    "give a list, a DataLoader, TokenShards, or a function of the epoch number"
                )
        self.data = data
        self.num_batches = len(data) if hasattr(data, "__len__") else None
        if self.num_batches == 0:
            raise DataError(f"`{name}` is empty; at least one batch is needed")
        self.description = f"a stream of {'batches' if self.num_batches is None else f'{self.num_batches} batches'}"

    def items(self, epoch: int, start: int) -> Iterator[Any]:
        if isinstance(self.data, BatchStream):
            return iter(self.data.batches(epoch, start=start))
        items = iter(self.data(epoch) if callable(self.data) else self.data)
        for _ in range(start):
            next(items, None)
        return items

    def batch(self, item: Any, where: str) -> Batch | None:
        if self.circuit is None:
            return Batch(item, None)
        data, weights = _pair(item, where)
        evidence = as_evidence(data, self.circuit, where)
        if weights is None:
            return Batch(*_on_device(evidence, None, self.circuit))
        weights = as_weights(weights, evidence.batch_size, f"the weights of {where}")
        if not weights.any():
            return None
        counted = weights > 0
        return Batch(*_on_device(evidence.rows(counted.to(evidence.device)), weights[counted], self.circuit))


def as_source(
    data: Any,
    model: nn.Module,
    *,
    likelihood: bool,
    name: str,
    batch_size: int | None = None,
    sample_weights: Float[Tensor, " N"] | None = None,
    seed: int | None = None,
) -> Source:
    """Rows of a tensor or Evidence, or a stream of anything else.

    Raises:
        DataError, ShapeError, EvidenceError: data that is empty, NaN, outside its domain or of another width;
            weights that do not fit.
    """
    circuit = model if likelihood and isinstance(model, Circuit) else None
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ParameterError(f"`batch_size` must be a positive integer, got {batch_size!r}")
    if isinstance(data, Tensor | Evidence):
        if isinstance(data, Tensor) and data.ndim == 0:
            raise ShapeError(f"`{name}` must have rows, got {describe(data)}")
        return Rows(data, sample_weights, circuit, batch_size=batch_size or DEFAULT_BATCH_SIZE, seed=seed, name=name)
    if sample_weights is not None:
        raise DataError("`sample_weights` belong to rows in memory; a stream yields pairs (batch, weights)")
    return Stream(data, circuit, name=name)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """What is random in an epoch depends on the seed and the epoch's number alone, so that an epoch can be repeated."""
    mixed = (
        seed + (epoch + 1) * 0x9E3779B97F4A7C15
    ) % 2**63  # the golden ratio's bits: neighbouring seeds share no epoch
    return torch.Generator().manual_seed(mixed)


def as_evidence(data: Any, circuit: Circuit, where: str) -> Evidence:
    """Evidence that fits the circuit, from evidence or from complete rows (N, D)."""
    if isinstance(data, Tensor):
        if data.ndim != 2:
            raise ShapeError(f"{where} must be a (rows, variables) tensor, got {describe(data)}")
        if len(data) == 0:
            raise DataError(f"{where} is empty; at least one row is needed")
        if data.is_floating_point() and (bad := data.isnan()).any():
            raise DataError(
                f"{where} is NaN in rows {rows_of(bad)}; use pc.Evidence.from_nan(x) if these values are missing"
            )
        data = Evidence(data)
    if not isinstance(data, Evidence):
        raise DataError(f"{where} must be a tensor or Evidence, got {describe(data)}")
    if data.num_variables != circuit.num_variables:
        raise ShapeError(f"{where} has {data.num_variables} variables, the circuit has {circuit.num_variables}")
    for family in dict.fromkeys(circuit.inputs):
        variables = tuple(i for i, other in enumerate(circuit.inputs) if other == family)
        family.validate(data.of_variables(variables), variables)
    return data


def as_weights(weights: Any, rows: int, where: str) -> Float[Tensor, " N"]:
    if not isinstance(weights, Tensor) or weights.shape != (rows,):
        raise ShapeError(f"{where} must be a tensor of shape ({rows},), got {describe(weights)}")
    if (bad := ~(weights >= 0) | weights.isinf()).any():
        raise DataError(f"{where} must be finite and at least 0; they are not in rows {rows_of(bad)}")
    return weights.double()


def _pair(item: Any, where: str) -> tuple[Any, Any]:
    """`(batch, weights)`, as a tuple or as the list a DataLoader makes, or a batch alone."""
    if not isinstance(item, tuple | list):
        return item, None
    if len(item) not in (1, 2):
        raise DataError(f"{where} must be a batch or a pair (batch, weights), got {len(item)} things")
    return item[0], item[1] if len(item) == 2 else None


def _on_device(evidence: Evidence, weights: Tensor | None, circuit: Circuit | None) -> tuple[Evidence, Tensor | None]:
    device = evidence.device if circuit is None else circuit.device
    return evidence.to(device), None if weights is None else weights.to(device)
