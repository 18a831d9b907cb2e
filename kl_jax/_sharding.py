"""What arrays need that devices share, other than by `shard_map`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def is_spread(x: Array) -> bool:
    """Whether devices may share the array, other than by `shard_map`."""
    mesh = jax.typeof(x).sharding.mesh
    kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return any(size > 1 and kind != AxisType.Manual for size, kind in kinds)


def auto_sharded(
    fun: Callable[..., Any], rows: Array, event_axes: int = 1
) -> Callable[..., Any]:
    """`fun`, whose results have the axes of `rows` before the last, or before the last
    `event_axes`, and whole rows if they have more. On an Explicit mesh, where JAX refuses
    to index a sharded axis, XLA finds the shardings inside `fun`.
    """
    sharding = jax.typeof(rows).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return fun
    spec = sharding.spec[: rows.ndim - event_axes]
    out = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return jax.sharding.auto_axes(fun, out_sharding=out)


def auto_sharded_like(
    fun: Callable[..., Any], like: Callable[..., Any]
) -> Callable[..., Any]:
    """`fun`, whose results have on an Explicit mesh the shardings of those of `like`, a
    function of the same arguments. XLA finds the shardings inside `fun`.
    """

    def call(*args: Any) -> Any:
        meshes = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(args))
        if not any(AxisType.Explicit in mesh.axis_types for mesh in meshes):
            return fun(*args)
        out = jax.tree.map(lambda x: x.sharding, jax.eval_shape(like, *args))
        return jax.sharding.auto_axes(fun, out_sharding=out)(*args)

    return call


def varying_as(x: Array, others: Any) -> Array:
    """`x`, varying over every axis of a `shard_map` that one of `others` varies over."""
    axes = (jax.typeof(y).manual_axis_type.varying for y in jax.tree.leaves([x, *others]))
    of_x, *of_others = axes
    missing = tuple(frozenset().union(*of_others) - of_x)
    return jax.lax.pcast(x, missing, to="varying") if missing else x
