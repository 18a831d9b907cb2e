"""Rows in tiles that stay in the caches of a CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from kl_jax._reductions import TOGETHER
from kl_jax._sharding import is_spread

OfRows = Callable[..., Any]  # of rows of logits and of numbers: arrays that begin with rows

# Outcomes in a tile: 1 MiB of float32, so that the few arrays of a tile stay in a core's
# second-level cache. One-row tiles are neither vectorised nor fused.
_TILE = 2**18


def may_be_cut(*operands: Array) -> bool:
    """Not so rows on several devices, of which XLA shares out whole sums, and rows of a
    symbolic number, as in jax.export.
    """
    known = all(isinstance(n, int) for x in operands for n in x.shape)
    return known and not any(map(is_spread, operands))


def by_rows(tile: OfRows, whole: OfRows, *operands: Array) -> Any:
    """`whole(*operands)`; on CPUs `tile` of functions that take some rows of each, a few
    MiB of temporary memory instead of several times the logits. The first operand has the
    outcomes along its last axis, others have them too, or are one number a row.
    """
    if not may_be_cut(*operands):
        return whole(*operands)

    @jax.custom_batching.custom_vmap
    def of_rows(*operands: Array) -> Any:
        tiles = functools.partial(in_tiles, tile)
        return lax.platform_dependent(*operands, cpu=tiles, default=whole)

    @of_rows.def_vmap
    def vmapped(size, batched, *operands):
        """What vmap adds are rows like any others, to be cut into tiles where that is
        done.
        """
        x = (
            x if known else jnp.broadcast_to(x, (size, *x.shape))
            for x, known in zip(operands, batched, strict=True)
        )
        found = by_rows(tile, whole, *x)
        return found, jax.tree.map(lambda _: True, found)

    return of_rows(*operands)


def _rows_from(x: Array, start: Array, size: int) -> Array:
    """So many rows of x. Without the barrier XLA for CPUs, that of JAX 0.10, converts all
    rows of bfloat16 to float32 before the loop: 128 MiB of [512, 32000] on both sides.
    """
    if x.dtype == jnp.bfloat16:
        x, start = lax.optimization_barrier((x, start))
    return lax.dynamic_slice_in_dim(x, start, size)


def in_tiles(tile: OfRows, *operands: Array) -> Any:
    *shape, outcomes = operands[0].shape
    rows = math.prod(shape)
    operands = tuple(x.reshape(rows, *x.shape[len(shape) :]) for x in operands)
    size = max(2, _TILE // outcomes)
    size -= size % TOGETHER if size > TOGETHER else 0

    def of_tile(take: Callable[[Array], Array]) -> Any:
        return tile(*(functools.partial(take, x) for x in operands))

    if rows <= size:
        found = of_tile(lambda x: x)
    else:

        def put(i: Array, found: Any) -> Any:
            # The last tile overlaps the one before: no copy of the rows, whatever their
            # number.
            start = jnp.minimum(i * size, rows - size)
            new = of_tile(lambda x: _rows_from(x, start, size))
            place = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start)
            return jax.tree.map(lambda x, y: place(x, y, axis=0), found, new)

        like = jax.eval_shape(lambda: of_tile(lambda x: x[:size]))
        # Inside shard_map results vary over the axes that operands do, and so must these.
        firsts = (x[(0,) * x.ndim] != 0 for x in operands)
        none = functools.reduce(jnp.logical_or, firsts) & False
        nothing = jax.tree.map(
            lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype) + none.astype(x.dtype), like
        )
        found = lax.fori_loop(0, -(-rows // size), put, nothing)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)
