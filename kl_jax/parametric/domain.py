"""What the parameters of a family may be. Outside it the result is nan."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array


def _domain(contains: Callable[[Array], Array]) -> Callable[..., Array]:
    """Whether all parameters are in the set, row by row."""

    def are_inside(function: str, **parameters: Array) -> Array:
        return _all(*(contains(x) for x in parameters.values()))

    return are_inside


def _all(*conditions: Array) -> Array:
    return functools.reduce(jnp.logical_and, conditions)


positive = _domain(lambda x: x > 0)
non_negative = _domain(lambda x: x >= 0)
probability = _domain(lambda x: (0 <= x) & (x <= 1))
positive_probability = _domain(lambda x: (0 < x) & (x <= 1))
open_probability = _domain(lambda x: (0 < x) & (x < 1))
count = _domain(lambda x: (0 <= x) & (x == jnp.floor(x)))
finite = _domain(jnp.isfinite)


def within(value: Array, *conditions: Array) -> Array:
    """The value where all conditions hold, else nan."""
    return jnp.where(_all(*conditions), value, jnp.nan)
