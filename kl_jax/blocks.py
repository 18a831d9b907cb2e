r"""The summary of a block of outcomes from which KL(p || q) is put together.

By the chain rule of relative entropy, the KL of a union of blocks is the KL of their
masses plus the mass-weighted KLs inside them. So a block is described by a few numbers
a row, two blocks merge into one, and no term of the merge is negative: nothing cancels.
A single outcome is the smallest block, and summarising outcomes is merging those.

With the logits a of p and b of q, a block remembers its mode (the outcome of largest a)
and measures everything from there: with delta = (b - b_mode) - (a - a_mode),

    mean  = E_p[delta],
    ratio = E_p[e^delta] = (q's mass / p's mass) / e^(b_mode - a_mode),
    kl    = log(ratio) - mean = log1p(E_p[phi(d)]),    d = delta - mean,

with phi(x) = e^x - 1 - x >= 0. At the mode delta is exactly 0, so that a p that is nearly
one outcome keeps its digits; elsewhere it is a difference of differences, taken with its
rounding error, because near-equal logits differ in their last digits only.

These functions are arithmetic for the rules in `divergences`: they are not meant to be
differentiated themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from kl_jax.elementwise import exp_series, in_series, log1p, two_sum

__all__ = ["Block", "finalize", "merge", "of_outcomes"]


class Block(NamedTuple):
    """One number a row each. Where p has no mass, `mass_p` is 0 and `log_ratio` is
    log(mass_q); where q has none, that is -inf.
    """

    top: Array  # the largest logit of p
    anchor: Array  # the logit of q at that outcome, 0 if that is -inf
    mean: Array  # E_p[delta]; 0 where kl is inf
    mass_p: Array  # sum of e^(a - top)
    mass_q: Array  # sum of e^(b - origin)
    origin: Array  # anchor + reference, rounded
    reference: Array  # the mean, or q's largest logit where that is far above
    log_ratio: Array  # what is added to the reference to give log(ratio)
    kl: Array  # KL of p and q, each renormalised on the block


def of_outcomes(logits_p: Array, logits_q: Array) -> Block:
    """The summary of the outcomes along the last axis. Any floating dtype in, at least
    float32 out.
    """
    return lax.platform_dependent(
        logits_p, logits_q, cpu=_in_tiles, cuda=_in_pairs, rocm=_in_pairs, default=_plain
    )


def merge(blocks: Block, axis: int = 0) -> Block:
    """The summary of the union of the blocks stacked along `axis`."""
    inner = Block(*(jnp.moveaxis(x, axis, -1) for x in blocks))
    empty_p, empty_q = inner.mass_p == 0, inner.mass_q == 0
    inner = inner._replace(
        top=jnp.where(empty_p, -jnp.inf, inner.top),
        origin=jnp.where(empty_q, -jnp.inf, inner.origin),
    )

    def mode(a: Array, b: Array) -> Mode:
        return _mode_by_mask(a, b)._replace(highest=_max(inner.origin))

    return _summary(inner.top, inner.anchor, inner, mode, _sums)


def finalize(block: Block) -> Array:
    """KL(p || q) of the whole, 0 where p has no outcome."""
    return block.kl


# --- what both of them do -------------------------------------------------------

# Where q's largest mass passes e^30 times p's, KL > 30 - log(size) and logarithms of the
# two masses no longer cancel; e^30 times any size is far from overflow in float32.
_LARGE = 30.0


def _max(x: Array) -> Array:
    return jnp.max(x, -1, keepdims=True)


def finite(logits: Array, dtype: Any) -> Array:
    """In the dtype computed in; +inf, a point mass, as the largest number: the other
    outcomes are e^-1e38 beside that.
    """
    return jnp.minimum(logits.astype(dtype), float(jnp.finfo(dtype).max))


def masses(logits: Array, origin: Array) -> Array:
    """e^(x - origin), with the rounding error of the shift put back: at a shift of 40 it is
    17 ULP.
    """
    # Where the power is 0 anyway, x may be moved: -inf would make the error nan.
    largest = float(jnp.finfo(logits.dtype).max)
    bottom = jnp.maximum(origin - largest / 8, -largest)
    shifted, error = two_sum(jnp.maximum(logits, bottom), -origin)
    power = jnp.exp(shifted)
    return power + power * error


def deltas(a: Array, b: Array, top: Array, anchor: Array) -> Array:
    """(b - anchor) - (a - top), rounded once or twice however large the offsets: b - a is
    nearly the same everywhere, and its rounding error is put back.
    """
    difference, error = two_sum(b, -a)
    origin, origin_error = two_sum(anchor, -top)
    delta = difference - origin
    # Where infinities took part the error is nan.
    return delta + jnp.where(jnp.abs(delta) < jnp.inf, error - origin_error, 0)


def _summary(
    logits_p: Array,
    logits_q: Array,
    inner: Block | None,
    mode: Callable[[Array, Array], Mode],
    sums: Callable[[Array, Array], tuple[Array, Array]],
    keep: bool = False,
) -> Block:
    """Merges the blocks `inner`, whose modes have these logits; None: single outcomes.

    Weight and delta serve twice: kept, or computed again.
    """
    top, anchor, highest = mode(logits_p, logits_q)
    double = jnp.float64 in (top.dtype, anchor.dtype)
    dtype = jnp.float64 if double else jnp.float32
    largest = float(jnp.finfo(dtype).max)
    top, at_mode = finite(top, dtype), finite(anchor, dtype)
    top = jnp.where(top == -jnp.inf, 0, top)
    # b - anchor must not overflow.
    small = jnp.abs(at_mode) < largest * float(jnp.finfo(dtype).eps) / 4
    anchor = jnp.where(small | (at_mode == largest), at_mode, 0)

    def parts(top: Array, anchor: Array) -> tuple[Array, Array, Array]:
        a, b = finite(logits_p, dtype), finite(logits_q, dtype)
        weight, delta = masses(a, top), deltas(a, b, top, anchor)
        if inner is not None:
            b, weight = inner.origin, weight * inner.mass_p
            delta = delta + (inner.reference + inner.log_ratio)
        return b, weight, jnp.where(weight == 0, 0, delta)

    b, weight, delta = parts(top, anchor)
    # q = 0 < p, also where e^(a - top) underflows; beside +inf all else is 0.
    least_p, least_q = (jnp.where(x == largest, x, -largest) for x in (top, anchor))
    missing = (logits_q.astype(dtype) < least_q) & (logits_p.astype(dtype) >= least_p)
    mass, moment = sums(weight, jnp.where(missing, -jnp.inf, weight * delta))
    size = jnp.where(mass == 0, 1, mass)
    mean = moment / size
    if highest is None:
        peak = _max(b - anchor)
    else:
        peak = finite(highest, dtype) - anchor
    infinite = (mass > 0) & (jnp.isinf(mean) | ((peak == largest) & (at_mode < largest)))
    mean = jnp.where(jnp.isinf(mean), 0, mean)
    peak = jnp.where(peak == -jnp.inf, 0, peak)
    large = infinite | (mass == 0) | (peak - mean > _LARGE)
    # e^(b - anchor - reference) = e^(b - origin) scale; in large rows the remainder may be
    # large too, and goes into the logarithm.
    reference = jnp.where(large, peak, mean)
    origin, remainder = two_sum(anchor, reference)
    scale = jnp.exp(jnp.where(large, 0, -remainder))

    if not keep:
        # The barrier stops XLA from storing what both passes compute alike.
        top, anchor, size, mean, large, origin = lax.optimization_barrier(
            (top, anchor, size, mean, large, origin)
        )
        b, weight, delta = parts(top, anchor)
    d = delta - mean
    mass_q = masses(b, origin) * scale
    if inner is not None:
        mass_q = mass_q * inner.mass_q
    # p phi(d), or q - p (1 + d): each where it neither cancels nor overflows. The second
    # holds at p = 0 too.
    far = mass_q - jnp.where(large, 0, weight * (1 + d))
    near = in_series(d) & (weight > 0) & ~large
    terms = jnp.where(near, weight * exp_series(d), far)
    total, residual = sums(terms, weight * d)
    mass_q = total + jnp.where(large, 0, mass + residual)
    total, residual = total / size, residual / size
    # The mean was rounded: E[d] = residual, not 0, and e^-residual (1 + total + residual)
    # is what log1p wants, here to the second order in the residual.
    corrected = total - residual * (total + residual / 2)
    log_ratio = jnp.where(large, jnp.log(total) + remainder, log1p(total + residual))
    kl = jnp.where(large, (reference - (mean + residual)) + log_ratio, log1p(corrected))
    mean = mean + residual
    if inner is not None:
        # A delta of the whole is one inside a block and one between the modes.
        share = jnp.where(weight == 0, 0, weight / size)
        between = deltas(logits_p, logits_q, top, anchor)
        known = jnp.where(share == 0, 0, between + inner.mean)
        mean = jnp.sum(share * known, -1, keepdims=True)
        inside = jnp.where(share == 0, 0, inner.kl)
        kl = kl + jnp.sum(share * inside, -1, keepdims=True)
        certain = (inner.kl == jnp.inf) & (finite(logits_p, dtype) >= least_p)
        infinite = infinite | jnp.any(certain, -1, keepdims=True)
        unknown = jnp.any(jnp.isnan(inner.kl), -1, keepdims=True)
        total = jnp.where(unknown, jnp.nan, total)
    infinite = infinite & ~jnp.isnan(total)  # nan is not hidden by inf
    mean = jnp.where(infinite, 0, mean)
    kl = jnp.where(infinite, jnp.inf, jnp.where(mass == 0, 0, kl))
    rows = Block(top, anchor, mean, mass, mass_q / scale, origin, reference, log_ratio, kl)
    return Block(*(jnp.squeeze(x, -1) for x in rows))


# --- the same sums, as each platform computes them best ------------------------------


class Mode(NamedTuple):
    top: Array  # the largest logit of p, and q's at that outcome
    anchor: Array
    highest: Array | None  # the largest logit of q, where a pass of its own costs little


def _mode_by_mask(a: Array, b: Array) -> Mode:
    top = _max(a)
    return Mode(top, _max(jnp.where(a == top, b, -jnp.inf)), _max(b))


def _mode_by_index(a: Array, b: Array) -> Mode:
    """Reads b at one outcome a row, where a mask reads all of it once more."""
    index = jnp.argmax(a, -1, keepdims=True)
    top, anchor = (jnp.take_along_axis(x, index, -1) for x in (a, b))
    return Mode(top, anchor, None)


def _mode_by_chunk(a: Array, b: Array) -> Mode:
    """Looks for the mode in the one chunk that holds it: 10 % of the whole on CPUs."""
    size = math.gcd(a.shape[-1], 512)
    if size < 64:
        return _mode_by_mask(a, b)
    x, y = (z.reshape(*z.shape[:-1], -1, size) for z in (a, b))
    index = jnp.argmax(jnp.max(x, -1), -1)[..., None, None]
    x, y = (jnp.take_along_axis(z, index, -2)[..., 0, :] for z in (x, y))
    return _mode_by_mask(x, y)._replace(highest=_max(b))


def _sums(x: Array, y: Array) -> tuple[Array, Array]:
    return jnp.sum(x, -1, keepdims=True), jnp.sum(y, -1, keepdims=True)


def _plain(a: Array, b: Array) -> Block:
    return _summary(a, b, None, _mode_by_index, _sums)


def _in_pairs(a: Array, b: Array) -> Block:
    """XLA for GPUs fuses an expression into one reduction, not into two: a complex sum is
    both at once. As two sums the terms are stored, 2 GiB for [2048, 131072].
    """

    def sums(x: Array, y: Array) -> tuple[Array, Array]:
        both = jnp.sum(lax.complex(x, y), -1, keepdims=True)
        return both.real, both.imag

    return _summary(a, b, None, _mode_by_index, sums)


# Outcomes in a tile: 1 MiB of float32, so that the few arrays of a tile stay in a core's
# second-level cache. One-row tiles are neither vectorised nor fused.
_TILE = 2**18


def _in_tiles(a: Array, b: Array) -> Block:
    """A loop over tiles of rows: 3 MiB of temporary memory instead of twice the inputs."""

    def tile(a: Array, b: Array) -> Block:
        return _summary(a, b, None, _mode_by_chunk, stored, keep=True)

    def stored(x: Array, y: Array) -> tuple[Array, Array]:
        # A reduction on its own is fast here; with its terms fused into it, three times
        # slower than the two apart.
        return _sums(lax.optimization_barrier(x), y)

    *shape, outcomes = a.shape
    rows = math.prod(shape)
    size = max(2, _TILE // outcomes)
    if rows <= size:
        return tile(a, b)
    flat = a.reshape(rows, outcomes), b.reshape(rows, outcomes)
    # The last tile overlaps the one before: no copy of the rows, whatever their number.
    starts = jnp.minimum(jnp.arange(0, rows, size), rows - size)

    def body(start: Array) -> Block:
        return tile(*(lax.dynamic_slice_in_dim(x, start, size) for x in flat))

    tiles = lax.map(body, starts)
    left = rows - size * (len(starts) - 1)
    return Block(
        *(
            jnp.concatenate([x[:-1].reshape(-1), x[-1, size - left :]]).reshape(shape)
            for x in tiles
        )
    )
