"""KL by quadrature against closed forms, singular and far densities, and its error."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.scipy.special import betaln, gammaln
from programs import compiled, quick

from kl_jax import kl_from_densities

INF, NAN = np.inf, np.nan


def normal(loc, scale):
    return lambda x: -(((x - loc) / scale) ** 2) / 2 - jnp.log(scale * np.sqrt(2 * np.pi))


def laplace(loc, scale):
    return lambda x: -jnp.abs(x - loc) / scale - jnp.log(2 * scale)


def gamma(a, rate):
    return lambda x: a * jnp.log(rate) + (a - 1) * jnp.log(x) - rate * x - gammaln(a)


def beta(a, b):
    return lambda x: (a - 1) * jnp.log(x) + (b - 1) * jnp.log1p(-x) - betaln(a, b)


def uniform(low, high):
    return lambda x: jnp.where((low < x) & (x < high), -jnp.log(high - low), -INF)


def kl_normal(m, s, n, t):
    return np.log(t / s) + (s * s + (m - n) ** 2) / (2 * t * t) - 0.5


def kl_laplace(m, s, n, t):
    d = abs(m - n)
    return np.log(t / s) + (s * np.exp(-d / s) + d) / t - 1


def kl_gamma(a, r, b, s):
    log = scipy.special.gammaln
    return (
        (a - b) * scipy.special.digamma(a)
        - log(a)
        + log(b)
        + b * np.log(r / s)
        + a * (s / r - 1)
    )


def kl_beta(a, b, c, d):
    psi, log = scipy.special.digamma, scipy.special.betaln
    ends = (a - c) * psi(a) + (b - d) * psi(b) + (c - a + d - b) * psi(a + b)
    return log(c, d) - log(a, b) + ends


def integrals(*calls, **kwargs):
    """`kl_from_densities` of several arguments, as one program."""
    return compiled(lambda: [kl_from_densities(*args, **kwargs) for args in calls])()


# p, q, limits, the integral, and what is wrong with it beside 16 roundings: measured, less
# than half, in float32 and float64.
CASES = {
    "normal": (normal, (0.3, 1.0), (1.0, 2.0), -INF, INF, kl_normal, (0, 0)),
    "narrow": (normal, (0.0, 0.1), (0.1, 0.2), -INF, INF, kl_normal, (0, 0)),
    "wide": (normal, (0.0, 1000.0), (500.0, 2000.0), -INF, INF, kl_normal, (0, 4e-10)),
    "away": (normal, (10.0, 1.0), (0.0, 3.0), -INF, INF, kl_normal, (0, 4e-10)),
    # 1000 widths away x has three digits less.
    "distant": (normal, (1e3, 1.0), (1001.0, 2.0), 980.0, 1020.0, kl_normal, (3e-5, 6e-14)),
    "kink": (laplace, (0.0, 1.0), (0.5, 2.0), -INF, INF, kl_laplace, (3e-4, 3e-4)),
    "exponential": (gamma, (1.0, 1.0), (1.0, 2.0), 0, INF, kl_gamma, (0, 0)),
    "slow": (gamma, (1.0, 1e-4), (1.0, 2e-4), 0, INF, kl_gamma, (0, 0)),
    "fast": (gamma, (1.0, 1e4), (1.0, 2e4), 0, INF, kl_gamma, (0, 0)),
    "singular": (gamma, (0.5, 1.0), (0.75, 2.0), 0, INF, kl_gamma, (0, 1e-14)),
    "peaked": (gamma, (5.0, 1.0), (7.5, 2.0), 0, INF, kl_gamma, (0, 0)),
    "to singular": (beta, (1.0, 1.0), (0.5, 0.5), 0, 1, kl_beta, (0, 1e-14)),
    "from singular": (beta, (0.5, 0.5), (1.0, 1.0), 0, 1, kl_beta, (2e-3, 2e-7)),
}


@functools.cache
def of_all_cases(dtype):
    with jax.enable_x64(dtype == "float64"):
        cases = [(f(*p), f(*q), *limits) for f, p, q, *limits, _, _ in CASES.values()]
        return dict(zip(CASES, integrals(*cases, with_error=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_densities_against_closed_forms(name, dtype):
    _, p, q, _, _, kl, beside = CASES[name]
    value, error = of_all_cases(dtype)[name]
    assert value.dtype == error.dtype == dtype
    wrong = abs(value.item() - kl(*p, *q))
    wide = dtype == "float64"
    assert wrong <= 16 * np.finfo(dtype).eps + beside[wide]
    # Both rules have the same nodes next to an end, and the same rounding of x.
    if "singular" not in name and name != "distant":
        assert wrong <= error


def test_densities_mirrored(dtype):
    family, p, q, low, high, kl, _ = CASES["exponential"]
    mirrored = [lambda x, z=z: family(*z)(-x) for z in (p, q)]
    (found,) = integrals((*mirrored, -high, -low))
    np.testing.assert_allclose(found, kl(*p, *q), rtol=16 * np.finfo(dtype).eps)


def test_densities_singular_at_an_upper_limit(dtype):
    """x^-1/2 / 2 on [0, 1], mirrored: next to 0 the distance to it has all digits."""
    half = np.log(2).astype(dtype)
    (found,) = integrals((lambda x: -jnp.log(-x) / 2 - half, lambda x: 0 * x, -1, 0))
    np.testing.assert_allclose(found, 1 - np.log(2), rtol=16 * np.finfo(dtype).eps)


def test_densities_of_other_supports():
    inner, outer = uniform(0.25, 0.75), uniform(0.0, 1.0)
    found = integrals(
        (inner, outer, 0.25, 0.75),
        (inner, outer, 0, 1),
        (outer, inner, 0, 1),
        (outer, uniform(0.0, 0.9), -INF, INF),
        (normal(0.0, 1.0), normal(0.0, 0.5), -INF, INF),
        with_error=True,
    )
    values, errors = zip(*found, strict=True)
    np.testing.assert_allclose(values[0], np.log(2), rtol=3e-7)
    # Jumps inside: the step at 1/2 is 0.012.
    np.testing.assert_allclose(values[1], np.log(2), atol=0.012)
    assert values[2] == errors[2] == INF
    assert values[3] == INF
    # q = 0 by underflow of what p does not reach either.
    np.testing.assert_allclose(values[4], kl_normal(0, 1, 0, 0.5), rtol=1e-6)


def test_limits_in_any_order():
    p, q = normal(0.0, 1.0), normal(1.0, 2.0)
    found = quick(lambda a, b: kl_from_densities(p, q, a, b))
    limits = [(-INF, INF), (-INF, 1.0), (-1.0, 1.0), (-1.0, INF)]
    undefined = lambda x: x * NAN
    *static, no_p, no_q = integrals(
        *((p, q, *ends) for ends in limits), (undefined, q, 0, 1), (p, undefined, 0, 1)
    )
    parts = [found(a, b) for a, b in limits]
    for (a, b), part, expected in zip(limits, parts, static, strict=True):
        assert found(b, a) == -part
        np.testing.assert_allclose(part, expected, rtol=1e-6)
    # (-inf, inf) and (-1, 1) overlap as (-inf, 1) and (-1, inf) do.
    whole, left, middle, right = parts
    np.testing.assert_allclose(whole + middle, left + right, rtol=1e-6)
    for a in (-INF, 0.0, INF):
        assert found(a, a) == 0
    for a, b in ((NAN, 0.0), (0.0, NAN), (NAN, INF)):
        assert np.isnan(found(a, b))
    assert np.isnan(no_p)
    assert np.isnan(no_q)


def test_not_renormalised():
    doubled = lambda x: normal(0.0, 1.0)(x) + np.log(2).astype("f4")
    (found,) = integrals((doubled, normal(0.0, 1.0), -INF, INF))
    np.testing.assert_allclose(found, 2 * np.log(2), rtol=1e-6)


def test_gradients_of_densities(dtype):
    def loss(m, s, n, t, low, high):
        return kl_from_densities(normal(m, s), normal(n, t), low, high)

    eps, slopes = np.finfo(dtype).eps, compiled(jax.grad(loss, range(6)))
    at = [np.array(z, dtype) for z in (0.3, 0.8, 1.0, 2.0)]
    whole = slopes(*at, np.array(-INF, dtype), np.array(INF, dtype))
    m, s, n, t = map(float, at)
    d = m - n
    true = [d / t**2, s / t**2 - 1 / s, -d / t**2, 1 / t - (s * s + d * d) / t**3, 0, 0]
    np.testing.assert_allclose(whole, true, atol=16 * eps)
    # In the limits, finite: the integrand there.
    ends = np.array([-0.5, 1.5])
    part = slopes(*at, *ends.astype(dtype))[4:]
    log_p, log_q = (
        -(((ends - a) / b) ** 2) / 2 - np.log(b * np.sqrt(2 * np.pi))
        for a, b in ((m, s), (n, t))
    )
    true = np.exp(log_p) * (log_p - log_q) * [-1, 1]
    np.testing.assert_allclose(part, true, atol=16 * eps)


def test_gradients_where_densities_underflow():
    """Gumbel's: e^(m - x) and its slope are infinite at the outer nodes, where p is 0."""
    gumbel = lambda m: lambda x: (m - x) - jnp.exp(m - x)
    loss = lambda m, n: kl_from_densities(gumbel(m), gumbel(n), -INF, INF)
    value, slopes = quick(jax.value_and_grad(loss, (0, 1)))(0.5, -0.5)
    np.testing.assert_allclose(value, np.exp(-1), rtol=1e-6)
    np.testing.assert_allclose(slopes, [1 - np.exp(-1), np.exp(-1) - 1], rtol=2e-6)


