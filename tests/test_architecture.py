"""Rules that hold for the repository as a whole: import order, public names, kernel folders, nothing of one machine.

`python tests/test_architecture.py > tests/public_api.txt` accepts a changed public API.
"""

import ast
import difflib
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "tests" / "public_api.txt"
PACKAGES = ("pcircuits", "pcircuits_diffusion")

# A module imports only from lines above, from modules to its left, and from its own package; for annotations alone
# (under TYPE_CHECKING) from anywhere on its line.
ORDER = (
    ("types", "errors", "collection", "files", "layout", "workspace"),
    ("structures",),
    ("kernels",),
    ("evidence",),
    ("distributions",),
    ("blocks", "chains", "plan", "joint_states", "checkpoints", "folding"),
    ("semirings",),
    ("layers",),
    ("levels", "state_tables", "evaluator", "paths"),
    ("statistics",),
    (
        "queries",
        "count_gradients",
        "posterior",
        "summary",
        "circuit",
        "conditional",
        "autoencoding",
        "hmm",
        "torch_distribution",
    ),
    ("operations",),
    ("properties",),
    ("learning",),
    ("io", "interop", "plot", "testing", "tabular"),
)
PLACES = {name: (line, column) for line, names in enumerate(ORDER) for column, name in enumerate(names)}

VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
CODE_LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}  # loading runs a file's code
NOT_IN_CORE = {"pcircuits_diffusion", "transformers", "huggingface_hub", "tokenizers"}


class Import(NamedTuple):
    """`import module` (no name) or `from module import name`; `typing_only` under `if TYPE_CHECKING`."""

    module: str
    name: str | None
    line: int
    typing_only: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[Import]:
    tree = parse(path)
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    typing_only = {id(node) for block in blocks for statement in block.body for node in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, node.lineno, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(path, node)
            yield from (Import(module, alias.name, node.lineno, id(node) in typing_only) for alias in node.names)


def absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parents = path.relative_to(ROOT).parent.parts
    return ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])


