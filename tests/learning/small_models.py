"""Small circuits and data that the learning tests share."""

import torch
from torch import Tensor

import pcircuits as pc
from pcircuits import learning

LEARNERS = [
    pc.EM(),
    pc.MiniBatchEM(step=0.5, decay=0.6),
    pc.Anemone(),
    pc.Adam(0.05, warmup=3, decay=20),
]
names = [learner.name for learner in LEARNERS]


def hmm(seed: int = 0, length: int = 4) -> pc.HMM:
    return pc.HMM(3, 4, length, seed=seed)


def sequences(n: int = 44, length: int = 4, seed: int = 0) -> Tensor:
    """Samples of a peaked HMM, so that there is something to learn."""
    source = pc.HMM.from_probs(
        torch.tensor([0.6, 0.3, 0.1]),
        torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]),
        torch.tensor([[0.9, 0.05, 0.03, 0.02], [0.02, 0.9, 0.05, 0.03], [0.03, 0.02, 0.5, 0.45]]),
        length=length,
    )
    return source.sample(n, generator=torch.Generator().manual_seed(seed))


def tree(inputs: pc.Categorical | pc.Gaussian, num_variables: int = 4, seed: int = 0) -> pc.Circuit:
    return pc.Circuit(pc.structures.binary_tree(num_variables), inputs, num_units=3, seed=seed)


def fit(model: torch.nn.Module, data: learning.batches.Data, **options: object) -> learning.History:
    """`pc.fit` without a bar, from seed 0."""
    return pc.fit(model, data, **{"seed": 0, "progress": False, **options})  # type: ignore[arg-type]


def mean_log_prob(circuit: pc.Circuit, x: Tensor) -> float:
    with torch.no_grad():
        return float(circuit.log_prob(x).mean())


def log_partition(circuit: pc.Circuit) -> float:
    with torch.no_grad():
        return float(circuit.condition(pc.Evidence.nothing(1, circuit.num_variables)).log_evidence)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Exact equality."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> bool:
    return a.keys() == b.keys() and all(
        torch.allclose(a[n].softmax(-1), b[n].softmax(-1), atol=tolerance, rtol=0.0) for n in a
    )
