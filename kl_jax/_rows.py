"""What transforms ask of the rows that they are given, and of what comes back of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from kl_jax._contracts import as_array, equal_shapes, typed


def returned(function: str, value: Any) -> Array:
    """What a transformed function returned: an array of real numbers."""
    array = as_array(function, "the transformed function's result", value)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(
            f"{function}: the transformed function's result must be real, "
            f"found dtype {array.dtype}."
        )
    return array


def mask(mask: Any, values: Array) -> Array:
    """`mask=`: boolean, the shape of the values."""
    array = as_array("masked", "mask", mask)
    typed("masked", "mask", array, jnp.bool_, "boolean (weighted takes numbers)")
    equal_shapes("masked", values=values, mask=array)
    return array


def weights(function: str, weights: Any, values: Array) -> Array:
    """`weights=`, or those of `Weighted`: real numbers, the shape of the values."""
    array = as_array(function, "weights", weights)
    kinds = (jnp.floating, jnp.integer)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(
            f"{function}: weights must be real numbers (masked takes booleans), "
            f"found dtype {array.dtype}."
        )
    equal_shapes(function, values=values, weights=array)
    return array.astype(values.dtype)


def given(function: str, args: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    """Positional arguments as arrays, or trees of them, all as long along `axis`."""
    keywords = "Keyword arguments pass whole."
    found: list[tuple[str, Array]] = []

    def checked(path: Any, value: Any) -> Array:
        place, *inside = path
        name = f"positional argument {place.idx}{jax.tree_util.keystr(tuple(inside))}"
        array = as_array(function, name, value)
        found.append((name, array))
        if array.ndim <= axis:
            raise ValueError(
                f"{function}: {name} must have rows along axis {axis}, found shape "
                f"{array.shape}. {keywords}"
            )
        first, wanted = found[0]
        if array.shape[axis] != wanted.shape[axis]:
            raise ValueError(
                f"{function}: {name} must be as long along axis {axis} as {first}, "
                f"{wanted.shape[axis]}, found shape {array.shape}. {keywords}"
            )
        return array

    arrays = jax.tree_util.tree_map_with_path(checked, args)
    if not found:
        raise TypeError(
            f"{function}: there must be a positional argument with rows, found none. "
            f"{keywords}"
        )
    return arrays


def one_for_each(function: str, result: Any, axis: int, rows: int) -> Any:
    """The result of a function of rows, whose arrays have as many along `axis`."""

    def checked(value: Any) -> Array:
        array = as_array(function, "the transformed function's result", value)
        if array.ndim <= axis or array.shape[axis] != rows:
            raise ValueError(
                f"{function}: the transformed function's result must have one entry for "
                f"each of the {rows} rows given, along axis {axis}, found shape "
                f"{array.shape}. Reduce outside, as in mean({function}(f, size))."
            )
        return array

    return jax.tree.map(checked, result)
