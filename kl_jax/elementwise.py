r"""Functions of scalars: the terms that divergences are sums of.

No axes here and no reductions. Every function has its own derivative rule, and
each rule is written in functions of this file, so that derivatives of any order
stay accurate and finite. Half precision is computed in float32.

Near p = q the textbook formulas subtract two nearly equal logarithms. The
cure is the substitution s = (p - q) / (p + q), for which

    log(p / q)              = 2 atanh(s)  =  2 (s + s^3 c(s^2)),
    p log(p / q) - p + q    = s (p - q) + 2 p s^3 c(s^2),

with c(t) = 1/3 + t/5 + t^2/7 + ...: nothing cancels, because p - q is the only
difference taken and its rounding error is known and put back. The second line
is the deviance term of C. Loader, "Fast and accurate computation of binomial
probabilities" (2000), and the Bregman divergence of x log x.

`rel_entr` and `generalized_kl` are public. The others are for the modules
above: arrays of one shape and dtype in, unchecked.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from kl_jax import contracts, values
from kl_jax.two_words import two_sum

__all__ = ["generalized_kl", "rel_entr"]

# p and q are close when their ratio is below 4, that is |s| <= 0.6. At a ratio of
# 3 the logarithm that takes over costs generalized_kl 5.0 ULP, at 4 it costs 3.5.
_CLOSE = 4

# Terms of c. The first one left out, 0.36^n / (2n + 3), is below 8e-10 and 1e-17.
_TERMS = {jnp.dtype("float32"): 17, jnp.dtype("float64"): 34}

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
# phi takes it on less: below -0.7, x^2/2 has coarser steps than phi.
_NEAR = (-0.7, 1.4)

# c on [0, 1/9], for log1p, likewise: 2 s^3 c errs by 4e-10 and 7e-18 of log(1 + x).
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

Result = TypeVar("Result")


def with_own_rule(
    fun: Callable[..., Result], static: tuple[int, ...] = ()
) -> jax.custom_jvp[Result]:
    """`fun`, for `defjvp` to complete, compiled as a whole also outside `jit`: executed
    one operation at a time, a first call would compile fifty small programs.
    """
    return jax.custom_jvp(jax.jit(fun, static_argnums=static), nondiff_argnums=static)


def polynomial(coefficients: list[float], x: Array) -> Array:
    total = jnp.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + jnp.asarray(c, x.dtype)
    return total


def at_least(bound: ArrayLike, x: Array) -> Array:
    """One instruction of a CPU, where jnp.maximum takes four; nan in x stays."""
    return jnp.where(x < bound, bound, x)


def at_most(bound: ArrayLike, x: Array) -> Array:
    return jnp.where(x > bound, bound, x)


def tangent(like: Array, *terms: tuple[Array, Array | SymbolicZero]) -> Array:
    """Sum of slope * tangent, shaped as `like` and in its dtype. An argument held constant
    takes no part: its slope may be infinite, and 0 * inf is nan.
    """
    total = jnp.zeros_like(like)
    for slope, t in terms:
        if not isinstance(t, SymbolicZero):
            total = total + slope * t.astype(like.dtype)
    return total


@with_own_rule
def over(x: Array, y: Array) -> Array:
    """x / y. JAX's own rule divides by y^2, which is 0 for y = 1e-23 and inf for 1e20."""
    return x / y


def _over_jvp(primals, tangents):
    x, y = primals
    dx, dy = tangents
    value = over(x, y)
    # In this order: value / y may be inf where dy is 0.
    change = tangent(value, (jnp.ones_like(value), dx), (-value, dy))
    return value, change * reciprocal(y)


over.defjvp(_over_jvp, symbolic_zeros=True)


def reciprocal(y: Array) -> Array:
    return over(jnp.ones_like(y), y)


def _denominator(p: Array, q: Array) -> Array:
    """q, but inf where p = q = 0: x / inf is 0 together with all its derivatives."""
    return jnp.where((p == 0) & (q == 0), jnp.inf, q)


# --- log(p / q) ---------------------------------------------------------------

