"""Bregman divergences of convex functions other than x log x.

    B_f(x, y) = f(x) - f(y) - f'(y) (x - y) = (x - y)^2 times the integral over t from 0
                to 1 of (1 - t) f''(y + t (x - y))

of a convex f: where x and y are close it is the integral, by quadrature, a sum of positive
terms; elsewhere it is the difference. Their second derivatives are sums of positive terms
too, and differentiated as they stand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kl_jax._arithmetic import clamp_max, jitted_custom_jvp, polynomial, reciprocal, tangent
from kl_jax._exponentials import expm1, phi
from kl_jax.elementwise import is_close, itakura_saito


class Convex(NamedTuple):
    """A convex function f, by what `bregman` needs of it: each a function of arrays.

    Curvatures are in units of the argument's scale, as f'' of about 1 / x^2 overflows where
    x = 1e-20, and 0 times that is nan at x = y.
    """

    scale: Callable[[Array], Array]
    scaled_curvature: Callable[[Array], Array]  # scale(x)^2 f''(x)
    is_near: Callable[[Array, Array, Array], Array]  # of x, y, x - y
    far: Callable[[Array, Array, Array], Array]  # f(x) - f(y) - f'(y) (x - y)
    far_slope: Callable[[Array, Array, Array], Array]  # f'(x) - f'(y)


# Points of the quadrature. In the least favourable case, x / y = 4 with a pole of third
# order of f'' at 0, what is left out is 1200 * 9^-n of the result.
_POINTS = {jnp.dtype("float32"): 11, jnp.dtype("float64"): 20}


@functools.cache
def _gauss_legendre(n: int) -> list[tuple[float, float]]:
    """(point, weight) on [0, 1]: zeros of the Legendre polynomial, by Newton's method."""
    rule = []
    for k in range(n):
        x = math.cos(math.pi * (k + 0.75) / (n + 0.5))
        for _ in range(6):
            below, p = 1.0, x
            for j in range(2, n + 1):
                below, p = p, ((2 * j - 1) * x * p - (j - 1) * below) / j
            slope = n * (x * p - below) / (x * x - 1)
            x -= p / slope
        rule.append(((1 - x) / 2, 1 / ((1 - x * x) * slope * slope)))
    return rule


def along_first(values: Sequence[float], x: Array) -> Array:
    """The numbers along a new first axis, beside `x`."""
    return jnp.asarray(values, x.dtype).reshape((-1,) + (1,) * x.ndim)


def quadrature(y: Array) -> tuple[Array, Array]:
    """Points and weights on [0, 1], beside `y`."""
    points, weights = zip(*_gauss_legendre(_POINTS[y.dtype]), strict=True)
    return along_first(points, y), along_first(weights, y)


def curvature_of(f: Convex, x: Array) -> Array:
    return f.scaled_curvature(x) / f.scale(x) / f.scale(x)


def _integrals(f: Convex, y: Array, difference: Array) -> tuple[Array, Array]:
    """scale(y)^2 times the integrals of f''(y + t d) and of (1 - t) f''(y + t d) over t
    from 0 to 1. No term is negative.
    """
    t, w = quadrature(y)
    x = y[None] + t * difference[None]
    terms = w * f.scaled_curvature(x) * jnp.square(f.scale(y)[None] / f.scale(x))
    return jnp.sum(terms, 0), jnp.sum((1 - t) * terms, 0)


@functools.partial(jitted_custom_jvp, static=(0,))
def bregman(f: Convex, x: Array, y: Array, difference: Array) -> Array:
    """f(x) - f(y) - f'(y) (x - y) >= 0, with x - y given as in `log_ratio`.

    Near y it is (x - y)^2 times the integral of (1 - t) f''(y + t (x - y)), by quadrature.
    """
    near = f.is_near(x, y, difference)
    d = jnp.where(near, difference, 0)
    step = d / f.scale(y)
    value = step * (step * _integrals(f, y, d)[1])
    return jnp.where(near, value, f.far(x, y, difference))


