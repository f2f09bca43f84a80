"""Expected counts and gradients equal derivatives of the enumerated log evidence; the M step is its formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm
from torch import Tensor

import pcircuits as pc
from pcircuits import testing
from pcircuits.evaluator import Evaluation, upward
from pcircuits.semirings import Log, Scaled
from pcircuits.statistics import collect
from pcircuits.testing.enumeration import log_table
from pcircuits.testing.recursion import Node, leaf_parameters, log_root, log_weights

IMPOSSIBLE = -1e6  # instead of -inf, whose derivative would be NaN
CLOSE = {torch.float32: {"rtol": 3e-5, "atol": 3e-5}, torch.float64: {"rtol": 1e-9, "atol": 1e-9}}


def counts_by_enumeration(circuit: pc.Circuit, evidence: pc.Evidence, rows: Tensor) -> dict[str, Tensor]:
    """The derivative of the log evidence, weighted by `rows` (B,), with respect to every log weight and log table.

    Of a Gaussian: the derivative with respect to each unit's log value, and that times E[x] and E[x^2] of the unit.
    """
    evidence = possible_potentials(evidence)
    oracle = testing.Enumeration(circuit, evidence)
    probes: dict[Node, Tensor] = {}

    def probe(node: Node, start: Tensor) -> Tensor:
        return probes.setdefault(node, start.clamp_min(IMPOSSIBLE).requires_grad_())

    def leaf(node: Node) -> Tensor:
        family = circuit.inputs[node.variable]
        if family.is_discrete:
            table = probe(node, log_table(family, leaf_parameters(circuit, node)))
            return table.mT[oracle.worlds[:, node.variable]].unsqueeze(0)
        return oracle._leaf(node) + probe(node, torch.zeros(len(rows), 1, node.num_units, dtype=torch.float64))

    joint = log_root(circuit, leaf, lambda node: probe(node, log_weights(circuit, node)), evidence=evidence)
    score = (rows * (joint + oracle._log_weights(oracle.worlds)).logsumexp(-1)).sum()
    found: dict[str, Tensor] = {}
    for node, derivative in zip(probes, torch.autograd.grad(score, list(probes.values())), strict=True):
        continuous = node.kind == "input" and not circuit.inputs[node.variable].is_discrete
        counts = moments(circuit, evidence, node, derivative.squeeze(1)) if continuous else derivative
        at = found.setdefault(str(node.group), torch.zeros(rows_of_group(circuit, node), *counts.shape).double())
        at[node.row] += counts
    return found


def possible_potentials(evidence: pc.Evidence) -> pc.Evidence:
    """With `IMPOSSIBLE` in place of -inf, for derivatives."""
    given = {name: getattr(evidence, name) for name in ("latent", "gates", "gate_factors")}
    return evidence.replace(**{name: x.clamp_min(IMPOSSIBLE) for name, x in given.items() if x is not None})


def moments(circuit: pc.Circuit, evidence: pc.Evidence, node: Node, flows: Tensor) -> Tensor:
    prepared, row = circuit.prepared()[node.group], node.row
    mean, std = prepared.mean[row].detach().double(), prepared.std[row].detach().double()
    seen = evidence.observed[:, node.variable].unsqueeze(-1)
    x = torch.where(seen, evidence.values[:, node.variable].double().unsqueeze(-1), 0.0)
    free = mean, mean.square() + std.square()
    if evidence.interval is not None:
        free = truncated_moments(mean, std, evidence.interval[:, node.variable].double())
    first, second = torch.where(seen, x, free[0]), torch.where(seen, x.square(), free[1])
    return torch.stack([flows.sum(0), (flows * first).sum(0), (flows * second).sum(0)], -1).detach()


def truncated_moments(mean: Tensor, std: Tensor, interval: Tensor) -> tuple[Tensor, Tensor]:
    """E[x] and E[x^2] (B, K) of each unit within each row's interval (B, 2); at the point where it has no width."""
    low, high = interval.unsqueeze(-1).unbind(1)
    inside = truncnorm((low - mean) / std, (high - mean) / std, loc=mean, scale=std)
    first = torch.where(low == high, low, torch.from_numpy(inside.mean()))
    return first, torch.where(low == high, low.square(), torch.from_numpy(inside.var()) + first.square())


