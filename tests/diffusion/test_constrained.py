"""Distributions conditioned on automata against enumeration: every query, every coupling, nothing lost to underflow."""

import itertools
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.testing import Enumeration, p_value
from pcircuits_diffusion.constraints import ConstrainedPosterior, TokenAutomaton, dfa
from pcircuits_diffusion.constraints.automaton import Edges
from pcircuits_diffusion.constraints.chain import chain_of
from pcircuits_diffusion.constraints.product import Product
from pcircuits_diffusion.constraints.semiring import MAX, SUM, LogTable
from pcircuits_diffusion.coupling import Independent
from pcircuits_diffusion.head import CoupledHead
from tests.diffusion.automata import automata, sequences

VOCAB = 3
EVEN = dfa(torch.tensor([[1, 0, 0], [0, 1, -1]]), torch.tensor([True, False]))  # an even number of 0, no 2 after an odd


class Case(NamedTuple):
    """An HMM's posterior, an automaton, and where it starts, stops and is weighed."""

    posterior: pc.Posterior
    automaton: TokenAutomaton
    start: torch.Tensor
    log_final: torch.Tensor
    length: int

    @property
    def constrained(self) -> ConstrainedPosterior:
        return ConstrainedPosterior(
            self.posterior, self.automaton, start=self.start, log_final=self.log_final, length=self.length
        )

    def log_joint(self) -> torch.Tensor:
        """(W, B) by asking for every block."""
        return Enumeration(self.posterior.circuit, self.posterior.evidence).log_joint.mT.detach() + self.log_weight()

    def log_weight(self) -> torch.Tensor:
        """(W, B) what the automaton adds to every block."""
        blocks = sequences(VOCAB, self.posterior.evidence.num_variables)
        columns = []
        for row, start in enumerate(self.start.tolist()):
            states = replace(self.automaton, start=start).run(blocks[:, : self.length])
            columns.append(torch.where(states >= 0, self.log_final[row, states.clamp_min(0)], -torch.inf))
        return torch.stack(columns, 1)


@st.composite
def hmms(draw: st.DrawFn, length: int) -> pc.HMM:
    """Dense, or with many zeros."""
    states, seed, zeros = draw(st.integers(1, 3)), draw(st.integers(0, 999)), draw(st.sampled_from([0.0, 0.6]))
    generator = torch.Generator().manual_seed(seed)

    def rows(count: int, width: int) -> torch.Tensor:
        table = torch.rand(count, width, generator=generator, dtype=torch.float64)
        keep = torch.rand(count, width, generator=generator) >= zeros
        keep[torch.arange(count), torch.arange(count) % width] = True
        return (table * keep) / (table * keep).sum(-1, keepdim=True)

    return pc.HMM.from_probs(rows(1, states)[0], rows(states, states), rows(states, VOCAB), length=length)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    length, batch = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    hmm, automaton, seed = draw(hmms(length)), draw(automata(VOCAB)), draw(st.integers(0, 999))
    generator = torch.Generator().manual_seed(seed)
    weights = 3 * torch.randn(batch, length, VOCAB, generator=generator, dtype=torch.float64)
    weights = weights.masked_fill(torch.rand(weights.shape, generator=generator) < 0.2, -torch.inf)
    values = torch.randint(VOCAB, (batch, length), generator=generator)
    observed = torch.rand(values.shape, generator=generator) < 0.3
    log_weights = draw(st.sampled_from([weights, None]))
    posterior = hmm.condition(pc.Evidence(values, observed=observed, log_weights=log_weights))
    states = automaton.num_states
    start = torch.randint(states, (batch,), generator=generator)
    final = torch.randn(batch, states, generator=generator, dtype=torch.float64)
    final = final.masked_fill(torch.rand(final.shape, generator=generator) < 0.4, -torch.inf)
    return Case(posterior, automaton, start, final, draw(st.integers(0, length)))


