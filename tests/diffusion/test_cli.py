"""The command line, every command on a tiny backbone in a folder."""

import json
import re
import shlex
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

import pcircuits_diffusion as pcd
from pcircuits_diffusion import __main__ as console_script
from pcircuits_diffusion.cli import app, views
from pcircuits_diffusion.cli.settings import _plain
from pcircuits_diffusion.cli.train import Told
from pcircuits_diffusion.decoding import Settings
from pcircuits_diffusion.resolve import Source, load_model, saved_backbone
from pcircuits_diffusion.streaming import board, decided_prefix, readable
from tests.diffusion.tiny_models import TEXTS, save_backbone, save_head

COMMANDS = ("train", "generate", "evaluate", "convert", "info")
FAST = ["--states", "3", "--epochs", "2", "--quiet"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`backbone/`, `head/` for it, and `text.txt`."""
    backbone = save_backbone(tmp_path / "backbone")
    save_head(tmp_path / "head", backbone, backbone_name=str(tmp_path / "backbone"))
    (tmp_path / "text.txt").write_text("".join(TEXTS))
    return tmp_path


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def succeed(*arguments: object, stdin: str | None = None) -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result


def refuse(*arguments: object, match: str) -> None:
    """One line on standard error, exit code 2, no traceback."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1 and re.search(match, result.stderr), result.stderr
    assert result.stdout == ""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_by_examples_that_parse(name: str) -> None:
    group = typer.main.get_command(app)
    shown = " ".join(succeed(name, "--help").stdout.split())
    assert "When:" in shown
    examples = [line.strip() for line in group.commands[name].help.splitlines() if line.strip().startswith("pcd ")]
    assert examples
    for example in examples:
        assert example in shown
        words = shlex.split(example)
        assert words[1] == name
        group.commands[name].make_context(name, words[2:])


def test_every_plain_setting_is_an_option() -> None:
    shown = succeed("generate", "--help").stdout
    kinds = typing.get_type_hints(Settings)
    plain = [name for name, kind in kinds.items() if {kind, *typing.get_args(kind)} & {int, float, str, bool}]
    assert {"steps", "remasking", "temperature", "max_context"} <= set(plain)
    assert [name for name in plain if f"--{name.replace('_', '-')} " not in shown] == []
    assert "which positions a step commits" in " ".join(shown.split())


def test_train_writes_a_head_that_generates(folder: Path) -> None:
    made = succeed("train", folder / "text.txt", "-b", folder / "backbone", "-o", folder / "new", *FAST[:-1])
    assert "em, epoch 2" in made.stderr and "held out" in made.stderr and "wrote" in made.stderr
    assert saved_backbone(str(folder / "new")).name == str(folder / "backbone")
    text = succeed("generate", "3 and", "--head", folder / "new", "-n", 8, "--seed", 3).stdout
    assert text == succeed("generate", "3 and", "--head", folder / "new", "-n", 8, "--seed", 3).stdout


def test_train_on_json_lines_and_folders(folder: Path) -> None:
    (folder / "data").mkdir()
    lines = [json.dumps({"question": text, "answer": "yes"}) for text in TEXTS]
    (folder / "data" / "a.jsonl").write_text("\n".join(lines))
    (folder / "data" / "b.txt").write_text(TEXTS[0])
    fields = ("--field", "question", "--field", "answer")
    options = (
        "-b",
        folder / "backbone",
        "-o",
        folder / "new",
        *FAST[:-1],
        "--start",
        "bigrams",
        "--coupling",
        "corrected",
    )
    assert "55 documents" in succeed("train", folder / "data", *fields, *options).stderr
    model = load_model(Source(str(folder / "backbone")), str(folder / "new")).model
    assert model.head is not None and model.head.coupling == "corrected"


@pytest.mark.parametrize("stage", ["em", "objective"])
def test_resumed_training_equals_uninterrupted(folder: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["train", folder / "text.txt", "-b", folder / "backbone", *FAST[:-1], "--objective-epochs", 2]
    command += ["--cache", folder / "cache"]
    succeed(*command, "-o", folder / "whole")
    say = Told.say

    def interrupt(self: Told, text: str) -> None:
        if text.startswith(f"{stage}, epoch 1"):
            raise KeyboardInterrupt
        say(self, text)

    resumed = [*command, "-o", folder / "resumed", "--checkpoint", folder / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(Told, "say", interrupt)
        stopped = run(*resumed)
    assert stopped.exit_code == 130 and "interrupted" in stopped.stderr and not (folder / "resumed").exists()
    succeed(*resumed)
    assert files(folder / "resumed") == files(folder / "whole")


def test_generate_reads_prompts_from_anywhere(folder: Path) -> None:
    (folder / "prompt.txt").write_text("3 and")
    command = ("generate", "--head", folder / "head", "-n", 10, "--ignore-eos")
    texts = {
        succeed(*command, "3 and").stdout,
        succeed(*command, "-", stdin="3 and").stdout,
        succeed(*command, "--file", folder / "prompt.txt").stdout,
        succeed(*command, "3 and", "--no-stream").stdout,
        json.loads(succeed(*command, "3 and", "--json").stdout)["text"] + "\n",
    }
    assert len(texts) == 1
    assert texts != {succeed(*command, "4 and", "--seed", 5).stdout}


def test_samples_are_those_of_their_seeds(folder: Path) -> None:
    command = ("generate", "3 and", "--head", folder / "head", "-n", 10, "--json", "--remasking", "random")
    several = [json.loads(line) for line in succeed(*command, "--samples", 3, "--seed", 4).stdout.splitlines()]
    alone = [json.loads(succeed(*command, "--seed", seed).stdout) for seed in (4, 5, 6)]
    assert several == alone and len({row["text"] for row in alone}) > 1
    headed = succeed(*command[:-3], "--samples", 2).stdout
    assert "--- sample 1 of 2, seed 0" in headed and "--- sample 2 of 2, seed 1" in headed


def test_generate_without_a_head_and_with_settings(folder: Path) -> None:
    options = ("--temperature", 0, "--block-length", 4, "--steps", 4, "--sampling", "any_order", "-n", 8, "--json")
    found = succeed("generate", "3 and", "-b", folder / "backbone", "--head", "none", *options).stdout
    model, tokenizer, _ = load_model(Source(str(folder / "backbone")), "none")
    settings = {"steps": 4, "block_length": 4, "temperature": 0.0, "sampling": "any_order", "eos_id": 0}
    rows = model.generate(tokenizer.encode("3 and"), max_new_tokens=8, **settings).rows
    assert json.loads(found)["text"] == tokenizer.decode(rows[0].tolist())


def test_evaluate_prints_and_writes(folder: Path) -> None:
    command = ("evaluate", folder / "text.txt", "--head", folder / "head", "--windows", 6, "--orders", 1, "--quiet")
    outputs = ("--json", folder / "out" / "result.json", "--plot", folder / "figures")
    shown = succeed(*command, "--ratio", 0.5, "--ratio", 1.0, "--steps", 1, "--steps", 8, *outputs).stdout
    assert "gap closed" in shown and "prior alone" in shown and "6 windows of one document" in shown
    found = json.loads((folder / "out" / "result.json").read_text())
    assert found["mask_ratios"]["points"] == [4, 8] and found["steps"]["points"] == [1, 8]
    assert sorted(files(folder / "figures")) == ["mask_ratios.png", "steps.png"]
    assert shown.splitlines()[3].split()[0:3] == ["4", "of", "8"]


def test_evaluate_the_backbone_alone(folder: Path) -> None:
    command = ("evaluate", folder / "text.txt", "-b", folder / "backbone", "--head", "none", "--windows", 4, "--quiet")
    shown = succeed(*command, "--block-length", 4).stdout
    assert "4 of 4" in shown and "coupled" not in shown


def test_info(folder: Path) -> None:
    head = json.loads(succeed("info", folder / "head", "--json").stdout)
    assert head["kind"] == "head" and head["prior"]["states"] == 3 and head["prior"]["block_length"] == 8
    assert head["options"]["coupling"] == "projected" and head["backbone"]["name"] == str(folder / "backbone")
    backbone = json.loads(succeed("info", folder / "backbone", "--json").stdout)
    assert backbone["kind"] == "MaskedTransformer" and backbone["parameters"] > 2000 and "head" not in backbone
    embedded = succeed("info").stdout
    assert "head.prior.states" in embedded and "1024" in embedded
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"model_type": "llada", "vocab_size": 9}')
    other = json.loads(succeed("info", folder / "other", "--json").stdout)
    assert (other["model_type"], other["vocab_size"]) == ("llada", 9)


def test_convert_hands_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.jpc").write_bytes(b"x")
    called = []

    def convert_head(path: Path, out: Path, **options: object) -> None:
        called.append((path, out, options))

    monkeypatch.setattr(pcd, "convert_head", convert_head, raising=False)
    succeed("convert", folder / "a.jpc", "--out", folder / "new", "--backbone-name", "some/model", "--gamma", 0.7)
    assert called == [(folder / "a.jpc", folder / "new", {"backbone_name": "some/model", "sharpen": 1.0, "gamma": 0.7})]
    refuse("convert", folder / "b.jpc", "--out", folder / "new", "--backbone-name", "x", match="there is no file")


BAD: list[tuple[Sequence[str], str]] = [
    (["train", "missing.txt", "-o", "new"], "there is no file or folder missing.txt"),
    (["train", "empty", "-o", "new"], "holds no .txt"),
    (["train", "text.txt", "-o", "head"], "already holds a head"),
    (["train", "text.txt", "-o", "new", "-b", "nowhere"], "nowhere"),
    (["train", "text.txt", "-o", "new", "--dtype", "int4"], "--dtype must be one of"),
    (["train", "text.txt", "-o", "new", "-b", "backbone", "--window", "4"], "shorter than a block"),
    (["train", "short.txt", "-o", "new", "-b", "backbone"], "fewer than one window of 24"),
    (["train", "blank.txt", "-o", "new", "-b", "backbone"], "no text in blank.txt"),
    (["train", "bad.jsonl", "-o", "new", "-b", "backbone"], "line 1 has no text in field 'text'"),
    (["train", "broken.jsonl", "-o", "new", "-b", "backbone"], "is not JSON"),
    (["train", "latin.txt", "-o", "new", "-b", "backbone"], "UTF-8"),
    (["train", "text.pdf", "-o", "new", "-b", "backbone"], "is none of .txt"),
    (["generate", "--head", "none"], "give one prompt"),
    (["generate", "a", "--head", "nowhere"], "does not say which backbone"),
    (["generate", "a", "--head", "head", "-b", "embedded"], "was saved with vocab_size"),
    (["generate", "a", "-b", "damaged"], "does not hold a whole"),
    (["generate", "a", "-b", "backbone", "--chat"], "no chat template"),
    (["generate", "a", "-b", "backbone", "--remasking", "best"], "`remasking` must be one of"),
    (["generate", "a", "--head", "head", "--steps", "1"], "steps"),
    (["generate", "a", "--head", "head", "--block-length", "5"], "covers 8 tokens"),
    (["evaluate", "short.txt", "--head", "head", "--quiet"], "none of the 1 documents has 24 tokens"),
    (["evaluate", "text.txt", "--head", "head", "--block-length", "5", "--quiet"], "covers 8 tokens"),
    (["info", "empty"], "holds neither"),
    (["info", "text.txt"], "holds neither"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "match"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line(
    arguments: Sequence[str], match: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    save_head(folder / "head", pcd.MaskedTransformer.load("backbone"), backbone_name="backbone")
    for name in ("empty", "damaged"):
        (folder / name).mkdir()
    (folder / "damaged" / "backbone.safetensors").write_bytes(b"no")
    (folder / "damaged" / "config.json").write_text("{}")
    contents = {
        "short.txt": b"3 and 4",
        "blank.txt": b" \n",
        "bad.jsonl": b'{"body": "x"}',
        "broken.jsonl": b"{",
        "latin.txt": b"\xe9\xff",
        "text.pdf": b"x",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    refuse(*arguments, match=match)


def test_debug_raises() -> None:
    result = run("--debug", "info", "nowhere")
    assert type(result.exception).__name__ == "DataError"


def test_version_and_python_m(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pcd", "--version"])
    with pytest.raises(SystemExit, match="0"):
        console_script.main()
    assert "pcircuits " in capsys.readouterr().out


def test_the_script_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pcircuits_diffusion.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"pip install 'pcircuits\[cli\]'"):
        console_script.main()


def test_prefixes_are_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = views.Prefix(letters, mask_id=9, eos_id=8)
    written = []
    with view:
        for tokens in ([9, 1, 9, 9], [0, 1, 9, 3], [0, 1, 2, 3], [0, 1, 2, 3]):
            view.show(torch.tensor([tokens]))
            written.append(capsys.readouterr().out)
    assert written == ["", "ab", "cd", ""]
    assert capsys.readouterr().out == "\n"


def letters(ids: Sequence[int]) -> str:
    return "".join("abcdefgh"[i] for i in ids)


def test_the_board_shows_where_tokens_stand() -> None:
    tokens = torch.tensor([0, 9, 2, 9, 8, 9])
    assert board(letters, tokens, 9, 8) == "a·c·"
    assert board(letters, tokens[:4], 9, None) == "a·c·"
    assert decided_prefix(tokens, 9, 8) == [0] and decided_prefix(tokens[[0, 2, 4]], 9, 8) == [0, 2]
    assert readable(lambda ids: "ab\ufffd", [1]) == "ab"


def test_settings_of_several_values_are_repeated_options() -> None:
    assert _plain(Sequence[int] | None) == _plain(tuple[int, ...]) == list[int]
    assert (_plain(float), _plain(str | None), _plain(int | str), _plain(object)) == (float, str, None, None)
