r"""KL from the k largest log-probabilities of a teacher, as stored for distillation.

What lies outside the k indices is one more outcome: by the chain rule of relative entropy
that loses the KL inside it, and nothing else.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts, _keywords
from kl_jax._arithmetic import jitted_custom_jvp, nan_where, sum_last
from kl_jax._blocks import log_mass
from kl_jax._contracts import AxisName
from kl_jax._exponentials import exp_in_two_words
from kl_jax._sharding import auto_sharded
from kl_jax.divergences import kl_divergence
from kl_jax.elementwise import rel_entr_of_logs

__all__ = ["topk_kl_divergence"]


def topk_kl_divergence(
    topk_log_p: ArrayLike,
    topk_index: ArrayLike,
    logits_q: ArrayLike,
    *,
    tail: Literal["bucket", "renormalize", "drop"] = "bucket",
    temperature: float | Array = 1.0,
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
        entry of -inf is ignored, and so is its index. An index that comes twice with the
        same log p, as in vLLM's k + 1 columns, counts once.
      topk_index: Where in `logits_q` they are: integers, of the shape of `topk_log_p`, in
        any order.
      logits_q: Logits of q over all V outcomes, along the last axis.
      tail: "bucket", "renormalize" or "drop".
      temperature: T, a number > 0 or a 0-d floating array, with "renormalize" alone: the
        result is T^2 KL of log p / T and logits / T given I. The mass outside at T follows
        from no stored number: for another tail it is an error.
      axis_name: Mesh axes, inside `jax.shard_map`, over which the outcomes of `logits_q`
        are split in equal parts; -inf pads. The indices are those of the whole, and they
        and `topk_log_p` the same on all devices.

    Returns:
      The shape of `logits_q` without its last axis; float64 if an argument is, else
      float32.

    Raises:
      ValueError: If the shapes do not fit, there is no outcome, `tail` is none of the
        three, or the temperature is not > 0, or not 1 with another tail.
      TypeError: If logits or log-probabilities are not floating point, or the indices not
        integers.

    Boundary: nan for an index that is out of range or comes twice with another log p, and
      from nan and +inf. A mass outside of no more than an ULP of each log p, in the dtype
      that `topk_log_p` has, sum of eps p |log p|, is rounding and none; so is one of eps
      more of which q has nothing, as of a whole p against a masked q. nan where P is above
      1 by 2 eps more. inf where q = 0 < p. 0 where all entries are -inf.
    Gradient: "bucket": q - p on I and q (1 - (1 - P) / (1 - Q)) outside, in logits_q. That
      of `kl_divergence` through P in topk_log_p.
    Error: that of `kl_divergence` for the k + 1 outcomes. 1 - P is summed in two words: it
      is right to 1e-5 of itself down to 1e-7 in float32.

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
    _keywords.choice(name, "tail", tail, ("bucket", "renormalize", "drop"))
    t = _contracts.positive_number(name, "temperature", temperature)
    if tail != "renormalize" and not (isinstance(t, float) and t == 1):
        raise ValueError(
            f"{name}: temperature must be 1 for tail={tail!r}, found {temperature!r}: what "
            f"mass lies outside the stored entries at another one is not known. Write "
            f"tail='renormalize'."
        )
    _contracts.axis_name(name, axis_name)
    outcomes = logits.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
    _checks.part_of_log_probabilities(name, "topk_log_p", topk_log_p)
    _checks.indices(name, "topk_index", index, outcomes, log_p)
    _checks.logits(name, "logits_q", logits)
    _checks.all_positive(name, "temperature", t)
    eps = float(jnp.finfo(jnp.result_type(topk_log_p)).eps)
    return _topk(tail, axis_name, eps, log_p, index, logits, t)


# Executed one operation at a time, a first call would compile 58 programs.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _topk(
    tail: str,
    axis_name: AxisName,
    eps: float,
    log_p: Array,
    index: Array,
    logits: Array,
    temperature: float | Array,
) -> Array:
    t = jnp.asarray(temperature, logits.dtype)
    fun = functools.partial(_of_rows, tail, axis_name, eps)
    return auto_sharded(fun, logits)(log_p / t, index, logits / t) * t * t


def _of_rows(
    tail: str,
    axis_name: AxisName,
    eps: float,
    log_p: Array,
    index: Array,
    logits: Array,
) -> Array:
    size = logits.shape[-1]
    first, outcomes = 0, size
    if axis_name is not None:
        first, outcomes = lax.axis_index(axis_name) * size, lax.axis_size(axis_name) * size
    present = log_p != -jnp.inf
    outside = jnp.any(present & ((index < 0) | (index >= outcomes)), -1)
    # In the order of the indices. What is ignored goes to places of its own, behind all.
    entry = lax.broadcasted_iota(index.dtype, index.shape, index.ndim - 1)
    index, log_p = lax.sort(
        (jnp.where(present, index, outcomes + entry), log_p), num_keys=2
    )
    again = index[..., 1:] == index[..., :-1]
    copy = again & (log_p[..., 1:] == log_p[..., :-1])
    contradiction = jnp.any(again & ~copy, -1)
    none = jnp.zeros_like(present[..., :1])
    log_p = jnp.where(jnp.concatenate([none, copy], -1), -jnp.inf, log_p)
    present = log_p != -jnp.inf
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
        log_rest_q = log_mass(axis_name, _without(logits, place))
        smallest = math.log(jnp.finfo(log_p.dtype).tiny)
        q_has_none = log_rest_q < jnp.max(here, -1) + smallest
        everything = jnp.sum(present, -1) == outcomes
        log_rest = _log_rest(eps, log_p, lax.stop_gradient(q_has_none))
        contradiction = contradiction | (jnp.isnan(log_rest) & ~everything)
        log_rest = jnp.where(everything | jnp.isnan(log_rest), -jnp.inf, log_rest)
        kl = kl_divergence(
            jnp.concatenate([log_p, log_rest[..., None]], -1),
            jnp.concatenate([here, log_rest_q[..., None]], -1),
        )
    return nan_where(contradiction | outside, kl)


@functools.partial(jitted_custom_jvp, static=(0,))
def _log_rest(eps: float, log_p: Array, q_has_none: Array) -> Array:
    """log(1 - sum of p) along the last axis: -inf where that is no more than an ULP of each
    log p, nan where it is less than 0 by more than rounding can make.

    Summed in float32, 1 - sum is off by 1e-7: of a tail of 1e-3 these are 1000 ULP. And
    log_softmax shifts all log p by the rounding of one logarithm: of 72000 rows of 2 to 200
    logits the sum is off by up to 2.8 eps, and by no more than eps (1 + entropy). So a tail
    of that size, of which q has nothing, is none either.
    """
    p, error = exp_in_two_words(log_p)
    one = jnp.ones_like(p[..., :1])
    pair = (jnp.concatenate(x, -1) for x in ((one, -p), (jnp.zeros_like(one), -error)))
    rest, rest_error = (x[..., 0] for x in sum_last(*pair))
    rest = rest + rest_error
    rounding = eps * jnp.sum(jnp.where(p == 0, 0, p * jnp.abs(log_p)), -1)
    some = rest > rounding + jnp.where(q_has_none, 1, 0) * eps
    value = jnp.where(some, jnp.log(jnp.where(some, rest, 1)), -jnp.inf)
    return nan_where(rest < -(rounding + 2 * eps), value)


@_log_rest.defjvp
def _log_rest_jvp(eps, primals, tangents):
    log_p, dlog_p = primals[0], tangents[0]
    value = _log_rest(eps, *primals)
    none = value == -jnp.inf
    odds = jnp.exp(log_p - jnp.where(none, 0, value)[..., None])
    slope = jnp.where(none[..., None] | (log_p == -jnp.inf), 0, -odds)
    return value, jnp.sum(slope * dlog_p, -1)


# Row by row: indices over all axes would hide from XLA that rows do not mix.


@functools.partial(jnp.vectorize, signature="(v),(k)->(k)")
def _take(logits: Array, place: Array) -> Array:
    return logits.at[place].get(mode="fill", fill_value=-jnp.inf)


@functools.partial(jnp.vectorize, signature="(v),(k)->(v)")
def _without(logits: Array, place: Array) -> Array:
    return logits.at[place].set(-jnp.inf, mode="drop")
