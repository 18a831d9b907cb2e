r"""The divergences sum F(p, q) of the family: each is its term F and its two slopes.

With r = log(q / p) a term is p g(r), of a generator g with g(0) = g'(0) = 0, or a form that
does not cancel where p and q are far apart.
"""

from __future__ import annotations

import decimal
import functools
import math
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple, TypeGuard

import jax.numpy as jnp
from jax import Array

from kl_jax._arithmetic import clamp_finite, divide, polynomial
from kl_jax._blocks import OutcomeTerms
from kl_jax._exponentials import (
    exp_minus,
    expm1,
    log_of_part,
    log_shares,
    phi,
    phi_series,
    phi_series_holds,
)
from kl_jax._family import FDivergence

Smooth = Callable[[Decimal, Decimal], Decimal]  # of r and of a constant


def _kl_term(p: Array, q: Array, r: Array) -> Array:
    """p phi(r) = p log(p / q) - p + q for r = log(q / p), finite but for what overflows."""
    near = phi_series_holds(r)
    return jnp.where(near, p * phi_series(jnp.where(near, r, 0)), q - p * (1 + r))


def _jeffreys_term(x: OutcomeTerms) -> Array:
    infinite = jnp.abs(x.r) == jnp.inf
    return jnp.where(infinite, jnp.inf, x.q_minus_p * jnp.where(infinite, 0, x.r))


def _jeffreys_parts(x: OutcomeTerms) -> tuple[Array, Array]:
    """u = log(p / q) + 1 - q / p, v = log(q / p) + 1 - p / q."""
    r = jnp.where(jnp.abs(x.r) == jnp.inf, 0, x.r)
    return -x.q_minus_p - x.p * r, x.q_minus_p + x.q * r


# --- of a constant, with polynomials -------------------------------------------------
#
# Near equality a term is p r^2, and a slope r, times a smooth function of r = log(q / p): a
# polynomial costs half of two logarithms and what keeps their digits. Far from equality the
# plain forms lose at most two bits, but for constants near the ends: at 1/16 7.7 ULP were
# seen. float64 has no other forms than those of any number: nobody counts its operations.


def _is_fitted(
    constant: float | Array, r: Array, ends: tuple[float, float]
) -> TypeGuard[float]:
    if isinstance(constant, Array) or r.dtype != jnp.float32:
        return False
    return ends[0] <= constant <= ends[1]


_BETA, _SKEW = (0.1, 0.9), (0.06, 0.3)


@functools.cache
def _fitted(function: Smooth, constant: float) -> list[float]:
    """The polynomial through function(r, constant) at Chebyshev's nodes of [-1, 2], in
    decimal arithmetic while tracing, which takes 2 ms. It errs by 1e-8.
    """
    count = 10
    with decimal.localcontext(prec=60):
        angles = (math.pi * (k + 0.5) / count for k in range(count))
        nodes = [Decimal(0.5 + 1.5 * math.cos(x)) for x in angles]
        # Newton's divided differences, and then powers of r.
        terms = [function(r, Decimal(constant)) for r in nodes]
        for j in range(1, count):
            for i in reversed(range(j, count)):
                terms[i] = (terms[i] - terms[i - 1]) / (nodes[i] - nodes[i - j])
        powers: list[Decimal] = []
        for term, node in zip(reversed(terms), reversed(nodes), strict=True):
            shifted = [Decimal(0), *powers]
            powers = [x - node * y for x, y in zip(shifted, [*powers, 0], strict=True)]
            powers[0] += term
        return [float(x) for x in powers]


def _log_m(r: Decimal, w: Decimal) -> Decimal:
    """log(m / p) of m = w p + (1 - w) q."""
    return (w + (1 - w) * r.exp()).ln()


def _near(r: Array) -> tuple[Array, Array]:
    """Where the polynomials hold, and r there."""
    near = phi_series_holds(r)
    return near, jnp.where(near, r, 0)


