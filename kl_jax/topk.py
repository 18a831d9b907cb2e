r"""KL from the k largest log-probabilities of a teacher, as stored for distillation.

What lies outside the k indices is one more outcome: by the chain rule of relative entropy
that loses the KL inside it, and nothing else.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts
from kl_jax._blocks import auto_sharded, log_mass
from kl_jax._contracts import AxisName
from kl_jax.divergences import kl_divergence
from kl_jax.elementwise import rel_entr_of_logs

__all__ = ["topk_kl_divergence"]


def topk_kl_divergence(
    topk_log_p: ArrayLike,
    topk_index: ArrayLike,
    logits_q: ArrayLike,
    *,
    tail: Literal["bucket", "renormalize", "drop"] = "bucket",
    axis_name: AxisName = None,
) -> Array:
    r"""KL(p || q) of a p of which k log-probabilities are known, in nats.

    With the index set I, P = sum of p over I and Q = sum of q over I, `tail` is

    - "bucket": sum over I of p log(p / q), plus (1 - P) log((1 - P) / (1 - Q)): all other
      outcomes as one. A lower bound of KL(p || q), equal to it for k = V, and a divergence:
      it is 0 only where q agrees on I.
    - "renormalize": sum over I of (p / P) log((p / P) / (q / Q)): p and q given I. Ignores
      how much mass q has outside: that is not brought down to 1 - P.
    - "drop": sum over I of p log(p / q), with the full normaliser of q. Ignores p's mass
      outside, may be negative, and is least for a q without mass there.

    Args:
      topk_log_p: log p of the k outcomes, along the last axis. Not normalised on them. An
        entry of -inf is ignored, and so is its index.
      topk_index: Where in `logits_q` they are: integers, of the shape of `topk_log_p`, in
        any order.
      logits_q: Logits of q over all V outcomes, along the last axis.
      tail: "bucket", "renormalize" or "drop".
      axis_name: Mesh axes, inside `jax.shard_map`, over which the outcomes of `logits_q`
        are split in equal parts; -inf pads. The indices are those of the whole, and they
        and `topk_log_p` the same on all devices.

    Returns:
      The shape of `logits_q` without its last axis; float64 if an argument is, else
      float32.

    Raises:
      ValueError: If the shapes do not fit, there is no outcome, or `tail` is none of the
        three.
      TypeError: If logits or log-probabilities are not floating point, or the indices not
        integers.

    Boundary: nan for an index that is out of range or occurs twice, and from nan and +inf.
      Where I is everything, or P >= 1, as by rounding, p has no mass outside. inf where
      q = 0 < p, so also where q has no mass outside and P falls short of 1 by rounding. 0
      where all entries are -inf.
    Gradient: "bucket": q - p on I and q (1 - (1 - P) / (1 - Q)) outside, in logits_q. That
      of `kl_divergence` through P in topk_log_p.
    Error: that of `kl_divergence` for the k + 1 outcomes; log(1 - P) and log of q's mass
      outside are rounded to the dtype first.

    >>> import jax.numpy as jnp
    >>> log_p, index = jnp.log(jnp.array([0.5, 0.3])), jnp.array([2, 0])
    >>> logits_q = jnp.log(jnp.array([0.3, 0.1, 0.5, 0.1]))
    >>> topk_kl_divergence(log_p, index, logits_q).item() < 1e-12
    True
    >>> round(topk_kl_divergence(log_p, index, -logits_q).item(), 4)
    0.8956

    Source: the chain rule of relative entropy: Cover and Thomas, "Elements of Information
    Theory", 2.5. Anshumann et al., "Sparse Logit Sampling" (2025), for the bias of
    "renormalize".
    """
    name = "topk_kl_divergence"
    log_p, logits = _contracts.floats(name, topk_log_p=topk_log_p, logits_q=logits_q)
    index = _contracts.integers(name, "topk_index", topk_index)
    _contracts.equal_shapes(name, topk_log_p=log_p, topk_index=index)
    _contracts.same_rows(name, topk_log_p=log_p, logits_q=logits)
    _contracts.some_outcomes(name, log_p.shape, (log_p.ndim - 1,))
    _contracts.some_outcomes(name, logits.shape, (logits.ndim - 1,))
    _contracts.choice(name, "tail", tail, ("bucket", "renormalize", "drop"))

    _contracts.axis_name(name, axis_name)
    outcomes = logits.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
    _checks.part_of_log_probabilities(name, "topk_log_p", topk_log_p)
    _checks.indices(name, "topk_index", index, outcomes, log_p)
    _checks.logits(name, "logits_q", logits)
    return _topk(tail, axis_name, log_p, index, logits)


# Executed one operation at a time, a first call would compile 58 programs.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _topk(
    tail: str, axis_name: AxisName, log_p: Array, index: Array, logits: Array
) -> Array:
    fun = functools.partial(_of_rows, tail, axis_name)
    return auto_sharded(fun, logits)(log_p, index, logits)


def _of_rows(
    tail: str, axis_name: AxisName, log_p: Array, index: Array, logits: Array
) -> Array:
    size = logits.shape[-1]
    first, outcomes = 0, size
    if axis_name is not None:
        first, outcomes = lax.axis_index(axis_name) * size, lax.axis_size(axis_name) * size
    present = log_p != -jnp.inf
    # What is ignored goes to places of its own, behind all others.
    entry = lax.broadcasted_iota(index.dtype, index.shape, index.ndim - 1)
    in_order = jnp.sort(jnp.where(present, index, outcomes + entry), -1)
    twice = jnp.any(in_order[..., 1:] == in_order[..., :-1], -1)
    outside = jnp.any(present & ((index < 0) | (index >= outcomes)), -1)
    # Reads and writes past the end find -inf and nothing.
    mine = present & (index >= first) & (index < first + size)
    place = jnp.where(mine, index - first, size + entry)
    here = _take(logits, place)
    if axis_name is not None:
        here = lax.psum(jnp.where(mine, here, 0), axis_name)
        here = jnp.where(present, here, -jnp.inf)

    if tail == "renormalize":
        kl = kl_divergence(log_p, here)
    elif tail == "drop":
        log_q = here - log_mass(axis_name, logits)[..., None]
        kl = jnp.sum(rel_entr_of_logs(log_p, log_q), -1)
    else:
        mass = 1 - jnp.sum(jnp.exp(log_p), -1, keepdims=True)
        some = (mass > 0) & (jnp.sum(present, -1, keepdims=True) < outcomes)
        log_rest = jnp.where(some, jnp.log(jnp.where(some, mass, 1)), -jnp.inf)
        log_rest_q = log_mass(axis_name, _without(logits, place))[..., None]
        kl = kl_divergence(
            jnp.concatenate([log_p, log_rest], -1), jnp.concatenate([here, log_rest_q], -1)
        )
    return jnp.where(twice | outside, jnp.nan, kl)


# Row by row: indices over all axes would hide from XLA that rows do not mix.


@functools.partial(jnp.vectorize, signature="(v),(k)->(k)")
def _take(logits: Array, place: Array) -> Array:
    return logits.at[place].get(mode="fill", fill_value=-jnp.inf)


@functools.partial(jnp.vectorize, signature="(v),(k)->(v)")
def _without(logits: Array, place: Array) -> Array:
    return logits.at[place].set(-jnp.inf, mode="drop")
