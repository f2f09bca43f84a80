"""Classifier-free guidance (Ho and Salimans 2022) without a second model: "unconditional" is the prompt masked."""

import math
from collections.abc import Callable, Sequence

import torch

import pcircuits as pc
from pcircuits.types import Float, Tensor
from pcircuits_diffusion.backbone import Backbone, Prediction, predict


class Guided:
    """A `Backbone` with log p = u + (s + 1) (c - u) + const: c sees the prompt, u has it masked (Nie et al. 2025).

    At s = 0 this is c alone, at others two calls.

    Args:
        scale: s, at least 0.
        prompt_length: the first columns of `tokens`, padding included.
        keep: ids of the prompt that stay for u too, such as the begin-of-text token of a backbone that needs one.
    """

    def __init__(self, backbone: Backbone, *, scale: float, prompt_length: int, keep: Sequence[int] = ()) -> None:
        if not (math.isfinite(scale) and scale >= 0):
            raise pc.ParameterError(f"`scale` must be finite and at least 0, got {scale}")
        if prompt_length < 1:
            raise pc.ParameterError(f"`prompt_length` must be at least 1, got {prompt_length}")
        self.backbone, self.scale, self.prompt_length, self.keep = backbone, scale, prompt_length, list(keep)
        self.vocab_size, self.mask_id = backbone.vocab_size, backbone.mask_id
        self.max_length: int | None = getattr(backbone, "max_length", None)

    def log_marginals(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """See `Backbone.log_marginals`.

        Raises:
            pc.EvidenceError: a token that only u excludes.
        """
        c = self.backbone.log_marginals(tokens, valid=valid, span=span)
        return self._guide(c, tokens, valid, span)

    def _guide(
        self, c: Float[Tensor, "B S V"], tokens: Tensor, valid: Tensor | None, span: slice | None
    ) -> Float[Tensor, "B S V"]:
        if self.scale == 0:
            return c
        kept = torch.isin(tokens, torch.tensor(self.keep, dtype=tokens.dtype, device=tokens.device))
        in_prompt = torch.arange(tokens.shape[1], device=tokens.device) < self.prompt_length
        masked = torch.where(in_prompt & ~kept, self.mask_id, tokens)
        u = self.backbone.log_marginals(masked, valid=valid, span=span)
        guided = torch.where(c == -torch.inf, c, u + (self.scale + 1) * (c - u)).log_softmax(-1)
        if (bad := guided.isnan().any(-1)).any():
            rows = bad.any(1).nonzero().flatten()[:8].tolist()
            raise pc.EvidenceError(f"rows {rows}: a token has probability zero without the prompt, but not with it")
        return guided

    def _predict(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Prediction:
        c, hidden = predict(self.backbone, tokens, hidden=True, valid=valid, span=span)
        return Prediction(self._guide(c, tokens, valid, span), hidden)

    @property
    def predict(self) -> Callable[..., Prediction]:
        """Guided log marginals and the hidden states with the prompt, one call of it, where the backbone has them."""
        if not hasattr(self.backbone, "hidden"):
            raise AttributeError(f"{type(self.backbone).__name__} has no hidden states")
        return self._predict

    @property
    def hidden(self) -> Callable[..., Tensor]:
        """The hidden states with the prompt, where the backbone has them."""
        return self.backbone.hidden  # type: ignore[attr-defined]
