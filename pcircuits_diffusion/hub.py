"""Heads on the Hugging Face hub: fetched and uploaded through `huggingface_hub`, only the files of a head."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import pcircuits as pc
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.mixture import HeadMixture
from pcircuits_diffusion.pretrained import FILES, PART_FOLDER, PRIOR_FOLDER, BackboneInfo, save_head

CARD_FILE = "README.md"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class HubError(pc.PCircuitsError, OSError):
    """The hub has no such repository or revision, refuses access, or cannot be reached."""


def find_head(folder_or_hub_id: str | os.PathLike, *, revision: str | None = None, **options: Any) -> Path:
    """The folder itself, or the local copy of a repository's head.

    Args:
        revision: branch, tag or commit of a repository.
        options: `cache_dir`, `token`, `local_files_only`, as `huggingface_hub.snapshot_download` has them.

    Raises:
        HubError: see there. pc.FormatError: neither a folder nor an id. pc.ParameterError: a folder with a revision.
    """
    if Path(folder_or_hub_id).is_dir():
        if revision is not None:
            raise pc.ParameterError(f"{folder_or_hub_id} is a folder, which has no `revision`, got {revision!r}")
        return Path(folder_or_hub_id)
    if not isinstance(folder_or_hub_id, str) or not _HUB_ID.fullmatch(folder_or_hub_id):
        raise pc.FormatError(f"there is no folder {folder_or_hub_id}; give one that holds a head, or a hub id")
    from huggingface_hub import snapshot_download

    with _clear_errors(f"{folder_or_hub_id}, which is no folder here,", revision):
        return Path(snapshot_download(folder_or_hub_id, revision=revision, allow_patterns=list(FILES), **options))


def upload_head(
    head: CoupledHead | HeadMixture,
    backbone: BackboneInfo,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload a coupled head",
    revision: str | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Saves the head in a repository, which is created if it is not there, and returns the commit's address.

    Tensors that the head replaces are deleted, a model card that is there already stays.

    Raises:
        HubError: no access, or no connection. pc.ParameterError: a head that cannot be saved.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_head(head, folder, backbone, dtype)
        with _clear_errors(repo_id, revision):
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            if not api.file_exists(repo_id, CARD_FILE, revision=revision):
                Path(folder, CARD_FILE).write_text(model_card(head, backbone, repo_id), encoding="utf-8")
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                delete_patterns=[f"{PRIOR_FOLDER}/*.safetensors", f"{PART_FOLDER.format('*')}/*"],
            )
    return str(commit.commit_url)


def model_card(head: CoupledHead | HeadMixture, backbone: BackboneInfo, repo_id: str) -> str:
    """What the repository's page says: for which backbone the head is, what it is, and how to use it."""
    named_revision = f", revision `{backbone.revision}`" if backbone.revision else ""
    base = [f"base_model: {backbone.name}"] if _HUB_ID.fullmatch(backbone.name) else []
    front = ["---", "library_name: pcircuits", *base, "tags:", "- discrete-diffusion", "- probabilistic-circuit", "---"]
    facts = {"block": f"{head.block_length} tokens of {head.vocab_size}"}
    if isinstance(head, HeadMixture):
        shares = head.log_shares.softmax(0).tolist()
        for number, (part, share) in enumerate(zip(head.parts, shares, strict=True)):
            facts[f"head {number}"] = f"share {share:.3f}; " + ", ".join(f"{k} {v}" for k, v in _facts(part).items())
    else:
        facts = {**_facts(head), **facts}
    return "\n".join(
        [
            *front,
            f"# A coupled head for `{backbone.name}`",
            "",
            f"Samples the tokens of a diffusion step jointly (Li et al. 2026) on the backbone `{backbone.name}`"
            f"{named_revision}, which is not part of this repository.",
            "",
            "```python",
            "import pcircuits_diffusion as pcd",
            "",
            f'model = pcd.CoupledDiffusion.from_pretrained("{repo_id}")',
            "```",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "",
        ]
    )


def _facts(head: CoupledHead) -> dict[str, Any]:
    return {"prior": f"{type(head.prior).__name__}, {head.prior.extra_repr()}", **head.options}


@contextmanager
def _clear_errors(what: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(f"{what} is gated on the hub: ask there for access, and give your `token`") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{what} has no revision {revision!r} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{what} is not on the hub, or not for you: check the name, and give your `token`") from error
    except errors.LocalEntryNotFoundError as error:
        asked = "" if revision is None else f" at revision {revision!r}"
        raise HubError(f"{what} is not in the cache{asked}, and was not fetched from the hub: {error}") from error
    except errors.HFValidationError as error:
        raise HubError(f"{what} is no id of the hub: {error}") from error
    except errors.HfHubHTTPError.__bases__ as error:  # type: ignore[misc]  # its transport's, whichever library that is
        raise HubError(f"{what} is not available: the hub answers with an error, or not at all: {error}") from error