def _bregman_jvp(f, primals, tangents):
    x, y, difference = primals
    dx, dy, _ = tangents
    # An infinite difference is one where f'' is 0 or the result infinite: no change.
    change = difference_of(x, y, difference)
    finite = jnp.where(jnp.isinf(difference), 0, change)
    slope_y = -(f.scaled_curvature(y) / f.scale(y)) * (finite / f.scale(y))
    slopes = slope_difference(f, x, y, difference), slope_y
    value = bregman(f, x, y, difference)
    return value, tangent(value, (slopes[0], dx), (slopes[1], dy))


bregman.defjvp(_bregman_jvp, symbolic_zeros=True)


@functools.partial(jitted_custom_jvp, static=(0,))
def slope_difference(f: Convex, x: Array, y: Array, difference: Array) -> Array:
    """f'(x) - f'(y), likewise."""
    near = f.is_near(x, y, difference)
    d = jnp.where(near, difference, 0)
    value = d / f.scale(y) * (_integrals(f, y, d)[0] / f.scale(y))
    return jnp.where(near, value, f.far_slope(x, y, difference))


def _slope_difference_jvp(f, primals, tangents):
    x, y, difference = primals
    dx, dy, _ = tangents
    value = slope_difference(f, x, y, difference)
    return value, tangent(value, (curvature_of(f, x), dx), (-curvature_of(f, y), dy))


slope_difference.defjvp(_slope_difference_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def difference_of(x: Array, y: Array, difference: Array) -> Array:
    """The difference as given, with the derivatives of x - y."""
    return difference


def _difference_jvp(primals, tangents):
    x, _, difference = primals
    dx, dy, _ = tangents
    one = jnp.ones_like(x)
    return difference_of(*primals), tangent(difference, (one, dx), (-one, dy))


difference_of.defjvp(_difference_jvp, symbolic_zeros=True)


def is_within_ratio_4(x: Array, y: Array, difference: Array) -> Array:
    return is_close(x, y)


def _is_within_4(x: Array, y: Array, difference: Array) -> Array:
    return jnp.abs(difference) < 4


@functools.cache
def bernoulli_numbers(n: int) -> list[Fraction]:
    """The Bernoulli numbers B_2, B_4, ..., B_2n."""
    numbers = [Fraction(1)]
    for m in range(1, 2 * n + 1):
        terms = (math.comb(m + 1, k) * numbers[k] for k in range(m))
        numbers.append(-sum(terms, Fraction(0)) / (m + 1))
    return numbers[2::2]


# f(x) = log((e^x - 1) / x), the normaliser of e^(x t) on [0, 1]. Its Taylor series
# converges for |x| < 2 pi; the terms that |x| < 3 needs for errors of 2e-8 and 3e-17.
_EXPONENTIAL_TERMS = {jnp.dtype("float32"): 12, jnp.dtype("float64"): 26}


def _normalizer_series(x: Array) -> list[float]:
    """Of f'(x) - 1/2, the factors of x, x^3, ..."""
    numbers = bernoulli_numbers(_EXPONENTIAL_TERMS[x.dtype])
    return [float(b / math.factorial(2 * k)) for k, b in enumerate(numbers, start=1)]


def normalizer_curvature(x: Array) -> Array:
    small = jnp.abs(x) < 3
    square = jnp.square(jnp.where(small, x, 0))
    inside = polynomial(
        [(2 * k + 1) * c for k, c in enumerate(_normalizer_series(x))], square
    )
    size = jnp.where(small, 3, jnp.abs(x))
    decay = jnp.exp(-size)
    outside = jnp.square(reciprocal(size)) - decay / jnp.square(1 - decay)
    return jnp.where(small, inside, outside)


def normalizer_mean(x: Array) -> Array:
    """f'(x) - 1 for x >= 0, f'(x) below."""
    small = jnp.abs(x) < 3
    series = x * polynomial(_normalizer_series(x), x * x)
    size = jnp.where(small, 3, jnp.abs(x))
    outside = jnp.sign(x) * (1 / expm1(size) - 1 / size)
    return jnp.where(small, series - jnp.where(x < 0, -0.5, 0.5), outside)


def _mirrored(x: Array, y: Array, difference: Array) -> tuple[Array, Array, Array]:
    """With y >= 0: f(-x) = f(x) - x, so that Bregman divergences are the same."""
    sign = jnp.where(y < 0, -jnp.ones_like(y), 1)
    return sign * x, sign * y, sign * difference


def _normalizer_far(x: Array, y: Array, difference: Array) -> Array:
    x, y, difference = _mirrored(x, y, difference)
    # Of f - x, which is close to -log x for large x: then all but that is small.
    large = (x > 2) & (y > 2)
    sizes = [jnp.where(z == 0, 1, jnp.abs(z)) for z in (x, y)]
    logs = [jnp.log(-expm1(-size)) for size in sizes]
    x_large, y_large = (jnp.where(large, z, 1) for z in (x, y))
    exact = itakura_saito(x_large, y_large) + (
        (logs[0] - logs[1]) - difference / expm1(y_large)
    )
    of_both = [
        jnp.where(z == 0, 0, log - jnp.log(size) - clamp_max(z, 0))
        for z, size, log in zip((x, y), sizes, logs, strict=True)
    ]
    direct = (of_both[0] - of_both[1]) - normalizer_mean(y) * difference
    return jnp.where(large, exact, direct)


def _normalizer_far_slope(x: Array, y: Array, difference: Array) -> Array:
    sign = jnp.where(y < 0, -jnp.ones_like(y), 1)
    x, y, difference = _mirrored(x, y, difference)
    large = (x > 2) & (y > 2)
    x_large, y_large = (jnp.where(large, z, 1) for z in (x, y))
    exact = difference / x_large / y_large + (1 / expm1(x_large) - 1 / expm1(y_large))
    below = jnp.where(x < 0, -jnp.ones_like(x), 0)
    direct = (normalizer_mean(x) + below) - normalizer_mean(y)
    return sign * jnp.where(large, exact, direct)


EXPONENTIAL_NORMALIZER = Convex(
    jnp.ones_like,
    normalizer_curvature,
    _is_within_4,
    _normalizer_far,
    _normalizer_far_slope,
)


# f(x) = log(1 + e^x), the normaliser of e^(k x) for k = 0 and 1; poles of f'' at +-pi i.


def _softplus_curvature(x: Array) -> Array:
    return jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)


