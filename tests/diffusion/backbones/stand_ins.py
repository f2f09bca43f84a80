"""Small modules with the signatures and the quirks of models whose code lies with their weights."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

WIDTH, DIM = 12, 8


class Attention(nn.Module):
    """One layer of attention that knows distances, so that padding on the left moves nothing."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.embedding = nn.Embedding(width, DIM)
        self.project = nn.Linear(DIM, 3 * DIM)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, position_ids: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, L, D); `mask` broadcasts to (B, 1, L, L), True or 0.0 where a query may look."""
        x = self.embedding(tokens)
        query, key, value = self.project(x).unsqueeze(1).chunk(3, -1)
        position_ids = torch.arange(tokens.shape[1])[None] if position_ids is None else position_ids
        scores = query @ key.mT + 0.3 * (position_ids[:, None, :, None] - position_ids[:, None, None, :])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return x + (scores.softmax(-1) @ value)[:, 0]


class Function(nn.Module):
    """From tokens to logits, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.output = Attention(), nn.Linear(DIM, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.attention(tokens))


class LLaDA(nn.Module):
    """`padding`: what a modelling file makes of `attention_mask`: "ignored", "causal" or "keys"."""

    def __init__(self, padding: str = "keys") -> None:
        super().__init__()
        self.padding, self.attention, self.ff_out = padding, Attention(), nn.Linear(DIM, WIDTH)

    def forward(
        self,
        input_ids: Tensor,
        inputs_embeds: None = None,
        attention_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
        past_key_values: None = None,
        labels: None = None,
        use_cache: bool | None = None,
    ) -> SimpleNamespace:
        if use_cache is not False:
            raise ValueError("upstream reads the configuration's `use_cache`, and refuses to have one")
        lowest, length = torch.finfo(torch.float32).min, input_ids.shape[1]
        bias = None if attention_bias is None else (~attention_bias).float() * lowest
        if attention_mask is not None and 0.0 in attention_mask:
            before = torch.full((length, length), lowest).triu(1)
            bias = before if self.padding == "causal" else torch.zeros(length, length)
            bias = (bias + (1.0 - attention_mask.float())[:, None, None, :] * lowest).clamp(min=lowest)
        return SimpleNamespace(
            logits=self.ff_out(self.attention(input_ids, None if self.padding == "ignored" else bias))
        )


class Dream(nn.Module):
    """Row i predicts token i + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.lm_head = Attention(), nn.Linear(DIM, WIDTH)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | str, position_ids: Tensor | None = None
    ) -> SimpleNamespace:
        mask = attention_mask if isinstance(attention_mask, Tensor) else None  # as upstream's layers read "full"
        if mask is not None and (mask.dtype != torch.bool or mask.ndim != 4):
            raise ValueError(f"a mask must be bool (B, 1, L, L), got {mask.dtype} {tuple(mask.shape)}")
        return SimpleNamespace(logits=self.lm_head(self.attention(input_ids, mask, position_ids)))


class FinalLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(DIM, width), nn.Linear(1, DIM)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(x * (1 + self.scale(c)[:, None]))


class DIT(nn.Module):
    """MDLM's backbone; with a block size that of BD3-LM. Plain tensors out; keeps the times it was given."""

    def __init__(self, *, block_size: int | None = None, time_conditioning: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(time_conditioning=time_conditioning, attn_backend="sdpa")
        self.attention, self.output_layer, self.block_size = Attention(), FinalLayer(WIDTH), block_size

    def forward(self, indices: Tensor, sigma: Tensor, sample_mode: bool = False, store_kv: bool = False) -> Tensor:
        if sigma.shape != (len(indices),):
            raise ValueError(f"one sigma a row is needed, got {tuple(sigma.shape)}")
        if (self.block_size is not None) != sample_mode:
            raise ValueError("without `sample_mode` BD3-LM wants noisy and clean tokens side by side")
        self.sigma, mask = sigma, None
        if self.block_size is not None:
            blocks = torch.arange(indices.shape[1]) // self.block_size
            mask = blocks[:, None] >= blocks[None, :]
        return self.output_layer(self.attention(indices, mask), sigma[:, None])


class MDLM(nn.Module):
    """The hub's: a `DIT` inside, `return_dict` false."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.backbone = DIT(**options)
        self.config = self.backbone.config

    def forward(self, input_ids: Tensor, timesteps: Tensor) -> Tensor:
        return self.backbone(input_ids, timesteps)


class SEDD(nn.Module):
    """Log scores: log p - log(e^s - 1), each position's own token scattered to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.output_layer = Attention(), FinalLayer(WIDTH)

    def forward(self, indices: Tensor, sigma: Tensor) -> Tensor:
        self.sigma = sigma
        x = self.output_layer(self.attention(indices), sigma[:, None])
        x = x - torch.expm1(sigma).log()[:, None, None]
        return torch.scatter(x, -1, indices[..., None], torch.zeros_like(x[..., :1]))
