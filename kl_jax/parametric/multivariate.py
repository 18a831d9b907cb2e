"""Multivariate normal distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _contracts
from kl_jax._arithmetic import clamp_min, divide, jitted_custom_jvp, tangent
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


@closed_form(of_vectors=True, loc=finite, scale=positive)
def multivariate_normal_diag(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """The sum of `normal` over the last axis: independent components.

    >>> import jax.numpy as jnp
    >>> round(multivariate_normal_diag(jnp.zeros(3), 1.0, 1.0, 2.0).item(), 4)
    1.3294
    """
    terms = normals(*arrays(loc_p, scale_p, loc_q, scale_q))
    name = "parametric.multivariate_normal_diag"
    _contracts.same_rows(name, **{"one of the parameters": terms})
    return jnp.sum(terms, -1)


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
    of_vectors=True,
    loc=finite,
    scale_tril=positive_diagonal,
)
def multivariate_normal(
    loc_p: ArrayLike, scale_tril_p: ArrayLike, loc_q: ArrayLike, scale_tril_q: ArrayLike
) -> Array:
    r"""(trace(Q^-1 P) - d - log det(Q^-1 P) + (m_p - m_q)^T Q^-1 (m_p - m_q)) / 2.

    P = L_p L_p^T and Q = L_q L_q^T are given by their Cholesky factors [..., d, d], with a
    positive diagonal; what is above it is not looked at. m are the locs [..., d], or 0-d.
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
    of_vectors=True,
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

    Costs d r^2: no matrix of d rows and columns is formed. In units of q's D,
    V = W_q / sqrt(D_q), H = (W_p - W_q) / sqrt(D_q), g = (D_p - D_q) / D_q,
    f = (D_p - D_q) / D_p, C = I + V^T V, v = C^(-1/2) V^T, h = C^(-1/2) H^T it is half of

    sum of S(D_p, D_q) + trace(Y) - log det(I + Y) + |[H, m]|^2 under (I + V V^T)^-1
    - |h|^2 + sum of f (2 v h + h^2) - g f v^2,
    Y = h v^T + v h^T + h h^T - (v + h) diag(f) (v + h)^T,

    m = (m_p - m_q) / sqrt(D_q), in which every term is of second order in the differences.
    The factors are compared entry by entry: factors that are rotated against each other
    describe near-equal covariances by terms that are large and cancel.

    >>> import jax.numpy as jnp
    >>> w, one = jnp.array([[1.0], [0.5]]), jnp.ones(2)
    >>> round(low_rank_multivariate_normal(0.0, w, one, 0.0, 2 * w, one).item(), 4)
    0.1779
    """
    m_p, factor_p, diag_p = arrays(loc_p, cov_factor_p, cov_diag_p)
    m_q, factor_q, diag_q = arrays(loc_q, cov_factor_q, cov_diag_q)
    f, g = relative_difference(diag_q, diag_p), -relative_difference(diag_p, diag_q)
    root = jnp.sqrt(diag_q)[..., None]
    v_rows, h_rows = divide(factor_q, root), divide(factor_p - factor_q, root)
    shift = divide((m_p - m_q)[..., None], root)
    both = jnp.concatenate([h_rows, shift], -1)
    cholesky = jnp.linalg.cholesky(_plus_identity(_inner(v_rows, v_rows)))

    def solved(x: Array, transposed: bool) -> Array:
        return lax.linalg.triangular_solve(
            cholesky, x, left_side=True, lower=True, transpose_a=transposed
        )

    v, h = (solved(jnp.swapaxes(x, -2, -1), False) for x in (v_rows, h_rows))
    # x^T (I + V V^T)^-1 x = |x - V k|^2 + |k|^2 at k = C^-1 V^T x, without cancellation.
    k = solved(solved(_inner(v_rows, both), False), True)
    ridge = _sum_of_matrix(jnp.square(both - _matmul(v_rows, k))) + _sum_of_matrix(
        jnp.square(k)
    )
    cross = _matmul(h, jnp.swapaxes(v, -2, -1))
    moved = v + h
    y = cross + jnp.swapaxes(cross, -2, -1) + _matmul(h, jnp.swapaxes(h, -2, -1))
    y = y - _matmul(moved * f[..., None, :], jnp.swapaxes(moved, -2, -1))
    changes = f[..., None, :] * (2 * v * h + jnp.square(h)) - jnp.square(h)
    changes = changes - (g * f)[..., None, :] * jnp.square(v)
    value = ridge + _trace_minus_log_det(y) + _sum_of_matrix(changes)
    value = (value + jnp.sum(itakura_saito(diag_p, diag_q), -1)) / 2
    # Of factors rotated against each other it is the rounding of terms that cancel, of
    # either sign. The gradient is left as it is.
    return value + lax.stop_gradient(clamp_min(-value, 0))


def _matmul(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)  # TPUs round to bfloat16


def _inner(x: Array, y: Array) -> Array:
    return _matmul(jnp.swapaxes(x, -2, -1), y)


def _plus_identity(x: Array) -> Array:
    return x + jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)


def _sum_of_matrix(x: Array) -> Array:
    return jnp.sum(x, (-2, -1))


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
