"""Agreement with hmmlearn on random models."""

import numpy as np
import pytest
import torch

import pcircuits as pc

hmmlearn = pytest.importorskip("hmmlearn.hmm")

CASES = [(2, 3, 5, 0), (4, 6, 12, 1), (7, 5, 20, 2)]


def models(states: int, categories: int, length: int, seed: int):
    random = np.random.default_rng(seed)
    initial, transition, emission = (
        random.dirichlet(np.ones(k), size) for k, size in ((states, None), (states, states), (categories, states))
    )
    ours = pc.HMM.from_probs(*(torch.from_numpy(p) for p in (initial, transition, emission)), length=length)
    theirs = hmmlearn.CategoricalHMM(states, n_iter=1, init_params="", tol=0, n_features=categories)
    theirs.startprob_, theirs.transmat_, theirs.emissionprob_ = initial, transition, emission
    return ours, theirs, random.integers(categories, size=(8, length))


@pytest.mark.parametrize("case", CASES)
def test_log_evidence_and_posteriors(case: tuple[int, int, int, int]) -> None:
    ours, theirs, x = models(*case)
    got = ours.log_prob(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(got, [theirs.score(row[:, None]) for row in x], atol=1e-6, rtol=1e-6)
    length = case[2]
    observed = torch.ones(8, length, dtype=torch.bool)
    observed[:, -1] = False
    last = ours.condition(pc.Evidence(torch.from_numpy(x), observed=observed)).marginals()[:, -1].detach().numpy()
    for row, got_row in zip(x, last, strict=True):
        filtered = theirs.predict_proba(row[:-1, None])[-1] @ theirs.transmat_ @ theirs.emissionprob_
        assert np.allclose(got_row, filtered, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_one_em_step(case: tuple[int, int, int, int]) -> None:
    ours, theirs, x = models(*case)
    ours.maximise(ours.statistics(torch.from_numpy(x)))
    theirs.fit(x.reshape(-1, 1), lengths=[x.shape[1]] * len(x))
    pairs = (
        (ours.initial, theirs.startprob_),
        (ours.transition, theirs.transmat_),
        (ours.emission, theirs.emissionprob_),
    )
    for got, want in pairs:
        assert np.allclose(got.detach().numpy(), want, atol=1e-6)
