"""What is known of each variable: a value, nothing, or a non-negative weight per value."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pcircuits.errors import EvidenceError, ShapeError
from pcircuits.types import Bool, Float, Shaped, Tensor


class InputEvidence(NamedTuple):
    """The evidence of the variables of one input level, variables first. `soft` says where `log_weights` count."""

    values: Shaped[Tensor, "F B"]
    observed: Bool[Tensor, "F B"]
    log_weights: Float[Tensor, "F B V"] | None

    @property
    def soft(self) -> Bool[Tensor, "F B"]:
        return torch.zeros_like(self.observed) if self.log_weights is None else ~self.observed


class Evidence:
    """Batched evidence, mixed freely across variables and samples.

    Args:
        values: (B, D). Read where observed; anything finite elsewhere. May be left out if `log_weights` is given.
        observed: (B, D) bool. True: the value is hard evidence and weights there are ignored. False: the weights if
            given, else missing.
            None means all True without `log_weights` and all False with them.
        log_weights: (B, D, V) natural logarithms of non-negative weights of discrete values (soft or virtual evidence,
            Pearl 1988). `-inf` is allowed;
            they need not be normalised, and their scale is part of the log evidence. All zeros is the same as missing.

    Raises:
        ShapeError: shapes or dtypes that do not fit together, or an empty batch.
        EvidenceError: NaN among observed values, or NaN or `+inf` among used weights.
    """

    def __init__(
        self,
        values: Shaped[Tensor, "B D"] | None = None,
        *,
        observed: Bool[Tensor, "B D"] | None = None,
        log_weights: Float[Tensor, "B D V"] | None = None,
    ) -> None:
        if values is None:
            if log_weights is None:
                raise EvidenceError("Evidence needs `values` or `log_weights`; neither was given")
            _require_weights(log_weights, None)
            values = torch.zeros(log_weights.shape[:2], dtype=torch.long, device=log_weights.device)
            observed = torch.zeros_like(values, dtype=torch.bool) if observed is None else observed
        _require_values(values)
        if observed is None:
            observed = torch.full(values.shape, log_weights is None, dtype=torch.bool, device=values.device)
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
            used = log_weights.detach().masked_fill(observed.unsqueeze(-1), 0.0)
            if (bad := used.isnan() | used.isposinf()).any():
                raise EvidenceError(
                    f"`log_weights` has NaN or +inf at unobserved positions in batch rows {rows_of(bad)}"
                )
        self.values, self.observed, self.log_weights = values, observed, log_weights

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

    def rows(self, index: Shaped[Tensor, " M"]) -> "Evidence":
        """The evidence of some batch rows: an index or a bool mask over B."""
        return self._with(
            self.values[index], self.observed[index], None if self.log_weights is None else self.log_weights[index]
        )

    def of_variables(self, variables: Sequence[int]) -> InputEvidence:
        """The evidence of one input level's variables (F,), variables first."""
        values, observed, weights = self.values.T, self.observed.T, self.log_weights
        weights = None if weights is None else weights.transpose(0, 1)
        if list(variables) == list(range(self.num_variables)):
            return InputEvidence(values, observed, weights)
        index = torch.tensor(variables, device=self.device)
        return InputEvidence(values[index], observed[index], None if weights is None else weights[index])

    @classmethod
    def _with(cls, values: Tensor, observed: Tensor, log_weights: Tensor | None) -> "Evidence":
        evidence = cls.__new__(cls)
        evidence.values, evidence.observed, evidence.log_weights = values, observed, log_weights
        return evidence

    def __repr__(self) -> str:
        soft = "" if self.log_weights is None else f", log_weights over {self.log_weights.shape[-1]} values"
        share = f"{self.observed.float().mean():.0%} observed"
        return f"Evidence({self.batch_size} samples, {self.num_variables} variables, {share}{soft})"


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


def _require_weights(log_weights: object, values: Tensor | None) -> None:
    if not isinstance(log_weights, Tensor) or log_weights.ndim != 3 or not log_weights.is_floating_point():
        raise ShapeError(f"`log_weights` must be a floating point (B, D, V) tensor, got {describe(log_weights)}")
    if values is not None and log_weights.shape[:2] != values.shape:
        raise ShapeError(f"`log_weights` must have shape {(*values.shape, 'V')}, got {tuple(log_weights.shape)}")
    if log_weights.shape[0] == 0:
        raise ShapeError("`log_weights` has an empty batch; at least one sample is needed")
