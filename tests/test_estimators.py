"""Estimates: the formulas against NumPy and mpmath, the limits against closed forms, the
errors against standard errors.
"""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
import scipy.special
from jax.scipy.special import betaln, gammaln
from programs import compiled, quick

from kl_jax import kl_estimate, kl_from_counts, kl_from_densities, kl_from_samples

INF, NAN = np.inf, np.nan


# --- kl_estimate -----------------------------------------------------------------


def estimates(log_p, log_q):
    return {k: kl_estimate(log_p, log_q, estimator=k) for k in ("k1", "k2", "k3")}


def test_estimates_in_ulp(dtype):
    rng = np.random.default_rng(0)
    log_p = rng.normal(size=400).astype(dtype)
    log_q = log_p + (rng.normal(size=400) * 10.0 ** rng.uniform(-6, 1, 400)).astype(dtype)
    exact = {"k1": lambda d: -d, "k2": lambda d: d * d / 2, "k3": oracles.phi}
    for estimator, found in compiled(estimates)(log_p, log_q).items():
        assert found.dtype == dtype
        with mp.workdps(oracles.DIGITS):
            true = [exact[estimator](mp.mpf(float(d))) for d in log_q - log_p]
        # The bound of the docstring.
        assert max(map(oracles.ulps, found, true, [dtype] * 400)) <= 4, estimator


def test_estimates_at_the_edges():
    # The last: next to equality the slopes e^d - 1 and -d keep their digits.
    d = np.float32(2**-20)
    log_p = np.array([-INF, 0.0, -INF, NAN, 0.0, 0.0], "f4")
    log_q = np.array([-INF, -INF, 0.0, 0.0, NAN, d], "f4")
    expected = {
        "k1": [0, INF, -INF, NAN, NAN],
        "k2": [0, INF, INF, NAN, NAN],
        "k3": [0, INF, INF, NAN, NAN],
    }

    @quick
    def with_slopes(log_p, log_q):
        def of_one(estimator):
            fun = functools.partial(kl_estimate, estimator=estimator)
            value, back = jax.vjp(fun, log_p, log_q)
            return value, *back(jnp.ones_like(value))

        return {estimator: of_one(estimator) for estimator in expected}

    for estimator, (value, in_p, in_q) in with_slopes(log_p, log_q).items():
        np.testing.assert_array_equal(value[:5], expected[estimator])
        np.testing.assert_array_equal((in_p[:3], in_q[:3]), [[0, 0, 0], [0, -1, 0]])
        np.testing.assert_allclose((in_p[5], in_q[5]), [-d, np.expm1(d)], rtol=3e-7)


def policies(noise, outcomes=8):
    rng = np.random.default_rng(1)
    a = rng.normal(size=outcomes)
    return a, a + noise * rng.normal(size=outcomes)


def log_probs(a, b, x):
    return jax.nn.log_softmax(a)[x], jax.nn.log_softmax(b)[x]


@quick
def gradients_by_enumeration(a, b):
    """Of the mean of each estimator over all outcomes, in the logits of p and q."""

    def mean(estimator, a, b):
        log_p, log_q = log_probs(a, b, np.arange(8))
        estimate = kl_estimate(log_p, log_q, estimator=estimator)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_p)) * estimate)

    return [jax.grad(mean, (1, 2))(estimator, a, b) for estimator in ("k1", "k2", "k3")]


@pytest.mark.parametrize("noise", [2.0, 1e-6])
def test_gradients_of_estimates_are_unbiased(noise):
    """By enumeration: the mean over all outcomes is the gradient of KL(p || q)."""
    a, b = policies(noise)
    with jax.enable_x64(True):
        by_estimator = gradients_by_enumeration(a, b)
    for found in by_estimator:
        for slope, true in zip(found, oracles.kl_gradients(a, b), strict=True):
            true = np.array(true, float)
            # log_softmax rounds d to 1e-16: 1e-10 of 1e-6; measured 3e-16 and 1e-10.
            np.testing.assert_allclose(slope, true, rtol=0, atol=1e-9 * abs(true).max())


