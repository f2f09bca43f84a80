"""Where on the canvas a step may commit, and what the backbone sees of it."""

from typing import NamedTuple

from pcircuits_diffusion.decoding.quota import spread


class Region(NamedTuple):
    """Canvas columns `start:stop` are given to the backbone, `first:stop` are decoded, in at most `steps` steps."""

    start: int
    first: int
    stop: int
    steps: int

    @property
    def seen(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def decoded(self) -> slice:
        return slice(self.first, self.stop)

    @property
    def span(self) -> slice:
        """The decoded columns among the seen ones."""
        return slice(self.first - self.start, self.stop - self.start)


def blocks(context: int, num_blocks: int, block_length: int, *, steps: int, max_context: int | None) -> list[Region]:
    """Blocks left to right after `context` columns, each seen with the latest tokens that fit (block diffusion)."""
    firsts = range(context, context + num_blocks * block_length, block_length)
    stops = [first + block_length for first in firsts]
    starts = [0 if max_context is None else max(0, stop - max_context) for stop in stops]
    return [Region(*columns) for columns in zip(starts, firsts, stops, spread(steps, num_blocks), strict=True)]
