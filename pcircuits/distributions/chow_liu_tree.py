"""Inputs over several discrete variables that form a tree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from pcircuits.distributions.categorical import Categorical
from pcircuits.distributions.discrete import Table, require_categories
from pcircuits.distributions.draw import draw
from pcircuits.distributions.family import LEAST_PROBABILITY, InputFamily, Picks, Rows, Smoothing
from pcircuits.distributions.tree_lookup import Lookup
from pcircuits.distributions.tree_messages import Given, Tree, given, log_potentials
from pcircuits.distributions.tree_shape import TreeShape
from pcircuits.errors import ParameterError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite, ratio
from pcircuits.structures import chow_liu_tree
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits.workspace import Memory

_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class ChowLiuTree(InputFamily):
    """Several variables with values 0..V-1 that form a tree (Chow, Liu 1968), for input regions over as many variables
    (`Region.input(0, 1, 2)`, `structures.grouped`): `p(x) = p(x_root) prod_m p(x_m | x_parent(m))`. All units of a
    region have one tree, and tables of their own. Parameters: `root_logits` (G, K, V), and `link_logits`
    (G, K, M - 1, V, V), one table a variable but the root, in their order, whose rows are the parent's values.

    Evidence of each variable is of any kind that a single discrete one has; `latent` potentials of the variables of a
    region add up. Queries are exact by passes over the tree; maximisers are by max-product.

    Args:
        parents: for each of M >= 2 variables its parent, both as places in the region, and -1 for the root.
        num_categories: V, of every variable.
    """

    parents: Sequence[int]
    num_categories: int
    name = "chow_liu_tree"
    gradients_by_counts = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(self.parents))
        if type(self.num_categories) is not int or self.num_categories < 1:
            raise ParameterError(f"`num_categories` must be a positive integer, got {self.num_categories!r:.80}")
        self.shape  # noqa: B018 - refuses what is no tree

    @classmethod
    def from_data(cls, x: Int[Tensor, "N M"], num_categories: int | None = None) -> "ChowLiuTree":
        """The best tree for complete rows of the region's variables, by `structures.chow_liu_tree`.

        Args:
            num_categories: V, default the largest value plus one.

        Raises:
            DataError, ShapeError: data that is not integer categories.
        """
        tree = chow_liu_tree(x, num_categories=num_categories)
        parents = [next(iter(tree.predecessors(place)), -1) for place in range(len(tree))]
        return cls(tuple(parents), int(x.max()) + 1 if num_categories is None else num_categories)

    @property
    def num_variables(self) -> int:  # type: ignore[override]
        return len(self.parents)

    @cached_property
    def shape(self) -> TreeShape:
        return TreeShape(tuple(self.parents))

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        values = self.num_categories
        shapes = {"root_logits": (values,), "link_logits": (self.num_variables - 1, values, values)}
        drawn = {
            name: 0.1 + 0.9 * torch.rand(groups, units, *shape, generator=generator) for name, shape in shapes.items()
        }
        return {name: (weights / weights.sum(-1, keepdim=True)).log() for name, weights in drawn.items()}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Tree:
        if support is not None:
            raise ParameterError(f"{self!r} has no values that a support could exclude; restrict sums instead")
        return Tree(parameters["root_logits"].log_softmax(-1), parameters["link_logits"].log_softmax(-1))

    def dtype_of(self, prepared: Tree) -> torch.dtype:
        return prepared.root.dtype

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        require_categories(self, evidence, variables)

    def log_values(self, prepared: Tree, rows: Rows, evidence: InputEvidence, maximise: bool) -> Float[Tensor, "F B K"]:
        return self._log_values(prepared, rows, evidence._replace(summed=None), maximise)

    def log_maxima(self, prepared: Tree, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        """An upper bound where variables that are `summed` have others below them: the exact maximum is NP-hard."""
        return self._log_values(prepared, rows, evidence, True)

    def posterior(
        self, prepared: Tree, rows: Rows, evidence: InputEvidence, flows: Float[Tensor, "F B K"], exact: bool
    ) -> Float[Tensor, "N B V"]:
        """Rows are variables: all of the first region, then of the next."""
        found = []
        for part, under in self._parts(prepared, rows, evidence):
            share = flows[:, part].double()
            found.append(torch.stack([torch.einsum("fbk,fkvb->fbv", share, x) for x in under.marginals()], 1))
        return torch.cat(found, 2).flatten(0, 1).to(flows.dtype)

    def statistics(
        self,
        prepared: Tree,
        rows: Rows,
        evidence: InputEvidence,
        flows: Float[Tensor, "F B K"],
        exact: bool,
        memory: Memory,
    ) -> dict[str, Float[Tensor, "G K S"]]:
        """Counts of the root's values, then of pairs of values of each parent and child, table by table."""
        if evidence.observed.all():
            found = self._lookup(evidence).counts(flows)
        else:
            parts = self._parts(prepared, rows, evidence)
            found = torch.stack([under.counts(flows[:, part].mT.double()) for part, under in parts]).sum(0)
        total = found.new_zeros(*prepared.root.shape[:2], found.shape[-1]).index_add(0, rows, found)
        return {"counts": total.to(flows.dtype)}

    def maximise(
        self, prepared: Tree, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        """Smoothing adds the pseudocount to every distribution, the root's and each row of a table."""
        new = []
        for counts, old in zip(self._tables(statistics["counts"]), prepared, strict=True):
            flat, present = counts.to(old.dtype).flatten(1, -2), old.exp().flatten(1, -2)
            probabilities = smooth.probabilities(flat, present, None).view_as(old)
            new.append(probabilities.clamp_min(LEAST_PROBABILITY).log())
        return {"root_logits": new[0], "link_logits": new[1]}

    def gradient(
        self, parameters: dict[str, Tensor], prepared: Tree, statistics: dict[str, Tensor], support: Tensor | None
    ) -> dict[str, Tensor]:
        pairs = zip(self._tables(statistics["counts"]), prepared, strict=True)
        root, links = (counts - counts.sum(-1, keepdim=True) * log.exp() for counts, log in pairs)
        return {"root_logits": root.to(prepared.root.dtype), "link_logits": links.to(prepared.root.dtype)}

    def sample(
        self,
        prepared: Tree,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Int[Tensor, "P M"]:
        """One row a pick, drawn from the root down."""
        row, batch, unit = picks
        if evidence.observed.all():
            return evidence.values.long().unflatten(0, (-1, self.num_variables))[row, :, batch]

        def rule(log: Float[Tensor, "P V"]) -> Int[Tensor, " P"]:
            if temperature == 0.0:
                return log.argmax(-1)
            return draw((log - finite(log.amax(-1, keepdim=True))).exp(), generator)

        asked = self._maximised(evidence) if temperature == 0.0 else None
        found = row.new_empty(len(row), self.num_variables)
        for part, under in self._parts(prepared, rows, evidence, asked, temperature or 1.0):
            (mine,) = ((batch >= part.start) & (batch < part.stop)).nonzero(as_tuple=True)
            found[mine] = under.choose(Picks(row[mine], batch[mine] - part.start, unit[mine]), rule)
        return found

    def overlap(self, prepared: Tree, rows: Rows) -> Bool[Tensor, "F K K"]:
        if all(x.isfinite().all() for x in prepared):
            units = prepared.root.shape[1]
            return torch.ones(len(rows), units, units, dtype=torch.bool, device=rows.device)
        both = [x[rows].double().unsqueeze(1) + x[rows].double().unsqueeze(2) for x in prepared]
        pairs = Tree(*(x.flatten(1, 2) for x in both))
        free = pairs.root.new_zeros(1, self.num_variables, self.num_categories, 1)
        return given(pairs, self.shape, free).log_value.view(both[0].shape[:3]) > -torch.inf

    def expected_log(self, prepared: Tree, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        log, potentials, found = self._tree(prepared, rows), self._potentials(evidence), []
        for part, under in self._parts(prepared, rows, evidence):
            marginals = under.marginals()
            mean = torch.einsum("fkvb,fkv->fbk", marginals[self.shape.root], finite(log.root))
            for _, parent, table in self.shape.order:
                pairs = marginals[parent].movedim(-1, 1).unsqueeze(-1) * under.link(table)
                mean = mean + torch.einsum("fbkuv,fkuv->fbk", pairs, finite(log.links[:, :, table]))
            for marginal, weights in zip(marginals, potentials[..., part].unbind(1), strict=True):
                mean = mean + torch.einsum("fkvb,fvb->fbk", marginal, finite(weights))
            found.append(mean)
        return torch.cat(found, 1)

    def covariance(self, prepared: Tree, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K M M"]:
        values, size = torch.arange(self.num_categories, device=rows.device).double(), range(self.num_variables)
        found = []
        for _, under in self._parts(prepared, rows, evidence):
            pairs = under.pairs()
            mean = torch.stack([pairs[m, m].sum(-1) @ values for m in size], -1)
            square = [torch.stack([(pairs[m, n] @ values) @ values for n in size], -1) for m in size]
            found.append(torch.stack(square, -2) - mean.unsqueeze(-1) * mean.unsqueeze(-2))
        return torch.cat(found, 1)

    def without(self, kept: Sequence[int]) -> InputFamily:
        """A tree again, or refused by `TreeShape.of_some`."""
        if len(kept) == 1:
            return Categorical(self.num_categories)
        return ChowLiuTree(self.shape.of_some(kept).parents, self.num_categories)

    def reduced(self, prepared: Tree, evidence: InputEvidence, kept: Sequence[int]) -> Tree | Table:
        first = torch.zeros(1, dtype=torch.long, device=prepared.root.device)
        ((_, under),) = self._parts(prepared, first, evidence)
        pairs = {key: joint[0] for key, joint in under.pairs().items()}
        dtype, family = prepared.root.dtype, self.without(kept)
        if isinstance(family, Categorical):
            log = _distributions(pairs[kept[0], kept[0]].sum(-1)).log().to(dtype)
            return Table(log.exp().mT, family, {"logits": log}, None)
        assert isinstance(family, ChowLiuTree)
        root = _distributions(pairs[kept[family.shape.root], kept[family.shape.root]].sum(-1))
        links = [_distributions(pairs[kept[p], kept[m]]) for m, p in enumerate(family.parents) if p >= 0]
        return Tree(root.log().to(dtype), torch.stack(links, 2).log().to(dtype))

    def _log_values(
        self, prepared: Tree, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        if evidence.observed.all():
            return self._lookup(evidence).log_value(self._tree(prepared, rows))
        asked = self._maximised(evidence) if maximise else None
        return torch.cat([under.log_value.mT for _, under in self._parts(prepared, rows, evidence, asked)], 1)

    def _lookup(self, evidence: InputEvidence) -> Lookup:
        values = evidence.values.long().unflatten(0, (-1, self.num_variables))
        return Lookup.of(values, self.shape, self.num_categories)

    def _parts(
        self,
        prepared: Tree,
        rows: Rows,
        evidence: InputEvidence,
        maximised: Bool[Tensor, "F M B"] | None = None,
        temperature: float = 1.0,
    ) -> Iterator[tuple[slice, Given]]:
        """Some batch rows at a time, to the power `1 / temperature`."""
        tree = Tree(*(x / temperature for x in self._tree(prepared, rows)))
        potentials = self._potentials(evidence) / temperature
        width = tree.root[..., 0].numel() * self.num_categories * (self.num_variables + self.num_categories)
        step = max(1, _CHUNK_ELEMENTS // width)
        for start in range(0, potentials.shape[-1], step):
            part = slice(start, start + step)
            asked = None if maximised is None else maximised[..., part]
            yield part, given(tree, self.shape, potentials[..., part], asked)

    def _tree(self, prepared: Tree, rows: Rows) -> Tree:
        """(F, K, ...), in float64."""
        return Tree(*(x[rows].double() for x in prepared))

    def _potentials(self, evidence: InputEvidence) -> Float[Tensor, "F M V B"]:
        return log_potentials(evidence, self.num_variables, self.num_categories)

    def _maximised(self, evidence: InputEvidence) -> Bool[Tensor, "F M B"]:
        free = torch.ones_like(evidence.observed) if evidence.summed is None else ~evidence.summed
        return free.unflatten(0, (-1, self.num_variables))

    def _tables(self, counts: Float[Tensor, "G K S"]) -> tuple[Float[Tensor, "G K V"], Float[Tensor, "G K N V V"]]:
        root, links = counts.tensor_split([self.num_categories], -1)
        return root, links.unflatten(-1, (-1, self.num_categories, self.num_categories))


def _distributions(weights: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
    """Normalised; uniform where all weights are zero."""
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, ratio(weights, total), 1 / weights.shape[-1])
