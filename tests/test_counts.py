"""KL of histograms against mpmath; the edges; batches and dtypes."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from programs import in_precision, of_rows, optimized, quick

from kl_jax import kl_from_counts

INF, NAN = np.inf, np.nan


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
    bound = max(10 * oracles.spacing(true, value.dtype.name), 2 * eps**2 * mp.sqrt(true))
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
    loss = in_precision(dtype)(functools.partial(kl_from_counts, pseudocount=pseudocount))
    for c, a in histograms(outcomes, rows):
        c, a = c.astype(dtype), a.astype(dtype)
        found = loss(c, a)
        assert found.dtype == dtype
        for value, *row in zip(found, c, a, strict=True):
            true = of_counts(*row, pseudocount)[0]
            assert_within_the_bound_of_the_docstring(value, true)


def test_counts_in_proportion_give_0_and_none_is_negative():
    rng, of = np.random.default_rng(0), optimized(kl_from_counts)
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
    np.testing.assert_allclose(slopes[1][3][1:], 1 / 6, rtol=1e-6)
    assert -INF < slopes[1][3][0] < -1e38


@pytest.mark.parametrize(
    ("pseudocount", "dtype"),
    [(0.0, "float32"), (0.5, "float32"), (0.5, "float64")],
    indirect=["dtype"],
)
def test_values_and_gradients_of_counts(pseudocount, dtype):
    loss = functools.partial(kl_from_counts, pseudocount=pseudocount)
    each = in_precision(dtype)(of_rows(loss))
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


def test_a_pseudocount_for_each_outcome():
    """As if it were added to the counts, in value and in every gradient; also traced."""
    rng = np.random.default_rng(5)
    c, a = rng.integers(0, 9, size=(2, 4, 6)).astype("f4")
    prior = rng.uniform(0.1, 2, 6).astype("f4")
    apart = lambda c, a, prior: kl_from_counts(c, a, pseudocount=prior).sum()
    added = lambda c, a, prior: kl_from_counts(c + prior[None], a + prior[None]).sum()
    both = lambda f: jax.value_and_grad(f, (0, 1, 2))
    found, expected = quick(lambda *x: (both(apart)(*x), both(added)(*x)))(c, a, prior)
    for f, e in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(f, e, rtol=2e-5, atol=1e-6)
    same = quick(lambda a: kl_from_counts(c, c + 1, pseudocount=a))
    np.testing.assert_array_equal(same(np.float32(0.5)), same(np.full(6, 0.5, "f4")))
    assert np.isnan(same(np.float32(-1))).all()
    message = r"^kl_from_counts: pseudocount must have shape \(6,\), found \(5,\)"
    with pytest.raises(ValueError, match=message):
        kl_from_counts(c, a, pseudocount=prior[:5])


@pytest.mark.usefixtures("quickly")
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
