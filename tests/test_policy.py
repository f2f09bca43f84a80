"""Device, dtype, autocast, deepcopy and state_dict: what docs/policy.md promises."""

import copy

import pytest
import torch

import pcircuits as pc


@pytest.fixture
def hmm() -> pc.HMM:
    return pc.HMM(3, 4, 5, seed=0)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randint(4, (6, 5), generator=torch.Generator().manual_seed(0))


def test_log_evidence_is_float64_and_double_sharpens_it(hmm: pc.HMM, x: torch.Tensor) -> None:
    single = hmm.log_prob(x)
    double = copy.deepcopy(hmm).double().log_prob(x)
    assert single.dtype == double.dtype == torch.float64
    assert torch.allclose(single, double, atol=1e-5)


def test_autocast_changes_nothing(hmm: pc.HMM, x: torch.Tensor) -> None:
    want = hmm.log_prob(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hmm.log_prob(x), want)


def test_deepcopy_is_independent_and_keeps_ties(hmm: pc.HMM, x: torch.Tensor) -> None:
    want, copied = hmm.log_prob(x), copy.deepcopy(hmm)
    assert torch.equal(copied.log_prob(x), want)
    copied.maximise(copied.statistics(x))
    assert torch.equal(hmm.log_prob(x), want) and not torch.equal(copied.log_prob(x), want)
    assert copied.state_dict().keys() == hmm.state_dict().keys()


def test_state_dict_holds_each_tied_group_once_and_loads_into_a_fresh_circuit(hmm: pc.HMM, x: torch.Tensor) -> None:
    sizes = {name: tuple(value.shape) for name, value in hmm.state_dict().items()}
    assert sorted(sizes.values()) == [(1, 1, 3), (1, 3, 3), (1, 3, 4)]
    fresh = pc.HMM(3, 4, 5, seed=1)
    fresh.load_state_dict(hmm.state_dict())
    assert torch.equal(fresh.log_prob(x), hmm.log_prob(x))


def test_support_masks_travel_in_the_state_dict() -> None:
    sparse = pc.HMM.from_probs(torch.tensor([1.0, 0.0]), torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.5]]), length=3)
    fresh = pc.HMM(2, 2, 3, seed=0)
    fresh.load_state_dict(sparse.state_dict())
    assert fresh.log_prob(torch.tensor([[0, 1, 0]])).isneginf().all()


def test_a_posterior_outlives_others_but_not_a_change_of_parameters(hmm: pc.HMM, x: torch.Tensor) -> None:
    observed = torch.zeros(6, 5, dtype=torch.bool)
    first = hmm.condition(pc.Evidence(x, observed=observed))
    want = first.marginals().clone()
    hmm.condition(pc.Evidence(x)).log_evidence.sum()
    assert torch.equal(first.marginals(), want)
    hmm.maximise(hmm.statistics(x))
    with pytest.raises(pc.StaleError, match="condition"):
        first.marginals()


def test_cached_parameters_follow_every_change(hmm: pc.HMM, x: torch.Tensor) -> None:
    with torch.no_grad():
        before = hmm.log_prob(x)
        hmm.group("transition").get_parameter("log_weights")[0, 0, 0] += 1.0
        assert not torch.equal(hmm.log_prob(x), before)


def test_evidence_on_another_device_is_refused(hmm: pc.HMM) -> None:
    with pytest.raises(pc.EvidenceError, match="meta"):
        hmm._validate(pc.Evidence(torch.zeros(1, 5), observed=None)._each(lambda x: x.to("meta")))


def test_queries_do_not_depend_on_batch_size_or_thread_count(hmm: pc.HMM, x: torch.Tensor) -> None:
    together = hmm.log_prob(x)
    assert torch.allclose(together, torch.cat([hmm.log_prob(row) for row in x.split(1)]), rtol=1e-7)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.allclose(together, hmm.log_prob(x), rtol=1e-7)
    finally:
        torch.set_num_threads(threads)
