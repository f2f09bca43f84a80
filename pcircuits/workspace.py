"""Where a pass writes its results: into tensors of its own, or into those of the pass before it."""

import math

from pcircuits.types import Tensor


class Memory:
    """Says which tensors results are written into; None leaves that to torch.

    This one says None always: for results that take part in autograd, and for devices whose allocator keeps what it
    frees.
    """

    def keep(self, *shape: int, like: Tensor) -> Tensor | None:
        """A tensor for a result that the pass keeps; its values are undefined."""
        return None

    def scratch(self, name: str, *shape: int, like: Tensor) -> Tensor | None:
        """A tensor that is read before the next one of this name is asked for."""
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
        return like.new_empty(shape)

    def scratch(self, name: str, *shape: int, like: Tensor) -> Tensor:
        size = math.prod(shape)
        found = self._scratch.get(name)
        if found is None or found.dtype != like.dtype or len(found) < size:
            found = self._scratch[name] = like.new_empty(size)
        return found[:size].view(shape)

    def over(self, x: Tensor) -> Tensor:
        return x


class Workspace(Fresh):
    """Memory that one call after another reuses: in a loop over batches of one size nothing is allocated.

    What a call with a workspace returns is overwritten by the next call with it. One workspace serves one thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[Tensor] = []
        self._free: list[Tensor] = []

    def begin(self) -> None:
        """All earlier results may be overwritten from now on."""
        self._free = list(self._blocks)

    def keep(self, *shape: int, like: Tensor) -> Tensor:
        size = math.prod(shape)
        fitting = [n for n, block in enumerate(self._free) if block.dtype == like.dtype and len(block) >= size]
        if fitting:
            block = self._free.pop(min(fitting, key=lambda n: len(self._free[n])))
        else:
            block = like.new_empty(size)
            self._blocks.append(block)
        return block[:size].view(shape)

    def release(self, x: Tensor | None) -> None:
        if x is None:
            return
        start = x.untyped_storage().data_ptr()
        if all(block.data_ptr() != start for block in self._free):
            self._free += [block for block in self._blocks if block.data_ptr() == start]

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(x.nbytes for x in [*self._blocks, *self._scratch.values()])
