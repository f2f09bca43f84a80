"""Joint Gaussian inputs: every query equals that of the explicit mixture of Gaussians that the circuit is."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits import structures, testing
from pcircuits.structures import Region, RegionGraph
from pcircuits.testing.recursion import Node, log_root, unfold

GROUPS = [[0, 3], [1], [4, 2]]
ANY_CALL = (pc.ParameterError, TypeError)  # annotations that are checked at run time stop earlier


def circuit_of(structure: str = "binary_tree", layer: str = "cp", seed: int = 0, num_units: int = 3) -> pc.Circuit:
    graph = structures.grouped(testing.example_graph(structure, 3, seed), GROUPS)
    families = [pc.MultivariateGaussian(2)] * 5
    families[1] = pc.Gaussian()  # type: ignore[call-overload]
    circuit = pc.Circuit(graph, families, num_units=num_units, layer=layer, seed=seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in circuit.named_parameters():
            if name.endswith("raw_factor"):
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return circuit


class Mixture(NamedTuple):
    """Weights (W,) and Gaussians over all variables: means (W, D), covariances (W, D, D)."""

    log_weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def of(cls, circuit: pc.Circuit) -> "Mixture":
        """One component a choice of a unit for each input of a tree-shaped circuit."""
        nodes = [node for node in unfold(circuit) if node.kind == "input"]
        choices = torch.tensor(list(itertools.product(*[range(node.num_units) for node in nodes])))
        place = {node.variables: n for n, node in enumerate(nodes)}

        def chosen(node: Node) -> Tensor:
            one_hot = torch.nn.functional.one_hot(choices[:, place[node.variables]], node.num_units)
            return one_hot.double().log()

        means = torch.zeros(len(choices), 5, dtype=torch.float64)
        covariances = torch.zeros(len(choices), 5, 5, dtype=torch.float64)
        for node, unit in zip(nodes, choices.T, strict=True):
            prepared, variables = circuit.prepared()[str(node.group)], torch.tensor(node.variables)
            means[:, variables] = prepared.mean[node.row][unit].view(len(unit), -1).detach()
            scale = prepared.std[..., None, None] if len(variables) == 1 else prepared.factor
            scale = scale[node.row][unit].detach()
            covariances[:, variables[:, None], variables] = scale @ scale.mT
        return cls(log_root(circuit, chosen), means, covariances)

    def log_density(self, x: Tensor, seen: Tensor) -> Tensor:
        """(W,) of each component times its weight, at the values that are seen."""
        if not seen.any():
            return self.log_weights
        covariances = self.covariances[:, seen][:, :, seen]
        law = torch.distributions.MultivariateNormal(self.means[:, seen], covariance_matrix=covariances)
        return self.log_weights + law.log_prob(x[seen])

    def given(self, x: Tensor, seen: Tensor) -> "Mixture":
        """Of all variables, those seen without variance."""
        means, covariances = self.means.clone(), torch.zeros_like(self.covariances)
        free, known = (~seen).nonzero().squeeze(-1), seen.nonzero().squeeze(-1)
        for w in range(len(means)):
            inverse = torch.linalg.inv(self.covariances[w][known][:, known])
            gain = self.covariances[w][free][:, known] @ inverse
            means[w, free] += gain @ (x[known] - self.means[w, known])
            left = self.covariances[w][free][:, free] - gain @ self.covariances[w][known][:, free]
            covariances[w][free[:, None], free] = left
        means[:, known] = x[known]
        return Mixture(self.log_density(x, seen), means, covariances)

    def moments(self) -> tuple[Tensor, Tensor]:
        share = self.log_weights.softmax(0)
        mean = share @ self.means
        off = self.means - mean
        return mean, torch.einsum("w,wij->ij", share, self.covariances + off.unsqueeze(-1) * off.unsqueeze(-2))


def some_missing(batch: int, seed: int) -> pc.Evidence:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(batch, 5, generator=generator, dtype=torch.float64)
    observed = torch.rand(batch, 5, generator=generator) < 0.6
    observed[0], observed[1] = True, False
    return pc.Evidence(x, observed=observed)


@settings(max_examples=8)
@given(
    st.sampled_from(["binary_tree", "chain", "hclt"]), st.sampled_from(["cp", "cp-t", "tucker"]), st.integers(0, 999)
)
@torch.no_grad()
def test_queries_are_those_of_the_mixture(structure: str, layer: str, seed: int) -> None:
    circuit, evidence = circuit_of(structure, layer, seed), some_missing(5, seed)
    posterior, mixture = circuit.condition(evidence), Mixture.of(circuit)
    x = posterior.sample(2, generator=torch.Generator().manual_seed(seed))
    log_prob, covariance = posterior.log_prob(x), posterior.covariance()
    marginals, best = posterior.marginals(), posterior.mpe()
    everything = torch.ones(5, dtype=torch.bool)
    for b, (values, seen) in enumerate(zip(evidence.values, evidence.observed, strict=True)):
        total = mixture.log_density(values, seen).logsumexp(0)
        assert posterior.log_evidence[b].item() == pytest.approx(total.item(), abs=1e-9)
        assert torch.equal(x[:, b, seen], values[seen].expand(2, -1))
        joint = torch.stack([mixture.log_density(y, everything).logsumexp(0) for y in x[:, b]])
        assert torch.allclose(log_prob[:, b], joint - total, atol=1e-9)
        mean, expected = mixture.given(values, seen).moments()
        assert torch.allclose(torch.stack([m.mean[b] for m in marginals]), mean, atol=1e-9)
        assert torch.allclose(torch.stack([m.variance[b] for m in marginals]), expected.diagonal(), atol=1e-8)
        assert torch.allclose(covariance[b], expected, atol=1e-8)
        score = mixture.log_density(best.values[b], everything).logsumexp(0) - total
        assert best.log_prob[b].item() == pytest.approx(score.item(), abs=1e-9)
        modes = [mixture.log_density(m, everything).logsumexp(0) for m in mixture.given(values, seen).means]
        assert best.upper is not None and best.upper[b] >= torch.stack(modes).max() - total - 1e-9


def test_samples_have_the_conditional_means_and_covariances() -> None:
    circuit, evidence, n = circuit_of(seed=3), some_missing(3, 5), 20_000
    drawn = circuit.condition(evidence).sample(n, generator=torch.Generator().manual_seed(0))
    mixture = Mixture.of(circuit)
    for b in range(3):
        mean, covariance = mixture.given(evidence.values[b], evidence.observed[b]).moments()
        assert ((drawn[:, b].mean(0) - mean).abs() <= 5 * (covariance.diagonal() / n).sqrt() + 1e-12).all()
        size = covariance.diagonal().sqrt()
        off = (torch.cov(drawn[:, b].mT) - covariance).abs()
        assert (off <= 0.08 * size.unsqueeze(-1) * size + 1e-12).all()


@settings(max_examples=5)
@given(st.integers(0, 999))
def test_gradients(seed: int) -> None:
    family = pc.MultivariateGaussian(3)
    start = {k: v.double() for k, v in family.initialise(1, 2, torch.Generator().manual_seed(seed)).items()}
    given = some_missing(4, seed).of_variables((0, 2, 4))

    def values(mean: Tensor, raw: Tensor) -> Tensor:
        prepared = family.prepare({"mean": mean, "raw_factor": raw}, None)
        return family.log_values(prepared, torch.zeros(1, dtype=torch.long), given, False)

    assert torch.autograd.gradcheck(values, tuple(x.requires_grad_() for x in start.values()))


def one_unit(size: int, **options: float) -> pc.Circuit:
    graph = RegionGraph((Region.input(*range(size)),))
    return pc.Circuit(graph, pc.MultivariateGaussian(size, **options), num_units=1, seed=0, dtype=torch.float64)


def test_em_on_complete_data_of_one_unit_is_maximum_likelihood() -> None:
    circuit, x = one_unit(3), torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    x[:, 2] += 100 + 2 * x[:, 0]
    circuit.maximise(circuit.statistics(x))
    posterior = circuit.condition(pc.Evidence.nothing(1, 3))
    assert torch.allclose(posterior.moment(1)[0], x.mean(0))
    assert torch.allclose(posterior.covariance()[0], torch.cov(x.mT, correction=0), atol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_em_steps_are_those_of_scikit_learns_mixture() -> None:
    mixture = pytest.importorskip("sklearn.mixture")
    graph = RegionGraph((Region.input(0, 1, 2),))
    circuit = pc.Circuit(graph, pc.MultivariateGaussian(3), num_units=3, seed=1, dtype=torch.float64)
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:90, 1] += 2 + x[:90, 0]
    x[60:, 2] -= 3 * x[60:, 1]

    def parameters() -> tuple[Tensor, Tensor, Tensor]:
        (of_sum,) = (g.prepare().linear[0, 0] for n, g in circuit.named_groups() if n.startswith("sum"))
        (units,) = (g.prepare() for n, g in circuit.named_groups() if n.startswith("input"))
        return of_sum.detach(), units.mean[0].detach(), (units.factor @ units.factor.mT)[0].detach()

    weights, means, covariances = parameters()
    peer = mixture.GaussianMixture(
        3,
        reg_covar=0.0,
        max_iter=5,
        tol=0.0,
        weights_init=weights,
        means_init=means,
        precisions_init=covariances.inverse(),
    )
    peer.fit(x.numpy())
    for _ in range(5):
        circuit.maximise(circuit.statistics(x))
    for mine, theirs in zip(parameters(), (peer.weights_, peer.means_, peer.covariances_), strict=True):
        assert torch.allclose(mine, torch.from_numpy(theirs), atol=1e-9)
    assert torch.allclose(circuit.log_prob(x), torch.from_numpy(peer.score_samples(x.numpy())), atol=1e-9)


def test_smoothing_counts_pseudo_samples_of_the_prior() -> None:
    circuit, x = (
        one_unit(2, loc=1.0, scale=2.0),
        torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double(),
    )
    circuit.maximise(circuit.statistics(x), pseudocount=5.0)
    mean = (x.sum(0) + 5.0) / 25
    second = (x.mT @ x + 5 * (4 * torch.eye(2) + torch.ones(2, 2))) / 25
    covariance = circuit.condition(pc.Evidence.nothing(1, 2)).covariance()[0]
    assert torch.allclose(covariance, second - mean.unsqueeze(-1) * mean, atol=1e-9)


def test_em_with_missing_values_never_lowers_the_likelihood() -> None:
    circuit, evidence = circuit_of("chain", "cp-t", 1), some_missing(20, 2)
    scores = []
    for _ in range(6):
        found = circuit.statistics(evidence)
        circuit.maximise(found)
        scores.append(float(found.log_likelihood))
    assert all(b >= a - 1e-8 for a, b in itertools.pairwise(scores)) and scores[-1] > scores[0] + 0.5
    assert pc.check(circuit).normalised


def test_statistics_add_up_over_batches_and_parameters_stay_without_data() -> None:
    circuit, evidence = circuit_of(seed=4), some_missing(6, 1)
    whole = circuit.statistics(evidence)
    parts = [circuit.statistics(evidence.rows(rows)) for rows in torch.arange(6).split(2)]
    total = parts[0] + parts[1] + parts[2]
    for group, counts in whole.counts.items():
        assert torch.allclose(counts["counts"], total.counts[group]["counts"], atol=1e-10)
    before = {name: x.clone() for name, x in circuit.state_dict().items()}
    nothing = circuit.statistics(pc.Evidence.nothing(7, 5))
    circuit.maximise(nothing)
    for name, group in circuit.named_groups():
        if name.startswith("input"):
            assert all(torch.allclose(x, before[f"groups.{name}.{n}"], atol=1e-6) for n, x in group.named_parameters())


def test_mpe_entropy_and_marginal_map_of_one_unit() -> None:
    circuit = circuit_of(num_units=1).requires_grad_(False)
    evidence, mixture = some_missing(4, 7), Mixture.of(circuit)
    best, entropy = circuit.condition(evidence).mpe(), circuit.condition(evidence).entropy()
    summed = ~evidence.observed & torch.tensor([True, True, False, False, False])
    partly = circuit.condition(evidence).mpe(marginalize=summed)
    assert bool(best.exact.all()) and bool(partly.exact.all())
    for b, (values, seen) in enumerate(zip(evidence.values, evidence.observed, strict=True)):
        given = mixture.given(values, seen)
        free, asked = ~seen, ~seen & ~summed[b]
        assert torch.allclose(best.values[b], given.means[0])
        wanted = float(free.sum()) * (1 + math.log(2 * math.pi)) + given.covariances[0][free][:, free].logdet()
        assert entropy[b].item() == pytest.approx(wanted.item() / 2, abs=1e-9)
        for found, chosen in ((best.log_prob, free), (partly.log_prob, asked)):
            size = given.covariances[0][chosen][:, chosen].logdet() + float(chosen.sum()) * math.log(2 * math.pi)
            assert found[b].item() == pytest.approx(-size.item() / 2, abs=1e-9)


def test_potentials_of_a_region_add_up() -> None:
    circuit, evidence = circuit_of(seed=2).requires_grad_(False), some_missing(2, 3)
    latent = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = latent.clone()
    moved[:, 3] += moved[:, 0]
    moved[:, 0] = 0
    one, other = (circuit.condition(evidence.replace(latent=x)) for x in (latent, moved))
    assert torch.allclose(one.log_evidence, other.log_evidence)
    assert not torch.allclose(one.log_evidence, circuit.condition(evidence).log_evidence)


def test_beside_discrete_variables_with_soft_evidence() -> None:
    graph = RegionGraph((Region.input(0, 2), Region.input(1), Region.split((0, 1))))
    families = [pc.MultivariateGaussian(2), pc.Categorical(3), pc.MultivariateGaussian(2)]
    circuit = pc.Circuit(graph, families, num_units=3, layer="cp-t", seed=0, dtype=torch.float64).requires_grad_(False)
    x = torch.tensor([[0.3, 0.0, -1.0]] * 3, dtype=torch.float64)
    x[:, 1] = torch.arange(3)
    seen = torch.tensor([[True, True, False]] * 3)
    hard = circuit.condition(pc.Evidence(x, observed=seen)).log_evidence
    weights = torch.zeros(1, 3, 3, dtype=torch.float64)
    weights[0, 1] = torch.tensor([0.5, -1.0, -torch.inf])
    soft = circuit.condition(pc.Evidence(x[:1], observed=torch.tensor([[True, False, False]]), log_weights=weights))
    assert soft.log_evidence.item() == pytest.approx((hard + weights[0, 1]).logsumexp(0).item(), abs=1e-10)
    shares = (hard + weights[0, 1]).softmax(0)
    assert torch.allclose(soft.marginals()[1][0], shares)
    means = [circuit.condition(pc.Evidence(x, observed=seen)).marginals()[2].mean]
    assert soft.marginals()[2].mean.item() == pytest.approx(float(shares @ means[0]), abs=1e-10)
    drawn = soft.sample(500, generator=torch.Generator().manual_seed(0))
    assert (drawn[..., 0] == 0.3).all() and not (drawn[..., 1] == 2).any()


def test_saved_and_written_as_networkx(tmp_path: Path) -> None:
    circuit, evidence = circuit_of(), some_missing(3, 0)
    pc.save(circuit, tmp_path)
    loaded = pc.load(tmp_path)
    assert torch.equal(loaded.condition(evidence).log_evidence, circuit.condition(evidence).log_evidence)
    assert loaded.graph == circuit.graph == structures.from_networkx(circuit.graph.to_networkx())
    scaled = pc.MultivariateGaussian.from_data(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert (scaled.loc, scaled.scale) == ((1.0, 3.0), (1.0, 2.0))
    pc.save(pc.Circuit(RegionGraph((Region.input(0, 1),)), scaled, num_units=2, seed=0), tmp_path)
    assert pc.load(tmp_path).inputs == (scaled, scaled)


@pytest.mark.parametrize("layer", ["cp", "tucker"])
@pytest.mark.parametrize("kept", [[4, 2, 1], [0, 1], [3], [2, 0]])
def test_structural_marginals_and_conditionals(layer: str, kept: list[int], tmp_path: Path) -> None:
    """Of whole joint inputs and of parts of them."""
    circuit = circuit_of(layer=layer, seed=5).requires_grad_(False)
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chosen = torch.zeros(3, 5, dtype=torch.bool)
    chosen[:, kept] = True
    marginal = pc.marginalize(circuit, kept)
    wanted = circuit.condition(pc.Evidence(x, observed=chosen)).log_evidence
    assert torch.allclose(marginal.log_prob(x[:, kept]), wanted, atol=1e-10)
    x[:, ~chosen[0]] = x[0, ~chosen[0]].clone()
    conditional = pc.condition(circuit, {v: x[0, v].item() for v in range(5) if v not in kept})
    posterior = circuit.condition(pc.Evidence(x, observed=~chosen))
    rest = sorted(kept)
    assert torch.allclose(conditional.log_prob(x[:, rest]), posterior.log_prob(x), atol=1e-9)
    for one, other in zip(conditional.marginals(), [posterior.marginals()[v] for v in rest], strict=True):
        assert torch.allclose(torch.stack([*one]), torch.stack([other.mean[0], other.variance[0]]), atol=1e-9)
    pc.save(conditional, tmp_path)
    with torch.no_grad():  # as of the other: without gradients rescales are spared
        assert torch.equal(pc.load(tmp_path).log_prob(x[:, rest]), conditional.log_prob(x[:, rest]))


def test_tied_joint_inputs_of_which_different_parts_are_kept() -> None:
    graph = RegionGraph((Region.input(0, 1), Region.input(2, 3), Region.split((0, 1))))
    ties = {0: "units", 1: "units"}
    circuit = pc.Circuit(
        graph, pc.MultivariateGaussian(2), num_units=2, seed=0, dtype=torch.float64, input_ties=ties
    ).requires_grad_(False)
    x = torch.randn(3, 4, dtype=torch.float64)
    seen = torch.tensor([[True, False, False, True]] * 3)
    wanted = circuit.condition(pc.Evidence(x, observed=seen)).log_evidence
    assert torch.allclose(pc.marginalize(circuit, [0, 3]).log_prob(x[:, [0, 3]]), wanted)


def test_refusals() -> None:
    circuit, values = circuit_of(), torch.zeros(1, 5, dtype=torch.float64)
    weights = torch.zeros(1, 5, 2)
    weights[0, 3, 1] = 1.0
    with pytest.raises(pc.EvidenceError, match=r"variable 3 is .* no `log_weights`"):
        circuit.condition(pc.Evidence(log_weights=weights))
    with pytest.raises(pc.EvidenceError, match=r"variable 0 is .* no `interval`"):
        circuit.condition(pc.Evidence(values, interval=(0.0, 1.0)))
    with pytest.raises(pc.EvidenceError, match="finite"):
        circuit.log_prob(values + math.inf)
    for operation in (pc.square, lambda c: pc.differentiate(c, 0)):
        with pytest.raises(pc.StructureError, match="MultivariateGaussian"):
            operation(circuit)
    with pytest.raises(pc.StructureError, match="differentiable samples"):
        circuit.condition(pc.Evidence.nothing(1, 5)).rsample()
    with pytest.raises(pc.StructureError, match=r"variables \[0, 3\] needs one family of 2 variables"):
        pc.Circuit(circuit.graph, pc.Gaussian(), num_units=2)
    with pytest.raises(pc.StructureError, match="needs one family of 1 variables"):
        pc.Circuit(structures.chain(2), pc.MultivariateGaussian(2), num_units=2)
    for arguments in ((1,), (2, (0.0,)), (2, 0.0, 0.0), (2, math.nan), (2, 0.0, (1.0, -1.0))):
        with pytest.raises(ANY_CALL):
            pc.MultivariateGaussian(*arguments)
    with pytest.raises(pc.ParameterError, match="one variable"):
        pc.PerSample(pc.MultivariateGaussian(2))
    for groups in ([[0], [1]], [[0], [], [1]], [[0], [1], [1]]):
        with pytest.raises(pc.StructureError, match="groups"):
            structures.grouped(structures.chain(3), groups)
