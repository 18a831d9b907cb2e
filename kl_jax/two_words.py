"""Numbers as unevaluated sums of two floats: what a rounding loses is the second.

Exact also where XLA compiles and fuses them: no operand is a literal, so that there is
nothing to fold.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and its rounding error (Knuth)."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def two_prod(a: Array, b: Array) -> tuple[Array, Array]:
    """a b within 1.5 ULP, and what it lacks, exactly unless that underflows (Dekker). Every
    product formed here is exact, so that none changes where XLA fuses it with a sum.
    """
    info = jnp.finfo(a.dtype)
    half = (info.nmant - 1) // 2  # parts of 12 bits, and of 26
    a_high, b_high = (jax.lax.reduce_precision(x, info.nexp, half) for x in (a, b))
    a_low, b_low = a - a_high, b - b_high
    product, error = two_sum(a_high * b_high, a_high * b_low + a_low * b_high)
    return product, error + a_low * b_low


def sum_last(high: Array, low: Array) -> tuple[Array, Array]:
    """The sum along the last axis, kept, of numbers in two parts: a tree of exact sums."""
    while (size := high.shape[-1]) > 1:
        pad = [(0, 0)] * (high.ndim - 1) + [(0, size % 2)]
        high, low = jnp.pad(high, pad), jnp.pad(low, pad)
        half = high.shape[-1] // 2
        high, error = two_sum(high[..., :half], high[..., half:])
        low = low[..., :half] + low[..., half:] + error
    return two_sum(high, low)
