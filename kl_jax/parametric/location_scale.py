"""Families with a location and a scale."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import contracts
from kl_jax.elementwise import (
    absolute_excess,
    excess,
    expm1,
    itakura_saito,
    log1p,
    log_gamma_bregman,
    log_ratio,
    over,
    phi,
)
from kl_jax.parametric.domain import finite, number, positive, within


def _parameters(
    name: str, loc_p: Any, scale_p: Any, loc_q: Any, scale_q: Any
) -> tuple[Array, Array, Array, Array, Array]:
    """As arrays, and whether they are in their domain."""
    m_p, s_p, m_q, s_q = contracts.parameters(
        name, loc_p=loc_p, scale_p=scale_p, loc_q=loc_q, scale_q=scale_q
    )
    inside = finite(name, loc_p=m_p, loc_q=m_q) & positive(name, scale_p=s_p, scale_q=s_q)
    return m_p, s_p, m_q, s_q, inside


def _scales(p: Array, q: Array) -> Array:
    """KL of two normal distributions of equal mean."""
    return itakura_saito(p, q) + jnp.square(excess(p, q)) / 2


def named_normal(name: str, loc_p: Any, scale_p: Any, loc_q: Any, scale_q: Any) -> Array:
    """`normal`, under the name of the function that the errors are to show."""
    loc_p, scale_p, loc_q, scale_q, inside = _parameters(
        name, loc_p, scale_p, loc_q, scale_q
    )
    value = _scales(scale_p, scale_q) + jnp.square(over(loc_p - loc_q, scale_q)) / 2
    return within(value, inside)


def normal(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(scale_q / scale_p) + (scale_p^2 + (loc_p - loc_q)^2) / (2 scale_q^2) - 1/2.

    >>> round(normal(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.4431
    """
    return named_normal("parametric.normal", loc_p, scale_p, loc_q, scale_q)


def normal_standard(mean: ArrayLike, log_variance: ArrayLike) -> Array:
    """KL(N(mean, e^log_variance) || N(0, 1)) of each component.

    (mean^2 + e^log_variance - 1 - log_variance) / 2. The latent dimensions of a variational
    autoencoder are independent: their KL is the sum over the last axis.

    >>> round(normal_standard(1.0, 0.0).item(), 4)
    0.5
    """
    name = "parametric.normal_standard"
    mean, log_variance = contracts.parameters(name, mean=mean, log_variance=log_variance)
    value = (jnp.square(mean) + phi(log_variance)) / 2
    return within(value, number(name, mean=mean, log_variance=log_variance))


def log_normal(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """That of `normal`: loc and scale are those of the logarithm.

    >>> round(log_normal(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.4431
    """
    return named_normal("parametric.log_normal", loc_p, scale_p, loc_q, scale_q)


def half_normal(scale_p: ArrayLike, scale_q: ArrayLike) -> Array:
    """log(scale_q / scale_p) + scale_p^2 / (2 scale_q^2) - 1/2, as `normal` of equal locs.

    >>> round(half_normal(1.0, 2.0).item(), 4)
    0.3181
    """
    name = "parametric.half_normal"
    p, q = contracts.parameters(name, scale_p=scale_p, scale_q=scale_q)
    return within(_scales(p, q), positive(name, scale_p=p, scale_q=q))


def laplace(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(s_q / s_p) + (s_p e^(-|d| / s_p) + |d|) / s_q - 1, with scales s.

    d = loc_p - loc_q.

    >>> round(laplace(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.3771
    """
    loc_p, scale_p, loc_q, scale_q, inside = _parameters(
        "parametric.laplace", loc_p, scale_p, loc_q, scale_q
    )
    d = loc_p - loc_q
    # From 4 scales of p on by a sum that does not divide by scale_p, which would overflow;
    # it amplifies errors by 1.6 there.
    near = jnp.abs(d) < 4 * scale_p
    t = over(jnp.where(near, d, 0), scale_p)
    apart = jnp.where(near, 4 * scale_p, jnp.abs(d))
    ratio = over(scale_p, scale_q)
    decay = -over(jnp.minimum(apart, 100 * scale_p), scale_p)  # e^-100 is nothing beside 1
    far = over(apart, scale_q) + ratio * expm1(decay)
    value = itakura_saito(scale_p, scale_q) + jnp.where(
        near, ratio * absolute_excess(t), far
    )
    return within(value, inside)


def cauchy(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(((scale_p + scale_q)^2 + (loc_p - loc_q)^2) / (4 scale_p scale_q)).

    >>> round(cauchy(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.2231

    Source: Chyzak and Nielsen (2019).
    """
    loc_p, scale_p, loc_q, scale_q, inside = _parameters(
        "parametric.cauchy", loc_p, scale_p, loc_q, scale_q
    )

    def ratio(d: Array, p: Array, q: Array) -> Array:
        change = p - q
        return (over(change, p) * over(change, q) + over(d, p) * over(d, q)) / 4

    d = loc_p - loc_q
    # Beyond 2^30 the logarithms of the factors, which do not overflow, cancel by a third.
    near = ratio(d, scale_p, scale_q) < 2.0**30
    one = jnp.ones_like(d)
    close = [jnp.where(near, x, y) for x, y in ((d, 0), (scale_p, one), (scale_q, one))]
    apart = [jnp.where(near, 1, x) for x in (d, scale_p, scale_q)]
    size = jnp.hypot(apart[1] + apart[2], apart[0])
    far = 2 * jnp.log(size / 2) - jnp.log(apart[1]) - jnp.log(apart[2])
    value = jnp.where(near, log1p(ratio(*close)), far)
    return within(value, inside)


# Euler's constant: -digamma(1).
_EULER = 0.5772156649015329


def _extreme_values(ratio: Array, less_1: Array, shift: Array) -> Array:
    """Of two Gumbel distributions, from scale_p / scale_q, that less 1, and the difference
    of the locs over scale_q.
    """
    one = jnp.ones_like(ratio)
    log_gamma = (1 - _EULER) * less_1 + log_gamma_bregman(1 + ratio, 2 * one, less_1)
    return log_gamma_bregman(ratio, one, less_1) + phi(log_gamma - shift)


def gumbel(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """-log r + d + C (r - 1) - 1 + Gamma(1 + r) e^-d, with C Euler's constant.

    r = scale_p / scale_q and d = (loc_p - loc_q) / scale_q.

    >>> round(gumbel(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.3657
    """
    loc_p, scale_p, loc_q, scale_q, inside = _parameters(
        "parametric.gumbel", loc_p, scale_p, loc_q, scale_q
    )
    shift = over(loc_p - loc_q, scale_q)
    value = _extreme_values(over(scale_p, scale_q), -excess(scale_p, scale_q), shift)
    return within(value, inside)


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
    name = "parametric.weibull"
    scale_p, k_p, scale_q, k_q = contracts.parameters(
        name,
        scale_p=scale_p,
        concentration_p=concentration_p,
        scale_q=scale_q,
        concentration_q=concentration_q,
    )
    shift = k_q * log_ratio(scale_q, scale_p)
    value = _extreme_values(over(k_q, k_p), -excess(k_q, k_p), shift)
    return within(
        value,
        positive(name, scale_p=scale_p, concentration_p=k_p),
        positive(name, scale_q=scale_q, concentration_q=k_q),
    )
