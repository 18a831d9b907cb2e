r"""KL from samples, from counts, and from densities alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import contracts, values
from kl_jax._arithmetic import (
    power_of_2_near,
    sum_last,
    tangent,
    two_prod,
    two_sum,
    with_own_rule,
)
from kl_jax._exponentials import expm1, log1p, phi
from kl_jax.elementwise import generalized_kl_term, log_ratio, rel_entr_of_logs

__all__ = ["kl_estimate", "kl_from_counts", "kl_from_densities", "kl_from_samples"]


def kl_estimate(log_p: ArrayLike, log_q: ArrayLike, *, estimator: str = "k3") -> Array:
    r"""Estimates of KL(p || q) from samples x ~ p, in nats, with the gradient of KL.

    With d = log q(x) - log p(x) of each sample, the value is

    - "k1": -d. Unbiased, of either sign.
    - "k2": d^2 / 2. Not negative, biased, little where p and q nearly agree.
    - "k3": e^d - 1 - d. Unbiased, not negative. Its variance is infinite where q has
      much heavier tails than p.

    The derivative is the same for all three: (e^d - 1) in log q and -d in log p. Averaged
    over samples it is an unbiased estimate of the gradient of KL(p || q) in the parameters
    of p and of q, and it vanishes for p = q. The derivatives of the values would estimate
    something else in the parameters of p: 0 for k1, the same for k2, and for k3, often used
    as a loss, the gradient of KL(q || p).

    Bias and standard deviation of one sample, the value's in units of KL(p || q), the
    gradient's in logits of p in units of its norm. Medians of 1000 pairs p, q over 8
    outcomes, logits of q from a standard normal distribution, those of p off by that times
    0.1 or 1 (notebooks/300_rl_kl_penalty.py):

    | noise, median KL | | value | gradient | gradient if the value were differentiated |
    |---|---|---|---|---|
    | 0.1, 0.0032 | k1 | 0 +- 25 | 0 +- 2.2 | 1 +- 28 |
    | | k2 | 0.015 +- 1.2 | 0 +- 2.2 | 0 +- 2.2 |
    | | k3 | 0 +- 1.2 | 0 +- 2.2 | 0.043 +- 2.2 |
    | 1, 0.26 | k1 | 0 +- 2.5 | 0 +- 2.2 | 1 +- 3.2 |
    | | k2 | 0.14 +- 1.1 | 0 +- 2.2 | 0 +- 2.2 |
    | | k3 | 0 +- 1.6 | 0 +- 2.2 | 0.39 +- 3.4 |

    Args:
      log_p: Log-probability or log-density of each sample under p, that it was drawn from.
      log_q: The same under q, of the same shape.
      estimator: "k1", "k2" or "k3", for the value.

    Returns:
      One estimate a sample, the shape of `log_p`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, or `estimator` is none of the three.
      TypeError: If an argument is not a floating-point array.

    Boundary: 0 where both are -inf, as for masked entries. inf where only log q is. Where
      only log p is, and x no sample of p, -inf for k1 and inf for k2 and k3. nan for nan.
    Gradient: as above; 0 where log p = -inf, and 0 in log p where log q = -inf. Second
      derivatives in log p are not unbiased. Samples of another distribution r need the
      weight `stop_gradient(p / r)`, on the estimate.
    Error: at most 4 ULP after the rounding of d.

    >>> import jax.numpy as jnp
    >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.25])), jnp.log(jnp.array([0.4, 0.3]))
    >>> kl_estimate(log_p, log_q).round(4)
    Array([0.0231, 0.0177], dtype=float32)
    >>> kl_estimate(log_p, log_q, estimator="k2").round(4)
    Array([0.0249, 0.0166], dtype=float32)

    Source: Schulman, "Approximating KL divergence" (2020), for the values; Tang and Munos,
    "On a few pitfalls in KL divergence gradient estimation for RL" (2025).
    """
    name = "kl_estimate"
    log_p, log_q = contracts.floats(name, log_p=log_p, log_q=log_q)
    contracts.equal_shapes(name, log_p=log_p, log_q=log_q)
    contracts.choice(name, "estimator", estimator, ("k1", "k2", "k3"))
    values.logits(name, "log_p", log_p)
    values.logits(name, "log_q", log_q)
    return _kl_estimate(estimator, log_p, log_q)


def _log_quotient(log_p: Array, log_q: Array) -> Array:
    """log q - log p, 0 where both are -inf."""
    return jnp.where((log_p == log_q) & (log_p == -jnp.inf), 0, log_q - log_p)


@functools.partial(with_own_rule, static=(0,))
def _kl_estimate(estimator: str, log_p: Array, log_q: Array) -> Array:
    d = _log_quotient(log_p, log_q)
    return {"k1": lambda: -d, "k2": lambda: d * d / 2, "k3": lambda: phi(d)}[estimator]()


def _kl_estimate_jvp(estimator, primals, tangents):
    log_p, log_q = primals
    dlog_p, dlog_q = tangents
    d = _log_quotient(log_p, log_q)
    none = log_p == -jnp.inf
    slope_p = -jnp.where(none | (log_q == -jnp.inf), 0, d)
    slope_q = expm1(jnp.where(none, 0, d))
    value = _kl_estimate(estimator, log_p, log_q)
    return value, tangent(value, (slope_p, dlog_p), (slope_q, dlog_q))


_kl_estimate.defjvp(_kl_estimate_jvp, symbolic_zeros=True)


# --- samples -------------------------------------------------------------------

# Rows of distances held at a time. For 4100 samples of 3 dimensions, 64 rows take 5 MB, and
# 256 rows 20 MB and nearly the same time.
_BLOCK = 64


def kl_from_samples(x: ArrayLike, y: ArrayLike, *, k: int = 1) -> Array:
    r"""Estimate of KL(p || q), in nats, from samples x ~ p and y ~ q alone.

    The mean over x_i of d log(nu_i / rho_i) + log(m / (n - 1)): rho_i is the distance to
    the k-th nearest of the other n - 1 samples of x, nu_i to the k-th nearest of the m of
    y, and d the number of dimensions. It converges to KL(p || q) for densities, and is
    often negative where that is small. For large k it varies less and is biased more.

    Args:
      x: Samples of p, [n, d], with n > k.
      y: Samples of q, [m, d], with m >= k.
      k: Which neighbour, a static integer. The time is proportional to n (n + m) (d + k),
        the memory to n + m.

    Returns:
      One number; float64 if an argument is, else float32.

    Raises:
      ValueError: If `x` or `y` is not of the shape above, their dimensions differ, or k is
        not positive.
      TypeError: If `x` or `y` is not floating point, or k no integer.

    Boundary: where one of the distances is 0, as to a duplicate, both densities come from
      one ball of the larger radius instead, with the term psi(l) - psi(l') + log(m / (n -
      1)) of the digamma function psi and the numbers l of other x and l' of y in the ball.
      So the result is finite for all finite data, and for data of few values near the KL
      of their frequencies. 0 are distances below 1e-37 of the largest number in float32,
      1e-307 in float64. nan for nan and inf.
    Gradient: of the distances to the neighbours as they are, which are others beyond some
      distance; 0 from a term of one ball.
    Error: of the formula, from the rounding of differences, d (d + 3) eps / 2 a term. Of
      the estimate, see the source: its standard error is about 1 / sqrt(n) and more.

    >>> import jax
    >>> x, y = jax.random.normal(jax.random.key(0), (2, 2000, 1))
    >>> bool(abs(kl_from_samples(x, y + 1, k=5) - 0.5) < 0.1)
    True

    Source: Wang, Kulkarni and Verdu, "Divergence estimation for multidimensional densities
    via k-nearest-neighbor distances" (2009); for the one ball the estimator of variable k.
    """
    name = "kl_from_samples"
    k = contracts.positive_integer(name, "k", k)
    x, y = contracts.floats(name, x=x, y=y)
    contracts.samples(name, k, x=x, y=y)
    values.finite(name, "x", x)
    values.finite(name, "y", y)
    return _from_samples(k, x, y)


@functools.partial(jax.jit, static_argnums=0)
def _from_samples(k: int, x: Array, y: Array) -> Array:
    (n, d), m = x.shape, y.shape[0]
    info = jnp.finfo(x.dtype)
    largest = lax.stop_gradient(jnp.maximum(jnp.abs(x).max(), jnp.abs(y).max()))
    # Exact, up to where the sum of d squares of differences is next to overflow.
    unit = power_of_2_near(largest)
    room = 2.0 ** ((info.maxexp - 5 - d.bit_length()) // 2)
    x, y = x / unit * room, y / unit * room
    points, others = lax.stop_gradient((x, y))
    rho = _squared_distance(x, x[_neighbour(k, points, points, jnp.arange(n))])
    nu = _squared_distance(x, y[_neighbour(k, points, others, jnp.full(n, m))])
    none = (rho == 0) | (nu == 0)
    apart = d / 2 * log_ratio(jnp.where(none, 1, nu), jnp.where(none, 1, rho))
    # Rounded otherwise, the point at that distance may be out by (d + 2) eps / 2.
    ball = lax.stop_gradient(jnp.maximum(rho, nu)) * (1 + (d + 2) * float(info.eps))
    together = lax.cond(
        jnp.any(none),
        _of_one_ball,
        lambda ball, *_: jnp.zeros_like(ball),
        ball,
        points,
        others,
    )
    value = jnp.mean(jnp.where(none, together, apart)) + math.log(m / (n - 1))
    return jnp.where(largest < jnp.inf, value, jnp.nan)


def _squared_distance(a: Array, b: Array) -> Array:
    return jnp.sum(jnp.square(a - b), -1)


def _by_row(fun: Callable[..., Array], points: Array, *args: Array) -> Array:
    return lax.map(lambda a: fun(*a), (points, *args), batch_size=_BLOCK)


def _distances(point: Array, points: Array, itself: Array) -> Array:
    """Squared, of one point to all; inf at the index of the point itself."""
    # The samples last: a vector instruction takes 8 of them, of 3 dimensions only 3.
    squared = jnp.sum(jnp.square(point[:, None] - points.T), 0)
    return jnp.where(jnp.arange(len(points)) == itself, jnp.inf, squared)


def _neighbour(k: int, points: Array, others: Array, itself: Array) -> Array:
    """The index of the k-th nearest of `others`, of each of the points."""

    def of_one(point: Array, itself: Array) -> Array:
        # k searches: lax.top_k sorts for k > 1, and takes as long as 50.
        def without_nearest(_, squared):
            here = jnp.arange(len(others)) == jnp.argmin(squared)
            return jnp.where(here, jnp.inf, squared)

        squared = _distances(point, others, itself)
        return jnp.argmin(lax.fori_loop(0, k - 1, without_nearest, squared))

    return _by_row(of_one, points, itself)


def _of_one_ball(ball: Array, x: Array, y: Array) -> Array:
    """psi(l) - psi(l') of the numbers of other x and of y in a ball around each x."""
    none = jnp.full((), len(y))

    def of_one(point: Array, ball: Array, itself: Array) -> Array:
        of_x = jnp.sum(_distances(point, x, itself) <= ball, dtype=ball.dtype)
        of_y = jnp.sum(_distances(point, y, none) <= ball, dtype=ball.dtype)
        return jax.scipy.special.digamma(of_x) - jax.scipy.special.digamma(of_y)

    return _by_row(of_one, x, ball, jnp.arange(len(x)))


# --- counts --------------------------------------------------------------------


def kl_from_counts(
    counts_p: ArrayLike, counts_q: ArrayLike, *, pseudocount: float = 0.0
) -> Array:
    r"""KL(p || q), in nats, of the relative frequencies of counts along the last axis.

    The maximum-likelihood estimate from two histograms: KL of (n_i + a) / (N + K a) from
    the other's, with the pseudocount a and the number of outcomes K. The frequencies are
    not formed: their rounding would be all there is of the KL of nearly equal counts.

    Args:
      counts_p: Counts of the samples of p, or weights, along the last axis.
      counts_q: The same of q, of the same shape.
      pseudocount: Added to all counts: a finite number >= 0, known while tracing.

    Returns:
      The shape without the last axis; float64 if an argument has 64 bits, else float32, to
      which integers above 2^24 are rounded.

    Raises:
      ValueError: If the shapes differ, there is no outcome, or `pseudocount` is negative or
        not finite.
      TypeError: If an argument is no array of numbers, or `pseudocount` no number.

    Boundary: nothing from an outcome without counts in p, also where q has none; inf from
      one in p without in q. nan where a side has no counts at all, and for a negative
      count, nan, inf, and a sum above 1e38 in float32. 0 for proportional counts whose sums
      are exact.
    Gradient: (log(p / q) - KL) / N and (1 - p / q) / M of the frequencies p and q and the
      sums N and M. By convention log(p / q) is 0 at p = 0; where the KL is inf, 0 in
      `counts_p`, and -inf in the count that is missing.
    Error: at most 10 ULP, and eps^2 sqrt(KL) where that is more, of the counts as they are
      (measured 7.8 for KL above 1e-16 in float32). As an estimate it is biased: by about
      (K - 1) / (2 N) + sum of p (1 - q) / (2 M q), where no count is small.

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
    p, q = contracts.counts(name, counts_p=counts_p, counts_q=counts_q)
    contracts.equal_shapes(name, counts_p=p, counts_q=q)
    contracts.same_rows(name, counts_p=p, counts_q=q)
    contracts.some_outcomes(name, p.shape, (p.ndim - 1,))
    pseudocount = contracts.non_negative(name, "pseudocount", pseudocount)
    values.non_negative(name, "counts_p", p)
    values.non_negative(name, "counts_q", q)
    return _from_counts(pseudocount, p, q)


class _Side(NamedTuple):
    """Counts with the pseudocount, and their sum along the last axis, divided by a power
    of two that brings it next to 1/2. All in two parts, the second what the first lacks.
    """

    count: Array
    count_low: Array
    total: Array
    total_low: Array


def _side(pseudocount: float, counts: Array) -> _Side:
    # Not two_sum(counts, pseudocount): with a literal operand XLA folds what it takes back.
    count = two_sum(jnp.maximum(counts, pseudocount), jnp.minimum(counts, pseudocount))
    total = sum_last(*count)
    # Counts below 1: from there on generalized_kl scales down, and s^2 p may underflow.
    unit = 2 * power_of_2_near(total[0])
    return _Side(*(x / unit for x in (*count, *total)))


def _rescaled(p: _Side, q: _Side) -> tuple[Array, Array]:
    """q's counts for p's total, and how far p's are above them."""
    mine, mine_error = two_prod(p.count, q.total)
    theirs, theirs_error = two_prod(q.count, p.total)
    small = p.count * q.total_low + p.count_low * q.total
    small -= q.count * p.total_low + q.count_low * p.total
    difference = (mine - theirs) + ((mine_error - theirs_error) + small)
    return q.count * p.total / q.total, difference / q.total


@functools.partial(with_own_rule, static=(0,))
def _from_counts(pseudocount: float, counts_p: Array, counts_q: Array) -> Array:
    p, q = _side(pseudocount, counts_p), _side(pseudocount, counts_q)
    terms = generalized_kl_term(p.count, *_rescaled(p, q))
    value = (sum_last(terms, jnp.zeros_like(terms))[0] / p.total)[..., 0]
    value = jnp.where(jnp.any(terms == jnp.inf, -1), jnp.inf, value)  # its error is nan
    valid = jnp.all((counts_p >= 0) & (counts_q >= 0), -1)
    return jnp.where(valid & (value >= 0), value, jnp.nan)


def _from_counts_jvp(pseudocount, primals, tangents):
    value = _from_counts(pseudocount, *primals)
    log, excess = _quotient(pseudocount, *primals)
    total_p, total_q = ((x + pseudocount).sum(-1, keepdims=True) for x in primals)
    mean = value[..., None]
    slope_p = jnp.where(mean == jnp.inf, 0, (log - mean) / total_p)
    change = tangent(log, (slope_p, tangents[0]), (-excess / total_q, tangents[1]))
    return value, jnp.sum(change, -1)


_from_counts.defjvp(_from_counts_jvp, symbolic_zeros=True)


@functools.partial(with_own_rule, static=(0,))
def _quotient(pseudocount: float, counts_p: Array, counts_q: Array) -> tuple[Array, Array]:
    """log(p / q), by convention 0 at p = 0, and p / q - 1, there -1, of the frequencies."""
    p, q = _side(pseudocount, counts_p), _side(pseudocount, counts_q)
    scaled, difference = _rescaled(p, q)
    none = p.count == 0
    excess = jnp.where(none, -1, difference / jnp.where(none, 1, scaled))
    near = jnp.abs(excess) < 0.5
    log = jnp.where(near, log1p(jnp.where(near, excess, 0)), log_ratio(p.count, scaled))
    return log, excess


@_quotient.defjvp
def _quotient_jvp(pseudocount, primals, tangents):
    log, excess = _quotient(pseudocount, *primals)
    (p, q), (dp, dq) = [x + pseudocount for x in primals], tangents
    total_p, total_q = (x.sum(-1, keepdims=True) for x in (p, q))
    common = dq.sum(-1, keepdims=True) / total_q - dp.sum(-1, keepdims=True) / total_p
    inverse_p, inverse_q = (
        jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x)) for x in (p, q)
    )
    common -= dq * inverse_q
    dlog = jnp.where(p == 0, 0, dp * inverse_p + common)
    dexcess = dp * inverse_q * (total_q / total_p) + (1 + excess) * common
    return (log, excess), (dlog, dexcess)


