"""KL from samples: with log-probabilities, or by distances to nearest neighbours."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts, _keywords
from kl_jax._arithmetic import jitted_custom_jvp, nan_where, power_of_2_near, tangent
from kl_jax._exponentials import expm1, phi
from kl_jax.elementwise import log_ratio

__all__ = ["kl_estimate", "kl_from_samples"]


def kl_estimate(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    estimator: Literal["k1", "k2", "k3"] = "k3",
    reparameterized: bool = False,
) -> Array:
    r"""Estimates of KL(p || q) from samples x ~ p, in nats, with the gradient of KL.

    Samples that were drawn, as tokens of a policy, do not depend on parameters: leave
    `reparameterized=False`. Samples that are a function of them, as z = m + s e of a VAE
    with a mixture or flow prior, need `reparameterized=True`: then the derivative is that
    of the value, also through the samples. Either is wrong for the other kind.

    With d = log q(x) - log p(x) of each sample, the value is

    - "k1": -d. Unbiased, of either sign.
    - "k2": d^2 / 2. Not negative, biased, little where p and q nearly agree.
    - "k3": e^d - 1 - d. Unbiased, not negative. Its variance is infinite where q has
      much heavier tails than p.

    For drawn samples the derivative is the same for all three: (e^d - 1) in log q and -d in
    log p. Averaged over samples it is an unbiased estimate of the gradient of KL(p || q) in
    the parameters of p and of q, and it vanishes for p = q. The derivatives of the values
    would estimate something else in the parameters of p: 0 for k1, the same for k2, and for
    k3, often used as a loss, the gradient of KL(q || p).

    For reparameterised samples the derivatives of the values are right, and those of k1 and
    k3 unbiased: for a normal of scale 2 against one of scale 1 the slope in the scale is
    1.5 instead of 1.1.

    *Sequences.* The KL of sequences is that of their log-probabilities, which are sums over
    tokens: `kl_estimate(log_p.sum(-1), log_q.sum(-1))`. The sum of the tokens' estimates
    has the same mean, but not the same gradient: a token also decides which tokens follow
    (12 % off for two tokens of two outcomes). *Importance weights*: samples of another
    distribution r need the factor `stop_gradient(p / r)` on the estimate. `weighted`
    divides by the sum of the weights: that is consistent, but of one sample it is 0.114 in
    the mean where KL is 0.082. *Clipping*: log q - log p bounded before the
    call, `kl_estimate(log_p, log_p + jnp.clip(log_q - log_p, -c, c))`, has a slope of 0 in
    log q beyond c.

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
      reparameterized: Whether the samples depend on the parameters that are differentiated
        in, known while tracing.

    Returns:
      One estimate a sample, the shape of `log_p`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, or `estimator` is none of the three.
      TypeError: If an argument is not a floating-point array, or `reparameterized` no bool.

    Boundary: 0 where both are -inf, as for masked entries. inf where only log q is. Where
      only log p is, and x no sample of p, -inf for k1 and inf for k2 and k3. nan for nan.
    Gradient: as above; 0 where log p = -inf, and 0 in log p where log q = -inf. A slope
      that overflows, as e^d of padding does, is the largest number: 0 times it is 0 under a
      mask. Second derivatives of drawn samples in log p are not unbiased.
    Error: at most 4 ULP after the rounding of d (tests/test_estimators.py;
      benchmarks/other_accuracy.py: 1.4, and 1.4 in float64).

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
    log_p, log_q = _contracts.floats(name, log_p=log_p, log_q=log_q)
    _contracts.equal_shapes(name, log_p=log_p, log_q=log_q)
    _keywords.choice(name, "estimator", estimator, ("k1", "k2", "k3"))
    _keywords.flag(name, "reparameterized", reparameterized)
    _checks.logits(name, "log_p", log_p)
    _checks.logits(name, "log_q", log_q)
    return _kl_estimate(estimator, reparameterized, log_p, log_q)


def _log_q_minus_log_p(log_p: Array, log_q: Array) -> Array:
    """log q - log p, 0 where both are -inf."""
    return jnp.where((log_p == log_q) & (log_p == -jnp.inf), 0, log_q - log_p)


