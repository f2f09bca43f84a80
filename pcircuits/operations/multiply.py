"""Products of circuits that decompose alike, as circuits over pairs of units."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import product
from typing import Any, NamedTuple

import torch

from pcircuits.blocks import Block, scopes
from pcircuits.circuit import Circuit
from pcircuits.errors import StructureError
from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence
from pcircuits.kernels import finite
from pcircuits.operations.conjugate import are_conjugate, conjugate
from pcircuits.operations.derived import DerivedCircuit, Piece, Pieces
from pcircuits.operations.inputs import factor_family, join_units, multiply_units, unit_rows
from pcircuits.operations.signed import SignedFunction
from pcircuits.operations.signed_posterior import SignedPosterior
from pcircuits.posterior import Posterior
from pcircuits.semirings import Signed, SumWeights
from pcircuits.structures.region import variables_of
from pcircuits.types import Float, Inexact, Shaped, Tensor
from pcircuits.workspace import Workspace

Place = tuple[str, int] | None


class ProductRecipe(NamedTuple):
    """Where the parameters of two multiplied blocks lie; None stands for the identity of `sizes` units.

    kind: "input", "dense" (a sum over matching children), "kronecker" (over pairs of children, the second factor's
    in the other order if `swapped`), "mixing".
    """

    kind: str
    places: tuple[Place, Place]
    sizes: tuple[int, int]
    swapped: bool = False


class ProductCircuit(DerivedCircuit):
    """`c(x) = a(x) b(x)` of two circuits, normalised by its exact partition; made by `multiply` and `square`."""

    def __init__(self, first: Circuit, second: Circuit) -> None:
        families = [factor_family(f, g) for f, g in zip(first.inputs, second.inputs, strict=True)]
        super().__init__((first, second), _Multiplication(first, second).pieces, families)

    def log_prob(self, x: Shaped[Tensor, "B D"], *, workspace: Workspace | None = None) -> Float[Tensor, " B"]:
        """`log a(x) + log b(x) - log Z` of complete values, (B, D) to (B,): no pair of units is formed."""
        return self.log_value(x) - finite(self.log_partition())

    def log_value(self, x: Shaped[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """`log c(x)`, unnormalised: the sum of the factors' log values."""
        first, second = self.sources
        assert isinstance(first, Circuit) and isinstance(second, Circuit)
        log = log_value(first, x)
        return log + (log if are_conjugate(first, second) else log_value(second, x))

    def _combine(self, recipes: Sequence[ProductRecipe], prepared: Sequence[Mapping[str, Any]]) -> Any:
        first, second = prepared[0], prepared[-1]
        groups: dict[tuple, list[int]] = {}
        for n, (kind, places, sizes, swapped) in enumerate(recipes):
            names = tuple(place and place[0] for place in places)
            groups.setdefault((kind, names, sizes, swapped), []).append(n)
        parts = [_combine_alike([recipes[n] for n in members], first, second) for members in groups.values()]
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([n for members in groups.values() for n in members]).argsort()
        return unit_rows(join_units(parts), order)


class SquaredCircuit(ProductCircuit):
    """A product whose signs cancel: the squared modulus of a signed circuit, or squares and non-negative circuits
    together.

    `log_prob`, `log_partition` and all log evidences are exact; a log evidence of complete values is worked out from
    the factors' own, and so never negative. Samples come from conditional distribution functions.
    """

    is_complex = False  # though its factors are

    def condition(self, evidence: Evidence, *, workspace: Workspace | None = None) -> Posterior:
        evidence = self._checked(evidence)
        complete = evidence.observed.all(-1)
        found = self.log_value(evidence.values) if bool(complete.any()) else None
        if found is None or not complete.all():
            summed = upward(self.plan, self.prepared(), evidence, Signed(non_negative=True)).log_evidence
            found = summed if found is None else torch.where(complete, found, summed)
        return SignedPosterior(self, evidence, found - finite(self.log_partition()))

    def _log_total(self) -> Float[Tensor, ""]:
        return upward(self.plan, self.prepared(), self._nothing(), Signed(non_negative=True)).log_evidence[0]


