"""Distributions of whole numbers."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax._arithmetic import divide, multiply, nan_where
from kl_jax.elementwise import generalized_kl_term
from kl_jax.parametric._convex import SOFTPLUS, bregman
from kl_jax.parametric.domain import (
    arrays,
    closed_form,
    count,
    non_negative,
    number,
    positive_probability,
    probability,
)


@closed_form(probs=probability)
def bernoulli(probs_p: ArrayLike, probs_q: ArrayLike) -> Array:
    """p log(p / q) + (1 - p) log((1 - p) / (1 - q)), probabilities from 0 to 1.

    >>> round(bernoulli(0.5, 0.9).item(), 4)
    0.5108
    """
    return _bernoulli(*arrays(probs_p, probs_q))


def _bernoulli(p: Array, q: Array) -> Array:
    return generalized_kl_term(p, q) + generalized_kl_term(1 - p, 1 - q, q - p)


@closed_form(logits=number)
def bernoulli_logits(logits_p: ArrayLike, logits_q: ArrayLike) -> Array:
    """`bernoulli` of probabilities 1 / (1 + e^-logits). -inf is probability 0, inf is 1.

    >>> round(bernoulli_logits(0.0, 2.0).item(), 4)
    0.4338
    """
    p, q = arrays(logits_p, logits_q)
    return bregman(SOFTPLUS, q, p, jnp.where(p == q, 0, q - p))


@closed_form(total_count=count, probs=probability)
def binomial(
    total_count_p: ArrayLike,
    probs_p: ArrayLike,
    total_count_q: ArrayLike,
    probs_q: ArrayLike,
) -> Array:
    """total_count times that of `bernoulli`, for equal numbers of trials.

    inf where p has more trials than q. Where q has more there is no closed form: nan.

    >>> round(binomial(10, 0.5, 10, 0.9).item(), 4)
    5.1083
    """
    n, p, m, q = arrays(total_count_p, probs_p, total_count_q, probs_q)
    some = m > 0  # 0 trials tell nothing, however different p and q
    value = multiply(m, _bernoulli(p, jnp.where(some, q, p)))
    value = jnp.where(some, value, 0)
    known = (n == m) | (p == 0)
    return nan_where(~known & (n < m), jnp.where(known, value, jnp.inf))


@closed_form(probs=positive_probability)
def geometric(probs_p: ArrayLike, probs_q: ArrayLike) -> Array:
    """log(p / q) + (1 - p) / p log((1 - p) / (1 - q)), probabilities above 0, up to 1.

    >>> round(geometric(0.5, 0.9).item(), 4)
    1.0217
    """
    p, q = arrays(probs_p, probs_q)
    return divide(_bernoulli(p, q), p)


@closed_form(rate=non_negative)
def poisson(rate_p: ArrayLike, rate_q: ArrayLike) -> Array:
    """rate_p log(rate_p / rate_q) - rate_p + rate_q, rates of 0 or more.

    >>> round(poisson(2.0, 3.0).item(), 4)
    0.1891
    """
    return generalized_kl_term(rate_p, rate_q)
