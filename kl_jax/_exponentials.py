"""e^x, e^x - 1, log(1 + x), e^x - 1 - x and the logarithms of shares in a mixture.

Of full relative accuracy, and with derivative rules written in functions of this file, so
that derivatives of any order are accurate too. The parts of e^x are used together where the
library's functions would be called apart: their errors cancel, and XLA's own are larger.
"""

from __future__ import annotations

import decimal
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kl_jax._arithmetic import (
    clamp_finite,
    clamp_max,
    clamp_min,
    divide,
    jitted_custom_jvp,
    nan_where,
    polynomial,
    reciprocal,
    tangent,
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

# (1 - e^-x - x) / x^2 on [0, 1], likewise: 1 - e^-x errs by 3e-8.
_DECAY_SERIES = [
    *(-0.5, 0.16666603, -0.041659255, 0.008301171, -0.001324818, 0.00013742418),
]

# (log(1 + x) - x + x^2/2) / x^3 for 1 + x in [sqrt(1/2), sqrt(2)], likewise: the logarithm
# errs by 5e-9.
_LOG_SERIES = [
    *(0.33333331, -0.24999997, 0.20000716, -0.16667803, 0.14249058),
    *(-0.12425687, 0.1168542, -0.11479734, 0.069716118),
]

# c(t) = 1/3 + t/5 + t^2/7 + ... on [0, 1/9], likewise. With s = x / (2 + x) it serves
# log(1 + x) = 2 s + 2 s^3 c(s^2), of which the second term errs by 7e-18.
_ATANH_SERIES = [
    *(0.3333333333333333, 0.20000000000007292, 0.1428571428355438),
    *(0.11111111358713932, 0.09090894718066429, 0.07692785032479312),
    *(0.06657072104827468, 0.06000536404795356, 0.04400369243072337),
    0.08082022805971766,
]

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


def phi_quotient_series(r: Array) -> Array:
    """(e^r - 1 - r) / r^2 likewise."""
    return 0.5 + r * polynomial(_EXP_SERIES[r.dtype], r)


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
    # Beyond these bounds e^x is 0 or inf already; an infinite n would make r nan, and 2^n
    # of an n outside the normal numbers other bits.
    bounded = jnp.clip(x, info.minexp * high, (info.maxexp + 1) * high)
    n = jnp.clip(jnp.round(bounded * (1 / high)), info.minexp, info.maxexp - 1)
    n = jnp.where(near, 0, n)
    r = (bounded - n * high) - n * low
    phi_r = phi_series(r)
    return _ExpParts(near, r, _power_of_2(n), r + phi_r, phi_r)


def _reduced_argument(x: Array) -> tuple[Array, Array]:
    """r and n with x = r + n log 2 and |r| <= 0.35, for x within the exponents."""
    high, low = _LOG_2[x.dtype]
    n = jnp.round(x * (1 / high))
    return (x - n * high) - n * low, n


def _expm1_of_reduced(r: Array) -> Array:
    """e^r - 1 for |r| <= 0.35."""
    series = [1 / math.factorial(k) for k in range(2, _FACTORIALS[r.dtype])]
    return r + (r * r) * polynomial(series, r)


def exp_of_sum(x: Array, error: Array) -> Array:
    """e^(x + error) to the first order in the error, for x <= 88: nan or inf may be above.
    It has no custom_jvp: it is called only inside functions that define theirs.
    """
    power = jax.lax.platform_dependent(x, cpu=exp_on_cpu, default=jnp.exp)
    return power + power * error


def power_of(x: Array, error: Array, exact: bool = False) -> Array:
    """e^(x + error), where differences of logits are `exact` and where they are not."""
    if not exact:
        return exp_of_sum(x, error)
    # p's lose nothing, but those far below the mode, and q's half an ULP of x: no more than
    # the e^x of TPUs does, a product and 2^x.
    return jax.lax.platform_dependent(
        *(x, error), tpu=lambda x, _: jnp.exp(x), default=exp_of_sum
    )


def exp_on_cpu(x: Array) -> Array:
    """XLA's own bounds x and the exponent once more each: 20 instructions to these 15."""
    if x.dtype != jnp.float32:
        return jnp.exp(x)
    # From here to there the bits are those of 0 and of inf.
    r, n = _reduced_argument(clamp_max(clamp_min(x, -88), 89))
    return (1 + _expm1_of_reduced(r)) * _power_of_2(n)


class Powers(NamedTuple):
    """Of x >= 0, each of full relative accuracy."""

    less: Array  # 1 - e^-x
    ratio: Array  # e^-x
    growth: Array  # e^x - 1; that of the largest x at which e^-x is normal for all beyond


def powers_of(x: Array) -> Powers:
    """It has no custom_jvp either."""
    if x.dtype != jnp.float32:
        return _powers_by_parts(x)
    return jax.lax.platform_dependent(x, cpu=_powers_by_parts, default=_powers_by_power)


def _powers_by_parts(x: Array) -> Powers:
    bound = _bound(x.dtype)
    r, n = _reduced_argument(-clamp_max(x, bound))
    scale, inverse = _power_of_2(n), _power_of_2(-n)
    change = scale * _expm1_of_reduced(r)
    ratio = jnp.where(x > bound, 0, scale + change)
    growth = (inverse - 1) + inverse * _expm1_of_reduced(-r)
    return Powers((1 - scale) - change, ratio, growth)


def _powers_by_power(x: Array) -> Powers:
    """Accelerators have an exponential: a TPU takes a third of a bundle for 1024 of them,
    and 7 for the parts that 1 - e^-x needs without. From 1 on that is a difference, which
    multiplies the error of e^-x by 0.6 at most. Compiled, not run.
    """
    ratio = jnp.exp(-x)
    near = x + (x * x) * polynomial(_DECAY_SERIES, x)
    less = jnp.where(x <= 1, near, 1 - ratio)
    return Powers(less, ratio, less * jnp.exp(clamp_max(x, _bound(x.dtype))))


@jitted_custom_jvp
def expm1(x: Array) -> Array:
    """e^x - 1. Its derivative is e^x."""
    e = _exp_parts(x)
    return jnp.where(e.near, e.remainder + e.phi, (e.scale - 1) + e.scale * e.expm1)


expm1.defjvps(lambda dx, _, x: clamp_finite(jnp.exp(x)) * dx)


def log_of_sum(a: Array, b: Array) -> Array:
    """log(a + b) of a sum >= 0, of full relative accuracy also where that is nearly 1.
    Neither may be a literal: XLA would fold what two_sum takes from it.
    """
    total, error = two_sum(a, b)
    if total.dtype == jnp.float32:
        # Without a division or a logarithm of XLA's, at which its fusions for CPUs end.
        value = _log_of_float32(total, error)
    else:
        x = (total - 1) + error
        near = (-0.5 <= x) & (x <= 1)
        # One division for both forms: s = x / (2 + x), and the error relative to the sum.
        quotient = jnp.where(near, x, error) / jnp.where(near, 2 + x, total)
        square = quotient * quotient
        series = x - quotient * (x - 2 * square * polynomial(_ATANH_SERIES, square))
        value = jnp.where(near, series, jnp.log(total) + quotient)
    regular = (0 < total) & (total < jnp.inf)
    return jnp.where(regular, value, jnp.where(total == 0, -jnp.inf, total))


def _log_of_float32(total: Array, error: Array) -> Array:
    """log(total + error), with n log 2 and the series of what is left of total."""
    bits = jax.lax.bitcast_convert_type(total, jnp.int32)
    shift = jnp.full_like(bits, 23)
    n = jax.lax.shift_right_arithmetic(bits - 0x3F3504F3, shift)  # those of sqrt(1/2)
    power = jax.lax.shift_left(n, shift)
    part = jax.lax.bitcast_convert_type(bits - power, jnp.float32)
    scale = jax.lax.bitcast_convert_type(0x3F800000 - power, jnp.float32)  # 2^-n
    x = (part - 1) + error * scale
    high, low = _LOG_2[total.dtype]
    n = n.astype(jnp.float32)
    square = x * x
    rest = square * (x * polynomial(_LOG_SERIES, x) - 0.5)
    return (x + (rest + n * low)) + n * high


@jitted_custom_jvp
def log1p(x: Array) -> Array:
    """log(1 + x) for x >= -1. Its derivative is 1 / (1 + x)."""
    return nan_where(x < -1, log_of_sum(jnp.maximum(x, 1), jnp.minimum(x, 1)))


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


def expm1_quotient(x: Array) -> Array:
    """(e^x - 1) / x for x <= 0, and its derivatives, at 0 too."""
    near = phi_series_is_better(x)
    r = jnp.where(near, x, 0)
    series = 1 + r * phi_quotient_series(r)
    return jnp.where(near, series, expm1(x) / jnp.where(near, 1, x))


def scaled_phi_quotient(x: Array) -> Array:
    """min(1, e^-x) phi(x) / x^2, and its derivatives, at 0 too."""
    near = phi_series_is_better(x)
    r, size = jnp.where(near, x, 0), jnp.where(near, 1, x)
    decay = jnp.exp(-jnp.where(r > 0, r, 0))
    return jnp.where(near, decay * phi_quotient_series(r), scaled_phi(x) / size / size)


def scaled_phi_difference(x: Array, c: float | Array) -> Array:
    """min(1, e^-x) (phi(x) - phi(c x) / c) >= 0, for a number c <= 1/2 other than 0.

    The term of Renyi's divergence. For c < 0 it stops growing at c x = 80.
    """
    falling = c < 0
    least = 80 / jnp.where(falling, c, -1)
    x = jnp.where(falling, jnp.maximum(x, least), x)
    decay = jnp.exp(-jnp.maximum(x, 0))
    # From 160 on the second part is below e^-80; at inf it would be 0 * inf.
    bounded = jnp.clip(x, jnp.where(falling, least, 0), 160)
    right = scaled_phi(x) - decay * phi(c * bounded) / c
    # The difference of the series, term by term: for c = 1/2 it would triple the error.
    near = ~falling & phi_series_is_better(x)
    r = jnp.where(near, x, 0)
    terms = [a * (1 - c ** (k + 2)) for k, a in enumerate(_EXP_SERIES[x.dtype])]
    series = r * (0.5 * (1 - c) * r + (r * r) * polynomial(terms, r))
    # Far out the linear parts are infinite, and cancel.
    below = jnp.minimum(x, 0)
    middle = jnp.maximum(below, -8)
    left = jnp.where(
        x < -8, expm1(below) - expm1(c * below) / c, phi(middle) - phi(c * middle) / c
    )
    # For c < 0 it is a sum.
    outside = jnp.where(falling | (x > 0), right, left)
    return jnp.where(near, decay * series, outside)


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


# --- mixtures -----------------------------------------------------------------------


@jitted_custom_jvp
def log_shares(r: Array, weight: Array, rest: Array) -> tuple[Array, Array]:
    """log(p / m) and log(q / m) of r = log(q / p) and m = weight p + rest q, each of full
    relative accuracy. Where p or q is 0, the largest number stands for infinity. `rest` is
    1 - weight, which for 0.9 in float32 would err by 4 ULP, and changes as that does.

    With w <= 1/2 the weight of p, or else of q, log(m / q) = log(1 + w (e^-r - 1)) loses
    nothing while w (e^-r - 1) <= 1, and log(m / p) = log(w + (1 - w) e^r) nothing beyond;
    the other is r more or less, of which at most half cancels.
    """
    powers = powers_of(jnp.abs(r))  # as `outcome_terms` has them: XLA makes them once
    swap = weight > 0.5
    w, r = jnp.where(swap, rest, weight), clamp_finite(jnp.where(swap, -r, r))
    x = w * jnp.where(r > 0, -powers.less, powers.growth)
    far = x > 1
    log_m = log_of_sum(jnp.where(far, w, 1), jnp.where(far, (1 - w) * powers.ratio, x))
    log_p = -log_m - jnp.where(far, 0, r)
    log_q = -log_m + jnp.where(far, r, 0)
    return jnp.where(swap, log_q, log_p), jnp.where(swap, log_p, log_q)


def _log_shares_jvp(primals, tangents):
    r, weight, rest = primals
    log_p, log_q = log_shares(r, weight, rest)
    of_p, of_q = share(-r, rest, weight), share(r, weight, rest)
    # (q - p) / m, by the share that cancels nothing.
    low = weight <= 0.5
    change = expm1(jnp.where(low, log_p, log_q)) / jnp.where(low, -rest, weight)
    dr, dweight, _ = tangents
    return (log_p, log_q), (
        tangent(log_p, (-of_q, dr), (change, dweight)),
        tangent(log_q, (of_p, dr), (change, dweight)),
    )


log_shares.defjvp(_log_shares_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def share(r: Array, v: Array, w: Array) -> Array:
    """w e^r / (v + w e^r) of weights that sum to 1, and change together."""
    ratio, above = powers_of(jnp.abs(r)).ratio, r > 0
    part = divide(jnp.where(above, w, w * ratio), _whole(ratio, above, v, w))
    return jnp.where(v == 0, 1, part)  # also where both are 0


def _bound(dtype: Any) -> float:
    """87 or 700: up to there e^-x is normal. Beyond it is far below an ULP of 1, and of a
    weight of 1e-30.
    """
    return -float(jnp.finfo(dtype).minexp) * 0.69


def _decay_of(r: Array) -> tuple[Array, Array]:
    """e^-|r|, whose derivative at 0 is that of e^r."""
    above = r > 0
    return jnp.exp(jnp.where(above, -r, r)), above


def _whole(ratio: Array, above: Array, v: Array, w: Array) -> Array:
    whole = jnp.where(above, w + v * ratio, v + w * ratio)
    return jnp.where(whole == 0, 1, whole)


@share.defjvp
def _share_jvp(primals, tangents):
    r, v, w = primals
    dr, dv, _ = tangents
    part, rest = share(r, v, w), share(-r, w, v)  # neither is 1 minus the other
    ratio, above = _decay_of(r)
    whole = _whole(ratio, above, v, w)
    return part, part * rest * dr - divide(divide(ratio, whole), whole) * dv
