"""A mixture of a few heads: `p_hat = sum_k pi_k p_hat_k`, each an exact distribution of its own.

Axes: B batch, L positions of the block, V tokens, N samples, K heads.
"""

from collections.abc import Sequence

import torch
from torch import nn

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.coupling import CoupledPosterior
from pcircuits_diffusion.head import CoupledHead


class MixturePosterior:
    """A mixture of coupled posteriors of the same blocks, with the methods of one.

    Args:
        parts: one posterior a head.
        log_shares: (K, B) normalised log mixture weights.
    """

    def __init__(self, parts: Sequence[CoupledPosterior], log_shares: Float[Tensor, "K B"]) -> None:
        self.parts, self.log_shares = list(parts), log_shares
        self.mask, self.log_targets = parts[0].mask, parts[0].log_targets

    def log_prob(self, x: Tensor, *, variables: Tensor | None = None) -> Tensor:
        """(B,) log probability of blocks (B, L), or of the positions in `variables` (B, L) only."""
        scores = torch.stack([part.log_prob(x, variables=variables) for part in self.parts])
        return (scores + self.log_shares).logsumexp(0)

    def sample(self, n: int = 1, *, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """(n, B, L) blocks: a head a sample and row, then a block from it."""
        shares = self.log_shares.exp().T.repeat(n, 1)
        chosen = pc.draw(shares, generator).view(n, len(self.mask), 1)
        drawn = [part.sample(n, generator=generator, temperature=temperature) for part in self.parts]
        return torch.stack(drawn).gather(0, chosen.expand_as(drawn[0]).unsqueeze(0))[0]

    def marginals(self) -> Float[Tensor, "B L V"]:
        """(B, L, V) exact coupled marginals."""
        parts = torch.stack([part.marginals() for part in self.parts])
        return torch.einsum("kb,kblv->blv", self.log_shares.exp().to(parts.dtype), parts)

    def observe(self, tokens: Tensor, mask: Tensor) -> "MixturePosterior":
        """The distribution once all but the masked tokens are hard evidence, which changes the heads' shares too."""
        fixed = self.mask & ~mask
        scores = torch.stack([part.log_prob(tokens, variables=fixed) for part in self.parts])
        shares = (scores + self.log_shares).log_softmax(0)
        return MixturePosterior([part.observe(tokens, mask) for part in self.parts], shares)

    def mpe(self) -> pc.MPE:
        """The best of the heads' most probable blocks, a lower bound."""
        values = torch.stack([part.mpe().values for part in self.parts])
        scores = torch.stack([self.log_prob(x) for x in values])
        best = scores.argmax(0)
        rows = torch.arange(len(best), device=best.device)
        return pc.MPE(values[best, rows], scores[best, rows], torch.zeros_like(best, dtype=torch.bool))

    def marginal_gap(self) -> Float[Tensor, " B"]:
        """(B,) largest total variation, over masked positions, between the marginals and the backbone's."""
        distance = 0.5 * (self.marginals() - self.log_targets.exp()).abs().sum(-1)
        return distance.masked_fill(~self.mask, 0.0).amax(-1)

    def penalty(self) -> Float[Tensor, " B"]:
        return torch.stack([part.penalty() for part in self.parts]).sum(0)


class HeadMixture(nn.Module):
    """Heads over the same blocks and tokens, with learned shares; used and trained like one head.

    Raises:
        pc.ParameterError: fewer than two heads. pc.ShapeError: heads of unequal blocks or vocabularies.
    """

    def __init__(self, heads: Sequence[CoupledHead]) -> None:
        super().__init__()
        if len(heads) < 2:
            raise pc.ParameterError(f"`heads` must be at least two heads, got {len(heads)}")
        if len(sizes := {(head.block_length, head.vocab_size) for head in heads}) > 1:
            raise pc.ShapeError(f"`heads` must share block length and vocabulary, got {sorted(sizes)}")
        self.heads = nn.ModuleList(heads)
        self.log_shares = nn.Parameter(torch.zeros(len(heads)))

    @property
    def parts(self) -> list[CoupledHead]:
        return [head for head in self.heads if isinstance(head, CoupledHead)]

    @property
    def block_length(self) -> int:
        return self.parts[0].block_length

    @property
    def vocab_size(self) -> int:
        return self.parts[0].vocab_size

    @property
    def needs_hidden(self) -> bool:
        return any(head.needs_hidden for head in self.parts)

    @property
    def gamma(self) -> float | None:
        """The largest of the heads', None if one of them is used for all rows."""
        known = [head.gamma for head in self.parts if head.gamma is not None]
        return max(known) if len(known) == len(self.parts) else None

    def active(self, mask: Bool[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """Rows in which any of the heads is used."""
        return torch.stack([head.active(mask) for head in self.parts]).any(0)

    def forward(
        self, logits: Tensor, hidden_states: Tensor | None, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]
    ) -> MixturePosterior:
        """As for one head."""
        parts = [head(logits, hidden_states, tokens, mask) for head in self.parts]
        shares = self.log_shares.double().log_softmax(0)
        return MixturePosterior(parts, shares.unsqueeze(1).expand(-1, len(mask)))
