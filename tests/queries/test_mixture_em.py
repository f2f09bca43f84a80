"""EM of a mixture: counts are those of the components, weighted by what enumeration says of each row."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits import testing

LEARNERS = [pc.EM(pseudocount=0.0), pc.MiniBatchEM(step=0.5, pseudocount=1e-3), pc.Anemone()]


def rows_with_gaps(circuit: pc.Circuit, n: int = 40, seed: int = 0) -> pc.Evidence:
    generator = torch.Generator().manual_seed(seed)
    x = circuit.sample(n, generator=generator)
    return pc.Evidence(x, observed=torch.rand(x.shape, generator=generator) < 0.7)


def hmm(seed: int = 0) -> pc.HMM:
    return pc.HMM(3, 3, 4, seed=seed, dtype=torch.float64)


def tree(seed: int = 0, layer: str = "cp") -> pc.Circuit:
    graph = pc.structures.binary_tree(4)
    return pc.Circuit(graph, pc.Categorical(3), num_units=2, layer=layer, seed=seed, dtype=torch.float64)


def responsibilities(circuits: list[pc.Circuit], shares: Tensor, evidence: pc.Evidence) -> Tensor:
    """`p(m | row)` (M, B) of possible rows, by enumeration."""
    each = torch.stack([testing.Enumeration(circuit, evidence).log_evidence for circuit in circuits])
    return (each + shares.log().unsqueeze(1)).softmax(0)


def require_counts(found: pc.Statistics, prefix: str, want: pc.Statistics) -> None:
    for group, parts in want.counts.items():
        for part, value in parts.items():
            assert torch.allclose(found.counts[f"{prefix}{group}"][part], value, rtol=1e-8, atol=1e-8), group


@settings(max_examples=15)
@given(st.data())
def test_counts_equal_enumeration(data: st.DataObject) -> None:
    """Also in groups that lie side by side in the mixture, under evidence of every kind that is possible."""
    inputs = data.draw(st.sampled_from(testing.INPUTS))
    circuits = [
        testing.example_circuit(
            data.draw(st.sampled_from([s for s in testing.STRUCTURES if s != "chow_liu"])),
            data.draw(st.sampled_from(testing.LAYERS)),
            inputs,
            num_variables=4,
            num_units=data.draw(st.integers(1, 3)),
            seed=n,
            dtype=torch.float64,
        )
        for n in range(data.draw(st.integers(1, 3)))
    ]
    kind = data.draw(st.sampled_from(["observed", "missing", "hard", "soft", "mixed", "interval"]))
    evidence = testing.example_evidence(circuits[0], kind, batch=5)
    shares = torch.rand(len(circuits), dtype=torch.float64) + 0.1
    weights = torch.rand(evidence.batch_size, dtype=torch.float64) + 0.5
    mixed = pc.mixture(circuits, shares)
    found = mixed.statistics(evidence, sample_weights=weights)
    of_rows = responsibilities(circuits, shares, evidence) * weights
    assert torch.allclose(found.counts["log_shares"]["counts"].view(-1), of_rows.sum(1), atol=1e-9)
    assert float(found.log_likelihood) == pytest.approx(
        float(mixed.condition(evidence).log_evidence.detach() @ weights)
    )
    for n, (circuit, row) in enumerate(zip(circuits, of_rows, strict=True)):
        require_counts(found, f"sources.{n}.", circuit.statistics(evidence, sample_weights=row))


def test_what_components_share_is_learned_once_from_all() -> None:
    a, b = hmm(), tree()
    inner = pc.mixture([b, a], [0.3, 0.7])
    mixed, evidence = pc.mixture([a, inner, b, inner], [0.1, 0.2, 0.3, 0.4]), rows_with_gaps(tree(5))
    found = mixed.statistics(evidence)
    flat = torch.tensor([0.1, 0.6 * 0.3, 0.6 * 0.7, 0.3], dtype=torch.float64)
    of_rows = responsibilities([a, b, a, b], flat, evidence)
    require_counts(found, "sources.0.", a.statistics(evidence, sample_weights=of_rows[0] + of_rows[2]))
    require_counts(found, "sources.1.sources.0.", b.statistics(evidence, sample_weights=of_rows[1] + of_rows[3]))
    inner_shares = found.counts["sources.1.log_shares"]["counts"].view(-1)
    assert torch.allclose(inner_shares, of_rows[1:3].sum(1), atol=1e-9)
    assert len(found.counts) == len(a.groups) + len(b.groups) + 2
    before = float(found.log_likelihood)
    mixed.maximise(found)
    assert float(mixed.statistics(evidence).log_likelihood) > before


def test_the_m_step_is_that_of_each_component() -> None:
    shares = torch.tensor([0.4, 0.6], dtype=torch.float64)
    mixed, alone = pc.mixture([hmm(), tree()], shares), [hmm(), tree()]
    evidence = rows_with_gaps(tree(5))
    of_rows = responsibilities(alone, shares, evidence)
    mixed.maximise(mixed.statistics(evidence), pseudocount=0.3, step=0.7)
    for circuit, row in zip(alone, of_rows, strict=True):
        circuit.maximise(circuit.statistics(evidence, sample_weights=row), pseudocount=0.3, step=0.7)
    for circuit, source in zip(alone, mixed.sources, strict=True):
        for want, got in zip(circuit.parameters(), source.parameters(), strict=True):
            assert torch.allclose(got, want, atol=1e-9)
    want = 0.3 * shares + 0.7 * (of_rows.sum(1) + 0.15) / (evidence.batch_size + 0.3)
    assert torch.allclose(mixed.shares, want, atol=1e-12)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_every_learner_of_counts_improves_and_stays_normalised(learner: pc.learning.Learner) -> None:
    mixed, evidence = pc.mixture([hmm(), tree(), tree(1, "tucker")]), rows_with_gaps(tree(5), 90)
    losses = pc.fit(mixed, evidence, learner=learner, epochs=6, batch_size=45, seed=0, progress=False).train_loss
    assert losses[-1] < losses[0] - 0.05
    if isinstance(learner, pc.EM):
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(losses))
    worlds = testing.worlds(mixed)
    assert float(mixed.log_prob(worlds).detach().exp().sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(mixed.shares.detach().sum()) == pytest.approx(1.0, abs=1e-9)


def test_components_that_exclude_a_row_do_not_learn_from_it() -> None:
    table = torch.tensor([[True, True, False]])
    mixed = pc.mixture([tree(), tree(1), tree(2)], [0.5, 0.5, 0.0])
    for name, group in mixed.sources[0].named_groups():
        if name.startswith("input"):
            group.restrict(table.expand(group.logits.shape).clone())
    found = mixed.statistics(torch.tensor([[0, 2, 1, 0], [2, 2, 2, 2]]))
    assert torch.equal(found.counts["log_shares"]["counts"].view(-1), torch.tensor([0.0, 2.0, 0.0]).double())
    mixed.maximise(found)
    assert torch.allclose(mixed.shares, torch.tensor([0.0, 1.0, 0.0]).double())
    assert all(parameter.isfinite().all() for parameter in mixed.parameters())


def test_a_run_goes_on_from_its_file(tmp_path: Path) -> None:
    a, data = hmm(), rows_with_gaps(tree(5))
    mixed = pc.mixture([a, pc.mixture([tree(), a])])
    pc.fit(mixed, data, epochs=2, progress=False)
    pc.save(mixed, tmp_path / "mixed")
    loaded = pc.load(tmp_path / "mixed")
    for circuit in (mixed, loaded):
        pc.fit(circuit, data, epochs=2, seed=0, progress=False)
    assert all(torch.equal(p, q) for p, q in zip(mixed.parameters(), loaded.parameters(), strict=True))


def test_interrupted_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    data = rows_with_gaps(tree(5)).values
    options = {"learner": pc.Anemone(), "batch_size": 16, "seed": 0, "progress": False}
    whole, parts = (pc.mixture([hmm(), tree()]) for _ in range(2))
    pc.fit(whole, data, epochs=3, **options)
    pc.fit(parts, data, epochs=1, checkpoint=tmp_path, **options)
    pc.fit(parts, data, epochs=3, checkpoint=tmp_path, resume=True, **options)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), parts.parameters(), strict=True))


def test_other_components_are_refused_by_number() -> None:
    signed = pc.SignedCircuit(pc.structures.chain(4), pc.Categorical(3), num_units=2, dtype=torch.float64)
    larger = pc.Circuit(pc.structures.chain(5), pc.Categorical(3), num_units=2, dtype=torch.float64)
    x = torch.zeros(2, 4, dtype=torch.long)
    refused = {
        "circuit 0 of the mixture is a SquaredCircuit": pc.mixture([pc.square(signed)]),
        "circuit 0 of the mixture is a ProductCircuit": pc.mixture([pc.multiply(tree(), tree(1))]),
        "circuit 1 of the mixture is a ProjectedCircuit": pc.mixture([tree(), pc.marginalize(larger, [0, 1, 2, 3])]),
    }
    for message, mixed in refused.items():
        with pytest.raises(pc.StructureError, match=f"{message}.* train it with Adam"):
            pc.fit(mixed, x, learner="em", progress=False)
        with pytest.raises(pc.StructureError, match=message):
            mixed.maximise(tree().statistics(x))
    with pytest.raises(pc.ParameterError, match=r"they come from mixture\.statistics"):
        pc.mixture([tree(), tree(1)]).maximise(tree().statistics(x))
    with pytest.raises(pc.StructureError, match="prune its sources"):
        pc.learning.prune(pc.mixture([tree()]), x, share=0.1)
