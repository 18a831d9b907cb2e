"""What the parameters of a family may be. Outside it the result is nan."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from kl_jax import values


def _domain(contains: Callable[[Array], Array], expected: str) -> Callable[..., Array]:
    """Whether all parameters are in the set, row by row; `checked` raises where not."""

    def are_inside(function: str, **parameters: Array) -> Array:
        for name, x in parameters.items():
            values.inside(function, name, x, contains, expected)
        return _all(*(contains(x) for x in parameters.values()))

    return are_inside


def _all(*conditions: Array) -> Array:
    return functools.reduce(jnp.logical_and, conditions)


finite = _domain(jnp.isfinite, "be finite")
number = _domain(lambda x: ~jnp.isnan(x), "be a number")
positive = _domain(lambda x: x > 0, "be > 0")
non_negative = _domain(lambda x: x >= 0, "be >= 0")
probability = _domain(lambda x: (0 <= x) & (x <= 1), "be in [0, 1]")
positive_probability = _domain(lambda x: (0 < x) & (x <= 1), "be in (0, 1]")
open_probability = _domain(lambda x: (0 < x) & (x < 1), "be in (0, 1)")
count = _domain(lambda x: (0 <= x) & (x == jnp.floor(x)), "be a whole number >= 0")
ordered = _domain(lambda width: width > 0, "be above the lower end")


def within(value: Array, *conditions: Array) -> Array:
    """The value where all conditions hold, else nan."""
    return jnp.where(_all(*conditions), value, jnp.nan)
