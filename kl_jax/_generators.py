r"""The divergences sum F(p, q) of the family: each is its term F and its two slopes.

With r = log(q / p) a term is p g(r), of a generator g with g(0) = g'(0) = 0: near equality
it is written as a square times a series, and where p and q are far apart as it is defined.
"""

from __future__ import annotations

import decimal
import functools
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TypeGuard

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax._arithmetic import clamp_finite, clamp_max, jitted_custom_jvp, polynomial
from kl_jax._blocks import OutcomeTerms
from kl_jax._exponentials import (
    expm1,
    log_of_sum,
    log_shares,
    phi,
    phi_series,
    phi_series_holds,
    powers_of,
)
from kl_jax._family import FDivergence

Exact = Callable[[Decimal, Decimal, Decimal], Decimal]  # of p, q and a constant


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
# Beside the larger of p and q, the smaller is e^-d, d = |log(q / p)|. With S the smaller a
# term is S d^2 times a smooth function of d, and with L the larger it is L times a smooth
# function of e^-d, less a multiple of e^-d d. Up to d = 3 the first is a polynomial, of
# which the terms of the other sign take away a fifth at worst; from there on the second is
# one, and loses one bit in the difference. No logarithm is needed, and one exponential
# beside that of the larger. float64 has the other forms alone: nobody counts its
# operations.

_END = 3.0
_SKEW, _BETA = 0.3, 0.9  # the largest: of a skew of 0.9 the second form loses four bits


def _is_fitted(constant: float | Array, largest: float, r: Array) -> TypeGuard[float]:
    """Whether the polynomials keep their digits."""
    single = not isinstance(constant, Array) and r.dtype == jnp.float32
    return single and 0.1 <= constant <= largest


def _interpolated(f: Callable[[Decimal], Decimal], end: float, count: int) -> list[float]:
    """The polynomial through f at Chebyshev's nodes of [0, end]. In decimal arithmetic
    while tracing, which takes 2 ms.
    """
    with decimal.localcontext(prec=60):
        angles = (math.pi * (k + 0.5) / count for k in range(count))
        nodes = [Decimal(end / 2 * (1 + math.cos(x))) for x in angles]
        # Newton's divided differences, and then powers.
        terms = [f(x) for x in nodes]
        for j in range(1, count):
            for i in reversed(range(j, count)):
                terms[i] = (terms[i] - terms[i - 1]) / (nodes[i] - nodes[i - j])
        powers: list[Decimal] = []
        for term, node in zip(reversed(terms), reversed(nodes), strict=True):
            shifted = [Decimal(0), *powers]
            powers = [x - node * y for x, y in zip(shifted, [*powers, 0], strict=True)]
            powers[0] += term
        return [float(x) for x in powers]


@functools.cache
def _fitted(
    term: Exact, constant: float, above: bool, multiple: float
) -> tuple[list[float], list[float]]:
    """The polynomials of d and of e^-d, where q is above p or not. They err by 1e-8."""

    def of(smaller: Decimal, larger: Decimal) -> Decimal:
        pair = (smaller, larger) if above else (larger, smaller)
        return term(*pair, Decimal(constant))

    def far(ratio: Decimal) -> Decimal:
        return of(ratio, Decimal(1)) - Decimal(multiple) * ratio * ratio.ln()

    near = _interpolated(lambda d: of(Decimal(1), d.exp()) / (d * d), _END, 11)
    return near, _interpolated(far, math.exp(-_END), 9)


def _by_polynomials(
    x: OutcomeTerms, term: Exact, constant: float, multiples: tuple[float, float]
) -> Array:
    """The term: with the multiple of e^-d d where q is above p, and where it is not."""
    above, distance = x.r > 0, clamp_max(jnp.abs(x.r), float(jnp.finfo(x.r.dtype).max))
    near = distance <= _END
    fitted = [
        _fitted(term, constant, y, z) for y, z in zip((True, False), multiples, strict=True)
    ]
    of_distance, of_ratio = (_either(above, *y) for y in zip(*fitted, strict=True))
    (multiple,) = _either(above, *([z] for z in multiples))
    d, ratio = jnp.where(near, distance, 0), powers_of(distance).ratio
    inside = d * d * polynomial(of_distance, d)
    outside = polynomial(of_ratio, ratio) - multiple * (ratio * distance)
    larger = above != near  # q is taken where it is the larger and d is far, or neither
    return jnp.where(larger, x.q, x.p) * jnp.where(near, inside, outside)


