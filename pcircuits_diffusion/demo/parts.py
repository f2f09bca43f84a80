"""The demo's backbone, head and held-out text."""

from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from pcircuits.types import Float, Tensor
from pcircuits_diffusion import corpus
from pcircuits_diffusion.backbones import MaskedTransformer
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion

WINDOWS_A_DOCUMENT = 2


class Parts(NamedTuple):
    """A backbone, its tokenizer, and the folder that they and the shipped head come from."""

    backbone: MaskedTransformer
    tokenizer: Tokenizer
    folder: Path

    @property
    def block_length(self) -> int:
        return self.backbone.config.block_length

    @property
    def window_length(self) -> int:
        return self.backbone.config.max_length

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.backbone.parameters())


def load(folder: Path) -> Parts:
    return Parts(MaskedTransformer.load(folder), corpus.load_tokenizer(folder), folder)


def shipped_head(parts: Parts) -> CoupledHead:
    head = CoupledDiffusion.from_pretrained(parts.folder / "head", backbone=parts.backbone).head
    assert isinstance(head, CoupledHead)
    return head


def held_out_windows(parts: Parts, documents: int, *, generator: torch.Generator) -> corpus.Windows:
    """A few windows each of randomly chosen test documents, of those that have any."""
    texts = corpus.encode(parts.tokenizer, corpus.python_docs("test"))
    order = torch.randperm(len(texts), generator=generator).tolist()
    chosen = [texts[i] for i in order if len(texts[i]) >= parts.window_length][:documents]
    windows = corpus.windows(chosen, parts.window_length, generator=generator)
    earlier = (windows.document[:, None] == windows.document).tril(-1).sum(1)
    kept = earlier < WINDOWS_A_DOCUMENT
    return corpus.Windows(windows.tokens[kept], windows.document[kept])


def token_counts(parts: Parts) -> Float[Tensor, " V"]:
    """How often each token occurs in the training documents, plus one."""
    tokens = torch.cat(corpus.encode(parts.tokenizer, corpus.python_docs("train")))
    return torch.bincount(tokens, minlength=parts.backbone.vocab_size).double() + 1
