"""What every circuit, posterior and input family must satisfy. Each check raises AssertionError with the first fault
it finds.
"""

import copy
import itertools
import json
import math

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import InputFamily
from pcircuits.errors import EvidenceError, StructureError
from pcircuits.evidence import Evidence
from pcircuits.posterior import Posterior
from pcircuits.queries import Moments
from pcircuits.structures import factorized, grouped
from pcircuits.testing.enumeration import MOST_WORLDS, Enumeration
from pcircuits.testing.examples import EVIDENCE, example_column, example_evidence
from pcircuits.testing.goodness import sample_p_values
from pcircuits.types import Bool, Float, Shaped, Tensor
from pcircuits.workspace import Memory

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
LEAST_P_VALUE = 1e-6


def check_posterior(circuit: Circuit, evidence: Evidence, *, seed: int = 0) -> None:
    """All queries of `circuit.condition(evidence)` equal enumeration, to 1e-5 max(1, |log p|) in float32 and 1e-10 in
    float64.

    Circuits of at most 4,096 worlds. Rows of impossible evidence must give `-inf` and EvidenceError; the other queries
    are checked on the rest.
    """
    oracle, posterior = Enumeration(circuit, evidence), circuit.condition(evidence)
    _same_log("log_evidence", posterior.log_evidence, oracle.log_evidence, circuit)
    possible = ~oracle.log_evidence.isneginf()
    if not possible.all():
        _refuses(posterior, (~possible).nonzero().flatten().tolist())
        if not possible.any():
            return
        evidence = evidence.rows(possible)
        oracle, posterior = Enumeration(circuit, evidence), circuit.condition(evidence)
    _same_marginals(posterior.marginals(), oracle.marginals(), circuit)
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([posterior.sample(2, generator=generator), _any_values(circuit, evidence, generator).unsqueeze(0)])
    scale = oracle.log_evidence.abs()
    _same_log("log_prob", posterior.log_prob(x), oracle.log_prob(x), circuit, scale)
    _multiplies(circuit, posterior, x[0], torch.rand(x[0].shape, generator=generator) < 0.5)
    _check_mpe(posterior, oracle, scale)


def check_circuit(circuit: Circuit, *, seed: int = 0) -> None:
    """Laws that hold for any circuit, whatever its size: normalisation, refinement, weights, batches, samples, MPE and
    EM.

    Circuits of at most 4,096 worlds are compared with enumeration as well. The circuit is left as it is.
    """
    discrete = any(family.is_discrete for family in circuit.inputs)
    nothing = circuit.condition(Evidence.nothing(1, circuit.num_variables, circuit.device))
    _same_log("log_evidence of no evidence", nothing.log_evidence, torch.zeros(1, dtype=torch.float64), circuit)
    for kind in EVIDENCE:
        if not discrete and kind in ("soft", "mixed", "impossible"):
            continue
        evidence = _to(example_evidence(circuit, kind, seed=seed), circuit.device)
        _check_batch(circuit, evidence)
        _check_refinement(circuit, evidence)
        _check_weights(circuit, evidence)
        if not circuit.condition(evidence).log_evidence.isneginf().any():
            _check_samples(circuit, evidence, seed)
            if all(family.learns_by_em for family in circuit.inputs):
                _check_learning(circuit, evidence)
        if (
            math.prod(family.num_categories or 1 for family in circuit.inputs) <= MOST_WORLDS
            and circuit.device.type == "cpu"
        ):
            check_posterior(circuit, evidence, seed=seed)


def check_input_family(family: InputFamily, *, num_units: int = 3, seed: int = 0) -> None:
    """An input family of your own does all that the library asks of it: alone, tied, and in a circuit beside itself.
    It is of one variable, or of several discrete ones.
    """
    _require(
        hash(family) == hash(copy.deepcopy(family)) and family == copy.deepcopy(family),
        f"{family!r}: equal specifications must be equal and hash alike",
    )
    json.dumps(family.to_json())
    tied, size = dict.fromkeys((0, 1), "tied"), family.num_variables
    graph = factorized(2) if size == 1 else grouped(factorized(2), [range(size), range(size, 2 * size)])
    for ties in ({}, tied):
        circuit = Circuit(
            graph, family, num_units=num_units, layer="cp", seed=seed, dtype=torch.float64, input_ties=ties
        )
        _check_initial(circuit, num_units)
        _check_values(circuit, family)
        _check_units(circuit, family, num_units)
        check_circuit(circuit, seed=seed)


