"""A frozen backbone's predictions, worked out once: in memory, or in shards on disk that interrupted runs go on with.

Only masked positions are kept, as float16: on average half of a block.
Axes: N windows, W tokens of a window, L positions of the block at its end, V tokens, M masked positions, B batch.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

import pcircuits as pc
from pcircuits.files import write_safetensors
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.decoding import require_marginals

SHARD_WINDOWS = 1024
KEY = "log_marginals"


class MaskedBlocks(NamedTuple):
    """A batch of blocks: true tokens, which of them are masked, what the backbone predicts there (zero elsewhere)."""

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    log_marginals: Float[Tensor, "B L V"]


class LogitCache:
    """Blocks (N, L), masks, and the backbone's log marginals of the masked positions, one shard every 1,024 windows."""

    def __init__(
        self, tokens: Int[Tensor, "N L"], mask: Bool[Tensor, "N L"], shards: "list[Tensor] | list[Path]"
    ) -> None:
        self.tokens, self.mask, self.shards = tokens, mask, shards
        counts = mask.sum(-1)
        starts = [chunk.cumsum(0) - chunk for chunk in counts.split(SHARD_WINDOWS)]
        self._starts, self._counts = torch.cat(starts).tolist(), counts.tolist()

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, index: Int[Tensor, " B"]) -> MaskedBlocks:
        """The blocks of some windows, predictions in float32."""
        mask = self.mask[index]
        found = torch.cat([self._rows(i) for i in index.tolist()]).float()
        log_marginals = found.new_zeros(*mask.shape, found.shape[-1])
        log_marginals[mask] = found
        return MaskedBlocks(self.tokens[index], mask, log_marginals)

    def _rows(self, window: int) -> Float[Tensor, "M V"]:
        shard, start = self.shards[window // SHARD_WINDOWS], self._starts[window]
        rows = slice(start, start + self._counts[window])
        if isinstance(shard, Tensor):
            return shard[rows]
        with safe_open(shard, framework="pt") as file:
            return file.get_slice(KEY)[rows]


@torch.no_grad()
def cache_logits(
    backbone: Backbone,
    tokens: Tensor,
    mask: Tensor,
    *,
    folder: str | os.PathLike | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> LogitCache:
    """Masks the last L tokens of every window (N, W) as told by `mask` (N, L) and asks the backbone for all of them.

    With a `folder`, shards are written there one by one, and those that an earlier run left are used.

    Raises:
        pc.ShapeError: windows shorter than the block, or masks that do not fit. pc.DataError: tokens that the backbone
            does not know, or a folder that was filled from other windows, masks or another backbone.
    """
    _validate(backbone, tokens, mask)
    parts = range(0, len(tokens), SHARD_WINDOWS)
    fingerprint = _fingerprint(backbone, tokens, mask)
    shards: list = []
    for number, first in enumerate(tqdm(parts, "backbone", disable=not progress)):
        rows = slice(first, first + SHARD_WINDOWS)
        path = None if folder is None else Path(folder) / f"{number:05d}.safetensors"
        if path is not None and path.exists():
            _require_same(path, fingerprint, backbone, tokens[rows], mask[rows])
        else:
            predicted = torch.cat(list(_predict(backbone, tokens[rows], mask[rows], batch_size)))
            if path is not None:
                write_safetensors(path, {KEY: predicted}, {"fingerprint": fingerprint})
        shards.append(predicted if path is None else path)
    return LogitCache(tokens[:, -mask.shape[1] :], mask, shards)


def _predict(backbone: Backbone, tokens: Tensor, mask: Tensor, batch_size: int) -> Iterator[Float[Tensor, "M V"]]:
    """Of the masked positions, window by window."""
    context = tokens.shape[1] - mask.shape[1]
    for window, hidden in zip(tokens.split(batch_size), mask.split(batch_size), strict=True):
        seen = window.clone()
        seen[:, context:][hidden] = backbone.mask_id
        log_marginals = backbone.log_marginals(seen, span=slice(context, tokens.shape[1]))
        require_marginals(log_marginals, hidden, backbone.vocab_size)
        yield log_marginals[hidden].half()


def _validate(backbone: Backbone, tokens: Tensor, mask: Tensor) -> None:
    if tokens.ndim != 2 or len(tokens) == 0 or tokens.dtype != torch.long:
        raise pc.ShapeError(f"`tokens` must be int64 windows (N, W), got {tokens.dtype} of shape {tuple(tokens.shape)}")
    if mask.dtype != torch.bool or mask.ndim != 2 or len(mask) != len(tokens) or mask.shape[1] > tokens.shape[1]:
        raise pc.ShapeError(
            f"`mask` must be bool (N, L), L at most {tokens.shape[1]}; got {mask.dtype} {tuple(mask.shape)}"
        )
    if (bad := (tokens < 0) | (tokens >= backbone.vocab_size)).any():
        rows = bad.any(1).nonzero().flatten()[:8].tolist()
        raise pc.DataError(f"windows {rows} hold ids outside the backbone's 0..{backbone.vocab_size - 1}")


def _fingerprint(backbone: Backbone, tokens: Tensor, mask: Tensor) -> str:
    digest = hashlib.sha256(f"{backbone.vocab_size} {backbone.mask_id} {SHARD_WINDOWS} {tuple(mask.shape)}".encode())
    for tensor in (tokens, mask):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _require_same(path: Path, fingerprint: str, backbone: Backbone, tokens: Tensor, mask: Tensor) -> None:
    """That a shard holds these windows, by its fingerprint, and this backbone, by asking it for the first one again."""
    try:
        with safe_open(path, framework="pt") as file:
            same = (file.metadata() or {}).get("fingerprint") == fingerprint
            kept = file.get_slice(KEY)[: int(mask[0].sum())] if same else None
    except (SafetensorError, OSError) as error:
        raise pc.FormatError(f"{path} is not a whole shard of a logit cache: {error}") from error
    if kept is None:
        raise pc.DataError(f"{path} was made from other windows or masks; use an empty folder")
    again = next(_predict(backbone, tokens[:1], mask[:1], 1))
    if not torch.allclose(kept.float(), again.float(), rtol=0.05, atol=0.05):
        raise pc.DataError(f"{path} was made by another backbone; use an empty folder")
