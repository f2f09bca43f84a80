"""A diffusion language model with a coupled head: what users decode with, save and load."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

import pcircuits as pc
from pcircuits.types import Bool, Int, Tensor
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.constraints import ConstrainedText, Constraint, TokenAutomaton
from pcircuits_diffusion.decoding import (
    Canvas,
    Models,
    PromptIds,
    Prompts,
    Randomness,
    Region,
    Settings,
    Step,
    blocks,
    decode,
)
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.pretrained import BackboneInfo, load_head, save_head

DEFAULT_BLOCK = 32


class Generated(NamedTuple):
    """New tokens (B, N), as wide as the longest row; the others are filled with end-of-text after `lengths` (B,)."""

    tokens: Int[Tensor, "B N"]
    lengths: Int[Tensor, " B"]

    @property
    def rows(self) -> list[Int[Tensor, " n"]]:
        """The new tokens of each row, as long as they are."""
        return [row[:length] for row, length in zip(self.tokens, self.lengths.tolist(), strict=True)]


class CoupledDiffusion:
    """A backbone and a head on it; without a head the backbone alone, decoded by the same loop.

    Raises:
        pc.ShapeError: a head for another vocabulary.
    """

    def __init__(self, backbone: Backbone, head: CoupledHead | None = None) -> None:
        if head is not None and head.vocab_size != backbone.vocab_size:
            raise pc.ShapeError(f"the head has {head.vocab_size} tokens, the backbone {backbone.vocab_size}")
        self.backbone, self.head = backbone, head

    def generate(self, prompt_ids: PromptIds | None = None, **options: Any) -> Generated:
        """Decodes to the end; arguments as for `steps`."""
        for step in self.steps(prompt_ids, **options):
            tokens = step.tokens
        lengths = tokens.new_full((len(tokens),), tokens.shape[1])
        if (eos_id := options.get("eos_id")) is not None:
            is_eos = tokens == eos_id
            lengths = torch.where(is_eos.any(1), is_eos.long().argmax(1), lengths)
        return Generated(tokens[:, : int(lengths.max())], lengths)

    def steps(
        self,
        prompt_ids: PromptIds | None = None,
        *,
        max_new_tokens: int,
        valid: Bool[Tensor, "B P"] | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        constraint: Constraint | TokenAutomaton | None = None,
        **options: Any,
    ) -> Iterator[Step]:
        """Decodes step by step, so that text can be shown as it forms.

        Args:
            prompt_ids: (P,), (B, P), or a list of one sequence a row, of any lengths; None or an empty one starts from
                `eos_id`.
            max_new_tokens: N; the rest of a last block that reaches beyond is summed out.
            valid: (B, P) which ids of a padded tensor of prompts are real.
            generator: of all draws; torch's global one if left out.
            seeds: one a row instead, which makes each row's result independent of the others in the batch.
            constraint: what every row's new text must satisfy; see `pcircuits_diffusion.constraints`.
            options: the fields of `Settings`: steps, block_length, remasking, sampling, temperature, confidence_from,
                eos_id, after_eos, max_context.

        Raises:
            pc.ParameterError, pc.ShapeError, pc.DataError: before the first step, where arguments do not fit.
            pc.EvidenceError: predictions that are NaN, tokens that the prior excludes, or a constraint that no text of
                that length satisfies or that the models exclude.
        """
        settings = self._settings(options)
        prompts = Prompts(prompt_ids, valid=valid, start=settings.eos_id)
        prompts.require_tokens(self.backbone.vocab_size, self.backbone.mask_id)
        randomness = Randomness(len(prompts.tokens), generator=generator, seeds=seeds, device=prompts.tokens.device)
        canvas, regions = self._layout(prompts, settings, max_new_tokens)
        text = None if constraint is None else self._constrained(constraint, settings, max_new_tokens)
        return decode(Models(self.backbone, self.head), canvas, regions, settings, randomness, text)

    def _settings(self, options: Mapping[str, Any]) -> Settings:
        length = DEFAULT_BLOCK if self.head is None else self.head.block_length
        context = getattr(self.backbone, "max_length", None)
        context = context or getattr(getattr(self.backbone, "config", None), "max_length", None)
        settings = Settings(**{"block_length": length, "max_context": context, **options})
        if self.head is not None and settings.block_length != length:
            raise pc.ParameterError(
                f"`block_length` is {settings.block_length}, the head's prior covers {length} tokens"
            )
        eos, vocab_size = settings.eos_id, self.backbone.vocab_size
        if eos is not None and not (0 <= eos < vocab_size and eos != self.backbone.mask_id):
            raise pc.ParameterError(f"`eos_id` must be a token in 0..{vocab_size - 1} and not the mask, got {eos!r}")
        return settings

    def _layout(self, prompts: Prompts, settings: Settings, max_new_tokens: int) -> tuple[Canvas, list[Region]]:
        if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise pc.ParameterError(f"`max_new_tokens` must be a positive integer, got {max_new_tokens!r}")
        length, mask_id = settings.block_length, self.backbone.mask_id
        num_blocks = -(-max_new_tokens // length)
        canvas = Canvas(prompts, num_blocks * length, max_new_tokens, mask_id=mask_id, eos_id=settings.eos_id)
        steps, context = settings.steps, settings.max_context
        return canvas, blocks(canvas.context, num_blocks, length, steps=steps, max_context=context)

    def _constrained(
        self, constraint: Constraint | TokenAutomaton, settings: Settings, max_new_tokens: int
    ) -> ConstrainedText:
        return ConstrainedText(
            constraint if isinstance(constraint, Constraint) else Constraint(constraint),
            length=max_new_tokens,
            vocab_size=self.backbone.vocab_size,
            mask_id=self.backbone.mask_id,
            eos_id=settings.eos_id,
            after_eos=settings.after_eos,
            prior=None if self.head is None else self.head.prior,
        )

    def save_pretrained(
        self, folder: str | os.PathLike, *, backbone_name: str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Writes the head alone, and the name of the backbone it belongs to; see `save_head`.

        `dtype=torch.float16` halves the files.

        Raises:
            pc.ParameterError: there is no head.
        """
        if self.head is None:
            raise pc.ParameterError("there is no head to save; the backbone is saved by its own means")
        name = backbone_name or getattr(self.backbone, "name_or_path", None) or type(self.backbone).__name__
        save_head(self.head, folder, BackboneInfo(str(name), self.backbone.vocab_size, self.backbone.mask_id), dtype)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, *, backbone: Backbone) -> "CoupledDiffusion":
        """The head that `save_pretrained` wrote, on a backbone with the same vocabulary.

        Raises:
            pc.FormatError: files that are missing, truncated, tampered with, or of a newer version.
            pc.ShapeError: a backbone with another vocabulary or mask.
        """
        head, trained_on = load_head(folder)
        for name in ("vocab_size", "mask_id"):
            if (got := getattr(backbone, name)) != (want := getattr(trained_on, name)):
                saved = f"this head was saved with {name} {want} (backbone {trained_on.name})"
                raise pc.ShapeError(f"{saved}, this backbone has {got}")
        return cls(backbone, head)
