"""What the demo says of its results: figures that were measured, and no more."""

import math
from collections.abc import Sequence

from pcircuits_diffusion.evaluate import (
    FACTORISED,
    DocumentBootstrap,
    MaskRatioCurves,
    Overhead,
    StepLikelihoods,
)

CONTROL = "circuit alone"


def shares(curves: MaskRatioCurves, bootstrap: DocumentBootstrap, name: str) -> str:
    """How much of the one-step gap is closed, over the mask counts where there is one."""
    found = [100 * interval.estimate for interval in curves.share_closed(name, bootstrap)]
    found = [share for share in found if math.isfinite(share)]
    low, high = min(found), max(found)
    closes = f"{low:.0f}%" if round(low) == round(high) else f"{low:.0f}% to {high:.0f}%"
    said = f"One coupled step closes {closes} of the one-step gap on this corpus, depending on how much is masked."
    return f"{said} Above 100% the circuit adds what this small backbone lacks." if high > 100 else said


def controls(curves: MaskRatioCurves, name: str) -> str:
    """Whether backbone and circuit add up, at the mask count nearest to one half."""
    middle = min(range(len(curves.points)), key=lambda point: abs(curves.ratios[point] - 0.5))
    alone, backbone, coupled = (curves.mean(key)[middle] for key in (CONTROL, FACTORISED, name))
    stronger = " The circuit alone is the better one of the two here." if alone < backbone else ""
    return (
        f"With {curves.points[middle]} of {curves.block_length} masked, in nats a token: circuit alone {alone:.2f}, "
        f"backbone alone in one step {backbone:.2f}, both together {coupled:.2f}.{stronger}"
    )


def steps(likelihoods: StepLikelihoods, bootstrap: DocumentBootstrap, name: str) -> str:
    """For which step counts the gain's interval lies above zero."""
    gains = likelihoods.gain(name, bootstrap)
    better = [f"{point}" for point, gain in zip(likelihoods.points, gains, strict=True) if gain.low > 0]
    worse = [f"{point}" for point, gain in zip(likelihoods.points, gains, strict=True) if gain.high < 0]
    parts = [f"better at T = {_listed(better)}"] if better else []
    parts += [f"worse at T = {_listed(worse)}"] if worse else []
    undecided = len(gains) - len(better) - len(worse)
    parts += [f"not told apart at {'the others' if parts else 'any T'}"] if undecided else []
    return f"Held-out text under the coupled model against the backbone alone: {'; '.join(parts)} (95% intervals)."


def overhead(measured: Sequence[Overhead]) -> list[str]:
    return [
        f"batch {o.batch_size:>2}: backbone {o.backbone_ms:.1f} ms, head {o.head_ms:.1f} ms a step; "
        f"the head takes {o.share:.0%} of the run time"
        for o in measured
    ]


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
