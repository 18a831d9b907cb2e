"""The sums over the outcomes of a block, as each platform computes them best.

Logits in, one `Block` a row out. With the logits a of p and b of q, everything is measured
from the mode, the outcome of largest a: with delta = (b - b_mode) - (a - a_mode),

    mean  = E_p[delta],
    ratio = E_p[e^delta] = (q's mass / p's mass) / e^(b_mode - a_mode),
    kl    = log(ratio) - mean = log1p(E_p[phi(d)]),    d = delta - mean,

with phi(x) = e^x - 1 - x >= 0. At the mode delta is exactly 0, so that a p that is nearly
one outcome keeps its digits; elsewhere it is a difference of differences, taken with its
rounding error, because near-equal logits differ in their last digits only.

These functions are arithmetic for the rules in `_blocks`: they are not meant to be
differentiated themselves. A kernel would replace this file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax._arithmetic import clamp_min, result_dtype, row_sum, two_sum
from kl_jax._exponentials import log1p, phi_series, phi_series_holds, power_of
from kl_jax._sharding import is_spread


class Block(NamedTuple):
    """One number a row each. Where p has no mass, `mass_p` is 0 and `log_mass_ratio`
    is log(mass_q); where q has none, that is -inf.
    """

    top: Array  # the largest logit of p
    anchor: Array  # the logit of q at that outcome, 0 if that is -inf
    mean: Array  # E_p[delta]; 0 where kl is inf
    mass_p: Array  # sum of e^(a - top)
    mass_q: Array  # sum of e^(b - origin)
    origin: Array  # anchor + reference, rounded
    reference: Array  # the mean, or q's largest logit where that is far above
    log_mass_ratio: Array  # what is added to the reference to give log(ratio)
    kl: Array  # KL of p and q, each renormalised on the block


def summarize(logits_p: Array, logits_q: Array) -> Block:
    """The summary of the outcomes along the last axis. Any floating dtype in, at least
    float32 out.
    """
    if not may_be_cut(logits_p, logits_q):
        # One outcome by its index would need the logits of other devices.
        return _of_whole(logits_p, logits_q, mode_by_mask)
    return unstacked(by_rows(_tile, lambda *x: stacked(_of_whole(*x)), logits_p, logits_q))


# Of two arrays, along the last axis: two sums; or p's largest logit, q's beside it, and the
# place of both where the weights are to be summed without it.
Sums = Callable[..., tuple[Array, ...]]
OfMode = tuple[Array, Array, Array | None]
Mode = Callable[[Array, Array], OfMode]

# Where q's largest mass passes e^30 times p's, KL > 30 - log(size) and logarithms of the
# two masses no longer cancel; e^30 times any size is far from overflow in float32.
_LARGE = 30.0


def _max(x: Array) -> Array:
    return jnp.max(x, -1, keepdims=True)


def clamp_inf(logits: Array, dtype: Any) -> Array:
    """In the dtype computed in; +inf, a point mass, as the largest number: the other
    outcomes are e^-1e38 beside that.
    """
    return jnp.minimum(logits.astype(dtype), float(jnp.finfo(dtype).max))


def _bottom(origin: Array) -> Array:
    """Half the range below: an outcome there has no mass."""
    largest = float(jnp.finfo(origin.dtype).max)
    return jnp.maximum(origin - largest / 2, -largest)


def are_exact(*logits: Array) -> bool:
    """Whether differences of the logits are exact in float32, as those of half precision
    are: of 8 or 11 bits each, in 24. Only what is 2^16 or 2^13 times smaller than the other
    is rounded.
    """
    return all(jnp.finfo(x.dtype).bits <= 16 for x in logits)


def shifted(logits: Array, origin: Array) -> tuple[Array, Array]:
    """x - origin, from the bottom up, and its rounding error: at a shift of 40 it is 17 ULP
    of the power. That of -inf would be nan.
    """
    # One instruction of a CPU for four, and one of a TPU for two.
    bounded = lax.platform_dependent(
        *(logits, _bottom(origin)), cpu=clamp_min, default=jnp.maximum
    )
    return two_sum(bounded, -origin)


def mass_of(logits: Array, origin: Array, exact: bool = False) -> Array:
    """e^(x - origin)."""
    return power_of(*shifted(logits, origin), exact)


def delta_of(a: Array, b: Array, top: Array, anchor: Array, exact: bool = False) -> Array:
    """(b - anchor) - (a - top), rounded once or twice however large the offsets: b - a is
    nearly the same everywhere, and its rounding error is put back.
    """
    offset, offset_error = two_sum(anchor, -top)
    if exact:
        # The offset is taken from the side that is further out, and nothing from the other:
        # less a mode of 12, logits of 1e-5 keep 4 bits. A small offset is lost beside what
        # is 2^16 times as large, and taken at the end.
        small, rounded = jnp.abs(offset) < 2**-8, offset_error != 0
        of_q = jnp.where(jnp.abs(anchor) > jnp.abs(top), offset, 0)
        of_b = jnp.where(small, 0, jnp.where(rounded, anchor, of_q))
        of_a = jnp.where(small, 0, jnp.where(rounded, top, of_q - offset))
        return ((b - of_b) - (a - of_a)) - jnp.where(small, offset, 0)
    difference, error = two_sum(b, -a)
    lost = error - offset_error
    # Where infinities took part it is nan.
    return (difference - offset) + jnp.where(jnp.isnan(lost), 0, lost)


class RowSums(NamedTuple):
    """What two passes over the outcomes of a row give."""

    top: Array
    anchor: Array
    mass: Array  # sum of the weights w = e^(a - top)
    mean: Array  # sum of w delta, by the mass; inf where kl is
    reference: Array  # what the second pass takes from delta
    q_dominates: Array  # whether that is q's largest logit, not the mean
    total: Array  # sum of w phi(d); where q dominates, q's mass
    residual: Array  # sum of w d: 0 but for the rounding of the mean


def _sums_of_weights(
    sums: Sums, weight: Array, moment: Array, top: Array, place: Array | None
) -> tuple[Array, ...]:
    """The mass and the moment. On CPUs the weight of the mode, 1, is added last: beside it
    each of 10 to 20 roundings is half an ULP of the mass, together 4 ULP. Elsewhere that is
    not measured, and a comparison more for each outcome would be.
    """
    if place is None:
        mass, moment = sums(weight, moment)
        return mass, moment
    rest, moment = _sum_in_blocks(weight, place), _sum_in_blocks(moment)
    return rest + (top != -jnp.inf).astype(rest.dtype), moment


def _with(x: Array, place: Array, value: ArrayLike) -> Array:
    """`value` at one place of each row."""
    places = lax.broadcasted_iota(place.dtype, x.shape, x.ndim - 1)
    return jnp.where(places == place, value, x)


def _row_sums_of_finite(
    logits_p: Array, logits_q: Array, mode: OfMode, sums: Sums
) -> RowSums:
    """The two passes for finite logits, of which p's may be -inf too. For others, and where
    a power overflows, a number comes out that is not finite.
    """
    dtype = result_dtype(logits_p, logits_q)
    a, b, top, anchor = (x.astype(dtype) for x in (logits_p, logits_q, *mode[:2]))
    exact = are_exact(logits_p, logits_q)
    weight, delta = mass_of(a, top, exact), delta_of(a, b, top, anchor, exact)
    # Not where the weight is 0: where it underflows q may be 0, and 0 * -inf must show.
    delta = jnp.where(a < _bottom(top), 0, delta)
    mass, moment = _sums_of_weights(sums, weight, weight * delta, top, mode[2])
    mean = moment / mass
    origin, remainder = two_sum(anchor, mean)
    mass_q = mass_of(b, origin, exact) * jnp.exp(-remainder)
    d = delta - mean
    total, residual = sums(_phi_terms(weight, d, mass_q), weight * d)
    no = jnp.zeros_like(mean, bool)
    return _squeezed(RowSums(top, anchor, mass, mean, mean, no, total, residual))


def row_sums(
    logits_p: Array,
    logits_q: Array,
    mode: OfMode,
    sums: Sums,
    blocks: Block | None = None,
    recompute: bool = True,
) -> RowSums:
    """The two passes for any logits: of single outcomes, or of the modes of `blocks` that
    are to be merged. Both passes need weight and delta, kept or computed again.
    """
    dtype = result_dtype(logits_p, logits_q)
    exact = are_exact(logits_p, logits_q)
    largest = float(jnp.finfo(dtype).max)
    top, at_mode = (clamp_inf(x, dtype) for x in mode[:2])
    top = jnp.where(top == -jnp.inf, 0, top)
    # b - anchor must not overflow.
    small = jnp.abs(at_mode) < largest * float(jnp.finfo(dtype).eps) / 4
    anchor = jnp.where(small | (at_mode == largest), at_mode, 0)

    def parts(top: Array, anchor: Array) -> tuple[Array, Array, Array]:
        a, b = clamp_inf(logits_p, dtype), clamp_inf(logits_q, dtype)
        weight, delta = mass_of(a, top, exact), delta_of(a, b, top, anchor, exact)
        if blocks is not None:
            b, weight = blocks.origin, weight * blocks.mass_p
            delta = delta + (blocks.reference + blocks.log_mass_ratio)
        return b, weight, jnp.where(weight == 0, 0, delta)

    b, weight, delta = parts(top, anchor)
    # q = 0 < p, also where e^(a - top) underflows; beside +inf all else is 0.
    least_p, least_q = (jnp.where(x == largest, x, -largest) for x in (top, anchor))
    missing = (logits_q.astype(dtype) < least_q) & (logits_p.astype(dtype) >= least_p)
    moment = jnp.where(missing, -jnp.inf, weight * delta)
    mass, moment = _sums_of_weights(sums, weight, moment, mode[0], mode[2])
    mean = moment / jnp.where(mass == 0, 1, mass)
    peak = _max(b - anchor)
    infinite = jnp.isinf(mean) | ((peak == largest) & (at_mode < largest))
    infinite = infinite & (mass > 0)
    centre = jnp.where(jnp.isinf(mean), 0, mean)
    mean = jnp.where(infinite, jnp.inf, centre)
    peak = jnp.where(peak == -jnp.inf, 0, peak)
    q_dominates = infinite | (mass == 0) | (peak - centre > _LARGE)
    reference = jnp.where(q_dominates, peak, centre)
    # e^(b - anchor - reference) = e^(b - origin) e^-remainder; where q dominates the
    # remainder may be large too, and goes into the logarithm.
    origin, remainder = two_sum(anchor, reference)
    scale = jnp.exp(jnp.where(q_dominates, 0, -remainder))

    if recompute:
        # The barrier stops XLA from storing what both passes compute alike.
        top, anchor, centre, q_dominates, origin = lax.optimization_barrier(
            (top, anchor, centre, q_dominates, origin)
        )
        b, weight, delta = parts(top, anchor)
    d = delta - centre
    mass_q = mass_of(b, origin, exact) * scale
    if blocks is not None:
        mass_q = mass_q * blocks.mass_q
    terms = jnp.where(q_dominates, mass_q, _phi_terms(weight, d, mass_q))
    total, residual = sums(terms, weight * d)
    return _squeezed(
        RowSums(top, anchor, mass, mean, reference, q_dominates, total, residual)
    )


def _phi_terms(weight: Array, d: Array, mass_q: Array) -> Array:
    """p phi(d), or q - p (1 + d): each where it neither cancels nor overflows. The second
    holds at p = 0 too.
    """
    near = phi_series_holds(d) & (weight > 0)
    return jnp.where(near, weight * phi_series(d), mass_q - weight * (1 + d))


def _squeezed(rows: RowSums) -> RowSums:
    return RowSums(*(jnp.squeeze(x, -1) for x in rows))


def block_of(x: RowSums) -> Block:
    """The block that two passes describe."""
    infinite = (x.mean == jnp.inf) & ~jnp.isnan(x.total)  # nan is not hidden by inf
    mean = jnp.where(x.mean == jnp.inf, 0, x.mean)
    origin, remainder = two_sum(x.anchor, x.reference)
    mass_q = x.total + jnp.where(x.q_dominates, 0, x.mass + x.residual)
    mass_q = mass_q / jnp.exp(jnp.where(x.q_dominates, 0, -remainder))
    size = jnp.where(x.mass == 0, 1, x.mass)
    total, residual = x.total / size, x.residual / size
    # The mean was rounded: E[d] = residual, not 0, and e^-residual (1 + total + residual)
    # is what log1p wants, here to the second order in the residual.
    corrected = total - residual * (total + residual / 2)
    mean = mean + residual
    log_mass_ratio = jnp.where(
        x.q_dominates, jnp.log(total) - remainder, log1p(total + residual)
    )
    kl = jnp.where(x.q_dominates, (x.reference - mean) + log_mass_ratio, log1p(corrected))
    kl = jnp.where(infinite, jnp.inf, jnp.where(x.mass == 0, 0, kl))
    mean = jnp.where(infinite, 0, mean)
    return Block(
        x.top, x.anchor, mean, x.mass, mass_q, origin, x.reference, log_mass_ratio, kl
    )


# --- the same sums, as each platform computes them best ------------------------------


def mode_by_mask(a: Array, b: Array) -> OfMode:
    """The largest logit of p, and q's at that outcome."""
    top = _max(a)
    return top, _max(jnp.where(a == top, b, -jnp.inf)), None


