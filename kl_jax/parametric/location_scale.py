"""Families with a location and a scale."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax._arithmetic import clamp_max, divide, jitted_custom_jvp, tangent, two_sum
from kl_jax._exponentials import expm1, log1p, phi
from kl_jax.elementwise import itakura_saito, log_ratio, relative_difference
from kl_jax.parametric._convex import phi_minus_abs
from kl_jax.parametric._stirling import log_gamma_bregman
from kl_jax.parametric.domain import arrays, closed_form, finite, number, positive


def normal_scales(p: Array, q: Array, difference: Array | None = None) -> Array:
    """KL of two normal distributions of equal mean, with p - q given as in `log_ratio`."""
    square = jnp.square(relative_difference(p, q, difference))
    return itakura_saito(p, q, difference) + square / 2


def _finite(x: Array) -> Array:
    """The largest number where it is more. Where a ratio of scales is inf, so is KL, and 0
    times or inf minus that would be nan.
    """
    return clamp_max(x, float(jnp.finfo(x.dtype).max))


def normals(m_p: Array, s_p: Array, m_q: Array, s_q: Array) -> Array:
    """`normal` of arrays."""
    return normal_scales(s_p, s_q) + jnp.square(divide(m_p - m_q, s_q)) / 2


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


@closed_form(mean=finite, log_variance=finite)
def normal_log_variance(
    mean_p: ArrayLike,
    log_variance_p: ArrayLike,
    mean_q: ArrayLike,
    log_variance_q: ArrayLike,
) -> Array:
    """KL(N(mean_p, e^log_variance_p) || N(mean_q, e^log_variance_q)) of each component.

    (e^(v_p - v_q) - 1 - (v_p - v_q) + (m_p - m_q)^2 e^(-v_q)) / 2, with log-variances v and
    means m: of a conditional prior, or of a step of diffusion. `normal` of e^(v / 2) has
    lost the digits of v_p - v_q, and underflows below v = -174 in float32.

    >>> round(normal_log_variance(0.0, 0.0, 1.0, 1.0).item(), 4)
    0.3679
    """
    return _of_log_variances(*arrays(mean_p, log_variance_p, mean_q, log_variance_q))


class _LogVariances(NamedTuple):
    """What value and slopes of `normal_log_variance` are made of."""

    scales: Array  # (e^d - 1 - d) / 2 with d = v_p - v_q
    growth: Array  # (e^d - 1) / 2
    factor: Array  # e^(-v_q / 4)
    distance: Array  # (m_p - m_q) / 2 e^(-v_q / 2)


def _log_variances(m_p: Array, v_p: Array, m_q: Array, v_q: Array) -> _LogVariances:
    # The rounding error of v_p - v_q is put back: e^80 would amplify it by 80. It is no
    # function of v_p and v_q but to the eye of a derivative.
    d, error = two_sum(v_p, -v_q)
    error = lax.stop_gradient(jnp.where(jnp.abs(d) < jnp.inf, error, 0))
    # Beyond 80, where 1 + d is nothing beside e^d, half of it as a product: e^d itself may
    # overflow.
    near, root = clamp_max(d, 80), jnp.exp(d / 2)
    far = root * (root / 2) * (1 + error)
    growth = expm1(near)
    scales = jnp.where(d > 80, far, (phi(near) + growth * error) / 2)
    growth = jnp.where(d > 80, far, (growth + jnp.exp(near) * error) / 2)
    # Twice a root of e^(-v_q / 2), which overflows where the product need not, as m_p - m_q
    # does. From this bound on the square is inf for any two means that differ.
    bound = math.log(float(jnp.finfo(d.dtype).max)) - 1
    factor = jnp.exp(clamp_max(-v_q / 4, bound))
    distance = ((m_p / 2 - m_q / 2) * factor) * factor
    return _LogVariances(scales, growth, factor, distance)


@jitted_custom_jvp
def _of_log_variances(m_p: Array, v_p: Array, m_q: Array, v_q: Array) -> Array:
    x = _log_variances(m_p, v_p, m_q, v_q)
    return x.scales + 2 * jnp.square(x.distance)


def _of_log_variances_jvp(primals, tangents):
    dm_p, dv_p, dm_q, dv_q = tangents
    x, value = _log_variances(*primals), _of_log_variances(*primals)
    # Bounded, so that 0 times one is 0.
    most = float(jnp.finfo(value.dtype).max)
    in_mean = jnp.clip(2 * ((x.distance * x.factor) * x.factor), -most, most)
    in_p = clamp_max(x.growth, most)
    in_q = -clamp_max(x.growth + 2 * jnp.square(x.distance), most)
    slopes = (in_mean, dm_p), (in_p, dv_p), (-in_mean, dm_q), (in_q, dv_q)
    return value, tangent(value, *slopes)


_of_log_variances.defjvp(_of_log_variances_jvp, symbolic_zeros=True)


@closed_form(loc=finite, scale=positive)
def log_normal(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """That of `normal`: loc and scale are those of the logarithm.

    >>> round(log_normal(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.4431
    """
    return normals(*arrays(loc_p, scale_p, loc_q, scale_q))


@closed_form(loc=finite, scale=positive)
def logit_normal(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """That of `normal`: loc and scale are those of the logit, log(x / (1 - x)).

    >>> round(logit_normal(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.4431
    """
    return normals(*arrays(loc_p, scale_p, loc_q, scale_q))


@closed_form(scale=positive)
def half_normal(scale_p: ArrayLike, scale_q: ArrayLike) -> Array:
    """log(scale_q / scale_p) + scale_p^2 / (2 scale_q^2) - 1/2, as `normal` of equal locs.

    >>> round(half_normal(1.0, 2.0).item(), 4)
    0.3181
    """
    return normal_scales(*arrays(scale_p, scale_q))


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
EULER = 0.5772156649015329


def _extreme_values(x: Array, y: Array, shift: Array) -> Array:
    """Of two Gumbel distributions, from numbers with the ratio r = x / y of their scales,
    and the difference of the locs over scale_q.

    With log Gamma(r) + C (r - 1) = S(r, 1) + B(1 + r, 2) of log Gamma, r may underflow.
    """
    less_1 = _finite(-relative_difference(x, y))
    ratio, one = _finite(divide(x, y)), jnp.ones_like(x)
    log_gamma = log_gamma_bregman(1 + ratio, 2 * one, less_1)
    exponent = ((1 - EULER) * less_1 + log_gamma) - shift
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
