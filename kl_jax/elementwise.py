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

`rel_entr`, `generalized_kl` and `logits_from_probs` are public. The others are for the
modules above: arrays of one shape and dtype in, unchecked.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts
from kl_jax._arithmetic import (
    divide,
    jitted_custom_jvp,
    polynomial,
    reciprocal,
    tangent,
    two_sum,
)

__all__ = ["generalized_kl", "logits_from_probs", "rel_entr"]

# p and q are close when their ratio is below 4, that is |s| <= 0.6. At a ratio of
# 3 the logarithm that takes over costs generalized_kl 5.0 ULP, at 4 it costs 3.5.
_CLOSE = 4

# Terms of c. The first one left out, 0.36^n / (2n + 3), is 7.7e-10 and 1.2e-17 at most.
_TERMS = {jnp.dtype("float32"): 17, jnp.dtype("float64"): 34}


def _denominator(p: Array, q: Array) -> Array:
    """q, but inf where p = q = 0: x / inf is 0 together with all its derivatives."""
    return jnp.where((p == 0) & (q == 0), jnp.inf, q)


# --- log(p / q) ---------------------------------------------------------------

# Pass `difference` where p - q is known more accurately than p and q are, as q - p is for
# 1 - p and 1 - q. It improves the value; the derivatives treat it as p - q.


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


def _far_log_ratio(p: Array, q: Array) -> Array:
    """log(p / q) where the quotient may leave the range of normal numbers."""
    quotient = p / q
    normal = (quotient >= jnp.finfo(p.dtype).tiny) & (quotient < jnp.inf)
    return jnp.where(normal, jnp.log(quotient), jnp.log(p) - jnp.log(q))


@jitted_custom_jvp
def log_ratio(p: Array, q: Array, difference: Array | None = None) -> Array:
    """log(p / q) for p, q >= 0; by convention 0 at p = 0.

    The derivative of `generalized_kl` in p, and of `rel_entr` less 1.
    """
    x = _close_parts(p, q, difference)
    s_error = (x.difference_error - x.s * x.total_error) / x.total
    close = 2 * (x.s + (x.s * x.s * x.s * x.c + s_error))
    value = jnp.where(is_close(p, q), close, _far_log_ratio(p, q))
    return jnp.where(p == 0, 0, value)


def _log_ratio_jvp(primals, tangents):
    p, q, difference = primals
    dp, dq, _ = tangents
    value = log_ratio(p, q, difference)
    slope_p = reciprocal(_denominator(p, p))
    slope_q = -reciprocal(_denominator(p, q))
    return value, tangent(value, (slope_p, dp), (slope_q, dq))


log_ratio.defjvp(_log_ratio_jvp, symbolic_zeros=True)


def logit(p: Array) -> Array:
    """log(p / (1 - p)), with all digits of what is near 0, that of p near 1/2.

    2 p - 1 is exact there. p - (1 - p) is not below 1/2: 1.5e-4 of it are wrong at 0.4999.
    """
    return jnp.where(p == 0, -jnp.inf, log_ratio(p, 1 - p, 2 * p - 1))


# --- the two public terms -----------------------------------------------------


def _of_measures(p: Array, q: Array, value: Array) -> Array:
    """SciPy's convention outside the domain: inf for a negative argument, nan for nan."""
    value = jnp.where((p < 0) | (q < 0), jnp.inf, value)
    return jnp.where(jnp.isnan(p), p, jnp.where(jnp.isnan(q), q, value))


