"""Literal inputs."""

from dataclasses import dataclass

from pcircuits.distributions.indicator import Indicator


@dataclass(frozen=True)
class Literal(Indicator):
    """Values 0 and 1: unit k is the literal `not x` for even k and `x` for odd k, unless set otherwise."""

    num_categories: int = 2
    name = "literal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_categories != 2:
            from pcircuits.errors import ParameterError

            raise ParameterError(f"a Literal has two values, got {self!r}; use Indicator")
