"""Sum-product and max-product over a tree of discrete variables, in log space, under the evidence of each variable.

Leading axes broadcast: tables (F, 1, K, ...) and potentials (F, B, 1, ...) give results (F, B, K, ...).
"""

from typing import NamedTuple

import torch

from pcircuits.distributions.tree_shape import TreeShape
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite, logsumexp
from pcircuits.types import Bool, Float, Tensor


class Tree(NamedTuple):
    """Log tables: `root[..., v] = log p(root = v)`, `links[..., n, u, v] = log p(child = v | parent = u)`."""

    root: Float[Tensor, "*G V"]
    links: Float[Tensor, "*G N V V"]


class Given(NamedTuple):
    """A tree under evidence: the evidence's log value, and the terms that it and each message to a parent are sums of.
    Its posterior is a tree again, of probabilities that are zero below what is impossible.
    """

    log_value: Float[Tensor, "*B"]
    terms: Float[Tensor, "*B V"]
    messages: list[Float[Tensor, "*B V"]]  # one a table, as below
    of_messages: list[Float[Tensor, "*B V V"]]

    @property
    def root(self) -> Float[Tensor, "*B V"]:
        """`p(root = v | evidence)`."""
        return (self.terms - finite(self.log_value).unsqueeze(-1)).exp()

    def link(self, table: int) -> Float[Tensor, "*B V V"]:
        """`p(child = v | parent = u, evidence)`; of maximised children relative to the likeliest."""
        return (self.of_messages[table] - finite(self.messages[table]).unsqueeze(-1)).exp()

    def marginals(self, shape: TreeShape) -> dict[int, Float[Tensor, "*B V"]]:
        """`p(variable = v | evidence)` of each variable: the pass down."""
        found = {shape.root: self.root}
        for child, parent, table in shape.order:
            found[child] = (found[parent].unsqueeze(-2) @ self.link(table)).squeeze(-2)
        return found

    def pairs(self, shape: TreeShape) -> dict[tuple[int, int], Float[Tensor, "*B V V"]]:
        """`p(a = u, b = v | evidence)` of every two variables, and of each with itself."""
        found, reached = {(shape.root, shape.root): torch.diag_embed(self.root)}, [shape.root]
        for child, parent, table in shape.order:
            link = self.link(table)
            for known in reached:
                found[known, child] = found[known, parent] @ link
                found[child, known] = found[known, child].mT
            found[child, child] = torch.diag_embed(found[parent, child].sum(-2))
            reached.append(child)
        return found


def given(
    tree: Tree,
    shape: TreeShape,
    potentials: Float[Tensor, "*B M V"],
    maximised: Bool[Tensor, "*C M"] | None = None,
) -> Given:
    """The pass up (Pearl 1988, Sec. 4.2): a variable says to its parent the log of a sum over its values, of its table
    times what lies below it, or the maximum in place of the sum where it is `maximised`.

    Where variables that are summed have maximised ones below them the value is an upper bound, since the maximum of a
    sum is at most the sum of maxima.
    """
    below = list(potentials.unbind(-2))
    messages, of_messages = ([below[shape.root]] * len(shape.order) for _ in range(2))
    for child, parent, table in reversed(shape.order):
        terms = tree.links[..., table, :, :] + below[child].unsqueeze(-2)
        message = _total(terms, None if maximised is None else maximised[..., child, None])
        messages[table], of_messages[table] = message, terms
        below[parent] = below[parent] + message
    terms = tree.root + below[shape.root]
    return Given(_total(terms, None if maximised is None else maximised[..., shape.root]), terms, messages, of_messages)


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


def _total(terms: Float[Tensor, "*B V"], maximised: Bool[Tensor, "*C"] | None) -> Float[Tensor, "*B"]:
    return logsumexp(terms) if maximised is None else torch.where(maximised, terms.amax(-1), logsumexp(terms))
