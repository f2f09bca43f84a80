"""What becomes of a backbone's predictions before anything is drawn from them.

Order of operations: (1) `suppress_tokens` and `eos_penalty` change the predictions, which are normalised again; scores
of the positions see these. (2) `top_p` and `top_k` choose a support: the nucleus of the predictions *at the
temperature asked for* (untempered at 0, as in Dream), and its k most probable tokens. (3) The untempered predictions on
that support, normalised again, meet the circuit. (4) What comes of it is drawn at the temperature. For the backbone
alone this is temperature, then top_p, then top_k, as in Dream and in transformers.

Axes: B rows, L positions, V tokens.
"""

from collections.abc import Sequence

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Tensor


def adjust(
    log_marginals: Float[Tensor, "B L V"], *, suppressed: Sequence[int], penalised: int | None, penalty: float
) -> Float[Tensor, "B L V"]:
    """Without the suppressed tokens, and with `penalty` nats less for one token; normalised."""
    if not suppressed and not penalty:
        return log_marginals
    adjusted = log_marginals.clone()
    if penalised is not None:
        adjusted[..., penalised] -= penalty
    adjusted[..., list(suppressed)] = -torch.inf
    return adjusted.log_softmax(-1)


def truncate(
    log_marginals: Float[Tensor, "B L V"], *, temperature: float, top_p: float | None, top_k: int | None
) -> Float[Tensor, "B L V"]:
    """The predictions on the fewest tokens that hold `top_p` of the tempered probability, at most `top_k` of them."""
    if top_p is None and top_k is None:
        return log_marginals
    size = log_marginals.shape[-1] if top_k is None else min(top_k, log_marginals.shape[-1])
    values, tokens = log_marginals.topk(size, -1)
    if top_p is not None:
        tempered = _tempered(log_marginals, temperature).gather(-1, tokens).exp()
        values = values.masked_fill(tempered.cumsum(-1) - tempered >= top_p, -torch.inf)
    return torch.full_like(log_marginals, -torch.inf).scatter(-1, tokens, values).log_softmax(-1)


def temper(probabilities: Float[Tensor, "*B V"], temperature: float) -> Float[Tensor, "*B V"]:
    """`p^(1/temperature)`, normalised; at 0 as it is, for a certainty has no order."""
    return _tempered(probabilities.log(), temperature).exp()


def _tempered(log_probabilities: Tensor, temperature: float) -> Tensor:
    if temperature in (0, 1):
        return log_probabilities
    return ((log_probabilities - log_probabilities.amax(-1, keepdim=True)) / temperature).log_softmax(-1)


def require_marginals(
    log_marginals: Float[Tensor, "..."],
    mask: Bool[Tensor, "B L"],
    vocab_size: int,
    whose: str = "the backbone's predictions",
) -> None:
    """Raises unless there is a usable prediction for every masked position."""
    expected = (*mask.shape, vocab_size)
    if log_marginals.shape != expected:
        raise pc.ShapeError(f"the backbone returned {tuple(log_marginals.shape)}, expected (B, L, V) = {expected}")
    used = log_marginals.masked_fill(~mask.unsqueeze(-1), 0.0)
    if (bad := (used.isnan() | used.isposinf()).any(-1) | used.isneginf().all(-1)).any():
        rows = bad.any(1).nonzero().flatten()[:8].tolist()
        raise pc.EvidenceError(f"{whose} are NaN, +inf or all -inf in batch rows {rows}")
