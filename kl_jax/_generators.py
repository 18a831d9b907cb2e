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

from kl_jax._arithmetic import clamp_finite, divide, polynomial, two_sum
from kl_jax._blocks import OutcomeTerms
from kl_jax._exponentials import (
    exp_minus,
    expm1,
    log_of_two_words,
    log_shares,
    phi,
    phi_series,
    phi_series_holds,
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
# With S the smaller of p and q and d = |log(q / p)|, near equality a term is S d^2, and a
# slope d, times a smooth function of d: a polynomial costs half of two logarithms and what
# keeps their digits. Far from equality the plain forms lose at most two bits, but for
# constants near the ends. float64 has the forms of any number alone: nobody counts its
# operations.


class _Near(NamedTuple):
    """Where a polynomial holds, and its number of terms: it errs by 1e-8."""

    power: int  # of d, which it is multiplied by
    end: float  # the largest d
    count: int


# From 1 on the plain forms of a term would lose two bits more: 9 ULP were seen of two
# outcomes. Those of a slope do not, and its polynomial, of terms of both signs, would.
_TERM, _SLOPE = _Near(2, 3.0, 11), _Near(1, 1.0, 8)
_BETA, _SKEW = (0.1, 0.9), (0.06, 0.3)


def _is_fitted(
    constant: float | Array, r: Array, ends: tuple[float, float]
) -> TypeGuard[float]:
    if isinstance(constant, Array) or r.dtype != jnp.float32:
        return False
    return ends[0] <= constant <= ends[1]


@functools.cache
def _fitted(fun: Exact, kind: _Near, constant: float, above: bool) -> list[float]:
    """The polynomial through fun(p, q, constant) / d^power at Chebyshev's nodes, where the
    smaller of p and q is 1 and q is above p or not. In decimal arithmetic while tracing,
    which takes 2 ms.
    """
    power, end, count = kind
    with decimal.localcontext(prec=60):
        half = end / 2
        angles = (math.pi * (k + 0.5) / count for k in range(count))
        nodes = [Decimal(half + half * math.cos(x)) for x in angles]

        def at(d: Decimal) -> Decimal:
            smaller, larger = Decimal(1), d.exp()
            pair = (smaller, larger) if above else (larger, smaller)
            return fun(*pair, Decimal(constant)) / d**power

        # Newton's divided differences, and then powers of d.
        terms = [at(d) for d in nodes]
        for j in range(1, count):
            for i in reversed(range(j, count)):
                terms[i] = (terms[i] - terms[i - 1]) / (nodes[i] - nodes[i - j])
        powers: list[Decimal] = []
        for term, node in zip(reversed(terms), reversed(nodes), strict=True):
            shifted = [Decimal(0), *powers]
            powers = [x - node * y for x, y in zip(shifted, [*powers, 0], strict=True)]
            powers[0] += term
        return [float(x) for x in powers]


class _Pair(NamedTuple):
    """p and q by their sizes, and m = w p + (1 - w) q where they are far apart."""

    above: Array  # whether q is the larger
    smaller: Array
    larger: Array
    distance: Array  # d, finite
    weight: Array  # of the smaller in m
    ratio: Array  # e^-d
    m: Array  # relative to the larger
    log_m: Array

    def near(self, fun: Exact, kind: _Near, constant: float, far: Array) -> Array:
        """`fun` relative to the smaller, by a polynomial where that holds."""
        holds = self.distance <= kind.end
        d = jnp.where(holds, self.distance, 0)
        above, below = (_fitted(fun, kind, constant, x) for x in (True, False))
        pairs = zip(above, below, strict=True)
        terms = [x if x == y else jnp.where(self.above, x, y) for x, y in pairs]
        series = d**kind.power * polynomial(terms, d)
        return jnp.where(holds, self.smaller * series, far)

    def by_side(self, of_smaller: Array, of_larger: Array) -> tuple[Array, Array]:
        """That of p and that of q."""
        of_p = jnp.where(self.above, of_smaller, of_larger)
        return of_p, jnp.where(self.above, of_larger, of_smaller)


def _pair(x: OutcomeTerms, w: float) -> _Pair:
    above = x.r > 0
    smaller, larger = jnp.where(above, x.p, x.q), jnp.where(above, x.q, x.p)
    distance = clamp_finite(jnp.abs(x.r))
    ratio = exp_minus(distance)
    # m / larger = 1 - weight (1 - ratio), of which the product would err by 2e-7 of what a
    # weight of 0.94 leaves; 1 - weight is in two words for weights of 0.06.
    (of_p, low_p), (of_q, low_q) = (_in_two_words(z) for z in (w, 1 - w))
    weight, rest = jnp.where(above, of_p, of_q), jnp.where(above, of_q, of_p)
    m, error = two_sum(rest, weight * ratio)
    log_m = log_of_two_words(m, error + jnp.where(above, low_q, low_p))
    return _Pair(above, smaller, larger, distance, weight, ratio, m, log_m)


def _in_two_words(x: float) -> tuple[float, float]:
    """As float32, and what that lacks."""
    high = float(jnp.finfo(jnp.float32).dtype.type(x))
    return high, x - high


def _exact_skew(p: Decimal, q: Decimal, s: Decimal) -> Decimal:
    m = s * p + (1 - s) * q
    return p * (p / m).ln() - p + m


def _exact_skew_u(p: Decimal, q: Decimal, s: Decimal) -> Decimal:
    m = s * p + (1 - s) * q
    return p * ((p / m).ln() + s * (1 - p / m))


def _exact_skew_v(p: Decimal, q: Decimal, s: Decimal) -> Decimal:
    return q * (1 - s) * (1 - p / (s * p + (1 - s) * q))


def _fitted_skew_term(x: OutcomeTerms, s: float) -> Array:
    y = _pair(x, s)
    log_p, _ = y.by_side(-y.distance - y.log_m, -y.log_m)
    far = x.p * log_p + (1 - s) * (x.q - x.p)
    return y.near(_exact_skew, _TERM, s, far)


def _fitted_skew_parts(x: OutcomeTerms, s: float) -> tuple[Array, Array]:
    y = _pair(x, s)
    log_p, _ = y.by_side(-y.distance - y.log_m, -y.log_m)
    m = s * x.p + (1 - s) * x.q
    change = (1 - s) * divide(x.q - x.p, jnp.where(m == 0, 1, m))  # 1 - p / m
    return (
        y.near(_exact_skew_u, _SLOPE, s, x.p * (log_p + s * change)),
        y.near(_exact_skew_v, _SLOPE, s, (1 - s) * (x.q * change)),
    )


def _exact_jensen_shannon(p: Decimal, q: Decimal, w: Decimal) -> Decimal:
    m = w * p + (1 - w) * q
    return w * p * (p / m).ln() + (1 - w) * q * (q / m).ln()


def _exact_jensen_shannon_u(p: Decimal, q: Decimal, w: Decimal) -> Decimal:
    return w * p * (p / (w * p + (1 - w) * q)).ln()


def _exact_jensen_shannon_v(p: Decimal, q: Decimal, w: Decimal) -> Decimal:
    return (1 - w) * q * (q / (w * p + (1 - w) * q)).ln()


def _fitted_jensen_shannon_term(x: OutcomeTerms, beta: float) -> Array:
    y = _pair(x, beta)
    far = -y.larger * (y.weight * (y.ratio * y.distance) + y.m * y.log_m)
    return y.near(_exact_jensen_shannon, _TERM, beta, far)


def _fitted_jensen_shannon_parts(x: OutcomeTerms, beta: float) -> tuple[Array, Array]:
    y = _pair(x, beta)
    log_p, log_q = y.by_side(-y.distance - y.log_m, -y.log_m)
    return (
        y.near(_exact_jensen_shannon_u, _SLOPE, beta, beta * (x.p * log_p)),
        y.near(_exact_jensen_shannon_v, _SLOPE, beta, (1 - beta) * (x.q * log_q)),
    )


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
