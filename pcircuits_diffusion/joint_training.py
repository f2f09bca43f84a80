"""Training a head and its backbone together: objective (7) of Li et al. 2026 in both omega and phi.

Axes: N windows, W tokens of a window, L positions of the block at its end, B batch.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

import pcircuits as pc
from pcircuits import learning
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.coupling import CoupledPosterior
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.mixture import HeadMixture, MixturePosterior
from pcircuits_diffusion.training import Objective, ShuffledBlocks, masked_windows, require_fit, require_gradient


@dataclass(frozen=True)
class MaskedWindows:
    """Windows (N, W), and which tokens of the block at their end are masked (N, L)."""

    tokens: Int[Tensor, "N W"]
    mask: Bool[Tensor, "N L"]

    def batch(self, index: Int[Tensor, " B"]) -> "MaskedWindows":
        return MaskedWindows(self.tokens[index], self.mask[index])

    def __len__(self) -> int:
        return len(self.tokens)


class Joint(nn.Module):
    """A head and a backbone as one module."""

    def __init__(self, head: CoupledHead | HeadMixture, backbone: nn.Module) -> None:
        super().__init__()
        self.head, self.backbone = head, backbone

    def forward(self, blocks: MaskedWindows) -> CoupledPosterior | MixturePosterior:
        """The coupled distribution of the blocks, with gradients of both."""
        tokens, mask = blocks.tokens, blocks.mask
        span = slice(tokens.shape[1] - mask.shape[1], tokens.shape[1])
        seen = tokens.clone()
        seen[:, span].masked_fill_(mask, int(self.backbone.mask_id))  # type: ignore[arg-type]
        log_marginals, hidden = self.backbone.predict(seen, span=span)  # type: ignore[operator]
        return self.head(log_marginals, hidden, tokens[:, span], mask)


def train_jointly(
    head: CoupledHead | HeadMixture,
    backbone: Any,
    tokens: Tensor,
    *,
    valid: Tensor | None = None,
    masks_per_window: int = 1,
    objective: Objective | None = None,
    seed: int,
    **options: Any,
) -> learning.History:
    """Trains a head and its backbone in place; arguments as for `train_head`, but nothing is cached.

    Args:
        backbone: a `torch.nn.Module` with `predict` (see `Backbone`) that lets gradients through.

    Raises:
        pc.ParameterError: another backbone, or a learner that cannot follow objective (7).
        pc.ShapeError, pc.DataError: windows shorter than the head's block, or with tokens that the backbone lacks.
    """
    require_gradient(options.setdefault("learner", "adam"))
    if not isinstance(backbone, nn.Module) or not hasattr(backbone, "predict"):
        kind = type(backbone).__name__
        raise pc.ParameterError(f"`backbone` must be a torch.nn.Module with `predict` to be trained; {kind} is not")
    require_fit(head, backbone, tokens, valid, masks_per_window)  # type: ignore[arg-type]
    batch_size, weighted = options.pop("batch_size", 32), objective or Objective()
    data = {
        name: ShuffledBlocks(MaskedWindows(*part), batch_size, seed if name == "train" else None)
        for name, part in masked_windows(head, tokens, valid, masks_per_window, seed).items()
    }

    def score(model: nn.Module, blocks: MaskedWindows) -> Float[Tensor, " B"]:
        device = next(model.parameters()).device
        moved = MaskedWindows(blocks.tokens.to(device), blocks.mask.to(device))
        return weighted.of(model(moved), moved.tokens[:, -moved.mask.shape[1] :])

    model = Joint(head, backbone)
    return pc.fit(model, data["train"], valid=data.get("valid"), objective=score, seed=seed, **options)
