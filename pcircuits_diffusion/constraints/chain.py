"""What a distribution over a block is, seen as a hidden Markov chain under evidence.

Axes: B rows, L positions, V tokens, H hidden states, G groups of hidden states.
"""

from typing import Any, NamedTuple

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.constraints.semiring import LogTable
from pcircuits_diffusion.coupling import CoupledPosterior, Independent
from pcircuits_diffusion.reduced import ReducedPosterior


class Chain(NamedTuple):
    """`p(x, z) w(x)` with `log_weights` (B, L, V) the evidence of the tokens: `-inf` for all but an observed one.

    `latent` (B, L, H) and `gates` (B, L, G, G) are log factors of the hidden states and of the transitions into a
    position, as in `pc.Evidence`.
    """

    log_initial: Float[Tensor, " H"]
    transition: LogTable
    emission: LogTable
    log_weights: Float[Tensor, "B L V"]
    latent: Float[Tensor, "B L H"] | None = None
    gates: Float[Tensor, "B L G G"] | None = None

    @property
    def batch_size(self) -> int:
        return self.log_weights.shape[0]

    @property
    def length(self) -> int:
        return self.log_weights.shape[1]

    @property
    def num_states(self) -> int:
        return self.log_initial.shape[0]

    def pinned(self, x: Int[Tensor, "B L"], variables: Bool[Tensor, "B L"]) -> "Chain":
        """With x's tokens observed at `variables`; their weights still count."""
        return self._replace(log_weights=self.log_weights.masked_fill(_others(x, variables, self), -torch.inf))

    def into(self, position: int) -> LogTable:
        """Transitions into a position, (H, H), or (B, H, H) where each row has its own."""
        if self.gates is None:
            return self.transition
        groups = torch.arange(self.num_states, device=self.log_initial.device) * self.gates.shape[-1] // self.num_states
        return LogTable.from_log(self.transition.log.double() + self.gates[:, position][:, groups][:, :, groups])


def chain_of(distribution: Any) -> Chain:
    """The chain behind a coupled posterior with an HMM prior, a posterior of an HMM, or the backbone alone (one hidden
    state).

    Raises:
        pc.StructureError: another prior, or a distribution of another kind.
    """
    if isinstance(distribution, Independent):
        return _of_independent(distribution)
    if isinstance(distribution, ReducedPosterior):
        raise pc.StructureError("constraints need a head over all tokens; this one has a `token_map`")
    posterior = distribution.posterior if isinstance(distribution, CoupledPosterior) else distribution
    if not isinstance(posterior, pc.Posterior):
        raise pc.StructureError(f"constraints condition a coupled posterior, not {type(distribution).__name__}")
    if not isinstance(posterior.circuit, pc.HMM):
        kind = type(posterior.circuit).__name__
        raise pc.StructureError(f"constraints need a head whose prior is a chain, a pc.HMM; this one's is a {kind}")
    return _of_hmm(posterior.circuit, posterior.evidence)


def _of_hmm(hmm: pc.HMM, evidence: pc.Evidence) -> Chain:
    tables = hmm.log_probs()
    weights = evidence.log_weights
    if weights is None:
        weights = hmm.emission.new_zeros(*evidence.values.shape, hmm.emission.shape[-1])
    if (ids := evidence.weighted_values) is not None:
        full = weights.new_full((*ids.shape[:2], hmm.emission.shape[-1]), -torch.inf)
        ids = torch.where(evidence.observed.unsqueeze(-1), torch.arange(ids.shape[-1], device=ids.device), ids)
        weights = full.scatter(-1, ids, weights.detach())
    weights = weights[..., : hmm.emission.shape[-1]].detach()
    chain = Chain(
        tables.initial.double(),
        LogTable(hmm.transition.detach(), tables.transition),
        LogTable(hmm.emission.detach(), tables.emission),
        torch.where(evidence.observed.unsqueeze(-1), 0.0, weights),
        *(None if (x := getattr(evidence, name, None)) is None else x.detach() for name in ("latent", "all_gates")),
    )
    return chain.pinned(evidence.values, evidence.observed)


def _of_independent(distribution: Independent) -> Chain:
    weights, mask = distribution.log_targets, distribution.mask
    one = torch.zeros(1, 1, dtype=torch.float64, device=weights.device)
    chain = Chain(
        one[0],
        LogTable.from_log(one),
        LogTable.from_log(weights.new_zeros(1, weights.shape[-1])),
        torch.where(mask.unsqueeze(-1), weights, 0.0),
    )
    return chain.pinned(distribution.tokens, ~mask)


def _others(x: Tensor, variables: Tensor, chain: Chain) -> Tensor:
    tokens = torch.arange(chain.log_weights.shape[-1], device=x.device)
    return variables.unsqueeze(-1) & (x.unsqueeze(-1) != tokens)
