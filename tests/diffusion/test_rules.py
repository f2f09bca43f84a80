"""Quotas, scores and truncation against their published definitions, each written out once more here."""

import math
from itertools import product
from typing import Any

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.coupling import Independent
from pcircuits_diffusion.decoding import ADAPTIVE, SCHEDULES, SCORES, Candidates, Rule, View
from pcircuits_diffusion.decoding.drift import Drift
from pcircuits_diffusion.decoding.predictions import adjust, truncate
from pcircuits_diffusion.decoding.proposals import choose
from pcircuits_diffusion.decoding.quota import Ranking, least, spread
from pcircuits_diffusion.decoding.score import perturb, rank
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import LENGTH, MASK, VOCAB, hmm, table_backbone

START = torch.zeros(1, 1, dtype=torch.long)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- schedules ---


def spent(quota: str, count: int, steps: int, seed: int = 0) -> list[int]:
    """What a schedule commits in every step, the last one included."""
    left, sizes, drawn = torch.tensor([count]), [], generator(seed)
    for step in range(steps):
        sizes.append(int(least(quota, left, step, torch.tensor([steps]), drawn)))
        left = left - sizes[-1]
    assert left == 0, "the last step takes all"
    return sizes


CASES = [(10, 4), (32, 5), (3, 7), (1, 1), (32, 32), (128, 16)]


@pytest.mark.parametrize(("count", "steps"), CASES)
def test_linear_is_lladas(count: int, steps: int) -> None:
    assert spent("linear", count, steps) == [count // steps + (step < count % steps) for step in range(steps)]


@pytest.mark.parametrize(("count", "steps"), CASES)
def test_cosine_is_dllms(count: int, steps: int) -> None:
    def alpha(t: float) -> float:
        return 1 - math.cos(math.pi / 2 * (1 - t))

    wanted, left = [], count
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        reveal = 1 - (1 - alpha(s)) / (1 - alpha(t))
        wanted.append(left if step == steps - 1 else min(left, round(left * reveal)))
        left -= wanted[-1]
    assert spent("cosine", count, steps) == wanted


@pytest.mark.parametrize(("count", "steps"), CASES)
def test_dream_is_dreams(count: int, steps: int) -> None:
    times, wanted, left = torch.linspace(1, 1e-3, steps + 1), [], count
    for i in range(steps):
        t, s = times[i], times[i + 1]
        wanted.append(int(left * (1 - s / t)) if i < steps - 1 else left)
        left -= wanted[-1]
    assert spent("dream", count, steps) == wanted


def test_binomial_reveals_every_token_with_the_same_chance() -> None:
    undecided = torch.full((20_000,), 6)
    counts = least("binomial", undecided, 1, torch.full((20_000,), 4), generator()).double()
    p = 1 / 3  # (t - s) / t from t = 3/4 to s = 2/4
    assert counts.mean() == pytest.approx(6 * p, abs=0.04)
    assert counts.var() == pytest.approx(6 * p * (1 - p), abs=0.06)


def test_first_hitting_commits_one_and_no_schedule_more_than_there_is() -> None:
    assert spent("first_hitting", 4, 4) == [1, 1, 1, 1]
    assert spent("first_hitting", 4, 2) == [1, 3]
    for quota in SCHEDULES:
        assert sum(spent(quota, 5, 9)) == 5


def test_rows_may_have_unequal_steps() -> None:
    found = least("linear", torch.tensor([8, 8, 3]), 1, torch.tensor([4, 2, 3]), None)
    assert found.tolist() == [3, 8, 2]
    assert least("threshold", torch.tensor([8, 8]), 1, torch.tensor([4, 2]), None).tolist() == [1, 8]
    assert least("threshold", torch.tensor([8, 8]), 99, None, None).tolist() == [1, 1]


def test_steps_are_spread_over_blocks() -> None:
    assert spread(10, 3) == [4, 3, 3]
    assert spread(4, 4) == [1, 1, 1, 1]
    with pytest.raises(pc.ParameterError, match="16 blocks need at least 16 steps, got 15"):
        spread(15, 16)


def test_steps_that_commit_nothing_do_not_call_the_backbone() -> None:
    calls: list[int] = []

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(len(tokens))
        return torch.zeros(*tokens.shape, VOCAB)

    model = CoupledDiffusion(CallableBackbone(logits, VOCAB, MASK))
    options = {"max_new_tokens": 4, "block_length": 4, "steps": 50, "remasking": "random", "generator": generator(3)}
    for quota in ("binomial", "dream", "cosine"):
        calls.clear()
        steps = list(model.steps(START, quota=quota, **options))
        assert len(calls) == len(steps) <= 4 and all(step.committed.any() for step in steps)


# --- adaptive rules ---


def ranking(confidence: list[float], entropy: list[float] | None = None) -> Ranking:
    """Proposals of one row, in the order given, with hand-made confidences and entropies."""
    size = len(confidence)
    candidates = Candidates(torch.zeros(1, size, dtype=torch.long), lambda: torch.zeros(1, size, 2))
    candidates.__dict__["confidence"] = torch.tensor([confidence])
    candidates.__dict__["entropy"] = torch.tensor([entropy or [0.0] * size])
    logs = torch.tensor([1.0, *confidence]).log().cumsum(0)
    return Ranking(candidates, torch.arange(size).unsqueeze(0), torch.tensor([size]), lambda n: logs[n])


def accepted(quota: str, bound: float, *args: Any) -> list[bool]:
    return ADAPTIVE[quota].accept(ranking(*args), bound)[0].tolist()


def test_threshold_is_fast_dllms() -> None:
    assert accepted("threshold", 0.9, [0.95, 0.9, 0.89]) == [True, True, False]
    assert accepted("threshold", 0.9, [0.8, 0.95, 0.1]) == [False, True, False], "all of them, whatever the order"


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.0])
def test_factor_is_fast_dllms(factor: float) -> None:
    confidence = [0.95, 0.8, 0.8, 0.78, 0.9, 0.5]
    count = 0
    for r, c in enumerate(confidence, 1):
        if r > 1 and c < 1 - factor / (r + 1):
            break
        count += 1
    assert accepted("factor", factor, confidence) == [r < count for r in range(6)]


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.35, 2.0])
def test_entropy_bounded_is_the_eb_samplers(gamma: float) -> None:
    entropies = [0.05, 0.3, 0.2, 0.1, 0.9]
    fits = [sum(entropies[:n]) - max(entropies[:n]) <= gamma for n in range(1, 6)]
    assert accepted("entropy_bounded", gamma, [0.5] * 5, entropies) == fits
    assert fits[0], "one position is always within the bound"


