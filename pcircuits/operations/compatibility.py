"""Whether two circuits can be multiplied."""

from typing import NamedTuple

from pcircuits.circuit import Circuit
from pcircuits.errors import StructureError
from pcircuits.operations.multiply import multiply


class Compatibility(NamedTuple):
    """Whether two circuits are compatible, and if not, why."""

    compatible: bool
    reason: str | None

    def __bool__(self) -> bool:
        return self.compatible


def check_compatible(first: Circuit, second: Circuit) -> Compatibility:
    """Whether two circuits split their variables alike and their inputs multiply in closed form (Vergari et al. 2021,
    Definition of compatibility), so that products, inner products and divergences of the two are exact.

    A circuit is compatible with itself if it is structured-decomposable. Nothing is computed but the pairs of blocks.
    """
    try:
        multiply(first, second)
    except StructureError as error:
        return Compatibility(False, str(error))
    return Compatibility(True, None)
