"""The definition of a folded product: of gathered children, and of potentials, rescaled to maximum one."""

from typing import NamedTuple

import torch

from pcircuits.types import Float, Int, Tensor


class Product(NamedTuple):
    """`values exp(scales)`; and the largest entry of each product before it was rescaled."""

    values: Float[Tensor, "F B K"]
    scales: Float[Tensor, "F B"]
    peaks: Float[Tensor, "F B"]


def product(
    values: Float[Tensor, "R B K"],
    scales: Float[Tensor, "R B"],
    children: Int[Tensor, "F A"],
    potentials: Float[Tensor, "F B K"] | None = None,
) -> Product:
    """`out[f,b,k] = x[f,b,k] / max_k x[f,b,k]` of the products `x` of `children`, and its log scale in float64.

    `potentials`, at most 0, are logarithms of one more factor. Scales have no gradient.
    """
    x = gathered_product(values, children)
    x = x if potentials is None else x * potentials.exp()
    peaks = x.detach().amax(-1)
    safe = torch.where(peaks > 0, peaks, 1.0)
    return Product(x / safe.unsqueeze(-1), scales.detach().double()[children].sum(1) + safe.double().log(), peaks)


def gathered_product(values: Float[Tensor, "R B K"], children: Int[Tensor, "F A"]) -> Float[Tensor, "F B K"]:
    """`prod_a values[children[f,a]]`."""
    first, *others = children.unbind(1)
    x = values[first]
    for child in others:
        x = x * values[child]
    return x
