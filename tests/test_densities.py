"""KL by quadrature against closed forms, singular and far densities, and its error."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.scipy.special import betaln, gammaln
from programs import in_precision, optimized, quick

from kl_jax import checked, kl_from_densities

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
    return optimized(lambda: [kl_from_densities(*args, **kwargs) for args in calls])()


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
    static = integrals(*((p, q, *ends) for ends in limits))

    @quick
    def undefined(z):
        none = lambda x: x * z
        return kl_from_densities(none, q, 0, 1), kl_from_densities(p, none, 0, 1)

    parts = [found(a, b) for a, b in limits]
    for (a, b), part, expected in zip(limits, parts, static, strict=True):
        assert found(b, a) == -part
        np.testing.assert_allclose(part, expected, rtol=1e-6)
    # (-inf, inf) and (-1, 1) overlap as (-inf, 1) and (-1, inf) do.
    whole, left, middle, right = parts
    np.testing.assert_allclose(whole + middle, left + right, rtol=1e-6)
    # The cosine of infinity is nan, and no part of an integral.
    of_waves = quick(lambda a: kl_from_densities(jnp.cos, jnp.sin, a, a))
    for a in (-INF, 0.0, INF):
        assert found(a, a) == 0
        assert of_waves(a) == 0
    for a, b in ((NAN, 0.0), (0.0, NAN), (NAN, INF)):
        assert np.isnan(found(a, b))
    # As a literal, XLA would fold nan away: of e^(x nan) it returns what memory holds.
    assert np.isnan(undefined(np.float32(NAN))).all()


def test_not_renormalised():
    doubled = lambda x: normal(0.0, 1.0)(x) + np.log(2).astype("f4")
    (found,) = integrals((doubled, normal(0.0, 1.0), -INF, INF))
    np.testing.assert_allclose(found, 2 * np.log(2), rtol=1e-6)


def test_gradients_of_densities(dtype):
    def loss(m, s, n, t, low, high):
        return kl_from_densities(normal(m, s), normal(n, t), low, high)

    eps, slopes = np.finfo(dtype).eps, in_precision(dtype)(jax.grad(loss, range(6)))
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
    # Digits double with the nodes.
    assert wrong[63] < 10 * wrong[31] ** 1.5 < 1e-2


# --- what the nodes miss, and points ------------------------------------------------


def mixture(weight, apart):
    parts = normal(-apart, 1.0), normal(apart, 1.0)
    logs = math.log(weight), math.log1p(-weight)
    return lambda x: jnp.logaddexp(*(a + f(x) for a, f in zip(logs, parts, strict=True)))


# p, q, limits, points, the integral: kinks, jumps, and what is narrow or far.
OF_MODES = 0.5 * np.log(0.25 / 0.21)
WITH_POINTS = (
    (normal(1e3, 1.0), normal(1001.0, 2.0), -INF, INF, [1000], kl_normal(0, 1, 1, 2)),
    (normal(4.0, 2**-7), normal(4.0, 2**-6), -INF, INF, (4,), kl_normal(0, 1, 0, 2)),
    (mixture(0.5, 50), mixture(0.3, 50), -INF, INF, np.array([50.0, -50.0]), OF_MODES),
    (laplace(0.0, 1.0), laplace(0.5, 2.0), INF, -INF, (0.5, 0), -kl_laplace(0, 1, 0.5, 2)),
    (uniform(0.25, 0.75), uniform(0.0, 1.0), 0, 1, [0.75, 0.25], np.log(2)),
    (beta(1.0, 1.0), beta(0.5, 0.5), 0, 1, [0.5, 7.0, -1.0], kl_beta(1, 1, 0.5, 0.5)),
)


def test_points(dtype):
    p, q = WITH_POINTS[0][:2]
    calls = [
        functools.partial(kl_from_densities, *call, points=points, with_error=True)
        for *call, points, _ in WITH_POINTS
    ]
    found = quick(lambda: [call() for call in calls])()
    for (value, error), (*_, true) in zip(found, WITH_POINTS, strict=True):
        assert value.dtype == dtype
        # Measured 1.3e-6, the rounding of x next to 1000, and 5e-15.
        assert abs(value - true) <= (3e-6 if dtype == "float32" else 1e-13)
        assert abs(value - true) <= error < 1e-3
    # Any array of one axis, traced, and an empty one.
    of = quick(lambda points: kl_from_densities(p, q, -INF, INF, points=points))
    np.testing.assert_allclose(of(np.array([1e3], dtype)), found[0][0], rtol=1e-5)
    assert of(np.zeros(0, dtype)) < 0.01
    assert np.isnan(of(np.array([1e3, NAN], dtype)))


def test_gradient_of_a_jump_that_moves():
    """Of a density of height h below c, and of height (1 - h c) / (1 - c) above."""
    height = 0.5

    def loss(c):
        def log_p(x):
            return jnp.where(x < c, np.log(height), jnp.log((1 - height * c) / (1 - c)))

        return kl_from_densities(log_p, lambda x: 0 * x, 0, 1, points=[c])

    def true(c):
        above = (1 - height * c) / (1 - c)
        return c * height * np.log(height) + (1 - height * c) * np.log(above)

    with jax.enable_x64(True):
        value, slope = quick(jax.value_and_grad(loss))(0.3)
    np.testing.assert_allclose(value, true(0.3), rtol=1e-12)
    np.testing.assert_allclose(
        slope, (true(0.3 + 1e-5) - true(0.3 - 1e-5)) / 2e-5, rtol=1e-6
    )


def test_the_error_is_honest(dtype):
    """Of normal densities that the nodes see well, badly or not at all, with and without
    points; and where tails or a pole are cut off.
    """
    places, widths = np.meshgrid([0.0, 5.0, 40.0, 1e3, 1e5], [1e-3, 0.1, 1.0, 30.0, 1e4])
    m, s = (x.ravel().astype(dtype) for x in (places, widths))
    n = (m + s).astype(dtype)

    @quick
    def both(m, s, n):
        pair = normal(m, s), normal(n, s)
        kwargs = {"with_error": True}
        points = [
            kl_from_densities(*pair, -INF, INF, points=x, **kwargs) for x in (None, [5])
        ]
        log_t = lambda x: -1.55 * jnp.log1p(x * x / 2.1)
        norm_t = np.asarray(
            scipy.special.gammaln(1.55) - scipy.special.gammaln(1.05), dtype
        )
        norm_t = norm_t - np.log(2.1 * np.pi).astype(dtype) / 2
        t = lambda x: log_t(x) + norm_t
        tail = kl_from_densities(t, normal(0.0, 1.0), -INF, INF, **kwargs)
        pole = kl_from_densities(gamma(0.01, 1.0), gamma(0.02, 1.0), 0, INF, **kwargs)
        return points, tail, pole

    (without, with_points), tail, pole = both(m, s, n)
    true = ((m.astype(float) - n) / s) ** 2 / 2
    for value, error in (without, with_points):
        assert (abs(value - true) <= error).all()
    assert (without[1] > 0.1).sum() > 5
    # At 5, a thousandth wide.
    assert with_points[1][1] < 0.01 < 0.5 < without[1][1]
    # E x^2 = nu / (nu - 2) of Student's t with nu = 2.1.
    assert abs(tail[0] - 9.485554) <= tail[1]
    assert abs(pole[0] - kl_gamma(0.01, 1, 0.02, 1)) <= pole[1]


@pytest.mark.usefixtures("quickly")
def test_checked_looks_at_the_mass():
    p, q, twice = normal(0.0, 1.0), normal(1.0, 2.0), lambda x: normal(0.0, 1.0)(x) + 0.7
    look = checked(kl_from_densities)
    assert look(p, q, -INF, INF) == kl_from_densities(p, q, -INF, INF)
    for args, mass in (((twice, q, -INF, INF), 2.01375), ((p, q, 0, INF), 0.5)):
        expected = (
            f"kl_from_densities: the mass of p at the nodes must be 1 within 0.001, .* "
            f"points= .*, found {mass} at index"
        )
        with pytest.raises(ValueError, match=expected):
            look(*args)
    with pytest.raises(ValueError, match=r"points must be inside the limits, found 3 at"):
        look(lambda x: 0 * x, lambda x: 0 * x, 0, 1, points=[0.5, 3])


def test_densities_that_jax_cannot_trace():
    good = normal(0.0, 1.0)
    for bad in (
        scipy.stats.norm(0, 1).logpdf,
        lambda x: -math.fabs(x),
        lambda x: -x if x > 0 else x,
        lambda x: np.log(x),
    ):
        for pair, name in (((bad, good), "log_p"), ((good, bad), "log_q")):
            message = (
                f"^kl_from_densities: {name} must be a function that JAX can trace, .* "
                "Write it with jax.numpy"
            )
            with pytest.raises(TypeError, match=message):
                kl_from_densities(*pair, -INF, INF)
