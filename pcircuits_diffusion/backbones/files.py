"""A model's folder: from the hub or on disk, its configuration and its vocabulary. Only safetensors, never pickle."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pcircuits as pc
from pcircuits.files import read_bytes

PATTERNS = ["*.json", "*.safetensors", "*.py", "*.txt", "*.model", "*.jinja"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")
INSTALL = "pip install 'pcircuits[transformers]'"


class Vocabulary(NamedTuple):
    """What the tokenizer beside a model says; nothing where there is none."""

    size: int | None = None
    mask_id: int | None = None
    ids: dict[str, int] | None = None


def model_folder(name_or_folder: str, revision: str | None) -> Path:
    """The folder itself, or where the hub's snapshot lies.

    Raises:
        pc.ParameterError: no such folder and no such repository or revision; a revision of a local folder.
    """
    if (folder := Path(name_or_folder)).is_dir():
        if revision is not None:
            raise pc.ParameterError(f"`revision` {revision!r} was given, but {folder} is a folder, which has none")
        return folder
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise ImportError(f"{name_or_folder!r} is no folder, and the hub needs huggingface_hub: {INSTALL}") from error
    try:
        return Path(snapshot_download(name_or_folder, revision=revision, allow_patterns=PATTERNS))
    except errors.RevisionNotFoundError as error:
        raise pc.ParameterError(f"{name_or_folder!r} has no `revision` {revision!r} on the hub") from error
    except (errors.RepositoryNotFoundError, errors.LocalEntryNotFoundError, errors.HFValidationError) as error:
        what = f"{name_or_folder!r} is neither a folder nor a repository of the hub that can be reached"
        raise pc.ParameterError(f"{what} (revision {revision!r}): {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json`.

    Raises:
        pc.FormatError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(read_bytes(path))
    except ValueError as error:
        raise pc.FormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise pc.FormatError(f"{path} holds {type(config).__name__}, expected an object")
    return config


def read_vocabulary(folder: Path, trust_remote_code: bool) -> Vocabulary:
    """The tokenizer's, if the folder has one.

    Raises:
        pc.FormatError: files that transformers cannot make a tokenizer of.
    """
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return Vocabulary()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise pc.FormatError(f"the tokenizer in {folder} cannot be read: {error}") from error
    ids = tokenizer.get_vocab()
    return Vocabulary(max(ids.values()) + 1, tokenizer.mask_token_id, ids)
