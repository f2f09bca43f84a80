"""The view of circuits and posteriors as distributions of torch: its shapes, its validation and its answers."""

import pytest
import torch
from torch.distributions import Distribution, kl_divergence

import pcircuits as pc


@pytest.fixture
def mixed() -> pc.Circuit:
    inputs = [pc.Gaussian(), pc.Categorical(3), pc.Bernoulli()]
    return pc.Circuit(pc.structures.binary_tree(3), inputs, num_units=3, seed=0, dtype=torch.float64)


@pytest.fixture
def coupled() -> pc.Circuit:
    return pc.Circuit(pc.structures.binary_tree(3), pc.Categorical(3), num_units=3, seed=1, dtype=torch.float64)


def worlds(categories: int, variables: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(categories)] * variables)


def test_is_a_distribution_over_rows(coupled: pc.Circuit) -> None:
    view = pc.CircuitDistribution(coupled, validate_args=True)
    assert isinstance(view, Distribution)
    assert (view.batch_shape, view.event_shape) == ((), (3,))
    every = worlds(3, 3)
    log_prob = view.log_prob(every)
    assert log_prob.requires_grad
    log_prob = log_prob.detach()
    assert log_prob.exp().sum() == pytest.approx(1.0, abs=1e-12)
    probabilities = log_prob.exp()
    mean = (probabilities.unsqueeze(-1) * every).sum(0)
    torch.testing.assert_close(view.mean.detach(), mean)
    torch.testing.assert_close(view.variance.detach(), (probabilities.unsqueeze(-1) * (every - mean).square()).sum(0))


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_sample_shapes(mixed: pc.Circuit, shape: tuple[int, ...]) -> None:
    view = pc.CircuitDistribution(mixed, validate_args=True)
    drawn = view.sample(shape)
    assert drawn.shape == (*shape, 3)
    if drawn.numel():
        assert view.log_prob(drawn).shape == shape
        assert view.support.check(drawn).all()


def test_posterior_has_a_batch(coupled: pc.Circuit) -> None:
    observed = torch.tensor([[True, False, False], [False, True, False]])
    posterior = coupled.condition(pc.Evidence(torch.tensor([[2, 0, 0], [0, 1, 0]]), observed=observed))
    view = pc.CircuitDistribution(posterior, validate_args=True)
    assert view.batch_shape == (2,)
    drawn = view.sample((4,))
    assert (drawn[:, 0, 0] == 2).all()
    assert (drawn[:, 1, 1] == 1).all()
    torch.testing.assert_close(view.log_prob(drawn), posterior.log_prob(drawn))
    torch.testing.assert_close(view.log_prob(drawn[0, 0]), posterior.log_prob(drawn[0, 0].expand(2, 3)))
    every = worlds(3, 3).unsqueeze(1).expand(-1, 2, -1)
    torch.testing.assert_close(view.log_prob(every).exp().sum(0), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(view.mean.detach(), (view.log_prob(every).exp().unsqueeze(-1) * every).sum(0).detach())


def test_samples_match_the_mean(mixed: pc.Circuit) -> None:
    torch.manual_seed(0)
    view = pc.CircuitDistribution(mixed)
    drawn = view.sample((20_000,)).double()
    error = (drawn.mean(0) - view.mean) / (view.variance / 20_000).sqrt()
    assert error.detach().abs().max() < 4


@pytest.mark.parametrize(
    "value", [[0.0, 3.0, 0.0], [0.0, 0.5, 0.0], [float("inf"), 0.0, 0.0], [float("nan"), 0.0, 0.0]]
)
def test_validation_refuses_what_lies_outside(mixed: pc.Circuit, value: list[float]) -> None:
    view = pc.CircuitDistribution(mixed, validate_args=True)
    with pytest.raises(ValueError, match="to be within the support"):
        view.log_prob(torch.tensor(value))


def test_refusals(mixed: pc.Circuit) -> None:
    with pytest.raises((pc.ShapeError, TypeError)):  # where annotations are checked, a wrong type stops earlier
        pc.CircuitDistribution(mixed.graph)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        kl_divergence(pc.CircuitDistribution(mixed), pc.CircuitDistribution(mixed))
