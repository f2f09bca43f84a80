"""Differentiable samples: exact in the forward direction, with gradients that teach."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.testing.enumeration import Enumeration


@pytest.mark.parametrize(
    "example", [("rat", "cp"), ("binary_tree", "tucker"), ("hmm", "cp-t"), ("from_networkx", "cp")]
)
@pytest.mark.parametrize("kind", ["missing", "mixed"])
def test_hard_samples_fit_the_exact_posterior(example: tuple[str, str], kind: str) -> None:
    circuit = testing.example_circuit(*example, weights="peaked", num_variables=4, seed=3, dtype=torch.float64)
    evidence = testing.example_evidence(circuit, kind, seed=1)
    with torch.no_grad():
        x = circuit.condition(evidence).rsample(2000, generator=torch.Generator().manual_seed(0))
    assert x.shape == (2000, 3, 4, 3) and torch.allclose(x.amax(-1), torch.ones(()).double())
    values = x.argmax(-1)
    assert (values == evidence.values)[:, evidence.observed].all()
    single, pair = testing.sample_p_values(values, Enumeration(circuit, evidence))
    assert min(single, pair) > 1e-6


def test_relaxed_samples_are_distributions_that_sharpen() -> None:
    circuit = testing.example_circuit("rat", "cp", seed=1, dtype=torch.float64)
    posterior = circuit.condition(pc.Evidence.nothing(1, 4))
    peaks = []
    for temperature in (3.0, 0.1, 0.001):
        x = posterior.rsample(200, temperature=temperature, hard=False, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(x.sum(-1), torch.ones(()).double())
        peaks.append(x.amax(-1).mean().item())
    assert peaks[0] < peaks[1] < peaks[2] and peaks[2] > 0.999


def _joined(gradients: tuple, parameters: list[torch.Tensor]) -> torch.Tensor:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])


def test_gradients_point_where_the_exact_ones_do() -> None:
    """Of the probability that variable 2 is 0, which one-hot samples estimate."""
    circuit = testing.example_circuit("hclt", "cp-t", seed=2, dtype=torch.float64)
    parameters = list(circuit.parameters())
    evidence = pc.Evidence.nothing(1, 4)
    exact = torch.autograd.grad(circuit.condition(evidence).marginals()[0, 2, 0], parameters, allow_unused=True)
    for hard in (True, False):
        x = circuit.condition(evidence).rsample(4000, hard=hard, generator=torch.Generator().manual_seed(0))
        found = torch.autograd.grad(x[:, 0, 2, 0].mean(), parameters, allow_unused=True)
        a, b = (_joined(gradients, parameters) for gradients in (exact, found))
        assert not b.isnan().any() and torch.cosine_similarity(a, b, 0) > 0.8


def test_gaussian_samples_are_reparameterised() -> None:
    circuit = testing.example_circuit("binary_tree", "cp", "mixed", seed=1, dtype=torch.float64)
    observed = torch.tensor([[False, False, True, True], [False, True, False, False]])
    posterior = circuit.condition(pc.Evidence(torch.ones(2, 4, dtype=torch.float64), observed=observed))
    x = posterior.rsample(4000, generator=torch.Generator().manual_seed(0))
    assert [tuple(v.shape) for v in x] == [(4000, 2, 3), (4000, 2), (4000, 2, 2), (4000, 2, 2)]
    moments = posterior.marginals()[1]
    assert abs(x[1][:, 0].mean() - moments.mean[0]) < 5 * (moments.variance[0] / 4000).sqrt()
    assert abs(x[1][:, 0].var() / moments.variance[0] - 1) < 0.15
    assert torch.allclose(x[1][:, 1], torch.ones(()).double())
    x[1][:, 0].mean().backward()
    gradients = [p.grad for p in circuit.parameters() if p.grad is not None]
    assert gradients and not any(g.isnan().any() for g in gradients) and any(g.any() for g in gradients)


def test_wrong_arguments_are_refused() -> None:
    posterior = testing.example_circuit().condition(pc.Evidence.nothing(1, 4))
    with pytest.raises(pc.ShapeError, match="`n` must be"):
        posterior.rsample(0)
    with pytest.raises(pc.ShapeError, match="`temperature` must be positive"):
        posterior.rsample(temperature=0.0)