@given(cases())
def test_every_query_is_the_enumerated_one(case: Case) -> None:
    log_joint, constrained = case.log_joint(), case.constrained
    blocks = sequences(VOCAB, case.posterior.evidence.num_variables)
    log_evidence = log_joint.logsumexp(0)
    torch.testing.assert_close(constrained.log_evidence, log_evidence)
    possible = case.posterior.log_evidence > -torch.inf
    torch.testing.assert_close(
        constrained.log_satisfied[possible], (log_evidence - case.posterior.log_evidence.detach())[possible]
    )
    impossible = log_evidence.isneginf()
    if impossible.any():
        rows = str(impossible.nonzero().flatten().tolist()).replace("[", r"\[").replace("]", r"\]")
        for ask in (constrained.sample, constrained.marginals, constrained.mpe):
            with pytest.raises(pc.EvidenceError, match=f"satisfies the constraint is possible .* batch rows {rows}"):
                ask()
        return
    law = (log_joint - log_evidence).exp()
    everywhere = blocks.unsqueeze(1).expand(-1, len(case.start), -1)
    torch.testing.assert_close(constrained.log_prob(everywhere).exp(), law)
    one_hot = torch.nn.functional.one_hot(blocks, VOCAB).double()
    torch.testing.assert_close(constrained.marginals(), torch.einsum("wb,wlv->blv", law, one_hot))
    best = constrained.mpe()
    torch.testing.assert_close(best.log_prob, constrained.log_prob(best.values))
    assert (best.log_prob > -torch.inf).all() and (best.log_prob <= law.log().amax(0) + 1e-9).all()
    if best.exact.any():
        torch.testing.assert_close(best.log_prob, law.log().amax(0))
    some = torch.zeros_like(everywhere[0], dtype=torch.bool)
    some[:, ::2] = True
    alike = (blocks.unsqueeze(0) == blocks.unsqueeze(1))[..., ::2].all(-1).double()
    torch.testing.assert_close(constrained.log_prob(everywhere, variables=some).exp(), alike @ law)
    for temperature in (1.0, 0.3, 0.0):
        drawn = constrained.sample(5, temperature=temperature)
        assert (constrained.log_prob(drawn) > -torch.inf).all()
    agrees = ((blocks.unsqueeze(1) == drawn[0]) | ~some).all(-1)
    further = law.masked_fill(~agrees, 0.0) / law.masked_fill(~agrees, 0.0).sum(0)
    found = constrained.observe(drawn[0], ~some).marginals()
    torch.testing.assert_close(found, torch.einsum("wb,wlv->blv", further, one_hot))


@settings(max_examples=10)
@given(cases())
def test_the_best_path_is_the_enumerated_one(case: Case) -> None:
    """Of hidden states and tokens: the max-product message is the largest term of the sum."""
    chain = chain_of(case.posterior)
    states = torch.arange(case.automaton.num_states)
    free = TokenAutomaton(states.unsqueeze(-1), torch.zeros(VOCAB, dtype=torch.long), case.automaton.accepting)
    layers = [case.automaton] * case.length + [free] * (chain.length - case.length)
    found = Product(chain, layers, case.log_final, semiring=MAX).log_from(case.start)
    wanted, blocks = torch.full_like(found, -torch.inf), sequences(VOCAB, chain.length)
    weights = chain.log_weights[:, torch.arange(chain.length), blocks].sum(-1) + case.log_weight().mT
    for path in itertools.product(range(chain.num_states), repeat=chain.length):
        prior = chain.log_initial[path[0]] + sum(chain.transition.log[i, j] for i, j in itertools.pairwise(path))
        emitted = sum(chain.emission.log[z, blocks[:, t]] for t, z in enumerate(path))
        wanted = torch.maximum(wanted, (weights + prior + emitted).amax(-1))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("coupling", ["projected", "corrected", "product"])
def test_every_coupling_is_conditioned(coupling: str) -> None:
    generator = torch.Generator().manual_seed(3)
    head = CoupledHead(pc.HMM(2, VOCAB, 4, seed=1, dtype=torch.float64), coupling=coupling)
    tokens = torch.tensor([[0, 1, 0, 1], [2, 0, 0, 1]])
    mask = torch.tensor([[True, True, True, True], [False, True, True, False]])
    coupled = head(torch.randn(2, 4, VOCAB, generator=generator, dtype=torch.float64), None, tokens, mask)
    blocks = sequences(VOCAB, 4)
    law = coupled.log_prob(blocks.unsqueeze(1).expand(-1, 2, -1)).exp().detach() * EVEN.accepts(blocks).unsqueeze(-1)
    constrained = ConstrainedPosterior(coupled, EVEN)
    torch.testing.assert_close(constrained.log_satisfied.exp(), law.sum(0))
    found = constrained.log_prob(blocks.unsqueeze(1).expand(-1, 2, -1)).exp()
    torch.testing.assert_close(found, law / law.sum(0))


