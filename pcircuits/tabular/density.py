"""A density estimator of tables, with the interface of scikit-learn."""

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from pcircuits import structures
from pcircuits.circuit import Circuit
from pcircuits.errors import DataError, EvidenceError
from pcircuits.evidence import Evidence
from pcircuits.learning import EM, fit
from pcircuits.operations import mixture
from pcircuits.posterior import Posterior
from pcircuits.queries import Moments
from pcircuits.structures import RegionGraph
from pcircuits.tabular.columns import Label, Table, is_frame

_BINS = 8  # of a continuous column, for the mutual informations that choose the structure
_ROWS = 1024  # a batch of queries


def _has_categories(estimator: "CircuitDensity") -> bool:
    return any(column.categories is not None for column in estimator.table_.columns)


class CircuitDensity(DensityMixin, BaseEstimator):
    """The joint distribution of a table's columns: a hidden Chow-Liu tree (Liu and Van den Broeck 2021), learned by EM.

    Columns may be categorical or continuous and may miss values (NaN, None, pd.NA), in fitting and in queries:
    missing values are summed out exactly. Arrays and pandas data frames come back as what they went in.

    Args:
        n_units: units a region; more fit finer detail and take longer.
        n_circuits: fits from different starts and with different held-out rows; their mixture is the estimate, which
            depends less on either.
        max_iter: epochs of EM, at most.
        pseudocount: samples of smoothing a sum.
        categorical_features: "auto", or a list of columns (names of a data frame, else numbers). Auto: values that are
            not numbers, booleans, and whole numbers with at most `max_categories` different ones.
        validation_fraction: share of rows that decides when to stop; 0: all `max_iter` epochs are made.
        n_iter_no_change: epochs without a better held-out score after which fitting stops.
        random_state: of initial parameters, the held-out rows and, where a method is given none, of samples.

    Attributes:
        circuit_: the `Circuit`, for every other query. Continuous columns are in standard units.
        table_: the columns, with categories and units.
        n_iter_: epochs made, by the circuit that made most.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's settings are arguments, and any value may be set before `fit`
        self,
        n_units: Any = 16,
        *,
        n_circuits: Any = 1,
        max_iter: Any = 100,
        pseudocount: Any = 0.1,
        categorical_features: Any = "auto",
        max_categories: Any = 16,
        validation_fraction: Any = 0.1,
        n_iter_no_change: Any = 5,
        random_state: Any = None,
        verbose: Any = False,
    ) -> None:
        self.n_units = n_units
        self.n_circuits = n_circuits
        self.max_iter = max_iter
        self.pseudocount = pseudocount
        self.categorical_features = categorical_features
        self.max_categories = max_categories
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "CircuitDensity":
        """Learn from rows (B, D). `y` is ignored.

        Raises:
            DataError: settings out of range, a column without values, or one whose values are not numbers though it is
                not among the categorical features. TypeError: a column of values that cannot be compared.
        """
        X = self._table_like(X, reset=True)
        if not 0 <= self.validation_fraction < 1:
            raise DataError(f"`validation_fraction` must be in [0, 1), got {self.validation_fraction!r}")
        if not isinstance(self.n_circuits, int | np.integer) or self.n_circuits < 1:
            raise DataError(f"`n_circuits` must be a positive integer, got {self.n_circuits!r}")
        random = check_random_state(self.random_state)
        self.table_ = Table.of(X, self.categorical_features, self.max_categories)
        encoded, _ = self.table_.encode(X)
        graph = structures.hclt(_binned(encoded, self.table_), num_units=self.n_units, smoothing=1.0)
        fitted = [self._fit_one(graph, encoded, random) for _ in range(self.n_circuits)]
        circuits = [circuit for circuit, _ in fitted]
        self.circuit_ = circuits[0] if len(circuits) == 1 else mixture(circuits)
        self.circuit_.requires_grad_(False)
        self.n_iter_ = max(epochs for _, epochs in fitted)
        return self

    def _fit_one(self, graph: RegionGraph, encoded: torch.Tensor, random: np.random.RandomState) -> tuple[Circuit, int]:
        """A circuit and its epochs, from a start and with held-out rows of its own."""
        seed = int(random.randint(2**31 - 1))
        circuit = Circuit(graph, [column.family for column in self.table_.columns], seed=seed, dtype=torch.float64)
        train, valid = _split(encoded, self.validation_fraction, random)
        history = fit(
            circuit,
            Evidence.from_nan(train),
            valid=None if valid is None else Evidence.from_nan(valid),
            patience=None if valid is None else self.n_iter_no_change,
            learner=EM(pseudocount=self.pseudocount),
            epochs=self.max_iter,
            batch_size=_ROWS,
            seed=seed,
            progress=self.verbose,
        )
        return circuit, len(history.epochs)

    def score_samples(self, X: Any) -> np.ndarray:
        """(B,) log density of each row's known values, natural log, in the table's own units; `-inf` for a category
        that was never seen.
        """
        encoded, unknown = self._encode(X)
        scores = torch.cat([posterior.log_evidence for posterior in self._posteriors(encoded)]).numpy()
        log_scales = np.array([column.log_scale for column in self.table_.columns])
        scores = scores - (~encoded.isnan().numpy() * log_scales).sum(1)
        return np.where(unknown.any(1), -np.inf, scores)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """`n_samples` rows drawn from the joint distribution."""
        check_is_fitted(self)
        return self.table_.decode(self.circuit_.sample(n_samples, generator=self._generator(random_state)).double())

    def impute(self, X: Any, *, method: str = "mean", random_state: Any = None) -> Any:
        """`X` with its missing values filled in, each row given its known values.

        `method`: "mean" (posterior mean, or the most probable category, of each value by itself), "mpe" (the most
        probable row) or "sample" (a joint draw).

        Raises:
            DataError: an unknown method, or a category that was never seen.
        """
        if method not in ("mean", "mpe", "sample"):
            raise DataError(f'`method` must be "mean", "mpe" or "sample", got {method!r}')
        X = self._table_like(X, reset=False)
        encoded = self._known(X)
        generator = self._generator(random_state)
        filled = torch.cat([_complete(posterior, method, generator) for posterior in self._posteriors(encoded)])
        return self.table_.decode(filled.double(), known=X)

    @available_if(_has_categories)
    def predict_proba(self, X: Any, column: Label | None = None) -> np.ndarray:
        """(B, V) probabilities of a categorical column's categories (`categories`) given each row's other values.
        None: the last column.

        Raises:
            DataError: a column that does not exist or is continuous, or a category that was never seen.
        """
        position = self._column(column)
        categories = self.categories(self.table_.columns[position].label)
        encoded = self._known(X, without=position)
        found = torch.cat([torch.as_tensor(_marginals(posterior)[position]) for posterior in self._posteriors(encoded)])
        return found[:, : len(categories)].numpy()

    def predict(self, X: Any, column: Label | None = None) -> np.ndarray:
        """(B,) the most probable category of a column, or the mean of a continuous one, given each row's other
        values. None: the last column.
        """
        position = self._column(column)
        encoded = self._known(X, without=position)
        filled = torch.cat([_complete(posterior, "mean", None) for posterior in self._posteriors(encoded)])
        return self.table_.columns[position].decode(filled[:, position].numpy())

    def categories(self, column: Label) -> np.ndarray:
        """The values of a categorical column, in the order of `predict_proba`."""
        found = self.table_.columns[self._column(column)]
        if found.categories is None:
            raise DataError(f"column {column!r} is continuous and has no categories; see `predict`")
        return found.categories

    def _column(self, column: Label | None) -> int:
        check_is_fitted(self)
        return len(self.table_.columns) - 1 if column is None else self.table_.position(column)

    def _table_like(self, X: Any, reset: bool) -> Any:
        if is_frame(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if len(X) == 0 or X.shape[1] == 0:
                raise DataError(f"`X` must have rows and columns, got shape {X.shape}")
            return X
        checked = check_array(X, dtype=None, ensure_all_finite="allow-nan", estimator=self, input_name="X")
        validate_data(self, checked, reset=reset, skip_check_array=True)
        return checked

    def _encode(self, X: Any) -> tuple[torch.Tensor, np.ndarray]:
        check_is_fitted(self)
        return self.table_.encode(self._table_like(X, reset=False))

    def _known(self, X: Any, without: int | None = None) -> torch.Tensor:
        """Encoded rows, a column left out; categories that were never seen are refused."""
        encoded, unknown = self._encode(X)
        if without is not None:
            encoded[:, without], unknown[:, without] = torch.nan, False
        if unknown.any():
            row, position = (int(i) for i in np.argwhere(unknown)[0])
            label = self.table_.columns[position].label
            raise DataError(f"row {row}: column {label!r} holds a category that was not in the data of `fit`")
        return encoded

    def _posteriors(self, encoded: torch.Tensor) -> list[Posterior]:
        return [self.circuit_.condition(Evidence.from_nan(part)) for part in encoded.split(_ROWS)]

    def _generator(self, random_state: Any) -> torch.Generator:
        random = check_random_state(self.random_state if random_state is None else random_state)
        return torch.Generator().manual_seed(int(random.randint(2**31 - 1)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags


def _complete(posterior: Posterior, method: str, generator: torch.Generator | None) -> torch.Tensor:
    """(B, D) one value a variable."""
    try:
        if method == "sample":
            return posterior.sample(generator=generator)[0]
        if method == "mpe":
            return posterior.mpe().values
        marginals = _marginals(posterior)
    except EvidenceError as error:
        raise DataError(f"the known values of a row are impossible: {error}") from error
    return torch.stack([m.argmax(-1).double() if isinstance(m, torch.Tensor) else m.mean for m in marginals], 1)


def _marginals(posterior: Posterior) -> list[torch.Tensor | Moments]:
    """One entry a variable."""
    found = posterior.marginals()
    return list(found.unbind(1)) if isinstance(found, torch.Tensor) else found


def _split(
    encoded: torch.Tensor, fraction: float, random: np.random.RandomState
) -> tuple[torch.Tensor, torch.Tensor | None]:
    held_out = round(fraction * len(encoded))
    if held_out == 0:
        return encoded, None
    order = torch.from_numpy(random.permutation(len(encoded)))
    return encoded[order[held_out:]], encoded[order[:held_out]]


def _binned(encoded: torch.Tensor, table: Table) -> torch.Tensor:
    """Categories of every column for the Chow-Liu tree: quantiles of continuous ones, a category of its own for what
    is missing.
    """
    binned = torch.empty(encoded.shape, dtype=torch.long)
    for n, column in enumerate(table.columns):
        values, known = encoded[:, n], ~encoded[:, n].isnan()
        codes = values.nan_to_num()
        if column.categories is None:
            edges = values[known].quantile(torch.linspace(0, 1, _BINS + 1, dtype=values.dtype)[1:-1])
            codes = torch.bucketize(codes, edges)
        binned[:, n] = torch.where(known, codes.long() + 1, 0)
    return binned
