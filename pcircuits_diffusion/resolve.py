"""A backbone, its tokenizer and a head, from the names that people give: "embedded", a folder, a hub id."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from tokenizers import Tokenizer

import pcircuits as pc
from pcircuits_diffusion import corpus, embedded, pretrained
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.backbones import MaskedTransformer
from pcircuits_diffusion.backbones.transformer import CONFIG_FILE, WEIGHTS_FILE
from pcircuits_diffusion.model import CoupledDiffusion

EMBEDDED, NO_HEAD = "embedded", "none"
HEAD_FOLDER = "head"
CONTEXT_BLOCKS = 3  # of context before the block, where a backbone does not say how long its inputs are


class Source(NamedTuple):
    """Where a backbone is found: "embedded", a folder or a hub id; `revision` and code of its own are the hub's."""

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | None = None


@dataclass(frozen=True)
class TextTokenizer:
    """Text to token ids and back; `chat(messages)` is the prompt of a model that was tuned on conversations."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    eos_id: int | None = None
    chat: Callable[..., str] | None = None


class Loaded(NamedTuple):
    """A model that generates, its tokenizer, and what its backbone is called."""

    model: CoupledDiffusion
    tokenizer: TextTokenizer
    source: Source


def load_backbone(source: Source) -> Backbone:
    """The backbone of that name, on `source.device`.

    Raises:
        pc.FormatError: a folder whose files are damaged. pc.ParameterError: a name that nothing here can load.
    """
    folder = embedded.FOLDER if source.name == EMBEDDED else Path(source.name)
    if (folder / WEIGHTS_FILE).is_file():
        return _transformer(folder).to(source.device)
    import pcircuits_diffusion as pcd

    loader = getattr(pcd, "load_backbone", None)
    if loader is None:
        raise pc.ParameterError(f"{source.name!r} is neither {EMBEDDED!r} nor a folder with {WEIGHTS_FILE}")
    _, revision, trust_remote_code, device = source
    return loader(source.name, revision=revision, trust_remote_code=trust_remote_code, device=device)


def load_tokenizer(source: Source, backbone: Backbone) -> TextTokenizer:
    """The `tokenizer.json` of the backbone's folder; for models of the transformers library its AutoTokenizer.

    Raises:
        pc.FormatError: a file that is no tokenizer.
    """
    folder = embedded.FOLDER if source.name == EMBEDDED else Path(source.name)
    path = folder / corpus.TOKENIZER_FILE
    if not path.is_file() or (folder / "tokenizer_config.json").is_file():
        return _auto_tokenizer(source)
    try:
        tokenizer = corpus.load_tokenizer(folder)
    except Exception as error:  # tokenizers raises bare Exception
        raise pc.FormatError(f"{path} is not a tokenizer: {error}") from error
    eos_id = getattr(getattr(backbone, "config", None), "eos_id", tokenizer.token_to_id(corpus.EOS))
    return TextTokenizer(partial(_encode, tokenizer), tokenizer.decode, eos_id)


def find_source(
    backbone: str | None,
    head: str | None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
) -> Source:
    """The backbone that was asked for; else the one that the head names; else the embedded one."""
    if backbone is None and head is not None and head != NO_HEAD:
        saved = saved_backbone(head)
        return Source(saved.name, revision or saved.revision, trust_remote_code, device)
    return Source(backbone or EMBEDDED, revision, trust_remote_code, device)


def load_model(source: Source, head: str | None = None) -> Loaded:
    """A backbone with its head.

    `head` is a folder, "none" for the backbone alone, or None: the head in the folder `head` beside the backbone, if
    there is one.

    Raises:
        pc.FormatError, pc.ShapeError: files that are damaged or do not fit together.
    """
    backbone = load_backbone(source)
    model = CoupledDiffusion(backbone)
    if (folder := _head_folder(source, head)) is not None:
        model = CoupledDiffusion.from_pretrained(folder, backbone=backbone)
        if model.head is not None and source.device is not None:
            model.head.to(source.device)
    return Loaded(model, load_tokenizer(source, backbone), source)


def saved_backbone(head: str) -> Source:
    """The backbone that a head's folder names.

    Raises:
        pc.ParameterError: the folder names none that can be found.
    """
    path = Path(head) / pretrained.CONFIG_FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))["backbone"]
        return Source(str(saved["name"]), saved.get("revision"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise pc.ParameterError(f"{path} does not say which backbone the head is for; name it") from error


def longest_input(backbone: Backbone) -> int | None:
    """The most tokens that a backbone takes, where it says so."""
    return getattr(backbone, "max_length", None) or getattr(getattr(backbone, "config", None), "max_length", None)


def default_block(backbone: Backbone) -> int:
    """The tokens that a backbone was trained to fill at once, where it says so; else 32."""
    return getattr(getattr(backbone, "config", None), "block_length", 32)


def default_window(backbone: Backbone, block_length: int) -> int:
    """The length of training and test windows: the backbone's own, else three blocks of context and a block."""
    return longest_input(backbone) or (CONTEXT_BLOCKS + 1) * block_length


def _head_folder(source: Source, head: str | None) -> str | None:
    if head is not None:
        return None if head == NO_HEAD else head
    beside = (embedded.FOLDER if source.name == EMBEDDED else Path(source.name)) / HEAD_FOLDER
    return str(beside) if (beside / pretrained.CONFIG_FILE).is_file() else None


def _transformer(folder: Path) -> MaskedTransformer:
    try:
        return MaskedTransformer.load(folder)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise pc.FormatError(f"{folder} does not hold a whole {CONFIG_FILE} and {WEIGHTS_FILE}: {reason}") from error


def _auto_tokenizer(source: Source) -> TextTokenizer:
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise pc.ParameterError(
            f"{source.name!r} has no {corpus.TOKENIZER_FILE} of its own; install transformers for its tokenizer"
        ) from error
    tokenizer: Any = AutoTokenizer.from_pretrained(
        source.name, revision=source.revision or "main", trust_remote_code=source.trust_remote_code
    )
    chat = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    return TextTokenizer(
        partial(tokenizer.encode, add_special_tokens=False),
        partial(tokenizer.decode, skip_special_tokens=True),
        tokenizer.eos_token_id,
        chat if tokenizer.chat_template else None,
    )


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids
