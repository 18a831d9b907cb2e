"""e^x, e^x - 1, log(1 + x), e^x - 1 - x and the logarithm of a mixture.

Of full relative accuracy, and with derivative rules written in functions of this file, so
that derivatives of any order are accurate too. The parts of e^x are used together where the
library's functions would be called apart: their errors cancel, and XLA's own are larger.
"""

from __future__ import annotations

import decimal
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kl_jax._arithmetic import (
    clamp_finite,
    clamp_max,
    clamp_min,
    jitted_custom_jvp,
    polynomial,
    reciprocal,
    two_prod,
    two_sum,
)

# (e^x - 1 - x - x^2/2) / x^3 on [-1, 2], minimax polynomials by mpmath's chebyfit,
# rounded: they err by 2e-8 and 3e-17 of (e^x - 1 - x) / x^2, most of it the rounding. The
# Taylor series would need 5 and 7 terms more.
_EXP_SERIES = {
    jnp.dtype("float32"): [
        *(0.16666667, 0.041666668, 0.008333333, 0.0013888698, 0.00019842084),
        *(2.483311e-05, 2.7361275e-06, 2.6211797e-07, 3.7741316e-08),
    ],
    jnp.dtype("float64"): [
        *(0.16666666666666666, 0.04166666666666667, 0.008333333333333344),
        *(0.0013888888888888415, 0.00019841269841260178, 2.480158730191104e-05),
        *(2.7557319226684806e-06, 2.7557319124996033e-07, 2.5052108245456062e-08),
        *(2.087677172083798e-09, 1.605899790925673e-10, 1.1469775124158288e-11),
        *(7.653976007655032e-13, 4.7916043294040334e-14, 2.553909812696849e-15),
        2.439135756032995e-16,
    ],
}
# phi takes the series on this smaller interval: below -0.7 the spacing of floats near x^2/2
# exceeds that near phi(x).
_NEAR = (-0.7, 1.4)

# c(t) = 1/3 + t/5 + t^2/7 + ... on [0, 1/9], likewise. With s = x / (2 + x) it serves
# log(1 + x) = 2 s + 2 s^3 c(s^2), of which the second term errs by 4e-10 and 7e-18.
_LOG1P_SERIES = {
    jnp.dtype("float32"): [0.33333334, 0.19999853, 0.14296179, 0.108532876, 0.11612165],
    jnp.dtype("float64"): [
        *(0.3333333333333333, 0.20000000000007292, 0.1428571428355438),
        *(0.11111111358713932, 0.09090894718066429, 0.07692785032479312),
        *(0.06657072104827468, 0.06000536404795356, 0.04400369243072337),
        0.08082022805971766,
    ],
}

# log 2 in two parts; n times the first is exact for every exponent n.
_LOG_2 = {
    jnp.dtype("float32"): (0.693359375, -2.12194440e-4),
    jnp.dtype("float64"): (6.93147180369123816490e-01, 1.90821492927058770002e-10),
}

# Terms of e^x for |x| <= log(2) / 2.
_FACTORIALS = {jnp.dtype("float32"): 8, jnp.dtype("float64"): 15}


def _power_of_2(n: Array) -> Array:
    """2^n, exactly, for integers n of a floating-point dtype. Bits are set in float32
    only: TPUs have no other.
    """

    def shifted(bits: Array) -> Array:
        bits = jax.lax.shift_left(bits, jnp.full_like(bits, 23))
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    if n.dtype == jnp.float32:
        # The sum has n + 127 in its last bits: a conversion would test for overflow.
        return shifted(jax.lax.bitcast_convert_type(n + (2**23 + 127), jnp.int32))

    def power(k: Array) -> Array:
        return shifted(k + 127).astype(n.dtype)

    exponent = n.astype(jnp.int32)
    root = power(jax.lax.shift_right_arithmetic(exponent, jnp.full_like(exponent, 4)))
    eighth = jnp.square(jnp.square(jnp.square(root)))
    return eighth * power(exponent & 15) * eighth


class _ExpParts(NamedTuple):
    """e^x = scale + scale * expm1, with scale a power of two; 1 where x is near 0."""

    near: Array
    remainder: Array  # r = x - log(scale)
    scale: Array
    expm1: Array  # e^r - 1
    phi: Array  # e^r - 1 - r


def phi_series(r: Array) -> Array:
    """e^r - 1 - r for r in [-1, 2]."""
    return r * (0.5 * r + (r * r) * polynomial(_EXP_SERIES[r.dtype], r))


def phi_series_holds(x: Array) -> Array:
    """Where `phi_series` holds. Outside, q - p (1 + d) takes over, which multiplies the
    rounding errors of q and p by 1 at -1 and by 2.4 at 2, and by 4 at -0.7.
    """
    return (-1 <= x) & (x <= 2)


