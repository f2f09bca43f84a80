"""The definition of a folded level: products of gathered children, rescaled, and the dense sum over them.

Derivation: the README beside this file. `rows` says which row of `weights` a level's row uses (None: its own).
"""

from typing import NamedTuple

import torch

from pcircuits.kernels.guarded import finite, ratio
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
    potentials: Float[Tensor, "F B J"] | None = None,
) -> SumProduct:
    """`out[f,b,o] = sum_j weights[rows[f],o,j] x[f,b,j] / max_j x[f,b,j]` of the products `x` of `children`, and its
    log scale in float64. `potentials` are logarithms of one more factor of each product. Scales have no gradient.
    """
    x, top = _products(values, children, potentials)
    peaks = x.detach().amax(-1)
    safe = torch.where(peaks > 0, peaks, 1.0)
    out = (x / safe.unsqueeze(-1)) @ _of_rows(weights, rows).mT
    found = scales.detach().double()[children].sum(1) + safe.double().log()
    return SumProduct(out, found if top is None else found + top.double(), peaks, out.detach().amin(-1))


def sum_product_flow(
    weights: Float[Tensor, "G O J"],
    values: Float[Tensor, "R B J"],
    children: Int[Tensor, "F A"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    rows: Int[Tensor, " F"] | None = None,
    potentials: Float[Tensor, "F B J"] | None = None,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "G O J"]]:
    """Flows of the products, which are those of each of their children, and expected counts of the weights, summed over
    the batch and over the rows that share them.
    """
    x, _ = _products(values, children, potentials)
    peaks = x.detach().amax(-1, keepdim=True)
    x = x / torch.where(peaks > 0, peaks, 1.0)
    own, share = _of_rows(weights, rows), ratio(flows, outputs)
    counts = own * (share.mT @ x)
    if rows is not None:
        counts = torch.zeros_like(weights).index_add(0, rows, counts)
    return x * (share @ own), counts


def _products(
    values: Tensor, children: Tensor, potentials: Tensor | None
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F B"] | None]:
    first, *others = children.unbind(1)
    x = values[first]
    for child in others:
        x = x * values[child]
    if potentials is None:
        return x, None
    top = finite(potentials.detach().amax(-1))
    return x * (potentials - top.unsqueeze(-1)).exp(), top


def _of_rows(weights: Tensor, rows: Tensor | None) -> Float[Tensor, "F O J"]:
    return weights if rows is None else weights[rows]
