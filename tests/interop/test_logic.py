"""Circuits compiled from logic: counts, probabilities and completions against PySDD and enumeration."""

import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.interop import compile_cnf, read_nnf, read_psdd, read_sdd, write_nnf, write_psdd
from pcircuits.testing.enumeration import Enumeration
from tests.interop.formulas import Decisions, RandomPsdd, cnfs, dimacs, psdd_values, satisfies, worlds, write

sdd = pytest.importorskip("pysdd.sdd")
VTREES = ("balanced", "right", "left", "vertical", "random")


def compiled_by_pysdd(clauses: list[list[int]], num_variables: int):
    manager = sdd.SddManager.from_vtree(sdd.Vtree(var_count=num_variables, vtree_type="balanced"))
    formula = manager.true()
    for clause in clauses:
        disjunction = manager.false()
        for literal in clause:
            disjunction = disjunction | manager.literal(literal)
        formula = formula & disjunction
    return manager, formula


def random_weights(num_variables: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(num_variables, 2, generator=torch.Generator().manual_seed(seed)).double()


def uniform(models: torch.Tensor) -> torch.Tensor:
    """The log probability of each world."""
    return models.double().log() - models.double().sum().log()


def learned(circuit: pc.Circuit, seed: int) -> pc.Circuit:
    """The circuit with other weights on its support."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, group in circuit.named_groups():
            for parameter in group.parameters():
                parameter.add_(2 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return circuit


@settings(max_examples=25)
@given(cnfs(), st.sampled_from(VTREES), st.integers(0, 99))
def test_counts_equal_pysdd_and_enumeration(formula: tuple[list[list[int]], int], vtree: str, seed: int) -> None:
    clauses, count = formula
    models = satisfies(clauses, worlds(count))
    if not models.any():
        with pytest.raises(pc.StructureError, match="no model"):
            compile_cnf(clauses, num_variables=count, vtree=vtree)
        return
    circuit = learned(compile_cnf(clauses, num_variables=count, vtree=vtree), seed)
    manager, theirs = compiled_by_pysdd(clauses, count)
    assert pc.model_count(circuit) == int(models.sum()) == theirs.global_model_count()
    weights = random_weights(count, seed)
    posterior = circuit.condition(
        pc.Evidence(torch.zeros(1, count, dtype=torch.long), log_weights=weights.unsqueeze(0))
    )
    of_worlds = weights.gather(1, worlds(count).T).sum(0)[models]
    assert torch.allclose(posterior.log_model_count(), of_worlds.logsumexp(0), rtol=0, atol=1e-9)
    counter = theirs.wmc(log_mode=True)
    for variable, (false, true) in enumerate(weights.tolist(), start=1):
        counter.set_literal_weight(manager.literal(variable), true)
        counter.set_literal_weight(manager.literal(-variable), false)
    assert posterior.log_model_count().item() == pytest.approx(counter.propagate(), abs=1e-9)
    values = {v: random.Random(seed + v).randint(0, 1) for v in range(0, count, 3)}
    agree = torch.stack([worlds(count)[:, v] == x for v, x in values.items()]).all(0)
    assert pc.model_count(circuit, values) == int((models & agree).sum())


@settings(max_examples=15)
@given(cnfs(max_variables=8), st.sampled_from(VTREES), st.integers(0, 99))
def test_models_are_equally_likely_and_found_deterministic(
    formula: tuple[list[list[int]], int], vtree: str, seed: int
) -> None:
    clauses, count = formula
    models = satisfies(clauses, worlds(count))
    if not models.any():
        return
    circuit = compile_cnf(clauses, num_variables=count, vtree=vtree)
    assert pc.check(circuit, tolerance=1e-12) == pc.Properties(True, True, True, True, True)
    assert torch.allclose(circuit.log_prob(worlds(count)), uniform(models), rtol=0, atol=1e-12)
    assert satisfies(clauses, circuit.sample(50, generator=torch.Generator().manual_seed(seed))).all()
    learned(circuit, seed)
    observed = torch.rand(4, count, generator=torch.Generator().manual_seed(seed)) < 0.3
    rows = worlds(count)[models][torch.arange(4) % int(models.sum())]
    evidence = pc.Evidence(rows, observed=observed)
    posterior, oracle = circuit.condition(evidence), Enumeration(circuit, evidence)
    best = posterior.mpe()
    assert best.exact.all() and satisfies(clauses, best.values).all()
    assert torch.allclose(best.log_prob, oracle.mpe()[1], atol=1e-9)
    assert torch.allclose(posterior.marginals(), oracle.marginals(), atol=1e-9)
    p = oracle.probabilities
    assert torch.allclose(posterior.entropy(), -torch.xlogy(p, p).sum(-1), atol=1e-9)


@settings(max_examples=15)
@given(cnfs(max_variables=8))
def test_formats_hold_the_same_formula(tmp_path_factory: pytest.TempPathFactory, formula) -> None:
    clauses, count = formula
    models, folder = satisfies(clauses, worlds(count)), tmp_path_factory.mktemp("formats")
    decisions = Decisions(clauses)
    (cnf,) = write(folder, cnf=dimacs(clauses, count))
    manager, theirs = compiled_by_pysdd(clauses, count)
    theirs.save(bytes(folder / "formula.sdd"))
    manager.vtree().save(bytes(folder / "formula.vtree"))
    write(folder, c2d=decisions.c2d_text(count), d4=decisions.d4_text())
    readers = [
        lambda: compile_cnf(cnf),
        lambda: read_sdd(folder / "formula.sdd", folder / "formula.vtree"),
        lambda: read_nnf(folder / "formula.c2d"),
        lambda: read_nnf(folder / "formula.d4", num_variables=count),
    ]
    for read in readers:
        if not models.any():
            with pytest.raises((pc.FormatError, pc.StructureError), match="no model"):
                read()
            continue
        circuit = read()
        assert torch.allclose(circuit.log_prob(worlds(count)), uniform(models), rtol=0, atol=1e-12)
        assert pc.model_count(circuit) == int(models.sum())


@settings(max_examples=20)
@given(st.integers(0, 1 << 16), st.integers(1, 7))
def test_psdds_keep_their_parameters(tmp_path_factory: pytest.TempPathFactory, seed: int, count: int) -> None:
    made = RandomPsdd(seed, count)
    paths = write(tmp_path_factory.mktemp("psdd"), psdd=made.psdd, vtree=made.vtree)
    circuit = read_psdd(*paths)
    assert torch.allclose(circuit.log_prob(worlds(count)).exp(), psdd_values(made.psdd, worlds(count)), atol=1e-12)
    found = pc.check(circuit)
    assert found.structured_decomposable and found.deterministic and found.normalised


@settings(max_examples=6)
@given(st.integers(0, 1 << 16), st.integers(1, 6))
def test_a_written_psdd_has_the_parameters_of_its_text(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    made, folder = RandomPsdd(seed, count), tmp_path_factory.mktemp("psdd")
    circuit = learned(read_psdd(*write(folder, psdd=made.psdd, vtree=made.vtree)), seed)
    write_psdd(circuit, folder / "a.psdd", folder / "a.vtree")
    exact = circuit.log_prob(worlds(count)).detach()
    assert torch.allclose(psdd_values((folder / "a.psdd").read_text(), worlds(count)), exact.exp(), atol=1e-12)
    again = read_psdd(folder / "a.psdd", folder / "a.vtree")
    assert torch.allclose(again.log_prob(worlds(count)), exact, rtol=0, atol=1e-12)
    write_psdd(again, folder / "b.psdd", folder / "b.vtree")
    assert (folder / "a.vtree").read_text() == (folder / "b.vtree").read_text()


@settings(max_examples=5)
@given(cnfs(max_variables=6), st.sampled_from(VTREES), st.integers(0, 99))
def test_a_compiled_formula_is_written_as_psdd_with_what_it_learned(
    tmp_path_factory: pytest.TempPathFactory, formula: tuple[list[list[int]], int], vtree: str, seed: int
) -> None:
    clauses, count = formula
    if not satisfies(clauses, worlds(count)).any():
        return
    folder = tmp_path_factory.mktemp("psdd")
    circuit = learned(compile_cnf(clauses, num_variables=count, vtree=vtree), seed)
    write_psdd(circuit, folder / "a.psdd", folder / "a.vtree")
    found = psdd_values((folder / "a.psdd").read_text(), worlds(count))
    assert torch.allclose(found, circuit.log_prob(worlds(count)).detach().exp(), atol=1e-12)
    tree = sdd.Vtree.from_file(str(folder / "a.vtree"))
    assert tree.var_count() == count
    again = read_psdd(folder / "a.psdd", folder / "a.vtree")
    assert pc.model_count(again) == pc.model_count(circuit) and pc.check(again).structured_decomposable


def one_unit(regions: list[pc.structures.Region]) -> pc.Circuit:
    return pc.Circuit(pc.RegionGraph(tuple(regions)), pc.Categorical(2), num_units=1, layer="sparse", seed=0)


def test_what_is_no_psdd_is_refused_by_name(tmp_path: Path) -> None:
    region = pc.structures.Region
    inputs = [region.input(v) for v in range(3)]
    two_ways = [*inputs, region.split((0, 1)), region.split((1, 2)), region.split((3, 2), (0, 4))]
    same_primes = [*inputs[:2], region.input(1), region.split((0, 1), (0, 2))]
    circuits = {
        "several units": pc.HMM(2, 2, 3, seed=0),
        "two values": pc.Circuit(pc.structures.factorized(2), pc.Categorical(3), num_units=1),
        "3 factors": one_unit([*inputs, region.split((0, 1, 2))]),
        r"split into \[\[0\], \[1, 2\]\] and into \[\[0, 1\], \[2\]\]": one_unit(two_ways),
        r"primes .* of the variables \[0\]": one_unit(same_primes),
        "derived": pc.square(one_unit([*inputs[:2], region.split((0, 1))])),
    }
    for message, circuit in circuits.items():
        with pytest.raises(pc.StructureError, match=message):
            write_psdd(circuit, tmp_path / "x.psdd", tmp_path / "x.vtree")
    assert not list(tmp_path.iterdir())


def test_psdds_of_one_variable(tmp_path: Path) -> None:
    one = pc.Circuit(pc.structures.factorized(1), pc.Bernoulli(), num_units=1, seed=0, dtype=torch.float64)
    write_psdd(one, tmp_path / "one.psdd", tmp_path / "one.vtree")
    again = read_psdd(tmp_path / "one.psdd", tmp_path / "one.vtree")
    assert torch.allclose(again.log_prob(worlds(1)), one.log_prob(worlds(1)), rtol=0, atol=1e-12)
    with torch.no_grad():
        one.group("input_0").logit.fill_(60.0)  # 1 to every digit, and yet 0 is possible
    write_psdd(one, tmp_path / "one.psdd", tmp_path / "one.vtree")
    again = read_psdd(tmp_path / "one.psdd", tmp_path / "one.vtree")
    assert torch.allclose(again.log_prob(worlds(1)), one.log_prob(worlds(1)), rtol=0, atol=1e-9)


@pytest.mark.campaign
def test_psdds_of_long_vtrees(tmp_path: Path) -> None:
    chain = pc.Circuit(pc.structures.chain(1100), pc.Categorical(2), num_units=1, seed=0, dtype=torch.float64)
    write_psdd(chain, tmp_path / "long.psdd", tmp_path / "long.vtree")
    x = torch.randint(0, 2, (2, 1100), generator=torch.Generator().manual_seed(0))
    again = read_psdd(tmp_path / "long.psdd", tmp_path / "long.vtree")
    assert torch.allclose(again.log_prob(x), chain.log_prob(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_a_written_formula_is_read_again(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    clauses = [[v * generator.choice((-1, 1)) for v in generator.sample(range(1, 6), 3)] for _ in range(seed)]
    circuit = learned(compile_cnf(clauses, num_variables=6), seed)
    write_nnf(circuit, tmp_path / "formula.nnf")
    again = read_nnf(tmp_path / "formula.nnf")
    assert torch.allclose(again.log_prob(worlds(6)), uniform(satisfies(clauses, worlds(6))), rtol=0, atol=1e-12)
    assert pc.model_count(again) == pc.model_count(circuit)
    with pytest.raises(pc.StructureError, match="several units"):
        write_nnf(pc.HMM(2, 2, 3, seed=0), tmp_path / "hmm.nnf")
    with pytest.raises(pc.StructureError, match="two values"):
        write_nnf(pc.Circuit(pc.structures.factorized(2), pc.Categorical(3), num_units=1), tmp_path / "three.nnf")


def test_formulas_of_one_vtree_multiply_to_their_conjunction() -> None:
    first, second = [[1, 2], [-2, 3]], [[-1, 4], [3, 4, -2]]
    one, other = (compile_cnf(clauses, num_variables=4) for clauses in (first, second))
    both = pc.multiply(one, other)
    expected = int((satisfies(first, worlds(4)) & satisfies(second, worlds(4))).sum())
    total = math.log(expected) - math.log(pc.model_count(one)) - math.log(pc.model_count(other))
    assert both.log_partition().item() == pytest.approx(total, abs=1e-12)
    assert pc.model_count(both) == expected


def test_learning_stays_within_the_models(tmp_path: Path) -> None:
    clauses = [[1, 2, 3], [-1, -2], [-2, -3], [-1, -3], [3, 4]]  # one of the first three, and a fourth
    circuit = compile_cnf(clauses)
    x = worlds(4)[satisfies(clauses, worlds(4))]
    weights = torch.tensor([5.0, 1.0, 3.0, 1.0], dtype=torch.float64)
    for _ in range(2):
        circuit.maximise(circuit.statistics(x, sample_weights=weights))
    assert torch.allclose(circuit.log_prob(worlds(4)).exp().sum(), torch.ones(1, dtype=torch.float64))
    assert pc.model_count(circuit) == 4
    assert torch.allclose(circuit.log_prob(x).exp(), weights / 10, atol=1e-6)
    pc.save(circuit, tmp_path)
    again = pc.load(tmp_path)
    assert again.layer == "sparse" and torch.equal(again.log_prob(x), circuit.log_prob(x))


def test_a_count_of_many_digits_is_exact() -> None:
    circuit = compile_cnf([[1, 2]], num_variables=200)
    assert pc.model_count(circuit) == 3 * 2**198
    nothing = pc.Evidence.nothing(1, 200)
    assert circuit.condition(nothing).log_model_count().item() == pytest.approx(math.log(3 * 2**198), rel=1e-14)


def test_what_is_not_deterministic_has_no_count(tmp_path: Path) -> None:
    (path,) = write(tmp_path, nnf="nnf 3 2 2\nL 1\nL 2\nO 0 2 0 1\n")
    circuit = read_nnf(path)
    assert circuit.determinism() is not True
    with pytest.raises(pc.StructureError, match="deterministic"):
        pc.model_count(circuit)
    with pytest.raises(pc.StructureError, match="discrete"):
        pc.model_count(pc.Circuit(pc.structures.factorized(2), pc.Gaussian(), num_units=1))


@pytest.mark.parametrize(
    "cnf, message",
    [
        ([[1, 0]], "other than 0"),
        ([[True]], "other than 0"),
        ([[1], []], "empty"),
        ([[1], [-1]], "no model"),
        ([], "variables"),
    ],
)
def test_clauses_that_are_none(cnf: list, message: str) -> None:
    with pytest.raises(pc.StructureError, match=message):
        compile_cnf(cnf)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "p cnf"),
        ("p cnf 2\n1 0\n", "p cnf"),
        ("p cnf 2 1\n1 3 0\n", "line 2: literal 3 is beyond"),
        ("p cnf 2 1\n1 x 0\n", "line 2: word 2 must be an integer"),
        ("p cnf 2 2\n1 0\n", "1 clauses"),
        ("p cnf 2 1\n1 2\n", "does not end with 0"),
    ],
)
def test_files_that_are_no_dimacs(tmp_path: Path, text: str, message: str) -> None:
    (path,) = write(tmp_path, cnf=text)
    with pytest.raises(pc.FormatError, match=message):
        compile_cnf(path)


VTREE = "vtree 3\nL 0 1\nL 1 2\nI 2 0 1\n"


@pytest.mark.parametrize(
    "text, vtree, message",
    [
        ("sdd 1\nT 0\n", "vtree 2\nL 0 1\nL 1 2\n", "one tree over the variables"),
        ("sdd 1\nT 0\n", "vtree 3\nL 0 1\nL 1 2\nI 2 0 0\n", "line 4: its children must be two earlier nodes"),
        ("sdd 2\nT 0\n", VTREE, "1 nodes, its first line says 2"),
        ("sdd 1\nF 0\n", VTREE, "no model"),
        ("sdd 1\nL 0 1 1\n", VTREE, "vtree node 1 is no leaf of variable 1"),
        ("sdd 1\nD 0 2 1 5 6\n", VTREE, "its child 5 is no earlier node"),
        ("sdd 3\nL 0 0 1\nT 1\nD 2 2 1 1 0\n", VTREE, "does not lie below vtree node 1"),
        ("psdd 1\nT 0 0 1 -1\n", VTREE, "must start with 'sdd'"),
    ],
)
def test_sdds_that_do_not_fit(tmp_path: Path, text: str, vtree: str, message: str) -> None:
    with pytest.raises(pc.FormatError, match=message):
        read_sdd(*write(tmp_path, sdd=text, vtree=vtree))


@pytest.mark.parametrize(
    "text, message",
    [
        ("nnf 2 0 2\nL 1\n", "1 nodes"),
        ("nnf 3 2 1\nL 1\nL -1\nA 2 0 1\n", "line 4: it is not decomposable"),
        ("nnf 1 0 1\nL 2\n", "variable 2 is not one of 1 to 1"),
        ("nnf 1 1 1\nA 1 0\n", "no earlier node"),
        ("nnf 1 0 1\nO 0 0\n", "no model"),
        ("o 1 0\n1 2 0\n", "node 2, which is not there"),
        ("o 1 0\no 2 0\n1 2 1 0\n2 1 2 0\n", "lies below itself"),
        ("o 1 0\n1 1 1\n", "line 2: expected a node"),
    ],
)
def test_nnfs_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(pc.FormatError, match=message):
        read_nnf(*write(tmp_path, nnf=text))
