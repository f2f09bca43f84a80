"""Dynamic windows: a head of L positions on a region of more (Li et al. 2026, Sec. 5: full diffusion).

Axes: B rows, W positions of the region, M windows of all rows, L positions of a window, V tokens, N samples.
"""

from typing import NamedTuple

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.constraints import ConstrainedPosterior
from pcircuits_diffusion.coupling import CoupledPosterior, Independent
from pcircuits_diffusion.mixture import MixturePosterior


class Windows(NamedTuple):
    """M windows in (B, W): their rows and columns, and the positions that each answers for."""

    rows: Int[Tensor, "M 1"]
    columns: Int[Tensor, "M L"]
    owned: Bool[Tensor, "M L"]

    def of(self, x: Tensor) -> Tensor:
        """(B, W, ...) as the windows see it, (M, L, ...)."""
        return x[self.rows, self.columns]

    def put(self, into: Tensor, values: Tensor) -> Tensor:
        """(B, W, ...) with the owned positions taken from (M, L, ...)."""
        rows = self.rows.expand_as(self.columns)[self.owned]
        return into.index_put((rows, self.columns[self.owned]), values[self.owned].to(into.dtype))

    def keep(self, index: Bool[Tensor, " M"]) -> "Windows":
        return Windows(*(field[index] for field in self))


def minimum_cover(wanted: Bool[Tensor, "B W"], length: int) -> Windows:
    """The fewest windows of `length` columns that cover every wanted column.

    Each starts at the first column that is not covered yet, the last one further left if it would stick out. A column
    in two windows belongs to the earlier one.
    """
    left, found = wanted.clone(), []
    offsets = torch.arange(length, device=wanted.device)
    while (rows := left.any(1).nonzero()).numel():
        starts = left[rows.squeeze(-1)].long().argmax(1, keepdim=True).clamp(max=wanted.shape[1] - length)
        columns = starts + offsets
        found.append(Windows(rows, columns, left[rows, columns]))
        left[rows, columns] = False
    if not found:
        empty = offsets.expand(0, -1)
        return Windows(empty[:, :1], empty, empty.bool())
    return Windows(*(torch.cat(fields) for fields in zip(*found, strict=True)))


class Windowed:
    """A coupled posterior of M windows on a wider region; the other positions are the backbone's alone.

    Given what is decided, the windows are independent of each other. Methods as those of a coupled posterior.
    """

    def __init__(self, inner: CoupledPosterior | MixturePosterior, alone: Independent, windows: Windows) -> None:
        self.inner, self.alone, self.windows = inner, alone, windows

    def log_prob(self, x: Int[Tensor, "B W"], *, variables: Bool[Tensor, "B W"] | None = None) -> Float[Tensor, " B"]:
        """The windows' log probabilities and those of the positions outside, added up."""
        counted = torch.ones_like(self.alone.mask) if variables is None else variables
        owned = self.windows.put(torch.zeros_like(counted), torch.ones_like(self.windows.owned))
        total = self.alone.log_prob(x, variables=counted & ~owned)
        inside = self.inner.log_prob(self.windows.of(x), variables=self.windows.of(counted) & self.windows.owned)
        return total.index_add(0, self.windows.rows.squeeze(-1), inside.to(total.dtype))

    def sample(
        self, n: int = 1, *, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Int[Tensor, "N B W"]:
        alone = self.alone.sample(n, generator=generator, temperature=temperature)
        drawn = self.inner.sample(n, generator=generator, temperature=temperature)
        return torch.stack([self.windows.put(*pair) for pair in zip(alone, drawn, strict=True)])

    def marginals(self) -> Float[Tensor, "B W V"]:
        return self.windows.put(self.alone.marginals(), self.inner.marginals())

    def mpe(self) -> pc.MPE:
        inside = self.inner.mpe()
        values = self.windows.put(self.alone.mpe().values, inside.values)
        exact = torch.ones(len(values), dtype=torch.bool, device=values.device)
        exact[self.windows.rows.squeeze(-1)[~inside.exact]] = False
        return pc.MPE(values, self.log_prob(values), exact)

    def observe(self, tokens: Int[Tensor, "B W"], mask: Bool[Tensor, "B W"]) -> "Windowed":
        """All but the masked tokens as hard evidence; the soft evidence of the others stays as it is."""
        inner = self.inner.observe(self.windows.of(tokens), self.windows.of(mask))
        return Windowed(inner, self.alone.observe(tokens, mask), self.windows)


Distribution = CoupledPosterior | MixturePosterior | Independent | Windowed | ConstrainedPosterior
