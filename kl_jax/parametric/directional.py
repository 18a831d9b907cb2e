"""Distributions on a sphere."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import _contracts
from kl_jax._arithmetic import in_units_of_rows
from kl_jax.parametric._bessel import bessel_ratio, log_bessel
from kl_jax.parametric._convex import bregman
from kl_jax.parametric.domain import arrays, closed_form, direction, non_negative


def _turned(x: Array, y: Array) -> Array:
    """1 - cos of the angle between two vectors, along the last axis: half the square of the
    distance of x / |x| and y / |y|. Lengths that rounding left 1e-7 off 1 would change that
    of x and y by 1 % where these are 1e-6 apart, so the difference is |y| x - |x| y over
    |x| |y|, with (|x| + |y|) (x - y) / 2 - (|x| - |y|) (x + y) / 2 for |y| x - |x| y.
    """
    x, y = in_units_of_rows(x), in_units_of_rows(y)
    length_x, length_y = (jnp.sqrt(jnp.sum(z * z, -1, keepdims=True)) for z in (x, y))
    both = length_x + length_y
    excess = jnp.sum((x - y) * (x + y), -1, keepdims=True) / both
    apart = (both * (x - y) - excess * (x + y)) / 2
    return jnp.sum(jnp.square(apart / (length_x * length_y)), -1) / 2


@closed_form(
    _contracts.events(mean_direction="d", concentration=""),
    mean_direction=direction,
    concentration=non_negative,
)
def von_mises_fisher(
    mean_direction_p: ArrayLike,
    concentration_p: ArrayLike,
    mean_direction_q: ArrayLike,
    concentration_q: ArrayLike,
) -> Array:
    r"""Of densities proportional to e^(k m^T x) on the sphere |x| = 1 in d dimensions.

    log(C_d(k_p) / C_d(k_q)) + A(k_p) (k_p - k_q m_p^T m_q), with

    C_d(k) ~ k^v / I_v(k),    A(k) = I_(v+1)(k) / I_v(k),    v = d / 2 - 1.

    m are the mean directions [..., d], d >= 2, taken as directions: their length does not
    count, and must not be 0. k are the concentrations [...], 0 or more, and I modified
    Bessel functions. In 2 dimensions it is `von_mises`.

    >>> import jax.numpy as jnp
    >>> x, y, _ = jnp.eye(3)
    >>> round(von_mises_fisher(x, 1.0, y, 2.0).item(), 4)
    0.7468

    Source: Mardia and Jupp, "Directional statistics" (2000).
    """
    m_p, k_p, m_q, k_q = arrays(
        mean_direction_p, concentration_p, mean_direction_q, concentration_q
    )
    _contracts.at_least_2("parametric.von_mises_fisher", "mean_direction_p", m_p)
    m = m_p.shape[-1] - 2
    value = bregman(log_bessel(m), k_q, k_p, k_q - k_p)
    return value + bessel_ratio(m, k_p) * k_q * _turned(m_p, m_q)
