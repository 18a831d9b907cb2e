"""Sums of rows, tangents and numbers in two words."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
from jax.custom_derivatives import SymbolicZero
from programs import compiled

from kl_jax import _arithmetic


def test_products_in_two_words_are_exact(dtype):
    """Also under jit, where XLA may fold or fuse what is not a variable."""
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=(2, 2000)) * np.exp(rng.uniform(-15, 15, (2, 2000)))
    a, b = a.astype(dtype), b.astype(dtype)
    high, low = compiled(_arithmetic.two_prod)(a, b)
    for x, y, h, e in zip(*(v.tolist() for v in (a, b, high, low)), strict=True):
        with mp.workdps(oracles.DIGITS):
            assert mp.mpf(x) * mp.mpf(y) == mp.mpf(h) + mp.mpf(e)


def test_products_of_two_words(dtype):
    """To a 2^-44 or 2^-102 of the product, as `words_product` says."""
    rng = np.random.default_rng(13)
    a, b = rng.normal(size=(2, 2000)).astype(dtype)
    c, d = (rng.normal(size=(2, 2000)) * np.finfo(dtype).eps / 4).astype(dtype)
    words = compiled(lambda *x: _arithmetic.words_product(x[:2], x[2:]))(a, a * c, b, b * d)
    given = (a, a * c, b, b * d, *words)
    for x, xe, y, ye, h, e in zip(*(v.tolist() for v in given), strict=True):
        with mp.workdps(oracles.DIGITS):
            true = (mp.mpf(x) + mp.mpf(xe)) * (mp.mpf(y) + mp.mpf(ye))
            error = abs(mp.mpf(h) + mp.mpf(e) - true)
            assert (
                error <= abs(true) * mp.mpf(2) ** {"float32": -44, "float64": -102}[dtype]
            )


def test_sums_of_few_rows():
    """A mode before many small terms, each of which is rounded beside it in a chain: 15 ULP
    of 668 terms. Worst seen 2.
    """
    x = np.random.default_rng(3).lognormal(size=(8, 668)).astype("f4")
    x[:, 0] = np.exp(np.linspace(5, 12, 8))
    total = compiled(_arithmetic.row_sum)
    for row in x:
        true = mp.fsum(row.tolist())
        assert oracles.ulps(total(row[None])[0, 0], true, "float32") <= 4


def test_a_multiple_of_nan_is_nan():
    """In one fusion, with all that LLVM does: there the factor was 0 of what was 0 / 0."""
    undefined, value = np.array([True, False] * 2), np.arange(4, dtype="f4")
    found = compiled(lambda u, x, t: _arithmetic.nan_where(u, x) * t)(undefined, value, 3.0)
    np.testing.assert_array_equal(found, [np.nan, 3, np.nan, 9])


def test_what_is_held_constant_costs_nothing():
    x = jnp.ones(3)
    constant = SymbolicZero(jax.typeof(x))
    program = jax.make_jaxpr(lambda t: _arithmetic.linear(x, (x, t), (2 * x, constant)))(x)
    assert str(program).count(" mul ") == 2  # of 2 x and of x t
