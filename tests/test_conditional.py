"""Conditional circuits: normalised for every y, equal to enumeration, learned by gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pcircuits as pc
from pcircuits import structures, testing
from tests.learning.small_models import fit

ANY_CALL = (pc.ParameterError, pc.ShapeError, TypeError)  # annotations that are checked at run time stop earlier


class Network(nn.Module):
    """Linear maps from y to each part that is asked for."""

    def __init__(self, features: int, circuit: pc.Circuit, parts: str, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        d, k = circuit.num_variables, circuit.num_units
        shapes: dict[str, tuple[int, ...]] = {"latent": (d, k), "gates": (d, k, k), "gate_factors": (d, 2, 3, k)}
        for family in circuit.inputs:
            if isinstance(family, pc.PerSample):
                shapes |= {name: (d, k, *size) for name, size in family.sizes.items()}
        self.shapes = {n: s for n, s in shapes.items() if n in parts.split() or ("inputs" in parts and len(n) == 6)}
        self.maps = nn.ModuleDict({n: nn.Linear(features, torch.Size(s).numel()) for n, s in self.shapes.items()})
        self.double()

    def forward(self, y: torch.Tensor) -> pc.Potentials:
        made = {name: self.maps[name](y).unflatten(-1, shape) for name, shape in self.shapes.items()}
        fields = {name: made.pop(name, None) for name in ("latent", "gates", "gate_factors")}
        return pc.Potentials(**fields, parameters=made or None)


def model(structure: str, layer: str, parts: str, seed: int) -> pc.ConditionalCircuit:
    graph = testing.example_graph(structure, 3, seed)
    family = pc.PerSample(pc.Categorical(3)) if "inputs" in parts else pc.Categorical(3)
    circuit = pc.Circuit(graph, family, num_units=2, layer=layer, seed=seed, dtype=torch.float64)
    return pc.ConditionalCircuit(circuit, Network(2, circuit, parts.replace("inputs", "inputs logits"), seed))


@settings(max_examples=12)
@given(
    st.sampled_from(["chain", "rat", "from_networkx", "hclt"]),
    st.sampled_from(["cp", "cp-t"]),
    st.sampled_from(["latent", "gates", "gate_factors", "latent gates", "inputs", "latent gates inputs"]),
    st.integers(0, 2**16),
)
def test_is_the_normalised_distribution_of_each_sample(structure: str, layer: str, parts: str, seed: int) -> None:
    conditional = model(structure, layer, parts, seed)
    y = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    worlds = testing.worlds(conditional.circuit)
    potentials = conditional.network(y)
    for b in range(2):
        row = y[b].expand(len(worlds), -1)
        scores = conditional.log_prob(worlds, row)
        assert scores.logsumexp(0).item() == pytest.approx(0.0, abs=1e-10)
        if potentials.parameters is None:
            own = {name: x[[b]] for name, x in potentials._asdict().items() if x is not None}
            given_b = pc.Evidence.nothing(1, 3).replace(**own)
            oracle = testing.Enumeration(conditional.circuit, given_b)
            assert scores.tolist() == pytest.approx(oracle.probabilities[0].log().tolist(), abs=1e-9)
        seen = torch.zeros(1, 3, dtype=torch.bool)
        seen[0, 0] = True
        posterior = conditional.condition(pc.Evidence(worlds[[5]], observed=seen), y[[b]])
        agree = worlds[:, 0] == worlds[5, 0]
        assert posterior.log_evidence.item() == pytest.approx(scores[agree].logsumexp(0).item(), abs=1e-10)
        for value in range(3):
            share = scores[agree & (worlds[:, 1] == value)].exp().sum() / scores[agree].exp().sum()
            assert posterior.marginals()[0, 1, value].item() == pytest.approx(share.item(), abs=1e-10)


def test_samples_follow_y() -> None:
    conditional = model("chain", "cp-t", "latent gates inputs", 3)
    y = torch.tensor([[1.0, -2.0], [-1.0, 0.5]], dtype=torch.float64)
    drawn = conditional.sample(y, 4000, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 2, 3)
    index = drawn @ torch.tensor([9, 3, 1])
    worlds = testing.worlds(conditional.circuit)
    for b in range(2):
        exact = conditional.log_prob(worlds, y[b].expand(27, -1)).detach().exp()
        assert testing.p_value(torch.bincount(index[:, b], minlength=27).double(), exact) > 1e-4


def test_learns_a_dependence_on_y_that_no_marginal_has() -> None:
    """x is a pair of bits whose parity is y: both bits are fair coins, whatever y is."""
    y = torch.randint(0, 2, (256, 1), generator=torch.Generator().manual_seed(0))
    first = torch.randint(0, 2, (256, 1), generator=torch.Generator().manual_seed(1))
    x = torch.cat([first, first ^ y], 1)
    family = pc.PerSample(pc.Categorical(2))
    circuit = pc.Circuit(structures.binary_tree(2), family, num_units=3, seed=0, dtype=torch.float64)
    conditional = pc.ConditionalCircuit(circuit, Network(1, circuit, "inputs logits"))
    objective = pc.ConditionalCircuit.log_likelihood
    fit(conditional, [(x, y.double())], objective=objective, learner=pc.Adam(0.3), epochs=60)
    with torch.no_grad():
        assert float(conditional(x, y.double()).mean()) > -0.75  # log 2 = 0.693 is the entropy of x given y


def test_refusals() -> None:
    conditional = model("chain", "cp", "latent", 0)
    circuit, y, x = conditional.circuit, torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(pc.EvidenceError, match="come from its network"):
        conditional.condition(pc.Evidence(x, latent=torch.zeros(2, 3, 2)), y)
    with pytest.raises(ANY_CALL):
        conditional.log_prob(x, y[:1])
    with pytest.raises(ANY_CALL):
        pc.ConditionalCircuit(nn.Linear(1, 1), nn.Identity())  # type: ignore[arg-type]

    class Fixed(nn.Module):
        def __init__(self, made: object) -> None:
            super().__init__()
            self.made = made

        def forward(self, y: torch.Tensor) -> object:
            return self.made

    def raises(made: object, error: type[Exception] | tuple, match: str) -> None:
        with pytest.raises(error, match=match):
            pc.ConditionalCircuit(circuit, Fixed(made)).sample(y)

    raises(torch.zeros(2, 3, 2), pc.ParameterError, "must return Potentials, got torch.float32 tensor")
    raises(pc.Potentials(), pc.ParameterError, "without any part")
    raises(pc.Potentials(torch.full((2, 3, 2), -torch.inf)), pc.EvidenceError, r"possible in batch rows \[0, 1")
    raises(pc.Potentials(torch.zeros(2, 3, 2), torch.zeros(1, 3, 2, 2)), pc.ShapeError, r"of \[1, 2\] samples")