def _either(
    above: Array, of_above: Sequence[float], of_below: Sequence[float]
) -> list[ArrayLike]:
    """Coefficients where q is above p, and where it is not."""
    pairs = zip(of_above, of_below, strict=True)
    return [y if y == z else jnp.where(above, y, z) for y, z in pairs]


@functools.cache
def _fitted_log(weight: float) -> list[float]:
    """The polynomial -log(1 - weight x) / x for x from 0 to 1: the terms of both signs that
    interpolation makes of a series of one sign are below 0.005 for a weight of 1/2.
    """

    def quotient(x: Decimal) -> Decimal:
        return -(1 - Decimal(weight) * x).ln() / x

    return _interpolated(quotient, 1.0, 13)


@functools.partial(jitted_custom_jvp, static=(0,))
def _log_shares_of(weight: float, r: Array) -> tuple[Array, Array]:
    """`log_shares` of a constant from 0.1 to 0.9: log(m / L) = log(1 - w (1 - e^-d)), w the
    weight of the smaller. The other logarithm is d beside that, of which a tenth is left at
    worst.
    """
    above, distance = r > 0, jnp.abs(r)
    weights = weight, 1 - weight
    powers = powers_of(distance)  # as `outcome_terms` has them: XLA makes them once
    if max(weights) <= 0.6:
        fitted = _either(above, *map(_fitted_log, weights))
        of_larger = powers.less * polynomial(fitted, powers.less)
    else:
        small, large = (jnp.where(above, *w) for w in (weights, weights[::-1]))
        # From 1 on the product errs by 2e-7 of what a weight of 0.9 leaves.
        near = powers.ratio > 0.37
        of_larger = -log_of_sum(
            jnp.where(near, 1, large),
            small * jnp.where(near, -powers.less, powers.ratio),
        )
    of_smaller = of_larger - clamp_finite(distance)
    log_p, log_q = (of_smaller, of_larger), (of_larger, of_smaller)
    return jnp.where(above, *log_p), jnp.where(above, *log_q)


def _log_shares_of_jvp(weight, primals, tangents):
    of_any = functools.partial(_log_shares_of_any, weight)
    return _log_shares_of(weight, *primals), jax.jvp(of_any, primals, tangents)[1]


_log_shares_of.defjvp(_log_shares_of_jvp)


def _log_shares_of_any(weight: float | Array, r: Array) -> tuple[Array, Array]:
    return log_shares(r, *(jnp.asarray(w, r.dtype) for w in (weight, 1 - weight)))


def _log_shares(
    x: OutcomeTerms, weight: float | Array, largest: float
) -> tuple[Array, Array]:
    if _is_fitted(weight, largest, x.r):
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
    if _is_fitted(s, _SKEW, x.r):
        return _by_polynomials(x, _exact_skew, s, (1, 0))
    log_p, _ = _log_shares(x, s, _SKEW)
    term = _kl_term(x.p, s * x.p + (1 - s) * x.q, -log_p)
    return jnp.where((s == 0) & (x.r == -jnp.inf), jnp.inf, term)


def _skew_parts(x: OutcomeTerms, s: float | Array) -> tuple[Array, Array]:
    """u = log(p / m) + s (1 - p / m) and v = (1 - s) (1 - p / m), of which the first would
    cancel to (1 - s) log(p / m), and 1 - p / m = (1 - s) (q - p) / m.
    """
    log_p, log_q = _log_shares(x, s, _SKEW)
    # p / m <= 1 / s: above e^80 s is 0, and 0 times inf would be nan. So for q.
    least_p, least_q = (jnp.minimum(y, 80) for y in (log_p, log_q))
    of_p = x.p * ((1 - s) * log_p - s * phi(least_p))
    return of_p, (1 - s) * (1 - s) * (x.q_minus_p * jnp.exp(least_q))


def _skew_change(x: OutcomeTerms, s: float | Array) -> Array:
    """-p (p - q) / m, less the p - q that sum to 0: no term is positive."""
    log_p, _ = _log_shares(x, s, _SKEW)
    return clamp_finite(expm1(log_p)) * x.q_minus_p


def _jensen_shannon_term(x: OutcomeTerms, beta: float | Array) -> Array:
    if _is_fitted(beta, _BETA, x.r):
        return _by_polynomials(x, _exact_jensen_shannon, beta, (beta, 1 - beta))
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
