"""Generation under a constraint: every output matches, and its law is the conditioned one."""

import itertools
import json
import re
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

import pcircuits as pc
from pcircuits.testing import p_value
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.constraints import (
    ConstrainedText,
    Constraint,
    TokenAutomaton,
    complement,
    dfa,
    fixed_length,
    intersection,
    json_schema,
    must_contain,
    regex,
)
from pcircuits_diffusion.corpus import train_tokenizer
from pcircuits_diffusion.coupling import Independent
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion, Generated
from tests.diffusion.automata import sequences
from tests.diffusion.tiny_models import LENGTH, VOCAB, hmm, table_backbone, transformer, uniform_prior

SAMPLES = 8_000
EOS = 0
SPELLINGS = [None, b"a", b"b"]  # of the tiny vocabulary of three, whose token 0 ends the text
ANY_B = dfa(torch.tensor([[-1, 0, 1], [-1, 1, 0]]), torch.tensor([False, True]))  # an odd number of b


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(n: int) -> torch.Tensor:
    return torch.ones(n, 1, dtype=torch.long)


def text_p_value(found: Generated, law: torch.Tensor, width: int) -> float:
    """How likely the texts are under a law over all sequences (V^width,), by what comes before the end."""
    blocks = sequences(VOCAB, width)
    ended = (blocks == EOS).cumsum(1) > 0
    weights = VOCAB ** torch.arange(width - 1, -1, -1)
    cell = (blocks.masked_fill(ended, EOS) * weights).sum(-1)
    tokens = torch.nn.functional.pad(found.tokens, (0, width - found.tokens.shape[1]), value=EOS)
    counts = torch.bincount((tokens * weights).sum(-1), minlength=len(blocks)).double()
    return p_value(counts, torch.zeros_like(law).index_add(0, cell, law))


def conditioned(log_prob: torch.Tensor, automaton: TokenAutomaton, width: int) -> torch.Tensor:
    """(V^width,) the law given that the text is in the language."""
    accepted = automaton.ending(EOS, then_anything=True).accepts(sequences(VOCAB, width))
    return log_prob.masked_fill(~accepted, -torch.inf).softmax(0)


# --- laws ---


@pytest.mark.parametrize("coupling", ["projected", "corrected", "product", None])
@pytest.mark.parametrize("sampling", ["latent", "any_order"])
def test_one_block_has_the_conditioned_law(coupling: str | None, sampling: str) -> None:
    backbone = table_backbone()
    head = None if coupling is None else CoupledHead(hmm(), coupling=coupling)
    blocks = sequences(VOCAB, LENGTH)
    tokens = torch.full((1, LENGTH), VOCAB)
    log_marginals, mask = backbone.log_marginals(tokens), torch.ones_like(tokens, dtype=torch.bool)
    if head is None:
        log_prob = log_marginals[0].gather(1, blocks.T).sum(0).double()
    else:
        log_prob = head(log_marginals, None, tokens, mask).log_prob(blocks.unsqueeze(1)).squeeze(-1).detach()
    found = CoupledDiffusion(backbone, head).generate(
        prompts(SAMPLES), max_new_tokens=LENGTH, steps=1, block_length=LENGTH, sampling=sampling, eos_id=EOS,
        constraint=ANY_B, generator=generator(),
    )  # fmt: skip
    assert text_p_value(found, conditioned(log_prob, ANY_B, LENGTH), LENGTH) > 1e-3
    assert text_p_value(found, log_prob.softmax(0), LENGTH) < 1e-6


@pytest.mark.parametrize("sampling", ["latent", "any_order"])
def test_several_steps_keep_the_law_where_the_evidence_stays(sampling: str) -> None:
    """Weights that do not depend on what is decided, positions in random order: each step conditions on the last."""
    backbone, head = table_backbone(), CoupledHead(hmm(), coupling="product")
    tokens = torch.full((1, LENGTH), VOCAB)
    coupled = head(backbone.log_marginals(tokens), None, tokens, tokens == VOCAB)
    law = conditioned(coupled.log_prob(sequences(VOCAB, LENGTH).unsqueeze(1)).squeeze(-1).detach(), ANY_B, LENGTH)
    found = CoupledDiffusion(backbone, head).generate(
        prompts(SAMPLES), max_new_tokens=LENGTH, steps=3, remasking="random", sampling=sampling, eos_id=EOS,
        constraint=ANY_B, generator=generator(1),
    )  # fmt: skip
    assert text_p_value(found, law, LENGTH) > 1e-3


