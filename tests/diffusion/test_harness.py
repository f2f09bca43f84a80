"""The lm-evaluation-harness on local toy tasks: its numbers are the library's."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

import pcircuits as pc
from pcircuits_diffusion.evaluate import score_continuations
from pcircuits_diffusion.harness import CoupledDiffusionLM
from pcircuits_diffusion.harness.requests import read_wish
from tests.diffusion.tiny_models import save_backbone, save_head

ROWS = [{"question": f"{a} and {b} are", "answer": f"just {a + b}"} for a, b in ((1, 2), (3, 3), (5, 2))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    backbone = save_backbone(folder / "backbone")
    save_head(folder / "head", backbone, backbone_name=str(folder / "backbone"))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> CoupledDiffusionLM:
    return CoupledDiffusionLM(head=str(folder / "head"), batch_size=2, max_gen_toks=12)


def rows(**options: Any) -> dict[str, datasets.Dataset]:
    return {"test": datasets.Dataset.from_list(ROWS)}


def task(name: str, output_type: str, metrics: list[str], **options: Any) -> dict[str, Any]:
    return {
        "task": name,
        "custom_dataset": rows,
        "test_split": "test",
        "output_type": output_type,
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": metric} for metric in metrics],
        **options,
    }


TASKS = [
    task("generate", "generate_until", ["exact_match"], generation_kwargs={"until": ["."], "max_gen_toks": 8}),
    task("likelihood", "loglikelihood", ["perplexity", "acc"]),
    task("choice", "multiple_choice", ["acc"], doc_to_choice=["just 3", "just 6", "just 7"]),
    task("rolling", "loglikelihood_rolling", ["word_perplexity"], doc_to_text="", doc_to_target="{{question}}"),
]


@pytest.fixture(scope="module")
def results(model: CoupledDiffusionLM) -> dict[str, Any]:
    manager = TaskManager(include_defaults=False)
    return lm_eval.simple_evaluate(model=model, tasks=TASKS, task_manager=manager, bootstrap_iters=0, log_samples=True)


def test_simple_evaluate_runs_every_kind_of_task(results: dict[str, Any]) -> None:
    assert set(results["results"]) == {"generate", "likelihood", "choice", "rolling"}
    assert all(len(samples) == len(ROWS) for samples in results["samples"].values())
    assert 0 <= results["results"]["choice"]["acc,none"] <= 1


def test_likelihoods_are_the_library_s(model: CoupledDiffusionLM, results: dict[str, Any]) -> None:
    encode = model.loaded.tokenizer.encode
    contexts = [encode(row["question"]) for row in ROWS]
    answers = [encode(row["question"] + row["answer"])[len(c) :] for row, c in zip(ROWS, contexts, strict=True)]
    found = [sample["resps"][0][0] for sample in sorted(results["samples"]["likelihood"], key=lambda s: s["doc_id"])]
    expected = score_continuations(model.model, contexts, answers, model.scheme)
    assert [float(score) for score, _ in found] == pytest.approx([score.log_prob for score in expected], abs=1e-5)
    mean = sum(score.log_prob for score in expected) / len(ROWS)
    assert results["results"]["likelihood"]["perplexity,none"] == pytest.approx(math.exp(-mean), rel=1e-5)


def ask(kind: str, *arguments: Any) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def test_rolling_is_the_chain_over_windows(model: CoupledDiffusionLM) -> None:
    """A text longer than the backbone's 24 tokens: its blocks, each after what fits of the tokens before."""
    text = "The sum of 3 and 4 is 7, of course. " * 4
    ids = model.tok_encode(text)
    assert len(ids) > 30
    stream, length = [0, *ids], model.block_length
    total = 0.0
    for start in range(1, len(stream), length):
        before = stream[max(0, start - (24 - length)) : start]
        total += score_continuations(model.model, [before], [stream[start : start + length]], model.scheme)[0].log_prob
    found = model.loglikelihood_rolling(ask("loglikelihood_rolling", (text,), ("",)), disable_tqdm=True)
    assert found == [pytest.approx(total, abs=1e-4), 0.0]


