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
differentiated themselves. A kernel would replace this file, `_reductions` and `_tiles`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from kl_jax._arithmetic import are_exact, clamp_min, result_dtype, two_sum
from kl_jax._exponentials import (
    exp_of_sum,
    exp_on_cpu,
    log1p,
    phi_quotient_series,
    phi_series_holds,
)
from kl_jax._reductions import (
    Mode,
    OfMode,
    Sums,
    largest_of,
    mode_by_chunk,
    mode_by_index,
    mode_by_mask,
    stored,
    sum_in_blocks,
    sum_of_products,
    sums_by_platform,
    sums_in_blocks,
)
from kl_jax._tiles import by_rows, may_be_cut


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


# Where q's largest mass passes e^30 times p's, KL > 30 - log(size) and logarithms of the
# two masses no longer cancel; e^30 times any size is far from overflow in float32.
_LARGE = 30.0


def clamp_inf(logits: Array, dtype: Any) -> Array:
    """In the dtype computed in; +inf, a point mass, as the largest number: the other
    outcomes are e^-1e38 beside that.
    """
    return jnp.minimum(logits.astype(dtype), float(jnp.finfo(dtype).max))


def _bottom(origin: Array) -> Array:
    """Half the range below: an outcome there has no mass."""
    largest = float(jnp.finfo(origin.dtype).max)
    return jnp.maximum(origin - largest / 2, -largest)


def bounded(logits: Array, origin: Array) -> Array:
    """From the bottom up. -inf - -inf would be nan."""
    # One instruction of a CPU for four, and one of a TPU for two.
    return lax.platform_dependent(
        *(logits, _bottom(origin)), cpu=clamp_min, default=jnp.maximum
    )


def shifted(logits: Array, origin: Array) -> tuple[Array, Array]:
    """x - origin, from the bottom up, and its rounding error: at a shift of 40 it is 17 ULP
    of the power.
    """
    return two_sum(bounded(logits, origin), -origin)


def mass_of(logits: Array, origin: Array, exact: bool = False) -> Array:
    """e^(x - origin)."""

    def by_shift(logits: Array, origin: Array) -> Array:
        return exp_of_sum(*shifted(logits, origin))

    if not exact:
        return by_shift(logits, origin)
    # As in `power_of`, and e^-inf is 0: without a bound, two bundles of a TPU less.
    return lax.platform_dependent(
        *(logits, origin), tpu=lambda x, y: jnp.exp(x - y), default=by_shift
    )


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
    rest, moment = sum_in_blocks(weight, place), sum_in_blocks(moment)
    return rest + (top != -jnp.inf).astype(rest.dtype), moment


def _whole_origin(x: Array) -> Array:
    """A whole number near x, or 0 where powers of what is near x are far from overflow.
    Logits near x or below are measured from it without a rounding error, but those below
    e^-40 of an x above 60.
    """
    return jnp.where((x >= 0) & (x <= 60), 0, jnp.round(x))


