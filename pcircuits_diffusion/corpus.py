"""Text that every Python installation carries, byte-level BPE tokenizers, and evaluation windows."""

import ast
import functools
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

EOS = "<eos>"
TOKENIZER_FILE = "tokenizer.json"

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
_SHARES = {"valid": 0.05, "test": 0.05}
_LONG_PARAGRAPH = 60  # characters; shorter paragraphs ("Return self.") may repeat


class Document(NamedTuple):
    """A named text; the name alone decides the split."""

    name: str
    text: str


class Windows(NamedTuple):
    """Fixed-length pieces of documents: `tokens` (N, length) int64, `document` (N,) the index of each one's source."""

    tokens: Tensor
    document: Tensor


def split_of(name: str, shares: dict[str, float]) -> str:
    """The split of a document: the first share that the hash of its name, uniform in [0, 1), falls in, else "train".

    >>> split_of("os.path", {"valid": 1.0})
    'valid'
    """
    position = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return "train"


def python_docs(split: str) -> list[Document]:
    """The documentation of the running Python: its help topics, and every standard module's docstrings, by name.

    A module's docstrings form one document; no module is imported. A paragraph that occurred before, in any
    document, is dropped. Splits: 90 % train, 5 % valid, 5 % test.
    """
    if split not in ("train", *_SHARES):
        raise ValueError(f"split must be 'train', 'valid' or 'test', got {split!r}")
    return [document for document in _all_python_docs() if split_of(document.name, _SHARES) == split]


@functools.cache
def _all_python_docs() -> tuple[Document, ...]:
    seen: set[str] = set()
    documents = (Document(name, _fresh_paragraphs(text, seen)) for name, text in [*_topics(), *_modules()])
    return tuple(document for document in documents if document.text)


def _fresh_paragraphs(text: str, seen: set[str]) -> str:
    """`text` without the long paragraphs in `seen`, which grows by those that are kept."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        key = " ".join(paragraph.split())
        if key not in seen:
            kept.append(paragraph.rstrip())
        if len(key) >= _LONG_PARAGRAPH:
            seen.add(key)
    return "\n\n".join(kept)


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics  # half a megabyte of text: only on use

    for name in sorted(topics):
        yield Document(f"topics/{name}", topics[name])


def _modules() -> Iterator[Document]:
    """The docstrings of each module below the standard library's folder, in order of path."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.isdisjoint(relative.parts):
            yield Document(".".join(relative.with_suffix("").parts), "\n\n".join(_docstrings(path)))


def _docstrings(path: Path) -> list[str]:
    """The docstrings of a file's module, classes and functions; none where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return [docstring for docstring in found if docstring]


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 1024, split_digits: bool = False) -> Tokenizer:
    """Byte-level BPE with `<eos>` as id 0; any text encodes and decodes without loss.

    `split_digits` keeps every digit a token of its own, so that numbers are spelled in one way.
    """
    tokenizer = Tokenizer(models.BPE())
    splitters: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if split_digits:
        splitters.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The `tokenizer.json` of a backbone's folder."""
    path = Path(folder) / TOKENIZER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}")
    return Tokenizer.from_file(str(path))


def encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Tensor]:
    """Token ids of each document, (length,) int64, without `<eos>`."""
    return [torch.tensor(e.ids) for e in tokenizer.encode_batch([document.text for document in documents])]


def stream_windows(documents: Sequence[Tensor], length: int, *, eos_id: int, stride: int | None = None) -> Tensor:
    """Documents joined by end-of-text and cut into windows (N, length) that run across them: text to learn from.

    A window begins every `stride` tokens, by default where the one before ends.
    """
    eos = torch.tensor([eos_id])
    joined = torch.cat([piece for document in documents for piece in (document, eos)])
    return joined.unfold(0, length, stride or length)


def windows(
    documents: Sequence[Tensor], length: int, *, generator: torch.Generator, count: int | None = None
) -> Windows:
    """Non-overlapping windows of `length` tokens, each inside one document, in random order.

    `documents` are token ids (length_i,); those shorter than `length` have no window. The grid of windows is shifted
    at random inside each document. `count` keeps the first ones; default: all.
    """
    pieces, sources = [], []
    for index, tokens in enumerate(documents):
        number = len(tokens) // length
        if number == 0:
            continue
        offset = int(torch.randint(len(tokens) - number * length + 1, (), generator=generator))
        pieces.append(tokens[offset : offset + number * length].view(number, length))
        sources.append(torch.full((number,), index))
    if not pieces:
        raise ValueError(f"none of the {len(documents)} documents has {length} tokens")
    tokens, document = torch.cat(pieces), torch.cat(sources)
    order = torch.randperm(len(tokens), generator=generator)[:count]
    return Windows(tokens[order], document[order])
