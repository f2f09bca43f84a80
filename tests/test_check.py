"""`check` says which properties a circuit has."""

import random

import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.queries import determinism
from pcircuits.structures import Region, RegionGraph
from pcircuits.testing import example_circuit
from pcircuits.testing.recursion import leaf_parameters, log_root, log_weights


def test_a_tree() -> None:
    assert pc.check(example_circuit("binary_tree")) == pc.Properties(True, True, True, False, True)


def test_determinism_is_proven_where_latents_are_observed() -> None:
    assert pc.check(example_circuit("chow_liu", "cp-t")).deterministic is True
    assert pc.check(example_circuit("hclt", "cp-t")).deterministic is False
    assert pc.check(example_circuit("rat", num_variables=5)).deterministic is None


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


def most_paths(circuit: pc.Circuit) -> float:
    """The largest number of latent paths of positive probability that any one world has."""
    worlds = testing.worlds(circuit)

    def positive(log: torch.Tensor) -> torch.Tensor:
        return torch.where(log.isneginf(), -torch.inf, 0.0).double()

    def leaf(node) -> torch.Tensor:
        parameters = leaf_parameters(circuit, node)
        allowed = parameters.get("support", torch.ones_like(parameters["logits"], dtype=torch.bool))
        return torch.where(allowed, 0.0, -torch.inf).double().mT[worlds[:, node.variable]]

    return log_root(circuit, leaf, lambda node: positive(log_weights(circuit, node))).amax().exp().item()


@torch.no_grad()
def test_proven_determinism_means_one_path_a_world_and_one_unit_more_breaks_it() -> None:
    outcomes = []
    for seed in range(80):
        generator = torch.Generator().manual_seed(seed)
        structure, layer = ("binary_tree", "chain", "hclt", "factorized", "rat")[seed % 5], testing.LAYERS[seed % 3]
        circuit = example_circuit(structure, layer, num_variables=2 + seed % 3, num_units=2 + seed % 2, seed=seed)
        for name, group in circuit.named_groups():
            if seed % 4 and not (name == max(circuit.groups) and seed % 2):
                noise = torch.rand(next(iter(group.parameters())).shape, generator=generator)
                group.restrict(noise >= noise.amax(-1, keepdim=True) - (seed % 4 - 1) * 0.15)
        found, paths = determinism(circuit.plan, circuit.prepared()), most_paths(circuit)
        proven = found is True
        assert not proven or paths < 1.5, f"seed {seed}: {paths} paths"
        assert found is not False or paths > 1.5, f"seed {seed}: {paths} paths"
        assert found is not None or structure == "rat", f"seed {seed}: unknown"
        outcomes.append((proven, paths > 1.5))
    assert all(outcomes.count(kind) >= 8 for kind in ((True, False), (False, True))), outcomes


@torch.no_grad()
def test_single_units_are_deterministic_just_where_each_world_has_one_path() -> None:
    """Formulas compiled along a vtree, some of whose literals are no longer any."""
    outcomes = []
    for seed in range(60):
        generator = random.Random(seed)
        count = generator.randint(4, 6)
        clauses = [
            [v * generator.choice((-1, 1)) for v in generator.sample(range(1, count + 1), 3)]
            for _ in range(generator.randint(2, count))
        ]
        circuit = pc.interop.compile_cnf(clauses, num_variables=count, vtree="balanced" if seed % 2 else "right")
        inputs = next(group for _, group in circuit.named_groups() if group.support is not None)
        if seed % 4:
            inputs.support[generator.sample(range(len(inputs.support)), min(2, len(inputs.support)))] = True
        outcomes.append(circuit.determinism() is True)
        assert outcomes[-1] == (most_paths(circuit) < 1.5), f"seed {seed}"
    assert 10 <= sum(outcomes) <= 45


@torch.no_grad()
def test_units_that_overlap_through_one_path_only_are_not_deterministic() -> None:
    """Every lower sum is deterministic, and both units of the root's child may be positive on the value 0."""
    stack = RegionGraph((Region.input(0), Region.split((0,)), Region.split((1,)), Region.split((2,))))
    circuit = pc.Circuit(stack, pc.Categorical(3), num_units=2, layer="cp-t", seed=0)
    inputs, lower, upper, _ = (group for _, group in circuit.named_groups())
    inputs.restrict(torch.tensor([[[True, False, False], [False, True, True]]]))
    eye = torch.eye(2, dtype=torch.bool).unsqueeze(0)
    lower.restrict(eye)
    upper.restrict(eye)
    assert determinism(circuit.plan, circuit.prepared()) is True
    upper.restrict(torch.tensor([[[True, False], [True, False]]]))
    assert determinism(circuit.plan, circuit.prepared()) is False
    assert most_paths(circuit) == 2.0