def _without_negatives(p: Array, q: Array) -> tuple[Array, Array]:
    """For slopes: both 0, where all slopes are, in the place of a negative argument."""
    negative = (p < 0) | (q < 0)
    return jnp.where(negative, 0, p), jnp.where(negative, 0, q)


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
      Where a slope is infinite or overflows, as at q = 0 < p, it is the largest number of
      the dtype: 0 times that is 0 under a mask. 0 for negative arguments.
    Error: at most 4 ULP (tests/test_elementwise.py; benchmarks/accuracy.py: 2.6 in float32,
      2.5 in float64), for results above the smallest normal number and arguments that are
      not subnormal: those count as 0 on CPUs.

    >>> import jax.numpy as jnp
    >>> rel_entr(jnp.array([0.5, 0.0, 1.0]), jnp.array([0.25, 0.5, 0.0])).round(4)
    Array([0.3466, 0.    ,    inf], dtype=float32)

    Source: Kullback and Leibler (1951), `scipy.special.rel_entr`.
    """
    p, q = _contracts.floats("rel_entr", p=p, q=q)
    _contracts.equal_shapes("rel_entr", p=p, q=q)
    _checks.all_non_negative("rel_entr", "p", p)
    _checks.all_non_negative("rel_entr", "q", q)
    return _rel_entr(p, q)


@jitted_custom_jvp
def _rel_entr(p: Array, q: Array) -> Array:
    return _of_measures(p, q, jnp.where(p == 0, 0, p * log_ratio(p, q)))


def _rel_entr_jvp(primals, tangents):
    p, q = primals
    dp, dq = tangents
    value = _rel_entr(p, q)
    p, q = _without_negatives(p, q)
    slope_p = log_ratio(p, q) + jnp.where(p == 0, 0, jnp.ones_like(p))
    slope_q = -divide(p, _denominator(p, q))
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
      Where a slope is infinite or overflows, as at q = 0 < p, it is the largest number of
      the dtype: 0 times that is 0 under a mask. 0 for negative arguments.
    Error: at most 4.5 ULP (tests/test_elementwise.py; benchmarks/accuracy.py: 2.9 in both
      precisions), for results above the smallest normal number and arguments that are not
      subnormal: those count as 0 on CPUs.

    >>> import jax.numpy as jnp
    >>> generalized_kl(jnp.array([0.5, 0.0, 0.3]), jnp.array([0.25, 0.5, 0.3])).round(4)
    Array([0.0966, 0.5   , 0.    ], dtype=float32)

    Source: Loader (2000), the deviance term; `scipy.special.kl_div`.
    """
    p, q = _contracts.floats("generalized_kl", p=p, q=q)
    _contracts.equal_shapes("generalized_kl", p=p, q=q)
    _checks.all_non_negative("generalized_kl", "p", p)
    _checks.all_non_negative("generalized_kl", "q", q)
    return generalized_kl_term(p, q)


def logits_from_probs(p: ArrayLike) -> Array:
    r"""log p, elementwise, with derivative 0 at p = 0: logits of probabilities, in nats.

    With it every divergence of logits takes probabilities or other masses, histograms among
    them, also against logits: `kl_divergence(logits_from_probs(p), logits_q)`.

    Args:
      p: Probabilities or other non-negative masses; they need not sum to 1.

    Returns:
      The shape of `p`; float64 if it is, else float32.

    Raises:
      TypeError: If `p` is not a floating-point array.

    Boundary: -inf where p = 0, inf where p = inf, nan where p < 0 and for nan.
    Gradient: 1 / p, and 0 at p = 0, where `jnp.log` has inf: an outcome of probability 0
      takes no part in a divergence, and inf times 0 would be nan.
    Error: that of `jnp.log` (benchmarks/other_accuracy.py: 1.0, and 0.5 in float64).

    >>> import jax.numpy as jnp
    >>> logits_from_probs(jnp.array([0.5, 0.0])).round(4)
    Array([-0.6931,    -inf], dtype=float32)

    Source: `jax.numpy.log`.
    """
    (p,) = _contracts.floats("logits_from_probs", p=p)
    _checks.all_non_negative("logits_from_probs", "p", p)
    return _log(p)


@jitted_custom_jvp
def _log(p: Array) -> Array:
    return jnp.log(p)


def _log_jvp(primals, tangents):
    (p,), (dp,) = primals, tangents
    value = _log(p)
    outside = jnp.where(p <= 0, jnp.inf, p)
    return value, tangent(value, (reciprocal(outside), dp))