@pytest.mark.parametrize("size", [1, 2, 5, 7, 16])
@pytest.mark.parametrize("bound", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_joint_confidence_takes_the_longest_prefix(size: int, bound: float) -> None:
    confidence = torch.rand(size, generator=generator(size)).mul(0.2).add(0.8).tolist()
    joint = torch.tensor(confidence).log().cumsum(0)
    longest = max([1, *[n for n in range(1, size + 1) if bound == 0 or joint[n - 1] >= math.log(bound)]])
    assert accepted("joint_confidence", bound, confidence) == [r < longest for r in range(size)]


@pytest.mark.parametrize("coupling", ["product", "projected"])
@pytest.mark.parametrize("coupled", [True, False])
def test_joint_confidence_is_the_sum_over_all_completions(coupling: str, coupled: bool) -> None:
    """Each prefix's probability by enumeration, in a batch of rows that are masked differently."""
    head = CoupledHead(hmm(), coupling=coupling)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]]).bool()
    allowed = mask & torch.tensor([1, 1, 1, 0]).bool()
    tokens = torch.tensor([[0, 0, 0, 0], [1, 2, 0, 0], [2, 1, 1, 0], [1, 1, 0, 2]])
    log_marginals = (3.0 * torch.randn(4, LENGTH, VOCAB, generator=generator(2))).log_softmax(-1)
    counts, valid = torch.ones(4, dtype=torch.long), torch.ones_like(mask)
    view = View(tokens, mask, allowed, counts, log_marginals, log_marginals, valid)
    posterior = head(log_marginals, None, tokens, mask) if coupled else Independent(log_marginals, tokens, mask)
    proposed = torch.where(mask, log_marginals.argmax(-1), tokens)
    for bound in (0.01, 0.2, 0.5, 0.8, 0.99):
        found = choose(posterior, view, Rule(quota="joint_confidence", bound=bound), proposed, None)
        for row in range(4):
            scores = log_marginals[row].exp().gather(-1, proposed[row].unsqueeze(-1)).squeeze(-1)
            order = sorted(allowed[row].nonzero().flatten().tolist(), key=lambda i: -scores[i].item())
            wanted = set(order[:1])
            for n in range(2, len(order) + 1):
                if prefix_probability(posterior, tokens, mask, proposed, row, order[:n]) >= bound:
                    wanted = set(order[:n])
            assert set(found[row].nonzero().flatten().tolist()) == wanted


