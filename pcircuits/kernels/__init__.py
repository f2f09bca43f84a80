"""Operations on bare tensors, each by the implementation that `choice.py` chooses for its arguments."""

from pcircuits.kernels.categorical import reference as categorical
from pcircuits.kernels.chain import cpu as chains
from pcircuits.kernels.choice import chosen
from pcircuits.kernels.dense_sum import reference as dense_sum
from pcircuits.kernels.dense_sum.reference import log_sum, log_sum_flow, max_sum
from pcircuits.kernels.em_step.reference import LEAST_COUNT, LEAST_PROBABILITY, em_step, probabilities
from pcircuits.kernels.guarded import finite, logsumexp, ratio

categorical_counts = chosen(categorical.categorical_counts)
chain = chosen(chains.recorded, "chain")
linear_sum = chosen(dense_sum.linear_sum)
linear_sum_flow = chosen(dense_sum.linear_sum_flow)

__all__ = [
    "LEAST_COUNT",
    "LEAST_PROBABILITY",
    "categorical_counts",
    "chain",
    "em_step",
    "finite",
    "linear_sum",
    "linear_sum_flow",
    "log_sum",
    "log_sum_flow",
    "logsumexp",
    "max_sum",
    "probabilities",
    "ratio",
]
