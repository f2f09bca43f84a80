"""Where a pass writes its results: into tensors of its own, or into those of the pass before it."""

import math

import torch

from pcircuits.layout import shaped
from pcircuits.types import Tensor


class Memory:
    """Says which tensors results are written into, lying in memory as `like` does; None leaves that to torch.

    This one says None always: for results that take part in autograd, and for devices whose allocator keeps what it
    frees.
    """

    def keep(self, *shape: int, like: Tensor) -> Tensor | None:
        """A tensor for a result that the pass keeps; its values are undefined."""
        return None

    def scratch(self, name: str, *shape: int, like: Tensor) -> Tensor | None:
        """A tensor that is read before the next one of this name is asked for."""
        return None

    def scratch_like(self, x: Tensor, name: str) -> Tensor | None:
        """Scratch of the shape of `x`, which is read for the last time: `x` itself if it is scratch."""
        return None

    def release(self, x: Tensor | None) -> None:
        """`x`, a kept tensor, is no longer read."""

    def over(self, x: Tensor) -> Tensor | None:
        """`x` itself where a result may replace its argument."""
        return None


class Fresh(Memory):
    """New tensors, which belong to whoever gets the results; scratch lasts as long as the pass."""

    def __init__(self) -> None:
        self._scratch: dict[str, Tensor] = {}

    def keep(self, *shape: int, like: Tensor) -> Tensor:
        return shaped(like.new_empty(math.prod(shape)), shape, like)

    def scratch(self, name: str, *shape: int, like: Tensor) -> Tensor:
        size = math.prod(shape)
        found = self._scratch.get(name)
        if found is None or found.dtype != like.dtype or len(found) < size:
            found = self._scratch[name] = like.new_empty(size)
        return shaped(found[:size], shape, like)

    def scratch_like(self, x: Tensor, name: str) -> Tensor:
        start = x.untyped_storage().data_ptr()
        if any(start == block.data_ptr() for block in self._scratch.values()):
            return x
        return self.scratch(name, *x.shape, like=x)

    def over(self, x: Tensor) -> Tensor:
        return x


class Workspace(Fresh):
    """Memory that one call after another reuses: in a loop over batches of one size nothing is allocated.

    What a call with a workspace returns is overwritten by the next call with it. One workspace serves one thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[int, Tensor] = {}
        self._free: dict[tuple[torch.dtype, int], dict[int, Tensor]] = {}

    def begin(self) -> None:
        """All earlier results may be overwritten from now on."""
        for block in self._blocks.values():
            self._set_free(block)

    def keep(self, *shape: int, like: Tensor) -> Tensor:
        size = math.prod(shape)
        free = self._free.get((like.dtype, _class_of(size)))
        if free:
            block = free.popitem()[1]
        else:
            block = like.new_empty(_class_of(size))
            self._blocks[block.data_ptr()] = block
        return shaped(block[:size], shape, like)

    def release(self, x: Tensor | None) -> None:
        if x is not None and (block := self._blocks.get(x.untyped_storage().data_ptr())) is not None:
            self._set_free(block)

    def _set_free(self, block: Tensor) -> None:
        self._free.setdefault((block.dtype, len(block)), {})[block.data_ptr()] = block

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(x.nbytes for x in [*self._blocks.values(), *self._scratch.values()])


def _class_of(size: int) -> int:
    """The next number of elements with five leading binary digits: blocks of a class serve each other's requests."""
    unit = 1 << max(0, size.bit_length() - 5)
    return max(1, -(-size // unit) * unit)