def prefix_probability(posterior: Any, tokens: Any, mask: Any, proposed: Any, row: int, prefix: list[int]) -> float:
    free = [i for i in mask[row].nonzero().flatten().tolist() if i not in prefix]
    total = 0.0
    for values in product(range(VOCAB), repeat=len(free)):
        x = torch.where(mask, proposed, tokens)
        x[row, free] = torch.tensor(values, dtype=torch.long)
        total += posterior.log_prob(x)[row].exp().item()
    return total


def test_joint_confidence_decodes_in_one_step_to_one_a_token() -> None:
    model = CoupledDiffusion(table_backbone(seed=3), CoupledHead(hmm(), coupling="product"))
    options = {"quota": "joint_confidence", "confidence_from": "coupled", "temperature": 0.0}
    steps = list(model.steps(START, max_new_tokens=LENGTH, **options))
    assert 1 <= len(steps) <= LENGTH and not (steps[-1].tokens == MASK).any()
    assert len(list(model.steps(START, max_new_tokens=LENGTH, bound=0.0, **options))) == 1
    assert len(list(model.steps(START, max_new_tokens=LENGTH, bound=1.0, **options))) == LENGTH


@pytest.mark.parametrize("quota", ADAPTIVE)
@pytest.mark.parametrize("sampling", ["latent", "any_order", "mpe"])
def test_adaptive_quotas_with_and_without_a_limit(quota: str, sampling: str) -> None:
    model = CoupledDiffusion(table_backbone(), CoupledHead(hmm()))
    strict = {"threshold": 1.0, "factor": 0.0, "entropy_bounded": 0.0, "klass": 1.0, "joint_confidence": 1.0}[quota]
    options = {"max_new_tokens": 2 * LENGTH, "quota": quota, "sampling": sampling, "temperature": 0.0}
    unlimited = list(model.steps(START, bound=strict, **options))
    assert [int(step.committed.sum()) for step in unlimited] == [1] * 2 * LENGTH
    limited = list(model.steps(START, bound=strict, steps=4, **options))
    assert [int(step.committed.sum()) for step in limited] == [1, 3, 1, 3]
    loose = {"threshold": 0.0, "factor": 99.0, "entropy_bounded": 99.0, "klass": 0.0, "joint_confidence": 0.0}[quota]
    counts = [1, 1, LENGTH - 2] if quota == "klass" else [LENGTH]  # which looks back on two steps of the block
    assert [int(step.committed.sum()) for step in model.steps(START, bound=loose, **options)] == 2 * counts


def test_klass_takes_what_is_confident_and_has_settled() -> None:
    found = ranking([0.95, 0.9, 0.9, 0.5])._replace(stable=torch.tensor([[True, False, True, True]]))
    assert ADAPTIVE["klass"].accept(found, 0.9)[0].tolist() == [True, False, True, False]


def test_drift_is_the_largest_divergence_of_the_last_steps() -> None:
    logits = torch.randn(5, 3, LENGTH, VOCAB, generator=generator(1))
    logits[:, :, :, 0] = -torch.inf
    predictions, drift = logits.log_softmax(-1), Drift(3, history=2)
    asked: list[list[int]] = [[0, 1, 2], [0, 2], [0, 1, 2], [0, 2], [0, 1]]
    seen: dict[int, list[torch.Tensor]] = {row: [] for row in range(3)}
    for step, rows in enumerate(asked):
        found = drift.update(torch.tensor(rows), predictions[step, rows])
        for place, row in enumerate(rows):
            seen[row].append(predictions[step, row, :, 1:])
            if len(seen[row]) < 3:
                assert (found[place] == torch.inf).all()
                continue
            before, now = torch.stack(seen[row][-3:-1]), torch.stack(seen[row][-2:])
            torch.testing.assert_close(found[place], (now.exp() * (now - before)).sum(-1).amax(0))


