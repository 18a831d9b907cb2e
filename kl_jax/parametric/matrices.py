"""Distributions of matrices."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _contracts
from kl_jax._arithmetic import divide, jitted_custom_jvp, tangent, two_prod
from kl_jax.elementwise import is_close, itakura_saito, log_ratio
from kl_jax.parametric._convex import bregman
from kl_jax.parametric._stirling import STIRLING
from kl_jax.parametric.domain import (
    arrays,
    closed_form,
    degrees_of_freedom,
    finite,
    positive_diagonal,
)


def _diagonal(x: Array) -> Array:
    return jnp.diagonal(x, axis1=-2, axis2=-1)


def _sum_of_squares(x: Array) -> Array:
    return jnp.sum(jnp.square(x), (-2, -1))


def _solved(factor: Array, x: Array) -> Array:
    """factor^-1 x of a lower triangle."""
    return lax.linalg.triangular_solve(factor, x, left_side=True, lower=True)


def _plus_scalar(x: Array, scalar: Array) -> Array:
    """x + scalar I."""
    eye = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    return x + scalar[..., None, None] * eye


@jitted_custom_jvp
def _less_product(x: Array, c: Array, y: Array) -> Array:
    """x - c y, rounded once where they nearly agree."""
    product, error = two_prod(c, y)
    return (x - product) - error


@_less_product.defjvp
def _less_product_jvp(primals, tangents):
    (_, c, y), (dx, dc, dy) = primals, tangents
    return _less_product(*primals), dx - (dc * y + c * dy)


def _less_multiple(x: Array, c: Array, y: Array) -> Array:
    """x - c y of matrices, and one number c for each."""
    return _less_product(x, jnp.broadcast_to(c[..., None, None], y.shape), y)


# --- Wishart --------------------------------------------------------------------------

# With a = df_p / 2, b = df_q / 2 and the eigenvalues t_j of Q^-1 P the textbook form is
#
#     sum over j of a (t_j - 1 - log t_j) + (a - b) log t_j
#     + sum over i = 0 ... d - 1 of B(b - i/2, a - i/2) of log Gamma,
#
# of which the second term may be negative. With B = G + S / 2 + that of Stirling's
# remainder it is the sum over j of G(b, a t_j), which is 2 b times the divergence of
# centred normals of factors sqrt(a) L_p and sqrt(b) L_q, and over i of S / 2, of that of
# the remainder, and of
#
#     D(b, a, h) = G(b - h, a - h) - G(b, a) = the integral of S(b - u, a - u) over u up to
#     h = i/2 >= 0.


@jitted_custom_jvp
def _shifted(b: Array, a: Array, h: Array, difference: Array) -> Array:
    """D(b, a, h) for a, b > h, with b - a given.

    With the ratio r of (b - h) / (a - h) to b / a it is (b - h) log(r) - h log(b / a), in
    which terms of first order cancel: all digits at 1e-6 from equality. Nearby it is

    h^2 (b - a)^2 / (a b (a - h)) + h S(b, a) - (b - h) S(r, 1).
    """
    low, high = b - h, a - h
    ratio = _ratio_of_ratios(b, a, h, difference)
    near = h * divide(difference, a) * (divide(h, b) * divide(difference, high))
    near = near + h * itakura_saito(b, a, difference) - low * itakura_saito(*ratio)
    far = low * log_ratio(*ratio) - h * log_ratio(b, a, difference)
    return jnp.where(is_close(low, high), near, far)


def _ratio_of_ratios(
    b: Array, a: Array, h: Array, difference: Array
) -> tuple[Array, Array, Array]:
    """Two numbers of which r is the ratio, and their difference."""
    x, y = divide(b - h, b), divide(a - h, a)
    return x, y, divide(h, b) * divide(difference, a)


def _shifted_jvp(primals, tangents):
    b, a, h, difference = primals
    db, da, _, _ = tangents
    value = _shifted(*primals)
    slope_b = log_ratio(*_ratio_of_ratios(b, a, h, difference))
    slope_a = -divide(h, a) * divide(difference, a - h)
    return value, tangent(value, (slope_b, db), (slope_a, da))


_shifted.defjvp(_shifted_jvp, symbolic_zeros=True)


def _wishart(df_p: Array, factor_p: Array, df_q: Array, factor_q: Array) -> Array:
    factor_p, factor_q = jnp.tril(factor_p), jnp.tril(factor_q)
    difference = (df_q - df_p) / 2
    a, b = df_p / 2, df_q / 2
    # Where the means agree L_q^-1 L_p is I over this root, to all its digits: rounded, it
    # would leave a df of 1e4 with 1e-5 of the value and 1e-3 of the gradient. So the root
    # is (1 + change) times a constant r, and n is (1 + change) r L_q^-1 L_p - I.
    root = jnp.sqrt(divide(a, b))
    r = lax.stop_gradient(root)
    square, error = two_prod(r, r)
    excess = _less_product(_less_product(a, square, b), error, b) / (b * square)
    change = excess / (1 + jnp.sqrt(1 + excess))
    n = -_solved(factor_q, _less_multiple(factor_q, r, factor_p))
    n = _plus_scalar((1 + change)[..., None, None] * n, change)
    diagonal = _diagonal(factor_q)
    logs = itakura_saito(
        root[..., None] * _diagonal(factor_p), diagonal, diagonal * _diagonal(n)
    )
    value = b * (_sum_of_squares(n) + 2 * jnp.sum(logs, -1))

    half = jnp.arange(factor_p.shape[-1], dtype=a.dtype) / 2
    a, b, difference, half = jnp.broadcast_arrays(
        a[..., None], b[..., None], difference[..., None], _beside(half, a)
    )
    low, high = b - half, a - half
    terms = (
        _shifted(b, a, half, difference)
        + itakura_saito(low, high, difference) / 2
        + bregman(STIRLING, low, high, difference)
    )
    return value + jnp.sum(terms, -1)


def _beside(vector: Array, rows: Array) -> Array:
    """With an axis of length 1 for each of `rows`."""
    return vector.reshape((1,) * rows.ndim + vector.shape)


_of_wishart = closed_form(
    _contracts.events(df="", scale_tril="dd"),
    df=degrees_of_freedom,
    scale_tril=positive_diagonal,
)


@_of_wishart
def wishart(
    df_p: ArrayLike, scale_tril_p: ArrayLike, df_q: ArrayLike, scale_tril_q: ArrayLike
) -> Array:
    r"""Of the sum of df squares x x^T, x normal of covariance P = L_p L_p^T, and Q for q.

    (df_p (trace(Q^-1 P) - d) - df_q log det(Q^-1 P)) / 2 + log Gamma_d(df_q / 2)
    - log Gamma_d(df_p / 2) + (df_p - df_q) / 2 digamma_d(df_p / 2),

    with the multivariate Gamma function. df > d - 1 are numbers [...], L Cholesky factors
    [..., d, d], as for `multivariate_normal`.

    >>> import jax.numpy as jnp
    >>> eye = jnp.eye(2)
    >>> round(wishart(3.0, eye, 4.0, eye).item(), 4)
    0.2704
    """
    return _wishart(*arrays(df_p, scale_tril_p, df_q, scale_tril_q))


@_of_wishart
def inverse_wishart(
    df_p: ArrayLike, scale_tril_p: ArrayLike, df_q: ArrayLike, scale_tril_q: ArrayLike
) -> Array:
    r"""Of the inverse of a matrix that has a `wishart` distribution of scale P^-1.

    P = L_p L_p^T is the scale of p: densities are proportional to
    det(X)^(-(df + d + 1) / 2) e^(-trace(P X^-1) / 2). It is `wishart` with L exchanged.

    >>> import jax.numpy as jnp
    >>> eye = jnp.eye(2)
    >>> round(inverse_wishart(3.0, eye, 4.0, 2 * eye).item(), 4)
    3.7252
    """
    a, factor_p, b, factor_q = arrays(df_p, scale_tril_p, df_q, scale_tril_q)
    return _wishart(a, factor_q, b, factor_p)


# --- matrix normal --------------------------------------------------------------------


class _Side(NamedTuple):
    """Of R = L_q^-1 L_p, of rows or columns."""

    mean: Array  # c, that of its diagonal
    unit: Array  # c rounded, a constant
    excess: Array  # c / unit - 1
    squares: Array  # |R / c - I|^2
    logs: Array  # the sum of S over the diagonal of R / c


def _side(factor_p: Array, factor_q: Array) -> _Side:
    """By L_p - c L_q: the rows of p may be twice those of q, and the columns half of them,
    and L_p - L_q has not the digits of what else differs by 1e-6.
    """
    ratio = divide(_diagonal(factor_p), _diagonal(factor_q))
    mean = jnp.mean(ratio, -1)
    unit = lax.stop_gradient(mean)
    n = _solved(factor_q, _less_multiple(factor_p, unit, factor_q))
    less_unit = jnp.mean(_diagonal(n), -1)
    squares = _sum_of_squares(_plus_scalar(n, -less_unit)) / jnp.square(mean)
    means = jnp.broadcast_to(mean[..., None], ratio.shape)
    logs = itakura_saito(ratio, means, _diagonal(n) - less_unit[..., None])
    return _Side(mean, unit, less_unit / unit, squares, jnp.sum(logs, -1))


@closed_form(
    _contracts.events(loc="nm", scale_tril_row="nn", scale_tril_column="mm"),
    event_axes=2,
    loc=finite,
    scale_tril_row=positive_diagonal,
    scale_tril_column=positive_diagonal,
)
def matrix_normal(
    loc_p: ArrayLike,
    scale_tril_row_p: ArrayLike,
    scale_tril_column_p: ArrayLike,
    loc_q: ArrayLike,
    scale_tril_row_q: ArrayLike,
    scale_tril_column_q: ArrayLike,
) -> Array:
    r"""`multivariate_normal` of matrices loc + L Z K^T with independent normals Z.

    L are the Cholesky factors of the rows [..., n, n], K those of the columns [..., m, m],
    loc [..., n, m]. The n m rows and columns of the covariance are never formed. With
    R = L_q^-1 L_p = c (I + B), U = K_q^-1 K_p = e (I + E), B and E of trace 0, g = c e, and
    D = L_q^-1 (loc_p - loc_q) K_q^-T it is

    (|D|^2 + n m (g - 1)^2 + g^2 (m |B|^2 + n |E|^2 + |B|^2 |E|^2)) / 2
    + n m S(g, 1) + m sum of S(1 + B_ii, 1) + n sum of S(1 + E_ii, 1).

    >>> import jax.numpy as jnp
    >>> zero, eye = jnp.zeros((2, 2)), jnp.eye(2)
    >>> round(matrix_normal(zero, eye, eye, zero + 1, 2 * eye, eye).item(), 4)
    1.7726
    """
    loc_p, row_p, column_p = arrays(loc_p, scale_tril_row_p, scale_tril_column_p)
    loc_q, row_q, column_q = arrays(loc_q, scale_tril_row_q, scale_tril_column_q)
    row_p, column_p, row_q, column_q = map(jnp.tril, (row_p, column_p, row_q, column_q))
    n, m = loc_p.shape[-2:]
    row, column = _side(row_p, row_q), _side(column_p, column_q)
    g, (product, error) = row.mean * column.mean, two_prod(row.unit, column.unit)
    excess = row.excess + column.excess + row.excess * column.excess
    g_less_1 = ((product - 1) + error) + product * excess
    turned = jnp.swapaxes(_solved(row_q, loc_p - loc_q), -2, -1)
    squares = m * row.squares + n * column.squares + row.squares * column.squares
    squares = n * m * jnp.square(g_less_1) + jnp.square(g) * squares
    value = (squares + _sum_of_squares(_solved(column_q, turned))) / 2
    logs = n * m * itakura_saito(g, jnp.ones_like(g), g_less_1)
    return value + (logs + m * row.logs + n * column.logs)