def test_generated_texts_do_not_depend_on_the_batch(model: CoupledDiffusionLM) -> None:
    options = {"until": ["zz"], "do_sample": True, "temperature": 0.9, "max_gen_toks": 10, "remasking": "random"}
    prompts = ["3 and", "The sum of 2 and 2", "0"]
    together = model.generate_until(ask("generate_until", *((p, options) for p in prompts)), disable_tqdm=True)
    assert len(set(together)) == 3
    for i, prompt in enumerate(prompts):
        model.seed = i
        assert model.generate_until(ask("generate_until", (prompt, options)), disable_tqdm=True) == [together[i]]
    model.seed = 0


def test_greedy_generation_is_greedy_likelihood(folder: Path) -> None:
    """One step a block on both sides: what is generated at temperature 0 is what `is_greedy` is true of."""
    model = CoupledDiffusionLM(head=str(folder / "head"), steps_per_block=1)
    prompt, options = "3 and", {"until": [], "max_gen_toks": 8}
    (text,) = model.generate_until(ask("generate_until", (prompt, options)), disable_tqdm=True)
    ids = model.model.generate(model.tok_encode(prompt), max_new_tokens=8, steps=1, temperature=0.0, eos_id=0).rows[0]
    assert model.loaded.tokenizer.decode(ids.tolist()) == text
    (answer,) = model._loglikelihood_tokens([(("", ""), model.tok_encode(prompt), ids.tolist())], disable_tqdm=True)
    assert answer[1] is True


def test_stops_cut_a_text(model: CoupledDiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = read_wish({"until": [".", "\n"], "max_gen_toks": 5}, max_gen_toks=9)
    assert wish.cut("a\nb.c") == "a" and wish.cut("abc") == "abc" and wish.is_met("b.c") and not wish.is_met("b")
    assert wish.max_new_tokens == 5 and wish.settings == {"temperature": 0.0}
    assert read_wish({"until": "x", "temperature": 0.5}, max_gen_toks=9) == (("x",), 9, {"temperature": 0.5})
    assert read_wish({"do_sample": False, "temperature": 0.5}, max_gen_toks=9).settings == {"temperature": 0.0}
    assert read_wish({"do_sample": True, "sampling": "any_order"}, max_gen_toks=9).settings == {
        "temperature": 1.0,
        "sampling": "any_order",
    }
    full = model.generate_until(ask("generate_until", ("3 and", {"until": []})), disable_tqdm=True)[0]
    stop = full[len(full) // 2]
    steps = counted_steps(model, monkeypatch)
    cut = model.generate_until(ask("generate_until", ("3 and", {"until": [stop]})), disable_tqdm=True)[0]
    assert cut == full[: full.index(stop)]
    assert 0 < steps() <= 8


def counted_steps(model: CoupledDiffusionLM, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    original, taken = model.model.steps, []

    def steps(*arguments: Any, **options: Any) -> Any:
        for step in original(*arguments, **options):
            taken.append(step)
            yield step

    monkeypatch.setattr(model.model, "steps", steps)
    return lambda: len(taken)


def test_both_names_make_the_model_from_a_string(folder: Path) -> None:
    assert get_model("pcircuits_diffusion") is get_model("coupled_diffusion") is CoupledDiffusionLM
    arguments = f"backbone={folder / 'backbone'},head=none,block_length=4,likelihood_steps=2,remasking=entropy"
    made = CoupledDiffusionLM.create_from_arg_string(arguments, {"batch_size": "auto", "device": "cpu"})
    assert made.model.head is None and made.scheme.steps == 2 and made.scheme.max_context == 24
    assert made.batch_size == 16 and made.settings == {"block_length": 4, "remasking": "entropy"}


def test_refuses_what_decoding_has_no_counterpart_of(folder: Path, model: CoupledDiffusionLM) -> None:
    with pytest.raises(pc.ParameterError, match="num_beams have no counterpart"):
        model.generate_until(ask("generate_until", ("a", {"num_beams": 2})), disable_tqdm=True)
    with pytest.raises(pc.ParameterError, match="colour cannot be set"):
        CoupledDiffusionLM(head=str(folder / "head"), colour="red")
    with pytest.raises(pc.ParameterError, match="temperature cannot be set"):
        CoupledDiffusionLM(head=str(folder / "head"), temperature=0.3)
    with pytest.raises(pc.ParameterError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "a"}])
    with pytest.raises(pc.ParameterError, match="`steps` must be between"):
        CoupledDiffusionLM(head=str(folder / "head"), likelihood_steps=9)
