"""What the library holds itself to, beside what was measured."""

from typing import NamedTuple

BARE = "bare products"
OURS = "pcircuits"


class Bound(NamedTuple):
    """Times the bare products at most, or times faster than a peer at least."""

    limit: float
    at_most: bool

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.limit:g}"


TIMES_BARE = {
    ("layer, K=32", "forward"): 1.7,
    ("layer, K=32", "train"): 1.6,
    ("layer, K=64", "forward"): 1.4,
    ("layer, K=64", "train"): 1.4,
    ("w1, K=32", "forward"): 2.5,
    ("w1, K=32", "train"): 2.7,
    ("w1, K=64", "forward"): 1.7,
    ("w1, K=64", "train"): 1.8,
    ("h1, H=1024", "forward"): 1.15,
    ("h1, H=1024", "gradient"): 1.15,
    ("h1, H=1024", "em"): 1.15,
}
TIMES_FASTER = {
    ("w1, K=32", "forward", "cirkit"): 4.0,
    ("w1, K=32", "train", "cirkit"): 2.5,
    ("w1, K=64", "forward", "cirkit"): 4.0,
    ("w1, K=64", "train", "cirkit"): 2.5,
    ("w2", "forward", "cirkit"): 4.0,
    ("w2", "train", "cirkit"): 2.5,
    ("w2", "sample", "cirkit's forward pass"): 4.0,
    ("h1, H=64", "em", "hmmlearn"): 5.0,
    ("h1, H=256", "em", "hmmlearn"): 20.0,
    ("h1, H=256", "forward", "dynamax, its filter"): 2.0,
    ("h1, H=256", "gradient", "dynamax, its filter"): 2.5,
}


def bound(workload: str, action: str, side: str) -> Bound | None:
    """What is asked of us on a workload against a side: of every peer, at least to be no slower."""
    if side != BARE:
        return Bound(TIMES_FASTER.get((workload, action, side), 1.0), at_most=False)
    limit = TIMES_BARE.get((workload, action))
    return None if limit is None else Bound(limit, at_most=True)


MARGINALS_OVER_TRAIN = 1.0
"""Posterior marginals of every row over a training step."""
EXPONENT_SLACK = 0.15
"""How far a fitted exponent may lie above the stated one."""
EXPONENTS = {"batch": 1, "variables": 1, "depth": 1, "vocabulary": 1, "width": 2, "width, Tucker": 3}
BUILD_SECONDS = 30.0
"""For 100 million parameters."""
TRAIN_BYTES = 8 * 2**30
"""For training them."""
PEER_MEMORY = 0.5
"""Our peak memory over cirkit's."""
