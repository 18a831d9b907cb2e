"""Stirling's remainder of log Gamma, and the Bregman divergence of log Gamma."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from kl_jax._arithmetic import (
    clamp_max,
    clamp_min,
    jitted_custom_jvp,
    polynomial,
    reciprocal,
    tangent,
)
from kl_jax._exponentials import log1p
from kl_jax.elementwise import generalized_kl_term, is_close, itakura_saito
from kl_jax.parametric._convex import (
    Convex,
    along_first,
    bernoulli_numbers,
    bregman,
    curvature_of,
    difference_of,
    is_within_ratio_4,
    quadrature,
    slope_difference,
)

# Stirling's remainder R, log Gamma(x) = (x - 1/2) log x - x + log(2 pi) / 2 + R(x), is
# shifted to where its asymptotic series holds by R(x) = rho(x) + R(x + 1), in which
#
#     rho(x) = (x + 1/2) log(1 + 1/x) - 1 = s^2 c(s^2),    s = 1 / (2x + 1),
#     rho''(x) = 1 / (2 x^2 (x + 1)^2):
#
# no term is negative. Steps and terms; what is left out is below 3e-8 and 2e-17 of R''.
_STIRLING = {jnp.dtype("float32"): (8, 5), jnp.dtype("float64"): (16, 9)}


def _stirling_series(derivative: int, dtype: Any) -> list[float]:
    """The factors of i^n, i^(n + 2), ..., n = derivative + 1 and i = 1 / x, in R, R' or
    R''.
    """
    series = []
    for k, b in enumerate(bernoulli_numbers(_STIRLING[dtype][1]), start=1):
        # The term of R is b / (2k (2k - 1)) x^(1 - 2k).
        factor = {0: Fraction(1, 2 * k * (2 * k - 1)), 1: Fraction(-1, 2 * k), 2: 1}[
            derivative
        ]
        series.append(float(b * factor))
    return series


def _stirling_steps(x: Array) -> Array:
    """x, x + 1, ..., along a new first axis."""
    return x[None] + along_first([float(k) for k in range(_STIRLING[x.dtype][0])], x)


def _stirling_curvature(x: Array) -> Array:
    """x^2 R''(x) for x > 0."""
    inverse = reciprocal(x + _STIRLING[x.dtype][0])
    series = polynomial(_stirling_series(2, x.dtype), inverse * inverse)
    z = _stirling_steps(x)
    steps = jnp.square(x[None] * reciprocal(z) * reciprocal(z + 1)) / 2
    return jnp.square(x * inverse) * (inverse * series) + jnp.sum(steps, 0)


# Below x = 1/2, s = 1/2, the series of c would need more terms, and the logarithm cancels
# by a tenth. What is left out there is 2e-8 and 2e-17 of rho'.
_STIRLING_SMALL = 0.5
_STIRLING_STEP = {jnp.dtype("float32"): 13, jnp.dtype("float64"): 28}


def _stirling_step_series(derivative: int, dtype: Any) -> list[float]:
    """The factors of s^n, s^(n + 2), ..., n = derivative + 2, in rho or rho'."""
    series = [1 / (2 * k + 3) for k in range(_STIRLING_STEP[dtype])]
    if derivative == 1:  # of P(s^2) = s^2 c(s^2) it is -4 s^3 P'(s^2)
        series = [-4 * (k + 1) * c for k, c in enumerate(series)]
    return series


def _sum_of_steps(x: Array, first: Array, steps: Array) -> Array:
    """With another form of the first where x is small. XLA would compile slices twice."""
    is_other = (along_first(range(len(steps)), x) == 0) & (x[None] < _STIRLING_SMALL)
    return jnp.sum(jnp.where(is_other, first[None], steps), 0)


