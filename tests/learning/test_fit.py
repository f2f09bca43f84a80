"""The loop: data of every kind, objectives, early stopping, histories, and errors before any work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pcircuits as pc
from pcircuits import learning
from pcircuits.learning.batches import epoch_generator
from tests.learning.small_models import LEARNERS, close, fit, hmm, mean_log_prob, names, same, sequences, state, tree


def order(seed: int, epoch: int, n: int) -> Tensor:
    return torch.randperm(n, generator=epoch_generator(seed, epoch))


@pytest.mark.parametrize("learner", LEARNERS, ids=names)
def test_streaming_is_the_same_as_memory(learner: learning.Learner) -> None:
    """Rows in memory, a function of the epoch, a stream object and pairs with weights one: bit for bit the same."""
    x = sequences()

    def batches(epoch: int) -> Iterator[Tensor]:
        return iter(x[order(0, epoch, len(x))].split(16))

    class Stream:
        def batches(self, epoch: int, *, start: int = 0) -> Iterator[pc.Evidence]:
            return (pc.Evidence(part) for part in list(batches(epoch))[start:])

    results = []
    for data in (x, batches, Stream()):
        circuit = hmm()
        history = fit(circuit, data, learner=learner, epochs=2, batch_size=16 if data is x else None)
        results.append((state(circuit), history.train_loss))
    for found, losses in results[1:]:
        assert same(found, results[0][0]) and losses == results[0][1]


def test_lists_and_data_loaders_stream() -> None:
    x = sequences()
    listed, loaded, weighted = hmm(), hmm(), hmm()
    fit(listed, list(x.split(16)), epochs=2)
    dataset = torch.utils.data.TensorDataset(x)
    fit(loaded, torch.utils.data.DataLoader(dataset, batch_size=16), epochs=2)
    fit(weighted, [(part, torch.ones(len(part))) for part in x.split(16)], epochs=2)
    assert same(state(listed), state(loaded)) and same(state(listed), state(weighted))


def test_batches_without_weight_are_left_out() -> None:
    x = sequences()
    some, all_ = hmm(), hmm()
    fit(some, [x[:16], x[16:32]], learner="minibatch_em", epochs=2)
    rows = torch.cat([x[16:32], x[32:]])
    weights = torch.cat([torch.ones(16), torch.zeros(12)])
    data = [x[:16], (x[32:], torch.zeros(12)), (rows, weights)]
    history = fit(all_, data, learner="minibatch_em", epochs=2)
    assert same(state(some), state(all_)) and len(history.epochs) == 2


@pytest.mark.parametrize("seed", [None, 3])
def test_shards_hold_every_row_once(tmp_path: Path, seed: int | None) -> None:
    x = torch.arange(60).view(30, 2).to(torch.uint16)
    paths = learning.write_shards(tmp_path, [x[:13], x[13:14], x[14:]])
    shards = learning.TokenShards(paths, batch_size=4, seed=seed)
    for epoch in (0, 1):
        batches = list(shards.batches(epoch))
        assert len(batches) == len(shards) == 9
        rows = torch.cat(batches)
        assert rows.dtype == torch.int64
        assert torch.equal(rows[rows[:, 0].argsort()], x.long())
        assert seed is not None or torch.equal(rows, x.long())
        for start in range(10):
            later = list(shards.batches(epoch, start=start))
            assert len(later) == 9 - start and all(
                torch.equal(a, b) for a, b in zip(later, batches[start:], strict=True)
            )
    differ = not torch.equal(torch.cat(list(shards.batches(0))), torch.cat(list(shards.batches(1))))
    assert differ == (seed is not None)


def test_fit_from_shards(tmp_path: Path) -> None:
    x = sequences()
    paths = learning.write_shards(tmp_path, x.split(20))
    streamed, in_memory = hmm(), hmm()
    a = fit(streamed, learning.TokenShards(paths, batch_size=8, seed=0), valid=x, epochs=3)
    b = fit(in_memory, x, valid=x, epochs=3, batch_size=8)
    assert close(state(streamed), state(in_memory), 1e-5)
    assert a.valid_loss == pytest.approx(b.valid_loss, abs=1e-5)


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    paths = learning.write_shards(tmp_path, [torch.zeros(3, 2).long(), torch.zeros(3, 4).long()])
    with pytest.raises(pc.DataError, match="one width"):
        learning.TokenShards(paths)
    with pytest.raises(pc.FormatError, match="no rows under 'x'"):
        learning.TokenShards(paths[:1], key="x")
    with pytest.raises(pc.FormatError):
        learning.TokenShards([tmp_path / "absent.safetensors"])
    with pytest.raises(pc.DataError, match="no rows"):
        learning.TokenShards([])
    with pytest.raises(pc.DataError, match=r"\(rows, variables\)"):
        learning.TokenShards(learning.write_shards(tmp_path / "flat", [torch.zeros(3)]))
    with pytest.raises(pc.ParameterError, match="batch_size"):
        learning.TokenShards(paths[:1], batch_size=0)
    paths[0].write_bytes(paths[0].read_bytes()[:-3])
    with pytest.raises(pc.FormatError):
        learning.TokenShards(paths[:1])


def test_training_does_not_depend_on_the_validation_data() -> None:
    x = sequences()
    with_valid, without = hmm(), hmm()
    fit(with_valid, x, valid=x[:5], learner="adam", epochs=3, batch_size=16)
    fit(without, x, learner="adam", epochs=3, batch_size=16)
    assert same(state(with_valid), state(without))


def test_history_and_hook() -> None:
    circuit, x, seen = hmm(), sequences(), []
    history = fit(circuit, x, valid=x, epochs=10, on_epoch=lambda epoch: seen.append(epoch) or len(seen) == 4)
    assert [epoch.number for epoch in history.epochs] == [0, 1, 2, 3] and history.epochs == seen
    assert history.train_loss[1:] == pytest.approx(history.valid_loss[:-1], abs=1e-5)  # EM measures before its step
    assert history.valid_loss[-1] == pytest.approx(-mean_log_prob(circuit, x), abs=1e-6)
    assert history.best_epoch == 3 and not history.stopped_early
    assert learning.History.from_json(history.to_json()) == history


def test_early_stopping_restores_the_best_parameters() -> None:
    """Overfits 12 sequences by Adam; the model ends where the validation loss was least."""
    train, valid = sequences(12), sequences(60, seed=1)
    circuit, states = hmm(), {}
    history = fit(
        circuit,
        train,
        valid=valid,
        learner=pc.Adam(0.2),
        epochs=200,
        patience=3,
        on_epoch=lambda epoch: states.update({epoch.number: state(circuit)}),
    )
    assert history.stopped_early and len(history.epochs) < 200
    assert history.best_epoch == len(history.epochs) - 4 and history.best_epoch > 0
    assert same(state(circuit), states[history.best_epoch])
    assert history.best_valid_loss == min(history.valid_loss) == pytest.approx(-mean_log_prob(circuit, valid))


def test_the_initial_parameters_may_be_the_best() -> None:
    circuit = hmm()
    fit(circuit, sequences(60, seed=1), epochs=30)
    start = state(circuit)
    opposite = 3 - sequences(20)
    history = fit(circuit, opposite, valid=sequences(60, seed=1), epochs=9, patience=2)
    assert history.best_epoch == -1 and len(history.epochs) == 2
    assert same(state(circuit), start)


def test_an_argument_that_is_a_learner_is_not_changed() -> None:
    learner, x = pc.Anemone(), sequences()
    fit(hmm(), x, learner=learner, epochs=1)
    assert learner == pc.Anemone() and not hasattr(learner, "_average")


def test_objective_on_any_module_and_any_batch() -> None:
    """A regression from dictionaries, by a loss without axes; dropout is off in validation."""
    module = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5))
    x = torch.randn(32, 2)
    batches = [{"x": part, "y": part.sum(-1, keepdim=True)} for part in x.split(8)]
    modes = []

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        modes.append(model.training)
        return (model(batch["x"]) - batch["y"]).square().mean()

    history = fit(module, batches, valid=batches, learner=pc.Adam(0.05), objective=objective, epochs=30)
    assert history.valid_loss[-1] < 0.5 * history.initial_valid_loss
    assert modes[:8] == [False] * 4 + [True] * 4 and module.training


def test_objective_may_return_log_likelihoods() -> None:
    """Of rows in memory, with weights: the same as the likelihood itself."""
    x, weights = sequences(), torch.rand(44)
    own, given = hmm(), hmm()
    options = {"learner": "adam", "epochs": 2, "batch_size": 16, "sample_weights": weights}
    a = fit(own, x, **options)
    b = fit(given, x, objective=lambda model, rows: model.log_prob(rows), **options)
    assert same(state(own), state(given)) and a.train_loss == b.train_loss


def test_objective_sees_any_rows() -> None:
    """Of any number of axes: here indices into what the objective knows."""
    module, targets = nn.Linear(1, 1, bias=False), torch.full((10, 1), 3.0)

    def objective(model: nn.Module, index: Tensor) -> Tensor:
        return (model(torch.ones(len(index), 1)) - targets[index]).square().mean()

    fit(module, torch.arange(10), learner=pc.Adam(0.1), objective=objective, epochs=60, batch_size=5)
    assert float(module.weight.detach()) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("result", [lambda m: 1.0, lambda m: m.weight, lambda m: torch.ones(3).long()])
def test_objective_returns_something_else(result) -> None:
    with pytest.raises(pc.ParameterError, match="loss without axes"):
        fit(nn.Linear(2, 2), [0], learner="adam", objective=lambda model, batch: result(model))


def test_a_loss_without_axes_cannot_be_weighted() -> None:
    with pytest.raises(pc.ParameterError, match="log likelihood for each"):
        fit(
            hmm(),
            sequences(),
            learner="adam",
            sample_weights=torch.ones(44),
            objective=lambda model, x: -model.log_prob(x).mean(),
        )


X = torch.zeros(6, 4).long()


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (X[:0], {}, pc.DataError, "`data` is empty"),
        (X[:, :3], {}, pc.ShapeError, "has 3 variables, the circuit has 4"),
        (X[0], {}, pc.ShapeError, "rows, variables"),
        (X + 9, {}, pc.EvidenceError, "must be integers in 0..3"),
        (torch.full((2, 4), torch.nan), {}, pc.DataError, "NaN in rows"),
        (pc.Evidence.nothing(2, 5), {}, pc.ShapeError, "has 5 variables"),
        ([], {}, pc.DataError, "`data` is empty"),
        (iter([X]), {}, pc.DataError, "used up after one epoch"),
        ("tokens", {}, pc.DataError, "must be a tensor, Evidence or batches"),
        ([["a"]], {}, pc.DataError, "batch 0 of epoch 0 of `data` must be a tensor or Evidence"),
        ([(X, X, X)], {}, pc.DataError, "pair"),
        ([X, X[:, :3]], {}, pc.ShapeError, "batch 1 of epoch 0 of `data` has 3 variables"),
        ([X, X.float() * torch.nan], {}, pc.DataError, "batch 1 of epoch 0 of `data` is NaN"),
        ([(X, torch.zeros(6))], {}, pc.DataError, "no batches with any weight"),
        ([(X, torch.ones(5))], {}, pc.ShapeError, r"shape \(6,\)"),
        (lambda epoch: [], {}, pc.DataError, "no batches"),
        (X, {"sample_weights": torch.zeros(6)}, pc.DataError, "all zero"),
        (X, {"sample_weights": torch.ones(5)}, pc.ShapeError, r"shape \(6,\)"),
        (X, {"sample_weights": -torch.ones(6)}, pc.DataError, "at least 0"),
        (X, {"sample_weights": torch.full((6,), torch.nan)}, pc.DataError, "at least 0"),
        ([X], {"sample_weights": torch.ones(6)}, pc.DataError, "rows in memory"),
        ([X], {"batch_size": 4}, pc.ParameterError, "ready-made"),
        (X, {"batch_size": 0}, pc.ParameterError, "positive integer"),
        (X, {"epochs": 0}, pc.ParameterError, "positive integer"),
        (X, {"patience": 2}, pc.ParameterError, "`valid`"),
        (X, {"checkpoint_every": 2}, pc.ParameterError, "`checkpoint` folder"),
        (X, {"learner": "sgd"}, pc.ParameterError, "'em', 'minibatch_em', 'anemone', 'adam'; got 'sgd'"),
        (X, {"valid": X[:, :2]}, pc.ShapeError, "`valid` has 2 variables"),
        (X, {"valid": X[:0]}, pc.DataError, "`valid` is empty"),
    ],
)
def test_bad_data_and_settings(data, options: dict, error: type[Exception], message: str) -> None:
    circuit = hmm()
    before = state(circuit)
    with pytest.raises(error, match=message):
        fit(circuit, data, **options)
    assert same(before, state(circuit))


def test_impossible_data() -> None:
    circuit = pc.HMM.from_probs(torch.ones(1), torch.ones(1, 1), torch.tensor([[0.5, 0.5, 0.0]]), length=2)
    with pytest.raises(pc.EvidenceError, match=r"impossible.*rows \[1\]"):
        fit(circuit, [torch.tensor([[0, 1], [0, 2]])])
    with pytest.raises(pc.DataError, match="impossible"):
        fit(circuit, [torch.tensor([[0, 1], [0, 2]])], learner="adam")


def test_continuous_data() -> None:
    x = torch.cat([torch.randn(40, 2) * 0.3 - 2, torch.randn(40, 2) * 0.3 + 2])
    for learner in LEARNERS:
        circuit = tree(pc.Gaussian(), 2)  # a mixture of products
        before = mean_log_prob(circuit, x)
        fit(circuit, x, learner=learner, epochs=8, batch_size=40)
        assert mean_log_prob(circuit, x) > before + 0.3, learner


def test_the_bar_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    fit(hmm(), sequences(), epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "2/2" in err and "loss=" in err