class _Far(NamedTuple):
    """m = w p + (1 - w) q where p and q are far apart, by the larger of the two."""

    larger: Array
    above: Array  # whether that is q
    weight: Array  # of the smaller
    ratio: Array  # the smaller by the larger
    change: Array  # 1 - ratio
    log_ratio: Array  # finite
    log_m: Array


def _far(p: Array, q: Array, r: Array, w: float) -> _Far:
    above = r > 0
    weight = jnp.where(above, jnp.asarray(w, r.dtype), jnp.asarray(1 - w, r.dtype))
    log_ratio = clamp_finite(-jnp.abs(r))
    ratio = exp_minus(-log_ratio)
    change = 1 - ratio
    log_m = log_of_part(-weight * change)
    return _Far(jnp.where(above, q, p), above, weight, ratio, change, log_ratio, log_m)


def _far_shares(x: _Far) -> tuple[Array, Array]:
    """log(p / m) and log(q / m)."""
    smaller = x.log_ratio - x.log_m
    return jnp.where(x.above, smaller, -x.log_m), jnp.where(x.above, -x.log_m, smaller)


def _skew_curve(r: Decimal, s: Decimal) -> Decimal:
    """F = p log(p / m) - p + m, by p r^2."""
    return ((1 - s) * (r.exp() - 1) - _log_m(r, s)) / (r * r)


def _skew_slope(r: Decimal, s: Decimal) -> Decimal:
    """v = (1 - s) (1 - p / m), by r."""
    return (1 - s) * (1 - (-_log_m(r, s)).exp()) / r


def _fitted_skew_term(x: OutcomeTerms, s: float) -> Array:
    near, r = _near(x.r)
    log_p, _ = _far_shares(_far(x.p, x.q, x.r, s))
    far = x.p * log_p + (1 - s) * x.q_minus_p
    return jnp.where(near, x.p * (r * r * polynomial(_fitted(_skew_curve, s), r)), far)


def _fitted_skew_parts(x: OutcomeTerms, s: float) -> tuple[Array, Array]:
    near, r = _near(x.r)
    log_p, _ = _far_shares(_far(x.p, x.q, x.r, s))
    m = s * x.p + (1 - s) * x.q
    change = (1 - s) * divide(x.q - x.p, jnp.where(m == 0, 1, m))  # 1 - p / m
    of_p = x.p * (log_p + s * change)
    of_q = x.q * jnp.where(
        near, r * polynomial(_fitted(_skew_slope, s), r), (1 - s) * change
    )
    return jnp.where(near, _fitted_skew_term(x, s) - of_q, of_p), of_q


def _jensen_shannon_curve(r: Decimal, w: Decimal) -> Decimal:
    """F = w p log(p / m) + (1 - w) q log(q / m), by p r^2."""
    log_m = _log_m(r, w)
    return ((1 - w) * r.exp() * (r - log_m) - w * log_m) / (r * r)


def _log_m_slope(r: Decimal, w: Decimal) -> Decimal:
    return _log_m(r, w) / r


def _by_larger_weight(x: OutcomeTerms, beta: float) -> tuple[Array, Array, Array, float]:
    """p, q, r and p's weight, or q's if that is larger: from there the plain form of 0.9
    cancels fourfold at r = 2, and from the other side elevenfold at 1.
    """
    return (x.p, x.q, x.r, beta) if beta >= 0.5 else (x.q, x.p, -x.r, 1 - beta)


def _fitted_jensen_shannon_term(x: OutcomeTerms, beta: float) -> Array:
    p, q, of_all, w = _by_larger_weight(x, beta)
    near, r = _near(of_all)
    y = _far(p, q, of_all, w)
    of_m = (1 - y.weight * y.change) * y.log_m
    far = y.larger * (y.weight * (y.ratio * y.log_ratio) - of_m)
    return jnp.where(
        near, p * (r * r * polynomial(_fitted(_jensen_shannon_curve, w), r)), far
    )


