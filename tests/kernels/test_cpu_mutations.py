"""As `test_mutations.py`, for kernels on CPUs: each is broken once, in a copy, and a test must notice."""

import ast
from pathlib import Path

import pytest

from tests.kernels.mutations import ROOT, Mutation, break_line, copy_of_the_tests, run_tests

pytestmark = pytest.mark.campaign

KERNELS = ROOT / "pcircuits" / "kernels"
FILES = (
    "chain/cpu.py",
    "chunks.py",
    "dense_sum/cpu.py",
    "em_step/cpu.py",
    "kronecker_sum/cpu.py",
    "../layout.py",
    "matrix_product.py",
    "powers.py",
)

SUM, STEP = "test_a_dense_sum_and_its_flows", "test_an_em_step_in_place"
MATRIX, DERIVED = "test_products_equal", "test_first_and"
CHOSEN, TALL = "test_a_product_that_is_chosen", "test_products_over_long_axes"
LAYOUT, ROWS = "test_what_is_made", "test_a_dense_sum_of_rows"
KRONECKER = "test_a_sum_over_a_kronecker_product"
CHAIN, RECORDED = "test_a_chain_is_its_steps", "test_a_recorded_chain_has"
MUTATIONS = (
    Mutation("dense_sum/cpu.py", "linear_sum", "bmm(weights, values.mT", "bmm(-weights, values.mT", SUM),
    Mutation("dense_sum/cpu.py", "linear_sum", "bmm(values, weights.mT", "bmm(values, -weights.mT", SUM),
    Mutation("dense_sum/cpu.py", "linear_sum_flow", ".mul_(values)", "", SUM),
    Mutation("dense_sum/cpu.py", "linear_sum_flow", ".mul_(weights)", "", SUM),
    Mutation("dense_sum/cpu.py", "linear_sum_of_rows", "rows[part], scratch", "rows[part].flip(0), scratch", ROWS),
    Mutation("dense_sum/cpu.py", "linear_sum_flow_by_parts", "raw, part,", "raw, slice(len(raw[part])),", ROWS),
    Mutation("dense_sum/cpu.py", "linear_sum_flow_by_parts", "table[part] if", "table[: len(raw[part])] if", ROWS),
    Mutation("dense_sum/cpu.py", "linear_sum_flow_by_parts", "2 * size", "size", ROWS),
    Mutation("dense_sum/cpu.py", "linear_sum_flow_by_parts", "out.at[part]", "out.at[: len(made)]", ROWS),
    Mutation("dense_sum/cpu.py", "_share", "index[part]", "index[: len(raw)]", ROWS),
    Mutation("dense_sum/cpu.py", "_share", "raw.clamp_min(least) if guarded else raw", "raw", ROWS),
    Mutation("dense_sum/cpu.py", "_share", "table[part] if", "table[: len(raw)] if", ROWS),
    Mutation("dense_sum/cpu.py", "scratch_size", "(units + others)", "(2 * units + others)", ROWS),
    Mutation("dense_sum/cpu.py", "_parts", "values[0].numel()", "2 * values[0].numel()", ROWS),
    Mutation("dense_sum/cpu.py", "_taken", "take_rows(values, rows,", "take_rows(values, rows.flip(0),", ROWS),
    Mutation("chain/cpu.py", "chain", "peak.clamp_min_(least)", "peak", CHAIN),
    Mutation("chain/cpu.py", "chain", "found.append(below)", "found.append(product)", CHAIN),
    Mutation("chain/cpu.py", "chain", "t % every == 0", "True", CHAIN),
    Mutation("chain/cpu.py", "needs_memory", "not has_memory", "has_memory", CHAIN),
    Mutation("chain/cpu.py", "chain_flows", ".mul_(product)", "", CHAIN),
    Mutation("chain/cpu.py", "chain_flows", "reversed(steps)", "steps", CHAIN),
    Mutation("chain/cpu.py", "_sides", "each[row]", "each[-1 - row]", CHAIN),
    Mutation("chain/cpu.py", "_rooms", "else _by_step(results)", "else [None] * steps", CHAIN),
    Mutation("chain/cpu.py", "tied_counts", ".mul_(weights)", "", CHAIN),
    Mutation("chain/cpu.py", "untied_counts", ".mul_(w)", "", CHAIN),
    Mutation("chain/cpu.py", "recorded", ".cumsum(0)", "", RECORDED),
    Mutation("chain/cpu.py", "recorded", "g.add_(carry)", "g", RECORDED),
    Mutation("chain/cpu.py", "recorded", "out.mul_(below)", "out.mul_(1.0)", RECORDED),
    Mutation("chain/cpu.py", "recorded", "out=before).mul_(shrinks)", "out=before)", RECORDED),
    Mutation("em_step/cpu.py", "em_step", "step / (total + extra)", "step / total", STEP),
    Mutation("em_step/cpu.py", "em_step", "torch.where(reached, 1 - step, 1.0)", "1 - step + 0 * total", STEP),
    Mutation("em_step/cpu.py", "em_step", "gain * extra / children[rows]", "gain * extra", STEP),
    Mutation("em_step/cpu.py", "em_step", "linear.mul_(support)", "linear", STEP),
    Mutation("em_step/cpu.py", "_apply", "if smooth:", "if not smooth:", STEP),
    Mutation("em_step/cpu.py", "_apply", "new.clamp_min_(LEAST_PROBABILITY)", "pass", "test_an_em_step_leaves"),
    Mutation("chunks.py", "chunks", "range(0, total, step)", "range(0, total - 1, step)", STEP),
    Mutation("kronecker_sum/cpu.py", "kronecker_sum", "out=out[part]", "out=out[:1].expand_as(out[part])", KRONECKER),
    Mutation("kronecker_sum/cpu.py", "kronecker_sum_flow", "share[part]", "share[:1]", KRONECKER),
    Mutation("kronecker_sum/cpu.py", "scratch_size", "[0].stop", "[0].start", KRONECKER),
    Mutation("kronecker_sum/cpu.py", "_parts", "len(left)", "len(left) - 1", KRONECKER),
    Mutation("kronecker_sum/cpu.py", "_width", "left[0].numel()", "2 * left[0].numel()", KRONECKER),
    Mutation("kronecker_sum/cpu.py", "_product", "kronecker(left, right", "kronecker(left, -right", KRONECKER),
    Mutation("../layout.py", "kronecker", "right.unsqueeze(-2), out", "right.unsqueeze(-2) ** 2, out", KRONECKER),
    Mutation("../layout.py", "split_kronecker", "torch.sum(grid, 2", "torch.sum(grid, 1", KRONECKER),
    Mutation("../layout.py", "add_rows", "out.mT.index_add_(0, index, x.mT)", "out", LAYOUT),
    Mutation("../layout.py", "samples_last", "x.stride(-1) == x.shape[-2]", "True", LAYOUT),
    Mutation(
        "../layout.py",
        "shaped",
        "block.view(*shape[:-2], shape[-1], shape[-2]).mT",
        "block.view(shape)",
        "test_what_is_made",
    ),
    Mutation(
        "../layout.py",
        "take_rows",
        "torch.index_select(x.mT, 0, index",
        "torch.index_select(x.mT, 0, index.flip(0)",
        "test_what_is_made",
    ),
    Mutation("matrix_product.py", "mm", "out.copy_(_linear(left, right))", "out", MATRIX),
    Mutation(
        "matrix_product.py", "bmm", "zip(left, right, out", "zip(left, right.flip(0), out", "test_batched_products"
    ),
    Mutation("matrix_product.py", "times", "torch.mm(x, right, out=out)", "torch.mm(x, right)", CHOSEN),
    Mutation("matrix_product.py", "has_memory", "_gains(like, right)", "True", CHOSEN),
    Mutation("matrix_product.py", "_is_tall", "% _IMAGES == 0", "% _IMAGES >= 0", TALL),
    Mutation("matrix_product.py", "_gradient_of_convolution", "in (left, right)", "in (right, left)", TALL),
    Mutation("chain/cpu.py", "_by_step", "x.squeeze(1).unbind(0)", "x.squeeze(1).flip(0).unbind(0)", CHAIN),
    Mutation("chain/cpu.py", "_distinct", "found[id(w)]", "found[id(weights[0])]", CHAIN),
    Mutation("matrix_product.py", "_gains", "rows >= _LEAST_ROWS", "rows >= 0", "test_small_and"),
    Mutation("matrix_product.py", "_gradients", "mm(grads[0], right.mT)", "-mm(grads[0], right.mT)", DERIVED),
    Mutation(
        "matrix_product.py", "_has_onednn", "get_cpu_capability() ==", "get_cpu_capability() >=", "test_onednn_is"
    ),
    Mutation("matrix_product.py", "_linear", "left, right.mT", "-left, right.mT", MATRIX),
    Mutation("matrix_product.py", "_run", "_linear(left, right)", "-_linear(left, right)", DERIVED),
    Mutation("matrix_product.py", "_definition", "torch.mm(left, right)", "-torch.mm(left, right)", DERIVED),
    Mutation("powers.py", "power_below", "2 * bias - exponent", "2 * bias - exponent + 1", "test_the_power"),
    Mutation("powers.py", "power_below", "sub_(bias)", "sub_(bias - 1)", "test_the_power"),
    Mutation("powers.py", "power_below", "x.clamp_min(torch.finfo(x.dtype).tiny)", "x", "test_zero_and"),
)
TESTS = tuple(f"tests/kernels/test_{name}.py" for name in ("cpu", "layout", "matrix_product", "powers"))


def test_each_kernel_is_broken_once() -> None:
    functions = {
        (name, node.name)
        for name in FILES
        for node in ast.parse((KERNELS / name).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert {path.relative_to(KERNELS).as_posix() for path in KERNELS.rglob("cpu.py")} <= set(FILES)
    assert functions == {(m.file, m.function) for m in MUTATIONS}


def test_the_copy_passes(tmp_path: Path) -> None:
    copy_of_the_tests(tmp_path)
    done = run_tests(TESTS, "test_", tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.function}-{m.line}")
def test_a_broken_kernel_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    copy_of_the_tests(tmp_path)
    break_line(mutation, tmp_path)
    done = run_tests(TESTS, mutation.cases, tmp_path)
    assert done.returncode == 1 and " failed" in done.stdout, done.stdout