def test_two_blocks_by_feasibility_and_by_look_ahead() -> None:
    """A head whose coupled law is its prior. By look-ahead both blocks have the prior's law given the constraint; by
    feasibility the first has its own law given that acceptance remains possible.
    """
    length, whole = 2, sequences(VOCAB, 4)
    prior = hmm(length=length)
    uniform = CallableBackbone(lambda tokens: torch.zeros(*tokens.shape, VOCAB), vocab_size=VOCAB, mask_id=VOCAB)
    model = CoupledDiffusion(uniform, CoupledHead(prior, coupling="product"))
    first, second = (prior.log_prob(part).detach() for part in (whole[:, :2], whole[:, 2:]))
    rare = dfa(
        torch.tensor([[-1, -1, 1], [-1, 2, 2], [-1, 3, -1], [-1, 3, 3]]), torch.tensor([False, True, False, True])
    )
    ending = rare.ending(EOS, then_anything=True)
    accepted, feasible = ending.accepts(whole), ending.feasible(2)[2, ending.run(whole[:, :2]).clamp_min(0)]
    feasible &= ending.run(whole[:, :2]) >= 0
    exact = (first + second).masked_fill(~accepted, -torch.inf).softmax(0)
    starts = first.masked_fill(~feasible, -torch.inf).exp() / first.exp()[feasible].sum() * len(sequences(VOCAB, 2))
    after = second.masked_fill(~accepted, -torch.inf).exp().view(9, 9)
    greedy = (starts.view(9, 9) * after / after.sum(1, keepdim=True)).nan_to_num().flatten()
    options = {"max_new_tokens": 4, "steps": 2, "eos_id": EOS}
    for look_ahead, law, other in ((True, exact, greedy), (False, greedy, exact)):
        found = model.generate(
            prompts(SAMPLES), **options, constraint=Constraint(rare, look_ahead=look_ahead), generator=generator()
        )
        assert law.sum() == pytest.approx(1)
        assert text_p_value(found, law, 4) > 1e-3
        assert text_p_value(found, other, 4) < 1e-6


def test_a_partial_last_block_leaves_the_rest_free() -> None:
    backbone, head = table_backbone(), CoupledHead(hmm(), coupling="product")
    tokens = torch.full((1, LENGTH), VOCAB)
    coupled = head(backbone.log_marginals(tokens), None, tokens, tokens == VOCAB)
    log_prob = coupled.log_prob(sequences(VOCAB, LENGTH).unsqueeze(1)).squeeze(-1).detach()
    law = conditioned(log_prob.view(-1, VOCAB).logsumexp(-1), ANY_B, LENGTH - 1)
    found = CoupledDiffusion(backbone, head).generate(
        prompts(SAMPLES), max_new_tokens=LENGTH - 1, steps=1, eos_id=EOS, constraint=ANY_B, generator=generator()
    )
    assert text_p_value(found, law, LENGTH - 1) > 1e-3


# --- all outputs match ---


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(['the cat is 42 and 日本 {"a": true} 12 31 the'] * 3, vocab_size=290)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> CoupledDiffusion:
    vocab = tokenizer.get_vocab_size()
    backbone = transformer(vocab=vocab, block_length=8, max_length=32)
    return CoupledDiffusion(backbone, CoupledHead(hmm(3, vocab, 8).float()))


def texts(found: Generated, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(row.tolist()) for row in found.rows]


def test_a_thousand_outputs_match(model: CoupledDiffusion, tokenizer: Tokenizer) -> None:
    pattern = r"(the|an) [a-z]+( is [0-9]{1,3})?\."
    found = model.generate(
        prompts(1_000), max_new_tokens=20, steps=9, eos_id=EOS, generator=generator(),
        constraint=regex(pattern, tokenizer),
    )  # fmt: skip
    outputs = texts(found, tokenizer)
    assert all(re.fullmatch(pattern, text) for text in outputs)
    assert len(set(outputs)) > 500 and int(found.lengths.max()) > 8, "and they use more than one block"