def _row_sums_of_finite(logits_p: Array, logits_q: Array, mode: OfMode) -> RowSums:
    """The two passes on CPUs for finite logits of 16 or 32 bits, of which p's may be -inf
    too. Measured from whole numbers, not from the mode, no shift has a rounding error, and
    they take three quarters of the time. For others, and where a power overflows, a number
    comes out that is not finite.
    """
    dtype = result_dtype(logits_p, logits_q)
    a, b, top, anchor = (x.astype(dtype) for x in (logits_p, logits_q, *mode[:2]))
    origin_p = _whole_origin(top)
    weight, of_mode = exp_on_cpu(a - origin_p), exp_on_cpu(top - origin_p)
    delta = delta_of(a, b, top, anchor, are_exact(logits_p, logits_q))
    # Not where the weight is 0: where it underflows q may be 0, and 0 * -inf must show.
    delta = jnp.where(a < _bottom(top), 0, delta)
    mass = 1 + sum_in_blocks(weight, mode[2]) / of_mode
    mean = sum_of_products(weight, delta) / of_mode / mass
    origin, remainder = two_sum(anchor, mean)
    origin_q = _whole_origin(origin)
    shift, error = two_sum(top - origin_p, origin_q - origin)
    mass_q = exp_on_cpu(b - origin_q) * stored(exp_of_sum(shift, error - remainder))
    d = delta - mean
    terms = _phi_terms(weight, jnp.where(weight > 0, d, _FAR), mass_q)
    total, residual = sum_in_blocks(terms), sum_of_products(weight, d)
    total, residual = total / of_mode, residual / of_mode
    # What is below e^-40 matters where nothing else does.
    rounded = (jnp.maximum(origin_p, origin_q) > 0) & (total < 2**-24)
    mass = jnp.where(rounded, jnp.nan, mass)
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
        return b, weight, delta

    b, weight, delta = parts(top, anchor)
    # q = 0 < p, also where e^(a - top) underflows; beside +inf all else is 0.
    least_p, least_q = (jnp.where(x == largest, x, -largest) for x in (top, anchor))
    missing = (logits_q.astype(dtype) < least_q) & (logits_p.astype(dtype) >= least_p)
    moment = jnp.where(missing, -jnp.inf, jnp.where(weight > 0, weight * delta, 0))
    mass, moment = _sums_of_weights(sums, weight, moment, mode[0], mode[2])
    mean = moment / jnp.where(mass == 0, 1, mass)
    peak = largest_of(b) - anchor
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
    d = jnp.where(weight > 0, delta - centre, _FAR)
    mass_q = mass_of(b, origin, exact) * scale
    if blocks is not None:
        mass_q = mass_q * blocks.mass_q
    terms = jnp.where(q_dominates, mass_q, _phi_terms(weight, d, mass_q))
    total, residual = sums(terms, weight * d)
    return _squeezed(
        RowSums(top, anchor, mass, mean, reference, q_dominates, total, residual)
    )


# What d is taken to be where p = 0: the series of phi does not hold there.
_FAR = 3.0


def _phi_terms(weight: Array, d: Array, mass_q: Array) -> Array:
    """p phi(d), or q - p - p d: each where it neither cancels nor overflows. The second
    holds at p = 0 too.
    """
    moment = weight * d
    series = (moment * d) * phi_quotient_series(d)
    return jnp.where(phi_series_holds(d), series, (mass_q - weight) - moment)


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
    log_mass_ratio = jnp.where(
        x.q_dominates, jnp.log(total) - remainder, log1p(total + residual)
    )
    # Both are far from 0 where q's logit at the mode is far from the others.
    large = ((x.reference - mean) - residual) + log_mass_ratio
    kl = jnp.where(x.q_dominates, large, log1p(corrected))
    kl = jnp.where(infinite, jnp.inf, jnp.where(x.mass == 0, 0, kl))
    mean = jnp.where(infinite, 0, mean + residual)
    return Block(
        x.top, x.anchor, mean, x.mass, mass_q, origin, x.reference, log_mass_ratio, kl
    )


def _of_whole(
    a: Array, b: Array, mode: Mode = mode_by_index, sums: Sums = sums_by_platform
) -> Block:
    return block_of(row_sums(a, b, mode(a, b), sums))


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

    mode = mode_by_chunk(get_p(), get_q())
    if result_dtype(get_p(), get_q()) == jnp.float64:
        # XLA's e^x errs by 2 ULP there, and quotients of two by 4.
        fields = of_any()
    else:
        found = stacked_sums(_row_sums_of_finite(get_p(), get_q(), mode))
        finite = jnp.all(jnp.isfinite(found), -1, keepdims=True)
        # What infinities cost, half of the time, is paid where there are any. A row has the
        # same bits whichever are beside it.
        fields = lax.cond(
            jnp.all(finite), lambda: found, lambda: jnp.where(finite, found, of_any())
        )
    x = RowSums(*jnp.moveaxis(fields, -1, 0))
    return stacked(block_of(x._replace(q_dominates=x.q_dominates > 0)))


def stacked(numbers: Sequence[Array]) -> Array:
    """Numbers of a row as one array: nine would be nine kernels to compile, for each copy
    of them.
    """
    return jnp.stack(numbers, -1)


def unstacked(block: Array) -> Block:
    return Block(*jnp.moveaxis(block, -1, 0))
