r"""Divergences along an axis, from logits or from probabilities, and their transforms.

For logits a (of p) and b (of q) everything follows from delta = b - a, centred by its
mean under p: with d = delta - E_p[delta] and phi(x) = e^x - 1 - x >= 0,

    KL(p || q) = log1p(E_p[phi(d)]),

and no term is negative, so that nothing cancels when p and q nearly agree.
Log-probabilities are logits, so one function serves both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import contracts
from kl_jax.elementwise import phi, rel_entr, tangent, two_sum

__all__ = ["kl_divergence", "kl_divergence_from_probs", "reverse", "tempered"]


def kl_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence KL(p || q) = sum p (log p - log q), in nats.

    The expected extra code length, under p, of coding with q. Never negative, and 0
    exactly where the logits are equal. p and q are softmax(logits) along `axis`.

    Args:
      logits_p: Logits of p; log-probabilities are logits. -inf is probability 0.
      logits_q: Logits of q, of the same shape.
      axis: The axis of outcomes, or several.
      where: Outcomes that exist: boolean, of the rank of the logits, each dimension
        equal to theirs or 1. p and q are renormalised on them. (A mask of *rows* is
        `masked`'s.)

    Returns:
      The shape of the logits without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, or there is no outcome.
      TypeError: If the logits are not floating point, or `where` is not boolean.

    Boundary: inf where q = 0 < p. Outcomes with p = 0 contribute only to q's normaliser;
      -inf on both sides is no outcome at all. 0 where p has no outcome (all -inf, or
      `where` all False). +inf logits share the whole mass equally, and no gradient passes
      to their row. nan only from nan.
    Gradient: -p (log(q / p) + KL) in logits_p, q - p in logits_q. Where KL = inf they
      are 0 and q - p; where p has no outcome, 0 and 0. Finite wherever the logits are.
    Error: at most 8 ULP where KL >= 2^-90 in float32 (benchmarks/accuracy.py: 5.0, and 6.3
      in float64), however little the logits differ and whatever offset they share. Below,
      about the smallest normal number. Gradients, where KL is finite: 1e-6 of the largest
      component in float32.

    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> q = jnp.log(jnp.array([0.9, 0.1]))
    >>> round(kl_divergence(p, q).item(), 4)
    0.5108

    Source: Kullback and Leibler (1951).
    """
    a, b = contracts.floats("kl_divergence", logits_p=logits_p, logits_q=logits_q)
    contracts.equal_shapes("kl_divergence", logits_p=a, logits_q=b)
    axes = contracts.axes("kl_divergence", axis, a.shape)
    contracts.some_outcomes("kl_divergence", a.shape, axes)
    if where is not None:
        exists = contracts.support("kl_divergence", where, a.shape)
        a, b = (jnp.where(exists, x, -jnp.inf) for x in (a, b))
    return _kl(_finite_above(a, axes), _finite_above(b, axes), axes)


