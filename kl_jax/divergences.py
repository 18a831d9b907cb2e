r"""Divergences along an axis, from logits.

For logits a (of p) and b (of q) everything follows from delta = b - a, centred by its
mean under p: with d = delta - E_p[delta] and phi(x) = e^x - 1 - x >= 0,

    KL(p || q) = log1p(E_p[phi(d)]),

and no term is negative, so that nothing cancels when p and q nearly agree.
Log-probabilities are logits, so one function serves both.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts
from kl_jax._arithmetic import result_dtype, root
from kl_jax._blocks import summary
from kl_jax._contracts import AxisName
from kl_jax._family import Family
from kl_jax._generators import JEFFREYS, JENSEN_SHANNON, SKEW
from kl_jax._renyi import RENYI

__all__ = [
    "jeffreys_divergence",
    "jensen_shannon_distance",
    "jensen_shannon_divergence",
    "kl_divergence",
    "renyi_divergence",
    "reverse_kl_divergence",
    "skew_kl_divergence",
]


def kl_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
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
      axis_name: Mesh axes, inside `jax.shard_map`, over which the outcomes are split as
        well; -inf on both sides pads a shard. The result is the same on all of them. A
        gradient taken inside the body needs shard_map's `check_vma=True`, the default.

    Returns:
      The shape of the logits without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, or there is no outcome.
      TypeError: If the logits are not floating point, or `where` is not boolean.

    Boundary: inf where q = 0 < p. Outcomes with p = 0 contribute only to q's normaliser;
      -inf on both sides is no outcome at all. 0 where p has no outcome (all -inf, or
      `where` all False). +inf logits share the whole mass equally. nan only from nan.
    Gradient: -p (log(q / p) + KL) in logits_p, q - p in logits_q. Where KL = inf they
      are 0 and q - p; where p has no outcome, 0 and 0. Finite wherever the logits are.
      Reverse mode keeps the logits and nine numbers a row.
    Error: at most 8 ULP where KL >= 2^-90 in float32 (tests/test_divergences.py;
      benchmarks/accuracy.py: 4.7, and 5.8 in float64), however little the logits differ and
      whatever offset they have. Below, 4 ULP or smallest normal numbers. Gradients and
      Fisher-vector products (jvp of grad): 1e-6 of the largest component in float32; 1e-5
      where log(q / p) is -40. Values on a CPU have the same bits for a row alone, in a
      batch, under vmap and in `shard_map` if the outcomes are a multiple of 8 (not in JAX
      0.10.0); else, and on a mesh in plain `jit`, up to 4 ULP.

    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> q = jnp.log(jnp.array([0.9, 0.1]))
    >>> round(kl_divergence(p, q).item(), 4)
    0.5108

    Source: Kullback and Leibler (1951).
    """
    return _divergence("kl_divergence", _kl, logits_p, logits_q, axis, where, axis_name)


