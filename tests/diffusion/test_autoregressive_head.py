"""The autoregressive control of the coupling study: an exact joint over masked tokens that sees no token too early."""

from pathlib import Path

import pytest
import torch

from benchmarks.autoregressive_head import AutoregressiveHead, objective
from pcircuits_diffusion.coupling import Independent
from pcircuits_diffusion.logit_cache import MaskedBlocks
from tests.diffusion.tiny_models import LENGTH, VOCAB, all_blocks

HIDDEN = 5


@pytest.fixture
def head() -> AutoregressiveHead:
    torch.manual_seed(0)
    head = AutoregressiveHead(LENGTH, VOCAB, HIDDEN, width=16).eval()
    torch.nn.init.normal_(head.output.weight)
    return head.requires_grad_(False)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    log_marginals = torch.randn(2, LENGTH, VOCAB, generator=generator).log_softmax(-1)
    hidden = torch.randn(2, LENGTH, HIDDEN, generator=generator)
    mask = torch.tensor([[True, False, True, True], [True] * 4])
    return log_marginals, hidden, torch.tensor([[0, 1, 2, 0]] * 2), mask


def completions(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Every block that agrees with the observed tokens of a row."""
    blocks = all_blocks()
    return blocks[((blocks == tokens) | mask).all(-1)]


@pytest.mark.parametrize("row", [0, 1])
def test_it_sums_to_one_over_the_masked_tokens(head: AutoregressiveHead, row: int) -> None:
    log_marginals, hidden, tokens, mask = (x[row : row + 1] for x in inputs())
    distribution = head(log_marginals, hidden, tokens, mask)
    total = sum(distribution.log_prob(x.unsqueeze(0)).exp() for x in completions(tokens, mask))
    assert abs(float(total) - 1) < 1e-5
    alone = Independent(log_marginals, tokens, mask)
    worlds = completions(tokens, mask)
    assert max(abs(float(distribution.log_prob(x[None]) - alone.log_prob(x[None]))) for x in worlds) > 0.1


def test_it_starts_as_the_backbone() -> None:
    log_marginals, hidden, tokens, mask = inputs()
    new, alone = AutoregressiveHead(LENGTH, VOCAB, HIDDEN, width=16), Independent(log_marginals, tokens, mask)
    assert torch.allclose(new(log_marginals, hidden, tokens, mask).log_prob(tokens), alone.log_prob(tokens), atol=1e-5)


def test_a_token_is_predicted_from_earlier_masked_and_all_observed_ones(head: AutoregressiveHead) -> None:
    log_marginals, hidden, tokens, mask = inputs()
    before = head.log_conditionals(log_marginals, hidden, tokens, mask, tokens)
    later, observed = tokens.clone(), tokens.clone()
    later[:, 2] = 1
    after = head.log_conditionals(log_marginals, hidden, later, mask, later)
    assert torch.equal(after[:, :3], before[:, :3]), "a masked token is not seen by itself or by those before it"
    assert (after[:, 3] - before[:, 3]).abs().amin(0).max() > 1e-3
    observed[:, 1] = 2
    seen = head.log_conditionals(log_marginals, hidden, observed, mask, tokens)
    assert (seen[0, 0] - before[0, 0]).abs().max() > 1e-4, "an observed token is seen by those before it"
    assert torch.equal(seen[1, :2], before[1, :2]), "where it is masked, it is not"


def test_it_is_scored_like_a_head_and_comes_back_as_it_was(head: AutoregressiveHead, tmp_path: Path) -> None:
    log_marginals, hidden, tokens, mask = inputs()
    distribution = head(log_marginals, hidden, tokens, mask)
    expected = distribution.log_prob(tokens) / mask.sum(-1)
    assert torch.equal(objective(head, MaskedBlocks(tokens, mask, log_marginals, hidden)), expected)
    with pytest.raises(ValueError, match="all masked tokens together only"):
        distribution.log_prob(tokens, variables=mask & (torch.arange(LENGTH) < 2))
    head.save(tmp_path)
    again = AutoregressiveHead.load(tmp_path).requires_grad_(False)
    assert torch.equal(again(log_marginals, hidden, tokens, mask).log_prob(tokens), distribution.log_prob(tokens))
