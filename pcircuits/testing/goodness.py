"""Whether samples come from the distribution that was asked for: Pearson's chi-square on all marginals and all
pairs.
"""

import torch

from pcircuits.testing.enumeration import Enumeration
from pcircuits.types import Float, Int, Shaped, Tensor

LEAST_EXPECTED = 5.0  # cells expected less often are pooled, as the chi-square approximation needs


def p_value(counts: Float[Tensor, " C"], probabilities: Float[Tensor, " C"]) -> float:
    """How likely counts at least this far from `probabilities` are; 0 where an impossible cell was drawn."""
    total = counts.sum()
    expected = probabilities * total
    if (counts[probabilities <= 0] > 0).any():
        return 0.0
    rare = expected < LEAST_EXPECTED
    if expected[rare].sum() < LEAST_EXPECTED and not rare.all():  # too few even together: the smallest other joins them
        rare |= expected == expected[~rare].min()
    pooled = torch.cat([expected[~rare], expected[rare].sum().view(1)])
    found = torch.cat([counts[~rare], counts[rare].sum().view(1)])
    keep = pooled > 0
    statistic = ((found - pooled)[keep].square() / pooled[keep]).sum()
    freedom = int(keep.sum()) - 1
    if freedom < 1:
        return 1.0
    return float(torch.special.gammaincc(torch.tensor(freedom / 2, dtype=torch.float64), statistic.double() / 2))


def sample_p_values(samples: Shaped[Tensor, "N B D"], oracle: Enumeration) -> tuple[float, float]:
    """The least p-value of all marginals, and of all pairs of variables, times the number of tests of its kind
    (Bonferroni).
    """
    cells = _cells(samples, oracle)
    batch, dim = cells.shape[1:]
    singles = [
        p_value(_histogram(cells[:, b, i], oracle.cells(i)), oracle.marginal(i)[b])
        for b in range(batch)
        for i in range(dim)
    ]
    pairs = []
    for i in range(dim):
        for j in range(i + 1, dim):
            exact = oracle.pair(i, j).flatten(1)
            index = cells[..., i] * oracle.cells(j) + cells[..., j]
            pairs += [p_value(_histogram(index[:, b], exact.shape[1]), exact[b]) for b in range(batch)]
    return min(singles) * len(singles), min(pairs, default=1.0) * max(len(pairs), 1)


def _cells(samples: Shaped[Tensor, "N B D"], oracle: Enumeration) -> Int[Tensor, "N B D"]:
    columns = []
    for variable, family in enumerate(oracle.circuit.inputs):
        column = samples[..., variable].contiguous()
        edges = oracle.edges.get(variable, torch.zeros(0)).double()
        columns.append(column.long() if family.is_discrete else torch.bucketize(column.double(), edges))
    return torch.stack(columns, -1)


def _histogram(index: Int[Tensor, " N"], size: int) -> Float[Tensor, " C"]:
    return torch.bincount(index, minlength=size).double()
