"""From a backbone's predictions to soft evidence on a circuit: one function a coupling, and the distribution that
comes of it.

Axes: B batch, L positions of the block, V tokens, M masked positions, W tokens with a weight (all V, or the top k).
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pcircuits as pc


class Targets(NamedTuple):
    """The backbone's predictions where `mask` (B, L) is True, row by row, and nowhere else.

    `log_probs` (M, V) are normalised. `ids` (M, k): the only tokens that are given a weight; None: all.
    """

    mask: Tensor
    log_probs: Tensor
    ids: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, mask: Tensor, *, sharpen: float, top_k: int | None, dtype: torch.dtype) -> "Targets":
        """From logits (B, L, V); -inf is allowed, but not everywhere.

        Raises:
            pc.EvidenceError: NaN, +inf, or positions without any possible token, naming the rows.
        """
        rows = logits.flatten(0, 1) if mask.all() else logits[mask]
        peak = rows.detach().amax(-1)  # NaN where one is
        if (bad := ~peak.isfinite()).any():
            found = mask.nonzero()[bad, 0].unique()[:8].tolist()
            raise pc.EvidenceError(
                f"`logits` are NaN, +inf, or exclude every token at masked positions of batch rows {found}"
            )
        log_probs = (rows.to(dtype) if sharpen == 1 else rows.to(dtype) / sharpen).log_softmax(-1)
        few = top_k is not None and top_k < logits.shape[-1]
        return cls(mask, log_probs, log_probs.detach().topk(top_k, -1).indices if few else None)  # type: ignore[arg-type]

    @property
    def weighted(self) -> Tensor:
        """(M, W) log probabilities of the tokens that are given a weight."""
        return self.log_probs if self.ids is None else self.log_probs.gather(-1, self.ids)

    def placed(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """(B, L, ...) from (M, ...); `fill` where nothing is masked."""
        if self.mask.all():
            return rows.view(*self.mask.shape, *rows.shape[1:])
        return rows.new_full((*self.mask.shape, *rows.shape[1:]), fill).index_put((self.mask,), rows)

    def weigh(self, given: pc.Evidence, log_weights: Tensor) -> pc.Evidence:
        """The evidence with weights (M, W) at the masked positions."""
        ids = None if self.ids is None else self.placed(self.ids)
        return given.replace(log_weights=self.placed(log_weights), weighted_values=ids)

    def lost_mass(self) -> Tensor:
        """(B, L) probability of the tokens that are given no weight."""
        if self.ids is None:
            return self.log_probs.new_zeros(self.mask.shape)
        return self.placed(1.0 - self.weighted.detach().exp().sum(-1)).clamp_min(0.0)


class CoupledPosterior:
    """`p_hat(x0 | x_t)`: the prior circuit conditioned on the observed tokens and on the backbone's predictions as
    soft evidence.
    """

    def __init__(self, posterior: pc.Posterior, targets: Targets, potentials: pc.Potentials | None = None) -> None:
        self.posterior, self.targets, self.mask = posterior, targets, targets.mask
        self.potentials = potentials or pc.Potentials()

    @property
    def log_targets(self) -> Tensor:
        """(B, L, V) the backbone's log marginals at masked positions, those of nothing known elsewhere."""
        return self.targets.placed(self.targets.log_probs, -math.log(self.targets.log_probs.shape[-1]))

    @property
    def lost_mass(self) -> Tensor:
        """(B, L) probability that the backbone gives to tokens beyond the head's `top_k`, zero without one: with the
        coupling "product", `log_evidence` is a lower bound by what they would add.
        """
        return self.targets.lost_mass()

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

    def sample(
        self,
        n: int = 1,
        *,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        variables: Tensor | None = None,
    ) -> Tensor:
        """(n, B, L) blocks: the latent path drawn exactly, tokens from `p_hat(x | z)^(1/temperature)` (Sec. 5.1); with
        `variables` (B, L) of these positions only.
        """
        return self.posterior.sample(n, generator=generator, temperature=temperature, variables=variables)

    def marginals(self) -> Tensor:
        """(B, L, V) exact coupled marginals."""
        marginals = self.posterior.marginals()
        assert isinstance(marginals, Tensor)
        return marginals

    def observe(self, tokens: Tensor, mask: Tensor) -> "CoupledPosterior":
        """The distribution once all but the masked tokens are hard evidence; what is known of the others stays."""
        given = self.evidence.observe(torch.where(mask, 0, tokens), ~mask)
        kept = CoupledPosterior(self.posterior.circuit.condition(given), self.targets, self.potentials)
        kept.mask = mask
        return kept

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


