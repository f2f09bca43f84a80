"""The checker of calculator annotations, and what the arithmetic benchmark makes of it."""

import json
import math

import pytest
import torch

from benchmarks import arithmetic_tables, gsm8k, samples
from benchmarks.annotations import annotations, check
from benchmarks.arithmetic_plot import plot_right
from pcircuits_diffusion.evaluate import DocumentBootstrap
from pcircuits_diffusion.evaluate.curves import dump


@pytest.mark.parametrize(
    "inside",
    [
        "48/2=24",
        "0.2*50=10",
        "100-50-30-15=5",
        "(5+3)*2=16",
        "2*-3=-6",
        ".5*10=5",
        "05*2=10",
        "10 / 4 = 2.5",
        "100/3=33.33",
        "200/3=66.67",
        "200/3=66.66",
        "0.1+0.2=0.3",
        "1234567*10=12345670",
        "7=7",
    ],
)
def test_right(inside: str) -> None:
    assert check(inside)[1:3] == (True, True)


@pytest.mark.parametrize("inside", ["48/2=25", "1/0=0", "100/3=33", "200/3=66.5", "1000000*10=10000001", "0.1+0.2=0.2"])
def test_wrong_but_well_formed(inside: str) -> None:
    assert check(inside)[1:3] == (True, False)


UNFINISHED = ["", "=", " =", "48/2", "48/=24", "=24", "48/2=", "()=0", "(2+3=5"]
NOT_ARITHMETIC = ["48/2=x", "a+b=3", "2**3=8", "7//2=3", "5%2=1", "2(3)=6", "True+1=2", "4=5=5", "2+3=1+4"]
NOT_NUMBERS = ["1.2.3=1", "1,000+1=1001", "1_0+1=11", "0x1+1=2", "9" * 400 + ".0=1"]


@pytest.mark.parametrize("inside", [*UNFINISHED, *NOT_ARITHMETIC, *NOT_NUMBERS])
def test_malformed(inside: str) -> None:
    assert check(inside)[1:] == (False, False, 0)


def test_counts_operators() -> None:
    assert [check(inside).operators for inside in ("7=7", "-7=-7", "1+2=3", "(1+2)*3-4=5")] == [0, 0, 1, 3]


def test_finds_annotations_in_text() -> None:
    text = "She has 48/2=<<48/2=24>>24 and <<1+1=3>>3\nthen <<5+<<2+2=4>>4 <<1+1=\n2>> << 3*3 = 9 >>"
    found = annotations(text)
    assert [a.text for a in found] == ["48/2=24", "1+1=3", "5+", "2+2=4", "1+1=", " 3*3 = 9 "]
    assert [a.well_formed for a in found] == [True, True, False, True, False, True]
    assert [a.right for a in found] == [True, False, False, True, False, True]


def test_cut_off_annotation_counts_only_in_complete_texts() -> None:
    assert [len(annotations("<<1+1=2>> <<2+2=", complete=complete)) for complete in (True, False)] == [2, 1]
    assert len(annotations("<<1+<<2+2=4>>", complete=False)) == 2
    assert annotations("no calculation > here <") == []


def test_published_solutions_are_right() -> None:
    try:
        documents = gsm8k.load("test")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    found = [a for document in documents for a in annotations(document.text)]
    assert sum(a.right for a in found) / len(found) > 0.999


def cell(*texts: str) -> samples.Cell:
    return samples.Cell([annotations(text) for text in texts], 0.5, 1.0)


BOOTSTRAP = DocumentBootstrap(torch.arange(3), num_resamples=200, generator=torch.Generator().manual_seed(0))
BACKBONE = cell("<<1+1=2>> <<1+1=3>>", "<<2*=4>>", "nothing")
COUPLED = cell("<<1+1=2>> <<1+1=2>>", "<<2*3=6>>", "<<1+2+3=7>>")


def test_summary() -> None:
    found = samples.summary(COUPLED, {"1+1=2"}, BOOTSTRAP)
    assert found["well_formed"] == (1.0, 1.0, 1.0)
    assert found["right"].estimate == pytest.approx(3 / 4)
    assert found["right_among_new"] == pytest.approx(1 / 2)
    assert found["annotations_a_sample"] == pytest.approx(4 / 3)
    assert found["right_a_sample"] == pytest.approx(1.0)
    assert (found["distinct"], found["copied_from_training"], found["operators_an_annotation"]) == (3, 0.5, 5 / 4)


def test_gain_is_paired() -> None:
    right = samples.gain(COUPLED, BACKBONE, "right", BOOTSTRAP)
    assert right.estimate == pytest.approx(3 / 4 - 1 / 3) and right.low <= right.estimate <= right.high
    assert samples.gain(COUPLED, COUPLED, "right", BOOTSTRAP) == (0.0, 0.0, 0.0)


def test_samples_without_annotations_give_no_share() -> None:
    found = samples.summary(cell("", "", ""), set(), BOOTSTRAP)
    assert math.isnan(found["right"].estimate) and found["annotations_a_sample"] == 0
    assert json.loads(dump(found))["right"] == {"estimate": None, "low": None, "high": None}


def test_tables_and_figure() -> None:
    published = samples.summary(COUPLED, set(), BOOTSTRAP)
    gains = {field: samples.gain(COUPLED, BACKBONE, field, BOOTSTRAP) for field in ("well_formed", "right")}
    systems = {
        name: samples.summary(c, set(), BOOTSTRAP)
        for name, c in zip(arithmetic_tables.SYSTEMS, (BACKBONE, COUPLED), strict=True)
    }
    rows = [{"rule": "random", "steps": steps, **systems, "gain": gains} for steps in (8, 4)]
    lines = arithmetic_tables.table(published, rows).splitlines()
    assert len(lines) == 2 + 1 + 4 and "75.0%" in lines[2]
    assert "+41.7" in arithmetic_tables.gain_table(rows)
    assert len(plot_right(rows, published).axes) == 2
