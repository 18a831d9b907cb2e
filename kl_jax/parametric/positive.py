"""Distributions of positive numbers."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax._arithmetic import divide, power_of_2_near, two_prod
from kl_jax.elementwise import generalized_kl_term, itakura_saito, log_ratio
from kl_jax.parametric._convex import bregman
from kl_jax.parametric._stirling import STIRLING, log_gamma_bregman
from kl_jax.parametric.domain import arrays, closed_form, positive


@closed_form(rate=positive)
def exponential(rate_p: ArrayLike, rate_q: ArrayLike) -> Array:
    """log(rate_p / rate_q) + rate_q / rate_p - 1.

    >>> round(exponential(1.0, 2.0).item(), 4)
    0.3069
    """
    return itakura_saito(rate_q, rate_p)


def gammas(a: Array, rate_p: Array, b: Array, rate_q: Array) -> Array:
    """`gamma` of arrays."""
    # b and a t, t = rate_q / rate_p, in a unit in which neither they nor t overflow or
    # underflow: t alone would at rates of 1e20 and 1e-20.
    unit = lax.stop_gradient(power_of_2_near(jnp.sqrt(a) * jnp.sqrt(b)))
    root = lax.stop_gradient(power_of_2_near(jnp.sqrt(rate_p) / jnp.sqrt(rate_q)))
    x, y, rate = a / unit, b / unit * root, rate_q * root
    # Where the means agree b - a t is 0 while a and b differ: it takes a t exactly, with
    # t and what its rounding left. All products are exact, or second order as x * left:
    # in a fusion, where x y - z is rounded once, it is the same but for that.
    ratio = divide(rate, rate_p)
    product, error = two_prod(ratio, rate_p)
    left = divide((rate - product) - error, rate_p)
    high, low = two_prod(x, ratio)
    difference = ((y - high) - low) - x * left
    return (
        unit / root * generalized_kl_term(y, x * ratio, difference)
        + itakura_saito(b, a) / 2
        + bregman(STIRLING, b, a, b - a)
    )


@closed_form(concentration=positive, rate=positive)
def gamma(
    concentration_p: ArrayLike,
    rate_p: ArrayLike,
    concentration_q: ArrayLike,
    rate_q: ArrayLike,
) -> Array:
    """Of densities proportional to x^(concentration - 1) e^(-rate x).

    (a - b) digamma(a) - log Gamma(a) + log Gamma(b) + b log(r_p / r_q) + a (r_q / r_p - 1),
    with concentrations a of p and b of q, and rates r.

    >>> round(gamma(2.0, 1.0, 3.0, 2.0).item(), 4)
    0.1909
    """
    return gammas(*arrays(concentration_p, rate_p, concentration_q, rate_q))


@closed_form(concentration=positive, rate=positive)
def inverse_gamma(
    concentration_p: ArrayLike,
    rate_p: ArrayLike,
    concentration_q: ArrayLike,
    rate_q: ArrayLike,
) -> Array:
    """That of `gamma`, of which it is the reciprocal: the rates are the scales here.

    >>> round(inverse_gamma(2.0, 1.0, 3.0, 2.0).item(), 4)
    0.1909
    """
    return gammas(*arrays(concentration_p, rate_p, concentration_q, rate_q))


@closed_form(df=positive)
def chi2(df_p: ArrayLike, df_q: ArrayLike) -> Array:
    """log Gamma(b) - log Gamma(a) - digamma(a) (b - a), a = df_p / 2 and b = df_q / 2.

    >>> round(chi2(2.0, 4.0).item(), 4)
    0.5772
    """
    p, q = arrays(df_p, df_q)
    return log_gamma_bregman(q / 2, p / 2, (q - p) / 2)


@closed_form(scale=positive, alpha=positive)
def pareto(
    scale_p: ArrayLike, alpha_p: ArrayLike, scale_q: ArrayLike, alpha_q: ArrayLike
) -> Array:
    """log(alpha_p / alpha_q) + alpha_q / alpha_p - 1 + alpha_q log(scale_p / scale_q).

    inf where scale_p < scale_q.

    >>> round(pareto(2.0, 1.0, 1.0, 2.0).item(), 4)
    1.6931
    """
    s_p, a_p, s_q, a_q = arrays(scale_p, alpha_p, scale_q, alpha_q)
    value = itakura_saito(a_q, a_p) + a_q * log_ratio(s_p, s_q)
    return jnp.where(s_p < s_q, jnp.inf, value)
