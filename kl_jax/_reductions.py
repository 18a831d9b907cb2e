"""The mode and the sums of a row, as each platform computes them best."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax._arithmetic import are_exact, row_sum

# Of two arrays, along the last axis: two sums; or p's largest logit, q's beside it, and the
# place of both where the weights are to be summed without it.
Sums = Callable[..., tuple[Array, ...]]
OfMode = tuple[Array, Array, Array | None]
Mode = Callable[[Array, Array], OfMode]


def largest_of(x: Array) -> Array:
    return jnp.max(x, -1, keepdims=True)


def mode_by_mask(a: Array, b: Array) -> OfMode:
    """The largest logit of p, and q's at that outcome."""
    top = largest_of(a)
    return top, largest_of(jnp.where(a == top, b, -jnp.inf)), None


def _mode_and_place(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Reads b at one outcome a row, where a mask reads all of it once more."""
    place = jnp.argmax(a, -1, keepdims=True)
    top, at_mode = (jnp.take_along_axis(x, place, -1) for x in (a, b))
    return top, at_mode, place


def mode_by_index(a: Array, b: Array) -> OfMode:
    if are_exact(a):
        return _mode_by_key(a, b)
    top, at_mode, _ = _mode_and_place(a, b)
    return top, at_mode, None


def _mode_by_key(a: Array, b: Array) -> OfMode:
    """Of half precision: a float32 has 16 or 13 bits more, in which an outcome's place is
    written, or that of a few. The largest of one number is then found, for which a TPU
    takes a third of the bundles of an argmax, 1.9 for 5.4. Compiled, not run.
    """
    outcomes, places = a.shape[-1], 2 ** (23 - jnp.finfo(a.dtype).nmant)
    few = -(-outcomes // places)
    place = lax.broadcasted_iota(jnp.int32, a.shape, a.ndim - 1) // few
    bits = lax.bitcast_convert_type(a.astype(jnp.float32), jnp.int32)
    key = jnp.max(_in_order(bits | place), -1, keepdims=True)
    first = (_in_order(key) & (places - 1)) * few
    others = lax.broadcasted_iota(jnp.int32, (*first.shape[:-1], few), a.ndim - 1)
    candidates = jnp.minimum(first + others, outcomes - 1)
    x, y = (jnp.take_along_axis(z, candidates, -1) for z in (a, b))
    top, at_mode, _ = _mode_and_place(x, y)
    return top, at_mode, None


def _in_order(bits: Array) -> Array:
    """The bits of a float32 as a whole number that is larger where that is, and back: below
    0 all but the sign are inverted.
    """
    sign = lax.shift_right_arithmetic(bits, jnp.full_like(bits, 31))
    return bits ^ (sign & 0x7FFFFFFF)


def _even_length(size: int, bound: int) -> int:
    """Of the longest pieces, up to a bound, that a row can be cut into, or 0 if all are
    short. A multiple of the 8 numbers of a vector, if there is one: of 50 terms two are
    computed one at a time, and KL of [4096, 1000] took 17 CPU ms instead of 12 when all its
    sums were of blocks.
    """
    lengths = [n for n in range(16, min(size, bound) + 1) if size % n == 0]
    return max(lengths, key=lambda n: (n % 8 == 0, n), default=0)


def mode_by_chunk(a: Array, b: Array) -> OfMode:
    """Looks for the mode in the one chunk that holds it. XLA for CPUs takes largest numbers
    as vectors, but not arguments: with two of those the mode is a quarter of all the time.
    """
    outcomes = a.shape[-1]
    size = _even_length(outcomes, 128) or outcomes
    x, y = (z.reshape(*z.shape[:-1], outcomes // size, size) for z in (a, b))
    # Without the barrier XLA takes the largest of the row from the logits once more.
    of_chunks = lax.optimization_barrier(jnp.max(x, -1))
    top = largest_of(of_chunks)
    chunk = _place_of(top, of_chunks)
    x, y = (jnp.take_along_axis(z, chunk[..., None], -2)[..., 0, :] for z in (x, y))
    place = _place_of(top, x)
    return top, jnp.take_along_axis(y, place, -1), chunk * size + place


def _place_of(value: Array, x: Array) -> Array:
    """The last place of a value; 0 of nan."""
    places = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return largest_of(jnp.where(x == value, places, 0))


def sums_apart(*terms: Array) -> tuple[Array, ...]:
    return tuple(row_sum(x) for x in terms)


def _sums_in_pairs(x: Array, y: Array) -> tuple[Array, Array]:
    """XLA for GPUs fuses an expression into one reduction, not into two: a complex sum is
    both at once. As two sums the terms are stored, 2 GiB for [2048, 131072].
    """
    both = jnp.sum(lax.complex(x, y), -1, keepdims=True)
    return both.real, both.imag


def sums_by_platform(*terms: Array) -> tuple[Array, ...]:
    if len(terms) != 2:
        return sums_apart(*terms)
    return lax.platform_dependent(
        *terms, cuda=_sums_in_pairs, rocm=_sums_in_pairs, default=sums_apart
    )


def sums_in_blocks(*terms: Array) -> tuple[Array, ...]:
    """On CPUs, in an order of our own: chains of at most 64 terms, then a tree.

    A sum that XLA fuses with its terms takes twice the time of both, and few rows it adds
    one term after the other: 22 ULP of 131072 terms. A product with ones it does not fuse.
    Of 131072 terms each is rounded at most 63 times in its chain, 8 times in the tree and 7
    times in what is left of that: 78 half ULP if all were of one sign, and of random ones a
    root of that, 4 ULP. 1.8 were seen of 17 to 131072 terms.
    """
    return tuple(sum_in_blocks(x) for x in terms)


_BLOCK = 64

# Of a product XLA adds 8 sums at a time in one order, and the last 1 to 7 in another: with
# all of them in the first the sum of a row has the same bits in any batch.
TOGETHER = 8


def sum_in_blocks(x: Array, place: Array | None = None) -> Array:
    """Without the term at one place of each row, if that is given."""
    *rows, size = x.shape
    length = _even_length(size, _BLOCK) or min(size, _BLOCK)
    count = size // length
    x = lax.optimization_barrier(x)
    whole, rest = x[..., : count * length], x[..., count * length :]
    blocks = whole.reshape(*rows, count, length)
    sums = _sums_of_blocks(blocks)
    if place is not None:
        # Its block is summed again. A copy of all of x with a 0 there would take 10 %.
        block = jnp.minimum(place // length, count - 1)
        one = jnp.take_along_axis(blocks, block[..., None], -2)[..., 0, :]
        beside = _sums_of_blocks(_with(one, place - block * length, 0))
        sums = _with(sums, block, beside[..., None])
        rest = _with(rest, place - count * length, 0)
    return row_sum(jnp.concatenate([sums, rest], -1) if rest.size else sums)


# A row is cut into so many pieces, if they are whole vectors then.
_PIECES = (8, 7, 6, 5, 4)


def sum_of_products(x: Array, y: Array) -> Array:
    """Of pieces of a row that are added first: an eighth of the products is stored for
    `sum_in_blocks`, and 2^22 of them take two cores 0.3 ms instead of 0.5. x and y must be
    of several uses, so that XLA stores them: what it computes in that loop is no vector.
    """
    size = x.shape[-1]
    pieces = next((n for n in _PIECES if size % (n * TOGETHER) == 0), 1)
    return sum_in_blocks(functools.reduce(jnp.add, jnp.split(x * y, pieces, -1)))


def _with(x: Array, place: Array, value: ArrayLike) -> Array:
    """`value` at one place of each row."""
    places = lax.broadcasted_iota(place.dtype, x.shape, x.ndim - 1)
    return jnp.where(places == place, value, x)


def _sums_of_blocks(x: Array) -> Array:
    *shape, length = x.shape
    blocks = x.reshape(math.prod(shape), length)
    missing = -len(blocks) % TOGETHER
    sums = jnp.pad(blocks, ((0, missing), (0, 0))) @ jnp.ones(length, x.dtype)
    return sums[: len(blocks)].reshape(shape)


def stored(x: Array) -> Array:
    """Of a number of a row, which XLA for CPUs would compute anew at every outcome: in a
    product, which it does not fuse.
    """
    pair = jnp.concatenate([x, jnp.zeros_like(x)], -1)
    return (pair @ jnp.ones(2, x.dtype))[..., None]
