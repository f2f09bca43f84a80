"""Long blocks, windows over them, and heads of a few tokens a position."""

from pathlib import Path

import pytest
import torch

import pcircuits as pc
import pcircuits_diffusion as pcd
from benchmarks import memory_language, overhead_language
from pcircuits import testing
from tests.diffusion.tiny_models import all_blocks, hmm, table_backbone

BLOCK = 128
HEADS = [{"coupling": "corrected"}, {"sweep_tokens": 1, "sweeps": 2}, {"top_k": 2}, {"top_k": 2, "coupling": "product"}]


def long_prior(states: int = 3, vocab: int = 5) -> pc.HMM:
    return hmm(states, vocab, BLOCK)


@pytest.mark.parametrize("options", HEADS)
def test_a_block_of_128_is_the_forward_algorithm(options: dict[str, object]) -> None:
    """log Z and the probability of a block, against a plain recursion in log space over the weights that it has."""
    head = pcd.CoupledHead(long_prior(), **options)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, BLOCK, 5, dtype=torch.float64, generator=generator)
    tokens = torch.randint(5, (2, BLOCK), generator=generator)
    mask = torch.rand(2, BLOCK, generator=generator) < 0.6
    posterior = head(logits, None, tokens, mask)
    evidence, tables = posterior.evidence, head.prior.log_probs()
    weights = evidence.log_weights
    if evidence.weighted_values is not None:
        ids = torch.where(mask.unsqueeze(-1), evidence.weighted_values, torch.arange(weights.shape[-1]))
        weights = torch.full_like(logits, -torch.inf).scatter(-1, ids, weights)
    observed = torch.nn.functional.one_hot(tokens, 5).double().log()
    weights = torch.where(mask.unsqueeze(-1), weights, observed)
    inputs = (weights.unsqueeze(2) + tables.emission).logsumexp(-1)
    forward = tables.initial + inputs[:, 0]
    for step in range(1, BLOCK):
        forward = (forward.unsqueeze(-1) + tables.transition).logsumexp(1) + inputs[:, step]
    assert torch.allclose(posterior.log_evidence, forward.logsumexp(-1))
    drawn = posterior.sample(3, generator=generator)
    assert ((drawn == tokens) | mask).all() and not posterior.log_prob(drawn[0]).isneginf().any()
    assert torch.allclose(posterior.marginals().sum(-1), torch.ones(2, BLOCK, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "decoding"),
    [({"coupling": "product"}, {}), ({"sweep_tokens": 2}, {"region": "canvas"}), ({"top_k": 3}, {"region": "canvas"})],
)
def test_blocks_of_128_and_windows_over_a_longer_canvas(options: dict[str, object], decoding: dict[str, str]) -> None:
    """Two blocks one after the other, or a canvas of 150 under windows of 128; the same seed gives the same text."""
    model = pcd.CoupledDiffusion(table_backbone(7, 5), pcd.CoupledHead(long_prior(), **options))
    length = 150 if "region" in decoding else 2 * BLOCK
    found = [model.generate([1], max_new_tokens=length, steps=2, seeds=[s], **decoding).tokens for s in (1, 1, 2)]
    assert found[0].shape == (1, length) and found[0].max() < 5
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("coupling", ["product", "corrected", "projected"])
def test_the_top_k_are_a_distribution_and_the_lost_mass_is_told(coupling: str) -> None:
    """Sums to one on what is kept; with "product" the exact log Z exceeds the bound by what the others would add."""
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, mask = torch.tensor([[0, 1, 2], [3, 0, 1]]), torch.tensor([[True, True, True], [True, False, True]])
    prior, blocks = hmm(2, 4, 3), all_blocks(3, 4)
    few, every = (pcd.CoupledHead(prior, coupling=coupling, top_k=k)(logits, None, tokens, mask) for k in (2, None))
    log_prob = torch.stack([few.log_prob(b.expand(2, -1)) for b in blocks])
    assert torch.allclose(log_prob.exp().sum(0), torch.ones(2, dtype=torch.float64))
    kept = torch.zeros(2, 3, 4, dtype=torch.bool).scatter(-1, logits.topk(2, -1).indices, True) | ~mask.unsqueeze(-1)
    outside = ~kept[:, torch.arange(3), blocks].all(-1)
    assert log_prob.T[outside].isneginf().all()
    lost = (logits.softmax(-1) * ~kept).sum(-1)
    assert torch.allclose(few.lost_mass, lost) and not every.lost_mass.any()
    if coupling == "product":
        joint = torch.stack([every.log_prob(b.expand(2, -1)) for b in blocks]).T + every.log_evidence.unsqueeze(-1)
        assert torch.allclose(few.log_evidence, joint.masked_fill(outside, -torch.inf).logsumexp(-1))
        assert (few.log_evidence < every.log_evidence).all()
    if coupling == "projected":
        head = pcd.CoupledHead(prior, top_k=2, sweeps=60)
        wanted = logits.softmax(-1).masked_fill(~kept, 0.0)
        gap = head(logits, None, tokens, mask).marginals() - wanted / wanted.sum(-1, keepdim=True)
        assert gap[mask].abs().max() < 1e-8


@pytest.mark.parametrize("options", [{"top_k": 2, "tolerance": 0.1}, {"sweep_tokens": 2, "top_k": 2}, {"top_k": 0}])
def test_options_that_do_not_fit(options: dict[str, object]) -> None:
    with pytest.raises(pc.ParameterError, match="top_k"):
        pcd.CoupledHead(hmm(), **options)


def test_drawing_some_positions_is_any_order_sampling() -> None:
    """Each position drawn from its conditional, the others given what was drawn: the joint distribution."""
    head = pcd.CoupledHead(hmm(2, 3, 3), coupling="product")
    logits = torch.randn(1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).expand(4000, -1, -1)
    mask = torch.ones(4000, 3, dtype=torch.bool)
    posterior, generator = head(logits, None, mask.long() * 0, mask), torch.Generator().manual_seed(1)
    law = torch.stack([posterior.log_prob(b.expand(4000, -1))[0] for b in all_blocks(3, 3)]).exp().detach()
    tokens, left, current = torch.zeros(4000, 3, dtype=torch.long), mask.clone(), posterior
    for position in (2, 0, 1):
        chosen = torch.zeros_like(left)
        chosen[:, position] = True
        tokens[chosen] = current.sample(1, generator=generator, variables=chosen)[0][chosen]
        left &= ~chosen
        current = current.observe(tokens, left)
    counts = torch.bincount(tokens @ torch.tensor([9, 3, 1]), minlength=27).double()
    assert testing.p_value(counts, law) > 1e-3


def test_the_measurements_run_in_reduced_form(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: overhead_language.HEADS[name] for name in ("none", "projected, 1 sweep", "any order")}
    monkeypatch.setattr(overhead_language, "HEADS", some)
    overhead_language.main(["--reduced", "--repeats", "1", "--batch-sizes", "1", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*some, "backbone", "cached"))
    assert (tmp_path / "overhead_language_reduced.json").exists()


@pytest.mark.campaign
def test_a_head_of_a_language_model_fits_in_memory() -> None:
    """1024 states, 32 positions, 126,464 tokens: the process stays below 1.5 GB, whatever the coupling."""
    found = memory_language.measure(small=False, seed=0)
    assert all(peak * 1.048576 < 1500 for peak in found.values()), found