class SignedProduct(SignedFunction, ProductCircuit):
    """A product that may be negative or complex."""


def square(circuit: Circuit) -> ProductCircuit:
    """The square of a circuit, `p(x) = |c(x)|^2 / Z`: `multiply(circuit, conjugate(circuit))`. Of a `SignedCircuit` it
    is a distribution that mixtures of non-negative weights need many more units for (Loconte et al. 2024).

    Raises:
        StructureError: the circuit is not structured-decomposable, or its inputs' squares have no closed form.
    """
    return multiply(circuit, conjugate(circuit))


def multiply(first: Circuit, second: Circuit, *more: Circuit) -> ProductCircuit:
    """The product of two to four compatible circuits over the same variables (Vergari et al. 2021, Algorithm 3).

    `p(x) = a(x) b(x) / Z`, with Z exact in `log_partition()`. Its parameters are computed from the factors': training
    it trains them. A region has K_a K_b units, a sum that much squared weights.

    Raises:
        StructureError: the circuits split some set of variables differently, or their inputs have no closed product.
    """
    circuits = (first, second, *more)
    if len(circuits) > 4 or not all(isinstance(c, Circuit) for c in circuits):
        raise StructureError(f"multiply takes two to four circuits, got {len(circuits)} arguments")
    if len({c.num_variables for c in circuits}) > 1:
        raise StructureError(
            f"circuits of {', '.join(str(c.num_variables) for c in circuits)} variables cannot be multiplied; "
            "they must be over the same variables"
        )
    return reduce(_times, circuits[1:], circuits[0])  # type: ignore[return-value]


def is_signed(circuit: Circuit) -> bool:
    """Whether weights inside may be negative or complex."""
    if isinstance(circuit, SignedFunction | SquaredCircuit):
        return True
    return isinstance(circuit, DerivedCircuit) and any(is_signed(s) for s in circuit.sources if isinstance(s, Circuit))


def _times(first: Circuit, second: Circuit) -> ProductCircuit:
    if not (is_signed(first) or is_signed(second)):
        return ProductCircuit(first, second)
    negative = any(isinstance(c, SignedFunction) for c in (first, second))
    return (
        SignedProduct(first, second) if negative and not are_conjugate(first, second) else SquaredCircuit(first, second)
    )


