"""One workload on several sides: started, checked against each other, timed by turns, and told as a table."""

import argparse
import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from benchmarks.bounds import BARE, MARGINALS_OVER_TRAIN, OURS, bound
from benchmarks.side import PEERS, Side, SideError, Workload, agree, race
from benchmarks.spread import Spread, plain, ratio

Results = dict[str, Any]


class Contestant(NamedTuple):
    """A side by name: which adapter, whether it lives in the peers' environment, and what it takes part in."""

    name: str
    module: str
    actions: tuple[str, ...]
    is_peer: bool = True


class Check(NamedTuple):
    """Sides whose `action` must return the same numbers, within `relative` of the largest."""

    action: str
    sides: tuple[str, ...]
    relative: float = 1e-4


def parser(description: str | None) -> argparse.ArgumentParser:
    """What all benchmarks of speed take."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--reduced", action="store_true", help="fewer repetitions and sizes")
    options.add_argument("--out", type=Path, default=record.RESULTS)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=1, help="of every side")
    options.add_argument("--peers", type=Path, default=PEERS, help="python of the peers' environment")
    options.add_argument("--rounds", type=int, help="repetitions of each side; default: 15, reduced 3")
    options.add_argument("--seconds", type=float, help="of a side and action, at most; default: 5, reduced 0.8")
    return options


def parse(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    found = options.parse_args(arguments)
    found.rounds = found.rounds or (3 if found.reduced else 15)
    found.seconds = found.seconds or (0.8 if found.reduced else 5.0)
    if not found.peers.exists():
        print("peers are skipped: their environment is missing (make bench-peers)", file=sys.stderr)
    return found


def compare(
    workload: Workload,
    contestants: Sequence[Contestant],
    checks: Sequence[Check],
    actions: Iterable[str],
    options: argparse.Namespace,
    *,
    checked_on: Workload | None = None,
) -> Results:
    """All sides prepare the workload and are checked, on another one if that is given; then every action is a race.
    Peers that fail are named with their error.
    """
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        sides = {
            c.name: side
            for c in contestants
            if (side := start(c, checked_on or workload, options, absent, stack)) is not None
        }
        agreement = {check.action: _check(check, sides) for check in checks}
        if checked_on is not None:
            for side in sides.values():
                side.prepare(workload)
        timed = {
            action: _race(
                [sides[c.name] for c in contestants if c.name in sides and action in c.actions], action, options
            )
            for action in actions
        }
    print(f"{workload.name}: measured", file=sys.stderr)
    return {
        "checked_on": (checked_on or workload).name,
        "largest_relative_difference": {name: found for name, found in agreement.items() if found is not None},
        "absent": absent,
        "milliseconds": {
            action: {side: Spread.of([1e3 * t for t in seconds]).to_json() for side, seconds in found.items()}
            for action, found in timed.items()
        },
        "ratios": {action: ratios(found) for action, found in timed.items()},
    }


def start(
    contestant: Contestant,
    workload: Workload,
    options: argparse.Namespace,
    absent: dict[str, str],
    stack: contextlib.ExitStack,
) -> Side | None:
    """The contestant's worker with the workload prepared; None where it cannot, and `absent` says why."""
    if contestant.is_peer and not options.peers.exists():
        absent[contestant.name] = "not installed"
        return None
    python = options.peers if contestant.is_peer else sys.executable
    try:
        side = stack.enter_context(
            Side(contestant.name, f"benchmarks.peers.{contestant.module}", python=python, threads=options.threads)
        )
        side.prepare(workload)
    except SideError as error:
        if not contestant.is_peer:
            raise
        absent[contestant.name] = str(error)[-300:]
        return None
    return side


def ratios(seconds: Mapping[str, Sequence[float]]) -> Results:
    """Of ours over the bare products, and of every peer over ours."""
    ours = seconds.get(OURS)
    if ours is None:
        return {}
    return {
        side: (ratio(ours, theirs) if side == BARE else ratio(theirs, ours)).to_json()
        for side, theirs in seconds.items()
        if side != OURS
    }


def table(results: Mapping[str, Results]) -> list[list[str]]:
    """A row a workload, action and side; the ratio says how many times the bare products we take, or how many times
    faster than a peer we are.
    """
    rows = [["work", "action", "side", "ms", "range", "ours", "asked"]]
    for workload, found in results.items():
        for action, sides in found["milliseconds"].items():
            for side, spread in sides.items():
                rows.append([workload, action, side, *_cells(spread), *_judged(found, workload, action, side)])
    return rows


def misses(results: Mapping[str, Results]) -> list[str]:
    """Where a bound does not hold, in words."""
    found = []
    for workload, of_workload in results.items():
        for action, sides in of_workload["ratios"].items():
            for side, spread in sides.items():
                limit = bound(workload, action, side)
                if limit is not None and not limit.holds(spread["median"]):
                    kind = "times the bare products" if limit.at_most else f"times as fast as {side}"
                    found.append(f"{workload}, {action}: {spread['median']:.2f} {kind}; asked: {limit}")
        share = of_workload.get("marginals_over_train")
        if share is not None and share > MARGINALS_OVER_TRAIN:
            cost = f"marginals cost {share:.2f} training steps on the same evidence"
            found.append(f"{workload}: {cost}; asked: at most {MARGINALS_OVER_TRAIN:g}")
    return found


def write(name: str, results: Results, options: argparse.Namespace) -> Path:
    """The JSON record, with the peers' versions."""
    suffix = "_reduced" if options.reduced else ""
    settings = {"reduced": options.reduced, "threads": options.threads, "peers": record.peer_versions(options.peers)}
    return record.write(f"{name}{suffix}", {**settings, **results}, seed=options.seed, folder=options.out)


def _check(check: Check, sides: Mapping[str, Side]) -> float | None:
    """The largest difference; None where fewer than two of the sides are there."""
    present = [name for name in check.sides if name in sides]
    if len(present) < 2:
        return None
    return agree({name: sides[name].numbers(check.action) for name in present}, relative=check.relative)


def _race(sides: Sequence[Side], action: str, options: argparse.Namespace) -> dict[str, list[float]]:
    return race(sides, action, rounds=options.rounds, seconds=options.seconds)


def _cells(spread: Mapping[str, float]) -> tuple[str, str]:
    return plain(spread["median"]), f"{plain(spread['least'])}-{plain(spread['most'])}"


def _judged(found: Results, workload: str, action: str, side: str) -> tuple[str, str]:
    spread = found["ratios"][action].get(side)
    if spread is None:
        return "", ""
    limit = bound(workload, action, side)
    times = " x bare" if side == BARE else " x faster"
    mark = "" if limit is None or limit.holds(spread["median"]) else " (missed)"
    return f"{spread['median']:.2f}{times}", "" if limit is None else f"{limit}{mark}"
