"""The definition of a dense sum in each semiring. Derivations: the README beside this file.

Gates (F, B, G, G) multiply the weights of each sample block by block: weight `[o, j]` by gate `[o G // O, j G // J]`.
Gates of sums with a single output are left out by whoever calls.
"""

from collections.abc import Callable

import torch

from pcircuits.kernels.chunks import chunks
from pcircuits.kernels.guarded import finite, logsumexp, ratio
from pcircuits.kernels.matrix_product import bmm
from pcircuits.layout import samples_last
from pcircuits.types import Float, Tensor

_CHUNK_ELEMENTS = 1 << 24  # largest temporary of a log-space sum, in elements


def linear_sum(
    weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    gates: Float[Tensor, "F B G H"] | None = None,
) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = sum_j gate weights[f,o,j] values[f,b,j]`: one matrix product a row, or one a block of children."""
    if gates is not None:
        return _gated(_partial_sums(weights, values, gates.shape[-1]), gates).sum(1)
    if samples_last(values):
        return bmm(weights, values.mT).mT
    return bmm(values, weights.mT)


def log_sum(
    log_weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    log_gates: Float[Tensor, "F B G H"] | None = None,
) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = log sum_j exp(log_gate + log_weights[f,o,j] + values[f,b,j])`; `-inf` where no term is possible."""
    return _over_output_chunks(logsumexp, log_weights, values, log_gates)


def max_sum(
    log_weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    log_gates: Float[Tensor, "F B G H"] | None = None,
) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = max_j log_gate + log_weights[f,o,j] + values[f,b,j]`."""
    return _over_output_chunks(lambda terms: terms.amax(-1), log_weights, values, log_gates)


def linear_sum_flow(
    weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    gates: Float[Tensor, "F B G H"] | None = None,
    *,
    count: bool,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """Flows of the inputs and, if asked for, expected counts of the weights summed over the batch: a matrix product
    each.
    """
    share = ratio(flows, outputs)
    input_flows = values * linear_sum(weights.mT, share, None if gates is None else gates.mT)
    return input_flows, weights * outer_sum(share, values, gates) if count else None


def log_sum_flow(
    log_weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    log_gates: Float[Tensor, "F B G H"] | None = None,
    *,
    count: bool,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """Flows of the inputs and, if asked for, expected counts of the weights summed over the batch.

    `share[f,b,o,j] = flows[f,b,o] exp(log_gate + log_weights[f,o,j] + values[f,b,j] - outputs[f,b,o])`, and 0 where an
    output is impossible.
    """
    input_flows, counts = torch.zeros_like(values), []
    for chunk in _output_chunks(log_weights, values):
        share = _terms(log_weights, values, log_gates, chunk) - finite(outputs[:, :, chunk, None])
        share = share.exp() * flows[:, :, chunk].unsqueeze(-1)
        input_flows = input_flows + share.sum(2)
        if count:
            counts.append(share.sum(1))
    return input_flows, torch.cat(counts, 1) if count else None


def outer_sum(
    outputs: Float[Tensor, "F B O"], values: Float[Tensor, "F B J"], gates: Float[Tensor, "F B G H"] | None = None
) -> Float[Tensor, "F O J"]:
    """`out[f,o,j] = sum_b gate outputs[f,b,o] values[f,b,j]`: what the expected counts are made of."""
    if gates is None:
        return bmm(outputs.mT, values)
    blocks = gates.shape[-1]
    shares = _gated(outputs.unsqueeze(1).expand(-1, blocks, -1, -1), gates).flatten(0, 1)
    parts = values.unflatten(-1, (blocks, -1)).transpose(1, 2).flatten(0, 1)
    return torch.bmm(shares.mT, parts).unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2)


def _partial_sums(weights: Tensor, values: Tensor, blocks: int) -> Float[Tensor, "F H B O"]:
    """The sum over each block of children by itself."""
    split = weights.unflatten(-1, (blocks, -1)).transpose(1, 2).flatten(0, 1)
    parts = values.unflatten(-1, (blocks, -1)).transpose(1, 2).flatten(0, 1)
    return torch.bmm(parts, split.mT).unflatten(0, (-1, blocks))


def _gated(partial: Float[Tensor, "F H B O"], gates: Float[Tensor, "F B G H"]) -> Float[Tensor, "F H B O"]:
    blocks = gates.shape[-2]
    return (partial.unflatten(-1, (blocks, -1)) * gates.permute(0, 3, 1, 2).unsqueeze(-1)).flatten(-2)


def _over_output_chunks(
    reduce: Callable[[Tensor], Tensor], log_weights: Tensor, values: Tensor, log_gates: Tensor | None
) -> Tensor:
    parts = _output_chunks(log_weights, values)
    return torch.cat([reduce(_terms(log_weights, values, log_gates, part)) for part in parts], -1)


def _output_chunks(log_weights: Tensor, values: Tensor) -> list[slice]:
    return chunks(log_weights.shape[1], values.numel(), _CHUNK_ELEMENTS)


def _terms(log_weights: Tensor, values: Tensor, log_gates: Tensor | None, chunk: slice) -> Float[Tensor, "F B C J"]:
    """Of some outputs."""
    terms = log_weights[:, chunk].unsqueeze(1) + values.unsqueeze(2)
    if log_gates is None:
        return terms
    blocks = log_gates.shape[-2:]
    rows = log_gates.repeat_interleave(log_weights.shape[1] // blocks[0], 2)[:, :, chunk]
    return (terms.unflatten(-1, (blocks[1], -1)) + rows.unsqueeze(-1)).flatten(-2)
