"""Distributions on an interval, a simplex or a circle."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _contracts
from kl_jax._arithmetic import divide, sum_last, two_prod
from kl_jax._exponentials import log1p
from kl_jax.elementwise import (
    generalized_kl_term,
    itakura_saito,
    log_ratio,
    relative_difference,
)
from kl_jax.parametric._convex import (
    EXPONENTIAL_NORMALIZER,
    LOG_BESSEL,
    STIRLING,
    bessel_ratio,
    bregman,
)
from kl_jax.parametric.domain import (
    above_low,
    arrays,
    closed_form,
    finite,
    non_negative,
    open_probability,
    positive,
)


@closed_form(high=above_low)
def uniform(
    low_p: ArrayLike, high_p: ArrayLike, low_q: ArrayLike, high_q: ArrayLike
) -> Array:
    """log((high_q - low_q) / (high_p - low_p)), inf unless p's interval is within q's.

    >>> round(uniform(0.0, 1.0, 0.0, 2.0).item(), 4)
    0.6931
    """
    a, b, c, d = arrays(low_p, high_p, low_q, high_q)
    value = log1p(divide((a - c) + (d - b), b - a))
    return jnp.where((c <= a) & (b <= d), value, jnp.inf)


def _dirichlet(a: Array, b: Array) -> Array:
    """Over the last axis. The sums are one more outcome, which counts -1."""
    nothing = jnp.zeros_like(a)
    (total_a, error_a), (total_b, error_b) = sum_last(a, nothing), sum_last(b, nothing)
    sum_a, sum_b = jnp.sum(a, -1, keepdims=True), jnp.sum(b, -1, keepdims=True)
    change_of_sum = (total_b - total_a) + (error_b - error_a)
    x, y, difference = (
        jnp.concatenate(pair, -1)
        for pair in ((b, sum_b), (a, sum_a), (b - a, change_of_sum))
    )
    remainders = bregman(STIRLING, x, y, difference)
    logs = itakura_saito(x, y, difference) / 2

    # b - a B / A, which is 0 for proportional a and b however different.
    one, other = two_prod(b, total_a), two_prod(a, total_b)
    rest = (one[1] - other[1]) + ((b - a) * error_a + a * (error_a - error_b))
    share = lax.stop_gradient(((one[0] - other[0]) + rest) / total_a)
    ratio = divide(sum_b, sum_a)
    terms = generalized_kl_term(b, a * ratio, share) + remainders[..., :-1]

    # Where one outcome has nearly all, its S and that of the sums nearly cancel: with
    # 1 + e = (B / A) / (b / a) the second is the first, + S(1 + e, 1) + (b / a - 1) e.
    first = jnp.argmax(a, -1, keepdims=True)
    a1, b1, share1, log1 = (jnp.take_along_axis(z, first, -1) for z in (a, b, share, logs))
    e = divide(ratio, divide(b1, a1))
    exact = -share1 / lax.stop_gradient(b1)
    small = e - lax.stop_gradient(e) + exact
    close = itakura_saito(e, jnp.ones_like(e), exact) - relative_difference(b1, a1) * small
    apart = jnp.where(jnp.abs(exact) < 0.5, close / 2, logs[..., -1:] - log1)
    is_first = lax.broadcasted_iota(first.dtype, a.shape, a.ndim - 1) == first
    others = jnp.where(is_first, 0, logs[..., :-1])
    return jnp.sum(terms + others, -1) - (apart + remainders[..., -1:])[..., 0]


@closed_form(of_vectors=True, concentration=positive)
def dirichlet(concentration_p: ArrayLike, concentration_q: ArrayLike) -> Array:
    """Over the last axis, of densities proportional to products of x^(concentration - 1).

    log Gamma(A) - log Gamma(B) - sum of (log Gamma(a) - log Gamma(b))
    + sum of (a - b) (digamma(a) - digamma(A)), with concentrations a of p and b of q, and
    their sums A and B.

    >>> import jax.numpy as jnp
    >>> round(dirichlet(jnp.array([1.0, 2.0, 3.0]), 2.0).item(), 4)
    0.8069
    """
    a, b = arrays(concentration_p, concentration_q)
    _contracts.same_rows("parametric.dirichlet", concentration_p=a)
    _contracts.some_outcomes("parametric.dirichlet", a.shape, (a.ndim - 1,))
    return _dirichlet(a, b)


@closed_form(concentration1=positive, concentration0=positive)
def beta(
    concentration1_p: ArrayLike,
    concentration0_p: ArrayLike,
    concentration1_q: ArrayLike,
    concentration0_q: ArrayLike,
) -> Array:
    """That of `dirichlet` with two concentrations.

    >>> round(beta(1.0, 2.0, 2.0, 2.0).item(), 4)
    0.4014
    """
    a = jnp.stack([concentration1_p, concentration0_p], -1)
    return _dirichlet(a, jnp.stack([concentration1_q, concentration0_q], -1))


@closed_form(probs=open_probability)
def continuous_bernoulli(probs_p: ArrayLike, probs_q: ArrayLike) -> Array:
    """Of densities proportional to probs^x (1 - probs)^(1 - x) on [0, 1], 0 < probs < 1.

    >>> round(continuous_bernoulli(0.5, 0.9).item(), 4)
    0.1936

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli" (2019).
    """
    p, q = arrays(probs_p, probs_q)
    logit_p, logit_q = log_ratio(p, 1 - p), log_ratio(q, 1 - q)
    # Of probabilities near 1/2 or 1 the logits would lose the digits of their difference.
    difference = log_ratio(q, p) - log_ratio(1 - q, 1 - p, p - q)
    return bregman(EXPONENTIAL_NORMALIZER, logit_q, logit_p, difference)


@closed_form(logits=finite)
def continuous_bernoulli_logits(logits_p: ArrayLike, logits_q: ArrayLike) -> Array:
    """`continuous_bernoulli` of probs = 1 / (1 + e^-logits), logits finite.

    >>> round(continuous_bernoulli_logits(0.0, 2.0).item(), 4)
    0.1614
    """
    p, q = arrays(logits_p, logits_q)
    return bregman(EXPONENTIAL_NORMALIZER, q, p, q - p)


@closed_form(loc=finite, concentration=non_negative)
def von_mises(
    loc_p: ArrayLike,
    concentration_p: ArrayLike,
    loc_q: ArrayLike,
    concentration_q: ArrayLike,
) -> Array:
    """log(I_0(k_q) / I_0(k_p)) + I_1(k_p) / I_0(k_p) (k_p - k_q cos(loc_p - loc_q)).

    k are the concentrations, 0 or more, and I_0, I_1 modified Bessel functions.

    >>> round(von_mises(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.5521
    """
    m_p, k_p, m_q, k_q = arrays(loc_p, concentration_p, loc_q, concentration_q)
    turned = jnp.square(jnp.sin((m_p - m_q) / 2))
    return bregman(LOG_BESSEL, k_q, k_p, k_q - k_p) + 2 * bessel_ratio(k_p) * k_q * turned
