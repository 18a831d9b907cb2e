"""Renyi's divergence, a function of the divergence sum E = sum p^order q^(1 - order)."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from kl_jax._arithmetic import clamp_finite, clamp_max, clamp_min
from kl_jax._blocks import OutcomeTerms, log_mass, log_of_mass
from kl_jax._contracts import AxisName
from kl_jax._exponentials import (
    expm1,
    expm1_quotient,
    log1p,
    phi,
    powers_of,
    scaled_phi_difference,
    scaled_phi_quotient,
)
from kl_jax._family import Family, Rows
from kl_jax._fitted import fitted_term, is_fitted


@dataclasses.dataclass(frozen=True)
class _Renyi(Family):
    """D = log(E) / (order - 1), with the slopes of w = p^order q^(1 - order) / E.

    dD = sum order / (order - 1) (w - p) da + (q - w) db.
    """

    def contains(self, parameter: Array) -> Array:
        return (parameter > 0) & (parameter < jnp.inf)

    def peak(self, x: OutcomeTerms, *parameters: Any) -> Array:
        """The largest log_power, beside which the powers neither overflow nor all vanish;
        0 where they do neither as they are.
        """
        (order,) = parameters
        top = jnp.max(_log_power(x, order), -1, keepdims=True)
        return jnp.where(jnp.isfinite(top) & (jnp.abs(top) > 60), top, 0)

    def terms(self, x: OutcomeTerms, slopes: bool, *parameters: Any) -> Rows:
        """Those of (1 - E) / (1 - order), and of E / e^peak."""
        peak, order = parameters
        log_power, log_tilt = _log_power(x, order), _one_minus(order) * x.r
        # Of 1000 outcomes log(p) is about -7, and where r is the same at many, so is what
        # the logarithm of the power loses: 9 ULP of a divergence of 1. p loses none of it.
        plain = (peak == 0) & (jnp.abs(log_tilt) < 20)
        exponent = jnp.where(plain, log_tilt, log_power - peak)
        return _term(x, order), jnp.where(plain, x.p, 1) * jnp.exp(exponent)

    def rows(self, axis_name: AxisName, sums: Rows, *parameters: Any) -> Rows:
        (order,) = parameters
        terms, mass, peak = sums
        log_power = log_of_mass(peak, mass)
        if axis_name is not None:
            terms = lax.psum(terms, axis_name)
            log_power = log_mass(axis_name, log_power[..., None])
        c = _one_minus(order)
        s = c * terms
        small = (-1e30 < s) & (s <= 0.5)
        near = -log1p(-jnp.where(small, s, 0)) / c
        return (jnp.where(small, near, -log_power / c),)

    def slopes(self, x: OutcomeTerms, rows: Rows, *parameters: Any) -> tuple[Array, ...]:
        """That of the order is KL(w || p) / (1 - order)^2, of which no term is negative."""
        (order,) = parameters
        t = _tilted(x, rows, order)
        # w - p relative to the larger of the two, and divided by 1 - order, which may be 0.
        below = jnp.where(t.above, -t.exponent, t.exponent)
        larger = jnp.where(t.above, t.w, x.p)
        of_p = -order * (larger * (t.centred * expm1_quotient(below)))
        of_q = -_difference(t.w, x.q, t.from_q)
        change = (larger * (t.centred * scaled_phi_quotient(-t.exponent))) * t.centred
        of_p, change = (jnp.where(t.infinite, 0, y) for y in (of_p, change))
        return of_p, jnp.where(t.infinite, x.q_minus_p, of_q), change


def _term(x: OutcomeTerms, order: float | Array) -> Array:
    """(order p + c q - p^order q^c) / c >= 0 with c = 1 - order, of which the sum is
    (1 - E) / c.
    """
    if is_fitted(order, _ORDER, x.r):
        return fitted_term(x, _exact_term, order, _far_apart(x, order))
    c = _one_minus(order)
    log_power, log_tilt = _log_power(x, order), c * x.r
    # E_p[e^(c r)] = E_q[e^(-order r)]: the smaller power cancels less.
    swap = jnp.asarray(order < 0.5)
    p, q = jnp.where(swap, x.q, x.p), jnp.where(swap, x.p, x.q)
    r, power = jnp.where(swap, -x.r, x.r), jnp.where(swap, order, c)
    # e^(c r) may leave the range where p e^(c r) does not. A row that reaches the bounds
    # has E > 1e30, and takes its logarithm instead.
    far = (c < 0) & (log_tilt > 20)
    near = jnp.where(r > 0, q, p) * scaled_phi_difference(jnp.where(far, 0, r), power)
    least = jnp.where(far, jnp.maximum(x.r, -1e6), 0)
    grown = jnp.exp(jnp.where(far, jnp.minimum(log_power, 80), -jnp.inf))
    beyond = x.p * phi(least) - (grown - x.p * (1 + c * least)) / c
    return jnp.where(far, beyond, jnp.where(swap, order / c, 1) * near)


_ORDER = 0.9  # the largest of which the term is fitted


def _exact_term(p: Decimal, q: Decimal, order: Decimal) -> Decimal:
    c = 1 - order
    return (order * p + c * q - p * (c * (q / p).ln()).exp()) / c


def _far_apart(x: OutcomeTerms, order: float) -> Array:
    """The term beside the larger of p and q, of weights 1 - w and w for the smaller:
    (1 - w) + w e^-d - e^(-w d), times 1 / c.
    """
    d, c = jnp.abs(x.r), 1 - order
    small, large = (jnp.where(x.r > 0, *w) for w in ((order, c), (c, order)))
    parts = large + small * powers_of(d).ratio
    return (parts - powers_of(small * d).ratio) * (1 / c)


class _Tilted(NamedTuple):
    """What w = p^order q^(1 - order) / E is made of."""

    w: Array
    centred: Array  # r + D
    exponent: Array  # log(w / p) = (1 - order) (r + D)
    from_q: Array  # log(w / q) = (1 - order) D - order r
    above: Array  # whether w > p
    infinite: Array  # whether D is


def _tilted(x: OutcomeTerms, rows: Rows, order: float | Array) -> _Tilted:
    (value,) = rows
    c = _one_minus(order)
    infinite = value == jnp.inf
    value, r = jnp.where(infinite, 0, value), clamp_finite(x.r)
    apart = (x.log_p == -jnp.inf) | (x.log_q == -jnp.inf)
    power = _log_power(x, order) + c * value
    w = jnp.exp(jnp.where(apart | infinite, -jnp.inf, power))
    # From e^-1e4 on there is nothing, and products of what is beyond may be inf times 0.
    bound = lax.stop_gradient(1e4 / jnp.abs(c))
    centred = clamp_max(clamp_min(r + value, -bound), bound)
    exponent, from_q = c * centred, c * value - order * r
    return _Tilted(w, centred, exponent, from_q, exponent > 0, infinite)


def _log_power(x: OutcomeTerms, order: float | Array) -> Array:
    """log(p^order q^(1 - order))."""
    power = order * x.log_p + _one_minus(order) * x.log_q
    return jnp.where(x.log_p == -jnp.inf, -jnp.inf, power)


def _one_minus(order: float | Array) -> float | Array:
    """For an order of 1, which is KL: so little above that they are the same."""
    if not isinstance(order, Array):
        return 1 - order
    return (1 - order) + jnp.where(order == 1, -(2.0**-60), 0)


def _difference(x: Array, y: Array, log_ratio: Array) -> Array:
    """x - y, of log(x / y): relative to the larger, it neither cancels nor overflows."""
    above = log_ratio > 0
    change = expm1(jnp.where(above, -log_ratio, log_ratio))
    return jnp.where(above, -x * change, y * change)


RENYI = _Renyi()