@quick
def estimates_and_derivatives(a, b):
    """Of kl_estimate and of k3 as written, for every outcome, in the logits."""

    def of_value(log_p, log_q):
        return jnp.expm1(log_q - log_p) - (log_q - log_p)

    def each(estimate):
        fun = lambda a, b: estimate(*log_probs(a, b, np.arange(8)))
        return fun(a, b), *jax.jacobian(fun, (0, 1))(a, b)

    return jax.nn.softmax(a), each(kl_estimate), each(of_value)


@pytest.mark.parametrize("noise", [1.0, 0.01])
def test_gradient_of_samples_is_that_of_kl_and_the_values_derivative_is_not(noise):
    samples, (a, b) = 10**6, policies(noise)
    with jax.enable_x64(True):
        p, (value, in_a, in_b), (_, wrong, _) = estimates_and_derivatives(a, b)
    n = np.random.default_rng(0).multinomial(samples, p)

    def in_standard_errors(estimates, true):
        true = np.array(true, float)
        variance = p @ (estimates - p @ estimates) ** 2
        return abs(n @ estimates / samples - true) / np.sqrt(variance / samples)

    slope_p, slope_q = oracles.kl_gradients(a, b)
    # 25 normal numbers: beyond 4 standard errors once in 600 draws, and the seed is fixed.
    assert in_standard_errors(value, oracles.kl(a, b)) < 4
    assert in_standard_errors(in_a, slope_p).max() < 4
    assert in_standard_errors(in_b, slope_q).max() < 4
    # The derivative of the value k3 is the gradient of KL(q || p).
    assert in_standard_errors(wrong, oracles.kl_gradients(b, a)[1]).max() < 4
    if noise == 1.0:  # near equality the two gradients are alike
        assert in_standard_errors(wrong, slope_p).max() > 40


# --- kl_from_samples ---------------------------------------------------------------