# Where p and q are rounded and p - q is known better, as for 1 - p and 1 - q, the third
# argument is p - q. It is no variable of its own: the derivatives are those in p and q.


def atanh_series(t: Array) -> Array:
    """c(t) = 1/3 + t/5 + t^2/7 + ..., for t <= 0.36."""
    return polynomial([1 / (2 * k + 3) for k in range(_TERMS[t.dtype])], t)


def is_close(p: Array, q: Array) -> Array:
    return (p < _CLOSE * q) & (q < _CLOSE * p)


class _Close(NamedTuple):
    """The parts of the close forms, of p and q scaled by a power of two.

    The scale moves p and q away from both ends of the range: p + q would overflow at
    3e38, and p - q is flushed to 0 next to the smallest normal number; so is the square of
    a p - q that was given, in units of p = 1.
    """

    scale: Array
    p: Array
    difference: Array  # p - q rounded, and its rounding error
    difference_error: Array
    total: Array  # p + q rounded, and its rounding error
    total_error: Array
    s: Array  # difference / total
    c: Array  # c(s^2)


def _close_parts(p: Array, q: Array, difference: Array | None = None) -> _Close:
    scale = jnp.where(
        p < 2.0**30, jnp.asarray(2.0**60, p.dtype), jnp.asarray(2.0**-60, p.dtype)
    )
    p, q = p * scale, q * scale
    if difference is None:
        change = two_sum(p, -q)
    else:
        change = difference * scale, jnp.zeros_like(p)
    total = two_sum(p, q)
    s = change[0] / total[0]
    return _Close(scale, p, *change, *total, s, atanh_series(s * s))


def _log_quotient(p: Array, q: Array) -> Array:
    """log(p / q) where the quotient may leave the range of normal numbers."""
    quotient = p / q
    normal = (quotient >= jnp.finfo(p.dtype).tiny) & (quotient < jnp.inf)
    return jnp.where(normal, jnp.log(quotient), jnp.log(p) - jnp.log(q))


@with_own_rule
def log_ratio(p: Array, q: Array, difference: Array | None = None) -> Array:
    """log(p / q) for p, q >= 0; by convention 0 at p = 0.

    The derivative of `generalized_kl` in p, and of `rel_entr` less 1.
    """
    x = _close_parts(p, q, difference)
    s_error = (x.difference_error - x.s * x.total_error) / x.total
    close = 2 * (x.s + (x.s * x.s * x.s * x.c + s_error))
    value = jnp.where(is_close(p, q), close, _log_quotient(p, q))
    return jnp.where(p == 0, 0, value)


def _log_ratio_jvp(primals, tangents):
    p, q, difference = primals
    dp, dq, _ = tangents
    value = log_ratio(p, q, difference)
    slope_p = reciprocal(_denominator(p, p))
    slope_q = -reciprocal(_denominator(p, q))
    return value, tangent(value, (slope_p, dp), (slope_q, dq))


log_ratio.defjvp(_log_ratio_jvp, symbolic_zeros=True)


# --- the two public terms -----------------------------------------------------


def _of_measures(p: Array, q: Array, value: Array) -> Array:
    """SciPy's convention outside the domain: inf for a negative argument, nan for nan."""
    value = jnp.where((p < 0) | (q < 0), jnp.inf, value)
    return jnp.where(jnp.isnan(p) | jnp.isnan(q), jnp.nan, value)


