r"""The divergences sum F(p, q) of the family: each is its term F and its two slopes.

With r = log(q / p) a term is p g(r), of a generator g with g(0) = g'(0) = 0: near equality
it is written as a square times a series, and where p and q are far apart as it is defined.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal

import jax
import jax.numpy as jnp
from jax import Array

from kl_jax._arithmetic import clamp_finite, jitted_custom_jvp, polynomial
from kl_jax._blocks import OutcomeTerms, is_infinite
from kl_jax._exponentials import (
    expm1,
    log_of_sum,
    log_shares,
    phi,
    phi_series,
    phi_series_holds,
    powers_of,
    share,
)
from kl_jax._family import FDivergence
from kl_jax._fitted import either, far_apart, fitted_term, interpolated, is_fitted


def _kl_term(p: Array, q: Array, r: Array) -> Array:
    """p phi(r) = p log(p / q) - p + q for r = log(q / p), finite but for what overflows."""
    near = phi_series_holds(r)
    return jnp.where(near, p * phi_series(jnp.where(near, r, 0)), q - p * (1 + r))


def _jeffreys_term(x: OutcomeTerms) -> Array:
    return jnp.where(is_infinite(x.r), jnp.inf, x.q_minus_p * x.r)


def _jeffreys_parts(x: OutcomeTerms) -> tuple[Array, Array]:
    """u = log(p / q) + 1 - q / p, v = log(q / p) + 1 - p / q."""
    r = jnp.where(is_infinite(x.r), 0, x.r)
    return -x.q_minus_p - x.p * r, x.q_minus_p + x.q * r


# --- of a constant, with polynomials -------------------------------------------------

_SKEW, _BETA = 0.3, 0.9  # the largest: of a skew of 0.9 the form far apart loses four bits


def _log_of_mixture(weight: float, ratio: Decimal) -> Decimal:
    return -(1 - Decimal(weight) * (1 - ratio)).ln()


@functools.cache
def _log_near(weight: float) -> list[float]:
    """The polynomial log(L / m) / d of d up to 1, weight that of the smaller."""
    return interpolated(lambda d: _log_of_mixture(weight, (-d).exp()) / d, 1.0)


@functools.cache
def _log_far(weight: float) -> list[float]:
    """The polynomial log(L / m) of e^-d beyond."""
    return interpolated(lambda ratio: _log_of_mixture(weight, ratio), math.exp(-1))


@functools.partial(jitted_custom_jvp, static=(0,))
def _log_shares_of(weight: float, r: Array) -> tuple[Array, Array]:
    """`log_shares` of a constant from 0.1 to 0.9: log(m / L) = log(1 - w (1 - e^-d)), w the
    weight of the smaller. The other logarithm is d beside that, of which a tenth is left at
    worst.
    """
    above, d = r > 0, jnp.abs(r)
    weights = weight, 1 - weight
    powers = powers_of(d)  # as `outcome_terms` has them: XLA makes them once
    near = d * polynomial(either(above, *map(_log_near, weights)), d)
    if max(weights) <= 0.6:
        far = polynomial(either(above, *map(_log_far, weights)), powers.ratio)
    else:
        # Of a weight of 0.9 the polynomial would cancel to 500 ULP, and of one of 0.1 the
        # rounding of 1 - w is 8 ULP.
        small, large = (jnp.where(above, *w) for w in (weights, weights[::-1]))
        light = small < 0.5
        far = -log_of_sum(
            jnp.where(light, 1, large),
            small * jnp.where(light, -powers.less, powers.ratio),
        )
    of_larger = jnp.where(d <= 1, near, far)
    of_smaller = of_larger - d
    log_p, log_q = (of_smaller, of_larger), (of_larger, of_smaller)
    return jnp.where(above, *log_p), jnp.where(above, *log_q)


def _log_shares_of_jvp(weight, primals, tangents):
    of_any = functools.partial(_log_shares_of_any, weight)
    return _log_shares_of(weight, *primals), jax.jvp(of_any, primals, tangents)[1]


_log_shares_of.defjvp(_log_shares_of_jvp)


def _log_shares_of_any(weight: float | Array, r: Array) -> tuple[Array, Array]:
    return log_shares(r, *_weights(weight, r))


def _weights(weight: float | Array, r: Array) -> tuple[Array, Array]:
    """Those of p and q."""
    return jnp.asarray(weight, r.dtype), jnp.asarray(1 - weight, r.dtype)


def _log_shares(
    x: OutcomeTerms, weight: float | Array, largest: float
) -> tuple[Array, Array]:
    if is_fitted(weight, largest, x.r):
        return _log_shares_of(weight, x.r)
    return _log_shares_of_any(weight, x.r)


def _exact_skew(p: Decimal, q: Decimal, s: Decimal) -> Decimal:
    m = s * p + (1 - s) * q
    return p * (p / m).ln() - p + m


def _exact_jensen_shannon(p: Decimal, q: Decimal, beta: Decimal) -> Decimal:
    m = beta * p + (1 - beta) * q
    return beta * p * (p / m).ln() + (1 - beta) * q * (q / m).ln()


# --- of any number or array ----------------------------------------------------------


def _skew_term(x: OutcomeTerms, s: float | Array) -> Array:
    if is_fitted(s, _SKEW, x.r):
        return fitted_term(x, _exact_skew, s, far_apart(x, _exact_skew, s, (1, 0)))
    log_p, _ = _log_shares(x, s, _SKEW)
    term = _kl_term(x.p, s * x.p + (1 - s) * x.q, -log_p)
    return jnp.where((s == 0) & (x.r < 0) & is_infinite(x.r), jnp.inf, term)


def _skew_parts(x: OutcomeTerms, s: float | Array) -> tuple[Array, Array]:
    """u = log(p / m) + s (1 - p / m) and v = (1 - s) (1 - p / m), of which the first would
    cancel to (1 - s) log(p / m), and 1 - p / m = (1 - s) (q - p) / m.
    """
    log_p, _ = _log_shares(x, s, _SKEW)
    # p / m <= 1 / s: above e^80 s is 0, and 0 times inf would be nan.
    of_p = x.p * ((1 - s) * log_p - s * phi(jnp.minimum(log_p, 80)))
    share_q = share(x.r, *_weights(s, x.r))  # (1 - s) q / m
    return of_p, (1 - s) * (x.q_minus_p * share_q)


def _skew_change(x: OutcomeTerms, s: float | Array) -> Array:
    """-p (p - q) / m, less the p - q that sum to 0: no term is positive."""
    log_p, _ = _log_shares(x, s, _SKEW)
    return clamp_finite(expm1(log_p)) * x.q_minus_p


def _jensen_shannon_term(x: OutcomeTerms, beta: float | Array) -> Array:
    if is_fitted(beta, _BETA, x.r):
        far = far_apart(x, _exact_jensen_shannon, beta, (beta, 1 - beta))
        return fitted_term(x, _exact_jensen_shannon, beta, far)
    log_p, log_q = _log_shares(x, beta, _BETA)
    m = beta * x.p + (1 - beta) * x.q
    return beta * _kl_term(x.p, m, -log_p) + (1 - beta) * _kl_term(x.q, m, -log_q)


def _jensen_shannon_parts(x: OutcomeTerms, beta: float | Array) -> tuple[Array, Array]:
    """u = beta log(p / m), v = (1 - beta) log(q / m)."""
    log_p, log_q = _log_shares(x, beta, _BETA)
    return beta * (x.p * log_p), (1 - beta) * (x.q * log_q)


def _jensen_shannon_change(x: OutcomeTerms, beta: float | Array) -> Array:
    """KL(p || m) - KL(q || m)."""
    log_p, log_q = _log_shares(x, beta, _BETA)
    m = beta * x.p + (1 - beta) * x.q
    return _kl_term(x.p, m, -log_p) - _kl_term(x.q, m, -log_q)


JEFFREYS = FDivergence(term=_jeffreys_term, parts=_jeffreys_parts)
SKEW = FDivergence(term=_skew_term, parts=_skew_parts, change=_skew_change)
JENSEN_SHANNON = FDivergence(
    term=_jensen_shannon_term, parts=_jensen_shannon_parts, change=_jensen_shannon_change
)