def test_the_backbone_alone_is_conditioned() -> None:
    log_targets = torch.randn(2, 4, VOCAB, dtype=torch.float64).log_softmax(-1)
    tokens = torch.tensor([[0, 1, 0, 1], [2, 0, 0, 1]])
    mask = torch.tensor([[True, True, True, True], [False, True, True, False]])
    alone, blocks = Independent(log_targets, tokens, mask), sequences(VOCAB, 4)
    law = torch.stack([alone.log_prob(block.expand(2, -1)).exp() for block in blocks])
    law = law * EVEN.accepts(blocks).unsqueeze(-1)
    constrained = ConstrainedPosterior(alone, EVEN)
    torch.testing.assert_close(constrained.log_satisfied.exp(), law.sum(0))
    best = constrained.mpe()
    assert best.exact.all() and best.values.equal(blocks[law.argmax(0)])
    torch.testing.assert_close(best.log_prob, (law / law.sum(0)).amax(0).log())


@pytest.mark.parametrize("alone", [True, False], ids=["backbone alone", "coupled"])
def test_samples_have_the_conditioned_law(alone: bool) -> None:
    generator, n = torch.Generator().manual_seed(0), 20_000
    logits = torch.randn(2, 4, VOCAB, generator=generator, dtype=torch.float64)
    tokens, mask = torch.tensor([[0, 0, 0, 0], [0, 2, 0, 0]]), torch.ones(2, 4, dtype=torch.bool)
    mask[1, 1] = False
    head = CoupledHead(pc.HMM(3, VOCAB, 4, seed=1, dtype=torch.float64))
    base = Independent(logits.log_softmax(-1), tokens, mask) if alone else head(logits, None, tokens, mask)
    constrained, blocks = ConstrainedPosterior(base, EVEN), sequences(VOCAB, 4)
    law = constrained.log_prob(blocks.unsqueeze(1).expand(-1, 2, -1)).exp()
    weights = VOCAB ** torch.arange(3, -1, -1)

    def worst(samples: torch.Tensor) -> float:
        counts = [torch.bincount((samples[:, row] * weights).sum(-1), minlength=VOCAB**4).double() for row in (0, 1)]
        return min(p_value(counts[row], law[:, row]) for row in (0, 1))

    assert worst(constrained.sample(n, generator=generator)) > 1e-3
    tempered = constrained.sample(n, generator=generator, temperature=0.7)
    assert worst(tempered) < 1e-6 and EVEN.accepts(tempered.flatten(0, 1)).all()


def test_sharper_tokens_keep_to_the_drawn_path() -> None:
    """One hidden state, so the automaton's path is all: its law is exact at every temperature, tokens are sharpened."""
    table = torch.tensor([[1, 1, 2], [1, 1, -1], [-1, -1, 2]])
    automaton = dfa(table, torch.tensor([False, True, True]))
    alone = Independent(
        torch.tensor([[[0.2, 0.5, 0.3]]]).log().expand(1, 1, -1), torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    )
    constrained = ConstrainedPosterior(alone, automaton)
    for temperature, share in ((0.5, 0.25 / 0.29), (0.0, 1.0), (2.0, 0.5**0.5 / (0.5**0.5 + 0.2**0.5))):
        drawn = constrained.sample(
            20_000, generator=torch.Generator().manual_seed(0), temperature=temperature
        ).flatten()
        law = torch.tensor([0.7 * (1 - share), 0.7 * share, 0.3], dtype=torch.float64)
        assert p_value(torch.bincount(drawn, minlength=3).double(), law) > 1e-3


# --- latent potentials and gates: fields of newer evidence ---


