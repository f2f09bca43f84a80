"""`check` says which properties a circuit has."""

import torch

import pcircuits as pc
from pcircuits.testing import example_circuit


def test_a_tree() -> None:
    assert pc.check(example_circuit("binary_tree")) == pc.Properties(True, True, True, None, True)


def test_determinism_is_proven_where_latents_are_observed() -> None:
    assert pc.check(example_circuit("chow_liu", "cp-t")).deterministic is True
    assert pc.check(example_circuit("hclt", "cp-t")).deterministic is None


def test_rat_repetitions_split_unlike() -> None:
    assert not pc.check(example_circuit("rat", num_variables=5)).structured_decomposable


def test_parameters_that_are_nan_are_not_normalised() -> None:
    circuit = pc.HMM(3, 4, 5, seed=0)
    assert pc.check(circuit).normalised
    with torch.no_grad():
        circuit.groups["transition"].get_parameter("log_weights")[0, 0] = torch.nan
    assert not pc.check(circuit).normalised


def test_long_chains_and_float64() -> None:
    assert pc.check(pc.HMM(4, 4, 3000, seed=0), tolerance=1e-2).normalised
    assert pc.check(pc.HMM(4, 4, 300, seed=0, dtype=torch.float64), tolerance=1e-10).normalised
