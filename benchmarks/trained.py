"""Loads the benchmarks' backbones, their tokenizers, shipped heads and texts, and the judge of samples."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from benchmarks import gsm8k, record
from pcircuits_diffusion import corpus, embedded
from pcircuits_diffusion.backbones import MaskedTransformer
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion

FOLDER = Path(__file__).resolve().parent / "weights"


class Text(NamedTuple):
    """A corpus: what it is called, its documents by split, and the folder of the backbone that was trained on it."""

    title: str
    load: Callable[[str], list[corpus.Document]]
    folder: Path


CORPORA = {
    "gsm8k": Text("GSM8K, problems and solutions", gsm8k.load, FOLDER),
    "python_docs": Text("documentation of Python", corpus.python_docs, embedded.FOLDER),
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark of these weights has."""
    shared = record.parser(description)
    shared.add_argument("--weights", type=Path, default=FOLDER)
    return shared


def add_corpus(shared: argparse.ArgumentParser) -> None:
    """The option that chooses a corpus, and with it the weights; see `load_chosen`."""
    shared.add_argument("--corpus", choices=CORPORA, default="gsm8k")
    shared.set_defaults(weights=None)


class Trained(NamedTuple):
    """`eos_id` separates the documents that the backbone was trained on; lengths are tokens."""

    backbone: MaskedTransformer
    tokenizer: Tokenizer
    head: CoupledHead
    judge: MaskedTransformer | None = None
    """An autoregressive model of the same tokens, which scores samples."""

    @property
    def block_length(self) -> int:
        return self.head.block_length

    @property
    def window_length(self) -> int:
        return self.backbone.config.max_length

    @property
    def eos_id(self) -> int:
        return self.backbone.config.eos_id


def load(folder: Path = FOLDER) -> Trained:
    """Reads the backbone and its tokenizer in `folder`, the head in `folder/head`, and `folder/judge` if there is one.

    Raises:
        FileNotFoundError, pc.FormatError: files that are missing or damaged.
    """
    backbone = MaskedTransformer.load(folder)
    head = CoupledDiffusion.from_pretrained(folder / "head", backbone=backbone).head
    assert isinstance(head, CoupledHead)
    judge = MaskedTransformer.load(folder / "judge") if (folder / "judge").is_dir() else None
    return Trained(backbone, corpus.load_tokenizer(folder), head, judge)


def load_chosen(options: argparse.Namespace) -> Trained:
    """The weights of `--corpus`, or those in `--weights`."""
    return load(options.weights or CORPORA[options.corpus].folder)


def token_counts(tokenizer: Tokenizer, documents: list[corpus.Document]) -> torch.Tensor:
    """(V,) how often each token occurs, plus one, `<eos>` once a document."""
    tokens = torch.cat(corpus.encode(tokenizer, documents))
    counts = torch.bincount(tokens, minlength=tokenizer.get_vocab_size()).double() + 1
    counts[tokenizer.token_to_id(corpus.EOS)] += len(documents)
    return counts
