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
from pcircuits import learning
from pcircuits.files import write_safetensors
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.backbone import Backbone, predict
from pcircuits_diffusion.decoding import require_marginals

SHARD_WINDOWS = 1024
LOG_MARGINALS, HIDDEN = "log_marginals", "hidden"


class MaskedBlocks(NamedTuple):
    """A batch of blocks: true tokens, which of them are masked, what the backbone predicts there (zero elsewhere), and
    its hidden states where they were asked for.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    log_marginals: Float[Tensor, "B L V"]
    hidden: Float[Tensor, "B L E"] | None = None


class LogitCache:
    """Blocks (N, L), masks, the backbone's log marginals of the masked positions (M, V) and, where asked for, its
    hidden states of all positions (N, L, E); one shard every 1,024 windows.
    """

    def __init__(
        self, tokens: Int[Tensor, "N L"], mask: Bool[Tensor, "N L"], shards: "list[dict[str, Tensor] | Path]"
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
        found = [self._window(i) for i in index.tolist()]
        rows = torch.cat([log_marginals for log_marginals, _ in found]).float()
        log_marginals = rows.new_zeros(*mask.shape, rows.shape[-1])
        log_marginals[mask] = rows
        hidden = [hidden for _, hidden in found if hidden is not None]
        return MaskedBlocks(self.tokens[index], mask, log_marginals, torch.stack(hidden).float() if hidden else None)

    def _window(self, window: int) -> tuple[Float[Tensor, "M V"], Float[Tensor, "L E"] | None]:
        shard, start = self.shards[window // SHARD_WINDOWS], self._starts[window]
        rows, place = slice(start, start + self._counts[window]), window % SHARD_WINDOWS
        if isinstance(shard, dict):
            return shard[LOG_MARGINALS][rows], shard[HIDDEN][place] if HIDDEN in shard else None
        with safe_open(shard, framework="pt") as file:
            hidden = file.get_slice(HIDDEN)[place] if HIDDEN in file.keys() else None  # noqa: SIM118
            return file.get_slice(LOG_MARGINALS)[rows], hidden


@torch.no_grad()
def cache_logits(
    backbone: Backbone,
    tokens: Tensor,
    mask: Tensor,
    *,
    hidden: bool = False,
    folder: str | os.PathLike | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> LogitCache:
    """Masks the last L tokens of every window (N, W) as told by `mask` (N, L) and asks the backbone for all of them;
    with `hidden` also for its hidden states of the block.

    With a `folder`, shards are written there one by one, each by one of the processes if there are several, and those
    that an earlier run left are used; what was made with hidden states serves heads without them too.

    Raises:
        pc.ParameterError: a backbone without the hidden states that are asked for.
        pc.ShapeError: windows shorter than the block, or masks that do not fit. pc.DataError: tokens that the backbone
            does not know, or a folder that was filled from other windows, masks or another backbone.
    """
    _validate(backbone, tokens, mask)
    parts = list(range(0, len(tokens), SHARD_WINDOWS))
    fingerprint, (rank, size) = _fingerprint(backbone, tokens, mask), learning.place()
    shards: list[dict[str, Tensor] | Path] = []
    for number, first in enumerate(tqdm(parts, "backbone", disable=not progress)):
        rows = slice(first, first + SHARD_WINDOWS)
        path = None if folder is None else Path(folder) / f"{number:05d}.safetensors"
        if path is not None and path.exists():
            _require_same(path, fingerprint, backbone, tokens[rows], mask[rows], hidden)
        elif path is None or number % size == rank:
            shard = _shard(backbone, tokens[rows], mask[rows], hidden, batch_size)
            if path is None:
                shards.append(shard)
                continue
            write_safetensors(path, shard, {"fingerprint": fingerprint})
        if path is not None:
            shards.append(path)
    if folder is not None:
        learning.wait()
    return LogitCache(tokens[:, -mask.shape[1] :], mask, shards)


def _shard(backbone: Backbone, tokens: Tensor, mask: Tensor, hidden: bool, batch_size: int) -> dict[str, Tensor]:
    parts = list(_predict(backbone, tokens, mask, hidden, batch_size))
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _predict(
    backbone: Backbone, tokens: Tensor, mask: Tensor, hidden: bool, batch_size: int
) -> Iterator[dict[str, Tensor]]:
    """Of the masked positions, window by window."""
    context = tokens.shape[1] - mask.shape[1]
    for window, masked in zip(tokens.split(batch_size), mask.split(batch_size), strict=True):
        seen = window.clone()
        seen[:, context:][masked] = backbone.mask_id
        found = predict(backbone, seen, hidden=hidden, span=slice(context, tokens.shape[1]))
        require_marginals(found.log_marginals, masked, backbone.vocab_size)
        kept = {LOG_MARGINALS: found.log_marginals[masked].half()}
        yield kept if found.hidden is None else {**kept, HIDDEN: found.hidden.half()}


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
    settings = (backbone.vocab_size, backbone.mask_id, SHARD_WINDOWS, tuple(mask.shape))
    digest = hashlib.sha256(str(settings).encode())
    for tensor in (tokens, mask):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _require_same(path: Path, fingerprint: str, backbone: Backbone, tokens: Tensor, mask: Tensor, hidden: bool) -> None:
    """That a shard holds these windows, by its fingerprint, and this backbone, by asking it for the first one again."""
    try:
        with safe_open(path, framework="pt") as file:
            same = (file.metadata() or {}).get("fingerprint") == fingerprint
            kept = file.get_slice(LOG_MARGINALS)[: int(mask[0].sum())] if same else None
            lacks_hidden = hidden and HIDDEN not in file.keys()  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise pc.FormatError(f"{path} is not a whole shard of a logit cache: {error}") from error
    if kept is None:
        raise pc.DataError(f"{path} was made from other windows or masks; use an empty folder")
    if lacks_hidden:
        raise pc.DataError(f"{path} was made without hidden states, which this head reads; use an empty folder")
    again = next(_predict(backbone, tokens[:1], mask[:1], False, 1))[LOG_MARGINALS]
    if not torch.allclose(kept.float(), again.float(), rtol=0.05, atol=0.05):
        raise pc.DataError(f"{path} was made by another backbone; use an empty folder")
