"""Likelihood studies against enumeration, on three tokens, blocks of four and a backbone that is a table."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion import evaluate
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.coupling import Independent
from pcircuits_diffusion.evaluate.curves import dump
from pcircuits_diffusion.evaluate.orders import masked_at, next_group
from pcircuits_diffusion.head import CoupledHead

V, L, CONTEXT, N, S = 3, 4, 1, 5, 2
WIDTH = CONTEXT + L
TABLE = torch.randn((V + 1) ** WIDTH, WIDTH, V, generator=torch.Generator().manual_seed(0)).double()
CODES = (V + 1) ** torch.arange(WIDTH)
BACKBONE = CallableBackbone(lambda tokens: TABLE[(tokens * CODES).sum(-1)], vocab_size=V, mask_id=V)
TOKENS = torch.randint(V, (N, WIDTH), generator=torch.Generator().manual_seed(1))
DOCUMENTS = torch.tensor([7, 7, 3, 3, 5])
SETTING = evaluate.Setting(ratios=(0.25, 0.5, 1.0), steps=(1, 2, 3, 4), num_orders=S, batch_size=3)
FREQUENCIES = torch.tensor([5.0, 3.0, 2.0])


def seeded(seed: int = 2) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def prior() -> pc.HMM:
    return pc.HMM(2, V, L, seed=3, dtype=torch.float64)


@pytest.fixture(scope="module")
def heads(prior: pc.HMM) -> dict[str, CoupledHead]:
    return {
        "product": CoupledHead(prior, coupling="product"),
        "corrected": CoupledHead(prior, coupling="corrected"),
        "projected": CoupledHead(prior, sweeps=40),
        "gated": CoupledHead(prior, coupling="product", gamma=0.6),
    }


@pytest.fixture(scope="module")
def found(heads: dict[str, CoupledHead], prior: pc.HMM) -> evaluate.Study:
    controls = {"prior alone": evaluate.prior_alone(prior), "unigram": evaluate.unigram(FREQUENCIES)}
    return evaluate.study(
        BACKBONE, heads, TOKENS, DOCUMENTS, block_length=L, controls=controls, setting=SETTING, generator=seeded()
    )


@pytest.fixture(scope="module")
def ranks() -> torch.Tensor:
    return evaluate.draw_orders(S, N, L, generator=seeded())


def predictions(window: torch.Tensor, mask: list[int]) -> torch.Tensor:
    """(L, V) the table's probabilities with the block's positions in `mask` masked."""
    inputs = window.clone()
    inputs[[CONTEXT + i for i in mask]] = V
    return TABLE[int((inputs * CODES).sum())][CONTEXT:].softmax(-1)


def completions(block: torch.Tensor, mask: list[int]) -> list[list[int]]:
    """Every block that agrees with `block` outside `mask`."""
    values = [range(V) if i in mask else [int(block[i])] for i in range(L)]
    return [list(x) for x in itertools.product(*values)]


def enumerated(weigh, window: torch.Tensor, mask: list[int], group: list[int]) -> float:
    """-log p(block[group] | the tokens outside mask), by the weight of every completion."""
    block = window[CONTEXT:]
    worlds = completions(block, mask)
    weights = [weigh(x) for x in worlds]
    agreeing = [w for x, w in zip(worlds, weights, strict=True) if all(x[i] == block[i] for i in group)]
    return -math.log(sum(agreeing) / sum(weights))


def factorised_nats(window: torch.Tensor, mask: list[int], group: list[int]) -> float:
    p = predictions(window, mask)
    return -sum(math.log(p[i, window[CONTEXT + i]]) for i in group)


@torch.no_grad()
def probabilities(prior: pc.HMM) -> dict[tuple[int, ...], float]:
    """The prior's probability of every block."""
    blocks = torch.cartesian_prod(*[torch.arange(V)] * L)
    return dict(zip(map(tuple, blocks.tolist()), prior.log_prob(blocks).exp().tolist(), strict=True))


def product_nats(prior: dict[tuple[int, ...], float], window: torch.Tensor, mask: list[int], group: list[int]) -> float:
    p = predictions(window, mask)

    def weigh(x: list[int]) -> float:
        return prior[tuple(x)] * math.prod(float(p[i, x[i]]) for i in mask)

    return enumerated(weigh, window, mask, group)