def phi_series_is_better(x: Array) -> Array:
    return (_NEAR[0] <= x) & (x <= _NEAR[1])


def _exp_parts(x: Array) -> _ExpParts:
    # Not jnp.exp: its error in float64, 1.7 ULP, is 2.3 in the differences taken here.
    info = jnp.finfo(x.dtype)
    high, low = _LOG_2[x.dtype]
    near = phi_series_is_better(x)
    # Beyond these bounds e^x is 0 or inf already; an infinite n would make r nan.
    bounded = jnp.clip(x, info.minexp * high, (info.maxexp + 1) * high)
    n = jnp.clip(jnp.round(bounded * (1 / high)), info.minexp, info.maxexp - 1)
    n = jnp.where(near, 0, n)
    r = (bounded - n * high) - n * low
    phi_r = phi_series(r)
    return _ExpParts(near, r, _power_of_2(n), r + phi_r, phi_r)


def _expm1_and_error(e: _ExpParts) -> tuple[Array, Array]:
    """e^x - 1 and the error of the last rounding in it: the first part is the larger."""
    large = jnp.where(e.near, e.remainder, e.scale - 1)
    small = jnp.where(e.near, e.phi, e.scale * e.expm1)
    total = large + small
    return total, (large - total) + small


def _reduced_argument(x: Array) -> tuple[Array, Array]:
    """r and 2^n with x = r + n log 2 and |r| <= 0.35, for x within the exponents."""
    high, low = _LOG_2[x.dtype]
    n = jnp.round(x * (1 / high))
    return (x - n * high) - n * low, _power_of_2(n)


def _expm1_of_reduced(r: Array) -> Array:
    """e^r - 1 for |r| <= 0.35."""
    series = [1 / math.factorial(k) for k in range(2, _FACTORIALS[r.dtype])]
    return r + (r * r) * polynomial(series, r)


def exp_of_sum(x: Array, error: Array) -> Array:
    """e^(x + error) to the first order in the error, for x <= 88: nan or inf may be above.
    It has no custom_jvp: it is called only inside functions that define theirs.
    """
    power = jax.lax.platform_dependent(x, cpu=_exp_on_cpu, default=jnp.exp)
    return power + power * error


def _exp_on_cpu(x: Array) -> Array:
    """XLA's own bounds x and the exponent once more each: 20 instructions to these 15."""
    if x.dtype != jnp.float32:
        return jnp.exp(x)
    # From here to there the bits are those of 0 and of inf.
    r, scale = _reduced_argument(clamp_max(clamp_min(x, -88), 89))
    return (1 + _expm1_of_reduced(r)) * scale


def one_minus_exp(x: Array) -> Array:
    """1 - e^-x for x >= 0. It has no custom_jvp either."""
    # The bound keeps 2^n normal; there e^-x is far below an ULP of 1.
    r, scale = _reduced_argument(-clamp_max(x, -jnp.finfo(x.dtype).minexp * 0.69))
    return (1 - scale) - scale * _expm1_of_reduced(r)


@jitted_custom_jvp
def expm1(x: Array) -> Array:
    """e^x - 1. Its derivative is e^x."""
    return _expm1_and_error(_exp_parts(x))[0]


expm1.defjvps(lambda dx, _, x: clamp_finite(jnp.exp(x)) * dx)


def _log1p_of_sum(x: Array, a: Array, b: Array) -> Array:
    """log(1 + x), of which a + b is another form, used where x is not in [-1/2, 1]."""
    near = (-0.5 <= x) & (x <= 1)
    total, error = two_sum(a, b)
    # One division for both forms: s = x / (2 + x), and the error relative to the sum.
    quotient = jnp.where(near, x, error) / jnp.where(near, 2 + x, total)
    square = quotient * quotient
    c = polynomial(_LOG1P_SERIES[x.dtype], square)
    series = x - quotient * (x - 2 * square * c)
    regular = (0 < total) & (total < jnp.inf)
    return jnp.where(near, series, jnp.log(total) + jnp.where(regular, quotient, 0))


@jitted_custom_jvp
def log1p(x: Array) -> Array:
    """log(1 + x) for x >= -1. Its derivative is 1 / (1 + x)."""
    # Written 1 + x, with a literal, XLA would fold what two_sum takes from it.
    return _log1p_of_sum(x, jnp.maximum(x, 1), jnp.minimum(x, 1))


log1p.defjvps(lambda dx, _, x: clamp_finite(reciprocal(1 + x)) * dx)


@jitted_custom_jvp
def phi(x: Array) -> Array:
    """e^x - 1 - x >= 0, without cancellation. Its derivative is expm1(x)."""
    e = _exp_parts(x)
    outside = ((e.scale - 1) - x) + e.scale * e.expm1
    return jnp.where(e.near, e.phi, jnp.where(x == jnp.inf, x, outside))


