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
    "family", [lambda: pc.Categorical(0), lambda: pc.Gaussian(scale=0.0), lambda: pc.Gaussian(loc=torch.inf)]
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
    with pytest.raises(pc.ParameterError, match="step"):
        circuit.maximise(circuit.statistics(torch.zeros(2, 3)), step=2.0)
