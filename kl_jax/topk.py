r"""Divergences of a teacher stored for distillation as its k largest log-probabilities.

What lies outside the k indices is one more outcome: by the chain rule of relative entropy
that loses the KL inside it, and nothing else.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

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

__all__ = ["topk_kl_divergence", "topk_outcomes"]


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
      is right to 1e-5 of itself down to 1e-6 in float32 (tests/test_topk.py).

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
    arguments = _arguments(name, topk_log_p, topk_index, logits_q, axis_name)
    _keywords.choice(name, "tail", tail, ("bucket", "renormalize", "drop"))
    t = _contracts.positive_number(name, "temperature", temperature)
    if tail != "renormalize" and not (isinstance(t, float) and t == 1):
        raise ValueError(
            f"{name}: temperature must be 1 for tail={tail!r}, found {temperature!r}: what "
            f"mass lies outside the stored entries at another one is not known. Write "
            f"tail='renormalize'."
        )
    _checks.all_positive(name, "temperature", t)
    return _topk(tail, axis_name, *arguments, t)


def topk_outcomes(
    topk_log_p: ArrayLike,
    topk_index: ArrayLike,
    logits_q: ArrayLike,
    *,
    tail: Literal["bucket", "renormalize"] = "bucket",
    axis_name: AxisName = None,
) -> tuple[Array, Array]:
    r"""Logits of p and q on k outcomes and on the rest, for any divergence, in nats.

    `kl_divergence` of them is `topk_kl_divergence`, and so are the others got:

        jensen_shannon_divergence(*topk_outcomes(log_p, index, logits_q), beta=0.1)

    With "bucket" all outcomes but the k are one more, of 1 - P = 1 - sum of the k p under
    p. A divergence does not grow where outcomes are merged: that of the k + 1 is a lower
    bound of the whole one, and equal to it for k = V. With "renormalize" p and q are those
    given the k outcomes, as logits; only to them does `tempered` apply.

    Its first two arguments may be a student's, with a teacher's logits as the third:

        s, t = topk_outcomes(*jax.lax.top_k(jax.nn.log_softmax(student), k), teacher)
        kl_divergence(s, t)  # the reverse KL of a distillation: KL(student || teacher)

    is a loss on the outcomes that the student holds likely. On those of a stored teacher
    it is `reverse_kl_divergence(*topk_outcomes(log_p, index, student))`.

    Args:
      topk_log_p: log p of the k outcomes, along the last axis, as for `topk_kl_divergence`:
        an entry of -inf is ignored, and one that comes twice counts once.
      topk_index: Where in `logits_q` they are: integers, of the shape of `topk_log_p`, in
        any order.
      logits_q: Logits of q over all V outcomes, along the last axis.
      tail: "bucket" or "renormalize". What "drop" leaves are no distributions.
      axis_name: Mesh axes, inside `jax.shard_map`, over which the outcomes of `logits_q`
        are split, as for `topk_kl_divergence`. What is returned is the same on all devices:
        the divergence of it takes no `axis_name`.

    Returns:
      log p and logits of q, k + 1 or k along the last axis: by ascending index, then what
      is ignored, -inf on both sides, and the rest last. Those of q are as in `logits_q`,
      and not normalised. float64 if an argument is, else float32.

    Raises:
      ValueError: If the shapes do not fit, there is no outcome, or `tail` is neither.
      TypeError: If logits or log-probabilities are not floating point, or the indices not
        integers.

    Boundary: a row of nan on both sides, for which every divergence is nan, for an index
      that is out of range or comes twice with another log p, and where P is above 1 by more
      than rounding. A mass outside that is rounding, as `topk_kl_divergence` says, is none:
      -inf, and where q has some there, Jeffreys and reverse KL divergences are inf.
    Gradient: that of the divergence, through the logit of q's rest and through
      log(1 - P), of slopes -p / (1 - P), or 0 where that is none. 0 in rows of nan.
    Error: that of the divergence. Of itself 1 - P is right to 1e-5 down to 1e-6 in float32
      (tests/test_topk.py; benchmarks/other_accuracy.py: 5.2e-7, and 9.9e-16 in float64).

    >>> import jax.numpy as jnp
    >>> from kl_jax import jensen_shannon_divergence
    >>> log_p, index = jnp.log(jnp.array([0.5, 0.3])), jnp.array([2, 0])
    >>> p, q = topk_outcomes(log_p, index, jnp.zeros(4))
    >>> [round(x, 4) for x in jnp.exp(p).tolist()]
    [0.3, 0.5, 0.2]
    >>> round(jensen_shannon_divergence(p, q).item(), 4)
    0.0556

    Source: Csiszar, "Information-type measures of difference of probability distributions"
    (1967), and van Erven and Harremoes, "Renyi divergence and Kullback-Leibler divergence"
    (2014), for merged outcomes. Gu et al., "MiniLLM" (2024), for the reverse KL.
    """
    name = "topk_outcomes"
    arguments = _arguments(name, topk_log_p, topk_index, logits_q, axis_name)
    if tail == "drop":
        raise ValueError(
            f"{name}: tail must be 'bucket' or 'renormalize', found 'drop': that leaves no "
            f"distributions of p and q. Write topk_kl_divergence(..., tail='drop')."
        )
    _keywords.choice(name, "tail", tail, ("bucket", "renormalize"))
    return _pair(tail, axis_name, *arguments)


def _arguments(
    name: str,
    topk_log_p: ArrayLike,
    topk_index: ArrayLike,
    logits_q: ArrayLike,
    axis_name: AxisName,
) -> tuple[float, Array, Array, Array]:
    """The three as arrays that fit, after the resolution that log p is stored with."""
    log_p, logits = _contracts.floats(name, topk_log_p=topk_log_p, logits_q=logits_q)
    index = _contracts.integers(name, "topk_index", topk_index)
    _contracts.equal_shapes(name, topk_log_p=log_p, topk_index=index)
    _contracts.same_rows(name, topk_log_p=log_p, logits_q=logits)
    _contracts.some_outcomes(name, log_p.shape, (log_p.ndim - 1,))
    _contracts.some_outcomes(name, logits.shape, (logits.ndim - 1,))
    _contracts.axis_name(name, axis_name)
    outcomes = logits.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
    _checks.part_of_log_probabilities(name, "topk_log_p", topk_log_p)
    _checks.indices(name, "topk_index", index, outcomes, log_p)
    _checks.logits(name, "logits_q", logits)
    return float(jnp.finfo(jnp.result_type(topk_log_p)).eps), log_p, index, logits


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
    fun = functools.partial(_kl_of_rows, tail, axis_name, eps)
    return auto_sharded(fun, logits)(log_p / t, index, logits / t) * t * t


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pair(
    tail: str, axis_name: AxisName, eps: float, log_p: Array, index: Array, logits: Array
) -> tuple[Array, Array]:
    fun = functools.partial(_pair_of_rows, tail, axis_name, eps)
    return auto_sharded(fun, logits)(log_p, index, logits)


def _kl_of_rows(
    tail: str, axis_name: AxisName, eps: float, log_p: Array, index: Array, logits: Array
) -> Array:
    log_p, log_q, undefined = _outcomes(tail, axis_name, eps, log_p, index, logits)
    if tail == "drop":
        log_q = log_q - log_mass(axis_name, logits)[..., None]
        kl = jnp.sum(rel_entr_of_logs(log_p, log_q), -1)
    else:
        kl = kl_divergence(log_p, log_q)
    return nan_where(undefined, kl)


def _pair_of_rows(*arguments: Any) -> tuple[Array, Array]:
    # On both sides: what reaches a selected entry from behind, nan too, goes no further, so
    # that a mask hides the row from the gradients as it does from that of the KL.
    log_p, log_q, undefined = _outcomes(*arguments)
    undefined = undefined[..., None]
    return nan_where(undefined, log_p), nan_where(undefined, log_q)


def _outcomes(
    tail: str, axis_name: AxisName, eps: float, log_p: Array, index: Array, logits: Array
) -> tuple[Array, Array, Array]:
    """Logits of p and q on the entries, for "bucket" on the rest too, and of which rows
    there are none.
    """
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

    undefined = contradiction | outside
    if tail != "bucket":
        return log_p, here, undefined
    log_rest_q = log_mass(axis_name, _without(logits, place))
    smallest = math.log(jnp.finfo(log_p.dtype).tiny)
    q_has_none = log_rest_q < jnp.max(here, -1) + smallest
    everything = jnp.sum(present, -1) == outcomes
    log_rest = _log_rest(eps, log_p, lax.stop_gradient(q_has_none))
    undefined = undefined | (jnp.isnan(log_rest) & ~everything)
    log_rest = jnp.where(everything | jnp.isnan(log_rest), -jnp.inf, log_rest)
    return (
        jnp.concatenate([log_p, log_rest[..., None]], -1),
        jnp.concatenate([here, log_rest_q[..., None]], -1),
        undefined,
    )


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
    some = value > -jnp.inf  # neither none nor nan
    odds = jnp.exp(log_p - jnp.where(some, value, 0)[..., None])
    slope = jnp.where(some[..., None] & (log_p != -jnp.inf), -odds, 0)
    return value, jnp.sum(slope * dlog_p, -1)


# Row by row: indices over all axes would hide from XLA that rows do not mix.


@functools.partial(jnp.vectorize, signature="(v),(k)->(k)")
def _take(logits: Array, place: Array) -> Array:
    return logits.at[place].get(mode="fill", fill_value=-jnp.inf)


@functools.partial(jnp.vectorize, signature="(v),(k)->(v)")
def _without(logits: Array, place: Array) -> Array:
    return logits.at[place].set(-jnp.inf, mode="drop")