def prior_nats(prior: dict[tuple[int, ...], float], window: torch.Tensor, mask: list[int], group: list[int]) -> float:
    return enumerated(lambda x: prior[tuple(x)], window, mask, group)


def brute_force(ranks: torch.Tensor, walks: list[list[tuple[int, int]]], nats) -> torch.Tensor:
    """(S, P, N) sums of `nats(window, mask, group)` over each walk's (masked, size) pairs."""
    result = torch.zeros(S, len(walks), N, dtype=torch.float64)
    for s, p, n in itertools.product(range(S), range(len(walks)), range(N)):
        order = ranks[s, n].argsort().tolist()
        for masked, size in walks[p]:
            mask = order[L - masked :]
            result[s, p, n] += nats(TOKENS[n], mask, mask[:size])
    return result


ONE_STEP = [[(1, 1)], [(2, 2)], [(4, 4)]]
STEPS = [[(4, 4)], [(4, 2), (2, 2)], [(4, 2), (2, 1), (1, 1)], [(4, 1), (3, 1), (2, 1), (1, 1)]]


def test_sequential_and_factorised_equal_brute_force(found: evaluate.Study, ranks: torch.Tensor) -> None:
    chains = [[(1, 1)], [(2, 1), (1, 1)], STEPS[-1]]
    assert found.ratios.points == (1, 2, 4) and found.ratios.ratios == [0.25, 0.5, 1.0]
    torch.testing.assert_close(found.ratios.nats["sequential"], brute_force(ranks, chains, factorised_nats))
    torch.testing.assert_close(found.ratios.nats["one-step factorised"], brute_force(ranks, ONE_STEP, factorised_nats))
    torch.testing.assert_close(found.steps.nats["one-step factorised"], brute_force(ranks, STEPS, factorised_nats))


def test_coupled_curves_equal_brute_force(found: evaluate.Study, ranks: torch.Tensor, prior: pc.HMM) -> None:
    table = probabilities(prior)

    def nats(window: torch.Tensor, mask: list[int], group: list[int]) -> float:
        return product_nats(table, window, mask, group)

    torch.testing.assert_close(found.ratios.nats["product"], brute_force(ranks, ONE_STEP, nats))
    torch.testing.assert_close(found.steps.nats["product"], brute_force(ranks, STEPS, nats))


def test_controls_equal_brute_force(found: evaluate.Study, ranks: torch.Tensor, prior: pc.HMM) -> None:
    table = probabilities(prior)

    def alone(window: torch.Tensor, mask: list[int], group: list[int]) -> float:
        return prior_nats(table, window, mask, group)

    def unigram(window: torch.Tensor, mask: list[int], group: list[int]) -> float:
        return -sum(math.log(FREQUENCIES[window[CONTEXT + i]] / 10) for i in group)

    torch.testing.assert_close(found.ratios.nats["prior alone"], brute_force(ranks, ONE_STEP, alone))
    torch.testing.assert_close(
        found.ratios.nats["unigram"], brute_force(ranks, ONE_STEP, unigram), rtol=1e-6, atol=1e-6
    )


def test_gate_leaves_the_backbone_alone_above_gamma(found: evaluate.Study) -> None:
    gated, product, factorised = (found.ratios.nats[n] for n in ("gated", "product", "one-step factorised"))
    torch.testing.assert_close(gated[:, :2], product[:, :2])
    torch.testing.assert_close(gated[:, 2], factorised[:, 2])
    assert not torch.allclose(product[:, 2], factorised[:, 2], atol=1e-3)


def test_as_many_steps_as_tokens_is_sequential(found: evaluate.Study) -> None:
    steps, ratios = found.steps.nats, found.ratios.nats
    torch.testing.assert_close(steps["one-step factorised"][:, -1], ratios["sequential"][:, -1])
    torch.testing.assert_close(steps["projected"][:, -1], ratios["sequential"][:, -1], rtol=0.0, atol=1e-5)
    assert (steps["product"][:, -1] - ratios["sequential"][:, -1]).abs().max() > 0.05
    for name in found.steps.names:
        torch.testing.assert_close(steps[name][:, 0], ratios[name][:, -1])


def test_one_masked_token_has_no_gap(found: evaluate.Study) -> None:
    nats = found.ratios.nats
    torch.testing.assert_close(nats["sequential"][:, 0], nats["one-step factorised"][:, 0])
    torch.testing.assert_close(nats["projected"][:, 0], nats["one-step factorised"][:, 0], rtol=0.0, atol=1e-5)