def _fitted_jensen_shannon_parts(x: OutcomeTerms, beta: float) -> tuple[Array, Array]:
    p, q, of_all, w = _by_larger_weight(x, beta)
    near, r = _near(of_all)
    log_m = r * polynomial(_fitted(_log_m_slope, w), r)
    log_p, log_q = _far_shares(_far(p, q, of_all, w))
    of_p = w * (p * jnp.where(near, -log_m, log_p))
    of_q = (1 - w) * (q * jnp.where(near, r - log_m, log_q))
    return (of_p, of_q) if beta >= 0.5 else (of_q, of_p)


# --- of any number or array ----------------------------------------------------------


def _skew_term(x: OutcomeTerms, s: float | Array) -> Array:
    if _is_fitted(s, x.r, _SKEW):
        return _fitted_skew_term(x, s)
    log_p, _ = _log_shares(x, s)
    term = _kl_term(x.p, s * x.p + (1 - s) * x.q, -log_p)
    return jnp.where((s == 0) & (x.r == -jnp.inf), jnp.inf, term)


def _skew_parts(x: OutcomeTerms, s: float | Array) -> tuple[Array, Array]:
    """u = log(p / m) + s (1 - p / m) and v = (1 - s) (1 - p / m), of which the first would
    cancel to (1 - s) log(p / m), and 1 - p / m = (1 - s) (q - p) / m.
    """
    if _is_fitted(s, x.r, _SKEW):
        return _fitted_skew_parts(x, s)
    log_p, log_q = _log_shares(x, s)
    # p / m <= 1 / s: above e^80 s is 0, and 0 times inf would be nan. So for q.
    least_p, least_q = (jnp.minimum(y, 80) for y in (log_p, log_q))
    of_p = x.p * ((1 - s) * log_p - s * phi(least_p))
    return of_p, (1 - s) * (1 - s) * (x.q_minus_p * jnp.exp(least_q))


def _skew_change(x: OutcomeTerms, s: float | Array) -> Array:
    """-p (p - q) / m, less the p - q that sum to 0: no term is positive."""
    log_p, _ = _log_shares(x, s)
    return clamp_finite(expm1(log_p)) * x.q_minus_p


def _jensen_shannon_term(x: OutcomeTerms, beta: float | Array) -> Array:
    if _is_fitted(beta, x.r, _BETA):
        return _fitted_jensen_shannon_term(x, beta)
    log_p, log_q = _log_shares(x, beta)
    m = beta * x.p + (1 - beta) * x.q
    return beta * _kl_term(x.p, m, -log_p) + (1 - beta) * _kl_term(x.q, m, -log_q)


def _jensen_shannon_parts(x: OutcomeTerms, beta: float | Array) -> tuple[Array, Array]:
    """u = beta log(p / m), v = (1 - beta) log(q / m)."""
    if _is_fitted(beta, x.r, _BETA):
        return _fitted_jensen_shannon_parts(x, beta)
    log_p, log_q = _log_shares(x, beta)
    return beta * (x.p * log_p), (1 - beta) * (x.q * log_q)


def _jensen_shannon_change(x: OutcomeTerms, beta: float | Array) -> Array:
    """KL(p || m) - KL(q || m)."""
    log_p, log_q = _log_shares(x, beta)
    m = beta * x.p + (1 - beta) * x.q
    return _kl_term(x.p, m, -log_p) - _kl_term(x.q, m, -log_q)


def _log_shares(x: OutcomeTerms, weight: float | Array) -> tuple[Array, Array]:
    return log_shares(x.r, *(jnp.asarray(w, x.r.dtype) for w in (weight, 1 - weight)))


JEFFREYS = FDivergence(term=_jeffreys_term, parts=_jeffreys_parts)
SKEW = FDivergence(term=_skew_term, parts=_skew_parts, change=_skew_change)
JENSEN_SHANNON = FDivergence(
    term=_jensen_shannon_term, parts=_jensen_shannon_parts, change=_jensen_shannon_change
)
