"""Arrays and distributions of a `.jpc` file, made from the records of calls that `read_pickle` keeps."""

from math import prod
from typing import Any, NamedTuple

import torch

from pcircuits.distributions import Bernoulli, Categorical, Gaussian, InputFamily
from pcircuits.errors import FormatError
from pcircuits.interop.inert_pickle import Call, Global, read_pickle
from pcircuits.types import Float, Tensor

_NDARRAY, _DTYPE = Global("numpy", "ndarray"), Global("numpy", "dtype")
_NUMPY = ("numpy._core", "numpy.core")  # numpy 2, numpy 1
_RECONSTRUCT = {Global(f"{core}.multiarray", "_reconstruct") for core in _NUMPY}
_FROM_BUFFER = {Global(f"{core}.numeric", "_frombuffer") for core in _NUMPY}  # of protocol 5
ARRAYS = frozenset({_NDARRAY, _DTYPE, *_RECONSTRUCT, *_FROM_BUFFER})
_TYPES = {
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64,
    "i4": torch.int32, "i8": torch.int64, "b1": torch.bool,
}  # fmt: skip

_FAMILIES: dict[Global, type[InputFamily]] = {
    Global("pyjuice.nodes.distributions.categorical", "Categorical"): Categorical,
    Global("pyjuice.nodes.distributions.softevi_categorical", "SoftEvidenceCategorical"): Categorical,
    Global("pyjuice.nodes.distributions.bernoulli", "Bernoulli"): Bernoulli,
    Global("pyjuice.nodes.distributions.gaussian", "Gaussian"): Gaussian,
}
LEAST_STD = 1e-4


class Distribution(NamedTuple):
    """An input family of ours, and V if it is categorical."""

    kind: type[InputFamily]
    num_categories: int | None

    def __str__(self) -> str:
        return self.kind.__name__ + (f"({self.num_categories})" if self.kind is Categorical else "")

    @property
    def num_parameters(self) -> int:
        """P a unit: V probabilities, the probability of 1, or mean and standard deviation."""
        return 2 if self.kind is Gaussian else self.num_categories or 1

    def require_valid(self, params: Float[Tensor, "N P"]) -> None:
        """Raise FormatError unless these are probabilities, that sum to one, or moments."""
        if self.kind is Gaussian:
            fits = params.isfinite().all() and (params[:, 1] >= LEAST_STD).all()
        else:
            fits = ((params >= 0) & (params <= 1 + 1e-3)).all()
        if self.kind is Categorical:
            fits = fits and ((params.sum(-1, dtype=torch.float64) - 1).abs() < 1e-3).all()
        if not fits:
            raise FormatError(f"its params are not those of {self}")

    def family(self, least_std: float) -> InputFamily:
        """The family of inputs whose standard deviations, if they have any, are at least `least_std`."""
        if self.kind is Gaussian:
            return Gaussian(min_std=min(1e-3, least_std / 2))
        return self.kind() if self.num_categories is None else Categorical(self.num_categories)

    def table(self, params: Float[Tensor, "N P"]) -> Float[Tensor, "N V"]:
        """Probabilities of all values, which sum to one exactly; a Gaussian's moments."""
        if self.kind is Bernoulli:
            params = params.clamp_max(1.0)
            return torch.cat([1 - params, params], -1)
        return params / params.sum(-1, keepdim=True) if self.kind is Categorical else params


def tensor_of(value: Any) -> Tensor:
    """A numpy array of little-endian numbers, copied from the file."""
    wrong = FormatError("an array is not as numpy writes it")
    match value:
        case Call(function, (ndarray, (0,), memoryview()), (1, shape, dtype, bool() as is_fortran, data)):
            known = function in _RECONSTRUCT and ndarray == _NDARRAY
        case Call(function, (data, dtype, shape, "C" | "F" as order), None):
            known, is_fortran = function in _FROM_BUFFER, order == "F"
        case _:
            raise wrong
    if not known or not isinstance(data, memoryview) or not isinstance(shape, tuple):
        raise wrong
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 4:
        raise FormatError("an array has a shape that is not of up to four sizes")
    name = _type_name(dtype)
    if prod(shape) * int(name[1]) != len(data):
        raise FormatError(f"an array of shape {shape} and type {name} has {len(data)} bytes")
    if name == "b1":
        flat = torch.tensor([], dtype=torch.bool) if not data else torch.frombuffer(data, dtype=torch.uint8) != 0
    else:
        flat = torch.tensor([], dtype=_TYPES[name]) if not data else torch.frombuffer(data, dtype=_TYPES[name]).clone()
    return flat.view(shape[::-1]).permute(*reversed(range(len(shape)))).contiguous() if is_fortran else flat.view(shape)


def _type_name(value: Any) -> str:
    match value:
        case Call(function, (str() as name, False, True), (3, "<" | "|", None, None, None, -1, -1, 0)):
            if function == _DTYPE and name in _TYPES:
                return name
            raise FormatError(f"an array has type {name!r:.40}, expected one of {', '.join(_TYPES)}")
    raise FormatError("an array has a type that is not a little-endian number's")


def read_distribution(content: memoryview) -> Distribution:
    """What the bytes under `dist`, a pickle of its own, name."""
    value = read_pickle(content, _FAMILIES)
    if not isinstance(value, Call) or not isinstance(value.state, dict | None):
        raise FormatError("its dist is not the one that juice.save writes")
    kind = _FAMILIES[value.function]
    if kind is not Categorical:
        return Distribution(kind, None)
    categories = value.args[0] if value.args else (value.state or {}).get("num_cats")
    if type(categories) is not int or not 0 < categories < 2**31:
        raise FormatError("its dist has no number of categories")
    return Distribution(kind, categories)