def _check_initial(circuit: Circuit, num_units: int) -> None:
    for group in circuit.groups.values():
        for name, value in group.named_parameters():
            _require(
                value.shape[1] == num_units or not hasattr(group, "family"),
                f"parameter {name} must have leading axes (G, K), got {tuple(value.shape)}",
            )


def _check_values(circuit: Circuit, family: InputFamily) -> None:
    """Scaled and log values agree; probabilities add up to one."""
    (group,) = {name for name, g in circuit.groups.items() if hasattr(g, "family")}
    prepared, row = circuit.prepared()[group], torch.zeros(1, dtype=torch.long)
    counted = bool(family.num_categories) or family.is_integer
    values, size = range(family.num_categories or 0), family.num_variables
    x = torch.tensor(list(itertools.product(values, repeat=size))) if values else _grid(circuit, family)
    given = Evidence(x.view(-1, size)).of_variables(range(size))
    log_values = family.log_values(prepared, row, given, False)[0]
    v, scale = family.scaled_values(prepared, row, given, Memory())
    large = log_values - scale[0].unsqueeze(-1) > -600.0  # others may underflow
    scaled = v[0].double().log() + scale[0].unsqueeze(-1)
    _same_log("scaled_values", torch.where(large, scaled, 0.0), torch.where(large, log_values, 0.0), circuit)
    total = log_values.exp().sum(0) if counted else torch.trapezoid(log_values.exp(), x, dim=0)
    _require(
        bool((total - 1).abs().max() < 1e-3),
        f"{family!r}: each unit's probabilities must add up to one, got {total.tolist()}",
    )
    free = family.log_values(prepared, row, Evidence.nothing(1, size).of_variables(range(size)), False)
    _require(
        bool(free.abs().max() < 1e-6),
        f"{family!r}: a missing variable's units must have log value 0, got {free.tolist()}",
    )


def _grid(circuit: Circuit, family: InputFamily) -> Float[Tensor, " E"]:
    """Points that a density is integrated over; many of them near the end of a domain of positive values."""
    drawn = circuit.sample(1000, generator=torch.Generator().manual_seed(0))
    (least, largest), low, high = family.domain, float(drawn.min()), float(drawn.max())
    reach = 4 * (high - low)
    if family.is_integer:
        return torch.arange(max(low - reach, least), min(high + reach, largest) + 1, dtype=torch.float64)
    if math.isfinite(least) and math.isinf(largest):
        exponents = torch.linspace(-12, 0, 20_001, dtype=torch.float64)
        return least + (high + reach - least) * 10.0**exponents
    return torch.linspace(max(low - reach, least), min(high + reach, largest), 20_001, dtype=torch.float64)


def _check_units(circuit: Circuit, family: InputFamily, num_units: int) -> None:
    (group,) = {name for name, g in circuit.groups.items() if hasattr(g, "family")}
    overlap = family.overlap(circuit.prepared()[group], torch.zeros(1, dtype=torch.long))
    _require(
        overlap.shape == (1, num_units, num_units),
        f"{family!r}: overlap must have shape (F, K, K), got {tuple(overlap.shape)}",
    )
    _require(
        bool(overlap[0].diagonal().all()) and bool((overlap == overlap.mT).all()),
        f"{family!r}: overlap must be symmetric, True on its diagonal",
    )


def _check_batch(circuit: Circuit, evidence: Evidence) -> None:
    """A row alone equals that row in its batch."""
    together = circuit.condition(evidence).log_evidence
    alone = [
        circuit.condition(evidence.rows(torch.tensor([row], device=circuit.device))).log_evidence
        for row in range(evidence.batch_size)
    ]
    _same_log("log_evidence of a row alone", torch.cat(alone), together, circuit)


def _check_refinement(circuit: Circuit, evidence: Evidence) -> None:
    """Observing one variable fewer makes discrete evidence no less likely."""
    full = circuit.condition(evidence).log_evidence
    for variable, family in enumerate(circuit.inputs):
        if not family.is_discrete or evidence.log_weights is not None:
            continue
        observed = evidence.observed.clone()
        observed[:, variable] = False
        fewer = circuit.condition(evidence.replace(observed=observed)).log_evidence
        _require(
            bool((fewer >= full - _slack(full, circuit)).all()),
            f"forgetting variable {variable} lowered the log evidence from {full} to {fewer}",
        )


