"""Operations on bare tensors. This module is the one place that chooses an implementation."""

from pcircuits.kernels.dense_sum.reference import linear_sum, linear_sum_flow, log_sum, log_sum_flow, max_sum
from pcircuits.kernels.guarded import finite, logsumexp, ratio

__all__ = ["finite", "linear_sum", "linear_sum_flow", "log_sum", "log_sum_flow", "logsumexp", "max_sum", "ratio"]
