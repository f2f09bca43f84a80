"""Soft evidence of a few values a position equals the same evidence written out; and what is kept is kept rightly."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.queries.matching_fits import largest

CIRCUITS = [("hmm", "cp-t"), ("binary_tree", "cp"), ("hclt", "cp"), ("rat", "tucker")]
BATCH, VARIABLES = 3, 4


def pair(structure: str, layer: str, seed: int = 0, spread: float = 2.0) -> tuple[pc.Circuit, pc.Evidence, pc.Evidence]:
    """A circuit, sparse evidence at two values where it is soft, and the same with -inf for the others."""
    circuit = testing.example_circuit(structure, layer, num_variables=VARIABLES, seed=seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(circuit.num_categories, (BATCH, VARIABLES), generator=generator)
    observed = torch.rand(BATCH, VARIABLES, generator=generator) < 0.3
    ids = torch.rand(BATCH, VARIABLES, circuit.num_categories, generator=generator).argsort(-1)[..., :2]
    weights = spread * torch.randn(ids.shape, dtype=torch.float64, generator=generator)
    weights[0, 0, 0] = -torch.inf
    dense = torch.full((BATCH, VARIABLES, circuit.num_categories), -torch.inf, dtype=torch.float64)
    sparse = pc.Evidence(values, observed=observed, log_weights=weights, weighted_values=ids)
    return circuit, sparse, pc.Evidence(values, observed=observed, log_weights=dense.scatter(-1, ids, weights))


@pytest.mark.parametrize(("structure", "layer"), CIRCUITS)
@pytest.mark.parametrize("spread", [2.0, 400.0])  # the second one leaves float64's range: log space answers
def test_every_query_is_that_of_dense_evidence(structure: str, layer: str, spread: float) -> None:
    circuit, sparse, dense = pair(structure, layer, spread=spread)
    found, want, oracle = circuit.condition(sparse), circuit.condition(dense), testing.Enumeration(circuit, dense)
    worlds = testing.worlds(circuit).unsqueeze(1).expand(-1, BATCH, -1)
    assert torch.allclose(found.log_evidence, oracle.log_evidence, atol=1e-9)
    assert torch.allclose(found.log_prob(worlds).exp(), want.log_prob(worlds).exp(), atol=1e-12)
    assert torch.equal(found.log_prob(worlds).isneginf(), want.log_prob(worlds).isneginf())
    assert torch.allclose(found.marginals(), want.marginals(), atol=1e-12)
    some = torch.arange(VARIABLES).expand(BATCH, -1) % 2 == 0
    assert torch.allclose(found.log_prob(worlds, variables=some).exp(), want.log_prob(worlds, variables=some).exp())
    assert torch.equal(found.mpe().values, want.mpe().values) and found.mpe().exact.all()
    counts = [circuit.statistics(evidence).counts for evidence in (sparse, dense)]
    assert all(torch.allclose(counts[0][g]["counts"], counts[1][g]["counts"], atol=1e-12) for g in counts[1])
    drawn = found.sample(400, generator=torch.Generator().manual_seed(0))
    assert not want.log_prob(drawn).isneginf().any()


@pytest.mark.parametrize("structure", ["hmm", "hclt"])
def test_samples_follow_the_marginals(structure: str) -> None:
    circuit, sparse, _ = pair(structure, "cp")
    posterior = circuit.condition(sparse)
    drawn = posterior.sample(4000, generator=torch.Generator().manual_seed(1))
    rates = torch.nn.functional.one_hot(drawn, circuit.num_categories).double().mean(0)
    assert (rates - posterior.marginals()).abs().max() < 0.035  # more than four standard errors
    only = torch.tensor([[True, False, False, True]] * BATCH)
    some = posterior.sample(4000, generator=torch.Generator().manual_seed(2), variables=only)
    rates = torch.nn.functional.one_hot(some, circuit.num_categories).double().mean(0)
    assert (rates - posterior.marginals())[only].abs().max() < 0.035


@pytest.mark.parametrize("structure", ["hmm", "binary_tree"])
def test_marginals_are_matched_on_the_values_that_have_weights(structure: str) -> None:
    circuit, sparse, _ = pair(structure, "cp", seed=1)
    targets = torch.randn(sparse.weighted_values.shape, dtype=torch.float64).log_softmax(-1)
    given = sparse.replace(log_weights=None)
    matched = pc.match_marginals(circuit, given, targets, sweeps=40, weighted_values=sparse.weighted_values)
    found = circuit.condition(matched).marginals().gather(-1, sparse.weighted_values)
    assert ((found - targets.exp()).abs().sum(-1)[~sparse.observed] < 1e-8).all()


@pytest.mark.parametrize("structure", ["hmm", "binary_tree"])
def test_fitting_some_values_one_by_one(structure: str) -> None:
    """All of them: the plain fit. One of them: its marginal, and the proportions of weight over circuit of the rest."""
    circuit, sparse, _ = pair(structure, "cp", seed=2)
    targets = torch.randn(BATCH, VARIABLES, 3, dtype=torch.float64).log_softmax(-1)
    given, worlds = sparse.replace(log_weights=None), testing.worlds(circuit).unsqueeze(1).expand(-1, BATCH, -1)
    every = pc.match_marginals(circuit, given, targets, sweeps=2, num_values=3)
    plain = pc.match_marginals(circuit, given, targets, sweeps=2)
    assert torch.allclose(circuit.condition(every).log_prob(worlds), circuit.condition(plain).log_prob(worlds))
    matched = pc.match_marginals(circuit, given, targets, sweeps=40, num_values=1)
    top = targets.argmax(-1, keepdim=True)
    found = circuit.condition(matched).marginals()
    assert ((found - targets.exp()).gather(-1, top).squeeze(-1)[~given.observed].abs() < 1e-9).all()
    ratio = (matched.log_weights - targets + circuit.condition(given).marginals().log()).scatter(-1, top, torch.nan)
    spread = ratio.nan_to_num(nan=-9e9).amax(-1) - ratio.nan_to_num(nan=9e9).amin(-1)
    assert (spread[~given.observed] < 1e-9).all(), "the others keep the proportions of target / m"


def test_what_is_remembered_is_what_would_be_worked_out() -> None:
    """After matching, after observing more, after new parameters, and after weights were changed in place."""
    circuit, sparse, _ = pair("hmm", "cp-t")
    targets = torch.randn(BATCH, VARIABLES, 3, dtype=torch.float64).log_softmax(-1)
    with torch.no_grad():
        matched = pc.match_marginals(circuit, sparse.replace(log_weights=None), targets, num_values=1)
        for evidence in (matched, sparse, matched):
            circuit.condition(evidence)
            more = evidence.observe(torch.ones_like(evidence.values), evidence.observed | (torch.arange(4) == 2))
            for known in (evidence, more):
                fresh = pc.Evidence(known.values, observed=known.observed).replace(
                    log_weights=known.log_weights.clone(), weighted_values=known.weighted_values
                )
                assert torch.allclose(circuit.condition(known).log_evidence, circuit.condition(fresh).log_evidence)
                assert torch.allclose(circuit.condition(known).marginals(), circuit.condition(fresh).marginals())
            evidence.log_weights.mul_(0.5)
            circuit.groups["emission"].get_parameter("logits").mul_(1.1)


def test_what_is_remembered_ends_with_an_em_step() -> None:
    hmm = pc.HMM(3, 4, 3, seed=0)
    evidence = pc.Evidence(log_weights=torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)))
    for _ in range(3):
        hmm.maximise(hmm.statistics(evidence))
        fresh = pc.Evidence(log_weights=evidence.log_weights.clone())
        assert torch.equal(hmm.condition(evidence).log_evidence, hmm.condition(fresh).log_evidence)
    with torch.inference_mode():
        assert torch.equal(hmm.condition(evidence).log_evidence, hmm.condition(fresh).log_evidence)


def test_sparse_evidence_that_does_not_fit() -> None:
    circuit, sparse, _ = pair("hmm", "cp-t")
    ids, weights = sparse.weighted_values, sparse.log_weights
    with pytest.raises(pc.ShapeError, match="weighted_values"):
        pc.Evidence(log_weights=weights, weighted_values=ids[..., :1])
    with pytest.raises(pc.EvidenceError, match="twice"):
        pc.Evidence(log_weights=weights, weighted_values=ids * 0)
    with pytest.raises(pc.EvidenceError, match=r"0\.\.2"):
        circuit.condition(pc.Evidence(log_weights=weights, weighted_values=ids + 3))
    for options in ({"num_values": 0}, {"num_values": 1, "weighted_values": ids}):
        with pytest.raises(pc.ParameterError, match="num_values"):
            pc.match_marginals(
                circuit,
                pc.Evidence.nothing(3, 4),
                weights if "weighted_values" in options else torch.zeros(3, 4, 3, dtype=torch.float64),
                **options,
            )


def test_largest_values_are_found_among_many() -> None:
    """With more values than are looked at first: weights that make the bound fail in some units, and hold in others."""
    generator = torch.Generator().manual_seed(0)
    emission = torch.rand(4, 1500, generator=generator, dtype=torch.float64) ** 40
    emission[0, 7] = 1e6  # far from the likeliest weights
    hmm = pc.HMM.from_probs(
        torch.full((4,), 0.25).double(),
        torch.rand(4, 4, generator=generator).double().softmax(-1),
        emission / emission.sum(-1, keepdim=True),
        length=2,
    )
    weights = torch.randn(3, 2, 1500, generator=generator, dtype=torch.float64)
    weights[1:] *= 30
    log = hmm.log_probs().emission
    family, prepared = hmm.inputs[0], hmm.prepared()["emission"]
    given = pc.Evidence(log_weights=weights).of_variables((0, 1))
    found = family.log_values(prepared, torch.zeros(2, dtype=torch.long), given, True)
    assert torch.allclose(found, (log + weights.transpose(0, 1).unsqueeze(2)).amax(-1), atol=1e-10)


@pytest.mark.parametrize(("structure", "layer"), [*CIRCUITS, ("hmm", "cp")])
def test_marginals_of_the_unobserved_alone(structure: str, layer: str) -> None:
    for spread in (2.0, 400.0):
        circuit, sparse, dense = pair(structure, layer, spread=spread)
        potentials = torch.randn(BATCH, VARIABLES, circuit.num_units, dtype=torch.float64)
        missing = pc.Evidence(dense.values, observed=dense.observed)
        latent = pc.Evidence(dense.values, observed=dense.observed, latent=potentials)
        nothing = pc.Evidence.nothing(BATCH, VARIABLES)
        for evidence in (sparse, dense, missing, latent, nothing, nothing.rows(torch.tensor([0]))):
            posterior = circuit.condition(evidence)
            want = posterior.marginals()[~evidence.observed]
            assert torch.allclose(posterior.free_marginals(), want, atol=1e-12)
    with torch.no_grad():
        circuit.marginals()[0].sum()
        next(circuit.parameters()).mul_(1.3)
        assert torch.allclose(circuit.marginals(), circuit.condition(nothing).marginals()[0], atol=1e-12)


def test_largest_entries() -> None:
    x = torch.randn(3, 1003, generator=torch.Generator().manual_seed(0))
    x[1] = x[1].round()  # ties
    for count in (1, 5, 7, 40):
        found = largest(x, count)
        assert torch.equal(x.gather(-1, found), x.topk(count, -1).values)
        assert (found.sort(-1).values.diff(dim=-1) > 0).all()
