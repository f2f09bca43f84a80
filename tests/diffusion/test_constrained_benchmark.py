"""The constrained-generation benchmark: its own checks, and a few outputs of the embedded model."""

import json
from pathlib import Path

import pytest

from benchmarks import constrained
from benchmarks.constrained import CONTROL, TASKS, Batch, summary


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('{"kind": "list", "length": 3, "mutable": true}', True),
        ('{"kind":"tuple","length":-1,"mutable":false}', True),
        ('{"kind": "dict", "length": 3, "mutable": true}', False),
        ('{"kind": "list", "length": 3.5, "mutable": true}', False),
        ('{"kind": "list", "length": true, "mutable": true}', False),
        ('{"kind": "list", "length": 3}', False),
        ('{"kind": "list", "length": 3, "mutable": true} and', False),
        ("[]", False),
    ],
)
def test_json_check(text: str, valid: bool) -> None:
    assert TASKS["json"].matches(text) == valid


def test_other_checks_can_fail() -> None:
    assert TASKS["regex"].matches("len(a) is 1.") and not TASKS["regex"].matches("len(a) is 1. ")
    assert TASKS["keywords"].matches("a string's length") and not TASKS["keywords"].matches("a string")


def test_summary_counts_matches_of_the_task_and_of_the_control() -> None:
    batches = [
        Batch("regex", 0, ["len(a) is 1.", "wrong"], 4.0),
        Batch("keywords", 0, ["length string", "length string"], 1.0),
        Batch("json", 0, ["", ""], 1.0),
        Batch(CONTROL, 0, ["length of a string", "none"], 2.0),
    ]
    found = summary(batches)
    assert {name: parts["constrained"]["matches"] for name, parts in found.items()} == {
        "regex": 1,
        "keywords": 2,
        "json": 0,
    }
    assert found["keywords"]["control"]["matches"] == 1 and found["keywords"]["constrained"]["different"] == 1
    assert found["regex"]["constrained"]["seconds_per_output"] == 2.0


def test_the_command_resumes_and_fails_where_an_output_breaks_its_constraint(tmp_path: Path) -> None:
    work = tmp_path / "work.jsonl"
    arguments = ["--reduced", "--count", "2", "--batch", "2", "--work", str(work), "--out", str(tmp_path)]
    assert constrained.main(arguments) == 0
    found = json.loads((tmp_path / "constrained_reduced.json").read_text())["results"]["tasks"]
    assert all(task["constrained"]["matches"] == task["constrained"]["count"] == 2 for task in found.values())
    lines = [json.loads(line) for line in work.read_text().splitlines()]
    assert len(lines) == len(TASKS) + 1
    for line in lines:
        line["batch"][2] = ["broken", "broken"]
    work.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert constrained.main(arguments) == 1
