"""Data on disk: rows in safetensors files, read one file at a time."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from pcircuits.errors import DataError, FormatError, ParameterError
from pcircuits.files import write_safetensors
from pcircuits.learning.batches import epoch_generator
from pcircuits.types import Shaped, Tensor


class TokenShards:
    """Batches (B, D) from safetensors files that each hold rows (N_i, D) under one key; one is in memory at a time.

    Files, and rows within a file, come in an order that the seed and the epoch decide; a batch does not cross
    files. Integers of any width arrive as int64.

    Args:
        paths: the files; their order does not matter.
        key: the tensor's name in each file.
        seed: of the order. None: files and rows as they are.

    Raises:
        FormatError: a file that is missing, truncated, or lacks the key. DataError: no rows, or rows of unequal
            width.
    """

    def __init__(
        self, paths: Iterable[str | os.PathLike], *, key: str = "tokens", batch_size: int = 256, seed: int | None = None
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ParameterError(f"`batch_size` must be a positive integer, got {batch_size!r}")
        self.key, self.batch_size, self.seed = key, batch_size, seed
        shapes = {path: self._shape(path) for path in sorted({Path(p) for p in paths})}
        if bad := next((f"{path} has shape {shape}" for path, shape in shapes.items() if len(shape) != 2), None):
            raise DataError(f"shards must hold (rows, variables) under {key!r}; {bad}")
        if len({shape[1] for shape in shapes.values()}) > 1:
            raise DataError(
                f"shards must have rows of one width, got {sorted({shape[1] for shape in shapes.values()})}"
            )
        self.rows = {path: shape[0] for path, shape in shapes.items() if shape[0] > 0}
        if not self.rows:
            raise DataError(f"the {len(shapes)} shards hold no rows under {key!r}")

    def __len__(self) -> int:
        """Batches an epoch."""
        return sum(self._num_batches(rows) for rows in self.rows.values())

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Shaped[Tensor, "B D"]]:
        """The batches of an epoch from number `start` on; files before that one are not read."""
        generator = None if self.seed is None else epoch_generator(self.seed, epoch)
        paths = list(self.rows)
        order = range(len(paths)) if generator is None else torch.randperm(len(paths), generator=generator).tolist()
        for path in (paths[i] for i in order):
            rows = self.rows[path]
            index = torch.arange(rows) if generator is None else torch.randperm(rows, generator=generator)
            if start >= self._num_batches(rows):
                start -= self._num_batches(rows)
                continue
            shard = self._read(path)
            for part in index.split(self.batch_size)[start:]:
                yield shard[part]
            start = 0

    def _num_batches(self, rows: int) -> int:
        return -(-rows // self.batch_size)

    def _shape(self, path: Path) -> list[int]:
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_slice(self.key).get_shape()
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path} has no rows under {self.key!r}: {error}") from error

    def _read(self, path: Path) -> Shaped[Tensor, "N D"]:
        with safe_open(path, framework="pt") as file:
            shard = file.get_tensor(self.key)
        return shard if shard.is_floating_point() else shard.long()


def write_shards(folder: str | os.PathLike, parts: Iterable[Tensor], *, key: str = "tokens") -> list[Path]:
    """One safetensors file a part (N_i, D), `00000.safetensors` and on; their paths are what TokenShards reads."""
    paths = []
    for number, part in enumerate(parts):
        paths.append(Path(folder) / f"{number:05d}.safetensors")
        write_safetensors(paths[-1], {key: part})
    return paths
