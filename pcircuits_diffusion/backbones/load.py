"""Which family a model belongs to, and how it is loaded."""

import dataclasses
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

import pcircuits as pc
from pcircuits_diffusion.backbone import Backbone, ModuleBackbone
from pcircuits_diffusion.backbones.diffusion_gemma import DiffusionGemma
from pcircuits_diffusion.backbones.dream import dream
from pcircuits_diffusion.backbones.files import INSTALL, Vocabulary, model_folder, read_config, read_vocabulary
from pcircuits_diffusion.backbones.llada import MASK_ID as LLADA_MASK_ID
from pcircuits_diffusion.backbones.llada import llada
from pcircuits_diffusion.backbones.masked_lm import AMINO_ACIDS, bert, esm, masked_lm
from pcircuits_diffusion.backbones.mdlm import bd3lm, mdlm
from pcircuits_diffusion.backbones.transformer import WEIGHTS_FILE, MaskedTransformer
from pcircuits_diffusion.backbones.weights import load_native, load_with_code

LENGTHS = ("max_position_embeddings", "max_sequence_length", "model_length")


@dataclasses.dataclass(frozen=True)
class Family:
    """How the models of one `model_type` are made.

    Attributes:
        build: from a module to a backbone.
        auto: the class of transformers that loads it.
        mask: "token", one of the vocabulary; "last", the last column; "none".
        mask_id: where neither configuration nor tokenizer says.
        pads: the pad token is no token: it was never a target of training.
        offset: positions are counted from the pad token's id + 1.
        config: entries of the configuration that are set to these.
    """

    build: Callable[..., ModuleBackbone]
    auto: str
    mask: str = "token"
    mask_id: int | None = None
    pads: bool = False
    offset: bool = False
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


MASKED_LM = "AutoModelForMaskedLM"
FAMILIES = {
    "llada": Family(llada, "AutoModel", mask_id=LLADA_MASK_ID),
    "Dream": Family(dream, "AutoModel"),
    "mdlm": Family(mdlm, MASKED_LM, mask="last"),
    "bd3lm": Family(bd3lm, MASKED_LM, mask="last", config={"attn_backend": "sdpa"}),
    "diffusion_gemma": Family(DiffusionGemma, "DiffusionGemmaForBlockDiffusion", mask="none"),
    "bert": Family(bert, MASKED_LM, pads=True),
    "roberta": Family(masked_lm, MASKED_LM, pads=True, offset=True),
    "xlm-roberta": Family(masked_lm, MASKED_LM, pads=True, offset=True),
    "modernbert": Family(masked_lm, MASKED_LM, pads=True),
    "esm": Family(esm, MASKED_LM, pads=True, offset=True),
}


def load_backbone(
    name_or_folder: str | os.PathLike,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    vocab_size: int | None = None,
    allowed: Collection[int] | None = None,
    **options: Any,
) -> Backbone:
    """The backbone in a folder or repository, its family read from `config.json`; frozen, in evaluation mode.

    Args:
        name_or_folder: of the hub, or on disk; a folder written by `MaskedTransformer.save` too.
        revision: branch, tag or commit of the hub.
        trust_remote_code: run the Python files that come with the model, which LLaDA, Dream, MDLM and BD3-LM need.
        device: where to; the CPU if left out.
        dtype: of the parameters; the files' own if left out.
        vocab_size: V; else the tokenizer's length, else the model's width. Columns from V on are cut.
        allowed: ids that may be predicted; all if left out, for ESM the 20 amino acids.
        options: of the family, such as `mask_id` or DiffusionGemma's `canvas_length`.

    Raises:
        pc.ParameterError: a name or revision that is not there, code that is not trusted, no mask token.
        pc.FormatError: missing or broken files, an unknown family. pc.ShapeError: vocabularies that do not fit.
        ImportError: transformers is not installed.
    """
    folder = model_folder(os.fspath(name_or_folder), revision)
    config = read_config(folder)
    if "model_type" not in config and (folder / WEIGHTS_FILE).exists():
        return _load_own(folder).requires_grad_(False).to(device=device, dtype=dtype)
    family = _family(folder, config)
    if "auto_map" in config and not trust_remote_code:
        raise pc.ParameterError(
            f"{name_or_folder} comes with Python code of its own; read it, and give `trust_remote_code=True` to run it"
        )
    module = _load_module(folder, family, "auto_map" in config, dtype).to(device)
    vocabulary = read_vocabulary(folder, trust_remote_code)
    settings = _tokens(family, module.config.get_text_config(), vocabulary, vocab_size, options.pop("mask_id", None))
    if allowed is None and family.build is esm:
        allowed = None if vocabulary.ids is None else [vocabulary.ids[letter] for letter in AMINO_ACIDS]
    if allowed is not None:
        settings["forbidden"] |= set(range(settings["vocab_size"])) - set(allowed)
    output = module.get_output_embeddings()
    if isinstance(output, nn.Linear):  # tied models of some families return an embedding
        settings["output_layer"] = output
    return family.build(module, **settings, name_or_path=str(name_or_folder), **options)


