"""Results of the few-steps benchmark: tables, JSON, and how many steps a model needs to be as good as the backbone.

Axes: R resamples (the first is the data itself), N problems, P settings of a rule.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.few_steps_cells import RULES, Counted, Spec
from pcircuits_diffusion.evaluate import DocumentBootstrap, Interval, tables

BACKBONE = "backbone alone"


class Result(NamedTuple):
    """What was counted in each cell and in the published solutions; the bootstrap is over problems."""

    cells: Mapping[Spec, Counted]
    published: Counted
    bootstrap: DocumentBootstrap

    @property
    def rules(self) -> list[str]:
        return list(dict.fromkeys(spec.rule for spec in self.cells))

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(spec.model for spec in self.cells))

    def curve(self, model: str, rule: str) -> list[Spec]:
        """The cells of a model under a rule, fewest steps first."""
        found = [spec for spec in self.cells if (spec.model, spec.rule) == (model, rule)]
        return sorted(found, key=lambda spec: self.cells[spec].steps)

    def steps(self, model: str, rule: str) -> Tensor:
        """(P,) calls of the backbone a block, ascending."""
        return torch.tensor([self.cells[spec].steps for spec in self.curve(model, rule)]).double()

    def shares(self, model: str, rule: str, field: str = "well_formed") -> Tensor:
        """(R, P) annotations with a property over all annotations, in the order of `curve`."""
        columns = [self.resampled(self.cells[spec], field, "annotations") for spec in self.curve(model, rule)]
        return torch.stack(columns, -1)

    def resampled(self, counted: Counted, over: str, under: str) -> Tensor:
        """(R,) the ratio of two totals over problems."""
        totals = self.bootstrap.totals(torch.stack([getattr(counted, over), getattr(counted, under)]))
        return totals[:, 0] / totals[:, 1]

    def interval(self, counted: Counted, over: str, under: str) -> Interval:
        return self.bootstrap.intervals(self.resampled(counted, over, under).unsqueeze(-1))[0]


def steps_needed(steps: Tensor, shares: Tensor, target: Tensor) -> Tensor:
    """(R,) the fewest steps at which a curve `shares` (R, P) over `steps` (P,) reaches `target` (R,), linear in
    log steps in between; at most the fewest steps that were tried where these suffice, infinite where none do.
    """
    reached = shares >= target.unsqueeze(-1)
    index = reached.long().argmax(-1)
    before = (index - 1).clamp_min(0)
    low, high = (shares.gather(-1, i.unsqueeze(-1)).squeeze(-1) for i in (before, index))
    place = torch.where(index > 0, (target - low) / (high - low), 1.0)
    found = torch.lerp(steps.log2()[before], steps.log2()[index], place).exp2()
    return torch.where(reached.any(-1), found, torch.inf)


def speedup(result: Result, model: str, rule: str) -> dict[float, Interval]:
    """By the backbone's steps a block, the factor by which a model needs fewer for the same share of well-formed
    annotations; 0: it never gets there. Nothing where either was not drawn.
    """
    if not result.curve(model, rule) or not result.curve(BACKBONE, rule):
        return {}
    backbone, steps = result.shares(BACKBONE, rule), result.steps(BACKBONE, rule)
    curve, own = result.shares(model, rule), result.steps(model, rule)
    found = {}
    for column, there in enumerate(steps.tolist()):
        factors = there / steps_needed(own, curve, backbone[:, column])
        found[there] = result.bootstrap.intervals(factors.unsqueeze(-1))[0]
    return found


def table(result: Result) -> str:
    """One line a cell."""
    header = [
        "rule",
        "steps",
        "model",
        "well formed",
        "right",
        "a sample",
        "judge's perplexity",
        "entropy",
        "distinct-2",
    ]
    lines = [header, ["published solutions", "", "", *_figures(result, result.published)]]
    for rule in result.rules:
        for there in reversed(result.curve(BACKBONE, rule)):
            for model in result.models:
                if (counted := result.cells.get(there._replace(model=model))) is not None:
                    lines.append([rule, f"{counted.steps:.1f}", model, *_figures(result, counted)])
    return tables.aligned(lines)


def gain_table(result: Result) -> str:
    """Only of rules whose steps are set."""
    others = [model for model in result.models if model != BACKBONE]
    lines = [["rule", "steps", *others]]
    for rule in (name for name in result.rules if not RULES[name].bounds):
        for there in reversed(result.curve(BACKBONE, rule)):
            gains = [_gain(result, there._replace(model=model)) for model in others]
            lines.append([rule, f"{there.setting:.0f}", *("" if gain is None else _points(gain) for gain in gains)])
    return tables.aligned(lines)


def needed_table(result: Result) -> str:
    others = [model for model in result.models if model != BACKBONE]
    lines = [["rule", "backbone's steps", *others]]
    for rule in result.rules:
        factors = {model: speedup(result, model, rule) for model in others}
        for steps in sorted(set().union(*factors.values()), reverse=True):
            if steps > 1:
                shown = [_times(factors[model][steps]) if factors[model] else "" for model in others]
                lines.append([rule, f"{steps:.1f}", *shown])
    return tables.aligned(lines)


def to_json(result: Result) -> dict[str, Any]:
    """Every cell, every gain, every factor."""
    cells = [{**spec._asdict(), **_fields(result, counted)} for spec, counted in result.cells.items()]
    others = [model for model in result.models if model != BACKBONE]
    factors = [
        {"rule": rule, "model": model, "backbone_steps": steps, "fewer_steps": factor}
        for rule in result.rules
        for model in others
        for steps, factor in speedup(result, model, rule).items()
    ]
    gains = [
        {**spec._asdict(), "well_formed": _gain(result, spec)}
        for spec in result.cells
        if not RULES[spec.rule].bounds and spec.model != BACKBONE
    ]
    return {"published_solutions": _fields(result, result.published), "cells": cells, "gains": gains, "needed": factors}


def _gain(result: Result, spec: Spec) -> Interval | None:
    """On the backbone alone under the same rule and setting, paired; None where one of them was not drawn."""
    pair = [result.cells.get(spec), result.cells.get(spec._replace(model=BACKBONE))]
    if pair[0] is None or pair[1] is None:
        return None
    own, backbone = (result.resampled(counted, "well_formed", "annotations") for counted in pair if counted)
    return result.bootstrap.intervals((own - backbone).unsqueeze(-1))[0]


def _fields(result: Result, counted: Counted) -> dict[str, Any]:
    return {
        "steps_a_block": counted.steps,
        "well_formed": result.interval(counted, "well_formed", "annotations"),
        "right": result.interval(counted, "right", "annotations"),
        "annotations_a_sample": float(counted.annotations.mean()),
        "right_a_sample": float(counted.right.mean()),
        "judge_nats_a_token": result.interval(counted, "nats", "judged"),
        "entropy": counted.entropy,
        "distinct_2": counted.distinct_2,
        "seconds": counted.seconds,
    }


def _figures(result: Result, counted: Counted) -> list[str]:
    shares = [result.interval(counted, field, "annotations") for field in ("well_formed", "right")]
    nats = result.interval(counted, "nats", "judged").estimate
    shown = ["{:.1f}% [{:.0f}, {:.0f}]".format(*(100 * value for value in share)) for share in shares]
    return [
        *shown,
        f"{float(counted.annotations.mean()):.2f}",
        f"{math.exp(nats):.1f}",
        f"{counted.entropy:.2f}",
        f"{counted.distinct_2:.2f}",
    ]


def _points(interval: Interval) -> str:
    return "{:+.0f} [{:+.0f}, {:+.0f}] points".format(*(100 * value for value in interval))


def _times(interval: Interval) -> str:
    return "{:.1f}x [{:.1f}, {:.1f}]".format(*interval)
