"""A distribution over a block, conditioned on an automaton.

Axes: B rows, L positions, V tokens, Q automaton states, N samples.
"""

from functools import cached_property, partial

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.constraints.automaton import TokenAutomaton
from pcircuits_diffusion.constraints.chain import Chain, chain_of
from pcircuits_diffusion.constraints.product import Product
from pcircuits_diffusion.constraints.semiring import MAX
from pcircuits_diffusion.coupling import CoupledPosterior, Independent

DRAWN_AT_ONCE = 1 << 24  # draws times tokens

Conditionable = CoupledPosterior | Independent | pc.Posterior


class ConstrainedPosterior:
    """`p_hat(x | x in the language)`: exact, by the product of the chain behind p_hat with the automaton (Bar-Hillel et
    al. 1961 for the product; Zhang et al. 2024, Ctrl-G, for an HMM's).

    It answers what a `CoupledPosterior` answers, in log space without false zeros, and is no function of gradients.
    Memory: 16 B L Q H bytes.

    Args:
        distribution: a coupled posterior or a posterior whose circuit is a `pc.HMM`, or the backbone alone.
        automaton: over the same tokens.
        start: (B,) its state before the block; its own first state if left out.
        log_final: (B, Q) log weights of its state behind the block, in place of "accepting or not".
        length: positions from here on are free, and `log_final` weighs the state before them.

    Raises:
        pc.StructureError: a distribution that is no chain. pc.ShapeError: sizes that do not fit.
    """

    @torch.no_grad()
    def __init__(
        self,
        distribution: Conditionable,
        automaton: TokenAutomaton,
        *,
        start: Tensor | None = None,
        log_final: Tensor | None = None,
        length: int | None = None,
    ) -> None:
        chain = chain_of(distribution)
        batch, positions, vocab_size = chain.log_weights.shape
        if automaton.vocab_size != vocab_size:
            raise pc.ShapeError(
                f"the constraint covers {automaton.vocab_size} tokens, the distribution {vocab_size}; "
                "build it with `vocab_size` of the model"
            )
        if length is not None and not 0 <= length <= positions:
            raise pc.ShapeError(f"`length` must be in 0..{positions}, got {length!r}")
        self._log_unconstrained = None if isinstance(distribution, Independent) else distribution.log_evidence.detach()
        self._automaton = automaton = automaton.to(chain.log_weights.device)
        accepting = torch.where(automaton.accepting, 0.0, -torch.inf).double().expand(batch, -1)
        self._log_final = accepting if log_final is None else log_final.double()
        self._start = torch.full_like(self._log_final[:, 0], automaton.start).long() if start is None else start
        if self._start.shape != (batch,) or self._log_final.shape != accepting.shape:
            raise pc.ShapeError(
                f"`start` and `log_final` must have shapes ({batch},) and {tuple(accepting.shape)}, "
                f"got {tuple(self._start.shape)} and {tuple(self._log_final.shape)}"
            )
        constrained = positions if length is None else length
        free = TokenAutomaton(
            torch.arange(automaton.num_states, device=chain.log_weights.device).unsqueeze(-1),
            torch.zeros_like(automaton.classes),
            automaton.accepting,
        )
        self._automata = [automaton] * constrained + [free] * (positions - constrained)
        self._chain = chain

    @cached_property
    def log_evidence(self) -> Float[Tensor, " B"]:
        """(B,) log of the unconstrained distribution's weight of all blocks that satisfy the constraint; `-inf` where
        there are none.
        """
        return self._product.log_from(self._start.clamp_min(0)).masked_fill(self._start < 0, -torch.inf)

    @property
    def log_satisfied(self) -> Float[Tensor, " B"]:
        """(B,) log probability, under the unconstrained distribution, that the constraint is satisfied."""
        if self._log_unconstrained is None:
            return self.log_evidence
        return self.log_evidence - self._log_unconstrained

    @torch.no_grad()
    def log_prob(self, x: Int[Tensor, "*N B L"], *, variables: Bool[Tensor, "B L"] | None = None) -> Tensor:
        """(*N, B) `log p(x | constraint)` of complete blocks, or of the positions in `variables` only, the others
        summed out; `-inf` where x breaks the constraint.
        """
        log_evidence = self._possible()
        chosen = torch.ones_like(self._chain.log_weights[..., 0], dtype=torch.bool) if variables is None else variables
        if x.ndim not in (2, 3) or x.shape[-2:] != chosen.shape:
            raise pc.ShapeError(
                f"`x` must have shape (B, L) = {tuple(chosen.shape)} or (N, B, L), got {tuple(x.shape)}"
            )
        found = [self._with(self._chain.pinned(block, chosen)).log_evidence for block in x.reshape(-1, *chosen.shape)]
        return (torch.stack(found) - log_evidence).view(x.shape[:-1])

    @torch.no_grad()
    def sample(
        self, n: int = 1, *, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Int[Tensor, "N B L"]:
        """(n, B, L) blocks that satisfy the constraint.

        The path of hidden and automaton states is drawn exactly; a token then from `p_hat(x | path)^(1/temperature)`,
        among those that move the automaton as the path does.
        """
        self._possible()
        if not 0.0 <= temperature < float("inf"):
            raise pc.ShapeError(f"`temperature` must be finite and at least 0, got {temperature!r}")
        pick = partial(_draw, generator=generator)
        sharper = None if temperature == 1.0 else partial(_draw, generator=generator, temperature=temperature)
        batch, _, vocab_size = self._chain.log_weights.shape
        rows = torch.arange(batch, device=self._start.device).repeat(n)
        parts = rows.split(max(1, DRAWN_AT_ONCE // vocab_size))
        drawn = torch.cat([self._product.walk(self._start[part], part, pick, sharper) for part in parts])
        return drawn.view(n, batch, -1)

    @torch.no_grad()
    def marginals(self) -> Float[Tensor, "B L V"]:
        """(B, L, V) exact marginals of the conditioned distribution."""
        log_evidence = self._possible().unsqueeze(-1)
        columns = self._product.log_marginals(self._start)
        return torch.stack([(column - log_evidence).exp() for column in columns], 1).to(self._chain.log_weights.dtype)

    @torch.no_grad()
    def mpe(self) -> pc.MPE:
        """The block on the most probable path of hidden states and tokens, which satisfies the constraint.

        It is proven to be the most probable block where there is one hidden state (the backbone alone), as in DINGO
        (Suresh et al. 2025); else a lower bound.
        """
        self._possible()
        start = self._start.clamp_min(0)
        best = Product(self._chain, self._automata, self._log_final, start=start, semiring=MAX)
        rows = torch.arange(len(self._start), device=self._start.device)
        values = best.walk(self._start, rows, lambda log_weights: log_weights.argmax(-1))
        log_prob = self.log_prob(values)
        return pc.MPE(values, log_prob, torch.full_like(log_prob, self._chain.num_states == 1, dtype=torch.bool))

    def observe(self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> "ConstrainedPosterior":
        """Conditioned further: all but the masked tokens observed, the soft evidence of the others as it is."""
        return self._with(self._chain.pinned(tokens, ~mask))

    @cached_property
    def _product(self) -> Product:
        with torch.no_grad():
            return Product(self._chain, self._automata, self._log_final, start=self._start.clamp_min(0))

    @torch.no_grad()
    def log_from_states(self) -> Float[Tensor, "B Q"]:
        """(B, Q) as `log_evidence`, had the automaton been in each of its states before the block."""
        return Product(self._chain, self._automata, self._log_final).log_from_states

    def _with(self, chain: Chain) -> "ConstrainedPosterior":
        other = object.__new__(type(self))
        kept = ("_automaton", "_automata", "_log_final", "_start", "_log_unconstrained")
        other.__dict__.update({name: getattr(self, name) for name in kept}, _chain=chain)
        return other

    def _possible(self) -> Float[Tensor, " B"]:
        if (bad := self.log_evidence.isneginf()).any():
            raise pc.EvidenceError(
                "no block that satisfies the constraint is possible under the evidence in batch rows "
                f"{bad.nonzero().flatten()[:8].tolist()}"
            )
        return self.log_evidence


def _draw(
    log_weights: Float[Tensor, "N J"], *, generator: torch.Generator | None, temperature: float = 1.0
) -> Int[Tensor, " N"]:
    if temperature == 0:
        return log_weights.argmax(-1)
    return pc.draw((log_weights / temperature).softmax(-1), generator)
