"""Pruning: the edges of sums that the data hardly uses are removed."""

from typing import NamedTuple

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import ParameterError, StructureError
from pcircuits.evidence import Evidence
from pcircuits.layers import SumGroup
from pcircuits.learning.batches import DEFAULT_BATCH_SIZE, as_evidence, as_weights
from pcircuits.statistics import Statistics
from pcircuits.types import Bool, Float, Shaped, Tensor


class Pruned(NamedTuple):
    """How many edges were removed and how many are left; `flow`: the expected number of removed edges on the path of a
    row, which is about what the mean log likelihood can lose.
    """

    removed: int
    kept: int
    flow: float


def prune(
    circuit: Circuit,
    data: Shaped[Tensor, "N D"] | Evidence,
    *,
    share: float,
    batch_size: int = DEFAULT_BATCH_SIZE,
    sample_weights: Float[Tensor, " N"] | None = None,
) -> Pruned:
    """Removes the `share` of the sums' edges that carry the least flow (Dang, Liu, Van den Broeck 2022): their weights
    become exact zeros for every learner, and the others of their sum grow in proportion. In place.

    With `F_e(x)` the flow through edge e given row x, the log likelihood of x falls by at most
    `-log(1 - sum_e F_e(x))` over the removed edges. Every unit keeps its edge of largest flow. Edges removed before
    count neither to the share nor to what is kept.

    Args:
        data: rows (N, D), or evidence with missing values, that say what is used.

    Raises:
        ParameterError: a `share` outside [0, 1).
        StructureError: a circuit whose weights are not probabilities of its own.
        DataError, ShapeError, EvidenceError: as of `fit`.
    """
    if not 0 <= share < 1:
        raise ParameterError(f"`share` must be at least 0 and below 1, got {share!r}")
    if not circuit.groups:
        raise StructureError(f"a {type(circuit).__name__} has no weights of its own: prune its sources")
    counts = _counts(circuit, as_evidence(data, circuit, "`data`"), sample_weights, batch_size)
    names = [name for name, group in circuit.named_groups() if isinstance(group, SumGroup)]
    flows = [counts.counts[name]["counts"] for name in names]
    present = [_present(circuit, name, flow) for name, flow in zip(names, flows, strict=True)]
    allowed = torch.cat([(p & ~_largest(f, p)).flatten() for p, f in zip(present, flows, strict=True)])
    every = torch.cat([f.flatten().double() for f in flows])
    total = sum(int(p.sum()) for p in present)
    wanted = min(int(share * total), int(allowed.sum()))
    gone = torch.zeros_like(allowed)
    gone[every.masked_fill(~allowed, torch.inf).argsort(stable=True)[:wanted]] = True
    pieces = gone.split([f.numel() for f in flows])
    for name, p, piece in zip(names, present, pieces, strict=True):
        if piece.any():
            circuit.group(name).restrict(p & ~piece.view(p.shape))
    return Pruned(wanted, total - wanted, float(every[gone].sum()) / counts.weight)


def _counts(circuit: Circuit, evidence: Evidence, weights: Tensor | None, batch_size: int) -> Statistics:
    weights = torch.ones(evidence.batch_size) if weights is None else weights
    weights = as_weights(weights, evidence.batch_size, "`sample_weights`")
    parts = weights.nonzero().squeeze(-1).split(batch_size)
    if not parts[0].numel():
        raise ParameterError("`sample_weights` are all zero; at least one row must count")
    first, *rest = (circuit.statistics(evidence.rows(rows), sample_weights=weights[rows]) for rows in parts)
    return sum(rest, first)


def _present(circuit: Circuit, name: str, flow: Float[Tensor, "G O J"]) -> Bool[Tensor, "G O J"]:
    support = circuit.group(name).support
    return torch.ones_like(flow, dtype=torch.bool) if support is None else support.expand(flow.shape)


def _largest(flow: Float[Tensor, "G O J"], present: Bool[Tensor, "G O J"]) -> Bool[Tensor, "G O J"]:
    best = flow.masked_fill(~present, -1.0).argmax(-1, keepdim=True)
    return torch.zeros_like(present).scatter(-1, best, True)
