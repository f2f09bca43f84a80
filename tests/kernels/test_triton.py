"""Every Triton kernel equals its definition: in the interpreter where there is no GPU, on a GPU where there is one."""

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton")

from tests.kernels.cases import CASES, Case
from tests.kernels.comparison import check

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Made of other cases' kernels, or slow in the interpreter: their odd sizes are for the long tier.
COMPOSED = {
    "linear_sum_flow",
    "linear_sum_flow_gated",
    "low_rank_sum_flow",
    "block_sparse_sum",
    "block_sparse_outer",
    "block_sparse_sum_flow",
    "chain_by_steps",
    "categorical_counts",
    "top_values",
}
QUICK_AT_1000 = {("linear_sum", "J"), ("soft_values", "V"), ("segment_sum", "K"), ("gaussian_values", "K")}
MANY_ROWS = {"linear_sum", "sum_product_untied"}  # what 1000 programs cost in the interpreter is spent on these


def label(value: object) -> str | None:
    return value.name if isinstance(value, Case) else None


def odd_sizes() -> Iterator[tuple[Case, str, int, bool]]:
    """One axis at a time, and whether in the short tier."""
    for case in CASES:
        for axis in case.sizes:
            if axis in "AGR":
                continue  # children of a product, gates and ranks are few
            yield case, axis, 1, case.name not in COMPOSED
            yield case, axis, 63, axis != "F" and case.name not in COMPOSED
            if case.name not in COMPOSED and (axis != "F" or case.name in MANY_ROWS):
                yield case, axis, 1000, (case.name, axis) in QUICK_AT_1000


@pytest.mark.parametrize("zeros", [False, True], ids=["positive", "zeros"])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_equals_its_definition(case: Case, zeros: bool) -> None:
    check(case, {}, zeros=zeros, device=DEVICE)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_any_strides(case: Case) -> None:
    check(case, {}, turned=True, device=DEVICE)


@pytest.mark.parametrize(
    ("case", "axis", "size"),
    [pytest.param(*row, marks=() if quick else pytest.mark.campaign) for *row, quick in odd_sizes()],
    ids=label,
)
def test_odd_sizes(case: Case, axis: str, size: int) -> None:
    check(case, {axis: size}, device=DEVICE)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("case", CASES, ids=label)
def test_other_numbers(case: Case, seed: int) -> None:
    check(case, {axis: size + seed for axis, size in case.sizes.items()}, zeros=seed % 2 == 0, seed=seed, device=DEVICE)