def unit_of(path: Path) -> str:
    """The module or sub-package directly below the package that a file belongs to."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def imported_unit(found: Import) -> str | None:
    """Which unit of pcircuits an import reads; "" for the package itself, None for other packages."""
    if found.top != "pcircuits":
        return None
    parts = found.module.split(".")
    if len(parts) > 1:
        return parts[1]
    return found.name if found.name in PLACES else ""


def is_allowed(unit: str, target: str, typing_only: bool) -> bool:
    if target == unit:
        return True
    if target not in PLACES:
        return False
    same_line = PLACES[target][0] == PLACES[unit][0]
    return PLACES[target] < PLACES[unit] or (typing_only and same_line)


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def listed(lines: list[str]) -> str:
    return "\n".join(["", *lines])


def test_every_module_has_a_place_in_the_import_order() -> None:
    units = {unit_of(path) for path in sources("pcircuits")} - {"__init__", "__main__"}
    missing = sorted(units - set(PLACES))
    assert not missing, listed(["give these modules a place in ORDER and in docs/architecture.md:", *missing])


def test_imports_follow_the_order() -> None:
    wrong = [
        f"{at(path, found.line)}: {unit_of(path)} imports {imported_unit(found) or 'the package itself'}"
        for path in sources("pcircuits")
        if unit_of(path) in PLACES
        for found in imports(path)
        if (target := imported_unit(found)) is not None and not is_allowed(unit_of(path), target, found.typing_only)
    ]
    assert not wrong, listed(wrong)


def test_core_knows_nothing_of_diffusion_and_hubs() -> None:
    wrong = [
        f"{at(path, found.line)}: {found.module}"
        for path in sources("pcircuits")
        for found in imports(path)
        if found.top in NOT_IN_CORE
    ]
    assert not wrong, listed(wrong)


def test_diffusion_uses_only_public_names_of_the_core() -> None:
    wrong = [
        problem
        for path in sources("pcircuits_diffusion")
        for problem in [*private_imports(path), *private_attributes(path)]
    ]
    assert not wrong, listed(wrong)


def is_public(found: Import) -> bool:
    """A name in `__all__` of the core, or of a module that is itself in `__all__` of the core."""
    core, parts = importlib.import_module("pcircuits"), found.module.split(".")
    if len(parts) > 2 or not set(parts[1:]) <= set(core.__all__):
        return False
    return found.name is None or found.name in importlib.import_module(found.module).__all__


def private_imports(path: Path) -> Iterator[str]:
    for found in imports(path):
        if found.top == "pcircuits" and not is_public(found):
            yield f"{at(path, found.line)}: {'.'.join(filter(None, [found.module, found.name]))}"


def private_attributes(path: Path) -> Iterator[str]:
    """`pc.x` where `pc` is the core and x is not in its `__all__`."""
    public, tree = set(importlib.import_module("pcircuits").__all__), parse(path)
    nodes = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names = {alias.asname or alias.name for alias in nodes if alias.name == "pcircuits"}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names):
            continue
        if node.attr not in public and node.attr != "__version__":
            yield f"{at(path, node.lineno)}: {node.value.id}.{node.attr}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_loaded_as_code(package: str) -> None:
    wrong = [problem for path in sources(package) for problem in code_loading(path)]
    assert not wrong, listed(wrong)


def code_loading(path: Path) -> Iterator[str]:
    for found in imports(path):
        if found.top in CODE_LOADERS or (found.module, found.name) == ("torch", "load"):
            yield f"{at(path, found.line)}: {found.module}"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            yield f"{at(path, node.lineno)}: torch.load"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"{at(path, node.lineno)}: allow_pickle"


@pytest.mark.parametrize("package", PACKAGES)
def test_module_names_say_what_is_inside(package: str) -> None:
    paths = [path.relative_to(ROOT) for path in sources(package)]
    assert [str(path) for path in paths if VAGUE_NAMES & {part.removesuffix(".py") for part in path.parts}] == []


def test_every_kernel_has_a_definition_and_a_derivation() -> None:
    folders = [path for path in (ROOT / "pcircuits" / "kernels").glob("[a-z]*") if path.is_dir()]
    needed = [folder / name for folder in folders for name in ("reference.py", "README.md")]
    assert needed
    assert [str(path.relative_to(ROOT)) for path in needed if not path.is_file()] == []


def public_api() -> list[str]:
    modules = [importlib.import_module(package) for package in PACKAGES]
    return sorted(f"{module.__name__}.{name}" for module in modules for name in module.__all__)


def test_public_api_is_the_snapshot() -> None:
    accepted = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    diff = list(difflib.unified_diff(accepted, public_api(), "tests/public_api.txt", "__all__", lineterm="", n=0))
    assert not diff, listed(["the public API changed; the docstring of this file says how to accept that", *diff])


def test_public_names_exist() -> None:
    for package in PACKAGES:
        module = importlib.import_module(package)
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


MACHINE = re.compile(  # written so that it does not match itself
    r"(?<![\w.~<>(){}*-])/(?:work|root|tmp|home|Users|opt|mnt|srv|private)/"
    r"|\b(?:pypi\.|files\.python[h]osted|download\.pytorch\.|anaconda\.org|registry\.npmjs\.)"
    r"|\bfile:/{2}|--(?:extra-)?index[-]url|--find[-]links"
)


def committed_texts() -> Iterator[tuple[str, str]]:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode("utf-8", errors="ignore")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_nothing_names_one_machine() -> None:
    wrong = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in committed_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE.search(line)
    ]
    assert not wrong, listed(wrong)


def test_the_machine_pattern_finds_what_it_is_for() -> None:
    for text in ("/{}/x.py".format("work"), "open('/{}/a')".format("tmp"), "https://{}.org/".format("pypi")):
        assert MACHINE.search(text), text
    for text in ("a/tmp/b", "#!/usr/bin/env bash", "https://example.org/home/page", "network/"):
        assert not MACHINE.search(text), text


if __name__ == "__main__":
    print("\n".join(public_api()))