_log.defjvp(_log_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def generalized_kl_term(p: Array, q: Array, difference: Array | None = None) -> Array:
    """p log(p / q) - p + q, unchecked."""
    x = _close_parts(p, q, difference)
    # difference^2 / total to first order in the rounding errors of both, and the series.
    corrections = 2 * x.difference_error - x.s * x.total_error
    close = x.s * x.difference + x.s * (2 * x.p * (x.s * x.s) * x.c + corrections)
    # p (log(p / q) - 1) does not overflow unless the result does, as p log(p / q) would.
    far = p * (_far_log_ratio(p, q) - 1) + q
    value = jnp.where(is_close(p, q), close / x.scale, far)
    value = jnp.where((p == 0) | ((q == jnp.inf) & (p < jnp.inf)), q, value)
    if difference is None:
        # Subnormal p and q count as 0 on CPUs, but q is returned as it is.
        value = jnp.where((p == q) & (p < jnp.inf), 0, value)
    return _of_measures(p, q, value)


def _generalized_kl_jvp(primals, tangents):
    p, q, difference = primals
    dp, dq, _ = tangents
    value = generalized_kl_term(p, q, difference)
    p, q = _without_negatives(p, q)
    slopes = log_ratio(p, q, difference), relative_difference(p, q, difference)
    return value, tangent(value, (slopes[0], dp), (slopes[1], dq))


generalized_kl_term.defjvp(_generalized_kl_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def relative_difference(p: Array, q: Array, difference: Array | None = None) -> Array:
    """(q - p) / q, 0 at p = q = 0. Its slope p / q^2 would cancel in 1/q - (q - p)/q^2."""
    x = _close_parts(p, q, difference)
    # Next to the smallest normal number q - p is flushed to 0; the scaled one is not.
    far = divide(q - p, _denominator(p, q))
    return jnp.where(is_close(p, q), -x.difference / (q * x.scale), far)


def _relative_difference_jvp(primals, tangents):
    p, q, difference = primals
    dp, dq, _ = tangents
    value = relative_difference(p, q, difference)
    y = _denominator(p, q)
    inverse = reciprocal(y)
    # A product: XLA turns (p / y) / y into p / (y y), which is p / 0 at y = 1e-23.
    return value, tangent(value, (-inverse, dp), (divide(p, y) * inverse, dq))


relative_difference.defjvp(_relative_difference_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def itakura_saito(p: Array, q: Array, difference: Array | None = None) -> Array:
    """p / q - 1 - log(p / q) >= 0 for p, q > 0: the Bregman divergence of -log x.

    With s as above it is s (p - q) / q - 2 s^3 c(s^2). Derivatives: 1/q - 1/p in p,
    (q - p) / q^2 in q.
    """
    x = _close_parts(p, q, difference)
    # s (p - q) / q to first order in the rounding errors of p - q and p + q.
    corrected = x.difference + 2 * x.difference_error - x.s * x.total_error
    close = x.s * (corrected / (q * x.scale)) - 2 * (x.s * (x.s * x.s)) * x.c
    far = (p / q - 1) - _far_log_ratio(p, q)
    return jnp.where(is_close(p, q), close, far)


def _itakura_saito_jvp(primals, tangents):
    p, q, difference = primals
    dp, dq, _ = tangents
    value = itakura_saito(p, q, difference)
    change = relative_difference(p, q, difference)
    return value, tangent(value, (-divide(change, p), dp), (divide(change, q), dq))


itakura_saito.defjvp(_itakura_saito_jvp, symbolic_zeros=True)


# --- the same term from logarithms: what torch_compat is made of ---------------


@jitted_custom_jvp
def _log_ratio_of_log_q(p: Array, log_q: Array) -> Array:
    """log p - log_q; by convention 0 at p = 0."""
    return jnp.where(p == 0, 0, jnp.log(p) - log_q)


def _log_ratio_of_log_q_jvp(primals, tangents):
    p, log_q = primals
    dp, dlog_q = tangents
    value = _log_ratio_of_log_q(p, log_q)
    slope_p = reciprocal(_denominator(p, p))
    slope_q = -jnp.ones_like(p)
    return value, tangent(value, (slope_p, dp), (slope_q, dlog_q))


_log_ratio_of_log_q.defjvp(_log_ratio_of_log_q_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def rel_entr_of_log_q(p: Array, log_q: Array) -> Array:
    """p (log p - log_q): 0 at p = 0 whatever log_q, nan for p < 0 and for nan.

    exp(log_q) is never formed: it underflows long before the term does. Derivatives:
    log p - log_q + 1 in p, 0 at p = 0; -p in log_q.
    """
    value = jnp.where(p == 0, 0, p * _log_ratio_of_log_q(p, log_q))
    return jnp.where(jnp.isnan(log_q), log_q, value)


def _rel_entr_of_log_q_jvp(primals, tangents):
    p, log_q = primals
    dp, dlog_q = tangents
    value = rel_entr_of_log_q(p, log_q)
    slope_p = _log_ratio_of_log_q(p, log_q) + jnp.where(p == 0, 0, jnp.ones_like(p))
    return value, tangent(value, (slope_p, dp), (-p, dlog_q))


rel_entr_of_log_q.defjvp(_rel_entr_of_log_q_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def rel_entr_of_logs(log_p: Array, log_q: Array) -> Array:
    """e^log_p (log_p - log_q): 0 at log_p = -inf whatever log_q, nan for nan.

    Derivatives: the term plus e^log_p in log_p, -e^log_p in log_q.
    """
    difference = log_p - log_q
    # For log_q = -+inf the term is +-inf however small e^log_p is, also where that
    # underflows and the product would be nan.
    value = jnp.where(jnp.isinf(log_q), difference, jnp.exp(log_p) * difference)
    value = jnp.where(log_p == -jnp.inf, 0, value)
    return jnp.where(jnp.isnan(log_q), log_q, value)


def _rel_entr_of_logs_jvp(primals, tangents):
    log_p, log_q = primals
    dlog_p, dlog_q = tangents
    value = rel_entr_of_logs(log_p, log_q)
    p = jnp.exp(log_p)
    return value, tangent(value, (value + p, dlog_p), (-p, dlog_q))


rel_entr_of_logs.defjvp(_rel_entr_of_logs_jvp, symbolic_zeros=True)
