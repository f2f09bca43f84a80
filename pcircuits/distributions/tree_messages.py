"""Sum-product and max-product over a tree of discrete variables, in log space, under the evidence of each variable.

Samples lie last in memory, and no table is written out a sample: sums are matrix products wherever those lose nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pcircuits.distributions.family import Picks
from pcircuits.distributions.tree_shape import TreeShape
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite, logsumexp
from pcircuits.types import Bool, Float, Int, Tensor

_LEAST = 1e-270  # sums beside which what underflows does not count
_LARGEST = 600.0  # logarithms whose exponentials are far from infinite


class Tree(NamedTuple):
    """Log tables: `root[..., v] = log p(root = v)`, `links[..., n, u, v] = log p(child = v | parent = u)`."""

    root: Float[Tensor, "*G V"]
    links: Float[Tensor, "*G N V V"]


class Given(NamedTuple):
    """A tree under evidence: the log of the evidence's value, and what the pass up leaves. Its posterior is a tree
    again, of probabilities that are zero below what is impossible.
    """

    tree: Tree
    shape: TreeShape
    log_value: Float[Tensor, "F K B"]
    below: list[Float[Tensor, "F *K V B"]]  # of each variable, its potentials and its children's messages
    messages: list[Float[Tensor, "F K V B"]]  # from each table's child to its parent

    def link(self, table: int) -> Float[Tensor, "F B K V V"]:
        """`p(child = v | parent = u, evidence)`, written out."""
        child = next(link.child for link in self.shape.order if link.table == table)
        below, message = (x.movedim(-1, 1) for x in (self.below[child], finite(self.messages[table])))
        terms = self.tree.links[:, None, :, table] + below.unsqueeze(-2)
        return (terms - message.unsqueeze(-1)).exp()

    def marginals(self) -> list[Float[Tensor, "F K V B"]]:
        """`p(variable = v | evidence)` of each variable."""
        return [log.exp() for log in self._down(leaves=True)[0]]

    def pairs(self) -> dict[tuple[int, int], Float[Tensor, "F B K V V"]]:
        """`p(a = u, b = v | evidence)` of every two variables, and of each with itself."""
        root = self.shape.root
        found, reached = {(root, root): torch.diag_embed(self._log_root().exp().movedim(-1, 1))}, [root]
        for child, parent, table in self.shape.order:
            link = self.link(table)
            for known in reached:
                found[known, child] = found[known, parent] @ link
                found[child, known] = found[known, child].mT
            found[child, child] = torch.diag_embed(found[parent, child].sum(-2))
            reached.append(child)
        return found

    def counts(self, share: Float[Tensor, "F K B"]) -> Float[Tensor, "F K S"]:
        """Shares times the posterior, added up over samples: of the root's values, then of pairs, table by table."""
        reached, above = self._down(leaves=False)
        found = [torch.einsum("fkb,fkvb->fkv", share, reached[self.shape.root].exp())] * (len(above) + 1)
        for child, _, table in self.shape.order:
            link = self.tree.links[:, :, table]
            found[1 + table] = _pair_counts(share, above[table], link, self.below[child]).flatten(2)
        return torch.cat(found, -1)

    def choose(self, picks: Picks, rule: Callable[[Tensor], Tensor]) -> Int[Tensor, "P M"]:
        """Values of the picked units from the root down, each by a `rule` that reads the logarithms of weights (P, V)
        and gives one value (P,).
        """
        row, batch, unit = picks
        below = [x[row, unit if x.shape[1] > 1 else 0, :, batch] for x in self.below]
        found = [row] * len(below)
        found[self.shape.root] = rule(self.tree.root[row, unit] + below[self.shape.root])
        for child, parent, table in self.shape.order:
            found[child] = rule(self.tree.links[row, unit, table, found[parent]] + below[child])
        return torch.stack(found, 1)

    def _log_root(self) -> Float[Tensor, "F K V B"]:
        terms = self.tree.root.unsqueeze(-1) + self.below[self.shape.root]
        return terms - finite(self.log_value).unsqueeze(-2)

    def _down(self, leaves: bool) -> tuple[list[Float[Tensor, "F K V B"]], list[Float[Tensor, "F K V B"]]]:
        """The pass down: the log marginals, of leaves if asked for, and those of each table's parent less what the
        child says to it.
        """
        found, above = [self._log_root()] * len(self.below), list(self.messages)
        for child, parent, table in self.shape.order:
            above[table] = found[parent] - finite(self.messages[table])
            if leaves or child in self.shape.parents:
                found[child] = _log_product(self.tree.links[:, :, table].mT, above[table]) + self.below[child]
        return found, above