def rel_entr(p: ArrayLike, q: ArrayLike) -> Array:
    r"""Relative entropy term p log(p / q), elementwise, in nats.

    Summed over outcomes it is KL(p || q); `kl_divergence_from_probs` does that.
    A single term may be negative; `generalized_kl` is the one that is not.

    Args:
      p: Probabilities or other non-negative masses.
      q: The same for q, of the same shape.

    Returns:
      The shape of `p`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ.
      TypeError: If an argument is not a floating-point array.

    Boundary: 0 where p = 0 <= q, inf where q = 0 < p, inf for a negative argument
      (as SciPy), nan for nan and where both are inf.
    Gradient: log(p / q) + 1 in p, -p / q in q; 0 in p at p = 0 (the limit is -inf), so
      that a softmax which underflows gets its true gradient 0, and 0 in both at p = q = 0.
      Where q = 0 < p they are the limits, inf and -inf. Meaningless for negative arguments.
    Error: at most 4 ULP (benchmarks/accuracy.py: 2.6 in float32, 2.5 in float64), for
      results above the smallest normal number.

    >>> import jax.numpy as jnp
    >>> rel_entr(jnp.array([0.5, 0.0, 1.0]), jnp.array([0.25, 0.5, 0.0])).round(4)
    Array([0.3466, 0.    ,    inf], dtype=float32)

    Source: Kullback and Leibler (1951), `scipy.special.rel_entr`.
    """
    p, q = contracts.floats("rel_entr", p=p, q=q)
    contracts.equal_shapes("rel_entr", p=p, q=q)
    values.non_negative("rel_entr", "p", p)
    values.non_negative("rel_entr", "q", q)
    return _rel_entr(p, q)


@with_own_rule
def _rel_entr(p: Array, q: Array) -> Array:
    return _of_measures(p, q, jnp.where(p == 0, 0, p * log_ratio(p, q)))


def _rel_entr_jvp(primals, tangents):
    p, q = primals
    dp, dq = tangents
    value = _rel_entr(p, q)
    slope_p = log_ratio(p, q) + jnp.where(p == 0, 0, jnp.ones_like(p))
    slope_q = -over(p, _denominator(p, q))
    return value, tangent(value, (slope_p, dp), (slope_q, dq))


_rel_entr.defjvp(_rel_entr_jvp, symbolic_zeros=True)


def generalized_kl(p: ArrayLike, q: ArrayLike) -> Array:
    r"""Generalised KL term p log(p / q) - p + q >= 0, elementwise, in nats.

    The Bregman divergence of x log x: never negative, and 0 exactly where p = q.
    Summed over outcomes of two distributions it equals KL(p || q), and keeps its
    digits when they nearly agree, where a sum of `rel_entr` terms cancels.

    Args:
      p: Probabilities or other non-negative masses.
      q: The same for q, of the same shape.

    Returns:
      The shape of `p`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ.
      TypeError: If an argument is not a floating-point array.

    Boundary: q where p = 0, inf where q = 0 < p, inf for a negative argument (as
      SciPy), inf where just one is inf, nan for nan and where both are inf.
    Gradient: log(p / q) in p, 1 - p / q in q; 0 in p at p = 0 (the limit is -inf), so
      that a softmax which underflows gets its true gradient 0, and 0 in both at p = q = 0.
      Where q = 0 < p they are the limits, inf and -inf. Meaningless for negative arguments.
    Error: at most 4.5 ULP (benchmarks/accuracy.py: 2.9 in both precisions), for results
      above the smallest normal number.

    >>> import jax.numpy as jnp
    >>> generalized_kl(jnp.array([0.5, 0.0, 0.3]), jnp.array([0.25, 0.5, 0.3])).round(4)
    Array([0.0966, 0.5   , 0.    ], dtype=float32)

    Source: Loader (2000), the deviance term; `scipy.special.kl_div`.
    """
    p, q = contracts.floats("generalized_kl", p=p, q=q)
    contracts.equal_shapes("generalized_kl", p=p, q=q)
    values.non_negative("generalized_kl", "p", p)
    values.non_negative("generalized_kl", "q", q)
    return generalized_kl_term(p, q)


@with_own_rule
def generalized_kl_term(p: Array, q: Array, difference: Array | None = None) -> Array:
    """p log(p / q) - p + q, unchecked."""
    x = _close_parts(p, q, difference)
    # difference^2 / total to first order in the rounding errors of both, and the series.
    corrections = 2 * x.difference_error - x.s * x.total_error
    close = x.s * x.difference + x.s * (2 * x.p * (x.s * x.s) * x.c + corrections)
    # p (log(p / q) - 1) does not overflow unless the result does, as p log(p / q) would.
    far = p * (_log_quotient(p, q) - 1) + q
    value = jnp.where(is_close(p, q), close / x.scale, far)
    value = jnp.where((p == 0) | ((q == jnp.inf) & (p < jnp.inf)), q, value)
    return _of_measures(p, q, value)


