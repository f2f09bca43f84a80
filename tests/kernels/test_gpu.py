"""What only a device can show: real tiles, real precision, and the same result twice."""

import pytest
import torch

pytest.importorskip("triton")

from tests.kernels.cases import CASES, Case, Draw
from tests.kernels.comparison import check, results, surrounded
from tests.kernels.test_triton import label

pytestmark = pytest.mark.gpu

SIZES = {
    "F": 7, "B": 130, "O": 65, "J": 70, "K": 66, "V": 1000, "H": 64, "T": 50, "N": 5000, "S": 33, "G": 2, "A": 2,
    "R": 4, "C": 40,
}  # fmt: skip
BLOCKS = {"F": 3, "B": 130, "O": 5, "J": 6}


def device_sizes(case: Case) -> dict[str, int]:
    sizes = BLOCKS if case.folder == "block_sparse_sum" else SIZES
    return {axis: sizes[axis] for axis in case.sizes}


@pytest.mark.parametrize("zeros", [False, True], ids=["positive", "zeros"])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_equals_its_definition_at_device_sizes(case: Case, zeros: bool) -> None:
    check(case, device_sizes(case), zeros=zeros, device="cuda")


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_same_twice(case: Case) -> None:
    """No sum is made in an order that varies, so races would show too."""
    made = [case.make(device_sizes(case), Draw(0, False)) for _ in range(2)]
    first, second = (
        results(case, case.kernel, {name: surrounded(x, "cuda") for name, x in given.items()}) for given in made
    )
    for x, y in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        assert torch.equal(x, y)


def test_precision_is_what_was_asked_for() -> None:
    """Three tf32 products are as good as float32; one is not, which shows that tensor cores were used."""
    from pcircuits.kernels.dense_sum.triton import linear_sum

    given = CASES[0].make({"F": 4, "B": 128, "O": 64, "J": 256}, Draw(0, False))
    exact = given["values"] @ given["weights"].mT
    on_device = {name: x.float().cuda() for name, x in given.items()}
    errors = {
        precision: float(
            (linear_sum(**on_device, precision=precision).cpu().double() / exact - 1).abs().max()  # type: ignore[arg-type]
        )
        for precision in ("ieee", "tf32x3", "bf16x3", "tf32")
    }
    assert errors["ieee"] < 1e-5 and errors["tf32x3"] < 1e-5 and errors["bf16x3"] < 5e-5
    assert 5e-5 < errors["tf32"] < 2e-3
