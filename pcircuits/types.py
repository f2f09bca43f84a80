"""The legend of axes, and shape annotations that run where jaxtyping is installed.

Axes, the same letters everywhere:
F folded rows of a level, B batch, D variables, V categories, K units, A arity, N samples, T time steps,
H hidden states,
G rows of a parameter group, O output units of a sum, J input units of a sum, M selected entries.

`Inexact` is floating point or complex.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Inexact, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Inexact, Int, Shaped
    except ModuleNotFoundError:  # a plain install: annotations fall back to the array type

        class _Annotation:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Inexact = Int = Shaped = _Annotation

__all__ = ["Bool", "Float", "Inexact", "Int", "Shaped", "Tensor"]