OPTIONS: list[dict[str, Any]] = [
    {"remasking": remasking, "sampling": sampling, "confidence_from": confidence, "temperature": temperature}
    for (remasking, confidence), sampling, temperature in itertools.product(
        [("low_confidence", "backbone"), ("margin", "coupled"), ("random", "backbone")],
        ["latent", "any_order"],
        [1.0, 0.5, 0.0],
    )
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_rule_keeps_to_the_constraint(
    options: dict[str, Any], model: CoupledDiffusion, tokenizer: Tokenizer
) -> None:
    pattern = "日(本|é)+[0-9]{2,6}"
    for after_eos, chosen in (("sum_out", model), ("observe", CoupledDiffusion(model.backbone))):
        found = chosen.generate(
            prompts(8), max_new_tokens=18, steps=7, block_length=8, eos_id=EOS, after_eos=after_eos,
            constraint=regex(pattern, tokenizer), generator=generator(), **options,
        )  # fmt: skip
        assert all(re.fullmatch(pattern, text) for text in texts(found, tokenizer))


def test_without_an_end_of_text_the_length_is_exact(model: CoupledDiffusion, tokenizer: Tokenizer) -> None:
    found = model.generate(
        prompts(50), max_new_tokens=12, steps=4, constraint=regex("([ab]{3})+", tokenizer), generator=generator()
    )
    assert found.tokens.shape == (50, 12)
    assert all(re.fullmatch("([ab]{3})+", text) for text in texts(found, tokenizer))
    exactly = intersection(regex("a*", tokenizer), fixed_length(5, tokenizer))
    found = model.generate(prompts(5), max_new_tokens=9, steps=4, eos_id=EOS, constraint=exactly)
    assert found.lengths.tolist() == [5] * 5 and set(texts(found, tokenizer)) == {"aaaaa"}


def test_json_documents_parse_and_are_valid(model: CoupledDiffusion, tokenizer: Tokenizer) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "s": {"type": "string", "maxLength": 4}, "b": {"type": "boolean"}},
        "required": ["n", "s"],
        "additionalProperties": False,
    }
    found = model.generate(
        prompts(100), max_new_tokens=32, steps=8, eos_id=EOS, constraint=json_schema(schema, tokenizer),
        generator=generator(),
    )  # fmt: skip
    kinds = {"n": int, "s": str, "b": bool}
    documents = [json.loads(text) for text in texts(found, tokenizer)]
    for document in documents:
        assert {"n", "s"} <= set(document) <= set(kinds)
        assert all(type(value) is kinds[name] for name, value in document.items()) and len(document["s"]) <= 4
    assert len({json.dumps(document) for document in documents}) > 20


def test_keywords_occur_and_forbidden_ones_do_not(model: CoupledDiffusion, tokenizer: Tokenizer) -> None:
    both = intersection(
        must_contain(["cat", "日本"], tokenizer), complement(must_contain(["the"], tokenizer))
    )  # fmt: skip
    found = model.generate(prompts(50), max_new_tokens=16, steps=6, eos_id=EOS, constraint=both, generator=generator())
    spelled = [b"".join(_bytes(tokenizer)[i] for i in row.tolist()) for row in found.rows]
    assert all(b"cat" in text and "日本".encode() in text and b"the" not in text for text in spelled)


def _bytes(tokenizer: Tokenizer) -> list[bytes]:
    from pcircuits_diffusion.constraints import spellings

    return [spelling or b"" for spelling in spellings(tokenizer)]


def test_characters_split_over_tokens_come_out_whole(model: CoupledDiffusion, tokenizer: Tokenizer) -> None:
    pattern = "[\U0001f600-\U0001f64f][é-ü]{2,5}.{3}"
    found = model.generate(
        prompts(50), max_new_tokens=24, steps=6, eos_id=EOS, constraint=regex(pattern, tokenizer), generator=generator()
    )
    outputs = texts(found, tokenizer)
    assert all(re.fullmatch(pattern, text) for text in outputs) and len(set(outputs)) > 30


def test_a_row_alone_equals_that_row_in_the_batch(model: CoupledDiffusion, tokenizer: Tokenizer) -> None:
    options: dict[str, Any] = {
        "max_new_tokens": 16, "steps": 6, "eos_id": EOS, "constraint": regex("[a-f]{3,9}", tokenizer)
    }  # fmt: skip
    rows = [[5, 6], [7], [8, 9, 10]]
    together = model.generate(rows, seeds=[1, 2, 3], **options).rows
    alone = [model.generate([row], seeds=[seed], **options).rows[0] for row, seed in zip(rows, (1, 2, 3), strict=True)]
    assert all(a.equal(b) for a, b in zip(together, alone, strict=True))


