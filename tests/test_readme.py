"""Every Python block of the README, docs/heads.md and docs/features.md runs as it stands; one that cannot says why in
`<!-- not executed: reason -->`.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "docs" / "heads.md", ROOT / "docs" / "features.md"]
BLOCK = re.compile(
    r"^(?:<!-- not executed: (?P<reason>[^\n]+?) -->\n+)?```python[^\n]*\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)


def blocks() -> list[object]:
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    return [_parameter(page, text, match) for page, text in texts.items() for match in BLOCK.finditer(text)]


def _parameter(page: Path, text: str, match: re.Match[str]) -> object:
    line = text.count("\n", 0, match.start("code")) + 1
    marks = [pytest.mark.skip(reason=f"not executed: {match['reason']}")] if match["reason"] else []
    return pytest.param(page, "\n" * (line - 1) + match["code"], id=f"{page.stem}-line-{line}", marks=marks)


@pytest.mark.parametrize(("page", "code"), blocks())
def test_block_runs(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {"__name__": "readme"})


def test_readme_has_a_block_that_runs() -> None:
    assert any(match["reason"] is None for match in BLOCK.finditer(README.read_text(encoding="utf-8")))
