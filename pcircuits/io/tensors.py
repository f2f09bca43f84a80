"""Parameters and support masks: as bytes, and whether they are those of a plan."""

from collections.abc import Mapping

import safetensors.torch
import torch

from pcircuits.errors import ParameterError
from pcircuits.layers import build_groups
from pcircuits.plan import GroupSpec, Plan
from pcircuits.types import Tensor


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file."""
    return safetensors.torch.save({name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()})


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors, floating point ones in `dtype`; ParameterError where a finite value is out of its range."""
    answer = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in answer.items():
        if tensor.is_floating_point() and not torch.equal(tensor.isinf(), tensors[name].isinf()):
            raise ParameterError(f"{name} has values out of the range of {dtype}; save it without `dtype`")
    return answer


def require_fit(
    tensors: Mapping[str, Tensor], plan: Plan, dtype: torch.dtype, *, signed: bool = False, pairs: bool = False
) -> None:
    """Raise ParameterError unless the tensors are this plan's parameters, in `dtype` and not NaN, and support masks;
    `signed`: its sums have weights of any sign, which are no logarithms; `pairs`: complex ones, as real and imaginary
    part.
    """
    shapes = _shapes(plan)
    if signed:
        more = (2,) if pairs else ()
        sums = {name: name.removesuffix("log_weights") for name in shapes if name.endswith(".log_weights")}
        shapes |= {f"{group}weights": torch.Size((*shapes.pop(name), *more)) for name, group in sums.items()}
    masks = {f"groups.{name}.support": spec for name, spec in plan.groups.items()}
    if wrong := sorted((shapes.keys() - tensors.keys()) | (tensors.keys() - shapes.keys() - masks.keys())):
        raise ParameterError(f"tensors are missing or do not belong here: {', '.join(wrong[:3])}")
    for name, tensor in tensors.items():
        if name in masks:
            _require_mask(name, tensor, masks[name])
        elif tensor.dtype != dtype or tensor.shape != shapes[name]:
            wanted = f"{dtype} of shape {tuple(shapes[name])}"
            raise ParameterError(f"{name} must be {wanted}, got {tensor.dtype} of shape {tuple(tensor.shape)}")
        elif tensor.isnan().any():
            raise ParameterError(f"{name} has NaN")


def _shapes(plan: Plan) -> dict[str, torch.Size]:
    """The shape of every parameter, without memory for any."""
    try:
        with torch.device("meta"):
            groups = build_groups(dict(plan.groups), None)
    except (RuntimeError, TypeError, KeyError) as error:  # sizes that torch cannot count, names that it cannot take
        raise ParameterError(f"no parameters have these sizes and names: {error}") from error
    return {f"groups.{name}": tensor.shape for name, tensor in groups.state_dict().items()}


def _require_mask(name: str, mask: Tensor, spec: GroupSpec) -> None:
    children = spec.num_children if spec.family is None else spec.family.num_categories or 0
    shape = (spec.rows, spec.num_units, children)
    fits = mask.ndim == 3 and all(size in (1, full) for size, full in zip(mask.shape, shape, strict=True))
    if mask.dtype != torch.bool or not fits or not mask.any(-1).all():
        found = f"{mask.dtype} of shape {tuple(mask.shape)}"
        raise ParameterError(f"{name} must be bool, of shape {shape}, with an entry for each unit; got {found}")
