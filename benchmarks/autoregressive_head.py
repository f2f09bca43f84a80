"""A control for the coupling study: an autoregressive model of a head's size in the circuit's place.

`python -m benchmarks.autoregressive_head --out FOLDER` trains it on the windows, masks and cached predictions that
`benchmarks.train_couplings` uses; `benchmarks.coupling --autoregressive FOLDER` compares it. To draw a block it is
called once a token, where a circuit needs one pass a block: what a joint of this size can say, not a rival at equal
cost.

Axes: B blocks, L positions of a block, V tokens, E hidden units of the backbone, D of this model.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import pcircuits as pc
from benchmarks import trained
from benchmarks.train_couplings import budget, windows
from pcircuits.files import write_atomically, write_safetensors
from pcircuits_diffusion.logit_cache import MaskedBlocks, cache_logits
from pcircuits_diffusion.training import ShuffledBlocks, masked_windows

CONFIG_FILE, WEIGHTS_FILE = "config.json", "autoregressive.safetensors"
WIDTH, LAYERS, HEADS = 256, 2, 8  # 2.1M parameters at the vocabulary and block of the trained heads


class AutoregressiveHead(nn.Module):
    """`log p(x_i | x_<i, x_t) = log_softmax(log p_theta(x_i | x_t) + f_i(x_<i, hidden, observed))`, left to right.

    One causal transformer over 2 L places: L that hold the backbone's hidden states and the block's observed tokens and
    see each other, then L that hold the token before theirs and see the former and those before. f starts at zero.
    """

    needs_hidden = True

    def __init__(self, block_length: int, vocab_size: int, hidden_size: int, *, width: int = WIDTH) -> None:
        super().__init__()
        self.sizes = {"block_length": block_length, "vocab_size": vocab_size, "hidden_size": hidden_size}
        self.sizes["width"] = width
        self.embedding = nn.Embedding(vocab_size + 1, width)  # the last: masked, or the block's beginning
        self.places = nn.Parameter(0.02 * torch.randn(2 * block_length, width))
        self.norm_hidden, self.read_hidden = nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width)
        layer = nn.TransformerEncoderLayer(
            width, HEADS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.output = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        causal = torch.ones(block_length, block_length, dtype=torch.bool).triu(1)
        hides = torch.zeros(2 * block_length, 2 * block_length, dtype=torch.bool)
        hides[:block_length, block_length:] = True
        hides[block_length:, block_length:] = causal
        self.register_buffer("hides", hides, persistent=False)

    def log_conditionals(
        self, log_marginals: Tensor, hidden: Tensor, tokens: Tensor, mask: Tensor, x: Tensor
    ) -> Tensor:
        """(B, L, V): row i given x_<i and what is observed of `tokens`."""
        start = self.embedding.num_embeddings - 1
        observed = self.embedding(tokens.masked_fill(mask, start)) + self.read_hidden(self.norm_hidden(hidden))
        before = self.embedding(F.pad(x[:, :-1], (1, 0), value=start))
        states = self.layers(torch.cat([observed, before], 1) + self.places, mask=self.hides)
        return (log_marginals + self.output(states[:, x.shape[1] :])).log_softmax(-1)

    def forward(self, log_marginals: Tensor, hidden: Tensor, tokens: Tensor, mask: Tensor) -> "Autoregressive":
        """A `Rule` of `pcircuits_diffusion.evaluate`."""
        return Autoregressive(self, log_marginals, hidden, tokens, mask)

    def save(self, folder: Path) -> None:
        write_safetensors(folder / WEIGHTS_FILE, {name: t.contiguous() for name, t in self.state_dict().items()})
        write_atomically(folder / CONFIG_FILE, json.dumps(self.sizes).encode())

    @classmethod
    def load(cls, folder: Path) -> "AutoregressiveHead":
        head = cls(**json.loads((folder / CONFIG_FILE).read_text()))
        head.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return head.eval()


class Autoregressive:
    """The joint distribution of a batch of blocks: probabilities of whole blocks only, no marginals."""

    def __init__(
        self, head: AutoregressiveHead, log_marginals: Tensor, hidden: Tensor, tokens: Tensor, mask: Tensor
    ) -> None:
        self.head, self.given, self.mask = head, (log_marginals, hidden, tokens, mask), mask

    def log_prob(self, x: Tensor, *, variables: Tensor | None = None) -> Tensor:
        """(B,) log probability of the masked tokens of x, whose other tokens are the observed ones."""
        if variables is not None and not torch.equal(variables, self.mask):
            raise ValueError("an autoregressive model gives the probability of all masked tokens together only")
        found = self.head.log_conditionals(*self.given, x).gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return found.double().masked_fill(~self.mask, 0.0).sum(-1)


def objective(head: nn.Module, blocks: MaskedBlocks) -> Tensor:
    """(B,) nats a masked token of an `AutoregressiveHead`, as `pcd.Objective` counts them."""
    assert blocks.hidden is not None
    distribution = head(blocks.log_marginals, blocks.hidden, blocks.tokens, blocks.mask)
    return distribution.log_prob(blocks.tokens) / blocks.mask.sum(-1)


def main() -> None:
    parser = budget(__doc__)
    parser.set_defaults(lr=1e-3)
    parser.add_argument("--cache", type=Path, help="the one that `train_couplings` filled; default: in FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = trained.load_chosen(options)
    config = loaded.backbone.config
    torch.manual_seed(options.seed)
    head = AutoregressiveHead(loaded.block_length, config.vocab_size, config.dim)
    count, valid = (windows(loaded, options, split) for split in ("train", "valid"))
    blocks = {}
    for name, (tokens, mask) in masked_windows(loaded.head, count, valid, 1, options.seed).items():
        folder = (options.cache or options.out / "cache") / name
        found = cache_logits(loaded.backbone, tokens, mask, hidden=True, folder=folder, progress=True)
        blocks[name] = ShuffledBlocks(found, 32, options.seed if name == "train" else None)
    history = pc.fit(
        head,
        blocks["train"],
        valid=blocks["valid"],
        objective=objective,
        learner=pc.Adam(options.lr, warmup=20, decay=options.epochs * len(blocks["train"])),
        epochs=options.epochs,
        seed=options.seed,
        checkpoint=options.out / "checkpoint",
        checkpoint_every=50,
        resume=True,
    )
    head.save(options.out)
    size = sum(p.numel() for p in head.parameters())
    print(json.dumps({"parameters": size, "before": history.initial_valid_loss, "after": history.valid_loss}))


if __name__ == "__main__":
    main()
