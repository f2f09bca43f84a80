"""What the backbone says of a region."""

from typing import Any

import pcircuits as pc
from pcircuits.types import Int, Tensor
from pcircuits_diffusion.backbone import Backbone, Prediction, predict
from pcircuits_diffusion.decoding.canvas import Canvas
from pcircuits_diffusion.decoding.region import Region


class Reader:
    """Calls the backbone on some rows of a canvas, with a prefix cache if asked for.

    The cache holds what precedes the region, as it was when the region began (Fast-dLLM's prefix cache; exact only for
    backbones whose prefix does not attend to the block). It belongs to all rows that were open then, so these are
    called together to the region's end: a row's result does not depend on when its neighbours end.
    """

    def __init__(
        self,
        backbone: Backbone,
        canvas: Canvas,
        region: Region,
        rows: Int[Tensor, " R"],
        hidden: bool,
        cached: bool,
    ) -> None:
        if cached and hidden:
            raise pc.ParameterError("`cache` cannot be 'prefix' with a head that reads hidden states")
        self.hidden = hidden
        self.backbone, self.canvas, self.region, self.all_rows = backbone, canvas, region, rows
        self.cache: Any = None
        if cached and region.span.start > 0:
            tokens, options = self._text(rows)
            self.cache = backbone.prefill(tokens, region.span.start, **options)  # type: ignore[attr-defined]

    def predict(self, rows: Int[Tensor, " R"]) -> Prediction:
        """Predictions of the region's columns for some of the rows that were open at its start."""
        if self.cache is None:
            tokens, options = self._text(rows)
            return predict(self.backbone, tokens, hidden=self.hidden, span=self.region.span, **options)
        tokens, options = self._text(self.all_rows)
        every = self.backbone.log_marginals(  # type: ignore[call-arg]
            tokens, span=self.region.span, cache=self.cache, **{"valid": None, **options}
        )
        return Prediction(every[(self.all_rows.unsqueeze(-1) == rows).long().argmax(0)], None)

    def _text(self, rows: Int[Tensor, " R"]) -> tuple[Int[Tensor, "R C"], dict[str, Tensor]]:
        valid = self.canvas.valid[rows, self.region.seen]
        return self.canvas.tokens[rows, self.region.seen], {} if valid.all() else {"valid": valid}
