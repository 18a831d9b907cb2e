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
from typing import TypeGuard

import jax.numpy as jnp
from jax import Array

from kl_jax._arithmetic import clamp_finite, polynomial
from kl_jax._blocks import OutcomeTerms
from kl_jax._exponentials import (
    expm1,
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


# --- of a constant, with a polynomial ------------------------------------------------
#
# With S the smaller of p and q and d = |log(q / p)|, a term is S d^2 times a smooth
# function of d. Up to d = 3 that is a polynomial, of terms of one sign, at the price of one
# of the two sums that keep all digits; from there on the definition loses one bit. At d = 1
# it would lose three. float64 has the other forms alone: nobody counts its operations.

_END, _COUNT = 3.0, 11
_SKEW, _BETA = 0.3, 0.9  # the largest: of a skew of 0.9 the definition loses four bits


def _is_fitted(constant: float | Array, largest: float, r: Array) -> TypeGuard[float]:
    """Whether the polynomials, and the logarithms of shares, keep their digits."""
    single = not isinstance(constant, Array) and r.dtype == jnp.float32
    return single and 0.1 <= constant <= largest


@functools.cache
def _fitted(term: Exact, constant: float, above: bool) -> list[float]:
    """The polynomial through term(p, q, constant) / d^2 at Chebyshev's nodes of [0, 3],
    where the smaller of p and q is 1 and q is above p or not. In decimal arithmetic while
    tracing, which takes 2 ms; it errs by 1e-8.
    """
    with decimal.localcontext(prec=60):
        angles = (math.pi * (k + 0.5) / _COUNT for k in range(_COUNT))
        nodes = [Decimal(_END / 2 * (1 + math.cos(x))) for x in angles]

        def at(d: Decimal) -> Decimal:
            pair = (Decimal(1), d.exp()) if above else (d.exp(), Decimal(1))
            return term(*pair, Decimal(constant)) / (d * d)

        # Newton's divided differences, and then powers of d.
        terms = [at(d) for d in nodes]
        for j in range(1, _COUNT):
            for i in reversed(range(j, _COUNT)):
                terms[i] = (terms[i] - terms[i - 1]) / (nodes[i] - nodes[i - j])
        powers: list[Decimal] = []
        for term_, node in zip(reversed(terms), reversed(nodes), strict=True):
            shifted = [Decimal(0), *powers]
            powers = [x - node * y for x, y in zip(shifted, [*powers, 0], strict=True)]
            powers[0] += term_
        return [float(x) for x in powers]


def _near_or_far(x: OutcomeTerms, term: Exact, constant: float, far: Array) -> Array:
    """The term, by its polynomial where that holds."""
    above, distance = x.r > 0, jnp.abs(x.r)
    near = distance <= _END
    d = jnp.where(near, distance, 0)
    pairs = zip(*(_fitted(term, constant, y) for y in (True, False)), strict=True)
    series = polynomial([y if y == z else jnp.where(above, y, z) for y, z in pairs], d)
    return jnp.where(near, jnp.where(above, x.p, x.q) * (d * d * series), far)


def _exact_skew(p: Decimal, q: Decimal, s: Decimal) -> Decimal:
    m = s * p + (1 - s) * q
    return p * (p / m).ln() - p + m


def _exact_jensen_shannon(p: Decimal, q: Decimal, beta: Decimal) -> Decimal:
    m = beta * p + (1 - beta) * q
    return beta * p * (p / m).ln() + (1 - beta) * q * (q / m).ln()


# --- of any number or array ----------------------------------------------------------


def _skew_term(x: OutcomeTerms, s: float | Array) -> Array:
    log_p, _ = _log_shares(x, s, _SKEW)
    if _is_fitted(s, _SKEW, x.r):
        return _near_or_far(x, _exact_skew, s, x.p * log_p + (1 - s) * x.q_minus_p)
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
    log_p, log_q = _log_shares(x, beta, _BETA)
    if _is_fitted(beta, _BETA, x.r):
        far = beta * (x.p * log_p) + (1 - beta) * (x.q * log_q)
        return _near_or_far(x, _exact_jensen_shannon, beta, far)
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


def _log_shares(
    x: OutcomeTerms, weight: float | Array, largest: float
) -> tuple[Array, Array]:
    weights = (jnp.asarray(w, x.r.dtype) for w in (weight, 1 - weight))
    return log_shares(_is_fitted(weight, largest, x.r), x.r, *weights)


JEFFREYS = FDivergence(term=_jeffreys_term, parts=_jeffreys_parts)
SKEW = FDivergence(term=_skew_term, parts=_skew_parts, change=_skew_change)
JENSEN_SHANNON = FDivergence(
    term=_jensen_shannon_term, parts=_jensen_shannon_parts, change=_jensen_shannon_change
)
