"""`pcd info`: what a folder holds."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import pcircuits as pc
from pcircuits_diffusion import embedded, pretrained, resolve
from pcircuits_diffusion.backbones.transformer import CONFIG_FILE, WEIGHTS_FILE
from pcircuits_diffusion.mixture import HeadMixture

MIB = 2**20
FLOAT_BYTES = 4  # parameters are float32 in memory
SHOWN_OF_OTHERS = ("model_type", "architectures", "vocab_size", "mask_token_id", "hidden_size", "num_hidden_layers")


def info(
    folder: Annotated[str, typer.Argument(help='A folder, or "embedded".')] = resolve.EMBEDDED,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a head or a backbone is.

    When: you were given a folder, or want to know what a model needs. Nothing is downloaded.

    Examples:

    pcd info my_head

    pcd info embedded --json
    """
    facts = describe(embedded.FOLDER if folder == resolve.EMBEDDED else Path(folder))
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    table = Table(show_header=False, box=None)
    for name, value in _flat(facts):
        table.add_row(name, value)
    Console(soft_wrap=True).print(table)


def describe(folder: Path) -> dict[str, Any]:
    """A backbone with the head beside it, or a head.

    Raises:
        pc.DataError: a folder that holds neither.
    """
    if (folder / pretrained.CONFIG_FILE).is_file():
        return describe_head(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise pc.DataError(f"{folder} holds neither {pretrained.CONFIG_FILE} (a head) nor {CONFIG_FILE} (a backbone)")
    facts = describe_backbone(folder)
    beside = folder / resolve.HEAD_FOLDER
    return {**facts, "head": describe_head(beside)} if (beside / pretrained.CONFIG_FILE).is_file() else facts


def describe_head(folder: Path) -> dict[str, Any]:
    head, _ = pretrained.load_head(folder)
    saved = json.loads((folder / pretrained.CONFIG_FILE).read_text(encoding="utf-8"))
    if isinstance(head, HeadMixture):
        parts = [describe_head(folder / pretrained.PART_FOLDER.format(n)) for n in range(len(head.parts))]
        shares = head.log_shares.softmax(0).tolist()
        named = {
            f"head {n}": {"share": round(share, 3), "options": part["options"], "prior": part["prior"]}
            for n, (share, part) in enumerate(zip(shares, parts, strict=True))
        }
        return {"kind": "mixture of heads", "backbone": saved["backbone"], **named, **_sizes(head, folder)}
    prior = head.prior
    return {
        "kind": "head",
        "backbone": saved["backbone"],
        "options": saved["options"],
        "prior": {
            "kind": type(prior).__name__,
            "block_length": head.block_length,
            "vocab_size": head.vocab_size,
            "states": prior.num_units,
            "levels": len(prior.plan.levels),
        },
        **_sizes(head, folder),
    }


def describe_backbone(folder: Path) -> dict[str, Any]:
    if (folder / WEIGHTS_FILE).is_file():
        backbone = resolve.load_backbone(resolve.Source(str(folder)))
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return {"kind": type(backbone).__name__, "mask_id": backbone.mask_id, **config, **_sizes(backbone, folder)}
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        shown = {name: config[name] for name in SHOWN_OF_OTHERS if name in config}
    except (ValueError, TypeError) as error:
        raise pc.FormatError(f"{folder / CONFIG_FILE} does not describe a model: {error}") from error
    return {"kind": "transformers model", **shown, "files_mib": _files_mib(folder)}


def _sizes(module: Any, folder: Path) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {
        "parameters": parameters,
        "memory_mib": round(parameters * FLOAT_BYTES / MIB, 1),
        "files_mib": _files_mib(folder),
    }


def _files_mib(folder: Path) -> float:
    """What belongs to the folder itself, without a head beside it."""
    beside = folder / resolve.HEAD_FOLDER
    files = (file for file in folder.rglob("*") if file.is_file() and beside not in file.parents)
    return round(sum(file.stat().st_size for file in files) / MIB, 1)


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", str(value))]
    return rows