def _check_weights(circuit: Circuit, evidence: Evidence) -> None:
    """Zero weights are no weights, a constant shifts the log evidence, and weights on one value alone are that
    value.
    """
    variable = next((v for v, f in enumerate(circuit.inputs) if f.is_discrete), None)
    if variable is None or evidence.log_weights is None:
        return
    before = circuit.condition(evidence).log_evidence
    shifted = evidence.log_weights.clone()
    shifted[:, variable] += 2.5
    gain = torch.where(evidence.observed[:, variable], 0.0, 2.5)
    after = circuit.condition(evidence.replace(log_weights=shifted)).log_evidence
    _same_log("log_evidence under weights times a constant", after, before + gain, circuit)
    only = evidence.log_weights.clone()
    only[:, variable] = -torch.inf
    only[:, variable, 0] = 0.0
    free, hard = evidence.observed.clone(), evidence.observed.clone()
    free[:, variable], hard[:, variable] = False, True
    values = evidence.values.clone()
    values[:, variable] = 0
    by_weight = circuit.condition(evidence.replace(observed=free, log_weights=only)).log_evidence
    by_value = circuit.condition(evidence.replace(values=values, observed=hard, log_weights=only)).log_evidence
    _same_log("log_evidence under weights on one value", by_weight, by_value, circuit)


def _check_samples(circuit: Circuit, evidence: Evidence, seed: int) -> None:
    posterior = circuit.condition(evidence)
    samples = posterior.sample(500, generator=torch.Generator(circuit.device).manual_seed(seed))
    _require(_keeps(samples, evidence), "samples must keep the observed values")
    scores = posterior.log_prob(samples)
    _require(not bool(scores.isneginf().any()), "samples must be possible under the evidence")
    best = posterior.mpe()
    _require(_keeps(best.values, evidence), "the most probable explanation must keep the observed values")
    _same_log(
        "log_prob of the MPE", best.log_prob, posterior.log_prob(best.values), circuit, posterior.log_evidence.abs()
    )
    beaten = best.exact & (
        scores.amax(0) > best.log_prob + _slack(best.log_prob, circuit, posterior.log_evidence.abs())
    )
    _require(
        not bool(beaten.any()),
        f"samples beat an MPE that claims to be exact, in rows {beaten.nonzero().flatten().tolist()}",
    )
    if (
        math.prod(family.num_categories or 1 for family in circuit.inputs) <= MOST_WORLDS
        and circuit.device.type == "cpu"
    ):
        single, pair = sample_p_values(samples, Enumeration(circuit, evidence))
        _require(
            min(single, pair) > LEAST_P_VALUE,
            f"samples do not fit the exact marginals (p={single:.1e}) and pairs (p={pair:.1e})",
        )


def _check_learning(circuit: Circuit, evidence: Evidence) -> None:
    """One EM step keeps the circuit normalised and does not make the evidence less likely."""
    learner = copy.deepcopy(circuit)
    statistics = learner.statistics(evidence)
    learner.maximise(statistics)
    with torch.no_grad():
        after = learner.condition(evidence).log_evidence.sum()
    before = statistics.log_likelihood
    _require(
        bool(after >= before - 10 * _slack(before, circuit)),
        f"an EM step lowered the log likelihood from {before.item()} to {after.item()}",
    )
    nothing = learner.condition(Evidence.nothing(1, circuit.num_variables, circuit.device)).log_evidence
    _same_log("log_evidence of no evidence after an EM step", nothing, torch.zeros_like(nothing), circuit)


def _refuses(posterior: Posterior, rows: list[int]) -> None:
    for query in (posterior.marginals, posterior.sample, posterior.mpe):
        try:
            query()
        except EvidenceError as error:
            _require(str(rows[:8]) in str(error), f"the error must name the impossible rows {rows[:8]}, got: {error}")
        else:
            _require(False, f"{query.__name__} must raise EvidenceError for the impossible rows {rows}")


