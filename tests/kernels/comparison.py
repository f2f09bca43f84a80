"""A kernel against its definition: float32 on poisoned memory against float64, results and gradients."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from tests.kernels.cases import Arguments, Case, Draw, Sizes

MARGIN = 4096  # numbers of NaN before and after every argument
TOLERANCE = 3e-5  # of the largest number of a result


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New tensors are full of NaN until they are written."""
    with ExitStack() as stack:
        for owner, name in ((torch.Tensor, "new_empty"), (torch, "empty"), (torch, "empty_like")):
            stack.enter_context(mock.patch.object(owner, name, _filled(getattr(owner, name))))
        yield


def _filled(make: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = make(*args, **kwargs)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    return call


def surrounded(x: Any, device: torch.device | str, *, turned: bool = False) -> Any:
    """In float32, with NaN (or an index far outside) on both sides of its memory; with `turned` its first axis is the
    last one there.
    """
    if not isinstance(x, torch.Tensor):
        fields = x._asdict() if hasattr(x, "_asdict") else {}
        return x._replace(**{k: surrounded(v, device, turned=turned) for k, v in fields.items()}) if fields else x
    if turned and x.ndim > 1:
        return surrounded(x.movedim(0, -1), device).movedim(-1, 0)
    dtype = torch.float32 if x.is_floating_point() else x.dtype
    filler = torch.nan if x.is_floating_point() else (1 << 40 if dtype == torch.long else 1)
    memory = torch.full((x.numel() + 2 * MARGIN,), filler, dtype=dtype, device=device)
    inside = memory[MARGIN : MARGIN + x.numel()].view(x.shape)
    inside.copy_(x)
    return inside


def results(
    case: Case, call: Callable[[Arguments], tuple[torch.Tensor, ...]], arguments: Arguments
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Outputs, and the gradients of a random linear function of the differentiable ones."""
    leaves = [arguments[name].requires_grad_() for name in case.inputs]
    outputs = call(arguments)
    made = outputs[: case.differentiable]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.3 for x in made]
    gradients = torch.autograd.grad(made, leaves, [w.to(x) for w, x in zip(weights, made, strict=True)])
    return [x.detach() for x in outputs], list(gradients)


def check(
    case: Case,
    sizes: Sizes,
    *,
    zeros: bool = False,
    turned: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tolerance: float = TOLERANCE,
) -> None:
    """Raise AssertionError where the kernel and its definition differ."""
    arguments = case.make({**case.sizes, **sizes}, Draw(seed, zeros))
    given = {name: surrounded(x, device, turned=turned) for name, x in arguments.items()}
    rounded = {n: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for n, x in given.items()}
    expected = results(case, case.definition, {n: to_cpu(x) for n, x in rounded.items()})
    with poisoned_memory():
        found = results(case, case.kernel, given)
    kinds = ("output", "gradient")
    names = ([str(n) for n in range(len(expected[0]))], case.inputs)
    for kind, labels, ours, theirs in zip(kinds, names, found, expected, strict=True):
        for label, x, y in zip(labels, ours, theirs, strict=True):
            compare(f"{kind} {label} of {case.name} at {dict(sizes)}", x.cpu(), y, tolerance)


def to_cpu(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().clone()
    return x._replace(**{k: to_cpu(v) for k, v in x._asdict().items()}) if hasattr(x, "_asdict") else x


def compare(what: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)} for {tuple(expected.shape)}"
    assert not found.isnan().any(), f"{what} has NaN"
    scale = float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 1.0
    torch.testing.assert_close(
        found.double(),
        expected.double(),
        rtol=tolerance,
        atol=tolerance * scale,
        msg=lambda text: f"{what}\n{text}",
    )
