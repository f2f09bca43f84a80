"""How far a region's predictions moved from one step to the next: what KLASS calls stability (Kim et al. 2025).

Axes: N rows of the batch, R of them asked in a step, L positions of the region, V tokens, H steps looked back.
"""

import torch

from pcircuits.types import Float, Int, Tensor


class Drift:
    """Keeps each row's last predictions of a region, and how far those before were from them.

    Args:
        num_rows: N.
        history: H.
    """

    def __init__(self, num_rows: int, history: int) -> None:
        self._num_rows, self._history = num_rows, history
        self._last: Tensor | None = None
        self._past: Tensor | None = None

    def update(self, rows: Int[Tensor, " R"], log_marginals: Float[Tensor, "R L V"]) -> Float[Tensor, "R L"]:
        """The largest KL(this step || the one before), in nats, of each row's last H steps; infinite for rows that were
        not asked H + 1 times yet.
        """
        if self._last is None or self._past is None:
            self._last = log_marginals.new_full((self._num_rows, *log_marginals.shape[1:]), torch.nan)
            self._past = log_marginals.new_full((self._num_rows, self._history, log_marginals.shape[1]), torch.inf)
        possible = log_marginals > -torch.inf
        moved = torch.where(possible, log_marginals.exp() * (log_marginals - self._last[rows]), 0.0).sum(-1)
        past = torch.cat([self._past[rows, 1:], moved.nan_to_num(torch.inf, torch.inf).unsqueeze(1)], 1)
        self._last[rows], self._past[rows] = log_marginals, past
        return past.amax(1)
