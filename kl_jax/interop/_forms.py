"""Closed forms of the libraries' parameters that are functions of kl_jax's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from kl_jax import _contracts, elementwise, parametric
from kl_jax._arithmetic import multiply
from kl_jax._exponentials import phi
from kl_jax.divergences import kl_divergence


def logit(probs: Any) -> Array:
    """`elementwise.logit` of what a library has as probs."""
    return elementwise.logit(*_contracts.numbers("logit", probs=probs))


def _vectors(function: str, p: Any, q: Any) -> list[Array]:
    """With the last axis as long in one as in the other, and batch axes that broadcast."""
    arrays = _contracts.numbers(function, p=p, q=q)
    lengths = [x.shape[-1] for x in arrays]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"{function}: q must have as many outcomes as p, {lengths[0]}, "
            f"found {lengths[1]}."
        )
    return _contracts.broadcast(function, p=arrays[0], q=arrays[1])


def categorical(logits_p: Any, logits_q: Any) -> Array:
    """`kl_divergence` of batches that broadcast."""
    return kl_divergence(*_vectors("kl_divergence", logits_p, logits_q))


def categorical_of_probs(logits_p: Any, logits_q: Any) -> Array:
    """`categorical`, where an outcome of p is one whose probability does not round to 0."""
    a, b = _vectors("kl_divergence", logits_p, logits_q)
    absent = jax.nn.softmax(lax.stop_gradient(a)) == 0
    return kl_divergence(jnp.where(absent, -jnp.inf, a), b)


def dirichlet(concentration_p: Any, concentration_q: Any) -> Array:
    """`parametric.dirichlet` of as many concentrations."""
    vectors = _vectors("parametric.dirichlet", concentration_p, concentration_q)
    return parametric.dirichlet(*vectors)


def _counted(
    family: Callable[..., Array], of_one: Callable[[Array, Array], Array], *given: Any
) -> Array:
    """A family of counts by logits: `of_one` for each, plus that of two with one
    probability, which is 0 for equal counts, and inf or nan for others.
    """
    names = ("total_count_p", "logits_p", "total_count_q", "logits_q")
    function = f"interop.{family.__name__}_logits"
    n, x, m, y = _contracts.parameters(function, **dict(zip(names, given, strict=True)))
    each = of_one(x, jnp.where(m > 0, y, x))
    probs = jax.nn.sigmoid(x)
    return multiply(m, each) + family(n, probs, m, probs)


def binomial_logits(count_p: Any, logits_p: Any, count_q: Any, logits_q: Any) -> Array:
    """`parametric.binomial`: `bernoulli_logits` for each trial."""
    given = count_p, logits_p, count_q, logits_q
    return _counted(parametric.binomial, parametric.bernoulli_logits, *given)


def geometric_logits(logits_p: Any, logits_q: Any) -> Array:
    """`parametric.geometric`: bernoulli_logits / p, and 1 / p = 1 + e^-logits."""
    x, y = _contracts.parameters(
        "interop.geometric_logits", logits_p=logits_p, logits_q=logits_q
    )
    # Of p below e^-40, softplus(y) / e^x - 1 - (y - x) to the last digit of float64: next
    # to e^-87 that of `bernoulli_logits` is flushed to 0, and 1 / p overflows. With
    # s = log softplus(y), which is y where e^y is below eps, it is phi(s - x) + (s - y).
    rare = x < -40
    a, b = (jnp.where(rare, 0, v) for v in (x, y))
    trials = parametric.bernoulli_logits(a, b) * (1 + jnp.exp(-a))
    small = y < jnp.log(jnp.finfo(y.dtype).eps)
    z = jnp.where(small, 0, y)
    less = jnp.where(small, 0, jnp.log(jax.nn.softplus(z)) - z)
    few = phi(jnp.where(rare, (y - x) + less, 0)) + less
    return jnp.where(rare, few, trials)


def negative_binomial_logits(
    count_p: Any, logits_p: Any, count_q: Any, logits_q: Any
) -> Array:
    """`parametric.negative_binomial`: `geometric_logits` for each failure."""

    def failure(x: Array, y: Array) -> Array:
        return geometric_logits(-x, -y)

    given = count_p, logits_p, count_q, logits_q
    return _counted(parametric.negative_binomial, failure, *given)


def multinomial_logits(count_p: Any, logits_p: Any, count_q: Any, logits_q: Any) -> Array:
    """`parametric.multinomial`: `categorical` for each trial, plus that of two with one
    outcome, which is 0 for equal counts, and inf for others.
    """
    n, m = _contracts.parameters(
        "interop.multinomial_logits", total_count_p=count_p, total_count_q=count_q
    )
    trial = categorical(logits_p, logits_q)
    one = jnp.ones(1, trial.dtype)
    return jnp.where(m > 0, multiply(m, trial), 0) + parametric.multinomial(n, one, m, one)


def poisson_log_rate(log_rate_p: Any, log_rate_q: Any) -> Array:
    """`parametric.poisson` of rates e^x and e^y: e^x (e^d - 1 - d), d = y - x."""
    x, y = _contracts.parameters(
        "interop.poisson_log_rate", log_rate_p=log_rate_p, log_rate_q=log_rate_q
    )
    d = jnp.where(x == y, 0, y - x)
    # From d = 1 on as e^y (1 - (1 + d) e^-d), which does not overflow where e^d does. At
    # d = 100 the product is 4e-42, and inf times 0 would be nan.
    far = d > 1
    small = jnp.minimum(jnp.where(far, d, 1), 100)
    of_q = jnp.exp(y) * (1 - (1 + small) * jnp.exp(-small))
    return jnp.where(far, of_q, jnp.exp(x) * phi(jnp.where(far, 0, d)))


def diagonal_matrix(diagonal: Array) -> Array:
    size = diagonal.shape[-1]
    one = jnp.broadcast_to(jnp.eye(size, dtype=bool), (*diagonal.shape, size))
    return jnp.where(one, jnp.expand_dims(diagonal, -1), 0)


def with_positive_diagonal(factor: Array) -> Array:
    """Another factor of the same covariance: some columns change their sign."""
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return factor * jnp.expand_dims(jnp.where(diagonal < 0, -1.0, 1.0), -2)
