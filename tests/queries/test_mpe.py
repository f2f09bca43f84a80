"""Most probable explanations and marginal MAP against enumeration: exact, lower and upper bounds."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import testing
from pcircuits.testing.enumeration import Enumeration

SLACK = 1e-9
MODULE = sys.modules["pcircuits.queries.mpe"]


def deterministic_circuit(seed: int) -> pc.Circuit:
    """A Chow-Liu circuit, or one with a single child a sum, or with one unit a region; some with zeros."""
    structure = ("chow_liu", "chow_liu", "binary_tree", "factorized")[seed % 4]
    return testing.example_circuit(
        structure,
        "cp-t" if structure == "chow_liu" else testing.LAYERS[seed % 3],
        weights=("dense", "sparse", "peaked")[seed % 3] if structure != "binary_tree" else "deterministic",
        num_variables=2 + seed % 4,
        num_units=1 if structure == "factorized" else 3,
        seed=seed,
        dtype=torch.float64,
    )


def equals_enumeration(seed: int) -> bool:
    """Whether the circuit was proven deterministic; its MPE equals enumeration, under evidence of every kind."""
    circuit = deterministic_circuit(seed)
    proven = pc.check(circuit).deterministic is True
    for kind in ("missing", "hard", "mixed"):
        evidence = testing.example_evidence(circuit, kind, seed=seed)
        evidence = evidence.rows(~circuit.condition(evidence).log_evidence.isneginf())
        if not evidence.batch_size:
            continue
        found, best = circuit.condition(evidence).mpe(), Enumeration(circuit, evidence).mpe()[1]
        if proven:
            assert found.exact.all() and torch.allclose(found.log_prob, best, atol=SLACK), f"seed {seed}, {kind}"
            assert torch.equal(found.upper, found.log_prob)
    return proven


@pytest.fixture()
def only_max_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "MOST_COMPLETIONS", 0)


@pytest.mark.usefixtures("only_max_product")
def test_deterministic_circuits_equal_enumeration() -> None:
    assert sum(equals_enumeration(seed) for seed in range(60)) >= 45


@pytest.mark.campaign
@pytest.mark.usefixtures("only_max_product")
def test_campaign_of_a_thousand_deterministic_circuits() -> None:
    assert sum(equals_enumeration(seed) for seed in range(1400)) >= 1000


@pytest.mark.usefixtures("only_max_product")
@settings(max_examples=20)
@given(st.data())
def test_bounds_enclose_the_maximum_and_search_closes_them(data: st.DataObject) -> None:
    circuit = data.draw(testing.circuits(inputs=["categorical", "bernoulli"], dtypes=[torch.float64], max_variables=4))
    evidence = data.draw(testing.evidences(circuit, kinds=["missing", "hard", "soft", "mixed", "potentials"]))
    rows = ~circuit.condition(evidence).log_evidence.isneginf()
    if not rows.any():
        return
    evidence = evidence.rows(rows)
    posterior, best = circuit.condition(evidence), Enumeration(circuit, evidence).mpe()[1]
    found, searched = posterior.mpe(), posterior.mpe(search=3)
    assert (found.log_prob <= best + SLACK).all() and (found.upper >= best - SLACK).all()
    assert (searched.log_prob >= found.log_prob - SLACK).all() and (searched.upper <= found.upper + SLACK).all()
    assert (searched.log_prob <= best + SLACK).all() and (searched.upper >= best - SLACK).all()
    closed = posterior.mpe(search=10_000)
    assert closed.exact.all() and torch.allclose(closed.log_prob, best, atol=SLACK)
    assert torch.allclose(posterior.log_prob(closed.values), closed.log_prob, atol=SLACK)


@pytest.mark.parametrize("search", [0, 10_000])
@settings(max_examples=12)
@given(data=st.data())
def test_marginal_map_equals_enumeration(search: int, data: st.DataObject) -> None:
    circuit = data.draw(testing.circuits(inputs=["categorical", "bernoulli"], dtypes=[torch.float64], max_variables=4))
    evidence = data.draw(testing.evidences(circuit, kinds=["missing", "hard", "soft", "mixed"], max_batch=3))
    rows = ~circuit.condition(evidence).log_evidence.isneginf()
    if not rows.any():
        return
    evidence = evidence.rows(rows)
    mask = torch.rand(evidence.values.shape, generator=torch.Generator().manual_seed(evidence.batch_size)) < 0.5
    with pytest.MonkeyPatch.context() as patch:
        if search:
            patch.setattr(MODULE, "MOST_COMPLETIONS", 0)
        found = circuit.condition(evidence).mpe(marginalize=mask, search=search)
    oracle = Enumeration(circuit, evidence)
    for row in range(evidence.batch_size):
        query = (~evidence.observed[row] & ~mask[row]).nonzero().flatten()
        keys, p = oracle.worlds[:, query], oracle.probabilities[row]
        inverse = torch.unique(keys, dim=0, return_inverse=True)[1] if len(query) else torch.zeros(len(p)).long()
        sums = torch.zeros(int(inverse.max()) + 1, dtype=torch.float64).index_add(0, inverse, p)
        assert found.exact[row] and found.log_prob[row].exp().item() == pytest.approx(sums.max().item(), abs=1e-9)
        same = (keys == found.values[row, query]).all(-1)
        assert p[same].sum().item() == pytest.approx(sums.max().item(), abs=1e-9)
        assert not found.values[row][mask[row] & ~evidence.observed[row]].any()


def test_continuous_variables_have_a_lower_and_an_upper_bound() -> None:
    circuit = testing.example_circuit("binary_tree", "cp", "mixed", dtype=torch.float64)
    found = circuit.condition(pc.Evidence.nothing(1, 4)).mpe(search=100)
    assert not found.exact.any() and (found.upper > found.log_prob).all()
    grid = torch.linspace(-4, 4, 161, dtype=torch.float64)
    three, two = torch.arange(3).double(), torch.arange(2).double()
    worlds = torch.cartesian_prod(three, grid, two, two)
    with torch.no_grad():
        best = circuit.log_prob(worlds).max()
    assert found.upper.item() >= best.item() and found.log_prob.item() <= best.item() + 0.01


def test_wrong_arguments_are_refused() -> None:
    posterior = testing.example_circuit().condition(pc.Evidence.nothing(2, 4))
    with pytest.raises(pc.ShapeError, match="`marginalize` must be a bool tensor"):
        posterior.mpe(marginalize=torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(pc.ShapeError, match="`search`"):
        posterior.mpe(search=-1)
