"""Heads on the hub, with `huggingface_hub` replaced: no test opens a connection."""

import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

import pcircuits as pc
import pcircuits_diffusion as pcd
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.mixture import HeadMixture
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import VOCAB, hmm, table_backbone, transformer

REPO = "someone/tiny-head"


def http_error(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    error = kind.__new__(kind)  # what its constructor takes differs between versions
    error.args = ("the hub says no",)
    return error


class Hub:
    """Repositories as folders, one a revision, behind the calls that this package makes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.error = folder, [], None
        self.read: dict[str, Any] = {}

    def note(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.error is not None:
            raise self.error

    def at(self, repo_id: str, revision: str | None) -> Path:
        return self.folder / repo_id / (revision or "main")

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str], **options: Any
    ) -> str:
        self.read = options
        self.note("snapshot_download", repo_id=repo_id, revision=revision)
        if not self.at(repo_id, None).exists():
            raise http_error(errors.RepositoryNotFoundError)
        if not self.at(repo_id, revision).exists():
            raise http_error(errors.RevisionNotFoundError)
        target = self.folder / "cache"
        for path in self.at(repo_id, revision).rglob("*"):
            name = path.relative_to(self.at(repo_id, revision)).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)
        return str(target)

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        self.note("create_repo", repo_id=repo_id, private=private, exist_ok=exist_ok)
        self.at(repo_id, None).mkdir(parents=True, exist_ok=exist_ok)

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        self.note("create_branch", branch=branch, exist_ok=exist_ok)
        if not self.at(repo_id, branch).exists():
            shutil.copytree(self.at(repo_id, None), self.at(repo_id, branch))

    def file_exists(self, repo_id: str, name: str, *, revision: str | None) -> bool:
        return (self.at(repo_id, revision) / name).exists()

    def upload_folder(
        self, *, repo_id: str, folder_path: str, commit_message: str, revision: str | None, delete_patterns: list[str]
    ) -> Any:
        self.note("upload_folder", commit_message=commit_message, revision=revision)
        target = self.at(repo_id, revision)
        for path in target.rglob("*"):
            if path.is_file() and any(fnmatch(path.relative_to(target).as_posix(), p) for p in delete_patterns):
                path.unlink()
        shutil.copytree(folder_path, target, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://example.org/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")

    def api(token: str | None = None) -> Hub:
        hub.note("HfApi", token=token)
        return hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    return hub


@pytest.fixture
def model() -> CoupledDiffusion:
    return CoupledDiffusion(table_backbone(), CoupledHead(hmm(), coupling="corrected", gamma=0.9))


def same(first: CoupledDiffusion, second: CoupledDiffusion) -> bool:
    assert first.head is not None and second.head is not None
    states = first.head.state_dict(), second.head.state_dict()
    return all(a.equal(b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_a_head_goes_to_the_hub_and_comes_back(hub: Hub, model: CoupledDiffusion) -> None:
    address = model.push_to_hub(REPO, backbone_name="tiny/table", private=True, token="secret", commit_message="first")
    assert address == f"https://example.org/{REPO}/commit/1"
    assert hub.calls == [
        ("HfApi", {"token": "secret"}),
        ("create_repo", {"repo_id": REPO, "private": True, "exist_ok": True}),
        ("upload_folder", {"commit_message": "first", "revision": None}),
    ]
    (hub.at(REPO, None) / "pytorch_model.bin").write_bytes(b"not ours")
    options: dict[str, Any] = {"cache_dir": "cache", "token": "secret", "local_files_only": True}
    again = CoupledDiffusion.from_pretrained(REPO, backbone=table_backbone(), **options)
    assert same(again, model) and hub.read == options
    names = sorted(path.name for path in (hub.folder / "cache").rglob("*") if path.is_file())
    assert names[0].startswith("circuit-") and names[1:] == ["circuit.json", "head.json", "head.safetensors"]


def test_each_revision_has_its_head(hub: Hub, model: CoupledDiffusion) -> None:
    other = CoupledDiffusion(table_backbone(), CoupledHead(hmm(3)))
    model.push_to_hub(REPO)
    other.push_to_hub(REPO, revision="wide")
    for revision, want in ((None, model), ("wide", other)):
        got = CoupledDiffusion.from_pretrained(REPO, backbone=table_backbone(), revision=revision)
        assert same(got, want)
    assert len(list((hub.at(REPO, "wide") / "prior").glob("*.safetensors"))) == 1, "what is replaced is deleted"


def test_a_mixture_goes_to_the_hub_and_comes_back(hub: Hub, model: CoupledDiffusion) -> None:
    mixture = CoupledDiffusion(table_backbone(), HeadMixture([CoupledHead(hmm()), CoupledHead(hmm(3))]))
    mixture.push_to_hub(REPO, backbone_name="tiny/table")
    assert same(CoupledDiffusion.from_pretrained(REPO, backbone=table_backbone()), mixture)
    card = (hub.at(REPO, None) / "README.md").read_text()
    assert "| head 1 | share 0.500; prior HMM" in card
    model.push_to_hub(REPO)
    assert same(CoupledDiffusion.from_pretrained(REPO, backbone=table_backbone()), model)
    assert not list(hub.at(REPO, None).glob("part-*/*.*")), "what is replaced is deleted"


def test_the_card_says_how_to_use_it_and_a_written_one_stays(hub: Hub, model: CoupledDiffusion) -> None:
    model.push_to_hub(REPO, backbone_name="tiny/table", backbone_revision="abc")
    card = hub.at(REPO, None) / "README.md"
    text = card.read_text()
    for part in (
        "base_model: tiny/table", "library_name: pcircuits", f'from_pretrained("{REPO}")', "revision `abc`",
        "| coupling | corrected |", "| gamma | 0.9 |", "HMM",
    ):  # fmt: skip
        assert part in text, part
    assert text.startswith("---\n") and text.count("---\n") == 2
    card.write_text("my own words")
    model.push_to_hub(REPO)
    assert card.read_text() == "my own words"


def test_a_backbone_that_is_no_repository_is_not_linked(hub: Hub, model: CoupledDiffusion) -> None:
    model.push_to_hub(REPO, backbone_name="./my folder")
    assert "base_model" not in (hub.at(REPO, None) / "README.md").read_text()


def test_without_a_head_there_is_nothing_to_push(hub: Hub) -> None:
    with pytest.raises(pc.ParameterError, match="no head"):
        CoupledDiffusion(table_backbone()).push_to_hub(REPO)
    assert not hub.calls


ERRORS = [
    (http_error(errors.GatedRepoError), "gated"),
    (http_error(errors.RepositoryNotFoundError), "is not on the hub"),
    (http_error(errors.RevisionNotFoundError), "has no revision 'v9'"),
    (http_error(errors.HfHubHTTPError), "the hub says no"),
    (errors.LocalEntryNotFoundError("nothing cached"), "not in the cache at revision 'v9'.*nothing cached"),
    (errors.HFValidationError("bad id"), "no id of the hub: bad id"),
    (errors.OfflineModeIsEnabled("offline"), "offline"),
    (ConnectionError("no route"), "no route"),
    (errors.HfHubHTTPError.__bases__[0]("timed out"), "timed out"),
]


@pytest.mark.parametrize(("error", "message"), ERRORS, ids=lambda value: type(value).__name__)
def test_what_the_hub_refuses_is_said(hub: Hub, model: CoupledDiffusion, error: Exception, message: str) -> None:
    hub.error = error
    with pytest.raises(pcd.HubError, match=f"{REPO}, which is no folder here,.*{message}") as raised:
        CoupledDiffusion.from_pretrained(REPO, backbone=table_backbone(), revision="v9")
    assert raised.value.__cause__ is error and isinstance(raised.value, pc.PCircuitsError)


def test_what_the_hub_refuses_to_take_is_said(hub: Hub, model: CoupledDiffusion, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise http_error(errors.HfHubHTTPError)

    monkeypatch.setattr(Hub, "create_repo", refuse)
    with pytest.raises(pcd.HubError, match=f"{REPO}.*the hub says no"):
        model.push_to_hub(REPO)


def test_absent_repositories_and_revisions(hub: Hub, model: CoupledDiffusion) -> None:
    model.push_to_hub(REPO)
    with pytest.raises(pcd.HubError, match=r"someone/else.*is not on the hub"):
        CoupledDiffusion.from_pretrained("someone/else", backbone=table_backbone())
    with pytest.raises(pcd.HubError, match="no revision 'v2'"):
        CoupledDiffusion.from_pretrained(REPO, backbone=table_backbone(), revision="v2")


def test_a_repository_without_a_head_is_refused(hub: Hub) -> None:
    hub.at(REPO, None).mkdir(parents=True)
    (hub.at(REPO, None) / "model.safetensors").write_bytes(b"another model")
    with pytest.raises(pc.FormatError, match=r"head\.json cannot be read"):
        CoupledDiffusion.from_pretrained(REPO, backbone=table_backbone())


@pytest.mark.parametrize("place", ["a/b/c", "/absent/folder", "../head", "a head", Path("absent")])
def test_what_is_neither_folder_nor_id_is_refused(hub: Hub, place: str | Path) -> None:
    with pytest.raises(pc.FormatError, match="there is no folder"):
        CoupledDiffusion.from_pretrained(place, backbone=table_backbone())
    assert not hub.calls


def test_a_folder_has_no_revision(model: CoupledDiffusion, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(pc.ParameterError, match="has no `revision`"):
        CoupledDiffusion.from_pretrained(tmp_path, backbone=table_backbone(), revision="v1")


# --- the backbone that the head names ---


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Replaces `load_backbone`; what it was asked for."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def load_backbone(name: str, *, revision: str | None = None, **options: Any) -> CallableBackbone:
        asked.append((name, {"revision": revision, **options}))
        if name != "tiny/table":
            raise pc.ParameterError(f"there is no {name}")
        return table_backbone()

    monkeypatch.setattr(pcd, "load_backbone", load_backbone, raising=False)
    return asked


def test_the_named_backbone_is_loaded(model: CoupledDiffusion, tmp_path: Path, loaded: list) -> None:
    model.save_pretrained(tmp_path, backbone_name="tiny/table", backbone_revision="abc")
    again = CoupledDiffusion.from_pretrained(tmp_path, trust_remote_code=True)
    assert loaded == [("tiny/table", {"revision": "abc", "vocab_size": VOCAB, "trust_remote_code": True})]
    options: dict[str, Any] = {"max_new_tokens": 8, "steps": 4, "seeds": [3]}
    assert again.generate([1], **options).tokens.equal(model.generate([1], **options).tokens)


def test_the_backbones_own_name_and_revision_are_saved(tmp_path: Path, loaded: list) -> None:
    backbone = table_backbone()
    backbone.name_or_path, backbone.revision = "tiny/table", "def"  # type: ignore[attr-defined]
    CoupledDiffusion(backbone, CoupledHead(hmm())).save_pretrained(tmp_path)
    CoupledDiffusion.from_pretrained(tmp_path)
    assert loaded == [("tiny/table", {"revision": "def", "vocab_size": VOCAB})]


def test_a_name_that_cannot_be_loaded_says_what_to_do(model: CoupledDiffusion, tmp_path: Path, loaded: list) -> None:
    model.save_pretrained(tmp_path, backbone_revision="abc")
    message = "'CallableBackbone' at revision 'abc', cannot be loaded: there is no CallableBackbone; .*give `backbone`"
    with pytest.raises(pc.ParameterError, match=message):
        CoupledDiffusion.from_pretrained(tmp_path)


def test_a_named_backbone_that_does_not_fit_is_refused(
    model: CoupledDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(pcd, "load_backbone", lambda name, **_: transformer(), raising=False)
    with pytest.raises(pc.ShapeError, match=r"vocab_size 3.*this backbone has 7"):
        CoupledDiffusion.from_pretrained(tmp_path)


def test_options_of_a_backbone_need_one_to_load(model: CoupledDiffusion, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(pc.ParameterError, match=r"trust_remote_code.*but `backbone` was given"):
        CoupledDiffusion.from_pretrained(tmp_path, backbone=table_backbone(), trust_remote_code=True)


# --- heads that others released ---

JPC = Path(__file__).parents[1] / "interop" / "jpc"


def test_a_released_head_is_converted(tmp_path: Path) -> None:
    written = pcd.convert_head(
        JPC / "soft_evidence_hmm.jpc", tmp_path, backbone_name="tiny/five", backbone_revision="v1", gamma=0.5
    )
    table = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    backbone = CallableBackbone(lambda tokens: table.expand(*tokens.shape, 5), vocab_size=5, mask_id=5)
    model = CoupledDiffusion.from_pretrained(tmp_path, backbone=backbone)
    head = model.head
    assert head is not None and (head.coupling, head.gamma, head.sharpen) == ("product", 0.5, 1.0)
    assert isinstance(head.prior, pc.HMM) and head.prior.transition.equal(written.prior.transition)
    prior = pc.interop.read_jpc(JPC / "soft_evidence_hmm.jpc")
    x, tokens, mask = torch.randint(5, (6, 4)), torch.zeros(6, 4).long(), torch.ones(6, 4, dtype=torch.bool)
    logits = table.expand(6, 4, 5)
    want = prior.condition(pc.Evidence(log_weights=logits.log_softmax(-1))).log_prob(x)
    assert torch.allclose(head(logits, None, tokens, mask).log_prob(x), want)


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(pc.FormatError, match="external_params"):
        pcd.convert_head(JPC / "external_params.jpc", out, backbone_name="x")
    with pytest.raises(pc.StructureError, match="prior"):
        pcd.convert_head(JPC / "gaussian_hclt.jpc", out, backbone_name="x")
    with pytest.raises(pc.ParameterError, match="backbone_name"):
        pcd.convert_head(JPC / "hmm.jpc", out, backbone_name="")
    with pytest.raises(pc.ParameterError, match="gamma"):
        pcd.convert_head(JPC / "hmm.jpc", out, backbone_name="x", gamma=2.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(pc.ParameterError, match="is a file"):
        pcd.convert_head(JPC / "hmm.jpc", tmp_path / "file", backbone_name="x")
    assert not out.exists()
