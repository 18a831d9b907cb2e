"""Bregman divergences, their slopes and curvature against mpmath."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from programs import in_precision, of_rows, quick

from kl_jax.parametric import _bessel, _convex, _stirling

# Of Bregman divergences and their slopes, relative, in units of the resolution.
NEAR, FAR = 8, {"float32": 26, "float64": 100}

# Name: the convex function, its range, whether of both signs.
CONVEX = {
    "log_gamma": (None, (1e-3, 1e6), False),
    "stirling": (_stirling.STIRLING, (1e-3, 1e6), False),
    "log_bessel": (_bessel.log_bessel(0), (1e-3, 1e5), False),
    "exponential_normalizer": (_convex.EXPONENTIAL_NORMALIZER, (1e-3, 1e4), True),
    "softplus": (_convex.SOFTPLUS, (1e-3, 60), True),
}


@pytest.mark.parametrize("name", CONVEX)
def test_bregman_divergences(name, dtype):
    """Value, slope in x and slope in y, from equality to nine orders of magnitude apart."""
    convex, (low, high), signed = CONVEX[name]
    rng = np.random.default_rng(14)
    apart = [1.0, 0.3, 1e-2, 1e-4, 1e-6] + [1e-10] * (dtype == "float64")
    n = 25
    y = np.exp(rng.uniform(np.log(low), np.log(high), (len(apart) + 2, n)))
    near = y[:-2] * (1 + rng.uniform(-0.9, 1, (len(apart), n)) * np.c_[apart])
    far = y[-2:] * np.exp(rng.uniform([[-2], [-9]], [[2], [9]], (2, n)))
    x = np.minimum(np.concatenate([near, far]), high)
    if signed:
        sign = rng.choice([-1, 1], y.shape)
        x, y = x * sign, y * sign
        x[-1] *= rng.choice([-1, 1], n)
    x, y = x.ravel().astype(dtype), y.ravel().astype(dtype)
    if convex is None:
        function = lambda x, y: _stirling.log_gamma_bregman(x, y, x - y)
    else:
        function = lambda x, y: _convex.bregman(convex, x, y, x - y)
    both = in_precision(dtype)(of_rows(function))
    value, slopes = both(x, y)
    assert (value >= 0).all()
    truth = np.array([oracles.bregman(name, a, b) for a, b in zip(x, y, strict=True)])
    eps = float(np.finfo(dtype).eps)
    for found, true in zip((value, *slopes), truth.T, strict=True):
        for f, t, a, b in zip(np.asarray(found).tolist(), true, x, y, strict=True):
            apart = max(abs(a / b), abs(b / a)) > 4 or abs(a - b) > 4
            bound = (FAR[dtype] if apart else NEAR) * eps
            if abs(t) > np.finfo(dtype).smallest_normal:
                assert abs(f - t) <= bound * abs(t), (a, b, f, t)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CONVEX if n != "log_gamma"])
def test_second_derivatives_of_bregman_divergences(name, dtype):
    """The three of f(x) - f(y) - f'(y) (x - y), also at x = y."""
    convex, (low, high), _ = CONVEX[name]
    rng = np.random.default_rng(15)
    y = np.exp(rng.uniform(np.log(low), np.log(min(high, 100)), 20))
    x, y = (v.astype(dtype) for v in (y * np.where(np.arange(20) % 2, 1, 1.5), y))
    function = lambda x, y: _convex.bregman(convex, x, y, x - y)
    hessian = quick(jax.vmap(jax.hessian(function, (0, 1))))(x, y)
    close = {"rtol": 20 * float(np.finfo(dtype).eps)}
    with mp.workdps(oracles.DIGITS):
        curvature, third = oracles.CONVEX[name][2:]
        exact = [tuple(mp.mpf(float(v)) for v in pair) for pair in zip(x, y, strict=True)]
        in_x = [float(curvature(a)) for a, _ in exact]
        in_y = [float(curvature(b)) for _, b in exact]
        twice = [float(curvature(b) - third(b) * (a - b)) for a, b in exact]
    np.testing.assert_allclose(hessian[0][0], in_x, **close)
    np.testing.assert_allclose(hessian[0][1], -np.array(in_y), **close)
    np.testing.assert_allclose(hessian[1][0], -np.array(in_y), **close)
    np.testing.assert_allclose(hessian[1][1], twice, **close)


def test_bernoulli_numbers():
    expected = [Fraction(*mp.bernfrac(2 * k)) for k in range(1, 15)]
    assert _convex.bernoulli_numbers(14) == expected


def test_debyes_expansion():
    """At v = 0 its terms are those of log I_0 in 1/k; the exponential of all of them is the
    Bessel function of large order.
    """
    with mp.workdps(40):
        for v, k in ((0, 200), (300, 0.01), (120, 50)):
            s = mp.sqrt(mp.mpf(v) ** 2 + mp.mpf(k) ** 2)
            total = mp.fsum(
                mp.mpf(c.numerator) / c.denominator / s**n * (v / s) ** (2 * j)
                for n, row in enumerate(_bessel._debye(12), start=1)
                for j, c in enumerate(row)
            )
            log = s - v * mp.log(v + s) - mp.log(2 * mp.pi * s) / 2
            true = mp.log(mp.besseli(v, k)) - v * mp.log(k) - log
            assert abs(total / true - 1) < 1e-15


@pytest.mark.parametrize("n", [4, 11, 20])
def test_the_quadrature_is_exact_for_polynomials(n):
    rule = _convex._gauss_legendre(n)
    for degree in (0, 1, n, 2 * n - 1):
        total = math.fsum(w * t**degree for t, w in rule)
        assert abs(total * (degree + 1) - 1) < 1e-14
    if n == 4:  # beyond, what is missing of degree 2n is less than the rounding
        assert abs(math.fsum(w * t**8 for t, w in rule) * 9 - 1) > 1e-4


def test_phi_minus_abs(dtype):
    """e^-|x| - 1 + |x| and two derivatives; the second is 1 at 0."""
    x = np.array([0.0, 1e-6, -1e-3, 0.5, -3.0, 80.0]).astype(dtype)
    orders = [_convex.phi_minus_abs]
    for _ in range(2):
        orders.append(jax.grad(orders[-1]))
    found = quick(jax.vmap(lambda x: jnp.stack([f(x) for f in orders])))(x)
    with mp.workdps(oracles.DIGITS):
        size = [abs(mp.mpf(float(v))) for v in x]
        true = [
            [mp.exp(-s) - 1 + s, -mp.sign(v) * mp.expm1(-s), mp.exp(-s)]
            for s, v in zip(size, x.tolist(), strict=True)
        ]
    close = {"rtol": 4 * float(np.finfo(dtype).eps)}
    np.testing.assert_allclose(found, np.array(true, float), **close)
