"""dynamax with the same parameters.

`forward` and `gradient` are its bare filter under `vmap`, on emissions gathered by hand, and one `jit` around all
that drops what is not asked for; `filter` is the filter with all that it returns, and `filter_gradient` its gradient,
without that `jit`. Its model class, which `em` has to use, builds a distribution for each state and step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.hidden_markov_model import CategoricalHMM, hmm_filter

FLAT = 1.0 + 1e-6
"""Concentration of its Dirichlet priors: maximum likelihood, but for rounding."""


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    x = jnp.asarray(arrays["x"])
    parameters = (
        jnp.asarray(arrays["initial"]),
        jnp.asarray(arrays["transition"]),
        jnp.log(jnp.asarray(arrays["emission"])).T,
    )

    def log_likelihoods(initial: jax.Array, transition: jax.Array, log_emission: jax.Array) -> jax.Array:
        return jax.vmap(lambda row: hmm_filter(initial, transition, log_emission[row]).marginal_loglik)(x)

    def filtered(initial: jax.Array, transition: jax.Array, log_emission: jax.Array) -> Any:
        return jax.vmap(lambda row: hmm_filter(initial, transition, log_emission[row]))(x)

    forward = jax.jit(log_likelihoods)
    uncompiled = jax.grad(lambda *p: log_likelihoods(*p).sum(), argnums=(0, 1, 2))
    gradients = jax.jit(uncompiled)
    hmm, start, properties = _model(arrays)
    step = _em_step(hmm, start, properties, x[..., None])
    draw = jax.jit(jax.vmap(lambda key: hmm.sample(start, key, x.shape[1])[1]))
    keys = jax.random.split(jax.random.PRNGKey(0), 1000)
    return {
        "sample": lambda: draw(keys).block_until_ready(),
        "filter": lambda: jax.block_until_ready(filtered(*parameters)),
        "filter_gradient": lambda: jax.block_until_ready(uncompiled(*parameters)),
        "forward": lambda: forward(*parameters).block_until_ready(),
        "gradient": lambda: jax.block_until_ready(gradients(*parameters)),
        "transition_counts": lambda: gradients(*parameters)[1] * parameters[1],
        "em": lambda: jax.block_until_ready(step())[0],
        "em_transition": lambda: step()[1].transitions.transition_matrix,
    }


def _model(arrays: dict[str, np.ndarray]) -> tuple[Any, Any, Any]:
    states, categories = arrays["emission"].shape
    hmm = CategoricalHMM(
        states,
        1,
        categories,
        initial_probs_concentration=FLAT,
        transition_matrix_concentration=FLAT,
        emission_prior_concentration=FLAT,
    )
    start, properties = hmm.initialize(
        initial_probs=jnp.asarray(arrays["initial"]),
        transition_matrix=jnp.asarray(arrays["transition"]),
        emission_probs=jnp.asarray(arrays["emission"])[:, None, :],
    )
    return hmm, start, properties


def _em_step(hmm: Any, start: Any, properties: Any, emissions: jax.Array) -> Callable[[], Any]:
    """Log evidence and parameters of one step of the model class, from the same parameters each time."""

    @jax.jit
    def step(parameters: Any) -> Any:
        statistics, log_likelihoods = jax.vmap(lambda row: hmm.e_step(parameters, row))(emissions)
        state = hmm.initialize_m_step_state(parameters, properties)
        return log_likelihoods.sum().reshape(1), hmm.m_step(parameters, properties, statistics, state)[0]

    return lambda: step(start)
