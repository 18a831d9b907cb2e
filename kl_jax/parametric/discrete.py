"""Distributions of whole numbers."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import contracts
from kl_jax.elementwise import SOFTPLUS, bregman, generalized_kl_term, over
from kl_jax.parametric.domain import (
    count,
    non_negative,
    number,
    positive_probability,
    probability,
    within,
)


def bernoulli(probs_p: ArrayLike, probs_q: ArrayLike) -> Array:
    """p log(p / q) + (1 - p) log((1 - p) / (1 - q)), probabilities from 0 to 1.

    >>> round(bernoulli(0.5, 0.9).item(), 4)
    0.5108
    """
    name = "parametric.bernoulli"
    p, q = contracts.parameters(name, probs_p=probs_p, probs_q=probs_q)
    return within(_bernoulli(p, q), probability(name, probs_p=p, probs_q=q))


def _bernoulli(p: Array, q: Array) -> Array:
    return generalized_kl_term(p, q) + generalized_kl_term(1 - p, 1 - q, q - p)


def bernoulli_logits(logits_p: ArrayLike, logits_q: ArrayLike) -> Array:
    """`bernoulli` of probabilities 1 / (1 + e^-logits). -inf is probability 0, inf is 1.

    >>> round(bernoulli_logits(0.0, 2.0).item(), 4)
    0.4338
    """
    name = "parametric.bernoulli_logits"
    p, q = contracts.parameters(name, logits_p=logits_p, logits_q=logits_q)
    value = bregman(SOFTPLUS, q, p, jnp.where(p == q, 0, q - p))
    return within(value, number(name, logits_p=p, logits_q=q))


def binomial(
    total_count_p: ArrayLike,
    probs_p: ArrayLike,
    total_count_q: ArrayLike,
    probs_q: ArrayLike,
) -> Array:
    """total_count times that of `bernoulli`, for equal numbers of trials, also of integers.

    inf where p has more trials than q. Where q has more there is no closed form: nan.

    >>> round(binomial(10, 0.5, 10, 0.9).item(), 4)
    5.1083
    """
    name = "parametric.binomial"
    n, p, m, q = contracts.parameters(
        name,
        total_count_p=contracts.count(name, "total_count_p", total_count_p),
        probs_p=probs_p,
        total_count_q=contracts.count(name, "total_count_q", total_count_q),
        probs_q=probs_q,
    )
    some = m > 0  # 0 trials tell nothing, however different p and q
    value = jnp.where(some, m * _bernoulli(p, jnp.where(some, q, p)), 0)
    value = jnp.where((n == m) | (p == 0), value, jnp.where(n > m, jnp.inf, jnp.nan))
    counts = count(name, total_count_p=n, total_count_q=m)
    return within(value, counts, probability(name, probs_p=p, probs_q=q))


def geometric(probs_p: ArrayLike, probs_q: ArrayLike) -> Array:
    """log(p / q) + (1 - p) / p log((1 - p) / (1 - q)), probabilities above 0, up to 1.

    >>> round(geometric(0.5, 0.9).item(), 4)
    1.0217
    """
    name = "parametric.geometric"
    p, q = contracts.parameters(name, probs_p=probs_p, probs_q=probs_q)
    return within(
        over(_bernoulli(p, q), p), positive_probability(name, probs_p=p, probs_q=q)
    )


def poisson(rate_p: ArrayLike, rate_q: ArrayLike) -> Array:
    """rate_p log(rate_p / rate_q) - rate_p + rate_q, rates of 0 or more.

    >>> round(poisson(2.0, 3.0).item(), 4)
    0.1891
    """
    name = "parametric.poisson"
    p, q = contracts.parameters(name, rate_p=rate_p, rate_q=rate_q)
    return within(generalized_kl_term(p, q), non_negative(name, rate_p=p, rate_q=q))