Coupling = Callable[[pc.Circuit, Targets, pc.Evidence, "CouplingOptions"], pc.Evidence]
"""The block's observed tokens, with what the hidden states say of the prior, and weights at the masked positions."""


class CouplingOptions(NamedTuple):
    """Exponents (M, 1) of the two factors of the weights, and how `projected` and `corrected` are worked out."""

    backbone_exponent: Tensor
    prior_exponent: Tensor
    sweeps: int
    tolerance: float | None
    sweep_tokens: int | None
    differentiate_weights: bool

    def gradients(self) -> Any:
        return torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiate_weights)


def product(prior: pc.Circuit, targets: Targets, given: pc.Evidence, options: CouplingOptions) -> pc.Evidence:
    """`p_theta(x_i)^a`: equation (5) of the paper at a = 1. It counts every token's frequency twice, in the backbone
    and in the circuit.
    """
    return targets.weigh(given, _power(targets.weighted, options.backbone_exponent))


def corrected(prior: pc.Circuit, targets: Targets, given: pc.Evidence, options: CouplingOptions) -> pc.Evidence:
    """`p_theta(x_i)^a / m_i(x_i)^b` with `m_i` the circuit's own marginals given the observed tokens; tokens that the
    circuit excludes keep weight zero.
    """
    with options.gradients():
        marginals = prior.condition(given).free_marginals()
    if targets.ids is not None:
        marginals = marginals.gather(-1, targets.ids)
    everything = not marginals.requires_grad and marginals.numel() and marginals.min() > 0
    possible = None if everything else marginals > 0
    log_marginals = (marginals if possible is None else torch.where(possible, marginals, 1.0)).log()
    log_marginals = _power(log_marginals.to(targets.log_probs.dtype), options.prior_exponent)
    weights = _power(targets.weighted, options.backbone_exponent) - log_marginals
    return targets.weigh(given, weights if possible is None else weights.masked_fill(~possible, -torch.inf))


def projected(prior: pc.Circuit, targets: Targets, given: pc.Evidence, options: CouplingOptions) -> pc.Evidence:
    """Weights under which the coupled marginals approach the backbone's, by sweeps of iterative proportional fitting;
    with a tolerance until they are that close, or `sweeps` were made, which is warned of.

    The sweeps start without weights: from the weights of "corrected" they cost twice as much and, after one sweep,
    leave the marginals of the positions visited first further off. With `sweep_tokens` only so many of each position's
    tokens are fitted one by one, the others together (see `pc.match_marginals`). Of the top k tokens the marginals
    approach the backbone's on these, normalised. Exponents do not apply.
    """
    wanted, ids = targets.placed(targets.weighted), None if targets.ids is None else targets.placed(targets.ids)
    if ids is not None:
        wanted = wanted.log_softmax(-1)
    if options.tolerance is None:
        with options.gradients():
            return pc.match_marginals(
                prior, given, wanted, sweeps=options.sweeps, weighted_values=ids, num_values=options.sweep_tokens
            )
    found = pc.project_marginals(prior, given, wanted, tolerance=options.tolerance, max_sweeps=options.sweeps)
    if not found.converged.all():
        warnings.warn(
            f"projected stopped at its cap of {found.sweeps} sweeps, {float(found.gap.max()):.1e} total variation "
            f"from the backbone's marginals; the tolerance is {options.tolerance:.1e}",
            stacklevel=2,
        )
    return found.evidence


def _power(log: Tensor, exponent: Tensor) -> Tensor:
    return log if not exponent.requires_grad and (exponent == 1).all() else exponent * log


COUPLINGS: dict[str, Coupling] = {"product": product, "corrected": corrected, "projected": projected}
