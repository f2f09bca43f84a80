"""DiffusionGemma (transformers' `diffusion_gemma`): a causal encoder of the prompt and a canvas of *uniform noise*.

There is no mask token. `mask_id` is V, which the model never sees: an open position of the canvas is given a random
token, as in training. The noise is drawn once, one row for each number of open positions, so that every step of a
decoding sees fresh noise and predictions stay a function of a row's own tokens. Every canvas position is predicted,
those that hold a token too: the model treats both alike.
"""

from typing import Any

import torch
import torch.nn.functional as F

import pcircuits as pc
from pcircuits.types import Float, Tensor
from pcircuits_diffusion.backbone import ModuleBackbone
from pcircuits_diffusion.backbones.attention import positions_in_row


class DiffusionGemma(ModuleBackbone):
    """The last `canvas_length` positions are the canvas; all before them, at least one token a row, are the prompt.

    Rows of the prompt are not predicted (uniform). The self-conditioning on the previous step's logits is left at zero,
    as in upstream's first step: a prediction depends on `tokens` alone.

    Args:
        module: `DiffusionGemmaForBlockDiffusion`.
        canvas_length: as many as are decoded at once; upstream's 256 if left out.
        seed: of the noise.

    Raises:
        pc.ShapeError: rows without a prompt. pc.DataError: open positions in the prompt, or padding in the canvas.
    """

    def __init__(
        self, module: Any, vocab_size: int, *, canvas_length: int | None = None, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(module, vocab_size, vocab_size, pads=True, **options)
        self.canvas_length = module.config.canvas_length if canvas_length is None else canvas_length
        shape = (self.canvas_length + 1, self.canvas_length)
        self._noise = torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))

    def _logits(self, tokens: Tensor, valid: Tensor | None, positions: slice) -> Float[Tensor, "B S W"]:
        prompt = self._require_prompt(tokens, valid)
        with self._narrowed(_on_canvas(positions, prompt)):
            logits = self._denoise(tokens, valid, prompt).logits
        return _padded(logits, positions)

    def _both(self, tokens: Tensor, valid: Tensor | None, positions: slice) -> Float[Tensor, "B S X"]:
        prompt = self._require_prompt(tokens, valid)
        canvas = _on_canvas(positions, prompt)
        with self._narrowed(canvas) as inputs:
            logits = self._denoise(tokens, valid, prompt).logits
        return _padded(torch.cat([logits, inputs[0][:, canvas].to(logits.dtype)], -1), positions)

    def _states(self, tokens: Tensor, valid: Tensor | None, positions: slice) -> Float[Tensor, "B S D"]:
        prompt = self._require_prompt(tokens, valid)
        with self._narrowed(slice(0, 0)) as inputs:
            self._denoise(tokens, valid, prompt)
        return F.pad(inputs[0], (0, 0, prompt, 0))[:, positions]

    def _require_prompt(self, tokens: Tensor, valid: Tensor | None) -> int:
        """Its number of columns."""
        prompt = tokens.shape[1] - self.canvas_length
        if prompt < 1:
            raise pc.ShapeError(f"{tokens.shape[1]} tokens leave no prompt before a canvas of {self.canvas_length}")
        bad = (tokens[:, :prompt] == self.mask_id).any(1)
        if valid is not None:
            bad |= ~valid[:, :prompt].any(1) | ~valid[:, prompt:].all(1)
        if bad.any():
            rows = bad.nonzero().flatten()[:8].tolist()
            raise pc.DataError(
                f"rows {rows} have open positions outside the canvas, the last {self.canvas_length} positions, padding "
                "inside it, or an empty prompt"
            )
        return prompt

    def _denoise(self, tokens: Tensor, valid: Tensor | None, prompt: int) -> Any:
        canvas = tokens[:, prompt:]
        is_open = canvas == self.mask_id
        canvas = torch.where(is_open, self._noise.to(canvas.device)[is_open.sum(1)], canvas)
        padding: dict[str, Tensor] = {}
        if valid is not None:
            positions = positions_in_row(valid)
            padding = {
                "attention_mask": valid[:, :prompt].long(),
                "position_ids": positions[:, :prompt],
                "decoder_attention_mask": valid,
                "decoder_position_ids": positions[:, prompt:],
            }
        return self.module(input_ids=tokens[:, :prompt], decoder_input_ids=canvas, **padding)


def _on_canvas(positions: slice, prompt: int) -> slice:
    """The part of a span of whole rows that lies on the canvas, counted from its beginning."""
    return slice(max(positions.start - prompt, 0), max(positions.stop - prompt, 0))


def _padded(found: Float[Tensor, "B C X"], positions: slice) -> Float[Tensor, "B S X"]:
    """Zeros for the span's positions in the prompt."""
    return F.pad(found, (0, 0, positions.stop - positions.start - found.shape[1], 0))
