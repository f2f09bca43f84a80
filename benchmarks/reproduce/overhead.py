"""Table 3: what the head adds to the time of a sample, both systems by turns after a warm-up."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.reproduce.setups import Setup
from pcircuits_diffusion.model import CoupledDiffusion
from pcircuits_diffusion.resolve import Loaded


def measure(setup: Setup, loaded: Loaded, prompts: Sequence[list[int]], *, seed: int) -> dict[str, Any]:
    """Median seconds a sample of each system at the setup's `timed` steps, one sample at a time."""
    device = loaded.source.device
    alone, coupled = CoupledDiffusion(loaded.model.backbone), loaded.model
    options = {
        "max_new_tokens": setup.length,
        "steps": setup.timed["steps"],
        "block_length": setup.block_length,
        **setup.settings,
    }
    texts = [torch.tensor(prompts[i % len(prompts)], device=device) for i in range(setup.timed["samples"])]
    seconds = [
        [_seconds(model, text, {**options, "seeds": [seed + i]}) for model in (alone, coupled)]
        for i, text in enumerate([texts[0], *texts])
    ][1:]
    backbone, both = (statistics.median(column) for column in zip(*seconds, strict=True))
    found = {"backbone_s": backbone, "coupled_s": both, "overhead": both / backbone - 1, "published": setup.overhead}
    return {**found, **setup.timed, "length": setup.length}


def _seconds(model: CoupledDiffusion, prompt: torch.Tensor, options: dict[str, Any]) -> float:
    _wait(prompt)
    start = time.perf_counter()
    model.generate(prompt, **options)
    _wait(prompt)
    return time.perf_counter() - start


def _wait(tensor: torch.Tensor) -> None:
    """Kernels run after their call has returned."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def line(found: dict[str, Any]) -> str:
    return (
        f"{found['backbone_s']:.2f} s a sample, with the head {found['coupled_s']:.2f} s: "
        f"{found['overhead']:+.1%} (paper: {found['published']})"
    )