def rows_of_group(circuit: pc.Circuit, node: Node) -> int:
    return len(next(iter(circuit.group(str(node.group)).parameters())))


def statistics(circuit: pc.Circuit, evidence: pc.Evidence, rows: Tensor, exact: bool) -> pc.Statistics:
    if not exact:
        return circuit.statistics(evidence, sample_weights=rows)
    with torch.no_grad():
        evaluation = in_log_space(circuit, evidence)
        return collect(circuit.plan, evaluation, rows, evaluation.log_evidence)


def in_log_space(circuit: pc.Circuit, evidence: pc.Evidence) -> Evaluation:
    evidence = evidence.weighing_intervals([family.num_categories for family in circuit.inputs])
    passes = [upward(circuit.plan, circuit.prepared(), evidence, s) for s in (Scaled(circuit.dtype), Log())]
    return Evaluation(*passes, torch.arange(evidence.batch_size))


@st.composite
def cases(draw: st.DrawFn) -> tuple[pc.Circuit, pc.Evidence, Tensor]:
    """A circuit, possible evidence, and how often each row counts."""
    circuit = draw(testing.circuits(max_variables=4))
    evidence = draw(testing.evidences(circuit))
    possible = ~circuit.condition(evidence).log_evidence.detach().isneginf()
    evidence = evidence.rows(possible) if possible.any() else pc.Evidence.nothing(1, circuit.num_variables)
    return circuit, evidence, torch.rand(evidence.batch_size, dtype=torch.float64) + 0.5


@settings(max_examples=40)
@given(cases(), st.booleans())
def test_expected_counts_equal_enumeration(case: tuple[pc.Circuit, pc.Evidence, Tensor], exact: bool) -> None:
    circuit, evidence, rows = case
    found, want = statistics(circuit, evidence, rows, exact), counts_by_enumeration(*case)
    assert found.weight == pytest.approx(float(rows.sum()))
    score = testing.Enumeration(circuit, evidence).log_evidence @ rows
    assert float(found.log_likelihood) == pytest.approx(float(score), rel=1e-5, abs=1e-4)
    assert found.counts.keys() == want.keys() == circuit.groups.keys()
    for name, counts in want.items():
        assert torch.allclose(found.counts[name]["counts"].double(), counts, **CLOSE[circuit.dtype]), name


@settings(max_examples=40)
@given(cases(), st.booleans())
def test_gradients_equal_enumeration(case: tuple[pc.Circuit, pc.Evidence, Tensor], exact: bool) -> None:
    """The derivative with respect to a normalised table's logits is `n - p sum n`; a Gaussian's has its closed form."""
    circuit, evidence, rows = case
    counts = counts_by_enumeration(circuit, evidence, rows)
    evaluation = in_log_space(circuit, evidence) if exact else circuit.condition(evidence)
    (evaluation.log_evidence @ rows).backward()
    for name, group in circuit.named_groups():
        gradient = {key: p.grad.double() for key, p in group.named_parameters() if p.grad is not None}
        n, prepared = counts[name], group.prepare()
        if "mean" in gradient:
            total, first, second = n.unbind(-1)
            mean, std = (p.detach().double() for p in prepared)
            spread = (second - 2 * mean * first + mean.square() * total) / std**3 - total / std
            want = {
                "mean": (first - mean * total) / std.square(),
                "raw_std": spread * group.get_parameter("raw_std").detach().double().sigmoid(),
            }
        else:
            centred = n - prepared.log.detach().double().exp() * n.sum(-1, keepdim=True)
            want = {key: centred[..., 1] if key == "logit" else centred for key in gradient}
        for key, value in want.items():
            close = CLOSE[circuit.dtype] | {"atol": CLOSE[circuit.dtype]["atol"] * max(1.0, float(n.abs().max()))}
            assert torch.allclose(gradient[key], value, **close), (name, key)


