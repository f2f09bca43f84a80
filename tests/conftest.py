"""What all tests share: one thread, fixed seeds, two hypothesis profiles, no GPU tests where there is no GPU."""

import os
import random

import hypothesis
import numpy as np
import pytest
import torch

from tests import shape_checks

os.environ.setdefault("MPLBACKEND", "Agg")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported
torch.set_num_threads(1)
shape_checks.install()


class _TorchRandom:
    """Lets hypothesis restore torch's global generator between examples, as it does Python's and numpy's."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_TORCH_RANDOM = _TorchRandom()  # hypothesis keeps a weak reference
hypothesis.register_random(_TORCH_RANDOM)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25, print_blob=True)
hypothesis.settings.register_profile("campaign", deadline=None, max_examples=400, print_blob=True)
hypothesis.settings.load_profile("ci")  # --hypothesis-profile=campaign overrides it


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