# --- what is refused ---


def test_impossible_constraints_are_refused(tokenizer: Tokenizer, model: CoupledDiffusion) -> None:
    with pytest.raises(pc.EvidenceError, match=r"no text of at most 3 tokens .* any batch row; .* has 4 tokens"):
        model.generate(prompts(2), max_new_tokens=3, steps=1, eos_id=EOS, constraint=regex("9876", tokenizer))
    tiny = CoupledDiffusion(table_backbone(), CoupledHead(hmm()))
    with pytest.raises(pc.EvidenceError, match="no text of exactly 4 tokens"):
        tiny.generate(prompts(1), max_new_tokens=4, steps=1, constraint=fixed_length(3, SPELLINGS))

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        never_b = (tokens[:, :1] == 1).unsqueeze(-1) & (torch.arange(VOCAB) == 2)
        return torch.zeros(*tokens.shape, VOCAB).masked_fill(never_b, -torch.inf)

    backbone = CallableBackbone(logits, vocab_size=VOCAB, mask_id=VOCAB)
    partly = CoupledDiffusion(backbone, CoupledHead(uniform_prior(), coupling="product"))
    with pytest.raises(pc.EvidenceError, match=r"the models exclude .* batch rows \[1, 3\], at new tokens 0..3"):
        partly.generate(
            torch.tensor([[2], [1], [2], [1]]),
            max_new_tokens=4,
            steps=2,
            eos_id=EOS,
            constraint=regex("a*b", SPELLINGS),
        )


def test_what_does_not_fit_is_refused() -> None:
    backbone = table_backbone()
    with pytest.raises(pc.ShapeError, match="covers 5 tokens, the model 3; build it with vocab_size=3"):
        CoupledDiffusion(backbone).generate(
            prompts(1), max_new_tokens=4, steps=1, constraint=regex("a", [b"a", b"b", b"c", b"d", b"e"])
        )
    ahead = Constraint(ANY_B, look_ahead=True)
    with pytest.raises(pc.StructureError, match=r"`look_ahead` needs a head whose prior is a pc\.HMM"):
        CoupledDiffusion(backbone).generate(prompts(1), max_new_tokens=4, steps=1, constraint=ahead)
    tree = pc.Circuit(pc.structures.binary_tree(LENGTH), pc.Categorical(VOCAB), num_units=2, seed=0)
    with pytest.raises(pc.StructureError, match=r"a chain, a pc\.HMM"):
        CoupledDiffusion(backbone, CoupledHead(tree)).generate(
            prompts(1), max_new_tokens=4, steps=1, eos_id=EOS, constraint=ANY_B
        )


def test_blocks_out_of_order_are_refused() -> None:
    text = ConstrainedText(Constraint(ANY_B), length=8, vocab_size=VOCAB, mask_id=VOCAB, eos_id=EOS)
    tokens, mask = torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool)
    alone = Independent(torch.zeros(1, 4, VOCAB).log_softmax(-1), tokens[:, :4], mask[:, :4])
    with pytest.raises(pc.StructureError, match="from left to right"):
        text.condition(alone, torch.tensor([0]), tokens, mask, slice(4, 8))
    mask[:, 5] = False
    with pytest.raises(pc.StructureError, match="from left to right"):
        text.condition(alone, torch.tensor([0]), tokens, mask, slice(0, 4))


def test_the_mask_is_no_token_of_a_text() -> None:
    def logits(tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, VOCAB)

    backbone = CallableBackbone(logits, vocab_size=VOCAB, mask_id=2)
    anything = dfa(torch.zeros(1, VOCAB).long(), torch.tensor([True]))
    found = CoupledDiffusion(backbone).generate(
        prompts(50), max_new_tokens=4, block_length=4, steps=1, constraint=anything, generator=generator()
    )
    assert set(found.tokens.unique().tolist()) == {0, 1}
    only_mask = dfa(torch.tensor([[-1, -1, 0]]), torch.tensor([True]))
    with pytest.raises(pc.EvidenceError, match="no text of exactly 4 tokens"):
        CoupledDiffusion(backbone).generate(prompts(1), max_new_tokens=4, block_length=4, steps=1, constraint=only_mask)