def test_backbone_runs_once_a_state() -> None:
    calls = []
    counting = CallableBackbone(lambda t: calls.append(len(t)) or TABLE[(t * CODES).sum(-1)], vocab_size=V, mask_id=V)
    evaluate.study(counting, {}, TOKENS, DOCUMENTS, block_length=L, setting=SETTING, generator=seeded())
    assert sum(calls) == N * S * L


def test_heads_never_see_the_truth() -> None:
    seen = []

    def spy(log_marginals: torch.Tensor, hidden: None, tokens: torch.Tensor, mask: torch.Tensor) -> Independent:
        seen.append(tokens[mask])
        return Independent(log_marginals, tokens, mask)

    tokens = TOKENS.clamp(min=1)
    evaluate.study(BACKBONE, {"spy": spy}, tokens, DOCUMENTS, block_length=L, setting=SETTING, generator=seeded())
    assert torch.cat(seen).eq(0).all()


def test_masks_nest_and_groups_partition() -> None:
    ranks = evaluate.draw_orders(1, 20, 7, generator=seeded())[0]
    assert all(torch.equal(row.sort().values, torch.arange(7)) for row in ranks)
    for masked in range(1, 8):
        mask = masked_at(ranks, masked)
        assert mask.sum(1).eq(masked).all() and (mask <= masked_at(ranks, min(masked + 1, 7))).all()
        for size in range(1, masked + 1):
            group, rest = next_group(ranks, masked, size), masked_at(ranks, masked - size)
            assert torch.equal(group | rest, mask) and not (group & rest).any()


def test_counts_and_steps() -> None:
    assert evaluate.masked_counts(32) == (3, 10, 16, 22, 29, 32)
    assert evaluate.masked_counts(4, (0.01, 0.02)) == (1,)
    assert evaluate.Setting().questions(12).steps == (1, 2, 4, 8)
    assert evaluate.step_sizes(32, 5) == [7, 7, 6, 6, 6]
    for steps in (0, 33):
        with pytest.raises(ValueError, match=f"got {steps}"):
            evaluate.step_sizes(32, steps)


def test_means_are_per_token(found: evaluate.Study) -> None:
    nats = found.ratios.nats["sequential"]
    expected = [float(nats[:, p].mean()) / count for p, count in enumerate(found.ratios.points)]
    assert found.ratios.mean("sequential") == pytest.approx(expected)
    by_order = torch.tensor(found.ratios.by_order("sequential"))
    assert by_order.shape == (S, 3) and by_order.mean(0).tolist() == pytest.approx(expected)


def test_bootstrap_is_seeded_and_resamples_documents(found: evaluate.Study) -> None:
    first, again, other = (evaluate.DocumentBootstrap(DOCUMENTS, generator=seeded(s)) for s in (0, 0, 1))
    curves = found.ratios
    assert first.num_documents == 3
    assert curves.gain("product", first) == curves.gain("product", again)
    windows = first.totals(torch.ones(N))
    assert not torch.equal(windows, other.totals(torch.ones(N)))
    assert windows[0] == N and set(windows.tolist()) <= {3.0, 4.0, 5.0, 6.0}  # 1, 2 and 2 windows a document


def test_bootstrap_is_paired(found: evaluate.Study) -> None:
    curves, bootstrap = found.ratios, evaluate.DocumentBootstrap(DOCUMENTS, generator=seeded())
    shifted = curves.nats["sequential"] + 0.25 * torch.tensor(curves.points).view(1, -1, 1)
    pair = evaluate.MaskRatioCurves(
        L,
        curves.points,
        curves.scored,
        {"one-step factorised": shifted, "sequential": curves.nats["sequential"]},
        (),
        DOCUMENTS,
    )
    assert all(interval == pytest.approx((0.25,) * 3) for interval in pair.gain("sequential", bootstrap))
    low, high = pair.nats_per_token("sequential", bootstrap)[-1][1:]
    assert high - low > 0.05


