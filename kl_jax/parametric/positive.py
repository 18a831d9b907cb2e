"""Distributions of positive numbers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import contracts
from kl_jax.elementwise import (
    STIRLING,
    bregman,
    generalized_kl_term,
    itakura_saito,
    log_gamma_bregman,
    log_ratio,
    over,
)
from kl_jax.parametric.domain import positive, within
from kl_jax.two_words import two_prod


def exponential(rate_p: ArrayLike, rate_q: ArrayLike) -> Array:
    """log(rate_p / rate_q) + rate_q / rate_p - 1.

    >>> round(exponential(1.0, 2.0).item(), 4)
    0.3069
    """
    name = "parametric.exponential"
    p, q = contracts.parameters(name, rate_p=rate_p, rate_q=rate_q)
    return within(itakura_saito(q, p), positive(name, rate_p=p, rate_q=q))


def _gamma(
    name: str, concentration_p: Any, rate_p: Any, concentration_q: Any, rate_q: Any
) -> Array:
    a, rate_p, b, rate_q = contracts.parameters(
        name,
        concentration_p=concentration_p,
        rate_p=rate_p,
        concentration_q=concentration_q,
        rate_q=rate_q,
    )
    # Where the means agree b - a t is 0 while a and b differ: it takes a t exactly, with
    # t = rate_q / rate_p and what its rounding left.
    ratio = over(rate_q, rate_p)
    product, error = two_prod(ratio, rate_p)
    left = over((rate_q - product) - error, rate_p)
    high, low = two_prod(a, ratio)
    difference = ((b - high) - low) - a * left
    value = (
        generalized_kl_term(b, a * ratio, difference)
        + itakura_saito(b, a) / 2
        + bregman(STIRLING, b, a, b - a)
    )
    return within(
        value,
        positive(name, concentration_p=a, rate_p=rate_p),
        positive(name, concentration_q=b, rate_q=rate_q),
    )


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
    args = concentration_p, rate_p, concentration_q, rate_q
    return _gamma("parametric.gamma", *args)


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
    args = concentration_p, rate_p, concentration_q, rate_q
    return _gamma("parametric.inverse_gamma", *args)


def chi2(df_p: ArrayLike, df_q: ArrayLike) -> Array:
    """log Gamma(b) - log Gamma(a) - digamma(a) (b - a), a = df_p / 2 and b = df_q / 2.

    >>> round(chi2(2.0, 4.0).item(), 4)
    0.5772
    """
    name = "parametric.chi2"
    p, q = contracts.parameters(name, df_p=df_p, df_q=df_q)
    value = log_gamma_bregman(q / 2, p / 2, (q - p) / 2)
    return within(value, positive(name, df_p=p, df_q=q))


def pareto(
    scale_p: ArrayLike, alpha_p: ArrayLike, scale_q: ArrayLike, alpha_q: ArrayLike
) -> Array:
    """log(alpha_p / alpha_q) + alpha_q / alpha_p - 1 + alpha_q log(scale_p / scale_q).

    inf where scale_p < scale_q.

    >>> round(pareto(2.0, 1.0, 1.0, 2.0).item(), 4)
    1.6931
    """
    name = "parametric.pareto"
    scale_p, alpha_p, scale_q, alpha_q = contracts.parameters(
        name,
        scale_p=scale_p,
        alpha_p=alpha_p,
        scale_q=scale_q,
        alpha_q=alpha_q,
    )
    value = itakura_saito(alpha_q, alpha_p) + alpha_q * log_ratio(scale_p, scale_q)
    value = jnp.where(scale_p < scale_q, jnp.inf, value)
    return within(
        value,
        positive(name, scale_p=scale_p, alpha_p=alpha_p),
        positive(name, scale_q=scale_q, alpha_q=alpha_q),
    )
