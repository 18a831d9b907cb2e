"""Multivariate normal distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _contracts
from kl_jax._arithmetic import (
    clamp_min,
    divide,
    jitted_custom_jvp,
    tangent,
    two_prod,
    two_sum,
)
from kl_jax._exponentials import log1p, phi
from kl_jax.elementwise import itakura_saito, relative_difference
from kl_jax.parametric.domain import (
    arrays,
    closed_form,
    finite,
    positive,
    positive_diagonal,
)
from kl_jax.parametric.location_scale import normals


@closed_form(event_axes=1, loc=finite, scale=positive)
def multivariate_normal_diag(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """The sum of `normal` over the last axis: independent components.

    >>> import jax.numpy as jnp
    >>> round(multivariate_normal_diag(jnp.zeros(3), 1.0, 1.0, 2.0).item(), 4)
    1.3294
    """
    return jnp.sum(normals(*arrays(loc_p, scale_p, loc_q, scale_q)), -1)


def _with_matrices(stem: str, check: Callable[..., None]) -> Callable[..., list[Array]]:
    """Matrices of that name, and the other parameters, which are vectors."""

    def parameters(function: str, **given: Any) -> list[Array]:
        named = dict(zip(given, _contracts.numbers(function, **given), strict=True))
        matrices = {name: named[name] for name in (f"{stem}_p", f"{stem}_q")}
        check(function, **matrices)
        vectors = {name: x for name, x in named.items() if name not in matrices}
        found = _contracts.matrices_and_vectors(function, matrices, vectors)
        return [found[name] for name in given]

    return parameters


@closed_form(
    _with_matrices("scale_tril", _contracts.square_matrices),
    event_axes=1,
    loc=finite,
    scale_tril=positive_diagonal,
)
def multivariate_normal(
    loc_p: ArrayLike, scale_tril_p: ArrayLike, loc_q: ArrayLike, scale_tril_q: ArrayLike
) -> Array:
    r"""(trace(Q^-1 P) - d - log det(Q^-1 P) + (m_p - m_q)^T Q^-1 (m_p - m_q)) / 2.

    P = L_p L_p^T and Q = L_q L_q^T are given by their Cholesky factors [..., d, d], with a
    positive diagonal: jnp.linalg.cholesky(covariance). What is above it is not looked at;
    `checked` refuses it. m are the locs [..., d], or 0-d.
    With N = L_q^-1 [L_p - L_q, m_p - m_q] it is |N|^2 / 2 + sum of S over the diagonals.

    >>> import jax.numpy as jnp
    >>> factor = jnp.array([[1.0, 0.0], [0.5, 1.0]])
    >>> round(multivariate_normal(jnp.zeros(2), factor, 1.0, jnp.eye(2)).item(), 4)
    1.125
    """
    m_p, m_q = arrays(loc_p, loc_q)
    factor_p, factor_q = jnp.tril(scale_tril_p), jnp.tril(scale_tril_q)
    changes = jnp.concatenate([factor_p - factor_q, (m_p - m_q)[..., None]], -1)
    n = lax.linalg.triangular_solve(factor_q, changes, left_side=True, lower=True)
    diagonals = [jnp.diagonal(x, axis1=-2, axis2=-1) for x in (factor_p, factor_q)]
    return jnp.sum(jnp.square(n), (-2, -1)) / 2 + jnp.sum(itakura_saito(*diagonals), -1)


@closed_form(
    _with_matrices("cov_factor", _contracts.matrices),
    event_axes=1,
    loc=finite,
    cov_diag=positive,
)
def low_rank_multivariate_normal(
    loc_p: ArrayLike,
    cov_factor_p: ArrayLike,
    cov_diag_p: ArrayLike,
    loc_q: ArrayLike,
    cov_factor_q: ArrayLike,
    cov_diag_q: ArrayLike,
) -> Array:
    r"""`multivariate_normal` of covariances W W^T + diag(D), W [..., d, r] and D [..., d].

    Costs d r^2: no matrix of d rows and columns is formed. Since W O describes the same
    covariance for every orthogonal O, W_q is turned to W_p first (the Procrustes problem in
    units of q's D): columns may be permuted, rotated, or have other signs. With
    V = W_q O / sqrt(D_q), H = (W_p - W_q O) / sqrt(D_q), g = (D_p - D_q) / D_q,
    f = (D_p - D_q) / D_p, C = I + V^T V, v = C^(-1/2) V^T, h = C^(-1/2) H^T it is half of

    sum of S(D_p, D_q) + trace(Y) - log det(I + Y) + |[H, m]|^2 under (I + V V^T)^-1
    - |h|^2 + sum of f (2 v h + h^2) - g f v^2,
    Y = h v^T + v h^T + h h^T - (v + h) diag(f) (v + h)^T,

    m = (m_p - m_q) / sqrt(D_q), in which every term is of second order in the differences.
    Where those are large, as of a posterior with D = 1e-3 against a standard normal, they
    would cancel. There it is half of the textbook form, with U = W_p / sqrt(D_q),

    sum of S(D_p, D_q) - sum of (D_p / D_q) v^2 + |[U, m]|^2 under (I + V V^T)^-1
    + log det C - log det(I + W_p^T D_p^-1 W_p).

    The turn and the choice between the two forms are constants to a derivative.

    >>> import jax.numpy as jnp
    >>> w, one = jnp.array([[1.0], [0.5]]), jnp.ones(2)
    >>> round(low_rank_multivariate_normal(0.0, w, one, 0.0, 2 * w, one).item(), 4)
    0.1779
    """
    m_p, factor_p, diag_p = arrays(loc_p, cov_factor_p, cov_diag_p)
    m_q, factor_q, diag_q = arrays(loc_q, cov_factor_q, cov_diag_q)
    root_p, root_q = (jnp.sqrt(x)[..., None] for x in (diag_p, diag_q))
    turn, defect = _rotation(*lax.stop_gradient((factor_p / root_q, factor_q / root_q)))
    v_rows = divide(_matmul(factor_q, turn), root_q)
    h_rows = divide(
        _less_product(factor_p, factor_q, turn) - _matmul(factor_q, defect), root_q
    )
    shift = divide((m_p - m_q)[..., None], root_q)
    v, root = _orthogonal(v_rows)

    def solved(x: Array, transposed: bool) -> Array:
        return lax.linalg.triangular_solve(
            root, x, left_side=True, lower=False, transpose_a=transposed
        )

    h = solved(jnp.swapaxes(h_rows, -2, -1), transposed=True)
    g = -relative_difference(diag_p, diag_q)[..., None, :]
    f = relative_difference(diag_q, diag_p)[..., None, :]
    far = _is_far(*lax.stop_gradient((v, h, g, f)))
    whole_row = far[..., None, None]
    h, g, f = (jnp.where(whole_row, 0, x) for x in (h, g, f))
    y = _of_second_order(v, h, f)
    terms = f * (2 * v * h + jnp.square(h)) - g * f * jnp.square(v)
    value = _trace_minus_log_det(y) + _sum_of_matrix(terms)
    value = value + jnp.sum(itakura_saito(diag_p, diag_q), -1)

    # x^T (I + V V^T)^-1 x = |x - V k|^2 + |k|^2 at k = C^-1 V^T x, without cancellation.
    u_rows = divide(factor_p, root_q)
    x = jnp.concatenate([jnp.where(whole_row, u_rows, h_rows), shift], -1)
    k = solved(_matmul(v, jnp.concatenate([v_rows, x], -1)), transposed=False)
    hat, k = jnp.split(k, [v_rows.shape[-1]], -1)  # C^-1 V^T V, and k
    squares = _sum_of_rows(jnp.square(x - _matmul(v_rows, k)), jnp.square(k))
    # Of weak factors |H|^2 and |h|^2 are large beside their difference, of fourth order.
    weak = (_sum_of_matrix(jnp.square(v_rows)) < 1) & ~far
    of_h = _sum_of_matrix(_inner(h_rows, h_rows) * hat) - _sum_of_matrix(
        _inner(v_rows, h_rows) * k[..., :-1]
    )
    of_factors = jnp.sum(squares[..., :-1], -1) - _sum_of_matrix(jnp.square(h))
    value = value + jnp.where(weak, of_h, of_factors) + squares[..., -1]

    ratio = divide(diag_p, diag_q)[..., None, :]
    w_rows = jnp.where(whole_row, divide(factor_p, root_p), 0)
    log_dets = _log_det(root) - _log_det(_orthogonal(w_rows)[1])
    value = value + jnp.where(far, log_dets - _sum_of_matrix(ratio * jnp.square(v)), 0)
    value = value / 2
    # What is left of one distribution written in two ways is rounding, of either sign. The
    # gradient is left as it is.
    return value + lax.stop_gradient(clamp_min(-value, 0))


def _of_second_order(v: Array, h: Array, f: Array) -> Array:
    """Y, of which I + Y is C^(-1/2) (I + W_p^T D_p^-1 W_p) C^(-1/2)."""
    cross, moved = _outer(h, v), v + h
    y = cross + jnp.swapaxes(cross, -2, -1) + _outer(h, h)
    return y - _outer(moved * f, moved)


def _is_far(v: Array, h: Array, g: Array, f: Array) -> Array:
    """Where terms of second order are large: they would cancel, and KL is no small number.

    The diagonals' are counted against the d of the trace. Next to -1 the logarithm of
    1 + y has lost its digits.
    """
    terms = jnp.abs(f) * (2 * jnp.abs(v * h) + jnp.square(h) + jnp.abs(g) * jnp.square(v))
    least = jnp.linalg.eigvalsh(_of_second_order(v, h, f))[..., 0]
    return (_sum_of_matrix(terms) > v.shape[-1]) | (least < -0.75)


def _rotation(u: Array, v: Array) -> tuple[Array, Array]:
    """O of O O^T = I with the least |U - V O|, and O E / 2 with E = I - O^T O: their sum
    is orthogonal to twice as many digits (a step of Newton's).

    A permutation of columns with signs, as the identity, is exact. It is taken where it is
    nearly as good: O rounds, and is not unique where singular values are 0 or equal.
    """
    left, _, right = jnp.linalg.svd(_inner(v, u))
    turn = _matmul(left, right)
    whole, one = jnp.round(turn), _plus_identity(jnp.zeros_like(turn))
    is_orthogonal = jnp.all(_inner(whole, whole) == one, (-2, -1), keepdims=True)
    whole = jnp.where(is_orthogonal, whole, one)
    whole_is_best, best = (
        jnp.sum(jnp.square(u - _matmul(v, x)), (-2, -1), keepdims=True)
        for x in (whole, turn)
    )
    turn = jnp.where(whole_is_best <= 4 * best, whole, turn)
    return turn, _matmul(turn, _less_product(one, jnp.swapaxes(turn, -2, -1), turn)) / 2


@jitted_custom_jvp
def _less_product(x: Array, a: Array, b: Array) -> Array:
    """x - a b, in which nearly all may cancel, without a rounding before the last sum."""

    def less(total: tuple[Array, Array], pair: tuple[Array, Array]) -> Any:
        product, lost = two_prod(-pair[0][..., :, None], pair[1][..., None, :])
        high, error = two_sum(total[0], product)
        return (high, total[1] + (error + lost)), None

    pairs = jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -2, 0)
    (high, low), _ = lax.scan(less, (x, jnp.zeros_like(x)), pairs)
    return high + low


def _less_product_jvp(primals, tangents):
    (_, a, b), (dx, da, db) = primals, tangents
    return _less_product(*primals), dx - _matmul(da, b) - _matmul(a, db)


_less_product.defjvp(_less_product_jvp)


def _matmul(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)  # TPUs round to bfloat16


def _inner(x: Array, y: Array) -> Array:
    return _matmul(jnp.swapaxes(x, -2, -1), y)


def _outer(x: Array, y: Array) -> Array:
    return _matmul(x, jnp.swapaxes(y, -2, -1))


def _plus_identity(x: Array) -> Array:
    return x + jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)


def _sum_of_matrix(x: Array) -> Array:
    return jnp.sum(x, (-2, -1))


def _sum_of_rows(x: Array, y: Array) -> Array:
    return jnp.sum(x, -2) + jnp.sum(y, -2)


def _orthogonal(rows: Array) -> tuple[Array, Array]:
    """C^(-1/2) V^T and C^(1/2) of C = I + V^T V, by the QR decomposition of V above I: that
    of C itself would square the condition number, 1e6 for factors of 30 and D of 1e-3.
    """
    one = jnp.eye(rows.shape[-1], dtype=rows.dtype)
    one = jnp.broadcast_to(one, (*rows.shape[:-2], *one.shape))
    q, root = jnp.linalg.qr(jnp.concatenate([rows, one], -2))
    return jnp.swapaxes(q[..., : rows.shape[-2], :], -2, -1), root


def _log_det(root: Array) -> Array:
    """Of the square of a triangular matrix."""
    return 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(root, axis1=-2, axis2=-1))), -1)


@jitted_custom_jvp
def _trace_minus_log_det(y: Array) -> Array:
    """trace(y) - log det(I + y) >= 0 for symmetric y: the sum of x - log(1 + x) over its
    eigenvalues. The derivative is that of a matrix function, also where they coincide.
    """
    return jnp.sum(phi(log1p(jnp.linalg.eigvalsh(y))), -1)


def _trace_minus_log_det_jvp(primals, tangents):
    (y,), (dy,) = primals, tangents
    value = _trace_minus_log_det(y)
    slope = jnp.linalg.solve(_plus_identity(y), y)
    return value, tangent(value, (jnp.ones_like(value), _sum_of_matrix(slope * dy)))


_trace_minus_log_det.defjvp(_trace_minus_log_det_jvp)
