"""Joint inputs that are trees of discrete variables: every query equals enumeration, EM is maximum likelihood."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits import structures, testing
from pcircuits.distributions import Picks, chow_liu_tree
from pcircuits.distributions.tree_shape import TreeShape
from pcircuits.structures import Region, RegionGraph

GROUPS = [[0, 3, 5], [1], [4, 2]]
TREES = [pc.ChowLiuTree((1, -1, 1), 3), pc.Categorical(3), pc.ChowLiuTree((-1, 0), 3)]
ANY_CALL = (pc.ParameterError, TypeError)  # annotations that are checked at run time stop earlier


def circuit_of(structure: str = "binary_tree", layer: str = "cp", seed: int = 0, num_units: int = 3) -> pc.Circuit:
    graph = structures.grouped(testing.example_graph(structure, 3, seed), GROUPS)
    families = [TREES[n] for v in range(6) for n, group in enumerate(GROUPS) if v in group]
    circuit = pc.Circuit(graph, families, num_units=num_units, layer=layer, seed=seed, dtype=torch.float64)
    return spread(circuit, 2.0, seed).requires_grad_(False)


@torch.no_grad()
def spread(circuit: pc.Circuit, width: float, seed: int) -> pc.Circuit:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in circuit.named_parameters():
        if name.endswith(("root_logits", "link_logits")):
            parameter.add_(width * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return circuit


def one_region(parents: tuple[int, ...], values: int = 2, num_units: int = 1, seed: int = 0) -> pc.Circuit:
    graph, family = RegionGraph((Region.input(*range(len(parents))),)), pc.ChowLiuTree(parents, values)
    circuit = pc.Circuit(graph, family, num_units=num_units, seed=seed, dtype=torch.float64)
    return spread(circuit, 1.0, seed).requires_grad_(False)


def bits(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Each column copies one of those before it, nine times of ten."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (rows, columns), generator=generator)
    for column in range(1, columns):
        copied = x[:, int(torch.randint(0, column, (1,), generator=torch.Generator().manual_seed(column)))]
        x[:, column] = torch.where(torch.rand(rows, generator=generator) < 0.9, copied, x[:, column])
    return x


@pytest.mark.parametrize("family", [pc.ChowLiuTree((1, -1), 3), pc.ChowLiuTree((2, 2, -1), 2)])
def test_contract(family: pc.ChowLiuTree) -> None:
    testing.check_input_family(family)


@settings(max_examples=12)
@given(
    st.sampled_from(["binary_tree", "chain", "hclt", "from_networkx"]),
    st.sampled_from(["cp", "cp-t", "tucker"]),
    st.sampled_from(["observed", "missing", "hard", "soft", "mixed", "interval", "spread", "impossible"]),
    st.integers(0, 99),
)
def test_queries_are_those_of_enumeration(structure: str, layer: str, kind: str, seed: int) -> None:
    circuit = circuit_of(structure, layer, seed)
    testing.check_posterior(circuit, testing.example_evidence(circuit, kind, seed=seed), seed=seed)


@pytest.mark.parametrize("parents", [(-1, 0, 1, 2), (2, 2, -1, 2), (1, 3, 3, -1), (-1, 0, 0, 1)])
@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_any_shape_and_batches_in_parts(parents: tuple[int, ...], chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(chow_liu_tree, "_CHUNK_ELEMENTS", chunk)
    circuit = one_region(parents, 3, num_units=2)
    for kind in ("hard", "mixed", "potentials"):
        testing.check_posterior(circuit, testing.example_evidence(circuit, kind, batch=5, seed=2))


def test_weights_of_some_values_are_weights_of_all_with_zeros() -> None:
    circuit, seen = circuit_of(), torch.tensor([[True, False, False, False, True, False]] * 2)
    values, ids = torch.tensor([[1, 0, 0, 0, 2, 0]] * 2), torch.tensor([2, 0]).expand(2, 6, 2).clone()
    ids[seen] = 7  # not read
    few = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    every = torch.full((2, 6, 3), -torch.inf, dtype=torch.float64).scatter(-1, ids.clamp_max(2), few)
    some = circuit.condition(pc.Evidence(values, observed=seen, log_weights=few, weighted_values=ids))
    dense = circuit.condition(pc.Evidence(values, observed=seen, log_weights=every))
    assert torch.allclose(some.log_evidence, dense.log_evidence)
    assert torch.allclose(some.marginals(), dense.marginals())


def test_pairs_covariances_and_entropy() -> None:
    circuit = one_region((1, -1, 1, 2), 3)
    evidence = testing.example_evidence(circuit, "mixed", batch=4, seed=1)
    posterior, oracle = circuit.condition(evidence), testing.Enumeration(circuit, evidence)
    share, x = oracle.probabilities, oracle.worlds.double()
    mean = share @ x
    wanted = torch.einsum("bw,wi,wj->bij", share, x, x) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    assert torch.allclose(posterior.covariance(), wanted, atol=1e-10)
    for first, second in itertools.product(range(4), repeat=2):
        if first != second:
            assert torch.allclose(posterior.pair_marginals(first, second), oracle.pair(first, second), atol=1e-10)
    assert torch.allclose(posterior.entropy(), torch.special.entr(share).sum(-1), atol=1e-9)
    several = circuit_of(seed=4)
    evidence = testing.example_evidence(several, "hard", batch=3, seed=1)
    oracle = testing.Enumeration(several, evidence)
    mean = oracle.probabilities @ oracle.worlds.double()
    second = torch.einsum("bw,wi,wj->bij", oracle.probabilities, oracle.worlds.double(), oracle.worlds.double())
    found = several.condition(evidence).covariance()
    assert torch.allclose(found, second - mean.unsqueeze(-1) * mean.unsqueeze(-2), atol=1e-9)


@settings(max_examples=12)
@given(st.sampled_from([(-1, 0, 1, 2), (2, 2, -1, 2)]), st.integers(1, 2), st.integers(0, 999))
def test_marginal_map_is_found_and_bounded(parents: tuple[int, ...], num_units: int, seed: int) -> None:
    circuit = one_region(parents, 3, num_units=num_units, seed=seed)
    evidence = testing.example_evidence(circuit, "soft", batch=3, seed=seed)
    summed = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    found, oracle = circuit.condition(evidence).mpe(marginalize=summed), testing.Enumeration(circuit, evidence)
    best = []
    for b in range(3):
        _, label = oracle.worlds.masked_fill(summed[b], 0).unique(dim=0, return_inverse=True)
        totals = torch.zeros(int(label.max()) + 1).double().index_add(0, label, oracle.log_joint[b].exp())
        best.append(totals.max().log())
    assert torch.allclose(found.log_prob, torch.stack(best) - oracle.log_evidence, atol=1e-9) and found.exact.all()
    prepared, given_ = circuit.prepared()["input_0"], evidence.summing(summed).of_variables(range(4))
    bound = circuit.inputs[0].log_maxima(prepared, torch.zeros(1, dtype=torch.long), given_)[0].amax(-1)
    assert (bound >= torch.stack(best) - 1e-9).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_power_of_the_conditional(temperature: float) -> None:
    circuit, n = one_region((1, -1, 1), 3, seed=3), 4000
    evidence = testing.example_evidence(circuit, "soft", batch=1, seed=1)
    zeros = torch.zeros(n, dtype=torch.long)
    drawn = circuit.inputs[0].sample(
        circuit.prepared()["input_0"],
        torch.zeros(1, dtype=torch.long),
        evidence.of_variables(range(3)),
        Picks(zeros, zeros, zeros),
        temperature,
        torch.Generator().manual_seed(0),
    )
    exact = testing.Enumeration(circuit, evidence).log_joint[0].div(temperature).softmax(0)
    counts = torch.bincount(drawn @ torch.tensor([9, 3, 1]), minlength=27).double()
    assert (counts[exact == 0] == 0).all() and testing.p_value(counts[exact > 0], exact[exact > 0]) > 1e-4


def test_em_on_complete_data_is_the_chow_liu_tree() -> None:
    x = bits(300, 5)
    family = pc.ChowLiuTree.from_data(x)
    circuit = pc.Circuit(RegionGraph((Region.input(*range(5)),)), family, num_units=1, seed=0, dtype=torch.float64)
    circuit.maximise(circuit.statistics(x), pseudocount=1.0)
    tree = pc.Circuit(structures.chow_liu(x), pc.Categorical(2), seed=0, dtype=torch.float64)
    tree.maximise(tree.statistics(x), pseudocount=1.0)
    assert torch.allclose(circuit.log_prob(x), tree.log_prob(x), atol=1e-9)
    flat = testing.worlds(circuit)
    assert circuit.log_prob(flat).exp().sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("tied", [False, True])
def test_em_never_lowers_the_likelihood_over_random_groups(tied: bool) -> None:
    """A random structure over groups of binary variables, half of the values missing."""
    groups = [[0, 4, 2], [6, 1, 5], [3, 8, 7], [9, 10, 11]]
    x = bits(120, 12)
    trees = [pc.ChowLiuTree((-1, 0, 0), 2) if tied else pc.ChowLiuTree.from_data(x[:, group]) for group in groups]
    families = [trees[n] for v in range(12) for n, group in enumerate(groups) if v in group]
    graph = structures.grouped(structures.rat(4, depth=2, num_repetitions=2, seed=1), groups)
    ties = {n: "units" for n, region in enumerate(graph.regions) if region.is_input and tied}
    circuit = pc.Circuit(graph, families, num_units=3, seed=0, dtype=torch.float64, input_ties=ties)
    circuit.requires_grad_(False)
    assert circuit.log_prob(testing.worlds(circuit)).exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    testing.check_posterior(circuit, testing.example_evidence(circuit, "mixed", seed=1))
    evidence = pc.Evidence(x, observed=torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    scores = []
    for _ in range(6):
        found = circuit.statistics(evidence)
        circuit.maximise(found)
        scores.append(float(found.log_likelihood))
    assert all(b >= a - 1e-8 for a, b in itertools.pairwise(scores)) and scores[-1] > scores[0] + 10
    assert pc.check(circuit).normalised


def test_statistics_add_up_and_parameters_stay_without_data() -> None:
    circuit = circuit_of(seed=4)
    evidence = testing.example_evidence(circuit, "mixed", batch=6, seed=3)
    whole = circuit.statistics(evidence)
    parts = [circuit.statistics(evidence.rows(rows)) for rows in torch.arange(6).split(2)]
    total = parts[0] + parts[1] + parts[2]
    for group, counts in whole.counts.items():
        assert torch.allclose(counts["counts"], total.counts[group]["counts"], atol=1e-10)
    before = {name: x.clone() for name, x in circuit.named_parameters() if "logits" in name}
    circuit.maximise(circuit.statistics(pc.Evidence.nothing(7, 6)))
    for name, x in circuit.named_parameters():
        if name in before:
            assert torch.allclose(x.log_softmax(-1), before[name].log_softmax(-1), atol=1e-9)


@pytest.mark.parametrize("kind", ["observed", "mixed"])
def test_gradients_by_counts_are_those_of_autograd_and_of_differences(kind: str) -> None:
    circuit = circuit_of(seed=2).requires_grad_(True)
    evidence = testing.example_evidence(circuit, kind, seed=3)
    counted = torch.autograd.grad(circuit.condition(evidence).log_evidence.sum(), list(circuit.parameters()))
    latent = torch.zeros(3, 6, 3, dtype=torch.float64, requires_grad=True)  # which counts do not serve
    found = circuit.condition(evidence.replace(latent=latent)).log_evidence.sum()
    recorded = torch.autograd.grad(found, list(circuit.parameters()))
    for one, other in zip(counted, recorded, strict=True):
        assert torch.allclose(one, other, atol=1e-10)
    family, given_ = TREES[0], evidence.of_variables((0, 3, 5))
    start = family.initialise(1, 2, torch.Generator().manual_seed(0))

    def values(root: Tensor, links: Tensor) -> Tensor:
        prepared = family.prepare({"root_logits": root, "link_logits": links}, None)
        return family.log_values(prepared, torch.zeros(1, dtype=torch.long), given_, False)

    assert torch.autograd.gradcheck(values, tuple(x.double().requires_grad_() for x in start.values()))


@torch.no_grad()
def test_nothing_underflows() -> None:
    """Tables whose entries are a thousand nats apart, and evidence that asks for the unlikely ones."""
    circuit = one_region((-1, 0, 1), 2, num_units=2)
    for name, parameter in circuit.named_parameters():
        if "logits" in name:
            parameter.mul_(600.0)
    evidence = testing.example_evidence(circuit, "mixed", batch=6, seed=1)
    posterior, oracle = circuit.condition(evidence), testing.Enumeration(circuit, evidence)
    assert torch.allclose(posterior.log_evidence, oracle.log_evidence, rtol=1e-12)
    assert torch.allclose(posterior.marginals(), torch.stack([oracle.marginal(v) for v in range(3)], 1), atol=1e-10)
    unlikely = oracle.log_joint.masked_fill(oracle.log_joint.isneginf(), torch.inf).argmin(-1)
    x = oracle.worlds[unlikely]
    assert circuit.log_prob(x).isfinite().all() and circuit.condition(pc.Evidence(x)).marginals().isfinite().all()


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("parents", [(-1, 0, 1, 2), (2, 2, -1, 2), (-1, 0, 0, 1)])
def test_counts_of_tables_far_apart_are_those_of_enumeration(parents: tuple[int, ...], zeros: bool) -> None:
    """Sums and counts are matrix products, in which what these tables hold would underflow or overflow."""
    circuit, shape = one_region(parents, 3), TreeShape(parents)
    generator = torch.Generator().manual_seed(0)
    for table in (circuit.group("input_0").root_logits, circuit.group("input_0").link_logits):
        table.copy_(900.0 * torch.randn(table.shape, generator=generator, dtype=table.dtype))
        if zeros:
            table.masked_fill_(torch.rand(table.shape, generator=generator) < 0.2, -torch.inf)[..., 0] = 0.0
    for kind in ("mixed", "soft", "missing"):
        evidence = testing.example_evidence(circuit, kind, batch=6, seed=3)
        posterior, oracle = circuit.condition(evidence), testing.Enumeration(circuit, evidence)
        assert torch.allclose(posterior.log_evidence, oracle.log_evidence, rtol=1e-12)
        assert torch.allclose(posterior.marginals(), oracle.marginals(), atol=1e-9)
        root, *links = circuit.statistics(evidence).counts["input_0"]["counts"].squeeze().split([3, 9, 9, 9])
        assert torch.allclose(root, oracle.marginal(shape.root).sum(0), atol=1e-9)
        for child, parent, table in shape.order:
            assert torch.allclose(links[table], oracle.pair(parent, child).sum(0).flatten(), atol=1e-9)


@torch.no_grad()
def test_determinism_of_tables_with_zeros() -> None:
    circuit = one_region((-1, 0), 2, num_units=2)
    assert circuit.determinism() is False
    group = circuit.group("input_0")
    group.root_logits.copy_(torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]]))
    assert circuit.determinism() is True
    group.root_logits.zero_()
    group.link_logits.copy_(torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]]).double().expand(1, 2, 1, 2, 2).clone())
    assert circuit.determinism() is False  # both units allow equal values
    group.link_logits[0, 1, 0] = group.link_logits[0, 0, 0].flip(0)
    assert circuit.determinism() is True


@pytest.mark.parametrize("kept", [[0, 1], [0, 2, 4, 5], [3], [1, 2, 3], [5, 0, 1, 4]])
@pytest.mark.parametrize("layer", ["cp", "tucker"])
def test_structural_marginals_and_conditionals(layer: str, kept: list[int], tmp_path: Path) -> None:
    """Of whole joint inputs and of parts of them: without a leaf, and without a root that two leaves hang on."""
    circuit, x = circuit_of(layer=layer, seed=5), testing.worlds(circuit_of())[::7]
    chosen = torch.zeros(x.shape, dtype=torch.bool)
    chosen[:, kept] = True
    marginal = pc.marginalize(circuit, kept)
    wanted = circuit.condition(pc.Evidence(x, observed=chosen)).log_evidence
    assert torch.allclose(marginal.log_prob(x[:, kept]), wanted, atol=1e-10)
    x[:, ~chosen[0]] = x[5, ~chosen[0]].clone()
    conditional = pc.condition(circuit, {v: int(x[0, v]) for v in range(6) if v not in kept})
    posterior, rest = circuit.condition(pc.Evidence(x, observed=~chosen)), sorted(kept)
    assert torch.allclose(conditional.log_prob(x[:, rest]), posterior.log_prob(x), atol=1e-10)
    assert torch.allclose(conditional.marginals(), posterior.marginals()[0, rest], atol=1e-10)
    pc.save(conditional, tmp_path)
    with torch.no_grad():  # as of the other: without gradients rescales are spared
        assert torch.equal(pc.load(tmp_path).log_prob(x[:, rest]), conditional.log_prob(x[:, rest]))


def test_parts_of_longer_trees() -> None:
    circuit = one_region((-1, 0, 1, 2, 1, 4), num_units=2)
    worlds = testing.worlds(circuit)
    for kept in ([0, 2, 3], [2, 5], [0, 3, 5, 1], [3, 4], [5, 4, 1]):
        chosen = torch.zeros(worlds.shape, dtype=torch.bool)
        chosen[:, kept] = True
        wanted = circuit.condition(pc.Evidence(worlds, observed=chosen)).log_evidence
        assert torch.allclose(pc.marginalize(circuit, kept).log_prob(worlds[:, kept]), wanted, atol=1e-10)
    for kept in ([0, 2, 4], [0, 3, 5]):
        with pytest.raises(pc.StructureError, match="no tree"):
            pc.marginalize(circuit, kept)


def test_mixtures_grown_circuits_and_files(tmp_path: Path) -> None:
    circuit, x = circuit_of(), testing.worlds(circuit_of())
    mixed = pc.mixture([circuit, circuit_of("chain", seed=3)], [0.3, 0.7])
    exact = torch.stack([circuit.log_prob(x), circuit_of("chain", seed=3).log_prob(x)])
    weights = torch.tensor([[0.3], [0.7]], dtype=torch.float64).log()
    assert torch.allclose(mixed.log_prob(x), (exact + weights).logsumexp(0), atol=1e-7)
    grown = pc.learning.grow(circuit, noise=0.0)
    assert torch.allclose(grown.log_prob(x), circuit.log_prob(x), atol=1e-9)
    for n, saved in enumerate((circuit, mixed)):
        pc.save(saved, tmp_path / str(n))
        assert torch.allclose(pc.load(tmp_path / str(n)).log_prob(x), saved.log_prob(x), atol=1e-12)
    assert pc.load(tmp_path / "0").inputs == circuit.inputs
    assert structures.from_networkx(circuit.graph.to_networkx()) == circuit.graph


def test_from_data_takes_the_tree_of_the_region() -> None:
    x = bits(500, 4)
    tree = structures.chow_liu_tree(x)
    parents = pc.ChowLiuTree.from_data(x).parents
    assert {(p, m) for m, p in enumerate(parents) if p >= 0} == set(tree.edges)
    assert pc.ChowLiuTree.from_data(x, 5).num_categories == 5
    with pytest.raises(pc.DataError, match="from 0 to 1"):
        pc.ChowLiuTree.from_data(x + 1, 2)


def test_refusals() -> None:
    circuit = circuit_of()
    for operation in (pc.square, lambda c: pc.differentiate(c, 0), lambda c: pc.inner_product(c, c)):
        with pytest.raises(pc.StructureError, match="ChowLiuTree"):
            operation(circuit)
    posterior = circuit.condition(pc.Evidence.nothing(1, 6))
    with pytest.raises(pc.StructureError, match="differentiable samples of ChowLiuTree"):
        posterior.rsample()
    with pytest.raises(pc.StructureError, match="one discrete variable"):
        pc.model_count(circuit)
    with pytest.raises(pc.StructureError, match="one discrete variable"):
        pc.match_marginals(circuit, pc.Evidence.nothing(1, 6), torch.zeros(1, 6, 3))
    with pytest.raises(pc.EvidenceError, match=r"variable 3 is ChowLiuTree.* in 0\.\.2"):
        circuit.log_prob(torch.tensor([[0, 0, 0, 3, 0, 0]]))
    with pytest.raises(pc.EvidenceError, match="covers 2 values"):
        circuit.condition(pc.Evidence(log_weights=torch.zeros(1, 6, 2)))
    with pytest.raises(pc.StructureError, match=r"variables \[0, 3, 5\] needs one family of 3 variables"):
        pc.Circuit(circuit.graph, pc.Categorical(3), num_units=2)
    with pytest.raises(pc.ParameterError, match="one variable"):
        pc.PerSample(TREES[0])
    with pytest.raises(pc.ParameterError, match="support"):
        circuit.group("input_0").restrict(torch.ones(1, 3, 3, dtype=torch.bool))
        circuit.log_prob(torch.zeros(1, 6).long())


@pytest.mark.parametrize("parents", [(), (-1,), (-1, -1), (0, 0), (1, 0), (-1, 2, 1), (-1, 3), (-1, "0"), (-2, -1)])
def test_parents_that_are_no_tree(parents: tuple) -> None:
    with pytest.raises(ANY_CALL):
        pc.ChowLiuTree(parents, 2)
    with pytest.raises(ANY_CALL):
        pc.ChowLiuTree((-1, 0), 0)
