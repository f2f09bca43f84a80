"""Sum-product and max-product over a tree of discrete variables, in log space, under the evidence of each variable.

Tables are (F, 1, K, ...) and potentials (F, B, 1, ...), results (F, B, K, ...): no table is written out a sample, sums
being matrix products wherever those lose nothing.
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
    log_value: Float[Tensor, "F B K"]
    below: list[Float[Tensor, "F B *K V"]]  # of each variable, its potentials and its children's messages
    messages: list[Float[Tensor, "F B K V"]]  # from each table's child to its parent

    @property
    def root(self) -> Float[Tensor, "F B K V"]:
        """`p(root = v | evidence)`."""
        return self._log_root().exp()

    def link(self, table: int) -> Float[Tensor, "F B K V V"]:
        """`p(child = v | parent = u, evidence)`, written out."""
        child = next(link.child for link in self.shape.order if link.table == table)
        terms = self.tree.links[..., table, :, :] + self.below[child].unsqueeze(-2)
        return (terms - finite(self.messages[table]).unsqueeze(-1)).exp()

    def marginals(self) -> list[Float[Tensor, "F B K V"]]:
        """`p(variable = v | evidence)` of each variable."""
        return [log.exp() for log in self._down(leaves=True)[0]]

    def pairs(self) -> dict[tuple[int, int], Float[Tensor, "F B K V V"]]:
        """`p(a = u, b = v | evidence)` of every two variables, and of each with itself."""
        root = self.shape.root
        found, reached = {(root, root): torch.diag_embed(self.root)}, [root]
        for child, parent, table in self.shape.order:
            link = self.link(table)
            for known in reached:
                found[known, child] = found[known, parent] @ link
                found[child, known] = found[known, child].mT
            found[child, child] = torch.diag_embed(found[parent, child].sum(-2))
            reached.append(child)
        return found

    def counts(self, share: Float[Tensor, "F B K"]) -> Float[Tensor, "F K S"]:
        """Shares times the posterior, added up over samples: of the root's values, then of pairs, table by table."""
        reached, above = self._down(leaves=False)
        found = [torch.einsum("fbk,fbkv->fkv", share, reached[self.shape.root].exp())] * (len(above) + 1)
        for child, _, table in self.shape.order:
            link = self.tree.links[:, 0, :, table]
            found[1 + table] = _pair_counts(share, above[table], link, self.below[child]).flatten(2)
        return torch.cat(found, -1)

    def choose(self, picks: Picks, rule: Callable[[Tensor], Tensor]) -> Int[Tensor, "P M"]:
        """Values of the picked units from the root down, each by a `rule` that reads the logarithms of weights (P, V)
        and gives one value (P,).
        """
        row, batch, unit = picks
        root, found = self.tree.root[row, 0, unit], [row] * len(self.below)
        below = [x[row, batch, unit if x.shape[2] > 1 else 0] for x in self.below]
        found[self.shape.root] = rule(root + below[self.shape.root])
        for child, parent, table in self.shape.order:
            found[child] = rule(self.tree.links[row, 0, unit, table, found[parent]] + below[child])
        return torch.stack(found, 1)

    def _log_root(self) -> Float[Tensor, "F B K V"]:
        return self.tree.root + self.below[self.shape.root] - finite(self.log_value).unsqueeze(-1)

    def _down(self, leaves: bool) -> tuple[list[Float[Tensor, "F B K V"]], list[Float[Tensor, "F B K V"]]]:
        """The pass down: the log marginals, of leaves if asked for, and those of each table's parent less what the
        child says to it.
        """
        found, above = [self._log_root()] * len(self.below), list(self.messages)
        for child, parent, table in self.shape.order:
            above[table] = found[parent] - finite(self.messages[table])
            if leaves or child in self.shape.parents:
                found[child] = _log_product(self.tree.links[..., table, :, :].mT, above[table]) + self.below[child]
        return found, above


def given(
    tree: Tree,
    shape: TreeShape,
    potentials: Float[Tensor, "F B 1 M V"],
    maximised: Bool[Tensor, "F B 1 M"] | None = None,
) -> Given:
    """The pass up (Pearl 1988, Sec. 4.2): a variable says to its parent the log of a sum over its values, of its table
    times what lies below it, or the maximum in place of the sum where it is `maximised`.

    Where variables that are summed have maximised ones below them the value is an upper bound, since the maximum of a
    sum is at most the sum of maxima.
    """
    below = list(potentials.unbind(-2))
    messages = [below[shape.root]] * len(shape.order)
    for child, parent, table in reversed(shape.order):
        link = tree.links[..., table, :, :]
        if maximised is None:
            messages[table] = _log_product(link, below[child])
        else:
            messages[table] = _total(link + below[child].unsqueeze(-2), maximised[..., child, None])
        below[parent] = below[parent] + messages[table]
    terms = tree.root + below[shape.root]
    log_value = logsumexp(terms) if maximised is None else _total(terms, maximised[..., shape.root])
    return Given(tree, shape, log_value, below, messages)


def log_potentials(evidence: InputEvidence, size: int, categories: int) -> Float[Tensor, "F B M V"]:
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
    return found.unflatten(0, (-1, size)).transpose(1, 2)


def _log_product(table: Float[Tensor, "F 1 K U V"], log: Float[Tensor, "F B *K V"]) -> Float[Tensor, "F B K U"]:
    """`log sum_v exp(table[u, v] + log[v])`: a matrix product, unless terms that count could underflow there."""
    peak = log.detach().amax(-1, keepdim=True)
    weights = (log - finite(peak)).exp().transpose(1, 2)  # (F, K, B, V)
    total = (weights @ table.squeeze(1).exp().mT).transpose(1, 2) + peak.isneginf().to(log)
    if (total < _LEAST).any():
        return logsumexp(table + log.unsqueeze(-2))
    return total.log() + peak


def _pair_counts(
    share: Float[Tensor, "F B K"],
    above: Float[Tensor, "F B K U"],
    link: Float[Tensor, "F K U V"],
    below: Float[Tensor, "F B *K V"],
) -> Float[Tensor, "F K U V"]:
    """`sum_b share exp(above[u] + link[u, v] + below[v])`, of which no term is above `share`."""
    peaks = [finite(x.amax(-1, keepdim=True)) for x in (above, below)]
    scale = (peaks[0] + peaks[1]).squeeze(-1)
    if (scale > _LARGEST).any():
        terms = above.unsqueeze(-1) + link.unsqueeze(1) + below.unsqueeze(-2)
        return torch.einsum("fbk,fbkuv->fkuv", share, terms.exp())
    first, second = ((x - peak).exp() for x, peak in zip((above, below), peaks, strict=True))
    weighted = (share * scale.exp()).unsqueeze(-1) * first
    return link.exp() * (weighted.permute(0, 2, 3, 1) @ second.transpose(1, 2))


def _total(terms: Float[Tensor, "*B V"], maximised: Bool[Tensor, "*C"]) -> Float[Tensor, "*B"]:
    return torch.where(maximised, terms.amax(-1), logsumexp(terms))