def _generalized_kl_jvp(primals, tangents):
    p, q, difference = primals
    dp, dq, _ = tangents
    value = generalized_kl_term(p, q, difference)
    slopes = log_ratio(p, q, difference), excess(p, q, difference)
    return value, tangent(value, (slopes[0], dp), (slopes[1], dq))


generalized_kl_term.defjvp(_generalized_kl_jvp, symbolic_zeros=True)


@with_own_rule
def excess(p: Array, q: Array, difference: Array | None = None) -> Array:
    """(q - p) / q, 0 at p = q = 0. Its slope p / q^2 would cancel in 1/q - (q - p)/q^2."""
    x = _close_parts(
        p, q, difference
    )  # q - p is flushed to 0 next to the smallest normal number
    far = over(q - p, _denominator(p, q))
    return jnp.where(is_close(p, q), -x.difference / (q * x.scale), far)


def _excess_jvp(primals, tangents):
    p, q, difference = primals
    dp, dq, _ = tangents
    value = excess(p, q, difference)
    y = _denominator(p, q)
    inverse = reciprocal(y)
    # A product: XLA turns (p / y) / y into p / (y y), which is p / 0 at y = 1e-23.
    return value, tangent(value, (-inverse, dp), (over(p, y) * inverse, dq))


excess.defjvp(_excess_jvp, symbolic_zeros=True)


@with_own_rule
def itakura_saito(p: Array, q: Array, difference: Array | None = None) -> Array:
    """p / q - 1 - log(p / q) >= 0 for p, q > 0: the Bregman divergence of -log x.

    With s as above it is s (p - q) / q - 2 s^3 c(s^2). Derivatives: 1/q - 1/p in p,
    (q - p) / q^2 in q.
    """
    x = _close_parts(p, q, difference)
    # s (p - q) / q to first order in the rounding errors of p - q and p + q.
    corrected = x.difference + 2 * x.difference_error - x.s * x.total_error
    close = x.s * (corrected / (q * x.scale)) - 2 * (x.s * (x.s * x.s)) * x.c
    far = (p / q - 1) - _log_quotient(p, q)
    return jnp.where(is_close(p, q), close, far)


def _itakura_saito_jvp(primals, tangents):
    p, q, difference = primals
    dp, dq, _ = tangents
    value = itakura_saito(p, q, difference)
    change = excess(p, q, difference)
    return value, tangent(value, (-over(change, p), dp), (over(change, q), dq))


itakura_saito.defjvp(_itakura_saito_jvp, symbolic_zeros=True)


# --- the same term from logarithms: what torch_compat is made of ---------------


@with_own_rule
def _log_excess(p: Array, log_q: Array) -> Array:
    """log p - log_q; by convention 0 at p = 0."""
    return jnp.where(p == 0, 0, jnp.log(p) - log_q)


def _log_excess_jvp(primals, tangents):
    p, log_q = primals
    dp, dlog_q = tangents
    value = _log_excess(p, log_q)
    slope_p = reciprocal(_denominator(p, p))
    slope_q = -jnp.ones_like(p)
    return value, tangent(value, (slope_p, dp), (slope_q, dlog_q))


_log_excess.defjvp(_log_excess_jvp, symbolic_zeros=True)


@with_own_rule
def rel_entr_of_log_q(p: Array, log_q: Array) -> Array:
    """p (log p - log_q): 0 at p = 0 whatever log_q, nan for p < 0 and for nan.

    exp(log_q) is never formed: it underflows long before the term does. Derivatives:
    log p - log_q + 1 in p, 0 at p = 0; -p in log_q.
    """
    value = jnp.where(p == 0, 0, p * _log_excess(p, log_q))
    return jnp.where(jnp.isnan(log_q), jnp.nan, value)


def _rel_entr_of_log_q_jvp(primals, tangents):
    p, log_q = primals
    dp, dlog_q = tangents
    value = rel_entr_of_log_q(p, log_q)
    slope_p = _log_excess(p, log_q) + jnp.where(p == 0, 0, jnp.ones_like(p))
    return value, tangent(value, (slope_p, dp), (-p, dlog_q))