phi.defjvps(lambda dx, _, x: clamp_finite(expm1(x)) * dx)


@jitted_custom_jvp
def scaled_phi(x: Array) -> Array:
    """min(1, e^-x) phi(x): phi(x) for x <= 0, 1 - e^-x (1 + x) for x > 0, at most 1 there.

    Its derivative is expm1(x) for x <= 0, x e^-x for x > 0.
    """
    decay = jnp.exp(-jnp.abs(x))
    positive = jnp.where(x == jnp.inf, 1, 1 - decay * (1 + x))
    outside = jnp.where(x > 0, positive, decay - (1 + x))
    near = phi_series_is_better(x)
    r = jnp.where(near, x, 0)
    phi_r = phi_series(r)
    # Divided by e^x made of the same parts, whose errors cancel in part.
    inside = phi_r / jnp.where(x > 0, 1 + (r + phi_r), 1)
    return jnp.where(near, inside, outside)


def _scaled_phi_slope(x: Array) -> Array:
    # Each branch with an argument of its own: the slope of the other may be infinite.
    positive = x > 0
    grown = -_decay(0, jnp.where(positive, x, 0))
    return jnp.where(positive, grown, expm1(jnp.where(positive, 0, x)))


scaled_phi.defjvps(lambda dx, _, x: _scaled_phi_slope(x) * dx)


@functools.partial(jitted_custom_jvp, static=(0,))
def _decay(n: int, x: Array) -> Array:
    """(n - x) e^-x for x >= 0. A family closed under derivatives, whose zeros are exact."""
    return jnp.where(x == jnp.inf, 0, (n - x) * jnp.exp(-x))


@_decay.defjvp
def _decay_jvp(n, primals, tangents):
    (x,), (dx,) = primals, tangents
    return _decay(n, x), -_decay(n + 1, x) * dx


def scaled_phi_difference(x: Array, c: float) -> Array:
    """min(1, e^-x) (phi(x) - phi(c x) / c) >= 0, for a number c <= 1/2 other than 0.

    The term of Renyi's divergence. For c < 0 it stops growing at c x = 80.
    """
    if c < 0:
        x = jnp.maximum(x, 80 / c)
    decay = jnp.exp(-jnp.maximum(x, 0))
    # From 160 on the second part is below e^-80; at inf it would be 0 * inf.
    bounded = jnp.clip(x, min(80 / c, 0), 160)
    right = scaled_phi(x) - decay * phi(c * bounded) / c
    if c < 0:
        return right  # a sum
    # The difference of the series, term by term: for c = 1/2 it would triple the error.
    near = phi_series_is_better(x)
    r = jnp.where(near, x, 0)
    terms = [a * (1 - c ** (k + 2)) for k, a in enumerate(_EXP_SERIES[x.dtype])]
    series = r * (0.5 * (1 - c) * r + (r * r) * polynomial(terms, r))
    # Far out the linear parts are infinite, and cancel.
    below = jnp.minimum(x, 0)
    middle = jnp.maximum(below, -8)
    left = jnp.where(
        x < -8, expm1(below) - expm1(c * below) / c, phi(middle) - phi(c * middle) / c
    )
    return jnp.where(near, decay * series, jnp.where(x > 0, right, left))


# --- e^x in two words ---------------------------------------------------------------

# x is taken to within log(2) / 32 of a multiple of log(2) / 16. That number in parts: their
# products with the multiple, of 11 and 14 bits, are exact.
_PARTS = {jnp.dtype("float32"): 12, jnp.dtype("float64"): 38}  # bits of the first two
_STEPS = 16


@functools.cache
def _step_parts(bits: int) -> tuple[float, ...]:
    """log(2) / 16 as three numbers, the first two of so many bits."""
    with decimal.localcontext(prec=80):
        rest, parts = decimal.Decimal(2).ln() / _STEPS, []
        for _ in range(2):
            unit = decimal.Decimal(2) ** (math.frexp(rest)[1] - bits)
            parts.append(float((rest / unit).to_integral_value() * unit))
            rest -= decimal.Decimal(parts[-1])
        return (*parts, float(rest))


@functools.cache
def _roots_of_2(dtype: str) -> tuple[list[float], list[float]]:
    """2^(j/16) rounded to that dtype, and what the rounding lost."""
    round_to = (
        float if dtype == "float64" else lambda x: float(jnp.finfo(dtype).dtype.type(x))
    )
    with decimal.localcontext(prec=80):
        exact = [decimal.Decimal(2) ** (decimal.Decimal(j) / _STEPS) for j in range(_STEPS)]
        high = [round_to(x) for x in exact]
        return high, [
            float(x - decimal.Decimal(h)) for x, h in zip(exact, high, strict=True)
        ]


