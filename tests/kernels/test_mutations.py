"""A test that stays green when a kernel is broken is not a test: each kernel is broken once, in a copy."""

from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.kernels.mutations import Mutation, break_line, copy_of_the_tests, run_tests
from tests.kernels.test_ahead_of_time import kernels

pytestmark = pytest.mark.campaign

MUTATIONS = (
    Mutation("dense_sum", "sum_fwd_kernel", "o_j < (i_block + 1) * J_BLOCK", "o_j < J", "linear_sum_gated"),
    Mutation("dense_sum", "sum_outer_kernel", "p_gate + i_j // per_block * s_gj", "p_gate", "outer_sum"),
    Mutation("product", "load_product", "tl.static_range(1, ARITY)", "tl.static_range(2, ARITY)", "sum_product"),
    Mutation("product", "load_scale", "b_scale += ", "b_scale = ", "sum_product"),
    Mutation("product", "product_fwd_kernel", "if pass_ == 0", "if pass_ == 1", "product"),
    Mutation("product", "product_bwd_kernel", "b_g *= tl.exp(tl.load(", "b_g *= (tl.load(", "product"),
    Mutation("sum_product", "load_share", "b_h / tl.where(b_out > 0, b_out, 1.0)", "b_h", "sum_product_flow"),
    Mutation(
        "sum_product",
        "sum_product_fwd_kernel",
        "tl.maximum(b_peak, tl.max(b_x, 1))",
        "tl.max(b_x, 1)",
        "sum_product_untied",
    ),
    Mutation("sum_product", "sum_product_flow_kernel", "if c != a:", "if c == a:", "sum_product_untied"),
    Mutation(
        "sum_product",
        "sum_product_count_kernel",
        "b_h /= tl.where(b_peak > 0, b_peak, 1.0)[None, :]",
        "b_h *= 1.0",
        "sum_product_untied",
    ),
    Mutation("low_rank_sum", "low_rank_fwd_kernel", "right + (i_f * R + r)", "right + (i_f * R)", "low_rank_sum"),
    Mutation("block_sparse_sum", "block_sparse_fwd_kernel", "column + i_n", "column + n", "block_sparse_sum"),
    Mutation("block_sparse_sum", "block_sparse_outer_kernel", "row + i_n", "column + i_n", "block_sparse_outer"),
    Mutation("chain", "chain_fwd_kernel", "o_b += B", "o_b += 0", "chain-"),
    Mutation("chain", "chain_bwd_kernel", "b_g += tl.load(grad", "b_g = tl.load(grad", "chain-"),
    Mutation("segment_sum", "segment_sum_fwd_kernel", "b_x *= tl.load(factor", "b_x += tl.load(factor", "segment_sum"),
    Mutation("categorical", "categorical_fwd_kernel", "other=1.0", "other=0.0", "categorical_values"),
    Mutation("soft_evidence", "load_weights", "b_logw - (", "b_logw + (", "soft_posterior"),
    Mutation("soft_evidence", "soft_fwd_kernel", "tl.exp(b_peak - b_safe)[:, None]", "1.0", "soft_values"),
    Mutation("soft_evidence", "soft_posterior_kernel", "b_acc *= load", "b_acc += load", "soft_posterior"),
    Mutation("soft_evidence", "soft_count_kernel", "first + n // num_b", "first", "soft_counts"),
    Mutation("soft_evidence", "top_fwd_kernel", "m_c = o_c < C", "m_c = o_c < C - 1", "top_values"),
    Mutation("soft_evidence", "top_posterior_kernel", "b_acc * b_w", "b_acc", "top_values"),
    Mutation("gaussian", "gaussian_fwd_kernel", "- 0.5 * b_z * b_z", "- b_z * b_z", "gaussian_values"),
    Mutation("gaussian", "gaussian_count_kernel", "b_flow * b_z * b_z, b_flow", "b_flow * b_z * b_z, 0.0", "gaussian"),
)
TESTS = ("tests/kernels/test_triton.py",)


def test_each_kernel_is_broken_once() -> None:
    assert kernels() <= {m.function for m in MUTATIONS}


def test_the_copy_passes(tmp_path: Path) -> None:
    copy_of_the_tests(tmp_path)
    done = run_tests(TESTS, "[soft_values", tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.function)
def test_a_broken_kernel_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    copy_of_the_tests(tmp_path)
    break_line(mutation._replace(file=f"{mutation.file}/triton.py"), tmp_path)
    done = run_tests(TESTS, f"[{mutation.cases}", tmp_path)
    assert done.returncode == 1 and " failed" in done.stdout, done.stdout
