"""A chain segment on CPUs: few calls a step, all that does not recur outside of the loop."""

from collections.abc import Callable, Sequence

import torch

from pcircuits.kernels.chain import reference
from pcircuits.kernels.chain.reference import Chain
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.guarded import LEAST_DENOMINATOR
from pcircuits.kernels.matrix_product import bmm, mm, product_of
from pcircuits.types import Float, Tensor


def chain(
    weights: Sequence[Float[Tensor, "F K K"]],
    sides: Float[Tensor, "T F B K"],
    first: Float[Tensor, "F B K"],
    *,
    products: Float[Tensor, "T F B K"],
    sums: Float[Tensor, "T F B K"],
    peaks: Float[Tensor, "T F B 1"],
) -> None:
    """`products[t] = sides[t] sums[t - 1] / peaks[t]` and `sums[t] = weights[t] products[t]`, with `sums[-1] = first`.

    `peaks` are the maxima before that; a maximum of zero counts as the least positive number.
    """
    least, below = torch.finfo(peaks.dtype).tiny, first.squeeze(0)
    transposed = _distinct(weights, lambda w: w.squeeze(0).mT)
    multiply = product_of(below, transposed[0])
    steps = zip(transposed, *map(_by_step, (sides, products, sums, peaks)), strict=True)
    for w, side, product, total, peak in steps:
        torch.mul(side, below, out=product)
        torch.amax(product, -1, keepdim=True, out=peak)
        product.div_(peak.clamp_min_(least))
        multiply(product, w, out=total)
        below = total


def chain_flows(
    weights: Sequence[Float[Tensor, "F K K"]],
    products: Float[Tensor, "T F B K"],
    sums: Float[Tensor, "T F B K"],
    last: Float[Tensor, "F B K"],
    *,
    shares: Float[Tensor, "T F B K"],
    flows: Float[Tensor, "T F B K"],
) -> None:
    """Flows of every product, from those of the last sums, into `flows`. `shares` are what the counts are made of."""
    last, each = last.squeeze(0), _distinct(weights, lambda w: w.squeeze(0))
    multiply = product_of(last, each[0])
    torch.clamp_min(sums, LEAST_DENOMINATOR[sums.dtype], out=shares)
    steps = zip(each, *map(_by_step, (products, shares, flows)), strict=True)
    for w, product, share, flow in reversed(list(steps)):
        torch.div(last, share, out=share)
        multiply(share, w, out=flow)
        last = flow.mul_(product)


def _by_step(x: Float[Tensor, "T F B K"]) -> Sequence[Tensor]:
    """Of a single row without its axis: plain products cost less than batched ones."""
    return x.squeeze(1).unbind(0)


def _distinct(weights: Sequence[Tensor], view: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """A view of each, made once of those that occur more often."""
    turned = {key: view(w) for key, w in {id(w): w for w in weights}.items()}
    return [turned[id(w)] for w in weights]


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
        products, sums = (torch.empty_like(given).unsqueeze(1) for _ in range(2))
        peaks = given.new_empty(len(given), 1, len(first), 1)
        same = [w.unsqueeze(0)] * len(given)
        chain(same, given.unsqueeze(1), first.unsqueeze(0), products=products, sums=sums, peaks=peaks)
        found = peaks.view(len(given), -1)
        scales = start_scale.double() + (input_scales.double() + found.double().log()).cumsum(0)
        return sums.squeeze(1), scales, found

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
