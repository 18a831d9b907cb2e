"""Distributions of whole numbers."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _contracts
from kl_jax._arithmetic import (
    divide,
    in_units_of_rows,
    multiply,
    nan_where,
    sum_last,
    two_prod,
)
from kl_jax.elementwise import generalized_kl_term
from kl_jax.parametric._convex import SOFTPLUS, bregman
from kl_jax.parametric.domain import (
    arrays,
    below_1,
    closed_form,
    count,
    masses,
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


@closed_form(total_count=non_negative, probs=below_1)
def negative_binomial(
    total_count_p: ArrayLike,
    probs_p: ArrayLike,
    total_count_q: ArrayLike,
    probs_q: ArrayLike,
) -> Array:
    """total_count (log((1 - p) / (1 - q)) + p / (1 - p) log(p / q)), for equal total_count.

    Successes of probability p before total_count failures, a number of 0 or more, whole or
    not; probabilities from 0 to below 1. inf where q is never above 0 and p may be. Where
    else the numbers of failures differ there is no closed form: nan.

    >>> round(negative_binomial(10.0, 0.5, 10.0, 0.25).item(), 4)
    2.8768
    """
    n, p, m, q = arrays(total_count_p, probs_p, total_count_q, probs_q)
    p, q = jnp.where(n > 0, p, 0), jnp.where(m > 0, q, 0)  # without failures it is 0
    some = m > 0
    value = divide(_bernoulli(p, q), 1 - p)
    value = jnp.where(some, multiply(m, jnp.where(some, value, 0)), 0)
    unknown = (n != m) & (p > 0)
    return nan_where(unknown & (q > 0), jnp.where(unknown, jnp.inf, value))


@closed_form(
    _contracts.events(total_count="", probs="k"),
    total_count=count,
    probs=masses,
)
def multinomial(
    total_count_p: ArrayLike,
    probs_p: ArrayLike,
    total_count_q: ArrayLike,
    probs_q: ArrayLike,
) -> Array:
    """total_count sum of p log(p / q), for equal numbers of trials, else inf.

    probs [..., k] are masses of 0 or more, divided by their sum over the last axis, and
    total_count numbers [...].

    >>> import jax.numpy as jnp
    >>> p, q = jnp.array([0.5, 0.25, 0.25]), jnp.array([0.25, 0.25, 0.5])
    >>> round(multinomial(10, p, 10, q).item(), 4)
    1.7329
    """
    n, p, m, q = arrays(total_count_p, probs_p, total_count_q, probs_q)
    some = m > 0  # 0 trials tell nothing, however different p and q
    value = _categorical(p, jnp.where(some[..., None], q, p))
    value = jnp.where(some, multiply(m, value), 0)
    return jnp.where(n == m, value, jnp.inf)


def _categorical(p: Array, q: Array) -> Array:
    """Of masses along the last axis, each divided by its sum: the sum of G(p Q / P, q) / Q.

    Sums that rounding left 1e-7 off 1 would change differences of 1e-6 by a tenth, so
    p Q / P - q is one of exact products.
    """
    p, q = in_units_of_rows(p), in_units_of_rows(q)
    total_p, error_p = sum_last(p, jnp.zeros_like(p))
    total_q, error_q = sum_last(q, jnp.zeros_like(q))
    one, other = two_prod(p, total_q), two_prod(q, total_p)
    # Each difference is one of exact products, or is 0 where p = q, also in a fusion.
    rest = (one[1] - other[1]) + ((p - q) * error_q + q * (error_q - error_p))
    difference = lax.stop_gradient(((one[0] - other[0]) + rest) / total_p)
    sum_p, sum_q = (jnp.sum(x, -1, keepdims=True) for x in (p, q))
    expected = p * divide(sum_q, sum_p)
    terms = generalized_kl_term(expected, q, difference)
    return jnp.sum(divide(terms, sum_q), -1)


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
