"""Kernels with one broken line, in a copy, and what the tests say of it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutation(NamedTuple):
    """`line` of a function in a file of `pcircuits/kernels` becomes `broken`; the tests of `cases` must notice."""

    file: str
    function: str
    line: str
    broken: str
    cases: str


def copy_of_the_tests(folder: Path) -> None:
    for name in ("pcircuits", "tests/kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py", "tests/shape_checks.py"):
        shutil.copy(ROOT / name, folder / name)


def break_line(mutation: Mutation, folder: Path) -> None:
    path = folder / "pcircuits" / "kernels" / mutation.file
    before, function, after = re.split(rf"(?=^def )(def {mutation.function}\()", path.read_text(), flags=re.MULTILINE)
    body, *rest = re.split(r"(?=^@jit$|^def )", after, maxsplit=1, flags=re.MULTILINE)
    assert mutation.line in body
    path.write_text("".join([before, function, body.replace(mutation.line, mutation.broken, 1), *rest]))


def run_tests(tests: Sequence[str], cases: str, folder: Path) -> subprocess.CompletedProcess:
    """Those of some files whose names fit."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    # annotations are not checked there: the copy is imported by its own path
    options = ["-o", "addopts=--import-mode=importlib -m 'not campaign'", "-k", cases]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
