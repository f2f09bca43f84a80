"""Statistics over several processes: they add up, so that is all there is to it."""

import torch
from torch import distributed

from pcircuits.statistics import Statistics


def all_reduce(statistics: Statistics) -> Statistics:
    """The sum of all processes' statistics where `torch.distributed` is initialised, else the argument itself.

    Processes that start from the same parameters and each feed their share of the data then keep the same parameters.
    EM calls it once an epoch; MiniBatchEM and Anemone once a batch, so that there each process needs as many batches.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return statistics
    counts = {
        group: {part: value.clone() for part, value in parts.items()} for group, parts in statistics.counts.items()
    }
    device = statistics.log_likelihood.device
    totals = torch.stack(
        [statistics.log_likelihood, torch.tensor(statistics.weight, dtype=torch.float64, device=device)]
    )
    for tensor in [*(value for parts in counts.values() for value in parts.values()), totals]:
        distributed.all_reduce(tensor)
    return Statistics(counts, totals[0], float(totals[1]))