def stirling(x: Array) -> Array:
    """R(x) for x > 0. It is differentiated as it stands: the terms have one sign."""
    inverse = reciprocal(x + _STIRLING[x.dtype][0])
    rest = inverse * polynomial(_stirling_series(0, x.dtype), inverse * inverse)
    s = reciprocal(2 * clamp_min(_stirling_steps(x), _STIRLING_SMALL) + 1)
    square = s * s
    steps = square * polynomial(_stirling_step_series(0, x.dtype), square)
    low = clamp_max(x, _STIRLING_SMALL)
    return rest + _sum_of_steps(x, (low + 0.5) * log1p(reciprocal(low)) - 1, steps)


def stirling_slope(x: Array) -> Array:
    """R'(x) for x > 0."""
    inverse = reciprocal(x + _STIRLING[x.dtype][0])
    square = inverse * inverse
    rest = square * polynomial(_stirling_series(1, x.dtype), square)
    s = reciprocal(2 * clamp_min(_stirling_steps(x), _STIRLING_SMALL) + 1)
    square = s * s
    steps = s * square * polynomial(_stirling_step_series(1, x.dtype), square)
    low = clamp_max(x, _STIRLING_SMALL)
    logarithm = log1p(reciprocal(low)) - (reciprocal(low) + reciprocal(low + 1)) / 2
    return rest + _sum_of_steps(x, logarithm, steps)


def _power_times_series(
    n: int, coefficients: Sequence[float], x: Array, y: Array, difference: Array
) -> Array:
    """x^n c(x^2) - y^n c(y^2) for the polynomial c, with x - y given: its divided
    difference, of which no rounding is more than that of a term.
    """
    u, v = x * x, y * y
    value = jnp.full_like(u, coefficients[-1])
    quotient = jnp.zeros_like(u)  # (c(u) - c(v)) / (u - v)
    for c in reversed(coefficients[:-1]):
        quotient = quotient * v + value
        value = value * u + jnp.asarray(c, u.dtype)
    powers = functools.reduce(jnp.add, (x**k * y ** (n - 1 - k) for k in range(n)))
    return difference * (powers * value + y**n * (x + y) * quotient)


def stirling_drop(derivative: int, x: Array, y: Array, added: Array) -> Array:
    """R(x) - R(y) or R'(x) - R'(y) for 0 < x <= y = x + added, to relative accuracy."""
    steps = _STIRLING[x.dtype][0]
    i, j = reciprocal(x + steps), reciprocal(y + steps)
    series = _stirling_series(derivative, x.dtype)
    rest = _power_times_series(derivative + 1, series, i, j, added * i * j)
    s, t = (
        reciprocal(2 * clamp_min(_stirling_steps(z), _STIRLING_SMALL) + 1) for z in (x, y)
    )
    series = _stirling_step_series(derivative, x.dtype)
    terms = _power_times_series(derivative + 2, series, s, t, 2 * s * t * added[None])
    # log(1 + 1/x) drops by that of 1 + added / (x (1 + y)).
    ratio = added / (1 + y) / x
    if derivative == 0:
        logs = log1p(jnp.stack([ratio, reciprocal(y)]))
        low = (x + 0.5) * logs[0] - added * logs[1]
    else:
        halves = reciprocal(x) * (added / y) + reciprocal(x + 1) * (added / (y + 1))
        low = log1p(ratio) - halves / 2
    return rest + _sum_of_steps(x, low, terms)


def _stirling_curvature_drop(x: Array, y: Array, added: Array) -> Array:
    """x^2 (R''(x) - R''(y)) >= 0, likewise."""
    steps = _STIRLING[x.dtype][0]
    i, j = reciprocal(x + steps), reciprocal(y + steps)
    series = _stirling_series(2, x.dtype)
    rest = _power_times_series(3, series, i, j, added * i * j)
    z, w = _stirling_steps(x), _stirling_steps(y)
    first = x[None] * reciprocal(z) * reciprocal(z + 1)
    inverse = reciprocal(w) * reciprocal(w + 1)
    difference, last = first * (z + w + 1) * (added[None] * inverse), x[None] * inverse
    return jnp.square(x) * rest + jnp.sum(difference * (first + last), 0) / 2


