"""A function of rows as a transform: applied to some of them at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from kl_jax import _contracts, _keywords, _rows
from kl_jax._blocks import NUMBERS_OF_ROWS
from kl_jax._functions import name_of, wraps
from kl_jax._sharding import auto_sharded_like, varying_as

__all__ = ["chunked"]

P = ParamSpec("P")
Result = TypeVar("Result")

_SUMS = jax.checkpoint_policies.save_only_these_names(NUMBERS_OF_ROWS)


def chunked(fun: Callable[P, Result], size: int, *, axis: int = 0) -> Callable[P, Result]:
    """`fun` of rows, `size` of them at a time, and computed anew in the derivative.

    What `fun` makes of its rows, as the logits of a head, then exists for one chunk at a
    time, in the value and in the gradient: any loss of the logits of any number of heads.

        def jsd(h_p, h_q, *, w_p, w_q):
            return jensen_shannon_divergence(h_p @ w_p, h_q @ w_q)

        loss = mean(chunked(jsd, 64))     # loss(h_p, h_q, w_p=..., w_q=...)

    Positional arguments are cut and keyword arguments pass whole: weights are keywords, and
    a mask of rows is not. Write `mean(masked(chunked(f, 64)))`, or pass `masked(f)` in a
    function that takes its mask by place.

    Args:
      fun: A function of rows, each of whose results belongs to one of them.
      size: Rows of a chunk. Where it does not divide the number of rows, the last chunk
        computes up to `size - 1` of those before once more, and they count once.
      axis: The axis of the rows, in every positional argument and in the results; counted
        from the first.

    Returns:
      A function with the arguments of `fun` and its results, arrays or trees of them, as
      `Weighted`. Positional arguments too may be trees of arrays, or None. Where there are
      no more rows than `size`, or a symbolic number of them, as in `jax.export`, `fun` is
      called once.

    Raises:
      TypeError: If `fun` is no function, `size` or `axis` no integer, or no positional
        argument has rows.
      ValueError: If `size` is not > 0 or `axis` not >= 0, the positional arguments have
        other numbers of rows, or a result has: reduce outside.

    Gradient: that of `fun`, of every order. Those in keyword arguments are summed over the
      chunks in float32 at least; those in arrays that `fun` closes over, in their own
      dtype. In reverse mode `fun` is computed twice, and of it only a dozen numbers a row
      of each divergence are kept.

    Under plain `jit` devices may share the rows. They share each chunk if `size` divides
    the number of rows and the number of devices divides `size`; else they gather the rows,
    and each computes all of them. Gradients of keyword arguments are summed over the
    devices in each chunk then; inside `jax.shard_map`, once. The index in an error of
    `checked` is that in a chunk, not in all rows.

    >>> import jax.numpy as jnp
    >>> from kl_jax import kl_divergence, mean
    >>> def kl(hidden, *, teacher, student):
    ...     return kl_divergence(hidden @ teacher, hidden @ student)
    >>> hidden = jnp.array([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    >>> teacher = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    >>> loss = mean(chunked(kl, 2))
    >>> round(loss(hidden, teacher=teacher, student=teacher[:, ::-1]).item(), 4)
    0.2292

    Source: Chen et al., "Training deep nets with sublinear memory cost" (2016), for what
    is computed twice; `batch_size=` of `jax.lax.map`.
    """
    _contracts.function("chunked", fun)
    size = _keywords.positive_integer("chunked", "size", size)
    axis = _keywords.place("chunked", "axis", axis)
    applied = _in_chunks(fun, size, axis)

    def transformed(*args: Any, **kwargs: Any) -> Result:
        return applied(_rows.given("chunked", args, axis), kwargs)

    does = f"`{name_of(fun)}`, of {size} rows at a time."
    return wraps("chunked", fun, transformed, does)


def _in_chunks(
    fun: Callable[..., Any], size: int, axis: int
) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """A function of the positional and the keyword arguments of `fun`."""

    # Executed one operation at a time, what is around the loop would be six programs.
    @functools.partial(jax.jit, static_argnums=(0, 1))
    def compiled(form: Any, others: tuple[Any, ...], args: Any, arrays: list[Any]) -> Any:
        def at_once(args: Any, arrays: list[Any]) -> Any:
            pairs = zip(arrays, others, strict=True)
            keywords = form.unflatten(other if x is None else x for x, other in pairs)
            rows = jax.tree.leaves(args)[0].shape[axis]
            return _rows.one_for_each("chunked", fun(*args, **keywords), axis, rows)

        rows = jax.tree.leaves(args)[0].shape[axis]
        # A symbolic number of rows, as in jax.export, cannot be compared with `size`.
        if not isinstance(rows, int) or rows <= size:
            return at_once(args, arrays)

        def looped(args: Any, arrays: list[Any]) -> Any:
            cut = _Cut(axis, rows, size)
            args = jax.tree.map(cut.prepared, args)
            sums = [None if x is None else _summed_once(x, args) for x in arrays]

            # The checkpoint is on the chunk: on the loop it would keep that of all chunks.
            # What a divergence sums is kept, a dozen numbers a row: the slopes need it.
            @functools.partial(jax.checkpoint, prevent_cse=False, policy=_SUMS)
            def chunk(number: Array) -> Any:
                taken = jax.tree.map(lambda x: cut.taken(x, number), args)
                same = jax.tree.map(lambda x, like: x.astype(like.dtype), sums, arrays)
                return at_once(taken, same)

            parts = lax.map(chunk, jnp.arange(cut.chunks))
            return jax.tree.map(cut.joined, parts)

        return auto_sharded_like(looped, at_once)(args, arrays)

    def applied(args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        leaves, form = jax.tree.flatten(keywords)
        arrays = [x if _contracts.is_array(x) else None for x in leaves]
        others = tuple(None if _contracts.is_array(x) else x for x in leaves)
        return compiled(form, others, args, arrays)

    return applied


def _summed_once(x: Array, rows: Any) -> Array:
    """What every chunk takes whole, so that the loop sums its cotangent well.

    The loop adds up cotangents in their own dtype: 1024 of bfloat16 are off by 0.6. So
    numbers below float32 pass as float32 and are made what they were inside, which XLA
    finds to be no operation. And in `shard_map` the loop would sum over the devices in each
    chunk, unless this varies as the rows do.
    """
    if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)
    return varying_as(x, rows)


class _Cut(NamedTuple):
    """Rows along an axis in chunks of `size`.

    Chunk i of n has the rows i, i + n, i + 2n, ... where n divides their number: devices
    that share the rows then share each chunk. Adjacent rows would be those of one device,
    and XLA would gather all rows, for each device to compute all of them. Where n does not
    divide their number, chunks are of adjacent rows, and the last overlaps the one before.
    """

    axis: int
    rows: int
    size: int

    @property
    def chunks(self) -> int:
        return -(-self.rows // self.size)

    @property
    def repeated(self) -> int:
        """Rows that the last chunk shares with the one before."""
        return self.size * self.chunks - self.rows

    def prepared(self, x: Array) -> Array:
        if self.repeated:
            return x
        before, after = x.shape[: self.axis], x.shape[self.axis + 1 :]
        return x.reshape(*before, self.size, self.chunks, *after)

    def taken(self, x: Array, number: Array) -> Array:
        if not self.repeated:
            return lax.dynamic_index_in_dim(x, number, self.axis + 1, keepdims=False)
        start = jnp.minimum(number * self.size, self.rows - self.size)
        return lax.dynamic_slice_in_dim(x, start, self.size, self.axis)

    def joined(self, parts: Array) -> Array:
        """The results of all chunks, stacked along axis 0, in the order of the rows."""
        axis = self.axis
        parts = jnp.moveaxis(parts, 0, axis if self.repeated else axis + 1)
        shape = (*parts.shape[:axis], self.size * self.chunks, *parts.shape[axis + 2 :])
        every = parts.reshape(shape)
        if not self.repeated:
            return every
        # The repeated rows get no cotangent from here: they count once.
        last = self.rows - self.size + self.repeated
        first = lax.slice_in_dim(every, 0, last, axis=axis)
        rest = lax.slice_in_dim(every, last + self.repeated, None, axis=axis)
        return jnp.concatenate([first, rest], axis)
