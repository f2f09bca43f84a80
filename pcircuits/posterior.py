"""A circuit conditioned on evidence: the object that answers queries."""

from typing import TYPE_CHECKING

import torch

from pcircuits import queries
from pcircuits.count_gradients import log_evidence
from pcircuits.errors import EvidenceError, ShapeError, StaleError, StructureError
from pcircuits.evaluator import Evaluation
from pcircuits.evidence import Evidence, describe, rows_of
from pcircuits.kernels import finite
from pcircuits.queries import MPE, Estimate, Moments
from pcircuits.types import Bool, Float, Shaped, Tensor
from pcircuits.workspace import Memory

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit


class Posterior:
    """`p(x | evidence)` for a batch of evidence; made by `Circuit.condition`.

    Every query but `log_evidence` and `log_prob` raises EvidenceError where the evidence is impossible, and StaleError
    once the circuit's parameters changed.
    """

    def __init__(
        self, circuit: "Circuit", evidence: Evidence, evaluation: Evaluation | None = None, memory: Memory | None = None
    ) -> None:
        """With memory in place of an evaluation, the log evidence is worked out by itself if it is asked for first;
        other queries have an evaluation that autograd records where gradients are asked for.
        """
        self.circuit, self.evidence, self._version = circuit, evidence, circuit.version
        self._evaluated, self._memory, self._differentiates = evaluation, memory, circuit._differentiates()
        self._log_evidence: Float[Tensor, " B"] | None = None

    @property
    def log_evidence(self) -> Float[Tensor, " B"]:
        """Log probability of the evidence (log Z), natural log, float64; `-inf` where it is impossible."""
        self._require_fresh()
        if self._log_evidence is None and self._evaluated is None and self._memory is not None:
            with torch.set_grad_enabled(self._differentiates):
                if self._differentiates:
                    self._log_evidence = log_evidence(self.circuit, self.evidence, self._memory)
                else:
                    found = self.circuit._evaluate(self.evidence, self._memory, summed=True)
                    self._log_evidence = found.log_evidence
        return self._evaluated_log_evidence()

    def _evaluated_log_evidence(self) -> Float[Tensor, " B"]:
        if self._log_evidence is None:
            self._log_evidence = self._evaluation.log_evidence - finite(self.circuit.log_partition())
        return self._log_evidence

    @property
    def _evaluation(self) -> Evaluation:
        if self._evaluated is None:
            memory = Memory() if self._differentiates or self._memory is None else self._memory
            with torch.set_grad_enabled(self._differentiates):
                self._evaluated = self.circuit._evaluate(self.evidence, memory)
        return self._evaluated

    def log_prob(
        self, x: Shaped[Tensor, "*N B D"], *, variables: Bool[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "*N B"]:
        """`log p(x | evidence)` of values x, (B, D) or (N, B, D); `-inf` where x contradicts the evidence.

        With `variables` only x's values where it is True count, and all other variables are summed out under their
        evidence: a marginal of the posterior.
        """
        evidence = self._possible()
        if not isinstance(x, Tensor) or x.ndim not in (2, 3) or x.shape[-2:] != evidence.values.shape:
            raise ShapeError(
                f"`x` must have shape (B, D) = {tuple(evidence.values.shape)} or (N, B, D), got {describe(x)}"
            )
        if variables is not None and (variables.dtype != torch.bool or variables.shape != evidence.values.shape):
            raise ShapeError(
                f"`variables` must be a bool tensor of shape {tuple(evidence.values.shape)}, got {describe(variables)}"
            )
        stacked = x.reshape(-1, *evidence.values.shape)
        joint = queries.joint_log_prob(self.circuit, evidence, stacked, variables)
        return (joint - self.log_evidence).view(x.shape[:-1])

    def marginals(
        self, *, out: Float[Tensor, "B D V"] | None = None
    ) -> Float[Tensor, "B D V"] | list[Tensor | Moments]:
        """Exact `p(X_i | evidence)`, (B, D, V), one-hot where observed.

        Circuits whose variables are not all discrete with equally many values get a list with one entry a variable:
        (B, V_i), or `Moments` of a continuous one.

        Args:
            out: what an earlier call returned, to be written over: of many values, new memory costs as much as the
                work. No gradients then.

        Raises:
            ShapeError, StructureError: `out` of another shape, dtype or device, or where there is a list or a gradient.
        """
        self._possible()
        if out is not None:
            self._require_room(out)
        return queries.marginals(self._evaluation, out)

    def _require_room(self, out: Tensor) -> None:
        circuit = self.circuit
        if circuit.num_categories is None:
            raise StructureError("`out` takes marginals of discrete variables with equally many values: one tensor")
        if self.log_evidence.requires_grad:
            raise StructureError("marginals written into `out` have no gradient; leave it out, or use torch.no_grad()")
        shape = (*self.evidence.values.shape, circuit.num_categories)
        wanted = (shape, circuit.dtype, circuit.device)
        if not isinstance(out, Tensor) or (tuple(out.shape), out.dtype, out.device) != wanted:
            raise ShapeError(f"`out` must be {shape} of {circuit.dtype} on {circuit.device}, got {describe(out)}")

    def free_marginals(self) -> Float[Tensor, "M V"]:
        """`marginals()[~observed]`, nothing being worked out for the observed variables.

        Raises:
            StructureError: variables that are not all discrete with equally many values.
        """
        self._possible()
        if self.circuit.num_categories is None:
            raise StructureError("free_marginals needs discrete variables with equally many values")
        if self.evidence.says_nothing:
            marginals = self.circuit.marginals()  # which the circuit keeps
            assert isinstance(marginals, Tensor)
            return marginals if self.evidence.batch_size == 1 else marginals.repeat(self.evidence.batch_size, 1)
        return queries.free_marginals(self._evaluation)

    def pair_marginals(self, first: int, second: int) -> Float[Tensor, "B V W"]:
        """Exact `p(X_first, X_second | evidence)` of two discrete variables, of any circuit, (B, V_first, V_second).

        One conditioning a value of the first variable. Two equal variables give the marginal on the diagonal.

        Raises:
            StructureError: a variable without finitely many values.
        """
        return queries.pair_marginals(self.circuit, self._possible(), self.log_evidence, first, second)

    def mutual_information(self, first: int, second: int) -> Float[Tensor, " B"]:
        """`I(X_first; X_second | evidence)` of two discrete variables in nats, (B,), from their exact pair marginals.

        A variable with itself gives its entropy.
        """
        return queries.mutual_information(self.pair_marginals(first, second))

    def moment(self, order: int) -> Float[Tensor, "B D"]:
        """Exact raw moments `E[X_i^order | evidence]`, (B, D), discrete variables counting as the numbers 0..V-1.

        Raises:
            StructureError: an order above 2 where a variable has not finitely many values.
        """
        self._possible()
        return queries.moment(self._evaluation, order)

    def covariance(self) -> Float[Tensor, "B D D"]:
        """Exact covariances `Cov(X_i, X_j | evidence)`, (B, D, D), of any circuit, mixed variables included: second
        derivatives of the log evidence, one backward pass a variable. Not differentiable further.
        """
        self._possible()
        return queries.covariance(self._evaluation)

    def entropy(self) -> Float[Tensor, " B"]:
        """Exact entropy of `p(X | evidence)` in nats, (B,); differential entropy where variables are continuous.

        Deterministic circuits alone have it in closed form (Vergari et al. 2021, Theorem on entropy: without
        determinism it is coNP-hard).

        Raises:
            StructureError: the circuit is not proven deterministic, or an input family has no closed form.
        """
        return queries.entropy(self.circuit, self._possible(), self.log_evidence)

    def log_model_count(self) -> Float[Tensor, " B"]:
        """The log of how many possible worlds agree with the evidence, (B,), float64; each counts as the product of its
        soft weights (weighted model counting), and the circuit's probabilities do not count. `model_count` gives
        the unweighted number as an integer.

        Raises:
            StructureError: the circuit is not proven deterministic, a variable is not discrete, or the evidence has
                potentials of units.
        """
        return queries.log_model_count(self.circuit, self._possible())

    def estimate_entropy(self, n: int, *, generator: torch.Generator | None = None) -> Estimate:
        """A Monte Carlo estimate of the entropy in nats and its standard error, each (B,), from n >= 2 samples, of any
        circuit: the mean of `-log p(x | evidence)`.
        """
        if not isinstance(n, int) or n < 2:
            raise ShapeError(f"`n` must be at least 2, for a standard error; got {n!r}")
        return Estimate.of(-self.log_prob(self.sample(n, generator=generator)))

    def sample(
        self,
        n: int = 1,
        *,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        variables: Bool[Tensor, "B D"] | None = None,
    ) -> Shaped[Tensor, "N B D"]:
        """`n` joint samples of all variables given the evidence, (n, B, D).

        `temperature` sharpens each variable's distribution given the latent path, `p(x | z)^(1/temperature)`, the path
        itself being drawn exactly (latent-variable sampling, Li et al. 2026, Sec. 5.1). At 0 each variable takes its
        mode given the path. With `variables` only these are drawn, jointly and the others summed out; what stands in
        the others' place means nothing.
        """
        shape = self._possible().values.shape
        if variables is not None and (variables.dtype != torch.bool or variables.shape != shape):
            raise ShapeError(f"`variables` must be a bool tensor of shape {tuple(shape)}, got {describe(variables)}")
        self._check_number(n)
        if not (temperature >= 0.0 and temperature < float("inf")):
            raise ShapeError(f"`temperature` must be finite and at least 0, got {temperature!r}")
        with torch.no_grad():
            return queries.sample(self._evaluation, n, generator, temperature, variables)

    def rsample(
        self, n: int = 1, *, generator: torch.Generator | None = None, temperature: float = 1.0, hard: bool = True
    ) -> Float[Tensor, "N B D V"] | list[Tensor]:
        """`n` samples through which gradients flow, to parameters and soft evidence: (n, B, D, V) one-hot vectors,
        float64, or a list with one entry a variable as of `marginals`: (n, B, V_i), or (n, B) of a Gaussian.

        Branches and values are Gumbel-softmax draws at `temperature` (Jang et al. 2017). With `hard` they are exact
        samples and their gradient is that of the relaxed draw (straight-through: biased); else the relaxed draws
        themselves, near one-hot at low temperatures. Gaussian values are reparameterised.

        Raises:
            StructureError: a continuous family other than Gaussian.
        """
        self._possible()
        self._check_number(n)
        if not 0.0 < temperature < float("inf"):
            raise ShapeError(f"`temperature` must be positive and finite, got {temperature!r}")
        return queries.rsample(self._evaluation, n, generator, temperature, hard)

    def mpe(self, *, marginalize: Bool[Tensor, "B D"] | None = None, search: int = 0) -> MPE:
        """A most probable completion of the evidence, its log probability `log p(x | evidence)`, whether it is proven
        to be the maximum, and a certified upper bound of the maximum.

        Args:
            marginalize: True for unobserved variables to sum out rather than maximise (marginal MAP): `log_prob` is of
                the others alone, and the values of these are 0.
            search: of rows that stay open, how many partial assignments branch and bound may evaluate to raise the
                lower bound and shrink the upper one.
        """
        evidence = self._possible()
        if marginalize is not None and (marginalize.dtype != torch.bool or marginalize.shape != evidence.values.shape):
            raise ShapeError(
                f"`marginalize` must be a bool tensor of shape {tuple(evidence.values.shape)}, got "
                f"{describe(marginalize)}"
            )
        if not isinstance(search, int) or search < 0:
            raise ShapeError(f"`search` must be an integer of at least 0, got {search!r}")
        with torch.no_grad():
            return queries.mpe(self.circuit, evidence, self.log_evidence, marginalize, search)

    @staticmethod
    def _check_number(n: int) -> None:
        if not isinstance(n, int) or n < 1:
            raise ShapeError(f"`n` must be a positive integer, got {n!r}")

    def _possible(self) -> Evidence:
        self._require_fresh()
        if (bad := self._evaluated_log_evidence().isneginf()).any():
            raise EvidenceError(f"the evidence is impossible (log evidence -inf) in batch rows {rows_of(bad)}")
        return self.evidence

    def _require_fresh(self) -> None:
        if self.circuit.version != self._version:
            raise StaleError(
                "the circuit's parameters changed after this posterior was made; call circuit.condition(evidence) again"
            )

    def __repr__(self) -> str:
        return f"Posterior({self.evidence!r})"