def _load_own(folder: Path) -> MaskedTransformer:
    try:
        return MaskedTransformer.load(folder)
    except (TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise pc.FormatError(f"{folder} does not hold a saved MaskedTransformer: {error}") from error


def _family(folder: Path, config: dict[str, Any]) -> Family:
    name = config.get("model_type")
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise pc.FormatError(
            f"{folder} holds a model of type {name!r}; known are {known}. Load it yourself, and make a ModuleBackbone"
        )
    return FAMILIES[name]


def _load_module(folder: Path, family: Family, has_code: bool, dtype: torch.dtype | None) -> Any:
    """Frozen, in evaluation mode."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(f"this model needs transformers: {INSTALL}") from error
    if has_code:
        module = load_with_code(folder, family.auto, dtype, family.config)
    else:
        module = load_native(folder, family.auto, dtype)
    return module.eval().requires_grad_(False)


def _tokens(
    family: Family, config: Any, vocabulary: Vocabulary, vocab_size: int | None, mask_id: int | None
) -> dict[str, Any]:
    """What a backbone is told of its tokens."""
    width = config.vocab_size
    real = width - 1 if family.mask == "last" else width
    size = next(n for n in (vocab_size, vocabulary.size, real) if n is not None)
    if not 1 <= size <= real:
        source = "`vocab_size`" if vocab_size is not None else "the tokenizer"
        raise pc.ShapeError(f"vocabularies do not fit: {source} has {size} tokens, the model predicts {real}")
    pad_id = getattr(config, "pad_token_id", None)
    settings: dict[str, Any] = {"vocab_size": size, "forbidden": set(), "max_length": _max_length(family, config)}
    if family.mask == "none":
        return settings | {"columns": width}
    if family.mask == "last":
        if size != real:
            raise pc.ShapeError(f"vocabularies do not fit: the mask is the last of {width} columns, got {size} tokens")
        return settings
    known = (mask_id, getattr(config, "mask_token_id", None), vocabulary.mask_id, family.mask_id)
    mask_id = next((i for i in known if i is not None), None)
    if mask_id is None:
        raise pc.ParameterError("neither configuration nor tokenizer names a mask token; give `mask_id`")
    if not 0 <= mask_id < width:
        raise pc.ShapeError(f"vocabularies do not fit: the mask token is {mask_id}, the model knows 0..{width - 1}")
    if family.pads and pad_id is not None:
        settings |= {"pad_id": pad_id, "forbidden": {pad_id}}
    return settings | {"mask_id": mask_id, "columns": width}


def _max_length(family: Family, config: Any) -> int | None:
    """Positions that the model was made for; RoBERTa and ESM leave out those up to the pad token's id."""
    length = next((found for name in LENGTHS if (found := getattr(config, name, None)) is not None), None)
    return length if length is None or not family.offset else length - config.pad_token_id - 1
