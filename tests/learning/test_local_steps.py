"""Processes that learn by themselves for a few batches: what they agree on is its formula, to the bit the same."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

import pcircuits as pc
from pcircuits import files, learning
from tests.learning.small_models import fit, hmm, mean_log_prob, same, sequences, state, tree
from tests.processes import run_together

SIZE = 2
# Batches of each process: unlike numbers of rows, two rounds of three and a shorter one.
SPLITS = (8, 4)
LEARNERS = {
    "em": pc.MiniBatchEM(step=0.5, decay=0.6, every=3),
    "anemone": pc.Anemone(eta=0.3, momentum=0.5, every=3),
    "adam": pc.Adam(0.05, clip=None, every=3),
}
SCRIPT = """
import sys
from pathlib import Path
import safetensors.torch, torch
import pcircuits as pc
from pcircuits import files, learning
from tests.learning import test_local_steps as own

torch.set_num_threads(1)
rank, size = learning.join()
for name, kind in own.CASES:
    model, records = own.MODELS[kind](), []
    pc.fit(model, own.batches(rank), learner=own.LEARNERS[name], epochs=2, seed=0, progress=False,
        on_epoch=lambda _: records.append(own.state(model)))
    for epoch, record in enumerate(records):
        files.write_safetensors(Path(sys.argv[1]) / f"{name}_{kind}_{epoch}_{rank}.safetensors", record)
pair = torch.nn.ParameterDict({"a": torch.zeros(2), "b": torch.zeros(2)})
targets = [pair["a"], pair["b"]][: size - rank]
pc.fit(pair, [torch.ones(2)] * 4, objective=lambda model, x: sum((t - x).square().sum() for t in targets),
    learner=pc.Adam(0.1, every=2), epochs=1, progress=False)
