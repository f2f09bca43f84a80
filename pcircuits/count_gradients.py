"""Gradients of the log evidence as expected counts: a backward pass at the price of EM's.

The derivative of the log evidence by the logarithm of a weight, or of the probability of an input's value, is its
expected count (Fisher's identity; for circuits Darwiche 2003). Parameters get theirs by the chain rule, group by group.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from pcircuits.evaluator import Evaluation
from pcircuits.evidence import Evidence
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.statistics import collect
from pcircuits.types import Float, Tensor
from pcircuits.workspace import Memory

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit


def log_evidence(circuit: "Circuit", evidence: Evidence, memory: Memory) -> Float[Tensor, " B"]:
    """Log evidence that is differentiable in the circuit's parameters, of evidence that needs no gradient.

    `memory` is in use until the backward pass, which uses the evaluation up; another one works it out again. Second
    derivatives are those of the evaluation itself.
    """
    named = {
        (group, name): parameter
        for group, module in circuit.named_groups()
        for name, parameter in module.named_parameters(recurse=False)
    }
    waiting = list[Evaluation]()

    def evaluated() -> Evaluation:
        return circuit._evaluate(evidence, memory, summed=True)

    def run(*_: Tensor) -> Tensors:
        waiting.append(evaluated())
        return (waiting[0].log_evidence,)

    def gradients(_arguments: Maybe, found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        evaluation = waiting.pop() if waiting else evaluated()
        flows = torch.where(found[0].isneginf(), 0.0, grads[0])
        counts = collect(circuit.plan, evaluation, flows, torch.zeros_like(flows), scores=True).counts
        each = {
            (name, parameter): gradient
            for name, group in circuit.named_groups()
            for parameter, gradient in group.gradient(counts[name], evaluation.fast.prepared[name]).items()
        }
        return [each[name] if need else None for name, need in zip(named, needed, strict=True)]

    def definition(*tensors: Tensor) -> Tensors:
        swapped = {f"circuit.groups.{'.'.join(name)}": tensor for name, tensor in zip(named, tensors, strict=True)}
        return (torch.func.functional_call(_Evaluation(circuit), swapped, (evidence,)),)

    return differentiable(run, gradients, definition, list(named.values()))[0]


class _Evaluation(nn.Module):
    """The log evidence by operations that autograd records."""

    def __init__(self, circuit: "Circuit") -> None:
        super().__init__()
        self.circuit = circuit

    def forward(self, evidence: Evidence) -> Float[Tensor, " B"]:
        return self.circuit._evaluate(evidence, Memory()).log_evidence
