"""What is timed on a GPU, and beside what: ours, our definition in torch, and bare products.

Sizes come from `FULL` on a device and from `DRY` where only the program is tried.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.bounds import BARE, OURS
from benchmarks.peers import bare
from pcircuits.types import Tensor

DEFINITION, TF32 = "definition", "bare products in tf32"
Call = Callable[[], Any]


class Sizes(NamedTuple):
    """Regions, batch, widths of levels; states and steps of chains; categories; side of an image."""

    regions: int
    batch: int
    widths: tuple[int, ...]
    states: tuple[int, ...]
    steps: int
    categories: int
    side: int


FULL = Sizes(400, 128, (32, 64), (64, 256, 1024), 32, 126_464, 28)
DRY = Sizes(2, 5, (16,), (16, 80), 3, 40, 2)


class Work(NamedTuple):
    """`actions[action][side]`; sides that give tensors under "forward" must give the same, bare products aside."""

    name: str
    actions: Mapping[str, Mapping[str, Call]]


class Draw:
    def __init__(self, device: torch.device, seed: int) -> None:
        self.device, self.generator = device, torch.Generator(device).manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return 0.01 + torch.rand(shape, generator=self.generator, device=self.device)

    def rows(self, *shape: int) -> Tensor:
        """Adding up to one over the last axis."""
        x = self(*shape)
        return x / x.sum(-1, keepdim=True)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)


def _in_tf32(call: Call) -> Call:
    def run() -> Any:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return call()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return run


def sides_of(ours: Call, definition: Call, products: Call | None) -> dict[str, Call]:
    found = {OURS: ours, DEFINITION: definition}
    return found if products is None else {**found, BARE: products, TF32: _in_tf32(products)}


def products_of(shapes: Sequence[Sequence[int]], batch: int, device: torch.device) -> Mapping[str, Call]:
    """Of `benchmarks.peers.bare`, on the device."""
    with torch.device(device):
        return bare.prepare({}, {"products": [list(shape) for shape in shapes], "batch": batch})
