"""Samples of the backbone alone and of the coupled model, side by side."""

import textwrap
from collections.abc import Iterator, Sequence

import torch

from pcircuits.types import Int, Tensor
from pcircuits_diffusion.demo.parts import Parts
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion

COLUMN = 54


def side_by_side(
    parts: Parts, head: CoupledHead, windows: Int[Tensor, "N W"], *, steps: Sequence[int], seed: int
) -> Iterator[str]:
    """For each window its end of context, the text's own continuation, and the two models' with as many steps."""
    context = parts.window_length - parts.block_length
    models = [CoupledDiffusion(parts.backbone), CoupledDiffusion(parts.backbone, head)]
    drawn = {count: [_continue(model, windows[:, :context], parts, count, seed) for model in models] for count in steps}
    for row, window in enumerate(windows):
        yield from _quoted("...", _decode(parts, window[:context]))
        yield from _quoted("the text itself:", _decode(parts, window[context:]))
        yield "{:<9}{:<{width}}{}".format("steps", "backbone alone", "coupled", width=COLUMN + 2)
        for count, (alone, coupled) in drawn.items():
            yield from _columns(str(count), _decode(parts, alone[row]), _decode(parts, coupled[row]))
        yield ""


def _continue(
    model: CoupledDiffusion, prompts: Int[Tensor, "N P"], parts: Parts, steps: int, seed: int
) -> Int[Tensor, "N L"]:
    generator = torch.Generator().manual_seed(seed)
    options = {"max_new_tokens": parts.block_length, "block_length": parts.block_length, "steps": steps}
    return model.generate(prompts, remasking="random", generator=generator, **options).tokens


def _decode(parts: Parts, tokens: Tensor) -> str:
    return " ".join(parts.tokenizer.decode(tokens.tolist()).split())


def _quoted(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"{label} {text}", 2 * COLUMN + 11, subsequent_indent="  ")


def _columns(label: str, left: str, right: str) -> Iterator[str]:
    columns = [textwrap.wrap(text, COLUMN) or ["(nothing)"] for text in (left, right)]
    for line in range(max(map(len, columns))):
        first, second = (column[line] if line < len(column) else "" for column in columns)
        yield f"{label if line == 0 else '':<9}{first:<{COLUMN + 2}}{second}".rstrip()
