"""Parameters: one unconstrained tensor a tied group, and an explicit mask of its support."""

from typing import Any

import torch
from torch import nn

from pcircuits.distributions import LEAST_PROBABILITY, InputFamily, Smoothing
from pcircuits.errors import ParameterError
from pcircuits.kernels import BlockPattern, choice, probabilities
from pcircuits.kernels.block_sparse_sum.reference import find_pattern
from pcircuits.kernels.em_step import cpu as in_place
from pcircuits.plan import GroupSpec
from pcircuits.semirings import SumWeights
from pcircuits.types import Bool, Float, Tensor


class ParameterGroup(nn.Module):
    """Shared behaviour of sum and input groups: a support mask, and normalised values prepared from the parameters."""

    support: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("support", None)

    def prepare(self) -> Any:
        raise NotImplementedError

    def maximise(self, statistics: dict[str, Tensor], smooth: Smoothing, prepared: Any = None) -> Any:
        """Set the parameters in place from expected counts; what `prepare` returns for them, if given written over
        `prepared`, that of the present ones.
        """
        raise NotImplementedError

    def gradient(self, statistics: dict[str, Tensor], prepared: Any) -> dict[str, Tensor]:
        """Of every parameter, from expected counts: those are the derivatives by log weights and log probabilities.
        `prepared` is what `prepare` returns for the present parameters.
        """
        raise NotImplementedError

    def restrict(self, support: Bool[Tensor, "G K J"]) -> None:
        """Fix which entries may be positive; the others are exact zeros for every learner."""
        if support.dtype != torch.bool or not support.any(-1).all():
            raise ParameterError("a support mask must be bool and leave every unit at least one positive entry")
        self.support = support

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if (stored := state_dict.get(f"{prefix}support")) is not None:
            self.support = torch.ones_like(stored)  # taken over, whether or not a mask was set before
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class SumGroup(ParameterGroup):
    """Weights of dense or mixing sums: `log_weights` (G, O, J), normalised over J."""

    def __init__(self, spec: GroupSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        uniform = 0.01 + 0.98 * torch.rand(spec.rows, spec.num_units, spec.num_children, generator=generator)
        self.log_weights = nn.Parameter(uniform.log().log_softmax(-1))
        self._pattern_of: tuple[Tensor, int, BlockPattern | None] | None = None

    def prepare(self) -> SumWeights:
        log_weights: Tensor = self.log_weights
        if self.support is not None:
            log_weights = torch.where(self.support, log_weights, -torch.inf)
        if torch.is_grad_enabled():
            return SumWeights(log_weights.softmax(-1), log_weights, pattern=self._pattern)
        return SumWeights(probabilities(log_weights, -1), log_weights, pattern=self._pattern)

    @property
    def _pattern(self) -> BlockPattern | None:
        """The blocks of the support, where sums of blocks are faster than dense ones; found once for a mask."""
        if self.support is None or not choice.on_triton((self.log_weights,)):
            return None
        known, version = self._pattern_of, self.support._version
        if known is None or known[0] is not self.support or known[1] != version:
            self._pattern_of = known = (self.support, version, find_pattern(self.support))
        return known[2]

    @torch.no_grad()
    def maximise(self, statistics: dict[str, Tensor], smooth: Smoothing, prepared: Any = None) -> Any:
        counts = statistics["counts"].to(self.log_weights.dtype)
        old = self.prepare() if prepared is None else prepared
        if self.log_weights.device.type != "cpu":
            self.set_probabilities(smooth.probabilities(counts, old.linear, self.support))
            return self.prepare()
        in_place.em_step(counts, old.linear, self.log_weights, self.support, dim=2, **smooth._asdict())
        return old if self.support is None else self.prepare()

    @torch.no_grad()
    def gradient(self, statistics: dict[str, Tensor], prepared: Any) -> dict[str, Tensor]:
        counts = statistics["counts"].to(self.log_weights.dtype)
        return {"log_weights": torch.addcmul(counts, counts.sum(-1, keepdim=True), prepared.linear, value=-1)}

    @torch.no_grad()
    def set_probabilities(self, probabilities: Float[Tensor, "G O J"]) -> None:
        self.log_weights.copy_(probabilities.clamp_min(LEAST_PROBABILITY).log())


class InputGroup(ParameterGroup):
    """Parameters of one input family's units."""

    def __init__(self, spec: GroupSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        assert spec.family is not None
        self.family: InputFamily = spec.family
        for name, start in self.family.initialise(spec.rows, spec.num_units, generator).items():
            if name in self.family.fixed:
                self.register_buffer(name, start)
            else:
                self.register_parameter(name, nn.Parameter(start))

    def prepare(self) -> Any:
        fixed = {name: self.get_buffer(name) for name in self.family.fixed}
        return self.family.prepare({**dict(self.named_parameters()), **fixed}, self.support)

    @torch.no_grad()
    def maximise(self, statistics: dict[str, Tensor], smooth: Smoothing, prepared: Any = None) -> Any:
        old = self.prepare() if prepared is None else prepared
        parameters: dict[str, Tensor] = dict(self.named_parameters())
        new = self.family.maximise_in_place(parameters, old, statistics, smooth, self.support)
        if new is not None:
            return new
        self.set_parameters(self.family.maximise(old, statistics, smooth, self.support))
        return self.prepare()

    @torch.no_grad()
    def gradient(self, statistics: dict[str, Tensor], prepared: Any) -> dict[str, Tensor]:
        parameters: dict[str, Tensor] = dict(self.named_parameters())
        return self.family.gradient(parameters, prepared, statistics, self.support) if parameters else {}

    @torch.no_grad()
    def set_parameters(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            (self.get_buffer(name) if name in self.family.fixed else self.get_parameter(name)).copy_(value)


def build_groups(specs: dict[str, GroupSpec], generator: torch.Generator | None) -> nn.ModuleDict:
    """One module a parameter group, freshly initialised."""
    return nn.ModuleDict(
        {
            name: (SumGroup(spec, generator) if spec.family is None else InputGroup(spec, generator))
            for name, spec in specs.items()
        }
    )
