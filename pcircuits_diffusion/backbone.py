"""What the package asks of a masked diffusion language model, and the smallest wrapper that provides it."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Backbone(Protocol):
    """A model that predicts every masked token of a sequence at once.

    Optional capability, found with `hasattr`: `hidden(tokens, *, valid=None, span=None)`, the last hidden
    states (B, |span|, D).
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
