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
from programs import in_precision, optimized, quick, temporary_memory

from kl_jax import checked, kl_estimate, kl_from_samples

INF, NAN = np.inf, np.nan


# --- kl_estimate -----------------------------------------------------------------


def estimates(log_p, log_q):
    return {k: kl_estimate(log_p, log_q, estimator=k) for k in ("k1", "k2", "k3")}


def test_estimates_in_ulp(dtype):
    rng = np.random.default_rng(0)
    log_p = rng.normal(size=400).astype(dtype)
    log_q = log_p + (rng.normal(size=400) * 10.0 ** rng.uniform(-6, 1, 400)).astype(dtype)
    exact = {"k1": lambda d: -d, "k2": lambda d: d * d / 2, "k3": oracles.phi}
    for estimator, found in optimized(estimates)(log_p, log_q).items():
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


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_derivatives_of_reparameterised_estimates_are_those_of_the_values(estimator):
    """At ordinary samples, near equality and at equality; second derivatives too."""
    log_p = np.array([-1.0, -2.0, -0.5, -3.0], "f4")
    log_q = np.array([-1.5, -2.0, -0.5 - 1e-4, -0.5], "f4")
    values = {
        "k1": lambda p, q: p - q,
        "k2": lambda p, q: (q - p) ** 2 / 2,
        "k3": lambda p, q: jnp.expm1(q - p) - (q - p),
    }
    ours = functools.partial(kl_estimate, estimator=estimator, reparameterized=True)

    @quick
    def of_both(p, q):
        gradients = [
            jax.grad(lambda x, f=f: f(*x).sum()) for f in (ours, values[estimator])
        ]
        return [(g((p, q)), jax.jacfwd(g)((p, q))) for g in gradients]

    found, true = map(jax.tree.leaves, of_both(log_p, log_q))
    for f, t in zip(found, true, strict=True):
        np.testing.assert_allclose(f, t, rtol=1e-6, atol=1e-7)


MIXTURE = (np.float32([-2.0, 1.0]), np.float32([0.7, 1.5]))  # of two halves


def log_mixture(x):
    loc, scale = (z[None] for z in MIXTURE)
    logs = jax.scipy.stats.norm.logpdf(x[:, None], loc, scale)
    return jax.nn.logsumexp(logs, -1) - np.float32(np.log(2))


def test_gradients_of_reparameterised_samples_against_quadrature():
    """A normal posterior and a mixture prior: slopes in location and scale are within 4
    standard errors of those of KL by quadrature; the slopes for drawn samples are not.
    """
    eps = np.random.default_rng(0).normal(size=20000).astype("f4")
    at = (np.float32(0.3), np.float32(2.0))

    def estimates(m, s, reparameterized):
        z = m + s * eps
        log_p = jax.scipy.stats.norm.logpdf(z, m, s)
        return kl_estimate(log_p, log_mixture(z), reparameterized=reparameterized)

    def kl(m, s):
        nodes = np.linspace(-12, 12, 4001, dtype="f4")
        log_p = jax.scipy.stats.norm.logpdf(nodes, m, s)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_mixture(nodes))) * (
            nodes[1] - nodes[0]
        )

    @quick
    def everything(m, s):
        ways = [
            jax.jacfwd(lambda m, s, r=r: estimates(m, s, r), (0, 1))(m, s)
            for r in (True, False)
        ]
        return (*ways, jax.grad(kl, (0, 1))(m, s))

    pathwise, drawn, true = everything(*at)
    for slopes, t in zip(pathwise, true, strict=True):
        error = slopes.std() / np.sqrt(len(slopes))
        assert abs(slopes.mean() - t) < 4 * error
    wrong = drawn[1]
    assert abs(wrong.mean() - true[1]) > 8 * wrong.std() / np.sqrt(len(wrong))


