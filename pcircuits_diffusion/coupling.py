"""From a backbone's predictions to soft evidence on a circuit: one function a coupling, and the distribution that
comes of it.

Axes: B batch, L positions of the block, V tokens.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pcircuits as pc
from pcircuits_diffusion.modulation import Potentials


class CoupledPosterior:
    """`p_hat(x0 | x_t)`: the prior circuit conditioned on the observed tokens and on the backbone's predictions as
    soft evidence.
    """

    def __init__(
        self, posterior: pc.Posterior, log_targets: Tensor, mask: Tensor, potentials: Potentials | None = None
    ) -> None:
        self.posterior, self.log_targets, self.mask = posterior, log_targets, mask
        self.potentials = potentials or Potentials()

    @property
    def evidence(self) -> pc.Evidence:
        return self.posterior.evidence

    @property
    def log_evidence(self) -> Tensor:
        """(B,) log Z of equation (5), in nats; weights are scaled as the coupling left them."""
        return self.posterior.log_evidence

    def log_prob(self, x: Tensor, *, variables: Tensor | None = None) -> Tensor:
        """(B,) `log p_hat(x)` of complete blocks (B, L), or of the positions in `variables` (B, L) only, the others
        summed out.
        """
        return self.posterior.log_prob(x, variables=variables)

    def sample(self, n: int = 1, *, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """(n, B, L) blocks: the latent path drawn exactly, tokens from `p_hat(x | z)^(1/temperature)` (Sec. 5.1)."""
        return self.posterior.sample(n, generator=generator, temperature=temperature)

    def marginals(self) -> Tensor:
        """(B, L, V) exact coupled marginals."""
        marginals = self.posterior.marginals()
        assert isinstance(marginals, Tensor)
        return marginals

    def observe(self, tokens: Tensor, mask: Tensor) -> "CoupledPosterior":
        """The distribution once all but the masked tokens are hard evidence; what is known of the others stays."""
        given = self.evidence.replace(values=torch.where(mask, 0, tokens), observed=~mask)
        return CoupledPosterior(self.posterior.circuit.condition(given), self.log_targets, mask, self.potentials)

    def mpe(self) -> pc.MPE:
        return self.posterior.mpe()

    def penalty(self) -> Tensor:
        """(B,) mean squares of the modulation's potentials; see `Objective`."""
        return self.potentials.penalty()

    def marginal_gap(self) -> Tensor:
        """(B,) largest total variation, over masked positions, between the coupled marginals and the backbone's."""
        distance = 0.5 * (self.marginals() - self.log_targets.exp()).abs().sum(-1)
        return distance.masked_fill(~self.mask, 0.0).amax(-1)


