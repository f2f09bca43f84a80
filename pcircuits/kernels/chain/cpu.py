"""A chain segment on CPUs: few calls a step, all that does not recur outside of the loop."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pcircuits.kernels.chain import reference
from pcircuits.kernels.chain.reference import Chain
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.guarded import LEAST_DENOMINATOR
from pcircuits.kernels.matrix_product import bmm, has_memory, mm, times
from pcircuits.types import Float, Int, Tensor


def chain(
    weights: Sequence[Float[Tensor, "F K K"]],
    values: Float[Tensor, "R B K"],
    rows: Int[Tensor, "T F"],
    first: Float[Tensor, "F B K"],
    *,
    products: Float[Tensor, "T F B K"],
    sums: Float[Tensor, "T F B K"] | None,
    peaks: Float[Tensor, "T F B 1"],
    every: int = 1,
) -> list[Float[Tensor, "*F B K"]]:
    """`products[t] = values[rows[t]] sums[t - 1] / peaks[t]` and `sums[t] = weights[t] products[t]`, with `sums[-1] =
    first`.

    `peaks` are the maxima before that, at each `every`-th step, and else left alone: they should be one. A maximum of
    zero counts as the least positive number. The sums are returned, single rows without their axis. `needs_memory` says
    whether they are written into `sums`.
    """
    least, below, found = torch.finfo(peaks.dtype).tiny, first.squeeze(0), list[Tensor]()
    each = _distinct(weights, lambda w: times(w.squeeze(0).mT, like=below))
    rooms = _rooms(sums, len(each))
    steps = zip(each, _sides(values, rows, products), *map(_by_step, (products, peaks)), rooms, strict=True)
    for t, (multiply, side, product, peak, room) in enumerate(steps):
        torch.mul(side, below, out=product)
        if t % every == 0:
            torch.amax(product, -1, keepdim=True, out=peak)
            product.div_(peak.clamp_min_(least))
        below = multiply(product, room)
        found.append(below)
    return found


def needs_memory(weights: Float[Tensor, "F K K"], first: Float[Tensor, "F B K"]) -> bool:
    """Whether sums of a chain of such steps are written into given memory."""
    return not has_memory(first.squeeze(0), weights.squeeze(0))


def chain_flows(
    weights: Sequence[Float[Tensor, "F K K"]],
    products: Float[Tensor, "T F B K"],
    sums: list[Float[Tensor, "*F B K"]],
    last: Float[Tensor, "F B K"],
    *,
    positive: bool,
    shares: Float[Tensor, "T F B K"],
    flows: Float[Tensor, "T F B K"] | None,
) -> list[Float[Tensor, "*F B K"]]:
    """Flows of every product, from those of the last sums; `shares` are what the counts are made of. `positive`: no sum
    is zero. The flows are returned, as `chain` returns sums; the list of those is used up.
    """
    last, least, found = last.squeeze(0), LEAST_DENOMINATOR[last.dtype], list[Tensor]()
    each = _distinct(weights, lambda w: times(w.squeeze(0), like=last))
    steps = list(zip(each, *map(_by_step, (products, shares)), _rooms(flows, len(each)), strict=True))
    for multiply, product, share, room in reversed(steps):
        total = sums.pop()
        torch.div(last, total if positive else torch.clamp_min(total, least, out=share), out=share)
        del total  # whose memory may serve the next product
        last = multiply(share, room).mul_(product)
        found.append(last)
    return found[::-1]


def _sides(
    values: Float[Tensor, "R B K"], rows: Int[Tensor, "T F"], products: Float[Tensor, "T F B K"]
) -> Sequence[Float[Tensor, "*F B K"]]:
    """`values[rows]` of each step: of a single row a view, of several taken into the memory of their product."""
    if rows.shape[1] == 1:
        each = values.unbind(0)
        return [each[row] for row in rows.flatten().tolist()]
    torch.index_select(values, 0, rows.flatten(), out=products.flatten(0, 1))
    return products.unbind(0)


def _by_step(x: Float[Tensor, "T F B K"]) -> Sequence[Tensor]:
    """Of a single row without its axis: plain products cost less than batched ones."""
    return x.squeeze(1).unbind(0)


def _rooms(results: Float[Tensor, "T F B K"] | None, steps: int) -> Sequence[Tensor | None]:
    return [None] * steps if results is None else _by_step(results)


def _distinct(weights: Sequence[Tensor], view: Callable[[Tensor], Any]) -> list[Any]:
    """What is made of each, once of those that occur more often."""
    found = {key: view(w) for key, w in {id(w): w for w in weights}.items()}
    return [found[id(w)] for w in weights]


def tied_counts(
    weights: Float[Tensor, "F K K"],
    products: Float[Tensor, "T F B K"],
    shares: Float[Tensor, "T F B K"],
    *,
    out: Float[Tensor, "F K K"],
) -> Float[Tensor, "F K K"]:
    """Expected counts of weights that all steps share: one matrix product over the steps."""
    share, product = (x.transpose(0, 1).flatten(1, 2) for x in (shares, products))
    return bmm(share.mT, product, out=out).mul_(weights)


def untied_counts(
    weights: Sequence[Float[Tensor, "F K K"]],
    products: Float[Tensor, "T F B K"],
    shares: Float[Tensor, "T F B K"],
    *,
    out: Float[Tensor, "T F K K"],
) -> Float[Tensor, "T F K K"]:
    """Expected counts of each step's own weights."""
    for w, product, share, count in zip(weights, products, shares, out, strict=True):
        bmm(share.mT, product, out=count).mul_(w)
    return out