def reverse_kl_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Reverse KL divergence KL(q || p) = sum q (log q - log p), in nats.

    `kl_divergence` with p and q exchanged: the mode-seeking loss of a student q.

    Args:
      logits_p: Logits of p; log-probabilities are logits. -inf is probability 0.
      logits_q: Logits of q, of the same shape.
      axis: The axis of outcomes, or several.
      where: Outcomes that exist, as for `kl_divergence`.
      axis_name: Mesh axes over which the outcomes are split, as for `kl_divergence`.

    Returns:
      The shape of the logits without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, or there is no outcome.
      TypeError: If the logits are not floating point, or `where` is not boolean.

    Boundary: inf where p = 0 < q. 0 where q has no outcome.
    Gradient: p - q in logits_p, -q (log(p / q) + KL(q || p)) in logits_q.
    Error: that of `kl_divergence`.

    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> q = jnp.log(jnp.array([0.9, 0.1]))
    >>> round(reverse_kl_divergence(p, q).item(), 4)
    0.3681

    Source: Kullback and Leibler (1951).
    """
    name = "reverse_kl_divergence"
    return _divergence(name, _reverse_kl, logits_p, logits_q, axis, where, axis_name)


def jeffreys_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Jeffreys divergence KL(p || q) + KL(q || p) = sum (p - q) log(p / q), in nats.

    Args:
      logits_p: Logits of p; log-probabilities are logits. -inf is probability 0.
      logits_q: Logits of q, of the same shape.
      axis: The axis of outcomes, or several.
      where: Outcomes that exist, as for `kl_divergence`.
      axis_name: Mesh axes over which the outcomes are split, as for `kl_divergence`.

    Returns:
      The shape of the logits without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, or there is no outcome.
      TypeError: If the logits are not floating point, or `where` is not boolean.

    Boundary: inf where one of p and q is 0 and the other is not. 0 where p has no outcome.
    Gradient: the sum of those of both directions; numbers also where the value is inf.
    Error: at most 8 ULP for values of 2^-90 and more in float32 (tests/test_divergences.py;
      benchmarks/accuracy.py: 5.6, and 5.7 in float64).

    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> q = jnp.log(jnp.array([0.9, 0.1]))
    >>> round(jeffreys_divergence(p, q).item(), 4)
    0.8789

    Source: Jeffreys, "An invariant form for the prior probability" (1946).
    """
    name = "jeffreys_divergence"
    return _divergence(name, JEFFREYS, logits_p, logits_q, axis, where, axis_name)