def test_numbers_of_the_docstring():
    """Sequences of two tokens; importance weights; the scale of a normal."""
    doc = " ".join(kl_estimate.__doc__.split())
    p, q, r = np.array([0.7, 0.3]), np.array([0.5, 0.5]), np.array([0.4, 0.6])
    k3 = q / p - 1 - np.log(q / p)
    # One sample, divided by its weight, counts as drawn from p.
    assert f"it is {r @ k3:.3f} in the mean where KL is {p @ np.log(p / q):.3f}" in doc
    s, kl = 2.0, (4 - 1) / 2 - np.log(2)
    drawn = -kl / s + s * (1 - 1 / s**2)
    assert f"the slope in the scale is {s - 1 / s} instead of {drawn:.1f}" in doc

    theta, other = (jax.random.normal(jax.random.key(i), (3, 2)) for i in (0, 1))
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]

    def tokens(t, s):
        first, second = jax.nn.log_softmax(t[0]), jax.nn.log_softmax(t[1:], -1)
        return jnp.stack([first[s[0]], second[s]])

    def expected(of):
        mean = lambda t: sum(
            jax.lax.stop_gradient(jnp.exp(tokens(t, s).sum()))
            * of(tokens(t, s), tokens(other, s))
            for s in pairs
        )
        return jax.grad(mean)(theta)[0, 0]

    def exact(t):
        every = [(tokens(t, s), tokens(other, s)) for s in pairs]
        return sum(jnp.exp(a.sum()) * (a - b).sum() for a, b in every)

    by_token, by_sequence, true = quick(
        lambda: (
            expected(lambda a, b: kl_estimate(a, b).sum()),
            expected(lambda a, b: kl_estimate(a.sum(), b.sum())),
            jax.grad(exact)(theta)[0, 0],
        )
    )()
    np.testing.assert_allclose(by_sequence, true, rtol=1e-5)
    assert f"({abs(by_token / true - 1):.0%} off".replace("%", " %") in doc


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
            psi = scipy.special.digamma
            inside = [(z <= max(rho, nu)).sum() for z in (to_x, to_y)]
            of_x, of_y = ((z == 0).sum() for z in (to_x, to_y))
            terms.append(psi(inside[0]) - psi(inside[1]))
            if rho == 0 and of_x > 1:
                terms[-1] = max(terms[-1], psi(of_x) - psi(max(of_y, 1)))
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
    found = in_precision(dtype)(functools.partial(kl_from_samples, k=k))(x, y)
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
    assert abs(quick(kl_from_samples)(x, y) - p @ np.log(p / q)) < 4 * error


def disjoint():
    """Values that p has and q has not, all of them, or half of p's."""
    one, eye = np.ones((60, 1), "f4"), np.eye(6, dtype="f4")
    yield "constants", one, 0 * one[:40], 1
    yield "far constants", one, 1e6 * one, 5
    yield "classes", eye[np.arange(60) % 3], eye[3 + np.arange(90) % 3], 1
    yield (
        "interleaved",
        np.arange(60)[:, None] % 3 * 2,
        np.arange(60)[:, None] % 3 * 2 + 1,
        3,
    )
    yield "few of each", eye.repeat(4, 0), eye.repeat(4, 0) + 1, 1
    yield "half", eye[np.arange(60) % 2], eye[1 + np.arange(60) % 2], 1


def test_samples_of_few_values_that_differ_are_far_apart():
    of = quick(kl_from_samples, static_argnames="k")
    for name, x, y, k in disjoint():
        least = 1 if name != "half" else 0.5
        for a, b in ((x, y), (y, x)):
            found = of(*map(np.float32, (a, b)), k=k)
            assert least < found < INF, (name, found)


def test_samples_of_repeated_rows_are_those_of_a_density():
    """Pairs, as a join makes them, are no values that the other has not."""
    x, y = (z.repeat(2, 0).astype("f4") for z in normals(200, 200, 2))
    true = 2 * (np.log(1.5) + (1 + 0.25) / (2 * 2.25) - 0.5)
    # 0.10 off; 0.31 if each pair counted as a value.
    assert abs(quick(kl_from_samples)(x, y) - true) < 0.2


@pytest.mark.usefixtures("quickly")
def test_shared_points():
    """What the docstring says: -1 of a set and itself for k = 1, and checked refuses."""
    x, y = (z.astype("f4") for z in normals(70, 70, 2))
    assert abs(kl_from_samples(x, x) + 1) < 0.02
    look = checked(kl_from_samples)
    np.testing.assert_array_equal(look(x, y), kl_from_samples(x, y))
    y[3] = x[66]
    for pair, at in (((x, y), 66), ((y, x), 3), ((x, x), 0)):
        message = (
            r"^kl_from_samples: the distance of x to y must be > 0, for samples drawn "
            r"apart: shared points .* write kl_from_counts, found 0 at index \(" + f"{at},"
        )
        with pytest.raises(ValueError, match=message):
            look(*pair)


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


@pytest.mark.slow
def test_samples_of_normals_tend_to_the_divergence():
    """KL(N(0, 1) || N(0.5, 1.5^2)) in each of two dimensions."""
    true = 2 * (np.log(1.5) + (1 + 0.25) / (2 * 2.25) - 0.5)
    # Not `quick`: of 3200 samples that runs for 5.5 CPU seconds, and this for 2.
    rms, of = {}, optimized(functools.partial(kl_from_samples, k=3))
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
    for fun in (kl_from_samples, jax.grad(kl_from_samples, (0, 1))):
        samples = (jax.ShapeDtypeStruct((n, 3), jnp.float32) for n in (2048, 8192))
        small, large = (temporary_memory(fun, z, z) for z in samples)
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


@pytest.mark.usefixtures("quickly")
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
