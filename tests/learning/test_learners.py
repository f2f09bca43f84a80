"""Each learner against its formula, and what holds for all of them."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits import learning
from tests.learning.small_models import (
    LEARNERS,
    close,
    fit,
    hmm,
    log_partition,
    mean_log_prob,
    names,
    same,
    sequences,
    state,
    tree,
)


@pytest.mark.parametrize("learner", LEARNERS, ids=names)
def test_every_learner_improves_and_stays_normalised(learner: learning.Learner) -> None:
    circuit, x = hmm(), sequences()
    log_partitions: list[float] = []
    history = fit(
        circuit,
        x,
        learner=learner,
        epochs=6,
        batch_size=16,
        on_epoch=lambda _: log_partitions.append(log_partition(circuit)),
    )
    assert max(map(abs, log_partitions)) < 1e-6
    assert -mean_log_prob(circuit, x) < history.train_loss[0] - 0.05


@pytest.mark.parametrize("learner", LEARNERS, ids=names)
def test_every_batch_leaves_a_normalised_circuit(learner: learning.Learner) -> None:
    circuit, x = hmm(), sequences()
    learner.begin(circuit, None)
    for part in x.split(7):
        learner.update(learning.Batch(pc.Evidence(part), None))
        learner.end_epoch()
        assert abs(log_partition(circuit)) < 1e-6


@pytest.mark.parametrize("make", [hmm, lambda: tree(pc.Categorical(4)), lambda: tree(pc.Gaussian())])
def test_em_without_smoothing_never_lowers_the_likelihood(make) -> None:
    circuit, x = make(), sequences()
    x = x.float() - 1.5 if isinstance(circuit.inputs[0], pc.Gaussian) else x
    losses = fit(circuit, x, learner=pc.EM(pseudocount=0.0), epochs=12).train_loss
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 0.05


def test_em_is_the_closed_form_on_a_factorised_circuit() -> None:
    x = torch.randint(3, (50, 4))
    circuit = pc.Circuit(pc.structures.factorized(4), pc.Categorical(3), num_units=1, seed=0)
    fit(circuit, x, learner=pc.EM(pseudocount=0.3), epochs=1)
    counts = torch.stack([(x == v).sum(0) for v in range(3)], -1)
    assert torch.allclose(circuit.marginals(), (counts + 0.1) / (50 + 0.3), atol=1e-6)


def test_minibatch_em_is_one_step_a_batch_along_its_schedule() -> None:
    x = sequences(30)
    circuit, by_hand = hmm(), hmm()
    learner = pc.MiniBatchEM(step=0.5, decay=0.7, pseudocount=0.01)
    fit(circuit, [x[:16], x[16:]], learner=learner, epochs=1)
    for t, part in enumerate([x[:16], x[16:]]):
        statistics = by_hand.statistics(part)
        by_hand.maximise(statistics, pseudocount=0.01, relative=True, step=0.5 / (1 + t) ** 0.7)
    assert same(state(circuit), state(by_hand))


Tables = dict[str, Tensor]


def expected_counts(tables: Tables, x: Tensor | None, length: int) -> Tables:
    """Counts of an HMM's parameters, by going through all paths: of the sequences x, or of one drawn from the HMM."""
    states, categories = tables["emission"].shape
    observations = x.tolist() if x is not None else list(itertools.product(range(categories), repeat=length))
    counts = {name: torch.zeros_like(table) for name, table in tables.items()}
    for sequence in observations:
        found = {name: torch.zeros_like(table) for name, table in tables.items()}
        total = 0.0
        for path in itertools.product(range(states), repeat=length):
            p = float(tables["initial"][path[0]]) * math.prod(
                float(tables["transition"][i, j]) for i, j in itertools.pairwise(path)
            )
            p *= math.prod(float(tables["emission"][z, v]) for z, v in zip(path, sequence, strict=True))
            total += p
            found["initial"][path[0]] += p
            for i, j in itertools.pairwise(path):
                found["transition"][i, j] += p
            for z, v in zip(path, sequence, strict=True):
                found["emission"][z, v] += p
        for name in counts:
            counts[name] += found[name] / (total if x is not None else 1.0)
    return counts


