"""How many positions a step commits."""

import pcircuits as pc
from pcircuits.types import Int, Tensor


def linear(undecided: Int[Tensor, " B"], steps_left: int) -> Int[Tensor, " B"]:
    """`ceil(n / steps left)` of a row's n undecided positions.

    Asked before every step this is LLaDA's schedule: `n // steps` each, the remainder one each to the first steps.
    """
    return -(-undecided // steps_left)


def spread(steps: int, num_blocks: int) -> list[int]:
    """Steps of each block: `steps // num_blocks`, the remainder one each to the first blocks.

    >>> spread(10, 4)
    [3, 3, 2, 2]

    Raises:
        pc.ParameterError: fewer steps than blocks.
    """
    if steps < num_blocks:
        raise pc.ParameterError(
            f"{num_blocks} blocks need at least {num_blocks} steps, got {steps}; ask for more steps or fewer tokens"
        )
    size, rest = divmod(steps, num_blocks)
    return [size + (block < rest) for block in range(num_blocks)]
