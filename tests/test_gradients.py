"""Gradients equal finite differences, tied copies included, and marginals can be differentiated twice."""

import pytest
import torch

import pcircuits as pc
from pcircuits import structures

CIRCUITS = {
    "hmm": lambda: pc.HMM(2, 3, 3, seed=0, dtype=torch.float64),
    "tree, cp": lambda: pc.Circuit(
        structures.binary_tree(3), pc.Categorical(3), num_units=2, layer="cp", seed=0, dtype=torch.float64
    ),
    "rat, tucker": lambda: pc.Circuit(
        structures.rat(4, 2, num_repetitions=2, seed=0),
        pc.Categorical(3),
        num_units=2,
        layer="tucker",
        seed=0,
        dtype=torch.float64,
    ),
}


@pytest.fixture(params=CIRCUITS)
def circuit(request: pytest.FixtureRequest) -> pc.Circuit:
    return CIRCUITS[request.param]()


def soft_evidence(circuit: pc.Circuit) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, circuit.num_variables, 3, generator=generator, dtype=torch.float64)


def test_parameter_gradients_equal_finite_differences(circuit: pc.Circuit) -> None:
    evidence = pc.Evidence(log_weights=soft_evidence(circuit))
    circuit.condition(evidence).log_evidence.sum().backward()
    for name, parameter in circuit.named_parameters():
        assert parameter.grad is not None, name
        for i in range(0, parameter.numel(), max(1, parameter.numel() // 5)):
            at = tuple(torch.unravel_index(torch.tensor(i), parameter.shape))
            kept, values = parameter[at].item(), []
            for shift in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[at] = kept + shift
                values.append(circuit.condition(evidence).log_evidence.sum().item())
            with torch.no_grad():
                parameter[at] = kept
            assert float(parameter.grad[at]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-6), name


def test_marginals_are_the_gradient_of_the_log_evidence(circuit: pc.Circuit) -> None:
    log_weights = soft_evidence(circuit).requires_grad_()
    posterior = circuit.condition(pc.Evidence(log_weights=log_weights))
    (gradient,) = torch.autograd.grad(posterior.log_evidence.sum(), log_weights)
    assert torch.allclose(posterior.marginals(), gradient, atol=1e-10)


def test_marginals_have_right_first_and_second_derivatives(circuit: pc.Circuit) -> None:
    def marginals(log_weights: torch.Tensor) -> torch.Tensor:
        return circuit.condition(pc.Evidence(log_weights=log_weights)).marginals()

    log_weights = soft_evidence(circuit)[:1].requires_grad_()
    assert torch.autograd.gradcheck(marginals, log_weights)
    assert torch.autograd.gradgradcheck(marginals, log_weights)


def test_expected_counts_are_the_gradient_with_respect_to_log_probabilities() -> None:
    hmm = pc.HMM(2, 3, 4, seed=0, dtype=torch.float64)
    x = torch.randint(3, (5, 4), generator=torch.Generator().manual_seed(0))
    counts = hmm.statistics(x).counts["transition"]["counts"][0]
    hmm.log_prob(x).sum().backward()
    gradient = hmm.group("transition").get_parameter("log_weights").grad
    assert gradient is not None
    centred = counts - hmm.transition.detach() * counts.sum(-1, keepdim=True)
    assert torch.allclose(gradient[0], centred, atol=1e-10)


def test_gradients_through_rows_in_log_space_are_finite_and_right() -> None:
    hmm = pc.HMM.from_probs(
        torch.tensor([1.0, 0.0]),
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[1.0, 1e-30], [0.5, 0.5]]),
        length=4,
    )
    score = hmm.log_prob(torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    assert score[0].item() == pytest.approx(4 * torch.tensor(1e-30).double().log().item(), rel=1e-6)
    score.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hmm.parameters())
