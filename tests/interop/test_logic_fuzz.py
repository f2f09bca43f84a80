"""Whatever a file of logic holds, its reader gives a circuit that answers queries or raises FormatError."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.interop import compile_cnf, read_jlc, read_jpc, read_nnf, read_psdd, read_sdd, read_spn
from tests.interop.formulas import Decisions, RandomPsdd, dimacs
from tests.interop.test_juice import JLC, JPC, SPN

pytest.importorskip("pysdd.sdd")
CLAUSES = [[1, 2], [-2, 3, -4], [-1, 4]]
PSDD = RandomPsdd(0, 4)
SDD = "sdd 7\nL 0 0 1\nL 1 0 -1\nT 2\nF 3\nL 4 1 2\nD 5 2 2 0 2 1 4\nD 6 2 2 0 4 1 3\n"
VTREE = "vtree 3\nL 0 1\nL 1 2\nI 2 0 1\n"
READERS: dict[str, tuple[list[str], Callable[..., pc.Circuit]]] = {
    "cnf": ([dimacs(CLAUSES, 4)], compile_cnf),
    "c2d": ([Decisions(CLAUSES).c2d_text(4)], read_nnf),
    "d4": ([Decisions(CLAUSES).d4_text()], read_nnf),
    "sdd": ([SDD, VTREE], read_sdd),
    "psdd": ([PSDD.psdd, PSDD.vtree], read_psdd),
    "spn": ([SPN], read_spn),
    "jpc": ([JPC], partial(read_jpc, dtype=torch.float64)),
    "jlc": ([JLC], read_jlc),
}
WORDS = st.one_of(
    st.integers(-6, 30).map(str),
    st.sampled_from(
        ["nnf", "sdd", "L", "D", "T", "F", "A", "O", "o", "t", "p", "cnf", "I", "C", "B", "P", "S", "%", "c", "x", "-0"]
    ),
    st.sampled_from(
        ["1.5", "nan", "inf", "-inf", "1e999", "-1e308", "-1e-320", "9" * 40, "9" * 5000, str(2**63), "1_0", "٣"]
    ),
)


@pytest.fixture(autouse=True, scope="module")
def _as_users_run_it() -> Iterator[None]:
    """Without the type checks that tests switch on: the readers' own checks must do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read(folder: Path, name: str, contents: list[bytes]) -> pc.Circuit | None:
    paths = [folder / f"{name}.{n}" for n in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    try:
        return READERS[name][1](*paths)
    except pc.FormatError as error:
        assert str(folder) in str(error)
        return None


@torch.no_grad()
def assert_answers(circuit: pc.Circuit) -> None:
    posterior = circuit.condition(pc.Evidence.nothing(2, circuit.num_variables))
    assert posterior.log_evidence.abs().max() < 1e-6
    assert circuit.log_prob(posterior.sample(3, generator=torch.Generator().manual_seed(0))[:, 0]).isfinite().all()
    assert not any(marginal.isnan().any() for marginal in posterior.marginals())


@pytest.mark.parametrize("name", READERS)
def test_unchanged_files_are_read(folder: Path, name: str) -> None:
    circuit = read(folder, name, [text.encode() for text in READERS[name][0]])
    assert circuit is not None
    assert_answers(circuit)


@settings(max_examples=150)
@given(st.sampled_from(list(READERS)), st.data())
def test_bytes_may_be_anything(folder: Path, name: str, data: st.DataObject) -> None:
    contents = [text.encode() for text in READERS[name][0]]
    which = data.draw(st.integers(0, len(contents) - 1))
    start, removed = data.draw(st.integers(0, len(contents[which]))), data.draw(st.integers(0, 12))
    before = contents[which]
    contents[which] = before[:start] + data.draw(st.binary(max_size=6)) + before[start + removed :]
    if (circuit := read(folder, name, contents)) is not None:
        assert_answers(circuit)


@settings(max_examples=400)
@given(st.sampled_from(list(READERS)), st.integers(0, 1 << 16), WORDS, st.sampled_from(["word", "line", "both"]))
def test_words_and_lines_may_be_anything(folder: Path, name: str, where: int, word: str, change: str) -> None:
    """A word replaced, a line left out, doubled or moved: numbers stay numbers, so that the first checks pass."""
    texts = list(READERS[name][0])
    which = where % len(texts)
    lines = [line.split(" ") for line in texts[which].splitlines()]
    place = where // 2 % len(lines)
    if change != "line":
        lines[place][where // 7 % len(lines[place])] = word
    if change != "word":
        moved = lines.pop(place)
        lines[place:place] = [[], [moved] * 2, [moved]][where % 3] if where % 3 < 2 else []
        if where % 3 == 2:
            lines.insert(where // 11 % (len(lines) + 1), moved)
    texts[which] = "\n".join(" ".join(line) for line in lines) + "\n"
    if (circuit := read(folder, name, [text.encode() for text in texts])) is not None:
        assert_answers(circuit)
