"""Bad input gets the right error, naming the argument, what was given and what would do, before any work."""

import pytest
import torch

import pcircuits as pc
from pcircuits import structures

ANY_CALL = (ValueError, TypeError)  # where annotations are checked at run time, a wrong type stops earlier


@pytest.fixture
def circuit() -> pc.Circuit:
    return pc.Circuit(structures.binary_tree(3), pc.Categorical(4), num_units=2, seed=0)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (torch.tensor([[0, 1, 4]]), pc.EvidenceError, r"variable 2 .* 0\.\.3, got 4 in batch rows \[0\]"),
        (torch.tensor([[0, 1, -1]]), pc.EvidenceError, r"variable 2 .* got -1"),
        (torch.tensor([[0.0, 1.0, 1.5]]), pc.EvidenceError, r"variable 2 .* got 1.5"),
        (torch.tensor([[0, 1]]), pc.ShapeError, "2 variables, this circuit has 3"),
        (torch.zeros(0, 3), pc.ShapeError, "empty batch"),
        (torch.tensor([[0.0, 1.0, torch.nan]]), pc.EvidenceError, r"NaN .*from_nan"),
    ],
)
def test_values(circuit: pc.Circuit, values: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        circuit.log_prob(values)


@pytest.mark.parametrize("values", [torch.zeros(3), torch.zeros(1, 1, 3), [[0, 1, 2]], None])
def test_values_that_are_no_table(circuit: pc.Circuit, values: object) -> None:
    with pytest.raises(ANY_CALL):
        circuit.log_prob(values)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"log_weights": torch.zeros(1, 3, 3)}, pc.EvidenceError, "covers 3 values"),
        ({"log_weights": torch.full((1, 3, 4), torch.nan)}, pc.EvidenceError, r"NaN .* rows \[0\]"),
        ({"log_weights": torch.full((1, 3, 4), torch.inf)}, pc.EvidenceError, "inf"),
        ({"log_weights": torch.zeros(0, 3, 4)}, pc.ShapeError, "empty batch"),
        ({}, pc.EvidenceError, "neither was given"),
    ],
)
def test_weights(circuit: pc.Circuit, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        circuit.condition(pc.Evidence(**arguments))


def test_mask_of_another_shape_or_type() -> None:
    for observed in (torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3)):
        with pytest.raises(ANY_CALL):
            pc.Evidence(torch.zeros(1, 3), observed=observed)


def test_soft_weights_of_continuous_variables_are_refused() -> None:
    circuit = pc.Circuit(structures.binary_tree(2), [pc.Gaussian(), pc.Categorical(2)], num_units=2, seed=0)
    log_weights = torch.zeros(1, 2, 2)
    circuit.condition(pc.Evidence(log_weights=log_weights))
    log_weights[0, 0, 0] = 1.0
    with pytest.raises(pc.EvidenceError, match=r"variable 0 .* discrete"):
        circuit.condition(pc.Evidence(log_weights=log_weights))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (torch.tensor([1.0]), pc.ShapeError, r"shape \(2,\)"),
        (torch.tensor([1.0, -1.0]), pc.ParameterError, r"rows \[1\]"),
        (torch.tensor([1.0, torch.nan]), pc.ParameterError, r"rows \[1\]"),
        (torch.tensor([0.0, 0.0]), pc.ParameterError, "all zero"),
    ],
)
def test_sample_weights(circuit: pc.Circuit, weights: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        circuit.statistics(torch.zeros(2, 3), sample_weights=weights)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_units": 0}, pc.ParameterError, "num_units"),
        ({}, pc.ParameterError, "num_units"),
        ({"num_units": 2, "layer": "dense"}, pc.StructureError, "cp, cp-t, tucker"),
        ({"num_units": 2, "dtype": torch.float16}, pc.ParameterError, "float16"),
        ({"num_units": 2, "inputs": [pc.Categorical(2)]}, pc.StructureError, "one family for each of 3"),
    ],
)
def test_circuits(arguments: dict, error: type[Exception], message: str) -> None:
    inputs = arguments.pop("inputs", pc.Categorical(2))
    with pytest.raises(error, match=message):
        pc.Circuit(structures.binary_tree(3), inputs, **arguments)


@pytest.mark.parametrize("arguments", [{"initial": [0.5, 0.6]}, {"initial": [1.5, -0.5]}, {"emission": [[0.5, 0.5]]}])
def test_hmm_probabilities(arguments: dict) -> None:
    tables = {"initial": [0.5, 0.5], "transition": [[0.5, 0.5]] * 2, "emission": [[0.5, 0.5]] * 2} | arguments
    with pytest.raises(pc.ParameterError, match=next(iter(arguments))):
        pc.HMM.from_probs(**{name: torch.tensor(table) for name, table in tables.items()}, length=3)


@pytest.mark.parametrize(
    "family",
    [
        lambda: pc.Categorical(0),
        lambda: pc.Gaussian(scale=0.0),
        lambda: pc.Gaussian(loc=torch.inf),
        lambda: pc.Gaussian(scale=torch.inf),
        lambda: pc.Gaussian(min_std=0.0),
        lambda: pc.Gaussian(scale=1e-3, min_std=1e-3),
    ],
)
def test_families(family) -> None:
    with pytest.raises(pc.ParameterError):
        family()


