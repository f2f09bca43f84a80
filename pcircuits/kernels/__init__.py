"""Operations on bare tensors, each by the implementation that `choice.py` chooses for its arguments."""

from pcircuits.kernels.block_sparse_sum import reference as block_sparse
from pcircuits.kernels.block_sparse_sum.reference import BlockPattern
from pcircuits.kernels.categorical import reference as categorical
from pcircuits.kernels.chain import cpu as chains
from pcircuits.kernels.chain import reference as chains_definition
from pcircuits.kernels.choice import chosen
from pcircuits.kernels.dense_sum import reference as dense_sum
from pcircuits.kernels.dense_sum.reference import log_sum, log_sum_flow, max_sum
from pcircuits.kernels.em_step.reference import LEAST_COUNT, LEAST_PROBABILITY, em_step, probabilities
from pcircuits.kernels.gaussian import reference as gaussian
from pcircuits.kernels.guarded import finite, logsumexp, ratio
from pcircuits.kernels.low_rank_sum import reference as low_rank
from pcircuits.kernels.matrix_product import mm
from pcircuits.kernels.powers import power_below
from pcircuits.kernels.product import reference as products
from pcircuits.kernels.soft_evidence import reference as soft_evidence
from pcircuits.kernels.sum_product import reference as levels
from pcircuits.kernels.sum_product.reference import SumProduct

block_sparse_sum = chosen(block_sparse.block_sparse_sum)
block_sparse_sum_flow = chosen(block_sparse.block_sparse_sum_flow)
categorical_counts = chosen(categorical.categorical_counts)
categorical_values = chosen(categorical.categorical_values)
chain = chosen(chains.recorded, "chain")
chain_flow = chosen(chains_definition.chain_flow)
linear_sum = chosen(dense_sum.linear_sum)
linear_sum_flow = chosen(dense_sum.linear_sum_flow)
low_rank_sum = chosen(low_rank.low_rank_sum)
low_rank_sum_flow = chosen(low_rank.low_rank_sum_flow)
gaussian_counts = chosen(gaussian.gaussian_counts)
gaussian_values = chosen(gaussian.gaussian_values)
product = chosen(products.product)
soft_counts = chosen(soft_evidence.soft_counts)
soft_posterior = chosen(soft_evidence.soft_posterior)
soft_values = chosen(soft_evidence.soft_values)
sum_product = chosen(levels.sum_product)
sum_product_flow = chosen(levels.sum_product_flow)
top_counts = chosen(soft_evidence.top_counts)
top_posterior = chosen(soft_evidence.top_posterior)
top_values = chosen(soft_evidence.top_values)

__all__ = [
    "LEAST_COUNT",
    "LEAST_PROBABILITY",
    "BlockPattern",
    "SumProduct",
    "block_sparse_sum",
    "block_sparse_sum_flow",
    "categorical_counts",
    "categorical_values",
    "chain",
    "chain_flow",
    "em_step",
    "finite",
    "gaussian_counts",
    "gaussian_values",
    "linear_sum",
    "linear_sum_flow",
    "log_sum",
    "log_sum_flow",
    "logsumexp",
    "low_rank_sum",
    "low_rank_sum_flow",
    "max_sum",
    "mm",
    "power_below",
    "probabilities",
    "product",
    "ratio",
    "soft_counts",
    "soft_posterior",
    "soft_values",
    "sum_product",
    "sum_product_flow",
    "top_counts",
    "top_posterior",
    "top_values",
]
