"""hmmlearn's CategoricalHMM with the same parameters, by the faster of its two implementations ("scaling")."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hmmlearn.hmm import CategoricalHMM


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    x = arrays["x"]
    flat, lengths = x.reshape(-1, 1), [x.shape[1]] * x.shape[0]
    states, categories = arrays["emission"].shape
    initial, transition, emission = (
        arrays[name].astype(np.float64) / arrays[name].astype(np.float64).sum(-1, keepdims=True)
        for name in ("initial", "transition", "emission")
    )
    hmm = CategoricalHMM(
        states, n_features=categories, init_params="", params="ste", n_iter=1, implementation="scaling", random_state=0
    )

    def reset() -> None:
        hmm.startprob_, hmm.transmat_, hmm.emissionprob_ = initial, transition, emission

    def em() -> list[float]:
        reset()
        hmm.fit(flat, lengths)
        return [hmm.monitor_.history[-1]]

    def em_transition() -> np.ndarray:
        em()
        found = hmm.transmat_
        reset()
        return found

    reset()
    return {
        "forward_total": lambda: [hmm.score(flat, lengths)],
        "forward": lambda: hmm.score(flat, lengths),
        "em": em,
        "em_transition": em_transition,
        "sample": lambda: [hmm.sample(x.shape[1]) for _ in range(1000)],
    }