def log_value(circuit: Circuit, x: Shaped[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """The log of what a circuit computes at x, not normalised."""
    if isinstance(circuit, SignedFunction):
        return circuit.value(x).log_abs
    if isinstance(circuit, ProductCircuit):
        return circuit.log_value(x)
    return circuit.log_prob(x) + circuit.log_partition()


class _Multiplication:
    """Pairs the blocks of two circuits, the roots first (Vergari et al. 2021, Algorithm 3)."""

    def __init__(self, first: Circuit, second: Circuit) -> None:
        self.factors = tuple(_Factor(c.plan.blocks, c.plan.places) for c in (first, second))
        self.out = Pieces()
        self.known: dict[tuple[int, int], int] = {}
        self._pair(len(first.plan.blocks) - 1, len(second.plan.blocks) - 1)

    @property
    def pieces(self) -> list[Piece]:
        return self.out.pieces

    def _pair(self, i: int, j: int) -> int:
        """Depth first without recursion: chains are deeper than Python's stack."""
        waiting = [(i, j)]
        while waiting:
            pair = waiting[-1]
            if pair in self.known:
                waiting.pop()
                continue
            step = self._step(*pair)
            if missing := [p for p in step.pairs if p not in self.known]:
                waiting.extend(missing)
                continue
            self.known[pair] = step.build([self.known[p] for p in step.pairs])
            waiting.pop()
        return self.known[i, j]

    def _step(self, i: int, j: int) -> "_Step":
        a, b = self.factors
        first, second = a.blocks[i], b.blocks[j]
        if first.kind == second.kind == "input":
            return self._input(i, j)
        if "mixing" in (first.kind, second.kind):
            return self._mixing(i, j)
        if len(first.children) > 1 and len(second.children) > 1:
            return self._products(i, j)
        return self._unary(i, j)

    def _input(self, i: int, j: int) -> "_Step":
        recipe = ProductRecipe("input", self._places(i, j), self._sizes(i, j))
        variables = self.factors[0].blocks[i].variables
        return _Step([], lambda _: self.out.add_input(variables, recipe.sizes[0] * recipe.sizes[1], recipe))

    def _mixing(self, i: int, j: int) -> "_Step":
        parts = [
            f.blocks[n].children if f.blocks[n].kind == "mixing" else (n,)
            for f, n in zip(self.factors, (i, j), strict=True)
        ]
        places = tuple(
            f.places[n] if f.blocks[n].kind == "mixing" else None for f, n in zip(self.factors, (i, j), strict=True)
        )
        return self._summed("mixing", list(product(parts[0], parts[1])), i, j, places)

    def _unary(self, i: int, j: int) -> "_Step":
        """At least one of the two is a sum over a single block: sums multiply, a product stands for itself."""
        single = [len(f.blocks[n].children) == 1 for f, n in zip(self.factors, (i, j), strict=True)]
        pair = tuple(f.blocks[n].children[0] if s else n for f, n, s in zip(self.factors, (i, j), single, strict=True))
        places = tuple(f.places[n] if s else None for f, n, s in zip(self.factors, (i, j), single, strict=True))
        return self._summed("hadamard", [(pair[0], pair[1])], i, j, places)

    def _products(self, i: int, j: int) -> "_Step":
        a, b = self.factors
        first, second = a.blocks[i], b.blocks[j]
        if (first.kind == "kronecker") != (second.kind == "kronecker"):
            raise StructureError('"tucker" products pair every two units, others pair equal ones: they do not multiply')
        pairs = self._matched(i, j)
        swapped = [p[1] for p in pairs] != list(second.children) and first.kind == "kronecker"
        return self._summed(first.kind, pairs, i, j, (a.places[i], b.places[j]), swapped)

    def _summed(
        self,
        kind: str,
        pairs: list[tuple[int, int]],
        i: int,
        j: int,
        places: tuple[Place, ...],
        swapped: bool = False,
    ) -> "_Step":
        sizes = self._sizes(i, j)
        units = sizes[0] * sizes[1]
        recipe_kind = "dense" if kind == "hadamard" else kind
        recipe = None
        if kind != "hadamard" or any(places):
            recipe = ProductRecipe(recipe_kind, (places[0], places[1]), sizes, swapped)

        def build(children: list[int]) -> int:
            widths = [self.out.units(c) for c in children]
            width = {"mixing": len(children), "hadamard": widths[0], "kronecker": widths[0] * widths[-1]}[kind]
            return self.out.add(kind, children, units, recipe, width=0 if recipe is None else width)

        return _Step(pairs, build)

    def _matched(self, i: int, j: int) -> list[tuple[int, int]]:
        """Children of equal scope, in the order of the first block; where one block splits finer, its children are
        multiplied among themselves first.
        """
        a, b = self.factors
        coarse = [a.masks[c] for c in a.blocks[i].children]
        fine = [b.masks[c] for c in b.blocks[j].children]
        if len(fine) < len(coarse):
            return [(p, q) for p, q in zip(a.grouped(i, fine), b.blocks[j].children, strict=True)]
        return list(zip(a.blocks[i].children, b.grouped(j, coarse), strict=True))

    def _places(self, i: int, j: int) -> tuple[Place, Place]:
        return self.factors[0].places[i], self.factors[1].places[j]

    def _sizes(self, i: int, j: int) -> tuple[int, int]:
        return self.factors[0].blocks[i].num_units, self.factors[1].blocks[j].num_units


class _Step(NamedTuple):
    """What a pair of blocks needs first, and how it is built from them."""

    pairs: list[tuple[int, int]]
    build: Callable[[list[int]], int]


class _Factor:
    """One circuit's blocks, and products among the children of a block where the other circuit splits coarser."""

    def __init__(self, blocks: Sequence[Block], places: Sequence[Place]) -> None:
        self.blocks, self.places, self.masks = list(blocks), list(places), scopes(blocks)
        self.joined: dict[tuple[int, ...], int] = {}

    def grouped(self, block: int, wanted: Sequence[int]) -> list[int]:
        """One block a scope of `wanted`: a child of `block`, or the product of several."""
        return [self._join(block, scope) for scope in wanted]

    def _join(self, block: int, scope: int) -> int:
        found = self.blocks[block]
        members = tuple(c for c in found.children if self.masks[c] & scope)
        together = 0
        for c in members:
            together |= self.masks[c]
        if together != scope or (len(members) > 1 and found.kind == "kronecker"):
            ours = [list(variables_of(self.masks[c])) for c in found.children]
            raise StructureError(
                f"the circuits are not compatible: one has a product over the variables {list(variables_of(scope))}, "
                f"where the other splits {list(variables_of(self.masks[block]))} into {ours}"
            )
        if len(members) == 1:
            return members[0]
        if members not in self.joined:
            first = self.blocks[members[0]]
            depth = 1 + max(self.blocks[c].depth for c in members)
            self.blocks.append(Block("hadamard", members, first.num_units, 0, depth, False, None, None))
            self.places.append(None)
            self.masks.append(scope)
            self.joined[members] = len(self.blocks) - 1
        return self.joined[members]


def _combine_alike(recipes: Sequence[ProductRecipe], first: Mapping[str, Any], second: Mapping[str, Any]) -> Any:
    """Parameters of blocks whose factors lie in the same groups and are multiplied alike, all at once."""
    kind, places, sizes, swapped = recipes[0]
    rows = [[r.places[side][1] for r in recipes if r.places[side] is not None] for side in (0, 1)]  # type: ignore[index]
    if kind == "input":
        assert places[0] is not None and places[1] is not None
        index = (torch.tensor(rows[0]), torch.tensor(rows[1]))
        return multiply_units(first[places[0][0]], second[places[1][0]], index)
    factors = [
        None if place is None else unit_rows(prepared[place[0]], torch.tensor(row))
        for place, prepared, row in zip(places, (first, second), rows, strict=True)
    ]
    like = next(f for f in factors if f is not None)
    weights = [_neutral(kind, size, like) if f is None else f for f, size in zip(factors, sizes, strict=True)]
    log = _kron(kind, weights[0].log, weights[1].log, True, swapped)
    linear = _kron(kind, weights[0].linear, weights[1].linear, False, swapped)
    return SumWeights(linear, log, as_given=True)


def _neutral(kind: str, size: int, like: SumWeights) -> SumWeights:
    """Weights that change nothing: one child for mixing, else the identity."""
    shape = (size, 1) if kind == "mixing" else (size, size)
    neutral = torch.ones(shape) if kind == "mixing" else torch.eye(size)
    linear, log = (x.to(y).expand(len(y), *shape) for x, y in ((neutral, like.linear), (neutral.log(), like.log)))
    return SumWeights(linear, log, as_given=True)


def _kron(kind: str, first: Tensor, second: Tensor, is_log: bool, swapped: bool) -> Inexact[Tensor, "F O J"]:
    """`out[(o, p), (j, m)] = first[o, j] second[p, m]`; of Kronecker sums the children's pairs come pair by pair."""
    if kind == "kronecker":
        first, second = (_square_children(x) for x in (first, second))
        second = second.mT if swapped else second
        x, y = first[:, :, None, :, None, :, None], second[:, None, :, None, :, None, :]
        return (x + y if is_log else x * y).flatten(5, 6).flatten(3, 4).flatten(3, 4).flatten(1, 2)
    x, y = first[:, :, None, :, None], second[:, None, :, None, :]
    return (x + y if is_log else x * y).flatten(3, 4).flatten(1, 2)


def _square_children(weights: Inexact[Tensor, "F O J"]) -> Inexact[Tensor, "F O L R"]:
    side = round(weights.shape[-1] ** 0.5)
    return weights.unflatten(-1, (side, side))
