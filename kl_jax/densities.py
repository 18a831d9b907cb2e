"""KL of two densities of one dimension, by quadrature."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts, _keywords
from kl_jax._arithmetic import nan_where
from kl_jax.elementwise import rel_entr_of_logs

__all__ = ["kl_from_densities"]

Density = Callable[[Array], ArrayLike]  # the logarithm of one, at a scalar

# Nodes t are in [-reach, reach]: x reaches from 2e-19 to 4e18, and 3e-38 to 3e37, so that
# from an end with p ~ x^-1/2 no more is missing than eps.
_REACH = {jnp.dtype("float32"): 4.0, jnp.dtype("float64"): 4.7}


@overload
def kl_from_densities(
    log_p: Density,
    log_q: Density,
    low: ArrayLike,
    high: ArrayLike,
    *,
    order: int = ...,
    points: Sequence[ArrayLike] | ArrayLike | None = ...,
    with_error: Literal[False] = ...,
) -> Array: ...
@overload
def kl_from_densities(
    log_p: Density,
    log_q: Density,
    low: ArrayLike,
    high: ArrayLike,
    *,
    order: int = ...,
    points: Sequence[ArrayLike] | ArrayLike | None = ...,
    with_error: Literal[True],
) -> tuple[Array, Array]: ...
def kl_from_densities(
    log_p: Density,
    log_q: Density,
    low: ArrayLike,
    high: ArrayLike,
    *,
    order: int = 511,
    points: Sequence[ArrayLike] | ArrayLike | None = None,
    with_error: bool = False,
) -> Array | tuple[Array, Array]:
    r"""KL(p || q), in nats: the integral of p (log p - log q) over [low, high].

    Double-exponential quadrature, for densities of one dimension. Not renormalised: for
    densities of another mass it is the integral, and not a divergence, and the estimate of
    the error says how far from 1 the mass is. Where a density has a kink, a jump or a peak
    that is narrow or far away, pass it in `points`.

    Args:
      log_p: A function of a scalar x, the log-density of p there. May return an array, for
        parameters in batches.
      log_q: The same for q, with a result of the same shape.
      low: Lower limit, a number or a 0-d array, of the dtype that x gets; may be -inf.
      high: Upper limit; may be inf.
      order: Number of nodes, odd, of each piece of the interval.
      points: Numbers between the limits, a sequence or an array with one axis, that split
        the interval: kinks, jumps, singularities and peaks, in any order.
      with_error: Whether to return an estimate of the error too.

    Returns:
      The shape of the results; float64 if a result is, else float32. With `with_error` a
      pair of the value and an estimate of its error, the sum of four: the difference from
      the rule of every second node; the effect of one rounding of x and of log-densities;
      |1 - mass|, of the mass of p at the nodes, times 1 + sum of |terms|; and what lies
      beyond the last nodes at both ends of a piece, if the terms go on falling as they do
      there, or inf if they do not fall. Where the error is small, the estimate is much
      larger. It is one for a density p: of one that is not normalised, or integrated over
      a part of its support, |1 - mass| is no error.

    Raises:
      ValueError: If a limit is no scalar, `points` has more than one axis, the results'
        shapes differ, or `order` is even or less than 5.
      TypeError: If `log_p` or `log_q` is no function, or none that JAX can trace, as one of
        SciPy; or a result is not floating point.

    Boundary: 0 where p = 0, also by underflow, inf where q = 0 < p at a node. For low >
      high the integral with its sign reversed, for low = high 0, nan for a limit or a point
      of nan. Points outside the limits are moved to them, and change nothing. Nodes are
      inside: the densities are evaluated neither at the limits nor at the points.
      `kl_jax.checked` refuses a mass of p at the nodes that is off 1 by more than 0.001,
      and points that are not inside.
    Gradient: in the limits and points, where finite, and in whatever `log_p` and `log_q`
      close over: that of the rule. 0 in the limits where they are equal. The estimate of
      the error is constant.
    Error: by default that of the log-densities, for those that are smooth inside, decay to
      both sides, and have a width the nodes see: on the line from 0.1 to 1000, and no
      further from 0 than 10 widths (at 1000 and 10, 4e-10 in float64,
      tests/test_densities.py); from a finite limit or a point to infinity from 1e-4 to 1e4;
      between finite ones from 1/40 of their distance, and next to them from 1e-4 of it.
      Beyond, nodes miss the density, which the mass shows: give limits around it, or points
      at its peaks. Singular densities belong at a limit of 0, next to which x has digits:
      next to 1, up to d = 2^-24 and 2^-53 from it, beta(1/2, 1/2) has 2 sqrt(d) / pi of its
      mass. Likewise next to a point of 1000 x has 3e-5 in float32, and N(1000, 1) an error
      of 3e-5.

    >>> import jax.numpy as jnp
    >>> log_p, log_q = lambda x: -x, lambda x: jnp.log(2.0) - 2 * x
    >>> kl_from_densities(log_p, log_q, 0, jnp.inf).round(4)
    Array(0.3069, dtype=float32)
    >>> from jax.scipy.stats import norm
    >>> log_p, log_q = lambda x: norm.logpdf(x, 1e3), lambda x: norm.logpdf(x, 1001.0)
    >>> kl_from_densities(log_p, log_q, -jnp.inf, jnp.inf, points=[1000]).round(3)
    Array(0.5, dtype=float32)

    Source: Takahasi and Mori, "Double exponential formulas for numerical integration"
    (1974).
    """
    name = "kl_from_densities"
    _contracts.function(name, log_p, "log_p")
    _contracts.function(name, log_q, "log_q")
    limits = _contracts.operands(name, low=low, high=high)
    order = _keywords.nodes(name, order, 5)
    _keywords.flag(name, "with_error", with_error)

    splits = () if points is None else _contracts.points(name, points)

    def logs(x: Array) -> list[Array]:
        results = {
            f"the result of {argument}": _contracts.traceable(name, argument, log, x)
            for argument, log in (("log_p", log_p), ("log_q", log_q))
        }
        pair = _contracts.floats(name, **results)
        _contracts.equal_shapes(name, **dict(zip(results, pair, strict=True)))
        return pair

    # Compiled in three steps, between which the densities are evaluated as they were given:
    # what they close over may be traced, or be another thing in the next call. Executed one
    # operation at a time, the steps would compile 30 programs in a first call.
    x, weights = _nodes(name, order, *limits, *splits)
    seen, ends, x = _seen(x, weights, jax.vmap(logs)(x)[0])
    log_px, log_qx = jax.vmap(logs)(x)
    _checks.logits(name, "the result of log_p", log_px)
    _checks.logits(name, "the result of log_q", log_qx)
    value, error, mass = _integral(order, x, log_px, log_qx, seen, ends, weights)
    _checks.inside(name, "the mass of p at the nodes", mass, _is_one, _ONE)
    return (value, error) if with_error else value


# Kinks and jumps that are no points cost up to 1e-3, of mass as of KL.
_ONE = (
    "be 1 within 0.001, of a density that the nodes see; give limits around it, or points= "
    "at its peaks and breaks"
)


def _is_one(mass: Array) -> Array:
    return jnp.abs(mass - 1) <= 1e-3


@jax.jit
def _seen(x: Array, weights: Array, log_p: Array) -> tuple[Array, Array, Array]:
    """Which nodes count, where p has an end, and where to evaluate all of them again: nodes
    with p = 0, where derivatives may be infinite, or nan, are moved to the largest p.
    """
    log_p = lax.stop_gradient(log_p)
    p = jnp.exp(log_p).reshape(len(x), -1)
    seen = jnp.any(p != 0, -1) & (weights != 0)
    best = jnp.argmax(jnp.where(seen, jnp.max(p, -1), -1))
    ends = (log_p == -jnp.inf) & (weights != 0).reshape(-1, *(1,) * (log_p.ndim - 1))
    return seen, ends, jnp.where(seen, x, x[best])


@functools.partial(jax.jit, static_argnums=0)
def _integral(
    order: int,
    x: Array,
    log_p: Array,
    log_q: Array,
    seen: Array,
    ends: Array,
    weights: Array,
) -> tuple[Array, Array, Array]:
    """Along the first axis, with an estimate of the error, and the mass of p."""

    def pieces(x: Array) -> Array:
        return x.reshape(-1, order, *x.shape[1:])

    weights = jnp.where(seen, weights, 0).astype(log_p.dtype)
    weights = weights.reshape(-1, *(1,) * (log_p.ndim - 1))
    p = jnp.exp(log_p)
    present = (p != 0) & (weights != 0)
    terms = weights * jnp.where(present, rel_entr_of_logs(log_p, log_q), 0)
    value = jnp.sum(terms, 0)
    # To first order, of p (log p - log q) in log p and log q.
    masses = jnp.abs(weights) * p
    change = (jnp.abs(terms) + masses) * _rounding(x, log_p) + masses * _rounding(x, log_q)
    rounding = float(jnp.finfo(terms.dtype).eps) * jnp.sum(jnp.where(present, change, 0), 0)
    mass = jnp.sum(jnp.where(present, masses, 0), 0)
    error = jnp.abs(value - 2 * jnp.sum(pieces(terms)[:, ::2], (0, 1))) + rounding
    error = error + jnp.abs(1 - mass) * (1 + jnp.sum(jnp.abs(terms), 0))
    sizes, present, ends = pieces(jnp.abs(terms)), pieces(present), pieces(ends)
    for side in (slice(None), slice(None, None, -1)):
        error = error + jnp.sum(_beyond(*(x[:, side] for x in (sizes, present, ends))), 0)
    error = jnp.where(jnp.isfinite(value), error, jnp.abs(value))
    return value, *lax.stop_gradient((error, mass))


def _rounding(x: Array, log: Array) -> Array:
    """|log| + |x d log / dx|, in units of a rounding, with a difference for the derivative:
    a parameter of the density is rounded as x is, and N(1000, 1) changes by 1e-4.
    """
    step = jnp.diff(x).reshape(-1, *(1,) * (log.ndim - 1))
    finite = jnp.isfinite(log)
    change = jnp.diff(jnp.where(finite, log, 0), axis=0)
    slope = jnp.abs(change / jnp.where(step == 0, jnp.inf, step))
    size = jnp.abs(x[1:]).reshape(step.shape)
    change = jnp.where(finite[1:] & finite[:-1], slope * size, 0)
    return jnp.abs(log) + jnp.concatenate([change[:1], change])


def _beyond(terms: Array, present: Array, ends: Array) -> Array:
    """What the terms after the last one that is present, along the second axis, would add
    up to: a geometric series, of the ratio between the last 1/32 of the nodes and those
    before. Towards an end, terms of the rule fall ever faster. 0 where p itself ends.
    """
    order = terms.shape[1]
    some = max(1, order // 32)
    index = lax.broadcasted_iota(jnp.int32, terms.shape, 1)
    last = jnp.max(jnp.where(present, index, -1), 1, keepdims=True)

    def between(first: int, end: int) -> Array:
        inside = (index > last - end) & (index <= last - first)
        return jnp.sum(jnp.where(inside, terms, 0), 1)

    outer, inner = between(0, some), between(some, 2 * some)
    is_end = jnp.any(ends & (index == last + 1), 1)
    falls = outer < inner
    series = outer * (outer / jnp.where(falls, inner - outer, 1))
    return jnp.where(is_end | (outer == 0), 0, jnp.where(falls, series, jnp.inf))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _nodes(
    function: str, order: int, low: ArrayLike, high: ArrayLike, *points: ArrayLike
) -> tuple[Array, Array]:
    """Nodes between the limits, and weights: 0 for what is not inside, negative for limits
    in the other order. Points split the interval into pieces with `order` nodes each.
    """
    first, second, *inner = _contracts.limits(function, low=low, high=high, points=points)
    sign = jnp.where(first > second, -1, 1).astype(first.dtype)
    sign = nan_where(jnp.isnan(first) | jnp.isnan(second), sign)
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    edges = [low[None], high[None]]
    if inner:
        between = jnp.concatenate([jnp.atleast_1d(x) for x in inner])
        is_inside = (low < between) & (between < high)
        _checks.inside(
            function, "points", between, lambda _: is_inside, "be inside the limits"
        )
        # A point that is not inside, which only `checked` can refuse, splits off nothing.
        edges.insert(1, jnp.sort(jnp.clip(between, low, high)))
        sign = nan_where(jnp.any(jnp.isnan(between)), sign)
    edges = jnp.concatenate(edges)
    x, weights = jax.vmap(functools.partial(_piece, order))(edges[:-1], edges[1:])
    return x.ravel(), sign * weights.ravel()


def _piece(order: int, low: Array, high: Array) -> tuple[Array, Array]:
    """Nodes and weights of the rule between two numbers, or to infinity."""
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
    # What rounds to an end has its weight at the number next to it: with N(1000, 1) and a
    # point of 1000, 2e-5 of the mass.
    x = jnp.where(x <= low, _next(low, high), x)
    x = jnp.where(x >= high, _next(high, low), x)
    inside = (low < x) & (x < high)
    return jnp.where(inside, x, x[order // 2]), jnp.where(inside, weights, 0)


def _next(x: Array, towards: Array) -> Array:
    """The number after it, that moves as it does; infinity itself."""
    step = jnp.nextafter(*lax.stop_gradient((x, towards))) - x
    return x + lax.stop_gradient(jnp.where(jnp.isinf(x), 0, step))
