"""Training a head: the cache of the backbone's predictions, the masks, the objective, and resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.logit_cache import LogitCache, cache_logits
from pcircuits_diffusion.prior_start import em_start, split_blocks, states_from_hidden
from pcircuits_diffusion.training import Objective, draw_masks, train_head
from tests.diffusion.tiny_models import LENGTH, MASK, VOCAB, hmm, table_backbone, transformer

COUNTING: list[int] = []


@pytest.fixture
def windows() -> torch.Tensor:
    """Two tokens of context and a block, from a chain whose tokens stick together."""
    return hmm(length=LENGTH + 2).sample(96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> torch.Tensor:
    return draw_masks(96, LENGTH, generator=torch.Generator().manual_seed(2))


def contextual(tokens: torch.Tensor) -> torch.Tensor:
    """Depends on everything that is not masked."""
    COUNTING.append(len(tokens))
    weights = torch.arange(1.0, tokens.shape[1] + 1).cos()
    seen = ((tokens + 1) * (tokens != MASK) * weights).sum(-1)
    grid = torch.arange(tokens.shape[1]).unsqueeze(-1) + 2.0 * torch.arange(VOCAB)
    return (grid + seen.view(-1, 1, 1)).sin()


BACKBONE = CallableBackbone(contextual, VOCAB, MASK)


# --- masks and cache ---


def test_masks_cover_all_ratios_and_leave_no_row_empty() -> None:
    masks = draw_masks(4_000, 16, generator=torch.Generator().manual_seed(0))
    counts = masks.sum(-1)
    assert counts.min() == 1 and counts.max() == 16
    assert counts.float().mean() == pytest.approx(16 / 2 + 1 / 17, abs=0.1)
    histogram = torch.bincount(counts, minlength=17)[2:] / 4_000
    assert histogram.min() > 0.04 and histogram.max() < 0.08, "binomials mixed over a uniform t are uniform"
    low = draw_masks(4_000, 16, highest=0.25, generator=torch.Generator().manual_seed(0))
    assert low.float().mean() < 0.15


def direct(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    seen = torch.cat([tokens[:, :-LENGTH], tokens[:, -LENGTH:].masked_fill(mask, MASK)], 1)
    found = BACKBONE.log_marginals(seen, span=slice(tokens.shape[1] - LENGTH, None))
    return found.masked_fill(~mask.unsqueeze(-1), 0.0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_cache_holds_what_the_backbone_says(
    windows: torch.Tensor, mask: torch.Tensor, on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcircuits_diffusion.logit_cache.SHARD_WINDOWS", 40)
    cache = cache_logits(BACKBONE, windows, mask, folder=tmp_path / "c" if on_disk else None, batch_size=7)
    index = torch.tensor([95, 3, 40, 39, 3])
    found = cache.batch(index)
    assert len(cache) == 96
    assert found.tokens.equal(windows[index, -LENGTH:]) and found.mask.equal(mask[index])
    torch.testing.assert_close(found.log_marginals, direct(windows[index], mask[index]), rtol=1e-3, atol=1e-3)


def test_cache_goes_on_from_what_is_there(
    windows: torch.Tensor, mask: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcircuits_diffusion.logit_cache.SHARD_WINDOWS", 32)
    whole = cache_logits(BACKBONE, windows, mask, folder=tmp_path)
    (tmp_path / "00001.safetensors").unlink()
    COUNTING.clear()
    again = cache_logits(BACKBONE, windows, mask, folder=tmp_path)
    assert sum(COUNTING) == 32 + 2, "one shard, and a look at the first window of the two others"
    everything = torch.arange(96)
    assert again.batch(everything).log_marginals.equal(whole.batch(everything).log_marginals)


def test_cache_refuses_what_it_was_not_made_from(windows: torch.Tensor, mask: torch.Tensor, tmp_path: Path) -> None:
    cache_logits(BACKBONE, windows, mask, folder=tmp_path)
    with pytest.raises(pc.DataError, match="other windows or masks"):
        cache_logits(BACKBONE, windows, ~mask | (mask.sum(-1, keepdim=True) > 0), folder=tmp_path)
    with pytest.raises(pc.DataError, match="another backbone"):
        cache_logits(table_backbone(LENGTH + 2, seed=5), windows, mask, folder=tmp_path)
    path = tmp_path / "00000.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(pc.FormatError, match="not a whole shard"):
        cache_logits(BACKBONE, windows, mask, folder=tmp_path)


@pytest.mark.parametrize(
    ("tokens", "masks", "error", "message"),
    [
        (torch.zeros(3, dtype=torch.long), torch.ones(3, 4, dtype=torch.bool), pc.ShapeError, "`tokens` must be"),
        (torch.zeros(0, 6, dtype=torch.long), torch.ones(0, 4, dtype=torch.bool), pc.ShapeError, "`tokens` must be"),
        (torch.zeros(3, 6), torch.ones(3, 4, dtype=torch.bool), pc.ShapeError, "`tokens` must be"),
        (torch.zeros(3, 6, dtype=torch.long), torch.ones(3, 4), pc.ShapeError, "`mask` must be bool"),
        (torch.zeros(3, 6, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool), pc.ShapeError, "`mask` must be bool"),
        (torch.zeros(3, 6, dtype=torch.long), torch.ones(3, 7, dtype=torch.bool), pc.ShapeError, "L at most 6"),
        (torch.full((3, 6), MASK), torch.ones(3, 4, dtype=torch.bool), pc.DataError, r"windows \[0, 1, 2\]"),
    ],
)
def test_cache_refuses_bad_input(tokens: Any, masks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cache_logits(BACKBONE, tokens, masks)


def test_cache_refuses_predictions_that_are_nan(windows: torch.Tensor, mask: torch.Tensor) -> None:
    nan = CallableBackbone(lambda tokens: torch.full((*tokens.shape, VOCAB), float("nan")), VOCAB, MASK)
    with pytest.raises(pc.EvidenceError, match="NaN"):
        cache_logits(nan, windows, mask)


# --- training ---


def mean_nats(head: CoupledHead, cache: LogitCache) -> float:
    with torch.no_grad():
        return -Objective().of_head(head, cache.batch(torch.arange(len(cache)))).mean().item()


@pytest.mark.parametrize("coupling", ["projected", "corrected", "product"])
@pytest.mark.parametrize("per_token", [True, False])
def test_training_lowers_the_loss(windows: torch.Tensor, mask: torch.Tensor, coupling: str, per_token: bool) -> None:
    """The backbone knows frequencies alone, so what the head gains beyond them is dependence."""
    unigrams = (torch.bincount(windows.flatten(), minlength=VOCAB) / windows.numel()).log()
    backbone = CallableBackbone(lambda tokens: unigrams.expand(*tokens.shape, -1), VOCAB, MASK)
    head = CoupledHead(pc.HMM(2, VOCAB, LENGTH, seed=0), coupling=coupling, learn_exponents=coupling != "projected")
    cache = cache_logits(backbone, windows, mask)
    start = mean_nats(head, cache)
    options = {"epochs": 4, "learner": pc.Adam(lr=0.1), "masks_per_window": 2, "objective": Objective(per_token)}
    history = train_head(head, backbone, windows, valid=windows[:32], seed=0, progress=False, **options)
    assert mean_nats(head, cache) < start - 0.03
    assert history.initial_valid_loss is not None and history.valid_loss[-1] is not None
    assert history.valid_loss[-1] < history.initial_valid_loss
    assert history.initial_valid_loss == pytest.approx(start if per_token else 2.2 * start, rel=0.3)
    if coupling != "projected":
        assert (head.exponents != 1).any()


def test_the_backbone_is_frozen(windows: torch.Tensor) -> None:
    backbone = transformer(VOCAB, LENGTH)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    train_head(CoupledHead(hmm()), backbone, windows, epochs=1, seed=0, progress=False)
    assert all(tensor.equal(before[name]) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_a_threshold_bounds_the_ratios(windows: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def recorded(self: Objective, distribution: Any, tokens: torch.Tensor) -> torch.Tensor:
        shares.append(distribution.mask.float().mean().item())
        return original(self, distribution, tokens)

    original = Objective.of
    monkeypatch.setattr(Objective, "of", recorded)
    for gamma in (None, 0.3):
        train_head(CoupledHead(hmm(), gamma=gamma), BACKBONE, windows, epochs=1, batch_size=96, seed=0, progress=False)
    assert shares[0] > 0.5 and shares[1] < 0.35


def test_an_interrupted_run_resumes_bit_by_bit(windows: torch.Tensor, tmp_path: Path) -> None:
    def run(folder: Path, **options: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
        head = CoupledHead(pc.HMM(2, VOCAB, LENGTH, seed=0), coupling="corrected", learn_exponents=True)
        common = {"checkpoint": folder, "checkpoint_every": 1, "cache": tmp_path / "cache", "progress": False}
        history = train_head(head, BACKBONE, windows, epochs=3, seed=4, **common, **options)
        return head.state_dict(), history.train_loss

    def stop(self: Objective, distribution: Any, tokens: torch.Tensor) -> torch.Tensor:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return original(self, distribution, tokens)

    original = Objective.of

    expected, losses = run(tmp_path / "whole")
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "of", stop)
        run(tmp_path / "part")
    found, again = run(tmp_path / "part", resume=True)
    assert again == losses and all(tensor.equal(found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("learner", ["em", "minibatch_em", "anemone", pc.Anemone()])
def test_learners_that_divide_by_flows_are_refused(windows: torch.Tensor, learner: Any) -> None:
    COUNTING.clear()
    with pytest.raises(pc.ParameterError, match="difference of two log evidences"):
        train_head(CoupledHead(hmm()), BACKBONE, windows, learner=learner, seed=0)
    assert not COUNTING, "before the backbone is asked"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tokens": torch.zeros(4, 3, dtype=torch.long)}, pc.ShapeError, "`tokens` must have shape"),
        ({"valid": torch.zeros(4, 3, dtype=torch.long)}, pc.ShapeError, "`valid` must have shape"),
        ({"masks_per_window": 0}, pc.ParameterError, "`masks_per_window`"),
        ({"head": CoupledHead(hmm(2, 5))}, pc.ShapeError, "the head has 5 tokens, the backbone 3"),
        ({"learner": "sgd"}, pc.ParameterError, "`learner` must be"),
    ],
)
def test_bad_arguments_are_refused(
    windows: torch.Tensor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"head": CoupledHead(hmm()), "tokens": windows, "seed": 0, "progress": False, **options}
    with pytest.raises(error, match=message):
        train_head(backbone=BACKBONE, **arguments)


# --- starts ---


def test_blocks_of_sequences() -> None:
    assert split_blocks(torch.arange(14).view(2, 7), 3).tolist() == [[1, 2, 3], [4, 5, 6], [8, 9, 10], [11, 12, 13]]


def test_states_from_hidden_follow_the_hidden_states() -> None:
    """Hidden states that are the token itself, slightly blurred: each token is its own cluster."""

    class Blurred(CallableBackbone):
        def hidden(self, tokens: torch.Tensor, *, valid: Any = None, span: slice | None = None) -> torch.Tensor:
            noise = torch.rand(*tokens.shape, 2, generator=torch.Generator().manual_seed(0))
            return (torch.stack([tokens, -tokens], -1) + 0.01 * noise)[:, span or slice(None)]

    tokens = torch.randint(VOCAB, (80, 12), generator=torch.Generator().manual_seed(3))
    inner, states = states_from_hidden(Blurred(contextual, VOCAB, MASK), tokens, VOCAB, seed=0)
    assert inner.equal(tokens[:, 2:10]) and states.shape == inner.shape
    assert len({(t, s) for t, s in zip(inner.flatten().tolist(), states.flatten().tolist(), strict=True)}) == VOCAB


@pytest.mark.parametrize("distilled", [False, True])
def test_em_start_leaves_the_unigram_plateau(distilled: bool) -> None:
    tokens = hmm(2, VOCAB, 12).sample(300, generator=torch.Generator().manual_seed(3))
    backbone = transformer(VOCAB, LENGTH) if distilled else None
    options = {"vocab_size": VOCAB, "block_length": LENGTH, "backbone": backbone, "seed": 0, "progress": False}
    start = em_start(tokens, 3, epochs=0, **options)
    trained = em_start(tokens, 3, epochs=4, batch_size=64, **options)
    blocks = split_blocks(tokens, LENGTH)
    unigrams = torch.bincount(blocks.flatten(), minlength=VOCAB) / blocks.numel()
    unigram = unigrams.log()[blocks].sum(-1).mean().item()
    assert trained.length == LENGTH and trained.num_states == 3
    assert trained.log_prob(blocks).mean() > max(start.log_prob(blocks).mean(), unigram + 0.1)


def test_em_start_refuses_what_does_not_fit(windows: torch.Tensor) -> None:
    with pytest.raises(pc.ShapeError, match="W at least 9"):
        em_start(windows, 2, vocab_size=VOCAB, block_length=9, seed=0)
    with pytest.raises(pc.ParameterError, match="CallableBackbone has no `hidden`"):
        em_start(windows, 2, vocab_size=VOCAB, block_length=4, backbone=BACKBONE, seed=0)
