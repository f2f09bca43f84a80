"""Corpora, tokenizers and evaluation windows."""

from pathlib import Path

import pytest
import torch

from benchmarks import gsm8k
from pcircuits_diffusion import corpus

SPLITS = ("train", "valid", "test")


def test_python_docs_splits_are_disjoint_and_repeatable() -> None:
    splits = {split: corpus.python_docs(split) for split in SPLITS}
    names = [document.name for documents in splits.values() for document in documents]
    assert len(names) == len(set(names)) > 300
    assert len(splits["train"]) > 0.8 * len(names)
    assert all(len(splits[split]) > 0.02 * len(names) for split in ("valid", "test"))
    assert splits["valid"] == corpus.python_docs("valid")
    assert all(document.text.strip() for documents in splits.values() for document in documents)


def test_long_paragraphs_occur_once() -> None:
    seen: set[str] = set()
    long, short = "a long paragraph of documentation " * 3, "Return self."
    assert corpus._fresh_paragraphs(f"{long}\n\n{short}", seen) == f"{long.strip()}\n\n{short}"
    assert corpus._fresh_paragraphs(f"{short}\n\n  {long}\n \nnew", seen) == f"{short}\n\nnew"


def test_split_depends_on_the_name_alone() -> None:
    shares = {"valid": 0.25, "test": 0.25}
    names = ("topics/if", "ast", "re._parser", "wave")
    assert [corpus.split_of(name, shares) for name in names] == ["valid", "train", "valid", "test"]
    assert corpus.split_of("ast", {}) == "train"


def test_unknown_split_is_refused() -> None:
    for load in (corpus.python_docs, gsm8k.load):
        with pytest.raises(ValueError, match="got 'dev'"):
            load("dev")


@pytest.mark.parametrize("split_digits", [False, True])
def test_tokenizer_round_trip(split_digits: bool, tmp_path: Path) -> None:
    texts = ["the cat sat on the mat, 1234 times; 1234 cats\n"] * 20
    tokenizer = corpus.train_tokenizer(texts, vocab_size=290, split_digits=split_digits)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = corpus.load_tokenizer(tmp_path)
    text = "naïve  cats: 1234\n\tthe end"
    assert loaded.decode(loaded.encode(text).ids) == text
    assert loaded.token_to_id(corpus.EOS) == 0
    assert loaded.get_vocab_size() <= 290
    pieces = loaded.encode("1234").tokens
    assert (pieces == ["1", "2", "3", "4"]) is split_digits


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        corpus.load_tokenizer(tmp_path)


def test_windows_lie_inside_documents_and_do_not_overlap() -> None:
    documents = [torch.arange(100, 123), torch.arange(200, 204), torch.arange(300, 310)]
    found = corpus.windows(documents, 5, generator=torch.Generator().manual_seed(0))
    assert found.tokens.shape == (6, 5)
    assert sorted(found.document.tolist()) == [0, 0, 0, 0, 2, 2]
    assert found.tokens.unique().numel() == 30
    for row, document in zip(found.tokens, found.document, strict=True):
        assert torch.isin(row, documents[document]).all() and (row.diff() == 1).all()


def test_windows_are_seeded_and_counted() -> None:
    documents = [torch.arange(50)]
    draws = [corpus.windows(documents, 5, count=3, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0].tokens, draws[1].tokens) and not torch.equal(draws[0].tokens, draws[2].tokens)
    with pytest.raises(ValueError, match="none of the 1 documents has 51 tokens"):
        corpus.windows(documents, 51, generator=torch.Generator().manual_seed(0))


def test_gsm8k_splits() -> None:
    try:
        splits = {split: gsm8k.load(split) for split in SPLITS}
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert [len(documents) for documents in splits.values()] == [7089, 384, 1319]
    assert len({document.name for documents in splits.values() for document in documents}) == 7473 + 1319
    assert all("\n#### " in document.text for document in splits["valid"])


def test_missing_gsm8k_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="set PCIRCUITS_GSM8K"):
        gsm8k.load("train", tmp_path)
