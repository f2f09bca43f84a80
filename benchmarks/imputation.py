"""Missing cells of mixed tables, filled in: `python -m benchmarks.imputation [--reduced]`.

A share of the cells of scikit-learn's bundled tables, class columns included, is hidden at random. A circuit
(`CircuitDensity`, settings alike for all tables), k nearest neighbours, and the column's mean or most frequent category
fill them in. Error: of numbers, root mean square in the column's standard deviations; of categories, the share that is
wrong. Log score: mean log probability (density in standard deviations) of the hidden cells, the column's own normal
distribution or frequencies being the baseline. All models see the incomplete table only.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn import datasets
from sklearn.impute import KNNImputer

from benchmarks import record
from pcircuits.tabular import CircuitDensity
from pcircuits_diffusion.evaluate.tables import aligned

TABLES = ("iris", "wine", "breast_cancer", "diabetes")
METHODS = ("circuit", "k nearest", "mean or mode")


class Score(NamedTuple):
    """Means over hidden cells. `error_numbers` in standard deviations, `error_categories` a share; log scores in nats
    a cell.
    """

    error_numbers: float
    error_categories: float
    log_score: float | None


def table(name: str) -> pd.DataFrame:
    """A bundled table; classes and the two sexes are categories."""
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = bunch.frame.copy()
    for column in ("target", "sex"):
        if column in frame and frame[column].nunique() <= 10:
            frame[column] = "c" + frame[column].rank(method="dense").astype(int).astype(str)
    return frame.rename(columns=str)


def hide(frame: pd.DataFrame, share: float, random: np.random.Generator) -> np.ndarray:
    """(B, D) True at the hidden cells."""
    return random.random(frame.shape) < share


def by_circuit(incomplete: pd.DataFrame, complete: pd.DataFrame, hidden: np.ndarray, seed: int) -> tuple[Any, Any]:
    """Filled table and (B, D) log probabilities of hidden cells, NaN elsewhere."""
    model = CircuitDensity(max_categories=2, random_state=seed).fit(incomplete)
    base, scores = model.score_samples(incomplete), np.full(hidden.shape, np.nan)
    for n, name in enumerate(incomplete.columns):
        rows = hidden[:, n]
        revealed = incomplete.copy()
        revealed[name] = complete[name]
        scores[rows, n] = (model.score_samples(revealed) - base)[rows]
    return model.impute(incomplete), scores


def by_neighbours(incomplete: pd.DataFrame, *_: Any) -> tuple[Any, None]:
    """Standardised numbers and one-hot categories; a category is the one with the most neighbours."""
    numbers, categories = _kinds(incomplete)
    standard = (incomplete[numbers] - incomplete[numbers].mean()) / incomplete[numbers].std()
    hot = {name: pd.get_dummies(incomplete[name]).astype(float) for name in categories}
    for name, part in hot.items():
        part[incomplete[name].isna()] = np.nan
    wide = pd.concat([standard, *hot.values()], axis=1, keys=["", *hot])
    filled = pd.DataFrame(KNNImputer(n_neighbors=10).fit_transform(wide), columns=wide.columns)
    result = incomplete.copy()
    result[numbers] = (
        filled[""][numbers].to_numpy() * incomplete[numbers].std().to_numpy() + incomplete[numbers].mean().to_numpy()
    )
    for name in categories:
        result[name] = filled[name].idxmax(axis=1).to_numpy()
    return result, None


def by_column(incomplete: pd.DataFrame, complete: pd.DataFrame, hidden: np.ndarray, seed: int) -> tuple[Any, Any]:
    """Every hidden cell as its column alone has it."""
    result, scores = incomplete.copy(), np.full(hidden.shape, np.nan)
    for n, name in enumerate(incomplete.columns):
        column, rows = incomplete[name].dropna(), hidden[:, n]
        if column.dtype.kind == "f":
            result[name] = incomplete[name].fillna(column.mean())
            scores[rows, n] = norm.logpdf(complete[name][rows], column.mean(), column.std())
        else:
            frequencies = column.value_counts(normalize=True)
            result[name] = incomplete[name].fillna(frequencies.index[0])
            scores[rows, n] = np.log(complete[name][rows].map(frequencies).astype(float))
    return result, scores


FILLERS: dict[str, Callable[..., tuple[Any, Any]]] = dict(
    zip(METHODS, (by_circuit, by_neighbours, by_column), strict=True)
)


def score(filled: pd.DataFrame, log_scores: Any, complete: pd.DataFrame, hidden: np.ndarray) -> Score:
    numbers, _ = _kinds(complete)
    spread = complete[numbers].std()
    squares, wrong = [], []
    logs = None if log_scores is None else log_scores.copy()
    for n, name in enumerate(complete.columns):
        rows = hidden[:, n]
        if name in numbers:
            squares.append((((filled[name] - complete[name]) / spread[name]) ** 2)[rows])
            if logs is not None:
                logs[:, n] += np.log(spread[name])
        else:
            wrong.append((filled[name] != complete[name])[rows])
    error = float(np.sqrt(np.concatenate(squares).mean()))
    return Score(error, float(np.concatenate(wrong).mean()), None if logs is None else float(logs[hidden].mean()))


def _kinds(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    numbers = [name for name in frame if frame[name].dtype.kind == "f"]
    return numbers, [name for name in frame if name not in numbers]


def measure(name: str, share: float, seeds: range) -> dict[str, list[Score]]:
    complete = table(name)
    found: dict[str, list[Score]] = {method: [] for method in METHODS}
    for seed in seeds:
        hidden = hide(complete, share, np.random.default_rng(seed))
        incomplete = complete.mask(hidden)
        for method, fill in FILLERS.items():
            filled, logs = fill(incomplete, complete, hidden, seed)
            found[method].append(score(filled, logs, complete, hidden))
    return found


def from_record(stored: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, dict[str, list[Score]]]:
    """The scores of a written result."""
    return {name: {m: [Score(**s) for s in scores] for m, scores in of.items()} for name, of in stored.items()}


def table_of_scores(results: dict[str, dict[str, list[Score]]]) -> list[list[str]]:
    rows = [["table", "method", "numbers, error", "categories, wrong", "log score"]]
    for name, methods in results.items():
        for method, scores in methods.items():
            numbers, categories, logs = (np.array([s[n] for s in scores], dtype=float) for n in range(3))
            log = "-" if np.isnan(logs).any() else f"{logs.mean():.3f}"
            rows.append([name, method, f"{numbers.mean():.3f}", f"{categories.mean():.1%}", log])
    return rows


def losses(results: dict[str, dict[str, list[Score]]]) -> list[str]:
    """Where the circuit is not the best, in words, with the mean paired difference and its standard error."""
    found = []
    for name, methods in results.items():
        mean = {m: [np.mean([s[n] for s in scores]) for n in range(2)] for m, scores in methods.items()}
        for n, kind in enumerate(("numbers", "categories")):
            errors = {m: mean[m][n] for m in METHODS}
            best = min(METHODS, key=errors.__getitem__)
            if errors["circuit"] > errors[best]:
                found.append(f"{name}, {kind}: {best} has the smaller error{_by(methods, best, n)}")
        logs = [np.mean([s.log_score for s in methods[m]]) for m in ("circuit", "mean or mode")]
        if logs[0] <= logs[1]:
            found.append(f"{name}: the column's own distribution has the better log score")
    return found


def _by(methods: dict[str, list[Score]], best: str, n: int) -> str:
    pairs = zip(methods["circuit"], methods[best], strict=True)
    differences = np.array([float(circuit[n] or 0) - float(other[n] or 0) for circuit, other in pairs])
    if len(differences) < 2:
        return ""
    return f" (by {differences.mean():.4f}, standard error {differences.std(ddof=1) / len(differences) ** 0.5:.4f})"


def plot(results: dict[str, dict[str, list[Score]]]) -> Any:
    """A panel a measure, a group a table, a bar a method; a dot a seed."""
    from matplotlib.figure import Figure

    titles = ("numbers: error, standard deviations", "categories: share wrong", "log score, nats a cell")
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for n, (axes, title) in enumerate(zip(figure.subplots(1, 3), titles, strict=True)):
        for place, (method, colour) in enumerate(zip(METHODS, ("#1f6fb4", "#d1495b", "#8a8a8a"), strict=True)):
            for group, scores in enumerate(of[method] for of in results.values()):
                values = [value for s in scores if (value := s[n]) is not None]
                at = group + 0.27 * (place - 1)
                if values:
                    axes.bar(at, np.mean(values), 0.25, color=colour, label=None if group else method)
                    axes.plot([at] * len(values), values, "k.", markersize=3)
        axes.set_xticks(range(len(results)), list(results), fontsize=8)
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=None, help="random holes a table; default: 5, reduced 1")
    parser.add_argument("--share", type=float, default=0.2, help="of the cells that are hidden")
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    count = options.seeds or (1 if options.reduced else 5)
    seeds = range(options.seed, options.seed + count)
    names = TABLES[:2] if options.reduced else TABLES
    results = {name: measure(name, options.share, seeds) for name in names}
    print(f"{options.share:.0%} of the cells hidden, means of {count} seeds\n{aligned(table_of_scores(results))}")
    print("Where the circuit is not the best: " + ("; ".join(losses(results)) or "nowhere"))
    plain = {name: {m: [s._asdict() for s in scores] for m, scores in found.items()} for name, found in results.items()}
    stored = {"share": options.share, "seeds": list(seeds), "reduced": options.reduced, "tables": plain}
    suffix = "_reduced" if options.reduced else ""
    path = record.write(f"imputation{suffix}", stored, seed=options.seed, folder=options.out)
    plot(results).savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