def _stirling_far(x: Array, y: Array, difference: Array) -> Array:
    low, high = jnp.minimum(x, y), jnp.maximum(x, y)
    drop = stirling_drop(0, low, high, jnp.abs(difference))
    return jnp.where(x < y, drop, -drop) - stirling_slope(y) * difference


def _stirling_far_slope(x: Array, y: Array, difference: Array) -> Array:
    return stirling_slope(x) - stirling_slope(y)


STIRLING = Convex(
    lambda x: x,
    _stirling_curvature,
    is_within_ratio_4,
    _stirling_far,
    _stirling_far_slope,
)


# B(x + r, y + s) - B(x, y) of R, in which the two nearly cancel where r and s are small.
# With d = x - y and e = r - s it is, near equality, the integral over t of (1 - t) times
#
#     R''(u) (d + e)^2 - R''(z) d^2 = R''(u) (2 d + e) e - (R''(z) - R''(u)) d^2
#
# at z = y + t d and u = z + s + t e; elsewhere a sum of drops of R and R'. All these terms
# vanish with r and s.


class _Pair(NamedTuple):
    """Arguments x and y, and what is added to them."""

    x: Array
    r: Array
    y: Array
    s: Array
    difference: Array  # x - y
    change: Array  # r - s


class _Between(NamedTuple):
    """What the two integrals have in common."""

    near: Array
    d: Array
    e: Array
    z: Array
    u: Array
    curvature: Array  # u^2 R''(u)
    drop: Array  # z^2 (R''(z) - R''(u))


def _between(p: _Pair) -> _Between:
    near = is_close(p.x, p.y) & is_close(p.x + p.r, p.y + p.s)
    d, e = jnp.where(near, p.difference, 0), jnp.where(near, p.change, 0)
    t, _ = quadrature(p.y)
    z, v = p.y[None] + t * d[None], p.s[None] + t * e[None]
    u = z + v
    curvature, drop = _stirling_curvature(u), _stirling_curvature_drop(z, u, v)
    return _Between(near, d[None], e[None], z, u, curvature, drop)


def _drops(derivative: int, p: _Pair) -> tuple[Array, Array]:
    """R(x) - R(x + r) and R(y) - R(y + s), or those of R'."""
    low, added = jnp.stack([p.x, p.y]), jnp.stack([p.r, p.s])
    drops = stirling_drop(derivative, low, low + added, added)
    return drops[0], drops[1]


def _added(p: _Pair) -> Array:
    """B(x + r, y + s) - B(x, y)."""
    near, d, e, z, u, curvature, drop = _between(p)
    terms = curvature * (e / u) * ((2 * d + e) / u) - drop * jnp.square(d / z)
    t, w = quadrature(p.y)
    values, slopes = _drops(0, p), _drops(1, p)
    far = slopes[1] * p.difference - stirling_slope(p.y + p.s) * p.change
    far = (values[1] - values[0]) + far
    return jnp.where(near, jnp.sum((1 - t) * w * terms, 0), far)


@jitted_custom_jvp
def _added_slope(*pair: Array) -> Array:
    """Of it in x: R'(x + r) - R'(y + s) - (R'(x) - R'(y)), likewise."""
    p = _Pair(*pair)
    near, d, e, z, u, curvature, drop = _between(p)
    terms = curvature / u * (e / u) - drop / z * (d / z)
    _, w = quadrature(p.y)
    drops = _drops(1, p)
    return jnp.where(near, jnp.sum(w * terms, 0), drops[1] - drops[0])


def _added_slope_jvp(primals, tangents):
    x, r, y, s, _, _ = primals
    dx, dr, dy, ds, _, _ = tangents
    value = _added_slope(*primals)
    drops = [_stirling_curvature_drop(z, z + v, v) / z / z for z, v in ((x, r), (y, s))]
    return value, tangent(
        value,
        (-drops[0], dx),
        (curvature_of(STIRLING, x + r), dr),
        (drops[1], dy),
        (-curvature_of(STIRLING, y + s), ds),
    )


_added_slope.defjvp(_added_slope_jvp, symbolic_zeros=True)


