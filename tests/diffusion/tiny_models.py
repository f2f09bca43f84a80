"""Models small enough to enumerate, for the tests of decoding and training."""

import itertools
from pathlib import Path

import torch

import pcircuits as pc
from pcircuits_diffusion import corpus
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.backbones import MaskedTransformer, TransformerConfig
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion

VOCAB, LENGTH = 3, 4
MASK = VOCAB


def table_backbone(length: int = LENGTH, vocab: int = VOCAB, seed: int = 0) -> CallableBackbone:
    """Predicts the same for a block wherever it stands and whatever surrounds it."""
    table = torch.randn(length, vocab, generator=torch.Generator().manual_seed(seed))

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        repeated = table.repeat(-(-tokens.shape[1] // length), 1)[-tokens.shape[1] :]
        return repeated.expand(len(tokens), -1, -1)

    return CallableBackbone(logits, vocab_size=vocab, mask_id=vocab)


def transformer(vocab: int = 7, block_length: int = 4, max_length: int = 12) -> MaskedTransformer:
    """With random weights, so large that its predictions depend on the context."""
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=vocab, dim=16, num_layers=1, num_heads=2, max_length=max_length, block_length=block_length, eos_id=0
    )
    model = MaskedTransformer(config).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(6.0)
    return model


def hmm(num_states: int = 2, vocab: int = VOCAB, length: int = LENGTH) -> pc.HMM:
    """States that persist and prefer tokens of their own: an independent sampler is far off."""
    states, tokens = torch.arange(num_states), torch.arange(vocab)
    generator = torch.Generator().manual_seed(7)
    preferred = 4.0 * (tokens % num_states == states.unsqueeze(-1)) + torch.rand(num_states, vocab, generator=generator)
    transition = (3.0 * torch.eye(num_states) + torch.rand(num_states, num_states, generator=generator)).softmax(-1)
    initial = torch.full((num_states,), 1 / num_states)
    return pc.HMM.from_probs(initial.double(), transition.double(), preferred.softmax(-1).double(), length=length)


def uniform_prior(vocab: int = VOCAB, length: int = LENGTH) -> pc.HMM:
    """The circuit that says nothing: every block equally likely."""
    rows = [torch.full((n,), 1.0 / n, dtype=torch.float64) for n in (2, vocab)]
    return pc.HMM.from_probs(rows[0], rows[0].expand(2, 2), rows[1].expand(2, vocab), length=length)


def all_blocks(length: int = LENGTH, vocab: int = VOCAB) -> torch.Tensor:
    """(V^L, L), in lexicographic order."""
    return torch.tensor(list(itertools.product(range(vocab), repeat=length)))


def block_law(head: CoupledHead, backbone: CallableBackbone) -> torch.Tensor:
    """(V^L,) exact probabilities of every block that starts fully masked, by enumeration."""
    blocks = all_blocks(head.block_length, head.vocab_size)
    tokens = torch.full((1, head.block_length), backbone.mask_id)
    posterior = head(backbone.log_marginals(tokens), None, tokens, torch.ones_like(tokens, dtype=torch.bool))
    return posterior.posterior.log_prob(blocks.unsqueeze(1)).squeeze(-1).exp().detach()


TEXTS = [
    f"{a} and {b} are {a + b}. The sum of {b} and {a} is {a + b}, of course.\n" for a in range(6) for b in range(9)
]


def save_backbone(folder: Path, *, max_length: int = 24, block_length: int = 8) -> MaskedTransformer:
    """A backbone that was never trained, and a tokenizer of `TEXTS`, in a folder."""
    tokenizer = corpus.train_tokenizer(TEXTS, vocab_size=280)
    config = TransformerConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=8,
        num_layers=1,
        num_heads=2,
        max_length=max_length,
        block_length=block_length,
        eos_id=0,
    )
    torch.manual_seed(0)
    MaskedTransformer(config).save(folder)
    tokenizer.save(str(folder / corpus.TOKENIZER_FILE))
    return MaskedTransformer.load(folder)


def save_head(folder: Path, backbone: MaskedTransformer, *, backbone_name: str, num_states: int = 3) -> CoupledHead:
    """A head with random parameters, saved for that backbone."""
    prior = pc.HMM(num_states, backbone.vocab_size, backbone.config.block_length, seed=0)
    head = CoupledHead(prior.requires_grad_(False))
    CoupledDiffusion(backbone, head).save_pretrained(folder, backbone_name=backbone_name)
    return head