def kl_divergence_from_probs(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence KL(p || q) = sum p log(p / q) of probabilities, in nats.

    The sum of `rel_entr` as it stands: p and q are not renormalised, neither as a whole
    nor on `where`.

    Args:
      p: Probabilities along `axis`.
      q: Probabilities of q, of the same shape.
      axis: The axis of outcomes, or several.
      where: Outcomes that are summed: boolean, of the rank of p, each dimension equal to
        p's or 1.

    Returns:
      The shape of `p` without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, or there is no outcome.
      TypeError: If p or q is not floating point, or `where` is not boolean.

    Boundary: that of `rel_entr`: 0 where p = 0, inf where q = 0 < p or for a negative
      entry, nan for nan. Probabilities that do not sum to the same total shift the
      result by the difference, which can make it negative: rounding alone does so near
      p = q. `kl_divergence` of logits does not have this limit.
    Gradient: that of `rel_entr`: log(p / q) + 1 in p (0 at p = 0), -p / q in q. 0 outside
      `where`, whatever stands there.
    Error: each term has at most 4 ULP; the sum, a few ULP of its largest terms.

    >>> import jax.numpy as jnp
    >>> p, q = jnp.array([0.5, 0.5]), jnp.array([0.9, 0.1])
    >>> round(kl_divergence_from_probs(p, q).item(), 4)
    0.5108

    Source: Kullback and Leibler (1951); `scipy.stats.entropy` without its normalisation.
    """
    p, q = contracts.floats("kl_divergence_from_probs", p=p, q=q)
    contracts.equal_shapes("kl_divergence_from_probs", p=p, q=q)
    axes = contracts.axes("kl_divergence_from_probs", axis, p.shape)
    contracts.some_outcomes("kl_divergence_from_probs", p.shape, axes)
    if where is not None:
        exists = contracts.support("kl_divergence_from_probs", where, p.shape)
        p, q = (jnp.where(exists, x, 0) for x in (p, q))
    return jnp.sum(rel_entr(p, q), axes)


# --- transforms of a divergence -------------------------------------------------


def reverse(divergence: Callable[..., Any]) -> Callable[..., Any]:
    """`divergence` with its first two arguments exchanged: KL(q || p) from KL(p || q).

    Args:
      divergence: A function of two logits or probabilities, p first.

    Returns:
      A function with the same arguments.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.array([0.0, 1.0]), jnp.array([0.0, 3.0])
    >>> (reverse(kl_divergence)(a, b) == kl_divergence(b, a)).item()
    True
    """
    contracts.function("reverse", divergence)

    @functools.wraps(divergence, updated=())
    def transformed(p: Any, q: Any, /, *args: Any, **kwargs: Any) -> Any:
        return divergence(q, p, *args, **kwargs)

    return transformed


def tempered(
    divergence: Callable[..., Any], temperature: float | Array
) -> Callable[..., Any]:
    r"""`divergence` of logits / T, times T^2: the distillation loss at temperature T.

    The factor keeps the gradient in the logits, which falls as 1 / T^2, comparable
    between temperatures.

    Args:
      divergence: A function of two logits that returns an array.
      temperature: T, a number > 0 or a 0-d floating array (as from an optax schedule).

    Returns:
      A function with the same arguments; its result is in T^2 nats.

    Raises:
      ValueError: If the temperature is a number that is not finite and > 0, or an array
        with axes.   TypeError: If it is neither a number nor a floating array, or if
        `divergence` returns weighted values: write `masked(tempered(f, T))`.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.array([0.0, 1.0]), jnp.array([0.0, 3.0])
    >>> round(tempered(kl_divergence, 2.0)(a, b).item(), 4)
    0.4195

    Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015).
    """
    contracts.function("tempered", divergence)
    t = contracts.temperature("tempered", temperature)

    @functools.wraps(divergence, updated=())
    def transformed(
        logits_p: ArrayLike, logits_q: ArrayLike, /, *args: Any, **kwargs: Any
    ) -> Array:
        a, b = contracts.floats("tempered", logits_p=logits_p, logits_q=logits_q)
        divisor = jnp.asarray(t, a.dtype)
        value = contracts.values(
            "tempered", divergence(a / divisor, b / divisor, *args, **kwargs)
        )
        divisor = divisor.astype(value.dtype)
        return value * divisor * divisor  # T^2 itself may overflow

    return transformed


# --- the engine -----------------------------------------------------------------


def _finite_above(logits: Array, axes: tuple[int, ...]) -> Array:
    """Logits with +inf replaced by the point mass they stand for: 0 at +inf, else -inf."""
    top = jnp.max(logits, axes, keepdims=True)
    point = jnp.where(logits == jnp.inf, 0, jnp.full_like(logits, -jnp.inf))
    return jnp.where(top == jnp.inf, point, logits)


def _shifted(logits: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Logits less their maximum, and the rounding error of that; -inf and 0 for -inf."""
    top = lax.stop_gradient(jnp.max(logits, axes, keepdims=True))
    absent = logits == -jnp.inf
    shift = jnp.where(top == -jnp.inf, 0, -top)
    shifted, error = two_sum(jnp.where(absent, 0, logits), shift)
    # The error of an overflow is nan: -3e38 less 3e38 is -inf.
    exact = absent | (shifted == -jnp.inf)
    return jnp.where(absent, -jnp.inf, shifted), jnp.where(exact, 0, error)


