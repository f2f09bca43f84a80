"""What a run of `fit` did."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Epoch(NamedTuple):
    """One pass over the data. Losses are means: minus a sample's log likelihood in nats, or what the objective says.

    `train_loss` is measured on the way, with the parameters that each batch met; `valid_loss` afterwards.
    """

    number: int
    train_loss: float
    valid_loss: float | None
    seconds: float


@dataclass
class History:
    """Epochs in order, and how the run ended.

    `initial_valid_loss` is that of the parameters before the first epoch. `best_epoch` is the one with the least
    validation loss, -1 for those parameters; with early stopping the model ends with its parameters.
    """

    epochs: list[Epoch] = field(default_factory=list)
    initial_valid_loss: float | None = None
    best_epoch: int | None = None
    best_valid_loss: float | None = None
    stopped_early: bool = False

    @property
    def train_loss(self) -> list[float]:
        return [epoch.train_loss for epoch in self.epochs]

    @property
    def valid_loss(self) -> list[float | None]:
        return [epoch.valid_loss for epoch in self.epochs]

    def improves(self, loss: float) -> bool:
        return self.best_valid_loss is None or loss < self.best_valid_loss

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "History":
        epochs = [Epoch(*epoch) for epoch in stored["epochs"]]
        return cls(**{**stored, "epochs": epochs})