def exp_in_two_words(x: Array) -> tuple[Array, Array]:
    """e^x for x <= 1, to 2^-40 of itself in float32 and 2^-66 in float64, where the second
    word does not underflow: above -60 and -650. It has no custom_jvp.
    """
    name = x.dtype.name
    first, second, third = _step_parts(_PARTS[x.dtype])
    bounded = jnp.maximum(x, jnp.finfo(x.dtype).minexp * 0.69)
    multiple = jnp.round(bounded * (1 / (first + second)))
    # The difference of the first is exact, too: it is of neighbours.
    r, error = two_sum(bounded - multiple * first, -(multiple * second))
    r, error = two_sum(r, error - multiple * third)
    # e^r - 1 = r + r^2 / 2 + r^3 c(r), of which the third is below 2e-6.
    square, square_error = two_prod(r, r)
    rest = (r * r) * r * polynomial([1 / math.factorial(k) for k in range(3, 9)], r)
    high, low = two_sum(r, square / 2)
    low = low + (error + (square_error / 2 + r * error) + rest)
    exponent = jnp.floor(multiple / _STEPS)
    index = (multiple - exponent * _STEPS).astype(jnp.int32)
    root, root_error = (jnp.asarray(c, x.dtype)[index] for c in _roots_of_2(name))
    # root (1 + high + low), of which root * high is below a 46th.
    product, product_error = two_prod(root, high)
    value, value_error = two_sum(root, product)
    value_error = value_error + (product_error + root_error * (1 + high) + root * low)
    scale = jnp.where(bounded == x, _power_of_2(exponent), 0)
    return value * scale, value_error * scale


# --- log(w + (1 - w) e^x) -----------------------------------------------------------


@functools.partial(jitted_custom_jvp, static=(1,))
def log_mixture(x: Array, weight: float) -> Array:
    """log(weight + (1 - weight) e^x), for 0 <= weight <= 1, of full relative accuracy.

    Its derivative is the share of the second part, (1 - weight) e^x of the whole.
    """
    info = jnp.finfo(x.dtype)
    if weight == 0:
        return x
    if weight == 1:
        return jnp.where(jnp.isnan(x), x, 0)
    if weight < float(info.tiny) / float(info.eps):
        # e^x underflows where it matters: log(e^a + e^x), which is x until next to a.
        a = math.log(weight)
        below = jnp.maximum(x, a) + log1p(jnp.exp(-jnp.abs(x - a)))
        return jnp.where(x > a / 2, x, below)
    # 1 - weight in two parts: its rounding alone would cost 0.5 ULP.
    other = 1 - weight
    high = float(x.dtype.type(other))
    low = (other - high) + ((1 - other) - weight)
    # Beyond 80 the value grows as x does, to any precision.
    bounded = jnp.where(x > 80, 80, x)
    e = _exp_parts(bounded)
    growth, growth_error = _expm1_and_error(e)
    change = high * growth + (high * growth_error + low * growth)
    # Below 1/2 the sum of two positive numbers: 1 + change has lost the weight.
    below = change < -0.5
    a = jnp.where(below, weight, 1)
    b = jnp.where(below, high * (e.scale + e.scale * e.expm1), change)
    return _log1p_of_sum(change, a, b) + jnp.where(x > 80, x - 80, 0)


@log_mixture.defjvp
def _log_mixture_jvp(weight, primals, tangents):
    (x,), (dx,) = primals, tangents
    return log_mixture(x, weight), _weighted_sigmoid((weight, 1 - weight), x) * dx


@functools.partial(jitted_custom_jvp, static=(0,))
def _weighted_sigmoid(weights: tuple[float, float], x: Array) -> Array:
    """w e^x / (v + w e^x) of weights (v, w). What is left of 1 is the share of -x with
    the weights exchanged, so that neither cancels.
    """
    v, w = weights
    if v == 0 or w == 0:
        return jnp.full_like(x, float(v == 0))
    info = jnp.finfo(x.dtype)
    if min(weights) < float(info.tiny) / float(info.eps):
        x, v, w = x + (math.log(w) - math.log(v)), 1, 1
    decay = jnp.exp(-jnp.abs(x))
    part = w * jnp.where(x > 0, 1, decay)
    return part / (part + v * jnp.where(x > 0, decay, 1))


@_weighted_sigmoid.defjvp
def _weighted_sigmoid_jvp(weights, primals, tangents):
    (x,), (dx,) = primals, tangents
    value = _weighted_sigmoid(weights, x)
    return value, value * _weighted_sigmoid(weights[::-1], -x) * dx
