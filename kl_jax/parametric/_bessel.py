r"""The logarithm of the Bessel function I_v, v = 0, 1/2, 1, ..., and its derivatives.

    f(k) = log I_v(k) - v log k,    A(k) = f'(k) = I_(v+1)(k) / I_v(k)

is the normaliser of the von Mises-Fisher distribution in 2 v + 2 dimensions. A textbook's
A' = 1 - A^2 - (2 v + 1) A / k cancels at both ends. With m = 2 v, all terms of

    e^k I_v(k) ~ k^v sum of c_n k^n,          c_n / c_(n-1) = (m + 2n - 1) / ((m + n) n),
    A = sum of n / (m + 1 + n) c_n k^n / sum of c_n k^n,
    1 - A = sum of (m + 1) / (m + 1 + n) c_n k^n / sum of c_n k^n,
    A' = sum of (m + 1) / ((m + j + 1) (m + 2j + 2)) a_j x^j / sum of a_j x^j,
        a_j / a_(j-1) = 4 (m + 2j - 1) / ((m + j) (m + 2j) j),    x = k^2 / 4,

are positive: Kummer's series of I_v, and that of its square. Where s = sqrt(v^2 + k^2) is
large the uniform expansion of Debye takes over, which holds for every k / v:

    f(k) = s - v log(v + s) - log(2 pi s) / 2 + W(s),

W a series in 1/s and (v/s)^2.

Source: NIST Digital Library of Mathematical Functions, 10.39, 10.41 and 13.6. The positive
forms are quotients of the products of series in 10.31.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from kl_jax._arithmetic import clamp_min, jitted_custom_jvp, polynomial, reciprocal
from kl_jax.elementwise import is_close, itakura_saito
from kl_jax.parametric._convex import Convex

# Where Debye's expansion starts in s, its terms, and those of the two series up to there:
# what is left out is 3e-8 and 2e-17 of A'.
_BOUNDS = {jnp.dtype("float32"): (16, 10, 70, 42), jnp.dtype("float64"): (30, 20, 140, 90)}


@functools.cache
def _debye(terms: int) -> list[list[Fraction]]:
    """The factors w[k - 1][j] of s^-k (v/s)^2j in W, k = 1, 2, ... and j = 0, ..., k.

    Those of its exponential are q[k][j]: Debye's polynomials are u_k(t) = sum of
    q[k][j] t^(k + 2j), with u_(k+1) = t^2 (1 - t^2) u_k' / 2 + (the integral of
    (1 - 5 t^2) u_k) / 8.
    """
    q = [[Fraction(1)]]
    for k in range(terms):
        following = [Fraction(0)] * (k + 2)
        for j, c in enumerate(q[-1]):
            e = k + 2 * j
            following[j] += c * (Fraction(e, 2) + Fraction(1, 8 * (e + 1)))
            following[j + 1] -= c * (Fraction(e, 2) + Fraction(5, 8 * (e + 3)))
        q.append(following)
    w: list[list[Fraction]] = [[]]
    for k in range(1, terms + 1):
        row = list(q[k])
        for i in range(1, k):
            for a, x in enumerate(w[i]):
                for b, y in enumerate(q[k - i]):
                    row[a + b] -= Fraction(i, k) * x * y
        w.append(row)
    return w[1:]


def _least(m: int, k: Array) -> float:
    """From which k on Debye's expansion holds: everywhere if it is 0."""
    return math.sqrt(max(_BOUNDS[k.dtype][0] ** 2 - m * m / 4, 0))


class _Far(NamedTuple):
    """Of Debye's expansion where it holds, and at its least k below."""

    k: Array
    s: Array
    share: Array  # k / s
    order: Array  # v / s
    corrections: tuple[Array, Array, Array]  # W, s W' and s^2 W'' as functions of s


def _far(m: int, k: Array) -> _Far:
    v = m / 2
    k = clamp_min(k, _least(m, k))
    s = jnp.hypot(k, jnp.full_like(k, v))
    r = reciprocal(s)
    order = v * r
    t, rows = order * order, _debye(_BOUNDS[k.dtype][1])
    found = []
    for derivative in (0, 1, 2):
        factors = [
            [
                float((1, -e, e * (e + 1))[derivative] * c)
                for e, c in zip(range(n, 3 * n + 1, 2), row, strict=True)
            ]
            for n, row in enumerate(rows, start=1)
        ]
        series = [polynomial(row if m else row[:1], t) for row in factors]
        total = series[-1]
        for x in reversed(series[:-1]):
            total = total * r + x
        found.append(r * total)
    return _Far(k, s, k * r, order, (found[0], found[1], found[2]))


@functools.cache
def _kummer(m: int, terms: int, bound: int) -> list[list[float]]:
    """Of 1, A and 1 - A, the factors of (k / bound)^n."""
    c = [Fraction(1)]
    for n in range(1, terms):
        c.append(c[-1] * bound * Fraction(m + 2 * n - 1, (m + n) * n))
    shares = [Fraction(n, m + 1 + n) for n in range(terms)]
    weights = [1] * terms, shares, [1 - x for x in shares]
    return [[float(w * x) for w, x in zip(row, c, strict=True)] for row in weights]


@functools.cache
def _squares(m: int, terms: int, bound: int) -> list[list[float]]:
    """Of 1 and A', the factors of (k / bound)^2j."""
    a = [Fraction(1)]
    for j in range(1, terms):
        ratio = Fraction(m + 2 * j - 1, (m + j) * (m + 2 * j) * j)
        a.append(a[-1] * bound**2 * ratio)
    of_slope = [
        float(x * Fraction(m + 1, (m + j + 1) * (m + 2 * j + 2))) for j, x in enumerate(a)
    ]
    return [[float(x) for x in a], of_slope]


