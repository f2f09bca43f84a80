"""Matrix products by the library that is fastest for their size: oneDNN's where torch's own leave vectors half empty.

torch multiplies float32 matrices with MKL, which knows AVX-512 of some processors only. oneDNN, which comes with torch
too, knows all of them: large products take half of the time there.
"""

import functools
from collections.abc import Callable, Sequence

import torch

from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.types import Float, Tensor

_LEAST_ROWS = 8  # of the left matrix
_LEAST_WIDTH = 128  # of what is summed over, and of the result
_LEAST_SIZE = 1 << 16  # of the right matrix: below, a call costs more than it gains
_SMALL = 1 << 17  # right matrices that oneDNN reads faster in order
_IMAGES = 16  # from so many on, torch gives convolutions to oneDNN
_FEW = 384  # columns; with more, to turn a matrix first is no loss


def mm(
    left: Float[Tensor, "M J"], right: Float[Tensor, "J N"], *, out: Float[Tensor, "M N"] | None = None
) -> Float[Tensor, "M N"]:
    """`left @ right`, differentiable unless it is written into `out`."""
    if not _gains(left, right):
        return torch.mm(left, right, out=out)
    if out is not None:
        return out.copy_(_linear(left, right))
    if not torch.is_grad_enabled() or not (left.requires_grad or right.requires_grad):
        return _linear(left, right)
    return differentiable(_run, _gradients, _definition, (left, right))[0]


def bmm(
    left: Float[Tensor, "F M J"], right: Float[Tensor, "F J N"], *, out: Float[Tensor, "F M N"] | None = None
) -> Float[Tensor, "F M N"]:
    """`left @ right` of each pair."""
    if len(left) != 1 and not (len(left) and _gains(left[0], right[0])):
        return torch.bmm(left, right, out=out)
    if out is None:
        found = [mm(a, b) for a, b in zip(left, right, strict=True)]
        return found[0].unsqueeze(0) if len(found) == 1 else torch.stack(found)
    for a, b, c in zip(left, right, out, strict=True):
        mm(a, b, out=c)
    return out


def times(
    right: Float[Tensor, "*F J N"], *, like: Float[Tensor, "*F M J"]
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """`x @ right` of many `x` like this one, with the choice already made; not differentiable. The result is written
    into the second argument, unless it `has_memory` of its own.
    """
    if like.dim() == 3:
        product = bmm if len(like) and _gains(like[0], right[0]) else torch.bmm
        return lambda x, out: product(x, right, out=out)
    if _gains(like, right):
        turned = (right.contiguous() if right.numel() <= _SMALL else right).mT
        return lambda x, _: torch.ops.mkldnn._linear_pointwise(x, turned, None, "none", [], "")
    return lambda x, out: torch.mm(x, right, out=out)


def has_memory(like: Float[Tensor, "*F M J"], right: Float[Tensor, "*F J N"]) -> bool:
    """Whether results of `times` are tensors of their own."""
    return like.dim() == 2 and _gains(like, right)


def _gains(left: Tensor, right: Tensor) -> bool:
    (rows, inner), width = left.shape, right.shape[1]
    return (
        rows >= _LEAST_ROWS
        and min(inner, width) >= _LEAST_WIDTH
        and right.numel() >= _LEAST_SIZE
        and left.dtype == right.dtype == torch.float32
        and left.device.type == "cpu"
        and _has_onednn()
    )


@functools.cache
def _has_onednn() -> bool:
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _linear(left: Tensor, right: Tensor) -> Tensor:
    with torch.no_grad():
        if _is_tall(left.mT) and _is_tall(right):
            return _gradient_of_convolution(left.mT, right)
        return torch.ops.mkldnn._linear_pointwise(left, right.mT, None, "none", [], "")


def _is_tall(x: Float[Tensor, "J M"]) -> bool:
    return x.is_contiguous() and len(x) > x.shape[1] <= _FEW and len(x) % _IMAGES == 0


def _gradient_of_convolution(left: Float[Tensor, "J M"], right: Float[Tensor, "J N"]) -> Float[Tensor, "M N"]:
    """`left.mT @ right` as the gradient of the kernel of a pointwise convolution, for which nothing is turned first."""
    of, by = (x.unflatten(0, (_IMAGES, -1)).mT.unsqueeze(2) for x in (left, right))  # images: (16, units, 1, J / 16)
    kernel = left.new_empty(1).expand(left.shape[1], right.shape[1], 1, 1)
    shape, only_kernel = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1), (False, True, False)
    found = torch.ops.aten.convolution_backward(of, by, kernel, None, *shape, only_kernel)
    return found[1][..., 0, 0]


def _run(left: Tensor, right: Tensor) -> Tensors:
    return (_linear(left, right),)


def _definition(left: Tensor, right: Tensor) -> Tensors:
    return (torch.mm(left, right),)


def _gradients(arguments: Maybe, _found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
    left, right = arguments
    return mm(grads[0], right.mT) if needed[0] else None, mm(left.mT, grads[0]) if needed[1] else None
