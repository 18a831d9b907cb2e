"""Families with a location and a scale."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax._arithmetic import clamp_max, divide
from kl_jax._exponentials import expm1, log1p, phi
from kl_jax.elementwise import itakura_saito, log_ratio, relative_difference
from kl_jax.parametric._convex import phi_minus_abs
from kl_jax.parametric._stirling import log_gamma_bregman
from kl_jax.parametric.domain import arrays, closed_form, finite, number, positive


def _scales(p: Array, q: Array) -> Array:
    """KL of two normal distributions of equal mean."""
    return itakura_saito(p, q) + jnp.square(relative_difference(p, q)) / 2


def _finite(x: Array) -> Array:
    """The largest number where it is more. Where a ratio of scales is inf, so is KL, and 0
    times or inf minus that would be nan.
    """
    return clamp_max(x, float(jnp.finfo(x.dtype).max))


def normals(m_p: Array, s_p: Array, m_q: Array, s_q: Array) -> Array:
    """`normal` of arrays."""
    return _scales(s_p, s_q) + jnp.square(divide(m_p - m_q, s_q)) / 2


@closed_form(loc=finite, scale=positive)
def normal(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(scale_q / scale_p) + (scale_p^2 + (loc_p - loc_q)^2) / (2 scale_q^2) - 1/2.

    >>> round(normal(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.4431
    """
    return normals(*arrays(loc_p, scale_p, loc_q, scale_q))


@closed_form(mean=number, log_variance=number)
def normal_standard(mean: ArrayLike, log_variance: ArrayLike) -> Array:
    """KL(N(mean, e^log_variance) || N(0, 1)) of each component.

    (mean^2 + e^log_variance - 1 - log_variance) / 2. The latent dimensions of a variational
    autoencoder are independent: their KL is the sum over the last axis.

    >>> round(normal_standard(1.0, 0.0).item(), 4)
    0.5
    """
    x, y = arrays(mean, log_variance)
    return (jnp.square(x) + phi(y)) / 2


@closed_form(loc=finite, scale=positive)
def log_normal(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """That of `normal`: loc and scale are those of the logarithm.

    >>> round(log_normal(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.4431
    """
    return normals(*arrays(loc_p, scale_p, loc_q, scale_q))


@closed_form(scale=positive)
def half_normal(scale_p: ArrayLike, scale_q: ArrayLike) -> Array:
    """log(scale_q / scale_p) + scale_p^2 / (2 scale_q^2) - 1/2, as `normal` of equal locs.

    >>> round(half_normal(1.0, 2.0).item(), 4)
    0.3181
    """
    return _scales(*arrays(scale_p, scale_q))


@closed_form(loc=finite, scale=positive)
def laplace(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(s_q / s_p) + (s_p e^(-|d| / s_p) + |d|) / s_q - 1, with scales s.

    d = loc_p - loc_q.

    >>> round(laplace(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.3771
    """
    m_p, s_p, m_q, s_q = arrays(loc_p, scale_p, loc_q, scale_q)
    d = m_p - m_q
    # From 4 scales of p on by a sum that does not divide by s_p, which would overflow; it
    # amplifies errors by 1.6 there.
    near = jnp.abs(d) < 4 * s_p
    t = divide(jnp.where(near, d, 0), s_p)
    apart = jnp.where(near, 4 * s_p, jnp.abs(d))
    ratio = _finite(divide(s_p, s_q))
    decay = -divide(jnp.minimum(apart, 100 * s_p), s_p)  # e^-100 is nothing beside 1
    far = divide(apart, s_q) + ratio * expm1(decay)
    return itakura_saito(s_p, s_q) + jnp.where(near, ratio * phi_minus_abs(t), far)


@closed_form(loc=finite, scale=positive)
def cauchy(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(((scale_p + scale_q)^2 + (loc_p - loc_q)^2) / (4 scale_p scale_q)).

    >>> round(cauchy(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.2231

    Source: Chyzak and Nielsen (2019).
    """
    m_p, s_p, m_q, s_q = arrays(loc_p, scale_p, loc_q, scale_q)

    def ratio(d: Array, p: Array, q: Array) -> Array:
        change = p - q
        return (divide(change, p) * divide(change, q) + divide(d, p) * divide(d, q)) / 4

    d = m_p - m_q
    # Beyond 2^30 the logarithms of the factors, which do not overflow, cancel by a third.
    near = ratio(d, s_p, s_q) < 2.0**30
    one = jnp.ones_like(d)
    close = [jnp.where(near, x, y) for x, y in ((d, 0), (s_p, one), (s_q, one))]
    apart = [jnp.where(near, 1, x) for x in (d, s_p, s_q)]
    size = jnp.hypot(apart[1] + apart[2], apart[0])
    far = 2 * jnp.log(size / 2) - jnp.log(apart[1]) - jnp.log(apart[2])
    return jnp.where(near, log1p(ratio(*close)), far)


# Euler's constant: -digamma(1).
_EULER = 0.5772156649015329


def _extreme_values(x: Array, y: Array, shift: Array) -> Array:
    """Of two Gumbel distributions, from numbers with the ratio r = x / y of their scales,
    and the difference of the locs over scale_q.

    With log Gamma(r) + C (r - 1) = S(r, 1) + B(1 + r, 2) of log Gamma, r may underflow.
    """
    less_1 = _finite(-relative_difference(x, y))
    ratio, one = _finite(divide(x, y)), jnp.ones_like(x)
    log_gamma = log_gamma_bregman(1 + ratio, 2 * one, less_1)
    exponent = ((1 - _EULER) * less_1 + log_gamma) - shift
    return itakura_saito(x, y) + log_gamma + phi(exponent)


@closed_form(loc=finite, scale=positive)
def gumbel(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """-log r + d + C (r - 1) - 1 + Gamma(1 + r) e^-d, with C Euler's constant.

    r = scale_p / scale_q and d = (loc_p - loc_q) / scale_q.

    >>> round(gumbel(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.3657
    """
    m_p, s_p, m_q, s_q = arrays(loc_p, scale_p, loc_q, scale_q)
    return _extreme_values(s_p, s_q, divide(m_p - m_q, s_q))


@closed_form(scale=positive, concentration=positive)
def weibull(
    scale_p: ArrayLike,
    concentration_p: ArrayLike,
    scale_q: ArrayLike,
    concentration_q: ArrayLike,
) -> Array:
    """-log r + d + C (r - 1) - 1 + Gamma(1 + r) e^-d, with C Euler's constant.

    r = concentration_q / concentration_p, d = concentration_q log(scale_q / scale_p).

    >>> round(weibull(1.0, 2.0, 2.0, 1.0).item(), 4)
    0.5408

    Source: Bauckhage, "Computing the Kullback-Leibler Divergence between two Weibull
    Distributions" (2013).
    """
    s_p, k_p, s_q, k_q = arrays(scale_p, concentration_p, scale_q, concentration_q)
    shift = k_q * log_ratio(s_q, s_p)
    return _extreme_values(k_q, k_p, shift)
