"""A diffusion language model with a coupled head: what users decode with, save and load."""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

import pcircuits as pc
from pcircuits.types import Bool, Int, Tensor
from pcircuits_diffusion import decoding
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.constraints import ConstrainedText, Constraint, TokenAutomaton
from pcircuits_diffusion.decoding import (
    Canvas,
    Marks,
    Masks,
    Models,
    PromptIds,
    Prompts,
    Randomness,
    Settings,
    Sizes,
    Step,
)
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.hub import find_head, upload_head
from pcircuits_diffusion.mixture import HeadMixture
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

    def __init__(self, backbone: Backbone, head: CoupledHead | HeadMixture | None = None) -> None:
        if head is not None and head.vocab_size != backbone.vocab_size:
            raise pc.ShapeError(f"the head has {head.vocab_size} tokens, the backbone {backbone.vocab_size}")
        self.backbone, self.head = backbone, head

    def generate(self, prompt_ids: PromptIds | None = None, **options: Any) -> Generated:
        """Decodes new tokens after the prompts to the end; arguments as for `steps`.

        >>> from pcircuits_diffusion import CallableBackbone
        >>> backbone = CallableBackbone(lambda tokens: torch.eye(5)[(tokens + 1) % 4], vocab_size=5, mask_id=4)
        >>> model = CoupledDiffusion(backbone)
        >>> model.generate([1, 2], max_new_tokens=3, temperature=0.0).tokens
        tensor([[1, 1, 1]])

        What people use, and how it is called here (every field is explained in `decoding/settings.py`):

        - LLaDA: `steps=128, block_length=32, see_ahead=True, temperature=0.0`.
        - Dream: `region="canvas", quota="dream", remasking="entropy", temperature=0.2, top_p=0.95,
          tempered_confidence=True`; with a head shorter than the canvas, windows cover what a step decides.
        - MDLM: `region="canvas", quota="binomial", remasking="random"`.
        - Fast-dLLM: `quota="threshold", bound=0.9, cache="prefix"`.
        - EB sampler: `region="canvas", quota="entropy_bounded", bound=0.1, remasking="entropy"`.
        - Only with an exact joint: `quota="joint_confidence", bound=0.5, confidence_from="coupled"` commits the longest
          prefix, most confident positions first, whose joint probability is at least a half.
        """
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
            constraint: what every row's new text must satisfy, block by block; see `pcircuits_diffusion.constraints`.
            options: the fields of `Settings` (`decoding/settings.py`), which has their names elsewhere: steps,
                block_length, region, see_ahead, quota, bound, drift, history, remasking, order_temperature,
                confidence_from, tempered_confidence, sampling, temperature, top_p, top_k, eos_id, after_eos,
                eos_penalty, suppress_tokens, begin_suppress_tokens, reviser, cache, max_context.

        Raises:
            pc.ParameterError, pc.ShapeError, pc.DataError: before the first step, where arguments do not fit.
            pc.EvidenceError: predictions that are NaN, tokens that the prior excludes, or a constraint that no text of
                that length satisfies or that the models exclude.
        """
        settings = self._settings(options)
        if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise pc.ParameterError(f"`max_new_tokens` must be a positive integer, got {max_new_tokens!r}")
        prompts = Prompts(prompt_ids, valid=valid, start=settings.eos_id)
        prompts.require_tokens(self.backbone.vocab_size, self.backbone.mask_id)
        sizes = self._sizes(settings)
        columns = max(max_new_tokens, sizes.head_length)
        if settings.region == "blocks":
            columns = -(-max_new_tokens // sizes.window) * sizes.window
        canvas = Canvas.after(prompts, columns, max_new_tokens, self._marks(settings.eos_id))
        randomness = Randomness(len(canvas.tokens), generator=generator, seeds=seeds, device=canvas.tokens.device)
        text = None if constraint is None else self._constrained(constraint, settings, max_new_tokens)
        return self._decode(canvas, sizes, settings, randomness, text)

    def infill(
        self,
        tokens: PromptIds,
        mask: Masks | None = None,
        *,
        valid: Bool[Tensor, "B P"] | None = None,
        **options: Any,
    ) -> Tensor | list[Tensor]:
        """Texts with their gaps filled, in the shape in which they were given; arguments as for `infill_steps`.

        >>> from pcircuits_diffusion import CallableBackbone
        >>> backbone = CallableBackbone(lambda tokens: torch.eye(5)[(tokens + 1) % 4], vocab_size=5, mask_id=4)
        >>> CoupledDiffusion(backbone).infill(torch.tensor([2, 4, 0, 4]), temperature=0.0)
        tensor([2, 1, 0, 1])
        """
        for step in self.infill_steps(tokens, mask, valid=valid, **options):
            filled = step.tokens
        texts = Prompts(tokens, valid=valid)
        ends = filled.shape[1] - (self._head_length - texts.valid.sum(1)).clamp(min=0)
        places = zip(filled, ends.tolist(), texts.valid.sum(1).tolist(), strict=True)
        return decoding.restored([row[end - length : end] for row, end, length in places], tokens, valid)

    def infill_steps(
        self,
        tokens: PromptIds,
        mask: Masks | None = None,
        *,
        valid: Bool[Tensor, "B P"] | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        **options: Any,
    ) -> Iterator[Step]:
        """Fills gaps in texts step by step; what is given stays, and an end-of-text token ends nothing.

        Args:
            tokens: texts as the prompts of `steps`; what stands at masked positions does not matter.
            mask: of the shape of `tokens`, True where a token is to be found; None: where the mask id stands.
            valid: as for `steps`.
            generator: as for `steps`.
            seeds: as for `steps`.
            options: as for `steps`; `region` is "canvas" unless "blocks" (aligned with the texts' ends) is asked for.

        Raises:
            pc.ParameterError, pc.ShapeError, pc.DataError, pc.EvidenceError: as `steps`, and where nothing is masked.
        """
        settings = self._settings({"region": "canvas", **options})
        texts = Prompts(tokens, valid=valid)
        gaps = decoding.gaps_of(texts, mask, self.backbone.mask_id, valid)
        texts.require_tokens(self.backbone.vocab_size, self.backbone.mask_id, texts.valid & ~gaps)
        canvas = Canvas.filling(texts, gaps, self._head_length, self._marks(None))
        sizes = self._sizes(settings)._replace(see_ahead=True, whole=True)
        randomness = Randomness(len(canvas.tokens), generator=generator, seeds=seeds, device=canvas.tokens.device)
        return self._decode(canvas, sizes, settings, randomness)

    def _decode(
        self,
        canvas: Canvas,
        sizes: Sizes,
        settings: Settings,
        randomness: Randomness,
        constraint: ConstrainedText | None = None,
    ) -> Iterator[Step]:
        regions = decoding.REGIONS[settings.region](canvas.wanted, canvas.first, sizes)
        models = Models(self.backbone, self.head, windows=sizes.whole)
        return decoding.decode(models, canvas, regions, settings, randomness, constraint)

    @property
    def _head_length(self) -> int:
        return 0 if self.head is None else self.head.block_length

    def _marks(self, eos_id: int | None) -> Marks:
        noise = self.backbone.vocab_size if getattr(self.backbone, "visible_noise", False) else None
        return Marks(self.backbone.mask_id, eos_id, noise)

    def _sizes(self, settings: Settings) -> Sizes:
        return Sizes(settings.block_length, self._head_length, settings.steps, settings.see_ahead, settings.max_context)

    def _settings(self, options: Mapping[str, Any]) -> Settings:
        context = getattr(self.backbone, "max_length", None)
        context = context or getattr(getattr(self.backbone, "config", None), "max_length", None)
        length = self._head_length or DEFAULT_BLOCK
        settings = Settings(**{"block_length": length, "max_context": context, **options})
        if self.head is not None and max(settings.block_length, length) % min(settings.block_length, length):
            raise pc.ParameterError(
                f"`block_length` is {settings.block_length}, the head's prior covers {length} tokens; one must divide "
                "the other"
            )
        if settings.cache is not None and not hasattr(self.backbone, "prefill"):
            raise pc.ParameterError(f"`cache` needs a backbone with `prefill`; {type(self.backbone).__name__} has none")
        unlimited = settings.steps is None and settings.quota in decoding.ADAPTIVE
        if unlimited and (settings.reviser != "none" or getattr(self.backbone, "visible_noise", False)):
            raise pc.ParameterError(f"decisions may be taken back here: quota {settings.quota!r} needs `steps` to end")
        self._require_ids(settings)
        return settings

    def _require_ids(self, settings: Settings) -> None:
        eos, vocab_size = settings.eos_id, self.backbone.vocab_size
        if eos is not None and not (0 <= eos < vocab_size and eos != self.backbone.mask_id):
            raise pc.ParameterError(f"`eos_id` must be a token in 0..{vocab_size - 1} and not the mask, got {eos!r}")
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            if wrong := [token for token in getattr(settings, name) if not 0 <= token < vocab_size]:
                raise pc.ParameterError(f"`{name}` must be tokens in 0..{vocab_size - 1}, got {wrong}")

    def _constrained(
        self, constraint: Constraint | TokenAutomaton, settings: Settings, max_new_tokens: int
    ) -> ConstrainedText:
        if isinstance(self.head, HeadMixture):
            raise pc.ParameterError("a constraint needs a single head whose prior is a pc.HMM, not a mixture of heads")
        if self.head is not None and self.head.token_map is not None:
            raise pc.ParameterError("a constraint needs a head over all tokens, without a `token_map`")
        if settings.region != "blocks" or (self.head is not None and settings.block_length != self._head_length):
            raise pc.ParameterError("a constraint needs `region='blocks'`, in blocks of the head's length")
        if settings.reviser != "none":
            raise pc.ParameterError("a constraint needs `reviser='none'`: what is decided must stand")
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
        self,
        folder: str | os.PathLike,
        *,
        backbone_name: str | None = None,
        backbone_revision: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Writes the head alone, and the name of the backbone it belongs to; see `save_head`.

        Args:
            backbone_name: for `load_backbone`; what the backbone says if left out.
            backbone_revision: its branch, tag or commit; as well.
            dtype: `torch.float16` halves the files.

        Raises:
            pc.ParameterError: there is no head.
        """
        save_head(self._saved_head(), folder, self._info(backbone_name, backbone_revision), dtype)

    def push_to_hub(
        self, repo_id: str, *, backbone_name: str | None = None, backbone_revision: str | None = None, **options: Any
    ) -> str:
        """Uploads what `save_pretrained` writes, with a model card, and returns the commit's address.

        Args:
            repo_id: "user/name"; created if it is not there.
            backbone_name: as for `save_pretrained`.
            backbone_revision: as well.
            options: private, token, commit_message, revision, dtype; see `upload_head`.

        Raises:
            pc.ParameterError: there is no head. HubError: no access, or no connection.
        """
        return upload_head(self._saved_head(), self._info(backbone_name, backbone_revision), repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | os.PathLike,
        *,
        backbone: Backbone | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **backbone_options: Any,
    ) -> "CoupledDiffusion":
        """The head that `save_pretrained` or `push_to_hub` wrote, on a backbone with the same vocabulary.

        Args:
            backbone: the one to put the head on; None: the one that the head names, by `load_backbone`.
            revision: of the head's repository: a branch, tag or commit. The backbone's is written in the head's files.
            cache_dir: of `huggingface_hub`, for the head.
            token: of the hub, for the head; None: the one that was logged in with.
            local_files_only: take the head from the cache, without asking the hub.
            backbone_options: of `load_backbone`, such as `trust_remote_code=True` and `device`.

        Raises:
            pc.FormatError: files that are missing, truncated, tampered with, or of a newer version.
            HubError: no such repository or revision, no access, or no connection.
            pc.ShapeError: a backbone with another vocabulary or mask.
            pc.ParameterError: options that do not go together, or a backbone that cannot be loaded by its name.
        """
        if backbone is not None and backbone_options:
            given = ", ".join(backbone_options)
            raise pc.ParameterError(f"{given}: options of a backbone that is to be loaded, but `backbone` was given")
        hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        head, saved = load_head(find_head(folder_or_hub_id, revision=revision, **hub))
        backbone = _load_backbone(saved, backbone_options) if backbone is None else backbone
        for name in ("vocab_size", "mask_id"):
            want, got = getattr(saved, name), getattr(backbone, name)
            if want not in (None, got):
                of = f"this head was saved with {name} {want} (backbone {saved.name})"
                raise pc.ShapeError(f"{of}, this backbone has {got}")
        return cls(backbone, head)

    def _saved_head(self) -> CoupledHead | HeadMixture:
        if self.head is None:
            raise pc.ParameterError("there is no head to save; the backbone is saved by its own means")
        return self.head

    def _info(self, name: str | None, revision: str | None) -> BackboneInfo:
        backbone = self.backbone
        name = name or getattr(backbone, "name_or_path", None) or type(backbone).__name__
        revision = revision or getattr(backbone, "revision", None)
        return BackboneInfo(str(name), backbone.vocab_size, backbone.mask_id, revision)


def _load_backbone(saved: BackboneInfo, options: dict[str, Any]) -> Backbone:
    """By the package's public function, which is looked up when it is needed: it imports optional packages."""
    loader = importlib.import_module(__package__).load_backbone
    named = f"{saved.name!r}" + (f" at revision {saved.revision!r}" if saved.revision else "")
    try:
        return loader(saved.name, revision=saved.revision, **{"vocab_size": saved.vocab_size, **options})
    except (pc.ParameterError, pc.FormatError, OSError, ImportError) as error:
        raise pc.ParameterError(
            f"the backbone that this head was saved with, {named}, cannot be loaded: {error}; "
            "load it yourself and give `backbone`"
        ) from error
