"""An interrupted run, resumed, ends with the parameters of one that was not: bit for bit."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pcircuits as pc
from pcircuits import learning
from tests.learning.small_models import LEARNERS, fit, hmm, names, same, sequences, state

BATCHES, EPOCHS = 3, 3


class Killed(Exception):
    """What stands for a machine that goes down."""


def run(learner: learning.Learner, **options) -> tuple[dict[str, Tensor], learning.History]:
    circuit, x = hmm(seed=options.pop("model_seed", 0)), sequences()
    options = {"valid": sequences(20, seed=1), "epochs": EPOCHS, "batch_size": 16, "patience": 50, **options}
    history = fit(circuit, x, learner=learner, **options)
    return state(circuit), history


def interrupt(monkeypatch: pytest.MonkeyPatch, learner: learning.Learner, update: int, how: Callable[[], None]) -> None:
    """Calls `how` in the middle of the learner's update of this number."""
    original, calls = type(learner).update, iter(range(10**6))

    def update_once(self: learning.Learner, batch: learning.Batch) -> learning.Score:
        if next(calls) == update:
            how()
        return original(self, batch)

    monkeypatch.setattr(type(learner), "update", update_once)


def kill() -> None:
    raise Killed


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def assert_same_run(a: tuple[dict, learning.History], b: tuple[dict, learning.History]) -> None:
    assert same(a[0], b[0])
    assert a[1].train_loss == b[1].train_loss and a[1].valid_loss == b[1].valid_loss
    assert (a[1].best_epoch, a[1].initial_valid_loss) == (b[1].best_epoch, b[1].initial_valid_loss)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Also where the tests run in the background, whose processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("update", [0, BATCHES - 1, BATCHES + 1])
