"""Operations whose values and first derivatives come from kernels, and all others from their definition."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pcircuits.types import Tensor

Tensors = tuple[Tensor, ...]
Maybe = Sequence[Any]  # tensors, and None for arguments that were not given or need no gradient
Gradients = Callable[[Maybe, Tensors, Maybe, Sequence[bool]], Maybe]
"""Of saved arguments, saved results, gradients of the results, and which arguments need one."""


def differentiable(
    run: Callable[..., Tensors],
    gradients: Gradients | None,
    definition: Callable[..., Tensors],
    tensors: Maybe,
    *,
    outputs: int = 1,
) -> Tensors:
    """`run(*tensors)`, differentiable in its first `outputs` results.

    Gradients are those of `gradients`, or of the `definition` where there are none and where a graph of the backward
    pass itself is asked for: derivatives of any order exist.
    """
    return _Operation.apply(run, gradients, definition, outputs, *tensors)


class _Operation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        run: Callable,
        gradients: Gradients | None,
        definition: Callable,
        outputs: int,
        *tensors: Tensor | None,
    ) -> Tensors:
        found = run(*tensors)
        ctx.gradients, ctx.definition, ctx.outputs, ctx.arguments = gradients, definition, outputs, len(tensors)
        ctx.save_for_backward(*tensors, *found)
        ctx.mark_non_differentiable(*found[outputs:])
        ctx.set_materialize_grads(True)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        arguments, found = ctx.saved_tensors[: ctx.arguments], ctx.saved_tensors[ctx.arguments :]
        needed = ctx.needs_input_grad[4:]
        if ctx.gradients is None or torch.is_grad_enabled():
            return (None,) * 4 + _by_definition(ctx.definition, arguments, grads[: ctx.outputs], needed)
        return (None,) * 4 + tuple(ctx.gradients(arguments, found, grads[: ctx.outputs], needed))


def _by_definition(definition: Callable, arguments: Maybe, grads: Maybe, needed: Sequence[bool]) -> tuple:
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # views, so that an argument made from another one does not pass its gradient on to it here
        views = [_alias(x, create_graph) if need else x for x, need in zip(arguments, needed, strict=True)]
        wanted = [x for x, need in zip(views, needed, strict=True) if need and x is not None]
        found = definition(*views)[: len(grads)]
        made = iter(torch.autograd.grad(found, wanted, grads, create_graph=create_graph, allow_unused=True))
    return tuple(next(made) if need else None for need in needed)


def _alias(x: Tensor | None, create_graph: bool) -> Tensor | None:
    if x is None:
        return None
    return x.view_as(x) if create_graph else x.detach().requires_grad_()