class _Slopes(NamedTuple):
    """A, 1 - A, and f(k) - k but for a constant."""

    ratio: Array
    gap: Array
    value: Array


def _slopes(m: int, k: Array) -> _Slopes:
    v, least = m / 2, _least(m, k)
    far = _far(m, k)
    half = (0.5 - far.corrections[1]) * reciprocal(far.s) * far.share
    inverse = reciprocal(v + far.s)
    beyond = v * v * reciprocal(far.s + far.k)  # s - k
    ratio, gap = far.k * inverse - half, (v + beyond) * inverse + half
    constant = math.lgamma(v + 1) + v * math.log(2) - math.log(2 * math.pi) / 2
    value = beyond - v * jnp.log(v + far.s) - jnp.log(far.s) / 2
    outside = _Slopes(ratio, gap, value + (far.corrections[0] + constant))
    if least == 0:
        return outside
    bound, _, terms, _ = _BOUNDS[k.dtype]
    small = k < least
    x = jnp.where(small, k, 0) / bound
    total, of_ratio, of_gap = _polynomials(_kummer(m, terms, bound), x)
    value = jnp.log(total * jnp.exp(-2 * bound * x))
    inside = of_ratio / total, of_gap / total, value
    pairs = zip(inside, outside, strict=True)
    return _Slopes(*(jnp.where(small, a, b) for a, b in pairs))


def _polynomials(factors: list[list[float]], x: Array) -> Array:
    """Polynomials of as many terms, along a new first axis. In a loop: those of float64 as
    one expression XLA for CPUs compiles for minutes, and takes 18 GB.
    """
    rows = jnp.asarray(factors, x.dtype).reshape(len(factors), -1, *(1,) * x.ndim)
    last = rows.shape[1] - 1

    def step(i: Array, total: Array) -> Array:
        return total * x[None] + rows[:, last - i]

    # In shard_map the total varies over devices as x does.
    return lax.fori_loop(1, last + 1, step, rows[:, last] + 0 * x[None], unroll=8)


def _curvature(m: int, k: Array) -> Array:
    """A'(k)."""
    v, least = m / 2, _least(m, k)
    far = _far(m, k)
    square, t = far.share * far.share, far.order * far.order
    _, first, second = far.corrections
    rest = (far.share - far.order) * (far.share + far.order) / 2 + t * first
    outside = jnp.square(reciprocal(far.s)) * (rest + square * second)
    outside = outside + far.order * reciprocal(v + far.s)
    if least == 0:
        return outside
    bound, _, _, terms = _BOUNDS[k.dtype]
    small = k < least
    x = jnp.square(jnp.where(small, k, 0) / bound)
    total, slope = _polynomials(_squares(m, terms, bound), x)
    return jnp.where(small, slope / total, outside)


def _far_value(m: int, x: Array, y: Array, difference: Array) -> Array:
    """f(x) - f(y) - A(y) (x - y).

    Where Debye's expansion holds for both it is, with
    z = v^2 (x - y)^2 / (s_x s_y + x y + v^2), the sum of those of

        -log(s) / 2:        S(s_x, s_y) / 2 - z / (2 s_y^2),
        s - v log(v + s):   v S(v + s_x, v + s_y) + z / (v + s_y),

    and W, which is small beside them. Elsewhere v is at most the bound, and little cancels.
    """
    v, least = m / 2, _least(m, x)
    p, q = _far(m, x), _far(m, y)
    change = (p.k - q.k) * ((p.k + q.k) / (p.s + q.s))  # s_x - s_y
    step = v * (p.k - q.k)
    z = step / q.s * (step / (p.s + p.k * q.share + v * q.order))
    value = z * (reciprocal(v + q.s) - jnp.square(reciprocal(q.s)) / 2)
    value = value + v * itakura_saito(v + p.s, v + q.s, change)
    value = value + itakura_saito(p.s, q.s, change) / 2
    slope = q.corrections[1] * (q.share * ((p.k - q.k) / q.s))
    outside = value + (p.corrections[0] - q.corrections[0] - slope)
    if least == 0:
        return outside
    of_x, of_y = _slopes(m, x), _slopes(m, y)
    value = of_x.value - of_y.value + of_y.gap * difference
    return jnp.where((x < least) | (y < least), value, outside)


def _far_slope(m: int, x: Array, y: Array, difference: Array) -> Array:
    return _slopes(m, y).gap - _slopes(m, x).gap


def _is_near(m: int, x: Array, y: Array, difference: Array) -> Array:
    """f'' has its first poles at i j and -i j, j the first zero of the Bessel function J_v:
    j^2 > 4 (v + 1) sqrt(v + 2).
    """
    v = m / 2
    radius = 2 * math.sqrt(v + 1) * (v / 2 + 1) ** 0.25
    return is_close(x, y) | (jnp.abs(difference) < radius)


@functools.cache
def log_bessel(m: int) -> Convex:
    """f of v = m / 2."""
    of_order = (functools.partial(f, m) for f in (_curvature, _is_near))
    far = (functools.partial(f, m) for f in (_far_value, _far_slope))
    return Convex(jnp.ones_like, *of_order, *far)


@functools.partial(jitted_custom_jvp, static=(0,))
def bessel_ratio(m: int, k: Array) -> Array:
    """I_(v+1)(k) / I_v(k) for k >= 0 and v = m / 2: the derivative of f."""
    return _slopes(m, k).ratio


def _bessel_ratio_jvp(m, primals, tangents):
    return bessel_ratio(m, *primals), _curvature(m, *primals) * tangents[0]


bessel_ratio.defjvp(_bessel_ratio_jvp)