def _softplus_far(x: Array, y: Array, difference: Array) -> Array:
    x, y, difference = _mirrored(x, y, difference)
    x, y, difference = -x, -y, -difference  # y <= 0
    share = jax.nn.sigmoid(y)
    # For x > 0 the part x of f(x) is joined with that of the product.
    joined = x * jax.nn.sigmoid(-y) + jnp.where(share == 0, 0, share * y)
    apart = -jnp.where(share == 0, 0, share * difference)
    rest = jax.nn.softplus(-jnp.abs(x)) - jax.nn.softplus(y)
    return rest + jnp.where(x > 0, joined, apart)


def _softplus_far_slope(x: Array, y: Array, difference: Array) -> Array:
    # q - p of the smaller two of the probabilities p, q, 1 - p, 1 - q.
    below = jax.nn.sigmoid(x) - jax.nn.sigmoid(y)
    above = jax.nn.sigmoid(-y) - jax.nn.sigmoid(-x)
    return jnp.where(x + y < 0, below, above)


SOFTPLUS = Convex(
    jnp.ones_like, _softplus_curvature, _is_within_4, _softplus_far, _softplus_far_slope
)


# --- two more terms -------------------------------------------------------------------


@jitted_custom_jvp
def phi_minus_abs(x: Array) -> Array:
    """e^-|x| - 1 + |x| >= 0. Its second derivative at 0 is 1, not what |x| would give."""
    return phi(-jnp.abs(x))


phi_minus_abs.defjvps(lambda dx, _, x: _phi_minus_abs_slope(x) * dx)


@jitted_custom_jvp
def _phi_minus_abs_slope(x: Array) -> Array:
    return -jnp.sign(x) * expm1(-jnp.abs(x))


_phi_minus_abs_slope.defjvps(lambda dx, _, x: jnp.exp(-jnp.abs(x)) * dx)
