"""Enumerable truths: the tasks, the oracle, exact circuits, and laws that are those of the decoding loop."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from benchmarks import truths
from benchmarks.truths_laws import StepLaw, all_orders, distance, some_orders
from benchmarks.truths_priors import exact_hmm, exact_states, fitted_hmm, rows_hmm, uniform_hmm
from benchmarks.truths_tasks import (
    Oracle,
    Truth,
    latin_squares,
    one_removed,
    one_replaced,
    permutations,
    sudoku_grids,
    sudoku_puzzles,
)
from pcircuits_diffusion.evaluate.rules import factorised
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion


def test_tasks_have_as_many_outputs_as_is_known() -> None:
    assert len(latin_squares().valid) == 576 and len(sudoku_grids().valid) == 288
    assert len(permutations(4).valid) == 24
    grid = sudoku_grids().valid[17].view(4, 4)
    for part in (*grid, *grid.T, *(box.flatten() for row in grid.split(2) for box in row.split(2, 1))):
        assert sorted(part.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(("n", "states"), [(3, 12), (4, 32), (5, 80)])
def test_exact_circuit(n: int, states: int) -> None:
    truth = permutations(n)
    assert len(exact_states(truth).unique()) == states == n * 2 ** (n - 1)
    log_prob = exact_hmm(truth).log_prob(truth.valid)
    assert torch.allclose(log_prob, torch.full_like(log_prob, -math.lgamma(n + 1)), atol=1e-6)


def test_rows_circuit_has_valid_rows() -> None:
    circuit = rows_hmm(latin_squares()).requires_grad_(False)
    assert circuit.num_units == 32
    rows = circuit.sample(50, generator=torch.Generator().manual_seed(0)).view(-1, 4)
    assert (rows.sort(1).values == torch.arange(4)).all()
    assert float(circuit.log_prob(latin_squares().valid).mean()) >= -4 * math.log(24)


def test_oracle_is_the_conditional_of_the_truth() -> None:
    oracle = Oracle(permutations(3))
    found = oracle.log_marginals(torch.tensor([[3, 3, 3], [1, 3, 3], [1, 0, 3]])).exp()
    third = 1 / 3
    assert torch.allclose(found[0], torch.full((3, 3), third).double())
    assert torch.allclose(found[1], torch.tensor([[0, 1, 0], [0.5, 0, 0.5], [0.5, 0, 0.5]]).double())
    assert torch.allclose(found[2, 2], torch.tensor([0.0, 0.0, 1.0]).double())


@pytest.mark.parametrize("n", [3, 4])
def test_backbone_alone_has_the_closed_form(n: int) -> None:
    truth = permutations(n)
    law = StepLaw(factorised, Oracle(truth), truth.valid)
    puzzle = torch.zeros(len(truth.valid), dtype=torch.long)
    once, one_by_one = (distance(law.probabilities(all_orders(n), steps), puzzle, exact=True) for steps in (1, n))
    assert once.validity == pytest.approx(math.factorial(n) / n**n)
    assert once.total_variation == pytest.approx(1 - math.factorial(n) / n**n)
    assert once.divergence == pytest.approx(math.log(n**n / math.factorial(n)))
    assert one_by_one[:2] == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize(
    ("truth", "states", "closed_form"),
    [
        (one_replaced(5), 13, (4 / 5) ** 4),
        # the first k items of 6 are kept, the others have moved up: position i moves up with probability (i + 1) / 6
        (one_removed(6), 10, sum(math.prod((6 - i) / 6 if i <= k else i / 6 for i in range(1, 6)) for k in range(6))),
    ],
    ids=lambda value: value.name if isinstance(value, Truth) else None,
)
def test_lists_have_the_closed_form_and_need_few_states(truth: Truth, states: int, closed_form: float) -> None:
    assert len(truth.valid) == len(truth.valid.unique(dim=0)) == (5 if "replaced" in truth.name else 6)
    puzzle = torch.zeros(len(truth.valid), dtype=torch.long)
    alone = StepLaw(factorised, Oracle(truth), truth.valid).probabilities(all_orders(5), 1)
    assert distance(alone, puzzle, exact=True).validity == pytest.approx(closed_form)
    exact = exact_hmm(truth).requires_grad_(False)
    assert exact.num_units == states
    law = StepLaw(CoupledHead(exact, coupling="projected"), Oracle(truth), truth.valid)
    assert distance(law.probabilities(all_orders(5), 1), puzzle, exact=True)[:2] == pytest.approx((1, 0), abs=1e-6)


@pytest.mark.parametrize("coupling", ["product", "corrected", "projected"])
def test_enough_states_are_valid_in_one_step_and_uniform_circuits_change_nothing(coupling: str) -> None:
    truth = permutations(3)
    puzzle = torch.zeros(6, dtype=torch.long)
    head = CoupledHead(exact_hmm(truth).requires_grad_(False), coupling=coupling)
    for steps in (1, 2, 3):
        law = StepLaw(head, Oracle(truth), truth.valid).probabilities(all_orders(3), steps)
        assert distance(law, puzzle, exact=True)[:2] == pytest.approx((1.0, 0.0), abs=1e-6)
        nothing = CoupledHead(uniform_hmm(truth).requires_grad_(False), coupling=coupling)
        uniform = StepLaw(nothing, Oracle(truth), truth.valid).probabilities(all_orders(3), steps)
        alone = StepLaw(factorised, Oracle(truth), truth.valid).probabilities(all_orders(3), steps)
        assert torch.allclose(uniform, alone, atol=1e-9)


def test_law_is_that_of_the_decoding_loop() -> None:
    truth, draws = permutations(3), 4000
    head = CoupledHead(fitted_hmm(truth, 4, epochs=5, seed=0).requires_grad_(False), coupling="corrected")
    law = StepLaw(head, Oracle(truth), truth.valid).probabilities(all_orders(3), 2).mean(0)
    model = CoupledDiffusion(Oracle(truth), head)
    masked, generator = torch.full((draws, 3), 3), torch.Generator().manual_seed(0)
    drawn = model.infill(masked, steps=2, remasking="random", generator=generator)
    counts = (drawn.unsqueeze(1) == truth.valid).all(-1).sum(0).double()
    deviation = (draws * law * (1 - law)).sqrt()
    assert ((counts - draws * law).abs() < 4.5 * deviation).all()
    assert 0.6 < float(law.sum()) < 0.99  # a case where some outputs are not valid


def test_given_cells_are_known_from_the_start() -> None:
    truth = permutations(4)
    outputs = truth.valid[truth.valid[:, 0] == 2]
    given = (torch.arange(4) == 0).expand_as(outputs)
    law = StepLaw(factorised, Oracle(truth), outputs, given)
    orders = some_orders(4, 0, seed=0)
    puzzle = torch.zeros(6, dtype=torch.long)
    found = distance(law.probabilities(orders, 1), puzzle, exact=True)
    assert found.validity == pytest.approx(6 / 27)
    assert distance(law.probabilities(orders, 3), puzzle, exact=True).validity == pytest.approx(1.0)


def test_every_puzzle_counts_alike() -> None:
    puzzle = torch.tensor([0, 1, 1])  # the first has one solution, the second two
    found = distance(torch.tensor([[1.0, 0.25, 0.25]] * 2).double(), puzzle, exact=True)
    assert found.validity == pytest.approx(0.75)
    assert found.total_variation == pytest.approx(0.5 * (0.5 * 0.5 + 0.25))


def test_validity_with_sampled_orders_is_a_probability() -> None:
    question = truths.whole(permutations(6), (8,), (6,))
    generator = torch.Generator().manual_seed(0)
    shapes = ((8,), (8, 8), (8, 6))
    probs = [torch.randn(shape, generator=generator, dtype=torch.float64).softmax(-1) for shape in shapes]
    head = CoupledHead(pc.HMM.from_probs(*probs, length=6).requires_grad_(False), coupling="product")
    law = StepLaw(head, Oracle(question.truth), question.outputs)
    probabilities = law.probabilities(some_orders(6, 2, seed=0), 6)
    assert float(probabilities.std(1).min() * 720) > 0.1  # so far from uniform that outputs must not be sampled
    found = distance(probabilities, question.puzzle, exact=question.exact)
    assert found.validity == pytest.approx(1.0, abs=1e-9) and found.deviation == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(found.total_variation) and math.isnan(found.divergence)


def test_questions_ask_for_all_outputs() -> None:
    latin = latin_squares()
    assert torch.equal(truths.whole(latin, (), ()).outputs, latin.valid)
    given = truths.first_row_given(latin, (), ())
    assert len(given.outputs) == 576 // math.factorial(4) and (given.outputs[:, :4] == torch.arange(4)).all()


def test_puzzles_are_solved_by_their_solutions() -> None:
    truth = sudoku_grids()
    try:
        found = sudoku_puzzles(truth, 8)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert len(found.puzzle.unique()) == 108 and (found.given.sum(1) == 8).all()
    first = [found.solutions[found.puzzle == i] for i in range(3)]
    for i, solutions in enumerate(first):
        given = found.given[found.puzzle == i][0]
        for a, b in itertools.pairwise(solutions):
            assert torch.equal(a[given], b[given]) and not torch.equal(a, b)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truths.main(["--reduced", "--epochs", "3", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "truths_reduced.json").read_text())["results"]
    assert found["uniform_circuit_difference"] < 1e-9
    alone, *circuits = found["rows"]
    assert alone["distances"]["1"]["validity"] == pytest.approx(6 / 27)
    assert all(row["distances"]["1"]["validity"] == pytest.approx(1.0) for row in circuits if row["enough"])
    assert "permutations of 3, oracle" in capsys.readouterr().out
    assert (tmp_path / "truths_reduced.png").is_file()
