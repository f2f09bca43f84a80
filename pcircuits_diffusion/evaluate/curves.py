"""Results of a likelihood study: what each model says of the same tokens, against the mask count or the step count.

Axes: S orders, P points of a curve, N windows.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pcircuits.types import Float, Int, Tensor
from pcircuits_diffusion.evaluate.bootstrap import DocumentBootstrap, Interval

SEQUENTIAL = "sequential"
FACTORISED = "one-step factorised"

C = TypeVar("C", bound="Curves")


@dataclass(frozen=True)
class Curves:
    """Negative log-likelihoods of several models on the same tokens.

    Attributes:
        points: what the curves run over: masked tokens, or steps.
        scored: tokens of a window that are scored at each point.
        nats: per model, (S, P, N) the summed negative log-likelihood of a window's scored tokens.
        heads: the names of the coupled heads; other names are references and controls.
        documents: (N,) the document of each window.
    """

    block_length: int
    points: tuple[int, ...]
    scored: tuple[int, ...]
    nats: Mapping[str, Float[Tensor, "S P N"]]
    heads: tuple[str, ...]
    documents: Int[Tensor, " N"]

    @property
    def names(self) -> list[str]:
        return list(self.nats)

    def only(self: C, *heads: str) -> C:
        """The same curves without the other heads."""
        nats = {name: values for name, values in self.nats.items() if name in heads or name not in self.heads}
        return replace(self, nats=nats, heads=heads)

    def mean(self, name: str) -> list[float]:
        """Nats a token at each point, over all windows and orders."""
        return (self.nats[name].mean((0, 2)) / self._scored(name)).tolist()

    def by_order(self, name: str) -> list[list[float]]:
        """Nats a token at each point, one list an order."""
        return (self.nats[name].mean(2) / self._scored(name)).tolist()

    def nats_per_token(self, name: str, bootstrap: DocumentBootstrap) -> list[Interval]:
        """`mean` with intervals."""
        return bootstrap.intervals(self._resampled(name, bootstrap))

    def gain(self, name: str, bootstrap: DocumentBootstrap, *, over: str = FACTORISED) -> list[Interval]:
        """Nats a token that `name` saves over another model, paired: positive is better."""
        return bootstrap.intervals(self._resampled(over, bootstrap) - self._resampled(name, bootstrap))

    def _scored(self, name: str) -> Tensor:
        return self.nats[name].new_tensor(self.scored)

    def _resampled(self, name: str, bootstrap: DocumentBootstrap) -> Float[Tensor, "R P"]:
        per_window = self.nats[name].mean(0)
        windows = bootstrap.totals(per_window.new_ones(per_window.shape[-1]))
        return bootstrap.totals(per_window) / windows.unsqueeze(-1) / self._scored(name)

    def to_json(self, bootstrap: DocumentBootstrap) -> dict[str, Any]:
        """Plain numbers: every curve with intervals and by order, and each head's gain."""
        curves = {name: self._curve_json(name, bootstrap) for name in self.names}
        sizes = {"windows": len(self.documents), "documents": bootstrap.num_documents}
        return {"block_length": self.block_length, "points": list(self.points), **sizes, "curves": curves}

    def _curve_json(self, name: str, bootstrap: DocumentBootstrap) -> dict[str, Any]:
        found: dict[str, Any] = {
            "nats": [i.to_json() for i in self.nats_per_token(name, bootstrap)],
            "by_order": self.by_order(name),
        }
        if name in self.heads:
            found["gain"] = [i.to_json() for i in self.gain(name, bootstrap)]
        return found


@dataclass(frozen=True)
class MaskRatioCurves(Curves):
    """Nats of the masked tokens against their number: Fig. 1 of Li et al. 2026, with controls."""

    @property
    def ratios(self) -> list[float]:
        return [point / self.block_length for point in self.points]

    def share_closed(self, name: str, bootstrap: DocumentBootstrap) -> list[Interval]:
        """`(factorised - name) / (factorised - sequential)`, in nats: 0 like one step, 1 like one token at a time.

        Undefined (NaN) where a single token is masked: there is no gap.
        """
        factorised, sequential = (self._resampled(other, bootstrap) for other in (FACTORISED, SEQUENTIAL))
        gap = factorised - sequential
        share = (factorised - self._resampled(name, bootstrap)) / gap
        return bootstrap.intervals(share.masked_fill(gap.abs() < 1e-9, math.nan))

    def _curve_json(self, name: str, bootstrap: DocumentBootstrap) -> dict[str, Any]:
        found = super()._curve_json(name, bootstrap)
        found["perplexity"] = [math.exp(mean) for mean in self.mean(name)]
        if name in self.heads:
            found["share_closed"] = [i.to_json() for i in self.share_closed(name, bootstrap)]
        return found


@dataclass(frozen=True)
class StepLikelihoods(Curves):
    """Nats of a whole block sampled in T steps at temperature 1 in a given random order, against T."""


def dump(results: Mapping[str, Any]) -> str:
    """Readable JSON with a final line break; intervals by name."""
    return json.dumps(_plain(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
