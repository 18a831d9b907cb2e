"""Error-free sums and products, and what derivative rules are written with.

A number in two words is the unevaluated sum of two floats: what a rounding loses is the
second. That is exact also where XLA compiles and fuses it: no operand is a literal, so that
there is nothing to fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

Result = TypeVar("Result")


def jitted_custom_jvp(
    fun: Callable[..., Result], static: tuple[int, ...] = ()
) -> jax.custom_jvp[Result]:
    """`fun`, for `defjvp` to complete, compiled as a whole also outside `jit`: executed
    one operation at a time, a first call would compile fifty small programs.
    """
    return jax.custom_jvp(jax.jit(fun, static_argnums=static), nondiff_argnums=static)


def result_dtype(*arrays: Array) -> Any:
    """float64 if one of them is, else float32: what is computed in, and returned."""
    double = any(x.dtype == jnp.float64 for x in arrays)
    return jnp.float64 if double else jnp.float32


def polynomial(coefficients: Sequence[ArrayLike], x: Array) -> Array:
    total = jnp.broadcast_to(jnp.asarray(coefficients[-1], x.dtype), x.shape)
    for c in reversed(coefficients[:-1]):
        total = total * x + jnp.asarray(c, x.dtype)
    return total


def nan_where(undefined: Array, value: Array) -> Array:
    """`value`, or nan. Where jit is disabled, jax_debug_nans would stop at a literal nan
    though nothing is undefined; the root of -1 is nan only where something is. 0 / 0 is not
    enough: of 3 (0 / x) LLVM of jaxlib 0.10 makes 3 copysign(0, x), which is 0.
    """
    sign = 1 - 2 * undefined.astype(value.dtype)
    return jnp.where(undefined, jnp.sqrt(sign), value)


def clamp_min(x: Array, bound: ArrayLike) -> Array:
    """`x`, or the bound where that is more. jnp.maximum takes four instructions of a CPU,
    as it keeps a nan of either side; this one takes one, and keeps that of `x`.
    """
    return jnp.where(x < bound, bound, x)


def clamp_max(x: Array, bound: ArrayLike) -> Array:
    """`x`, or the bound where that is less, likewise."""
    return jnp.where(x > bound, bound, x)


def clamp_finite(slope: Array) -> Array:
    """`slope`, or the largest number of its sign where it is infinite: under a mask it is
    multiplied by 0, and 0 * inf is nan.
    """
    largest = float(jnp.finfo(slope.dtype).max)
    return clamp_max(clamp_min(slope, -largest), largest)


def linear(like: Array, *terms: tuple[Array, Array | SymbolicZero]) -> Array:
    """Sum of slope * tangent, shaped as `like` and in its dtype. Of an argument that is
    held constant nothing is computed.
    """
    total = jnp.zeros_like(like)
    for slope, t in terms:
        if not isinstance(t, SymbolicZero):
            total = total + slope * t.astype(like.dtype)
    return total


def tangent(like: Array, *terms: tuple[Array, Array | SymbolicZero]) -> Array:
    """`linear`, of slopes that may be infinite."""
    return linear(like, *((clamp_finite(slope), t) for slope, t in terms))


@jitted_custom_jvp
def divide(x: Array, y: Array) -> Array:
    """x / y. JAX's own rule divides by y^2, which is 0 for y = 1e-23 and inf for 1e20."""
    return x / y


def _divide_jvp(primals, tangents):
    x, y = primals
    dx, dy = tangents
    value = divide(x, y)
    # In this order: value / y may overflow where dy is 0.
    change = tangent(value, (jnp.ones_like(value), dx), (-value, dy))
    return value, change * clamp_finite(reciprocal(y))


divide.defjvp(_divide_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def multiply(x: Array, y: Array) -> Array:
    """x y. By JAX's own rule an infinite y would be a slope."""
    return x * y


def _multiply_jvp(primals, tangents):
    x, y = primals
    dx, dy = tangents
    value = multiply(x, y)
    return value, tangent(value, (y, dx), (x, dy))


multiply.defjvp(_multiply_jvp, symbolic_zeros=True)


@jitted_custom_jvp
def root(x: Array) -> Array:
    """The square root, with slope 0 at 0: of what has its minimum there."""
    return jnp.sqrt(x)


@root.defjvp
def _root_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    value = root(x)
    return value, reciprocal(2 * jnp.where(value == 0, jnp.inf, value)) * dx


def reciprocal(y: Array) -> Array:
    return divide(jnp.ones_like(y), y)


# Numbers of an array that XLA for CPUs sums one after the other where its rows are short.
_FEW = 2**13


def row_sum(x: Array) -> Array:
    """The sum along the last axis, kept. Of few numbers it is a tree down to 8 terms.

    XLA for CPUs sums one to four rows of about 1000 terms one after the other, and beside a
    large term each small one is rounded: up to 15 ULP for a mode of e^20 before 667 others.
    Here a term is rounded at most 10 times in the tree, and 7 times in the chain that is
    left. Where there are more numbers XLA makes a tree itself.
    """
    while isinstance(x.size, int) and x.size < _FEW and (size := x.shape[-1]) > 8:
        half = size // 2
        pairs = x[..., :half] + x[..., half : 2 * half]
        x = jnp.concatenate([pairs, x[..., 2 * half :]], -1) if size % 2 else pairs
    return jnp.sum(x, -1, keepdims=True)


# --- numbers in two words ----------------------------------------------------------


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


def words_product(x: tuple[Array, Array], y: tuple[Array, Array]) -> tuple[Array, Array]:
    """x y of numbers in two words, to 2^-44 of itself in float32 and 2^-102 in float64."""
    product, error = two_prod(x[0], y[0])
    return two_sum(product, error + (x[0] * y[1] + x[1] * y[0]))


def sum_last(high: Array, low: Array) -> tuple[Array, Array]:
    """The sum along the last axis, kept, of numbers in two parts: a tree of exact sums."""
    while (size := high.shape[-1]) > 1:
        pad = [(0, 0)] * (high.ndim - 1) + [(0, size % 2)]
        high, low = jnp.pad(high, pad), jnp.pad(low, pad)
        half = high.shape[-1] // 2
        high, error = two_sum(high[..., :half], high[..., half:])
        low = low[..., :half] + low[..., half:] + error
    return two_sum(high, low)


def power_of_2_near(x: Array) -> Array:
    """The power of two next to x, within the range where its reciprocal is normal."""
    info = jnp.finfo(x.dtype)
    power = jax.lax.reduce_precision(x, info.nexp, 0)
    # Of all zeros it would be 0, and 0 / 0 nan: any unit serves them. Beyond the upper end
    # its reciprocal would be flushed to 0.
    return jnp.clip(power, float(info.tiny), 2.0 ** (info.maxexp - 2))


def in_units_of_rows(x: Array) -> Array:
    """`x` over a power of two near the largest size in its row, of the last axis: products
    and squares of two neither overflow nor underflow.
    """
    largest = jnp.max(jnp.abs(x), -1, keepdims=True)
    unit = jnp.broadcast_to(power_of_2_near(largest), x.shape)
    return divide(x, jax.lax.stop_gradient(unit))


def are_exact(*logits: Array) -> bool:
    """Whether differences of the logits are exact in float32, as those of half precision
    are: of 8 or 11 bits each, in 24. Only what is 2^16 or 2^13 times smaller than the other
    is rounded.
    """
    return all(jnp.finfo(x.dtype).bits <= 16 for x in logits)
