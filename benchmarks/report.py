"""Writes the tables of `docs/performance.md` and `docs/density.md` from the results: `python -m benchmarks.report
[--check]`.

A page has markers, `<!-- begin NAME -->` and `<!-- end NAME -->`; what is between them is replaced by what
`benchmarks/results/NAME.json` says. A benchmark without results says so.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import comparison, compile_time, density_tables, imputation, memory, record, scaling
from benchmarks.bounds import BARE, EXPONENT_SLACK, bound

PAGES = tuple(record.ROOT / "docs" / name for name in ("performance.md", "density.md"))
COMPARISONS = ("layers", "circuits", "hmm", "sampling")
Results = dict[str, Any]


def rewrite(page: str, results: Mapping[str, Results]) -> str:
    """The page with every marked part made anew."""

    def replace(found: re.Match[str]) -> str:
        name = found["name"]
        body = losses(results) if name == "losses" else section(name, results.get(name))
        return f"<!-- begin {name} -->\n{body}\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (?P<name>\w+) -->.*?<!-- end (?P=name) -->", replace, page, flags=re.DOTALL)


def section(name: str, stored: Results | None) -> str:
    """A benchmark's tables and what they were measured with."""
    if stored is None:
        return f"Not measured yet: `python -m benchmarks.{name}`."
    body = _BODIES.get(name, _comparison)(stored["results"])
    return f"{body}\n\n{provenance(name, stored)}"


def provenance(name: str, stored: Results) -> str:
    machine, found = stored["machine"], stored["results"]
    versions = {**stored["versions"], **found.get("peers", {})}
    told = ", ".join(f"{package} {version}" for package, version in versions.items())
    commit = (stored["commit"] or "unknown")[:10] + ("+changes" if "+changes" in (stored["commit"] or "") else "")
    used = found.get("threads", machine.get("threads", 1))
    threads = f"{used} thread{'s' if used > 1 else ''} of {machine['cores']} cores"
    return (
        f"`python -m benchmarks.{name}`, seed {stored['seed']}, {stored['date'][:10]}, commit {commit}, {threads}, "
        f"{machine['processor']}, {machine['memory_gib']} GiB. {told}. Figure: `benchmarks/results/{name}.png`."
    )


def losses(results: Mapping[str, Results]) -> str:
    """Every bound that the results miss and every peer that is faster, one a line."""
    found = [line for name in COMPARISONS if name in results for line in _lost(results[name]["results"]["workloads"])]
    if "scaling" in results:
        for name, axis in results["scaling"]["results"]["axes"].items():
            found += [
                f"{what} against {name}: exponent {value:.2f}; asked: at most {axis['stated']} + {EXPONENT_SLACK}"
                for what, value in axis["exponents"].items()
                if value > axis["stated"] + EXPONENT_SLACK
            ]
    for name, table in (("compile_time", _axes), ("memory", _memory)):
        if name in results:
            lines = table(results[name]["results"]).splitlines()
            found += [f"{name}: {line.strip('| ')}" for line in lines if "(missed)" in line]
    return "\n".join(f"- {line}." for line in found) or "Nowhere, in these measurements."


def markdown(rows: list[list[str]]) -> str:
    header, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, f"|{'---|' * len(rows[0])}", *body])


def load(folder: Path) -> dict[str, Results]:
    names = [*COMPARISONS, *_BODIES]
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def _comparison(found: Results) -> str:
    """Timings, what could not take part, and what is quoted."""
    parts = [markdown(comparison.table(found["workloads"]))]
    absent = {f"{side} ({why})" for of in found["workloads"].values() for side, why in of["absent"].items()}
    if absent:
        parts.append(f"Did not take part: {', '.join(sorted(absent))}.")
    worst = [d for of in found["workloads"].values() for d in of["largest_relative_difference"].values()]
    if worst:
        parts.append(f"Sides with the same model agree to {max(worst):.1g} (relative), checked before timing.")
    sizes = {name: of["num_parameters"] for name, of in found["workloads"].items() if "num_parameters" in of}
    if sizes:
        parts.append(f"Parameters: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}.")
    if "quoted_milliseconds" in found:
        parts += ["Quoted, from another run on another day:", _quoted(found["quoted_milliseconds"])]
    return "\n\n".join(parts)


def _quoted(found: Results) -> str:
    rows = [["work", "action", "side", "ms"]]
    rows += [
        [workload, action, side, f"{milliseconds:g}"]
        for workload, actions in found.items()
        for action, sides in actions.items()
        for side, milliseconds in sides.items()
    ]
    return markdown(rows)


def _memory(found: Results) -> str:
    return f"{markdown(memory.table(found['peak_mib']))}\n\n{memory.sentence(found['large'])}."


def _growth(found: Results) -> str:
    return markdown(scaling.table(found["axes"]))


def _axes(found: Results) -> str:
    return f"{markdown(compile_time.table(found['axes']))}\n\n{compile_time.sentence(found['large'])}."


def _density(found: Results) -> str:
    sets = found["sets"]
    parts = [markdown(density_tables.summary(sets)), markdown(density_tables.rows(sets))]
    if found["missing"]:
        parts.append(f"Not trained: {'; '.join(found['missing'])}.")
    if origins := density_tables.origins(sets):
        parts.append(origins)
    return "\n\n".join(parts)


def _imputation(found: Results) -> str:
    scores = imputation.from_record(found["tables"])
    lost = "; ".join(imputation.losses(scores)) or "nowhere"
    told = (
        f"{found['share']:.0%} of the cells hidden, {len(found['seeds'])} seeds. The circuit is not the best: {lost}."
    )
    return f"{markdown(imputation.table_of_scores(scores))}\n\n{told}"


def _lost(workloads: Results) -> list[str]:
    missed = comparison.misses(workloads)
    unbounded = [
        f"{name}, {action}: {spread['median']:.2f} times the bare products"
        for name, found in workloads.items()
        for action, sides in found["ratios"].items()
        for side, spread in sides.items()
        if side == BARE and spread["median"] > 2 and bound(name, action, side) is None
    ]
    return [*missed, *unbounded]


_BODIES: dict[str, Callable[[Results], str]] = {
    "memory": _memory,
    "scaling": _growth,
    "compile_time": _axes,
    "density": _density,
    "imputation": _imputation,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is out of date")
    options = parser.parse_args(arguments)
    results, stale = load(options.results), False
    for page in options.pages:
        old = page.read_text(encoding="utf-8")
        new = rewrite(old, results)
        stale = stale or new != old
        if not options.check:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {page.name} from the results of {', '.join(results) or 'nothing'}")
    return int(options.check and stale)


if __name__ == "__main__":
    sys.exit(main())