rel_entr_of_log_q.defjvp(_rel_entr_of_log_q_jvp, symbolic_zeros=True)


@with_own_rule
def rel_entr_of_logs(log_p: Array, log_q: Array) -> Array:
    """e^log_p (log_p - log_q): 0 at log_p = -inf whatever log_q, nan for nan.

    Derivatives: the term plus e^log_p in log_p, -e^log_p in log_q.
    """
    difference = log_p - log_q
    # For log_q = -+inf the term is +-inf however small e^log_p is, also where that
    # underflows and the product would be nan.
    value = jnp.where(jnp.isinf(log_q), difference, jnp.exp(log_p) * difference)
    value = jnp.where(log_p == -jnp.inf, 0, value)
    return jnp.where(jnp.isnan(log_q), jnp.nan, value)


def _rel_entr_of_logs_jvp(primals, tangents):
    log_p, log_q = primals
    dlog_p, dlog_q = tangents
    value = rel_entr_of_logs(log_p, log_q)
    p = jnp.exp(log_p)
    return value, tangent(value, (value + p, dlog_p), (-p, dlog_q))


rel_entr_of_logs.defjvp(_rel_entr_of_logs_jvp, symbolic_zeros=True)


# --- e^x - 1, log(1 + x), e^x - 1 - x --------------------------------------------


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


class _Exp(NamedTuple):
    """e^x = scale + scale * less, with scale a power of two; 1 where x is near 0."""

    near: Array
    remainder: Array  # r: x less log(scale)
    scale: Array
    less: Array  # e^r - 1
    excess: Array  # e^r - 1 - r


def exp_series(r: Array) -> Array:
    """e^r - 1 - r for r in [-1, 2]."""
    return r * (0.5 * r + (r * r) * polynomial(_EXP_SERIES[r.dtype], r))


def in_series(x: Array) -> Array:
    """Where `exp_series` holds. At its ends q - p (1 + d) amplifies the errors of q and p
    by 1 and 2.4, at -0.7 by 4.
    """
    return (-1 <= x) & (x <= 2)


def is_near_0(x: Array) -> Array:
    return (_NEAR[0] <= x) & (x <= _NEAR[1])


def _exp_parts(x: Array) -> _Exp:
    # Not jnp.exp: its error in float64, 1.7 ULP, is 2.3 in the differences taken here.
    info = jnp.finfo(x.dtype)
    high, low = _LOG_2[x.dtype]
    near = is_near_0(x)
    # Beyond these bounds e^x is 0 or inf already; an infinite n would make r nan.
    bounded = jnp.clip(x, info.minexp * high, (info.maxexp + 1) * high)
    n = jnp.clip(jnp.round(bounded * (1 / high)), info.minexp, info.maxexp - 1)
    n = jnp.where(near, 0, n)
    r = (bounded - n * high) - n * low
    excess = exp_series(r)
    return _Exp(near, r, _power_of_2(n), r + excess, excess)


def _expm1_and_error(e: _Exp) -> tuple[Array, Array]:
    """e^x - 1 and the error of the last rounding in it: the first part is the larger."""
    large = jnp.where(e.near, e.remainder, e.scale - 1)
    small = jnp.where(e.near, e.excess, e.scale * e.less)
    total = large + small
    return total, (large - total) + small


def _reduced(x: Array) -> tuple[Array, Array]:
    """r and 2^n with x = r + n log 2 and |r| <= 0.35, for x within the exponents."""
    high, low = _LOG_2[x.dtype]
    n = jnp.round(x * (1 / high))
    return (x - n * high) - n * low, _power_of_2(n)


def _less_1(r: Array) -> Array:
    """e^r - 1 for |r| <= 0.35."""
    series = [1 / math.factorial(k) for k in range(2, _FACTORIALS[r.dtype])]
    return r + (r * r) * polynomial(series, r)


def exp_of_sum(x: Array, error: Array) -> Array:
    """e^(x + error) to the first order in the error, for x <= 88: nan or inf may be above.
    Without a rule of its own: it serves where none is needed.
    """
    power = jax.lax.platform_dependent(x, cpu=_exp_on_cpu, default=jnp.exp)
    return power + power * error