class Independent:
    """The backbone alone, as a distribution over blocks: equation (2), with the methods of a coupled posterior."""

    def __init__(self, log_targets: Tensor, tokens: Tensor, mask: Tensor) -> None:
        self.log_targets, self.mask = log_targets, mask
        self.tokens = torch.where(mask, 0, tokens)

    def log_prob(self, x: Tensor, *, variables: Tensor | None = None) -> Tensor:
        """(B,) `sum_i log p_theta(x_i)` over masked positions; `-inf` where x contradicts the observed tokens."""
        counted = torch.ones_like(self.mask) if variables is None else variables
        log_prob = self.log_targets.gather(-1, x.unsqueeze(-1)).squeeze(-1).double()
        log_prob = torch.where(self.mask & counted, log_prob, 0.0).sum(-1)
        return log_prob.masked_fill(((x != self.tokens) & ~self.mask & counted).any(-1), -torch.inf)

    def sample(self, n: int = 1, *, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """(n, B, L) blocks of independently drawn tokens."""
        if temperature == 0.0:
            drawn = self.log_targets.argmax(-1).expand(n, -1, -1)
        else:
            weights = (self.log_targets / temperature).softmax(-1).expand(n, -1, -1, -1)
            drawn = pc.draw(weights.flatten(0, 2), generator).view(weights.shape[:-1])
        return torch.where(self.mask, drawn, self.tokens)

    def marginals(self) -> Tensor:
        """(B, L, V), one-hot at observed positions."""
        certain = torch.nn.functional.one_hot(self.tokens, self.log_targets.shape[-1]).to(self.log_targets.dtype)
        return torch.where(self.mask.unsqueeze(-1), self.log_targets.exp(), certain)

    def observe(self, tokens: Tensor, mask: Tensor) -> "Independent":
        """The distribution with all but the masked tokens fixed."""
        return Independent(self.log_targets, tokens, mask)

    def mpe(self) -> pc.MPE:
        values = self.sample(temperature=0.0)[0]
        return pc.MPE(values, self.log_prob(values), torch.ones(len(values), dtype=torch.bool, device=values.device))

    def marginal_gap(self) -> Tensor:
        return self.log_targets.new_zeros(len(self.mask))


Coupling = Callable[[pc.Circuit, Tensor, pc.Evidence, "CouplingOptions"], Tensor]
"""Log weights (B, L, V) from the prior, the backbone's log marginals (B, L, V), and the block's observed tokens with
what the hidden states say of the prior.
"""


class CouplingOptions(NamedTuple):
    """Exponents (B, 1, 1) of the two factors of the weights, and how `projected` and `corrected` are worked out."""

    backbone_exponent: Tensor
    prior_exponent: Tensor
    sweeps: int
    tolerance: float | None
    differentiate_weights: bool

    def gradients(self) -> Any:
        return torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiate_weights)


def product(prior: pc.Circuit, log_targets: Tensor, given: pc.Evidence, options: CouplingOptions) -> Tensor:
    """`p_theta(x_i)^a`: equation (5) of the paper at a = 1. It counts every token's frequency twice, in the backbone
    and in the circuit.
    """
    return options.backbone_exponent * log_targets


def corrected(prior: pc.Circuit, log_targets: Tensor, given: pc.Evidence, options: CouplingOptions) -> Tensor:
    """`p_theta(x_i)^a / m_i(x_i)^b` with `m_i` the circuit's own marginals given the observed tokens; tokens that the
    circuit excludes keep weight zero.
    """
    with options.gradients():
        marginals = prior.condition(given).marginals()
    assert isinstance(marginals, Tensor)
    possible = ~given.observed.unsqueeze(-1) & (marginals > 0)
    log_marginals = torch.where(possible, marginals, 1.0).log().to(log_targets.dtype)
    weights = options.backbone_exponent * log_targets - options.prior_exponent * log_marginals
    return torch.where(possible, weights, -torch.inf)


def projected(prior: pc.Circuit, log_targets: Tensor, given: pc.Evidence, options: CouplingOptions) -> Tensor:
    """Weights under which the coupled marginals approach the backbone's, by sweeps of iterative proportional fitting;
    with a tolerance until they are that close, or `sweeps` were made, which is warned of.

    The sweeps start without weights: from the weights of "corrected" they cost twice as much and, after one sweep,
    leave the marginals of the positions visited first further off. Exponents do not apply.
    """
    if options.tolerance is None:
        with options.gradients():
            weights = pc.match_marginals(prior, given, log_targets, sweeps=options.sweeps).log_weights
    else:
        found = pc.project_marginals(prior, given, log_targets, tolerance=options.tolerance, max_sweeps=options.sweeps)
        if not found.converged.all():
            warnings.warn(
                f"projected stopped at its cap of {found.sweeps} sweeps, {float(found.gap.max()):.1e} total variation "
                f"from the backbone's marginals; the tolerance is {options.tolerance:.1e}",
                stacklevel=2,
            )
        weights = found.evidence.log_weights
    assert weights is not None
    return weights


COUPLINGS: dict[str, Coupling] = {"product": product, "corrected": corrected, "projected": projected}