@functools.partial(jitted_custom_jvp, static=(0, 1))
def _kl_estimate(
    estimator: str, reparameterized: bool, log_p: Array, log_q: Array
) -> Array:
    d = _log_q_minus_log_p(log_p, log_q)
    return {"k1": lambda: -d, "k2": lambda: d * d / 2, "k3": lambda: phi(d)}[estimator]()


def _kl_estimate_jvp(estimator, reparameterized, primals, tangents):
    log_p, log_q = primals
    dlog_p, dlog_q = tangents
    d = _log_q_minus_log_p(log_p, log_q)
    none = log_p == -jnp.inf
    d_q, d_p = jnp.where(none, 0, d), jnp.where(none | (log_q == -jnp.inf), 0, d)
    if reparameterized:
        of_value = {
            "k1": lambda d: jnp.where(none, 0, -jnp.ones_like(d)),
            "k2": lambda d: d,
            "k3": expm1,
        }[estimator]
        slope_q, slope_p = of_value(d_q), -of_value(d_p)
    else:
        slope_q, slope_p = expm1(d_q), -d_p
    value = _kl_estimate(estimator, reparameterized, log_p, log_q)
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

    x and y must be drawn apart, and share no point. Of a data set and itself, of windows
    that overlap, or of a part and the whole the value is negative, -1 for k = 1, and not
    0: each shared point is the nearest neighbour of itself. `checked` refuses them.
    Categories and other data of few values, which do share points, are counts:
    `kl_from_counts`.

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

    Boundary: a sample with a distance of 0, as a duplicate has, contributes psi(l) -
      psi(l') + log(m / (n - 1)) instead: psi is the digamma function, l and l' count the
      other x and the y within the larger of the two distances. Where rho = 0 and two or
      more other x are at the very point, the larger of this and the same of the counts
      there, l' taken as 1 if there is no y: at a value that only x has, all y may be at
      one distance, as at 1 against 0. So finite data give a finite result, and data of few
      values one near the KL of their frequencies, or, where that is inf, one that grows
      as the logarithm of the number of samples. Distances below 1e-37 of the largest
      number count as 0 in float32, below 1e-307 in float64. nan and inf give nan.
    Gradient: that of the distances, with the neighbours held fixed; a sample with a
      distance of 0 contributes 0.
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
    k = _keywords.positive_integer(name, "k", k)
    x, y = _contracts.floats(name, x=x, y=y)
    _contracts.samples(name, k, x=x, y=y)
    _checks.all_finite(name, "x", x)
    _checks.all_finite(name, "y", y)
    _checks.no_shared_points(name, "x", x, "y", y)
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
        rho == 0,
        points,
        others,
    )
    value = jnp.mean(jnp.where(none, together, apart)) + math.log(m / (n - 1))
    return nan_where(~(largest < jnp.inf), value)


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


def _of_one_ball(ball: Array, repeated: Array, x: Array, y: Array) -> Array:
    """psi(l) - psi(l') of the numbers of other x and of y in a ball around each x, or at
    the point itself if that is more.
    """
    none, psi = jnp.full((), len(y)), jax.scipy.special.digamma

    def of_one(point: Array, ball: Array, repeated: Array, itself: Array) -> Array:
        to_x, to_y = _distances(point, x, itself), _distances(point, y, none)

        def counts(radius: ArrayLike) -> list[Array]:
            return [jnp.sum(z <= radius, dtype=ball.dtype) for z in (to_x, to_y)]

        of_x, of_y = counts(ball)
        within = psi(of_x) - psi(of_y)
        # Of data that have few values the ball may hold all x and all y, at values that
        # they do not share. A single other x there may be an accident.
        x_here, y_here = counts(0)
        here = psi(jnp.maximum(x_here, 1)) - psi(jnp.maximum(y_here, 1))
        return jnp.where(repeated & (x_here > 1), jnp.maximum(within, here), within)

    return _by_row(of_one, x, ball, repeated, jnp.arange(len(x)))
