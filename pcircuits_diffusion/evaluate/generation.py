"""Quality of samples as a judge sees it, always together with their diversity.

A judge alone can be fooled: samples that repeat themselves look likely to it.
"""

from typing import NamedTuple

import torch

from pcircuits.types import Int, Tensor
from pcircuits_diffusion.backbone import Backbone


class GenerationMetrics(NamedTuple):
    """All three or none: a perplexity is comparable only at equal entropy and distinct-2.

    Attributes:
        perplexity: under the judge, `exp` of the mean negative log-likelihood of a sampled token.
        entropy: nats, of the pooled token frequencies of all samples.
        distinct_2: different bigrams over all bigrams, within samples, pooled.
    """

    perplexity: float
    entropy: float
    distinct_2: float


@torch.no_grad()
def generation_metrics(
    samples: Int[Tensor, "B L"], judge: Backbone, *, prompts: Int[Tensor, "B P"] | None = None, batch_size: int = 64
) -> GenerationMetrics:
    """Generative perplexity, token entropy and distinct-2 of samples; compare with the same figures of real text.

    Args:
        judge: an autoregressive model; row i of its `log_marginals` is p(x_i | x_<i) (a causal `MaskedTransformer`).
        prompts: what each sample continues; the judge reads it and it is not scored.

    Raises:
        ValueError: samples of fewer than two tokens, or a judge that is known not to be autoregressive.
    """
    if samples.shape[1] < 2:
        raise ValueError(f"samples need two tokens or more for bigrams, got shape {tuple(samples.shape)}")
    if not getattr(getattr(judge, "config", None), "causal", True):
        raise ValueError("`judge` must be autoregressive; this one reads the tokens that it would score")
    texts = samples if prompts is None else torch.cat([prompts, samples], 1)
    span = slice(texts.shape[1] - samples.shape[1], texts.shape[1])
    nats = [
        -judge.log_marginals(rows, span=span).gather(-1, rows[:, span].unsqueeze(-1)).double().sum()
        for rows in texts.split(batch_size)
    ]
    perplexity = float((torch.stack(nats).sum() / samples.numel()).exp())
    return GenerationMetrics(perplexity, token_entropy(samples), distinct_2(samples))


def token_entropy(samples: Int[Tensor, "B L"]) -> float:
    """`-sum_v f_v log f_v` of the pooled token frequencies, nats."""
    _, counts = samples.unique(return_counts=True)
    frequencies = counts.double() / counts.sum()
    return float(-(frequencies * frequencies.log()).sum())


def distinct_2(samples: Int[Tensor, "B L"]) -> float:
    """Different bigrams over all bigrams."""
    bigrams = torch.stack([samples[:, :-1], samples[:, 1:]], -1).reshape(-1, 2)
    return len(bigrams.unique(dim=0)) / len(bigrams)
