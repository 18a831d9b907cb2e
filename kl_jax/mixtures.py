"""Logits of mixtures of distributions that are given by logits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts
from kl_jax._blocks import log_mass
from kl_jax._passes import clamp_inf

__all__ = ["mixture_logits"]


def mixture_logits(
    logits: ArrayLike, weights: ArrayLike | None = None, *, axis: int = 0
) -> Array:
    r"""log of the weighted mean of softmax(logits) along `axis`, in nats.

    The mixture of an ensemble of teachers, or of the distributions of a Jensen-Shannon
    divergence of many: with `m = mixture_logits(z)` that is the mean of
    `kl_divergence(z[i], m)`.

    Args:
      logits: Logits or log-probabilities, with the outcomes along the last axis.
      weights: One for each distribution along `axis`, non-negative; equal by default. They
        are divided by their sum.
      axis: The axis of the distributions, any but the last.

    Returns:
      Log-probabilities, the shape of `logits` without `axis`; float64 if an argument is,
      else float32.

    Raises:
      ValueError: If `axis` is the last one or out of range, there is no outcome or no
        distribution, or the shape of the weights does not fit.
      TypeError: If the logits are not floating point, or the weights not real numbers.

    Boundary: -inf where all are, and where the weights of others are 0. A distribution
      without outcomes takes no part. nan for nan, and where all weights are 0.
    Gradient: in the logits and in the weights, of every order; finite where logits are -inf
      or weights 0.
    Error: about 2 ULP of the larger of the result and 1. Where the distributions nearly
      agree, divergences from the mixture have the rounding of its logits:
      `jensen_shannon_divergence` of two is right there.

    >>> import jax.numpy as jnp
    >>> z = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]))
    >>> mixture = jnp.exp(mixture_logits(z, jnp.array([3, 1])))
    >>> [round(x, 4) for x in mixture.tolist()]
    [0.4, 0.6, 0.0]

    Source: Lin, "Divergence measures based on the Shannon entropy" (1991).
    """
    name = "mixture_logits"
    (array,) = _contracts.floating(name, logits=logits)
    (place,) = _contracts.axes(name, axis, array.shape)
    _contracts.not_the_last(name, place, array.shape)
    _contracts.some_outcomes(name, array.shape, (place,))
    _contracts.some_outcomes(name, array.shape, (array.ndim - 1,))
    _checks.logits(name, "logits", array)
    if weights is None:
        return _mixture_logits(place, array, None)
    (parts,) = _contracts.numbers(name, weights=weights)
    _contracts.shape(name, "weights", parts, array.shape[place : place + 1])
    _checks.all_non_negative(name, "weights", parts)
    return _mixture_logits(place, array, parts)


@functools.partial(jax.jit, static_argnums=0)
def _mixture_logits(axis: int, logits: Array, weights: Array | None) -> Array:
    if weights is None:
        weights = jnp.ones(logits.shape[axis], logits.dtype)
    x, w = _contracts.floats("mixture_logits", logits=logits, weights=weights)
    x = clamp_inf(jnp.moveaxis(x, axis, 0), x.dtype)
    # Not x - log(sum of e^x): at an offset of 1000 that logarithm is off by 3e-5.
    mode = lax.stop_gradient(jnp.max(x, -1, keepdims=True))
    x = x - jnp.where(mode == -jnp.inf, 0, mode)
    log_size = log_mass(None, x)[..., None]
    log_p = x - jnp.where(log_size == -jnp.inf, 0, log_size)
    # Relative to the largest, and not with log(weight): its slope at weight 0 is inf.
    top = lax.stop_gradient(jnp.max(log_p, 0))
    top = jnp.where(top == -jnp.inf, 0, top)
    terms = jnp.exp(log_p - top[None]) * w.reshape(-1, *(1 for _ in top.shape))
    mass = jnp.sum(terms, 0)
    none = mass == 0
    value = jnp.where(none, -jnp.inf, top + jnp.log(jnp.where(none, 1, mass)))
    return value - jnp.log(jnp.sum(w))