def test_batches_of_parameters():
    loc = np.array([[0.0, 1.0, 2.0], [-1.0, 0.5, 3.0]], "f4")

    def loss(m):
        return kl_from_densities(
            normal(m, 1.0), normal(0.0 * m, 2.0), -INF, INF, with_error=True
        )

    def with_slope(m):
        (value, error), back = jax.vjp(loss, m)
        return value, error, *back((jnp.ones_like(m), jnp.zeros_like(m)))

    *of_all, slope = quick(with_slope)(loc)
    of_each = quick(jax.vmap(jax.vmap(loss)))(loc)
    for value, error in (of_all, of_each):
        assert value.shape == error.shape == loc.shape
        np.testing.assert_allclose(value, kl_normal(loc, 1, 0, 2), rtol=2e-6)
    np.testing.assert_allclose(slope, loc / 4, atol=2e-6)


def test_order_sets_error_and_what_the_nodes_miss():
    near = normal(0.0, 1.0), normal(1.0, 2.0), -INF, INF
    wrong = {}
    with jax.enable_x64(True):
        for order in (31, 63, 127):
            ((value, estimate),) = integrals(near, order=order, with_error=True)
            wrong[order] = abs(value - kl_normal(0, 1, 1, 2))
            assert wrong[order] <= estimate
        ((coarse, _),) = integrals(near, order=63, with_error=True)
        ((fine, error),) = integrals(near, order=125, with_error=True)
        np.testing.assert_allclose(error, abs(fine - coarse), rtol=1e-3, atol=1e-14)
        # Beyond the documented range: 1000 widths away nothing is seen, nor is that.
        far = normal(1e3, 1.0), normal(1e3, 2.0), -INF, INF
        ((value, error),) = integrals(far, with_error=True)
    # Digits double with the nodes.
    assert wrong[63] < 10 * wrong[31] ** 1.5 < 1e-2
    assert value < 0.01 < kl_normal(0, 1, 0, 2)
    assert error < 0.01
