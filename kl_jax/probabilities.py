"""KL along an axis from probabilities, as they are: not renormalised."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts
from kl_jax._contracts import AxisName
from kl_jax.elementwise import rel_entr

__all__ = ["kl_divergence_from_probs"]


def kl_divergence_from_probs(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
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
      axis_name: Mesh axes over which the outcomes are split, as for `kl_divergence`.

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
    Error: at most 4 ULP of the sum of the terms' sizes, sum of |p log(p / q)|
      (tests/test_divergences.py; benchmarks/other_accuracy.py: 2.0, and 1.8 in float64).

    >>> import jax.numpy as jnp
    >>> p, q = jnp.array([0.5, 0.5]), jnp.array([0.9, 0.1])
    >>> round(kl_divergence_from_probs(p, q).item(), 4)
    0.5108

    Source: Kullback and Leibler (1951); `scipy.stats.entropy` without its normalisation.
    """
    name = "kl_divergence_from_probs"
    x, y = _contracts.floats(name, p=p, q=q)
    _contracts.equal_shapes(name, p=x, q=y)
    axes = _contracts.axes(name, axis, x.shape)
    _contracts.some_outcomes(name, x.shape, axes)
    _contracts.axis_name(name, axis_name)
    exists = None if where is None else _contracts.support(name, where, x.shape)
    # As they were passed: their dtype says how far from 1 their sum may be.
    _checks.probabilities(name, "p", p, axes, exists, axis_name)
    _checks.probabilities(name, "q", q, axes, exists, axis_name)
    return _from_probs(axes, axis_name, x, y, exists)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _from_probs(
    axes: tuple[int, ...], axis_name: AxisName, p: Array, q: Array, exists: Array | None
) -> Array:
    if exists is not None:
        p, q = (jnp.where(exists, x, 0) for x in (p, q))
    total = jnp.sum(rel_entr(p, q), axes)
    return total if axis_name is None else lax.psum(total, axis_name)
