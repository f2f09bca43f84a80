"""Long chains, and weights so sparse and evidence so spread that linear values underflow."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.distributions import discrete
from pcircuits.evaluator import downward, upward
from pcircuits.kernels.dense_sum import reference as dense_sum
from pcircuits.semirings import Log, Max, Scaled

STEPS = 10_000


def log_forward(hmm: pc.HMM, x: torch.Tensor) -> torch.Tensor:
    """An independent forward recursion in float64 logs: (B,)."""
    initial, transition, emission = (p.double().log() for p in (hmm.initial, hmm.transition, hmm.emission))
    alpha = initial + emission[:, x[:, 0]].T
    for t in range(1, x.shape[1]):
        alpha = (alpha.unsqueeze(-1) + transition).logsumexp(1) + emission[:, x[:, t]].T
    return alpha.logsumexp(1)


@pytest.fixture(scope="module")
def long_chain() -> tuple[pc.HMM, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return pc.HMM(3, 4, STEPS, seed=0).requires_grad_(False), torch.randint(4, (2, STEPS), generator=generator)


def test_a_chain_of_10000_steps_neither_underflows_nor_drifts(long_chain: tuple[pc.HMM, torch.Tensor]) -> None:
    hmm, x = long_chain
    want = log_forward(hmm, x)
    assert want.max() < -10_000
    assert torch.allclose(hmm.log_prob(x), want, rtol=1e-6, atol=0)


def test_flows_and_em_counts_of_a_long_chain_are_right(long_chain: tuple[pc.HMM, torch.Tensor]) -> None:
    hmm, x = long_chain
    found = hmm.statistics(x)
    assert all(value.isfinite().all() for parts in found.counts.values() for value in parts.values())
    totals = {name: float(parts["counts"].sum()) for name, parts in found.counts.items()}
    assert totals == pytest.approx({"initial": 2, "transition": 2 * (STEPS - 1), "emission": 2 * STEPS}, rel=1e-5)
    seen = torch.bincount(x.flatten(), minlength=4).float()
    assert torch.allclose(found.counts["emission"]["counts"].sum((0, 1)), seen, rtol=1e-5)


def test_em_of_a_long_chain_raises_the_likelihood() -> None:
    generator = torch.Generator().manual_seed(1)
    x = (torch.arange(2_000) % 4).repeat(2, 1)
    x[torch.rand(x.shape, generator=generator) < 0.1] = 0
    hmm = pc.HMM(4, 4, 2_000, seed=0)
    scores = []
    for _ in range(4):
        found = hmm.statistics(x)
        scores.append(float(found.log_likelihood))
        hmm.maximise(found)
    assert scores == sorted(scores) and scores[-1] > scores[0] + 1


def left_to_right(spread: float, dtype: torch.dtype) -> pc.HMM:
    """States that can only be passed in one order; the last symbol is all but impossible in all states but the last."""
    initial = torch.tensor([1.0, 0.0, 0.0], dtype=dtype)
    transition = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]], dtype=dtype)
    emission = torch.tensor([[1 - spread, spread], [1 - spread, spread], [spread, 1 - spread]], dtype=dtype)
    return pc.HMM.from_probs(initial, transition, emission, length=6).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1e-3, 1e-20, 1e-30])
def test_sparse_weights_with_spread_evidence_stay_exact(spread: float, dtype: torch.dtype) -> None:
    hmm = left_to_right(spread, dtype)
    x = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 0]])
    assert torch.allclose(hmm.log_prob(x), log_forward(hmm, x), rtol=1e-6 if dtype == torch.float32 else 1e-10, atol=0)


def test_log_space_is_really_needed_and_really_used() -> None:
    hmm = left_to_right(1e-30, torch.float32)
    spread, easy = [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]
    evaluation = hmm.condition(pc.Evidence(torch.tensor([easy, spread])))._evaluation
    assert evaluation.rows is not None and evaluation.rows.tolist() == [1]


def test_soft_evidence_of_thousands_of_nats_stays_exact() -> None:
    hmm = left_to_right(1e-3, torch.float32)
    log_weights = torch.zeros(2, 6, 2)
    log_weights[0, :, 0], log_weights[1, 2:4, 1] = -3_000.0, -1_000.0
    worlds = torch.cartesian_prod(*[torch.arange(2)] * 6)
    weight = log_weights[:, torch.arange(6), worlds].sum(-1).double()
    want = (hmm.log_prob(worlds) + weight).logsumexp(1)
    posterior = hmm.condition(pc.Evidence(log_weights=log_weights))
    assert torch.allclose(posterior.log_evidence, want, rtol=1e-6, atol=1e-5)
    assert torch.allclose(posterior.marginals().sum(-1), torch.ones(2, 6), atol=1e-5)


def test_rows_that_need_log_space_do_not_change_their_neighbours() -> None:
    hmm = left_to_right(1e-30, torch.float32)
    x = torch.tensor([[0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    together = hmm.condition(pc.Evidence(x, observed=torch.tensor([[True] * 5 + [False]] * 3)))
    for row in range(3):
        alone = hmm.condition(together.evidence.rows(torch.tensor([row])))
        assert torch.allclose(together.marginals()[row], alone.marginals()[0], atol=1e-6)
    weights = torch.tensor([1.0, 2.0, 3.0])
    merged = hmm.statistics(x, sample_weights=weights)
    parts = [hmm.statistics(x[i : i + 1]) * float(weights[i]) for i in range(3)]
    total = parts[0] + parts[1] + parts[2]
    for name, counts in merged.counts.items():
        assert torch.allclose(counts["counts"].double(), total.counts[name]["counts"].double(), atol=1e-5)


def vanishing(num_variables: int, dtype: torch.dtype) -> pc.Circuit:
    """Unit 1 underflows in the first two variables; each of the others then raises it 1e8 times over unit 0."""
    circuit = pc.Circuit(pc.structures.factorized(num_variables), pc.Categorical(2), num_units=2, layer="cp-t", seed=0)
    ones = torch.full((num_variables, 2), 1.0, dtype=torch.float64)
    ones[0, 1], ones[1, 1], ones[2:, 0] = 1e-30, 1e-20, 1e-8
    for _, group in circuit.named_groups():
        if hasattr(group, "family"):
            group.set_parameters({"logits": torch.stack([1 - ones, ones], -1).clamp_min(1e-37).log()})
    return circuit.to(dtype).requires_grad_(False)


@pytest.mark.parametrize(("num_variables", "redone"), [(3, False), (10, True), (30, True)])
def test_what_many_rescales_of_one_product_raise_is_not_lost(num_variables: int, redone: bool) -> None:
    x = torch.ones(1, num_variables, dtype=torch.long)
    circuit, double = (vanishing(num_variables, dtype) for dtype in (torch.float32, torch.float64))
    evaluation = circuit.condition(pc.Evidence(x))._evaluation
    assert torch.allclose(evaluation.log_evidence, double.log_prob(x), rtol=1e-6, atol=0)
    assert (evaluation.rows is not None) == redone, "log space where it is needed, and only there"


@pytest.mark.parametrize("weights", ["dense", "sparse"])
@pytest.mark.parametrize("layer", ["cp", "cp-t", "tucker"])
def test_a_bound_from_the_weights_holds_and_changes_nothing(
    weights: str, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit = testing.example_circuit("rat", layer, weights=weights).requires_grad_(False)
    evidence = testing.example_evidence(circuit, "mixed", batch=40)
    bounded = upward(circuit.plan, circuit.prepared(), evidence, Scaled(torch.float32))
    below = [r.values.least for r in bounded.records]
    assert all(float(r.values.v.min()) >= r.values.least for r in bounded.records)
    peaks = [(r.values.v.amax(-1)[:, ~bounded.semiring.suspect], r.values.peak) for r in bounded.records]
    assert all(bool((found >= bound).all()) for found, bound in peaks)
    assert any(below) == (weights == "dense"), "sums are looked at only where weights may be too small"
    monkeypatch.setattr(Scaled, "_least", lambda *_: 0.0)
    looked_at = upward(circuit.plan, circuit.prepared(), evidence, Scaled(torch.float32))
    close = {"rtol": 1e-14, "atol": 0}  # some rescales are spared, by powers of two
    torch.testing.assert_close(bounded.log_evidence, looked_at.log_evidence, **close)
    if weights == "dense":
        assert torch.equal(bounded.semiring.suspect, looked_at.semiring.suspect)
    counts = [downward(p, torch.ones(40), count=True)[1] for p in (bounded, looked_at)]
    assert all(torch.equal(counts[0][name], counts[1][name]) for name in counts[0])


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("layer", ["cp", "cp-t", "tucker"])
@torch.no_grad()
def test_values_above_one_do_not_grow_from_level_to_level(layer: str, units: int) -> None:
    circuit = pc.Circuit(pc.structures.binary_tree(256), pc.Categorical(3), num_units=units, layer=layer, seed=0)
    for name, parameter in circuit.named_parameters():
        if "input" in name:  # looked up as 1, 512 and 500, rescaled as a whole
            parameter.copy_(torch.tensor([0.001, 0.499, 0.5]).log().expand(parameter.shape))
    for value, probability in ((2, 0.5), (0, 0.001)):
        x = torch.full((300, 256), value)
        found = circuit.log_prob(x)
        assert torch.allclose(found, torch.full_like(found, 256 * torch.tensor(probability).log().item()), rtol=1e-5)
        evaluation = circuit.condition(pc.Evidence(x))._evaluation
        assert max(float(r.values.v.max()) for r in evaluation.fast.records) < 2.0**44


def test_marginals_of_a_long_chain_add_up_to_one() -> None:
    hmm = pc.HMM(4, 4, 1_500, seed=0).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    x, observed = torch.randint(4, (2, 1_500), generator=generator), torch.rand(2, 1_500, generator=generator) < 0.5
    total = hmm.condition(pc.Evidence(x, observed=observed)).marginals().sum(-1)
    assert torch.allclose(total, torch.ones_like(total), atol=5e-7, rtol=0)


def test_temporaries_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the chunks of log-space sums and of soft evidence, the answers are the same."""
    circuit = testing.example_circuit("rat", "tucker", weights="sparse", dtype=torch.float64)
    evidence = testing.example_evidence(circuit, "mixed", batch=7)
    whole = [upward(circuit.plan, circuit.prepared(), evidence, semiring()) for semiring in (Log, Max)]
    counts = downward(whole[0], torch.ones(7, dtype=torch.float64), count=True)[1]
    for module in (dense_sum, discrete):
        monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 20)
    largest: list[int] = []
    terms = dense_sum._terms

    def counted(log_weights: torch.Tensor, values: torch.Tensor, gates: None, chunk: slice) -> torch.Tensor:
        largest.append((chunk.stop - chunk.start) * values.numel())
        return terms(log_weights, values, gates, chunk)

    monkeypatch.setattr(dense_sum, "_terms", counted)
    parts = [upward(circuit.plan, circuit.prepared(), evidence, semiring()) for semiring in (Log, Max)]
    assert all(torch.allclose(a.log_evidence, b.log_evidence) for a, b in zip(whole, parts, strict=True))
    for name, value in downward(parts[0], torch.ones(7, dtype=torch.float64), count=True)[1].items():
        assert torch.allclose(value, counts[name], atol=1e-12)
    monkeypatch.setattr(dense_sum, "_CHUNK_ELEMENTS", 400)
    largest.clear()
    dense_sum.log_sum(torch.zeros(1, 50, 4), torch.zeros(1, 10, 4))
    assert largest == [400] * 5


def test_far_tails_of_gaussians_stay_exact() -> None:
    circuit = pc.Circuit(pc.structures.factorized(2), pc.Gaussian(), num_units=3, layer="cp-t", seed=0)
    x = torch.tensor([[1e3, -1e3], [0.0, 0.0], [50.0, 60.0]])
    double = pc.Circuit(pc.structures.factorized(2), pc.Gaussian(), num_units=3, layer="cp-t", dtype=torch.float64)
    double.load_state_dict(circuit.state_dict())
    assert torch.allclose(circuit.log_prob(x), double.log_prob(x.double()), rtol=1e-5)
