"""A transformer of half a billion random weights: what a head's time is measured against, and nothing else."""

from typing import TypedDict

import torch
from torch import Tensor

import pcircuits as pc
from pcircuits_diffusion.backbones import MaskedTransformer, TransformerConfig
from pcircuits_diffusion.backbones.transformer import Layer, _rotate


class Sizes(TypedDict):
    dim: int
    num_layers: int
    num_heads: int


VOCAB, CONTEXT, BLOCK, STATES = 126_464, 512, 32, 1024
SIZES: Sizes = {"dim": 1024, "num_layers": 30, "num_heads": 16}
SMALL_VOCAB, SMALL_STATES = 512, 16
SMALL_SIZES: Sizes = {"dim": 32, "num_layers": 2, "num_heads": 2}

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values (B, heads, C, E) of the context, one pair a layer."""


def build(*, small: bool, seed: int) -> tuple[MaskedTransformer, pc.HMM]:
    """The backbone, with tied embeddings, and a random HMM over a block of its tokens; float32, without gradients."""
    torch.manual_seed(seed)
    vocab_size, states = (SMALL_VOCAB, SMALL_STATES) if small else (VOCAB, STATES)
    sizes = SMALL_SIZES if small else SIZES
    config = TransformerConfig(vocab_size, max_length=CONTEXT + BLOCK, block_length=BLOCK, eos_id=0, **sizes)
    prior = pc.HMM(states, vocab_size, BLOCK, seed=seed)
    backbone = MaskedTransformer(config).eval()
    for model in (backbone, prior):
        model.requires_grad_(False)
    return backbone, prior


@torch.no_grad()
def prefill(backbone: MaskedTransformer, context: Tensor) -> Cache:
    """What the block's tokens look back at."""
    cache: Cache = []
    x = backbone.embedding(context) * backbone.config.dim**0.5
    rotation = backbone._rotation(context, None)
    for layer in backbone.layers:
        assert isinstance(layer, Layer)
        _, key, value = _split(layer, x)
        cache.append((_rotate(key, rotation), value))
        x = layer(x, rotation, None, False)
    return cache


@torch.no_grad()
def cached_log_marginals(backbone: MaskedTransformer, block: Tensor, cache: Cache) -> Tensor:
    """(B, L, V): the block alone through the transformer, after a context that did not see it."""
    start = cache[0][0].shape[2]
    positions = torch.zeros(len(block), start + block.shape[1], dtype=torch.long)
    rotation = backbone._rotation(positions, None)[..., start:, :]
    x = backbone.embedding(block) * backbone.config.dim**0.5
    for layer, (keys, values) in zip(backbone.layers, cache, strict=True):
        assert isinstance(layer, Layer)
        query, key, value = _split(layer, x)
        key, value = torch.cat([keys, _rotate(key, rotation)], 2), torch.cat([values, value], 2)
        mixed = torch.nn.functional.scaled_dot_product_attention(_rotate(query, rotation), key, value)
        x = x + layer.attention.project_out(mixed.transpose(1, 2).flatten(2))
        x = x + layer.contract(torch.nn.functional.gelu(layer.expand(layer.expand_norm(x))))
    return backbone.logits(backbone.norm(x)).log_softmax(-1)


def _split(layer: Layer, x: Tensor) -> Tensor:
    """Queries, keys and values (3, B, heads, L, E)."""
    projected = layer.attention.project_in(layer.attention_norm(x))
    return projected.unflatten(-1, (3, layer.attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
