"""What the package asks of a masked diffusion language model, and the smallest wrapper that provides it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch

import pcircuits as pc
from pcircuits.types import Float, Tensor


@runtime_checkable
class Backbone(Protocol):
    """A model that predicts every masked token of a sequence at once.

    Optional capabilities, found with `hasattr`: `hidden(tokens, *, valid=None, span=None)`, the last hidden states
    (B, |span|, E); `predict` with the same arguments, log marginals and hidden states of one pass.
    """

    vocab_size: int
    """V, the number of real tokens: the width of what `log_marginals` returns."""
    mask_id: int
    """The id that stands for a masked token in `tokens`."""

    def log_marginals(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """log p(x_i = v | unmasked tokens), natural log, float32 (B, |span|, V); each row is normalised over V.

        `tokens` (B, L) int64; `valid` (B, L) bool is False on padding (default: no padding); `span` selects the
        positions i (default: all). Rows of observed positions carry no meaning.
        """
        ...


class Prediction(NamedTuple):
    """What a backbone says of some positions: log marginals, and its hidden states where they were asked for."""

    log_marginals: Float[Tensor, "B L V"]
    hidden: Float[Tensor, "B L E"] | None


def predict(
    backbone: Backbone,
    tokens: Tensor,
    *,
    hidden: bool,
    valid: Tensor | None = None,
    span: slice | None = None,
) -> Prediction:
    """Asks a backbone, in one pass where it can, for its log marginals and, if wanted, its hidden states.

    Raises:
        pc.ParameterError: a backbone without hidden states.
    """
    if not hidden:
        return Prediction(backbone.log_marginals(tokens, valid=valid, span=span), None)
    if hasattr(backbone, "predict"):
        return Prediction(*backbone.predict(tokens, valid=valid, span=span))
    if not hasattr(backbone, "hidden"):
        raise pc.ParameterError(
            f"{type(backbone).__name__} has no hidden states, which this head is modulated by; use modulation='none'"
        )
    log_marginals = backbone.log_marginals(tokens, valid=valid, span=span)
    return Prediction(log_marginals, backbone.hidden(tokens, valid=valid, span=span))


class CallableBackbone:
    """Makes a `Backbone` of any function from tokens (B, L) int64 to logits (B, L, V).

    Padding is not passed on, so `valid` with a False entry is refused.

    >>> uniform = CallableBackbone(lambda tokens: torch.zeros(*tokens.shape, 4), vocab_size=4, mask_id=4)
    >>> uniform.log_marginals(torch.tensor([[4, 1]]), span=slice(0, 1)).exp()
    tensor([[[0.2500, 0.2500, 0.2500, 0.2500]]])
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], vocab_size: int, mask_id: int) -> None:
        self.fn = fn
        self.vocab_size = vocab_size
        self.mask_id = mask_id

    def log_marginals(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """See `Backbone.log_marginals`; a mask column inside V gets `-inf`."""
        if valid is not None and not bool(valid.all()):
            raise ValueError("CallableBackbone cannot mask padding: its function sees tokens only; drop the padding")
        logits = self.fn(tokens)
        expected = (*tokens.shape, self.vocab_size)
        if logits.shape != expected:
            raise ValueError(
                f"the wrapped function returned logits of shape {tuple(logits.shape)}, expected {expected}"
            )
        logits = logits[:, span or slice(None)].float()
        if self.mask_id < self.vocab_size:
            is_mask = torch.arange(self.vocab_size, device=logits.device) == self.mask_id
            logits = logits.masked_fill(is_mask, -torch.inf)
        return logits.log_softmax(-1)
