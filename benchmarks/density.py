"""Density of binary data: `python -m benchmarks.density [--reduced]`.

Circuits on six of the public density estimation sets, beside two other libraries on the same splits and the figures
that papers report. Every candidate setting is trained with the first seed; each model goes on with the one whose
validation log-likelihood is best, and gets the other seeds. "mixture" has all models of a seed as components, in the
shares that suit the validation rows best. The test rows choose nothing. The other libraries get the first seed only.

An interrupted run goes on where it stopped (`--work`); `--collect` trains nothing and writes what is there. A run of
some of the sets (`--data`) leaves what is written of the others; each set says which commit it was trained with.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import debd, density_tables, record
from benchmarks.density_cells import PEERS, Cell, Outcome, Work, cell
from benchmarks.density_models import best_shares, mix
from benchmarks.side import PEERS as PEERS_PYTHON

MIXTURE = "mixture of all"
Options = Mapping[str, Any]

CANDIDATES: dict[str, dict[str, list[Options]]] = {
    "nltcs": {
        "cutset networks, bagged": [{"max_depth": 5, "bags": 10}],
        "LearnSPN, bagged": [{"min_rows": 100, "bags": 5}],
        "HCLT": [{"num_units": 32, "pseudocount": 1e-3, "epochs": 40}],
    },
    "plants": {"LearnSPN": [{"min_rows": 100}]},
    "dna": {
        "mixture of HCLTs": [{"components": 3, "num_units": 8, "pseudocount": 1e-3}],
        "HCLT": [{"num_units": 32, "pseudocount": 1e-3, "epochs": 50}],
    },
    "jester": {
        "LearnSPN": [{"min_rows": 100}],
        "HCLT": [{"num_units": 16, "pseudocount": 1e-3, "epochs": 40}],
    },
    "baudio": {
        "LearnSPN": [{"min_rows": 100}],
        "HCLT": [{"num_units": 16, "pseudocount": 1e-3, "epochs": 40}],
    },
    "accidents": {"HCLT": [{"num_units": 64, "pseudocount": 1e-3, "epochs": 40}]},
}
PEER_OPTIONS = {"num_units": 16, "repetitions": 4, "learning_rate": 0.02, "epochs": 20, "patience": 3}
REDUCED: dict[str, dict[str, list[Options]]] = {
    "nltcs": {
        "HCLT": [{"num_units": 4, "pseudocount": pseudocount, "epochs": 3} for pseudocount in (1e-3, 1e-2)],
        "cutset networks, bagged": [{"bags": 2, "max_depth": 2}],
    }
}
REDUCED_ROWS = 500


def train(work: Work, candidates: Mapping[str, Mapping[str, list[Options]]], seeds: range, peers: Options) -> None:
    """All cells: the candidates on every set first, then the other seeds, then the peers."""
    for name, families in candidates.items():
        for family, settings in families.items():
            for options in settings:
                _report(cell(name, family, options, seeds[0]), work)
    for of in _chosen(work, candidates, seeds):
        _report(of, work)
    if work.python is not None and work.python.exists():
        for of in _of_peers(candidates, seeds[0], peers):
            _report(of, work)


def results(
    work: Work, candidates: Mapping[str, Mapping[str, list[Options]]], seeds: range, peers: Options
) -> dict[str, Any]:
    """Everything that was trained, by data set and model, and the cells that were not."""
    asked = [
        *(cell(n, f, options, seeds[0]) for n, of in candidates.items() for f, all_ in of.items() for options in all_),
        *_chosen(work, candidates, seeds),
        *_of_peers(candidates, seeds[0], peers),
    ]
    missing = [f"{c.data}, {c.family}, seed {c.seed}" for c in dict.fromkeys(asked) if not work.find(c)]
    return {
        "sets": {name: _of_set(work, name, families, seeds, peers) for name, families in candidates.items()},
        "missing": missing,
    }


def with_earlier(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """The results with those sets of the file, if there is one, that this run was not asked for."""
    now = record.provenance()
    new = {name: {**of, "commit": now["commit"], "date": now["date"]} for name, of in found["sets"].items()}
    if not path.is_file():
        return {**found, "sets": new}
    stored = json.loads(path.read_text(encoding="utf-8"))
    origin = {"commit": stored["commit"], "date": stored["date"]}
    sets = {name: {**origin, **of} for name, of in stored["results"]["sets"].items()} | new
    missing = [of for of in stored["results"]["missing"] if of.partition(",")[0] not in new]
    ordered = {name: sets[name] for name in debd.NAMES if name in sets}
    return {"sets": ordered, "missing": [*missing, *found["missing"]]}


def _of_set(work: Work, name: str, families: Mapping[str, list[Options]], seeds: range, peers: Options) -> Any:
    ours: dict[str, Any] = {}
    found: dict[str, dict[int, Outcome]] = {}
    for family, settings in families.items():
        if (options := _best(work, name, family, settings, seeds[0])) is None:
            continue
        found[family] = _trained(work, name, family, options, seeds)
        ours[family] = {**_summary(found[family]), "setting": dict(options), "tried": len(settings)}
    whole = [seed for seed in seeds if len(found) > 1 and all(seed in of for of in found.values())]
    if whole:
        mixtures = {seed: _mixed([of[seed] for of in found.values()]) for seed in whole}
        ours[MIXTURE] = {**_summary(mixtures), "setting": {}, "tried": 1}
    theirs = {
        peer: {**_summary(of), "setting": dict(peers), "tried": 1}
        for peer in PEERS
        if (of := _trained(work, name, peer, peers, seeds))
    }
    return {
        "ours": ours,
        "peers": theirs,
        "published": {who: of[name] for who, of in debd.PUBLISHED.items()},
        "mark": debd.mark(name),
        "chosen": max(ours, key=lambda family: ours[family]["mean_valid"], default=None),
    }


def _summary(outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    valid, test = ([float(getattr(o, part).mean()) for o in outcomes.values()] for part in ("valid", "test"))
    return {
        "seeds": list(outcomes),
        "valid": valid,
        "test": test,
        "mean_valid": sum(valid) / len(valid),
        "mean_test": sum(test) / len(test),
        "num_parameters": max(o.num_parameters for o in outcomes.values()),
        "epochs": [o.epochs for o in outcomes.values()],
        "seconds": [round(o.seconds, 1) for o in outcomes.values()],
    }


def _mixed(parts: list[Outcome]) -> Outcome:
    valid, test = (torch.stack([getattr(part, name) for part in parts]) for name in ("valid", "test"))
    shares = best_shares(valid)
    return Outcome(
        mix(valid, shares),
        mix(test, shares),
        sum(part.num_parameters for part in parts) + len(parts),
        max(part.epochs for part in parts),
        sum(part.seconds for part in parts),
    )


def _trained(work: Work, name: str, family: str, options: Options, seeds: range) -> dict[int, Outcome]:
    found = {seed: work.find(cell(name, family, options, seed)) for seed in seeds}
    return {seed: outcome for seed, outcome in found.items() if outcome is not None}


def _best(work: Work, name: str, family: str, settings: list[Options], seed: int) -> Options | None:
    """The setting with the best validation log-likelihood among those that were trained."""
    found = [(work.find(cell(name, family, options, seed)), options) for options in settings]
    scores = [(float(outcome.valid.mean()), n) for n, (outcome, _) in enumerate(found) if outcome is not None]
    return settings[max(scores)[1]] if scores else None


def _chosen(work: Work, candidates: Mapping[str, Mapping[str, list[Options]]], seeds: range) -> Iterator[Cell]:
    for seed in seeds[1:]:
        for name, families in candidates.items():
            for family, settings in families.items():
                if (options := _best(work, name, family, settings, seeds[0])) is not None:
                    yield cell(name, family, options, seed)


def _of_peers(names: Mapping[str, Any], seed: int, peers: Options) -> Iterator[Cell]:
    return (cell(name, peer, peers, seed) for name in names for peer in PEERS)


def _report(of: Cell, work: Work) -> None:
    known = work.find(of) is not None
    found = work.need(of)
    if not known:
        means = f"valid {found.valid.mean():.3f}, test {found.test.mean():.3f}"
        print(f"{' '.join(map(str, of))}: {means}, {found.epochs} epochs, {found.seconds:.0f} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=debd.NAMES, default=None, help="default: all six")
    parser.add_argument("--seeds", type=int, default=None, help="default: 3, reduced 1")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--collect", action="store_true", help="train nothing; write what was trained")
    parser.add_argument("--work", type=Path, default=None, help="folder of the cells; default: OUT/density_cells")
    parser.add_argument("--peers", type=Path, default=PEERS_PYTHON, help="interpreter with the compared libraries")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    suffix = "_reduced" if options.reduced else ""
    rows = REDUCED_ROWS if options.reduced else None
    work = Work(options.work or options.out / f"density{suffix}_cells", rows, options.peers)
    seeds = range(options.seed, options.seed + (options.seeds or (1 if options.reduced else 3)))
    known = REDUCED if options.reduced else CANDIDATES
    candidates = {name: of for name, of in known.items() if options.data is None or name in options.data}
    peers = {**PEER_OPTIONS, "num_units": 4, "epochs": 2} if options.reduced else PEER_OPTIONS
    if not options.collect:
        train(work, candidates, seeds, peers)
    found = with_earlier(results(work, candidates, seeds, peers), options.out / f"density{suffix}.json")
    print(density_tables.plain(found["sets"]))
    print("Not trained: " + ("; ".join(found["missing"]) or "nothing"))
    stored = {"reduced": options.reduced, "threads": 1, "peers": record.peer_versions(options.peers), **found}
    path = record.write(f"density{suffix}", stored, seed=options.seed, folder=options.out)
    density_tables.plot(found["sets"]).savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
