"""Where draws come from: one generator for the batch, or one a row."""

from collections.abc import Sequence

import torch

import pcircuits as pc
from pcircuits.types import Bool, Int, Tensor


class Randomness:
    """With `seeds`, one a row, a row's draws do not depend on the other rows; with a generator they are drawn together.

    Raises:
        pc.ParameterError: both, or not one seed a row.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        device: torch.device | None = None,
    ) -> None:
        if seeds is not None and generator is not None:
            raise pc.ParameterError("give `generator` or `seeds`, not both")
        if seeds is not None and len(seeds) != num_rows:
            raise pc.ParameterError(f"`seeds` must hold one seed for each of {num_rows} rows, got {len(seeds)}")
        self.shared = generator
        self.own: list[torch.Generator] | None = None
        if seeds is not None:
            self.own = [torch.Generator(device or "cpu").manual_seed(seed) for seed in seeds]

    def groups(
        self, rows: Int[Tensor, " R"], kind: Bool[Tensor, " R"]
    ) -> list[tuple[Int[Tensor, " M"], torch.Generator | None]]:
        """Splits rows into those to be drawn together, all of one kind: indices into `rows`, and their generator."""
        if self.own is not None:
            singles = torch.arange(len(rows), device=rows.device).split(1)
            return [(index, self.own[row]) for index, row in zip(singles, rows.tolist(), strict=True)]
        parts = [kind.nonzero().squeeze(-1), (~kind).nonzero().squeeze(-1)]
        return [(index, self.shared) for index in parts if len(index)]
