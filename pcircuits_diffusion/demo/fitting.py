"""A head made on the spot, from the training documents of the Python that runs the demo."""

from pcircuits.types import Int, Tensor
from pcircuits_diffusion import corpus
from pcircuits_diffusion.demo.parts import Parts
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.prior_start import em_start

NUM_STATES = 256


def fit_head(parts: Parts, *, seed: int) -> CoupledHead:
    """A projected head on an HMM: states from clusters of the backbone's hidden states, then EM on the text."""
    prior = em_start(
        training_windows(parts),
        NUM_STATES,
        vocab_size=parts.backbone.vocab_size,
        block_length=parts.block_length,
        backbone=parts.backbone,
        seed=seed,
    )
    return CoupledHead(prior)


def training_windows(parts: Parts) -> Int[Tensor, "N W"]:
    documents = corpus.encode(parts.tokenizer, corpus.python_docs("train"))
    return corpus.stream_windows(documents, parts.window_length, eos_id=parts.backbone.config.eos_id)