def test_klass_waits_until_predictions_settle() -> None:
    """They are sure all the time, and move in the first four calls."""
    calls: list[int] = []

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return torch.tensor([9.0, 0.0, min(len(calls), 4) * 1.0]).expand(*tokens.shape, VOCAB)

    model = CoupledDiffusion(CallableBackbone(logits, VOCAB, MASK))
    options = {"max_new_tokens": 8, "block_length": 8, "quota": "klass", "temperature": 0.0}
    counts = [int(step.committed.sum()) for step in model.steps(START, history=1, drift=1e-5, **options)]
    assert counts == [1, 1, 1, 1, 4], "the fifth call is the first to say what the one before said"
    calls.clear()
    assert [int(step.committed.sum()) for step in model.steps(START, drift=1.0, **options)] == [1, 1, 6]


# --- scores ---


def candidates(probabilities: torch.Tensor, proposed: torch.Tensor, suppressed: tuple[int, ...] = ()) -> Candidates:
    return Candidates(proposed, lambda: probabilities, suppressed)


def test_scores_are_the_published_definitions() -> None:
    probabilities = torch.tensor([[[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.4, 0.3, 0.3]]])
    proposed = torch.tensor([[1, 1, 0]])

    def score(name: str) -> list[float]:
        return SCORES[name](candidates(probabilities, proposed), None)[0].tolist()

    assert score("low_confidence") == pytest.approx([0.3, 1.0, 0.4])
    assert score("margin") == pytest.approx([0.2, 1.0, 0.1])
    assert score("top_prob") == pytest.approx([0.5, 1.0, 0.4])
    assert score("left_to_right") == sorted(score("left_to_right"), reverse=True)
    logs = [sum(p * math.log(p) for p in row if p > 0) for row in probabilities[0].tolist()]
    assert score("entropy") == pytest.approx(logs)
    many = candidates(probabilities.expand(999, -1, -1), proposed.expand(999, -1))
    drawn = SCORES["random"](many, generator())
    assert (drawn >= 0).all() and (drawn < 1).all() and abs(drawn.mean() - 0.5) < 0.02


def test_ranks_put_allowed_positions_first_and_ties_in_order() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0], [-math.inf, 1.0, -math.inf, 2.0]])
    allowed = torch.tensor([[True, True, True, True], [False, True, True, True], [True, False, True, False]])
    assert rank(scores, allowed).tolist() == [[1, 2, 3, 0], [1, 2, 3, 0], [0, 2, 3, 1]]


def test_order_temperature_draws_as_dreams_alg_temp() -> None:
    """Pairs by softmax(score / T) without replacement, as `torch.multinomial` draws them."""
    scores, temperature, draws = torch.tensor([0.9, 0.5, 0.1]), 0.4, 30_000
    noisy = perturb(scores.expand(draws, -1), temperature, generator())
    first, second = noisy.argsort(-1, descending=True)[:, :2].T
    weights = (scores.double() / temperature).softmax(-1)
    for i, j in product(range(3), repeat=2):
        wanted = 0.0 if i == j else (weights[i] * weights[j] / (1 - weights[i])).item()
        assert ((first == i) & (second == j)).double().mean().item() == pytest.approx(wanted, abs=0.012)
    assert perturb(scores.unsqueeze(0), 0.0, None).equal(scores.unsqueeze(0))


def test_begin_suppressed_tokens_come_last_under_every_score() -> None:
    """They are decided when nothing else is left, also where they were drawn at a temperature."""
    logits = torch.zeros(LENGTH, VOCAB)
    logits[1, 0], logits[:, 1] = 9.0, 3.0
    backbone = CallableBackbone(lambda t: logits.repeat(5, 1)[: t.shape[1]].expand(len(t), -1, -1), VOCAB, MASK)
    common = {"max_new_tokens": LENGTH, "block_length": LENGTH, "steps": LENGTH, "eos_id": None}
    for remasking in ("low_confidence", "margin", "entropy", "top_prob"):
        model = CoupledDiffusion(backbone)
        for temperature in (0.0, 1.0):
            steps = list(
                model.steps(
                    [1] * LENGTH, remasking=remasking, begin_suppress_tokens=(0,), temperature=temperature,
                    generator=generator(), **common,
                )
            )  # fmt: skip
            assert steps[-1].committed[0, 1], "the position that is sure of token 0"
        assert not next(model.steps([1] * LENGTH, remasking=remasking, temperature=0.0, **common)).committed[0, 0]


