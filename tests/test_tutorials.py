"""Every tutorial runs from its first Python block to its last, in one namespace, as a notebook does."""

from pathlib import Path

import pytest

from tests.test_readme import BLOCK

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "docs" / "tutorials").glob("*.md"))


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = tutorial.read_text(encoding="utf-8")
    blocks = [match for match in BLOCK.finditer(text) if match["reason"] is None]
    assert blocks
    namespace: dict[str, object] = {"__name__": "tutorial"}
    for block in blocks:
        line = text.count("\n", 0, block.start("code"))
        exec(compile("\n" * line + block["code"], str(tutorial), "exec"), namespace)
