"""The circuit: a plan and its parameters, a distribution that evidence conditions."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from pcircuits.collection import collection_paused
from pcircuits.distributions import Categorical, InputFamily, PerSample, Smoothing
from pcircuits.errors import EvidenceError, ParameterError, ShapeError, StructureError
from pcircuits.evaluator import Evaluation, evaluate
from pcircuits.evidence import Evidence, describe, rows_of
from pcircuits.folding import compile_plan
from pcircuits.kernels import choice
from pcircuits.layers import InputGroup, ParameterGroup, build_groups
from pcircuits.plan import InnerLevel, InputLevel, Plan
from pcircuits.posterior import Posterior
from pcircuits.queries import MPE, Moments, determinism
from pcircuits.state_tables import Prepared
from pcircuits.statistics import Statistics, collect
from pcircuits.structures import RegionGraph
from pcircuits.summary import summary
from pcircuits.types import Float, Shaped, Tensor
from pcircuits.workspace import Fresh, Memory, Workspace


class Circuit(nn.Module):
    """A probabilistic circuit over D variables (Choi, Vergari, Van den Broeck 2020): smooth and decomposable by
    construction.

    Args:
        graph: how the variables decompose.
        inputs: one input family for all variables, or one a variable.
        num_units: K units a region; the graph's own hint if left out.
        layer: "cp", "cp-t", "tucker" or "sparse" (see `compile_plan`); the graph's own hint if left out.
        seed: of the random initial parameters.
        dtype: of parameters and values. Log scales and log evidences are float64 always.

    Raises:
        StructureError, ParameterError: arguments that do not fit together.
    """

    _is_normalised = True  # weights and inputs are probabilities
    _cache: tuple[tuple, Prepared] | None = None
    _marginals: tuple[tuple, Tensor] | None = None
    _without_evidence: tuple[tuple, Evidence, Evaluation] | None = None
    _shared = False  # whether users may hold tensors of the cache
    _determinism: tuple[tuple, bool | None] | None = None

    def __init__(
        self,
        graph: RegionGraph,
        inputs: InputFamily | Sequence[InputFamily],
        *,
        num_units: int | None = None,
        layer: str | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
        sum_ties: Mapping[int, str] | None = None,
        input_ties: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        units = graph.num_units if num_units is None else num_units
        if not isinstance(units, int) or units < 1:
            raise ParameterError(
                f"`num_units` must be a positive integer, got {units!r}; this region graph carries no hint of its own"
            )
        if dtype not in (torch.float32, torch.float64):
            raise ParameterError(f"`dtype` must be torch.float32 or torch.float64, got {dtype}")
        if not isinstance(graph, RegionGraph):
            raise StructureError(f"`graph` must be a RegionGraph, got {type(graph).__name__}")
        self.graph, self.num_units, self.layer = graph, units, layer or graph.default_layer
        self.inputs = _families(inputs, graph.num_variables)
        self.ties = {"sum": dict(sum_ties or {}), "input": dict(input_ties or {})}
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with collection_paused():
            self._plan = compile_plan(graph, self.inputs, units, self.layer, sum_ties=sum_ties, input_ties=input_ties)
            self.groups = build_groups(dict(self._plan.groups), generator)
        if getattr(graph, "observed_latents", False):
            self._make_inputs_indicators()
        self.to(dtype)

    @property
    def num_variables(self) -> int:
        return self.graph.num_variables

    @property
    def num_parameters(self) -> int:
        """Free entries of all parameter tensors, tied ones counted once."""
        return sum(p.numel() for p in self.parameters())

    @property
    def num_categories(self) -> int | None:
        """V of circuits whose variables are all discrete with equally many values, else None."""
        sizes = {family.num_categories for family in self.inputs}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def dtype(self) -> torch.dtype:
        return next(self._own_parameters()).dtype.to_real()

    @property
    def is_complex(self) -> bool:
        """Whether values may be complex numbers."""
        return False

    @property
    def device(self) -> torch.device:
        return next(self._own_parameters()).device

    @property
    def version(self) -> tuple:
        """Changes whenever a parameter or support mask is changed in place, replaced, moved or loaded."""
        return tuple((id(t), t._version, t.dtype, t.device) for t in _tensors(self))

    @property
    def plan(self) -> Plan:
        """The folded levels, with index tensors on the parameters' device; `print(circuit.plan)` shows them."""
        level = next(x for x in self._plan.levels if isinstance(x, InputLevel))
        if level.rows.device != self.device:
            self._plan = self._plan.to(self.device)
        return self._plan

    def group(self, name: str) -> ParameterGroup:
        """The parameters that are tied or folded together under this name."""
        group = self.groups[name]
        assert isinstance(group, ParameterGroup)
        return group

    def named_groups(self) -> Iterator[tuple[str, ParameterGroup]]:
        return ((name, self.group(name)) for name in self.groups)

    def prepared(self) -> Prepared:
        """Normalised parameters of every group; kept between calls while nothing changes and no gradient is asked
        for.
        """
        if torch.is_grad_enabled() and any(p.requires_grad for p in self._own_parameters()):
            return self._prepare()
        version = self.version
        if self._cache is None or self._cache[0] != version:
            self._cache = self._without_evidence = None  # which are freed before there are new ones
            with torch.no_grad():
                self._cache = (version, self._prepare())
        return self._cache[1]

    def log_partition(self) -> Float[Tensor, ""]:
        """`log Z = log sum_x c(x)` of the value c(x) that the units compute; the distribution is `c(x) / Z`. 0 where
        all weights are probabilities, as they are but in products of circuits.
        """
        return torch.zeros((), dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def determinism(self) -> bool | None:
        """Whether no input makes two children of a sum positive: True or False where it is proven, None where it is
        unknown; kept like `prepared`.
        """
        if self._determinism is None or self._determinism[0] != self.version:
            self._determinism = (self.version, determinism(self.plan, self.prepared()))
        return self._determinism[1]

    def _own_parameters(self) -> Iterator[Tensor]:
        """As `parameters`, which is slower; tied ones may occur twice."""
        return _tensors(self, buffers=False)

    def _differentiates(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self._own_parameters())

    def _differentiates_by_counts(self, evidence: Evidence) -> bool:
        """Whether gradients are asked for, of parameters alone, and expected counts give them all."""
        if not self._differentiates() or evidence.requires_grad:
            return False
        if self.device.type != "cpu" or choice.on_triton(tuple(self._own_parameters())):
            return False  # kernels there have gradients of their own
        if any(map(torch._C._functorch.is_functorch_wrapped_tensor, self._own_parameters())):
            return False  # transforms of `torch.func` want to see every operation
        return self._is_normalised and all(family.gradients_by_counts for family in set(self.inputs))

    def forward(self, x: Shaped[Tensor, "B D"]) -> Float[Tensor, " B"]:
        return self.log_prob(x)

    def log_prob(self, x: Shaped[Tensor, "B D"], *, workspace: Workspace | None = None) -> Float[Tensor, " B"]:
        """`log p(x)` of complete values, (B, D) to (B,), natural log, float64."""
        return self.condition(Evidence(x), workspace=workspace).log_evidence

    def condition(self, evidence: Evidence, *, workspace: Workspace | None = None) -> Posterior:
        """The distribution given the evidence. With a `workspace` the posterior lasts until its next use.

        Raises:
            ShapeError, EvidenceError: evidence of another size, device or domain.
        """
        evidence = self._checked(evidence)
        if self._differentiates_by_counts(evidence):
            return Posterior(self, evidence, memory=self._fast_memory(workspace))
        memory = self._memory(evidence, workspace)
        if isinstance(memory, Fresh) and self._is_normalised and evidence.is_complete:
            return Posterior(self, evidence, memory=memory)
        return Posterior(self, evidence, self._evaluate(evidence, memory))

    def _evaluate(self, evidence: Evidence, memory: Memory, **options: bool) -> Evaluation:
        with torch.autocast(self.device.type, enabled=False):
            return evaluate(self.plan, self.prepared(), evidence, self.dtype, memory, **options)

    def _memory(self, evidence: Evidence, workspace: Workspace | None) -> Memory:
        if self.device.type != "cpu" or self._differentiates() or (torch.is_grad_enabled() and evidence.requires_grad):
            return Memory()
        return self._fast_memory(workspace)

    @staticmethod
    def _fast_memory(workspace: Workspace | None) -> Memory:
        if workspace is None:
            return Fresh()
        workspace.begin()
        return workspace

    def sample(self, n: int = 1, *, generator: torch.Generator | None = None) -> Shaped[Tensor, "N D"]:
        """`n` samples, (n, D)."""
        with torch.no_grad():
            return self._prior().sample(n, generator=generator)[:, 0]

    def marginals(self) -> Float[Tensor, "D V"] | list[Tensor | Moments]:
        """`p(X_i)`, (D, V), or a list with one entry a variable as for a posterior; kept like `prepared`."""
        if self._marginals is not None and self._marginals[0] == self.version and not self._differentiates():
            return self._marginals[1]
        result = self._prior().marginals()
        if isinstance(result, Tensor):
            self._marginals = None if result.requires_grad else (self.version, result[0])
            return result[0]
        return [Moments(*(m[0] for m in r)) if isinstance(r, Moments) else r[0] for r in result]

    def mpe(self) -> MPE:
        """The most probable values (D,), as for a posterior."""
        return MPE(*(field[0] for field in self._prior().mpe() if field is not None))

    def statistics(
        self,
        evidence: Evidence | Shaped[Tensor, "B D"],
        *,
        sample_weights: Tensor | None = None,
        workspace: Workspace | None = None,
        recompute: bool = False,
    ) -> Statistics:
        """Expected counts of every parameter given the evidence, summed over the batch: the E step of EM.

        `sample_weights` (B,) says how often each row counts. With a `workspace` the counts last until its next use.
        `recompute` saves memory in deep circuits: most levels are worked out twice, on the way up and again on the
        way down, to the same bits, instead of being kept.

        Raises:
            EvidenceError: impossible evidence, naming the rows.
            ShapeError, ParameterError: weights of another shape, or negative, NaN or all zero.
        """
        evidence = evidence if isinstance(evidence, Evidence) else Evidence(evidence)
        with torch.no_grad():
            evidence = self._checked(evidence)
            found = self._evaluate(evidence, self._memory(evidence, workspace), recompute=recompute, summed=True)
            posterior = Posterior(self, evidence, found)
            posterior._possible()
            return collect(self.plan, found, _weights(sample_weights, evidence), posterior.log_evidence)

    def maximise(
        self, statistics: Statistics, *, pseudocount: float = 0.0, relative: bool = False, step: float = 1.0
    ) -> None:
        """Set the parameters in place from expected counts: the M step of EM.

        `theta <- (1 - step) theta + step (n + a/k) / (sum n + a)` with `a` the pseudocount over k children; with
        `relative`, `a` is a fraction of the unit's own total. Units that were never reached keep their parameters, and
        entries outside the support stay zero.
        """
        if not (pseudocount >= 0 and 0 <= step <= 1):
            raise ParameterError(
                f"`pseudocount` must be at least 0 and `step` in [0, 1], got {pseudocount!r} and {step!r}"
            )
        if set(statistics.counts) != set(self.groups):
            raise ParameterError(
                "`statistics` has other parameter groups than this circuit; they come from circuit.statistics"
            )
        smooth = Smoothing(float(pseudocount), relative, float(step))
        with torch.no_grad():
            old = {} if self._shared or self._cache is None or self._cache[0] != self.version else self._cache[1]
            new = Prepared(
                (name, group.maximise(statistics.counts[name], smooth, old.get(name)))
                for name, group in self.named_groups()
            )
        self._cache, self._without_evidence, self._shared = (self.version, new), None, False

    def _prepare(self) -> Prepared:
        return Prepared((name, group.prepare()) for name, group in self.named_groups())

    def _prior(self) -> Posterior:
        """The posterior of no evidence, whose evaluation is kept like `prepared`."""
        kept = self._without_evidence
        if kept is not None and kept[0] == self.version and not self._differentiates():
            return Posterior(self, *kept[1:])
        posterior = self.condition(self._nothing())
        if type(posterior) is Posterior and posterior._evaluated is not None and not self._differentiates():
            self._without_evidence = (self.version, posterior.evidence, posterior._evaluated)
        return posterior

    def _nothing(self) -> Evidence:
        return Evidence.nothing(1, self.num_variables, self.device)

    def _checked(self, evidence: Evidence) -> Evidence:
        """Evidence that fits this circuit, intervals of discrete variables as weights."""
        self._validate(evidence)
        return evidence.weighing_intervals([family.num_categories for family in self.inputs])

    def _validate(self, evidence: Evidence) -> None:
        if not isinstance(evidence, Evidence):
            raise EvidenceError(f"`evidence` must be an Evidence, got {describe(evidence)}")
        if evidence.num_variables != self.num_variables:
            raise ShapeError(f"evidence has {evidence.num_variables} variables, this circuit has {self.num_variables}")
        if evidence.device != self.device:
            raise EvidenceError(
                f"evidence is on {evidence.device}, this circuit on {self.device}; "
                "make the evidence from tensors on that device"
            )
        self._validate_potentials(evidence)
        for level in self.plan.levels:
            if isinstance(level, InputLevel):
                variables = tuple(dict.fromkeys(level.variables))
                level.family.validate(evidence.of_variables(variables), variables)

    def _validate_potentials(self, evidence: Evidence) -> None:
        units = self.num_units
        if evidence.parameters is not None:
            self._validate_parameters(evidence.parameters)
        if evidence.latent is not None and evidence.latent.shape[-1] != units:
            raise ShapeError(f"`latent` covers {evidence.latent.shape[-1]} units, this circuit has {units} a region")
        if not evidence.has_gates:
            return
        if evidence.gate_factors is not None and evidence.gate_factors.shape[-1] != units:
            width = evidence.gate_factors.shape[-1]
            raise ShapeError(f"`gate_factors` covers {width} units, this circuit has {units} a region")
        if evidence.gates is not None and units % (blocks := evidence.gates.shape[-1]):
            raise ShapeError(f"`gates` has {blocks} blocks, which do not divide this circuit's {units} units a region")
        if any(isinstance(level, InnerLevel) and level.product == "kronecker" for level in self.plan.levels):
            raise StructureError(
                "`gates` multiply the weights of sums over Hadamard products; this circuit is 'tucker'"
            )

    def _validate_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        known = {name for family in self.inputs if isinstance(family, PerSample) for name in family.sizes}
        if unknown := sorted(parameters.keys() - known):
            raise EvidenceError(
                f"`parameters` {unknown[0]!r} belong to no input: those of PerSample families here are {sorted(known)}"
            )
        if wrong := [name for name, x in parameters.items() if x.shape[2] != self.num_units]:
            found = parameters[wrong[0]].shape[2]
            raise ShapeError(
                f"`parameters` {wrong[0]!r} cover {found} units, this circuit has {self.num_units} a region"
            )

    @torch.no_grad()
    def _make_inputs_indicators(self) -> None:
        """Unit k of each input region becomes the indicator of category k: latent states are the observed values
        (Chow-Liu tree).
        """
        if wrong := [family for family in self.inputs if family != Categorical(self.num_units)]:
            raise StructureError(
                f"this region graph needs Categorical({self.num_units}) inputs, one unit a category; got {wrong[0]!r}"
            )
        for _, group in self.named_groups():
            if isinstance(group, InputGroup):
                eye = torch.eye(self.num_units, dtype=torch.bool)
                group.restrict(eye.expand(group.get_parameter("logits").shape).clone())

    def __str__(self) -> str:
        return summary(self)

    def extra_repr(self) -> str:
        sizes = f"{self.num_variables} variables, {self.num_units} units a region, {self.num_parameters:,} parameters"
        return f"{sizes}, layer {self.layer}"


def _tensors(module: nn.Module, *, buffers: bool = True) -> Iterator[Tensor]:
    """Parameters and buffers of a module and those in it, as `parameters` and `buffers` find them, but at once: each
    query asks several times.
    """
    for own in (module._parameters, module._buffers) if buffers else (module._parameters,):
        yield from (t for t in own.values() if t is not None)
    for child in module._modules.values():
        if child is not None:
            yield from _tensors(child, buffers=buffers)


def _families(inputs: InputFamily | Sequence[InputFamily], num_variables: int) -> tuple[InputFamily, ...]:
    families = (inputs,) * num_variables if isinstance(inputs, InputFamily) else tuple(inputs)
    if bad := [f for f in families if not isinstance(f, InputFamily)]:
        raise StructureError(
            f"`inputs` must be an input family such as Categorical(4), or one a variable; got {bad[0]!r}"
        )
    return families


def _weights(sample_weights: Tensor | None, evidence: Evidence) -> Float[Tensor, " B"]:
    if sample_weights is None:
        return torch.ones(evidence.batch_size, dtype=torch.float64, device=evidence.device)
    if not isinstance(sample_weights, Tensor) or sample_weights.shape != (evidence.batch_size,):
        raise ShapeError(f"`sample_weights` must have shape ({evidence.batch_size},), got {describe(sample_weights)}")
    if (bad := ~(sample_weights >= 0) | sample_weights.isinf()).any():
        raise ParameterError(f"`sample_weights` must be finite and at least 0; it is not in rows {rows_of(bad)}")
    if not sample_weights.any():
        raise ParameterError("`sample_weights` are all zero; at least one sample must count")
    return sample_weights.double()
