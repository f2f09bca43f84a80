"""Loads the benchmarks' backbone, its tokenizer and its shipped head."""

from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from pcircuits_diffusion import corpus
from pcircuits_diffusion.backbones import MaskedTransformer
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion

FOLDER = Path(__file__).resolve().parent / "weights"


class Weights(NamedTuple):
    """`eos_id` separates the documents that the backbone was trained on; lengths are tokens."""

    backbone: MaskedTransformer
    tokenizer: Tokenizer
    head: CoupledHead

    @property
    def block_length(self) -> int:
        return self.head.block_length

    @property
    def window_length(self) -> int:
        return self.backbone.config.max_length

    @property
    def eos_id(self) -> int:
        return self.backbone.config.eos_id


def load(folder: Path = FOLDER) -> Weights:
    """Reads `folder/backbone` and `folder/head`.

    Raises:
        FileNotFoundError, pc.FormatError: files that are missing or damaged.
    """
    backbone = MaskedTransformer.load(folder / "backbone")
    head = CoupledDiffusion.from_pretrained(folder / "head", backbone=backbone).head
    assert head is not None
    return Weights(backbone, corpus.load_tokenizer(folder / "backbone"), head)


def token_counts(tokenizer: Tokenizer, documents: list[corpus.Document]) -> torch.Tensor:
    """(V,) how often each token occurs, plus one, `<eos>` once a document."""
    tokens = torch.cat(corpus.encode(tokenizer, documents))
    counts = torch.bincount(tokens, minlength=tokenizer.get_vocab_size()).double() + 1
    counts[tokenizer.token_to_id(corpus.EOS)] += len(documents)
    return counts