def _multiplies(circuit: Circuit, posterior: Posterior, x: Shaped[Tensor, "B D"], chosen: Bool[Tensor, "B D"]) -> None:
    """`p(x | e) = p(x_chosen | e) p(x_rest | x_chosen, e)`."""
    evidence = posterior.evidence
    first = posterior.log_prob(x, variables=chosen)
    refined = evidence.replace(
        values=torch.where(chosen, x, evidence.values.to(x.dtype)), observed=evidence.observed | chosen
    )
    scale = posterior.log_evidence.abs()
    _same_log(
        "conditioning in two steps",
        first + circuit.condition(refined).log_prob(x),
        posterior.log_prob(x),
        circuit,
        scale,
    )


def _check_mpe(posterior: Posterior, oracle: Enumeration, scale: Tensor) -> None:
    circuit, found = posterior.circuit, posterior.mpe()
    _require(_keeps(found.values, posterior.evidence), "the most probable explanation must keep the observed values")
    _same_log("log_prob of the MPE", found.log_prob, oracle.log_prob(found.values), circuit, scale)
    try:
        best = oracle.mpe()[1]
    except StructureError:  # a free continuous variable
        return
    slack = _slack(best, circuit, scale)
    _require(
        bool((found.log_prob <= best + slack).all()),
        f"the MPE {found.log_prob.tolist()} is above the maximum {best.tolist()}",
    )
    wrong = found.exact & (found.log_prob < best - slack)
    _require(
        not bool(wrong.any()),
        f"the MPE claims to be exact but misses the maximum in rows {wrong.nonzero().flatten().tolist()}",
    )


def _same_log(what: str, got: Tensor, want: Tensor, circuit: Circuit, scale: Tensor | float = 0.0) -> None:
    off = (got - want).abs().masked_fill(want.isneginf(), 0.0) - _slack(want, circuit, scale)
    if not ((got.isneginf() == want.isneginf()) & (off <= 0)).all():
        _require(False, f"{what}: got {got.tolist()}, but it should be {want.tolist()}")


def _slack(want: Tensor, circuit: Circuit, scale: Tensor | float = 0.0) -> Tensor:
    finite = torch.where(want.isneginf(), 0.0, want.abs())
    return TOLERANCE[circuit.dtype] * torch.maximum(finite.clamp_min(1.0), torch.as_tensor(scale, dtype=finite.dtype))


def _same_marginals(got: Tensor | list, want: Tensor | list, circuit: Circuit) -> None:
    _require(
        isinstance(got, Tensor) == isinstance(want, Tensor),
        f"marginals must be a {type(want).__name__}, got a {type(got).__name__}",
    )
    for variable, (mine, theirs) in enumerate(zip(_per_variable(got), _per_variable(want), strict=True)):
        pairs = zip(mine, theirs, strict=True) if isinstance(mine, Moments) else [(mine, theirs)]
        scale = 10 * max(1.0, float(theirs.mean.square().max())) if isinstance(theirs, Moments) else 1.0
        for a, b in pairs:
            _require(
                a.shape == b.shape,
                f"marginal of variable {variable}: got shape {tuple(a.shape)}, but it should be {tuple(b.shape)}",
            )
            close = (a.double() - b).abs() <= scale * TOLERANCE[circuit.dtype]
            _require(
                bool(close.all()), f"marginal of variable {variable}: got {a.tolist()}, but it should be {b.tolist()}"
            )


def _per_variable(marginals: Tensor | list) -> list:
    return list(marginals.unbind(1)) if isinstance(marginals, Tensor) else marginals


def _any_values(circuit: Circuit, evidence: Evidence, generator: torch.Generator) -> Shaped[Tensor, "B D"]:
    """Values that may contradict the evidence."""
    columns = [example_column(family, evidence.batch_size, 1.0, generator) for family in circuit.inputs]
    mixed = any(not f.is_discrete for f in circuit.inputs)
    return torch.stack([c.to(circuit.dtype if mixed else torch.long) for c in columns], 1)


def _keeps(values: Shaped[Tensor, "... B D"], evidence: Evidence) -> bool:
    return bool(((values == evidence.values) | ~evidence.observed).all())


def _to(evidence: Evidence, device: torch.device) -> Evidence:
    return evidence._each(lambda x: x.to(device))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
