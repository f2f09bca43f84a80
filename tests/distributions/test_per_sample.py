"""Units with parameters in every sample: equal to a circuit a sample, by enumeration."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import structures, testing

BASES = [pc.Categorical(3), pc.Gaussian(), pc.Bernoulli(), pc.Categorical(2)]
ANY_CALL = (pc.ShapeError, TypeError)  # where annotations are checked at run time, a wrong shape stops earlier
SEEDS = st.integers(0, 2**16)


def wrapped(structure: str, layer: str, seed: int, num_variables: int = 4) -> tuple[pc.Circuit, list[pc.InputFamily]]:
    bases = [BASES[(v + seed) % len(BASES)] for v in range(num_variables)]
    graph = testing.example_graph(structure, num_variables, seed)
    families = [pc.PerSample(base) for base in bases]
    return pc.Circuit(graph, families, num_units=3, layer=layer, seed=seed, dtype=torch.float64), bases


def parameters(bases: list[pc.InputFamily], batch: int, seed: int) -> dict[str, torch.Tensor]:
    """Of all names and the largest sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes: dict[str, tuple[int, ...]] = {}
    for family in map(pc.PerSample, bases):
        for name, size in family.sizes.items():
            sizes[name] = max(size, sizes.get(name, size))
    return {
        name: torch.randn(batch, len(bases), 3, *size, generator=generator, dtype=torch.float64)
        for name, size in sizes.items()
    }


@torch.no_grad()
def of_sample(circuit: pc.Circuit, bases: list[pc.InputFamily], given: dict[str, torch.Tensor], b: int) -> pc.Circuit:
    """The circuit whose own parameters are those of one sample."""
    options = {"num_units": 3, "layer": circuit.layer, "dtype": torch.float64}
    plain = pc.Circuit(circuit.graph, bases, seed=0, **options)
    plain.load_state_dict(circuit.state_dict())
    for block, place in zip(plain.plan.blocks, plain.plan.places, strict=True):
        if block.kind == "input":
            group, row = plain.group(place[0]), place[1]
            for name, parameter in group.named_parameters():
                own = given[name][b, block.variables[0]]
                parameter[row] = own[:, : parameter.shape[-1]] if parameter.ndim > 2 else own
    return plain


@settings(max_examples=10)
@given(
    st.sampled_from(["binary_tree", "rat", "from_networkx", "chain"]),
    st.sampled_from(["cp", "cp-t", "tucker"]),
    st.sampled_from(["mixed", "interval", "observed"]),
    SEEDS,
)
@torch.no_grad()
def test_equals_a_circuit_a_sample(structure: str, layer: str, kind: str, seed: int) -> None:
    circuit, bases = wrapped(structure, layer, seed)
    evidence = testing.example_evidence(circuit, kind, seed=seed)
    own = parameters(bases, evidence.batch_size, seed)
    posterior = circuit.condition(evidence.replace(parameters=own))
    x = posterior.sample(2, generator=torch.Generator().manual_seed(seed))
    log_prob, found, best = posterior.log_prob(x), posterior.marginals(), posterior.mpe()
    for b in range(evidence.batch_size):
        row = torch.tensor([b])
        plain = of_sample(circuit, bases, own, b)
        oracle = testing.Enumeration(plain, evidence.rows(row))
        assert posterior.log_evidence[b].tolist() == pytest.approx(oracle.log_evidence.item(), abs=1e-9)
        assert log_prob[:, b].tolist() == pytest.approx(oracle.log_prob(x[:, row])[:, 0].tolist(), abs=1e-9)
        for mine, wanted in zip(found, oracle.marginals(), strict=True):
            pairs = zip(mine, wanted, strict=True) if isinstance(mine, pc.Moments) else [(mine, wanted)]
            assert all(torch.allclose(a[b], w[0], atol=1e-9) for a, w in pairs)
        assert best.log_prob[b].item() == pytest.approx(oracle.log_prob(best.values[row])[0].item(), abs=1e-9)


def test_samples_of_each_sample_are_of_its_own_distribution() -> None:
    circuit, bases = wrapped("binary_tree", "cp", 2)
    own = parameters(bases, 2, 5)
    nothing = pc.Evidence.nothing(2, 4).replace(parameters=own)
    drawn = circuit.condition(nothing).sample(2000, generator=torch.Generator().manual_seed(1))
    for b in range(2):
        oracle = testing.Enumeration(of_sample(circuit, bases, own, b), pc.Evidence.nothing(1, 4))
        assert min(testing.sample_p_values(drawn[:, [b]], oracle)) > 1e-4


def test_without_parameters_it_is_the_family() -> None:
    testing.check_input_family(pc.PerSample(pc.Bernoulli()))


def test_gradients_reach_the_evidence() -> None:
    circuit, bases = wrapped("binary_tree", "cp", 0, num_variables=2)
    circuit.requires_grad_(False)
    own = {name: x.requires_grad_() for name, x in parameters(bases, 2, 3).items()}
    x = testing.example_evidence(circuit, "observed", batch=2).values

    def score(*tensors: torch.Tensor) -> torch.Tensor:
        return circuit.condition(pc.Evidence(x, parameters=dict(zip(own, tensors, strict=True)))).log_evidence

    assert torch.autograd.gradcheck(score, tuple(own.values()), eps=1e-6, atol=1e-6)


def test_saved_with_the_family_inside(tmp_path: Path) -> None:
    circuit, _ = wrapped("binary_tree", "cp", 0)
    pc.save(circuit, tmp_path)
    assert pc.load(tmp_path).inputs == circuit.inputs


def test_refusals() -> None:
    circuit = pc.Circuit(structures.factorized(2), pc.PerSample(pc.Categorical(3)), num_units=2, seed=0)
    x = torch.zeros(3, 2, dtype=torch.long)
    fit, narrow = torch.zeros(3, 2, 2, 3), torch.zeros(3, 2, 2, 2)
    with pytest.raises(pc.EvidenceError, match=r"'mean' belong to no input"):
        circuit.condition(pc.Evidence(x, parameters={"mean": fit}))
    with pytest.raises(pc.ShapeError, match=r"cover 5 units, this circuit has 2"):
        circuit.condition(pc.Evidence(x, parameters={"logits": torch.zeros(3, 2, 5, 3)}))
    with pytest.raises(pc.ShapeError, match=r"must have \(3,\) after"):
        circuit.condition(pc.Evidence(x, parameters={"logits": narrow}))
    with pytest.raises(ANY_CALL):
        pc.Evidence(x, parameters={"logits": fit[:2]})
    with pytest.raises(pc.EvidenceError, match=r"NaN in batch rows \[0, 1, 2\]"):
        pc.Evidence(x, parameters={"logits": fit * torch.nan})
    with pytest.raises(pc.ShapeError, match="mapping"):
        pc.Evidence(x, parameters={})
    with pytest.raises(pc.ParameterError, match="Adam"):
        circuit.statistics(pc.Evidence(x, parameters={"logits": fit}))
    with pytest.raises(pc.StructureError, match="discrete"):
        pc.match_marginals(circuit, pc.Evidence.nothing(3, 2), torch.zeros(3, 2, 3), sweeps=1)
    with pytest.raises(pc.ParameterError, match="wraps a family of one variable"):
        pc.PerSample(pc.PerSample(pc.Gaussian()))
    plain = pc.Circuit(structures.factorized(2), pc.Categorical(3), num_units=2, seed=0)
    with pytest.raises(pc.EvidenceError, match="belong to no input"):
        plain.condition(pc.Evidence(x, parameters={"logits": fit}))
