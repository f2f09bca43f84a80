"""Pruning loses no more than the flows of what it removes; growing without noise changes nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import learning, testing
from pcircuits.layers import SumGroup
from tests.learning.small_models import fit, hmm, sequences, tree

STRUCTURES = ["hmm", "binary_tree", "rat", "from_networkx", "hclt"]
LAYERS = testing.LAYERS


def example(structure: str, layer: str, seed: int, weights: str = "dense") -> pc.Circuit:
    return testing.example_circuit(
        structure, layer, "mixed", weights=weights, num_variables=3, num_units=2, seed=seed, dtype=torch.float64
    )


def edges(circuit: pc.Circuit) -> dict[str, torch.Tensor]:
    """Which weights of each sum may be positive."""
    groups = {name: group for name, group in circuit.named_groups() if isinstance(group, SumGroup)}
    return {
        n: torch.ones_like(g.log_weights, dtype=torch.bool) if g.support is None else g.support.clone()
        for n, g in groups.items()
    }


def possible(circuit: pc.Circuit, seed: int) -> pc.Evidence:
    generator = torch.Generator().manual_seed(seed)
    x = circuit.sample(3, generator=generator)
    return pc.Evidence(x, observed=torch.rand(x.shape, generator=generator) < 0.7)


@settings(max_examples=8)
@given(
    st.sampled_from(STRUCTURES),
    st.sampled_from(LAYERS),
    st.sampled_from(["dense", "sparse"]),
    st.floats(0, 0.9),
    st.integers(0, 999),
)
@torch.no_grad()
def test_the_loss_is_bounded_by_the_flows(structure: str, layer: str, weights: str, share: float, seed: int) -> None:
    circuit = example(structure, layer, seed, weights)
    evidence = possible(circuit, seed)
    before, start = circuit.condition(evidence).log_evidence, edges(circuit)
    counts = [circuit.statistics(evidence.rows(torch.tensor([b]))).counts for b in range(3)]
    found = learning.prune(circuit, evidence, share=share)
    gone = {name: start[name] & ~left for name, left in edges(circuit).items()}
    flow = torch.stack([sum(c[n]["counts"][gone[n]].sum() for n in gone) for c in counts])  # type: ignore[misc]
    assert (
        found.removed == sum(int(x.sum()) for x in gone.values()) <= share * sum(int(x.sum()) for x in start.values())
    )
    assert found.kept == sum(int(x.sum()) for x in edges(circuit).values())
    assert found.flow == pytest.approx(float(flow.mean()), abs=1e-9)
    bound = torch.where(flow < 1, (1 - flow.clamp_max(1)).log(), -torch.inf)
    after = circuit.condition(evidence).log_evidence
    assert (after >= before + bound - 1e-9).all()
    assert all((left.sum(-1) >= 1).all() for left in edges(circuit).values())
    assert circuit.condition(pc.Evidence.nothing(1, 3)).log_evidence.item() == pytest.approx(0.0, abs=1e-9)


def test_what_is_removed_has_the_least_flow_of_all() -> None:
    circuit, x = hmm(), sequences(60)
    counts = circuit.statistics(x).counts
    learning.prune(circuit, x, share=0.3)
    kept = edges(circuit)
    removed = torch.cat([counts[n]["counts"][~kept[n]] for n in kept])
    largest = {n: counts[n]["counts"] == counts[n]["counts"].amax(-1, keepdim=True) for n in kept}
    others = torch.cat([counts[n]["counts"][kept[n] & ~largest[n]] for n in kept])
    assert len(removed) and removed.max() <= others.min()


def test_learners_keep_removed_edges_at_zero() -> None:
    circuit, x = tree(pc.Categorical(4)), sequences(40)
    learning.prune(circuit, x, share=0.5)
    before = edges(circuit)
    for learner in ("em", "adam"):
        fit(circuit, x, learner=learner, epochs=2)
    after = circuit.prepared()
    for name, left in before.items():
        assert torch.equal(edges(circuit)[name], left) and not after[name].linear[~left].any()
    again = learning.prune(circuit, x, share=0.0)
    assert again.removed == 0 and again.kept == sum(int(x.sum()) for x in before.values())


def test_weights_of_rows_count() -> None:
    one, two = hmm(seed=3), hmm(seed=3)
    x = sequences(8)
    weights = torch.tensor([2.0, 0, 1, 1, 0, 0, 3, 1])
    learning.prune(one, x, share=0.4, sample_weights=weights, batch_size=3)
    learning.prune(two, x.repeat_interleave(weights.long(), 0), share=0.4)
    assert all(torch.equal(edges(one)[n], edges(two)[n]) for n in edges(one))


@settings(max_examples=8)
@given(
    st.sampled_from(STRUCTURES),
    st.sampled_from(LAYERS),
    st.sampled_from(["dense", "sparse"]),
    st.integers(2, 3),
    st.integers(0, 999),
)
@torch.no_grad()
def test_without_noise_it_is_the_same_distribution(
    structure: str, layer: str, weights: str, copies: int, seed: int
) -> None:
    circuit = example(structure, layer, seed, weights)
    grown = learning.grow(circuit, copies=copies, noise=0.0)
    assert grown.num_units == copies * circuit.num_units and grown.inputs == circuit.inputs
    evidence = possible(circuit, seed)
    one, other = circuit.condition(evidence), grown.condition(evidence)
    assert torch.allclose(one.log_evidence, other.log_evidence, atol=1e-10)
    for a, b in zip(one.marginals(), other.marginals(), strict=True):
        pairs = zip(a, b, strict=True) if isinstance(a, pc.Moments) else [(a, b)]
        assert all(torch.allclose(p, q, atol=1e-10) for p, q in pairs)


def test_an_hmm_grows_to_an_hmm_that_learns_more() -> None:
    x, circuit = sequences(200), pc.HMM(2, 4, 4, seed=0, dtype=torch.float64)
    fit(circuit, x, learner=pc.EM(0.0), epochs=20)
    grown = learning.grow(circuit, noise=0.3, generator=torch.Generator().manual_seed(0))
    assert isinstance(grown, pc.HMM) and grown.num_states == 4
    before = float(circuit.log_prob(x).mean().detach())
    assert float(grown.log_prob(x).mean().detach()) != pytest.approx(before, abs=1e-6)
    history = fit(grown, x, learner=pc.EM(0.0), epochs=20)
    assert -history.epochs[-1].train_loss > before + 0.02
    learning.prune(grown, x, share=0.3)
    assert pc.check(grown).normalised


def test_edges_stay_removed_between_copies() -> None:
    circuit, x = tree(pc.Categorical(4)), sequences(30)
    learning.prune(circuit, x, share=0.4)
    grown = learning.grow(circuit, noise=0.5, generator=torch.Generator().manual_seed(0))
    for name, left in edges(circuit).items():
        assert int((~edges(grown)[name]).sum()) == int((~left).sum()) * edges(grown)[name].numel() // left.numel()
        assert not grown.prepared()[name].linear[~edges(grown)[name]].any()


def test_refusals() -> None:
    circuit, x = hmm(), sequences(5)
    for share in (-0.1, 1.0, math.nan):
        with pytest.raises(pc.ParameterError, match="share"):
            learning.prune(circuit, x, share=share)
    with pytest.raises(pc.StructureError, match="a ProductCircuit has no weights of its own"):
        learning.prune(pc.square(circuit), x, share=0.1)
    with pytest.raises(pc.ParameterError, match="all zero"):
        learning.prune(circuit, x, share=0.1, sample_weights=torch.zeros(5))
    with pytest.raises(pc.ParameterError, match="2 copies"):
        learning.grow(circuit, copies=1)
    with pytest.raises(pc.ParameterError, match="noise"):
        learning.grow(circuit, noise=-1.0)
    for single in (pc.HMM(1, 4, 4), testing.example_circuit("chow_liu", "cp-t")):
        with pytest.raises(pc.StructureError, match="at least two"):
            learning.grow(single)
    with pytest.raises(pc.StructureError, match="got a ProductCircuit"):
        learning.grow(pc.square(circuit))