def nearest(x, y, k):
    """By the definition, one point at a time."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    (n, d), m = x.shape, len(y)
    terms = []
    for i in range(n):
        to_x = np.delete(np.linalg.norm(x - x[i], axis=1), i)
        to_y = np.linalg.norm(y - x[i], axis=1)
        rho, nu = np.sort(to_x)[k - 1], np.sort(to_y)[k - 1]
        if rho and nu:
            terms.append(d * np.log(nu / rho))
        else:
            inside = [(z <= max(rho, nu)).sum() for z in (to_x, to_y)]
            terms.append(-np.diff(scipy.special.digamma(inside))[0])
    return np.mean(terms) + np.log(m / (n - 1))


def normals(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 1.5 + 0.5


# Blocks of 64 rows: none full, one, one and a rest of one, two and a rest.
@pytest.mark.parametrize(
    ("n", "m", "d", "k", "dtype"),
    [
        (2, 1, 1, 1, "float32"),
        (7, 5, 2, 3, "float32"),
        (64, 70, 3, 1, "float32"),
        (65, 131, 5, 5, "float32"),
        (129, 63, 4, 2, "float32"),
        (65, 131, 5, 5, "float64"),
    ],
    indirect=["dtype"],
)
def test_samples_are_those_of_the_definition(n, m, d, k, dtype):
    x, y = (z.astype(dtype) for z in normals(n, m, d))
    found = compiled(functools.partial(kl_from_samples, k=k))(x, y)
    assert found.dtype == dtype
    # Each term errs by d (d + 3) / 2 eps; the mean by 1.4 eps at most, measured.
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found, nearest(x, y, k), rtol=0, atol=(4 + d) * eps)


def repeated():
    """Samples with distances of 0: in x, in y, across, in all three, and nothing else."""
    x, y = (z.astype("f4") for z in normals(70, 66, 2))
    yield "x", np.r_[x[:10]].repeat(7, 0), y
    yield "y", x, y[:6].repeat(11, 0)
    yield "across", x, np.r_[x[:20], y[20:]]
    yield "all", x[:10].repeat(7, 0), np.r_[x[:5].repeat(3, 0), y[:3].repeat(17, 0)]
    yield "equal", x[:1].repeat(70, 0), x[:1].repeat(66, 0)
    yield "apart", x[:1].repeat(70, 0), y[:1].repeat(66, 0)
    rng = np.random.default_rng(2)
    yield "grid", *(rng.integers(0, 4, (s, 2)).astype("f4") for s in (70, 66))
    yield "ties", *(rng.integers(0, 40, (s, 2)).astype("f4") for s in (70, 66))


@functools.cache
def with_slopes(k):
    return quick(jax.value_and_grad(functools.partial(kl_from_samples, k=k), (0, 1)))


@pytest.mark.parametrize("k", [1, 3])
def test_samples_with_duplicates_and_ties(k):
    for name, x, y in repeated():
        value, slopes = with_slopes(k)(x, y)
        # As above; psi in float32 errs by 1e-6.
        np.testing.assert_allclose(value, nearest(x, y, k), atol=3e-6, err_msg=name)
        assert all(np.isfinite(s).all() for s in slopes), name


def test_samples_of_few_values_have_the_kl_of_their_frequencies():
    rng = np.random.default_rng(3)
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    x, y = (rng.choice(3, 4000, p=z).astype("f4")[:, None] for z in (p, q))
    # Of the term log(p / q), under p and through q, with n = m.
    variance = p @ np.log(p / q) ** 2 - (p @ np.log(p / q)) ** 2 + p**2 @ (1 / q) - 1
    error = np.sqrt(variance / 4000)
    assert abs(compiled(kl_from_samples)(x, y) - p @ np.log(p / q)) < 4 * error


def test_samples_far_away_and_of_any_scale():
    of = lambda x, y: with_slopes(1)(x, y)[0]
    x, y = (z.astype("f4") for z in normals(70, 66, 2))
    value = of(x, y)
    for scale in (1e-18, 1e18, 1e-33, 3e37):
        scaled = (x * np.float32(scale), y * np.float32(scale))
        np.testing.assert_allclose(of(*scaled), nearest(*scaled, 1), atol=2e-6)
    for power in (-80, -1, 60, 120):
        assert of(x * np.float32(2.0**power), y * np.float32(2.0**power)) == value
    # One of them 1e30 times the others, the squares of whose distances are normal numbers.
    outlier = (x * np.float32(1e-15), y * np.float32(1e-15))
    outlier[1][7, 0] = 1e15
    np.testing.assert_allclose(of(*outlier), nearest(*outlier, 1), atol=2e-6)
    # Of the numbers as they are: rounded to 2^-10, some coincide.
    offset = (x + np.float32(1e4), y + np.float32(1e4))
    np.testing.assert_allclose(of(*offset), nearest(*offset, 1), atol=2e-6)
    x, y = np.round(x * 256) / 256, np.round(y * 256) / 256
    moved = of(x + np.float32(4096), y + np.float32(4096))
    np.testing.assert_allclose(moved, of(x, y), atol=1e-6)


def test_samples_of_normals_tend_to_the_divergence():
    """KL(N(0, 1) || N(0.5, 1.5^2)) in each of two dimensions."""
    true = 2 * (np.log(1.5) + (1 + 0.25) / (2 * 2.25) - 0.5)
    rms, of = {}, compiled(functools.partial(kl_from_samples, k=3))
    for n in (200, 800, 3200):
        pairs = [normals(n, n + 1, 2, seed) for seed in range(8)]
        error = [of(*(z.astype("f4") for z in p)) - true for p in pairs]
        rms[n] = np.sqrt(np.mean(np.square(error)))
    # Standard errors fall as 1 / sqrt(n): by 2 a step. Of 8 seeds they are known to 25 %.
    assert rms[800] < 0.75 * rms[200]
    assert rms[3200] < 0.75 * rms[800]
    # Four standard errors of this mean, 0.0057; the bias is no larger than one.
    assert abs(np.mean(error)) < 0.023


def test_samples_take_memory_in_proportion():
    def temporary(n, fun):
        z = jax.ShapeDtypeStruct((n, 3), jnp.float32)
        return jax.jit(fun).lower(z, z).compile().memory_analysis().temp_size_in_bytes

    for fun in (kl_from_samples, jax.grad(kl_from_samples, (0, 1))):
        small, large = (temporary(n, fun) for n in (2048, 8192))
        assert large < 4.2 * small
        assert large < 8192 * 8192  # bytes: a quarter of the distances


def test_gradient_of_samples():
    x, y = normals(70, 40, 3)
    u, v = normals(70, 40, 3, seed=1)

    @quick
    def derivatives(x, y):
        loss = functools.partial(kl_from_samples, k=2)
        value, forward = jax.jvp(loss, (x, y), (u, v))
        return value, forward, jax.grad(loss, (0, 1))(x, y)

    with jax.enable_x64(True):
        _, forward, (dx, dy) = derivatives(x, y)
        up, down = (derivatives(x + h * u, y + h * v)[0] for h in (1e-6, -1e-6))
    found = (dx * u).sum() + (dy * v).sum()
    # Central differences err by h^2: 1e-9 here, where no neighbour changes.
    np.testing.assert_allclose(found, (up - down) / 2e-6, rtol=1e-6)
    np.testing.assert_allclose(forward, found, rtol=1e-12)
    # The estimate does not depend on the scale of all data.
    np.testing.assert_allclose((dx * x).sum() + (dy * y).sum(), 0, atol=1e-12)


def test_samples_batched_and_not_finite():
    pairs = [[z.astype("f4") for z in normals(20, 30, 2, seed)] for seed in range(2)]
    pairs[1][0][3:6] = 1  # duplicates in one of the two
    expected = [kl_from_samples(*p) for p in pairs]
    for bad in (NAN, INF, -INF):
        for place in (0, 1):
            z = [pairs[0][0].copy(), pairs[0][1].copy()]
            z[place][7, 1] = bad
            pairs.append(z)
    found = quick(jax.vmap(kl_from_samples))(*map(np.stack, zip(*pairs, strict=True)))
    np.testing.assert_allclose(found[:2], expected, atol=1e-6)
    assert np.isnan(found[2:]).all()


# --- kl_from_counts ----------------------------------------------------------------


def of_counts(c, a, pseudocount=0.0):
    """KL and its two gradients, by the definition."""
    with mp.workdps(oracles.DIGITS):
        c, a = ([mp.mpf(float(n)) + mp.mpf(pseudocount) for n in x] for x in (c, a))
        total, total_q = mp.fsum(c), mp.fsum(a)
        r = [
            x * total_q / (y * total) if x else mp.mpf(0) for x, y in zip(c, a, strict=True)
        ]
        log = [mp.log(x) if x else mp.mpf(0) for x in r]
        value = mp.fsum(x / total * y for x, y in zip(c, log, strict=True))
        return value, [(x - value) / total for x in log], [(1 - x) / total_q for x in r]


def histograms(outcomes, rows, seed=0):
    rng = np.random.default_rng(seed)
    size = (rows, outcomes)
    yield rng.integers(1, 10**7, size), rng.integers(1, 10**7, size)
    counts = rng.integers(10**6, 10**7, size)
    yield counts, counts + rng.integers(-2, 3, size)
    for noise in (1, 1e-2, 1e-4, 1e-6, 1e-7):
        c = np.exp(rng.normal(size=size) * 3 + 10)
        change = 1 + noise * rng.uniform(-1, 1, size)
        yield c, c * change * rng.uniform(0.01, 50, (rows, 1))


def assert_within_the_bound_of_the_docstring(value, true):
    assert value >= 0
    eps = mp.mpf(float(np.finfo(value.dtype).eps))
    # Measured above 1e-16: 7.8 ULP in float32.
    bound = 10 * oracles.spacing(true, value.dtype.name) + eps**2 * mp.sqrt(true)
    assert abs(float(value) - true) <= bound


# Those of 30 outcomes are in test_values_and_gradients_of_counts.
@pytest.mark.parametrize(
    ("outcomes", "rows", "pseudocount", "dtype"),
    [
        (2, 40, 0.0, "float32"),
        (3, 40, 0.0, "float32"),
        (3, 40, 0.5, "float32"),
        (1000, 1, 0.0, "float32"),
        (3, 40, 0.5, "float64"),
        (1000, 1, 0.0, "float64"),
    ],
    indirect=["dtype"],
)
def test_counts_in_ulp(outcomes, rows, pseudocount, dtype):
    loss = compiled(functools.partial(kl_from_counts, pseudocount=pseudocount))
    for c, a in histograms(outcomes, rows):
        c, a = c.astype(dtype), a.astype(dtype)
        found = loss(c, a)
        assert found.dtype == dtype
        for value, *row in zip(found, c, a, strict=True):
            true = of_counts(*row, pseudocount)[0]
            assert_within_the_bound_of_the_docstring(value, true)


def test_counts_in_proportion_give_0_and_none_is_negative():
    rng, of = np.random.default_rng(0), compiled(kl_from_counts)
    a = rng.integers(0, 1000, (500, 40))
    for factor in (1, 3, 7, 100):
        np.testing.assert_array_equal(of(factor * a, a), 0)
        np.testing.assert_array_equal(of(a, factor * a), 0)
    # With the share 0.05 many rows differ in one or two counts, and some in none.
    for c in rng.integers(10**6, 10**7, (20, 500, 40)):
        for change, share in ((0, 1.0), (1, 1.0), (3, 1.0), (1, 0.05)):
            moved = rng.integers(-change, change + 1, c.shape)
            other = c + np.where(rng.uniform(size=c.shape) < share, moved, 0)
            value = of(c, other)
            differs = (c != other).any(-1)
            assert (value[differs] > 0).all()
            assert (value[~differs] == 0).all()


def test_counts_at_the_edges():
    rows = [
        ([0, 1, 1], [2, 1, 1], np.log(2)),
        ([0, 1, 1], [0, 1, 1], 0),
        ([0, 3, 1], [0, 1, 3], np.log(3) / 2),
        ([1, 1, 1], [0, 1, 1], INF),
        ([0, 0, 0], [1, 1, 1], NAN),
        ([1, 1, 1], [0, 0, 0], NAN),
        ([0, 0, 0], [0, 0, 0], NAN),
        ([-1, 2, 1], [1, 1, 1], NAN),
        ([1, 2, 1], [1, -1, 1], NAN),
        ([NAN, 1, 1], [1, 1, 1], NAN),
        ([1, 1, 1], [1, 1, NAN], NAN),
        ([INF, 1, 1], [1, 1, 1], NAN),
        ([1, 1, 1], [1, INF, 1], NAN),
        ([1e-30, 1e-30, 0], [1e30, 3e30, 0], np.log(4 / 3) / 2),
        ([1e37, 1e37, 0], [1e-37, 3e-37, 0], np.log(4 / 3) / 2),
    ]
    c, a, expected = (np.array(z, "f4") for z in zip(*rows, strict=True))

    @quick
    def with_slopes(c, a):
        value, back = jax.vjp(kl_from_counts, c, a)
        return value, back(jnp.ones_like(value)), kl_from_counts(c[6], a[6], pseudocount=1)

    value, slopes, of_nothing = with_slopes(c, a)
    # An outcome against 1/2: the logarithm is rounded once, and subtracted from 1.
    np.testing.assert_allclose(value, expected, rtol=3e-7)
    np.testing.assert_allclose(of_nothing, 0)
    # (log(p / q) - KL) / N and (1 - p / q) / M.
    two = np.log(2)
    in_p = [[-two / 2, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(slopes[0][:2], in_p, atol=1e-7)
    np.testing.assert_allclose(slopes[1][:2], [[1 / 4, -1 / 4, -1 / 4], [1 / 2, 0, 0]])
    assert all(np.isfinite(s[2]).all() for s in slopes)
    np.testing.assert_array_equal(slopes[0][3], 0)
    np.testing.assert_allclose(slopes[1][3], [-INF, 1 / 6, 1 / 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("pseudocount", "dtype"),
    [(0.0, "float32"), (0.5, "float32"), (0.5, "float64")],
    indirect=["dtype"],
)
def test_values_and_gradients_of_counts(pseudocount, dtype):
    loss = functools.partial(kl_from_counts, pseudocount=pseudocount)
    each = compiled(jax.vmap(jax.value_and_grad(loss, (0, 1))))
    for c, a in histograms(30, 5):
        c, a = c.astype(dtype), a.astype(dtype)
        values, gradients = each(c, a)
        for value, *found, x, y in zip(values, *gradients, c, a, strict=True):
            exact, *expected = of_counts(x, y, pseudocount)
            assert_within_the_bound_of_the_docstring(value, exact)
            for slopes, true in zip(found, expected, strict=True):
                true = np.array(true, float)
                # Measured: 3.8 eps of the largest component.
                bound = 8 * np.finfo(dtype).eps * abs(true).max()
                np.testing.assert_allclose(slopes, true, rtol=0, atol=bound)


@pytest.mark.slow
def test_second_derivatives_of_counts():
    rng = np.random.default_rng(4)
    c, a, u, v = rng.uniform(1, 9, (4, 5, 6))
    c[0, 0] = a[1, 1] = 4
    slope = jax.grad(lambda *x: kl_from_counts(*x).sum(), (0, 1))
    h = 1e-5
    rows = [np.concatenate([x, x + h * y, x - h * y]) for x, y in ((c, u), (a, v))]
    tangents = [np.tile(z, (3, 1)) for z in (u, v)]
    with jax.enable_x64(True):
        slopes, changes = quick(lambda x, t: jax.jvp(slope, x, t))(rows, tangents)
    for f, x in zip(changes, slopes, strict=True):
        # Of the differences, h^2 and 1e-16 / h; measured 1e-10.
        np.testing.assert_allclose(f[:5], (x[5:10] - x[10:]) / (2 * h), atol=1e-9)


def test_counts_in_batches():
    c, a = np.random.default_rng(4).uniform(1, 9, (2, 5, 6))
    batched = jax.vmap(kl_from_counts, (1, 1))
    both = quick(lambda c, a: (batched(c.T, a.T), kl_from_counts(c, a)))
    with jax.enable_x64(True):
        found, expected = both(c, a)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_counts_of_any_type():
    c, a = np.array([3, 5, 2]), np.array([1, 1, 3])
    expected = np.asarray(kl_from_counts(c.astype("f4"), a.astype("f4")))
    for kind in ("i1", "u1", "i4", "u4", "i8", "u8", "f2", "f8"):
        found = kl_from_counts(c.astype(kind), a.astype(kind))
        assert found.dtype == jnp.float32
        assert np.asarray(found) == expected
        with jax.enable_x64(True):
            pair = c.astype(kind), a.astype("i2")
            wide = jax.eval_shape(lambda pair=pair: kl_from_counts(*pair))
            assert wide.dtype == (
                jnp.float64 if kind in ("i8", "u8", "f8") else jnp.float32
            )
    with jax.enable_x64(True):
        for kind in ("i8", "u8"):
            pair = jax.device_put(c.astype(kind)), jax.device_put(a.astype("i2"))
            assert jax.eval_shape(kl_from_counts, *pair).dtype == jnp.float64
    # Not cut to 32 bits: as int32 the first would be 0.
    large = kl_from_counts(np.array([2**40, 2**41, 0]), np.array([1, 1, 0]))
    np.testing.assert_allclose(large, np.log(2) * 5 / 3 - np.log(3), rtol=1e-5)


def test_bias_of_counts():
    """(K - 1) / (2 N) + sum p (1 - q) / (2 M q), of 40000 pairs of histograms."""
    rng = np.random.default_rng(5)
    p, q = np.array([0.3, 0.25, 0.2, 0.15, 0.1]), np.array([0.1, 0.2, 0.3, 0.25, 0.15])
    n, m = 1000, 1500
    c, a = rng.multinomial(n, p, 40000), rng.multinomial(m, q, 40000)
    with jax.enable_x64(True):
        excess = quick(kl_from_counts)(c, a) - p @ np.log(p / q)
    bias = 4 / (2 * n) + (p * (1 - q) / q).sum() / (2 * m)
    error = excess.std() / np.sqrt(len(excess))
    assert bias > 20 * error
    # The next order, of q^-2 / m^2, is about 2e-5, and the standard error 1.4e-4.
    assert abs(excess.mean() - bias) < 4 * error


# --- kl_from_densities ---------------------------------------------------------------


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
