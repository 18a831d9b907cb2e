"""KL of two histograms, from their counts."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts
from kl_jax._arithmetic import (
    clamp_finite,
    jitted_custom_jvp,
    nan_where,
    power_of_2_near,
    sum_last,
    tangent,
    two_prod,
    two_sum,
)
from kl_jax._exponentials import log1p
from kl_jax.elementwise import generalized_kl_term, log_ratio

__all__ = ["kl_from_counts"]


def kl_from_counts(
    counts_p: ArrayLike, counts_q: ArrayLike, *, pseudocount: ArrayLike = 0.0
) -> Array:
    r"""KL(p || q), in nats, of the relative frequencies of counts along the last axis.

    The maximum-likelihood estimate from two histograms: KL of (n_i + a) / (N + K a) from
    the other's, with the pseudocount a and the number of outcomes K. The frequencies are
    not formed: their rounding would be all there is of the KL of nearly equal counts.
    Histograms are counts. The population stability index (PSI) of two is
    `kl_from_counts(p, q) + kl_from_counts(q, p)`.

    Args:
      counts_p: Counts of the samples of p, or weights, along the last axis.
      counts_q: The same of q, of the same shape.
      pseudocount: Added to all counts: a number >= 0, or an array of one for each outcome,
        as the concentrations of a Dirichlet prior.

    Returns:
      The shape without the last axis; float64 if an argument has 64 bits, else float32, to
      which integers above 2^24 are rounded.

    Raises:
      ValueError: If the shapes differ, there is no outcome, or `pseudocount` is a number
        that is negative or not finite, or an array of another length.
      TypeError: If an argument is no array of numbers.

    Boundary: nothing from an outcome without counts in p, also where q has none; inf from
      one in p without in q, or whose share in q is below 1e-38 of that in p (float32). nan
      where a side has no counts at all, for a negative count or pseudocount, for nan and
      inf, and for a sum above 1e38 in float32. 0 for proportional counts whose sums are
      exact.
    Gradient: (log(p / q) - KL) / N and (1 - p / q) / M of the frequencies p and q and the
      sums N and M. By convention log(p / q) is 0 at p = 0; where the KL is inf, 0 in
      `counts_p`, and below -1e38 but finite in the count that is missing.
    Error: at most 10 ULP, and 2 eps^2 sqrt(KL) where that is more (tests/test_counts.py),
      of the counts as they are (benchmarks/other_accuracy.py: 7.0, and 6.0 in float64). As
      an estimate it is biased: by about (K - 1) / (2 N) + sum of p (1 - q) / (2 M q), where
      no count is small.

    >>> import jax.numpy as jnp
    >>> p, q = jnp.array([[3, 5, 2], [2, 2, 6]]), jnp.array([[1, 1, 3], [1, 1, 3]])
    >>> kl_from_counts(p, q).round(4)
    Array([0.3601, 0.    ], dtype=float32)
    >>> kl_from_counts(jnp.array([3, 5]), jnp.array([4, 0]), pseudocount=0.5).item() < 0.78
    True

    Source: Miller, "Note on the bias of information estimates" (1955), for the bias;
    Dekker, "A floating-point technique for extending the available precision" (1971).
    """
    name = "kl_from_counts"
    p, q = _contracts.counts(name, counts_p=counts_p, counts_q=counts_q)
    _contracts.equal_shapes(name, counts_p=p, counts_q=q)
    _contracts.same_rows(name, counts_p=p, counts_q=q)
    _contracts.some_outcomes(name, p.shape, (p.ndim - 1,))
    a = _contracts.pseudocount(name, pseudocount, p)
    _checks.all_non_negative(name, "counts_p", p)
    _checks.all_non_negative(name, "counts_q", q)
    _checks.all_non_negative(name, "pseudocount", a)
    return _with_pseudocount(p, q, a)


@jax.jit
def _with_pseudocount(p: Array, q: Array, a: ArrayLike) -> Array:
    return _from_counts(p, q, jnp.broadcast_to(jnp.asarray(a, p.dtype), p.shape))


class _Histogram(NamedTuple):
    """Counts with the pseudocount, and their sum along the last axis, divided by a power
    of two that brings it next to 1/2. All in two parts, the second what the first lacks.
    """

    count: Array
    count_low: Array
    total: Array
    total_low: Array


def _histogram(counts: Array, pseudocount: Array) -> _Histogram:
    # Not two_sum(counts, pseudocount): with a literal operand XLA folds what it takes back.
    count = two_sum(jnp.maximum(counts, pseudocount), jnp.minimum(counts, pseudocount))
    total = sum_last(*count)
    # Counts below 1: from there on generalized_kl scales down, and s^2 p may underflow.
    unit = 2 * power_of_2_near(total[0])
    return _Histogram(*(x / unit for x in (*count, *total)))


def _rescaled(p: _Histogram, q: _Histogram) -> tuple[Array, Array]:
    """q's counts for p's total, and how far p's are above them."""
    mine, mine_error = two_prod(p.count, q.total)
    theirs, theirs_error = two_prod(q.count, p.total)
    # Not as x y - z w: fusions round that once less, and then it is not 0 at p = q.
    small = (p.count - q.count) * q.total_low + q.count * (q.total_low - p.total_low)
    small += (p.count_low - q.count_low) * q.total + q.count_low * (q.total - p.total)
    difference = (mine - theirs) + ((mine_error - theirs_error) + small)
    return q.count * p.total / q.total, difference / q.total


