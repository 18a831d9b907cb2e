"""Exponentials, logarithms and their derivatives against mpmath, and at the edges."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from programs import compiled, in_precision, quick

from kl_jax import _exponentials

INF, NAN = np.inf, np.nan

# Functions of one number, their further argument, and bounds in ULP. 2 million points
# each, once: 1.40 expm1, 1.28 log1p, 1.96 phi and 2.83 scaled_phi.
SCALAR = (
    ("expm1", (), 1.5),
    ("log1p", (), 1.5),
    ("phi", (), 2.0),
    ("scaled_phi", (), 3.0),
    *(("log_mixture", (w,), 3.5) for w in (1e-30, 0.001, 0.3, 0.9, 1 - 1e-10)),
)


def log_mixture(x, weight):
    """log(weight + (1 - weight) e^x)."""
    return -_exponentials.log_shares(
        x, *(jnp.asarray(w, x.dtype) for w in (weight, 1 - weight))
    )[0]


def scalar(name, arguments):
    function = log_mixture if name == "log_mixture" else getattr(_exponentials, name)
    return lambda x: function(x, *arguments)


def scalars(name, dtype, n, seed=1):
    """Of every size near 0; on both sides of where formulas change; the whole range."""
    rng = np.random.default_rng(seed)
    digits = 8 if dtype == "float32" else 16
    top = 88.7 if dtype == "float32" else 709.7
    x = [rng.uniform(-1, 1, n) * 10.0**-k for k in range(digits)]
    borders = (-0.7, 1.4, -0.5, 1.0, np.log(2) / 2, np.log(2) * 1.5, np.log(2) * 2.5, 80.0)
    x += [b * (1 + rng.uniform(-1, 1, n) * 10.0**-k) for b in borders for k in (1, 6)]
    x += [rng.uniform(-3, 3, n), rng.uniform(-20, 20, n), rng.uniform(-top, top, n)]
    x += [np.exp(rng.uniform(0, top, n)), -np.exp(rng.uniform(0, top, n))]
    if name == "log1p":
        x += [10.0 ** -rng.uniform(0, 6, n) - 1]
    x = np.concatenate(x).astype(dtype)
    return x[x > -1] if name == "log1p" else x


@pytest.mark.parametrize(("name", "arguments", "bound"), SCALAR)
def test_scalar_functions_error_in_ulp(name, arguments, bound, dtype):
    x = scalars(name, dtype, 60)
    x = x[np.abs(x) < 1e6]  # mpmath cannot hold e^x beyond
    found = in_precision(dtype)(scalar(name, arguments))(x)
    assert found.dtype == dtype
    truth = [getattr(oracles, name)(float(v), *arguments) for v in x]
    assert oracles.worst(found, truth, dtype) <= bound


# The logarithm of a mixture is worst for two equal weights, at -1.03: 3.43.
MANY = {
    "expm1": (_exponentials.expm1, np.expm1, 1.5),
    "log1p": (_exponentials.log1p, np.log1p, 1.5),
    "phi": (_exponentials.phi, lambda x: np.expm1(x) - x, 2.0),
    **{
        f"log_mixture {w}": (
            functools.partial(log_mixture, weight=w),
            lambda x, w=w: np.log1p((1 - w) * np.expm1(x)),
            3.5,
        )
        for w in (0.3, 0.5, 0.9)
    },
}


@pytest.mark.parametrize("name", MANY)
def test_scalar_functions_error_in_ulp_of_many_numbers(name):
    ours, theirs, bound = MANY[name]
    low = -0.95 if name == "log1p" else -3
    x = np.random.default_rng(4).uniform(low, 3, 400_000).astype("f4")
    x = x[np.abs(x) > 0.01]
    oracles.assert_near(compiled(ours)(x), theirs(np.float64(x)), bound)


@pytest.mark.parametrize(("name", "arguments", "bound"), SCALAR[:-2])
def test_scalar_functions_one_operation_at_a_time(name, arguments, bound):
    function = scalar(name, arguments)
    # One shape for all: executed alone, each operation is a program of its own.
    x = np.resize(scalars(name, "float32", 60, seed=3), 2048)
    with jax.disable_jit():
        alone = np.asarray(function(x))
    together = np.asarray(function(x))
    finite = np.isfinite(alone)
    np.testing.assert_array_equal(alone[~finite], together[~finite])
    alone, together = alone[finite], together[finite]
    step = np.spacing(np.abs(alone) + np.finfo("float32").tiny)
    assert (np.abs(alone - together) <= 2 * bound * step).all()


def test_scalar_functions_at_the_edges(dtype):
    largest = np.finfo(dtype).max
    table = [
        ("expm1", (), [0, INF, -1, NAN]),
        ("log1p", (), [0, INF, NAN, NAN]),
        ("phi", (), [0, INF, INF, NAN]),
        ("scaled_phi", (), [0, 1, INF, NAN]),
        ("log_mixture", (0.0,), [0, largest, -largest, NAN]),
        ("log_mixture", (0.3,), [0, largest, np.log(0.3), NAN]),
        ("log_mixture", (1.0,), [0, 0, 0, NAN]),
    ]

    @quick
    def every(x):
        found = [scalar(name, arguments)(x) for name, arguments, _ in table]
        mixture = lambda w: jax.vmap(jax.grad(lambda x: log_mixture(x, w)))(x)
        return found, {w: mixture(w) for w in (0.0, 1.0)}, _exponentials.log1p(x - 1)

    found, slopes, log1p_of_less = every(np.array([0, INF, -INF, NAN], dtype))
    for values, (name, _, expected) in zip(found, table, strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=name)
    assert log1p_of_less[0] == -INF
    for w, slope in slopes.items():
        np.testing.assert_array_equal(slope[:3], 1 - w)


def test_exponentials_without_a_rule_in_ulp(dtype):
    """2 million points, once: 1.10."""
    x = scalars("exp", dtype, 60, seed=4)
    x = x[(-87 < x) & (x < 88)]
    error = (x * np.finfo(dtype).eps * np.sin(1e5 * x)).astype(dtype)
    found = compiled(_exponentials.exp_of_sum)(x, error)
    with mp.workdps(oracles.DIGITS):
        truth = [mp.exp(mp.mpf(float(v)) + float(e)) for v, e in zip(x, error, strict=True)]
        assert oracles.worst(found, truth, dtype) <= 2.0
    far = np.array([-INF, -1e30, NAN], dtype)
    one = np.ones_like(far)
    np.testing.assert_array_equal(quick(_exponentials.exp_of_sum)(far, one), [0, 0, NAN])


@pytest.mark.parametrize(
    ("way", "dtype", "bounds"),
    [
        (_exponentials._powers_by_parts, "float32", (1.3, 1.3, 1.5)),
        (_exponentials._powers_by_parts, "float64", (1.3, 1.3, 2)),
        (_exponentials._powers_by_power, "float32", (1.5, 1.5, 3)),
    ],
    indirect=["dtype"],
)
def test_powers_in_ulp(way, dtype, bounds):
    """In the two ways, of which accelerators have the second. A million points of each
    dtype, once: 1.12, 1.02 and 1.84 of the first.
    """
    x = np.abs(scalars("exp", dtype, 60, seed=5))
    x = np.append(x, np.linspace(0, 2, 500)).astype(dtype)
    found = compiled(way)(x)
    with mp.workdps(oracles.DIGITS):
        exact = [mp.mpf(min(float(v), 1e6)) for v in x]
        truths = zip(
            *((-mp.expm1(-v), mp.exp(-v), mp.expm1(v)) for v in exact), strict=True
        )
        normal = x < -0.69 * np.finfo(dtype).minexp
        for values, true, bound in zip(found, truths, bounds, strict=True):
            true = [t for t, is_one in zip(true, normal, strict=True) if is_one]
            assert oracles.worst(values[normal], true, dtype) <= bound
    less, ratio, growth = quick(way)(np.array([0, INF, NAN], dtype))
    np.testing.assert_array_equal(less, [0, 1, NAN])
    np.testing.assert_array_equal(ratio, [1, 0, NAN])
    assert growth[0] == 0 and np.log(growth[1]) > -0.689 * np.finfo(dtype).minexp


def test_e_to_the_x_in_two_words(dtype):
    low, bits = (-60, 40) if dtype == "float32" else (-600, 66)
    rng = np.random.default_rng(6)
    x = np.concatenate(
        [-np.exp(rng.uniform(-20, np.log(-low), 400)), rng.uniform(-1, 1, 50)]
    )
    x = np.append(x, [0, 1, low]).astype(dtype)
    pairs = compiled(_exponentials.exp_in_two_words)(x)
    with mp.workdps(oracles.DIGITS):
        for v, high, rest in zip(x.tolist(), *(p.tolist() for p in pairs), strict=True):
            true = mp.exp(mp.mpf(v))
            assert abs(mp.mpf(high) + mp.mpf(rest) - true) <= true * mp.mpf(2) ** -bits
    far = np.array([-INF, -1e30], dtype)
    assert all((p == 0).all() for p in quick(_exponentials.exp_in_two_words)(far))


def test_phi_and_scaled_phi_are_positive_but_at_0(dtype):
    digits = 18 if dtype == "float32" else 150  # x^2 / 2 is a normal number
    x = np.concatenate([sign * 10.0 ** -np.linspace(-2, digits, 5000) for sign in (1, -1)])
    x = x.astype(dtype)
    phi, scaled = map(np.asarray, (_exponentials.phi(x), _exponentials.scaled_phi(x)))
    assert (phi > 0).all()
    assert (scaled > 0).all()
    assert (scaled[x > 0] <= 1).all()


@pytest.mark.parametrize(("name", "arguments", "bound"), SCALAR)
def test_derivatives_of_scalar_functions(name, arguments, bound, dtype):
    """The first three, also at 0 and at infinity, wherever they are finite."""
    x = scalars(name, dtype, 4, seed=2)
    x = x[np.abs(x) < 80]  # beyond 87, e^-x is flushed to 0 in float32
    x = np.concatenate([x, [0, INF, -INF]]).astype(dtype)
    if name == "log1p":
        x = x[x > -1]
    orders = [jax.grad(scalar(name, arguments))]
    for _ in range(2):
        orders.append(jax.grad(orders[-1]))
    found = quick(jax.vmap(lambda x: jnp.stack([f(x) for f in orders])))(x)
    true = [[float(t) for t in oracles.slopes(name, float(v), *arguments)] for v in x]
    true = np.array(true)
    scale = np.abs(true)
    if name == "log_mixture":  # s (1 - s) (1 - 2 s) passes 0 at s = 1/2
        scale[:, 2] = scale[:, 1]
    tolerance = 8 * np.finfo(dtype).eps
    finite = np.isfinite(true)
    error = np.abs(np.asarray(found, float)[finite] - true[finite])
    assert (error <= tolerance * scale[finite] + np.finfo(dtype).smallest_normal).all()
