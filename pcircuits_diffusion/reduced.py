"""Heads over a part of the vocabulary: the rare tokens share one class, and are independent within it.

With R tokens kept and r one class for all others, a block's classes `c(x)` have the coupled distribution of a prior
over R + 1 values, and a rare token given its class is the backbone's alone:

    p_hat(x | x_t) = p_hat_c(c(x) | c(x_t)) prod_{i masked, c(x_i) = r} p_theta(x_i) / p_theta(r)

It sums to one over the whole vocabulary, and observed rare tokens are evidence of their class.
Axes: B batch, L positions of the block, V tokens, R tokens kept, N samples.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import pcircuits as pc
from pcircuits_diffusion.coupling import CoupledPosterior


class TokenMap(nn.Module):
    """`token_map[j]` is the tokenizer's id of the head's token j < R; R is the class of all other ids below V.

    Raises:
        pc.ParameterError: ids that repeat, are outside of 0..V-1, or leave no other token.
    """

    def __init__(self, token_map: Sequence[int], vocab_size: int) -> None:
        super().__init__()
        kept = torch.as_tensor(token_map)
        if kept.ndim != 1 or kept.is_floating_point() or not 1 <= len(kept) < vocab_size:
            raise pc.ParameterError(f"`token_map` must name 1 to {vocab_size - 1} of the {vocab_size} tokens")
        if len(kept.unique()) != len(kept) or kept.min() < 0 or kept.max() >= vocab_size:
            raise pc.ParameterError(f"`token_map` must hold different ids in 0..{vocab_size - 1}")
        self.vocab_size, self.num_kept = vocab_size, len(kept)
        classes = torch.full((vocab_size,), len(kept)).scatter(0, kept.long(), torch.arange(len(kept)))
        self.register_buffer("kept", kept.long(), persistent=False)
        self.register_buffer("classes", classes, persistent=False)
        self.register_buffer("rare", (classes == len(kept)).nonzero().squeeze(-1), persistent=False)

    kept: Tensor
    classes: Tensor
    rare: Tensor

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """Classes of token ids, of any shape: what a prior over the reduced vocabulary is trained on."""
        return self.classes[tokens]

    def of_logits(self, logits: Tensor) -> Tensor:
        """(..., V) to log weights of classes (..., R + 1)."""
        return torch.cat([logits[..., self.kept], logits[..., self.rare].logsumexp(-1, keepdim=True)], -1)

    def within(self, logits: Tensor) -> Tensor:
        """`log p_theta(v | rare)` (..., V - R), where there is a rare token; else uniform."""
        log = logits[..., self.rare].log_softmax(-1)
        return torch.where(log.isnan(), 0.0, log)


class ReducedPosterior(CoupledPosterior):
    """A coupled distribution of classes, and the backbone within the class of rare tokens; methods as those of a
    `CoupledPosterior`, over the tokenizer's ids.
    """

    def __init__(
        self, inner: CoupledPosterior, token_map: TokenMap, logits: Tensor, tokens: Tensor, mask: Tensor
    ) -> None:
        super().__init__(inner.posterior, inner.targets, inner.potentials)
        self.inner, self.token_map, self.logits, self.mask = inner, token_map, logits, mask
        self.tokens = torch.where(mask, 0, tokens)

    @property
    def log_targets(self) -> Tensor:
        """(B, L, V) the backbone's log marginals."""
        return self.logits.masked_fill(~self.mask.unsqueeze(-1), 0.0).log_softmax(-1)

    def log_prob(self, x: Tensor, *, variables: Tensor | None = None) -> Tensor:
        """(B,) as of a coupled posterior; `-inf` where x contradicts an observed token, rare ones included."""
        counted = torch.ones_like(self.mask) if variables is None else variables
        classes = self.token_map.of_tokens(x)
        total = self.inner.log_prob(classes, variables=variables)
        rare = counted & self.mask & (classes == self.token_map.num_kept)
        contradicts = ((x != self.tokens) & ~self.mask & counted).any(-1)
        return (total + self._within(x, rare)).masked_fill(contradicts, -torch.inf)

    def _within(self, x: Tensor, rare: Tensor) -> Tensor:
        """(B,) `sum log p_theta(x_i | rare)` of the positions in `rare`."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if not rare.any():
            return total
        rows = self.logits[rare]
        log = rows.gather(-1, x[rare].unsqueeze(-1)).squeeze(-1) - rows[:, self.token_map.rare].logsumexp(-1)
        return total.index_add(0, rare.nonzero()[:, 0], log.double())

    def sample(
        self,
        n: int = 1,
        *,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        variables: Tensor | None = None,
    ) -> Tensor:
        """(n, B, L): classes as a coupled posterior draws them, then rare tokens from `p_theta(v | rare)^(1/T)`."""
        classes = self.inner.sample(n, generator=generator, temperature=temperature, variables=variables)
        return self._tokens(classes, generator, temperature)

    def _tokens(self, classes: Tensor, generator: torch.Generator | None, temperature: float) -> Tensor:
        """Ids of classes (N, B, L)."""
        drawn = self.token_map.kept[classes.clamp(max=self.token_map.num_kept - 1)]
        where = ((classes == self.token_map.num_kept) & self.mask).nonzero(as_tuple=True)
        if len(where[0]):
            within = self.token_map.within(self.logits[where[1], where[2]])
            within = within.argmax(-1) if temperature == 0 else pc.draw((within / temperature).softmax(-1), generator)
            drawn = drawn.index_put(where, self.token_map.rare[within])
        return torch.where(self.mask, drawn, self.tokens)

    def marginals(self) -> Tensor:
        """(B, L, V) exact coupled marginals, one-hot where observed."""
        of_classes, size = self.inner.marginals(), self.token_map.num_kept
        found = of_classes.new_zeros(*self.mask.shape, self.token_map.vocab_size)
        found[..., self.token_map.kept] = of_classes[..., :size]
        within = self.token_map.within(self.logits.masked_fill(~self.mask.unsqueeze(-1), 0.0)).exp()
        found[..., self.token_map.rare] = of_classes[..., size:] * within.to(found.dtype)
        certain = nn.functional.one_hot(self.tokens, self.token_map.vocab_size).to(found.dtype)
        return torch.where(self.mask.unsqueeze(-1), found, certain)

    def observe(self, tokens: Tensor, mask: Tensor) -> "ReducedPosterior":
        """The distribution once all but the masked tokens are hard evidence; what is known of the others stays."""
        inner = self.inner.observe(self.token_map.of_tokens(torch.where(mask, 0, tokens)), mask)
        return ReducedPosterior(inner, self.token_map, self.logits, tokens, mask)

    def mpe(self) -> pc.MPE:
        """The best of the classes' most probable completion with the likeliest rare token for the class of rare ones;
        exact where that of the classes is.
        """
        evidence, size = self.inner.evidence, self.token_map.num_kept
        best = self.token_map.within(self.logits.masked_fill(~self.mask.unsqueeze(-1), 0.0)).amax(-1)
        assert evidence.log_weights is not None
        is_rare = torch.arange(evidence.log_weights.shape[-1], device=best.device) == size
        if evidence.weighted_values is not None:
            is_rare = evidence.weighted_values == size
        weights = evidence.log_weights + torch.where(is_rare, best.unsqueeze(-1), 0.0).to(evidence.log_weights.dtype)
        given = evidence.replace(log_weights=weights, weighted_values=evidence.weighted_values)
        found = self.inner.posterior.circuit.condition(given).mpe()
        values = self._tokens(found.values.unsqueeze(0), None, 0.0)[0]
        return pc.MPE(values, self.log_prob(values), found.exact)

    def marginal_gap(self) -> Tensor:
        """(B,) as of a coupled posterior: within the class of rare tokens there is none."""
        return self.inner.marginal_gap()


def stored(token_map: TokenMap | None) -> dict[str, Any]:
    """The options that build an equal one."""
    if token_map is None:
        return {"token_map": None, "vocab_size": None}
    return {"token_map": token_map.kept.tolist(), "vocab_size": token_map.vocab_size}