# --- truncation, suppression, penalty ---


def dreams_support(probabilities: list[float], temperature: float, top_p: float | None, top_k: int | None) -> set[int]:
    """The tokens that Dream leaves: logits / T, then the nucleus, then the k best."""
    powers = [p ** (1 / temperature) if temperature else p for p in probabilities]
    tempered = [p / sum(powers) for p in powers]
    order = sorted(range(len(tempered)), key=lambda v: -tempered[v])
    kept, total = [], 0.0
    for v in order:
        if top_p is None or total < top_p:
            kept.append(v)
        total += tempered[v]
    return set(kept[: top_k or len(kept)])


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.5, None), (0.9, None), (None, 2), (0.9, 2), (0.95, 99), (1.0, None)])
def test_top_p_and_top_k_choose_dreams_support(temperature: float, top_p: float | None, top_k: int | None) -> None:
    probabilities = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1], dtype=torch.float64)
    found = truncate(probabilities.log().view(1, 1, -1), temperature=temperature, top_p=top_p, top_k=top_k)[0, 0].exp()
    kept = dreams_support(probabilities.tolist(), temperature, top_p, top_k)
    assert set(found.nonzero().flatten().tolist()) == kept
    for v in kept:
        assert found[v].item() == pytest.approx(probabilities[v].item() / probabilities[list(kept)].sum().item())


def test_the_backbone_alone_draws_as_dream_does() -> None:
    """Temperature, nucleus, k, renormalise: the frequencies of what is generated."""
    probabilities, temperature, top_p, top_k = [0.45, 0.05, 0.3, 0.2], 1.5, 0.85, 3
    kept = dreams_support(probabilities, temperature, top_p, top_k)
    weights = torch.tensor([p ** (1 / temperature) if v in kept else 0.0 for v, p in enumerate(probabilities)])
    table = torch.tensor(probabilities).log()
    model = CoupledDiffusion(CallableBackbone(lambda t: table.expand(*t.shape, -1), 4, 4))
    drawn = model.generate(
        START.expand(20_000, 1), max_new_tokens=1, steps=1, temperature=temperature, top_p=top_p, top_k=top_k,
        generator=generator(),
    ).tokens  # fmt: skip
    frequencies = torch.bincount(drawn.flatten(), minlength=4) / len(drawn)
    assert torch.allclose(frequencies, weights / weights.sum(), atol=0.012)
    assert frequencies[weights == 0].eq(0).all()


@pytest.mark.parametrize("coupling", ["projected", "corrected", "product"])
def test_truncated_tokens_never_come_out_of_the_head(coupling: str) -> None:
    model = CoupledDiffusion(table_backbone(), CoupledHead(hmm(), coupling=coupling))
    drawn = model.generate(
        START.expand(300, 1), max_new_tokens=LENGTH, steps=2, top_k=1, sampling="latent", generator=generator()
    ).tokens
    tokens = torch.full((1, LENGTH), MASK)
    assert (drawn == table_backbone().log_marginals(tokens).argmax(-1)).all()


def test_suppressed_tokens_are_never_drawn_and_the_penalty_is_in_nats() -> None:
    model = CoupledDiffusion(table_backbone(), CoupledHead(hmm()))
    drawn = model.generate(
        START.expand(200, 1), max_new_tokens=LENGTH, steps=2, suppress_tokens=[0, 2], generator=generator()
    ).tokens
    assert (drawn == 1).all()
    logs = torch.randn(1, 2, 4, generator=generator()).log_softmax(-1)
    found = adjust(logs, suppressed=(), penalised=1, penalty=1.5)
    odds = found[..., 1] - found[..., 0] - (logs[..., 1] - logs[..., 0])
    assert torch.allclose(odds, torch.tensor(-1.5)) and torch.allclose(found.exp().sum(-1), torch.ones(1, 2))
    with pytest.raises(pc.EvidenceError, match="without `suppress_tokens` are NaN"):
        model.generate(START, max_new_tokens=LENGTH, steps=1, suppress_tokens=[0, 1, 2])
