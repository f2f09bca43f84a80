"""Flows spread over the values of variables, for the samples of each variable that are not observed alone: those lie
packed side by side, so that matrices are multiplied for no others.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from pcircuits.kernels.chunks import chunks
from pcircuits.kernels.dense_sum.cpu import linear_sum
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits.workspace import Memory

_PART = 1 << 20  # results that are made at a time: they stay in the cache


class Packing(NamedTuple):
    """Of each variable the place of every unobserved sample, from one on, zero of others; and the sample in each place,
    any where there is none.
    """

    places: Int[Tensor, "F B"]
    samples: Int[Tensor, "F N"]


def pack(missing: Bool[Tensor, "F B"]) -> Packing:
    places = missing.cumsum(1).mul_(missing)
    each = torch.arange(missing.shape[1], device=missing.device).expand_as(places)
    return Packing(places, places.new_zeros(len(places), int(places.max()) + 1).scatter_(1, places, each)[:, 1:])


def spread_packed(
    flows: Float[Tensor, "F B K"],
    weights: Float[Tensor, "F B"],
    table: Float[Tensor, "F V K"],
    packing: Packing,
    memory: Memory,
    out: Float[Tensor, "F B V"],
) -> Iterator[slice]:
    """`out[f,b,v] = weights[f,b] sum_k flows[f,b,k] table[f,v,k]` of what is packed, and zero elsewhere; some variables
    at a time, which are given when they are done.
    """
    (_, batch, units), values, places = flows.shape, table.shape[1], packing.samples.shape[1]
    for part in chunks(len(flows), batch * values, _PART):
        number = part.stop - part.start
        first = torch.arange(number, device=flows.device).unsqueeze(1)
        picked = (first * batch + packing.samples[part]).flatten()
        shares = flows[part].flatten(0, 1).index_select(0, picked)
        shares.mul_(weights[part].flatten().index_select(0, picked).unsqueeze(1))
        results = memory.scratch("packed", 1 + number * places, values, like=shares)
        results = shares.new_empty(1 + number * places, values) if results is None else results
        linear_sum(
            table[part],
            shares.view(number, places, units),
            out=results[1:].view(number, places, values),
        )
        results[0] = 0.0
        source = ((first * places + packing.places[part]) * (packing.places[part] > 0)).flatten()
        torch.index_select(results, 0, source, out=out[part].view(-1, values))
        yield part