@jitted_custom_jvp
def _from_counts(counts_p: Array, counts_q: Array, pseudocount: Array) -> Array:
    p, q = _histogram(counts_p, pseudocount), _histogram(counts_q, pseudocount)
    terms = generalized_kl_term(p.count, *_rescaled(p, q))
    value = (sum_last(terms, jnp.zeros_like(terms))[0] / p.total)[..., 0]
    value = jnp.where(jnp.any(terms == jnp.inf, -1), jnp.inf, value)  # its error is nan
    valid = jnp.all((counts_p >= 0) & (counts_q >= 0) & (pseudocount >= 0), -1)
    return nan_where(~(valid & (value >= 0)), value)


def _from_counts_jvp(primals, tangents):
    value = _from_counts(*primals)
    counts_p, counts_q, pseudocount = primals
    dp, dq, da = tangents
    mean = value[..., None]
    # A side without counts has no slopes. Counts of 1 keep those of the slopes finite.
    none, infinite = jnp.isnan(mean), mean == jnp.inf
    counts_p, counts_q = (jnp.where(none, 1, x) for x in (counts_p, counts_q))
    pseudocount = jnp.where(none, 0, pseudocount)
    log, ratio_minus_1 = map(clamp_finite, _ratio_terms(counts_p, counts_q, pseudocount))
    total_p, total_q = (
        (x + pseudocount).sum(-1, keepdims=True) for x in (counts_p, counts_q)
    )
    above = log - jnp.where(none | infinite, 0, mean)
    slope_p = jnp.where(none | infinite, 0, above / total_p)
    slope_q = jnp.where(none, 0, -ratio_minus_1 / total_q)
    change = tangent(log, (slope_p, dp), (slope_q, dq), (slope_p, da), (slope_q, da))
    return value, jnp.sum(change, -1)


_from_counts.defjvp(_from_counts_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def _ratio_terms(
    counts_p: Array, counts_q: Array, pseudocount: Array
) -> tuple[Array, Array]:
    """log(p / q), by convention 0 at p = 0, and p / q - 1, there -1, of the frequencies."""
    p, q = _histogram(counts_p, pseudocount), _histogram(counts_q, pseudocount)
    scaled, difference = _rescaled(p, q)
    none = p.count == 0
    ratio_minus_1 = jnp.where(none, -1, difference / jnp.where(none, 1, scaled))
    near = jnp.abs(ratio_minus_1) < 0.5
    log = jnp.where(
        near, log1p(jnp.where(near, ratio_minus_1, 0)), log_ratio(p.count, scaled)
    )
    return log, ratio_minus_1


@_ratio_terms.defjvp
def _ratio_terms_jvp(primals, tangents):
    log, ratio_minus_1 = _ratio_terms(*primals)
    *counts, pseudocount = primals
    *changes, da = tangents
    (p, q), (dp, dq) = [x + pseudocount for x in counts], [x + da for x in changes]
    total_p, total_q = (x.sum(-1, keepdims=True) for x in (p, q))
    common = dq.sum(-1, keepdims=True) / total_q - dp.sum(-1, keepdims=True) / total_p
    inverse_p, inverse_q = (
        jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x)) for x in (p, q)
    )
    common -= dq * inverse_q
    dlog = jnp.where(p == 0, 0, dp * inverse_p + common)
    ratio = 1 + clamp_finite(ratio_minus_1)
    dratio_minus_1 = dp * inverse_q * (total_q / total_p) + ratio * common
    return (log, ratio_minus_1), (dlog, dratio_minus_1)
