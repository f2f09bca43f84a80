"""The definition of a folded level: products of gathered children, rescaled, and the dense sum over them.

Derivation: the README beside this file. `rows` says which row of `weights` a level's row uses (None: its own).
"""

from typing import NamedTuple

import torch

from pcircuits.kernels.guarded import ratio
from pcircuits.kernels.product.reference import gathered_product
from pcircuits.types import Float, Int, Tensor


class SumProduct(NamedTuple):
    """`values exp(scales)`; and for the search for underflow the largest entry of each product before it was rescaled,
    and the smallest value of each sum.
    """

    values: Float[Tensor, "F B O"]
    scales: Float[Tensor, "F B"]
    peaks: Float[Tensor, "F B"]
    lows: Float[Tensor, "F B"]


def sum_product(
    weights: Float[Tensor, "G O J"],
    values: Float[Tensor, "R B J"],
    scales: Float[Tensor, "R B"],
    children: Int[Tensor, "F A"],
    rows: Int[Tensor, " F"] | None = None,
) -> SumProduct:
    """`out[f,b,o] = sum_j weights[rows[f],o,j] x[f,b,j] / max_j x[f,b,j]` of the products `x` of `children`, and its
    log scale in float64. Scales have no gradient.
    """
    x = gathered_product(values, children)
    peaks = x.detach().amax(-1)
    out = _rescaled(x, peaks) @ _of_rows(weights, rows).mT
    safe = torch.where(peaks > 0, peaks, 1.0)
    found = scales.detach().double()[children].sum(1) + safe.double().log()
    return SumProduct(out, found, peaks, out.detach().amin(-1))


def sum_product_flow(
    weights: Float[Tensor, "G O J"],
    values: Float[Tensor, "R B J"],
    children: Int[Tensor, "F A"],
    level: SumProduct,
    flows: Float[Tensor, "F B O"],
    rows: Int[Tensor, " F"] | None = None,
    *,
    count: bool,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "G O J"] | None]:
    """From flows of the sums of a `level`: flows of the products, which are those of each of their children, and, if
    asked for, expected counts of the weights, summed over the batch and over the rows that share them.
    """
    x, own = _rescaled(gathered_product(values, children), level.peaks), _of_rows(weights, rows)
    share = ratio(flows, level.values)
    to_products = x * (share @ own)
    if not count:
        return to_products, None
    counts = own * (share.mT @ x)
    return to_products, counts if rows is None else torch.zeros_like(weights).index_add(0, rows, counts)


def _rescaled(x: Float[Tensor, "F B J"], peaks: Float[Tensor, "F B"]) -> Float[Tensor, "F B J"]:
    return x / torch.where(peaks > 0, peaks, 1.0).unsqueeze(-1)


def _of_rows(weights: Tensor, rows: Tensor | None) -> Float[Tensor, "F O J"]:
    return weights if rows is None else weights[rows]
