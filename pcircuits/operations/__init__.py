"""Circuits from circuits: products, marginals, conditionals, and the integrals that these give; parameters stay
shared.
"""

from pcircuits.operations.compatibility import Compatibility, check_compatible
from pcircuits.operations.conjugate import ConjugateCircuit, conjugate
from pcircuits.operations.derived import DerivedCircuit
from pcircuits.operations.differentiate import DerivativeCircuit, differentiate
from pcircuits.operations.divergence import (
    cross_entropy,
    estimate_cross_entropy,
    estimate_kl_divergence,
    kl_divergence,
)
from pcircuits.operations.inner import cauchy_schwarz_divergence, inner_product, l2_distance, log_inner_product
from pcircuits.operations.mixture import MixtureCircuit, mixture
from pcircuits.operations.multiply import ProductCircuit, SquaredCircuit, multiply, square
from pcircuits.operations.project import ProjectedCircuit, condition, marginalize
from pcircuits.operations.signed import SignedCircuit, SignedValue

__all__ = [
    "Compatibility",
    "ConjugateCircuit",
    "DerivativeCircuit",
    "DerivedCircuit",
    "MixtureCircuit",
    "ProductCircuit",
    "ProjectedCircuit",
    "SignedCircuit",
    "SignedValue",
    "SquaredCircuit",
    "cauchy_schwarz_divergence",
    "check_compatible",
    "condition",
    "conjugate",
    "cross_entropy",
    "differentiate",
    "estimate_cross_entropy",
    "estimate_kl_divergence",
    "inner_product",
    "kl_divergence",
    "l2_distance",
    "log_inner_product",
    "marginalize",
    "mixture",
    "multiply",
    "square",
]
