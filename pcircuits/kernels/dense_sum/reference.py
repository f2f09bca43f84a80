"""The definition of a dense sum in each semiring. Derivations: the README beside this file."""

from collections.abc import Callable

import torch

from pcircuits.kernels.guarded import finite, logsumexp, ratio
from pcircuits.types import Float, Tensor

_CHUNK_ELEMENTS = 1 << 24  # largest temporary of a log-space sum, in elements


def linear_sum(weights: Float[Tensor, "F O J"], values: Float[Tensor, "F B J"]) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = sum_j weights[f,o,j] values[f,b,j]`: one matrix product a row."""
    if weights.shape[0] == 1:
        return (values[0] @ weights[0].mT).unsqueeze(0)
    return torch.bmm(values, weights.mT)


def log_sum(log_weights: Float[Tensor, "F O J"], values: Float[Tensor, "F B J"]) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = log sum_j exp(log_weights[f,o,j] + values[f,b,j])`; `-inf` where no term is possible."""
    return _over_output_chunks(logsumexp, log_weights, values)


def max_sum(log_weights: Float[Tensor, "F O J"], values: Float[Tensor, "F B J"]) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = max_j log_weights[f,o,j] + values[f,b,j]`."""
    return _over_output_chunks(lambda terms: terms.amax(-1), log_weights, values)


def linear_sum_flow(
    weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    *,
    count: bool,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """Flows of the inputs and, if asked for, expected counts of the weights summed over the batch: a matrix product
    each.
    """
    share = ratio(flows, outputs)
    return values * linear_sum(weights.mT, share), weights * torch.bmm(share.mT, values) if count else None


def log_sum_flow(
    log_weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    *,
    count: bool,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """Flows of the inputs and, if asked for, expected counts of the weights summed over the batch.

    `share[f,b,o,j] = flows[f,b,o] exp(log_weights[f,o,j] + values[f,b,j] - outputs[f,b,o])`, and 0 where an output is
    impossible.
    """
    input_flows, counts = torch.zeros_like(values), []
    for chunk in _output_chunks(log_weights, values):
        share = _terms(log_weights[:, chunk], values) - finite(outputs[:, :, chunk, None])
        share = share.exp() * flows[:, :, chunk].unsqueeze(-1)
        input_flows = input_flows + share.sum(2)
        if count:
            counts.append(share.sum(1))
    return input_flows, torch.cat(counts, 1) if count else None


def _over_output_chunks(reduce: Callable[[Tensor], Tensor], log_weights: Tensor, values: Tensor) -> Tensor:
    return torch.cat(
        [reduce(_terms(log_weights[:, chunk], values)) for chunk in _output_chunks(log_weights, values)], -1
    )


def _output_chunks(log_weights: Tensor, values: Tensor) -> list[slice]:
    outputs = log_weights.shape[1]
    step = max(1, _CHUNK_ELEMENTS // max(1, values.numel()))
    return [slice(start, min(start + step, outputs)) for start in range(0, outputs, step)]


def _terms(log_weights: Tensor, values: Tensor) -> Float[Tensor, "F B O J"]:
    return log_weights.unsqueeze(1) + values.unsqueeze(2)
