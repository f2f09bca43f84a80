"""Sizes of Triton launches: tiles, and how often a long reduction is split so that it fills a device."""

from typing import Literal

Precision = Literal["tf32x3", "ieee", "tf32", "bf16x3"]
"""How a float32 product is made. `tf32x3` and `bf16x3` add up three products of shorter numbers and are as good as
float32 to a few 1e-6; `ieee` is float32 without tensor cores; `tf32` alone is a thousand times coarser.
"""

_LEAST = 16  # a smaller side of a `tl.dot` tile compiles on no device
_PROGRAMS = 264  # two for each multiprocessor of the largest devices of today; a constant, so that results are too


def tile(size: int, largest: int = 64) -> int:
    """The power of two that covers `size`, between 16 and `largest`."""
    return max(_LEAST, min(largest, 1 << max(0, size - 1).bit_length()))


def tiles(size: int, width: int) -> int:
    """How many tiles of `width` cover `size`."""
    return -(-size // width)


def splits(programs: int, steps: int) -> int:
    """In how many parts a reduction over `steps` tiles is made when it is done for `programs` tiles of the result."""
    return max(1, min(steps, _PROGRAMS // max(1, programs)))
