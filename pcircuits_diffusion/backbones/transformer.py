"""A small masked diffusion transformer, trainable on a CPU; with `causal=True` an autoregressive one."""

import dataclasses
import json
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pcircuits as pc
from pcircuits.files import write_atomically
from pcircuits_diffusion.backbone import consecutive, require_finite, require_known, require_tokens

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "backbone.safetensors"


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `MaskedTransformer`; `block_length` is the number of tokens it was trained to fill at once."""

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    max_length: int
    block_length: int
    eos_id: int
    causal: bool = False

    def __post_init__(self) -> None:
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads, got dim {self.dim}, num_heads {self.num_heads}")


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.project_in = nn.Linear(dim, 3 * dim, bias=False)
        self.project_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """(B, L, D) -> (B, L, D); `rotation` (2, B or 1, 1, L, head / 2) holds cosines and sines."""
        query, key, value = self.project_in(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal and mask is None)
        return self.project_out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm attention and GELU perceptron, each added to its input."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.expand_norm = nn.RMSNorm(dim)
        self.expand = nn.Linear(dim, 4 * dim, bias=False)
        self.contract = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.attention(self.attention_norm(x), rotation, mask, causal)
        return x + self.contract(F.gelu(self.expand(self.expand_norm(x))))


class MaskedTransformer(nn.Module):
    """A `Backbone`: p(x_i | unmasked tokens) for every position i by bidirectional attention.

    Input ids are 0..V, where V = `mask_id`; predictions range over 0..V-1. Input and output embeddings are tied.
    With `config.causal`, row i is p(x_i | x_<i) instead, the first one after an implied `eos`.
    """

    rotations: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.mask_id = config.vocab_size
        self.embedding = nn.Embedding(config.vocab_size + 1, config.dim)
        self.layers = nn.ModuleList(Layer(config.dim, config.num_heads) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.register_buffer("rotations", _rotations(config), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Unit variance in, residual branches scaled down so that their sum stays of order one."""
        nn.init.normal_(self.embedding.weight, std=self.config.dim**-0.5)
        for name, weight in self.named_parameters():
            if name.endswith(("project_out.weight", "contract.weight")):
                nn.init.normal_(weight, std=(2 * self.config.num_layers * weight.shape[1]) ** -0.5)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Last hidden states (B, L, D), with gradients."""
        self._check(tokens, valid)
        if self.config.causal:
            tokens = self._shift(tokens, valid)
        x = self.embedding(tokens) * self.config.dim**0.5
        rotation, mask = self._rotation(tokens, valid), self._attention_mask(valid)
        for layer in self.layers:
            x = layer(x, rotation, mask, self.config.causal)
        return self.norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Hidden states (..., D) -> unnormalised log probabilities (..., V)."""
        return F.linear(states, self.embedding.weight[: self.vocab_size], self.bias)

    @torch.no_grad()
    def log_marginals(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """log p(x_i = v | unmasked tokens), (B, |span|, V); see `Backbone.log_marginals`.

        Raises:
            pc.ShapeError, pc.DataError, pc.EvidenceError: as `ModuleBackbone`.
        """
        return self._normalised(self.hidden(tokens, valid=valid, span=span))

    def predict(
        self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log marginals (B, |span|, V) and hidden states (B, |span|, D) of one pass, with gradients."""
        states = self(tokens, valid)[:, consecutive(span, tokens.shape[1])]
        return self._normalised(states), states

    def _normalised(self, states: Tensor) -> Tensor:
        found = self.logits(states).log_softmax(-1)
        require_finite(found)
        return found

    @torch.no_grad()
    def hidden(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """The last hidden states, after the final norm, (B, |span|, D)."""
        return self(tokens, valid)[:, consecutive(span, tokens.shape[1])]

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and `backbone.safetensors` (float16) into `folder`."""
        folder = Path(folder)
        weights = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / WEIGHTS_FILE, safetensors.torch.save(weights))
        write_atomically(folder / CONFIG_FILE, json.dumps(dataclasses.asdict(self.config), indent=2).encode() + b"\n")

    @classmethod
    def load(cls, folder: str | Path) -> "MaskedTransformer":
        """Reads what `save` wrote; float32 parameters, frozen use: `eval()` mode."""
        folder = Path(folder)
        model = cls(TransformerConfig(**json.loads((folder / CONFIG_FILE).read_text())))
        weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return model.eval()

    def _check(self, tokens: Tensor, valid: Tensor | None) -> None:
        require_tokens(tokens, valid)
        if tokens.shape[1] > self.config.max_length:
            limit = self.config.max_length
            raise pc.ShapeError(f"{tokens.shape[1]} tokens exceed this backbone's max_length of {limit}")
        require_known((tokens < 0) | (tokens > self.mask_id), valid, self.mask_id)

    def _shift(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """The token before each position, `eos` before the first valid one."""
        previous = F.pad(tokens[:, :-1], (1, 0), value=self.config.eos_id)
        if valid is None:
            return previous
        return previous.where(F.pad(valid[:, :-1], (1, 0), value=False), self.config.eos_id)

    def _rotation(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Cosines and sines (2, B or 1, 1, L, head / 2) of each token's index among the valid ones."""
        if valid is None:
            return self.rotations[:, None, None, : tokens.shape[1]]
        positions = (valid.long().cumsum(1) - 1).clamp(min=0)
        return self.rotations[:, positions].unsqueeze(2)

    def _attention_mask(self, valid: Tensor | None) -> Tensor | None:
        """(B, 1, L, L) bool, True where a query may look; each position sees itself, so that no row is empty."""
        if valid is None:
            return None
        itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
        mask = valid[:, None, :] | itself
        return (mask.tril() if self.config.causal else mask)[:, None]


def _rotations(config: TransformerConfig) -> Tensor:
    """Cosines and sines (2, max_length, head / 2) of the rotary angles l * 10000^(-j / half)."""
    half = config.dim // config.num_heads // 2
    angles = torch.outer(torch.arange(config.max_length), 10_000 ** -(torch.arange(half) / half))
    return torch.stack([angles.cos(), angles.sin()])


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns the pairs (x_j, x_{j + half}) of every head by their position's angles."""
    (cos, sin), (left, right) = rotation, x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)