def test_anemone_is_its_formula() -> None:
    """A manual loop: each window divided by its own flow, the pseudocount scaled by each unit's own total."""
    eta, momentum, pseudocount, length = 0.4, 0.9, 0.01, 3
    circuit = pc.HMM(2, 3, length, seed=1, dtype=torch.float64)
    tables = {"initial": circuit.initial, "transition": circuit.transition, "emission": circuit.emission}
    tables = {name: table.detach().clone() for name, table in tables.items()}
    x = torch.randint(3, (12, length))
    windows = [x[:5], x[5:10], x[10:]]  # the last one is short
    average = {name: torch.zeros_like(table) for name, table in tables.items()}
    for t, window in enumerate(windows, 1):
        flows, top_down = expected_counts(tables, window, length), expected_counts(tables, None, length)
        for name, table in tables.items():
            average[name] = momentum * average[name] + (1 - momentum) * flows[name] / len(window)
            target = eta * average[name] / (1 - momentum**t) + (1 - eta) * top_down[name]
            total = target.sum(-1, keepdim=True)
            tables[name] = (target + pseudocount * total / table.shape[-1]) / (total * (1 + pseudocount))
    fit(circuit, windows, learner=pc.Anemone(eta, momentum, pseudocount), epochs=1)
    for name, table in tables.items():
        assert torch.allclose(getattr(circuit, name), table, atol=1e-9), name


def test_anemone_does_not_swamp_rare_units() -> None:
    """A state that is reached once in ten million keeps what it emits; an absolute pseudocount would flatten it."""
    rare = 1e-7
    circuit = pc.HMM.from_probs(
        torch.tensor([1 - rare, rare]).double(),
        torch.tensor([[1 - rare, rare], [0.5, 0.5]]).double(),
        torch.tensor([[0.5, 0.5, 0.0], [0.005, 0.005, 0.99]]).clamp_min(1e-12).double(),
        length=2,
    )
    fit(circuit, torch.randint(2, (20, 2)), learner=pc.Anemone(pseudocount=1e-3), epochs=1)
    assert float(circuit.emission[1, 2].detach()) > 0.5


