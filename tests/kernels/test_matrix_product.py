"""Matrix products that oneDNN works out equal torch's, on processors where it is chosen and on others."""

import pytest
import torch

from pcircuits.kernels import matrix_product

SHAPES = [(8, 256, 256), (63, 128, 513), (9, 1000, 131), (7, 256, 256), (64, 100, 700), (0, 256, 256)]


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch comes without oneDNN")
    monkeypatch.setattr(matrix_product, "_has_onednn", lambda: request.param)
    return request.param


def drawn(*shape: int, turned: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if turned:
        return torch.randn(*shape[:-2], shape[-1], shape[-2], generator=generator).mT
    return torch.randn(shape, generator=generator)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_those_in_float64(shape: tuple[int, int, int], turned: tuple[bool, bool]) -> None:
    rows, inner, width = shape
    left, right = drawn(rows, inner, turned=turned[0]), drawn(inner, width, turned=turned[1])
    expected = (left.double() @ right.double()).float()
    out = torch.full((rows, width), torch.nan)
    for found in (matrix_product.mm(left, right), matrix_product.mm(left, right, out=out), out):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("count", [0, 1, 3])
def test_batched_products_are_products_of_each(count: int) -> None:
    left, right = drawn(count, 9, 256), drawn(count, 300, 256).mT
    out = torch.full((count, 9, 300), torch.nan)
    chosen_once = matrix_product.times(right, like=left)(left, torch.full_like(out, torch.nan))
    for found in (matrix_product.bmm(left, right), matrix_product.bmm(left, right, out=out), out, chosen_once):
        expected = left.double() @ right.double()
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("width", [300, 700])
def test_a_product_that_is_chosen_once_says_whose_memory_it_is_in(chosen: bool, width: int) -> None:
    left, right, out = drawn(9, 256), drawn(width, 256).mT, torch.full((9, width), torch.nan)
    found = matrix_product.times(right, like=left)(left, out)
    torch.testing.assert_close(found, (left.double() @ right.double()).float(), rtol=1e-5, atol=1e-4)
    assert matrix_product.has_memory(left, right) == chosen == (found is not out)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize(
    "sizes", [(400, 128, 130), (512, 256, 256), (2048, 384, 131), (4096, 400, 200), (500, 256, 256)]
)
def test_products_over_long_axes_equal_those_in_float64(sizes: tuple[int, int, int]) -> None:
    inner, rows, width = sizes
    left, right = drawn(inner, rows).mT, drawn(inner, width)
    expected = (left.double() @ right.double()).float()
    torch.testing.assert_close(matrix_product.mm(left, right), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.usefixtures("chosen")
def test_first_and_second_derivatives_are_those_of_the_product() -> None:
    left, right = drawn(8, 256).requires_grad_(), drawn(256, 256).requires_grad_()

    def derivatives(product: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = torch.autograd.grad(product.square().sum(), (left, right), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (left, right))
        return tuple(g.detach() / g.detach().abs().amax() for g in (*first, *second))

    found, expected = derivatives(matrix_product.mm(left, right)), derivatives(left @ right)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_small_and_double_products_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_product, "_has_onednn", lambda: True)
    monkeypatch.setattr(matrix_product, "_linear", lambda *_: pytest.fail("chosen where it does not gain"))
    few, small, double = ((7, 256), (256, 256)), ((64, 64), (64, 64)), ((64, 256), (256, 256))
    cases = [[drawn(*shape) for shape in shapes] for shapes in (few, small, double)]
    for left, right in [*cases[:2], [x.double() for x in cases[2]]]:
        torch.testing.assert_close(matrix_product.mm(left, right), left @ right)


@pytest.mark.parametrize("capability", ["AVX512", "AVX2", "DEFAULT"])
def test_onednn_is_for_processors_whose_vectors_others_leave_idle(
    capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    available = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert matrix_product._has_onednn.__wrapped__() == (available and capability == "AVX512")