safetensors.torch.save_file(dict(pair.items()), Path(sys.argv[1]) / f"pair_{rank}.safetensors")
"""


def mixed() -> pc.MixtureCircuit:
    return pc.mixture([hmm(1), tree(pc.Categorical(4))])


def squared() -> pc.Circuit:
    """With complex weights."""
    inputs, dtype = pc.Categorical(4), torch.complex128
    return pc.square(pc.SignedCircuit(pc.structures.binary_tree(4), inputs, num_units=2, seed=0, dtype=dtype))


MODELS = {"hmm": hmm, "mixture": mixed, "square": squared}
COUNTED = ["hmm", "mixture"]  # have expected counts
CASES = [(name, kind) for name in LEARNERS for kind in MODELS if name == "adam" or kind in COUNTED]


def batches(rank: int) -> list[torch.Tensor]:
    return list(sequences(7 * SPLITS[rank], seed=rank).split(SPLITS[rank]))


def rounds() -> list[list[int]]:
    return [[0, 1, 2], [3, 4, 5], [6]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    run_together(SCRIPT, SIZE, str(folder))
    return folder


def found(folder: Path, name: str, kind: str, epoch: int, rank: int = 0) -> dict[str, torch.Tensor]:
    return files.read_safetensors(folder / f"{name}_{kind}_{epoch}_{rank}.safetensors").tensors


def require_close(got: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    for name, value in state(model).items():
        assert torch.allclose(got[name].exp(), value.exp(), rtol=2e-5, atol=2e-6), name


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_after_a_round_all_processes_agree_to_the_bit(run: Path, name: str, kind: str) -> None:
    for epoch in range(2):
        assert same(found(run, name, kind, epoch, 0), found(run, name, kind, epoch, 1))


@pytest.mark.parametrize("kind", COUNTED)
def test_em_makes_one_step_of_the_counts_of_all(run: Path, kind: str) -> None:
    """By hand, in one process: of each process a copy that goes its own way."""
    model, data, t = MODELS[kind](), [batches(rank) for rank in range(SIZE)], 0
    for epoch in range(2):
        for numbers in rounds():
            steps = [0.5 / (1 + t + n) ** 0.6 for n in range(len(numbers))]
            copies, total = [MODELS[kind]() for _ in range(SIZE)], None
            for rank, copy in enumerate(copies):
                copy.load_state_dict(model.state_dict())
                for n, number in enumerate(numbers):
                    counts = copy.statistics(data[rank][number])
                    weighed = counts * torch.tensor([1 - s for s in steps[n + 1 :]]).prod().item()
                    total = weighed if total is None else total + weighed
                    copy.maximise(counts, pseudocount=1e-3, relative=True, step=steps[n])
            assert total is not None
            whole = 1 - torch.tensor([1 - s for s in steps]).prod().item()
            model.maximise(total, pseudocount=1e-3, relative=True, step=whole)
            t += len(numbers)
        require_close(found(run, "em", kind, epoch), model)


@pytest.mark.parametrize("kind", COUNTED)
def test_anemone_averages_its_averages(run: Path, kind: str) -> None:
    model, data, t = MODELS[kind](), [batches(rank) for rank in range(SIZE)], 0
    nothing, average = pc.Evidence.nothing(1, 4), None
    for epoch in range(2):
        for numbers in rounds():
            copies, mine = [MODELS[kind]() for _ in range(SIZE)], [average] * SIZE
            for rank, copy in enumerate(copies):
                copy.load_state_dict(model.state_dict())
                for n, number in enumerate(numbers, start=1):
                    window = copy.statistics(data[rank][number]) * (0.5 / SPLITS[rank])
                    before = mine[rank]
                    mine[rank] = window if before is None else before * 0.5 + window
                    flows = mine[rank] * (0.3 / (1 - 0.5 ** (t + n)))
                    copy.maximise(flows + copy.statistics(nothing) * 0.7, pseudocount=1e-6, relative=True)
            t += len(numbers)
            average = mine[0] * (SPLITS[0] / sum(SPLITS)) + mine[1] * (SPLITS[1] / sum(SPLITS))
            eta = 1 - 0.7 ** len(numbers)
            target = average * (eta / (1 - 0.5**t)) + model.statistics(nothing) * (1 - eta)
            model.maximise(target, pseudocount=1e-6, relative=True)
        require_close(found(run, "anemone", kind, epoch), model)


@pytest.mark.parametrize("kind", list(MODELS))
def test_adam_averages_parameters_and_moments(run: Path, kind: str) -> None:
    data = [batches(rank) for rank in range(SIZE)]
    copies = [MODELS[kind]() for _ in range(SIZE)]
    optimizers = [torch.optim.Adam(copy.parameters(), lr=0.05) for copy in copies]
    for epoch in range(2):
        for numbers in rounds():
            for rank, (copy, optimizer) in enumerate(zip(copies, optimizers, strict=True)):
                for number in numbers:
                    optimizer.zero_grad()
                    (-copy.log_prob(data[rank][number]).mean()).backward()
                    optimizer.step()
            for several in zip(*(copy.parameters() for copy in copies), strict=True):
                states = [optimizer.state[p] for optimizer, p in zip(optimizers, several, strict=True)]
                for values in (several, *([s[key] for s in states] for key in ("exp_avg", "exp_avg_sq"))):
                    mean = sum(n * x.detach() for n, x in zip(SPLITS, values, strict=True)) / sum(SPLITS)
                    for value in values:
                        value.data.copy_(mean)
        require_close(found(run, "adam", kind, epoch), copies[0])


def test_what_one_process_does_not_use_is_averaged_too(run: Path) -> None:
    pairs = [safetensors.torch.load_file(run / f"pair_{rank}.safetensors") for rank in range(SIZE)]
    assert same(*pairs) and (pairs[0]["a"] > 0.35).all()
    assert ((pairs[0]["b"] > 0.1) & (pairs[0]["b"] < 0.3)).all()


@pytest.mark.parametrize("name", list(LEARNERS))
def test_it_learns_from_the_rows_of_all(run: Path, name: str) -> None:
    model, rows = hmm(), torch.cat([sequences(7 * n, seed=rank) for rank, n in enumerate(SPLITS)])
    before = mean_log_prob(model, rows)
    model.load_state_dict(found(run, name, "hmm", 1))
    assert mean_log_prob(model, rows) > before + 0.1


@pytest.mark.parametrize("name", list(LEARNERS))
def test_one_process_is_not_changed_by_it(name: str) -> None:
    alone, usual = hmm(), hmm()
    fit(alone, sequences(), learner=LEARNERS[name], epochs=2, batch_size=16)
    settings = {**vars(LEARNERS[name]), "every": 1}
    fit(usual, sequences(), learner=type(LEARNERS[name])(**settings), epochs=2, batch_size=16)
    assert same(state(alone), state(usual))


def test_a_round_has_a_positive_number_of_batches() -> None:
    for kind in (pc.MiniBatchEM, pc.Anemone, pc.Adam):
        for every in (0, -1, 1.5):
            with pytest.raises((pc.ParameterError, TypeError), match="every"):
                kind(every=every)
    assert learning.place().size == 1
