r"""KL between two linear heads, without the logits of the whole vocabulary.

The vocabulary passes in tiles. Each becomes a `Block`, and these merge by the chain rule
into the summary of the row. The derivative is a second such stream: with the summary known,
the slopes of a tile need nothing of the others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts, _keywords
from kl_jax._arithmetic import jitted_custom_jvp, result_dtype
from kl_jax._blocks import (
    block_tangent,
    gather_shards,
    kl_tangent,
    mass_tangents,
    merge,
    outcome_terms,
    sum_outcomes,
)
from kl_jax._contracts import AxisName
from kl_jax._passes import Block, summarize
from kl_jax._sharding import auto_sharded

__all__ = ["linear_kl_divergence"]


def linear_kl_divergence(
    hidden_p: ArrayLike,
    weights_p: ArrayLike,
    hidden_q: ArrayLike,
    weights_q: ArrayLike,
    *,
    bias_p: ArrayLike | None = None,
    bias_q: ArrayLike | None = None,
    temperature: float | Array = 1.0,
    softcap_p: float | None = None,
    softcap_q: float | None = None,
    block: int | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""T^2 KL(p || q) of p, q = softmax(cap(hidden @ weights + bias) / T), in nats.

    The logits are never held: they pass in tiles of the vocabulary, in the value and once
    more in the derivative. For the reverse divergence exchange the sides, for Jeffreys' add
    the two: `linear_kl_divergence(hidden_q, weights_q, hidden_p, weights_p)`.

    Args:
      hidden_p: Hidden states of p (the teacher), [..., features of p].
      weights_p: [features of p, vocabulary], as the kernel of a Flax `Dense`.
      hidden_q: Hidden states of q (the student), [..., features of q], with the leading
        axes of `hidden_p`.
      weights_q: [features of q, vocabulary].
      bias_p: [vocabulary]. -inf is probability 0: on both sides it pads the vocabulary.
      bias_q: [vocabulary].
      temperature: T, a number > 0 or a 0-d floating array.
      softcap_p: c, a number > 0: logits become c tanh(logits / c) first, as in Gemma.
      softcap_q: The same for q.
      block: Outcomes in a tile. The default follows from the number of rows.
      axis_name: Mesh axes, inside `jax.shard_map`, over which the vocabulary of weights and
        biases is split. The result is the same on all of them. (Under plain `jit` rows may
        be sharded; weights whose vocabulary is would be gathered.)

    Returns:
      The shape of the hidden states without their last axis; float64 if an argument is,
      else float32.

    Raises:
      ValueError: If the shapes do not fit, there is no outcome, or temperature, soft cap or
        block is not > 0.
      TypeError: If an argument is not floating point, or a keyword not a number.

    Boundary: that of `kl_divergence`.
    Gradient: that of `kl_divergence` through the products, in hidden states, weights,
      biases and temperature; an argument that is not differentiated costs nothing. The
      operands of products have the arguments' dtype (slopes of float16 arguments: float32);
      products and tiles are summed in float32. Reverse mode keeps the arguments and nine
      numbers a row.
    Error: that of `kl_divergence` of the logits. The logits have the error of the products
      at JAX's `default_matmul_precision`.

    >>> import jax.numpy as jnp
    >>> hidden = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    >>> teacher = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    >>> student = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    >>> kl = linear_kl_divergence(hidden, teacher, hidden, student)
    >>> [round(x, 4) for x in kl.tolist()]
    [0.1118, 0.0]

    Source: the chain rule of relative entropy, as in `kl_jax._blocks`; Hsu et al.,
    "Liger Kernel" (2024), and Wijmans et al., "Cut your losses in large-vocabulary language
    models" (2024), for heads that do not hold the logits.
    """
    name = "linear_kl_divergence"
    h_p, w_p, h_q, w_q = _contracts.floating(
        name, hidden_p=hidden_p, weights_p=weights_p, hidden_q=hidden_q, weights_q=weights_q
    )
    _contracts.same_rows(name, hidden_p=h_p, hidden_q=h_q)
    _contracts.kernel(name, hidden_p=h_p, weights_p=w_p)
    _contracts.kernel(name, hidden_q=h_q, weights_q=w_q)
    vocab = w_p.shape[1]
    _contracts.shape(name, "weights_q", w_q, (w_q.shape[0], vocab))
    _contracts.some_outcomes(name, w_p.shape, (1,))
    bias_p = _checked_bias(name, "bias_p", bias_p, vocab)
    bias_q = _checked_bias(name, "bias_q", bias_q, vocab)
    if softcap_p is not None:
        softcap_p = _keywords.positive_number(name, "softcap_p", softcap_p)
    if softcap_q is not None:
        softcap_q = _keywords.positive_number(name, "softcap_q", softcap_q)
    if block is not None:
        _keywords.positive_integer(name, "block", block)
    _contracts.axis_name(name, axis_name)
    _checks.all_finite(name, "hidden_p", h_p)
    _checks.all_finite(name, "weights_p", w_p)
    _checks.all_finite(name, "hidden_q", h_q)
    _checks.all_finite(name, "weights_q", w_q)
    t = _contracts.positive_number(name, "temperature", temperature)
    _checks.all_positive(name, "temperature", t)

    block = block or _tile(math.prod(h_p.shape[:-1]))
    static = _Static(block, softcap_p, softcap_q, axis_name)
    return _of_heads(static, _Head(h_p, w_p, bias_p, t), _Head(h_q, w_q, bias_q, t))


