"""A small masked diffusion transformer of a task whose true law is known.

Axes: B rows, L positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.truths_tasks import Truth
from pcircuits_diffusion.backbones import MaskedTransformer, TransformerConfig

BATCH = 64


def train_transformer(truth: Truth, *, steps: int, seed: int) -> MaskedTransformer:
    """Trained on all valid outputs, k of the L positions masked, k uniform in 1..L."""
    config = TransformerConfig(
        vocab_size=truth.num_symbols,
        dim=64,
        num_layers=3,
        num_heads=4,
        max_length=truth.length,
        block_length=truth.length,
        eos_id=0,
    )
    torch.manual_seed(seed)
    model = MaskedTransformer(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        loss = _loss(model, truth.valid, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _loss(model: MaskedTransformer, valid: Tensor, generator: torch.Generator) -> Tensor:
    rows = valid[torch.randint(len(valid), (BATCH,), generator=generator)]
    order = torch.rand(rows.shape, generator=generator).argsort(1)
    mask = order < torch.randint(1, valid.shape[1] + 1, (BATCH, 1), generator=generator)
    states = model(rows.masked_fill(mask, model.mask_id))
    return F.cross_entropy(model.logits(states[mask]), rows[mask])
