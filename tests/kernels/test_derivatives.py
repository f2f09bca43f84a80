"""Derivatives of every order of operations whose values come from kernels."""

import torch

from pcircuits.kernels.derivatives import differentiable

Tensors = tuple[torch.Tensor, ...]


def power(x: torch.Tensor, y: torch.Tensor) -> Tensors:
    return x**3 * y, (x + y).detach()


def by_hand(arguments: Tensors, _found: Tensors, grads: Tensors, needed: tuple[bool, ...]) -> tuple:
    x, y = arguments
    return 3 * x.square() * y * grads[0] if needed[0] else None, x**3 * grads[0] if needed[1] else None


def twice(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return differentiable(power, by_hand, power, (x, y))[0]


def inputs() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))


def test_gradients_by_hand_and_by_the_definition() -> None:
    x, y = inputs()
    assert torch.autograd.gradcheck(twice, (x, y))
    assert torch.autograd.gradcheck(lambda a, b: differentiable(power, None, power, (a, b))[0], (x, y))
    assert torch.autograd.gradgradcheck(twice, (x, y))


def test_an_argument_made_from_another_is_differentiated_once() -> None:
    x, _ = inputs()
    y = x.square()
    (first,) = torch.autograd.grad(twice(x, y).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(first, 5 * x**4)
    torch.testing.assert_close(second, 20 * x**3)


def test_what_has_no_gradient_says_so() -> None:
    x, y = inputs()
    found = differentiable(power, by_hand, power, (x, y.detach()))
    assert found[0].requires_grad and not found[1].requires_grad
    (gradient,) = torch.autograd.grad(found[0].sum(), x)
    torch.testing.assert_close(gradient, 3 * x.square() * y)
