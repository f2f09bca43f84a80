"""The product of a chain and an automaton: a chain over pairs of an automaton state and a hidden state.

Axes: B rows, L positions, Q automaton states, C classes of tokens, H hidden states, V tokens, N draws.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.constraints.automaton import Edges, TokenAutomaton
from pcircuits_diffusion.constraints.chain import Chain
from pcircuits_diffusion.constraints.semiring import SUM, LogTable, Semiring

MOST_ENTRIES = 1 << 24  # entries of a tensor that is worked on at once
TOKENS_AT_ONCE = 1 << 14


class Product:
    """`sum_{x, z} p(z, x) w(x) final(q_L)` over the paths `q_0 = start, q_t = delta(q_{t-1}, x_t)`, by messages from
    the right:

        inside_t[q, z] = sum_c (sum_{v in c} w_t(v) p(v | z)) after_t[delta(q, c), z]
        after_{t-1}[q, z] = sum_z' p(z' | z) inside_t[q, z']

    so that tokens are summed class by class before they meet the automaton.

    Args:
        automata: one a position, all with the same states.
        log_final: (B, Q) log weights of the state behind the last position.
        start: (B,) the states that paths begin in, and no others are worked out; all of them if left out.
        semiring: `SUM`, or `MAX` for the best path instead of the sum over all.
    """

    def __init__(
        self,
        chain: Chain,
        automata: Sequence[TokenAutomaton],
        log_final: Float[Tensor, "B Q"],
        *,
        start: Int[Tensor, " B"] | None = None,
        semiring: Semiring = SUM,
    ) -> None:
        self.chain, self.automata, self.semiring = chain, automata, semiring
        self.num_states = log_final.shape[-1]
        self.edges = live_edges(automata, start, ~log_final.isneginf().all(0), ~chain.log_weights.isneginf().all(0))
        self._emitted: dict[int, Tensor] = {}
        after = log_final.unsqueeze(-1).expand(-1, -1, chain.num_states)
        insides, afters = [], []
        for t in reversed(range(chain.length)):
            afters.append(after)
            insides.append(self._inside(t, after))
            if t:
                after = self._through(insides[-1], chain.into(t).transposed, self.edges[t].source)
        self.inside, self.after = insides[::-1], afters[::-1]
        self._emitted.clear()

    @property
    def log_from_states(self) -> Float[Tensor, "B Q"]:
        """Log of the sum over all paths that begin in each state."""
        initial = LogTable.from_log(self.chain.log_initial.unsqueeze(-1))
        return self.semiring.matmul(self.inside[0], initial).squeeze(-1)

    def log_from(self, start: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.log_from_states.gather(1, start.unsqueeze(-1)).squeeze(-1)

    def walk(
        self,
        start: Int[Tensor, " N"],
        row: Int[Tensor, " N"],
        pick: Callable[[Float[Tensor, "N J"]], Int[Tensor, " N"]],
        pick_token: Callable[[Float[Tensor, "N J"]], Int[Tensor, " N"]] | None = None,
    ) -> Int[Tensor, "N L"]:
        """Texts from left to right, one for each entry of `start` under the evidence of chain row `row`.

        `pick` chooses an index of log weights (N, J): the hidden state, then the token that moves the automaton.
        `pick_token`, if given, then chooses among all tokens that make the same move from the same hidden state.
        """
        chain, state, tokens = self.chain, start, []
        arrive = chain.log_initial.expand(len(row), -1)
        for t, automaton in enumerate(self.automata):
            z = pick(arrive + self.inside[t][row, state])
            emitted = chain.log_weights[row, t].double() + chain.emission.log[z]
            reached = _looked_up(automaton.transitions[state], automaton.classes, dead=-1)
            ahead = self.after[t][row, :, z].gather(1, reached.clamp_min(0))
            moved = pick((emitted + ahead).masked_fill(reached < 0, -torch.inf))
            state = reached.gather(1, moved.unsqueeze(-1)).squeeze(-1)
            if pick_token is not None:
                moved = pick_token(emitted.masked_fill(reached != state.unsqueeze(-1), -torch.inf))
            tokens.append(moved)
            if t + 1 < chain.length:
                table = chain.into(t + 1).log
                arrive = table[z] if table.ndim == 2 else table[row, z]
        return torch.stack(tokens, -1)

    def log_marginals(self, start: Int[Tensor, " B"]) -> Iterator[Float[Tensor, "B V"]]:
        """Unnormalised log marginals of each position: messages from the left meet those from the right."""
        chain = self.chain
        forward = chain.log_initial.new_full((chain.batch_size, self.num_states, chain.num_states), -torch.inf)
        forward[torch.arange(chain.batch_size), start] = chain.log_initial
        for t, automaton in enumerate(self.automata):
            edges = self.edges[t]
            forward = self._with_latent(t, forward)
            context = self._along(
                (forward, edges.source), (self.after[t], edges.target), edges.column, automaton.num_classes
            )
            yield self._tokens_of(automaton, edges, context) + chain.log_weights[:, t].double()
            if t + 1 < chain.length:
                emitted = (self._emission(t), edges.column)
                moved = self._along((forward, edges.source), emitted, edges.target, self.num_states)
                forward = self._through(moved, chain.into(t + 1), edges.target)

    def _inside(self, t: int, after: Tensor) -> Float[Tensor, "B Q H"]:
        return self._with_latent(t, self.semiring.back(self._emission(t), after, self.edges[t]))

    def _with_latent(self, t: int, message: Tensor) -> Tensor:
        return message if self.chain.latent is None else message + self.chain.latent[:, t].double().unsqueeze(1)

    def _through(self, message: Float[Tensor, "B Q H"], table: LogTable, states: Int[Tensor, " E"]) -> Tensor:
        """A message through transitions; only those of `states` say anything."""
        live = states.unique()
        return torch.full_like(message, -torch.inf).index_copy(1, live, self.semiring.matmul(message[:, live], table))

    def _along(
        self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], index: Tensor, size: int
    ) -> Float[Tensor, "B size H"]:
        """For each edge the product of two factors, summed by `index`; rows by rows where they are large."""
        count = max(1, MOST_ENTRIES // max(1, len(index) * self.chain.num_states))
        pairs = zip(first[0].split(count), second[0].split(count), strict=True)
        terms = (a[:, first[1]] + b[:, second[1]] for a, b in pairs)
        return torch.cat([self.semiring.scatter(part, index, size) for part in terms])

    def _emission(self, t: int) -> Float[Tensor, "B C H"]:
        """`sum_{v in c} w_t(v) p(v | z)`; worked out for as many neighbouring positions at once as fit."""
        if t not in self._emitted:
            chain, automaton = self.chain, self.automata[t]
            each = chain.batch_size * max(automaton.num_classes * chain.num_states, automaton.vocab_size)
            count = max(1, MOST_ENTRIES // max(1, each))
            first = t // count * count
            alike = [s for s in range(first, min(first + count, chain.length)) if self.automata[s] is automaton]
            self._emitted = dict(zip(alike, self._class_sums(automaton, alike), strict=True))
        return self._emitted[t]

    def _class_sums(self, automaton: TokenAutomaton, positions: list[int]) -> Tensor:
        chain = self.chain
        weights = chain.log_weights[:, positions].transpose(0, 1).flatten(0, 1).unsqueeze(0).double()
        table = chain.emission.transposed
        sums = weights.new_full((automaton.num_classes, weights.shape[1], chain.num_states), -torch.inf)
        columns = torch.cat([self.edges[t].column for t in positions])
        for column, tokens in _tokens_by_class(automaton, columns):
            part = LogTable(table.linear[tokens], table.log[tokens])
            sums[column] = self.semiring.add(sums[column], self.semiring.matmul(weights[..., tokens], part)[0])
        return sums.unflatten(1, (len(positions), chain.batch_size)).permute(1, 2, 0, 3)

    def _tokens_of(
        self, automaton: TokenAutomaton, edges: Edges, context: Float[Tensor, "B C H"]
    ) -> Float[Tensor, "B V"]:
        """`sum_z context[class of v, z] p(v | z)`."""
        table, found = self.chain.emission, context.new_full((len(context), automaton.vocab_size), -torch.inf)
        for column, tokens in _tokens_by_class(automaton, edges.column):
            part = LogTable(table.linear[:, tokens], table.log[:, tokens])
            found[:, tokens] = self.semiring.matmul(context[:, column].unsqueeze(0), part)[0]
        return found


def live_edges(
    automata: Sequence[TokenAutomaton],
    start: Int[Tensor, " B"] | None,
    final: Bool[Tensor, " Q"],
    possible: Bool[Tensor, "L V"],
) -> list[Edges]:
    """The transitions at each position that a path from a start to a final state can take, by tokens that are possible
    there.
    """
    alive = torch.full_like(final, start is None)
    if start is not None:
        alive[start] = True
    found = []
    for automaton, tokens in zip(automata, possible, strict=True):
        some = torch.zeros(automaton.num_classes + 1, dtype=torch.bool, device=final.device)
        some[automaton.classes[tokens]] = True  # the last entry is that of tokens outside the alphabet
        edges = automaton.edges
        found.append(edges.where(alive[edges.source] & some[edges.column]))
        alive = torch.zeros_like(alive).index_fill(0, found[-1].target, True)
    alive = final
    for t in reversed(range(len(found))):
        found[t] = found[t].where(alive[found[t].target])
        alive = torch.zeros_like(alive).index_fill(0, found[t].source, True)
    return found


def _tokens_by_class(automaton: TokenAutomaton, columns: Int[Tensor, " E"]) -> Iterator[tuple[int, Int[Tensor, " M"]]]:
    """Each of some classes and its tokens, so many at once that their emissions are small."""
    live = set(columns.tolist())
    order = automaton.classes.argsort(stable=True)
    counts = torch.bincount(automaton.classes + 1, minlength=automaton.num_classes + 1).tolist()
    for column, tokens in enumerate(order.split(counts)[1:]):
        if column in live:
            yield from ((column, part) for part in tokens.split(TOKENS_AT_ONCE))


def _looked_up(values: Int[Tensor, "N C"], index: Int[Tensor, " V"], *, dead: int) -> Int[Tensor, "N V"]:
    return values[:, index.clamp_min(0)].masked_fill(index < 0, dead)
