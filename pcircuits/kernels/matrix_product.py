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


def product_of(left: Float[Tensor, "*F M J"], right: Float[Tensor, "*F J N"]) -> Callable[..., Tensor]:
    """`mm` or `bmm` into `out` for many arguments like these, with the choice already made; not differentiable."""
    if left.dim() == 2:
        return _linear_mm if _gains(left, right) else torch.mm
    return _linear_bmm if len(left) and _gains(left[0], right[0]) else torch.bmm


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
        return torch.ops.mkldnn._linear_pointwise(left, right.mT, None, "none", [], "")


def _linear_mm(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(torch.ops.mkldnn._linear_pointwise(left, right.mT, None, "none", [], ""))


def _linear_bmm(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    for a, b, c in zip(left, right, out, strict=True):
        _linear_mm(a, b, out=c)
    return out


def _run(left: Tensor, right: Tensor) -> Tensors:
    return (_linear(left, right),)


def _definition(left: Tensor, right: Tensor) -> Tensors:
    return (torch.mm(left, right),)


def _gradients(arguments: Maybe, _found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
    left, right = arguments
    return mm(grads[0], right.mT) if needed[0] else None, mm(left.mT, grads[0]) if needed[1] else None