def _masses(shifted: Array, error: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """e^x of shifted logits, and their sum (1 where there is no outcome).

    The error of the shift is put back to first order: at x = -40 it is 17 ULP of e^x.
    """
    mass = jnp.exp(shifted)
    mass = mass + mass * error
    total = jnp.sum(mass, axes, keepdims=True)
    return mass, jnp.where(total == 0, 1, total)


class _Pair(NamedTuple):
    """What the value and the slopes are made of."""

    p: Array  # softmax(a); 0 throughout where p has no outcome
    total_p: Array  # of e^(a - max a)
    mass_q: Array  # e^(b - max b)
    total_q: Array  # its sum
    d: Array  # delta - E_p[delta] where p and q have mass, else 0, for delta = b - a
    scale: Array  # p e^d = mass_q e^scale / total_p
    infinite: Array  # some outcome has p > 0 and q = 0
    empty: Array  # p has no outcome


def _pair(logits_p: Array, logits_q: Array, axes: tuple[int, ...]) -> _Pair:
    a, a_error = _shifted(logits_p, axes)
    b, b_error = _shifted(logits_q, axes)
    mass_p, total_p = _masses(a, a_error, axes)
    mass_q, total_q = _masses(b, b_error, axes)
    p = mass_p / total_p
    common = (p != 0) & (b != -jnp.inf)
    # b is taken relative to its value at p's mode, so that delta is exactly 0 there: where
    # p is nearly one outcome the mean is nearly that outcome's delta.
    at_mode = jnp.where((a == 0) & common, logits_q, -jnp.inf)
    pilot = lax.stop_gradient(jnp.max(at_mode, axes, keepdims=True))
    pilot = jnp.where(pilot == -jnp.inf, 0, pilot)
    # Select before subtracting: -inf - (-inf) is nan, in the derivative too.
    a, logits = (jnp.where(common, x, 0) for x in (a, logits_q))
    b, b_error = two_sum(logits, jnp.where(common, -pilot, 0))
    # Near-equal logits differ in their last digits: delta needs the errors of the shifts,
    # and its own, until the mean is off.
    delta, error = two_sum(b, -a)
    delta, error = two_sum(delta, error + (b_error - a_error))
    mean = jnp.sum(p * delta, axes, keepdims=True)
    d = jnp.where(common, (delta - mean) + error, 0)
    residual = jnp.sum(p * d, axes, keepdims=True)
    d = jnp.where(common, d - residual, 0)
    scale = (jnp.max(logits_q, axes, keepdims=True) - pilot) - (mean + residual)
    # Where e^a underflows p > 0 is a question of -inf, not of arithmetic.
    certain = (logits_p > -jnp.inf) & (logits_q == -jnp.inf)
    infinite = jnp.any(certain | ((p > 0) & ~common), axes, keepdims=True)
    empty = jnp.all(logits_p == -jnp.inf, axes, keepdims=True)
    return _Pair(p, total_p, mass_q, total_q, d, scale, infinite, empty)


# Where the scale passes this, KL > 30 - log V and its logarithms no longer cancel;
# e^30 V is far from overflow in float32.
_LARGE = 30.0


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=(2,))
def _kl(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    p, total_p, mass_q, total_q, d, scale, infinite, empty = _pair(a, b, axes)
    # p phi(d), or q on p's scale, p e^d, less p (1 + d): each where it neither cancels nor
    # overflows. The second holds at p = 0 too.
    near = (-1 <= d) & (d <= 2) & (p > 0)
    q_on_p = mass_q * (jnp.exp(jnp.minimum(scale, _LARGE)) / total_p)
    terms = jnp.where(near, p * phi(jnp.where(near, d, 0)), q_on_p - p * (1 + d))
    small = jnp.log1p(jnp.sum(terms, axes, keepdims=True))
    large = scale + (jnp.log(total_q) - jnp.log(total_p))
    value = jnp.where(scale < _LARGE, small, large)
    value = jnp.where(infinite, jnp.inf, value)
    return jnp.squeeze(jnp.where(empty, 0, value), axes)


@functools.partial(jax.jit, static_argnums=(2,))
def _kl_slopes(a: Array, b: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """dKL/da = -p d and dKL/db = q - p, by p (e^(d - KL) - 1) where that would cancel."""
    p, _, mass_q, total_q, d, _, infinite, empty = _pair(a, b, axes)
    kl = jnp.where(infinite, 0, jnp.expand_dims(_kl(a, b, axes), axes))
    log_quotient = d - kl
    # Where KL is large d - KL cancels instead, and q - p is as good.
    near = (jnp.abs(log_quotient) < 1) & (kl < 1) & (p > 0) & (mass_q > 0) & ~infinite
    close = p * jnp.expm1(jnp.where(near, log_quotient, 0))
    slope_a = jnp.where(infinite, 0, -p * d)
    q = mass_q / total_q
    slope_b = jnp.where(empty, 0, jnp.where(near, close, q - p))
    # The slopes sum to 0; that they do not is the error of the sums in p and q.
    return slope_a, slope_b - jnp.sum(slope_b, axes, keepdims=True) * q


def _kl_jvp(axes, primals, tangents):
    (a, b), (da, db) = primals, tangents
    slope_a, slope_b = _kl_slopes(a, b, axes)
    change = tangent(a, (slope_a, da), (slope_b, db))
    return _kl(a, b, axes), jnp.sum(change, axes)


_kl.defjvp(_kl_jvp, symbolic_zeros=True)