def test_queries_of_a_posterior(circuit: pc.Circuit) -> None:
    posterior = circuit.condition(pc.Evidence(torch.zeros(2, 3)))
    with pytest.raises(pc.ShapeError, match=r"\(2, 3\)"):
        posterior.log_prob(torch.zeros(3, 3))
    with pytest.raises(pc.ShapeError, match="positive integer"):
        posterior.sample(0)
    with pytest.raises(pc.ShapeError, match="temperature"):
        posterior.sample(1, temperature=-1.0)
    with pytest.raises(pc.ShapeError, match="log_targets"):
        pc.match_marginals(circuit, posterior.evidence, torch.zeros(2, 3, 5))
    for wrong in (torch.ones(1, 3, dtype=torch.bool), torch.ones(2, 3)):
        with pytest.raises(ANY_CALL):
            posterior.log_prob(torch.zeros(2, 3), variables=wrong)
    for temperature in (float("inf"), float("nan")):
        with pytest.raises(pc.ShapeError, match="temperature"):
            posterior.sample(1, temperature=temperature)
    with pytest.raises(pc.ParameterError, match="step"):
        circuit.maximise(circuit.statistics(torch.zeros(2, 3)), step=2.0)


def test_the_least_that_is_allowed(circuit: pc.Circuit) -> None:
    constant = pc.Circuit(structures.binary_tree(2), pc.Categorical(1), num_units=1, seed=0)
    assert constant.log_prob(torch.zeros(1, 2)).item() == 0.0
    assert pc.check(constant, tolerance=0.0).normalised
    posterior = circuit.condition(pc.Evidence(torch.tensor([[0, 3, 0]])))
    assert posterior.sample(1, temperature=0.0).tolist() == [[[0, 3, 0]]]
    barely = pc.Gaussian(scale=1e-3 + 1e-12)
    assert all(p.isfinite().all() for p in pc.Circuit(structures.binary_tree(2), barely, num_units=2).parameters())


def test_missing_values_as_nan() -> None:
    evidence = pc.Evidence.from_nan(torch.tensor([[0.0, torch.nan], [torch.nan, 2.0]]))
    assert evidence.observed.tolist() == [[True, False], [False, True]]
    assert evidence.values[evidence.observed].tolist() == [0.0, 2.0] and evidence.values.isfinite().all()
    with pytest.raises(ANY_CALL):
        pc.Evidence.from_nan(torch.zeros(1, 2, dtype=torch.long))


def test_infinite_values_of_continuous_variables_are_refused() -> None:
    circuit = pc.Circuit(structures.binary_tree(3), pc.Gaussian(), num_units=2, seed=0)
    values = torch.zeros(3, 3)
    values[1, 2] = torch.inf
    for evidence in (pc.Evidence(values), pc.Evidence.from_nan(values)):
        with pytest.raises(pc.EvidenceError, match=r"variable 2 .* rows \[1\]"):
            circuit.condition(evidence)
    circuit.condition(pc.Evidence(values, observed=values.isfinite()))


def test_values_that_do_not_count_may_be_anything() -> None:
    """Unobserved values of evidence; and values of x that `variables` leaves out."""
    circuit = pc.Circuit(structures.binary_tree(3), [pc.Categorical(4), pc.Gaussian(), pc.Bernoulli()], num_units=2)
    observed = torch.tensor([[False, True, False], [False, False, True]])
    log_weights = torch.zeros(2, 3, 4)
    log_weights[:, 0, 1] = 2.0
    values = torch.tensor([[9.0, 0.5, torch.nan], [torch.inf, torch.nan, 1.0]])
    posterior = circuit.condition(pc.Evidence(values, observed=observed, log_weights=log_weights))
    clean = pc.Evidence(torch.where(observed, values, 0.0), observed=observed, log_weights=log_weights)
    assert torch.equal(posterior.log_evidence, circuit.condition(clean).log_evidence)
    chosen = torch.tensor([[True, False, False]] * 2)
    x = torch.tensor([[1.0, torch.nan, 17.0], [1.0, torch.nan, torch.nan]])
    plain = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 1.0]])
    found = posterior.log_prob(x, variables=chosen)
    assert torch.equal(found, posterior.log_prob(plain, variables=chosen))
    assert torch.allclose(found, posterior.marginals()[0][:, 1].double().log(), atol=1e-6)


@pytest.mark.parametrize(
    "support",
    [
        torch.zeros(1, 3, 3, dtype=torch.bool),
        torch.tensor([[[True] * 3, [True] * 3, [False] * 3]]),
        torch.ones(1, 3, 3),
    ],
)
def test_supports_that_leave_a_unit_without_value(support: torch.Tensor) -> None:
    hmm = pc.HMM(3, 4, 3, seed=0)
    with pytest.raises(ANY_CALL):
        hmm.group("transition").restrict(support)