# --- densities -----------------------------------------------------------------

# Nodes t are in [-reach, reach]: x reaches from 2e-19 to 4e18, and 3e-38 to 3e37, so that
# from an end with p ~ x^-1/2 no more is missing than eps.
_REACH = {jnp.dtype("float32"): 4.0, jnp.dtype("float64"): 4.7}


def kl_from_densities(
    log_p: Callable[[Array], ArrayLike],
    log_q: Callable[[Array], ArrayLike],
    low: ArrayLike,
    high: ArrayLike,
    *,
    order: int = 511,
    with_error: bool = False,
) -> Any:
    r"""KL(p || q), in nats: the integral of p (log p - log q) over [low, high].

    Double-exponential quadrature, for densities of one dimension. Not renormalised: for
    densities of another mass it is the integral, and not a divergence. With a density that
    has a kink or a jump the error falls only with the step: integrate from there.

    Args:
      log_p: A function of a scalar x, the log-density of p there. May return an array, for
        parameters in batches.
      log_q: The same for q, with a result of the same shape.
      low: Lower limit, a number or a 0-d array, of the dtype that x gets; may be -inf.
      high: Upper limit; may be inf.
      order: Number of nodes, odd.
      with_error: Whether to return an estimate of the error too.

    Returns:
      The shape of the results; float64 if a result is, else float32. With `with_error` a
      pair of such: the difference from the rule of every second node, which is much above
      the error where that is small, plus the effect of log-densities wrong by one rounding.

    Raises:
      ValueError: If a limit is no scalar, the results' shapes differ, or `order` is even or
        less than 5.
      TypeError: If `log_p` or `log_q` is no function, or a result not floating point.

    Boundary: 0 where p = 0, also by underflow, inf where q = 0 < p at a node. For low >
      high the integral with its sign reversed, for low = high 0, nan for a limit of nan.
      Nodes are inside the interval: the densities are not evaluated at its ends.
    Gradient: in the limits, where finite, and in whatever `log_p` and `log_q` close over:
      that of the rule. 0 in the limits where they are equal.
    Error: by default that of the log-densities, for those that are smooth inside, decay to
      both sides, and have a width the nodes see: on the line from 0.1 to 1000, and no
      further from 0 than 10 widths (at 1000 and 10, 1e-10 in float64); from a finite limit
      to infinity from 1e-4 to 1e4; between finite limits from 1/40 of their distance.
      Beyond, nodes miss the density, and the estimate of the error need not show it: give
      limits around it. Singular densities belong at a limit of 0, next to which x has
      digits: next to 1, up to 2^-24 and 2^-53 from it, beta(1/2, 1/2) has 2e-4 and 7e-9 of
      its mass.

    >>> import jax.numpy as jnp
    >>> log_p, log_q = lambda x: -x, lambda x: jnp.log(2.0) - 2 * x
    >>> kl_from_densities(log_p, log_q, 0, jnp.inf).round(4)
    Array(0.3069, dtype=float32)

    Source: Takahasi and Mori, "Double exponential formulas for numerical integration"
    (1974).
    """
    name = "kl_from_densities"
    contracts.function(name, log_p, "log_p")
    contracts.function(name, log_q, "log_q")
    limits = contracts.operands(name, low=low, high=high)
    order = contracts.order(name, order, 5)
    contracts.flag(name, "with_error", with_error)

    def logs(x: Array) -> list[Array]:
        results = {"the result of log_p": log_p(x), "the result of log_q": log_q(x)}
        pair = contracts.floats(name, **results)
        contracts.equal_shapes(name, **dict(zip(results, pair, strict=True)))
        return pair

    # Compiled in three steps, between which the densities are evaluated as they were given:
    # what they close over may be traced, or be another thing in the next call. Executed one
    # operation at a time, the steps would compile 30 programs in a first call.
    x, weights = _nodes(name, order, *limits)
    seen, x = _seen(x, weights, jax.vmap(logs)(x)[0])
    log_px, log_qx = jax.vmap(logs)(x)
    values.logits(name, "the result of log_p", log_px)
    values.logits(name, "the result of log_q", log_qx)
    value, error = _integral(log_px, log_qx, seen, weights)
    return (value, error) if with_error else value