def given(
    tree: Tree,
    shape: TreeShape,
    potentials: Float[Tensor, "F M V B"],
    maximised: Bool[Tensor, "F M B"] | None = None,
) -> Given:
    """The pass up (Pearl 1988, Sec. 4.2): a variable says to its parent the log of a sum over its values, of its table
    times what lies below it, or the maximum in place of the sum where it is `maximised`.

    Where variables that are summed have maximised ones below them the value is an upper bound, since the maximum of a
    sum is at most the sum of maxima.
    """
    below = list(potentials.unsqueeze(1).unbind(2))
    messages = [below[shape.root]] * len(shape.order)
    for child, parent, table in reversed(shape.order):
        link = tree.links[:, :, table]
        asked = None if maximised is None else maximised[:, None, None, child]
        messages[table] = _log_product(link, below[child]) if asked is None else _total(link, below[child], asked)
        below[parent] = below[parent] + messages[table]
    root, asked = tree.root.unsqueeze(-2), None if maximised is None else maximised[:, None, None, shape.root]
    return Given(tree, shape, _total(root, below[shape.root], asked).squeeze(-2), below, messages)


def log_potentials(evidence: InputEvidence, size: int, categories: int) -> Float[Tensor, "F M V B"]:
    """What the evidence multiplies each value of regions of `size` variables with, as logarithms in float64."""
    values, log_weights = evidence.values, evidence.log_weights
    if log_weights is None:
        soft = torch.zeros((), dtype=torch.float64, device=values.device)
    elif (ids := evidence.weighted_values) is None:
        soft = log_weights[..., :categories].double()
    else:
        nothing = log_weights.new_full((*values.shape, categories), -torch.inf, dtype=torch.float64)
        soft = nothing.scatter(-1, ids.clamp(0, categories - 1), log_weights.double())
    is_value = torch.arange(categories, device=values.device) == values.unsqueeze(-1)
    hard = torch.where(is_value, 0.0, -torch.inf).double()
    found = torch.where(evidence.observed.unsqueeze(-1), hard, soft)
    return found.mT.contiguous().unflatten(0, (-1, size))


def _log_product(table: Float[Tensor, "F K U V"], log: Float[Tensor, "F *K V B"]) -> Float[Tensor, "F K U B"]:
    """`log sum_v exp(table[u, v] + log[v])`: a matrix product, unless terms that count could underflow there."""
    peak = log.detach().amax(-2, keepdim=True)
    total = table.exp() @ (log - finite(peak)).exp() + peak.isneginf().to(log)
    return _total(table, log, None) if (total < _LEAST).any() else total.log() + peak


def _total(
    table: Float[Tensor, "F K U V"], log: Float[Tensor, "F *K V B"], maximised: Bool[Tensor, "F 1 1 B"] | None
) -> Float[Tensor, "F K U B"]:
    """The same with terms written out, and maxima in place of sums where `maximised`."""
    terms = table.unsqueeze(-2) + log.mT.unsqueeze(-3)
    sums = logsumexp(terms)
    return sums if maximised is None else torch.where(maximised, terms.amax(-1), sums)


def _pair_counts(
    share: Float[Tensor, "F K B"],
    above: Float[Tensor, "F K U B"],
    link: Float[Tensor, "F K U V"],
    below: Float[Tensor, "F *K V B"],
) -> Float[Tensor, "F K U V"]:
    """`sum_b share exp(above[u] + link[u, v] + below[v])`, of which no term is above `share`."""
    peaks = [finite(x.amax(-2, keepdim=True)) for x in (above, below)]
    scale = peaks[0] + peaks[1]
    if (scale > _LARGEST).any():
        terms = above.unsqueeze(-2) + link.unsqueeze(-1) + below.unsqueeze(-3)
        return torch.einsum("fkb,fkuvb->fkuv", share, terms.exp())
    first, second = ((x - peak).exp() for x, peak in zip((above, below), peaks, strict=True))
    return link.exp() * ((share.unsqueeze(-2) * scale.exp() * first) @ second.mT)
