"""Distributions on an interval, a simplex or a circle."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _contracts
from kl_jax._arithmetic import divide, power_of_2_near, sum_last, two_prod, two_sum
from kl_jax._exponentials import log1p
from kl_jax.elementwise import (
    generalized_kl_term,
    itakura_saito,
    log_ratio,
    logit,
    relative_difference,
)
from kl_jax.parametric._bessel import bessel_ratio, log_bessel
from kl_jax.parametric._convex import EXPONENTIAL_NORMALIZER, bregman
from kl_jax.parametric._stirling import stirling_excess
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
    """Over the first axis. The sums A and B are one more outcome, which counts -1.

    Where one outcome, the first, has nearly all its terms and those of the sums nearly
    cancel: they are taken together, as functions of it and of the rest, A - a_1. With the
    share s = b - a B / A and e = (B / A) / (b_1 / a_1) - 1 = sum of s / b_1,

        G(b_1, a_1 B / A) = b_1 S(1 + e, 1),
        S(b_1, a_1) - S(B, A) = -S(1 + e, 1) - (b_1 / a_1 - 1) e.
    """
    # In units of which the products neither overflow nor underflow.
    a_unit, b_unit = (
        lax.stop_gradient(power_of_2_near(jnp.max(x, 0, keepdims=True))) for x in (a, b)
    )
    p, q = a / a_unit, b / b_unit
    (total_p, error_p), (total_q, error_q) = _two_word_sum(p), _two_word_sum(q)
    # q - p Q / P, which is 0 for proportional a and b however different. Every difference
    # is one of exact products, or has a small factor that is 0 at p = q: in a fusion
    # x y - z w is rounded once less, and then not 0 where the two products agree.
    one, other = two_prod(q, total_p), two_prod(p, total_q)
    rest = (one[1] - other[1]) + ((q - p) * error_p + p * (error_p - error_q))
    share = lax.stop_gradient(((one[0] - other[0]) + rest) / total_p)

    # Most of b, for the derivatives, and of two that have as much of b most of a.
    first = jnp.argmax(q * p ** (1 / 16), 0, keepdims=True)
    is_first = lax.broadcasted_iota(first.dtype, a.shape, 0) == first
    a1, b1 = (_sum(jnp.where(is_first, x, 0)) for x in (a, b))
    share = jnp.where(is_first, 0, share)
    a_rest, b_rest = (_sum(jnp.where(is_first, 0, x)) for x in (a, b))

    # In units of B only where a B / A would underflow: elsewhere the result might.
    proportional = p * divide(_sum(q), _sum(p))
    unit = jnp.where(proportional * b_unit < 1e-30, b_unit, 1)
    scale = b_unit / unit
    terms = unit * generalized_kl_term(b / unit, proportional * scale, share * scale)

    v, w = 1 + divide(b_rest, b1), 1 + divide(a_rest, a1)  # v / w = 1 + e
    gap = lax.stop_gradient(_sum(share * b_unit) / b1 * w)
    slack = itakura_saito(
        *(jnp.where(is_first, x, y) for x, y in ((v, b), (w, a), (gap, b - a)))
    )
    others = terms + slack / 2
    e = -relative_difference(v, w, gap)
    first = (b1 - 0.5) * slack + relative_difference(b1, a1) * e / 2
    value = jnp.sum(jnp.where(is_first, first, others), 0)
    return value + stirling_excess(b, a, b - a, is_first)


def _sum(x: Array) -> Array:
    """Over the first axis, kept."""
    return jnp.sum(x, 0, keepdims=True)


def _two_word_sum(x: Array) -> tuple[Array, Array]:
    x = jnp.moveaxis(x, 0, -1)
    total, error = (jnp.moveaxis(z, -1, 0) for z in sum_last(x, jnp.zeros_like(x)))
    return total, error


@closed_form(event_axes=1, concentration=positive)
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
    _contracts.some_outcomes("parametric.dirichlet", a.shape, (a.ndim - 1,))
    return _dirichlet(jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -1, 0))


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
    return betas(
        *arrays(concentration1_p, concentration0_p, concentration1_q, concentration0_q)
    )


def betas(a: Array, b: Array, c: Array, d: Array) -> Array:
    """`beta` of arrays."""
    return _dirichlet(jnp.stack([a, b]), jnp.stack([c, d]))


@closed_form(probs=open_probability)
def continuous_bernoulli(probs_p: ArrayLike, probs_q: ArrayLike) -> Array:
    """Of densities proportional to probs^x (1 - probs)^(1 - x) on [0, 1], 0 < probs < 1.

    >>> round(continuous_bernoulli(0.5, 0.9).item(), 4)
    0.1936

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli" (2019).
    """
    p, q = arrays(probs_p, probs_q)
    logit_p, logit_q = logit(p), logit(q)
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
    # Of -3.1 and 3.1 the difference is rounded, and its half is near pi: 1e-6 of the sine.
    difference, error = two_sum(m_p, -m_q)
    half = difference / 2
    sine = jnp.sin(half) + jnp.cos(half) * (lax.stop_gradient(error) / 2)
    turned = jnp.square(sine)
    value = bregman(log_bessel(0), k_q, k_p, k_q - k_p)
    return value + 2 * bessel_ratio(0, k_p) * k_q * turned
