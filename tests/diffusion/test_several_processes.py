"""Two processes that train a head together reach what one reaches."""

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pcircuits import learning
from pcircuits.errors import DataError
from tests.processes import run_together

SCRIPT = """
import sys
from pathlib import Path
import safetensors.torch, torch
import pcircuits as pc, pcircuits_diffusion as pcd
from pcircuits import learning
from tests.diffusion.tiny_models import hmm, table_backbone, VOCAB
from pcircuits_diffusion import logit_cache

torch.set_num_threads(1)
logit_cache.SHARD_WINDOWS = 4
rank, size = learning.join()
torch.manual_seed(rank)
prior = hmm()
if rank > 0:
    with torch.no_grad():
        prior.group("emission").get_parameter("logits").normal_()  # the first process's parameters count
head, folder = pcd.CoupledHead(prior, coupling="corrected", learn_exponents=2), Path(sys.argv[1])
windows = torch.randint(VOCAB, (11, 6), generator=torch.Generator().manual_seed(0))
history = pcd.train_head(head, table_backbone(), windows, valid=windows[:3], cache=folder / "cache", batch_size=4,
    epochs=int(sys.argv[2]), seed=0, checkpoint=folder / "run", resume=True, progress=False, learner=pc.Adam(0.05))
losses = torch.tensor([[e.train_loss, e.valid_loss] for e in history.epochs], dtype=torch.float64)
kept = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
safetensors.torch.save_file({**kept, "losses": losses}, folder / f"{size}_{rank}.safetensors")
"""


def run(folder: Path, size: int, epochs: int) -> list[dict[str, torch.Tensor]]:
    run_together(SCRIPT, size, str(folder), str(epochs))
    return [safetensors.torch.load_file(folder / f"{size}_{rank}.safetensors") for rank in range(size)]


def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    """Also after an interruption; and each shard of predictions was written once, by one of them."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (alone,) = run(tmp_path / "one", 1, 2)
    run(tmp_path / "two", 2, 1)
    together = run(tmp_path / "two", 2, 2)
    for name, value in alone.items():
        assert torch.equal(together[0][name], together[1][name]), name
        assert torch.allclose(together[0][name], value, rtol=1e-6, atol=1e-8), name
    files = [sorted(p.name for p in (tmp_path / n / "cache" / "train").iterdir()) for n in ("one", "two")]
    assert files[0] == files[1] and len(files[0]) == 3


def test_a_batch_is_shared_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    index = torch.tensor([4, 1, 7, 3, 0])
    assert torch.equal(learning.share(index), index) and learning.place() == (0, 1) == learning.join()
    parts = []
    for rank in range(3):
        monkeypatch.setattr(sys.modules["pcircuits.learning.distributed"], "place", lambda rank=rank: (rank, 3))
        parts.append(learning.share(index))
    assert sorted(torch.cat(parts).tolist()) == [0, 1, 3, 4, 7]
    with pytest.raises(DataError, match="2 rows cannot be shared by 3"):
        learning.share(index[:2])
