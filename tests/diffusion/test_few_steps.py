"""The few-steps benchmark: samples that are kept, what is counted in them, and how many steps are needed."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import few_steps, few_steps_tables
from benchmarks.few_steps_cells import Counted, Drawn, Rule, Spec, Work, draw, judge, until
from benchmarks.few_steps_plot import plot_few_steps
from benchmarks.few_steps_tables import BACKBONE, Result, speedup, steps_needed
from pcircuits_diffusion.backbones import MaskedTransformer, TransformerConfig
from pcircuits_diffusion.evaluate import DocumentBootstrap
from pcircuits_diffusion.evaluate.curves import dump
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import hmm, table_backbone

STEPS = torch.tensor([1.0, 2.0, 4.0, 8.0]).double()


@pytest.mark.parametrize(
    ("curve", "target", "needed"),
    [
        ([0.1, 0.2, 0.4, 0.8], 0.4, 4.0),
        ([0.1, 0.2, 0.4, 0.8], 0.3, 2**1.5),
        ([0.5, 0.2, 0.4, 0.8], 0.3, 1.0),
        ([0.1, 0.2, 0.4, 0.8], 0.9, torch.inf),
        ([0.1, 0.6, 0.4, 0.8], 0.5, 2**0.8),
    ],
)
def test_steps_needed(curve: list[float], target: float, needed: float) -> None:
    found = steps_needed(STEPS, torch.tensor([curve]).double(), torch.tensor([target]).double())
    assert found.tolist() == pytest.approx([needed])


def counted(right_of_ten: list[float], steps: float) -> Counted:
    right = torch.tensor(right_of_ten).double()
    ten = torch.full_like(right, 10.0)
    return Counted(right, right / 2, ten, 2 * ten, ten, entropy=3.0, distinct_2=0.5, steps=steps, seconds=1.0)


def result() -> Result:
    """A head that is in one step as good as the backbone in two."""
    cells = {}
    for steps, share in ((1, 2.0), (2, 4.0), (4, 8.0)):
        cells[Spec(BACKBONE, "random", steps)] = counted([share, share, share], steps)
        cells[Spec("ours, trained", "random", steps)] = counted([min(10.0, 2 * share)] * 3, steps)
        cells[Spec(BACKBONE, "entropy_bounded", steps)] = counted([share, share, share], steps + 0.5)
        cells[Spec("ours, trained", "entropy_bounded", steps)] = counted([share] * 3, steps + 0.5)
    bootstrap = DocumentBootstrap(torch.arange(3), num_resamples=50, generator=torch.Generator().manual_seed(0))
    return Result(cells, counted([10.0] * 3, 0.0), bootstrap)


def test_a_head_that_needs_half_the_steps() -> None:
    factors = speedup(result(), "ours, trained", "random")
    assert {steps: factor.estimate for steps, factor in factors.items()} == pytest.approx(
        {1.0: 1.0, 2.0: 2.0, 4.0: 2.0}
    )
    assert all(f.low == pytest.approx(f.estimate) for f in factors.values())  # all problems are alike here
    same = speedup(result(), "ours, trained", "entropy_bounded")
    assert [factor.estimate for factor in same.values()] == pytest.approx([1.0, 1.0, 1.0])


def test_tables_json_and_figure() -> None:
    found = result()
    assert "40.0% [40, 40]" in few_steps_tables.table(found)
    assert "+20 [+20, +20] points" in few_steps_tables.gain_table(found)
    assert "2.0x [2.0, 2.0]" in few_steps_tables.needed_table(found)
    values = json.loads(dump(few_steps_tables.to_json(found)))
    assert len(values["cells"]) == 12 and values["cells"][0]["judge_nats_a_token"]["estimate"] == pytest.approx(2.0)
    assert len(plot_few_steps(found).axes) == 6


def test_cells_are_kept_and_only_of_equal_settings(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "work.jsonl"
    drawn, spec = Drawn([[1, 2], [3]], [2, 1], 0.5), Spec(BACKBONE, "random", 4)
    Work(path, {"seed": 0}).add(spec, drawn)
    assert Work(path, {"seed": 0}).cells == {spec: drawn}
    assert Work(path, {"seed": 1}).cells == {}


def test_draws_depend_on_the_seed_alone_and_count_calls() -> None:
    backbone = table_backbone()
    model = CoupledDiffusion(backbone, CoupledHead(hmm()))
    options = {"block_length": 4, "tokens": 8, "eos_id": 0, "temperature": 1.0}
    first, again, other = (
        draw(model, [[1], [2]] * 5, Spec("ours", "random", 2), seed=seed, **options) for seed in (0, 0, 1)
    )
    assert first.rows == again.rows != other.rows
    assert all(0 not in row and len(row) <= 8 for row in first.rows)
    assert all(calls <= 4 for calls in first.calls)
    assert until([5, 6, 0, 7], 0) == [5, 6]


def test_adaptive_rules_take_fewer_steps_at_looser_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Rule({"quota": "joint_confidence", "confidence_from": "coupled"}, bounds=(1.0, 0.0))
    monkeypatch.setitem(few_steps.RULES, "joint_confidence", rule)
    model = CoupledDiffusion(table_backbone(), CoupledHead(hmm()))
    options = {"block_length": 4, "tokens": 4, "eos_id": 0, "temperature": 1.0, "seed": 0}
    strict, loose = (
        draw(model, [[1]] * 8, Spec("ours", "joint_confidence", bound), **options).calls for bound in rule.bounds
    )
    assert sum(strict) > sum(loose) == 8


def test_judge_scores_the_sample_and_its_end() -> None:
    config = TransformerConfig(
        vocab_size=5, dim=8, num_layers=1, num_heads=2, max_length=8, block_length=4, eos_id=0, causal=True
    )
    torch.manual_seed(0)
    model = MaskedTransformer(config).eval()
    nats, tokens = judge(model, [[1, 2], [1, 2, 3, 4, 1, 2]], [[3, 4], [1, 2, 3]], limit=3)
    assert tokens.tolist() == [3, 3]  # the first one ended
    whole = torch.tensor([[1, 2, 3, 4, 0]])
    expected = -model.log_marginals(whole)[0, 2:].gather(-1, whole[0, 2:, None]).sum()
    assert nats[0] == pytest.approx(float(expected), rel=1e-5)
    cut = torch.tensor([[2, 3, 4, 1, 2, 1, 2, 3]])
    assert nats[1] == pytest.approx(
        float(-model.log_marginals(cut)[0, 5:].gather(-1, cut[0, 5:, None]).sum()), rel=1e-5
    )
