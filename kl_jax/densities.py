"""KL of two densities of one dimension, by quadrature."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts
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
    with_error: Literal[True],
) -> tuple[Array, Array]: ...
def kl_from_densities(
    log_p: Density,
    log_q: Density,
    low: ArrayLike,
    high: ArrayLike,
    *,
    order: int = 511,
    with_error: bool = False,
) -> Array | tuple[Array, Array]:
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
      pair of the value and an estimate of its error: the difference from the rule of every
      second node, plus the effect of log-densities that are off by one rounding. Where the
      error is small, the estimate is much larger.

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
    _contracts.function(name, log_p, "log_p")
    _contracts.function(name, log_q, "log_q")
    limits = _contracts.operands(name, low=low, high=high)
    order = _contracts.nodes(name, order, 5)
    _contracts.flag(name, "with_error", with_error)

    def logs(x: Array) -> list[Array]:
        results = {"the result of log_p": log_p(x), "the result of log_q": log_q(x)}
        pair = _contracts.floats(name, **results)
        _contracts.equal_shapes(name, **dict(zip(results, pair, strict=True)))
        return pair

    # Compiled in three steps, between which the densities are evaluated as they were given:
    # what they close over may be traced, or be another thing in the next call. Executed one
    # operation at a time, the steps would compile 30 programs in a first call.
    x, weights = _nodes(name, order, *limits)
    seen, x = _seen(x, weights, jax.vmap(logs)(x)[0])
    log_px, log_qx = jax.vmap(logs)(x)
    _checks.logits(name, "the result of log_p", log_px)
    _checks.logits(name, "the result of log_q", log_qx)
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
    first, second = _contracts.limits(function, low=low, high=high)
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