def jensen_shannon_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    beta: float | Array = 0.5,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Jensen-Shannon divergence beta KL(p || m) + (1 - beta) KL(q || m), in nats.

    m = beta p + (1 - beta) q. Bounded by the entropy of beta, log 2 at 1/2, also where the
    supports differ.

    Args:
      logits_p: Logits of p; log-probabilities are logits. -inf is probability 0.
      logits_q: Logits of q, of the same shape.
      beta: The weight of p in the mixture, a number of [0, 1] or a 0-d floating array.
      axis: The axis of outcomes, or several.
      where: Outcomes that exist, as for `kl_divergence`.
      axis_name: Mesh axes over which the outcomes are split, as for `kl_divergence`.

    Returns:
      The shape of the logits without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, there is no outcome, or
        `beta` is a number outside [0, 1] or an array that is not 0-d.
      TypeError: If the logits are not floating point, `where` is not boolean, or `beta` is
        neither a number nor a floating array.

    Boundary: 0 at beta = 0 and 1, and where p has no outcome. nan only from nan and
      where an array `beta` is outside [0, 1].
    Gradient: finite everywhere; KL(p || m) - KL(q || m) in an array `beta`. Divided by
      beta (1 - beta), value and gradient tend to those of KL(p || q) for beta -> 0 and of
      KL(q || p) for beta -> 1.
    Error: at most 8 ULP for values of 2^-90 and more in float32 (tests/test_divergences.py;
      benchmarks/accuracy.py: 4.9, and 4.7 in float64).

    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> q = jnp.log(jnp.array([0.9, 0.1]))
    >>> round(jensen_shannon_divergence(p, q).item(), 4)
    0.1017

    Source: Lin, "Divergence measures based on the Shannon entropy" (1991).
    """
    name = "jensen_shannon_divergence"
    beta = _contracts.fraction(name, "beta", beta)
    _checks.all_fractions(name, "beta", beta)
    family = JENSEN_SHANNON
    return _divergence(name, family, logits_p, logits_q, axis, where, axis_name, beta)


def jensen_shannon_distance(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
    beta: float | Array = 0.5,
) -> Array:
    r"""The root of `jensen_shannon_divergence`, a metric for beta 1/2, in root nats.

    Args:
      logits_p: Logits or log-probabilities of p, as for `kl_divergence`.
      logits_q: The same for q, of the same shape.
      axis: The axis, or axes together, of the outcomes.
      where: The outcomes that exist, as for `kl_divergence`.
      axis_name: Mesh axes over which the outcomes are split, as for `kl_divergence`.
      beta: The weight of p in the mixture, a number of [0, 1] or a 0-d floating array.

    Returns:
      The shape of the logits without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, there is no outcome, or
        `beta` is a number outside [0, 1] or an array that is not 0-d.
      TypeError: If the logits are not floating point, or `beta` is no number or array.

    Boundary: that of `jensen_shannon_divergence`, whose largest value is log 2 in nats.
    Gradient: that of the root; 0 where p = q, where it has a kink.
    Error: at most 5 ULP, half that of the divergence and a rounding
      (tests/test_divergences.py).

    >>> import jax.numpy as jnp
    >>> a, b = jnp.array([0.0, 0.0]), jnp.array([0.0, 3.0])
    >>> round(jensen_shannon_distance(a, b).item(), 4)
    0.3807

    Source: Endres and Schindelin, "A new metric for probability distributions" (2003);
    `scipy.spatial.distance.jensenshannon`.
    """
    return root(
        jensen_shannon_divergence(
            logits_p, logits_q, axis=axis, where=where, axis_name=axis_name, beta=beta
        )
    )


def skew_kl_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    skew: float | Array = 0.1,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Skew KL divergence KL(p || skew p + (1 - skew) q), in nats.

    Bounded by -log(skew): the gradient of a student q that gives no mass to an outcome of p
    stays finite.

    Args:
      logits_p: Logits of p; log-probabilities are logits. -inf is probability 0.
      logits_q: Logits of q, of the same shape.
      skew: The weight of p in the mixture, a number of [0, 1] or a 0-d floating array.
      axis: The axis of outcomes, or several.
      where: Outcomes that exist, as for `kl_divergence`.
      axis_name: Mesh axes over which the outcomes are split, as for `kl_divergence`.

    Returns:
      The shape of the logits without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, there is no outcome, or
        `skew` is a number outside [0, 1] or an array that is not 0-d.
      TypeError: If the logits are not floating point, `where` is not boolean, or `skew` is
        neither a number nor a floating array.

    Boundary: 0 at skew = 1, and where p has no outcome; finite where q = 0 < p unless
      skew = 0. nan only from nan and where an array `skew` is outside [0, 1].
    Gradient: that of KL(p || m) through m, in an array `skew` too; finite everywhere.
    Error: at most 8 ULP for values of 2^-90 and more in float32 (tests/test_divergences.py;
      benchmarks/accuracy.py: 5.0, and 4.8 in float64).

    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> q = jnp.log(jnp.array([0.9, 0.1]))
    >>> round(skew_kl_divergence(p, q).item(), 4)
    0.3653

    Source: Lee, "On the effectiveness of the skew divergence for statistical language
    analysis" (2001); for distillation Ko et al., "DistiLLM" (2024).
    """
    name = "skew_kl_divergence"
    skew = _contracts.fraction(name, "skew", skew)
    _checks.all_fractions(name, "skew", skew)
    if not isinstance(skew, Array) and skew == 0:
        return _divergence(name, _kl, logits_p, logits_q, axis, where, axis_name)
    return _divergence(name, SKEW, logits_p, logits_q, axis, where, axis_name, skew)