def test_statistics_add_up_and_scale() -> None:
    circuit = testing.example_circuit("rat", "tucker", "mixed", dtype=torch.float64)
    evidence = testing.example_evidence(circuit, "mixed")
    first, rest = (circuit.statistics(evidence.rows(torch.tensor(rows))) for rows in ([0], [1, 2]))
    together = circuit.statistics(evidence, sample_weights=torch.tensor([3.0, 0.5, 0.5]))
    for total in (3.0 * first + rest * 0.5, 0.5 * (rest + first * 6.0)):
        assert total.weight == together.weight
        assert torch.allclose(total.log_likelihood, together.log_likelihood)
        for name, parts in together.counts.items():
            assert torch.allclose(total.counts[name]["counts"], parts["counts"])


INPUTS = (pc.Categorical(3), pc.Gaussian(loc=0.5, scale=3.0, min_std=0.25), pc.Bernoulli(), pc.Categorical(3))


@pytest.mark.parametrize("weights", ["dense", "sparse"])
@pytest.mark.parametrize(("pseudocount", "relative"), [(0.0, False), (0.7, False), (0.7, True)])
@pytest.mark.parametrize("step", [1.0, 0.3])
def test_the_m_step_is_its_formula(weights: str, pseudocount: float, relative: bool, step: float) -> None:
    graph = pc.structures.rat(4, 2, num_repetitions=2, seed=0)
    circuit = pc.Circuit(graph, INPUTS, num_units=3, seed=0, dtype=torch.float64)
    testing.reshape_weights(circuit, weights)
    old = {name: copies(group) for name, group in circuit.named_groups()}
    found = circuit.statistics(testing.example_evidence(circuit, "mixed", batch=5))
    for parts in found.counts.values():
        parts["counts"][0, 0] = 0.0  # a unit that was never reached
    circuit.maximise(found, pseudocount=pseudocount, relative=relative, step=step)
    for name, group in circuit.named_groups():
        n = found.counts[name]["counts"]
        if hasattr(group, "family") and not group.family.is_discrete:
            want = gaussian_m_step(group.family, *old[name], n, pseudocount, relative, step)
        else:
            want = (table_m_step(old[name][0], n, group.support, pseudocount, relative, step),)
        for got, value in zip(copies(group), want, strict=True):
            assert torch.allclose(got, value, atol=1e-12), name
        assert all(p.isfinite().all() for p in group.parameters()), "gradient learners need a way back"


def copies(group: torch.nn.Module) -> tuple[Tensor, ...]:
    """A table of probabilities, or mean and standard deviation."""
    prepared = group.prepare()
    values = (prepared.log.exp(),) if hasattr(prepared, "log") else (prepared.mean, prepared.std)
    return tuple(value.detach().clone() for value in values)


def table_m_step(old: Tensor, n: Tensor, support: Tensor | None, a: float, relative: bool, step: float) -> Tensor:
    new = old.clone()
    for unit in range(n[..., 0].numel()):
        row, counts = new.view(-1, n.shape[-1])[unit], n.reshape(-1, n.shape[-1])[unit]
        allowed = torch.ones_like(counts) if support is None else support.reshape(-1, n.shape[-1])[unit].double()
        extra = a * float(counts.sum()) if relative else a
        if counts.sum() > 0:
            row.copy_((1 - step) * row + step * (counts + extra * allowed / allowed.sum()) / (counts.sum() + extra))
    return new


def gaussian_m_step(
    family: pc.Gaussian, mean: Tensor, std: Tensor, n: Tensor, a: float, relative: bool, step: float
) -> tuple[Tensor, Tensor]:
    """The moments move a step towards those of the counts and `a` samples of the prior; the deviation has a floor."""
    total, first, second = n.unbind(-1)
    extra = a * total if relative else torch.full_like(total, a)
    new_first = (1 - step) * mean + step * (first + extra * family.loc) / (total + extra)
    prior = family.scale**2 + family.loc**2
    new_second = (1 - step) * (std**2 + mean**2) + step * (second + extra * prior) / (total + extra)
    new_std = (new_second - new_first**2).clamp_min((2 * family.min_std) ** 2).sqrt()
    return torch.where(total > 0, new_first, mean), torch.where(total > 0, new_std, std)
