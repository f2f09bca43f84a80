"""Who adds up to what: the inverse of an index, in the order that a deterministic sum needs."""

from typing import NamedTuple

import torch

from pcircuits.types import Int, Tensor


class Segments(NamedTuple):
    """Entries `order[offsets[s] : offsets[s + 1]]` are those whose index is `s`."""

    order: Int[Tensor, " N"]
    offsets: Int[Tensor, " S+1"]

    @classmethod
    def of(cls, index: Int[Tensor, " N"], num_segments: int) -> "Segments":
        """The segments of an index into `num_segments`; entries with an index outside are in none."""
        ordered = index.sort(stable=True)
        bounds = torch.arange(num_segments + 1, device=index.device, dtype=index.dtype)
        return cls(ordered.indices, torch.searchsorted(ordered.values, bounds))
