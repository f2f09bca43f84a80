"""The arithmetic benchmark's results as text."""

from collections.abc import Sequence
from typing import Any

from pcircuits_diffusion.evaluate import Interval, tables

SYSTEMS = ("backbone alone", "coupled")


def table(published: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """One line a system, rule and number of steps."""
    header = [
        "rule",
        "steps",
        "model",
        "well formed",
        "right",
        "right of new",
        "a sample",
        "distinct",
        "copied",
        "operators",
    ]
    lines = [header, ["published solutions", "", "", *_figures(published)]]
    lines += [[row["rule"], str(row["steps"]), name, *_figures(row[name])] for row in rows for name in SYSTEMS]
    return tables.aligned(lines)


def judge_table(published: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Perplexity of the first blocks under the judge, never without entropy and distinct bigrams."""
    keys = ("perplexity", "entropy", "distinct_2")
    lines = [["rule", "steps", "model", "judge's perplexity", "entropy", "distinct-2"]]
    entries = [("published solutions", "", "", published)]
    entries += [(row["rule"], str(row["steps"]), name, row[name]) for row in rows for name in SYSTEMS]
    for *labels, found in entries:
        judged = found["first_blocks_judged"] or dict.fromkeys(keys, float("nan"))
        lines.append([*labels, *(f"{judged[key]:.2f}" for key in keys)])
    return tables.aligned(lines)


def gain_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [["rule", "steps", "well formed", "right"]]
    for row in rows:
        gains = [_points(row["gain"][field]) for field in ("well_formed", "right")]
        lines.append([row["rule"], str(row["steps"]), *gains])
    return tables.aligned(lines)


def _figures(found: dict[str, Any]) -> list[str]:
    shares = [found["well_formed"].estimate, found["right"].estimate, found["right_among_new"]]
    rest = [f"{found['distinct']}", f"{found['copied_from_training']:.0%}", f"{found['operators_an_annotation']:.2f}"]
    return [*(f"{value:.1%}" for value in shares), f"{found['annotations_a_sample']:.2f}", *rest]


def _points(interval: Interval) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}] points".format(*(100 * value for value in interval))
