"""A backbone on another device than the tokens and predictions that are kept of it."""

from typing import Any

from pcircuits.types import Tensor
from pcircuits_diffusion.backbone import Backbone


class OnDevice:
    """A `Backbone` that takes tokens from any device, works on its own, and answers where the tokens are.

    Training keeps text and predictions in main memory while an accelerator predicts. `hidden` and `predict` are there
    if the backbone has them.
    """

    def __init__(self, backbone: Backbone, device: str) -> None:
        self.backbone, self.device = backbone, device
        self.vocab_size, self.mask_id = backbone.vocab_size, backbone.mask_id

    def log_marginals(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """See `Backbone.log_marginals`."""
        return self._ask("log_marginals", tokens, valid=valid, span=span)

    def __getattr__(self, name: str) -> Any:
        if name not in ("hidden", "predict"):
            return getattr(self.backbone, name)
        getattr(self.backbone, name)  # raises AttributeError where there is none
        return lambda tokens, **options: self._ask(name, tokens, **options)

    def _ask(self, name: str, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Any:
        there = None if valid is None else valid.to(self.device)
        found = getattr(self.backbone, name)(tokens.to(self.device), valid=there, span=span)
        if isinstance(found, tuple):
            return tuple(part.to(tokens.device) for part in found)
        return found.to(tokens.device)