def recorded(
    weights: Float[Tensor, "H H"],
    inputs: Float[Tensor, "T B H"],
    input_scales: Float[Tensor, "T B"],
    start: Float[Tensor, "B H"],
    start_scale: Float[Tensor, " B"],
) -> Chain:
    """As the reference's, for autograd: without a record of every step. Second derivatives are the reference's."""

    def run(w: Tensor, given: Tensor, first: Tensor) -> Tensors:
        products, peaks = torch.empty_like(given).unsqueeze(1), given.new_empty(len(given), 1, len(first), 1)
        same, rows = [w.unsqueeze(0)] * len(given), torch.arange(len(given)).unsqueeze(1)
        sums = chain(same, given, rows, first.unsqueeze(0), products=products, sums=None, peaks=peaks)
        found = peaks.view(len(given), -1)
        scales = start_scale.double() + (input_scales.double() + found.double().log()).cumsum(0)
        return torch.stack(sums), scales, found

    def gradients(arguments: Maybe, found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        w, given, first = (x for x in arguments if x is not None)
        sums, peaks, above = found[0], found[2], grads[0]
        assert above is not None
        before = torch.cat([first.unsqueeze(0), sums[:-1]])
        shrinks = torch.where(peaks > torch.finfo(peaks.dtype).tiny, 1 / peaks, 1.0).unsqueeze(-1)
        total, to_given, carry = above.clone(), torch.empty_like(given), torch.zeros_like(first)
        steps = zip(given, before, shrinks, total, to_given, strict=True)
        for side, below, shrink, g, out in reversed(list(steps)):
            mm(g.add_(carry), w, out=out).mul_(shrink)
            torch.mul(out, side, out=carry)
            out.mul_(below)
        if not needed[0]:
            return None, to_given, carry
        products = torch.mul(given, before, out=before).mul_(shrinks)
        return mm(total.flatten(0, 1).mT, products.flatten(0, 1)), to_given, carry

    def definition(w: Tensor, given: Tensor, first: Tensor) -> Tensors:
        return tuple(reference.chain(w, given, input_scales, first, start_scale))

    return Chain(*differentiable(run, gradients, definition, (weights, inputs, start)))
