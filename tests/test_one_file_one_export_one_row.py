"""What the tutorial says it takes to add an input distribution and a structure is all it takes: done to a copy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = (ROOT / "docs" / "tutorials" / "write_an_input.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python[^\n]*\n(.*?)^```", TUTORIAL, re.S | re.M)


# What `tests/test_exact_queries.py` does with each row of STRUCTURES, once.
CHECK_OF_A_ROW = """
import torch
from pcircuits import structures, testing
assert "comb" in testing.STRUCTURES and structures.comb(3).num_variables == 3
circuit = testing.example_circuit("comb", "cp", "mixed", dtype=torch.float64)
for kind in ("hard", "mixed", "interval"):
    testing.check_posterior(circuit, testing.example_evidence(circuit, kind))
"""


def block(containing: str) -> str:
    (found,) = [b for b in BLOCKS if containing in b]
    return found


def copy_of_the_package(folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pcircuits", folder / "pcircuits", ignore=ignored)
    shutil.copytree(ROOT / "tests" / "distributions", folder / "tests" / "distributions", ignore=ignored)
    for name in ("tests/conftest.py", "tests/shape_checks.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "pcircuits_diffusion").mkdir()


def export(init: Path, line: str, name: str) -> None:
    """The import below the others and the name in `__all__`."""
    text = init.read_text(encoding="utf-8")
    last = text.rindex("\nfrom ")
    end = text.index("\n", last + 1)
    text = text[:end] + "\n" + line.strip() + text[end:]
    init.write_text(text.replace("__all__ = [", f'__all__ = [\n    "{name}",'), encoding="utf-8")


def add_row(file: Path, table: str, line: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(table) == 1
    file.write_text(text.replace(table, table + "\n" + line.rstrip()), encoding="utf-8")


def run_tests(folder: Path, file: str, expression: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", expression]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


def run_code(folder: Path, code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)


def test_an_input_distribution(tmp_path: Path) -> None:
    copy_of_the_package(tmp_path)
    package = tmp_path / "pcircuits" / "distributions"
    (package / "rayleigh.py").write_text(block("class Rayleigh("), encoding="utf-8")
    export(package / "__init__.py", block("import Rayleigh\n"), "Rayleigh")
    add_row(tmp_path / "tests" / "distributions" / "families.py", "ROWS = {", block('"rayleigh": row('))
    output = run_tests(tmp_path, "tests/distributions/test_families.py", "rayleigh or has_a_row")
    assert int(re.search(r"(\d+) passed", output)[1]) >= 12  # type: ignore[index]
    saved = "import torch, pcircuits as pc; from pcircuits.distributions import Rayleigh; "
    saved += "c = pc.Circuit(pc.structures.chain(2), Rayleigh(3.0), num_units=2, seed=0); pc.save(c, 'kept'); "
    saved += "assert pc.load('kept').inputs == (Rayleigh(3.0),) * 2"
    run_code(tmp_path, saved)


def test_a_structure(tmp_path: Path) -> None:
    copy_of_the_package(tmp_path)
    package = tmp_path / "pcircuits"
    (package / "structures" / "comb.py").write_text(block("def comb("), encoding="utf-8")
    export(package / "structures" / "__init__.py", "from pcircuits.structures.comb import comb", "comb")
    table = "_BUILDERS: dict[str, Callable[[int, int], RegionGraph]] = {"
    add_row(package / "testing" / "examples.py", table, block('"comb": lambda'))
    run_code(tmp_path, CHECK_OF_A_ROW)