def _split(b: Array, a: Array, change: Array, first: Array) -> tuple[_Pair, list[Array]]:
    """The first outcome with what the others add to it; the others, with the sums in its
    place.
    """
    change = difference_of(b, a, change)
    one, rest = (
        [jnp.sum(jnp.where(chosen, z, 0), 0, keepdims=True) for z in (b, a, change)]
        for chosen in (first, ~first)
    )
    pair = _Pair(one[0], rest[0], one[1], rest[1], one[2], rest[2])
    both = zip(one, rest, (b, a, change), strict=True)
    return pair, [jnp.where(first, x + r, z) for x, r, z in both]


@jitted_custom_jvp
def stirling_excess(b: Array, a: Array, difference: Array, first: Array) -> Array:
    """The sum over the first axis of B(b, a) of Stirling's remainder, less that of the sums
    of b and of a. That and the outcome of which `first` is true are taken together.
    """
    pair, others = _split(b, a, difference, first)
    return jnp.sum(jnp.where(first, -_added(pair), bregman(STIRLING, *others)), 0)


def _stirling_excess_jvp(primals, tangents):
    first = primals[-1]
    pair, others = _split(*primals)
    _, y, change = others
    slopes = slope_difference(STIRLING, *others)
    in_a = _stirling_curvature(y) / y * (change / y)
    of_sums = (jnp.sum(jnp.where(first, z, 0), 0, keepdims=True) for z in (slopes, in_a, y))
    slope_of_sums, in_sum, total = of_sums
    # R''(a) d - R''(A) (d + e) of the first.
    drop = _stirling_curvature_drop(pair.y, total, pair.s)
    drop = drop / pair.y * (pair.difference / pair.y)
    drop -= _stirling_curvature(total) / total * (pair.change / total)
    slope_b = jnp.where(first, -_added_slope(*pair), slopes - slope_of_sums)
    slope_a = jnp.where(first, -drop, in_sum - in_a)
    value = stirling_excess(*primals)
    terms = tangent(slope_b, (slope_b, tangents[0]), (slope_a, tangents[1]))
    return value, jnp.sum(terms, 0)


stirling_excess.defjvp(_stirling_excess_jvp, symbolic_zeros=True)


def log_gamma_bregman(x: Array, y: Array, difference: Array) -> Array:
    """log Gamma(x) - log Gamma(y) - digamma(y) (x - y) >= 0 for x, y > 0.

    The sum of those of x log x - x, of -log(x) / 2 and of Stirling's remainder.
    """
    return (
        generalized_kl_term(x, y, difference)
        + itakura_saito(x, y, difference) / 2
        + bregman(STIRLING, x, y, difference)
    )


# The negentropy of a gamma distribution of concentration x, its KL to the normal
# distribution of its mean and variance, is
#
#     1 / (2 x) - R(x) + (x - 1) R'(x) = 1 / (3 x) + T(x),
#
# the first of which is a twelfth of the squared skewness. As a difference T loses a factor
# of 4 x; from the bound on it is its asymptotic series, with so many pairs of terms that
# what is left out is below 2e-8 and 5e-17 of it.
_NEGENTROPY = {jnp.dtype("float32"): (4, 8), jnp.dtype("float64"): (8, 16)}


def _negentropy_series(terms: int) -> list[float]:
    """Of T, the factors of x^-2, x^-3, ..."""
    numbers = bernoulli_numbers(terms + 1)
    pairs = [
        (numbers[k - 1] / (2 * k), -numbers[k] / (2 * k + 1)) for k in range(1, terms + 1)
    ]
    return [float(factor) for pair in pairs for factor in pair]


def negentropy_rest(x: Array) -> Array:
    """T(x) for x > 0."""
    bound, terms = _NEGENTROPY[x.dtype]
    low, inverse = clamp_max(x, bound), reciprocal(clamp_min(x, bound))
    direct = (reciprocal(6 * low) - stirling(low)) + (low - 1) * stirling_slope(low)
    series = inverse * inverse * polynomial(_negentropy_series(terms), inverse)
    return jnp.where(x < bound, direct, series)