def test_interval_covers_the_mean() -> None:
    """95 % intervals of a mean of 60 normal documents hold the truth in about 95 % of repetitions."""
    hits = 0
    for seed in range(200):
        values = torch.randn(60, generator=seeded(seed)).double()
        bootstrap = evaluate.DocumentBootstrap(torch.arange(60), num_resamples=400, generator=seeded(seed))
        (interval,) = bootstrap.intervals(bootstrap.totals(values).unsqueeze(1) / 60)
        hits += interval.low <= 0.0 <= interval.high
    assert 180 <= hits <= 199


def test_share_closed(found: evaluate.Study) -> None:
    curves, bootstrap = found.ratios, evaluate.DocumentBootstrap(DOCUMENTS, generator=seeded())
    ends = {name: curves.share_closed(name, bootstrap)[1:] for name in ("sequential", "one-step factorised")}
    assert all(interval == pytest.approx((1.0,) * 3) for interval in ends["sequential"])
    assert all(interval == pytest.approx((0.0,) * 3) for interval in ends["one-step factorised"])
    assert math.isnan(curves.share_closed("product", bootstrap)[0].estimate)
    factorised, sequential, product = (curves.mean(n)[2] for n in ("one-step factorised", "sequential", "product"))
    share = curves.share_closed("product", bootstrap)[2].estimate
    assert share == pytest.approx((factorised - product) / (factorised - sequential))


def test_json(found: evaluate.Study) -> None:
    bootstrap = evaluate.DocumentBootstrap(DOCUMENTS, num_resamples=50, generator=seeded())
    ratios, steps = (json.loads(dump(part.to_json(bootstrap))) for part in found)
    assert ratios["points"] == [1, 2, 4] and ratios["windows"] == N and ratios["documents"] == 3
    assert set(ratios["curves"]["product"]) == {"nats", "by_order", "gain", "perplexity", "share_closed"}
    assert set(ratios["curves"]["unigram"]) == {"nats", "by_order", "perplexity"}
    assert ratios["curves"]["product"]["share_closed"][0] == {"estimate": None, "low": None, "high": None}
    assert set(steps["curves"]["product"]) == {"nats", "by_order", "gain"} and "unigram" not in steps["curves"]


def test_perplexity_vs_mask_ratio(heads: dict[str, CoupledHead], found: evaluate.Study) -> None:
    model = SimpleNamespace(backbone=BACKBONE, head=heads["product"])
    curves = evaluate.perplexity_vs_mask_ratio(model, TOKENS, setting=SETTING, generator=seeded())
    assert curves.names == ["sequential", "one-step factorised", "coupled", "prior alone"]
    torch.testing.assert_close(curves.nats["coupled"], found.ratios.nats["product"])


def test_refuses() -> None:
    with pytest.raises(ValueError, match="windows of 5 tokens are shorter than a block of 6"):
        evaluate.study(BACKBONE, {}, TOKENS, DOCUMENTS, block_length=6, generator=seeded())
    with pytest.raises(ValueError, match=r"5 windows need as many `documents`, got shape \(3,\)"):
        evaluate.study(BACKBONE, {}, TOKENS, DOCUMENTS[:3], block_length=L, generator=seeded())


def test_generation_metrics() -> None:
    judge = CallableBackbone(lambda t: torch.tensor([2.0, 1.0, 1.0]).log().expand(*t.shape, 3), vocab_size=3, mask_id=3)
    samples = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]])
    metrics = evaluate.generation_metrics(samples, judge, prompts=torch.tensor([[2], [2]]))
    assert metrics.perplexity == pytest.approx(2 ** (6 / 8) * 4 ** (2 / 8))
    assert metrics.entropy == pytest.approx(-(6 / 8 * math.log(6 / 8) + 2 / 8 * math.log(2 / 8)))
    assert metrics.distinct_2 == pytest.approx(3 / 6)
    judge.config = SimpleNamespace(causal=False)
    with pytest.raises(ValueError, match="must be autoregressive"):
        evaluate.generation_metrics(samples, judge)
    with pytest.raises(ValueError, match="two tokens or more"):
        evaluate.generation_metrics(samples[:, :1], judge)


def test_overhead(heads: dict[str, CoupledHead]) -> None:
    found = evaluate.head_overhead(
        BACKBONE, heads["product"], TOKENS, block_length=L, batch_sizes=(1, 7), repeats=3, generator=seeded()
    )
    assert [o.batch_size for o in found] == [1, 7]
    assert all(o.head_ms > 0 and o.backbone_ms > 0 and 0 < o.share < 1 for o in found)