def renyi_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    order: float | Array,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Renyi divergence log(sum p^order q^(1 - order)) / (order - 1), in nats.

    Increasing in the order; KL(p || q) at order 1, twice the Bhattacharyya distance at 1/2.

    Args:
      logits_p: Logits of p; log-probabilities are logits. -inf is probability 0.
      logits_q: Logits of q, of the same shape.
      order: A number > 0 or a 0-d floating array. 1 is `kl_divergence`.
      axis: The axis of outcomes, or several.
      where: Outcomes that exist, as for `kl_divergence`.
      axis_name: Mesh axes over which the outcomes are split, as for `kl_divergence`.

    Returns:
      The shape of the logits without `axis`; float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes differ, an axis is out of range, there is no outcome, or
        `order` is a number that is not finite and > 0 or an array that is not 0-d.
      TypeError: If the logits or an array `order` are not floating point, `order` is no
        number, or `where` is not boolean.

    Boundary: inf where p and q have no outcome in common, and for an order >= 1 where
      q = 0 < p. 0 where p has no outcome. nan only from nan and where an
      array `order` is not finite and > 0.
    Gradient: finite everywhere; 0 and q - p where the value is inf. In an array `order` it
      is KL(w || p) / (1 - order)^2 with w the p^order q^(1 - order) of sum 1; half the
      variance of log(p / q) under p at order 1.
    Error: at most 8 ULP for orders up to 2 and values of 2^-90 and more in float32
      (tests/test_divergences.py; benchmarks/accuracy.py: 5.8, and 7.3 in float64). Above,
      the error of log(q / p) is multiplied by the order.

    >>> import jax.numpy as jnp
    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> q = jnp.log(jnp.array([0.9, 0.1]))
    >>> round(renyi_divergence(p, q, order=0.5).item(), 4)
    0.2231

    Source: Renyi, "On measures of entropy and information" (1961); van Erven and Harremoes,
    "Renyi divergence and Kullback-Leibler divergence" (2014).
    """
    name = "renyi_divergence"
    order = _contracts.positive_number(name, "order", order)
    _checks.all_positive(name, "order", order)
    if not isinstance(order, Array) and order == 1:
        return _divergence(name, _kl, logits_p, logits_q, axis, where, axis_name)
    return _divergence(name, RENYI, logits_p, logits_q, axis, where, axis_name, order)


def _divergence(
    function: str,
    of_rows: Family | Callable[[AxisName, Array, Array], Array],
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    axis: int | Sequence[int],
    where: ArrayLike | None,
    axis_name: AxisName,
    *parameters: float | Array,
) -> Array:
    """Of the logits, once they are checked. Parameters that are numbers are constants of
    the program; arrays are operands, and one program serves all their values.
    """
    a, b = _contracts.floating(function, logits_p=logits_p, logits_q=logits_q)
    _contracts.equal_shapes(function, logits_p=a, logits_q=b)
    axes = _contracts.axes(function, axis, a.shape)
    _contracts.some_outcomes(function, a.shape, axes)
    _contracts.axis_name(function, axis_name)
    exists = None if where is None else _contracts.support(function, where, a.shape)
    _checks.logits(function, "logits_p", a, exists)
    _checks.logits(function, "logits_q", b, exists)
    arrays = [x for x in parameters if isinstance(x, Array)]
    if isinstance(of_rows, Family):
        constants = tuple(x for x in parameters if not isinstance(x, Array))
        of_rows = dataclasses.replace(of_rows, constants=constants)
    return _along(of_rows, axes, axis_name, a, b, exists, *arrays)


# One program also outside `jit`, where a first call of Renyi's would compile 44.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _along(
    of_rows: Callable[..., Array],
    axes: tuple[int, ...],
    axis_name: AxisName,
    a: Array,
    b: Array,
    exists: Array | None,
    *parameters: Array,
) -> Array:
    """With the outcomes along the last axis; -inf where they do not exist."""
    if exists is not None:
        a, b = (jnp.where(exists, x, -jnp.inf) for x in (a, b))
    last = tuple(range(-len(axes), 0))
    a, b = (jnp.moveaxis(x, axes, last) for x in (a, b))
    if len(axes) > 1:
        a, b = (x.reshape(*x.shape[: -len(axes)], -1) for x in (a, b))
    dtype = result_dtype(a, b)
    rows = (jnp.broadcast_to(x.astype(dtype), a.shape[:-1]) for x in parameters)
    return of_rows(axis_name, a, b, *rows)


def _kl(axis_name: AxisName, a: Array, b: Array) -> Array:
    return summary(axis_name, a, b).kl


def _reverse_kl(axis_name: AxisName, a: Array, b: Array) -> Array:
    return summary(axis_name, b, a).kl
