"""Circuits whose sums have real or complex weights: subtractive mixtures. They are functions; their squares are
distributions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import nn

from pcircuits.circuit import Circuit
from pcircuits.distributions import InputFamily, Smoothing
from pcircuits.errors import ParameterError, StructureError
from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence
from pcircuits.layers import ParameterGroup, SumGroup
from pcircuits.posterior import Posterior
from pcircuits.semirings import Signed, SumWeights
from pcircuits.statistics import Statistics
from pcircuits.structures import RegionGraph
from pcircuits.summary import summary
from pcircuits.types import Float, Inexact, Shaped, Tensor
from pcircuits.workspace import Workspace

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class SignedValue(NamedTuple):
    """A number as its sign, of a complex one its phase (of size one), and the natural logarithm of its size:
    `sign exp(log_abs)`. The sign of zero is zero.
    """

    sign: Inexact[Tensor, " B"]
    log_abs: Float[Tensor, " B"]


class SignedSumGroup(ParameterGroup):
    """Real or complex weights of dense or mixing sums, `weights` (G, O, J)."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator | None) -> None:
        super().__init__()
        drawn = torch.randn(*shape, dtype=torch.complex64 if dtype.is_complex else torch.float32, generator=generator)
        self.weights = nn.Parameter((drawn / shape[-1] ** 0.5).to(dtype))

    def prepare(self) -> SumWeights:
        weights: Tensor = self.weights
        if self.support is not None:
            weights = torch.where(self.support, weights, 0.0)
        wide = weights.to(torch.promote_types(weights.dtype, torch.float64))
        return SumWeights(wide, wide.detach().abs().log(), as_given=True)

    def maximise(self, statistics: dict[str, Tensor], smooth: Smoothing, prepared: Any = None) -> Any:
        raise StructureError("weights of any sign have no expected counts: train the square of the circuit with Adam")


class SignedFunction(Circuit):
    """A circuit whose values c(x) may be negative or complex: a function, no distribution. What needs non-negative
    values is refused by name: evidence, samples, marginals, MPE, EM.
    """

    _is_normalised = False

    @property
    def dtype(self) -> torch.dtype:
        real = super().dtype
        return real.to_complex() if self.is_complex else real

    def value(self, x: Shaped[Tensor, "B D"]) -> SignedValue:
        """`c(x)` of complete values, (B, D), as sign or phase and logarithm of its size, in double precision;
        differentiable.
        """
        return self.value_under(Evidence(x))

    def value_under(self, evidence: Evidence) -> SignedValue:
        """The sum (integral) of c over the values that the evidence leaves open, weighted as it says."""
        p = upward(self.plan, self.prepared(), self._checked(evidence), Signed())
        values = p.records[-1].values
        if not self.is_complex:
            values = values._replace(v=values.v.real)
        return SignedValue(values.v[0, :, 0].sgn(), p.semiring.root(values))

    def log_partition(self) -> Float[Tensor, ""]:
        """`log |sum_x c(x)|`; the sum itself may be negative or complex, see `value_under`."""
        return self.value_under(self._nothing()).log_abs[0]

    def log_prob(self, x: Shaped[Tensor, "B D"], *, workspace: Workspace | None = None) -> Float[Tensor, " B"]:
        self._refuse("log_prob")

    def condition(self, evidence: Evidence, *, workspace: Workspace | None = None) -> Posterior:
        self._refuse("condition, and with it marginals, sample and mpe")

    def statistics(self, *args: Any, **kwargs: Any) -> Statistics:
        self._refuse("statistics, and with it EM")

    def maximise(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("maximise, and with it EM")

    def __str__(self) -> str:
        kind = "complex" if self.is_complex else "may be negative"
        return summary(self, values=f"{kind}: no distribution; pcircuits.square(circuit) is one")

    def _refuse(self, what: str) -> NoReturn:
        raise StructureError(
            f"a circuit whose values may be negative or complex is no distribution and has no {what}; "
            "pcircuits.square(circuit) is one"
        )


class SignedCircuit(SignedFunction):
    """A circuit whose sums have real weights, some negative, or complex ones: a function c(x), no distribution.

    `pc.square(circuit)` is the distribution `|c(x)|^2 / Z`, which can need far fewer units than a circuit of
    non-negative weights (Loconte et al. 2024). Complex weights have no other use: `|c|^2` is the sum of the squares of
    c's real and imaginary part, which as real circuits need up to twice the units (Loconte et al. 2025).

    The arguments are those of `Circuit`, but float64 is the default, since differences of like numbers lose digits;
    complex64 and complex128 make the weights complex, and inputs of their real kind. Weights start normally
    distributed.
    """

    def __init__(
        self,
        graph: RegionGraph,
        inputs: InputFamily | Sequence[InputFamily],
        *,
        num_units: int | None = None,
        layer: str | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float64,
        sum_ties: Mapping[int, str] | None = None,
        input_ties: Mapping[int, str] | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            raise ParameterError(f"`dtype` must be one of {', '.join(map(str, _DTYPES))}, got {dtype}")
        super().__init__(
            graph,
            inputs,
            num_units=num_units,
            layer=layer,
            seed=seed,
            dtype=dtype.to_real(),
            sum_ties=sum_ties,
            input_ties=input_ties,
        )
        generator = torch.Generator().manual_seed(torch.seed() if seed is None else seed)
        for name, group in list(self.named_groups()):
            if isinstance(group, SumGroup):
                self.groups[name] = SignedSumGroup(group.log_weights.shape, dtype, generator)

    @property
    def is_complex(self) -> bool:
        return any(p.is_complex() for p in self.parameters())