def test_latent_potentials_and_gates_are_part_of_the_evidence() -> None:
    generator = torch.Generator().manual_seed(0)
    hmm = pc.HMM(4, VOCAB, 3, seed=2, dtype=torch.float64)
    weights, latent, gates = (
        torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64) for shape in ((VOCAB,), (4,), (2, 2))
    )
    posterior = hmm.condition(pc.Evidence(log_weights=weights))
    posterior.evidence.latent, posterior.evidence.gates = latent, gates
    tables = hmm.log_probs()
    wanted = torch.full((2,), -torch.inf, dtype=torch.float64)
    for path in itertools.product(range(4), repeat=3):
        for block in sequences(VOCAB, 3)[EVEN.accepts(sequences(VOCAB, 3))].tolist():
            term = tables.initial[path[0]] + sum(tables.transition[i, j] for i, j in itertools.pairwise(path))
            term = term + sum(tables.emission[z, v] for z, v in zip(path, block, strict=True))
            for t, (z, v) in enumerate(zip(path, block, strict=True)):
                term = term + weights[:, t, v] + latent[:, t, z]
                term = term + (gates[:, t, path[t - 1] // 2, z // 2] if t else 0.0)
            wanted = torch.logaddexp(wanted, term.detach())
    constrained = ConstrainedPosterior(posterior, EVEN)
    torch.testing.assert_close(constrained.log_evidence, wanted)
    torch.testing.assert_close(constrained.log_from_states()[:, EVEN.start], wanted)
    torch.testing.assert_close(constrained.marginals().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert EVEN.accepts(constrained.sample(50).flatten(0, 1)).all()


# --- numerics ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [100.0, 3_000.0])
def test_nothing_possible_is_lost_to_underflow(dtype: torch.dtype, scale: float) -> None:
    """States that hardly talk to each other, evidence of thousands of nats, a constraint that wants the unlikely."""
    transition = torch.tensor([[1 - 1e-30, 1e-30], [0.0, 1.0]], dtype=dtype)
    emission = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1e-20, 1 - 1e-20]], dtype=dtype)
    hmm = pc.HMM.from_probs(torch.tensor([1.0, 0.0], dtype=dtype), transition, emission, length=4)
    weights = scale * torch.randn(3, 4, VOCAB, generator=torch.Generator().manual_seed(0)).to(dtype)
    weights[0, :, 2], weights[1, 2, 0] = -scale, -torch.inf
    tables = [table.double() for table in hmm.log_probs()]
    automaton = dfa(torch.tensor([[0, 0, 1], [-1, 2, 1], [-1, -1, -1]]), torch.tensor([False, True, True]))
    blocks = sequences(VOCAB, 4)
    wanted = torch.full((3, len(blocks)), -torch.inf, dtype=torch.float64)
    for path in itertools.product(range(2), repeat=4):
        prior = tables[0][path[0]] + sum(tables[1][i, j] for i, j in itertools.pairwise(path))
        emitted = sum(tables[2][z, blocks[:, t]] for t, z in enumerate(path))
        wanted = torch.logaddexp(wanted, (prior + emitted).detach().expand(3, -1))
    wanted = wanted + sum(weights.double()[:, t, blocks[:, t]] for t in range(4))
    wanted = wanted.masked_fill(~automaton.accepts(blocks), -torch.inf)
    constrained = ConstrainedPosterior(hmm.condition(pc.Evidence(log_weights=weights)), automaton)
    close = {"rtol": 1e-6, "atol": 1e-5}
    torch.testing.assert_close(constrained.log_evidence, wanted.logsumexp(-1), **close)
    found = constrained.log_prob(blocks.unsqueeze(1).expand(-1, 3, -1)) + constrained.log_evidence
    torch.testing.assert_close(found, wanted.mT, **close)
    one_hot = torch.nn.functional.one_hot(blocks, VOCAB).double()
    marginals = torch.einsum("bw,wlv->blv", wanted.softmax(-1), one_hot).to(dtype)
    torch.testing.assert_close(constrained.marginals(), marginals, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_in_log_space_equal_their_definition(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 60.0, 2_000.0):
        rows = scale * torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
        rows[0, 0], rows[0, 1, ::2] = -torch.inf, -torch.inf
        log = scale / 30 * torch.randn(2, 6, 4, generator=generator, dtype=torch.float64).sub(4).clamp_max(0)
        log[0, :, 1], log[:, ::2, 2] = -torch.inf, -torch.inf
        for table in (log, log[0]):
            terms = rows.unsqueeze(-1) + (table.unsqueeze(1) if table.ndim == 3 else table)
            logs = LogTable(table.exp().to(dtype), table)
            torch.testing.assert_close(SUM.matmul(rows, logs), terms.logsumexp(2), rtol=1e-6, atol=1e-5)
            torch.testing.assert_close(MAX.matmul(rows, logs), terms.amax(2))
    index = torch.tensor([3, 0, 3, 1, 1, 1])
    values = 500 * torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    values[0, 1] = -torch.inf
    for semiring, over in ((SUM, torch.logsumexp), (MAX, torch.amax)):
        wanted = [
            over(values[:, index == i], 1) if (index == i).any() else values[:, 0] * 0 - torch.inf for i in range(4)
        ]
        torch.testing.assert_close(semiring.scatter(values, index, 4), torch.stack(wanted, 1))


def test_work_in_parts_is_the_work_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hmm = pc.HMM(3, VOCAB, 4, seed=0, dtype=torch.float64)
    posterior = hmm.condition(pc.Evidence(log_weights=torch.randn(5, 4, VOCAB, dtype=torch.float64)))
    whole = ConstrainedPosterior(posterior, EVEN)
    wanted, marginals, best = whole.log_evidence, whole.marginals(), whole.mpe()
    drawn = whole.sample(4, generator=torch.Generator().manual_seed(1))
    package = "pcircuits_diffusion.constraints."
    for name, least in (("product.MOST_ENTRIES", 1), ("product.TOKENS_AT_ONCE", 1), ("semiring.MOST_TERMS", 1)):
        monkeypatch.setattr(package + name, least)
    parts = ConstrainedPosterior(posterior, EVEN)
    torch.testing.assert_close(parts.log_evidence, wanted)
    torch.testing.assert_close(parts.marginals(), marginals)
    assert parts.mpe().values.equal(best.values)
    assert parts.sample(4, generator=torch.Generator().manual_seed(1)).equal(drawn)
    monkeypatch.setattr(package + "posterior.DRAWN_AT_ONCE", 1)
    assert EVEN.accepts(parts.sample(4).flatten(0, 1)).all()


# --- what is refused ---


def test_what_is_refused() -> None:
    hmm = pc.HMM(2, VOCAB, 4, seed=0)
    posterior = hmm.condition(pc.Evidence.nothing(2, 4))
    with pytest.raises(pc.ShapeError, match="covers 4 tokens, the distribution 3"):
        ConstrainedPosterior(posterior, dfa(torch.zeros(1, 4).long(), torch.ones(1).bool()))
    for length in (-1, 5):
        with pytest.raises(pc.ShapeError, match=rf"`length` must be in 0..4, got {length}"):
            ConstrainedPosterior(posterior, EVEN, length=length)
    for wrong in ({"start": torch.zeros(3).long()}, {"log_final": torch.zeros(2, 3)}):
        with pytest.raises(pc.ShapeError, match=r"must have shapes \(2,\) and \(2, 2\)"):
            ConstrainedPosterior(posterior, EVEN, **wrong)
    tree = pc.Circuit(pc.structures.binary_tree(4), pc.Categorical(VOCAB), num_units=2, seed=0)
    with pytest.raises(pc.StructureError, match=r"a chain, a pc.HMM; this one's is a Circuit"):
        ConstrainedPosterior(tree.condition(pc.Evidence.nothing(2, 4)), EVEN)
    fine = ConstrainedPosterior(posterior, EVEN)
    with pytest.raises(pc.ShapeError, match=r"`x` must have shape \(B, L\) = \(2, 4\)"):
        fine.log_prob(torch.zeros(2, 3).long())
    with pytest.raises(pc.ShapeError, match="`temperature` must be finite"):
        fine.sample(temperature=-1.0)
    dead = ConstrainedPosterior(posterior, EVEN, start=torch.tensor([0, -1]))
    assert dead.log_evidence[0].isfinite() and dead.log_evidence[1].isneginf()
    hmm.set_probs(hmm.initial, hmm.transition, hmm.emission)
    with pytest.raises(pc.StaleError):
        ConstrainedPosterior(posterior, EVEN)


@pytest.mark.parametrize("scale", [1.0, 300.0, 5000.0])
@pytest.mark.parametrize("seed", range(3))
def test_sums_over_edges_are_those_of_each_edge(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    emitted, after = (scale * torch.randn(3, size, 6, generator=generator, dtype=torch.float64) for size in (4, 5))
    emitted, after = (
        x.masked_fill(torch.rand(x.shape, generator=generator) < 0.3, -torch.inf) for x in (emitted, after)
    )
    every = torch.cartesian_prod(torch.arange(5), torch.arange(4))
    every = every[torch.rand(len(every), generator=generator) < 0.7]
    edges = Edges(*every.unbind(1), torch.randint(2, 5, (len(every),), generator=generator))
    for semiring, add in ((SUM, torch.logaddexp), (MAX, torch.maximum)):
        expected = torch.full((3, 5, 6), -torch.inf, dtype=torch.float64)
        for source, column, target in zip(*edges, strict=True):
            expected[:, source] = add(expected[:, source], emitted[:, column] + after[:, target])
        found = semiring.back(emitted, after, edges)
        assert torch.equal(found.isneginf(), expected.isneginf())
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_no_edges_lead_nowhere() -> None:
    none = torch.empty(0, dtype=torch.long)
    assert SUM.back(torch.zeros(1, 2, 3), torch.zeros(1, 4, 3), Edges(none, none, none)).isneginf().all()