@jax.jit
def _seen(x: Array, weights: Array, log_p: Array) -> tuple[Array, Array]:
    """Which nodes count, and where to evaluate all of them again: nodes with p = 0, where
    derivatives may be infinite, or nan, are moved to the largest p.
    """
    p = jnp.exp(lax.stop_gradient(log_p)).reshape(len(x), -1)
    seen = jnp.any(p != 0, -1) & (weights != 0)
    best = jnp.argmax(jnp.where(seen, jnp.max(p, -1), -1))
    return seen, jnp.where(seen, x, x[best])


@jax.jit
def _integral(
    log_p: Array, log_q: Array, seen: Array, weights: Array
) -> tuple[Array, Array]:
    """Along the first axis, with an estimate of the error."""
    weights = jnp.where(seen, weights, 0).astype(log_p.dtype)
    weights = weights.reshape(-1, *(1,) * (log_p.ndim - 1))
    p = jnp.exp(log_p)
    present = (p != 0) & (weights != 0)
    terms = weights * jnp.where(present, rel_entr_of_logs(log_p, log_q), 0)
    value = jnp.sum(terms, 0)
    # To first order, of p (log p - log q) in log p and log q.
    masses = jnp.abs(weights) * p
    change = (jnp.abs(terms) + masses) * jnp.abs(log_p) + masses * jnp.abs(log_q)
    rounding = float(jnp.finfo(terms.dtype).eps) * jnp.sum(jnp.where(present, change, 0), 0)
    error = jnp.abs(value - 2 * jnp.sum(terms[::2], 0)) + rounding
    return value, jnp.where(jnp.isfinite(value), error, jnp.abs(value))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _nodes(
    function: str, order: int, low: ArrayLike, high: ArrayLike
) -> tuple[Array, Array]:
    """Nodes between the limits, and weights: 0 for what is not inside, negative for limits
    in the other order.
    """
    first, second = contracts.limits(function, low=low, high=high)
    sign = jnp.where(first > second, -1, 1).astype(first.dtype)
    sign = jnp.where(jnp.isnan(first) | jnp.isnan(second), jnp.nan, sign)
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    step = 2 * _REACH[low.dtype] / (order - 1)

    def of_one(index: int) -> tuple[float, ...]:
        t = step * (index - order // 2)
        u, du = math.pi / 2 * math.sinh(t), step * math.pi / 2 * math.cosh(t)
        e, sinh, cosh = math.exp(u), math.sinh(u), math.cosh(u)
        nearer_end = 1 / (1 + math.exp(2 * abs(u)))  # of a unit interval: it keeps digits
        return nearer_end, du / (2 * cosh * cosh), e, du * e, sinh, du * cosh

    rules = zip(*map(of_one, range(order)), strict=True)
    nearer, d_nearer, e, de, sinh, d_sinh = jnp.asarray(list(rules), low.dtype)
    # All three, since limits may be traced, with 0 in the place of infinite ones.
    from_low, to_high = jnp.isfinite(low), jnp.isfinite(high)
    a, b = jnp.where(from_low, low, 0), jnp.where(to_high, high, 0)
    part = (b - a) * nearer
    x = jnp.where(jnp.arange(order) < order // 2, a + part, b - part)
    x = jnp.where(to_high, jnp.where(from_low, x, b - e), jnp.where(from_low, a + e, sinh))
    weights = jnp.where(from_low & to_high, (b - a) * d_nearer, d_sinh)
    weights = jnp.where(from_low ^ to_high, de, weights)
    inside = (low < x) & (x < high)
    return jnp.where(inside, x, x[order // 2]), sign * jnp.where(inside, weights, 0)