def _mode_and_place(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Reads b at one outcome a row, where a mask reads all of it once more."""
    place = jnp.argmax(a, -1, keepdims=True)
    top, at_mode = (jnp.take_along_axis(x, place, -1) for x in (a, b))
    return top, at_mode, place


def _mode_by_index(a: Array, b: Array) -> OfMode:
    top, at_mode, _ = _mode_and_place(a, b)
    return top, at_mode, None


def _even_length(size: int, bound: int) -> int:
    """Of the longest pieces, up to a bound, that a row can be cut into, or 0 if all are
    short. A multiple of the 8 numbers of a vector, if there is one: of 50 terms two are
    computed one at a time, and KL of [4096, 1000] takes 17 CPU ms instead of 12.
    """
    lengths = [n for n in range(16, min(size, bound) + 1) if size % n == 0]
    return max(lengths, key=lambda n: (n % 8 == 0, n), default=0)


def _mode_by_chunk(a: Array, b: Array) -> OfMode:
    """Looks for the mode in the one chunk that holds it: 10 % of the whole on CPUs."""
    outcomes = a.shape[-1]
    size = _even_length(outcomes, 128) or outcomes
    x, y = (z.reshape(*z.shape[:-1], outcomes // size, size) for z in (a, b))
    chunk = jnp.argmax(jnp.max(x, -1), -1, keepdims=True)
    x, y = (jnp.take_along_axis(z, chunk[..., None], -2)[..., 0, :] for z in (x, y))
    top, at_mode, place = _mode_and_place(x, y)
    return top, at_mode, chunk * size + place


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
    return tuple(_sum_in_blocks(x) for x in terms)


_BLOCK = 64

# Of a product XLA adds 8 sums at a time in one order, and the last 1 to 7 in another: with
# all of them in the first the sum of a row has the same bits in any batch.
_TOGETHER = 8


def _sum_in_blocks(x: Array, place: Array | None = None) -> Array:
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


def _sums_of_blocks(x: Array) -> Array:
    *shape, length = x.shape
    blocks = x.reshape(math.prod(shape), length)
    missing = -len(blocks) % _TOGETHER
    sums = jnp.pad(blocks, ((0, missing), (0, 0))) @ jnp.ones(length, x.dtype)
    return sums[: len(blocks)].reshape(shape)


def _of_whole(
    a: Array, b: Array, mode: Mode = _mode_by_index, sums: Sums = sums_by_platform
) -> Block:
    return block_of(row_sums(a, b, mode(a, b), sums))


# Outcomes in a tile: 1 MiB of float32, so that the few arrays of a tile stay in a core's
# second-level cache. One-row tiles are neither vectorised nor fused.
_TILE = 2**18


def _tile(get_p: Callable[[], Array], get_q: Callable[[], Array]) -> Array:
    """The summary of a tile of rows, which is taken anew wherever it is used: what a branch
    closes over would be stored.
    """

    def of_any() -> Array:
        return stacked_sums(
            row_sums(get_p(), get_q(), mode, sums_in_blocks, recompute=False)
        )

    def stacked_sums(x: RowSums) -> Array:
        return stacked([y.astype(x.total.dtype) for y in x])

    mode = _mode_by_chunk(get_p(), get_q())
    # What infinities cost, a fifth of the time, is paid where there are any.
    found = stacked_sums(_row_sums_of_finite(get_p(), get_q(), mode, sums_in_blocks))
    fields = lax.cond(jnp.all(jnp.isfinite(found)), lambda: found, of_any)
    x = RowSums(*jnp.moveaxis(fields, -1, 0))
    return stacked(block_of(x._replace(q_dominates=x.q_dominates > 0)))


# --- rows in tiles -------------------------------------------------------------------

OfRows = Callable[..., Any]  # of rows of logits and of numbers: arrays that begin with rows


def stacked(numbers: Sequence[Array]) -> Array:
    """Numbers of a row as one array: nine would be nine kernels to compile, for each copy
    of them.
    """
    return jnp.stack(numbers, -1)


def unstacked(block: Array) -> Block:
    return Block(*jnp.moveaxis(block, -1, 0))


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
        tiles = functools.partial(_in_tiles, tile)
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


def _in_tiles(tile: OfRows, *operands: Array) -> Any:
    *shape, outcomes = operands[0].shape
    rows = math.prod(shape)
    operands = tuple(x.reshape(rows, *x.shape[len(shape) :]) for x in operands)
    size = max(2, _TILE // outcomes)
    size -= size % _TOGETHER if size > _TOGETHER else 0

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