def test_adam_schedule() -> None:
    learner = pc.Adam(1.0, warmup=4, decay=10)
    rates = [learner.rate(t) for t in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[9] == pytest.approx(0.5) and rates[14] == rates[19] == 0.0


def test_adam_clips_the_gradient() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    seen: list[Tensor] = []
    module.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    learner = pc.Adam(0.1, clip=0.5)
    learner.begin(module, lambda m, batch: 1e6 * m.weight.sum())
    learner.update(learning.Batch(None, None))
    assert float(seen[0]) == 1e6
    moment = next(value for key, value in learner.state().items() if key.endswith("exp_avg"))
    assert float(moment) == pytest.approx(0.1 * 0.5)


@pytest.mark.parametrize("learner", [pc.EM(), pc.Anemone(), pc.Adam(0.05)], ids=lambda learner: learner.name)
def test_a_weight_is_a_repetition(learner: learning.Learner) -> None:
    """One batch holds all rows, so the row order does not matter; a weight of zero leaves a row out."""
    x, weights = sequences(10), torch.tensor([1, 2, 3, 0, 1, 1, 2, 1, 1, 0])
    weighted, repeated = hmm(), hmm()
    a = fit(weighted, x, learner=learner, sample_weights=weights.float(), epochs=3)
    b = fit(repeated, x.repeat_interleave(weights, 0), learner=learner, epochs=3)
    assert close(state(weighted), state(repeated), 1e-5)
    assert a.train_loss == pytest.approx(b.train_loss, abs=1e-6)


@pytest.mark.parametrize("learner", LEARNERS, ids=names)
def test_missing_values_are_summed_out(learner: learning.Learner) -> None:
    """The loss is that of the marginal, and what was never observed is learned from nothing but its neighbours."""
    x, observed = sequences(40), torch.rand(40, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    evidence = pc.Evidence(x, observed=observed)
    circuit = hmm()
    with torch.no_grad():
        start = -float(hmm().condition(evidence).log_evidence.mean())
    history = fit(circuit, evidence, valid=evidence, learner=learner, epochs=5, batch_size=64)
    assert history.train_loss[0] == pytest.approx(start, abs=1e-5)
    assert history.initial_valid_loss == pytest.approx(start, abs=1e-5)
    assert history.valid_loss[-1] < start - 0.03


def test_nothing_observed_teaches_em_nothing() -> None:
    circuit = hmm()
    before = state(circuit)
    fit(circuit, pc.Evidence.nothing(5, 4), learner=pc.EM(pseudocount=0.0), epochs=2)
    assert close(state(circuit), before, 1e-6)


def test_soft_evidence_is_learned_from() -> None:
    """Weights of a value alone are that value."""
    x = sequences(20)
    hard, soft = hmm(), hmm()
    log_weights = torch.nn.functional.one_hot(x, 4).float().log()
    fit(hard, x, epochs=2)
    fit(soft, pc.Evidence(log_weights=log_weights), epochs=2)
    assert close(state(hard), state(soft), 1e-5)


@pytest.mark.parametrize("learner", ["em", "minibatch_em", "anemone"])
def test_learners_of_counts_refuse_an_objective(learner: str) -> None:
    with pytest.raises(pc.ParameterError, match=r"divide by flows .* negative"):
        fit(hmm(), sequences(), learner=learner, objective=lambda model, x: model.log_prob(x))
    with pytest.raises(pc.ParameterError, match="needs a Circuit"):
        fit(torch.nn.Linear(2, 2), sequences(), learner=learner)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pc.EM(pseudocount=-1.0),
        lambda: pc.MiniBatchEM(step=0.0),
        lambda: pc.MiniBatchEM(decay=2.0),
        lambda: pc.MiniBatchEM(pseudocount=-0.1),
        lambda: pc.Anemone(eta=0.0),
        lambda: pc.Anemone(momentum=1.0),
        lambda: pc.Anemone(pseudocount=-1e-6),
        lambda: pc.Adam(lr=0.0),
        lambda: pc.Adam(betas=(0.9, 1.0)),
        lambda: pc.Adam(clip=0.0),
        lambda: pc.Adam(warmup=-1),
    ],
)
def test_settings_out_of_range(make) -> None:
    with pytest.raises(pc.ParameterError, match="must be"):
        make()


def test_adam_refuses_what_it_cannot_learn() -> None:
    with pytest.raises(pc.ParameterError, match="no likelihood of its own"):
        fit(torch.nn.Linear(2, 2), [torch.zeros(1, 2)], learner="adam")
    with pytest.raises(pc.ParameterError, match="no parameter"):
        fit(hmm().requires_grad_(False), sequences(), learner="adam")
    for bad in (torch.tensor(torch.nan), torch.tensor(torch.inf)):
        module = torch.nn.Linear(1, 1)
        before = state(module)
        with pytest.raises(pc.DataError, match="no step was taken"):
            fit(module, [0], learner="adam", objective=lambda m, batch, bad=bad: m.weight.sum() * 0 + bad)
        assert same(before, state(module))


def test_all_reduce_without_processes_is_the_identity() -> None:
    statistics = hmm().statistics(sequences())
    assert learning.all_reduce(statistics) is statistics


def test_all_reduce_sums_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same share: all sums double, and the maximum stays where it was."""
    circuit, x = hmm(), sequences()
    statistics = circuit.statistics(x)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    both = learning.all_reduce(statistics)
    assert both.weight == 2 * statistics.weight
    assert float(both.log_likelihood) == pytest.approx(2 * float(statistics.log_likelihood))
    assert torch.allclose(both.counts["emission"]["counts"], 2 * statistics.counts["emission"]["counts"])


@torch.no_grad()
def test_em_in_single_precision_learns_a_small_spread_far_from_zero() -> None:
    x = (1000 + 0.1 * torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))).float()
    circuit = pc.Circuit(pc.structures.factorized(1), pc.Gaussian(loc=1000.0, scale=1.0), num_units=1, seed=0)
    for _ in range(3):
        circuit.maximise(circuit.statistics(x))
    normal = circuit.prepared()["input_0"]
    assert normal.mean.item() == pytest.approx(x.double().mean().item(), rel=1e-6)
    assert normal.std.item() == pytest.approx(x.double().std(correction=0).item(), rel=1e-2)
