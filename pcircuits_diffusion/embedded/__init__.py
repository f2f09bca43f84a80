"""The small masked diffusion model of Python documentation, and its head, that ship with the package."""

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from pcircuits_diffusion.backbones import MaskedTransformer
from pcircuits_diffusion.corpus import load_tokenizer
from pcircuits_diffusion.model import CoupledDiffusion

FOLDER = Path(__file__).parent
HEAD_FOLDER = FOLDER / "head"


class Embedded(NamedTuple):
    """A coupled model and its tokenizer; `model.backbone` is the backbone alone."""

    model: CoupledDiffusion
    tokenizer: Tokenizer


def load() -> Embedded:
    """The embedded backbone with its head; no download."""
    backbone = MaskedTransformer.load(FOLDER)
    return Embedded(CoupledDiffusion.from_pretrained(HEAD_FOLDER, backbone=backbone), load_tokenizer(FOLDER))
