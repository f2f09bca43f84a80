"""Long chains, and weights so sparse and evidence so spread that linear values underflow."""

import pytest
import torch

import pcircuits as pc

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


def test_far_tails_of_gaussians_stay_exact() -> None:
    circuit = pc.Circuit(pc.structures.factorized(2), pc.Gaussian(), num_units=3, layer="cp-t", seed=0)
    x = torch.tensor([[1e3, -1e3], [0.0, 0.0], [50.0, 60.0]])
    double = pc.Circuit(pc.structures.factorized(2), pc.Gaussian(), num_units=3, layer="cp-t", dtype=torch.float64)
    double.load_state_dict(circuit.state_dict())
    assert torch.allclose(circuit.log_prob(x), double.log_prob(x.double()), rtol=1e-5)