@pytest.mark.parametrize("learner", LEARNERS, ids=names)
def test_ctrl_c_saves_after_the_batch(
    learner: learning.Learner, update: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(learner)
    with monkeypatch.context() as patch:
        interrupt(patch, learner, update, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt, match="resume=True"):
            run(learner, checkpoint=tmp_path)
    cursor = json.loads((tmp_path / "checkpoint.json").read_text())["cursor"]
    assert cursor["epoch"] * BATCHES + cursor["batch"] == update + 1
    torch.rand(3)  # what happens in between does not matter, nor how the model was initialised
    assert_same_run(run(learner, checkpoint=tmp_path, resume=True, model_seed=5), whole)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("learner", LEARNERS, ids=names)
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    learner: learning.Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice, in the middle of epochs, after the last checkpoint."""
    whole = run(learner)
    for update in (BATCHES + 1, 2):
        with monkeypatch.context() as patch:
            interrupt(patch, learner, update, kill)
            with pytest.raises(Killed):
                run(learner, checkpoint=tmp_path, checkpoint_every=2, resume=True)
    assert len(list(tmp_path.iterdir())) == 2  # the description and one file of tensors
    assert_same_run(run(learner, checkpoint=tmp_path, checkpoint_every=2, resume=True), whole)


def test_complex_weights_go_on_where_they_were(tmp_path: Path) -> None:
    def squared() -> pc.ProductCircuit:
        graph = pc.structures.chain(4)
        return pc.square(pc.SignedCircuit(graph, pc.Categorical(4), num_units=2, seed=0, dtype=torch.complex64))

    def stop(epoch: learning.Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    whole, parted = squared(), squared()
    fit(whole, sequences(), learner=pc.Adam(0.05), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(parted, sequences(), learner=pc.Adam(0.05), epochs=4, checkpoint=tmp_path, on_epoch=stop)
    fit(parted := squared(), sequences(), learner=pc.Adam(0.05), epochs=4, checkpoint=tmp_path, resume=True)
    assert same(state(whole), state(parted)) and any(t.is_complex() for t in state(whole).values())


def test_an_interrupted_hook(tmp_path: Path) -> None:
    """Raised between epochs: that epoch is done again."""
    learner = pc.Anemone()

    def raise_at(epoch: learning.Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(learner, checkpoint=tmp_path, on_epoch=raise_at)
    assert_same_run(run(learner, checkpoint=tmp_path, resume=True), run(learner))


def test_without_a_folder_ctrl_c_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = pc.EM()
    interrupt(monkeypatch, learner, 1, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(learner)


@pytest.mark.parametrize("stream", ["eager", "lazy", "loader"])
def test_random_numbers_go_on(stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, an objective that draws, and data that draw: eagerly, batch by batch, or in a DataLoader."""
    x, learner = torch.randn(40, 3), pc.Adam(0.05)

    def lazily(epoch: int) -> Iterator[Tensor]:
        for _ in range(5):
            yield x[torch.randint(40, (8,))]

    data = {
        "eager": lambda epoch: x[torch.randperm(40)].split(8),
        "lazy": lazily,
        "loader": torch.utils.data.DataLoader(x, batch_size=8, shuffle=True),
    }[stream]
    seen: list[Tensor] = []

    def objective(model: nn.Module, rows: Tensor) -> Tensor:
        seen.append(rows)
        return (model(rows) + torch.rand(len(rows), 1) - rows[:, :1]).square().mean()

    def train(**options) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        fit(model, data, valid=[x], learner=learner, objective=objective, epochs=3, **options)
        return state(model)

    whole = train()
    assert not torch.equal(seen[1], seen[7])  # epochs differ (the first call is validation, and one after each epoch)
    for update in (3, 2, 5):
        with monkeypatch.context() as patch:
            interrupt(patch, learner, update, press_ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                train(checkpoint=tmp_path, resume=True)
        torch.rand(7)
    assert same(train(checkpoint=tmp_path, resume=True), whole)


def test_a_finished_run_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = pc.EM()
    whole = run(learner, checkpoint=tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, learner, 0, kill)
        assert_same_run(run(learner, checkpoint=tmp_path, resume=True), whole)
    longer = run(learner, checkpoint=tmp_path, resume=True, epochs=EPOCHS + 2)
    assert_same_run(longer, run(learner, epochs=EPOCHS + 2))


def test_an_early_stop_is_final(tmp_path: Path) -> None:
    options = {"valid": 3 - sequences(20), "patience": 2, "checkpoint": tmp_path}
    first = run(pc.EM(), **options)
    assert first[1].stopped_early
    again = run(pc.EM(), resume=True, model_seed=3, **options)
    assert_same_run(again, first)
    assert again[1].stopped_early


def test_a_seed_that_was_drawn_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = pc.MiniBatchEM()
    torch.manual_seed(1)
    whole = run(learner, seed=None)
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        interrupt(patch, learner, 4, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run(learner, seed=None, checkpoint=tmp_path)
    assert_same_run(run(learner, seed=None, checkpoint=tmp_path, resume=True), whole)


def test_resume_needs_the_same_settings(tmp_path: Path) -> None:
    run(pc.EM(), checkpoint=tmp_path)
    with pytest.raises(pc.ParameterError, match="already holds a checkpoint"):
        run(pc.EM(), checkpoint=tmp_path)
    for learner, options, what in [
        (pc.EM(pseudocount=0.5), {}, "learner"),
        (pc.EM(), {"seed": 1}, "seed"),
        (pc.EM(), {"batch_size": 8}, "data"),
    ]:
        with pytest.raises(pc.ParameterError, match=f"was made with {what}"):
            run(learner, checkpoint=tmp_path, resume=True, **options)
    with pytest.raises(pc.FormatError, match="another model"):
        fit(pc.HMM(2, 4, 4), sequences(), batch_size=16, checkpoint=tmp_path, resume=True)


def damage(change: Callable[[Path, dict], None], folder: Path) -> None:
    path = folder / "checkpoint.json"
    stored = json.loads(path.read_text())
    change(folder / stored["tensors"], stored)
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, stored: tensors.write_bytes(tensors.read_bytes()[:-1]), "not the file that was saved"),
        (lambda tensors, stored: tensors.unlink(), "cannot be read"),
        (lambda tensors, stored: stored.update(version=2), "upgrade"),
        (lambda tensors, stored: stored.update(version="1"), "version '1'"),
        (lambda tensors, stored: stored.update(format="other"), "expected 'pcircuits.fit'"),
        (lambda tensors, stored: stored.pop("cursor"), "lacks cursor"),
        (lambda tensors, stored: stored.update(cursor={"page": 1}), "does not describe"),
        (lambda tensors, stored: stored.pop("format"), "does not describe"),
    ],
)
def test_damaged_checkpoints(change: Callable[[Path, dict], None], message: str, tmp_path: Path) -> None:
    run(pc.EM(), checkpoint=tmp_path, epochs=1)
    damage(change, tmp_path)
    with pytest.raises(pc.FormatError, match=message):
        run(pc.EM(), checkpoint=tmp_path, resume=True)


def test_truncated_description(tmp_path: Path) -> None:
    run(pc.EM(), checkpoint=tmp_path, epochs=1)
    path = tmp_path / "checkpoint.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(pc.FormatError, match="does not describe"):
        run(pc.EM(), checkpoint=tmp_path, resume=True)


def test_an_interrupted_write_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down between the new tensors and the new description: the old pair is whole."""
    from pcircuits.learning import checkpoint

    learner = pc.MiniBatchEM()
    whole = run(learner)
    with monkeypatch.context() as patch:
        write, calls = checkpoint.write_atomically, iter(range(99))
        patch.setattr(checkpoint, "write_atomically", lambda *a: kill() if next(calls) == 2 else write(*a))
        with pytest.raises(Killed):
            run(learner, checkpoint=tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["cursor"]["epoch"] == 2
    assert_same_run(run(learner, checkpoint=tmp_path, resume=True), whole)
    assert len(list(tmp_path.iterdir())) == 2
