r"""The summary of a block of outcomes from which KL(p || q) is put together.

By the chain rule of relative entropy, the KL of a union of blocks is the KL of their
masses plus the mass-weighted KLs inside them. So a block is described by a few numbers
a row, two blocks merge into one, and no term of the merge is negative: nothing cancels.
A single outcome is the smallest block, and summarising outcomes is merging those.

The derivative needs nothing of an outcome but its two logits and the summary of its row:
`outcome_terms` has what the slopes are made of, in one more pass over the logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from kl_jax._arithmetic import (
    are_exact,
    jitted_custom_jvp,
    linear,
    nan_where,
    row_sum,
    two_sum,
)
from kl_jax._contracts import AxisName
from kl_jax._exponentials import power_of, powers_of
from kl_jax._passes import (
    Block,
    block_of,
    bounded,
    clamp_inf,
    delta_of,
    mass_of,
    row_sums,
    shifted,
    summarize,
)
from kl_jax._reductions import mode_by_mask, sums_apart


def merge(blocks: Block, axis: int = 0) -> Block:
    """The summary of the union of the blocks stacked along `axis`."""
    inner = Block(*(jnp.moveaxis(x, axis, -1) for x in blocks))
    empty_p, empty_q = inner.mass_p == 0, inner.mass_q == 0
    inner = inner._replace(
        top=jnp.where(empty_p, -jnp.inf, inner.top),
        origin=jnp.where(empty_q, -jnp.inf, inner.origin),
    )
    mode = mode_by_mask(inner.top, inner.anchor)
    block = block_of(row_sums(inner.top, inner.anchor, mode, sums_apart, inner))
    # A delta of the whole is one inside a block and one between the modes.
    top, anchor, size = (
        jnp.expand_dims(x, -1) for x in (block.top, block.anchor, block.mass_p)
    )
    a = clamp_inf(inner.top, top.dtype)
    weight = mass_of(a, top) * inner.mass_p
    share = jnp.where(weight == 0, 0, weight / size)
    between = delta_of(a, clamp_inf(inner.anchor, top.dtype), top, anchor)
    mean = jnp.sum(jnp.where(share == 0, 0, share * (between + inner.mean)), -1)
    kl = block.kl + jnp.sum(jnp.where(share == 0, 0, share * inner.kl), -1)
    # Also where the share underflows. nan is not hidden by inf.
    beside = top == float(jnp.finfo(top.dtype).max)
    infinite = jnp.any((inner.kl == jnp.inf) & ~empty_p & ((a == top) | ~beside), -1)
    unknown = jnp.any(jnp.isnan(inner.kl), -1) | jnp.isnan(block.kl)
    kl = nan_where(unknown, jnp.where(infinite, jnp.inf, kl))
    return block._replace(mean=jnp.where(kl == jnp.inf, 0, mean), kl=kl)


def gather_shards(block: Block, axis_name: AxisName) -> Block:
    """The summaries of all devices along `axis_name`, stacked. Each puts its own in a place
    of its own of a sum: unlike an all-gather's, the type of a sum says that it is the same
    on all.
    """
    mine = jnp.stack(block)
    place = jnp.arange(lax.axis_size(axis_name)) == lax.axis_index(axis_name)
    place = place.reshape(-1, *(1 for _ in mine.shape))
    return Block(*jnp.moveaxis(lax.psum(jnp.where(place, mine, 0), axis_name), 1, 0))


# --- the derivative -----------------------------------------------------------------

Tangent = Array | SymbolicZero


class OutcomeTerms(NamedTuple):
    """What the divergences are made of, at every outcome. 0 where p has no outcome."""

    p: Array
    q: Array
    q_minus_p: Array
    r: Array  # log(q / p), or a number that `is_infinite`
    d: Array  # delta - E_p[delta] = r + KL; 0 where KL = inf
    log_p: Array
    log_q: Array


def is_infinite(log: Array) -> Array:
    """Half the range below the largest logit there is no mass."""
    return jnp.abs(log) >= float(jnp.finfo(log.dtype).max) / 2


@jitted_custom_jvp
def outcome_terms(block: Block, logits_p: Array, logits_q: Array) -> OutcomeTerms:
    """From the summary of the whole row, of which these outcomes may be a part."""
    block = Block(*(jnp.expand_dims(x, -1) for x in block))
    dtype = block.kl.dtype
    exact = are_exact(logits_p, logits_q)
    a, b = clamp_inf(logits_p, dtype), clamp_inf(logits_q, dtype)
    empty, none = block.mass_p == 0, block.mass_q == 0
    # Shift q so that both sides have the same mass up to rounding: then log(q / p) is the
    # difference of the shifted logits minus log(mass_q / mass_p), which is tiny.
    log_mass_ratio = jnp.where(none, 0, block.log_mass_ratio)
    change, error = two_sum(block.reference, log_mass_ratio)
    origin, rounded = two_sum(block.anchor, change)
    mass_q = mass_of(block.origin, origin) * block.mass_q
    # Up to 1 the two numbers err less than the masses do.
    small = jnp.abs(block.reference) + jnp.abs(log_mass_ratio) < 1
    offset = jnp.where(small, rounded + error, jnp.log(mass_q / block.mass_p))
    offset = jnp.where(none, 0, offset)
    # Nothing is left of what is divided by inf.
    size_p = jnp.where(empty, jnp.inf, block.mass_p)
    size_q = jnp.where(none, jnp.inf, mass_q)
    x, x_error = shifted(a, block.top)
    z, z_error = shifted(b, origin)
    if exact:
        # From an origin of few bits the difference needs no rounding errors.
        near = jnp.where(is_infinite(origin), origin, lax.reduce_precision(origin, 8, 7))
        sides = bounded(a, block.top), bounded(b, origin)
        r = delta_of(*sides, block.top, near, exact) - (origin - near)
    else:
        r = (z - x) + (z_error - x_error)
    r = jnp.where(empty, 0, r - offset)
    # The smaller of p and q is the larger times e^-|r|, and the difference is the larger
    # times 1 - e^-|r|, which neither cancels nor overflows: two exponentials for all three.
    up = r > 0
    exponent, error = jnp.where(up, z, x), jnp.where(up, z_error, x_error)
    larger = power_of(exponent, error, exact) * jnp.where(up, 1 / size_q, 1 / size_p)
    powers = powers_of(jnp.abs(r))
    smaller, change = larger * powers.ratio, larger * powers.less
    p, q = jnp.where(up, smaller, larger), jnp.where(up, larger, smaller)
    q_minus_p = jnp.where(up, change, -change)
    d = delta_of(a, b, block.top, block.anchor, exact) - block.mean
    d = jnp.where(p > jnp.where(block.kl == jnp.inf, jnp.inf, 0), d, 0)
    log_p, log_q = x - jnp.log(size_p), z - jnp.log(size_q)
    log_p, log_q = (jnp.where(is_infinite(y), -jnp.inf, y) for y in (log_p, log_q))
    return OutcomeTerms(p, q, q_minus_p, r, d, log_p, log_q)


def _less(t: Tangent, change: Array) -> Tangent:
    """Relative to one change of each row."""
    return t if isinstance(t, SymbolicZero) else t.astype(change.dtype) - change[..., None]


def instantiated(x: Array, t: Tangent) -> Array:
    return jnp.zeros_like(x) if isinstance(t, SymbolicZero) else t


def _outcome_terms_jvp(primals, tangents):
    block, a, b = primals
    dblock, da, db = tangents
    dblock = Block(*map(instantiated, block, dblock))
    x = outcome_terms(block, a, b)

    def change(t, shift):
        """Of a logit, relative to that of a mode."""
        return instantiated(x.p, _less(t, shift))

    def change_of_log(mass, dmass):
        return (dmass / jnp.where(mass == 0, 1, mass))[..., None]

    dlog_p = change(da, dblock.top) - change_of_log(block.mass_p, dblock.mass_p)
    dlog_q = change(db, dblock.origin) - change_of_log(block.mass_q, dblock.mass_q)
    dp, dq = x.p * dlog_p, x.q * dlog_q
    dd = change(db, dblock.anchor) - change(da, dblock.top) - dblock.mean[..., None]
    return x, OutcomeTerms(dp, dq, dq - dp, dlog_q - dlog_p, dd, dlog_p, dlog_q)


outcome_terms.defjvp(_outcome_terms_jvp, symbolic_zeros=True)


def sum_outcomes(axis_name: AxisName, x: Array) -> Array:
    """Sum over the last axis, and over the devices that share it."""
    total = row_sum(x)[..., 0]
    return total if axis_name is None else lax.psum(total, axis_name)


def kl_tangent(x: OutcomeTerms, da: Tangent, db: Tangent) -> Array:
    """Term by term: dKL/da = -p d, dKL/db = q - p."""
    return linear(x.p, (-x.p * x.d, da), (x.q_minus_p, db))


def mass_tangents(x: OutcomeTerms, da: Tangent, db: Tangent) -> tuple[Array, Array, Array]:
    """Term by term, of log(mass_p), log(mass_q) and the mean."""
    mean = linear(x.p, (x.p * (x.d - 1), da), (x.p, db))
    return linear(x.p, (x.p, da)), linear(x.p, (x.q, db)), mean


def block_tangent(
    block: Block, kl: Array, log_mass_p: Array, log_mass_q: Array, mean: Array
) -> Block:
    """The tangent of the summary."""
    zeros = Block(*(jnp.zeros_like(x) for x in block))
    mass_p, mass_q = block.mass_p * log_mass_p, block.mass_q * log_mass_q
    return zeros._replace(kl=kl, mass_p=mass_p, mass_q=mass_q, mean=mean)


@functools.partial(jitted_custom_jvp, static=(0,))
def summary(axis_name: AxisName, logits_p: Array, logits_q: Array) -> Block:
    """The summary of each row. `outcome_terms` reads the tangents of kl, the mean, top and
    anchor, and of the masses: that of mass_p beside the change of top, and that of mass_q
    beside the change of q's largest logit, which is given as origin's. The positions of the
    modes count as fixed.
    """
    block = summarize(logits_p, logits_q)
    return block if axis_name is None else merge(gather_shards(block, axis_name))


def _summary_jvp(axis_name, primals, tangents):
    a, b = primals
    block = kept(summary(axis_name, a, b))
    return block, summary_tangent(axis_name, block, a, b, *tangents)


summary.defjvp(_summary_jvp, symbolic_zeros=True)


def summary_tangent(
    axis_name: AxisName, block: Block, a: Array, b: Array, *tangents: Tangent
) -> Block:
    total = functools.partial(sum_outcomes, axis_name)

    @rematerialized
    def change(block: Block, a: Array, b: Array) -> Block:
        x = outcome_terms(block, a, b)
        kl = total(kl_tangent(x, *tangents))
        # Relative to the changes at the modes: where p or q is nearly one outcome, the mean
        # of the change is nearly that, and what is left of it would be rounding.
        largest = lax.stop_gradient(jnp.max(clamp_inf(b, x.p.dtype), -1))
        largest = largest if axis_name is None else lax.pmax(largest, axis_name)
        modes = (
            clamp_inf(y, x.p.dtype) == z[..., None]
            for y, z in ((a, block.top), (b, largest))
        )
        of_p, of_q = (mode.astype(x.p.dtype) for mode in modes)

        def at(mode: Array, t: Tangent) -> Array:
            count = total(mode)
            return total(linear(mode, (mode, t))) / jnp.where(count == 0, 1, count)

        da, db = tangents
        top, anchor, origin = at(of_p, da), at(of_p, db), at(of_q, db)
        log_mass_p, _, mean = mass_tangents(x, _less(da, top), _less(db, anchor))
        log_mass_q = linear(x.p, (x.q, _less(db, origin)))
        masses = (total(y) for y in (log_mass_p, log_mass_q, mean))
        change = block_tangent(block, kl, *masses)
        return change._replace(top=top, anchor=anchor, origin=origin)

    return change(block, a, b)


# What a checkpoint may keep of the rows, so that it computes the slopes alone anew.
NUMBERS_OF_ROWS = "kl_jax"


def kept(numbers: Any) -> Any:
    return jax.tree.map(lambda x: checkpoint_name(x, NUMBERS_OF_ROWS), numbers)


def rematerialized(change: Callable[..., Any]) -> Callable[..., Any]:
    """`change(rows, *arrays)` of numbers of rows and of logits: reverse mode keeps those,
    and computes the slopes when it needs them. The barrier keeps XLA from storing what
    value and slopes compute alike.
    """
    keeping = jax.checkpoint(change, prevent_cse=False)
    return lambda rows, *arrays: keeping(lax.optimization_barrier(rows), *arrays)


def log_mass(axis_name: AxisName, logits: Array) -> Array:
    """log of the sum of e^x over the outcomes; -inf with slopes 0 for no mass, where those
    of `logsumexp` are nan.
    """
    top = lax.stop_gradient(jnp.max(logits, -1))
    top = top if axis_name is None else lax.pmax(top, axis_name)
    top = jnp.where(jnp.isfinite(top), top, 0)
    return log_of_mass(top, sum_outcomes(axis_name, jnp.exp(logits - top[..., None])))


def log_of_mass(top: Array, mass: Array) -> Array:
    """log(e^top mass)."""
    none = mass == 0
    return jnp.where(none, -jnp.inf, top + jnp.log(jnp.where(none, 1, mass)))
