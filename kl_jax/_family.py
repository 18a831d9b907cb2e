r"""The derivative of a divergence sum F(p, q), closed: one rule for the whole family.

F is homogeneous of degree 1. With u = dF/dp and v = dF/dq, of logits a and b,

    D = sum p u + q v,    dD = sum p (u - E_p[u]) da + sum q (v - E_q[v]) db,

so that E_q[v] beside D is all that the slopes need of a row, and no derivative goes through
a logarithm of sums. An `FDivergence` is its term F, written without cancellation, and the
two products p u and q v. `Family` is what the rule asks of it, and of Renyi's divergence,
which is a function of such a sum.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from kl_jax._arithmetic import jitted_custom_jvp, nan_where, tangent
from kl_jax._blocks import (
    OutcomeTerms,
    instantiated,
    kept,
    outcome_terms,
    rematerialized,
    sum_outcomes,
    summary,
    summary_tangent,
)
from kl_jax._contracts import AxisName
from kl_jax._passes import Block
from kl_jax._reductions import Sums, sums_by_platform, sums_in_blocks
from kl_jax._tiles import by_rows

Rows = tuple[Array, ...]  # one number a row each; the divergence is the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What the rule needs of a divergence. Parameters are the constants, then arrays."""

    constants: tuple[float, ...] = ()

    def __call__(
        self, axis_name: AxisName, a: Array, b: Array, *parameters: Array
    ) -> Array:
        """Of logits whose outcomes are along the last axis, and of parameters of rows."""
        parameters = tuple(nan_where(~self.contains(x), x) for x in parameters)
        return _value(self, axis_name, a, b, parameters)

    def contains(self, parameter: Array) -> Array:
        """Outside, the divergence is nan."""
        return (parameter >= 0) & (parameter <= 1)

    def peak(self, x: OutcomeTerms, *parameters: Any) -> Array | None:
        """A number of a row that the terms need: their first parameter, and the last of the
        sums.
        """
        return None

    def terms(self, x: OutcomeTerms, slopes: bool, *parameters: Any) -> Rows:
        """What is summed over the outcomes; for slopes only where they are wanted."""
        raise NotImplementedError

    def rows(self, axis_name: AxisName, sums: Rows, *parameters: Any) -> Rows:
        """Of the sums on all devices: the divergence first."""
        raise NotImplementedError

    def slopes(self, x: OutcomeTerms, rows: Rows, *parameters: Any) -> tuple[Array, ...]:
        """dD/da, dD/db and, of a sum, dD/dparameter, of each outcome."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FDivergence(Family):
    """sum F, of `term(x, *parameters)` = F >= 0 and `parts(x, *parameters)` = (p u, q v),
    all finite but F; `change(x, parameter)` is dF of the parameter, if there is one.
    """

    term: Callable[..., Array]
    parts: Callable[..., tuple[Array, Array]]
    change: Callable[..., Array] | None = None

    def terms(self, x: OutcomeTerms, slopes: bool, *parameters: Any) -> Rows:
        term = self.term(x, *parameters)
        return (term, self.parts(x, *parameters)[1]) if slopes else (term,)

    def rows(self, axis_name: AxisName, sums: Rows, *parameters: Any) -> Rows:
        """The divergence, and E_q[v]."""
        return sums if axis_name is None else tuple(lax.psum(y, axis_name) for y in sums)

    def slopes(self, x: OutcomeTerms, rows: Rows, *parameters: Any) -> tuple[Array, ...]:
        value, mean_q = rows
        mean_p = jnp.where(value == jnp.inf, 0, value - mean_q)
        p_u, q_v = self.parts(x, *parameters)
        others = () if self.change is None else (self.change(x, *parameters),)
        return p_u - x.p * mean_p, q_v - x.q * mean_q, *others


@functools.partial(jitted_custom_jvp, static=(0, 1))
def _value(
    family: Family, axis_name: AxisName, a: Array, b: Array, parameters: Rows
) -> Array:
    block = summary(axis_name, a, b)
    return _rows_of(family, axis_name, False, block, a, b, parameters)[0]


def _rows_of(
    family: Family,
    axis_name: AxisName,
    slopes: bool,
    block: Block,
    a: Array,
    b: Array,
    parameters: Rows,
    cut: bool = True,
) -> Rows:
    def of_part(add: Sums, a: Array, b: Array, *numbers: Array) -> Array:
        block, beside = _parted(numbers)
        beside = (*family.constants, *beside)
        peak = family.peak(outcome_terms(block, a, b), *beside)
        if peak is not None:
            # XLA for GPUs would store what the peak and the terms compute alike.
            block, peak = lax.optimization_barrier((block, lax.stop_gradient(peak)))
            beside = (peak, *beside)
        sums = add(*family.terms(outcome_terms(block, a, b), slopes, *beside))
        return jnp.concatenate([*sums, *(() if peak is None else (peak,))], -1)

    operands = (a, b, *block, *parameters)
    whole = functools.partial(of_part, sums_by_platform)
    if cut:
        tile = functools.partial(of_part, sums_in_blocks)
        sums = by_rows(lambda *take: tile(*(x() for x in take)), whole, *operands)
    else:
        sums = whole(*operands)
    sums = tuple(jnp.moveaxis(sums, -1, 0))
    return family.rows(axis_name, sums, *family.constants, *parameters)


def _parted(numbers: Rows) -> tuple[Block, Rows]:
    """The block, and what stands beside the outcomes."""
    size = len(Block._fields)
    return Block(*numbers[:size]), tuple(y[..., None] for y in numbers[size:])


def _value_jvp(family, axis_name, primals, tangents):
    block, rows = kept(_block_and_rows(family, axis_name, *primals))
    return rows[0], _tangent(family, axis_name, block, rows, primals, tangents)


_value.defjvp(_value_jvp, symbolic_zeros=True)


def _tangent(
    family: Family,
    axis_name: AxisName,
    block: Block,
    rows: Rows,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> Array:
    a, b, parameters = primals
    da, db, dparameters = tangents
    of_rows = (t if isinstance(t, SymbolicZero) else t[..., None] for t in dparameters)
    changes = (da, db, *of_rows)

    @rematerialized
    def change(kept: Any, a: Array, b: Array) -> Array:
        block, *numbers = kept
        rows, parameters = (tuple(y[..., None] for y in x) for x in numbers)
        x = outcome_terms(block, a, b)
        slopes = family.slopes(x, rows, *family.constants, *parameters)
        # Those of constants are none.
        terms = zip(slopes[: len(changes)], changes, strict=True)
        return sum_outcomes(axis_name, tangent(jnp.broadcast_to(rows[0], a.shape), *terms))

    return change((block, rows, parameters), a, b)


@functools.partial(jitted_custom_jvp, static=(0, 1))
def _block_and_rows(
    family: Family, axis_name: AxisName, a: Array, b: Array, parameters: Rows
) -> tuple[Block, Rows]:
    block = summary(axis_name, a, b)
    return block, _rows_of(family, axis_name, True, block, a, b, parameters)


def _block_and_rows_jvp(family, axis_name, primals, tangents):
    """What second derivatives need."""
    a, b, parameters = primals
    block, rows = _block_and_rows(family, axis_name, *primals)
    dblock = summary_tangent(axis_name, block, a, b, *tangents[:2])
    first = _tangent(family, axis_name, block, rows, primals, tangents)
    tangents = jax.tree.map(instantiated, primals, tangents)

    @rematerialized
    def others(kept: Any, a: Array, b: Array) -> Rows:
        def of(block: Block, a: Array, b: Array, parameters: Rows) -> Rows:
            rows = _rows_of(family, axis_name, True, block, a, b, parameters, cut=False)
            return rows[1:]

        block, parameters = kept
        return jax.jvp(of, (block, a, b, parameters), (dblock, *tangents))[1]

    return (block, rows), (dblock, (first, *others((block, parameters), a, b)))


_block_and_rows.defjvp(_block_and_rows_jvp, symbolic_zeros=True)
