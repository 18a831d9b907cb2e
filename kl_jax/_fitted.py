r"""Terms F(p, q) of a constant, by polynomials that are fitted while tracing.

Beside the larger of p and q, the smaller is e^-d, d = |log(q / p)|. With S the smaller a
term is S d^2 times a smooth function of d, and with L the larger it is L times a smooth
function of e^-d, less a multiple of e^-d d where it has a logarithm. Up to d = 3 the first
is a polynomial, of which the terms of the other sign take away a fifth at worst; from there
on the second is one, and loses one bit in the difference. No logarithm is needed, and one
exponential beside that of the larger. float64 has the other forms alone: nobody counts its
operations.
"""

from __future__ import annotations

import decimal
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TypeGuard

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax._arithmetic import polynomial
from kl_jax._blocks import OutcomeTerms
from kl_jax._exponentials import powers_of

Exact = Callable[[Decimal, Decimal, Decimal], Decimal]  # of p, q and a constant

_END = 3.0


def is_fitted(constant: float | Array, largest: float, r: Array) -> TypeGuard[float]:
    """Whether the polynomials keep their digits."""
    single = not isinstance(constant, Array) and r.dtype == jnp.float32
    return single and 0.1 <= constant <= largest


def interpolated(f: Callable[[Decimal], Decimal], end: float) -> list[float]:
    """The shortest polynomial through f at Chebyshev's nodes of [0, end] that errs by 2e-8
    of f at most, between the nodes. In decimal arithmetic while tracing, which takes 5 ms.
    """

    def through(count: int) -> list[Decimal]:
        nodes = points(count, 0.5)
        # Newton's divided differences, and then powers.
        terms = [f(x) for x in nodes]
        for j in range(1, count):
            for i in reversed(range(j, count)):
                terms[i] = (terms[i] - terms[i - 1]) / (nodes[i] - nodes[i - j])
        powers: list[Decimal] = []
        for term, node in zip(reversed(terms), reversed(nodes), strict=True):
            shifted = [Decimal(0), *powers]
            powers = [x - node * y for x, y in zip(shifted, [*powers, 0], strict=True)]
            powers[0] += term
        return powers

    def points(count: int, place: float) -> list[Decimal]:
        angles = (math.pi * (k + place) / count for k in range(count))
        return [Decimal(end / 2 * (1 + math.cos(x))) for x in angles]

    def errs_little(powers: list[Decimal]) -> bool:
        def error(x: Decimal) -> Decimal:
            return functools.reduce(lambda y, c: y * x + c, reversed(powers)) / f(x) - 1

        return all(abs(error(x)) < 2e-8 for x in points(len(powers), 0.0))

    with decimal.localcontext(prec=40):
        powers = next(filter(errs_little, map(through, range(4, 16))))
        return [float(x) for x in powers]


def either(
    above: Array, of_above: Sequence[float], of_below: Sequence[float]
) -> list[ArrayLike]:
    """Coefficients where q is above p, and where it is not."""
    pairs = itertools.zip_longest(of_above, of_below, fillvalue=0.0)
    return [y if y == z else jnp.where(above, y, z) for y, z in pairs]


def _of_sides(term: Exact, constant: float, above: bool) -> Callable[..., Decimal]:
    """The term of the smaller and the larger."""

    def of(smaller: Decimal, larger: Decimal) -> Decimal:
        pair = (smaller, larger) if above else (larger, smaller)
        return term(*pair, Decimal(constant))

    return of


@functools.cache
def _near(term: Exact, constant: float, above: bool) -> list[float]:
    """The polynomial F / (S d^2) of d."""
    of = _of_sides(term, constant, above)
    return interpolated(lambda d: of(Decimal(1), d.exp()) / (d * d), _END)


@functools.cache
def _far(term: Exact, constant: float, above: bool, multiple: float) -> list[float]:
    """The polynomial F / L + multiple e^-d d of e^-d."""
    of = _of_sides(term, constant, above)

    def rest(ratio: Decimal) -> Decimal:
        return of(ratio, Decimal(1)) - Decimal(multiple) * ratio * ratio.ln()

    return interpolated(rest, math.exp(-_END))


def fitted_term(x: OutcomeTerms, term: Exact, constant: float, far: Array) -> Array:
    """F, with F / L given where p and q are far apart."""
    above, distance = x.r > 0, jnp.abs(x.r)
    near = distance <= _END
    # Far apart the slope of the polynomial would be inf, and 0 times that nan.
    d = jnp.where(near, distance, 0)
    coefficients = either(above, *(_near(term, constant, y) for y in (True, False)))
    inside = d * d * polynomial(coefficients, d)
    larger = above != near  # q is taken where it is the larger and d is far, or neither
    return jnp.where(larger, x.q, x.p) * jnp.where(near, inside, far)


def far_apart(
    x: OutcomeTerms, term: Exact, constant: float, multiples: tuple[float, float]
) -> Array:
    """F / L of a term with a logarithm: the multiples of e^-d d that are taken from the
    polynomial of e^-d, where q is above p and where it is not.
    """
    above, d = x.r > 0, jnp.abs(x.r)
    ratio = powers_of(d).ratio  # as `outcome_terms` has it: XLA makes it once
    sides = zip((True, False), multiples, strict=True)
    coefficients = either(above, *(_far(term, constant, *y) for y in sides))
    (multiple,) = either(above, *([y] for y in multiples))
    return polynomial(coefficients, ratio) - multiple * (ratio * d)