def _checked_bias(
    function: str, name: str, bias: ArrayLike | None, vocab: int
) -> Array | None:
    if bias is None:
        return None
    (array,) = _contracts.floating(function, **{name: bias})
    _contracts.shape(function, name, array, (vocab,))
    _checks.logits(function, name, array)
    return array


def _tile(rows: int) -> int:
    """Outcomes in a tile: logits of 2 MiB of float32, which stay in a CPU's cache, but no
    fewer than fill a matrix unit, and at most 8192: the slice of the weights is copied.
    """
    rows = rows if isinstance(rows, int) else 2048  # a symbolic number, as in jax.export
    least = 1024 if rows < 2048 else 2048
    wanted = min(max(2**19 // max(1, rows), least), 8192)
    return 1 << (wanted.bit_length() - 1)


class _Head(NamedTuple):
    hidden: Array  # [..., features]; in a stream [rows, features]
    weights: Array  # [features, vocab]
    bias: Array | None  # [vocab]
    temperature: Array  # 0-d


class _Static(NamedTuple):
    block: int  # outcomes in a tile
    softcap_p: float | None
    softcap_q: float | None
    axis_name: AxisName


# Executed one operation at a time, what is around `_summary` would be ten programs.
@functools.partial(jax.jit, static_argnums=0)
def _of_heads(static: _Static, *sides: _Head) -> Array:
    rows = sides[0].hidden.shape[:-1]

    def value(p: _Head, q: _Head) -> Array:
        p, q = (_by_row(x) for x in (p, q))
        kl = _summary(static, p, q).kl.reshape(rows)
        t = p.temperature.astype(kl.dtype)
        return kl * t * t

    return auto_sharded(value, sides[1].hidden)(*sides)


def _by_row(head: _Head) -> _Head:
    """With one axis of rows, and the temperature in a dtype computed in."""
    t = jnp.asarray(head.temperature)  # where jit is disabled, a number
    return head._replace(
        hidden=head.hidden.reshape(-1, head.hidden.shape[-1]),
        temperature=t if t.dtype == jnp.float64 else t.astype(jnp.float32),
    )


# --- the products ---------------------------------------------------------------


def _operand(hidden: Array, weights: Array) -> Any:
    """The dtype of the operands: that of the arguments if it is one, else as for logits."""
    return hidden.dtype if hidden.dtype == weights.dtype else result_dtype(hidden, weights)


@jitted_custom_jvp
def _product(hidden: Array, weights: Array) -> Array:
    """Summed at least in float32."""
    pair = (x.astype(_operand(hidden, weights)) for x in (hidden, weights))
    return jnp.matmul(*pair, preferred_element_type=result_dtype(hidden, weights))


def _product_jvp(primals, tangents):
    value = _product(*primals)
    # A product that returned more than its operands' dtype would be transposed into one of
    # a float32 cotangent and of weights made float32 for it, at half the speed. float16
    # has no room for slopes: a probability of 1e-8 is 0 there.
    dtype = _operand(*primals)
    dtype = jnp.float32 if dtype == jnp.float16 else dtype
    change = jnp.zeros_like(value)
    for i, t in enumerate(tangents):
        if not isinstance(t, SymbolicZero):
            pair = [*primals[:i], t, *primals[i + 1 :]]
            product = jnp.matmul(*(x.astype(dtype) for x in pair))
            change = change + product.astype(value.dtype)
    return value, change


_product.defjvp(_product_jvp, symbolic_zeros=True)


def _logits(head: _Head, softcap: float | None, start: Array, size: int) -> Array:
    weights = lax.dynamic_slice_in_dim(head.weights, start, size, 1)
    x = _product(head.hidden, weights)
    if head.bias is not None:
        bias = lax.dynamic_slice_in_dim(head.bias, start, size)
        x = x + bias[None].astype(x.dtype)
    if softcap is not None:
        masked = x == -jnp.inf
        x = softcap * jnp.tanh(jnp.where(masked, 0, x) / softcap)
        x = jnp.where(masked, -jnp.inf, x)
    return x / head.temperature.astype(x.dtype)


# --- the stream -----------------------------------------------------------------


def _over_tiles(size: int, vocab: int, tile: Callable[[Array, Array], Any]) -> Any:
    """tile(start, new) for all tiles of the vocabulary, stacked. The last one is as long as
    the others and overlaps the one before; `new` says which of its outcomes are left.
    """
    size = min(size, vocab)
    last = vocab - size

    def at(first: Array) -> Any:
        start = jnp.minimum(first, last)
        return tile(start, start + jnp.arange(size) >= first)

    return lax.map(at, jnp.arange(0, vocab, size))


def _with_change(fun: Callable[..., Array], primal: _Head, change: _Head) -> Any:
    """fun(primal) and its change; of what is held constant nothing is computed."""
    leaves, form = jax.tree.flatten(primal)
    changes = form.flatten_up_to(change)
    moving = [i for i, t in enumerate(changes) if not isinstance(t, SymbolicZero)]
    if not moving:
        return fun(primal), changes[0]

    def of_moving(*moved: Array) -> Array:
        now = list(leaves)
        for i, x in zip(moving, moved, strict=True):
            now[i] = x
        return fun(form.unflatten(now))

    return jax.jvp(of_moving, [leaves[i] for i in moving], [changes[i] for i in moving])


def _converted(t: Any, dtype: Any) -> Any:
    return t if isinstance(t, SymbolicZero) else t.astype(dtype)


@functools.partial(jitted_custom_jvp, static=(0,))
def _summary(static: _Static, p: _Head, q: _Head) -> Block:
    def tile(start: Array, new: Array) -> Array:
        a = _logits(p, static.softcap_p, start, new.size)
        b = _logits(q, static.softcap_q, start, new.size)
        a, b = (jnp.where(new[None], x, -jnp.inf) for x in (a, b))
        return jnp.stack(summarize(a, b))

    tiles = _over_tiles(static.block, p.weights.shape[1], tile)
    blocks = Block(*jnp.moveaxis(tiles, 1, 0))
    if static.axis_name is not None:
        of_all = gather_shards(blocks, static.axis_name)
        blocks = Block(*(x.reshape(-1, *x.shape[2:]) for x in of_all))
    return merge(blocks)


def _summary_jvp(static, primals, tangents):
    block = _summary(static, *primals)
    p, q = primals
    # Summed over the tiles in float32, used in each in the dtype of its product.
    dp, dq = (t._replace(hidden=_converted(t.hidden, block.kl.dtype)) for t in tangents)

    # The checkpoint is on the tile: on the loop it would keep all tiles' logits.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def sums(start: Array, new: Array) -> tuple[Array, ...]:
        def with_change(x: _Head, t: _Head, softcap: float | None) -> Any:
            t = t._replace(hidden=_converted(t.hidden, x.hidden.dtype))
            fun = functools.partial(_logits, softcap=softcap, start=start, size=new.size)
            logits, change = _with_change(fun, x, t)
            return jnp.where(new[None], logits, -jnp.inf), change

        a, da = with_change(p, dp, static.softcap_p)
        b, db = with_change(q, dq, static.softcap_q)
        x = outcome_terms(block, a, b)
        terms = (kl_tangent(x, da, db), *mass_tangents(x, da, db))
        return tuple(jnp.sum(y, -1) for y in terms)

    tiles = _over_tiles(static.block, p.weights.shape[1], sums)
    totals = (sum_outcomes(static.axis_name, jnp.moveaxis(x, 0, -1)) for x in tiles)
    return block, block_tangent(block, *totals)


_summary.defjvp(_summary_jvp, symbolic_zeros=True)
