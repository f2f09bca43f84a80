"""Laws that every circuit keeps, and circuits on which others have been seen to fail."""

import pytest
import torch

import pcircuits as pc
from pcircuits import structures, testing
from pcircuits.evaluator import downward, upward
from pcircuits.semirings import Log, Scaled

EXAMPLES = [("binary_tree", "cp"), ("rat", "tucker"), ("rat", "cp-t"), ("hclt", "cp-t"), ("chain", "cp")]


def adversarial() -> pc.Circuit:
    """`0.6 a (.5 b + .5 ~b) + 0.4 ~a (.9 b + .1 ~b)`, deterministic in a: variable 0 is a, variable 1 is b."""
    circuit = pc.Circuit(structures.factorized(2), pc.Categorical(2), num_units=2, layer="cp-t", seed=0)
    inputs, weights = (group for _, group in circuit.named_groups())
    tables = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.5, 0.5], [0.1, 0.9]]])
    inputs.restrict(tables > 0)
    inputs.set_parameters({"logits": tables.clamp_min(1e-37).log()})
    weights.set_probabilities(torch.tensor([[[0.6, 0.4]]]))
    return circuit


def test_mpe_of_the_circuit_on_which_argmax_over_sums_fails() -> None:
    circuit = adversarial()
    found = circuit.mpe()
    assert found.values.tolist() == [0, 1] and bool(found.exact)
    assert float(found.log_prob.exp()) == pytest.approx(0.36)
    assert pc.check(circuit).deterministic


def test_mpe_is_at_least_every_world_and_keeps_the_evidence() -> None:
    circuit = pc.Circuit(structures.binary_tree(5), pc.Bernoulli(), num_units=3, seed=3).requires_grad_(False)
    observed = torch.tensor([[True, False, True, False, False]])
    posterior = circuit.condition(pc.Evidence(torch.tensor([[1, 0, 0, 0, 0]]), observed=observed))
    found, worlds = posterior.mpe(), testing.worlds(circuit)
    assert found.values[0, [0, 2]].tolist() == [1, 0] and found.exact.all()
    assert float(found.log_prob) >= float(posterior.log_prob(worlds.unsqueeze(1)).max()) - 1e-9


@pytest.mark.parametrize("example", EXAMPLES, ids="-".join)
def test_root_flows_reach_every_variable_and_both_recursions_agree(example: tuple[str, str]) -> None:
    circuit = testing.example_circuit(*example, dtype=torch.float64)
    evidence = testing.example_evidence(circuit, "mixed")
    prepared, ones = circuit.prepared(), torch.ones(evidence.batch_size, dtype=torch.float64)
    passes = [upward(circuit.plan, prepared, evidence, semiring) for semiring in (Scaled(torch.float64), Log())]
    (linear, counts), (log, log_counts) = (downward(p, ones, count=True) for p in passes)
    for n, flows in linear.items():
        assert torch.allclose(flows, log[n], atol=1e-9)
    assert all(torch.allclose(counts[name], log_counts[name], atol=1e-9) for name in counts)
    reached = torch.zeros(circuit.num_variables, evidence.batch_size, dtype=torch.float64)
    for n, flows in linear.items():
        reached.index_add_(0, torch.tensor(circuit.plan.levels[n].variables), flows.sum(-1))
    assert torch.allclose(reached, torch.ones_like(reached), atol=1e-9)


@pytest.mark.parametrize("example", EXAMPLES, ids="-".join)
def test_missing_is_the_same_as_weights_of_one_and_as_nothing(example: tuple[str, str]) -> None:
    circuit = testing.example_circuit(*example)
    nothing = pc.Evidence.nothing(1, circuit.num_variables)
    ones = pc.Evidence(log_weights=torch.zeros(1, circuit.num_variables, circuit.num_categories))
    for evidence in (nothing, ones):
        posterior = circuit.condition(evidence)
        assert torch.allclose(posterior.log_evidence, torch.zeros(1, dtype=torch.float64), atol=1e-5)
        assert torch.allclose(posterior.marginals()[0], circuit.marginals(), atol=1e-6)


def test_a_marginal_is_at_least_any_evidence_that_refines_it() -> None:
    circuit = testing.example_circuit("rat", "cp")
    x = testing.worlds(circuit)[:16]
    coarse = pc.Evidence(x, observed=torch.tensor([[True, True, False, False]] * 16))
    fine = pc.Evidence(x, observed=torch.tensor([[True, True, True, False]] * 16))
    assert (circuit.condition(coarse).log_evidence >= circuit.condition(fine).log_evidence - 1e-6).all()


def test_conditioning_then_multiplying_gives_the_joint() -> None:
    circuit = testing.example_circuit("binary_tree", "tucker", dtype=torch.float64)
    x = testing.worlds(circuit)
    first = torch.tensor([[True, False, True, False]]).expand(len(x), -1)
    posterior = circuit.condition(pc.Evidence(x, observed=first))
    assert torch.allclose(posterior.log_evidence + posterior.log_prob(x), circuit.log_prob(x), atol=1e-10)
    pair = torch.tensor([[False, True, False, False]]).expand(len(x), -1)
    step = posterior.log_prob(x, variables=pair)
    rest = circuit.condition(pc.Evidence(x, observed=first | pair)).log_prob(x)
    assert torch.allclose(step + rest, posterior.log_prob(x), atol=1e-10)