def _exp_on_cpu(x: Array) -> Array:
    """XLA's own bounds x and the exponent once more each: 20 instructions to these 15."""
    if x.dtype != jnp.float32:
        return jnp.exp(x)
    # From here to there the bits are those of 0 and of inf.
    r, scale = _reduced(at_most(89, at_least(-88, x)))
    return (1 + _less_1(r)) * scale


def one_minus_exp(x: Array) -> Array:
    """1 - e^-x for x >= 0, likewise without a rule."""
    # Beyond 0.69 < log(2) times the last exponent, e^-x is nothing beside 1.
    r, scale = _reduced(-at_most(-jnp.finfo(x.dtype).minexp * 0.69, x))
    return (1 - scale) - scale * _less_1(r)


@with_own_rule
def expm1(x: Array) -> Array:
    """e^x - 1. Its derivative is e^x."""
    return _expm1_and_error(_exp_parts(x))[0]


expm1.defjvps(lambda dx, _, x: jnp.exp(x) * dx)


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


@with_own_rule
def log1p(x: Array) -> Array:
    """log(1 + x) for x >= -1. Its derivative is 1 / (1 + x)."""
    # Written 1 + x, with a literal, XLA would fold what two_sum takes from it.
    return _log1p_of_sum(x, jnp.maximum(x, 1), jnp.minimum(x, 1))


log1p.defjvps(lambda dx, _, x: reciprocal(1 + x) * dx)


@with_own_rule
def phi(x: Array) -> Array:
    """e^x - 1 - x >= 0, without cancellation. Its derivative is expm1(x)."""
    e = _exp_parts(x)
    outside = ((e.scale - 1) - x) + e.scale * e.less
    return jnp.where(e.near, e.excess, jnp.where(x == jnp.inf, x, outside))


phi.defjvps(lambda dx, _, x: expm1(x) * dx)


@with_own_rule
def scaled_phi(x: Array) -> Array:
    """min(1, e^-x) phi(x): phi(x) for x <= 0, 1 - e^-x (1 + x) for x > 0, at most 1 there.

    Its derivative is expm1(x) for x <= 0, x e^-x for x > 0.
    """
    decay = jnp.exp(-jnp.abs(x))
    positive = jnp.where(x == jnp.inf, 1, 1 - decay * (1 + x))
    outside = jnp.where(x > 0, positive, decay - (1 + x))
    near = is_near_0(x)
    r = jnp.where(near, x, 0)
    excess = exp_series(r)
    # Divided by e^x made of the same parts, whose errors cancel in part.
    inside = excess / jnp.where(x > 0, 1 + (r + excess), 1)
    return jnp.where(near, inside, outside)


def _scaled_phi_slope(x: Array) -> Array:
    # Each branch with an argument of its own: the slope of the other may be infinite.
    positive = x > 0
    grown = -_decay(0, jnp.where(positive, x, 0))
    return jnp.where(positive, grown, expm1(jnp.where(positive, 0, x)))


scaled_phi.defjvps(lambda dx, _, x: _scaled_phi_slope(x) * dx)


@functools.partial(with_own_rule, static=(0,))
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
    near = is_near_0(x)
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


# --- log(w + (1 - w) e^x) -----------------------------------------------------------


@functools.partial(with_own_rule, static=(1,))
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
    b = jnp.where(below, high * (e.scale + e.scale * e.less), change)
    return _log1p_of_sum(change, a, b) + jnp.where(x > 80, x - 80, 0)


@log_mixture.defjvp
def _log_mixture_jvp(weight, primals, tangents):
    (x,), (dx,) = primals, tangents
    return log_mixture(x, weight), _share((weight, 1 - weight), x) * dx


@functools.partial(with_own_rule, static=(0,))
def _share(weights: tuple[float, float], x: Array) -> Array:
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


@_share.defjvp
def _share_jvp(weights, primals, tangents):
    (x,), (dx,) = primals, tangents
    value = _share(weights, x)
    return value, value * _share(weights[::-1], -x) * dx
