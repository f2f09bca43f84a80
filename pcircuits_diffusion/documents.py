"""Documents from files that users have: text, JSON lines (`.gz` too), and folders of them; and token ids of them."""

import gzip
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import pcircuits as pc
from pcircuits.types import Int, Tensor
from pcircuits_diffusion.corpus import Document

TEXT, JSON_LINES = (".txt", ".md"), (".jsonl", ".jsonl.gz")


def read_documents(paths: Sequence[str | os.PathLike], *, fields: Sequence[str] = ("text",)) -> list[Document]:
    """The documents of some files and folders, in order; those of a folder by name.

    A `.txt` or `.md` file is one document. Each line of a `.jsonl` or `.jsonl.gz` file is one: its `fields`, joined by
    line breaks. A folder stands for all such files below it. Empty documents are left out.

    Raises:
        pc.DataError: a path that does not exist or of another kind, a line that is not such an object, or no text.
    """
    if not fields:
        raise pc.ParameterError("`fields` must name at least one field of a JSON line")
    documents = [document for path in paths for file in _files(Path(path)) for document in _read(file, fields)]
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise pc.DataError(f"no text in {', '.join(map(str, paths)) or 'no paths'}")
    return documents


def encode_documents(
    encode: Callable[[str], Sequence[int]], documents: Sequence[Document], *, vocab_size: int
) -> list[Int[Tensor, " _"]]:
    """Token ids of each document.

    Raises:
        pc.DataError: an id that a backbone of `vocab_size` tokens lacks.
    """
    encoded = [torch.tensor(encode(document.text), dtype=torch.long) for document in documents]
    highest = max((int(ids.max()) for ids in encoded if len(ids)), default=-1)
    if highest >= vocab_size:
        raise pc.DataError(
            f"the tokenizer gives id {highest}, the backbone has {vocab_size} tokens: they are not of one model"
        )
    return encoded


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith((*TEXT, *JSON_LINES)))
        if not found:
            raise pc.DataError(f"the folder {path} holds no {', '.join((*TEXT, *JSON_LINES))} file")
        return found
    if not path.is_file():
        raise pc.DataError(f"there is no file or folder {path}")
    if not path.name.endswith((*TEXT, *JSON_LINES)):
        raise pc.DataError(f"{path} is none of {', '.join((*TEXT, *JSON_LINES))}; rename or convert it")
    return [path]


def _read(path: Path, fields: Sequence[str]) -> Iterator[Document]:
    try:
        if path.name.endswith(TEXT):
            yield Document(str(path), path.read_text(encoding="utf-8"))
            return
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield Document(f"{path}:{number}", _joined(line, fields, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise pc.DataError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _joined(line: str, fields: Sequence[str], where: str) -> str:
    try:
        item: Any = json.loads(line)
    except ValueError as error:
        raise pc.DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(item, dict):
        raise pc.DataError(f"{where} must be a JSON object, got {type(item).__name__}")
    for field in fields:
        if not isinstance(item.get(field), str):
            raise pc.DataError(f"{where} has no text in field {field!r}; its fields are {', '.join(map(repr, item))}")
    return "\n".join(item[field] for field in fields)
