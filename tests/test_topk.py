"""KL from the k largest log-probabilities: value, bound, boundary, derivatives."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest

from kl_jax import kl_divergence, topk_kl_divergence

INF, NAN = np.inf, np.nan
TAILS = ("bucket", "renormalize", "drop")


def teacher(seed, k, rows=4, outcomes=11, noise=1.0):
    """Logits of p and q, and the k largest log-probabilities of p, in random order."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(rows, outcomes)) * 2
    b = a + rng.normal(size=a.shape) * noise + 3
    log_p = a - np.log(np.exp(a).sum(-1, keepdims=True))
    index = np.argsort(-a, -1)[:, :k]
    index = rng.permuted(index, axis=-1).astype(np.int32)
    return a, b, np.take_along_axis(log_p, index, -1), index


def oracle(log_p, index, b, tail):
    """By the definition, of the numbers as they are."""
    with mp.workdps(oracles.DIGITS):
        p = [mp.exp(mp.mpf(float(x))) for x in log_p]
        q = oracles.softmax(b)
        here = [q[i] for i in index]
        total, reached = mp.fsum(p), mp.fsum(here)
        if tail == "renormalize":
            p, here = [x / total for x in p], [x / reached for x in here]
        terms = [x * mp.log(x / y) for x, y in zip(p, here, strict=True) if x]
        if tail == "bucket" and total < 1 and len(b) > len(p):
            terms.append((1 - total) * mp.log((1 - total) / (1 - reached)))
        return mp.fsum(terms)


@pytest.mark.parametrize("tail", TAILS)
def test_value(tail, dtype):
    for noise in (1.0, 1e-2):
        _, b, log_p, index = teacher(0, 4, noise=noise)
        log_p, b = log_p.astype(dtype), b.astype(dtype)
        found = jax.jit(lambda *x: topk_kl_divergence(*x, tail=tail))(log_p, index, b)
        assert found.dtype == dtype
        true = [float(oracle(*x, tail)) for x in zip(log_p, index, b, strict=True)]
        # 1 - P and log(1 - Q) are rounded: 8 eps of the terms, which cancel in the sum.
        np.testing.assert_allclose(found, true, rtol=0, atol=8 * np.finfo(dtype).eps)


def test_all_outcomes_are_the_divergence_itself():
    for noise in (1.0, 1e-3, 1e-6):
        _, b, log_p, index = teacher(1, 11, noise=noise)
        log_p, b = log_p.astype("f4"), b.astype("f4")
        back = np.argsort(index, -1)
        expected = kl_divergence(np.take_along_axis(log_p, back, -1), b)
        for tail in ("bucket", "renormalize"):
            found = topk_kl_divergence(log_p, index, b, tail=tail)
            np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_bucket_is_a_lower_bound_that_grows_with_k():
    with jax.enable_x64(True):
        a, b, log_p, index = teacher(2, 11)
        order = np.argsort(-log_p, -1)
        log_p, index = (np.take_along_axis(x, order, -1) for x in (log_p, index))
        known = [np.where(np.arange(11) < k, log_p, -INF) for k in range(1, 12)]
        bounds = [topk_kl_divergence(x, index, b) for x in known]
        assert (np.diff(bounds, axis=0) >= -1e-14).all()
        np.testing.assert_allclose(bounds[-1], kl_divergence(a, b), rtol=1e-12)
        assert (np.asarray(bounds[0]) > 0).all()


def test_drop_may_be_negative():
    log_p, index = jnp.log(jnp.array([0.2, 0.1])), jnp.array([0, 1])
    q = jnp.log(jnp.array([0.5, 0.4, 0.1]))
    assert topk_kl_divergence(log_p, index, q, tail="drop") < 0
    assert topk_kl_divergence(log_p, index, q, tail="bucket") > 0


@pytest.mark.parametrize("tail", TAILS)
def test_gradients(tail):
    """Against differences of the oracle at 30 digits."""
    _, b, log_p, index = teacher(3, 4, rows=2)
    with jax.enable_x64(True):
        slopes = jax.vmap(
            jax.grad(lambda x, i, y: topk_kl_divergence(x, i, y, tail=tail), (0, 2))
        )(log_p, index, b)
    h = mp.mpf(2) ** -40
    for row in range(2):
        for side, found in enumerate(slopes):
            for j in range(found.shape[1]):
                values = []
                for step in (h, -h):
                    x, y = [list(map(mp.mpf, z[row])) for z in (log_p, b)]
                    (x, y)[side][j] += step
                    values.append(exact(x, index[row], y, tail))
                true = float((values[0] - values[1]) / (2 * h))
                np.testing.assert_allclose(found[row, j], true, atol=1e-10)


def exact(log_p, index, b, tail):
    """`oracle` of numbers that are not floats."""
    with mp.workdps(60):
        p, e = [mp.exp(x) for x in log_p], [mp.exp(y) for y in b]
        here = [e[i] / mp.fsum(e) for i in index]
        total, reached = mp.fsum(p), mp.fsum(here)
        if tail == "renormalize":
            p, here = [x / total for x in p], [x / reached for x in here]
        terms = [x * mp.log(x / y) for x, y in zip(p, here, strict=True)]
        if tail == "bucket":
            terms.append((1 - total) * mp.log((1 - total) / (1 - reached)))
        return mp.fsum(terms)


@pytest.mark.parametrize("tail", TAILS)
def test_forward_over_reverse_and_vmap(tail):
    _, b, log_p, index = teacher(4, 3)
    function = lambda x, y: topk_kl_divergence(x, index, y, tail=tail).sum()
    with jax.enable_x64(True):
        u, v = np.random.default_rng(5).normal(size=b.shape), np.ones_like(log_p)
        gradient = jax.jit(jax.grad(function, (0, 1)))
        _, found = jax.jvp(gradient, (log_p, b), (v, u))
        h = 1e-5
        up, down = gradient(log_p + h * v, b + h * u), gradient(log_p - h * v, b - h * u)
        for f, x, y in zip(found, up, down, strict=True):
            np.testing.assert_allclose(f, (x - y) / (2 * h), atol=1e-8)
    rows = jax.vmap(lambda *x: topk_kl_divergence(*x, tail=tail))
    x, y = log_p.astype("f4"), b.astype("f4")
    expected = topk_kl_divergence(x, index, y, tail=tail)
    np.testing.assert_allclose(rows(x, index, y), expected, rtol=1e-5)


@pytest.mark.parametrize("tail", TAILS)
def test_indices_that_are_wrong_make_their_row_nan(tail):
    log_p = jnp.log(jnp.array([[0.5, 0.3]] * 5))
    index = jnp.array([[0, 1], [1, 1], [0, 3], [-1, 0], [2, 0]])
    q = jnp.zeros((5, 3))
    found = topk_kl_divergence(log_p, index, q, tail=tail)
    np.testing.assert_array_equal(np.isnan(found), [False, True, True, True, False])
    wide = topk_kl_divergence(log_p, index.astype(jnp.int8), q, tail=tail)
    np.testing.assert_array_equal(wide, found)
    high = np.array([0, 2**32 - 1], np.uint32)  # not -1
    assert np.isnan(topk_kl_divergence(log_p[0], high, q[0], tail=tail))


@pytest.mark.parametrize("tail", TAILS)
def test_entries_of_no_probability_are_ignored_with_their_index(tail):
    log_p, index = jnp.log(jnp.array([0.5, 0.3])), jnp.array([2, 0])
    q = jnp.array([0.1, 0.5, -1.0, 2.0])
    loss = lambda x, i, q: topk_kl_divergence(x, i, q, tail=tail)
    expected, slope = jax.value_and_grad(loss, 2)(log_p, index, q)
    for i in (-1, 1, 2, 100):
        x, at = jnp.append(log_p, -INF), jnp.append(index, i)
        value, slopes = jax.value_and_grad(loss, (0, 2))(x, at, q)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(slopes[1], slope, rtol=1e-6)
        assert np.isfinite(slopes[0][:2]).all()
        assert slopes[0][2] == 0


def test_more_than_the_whole_by_rounding():
    log_p = jnp.log(jnp.array([0.75, 0.25])) + 1e-6
    index, q = jnp.array([0, 2]), jnp.array([0.0, 1.0, 2.0, -INF])
    value, slopes = jax.value_and_grad(topk_kl_divergence, (0, 2))(log_p, index, q)
    whole = jnp.array([0.75, 0.0, 0.25, 0.0])
    np.testing.assert_allclose(value, kl_divergence(jnp.log(whole), q), rtol=1e-5)
    np.testing.assert_allclose(slopes[1], jax.nn.softmax(q) - whole, atol=1e-6)
    assert np.isfinite(slopes[0]).all()


def test_boundary():
    index, none = jnp.array([0, 1]), jnp.array([-INF, -INF])
    q = jnp.array([0.0, 1.0, 2.0])
    for tail in TAILS:
        value, slope = jax.value_and_grad(topk_kl_divergence, 2)(none, index, q, tail=tail)
        np.testing.assert_allclose(value, 0, atol=1e-7)
        np.testing.assert_allclose(slope, 0, atol=1e-7)
    log_p = jnp.log(jnp.array([0.5, 0.25]))
    for q in ([0, -INF, 1], [0, 0, -INF]):
        assert topk_kl_divergence(log_p, index, jnp.array(q, "float32")) == INF
    for bad in (log_p.at[0].set(NAN), log_p):
        q = jnp.array([0, 1, 2.0 if bad is not log_p else NAN])
        for tail in ("bucket", "drop"):
            assert np.isnan(topk_kl_divergence(bad, index, q, tail=tail))


def test_a_masked_vocabulary_has_finite_gradients():
    """q has no mass outside, and neither has p."""
    log_p = jnp.array([0.0, -INF])
    index, q = jnp.array([1, 0]), jnp.array([-INF, 0.0, -INF])
    for tail in TAILS:
        loss = lambda x, y, t=tail: topk_kl_divergence(x, index, y, tail=t)
        value, slopes = jax.value_and_grad(loss, (0, 1))(log_p, q)
        assert value == 0
        assert all(np.isfinite(s).all() for s in slopes)


def test_half_precision_is_computed_in_float32():
    _, b, log_p, index = teacher(6, 4)
    x, y = jnp.asarray(log_p, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16)
    found = topk_kl_divergence(x, index, y)
    assert found.dtype == jnp.float32
    wide = topk_kl_divergence(x.astype("float32"), index, y.astype("float32"))
    np.testing.assert_array_equal(found, wide)
    slope = jax.grad(lambda y: topk_kl_divergence(x, index, y).sum())(y)
    assert slope.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.0], [0], [0.0, 1.0]), TypeError, "topk_index must be of an integer type"),
        ((np.zeros(2), np.zeros(3, int), np.zeros(4)), ValueError, "topk_index must have"),
        ((np.zeros((2, 1)), np.zeros((2, 1), int), np.zeros(4)), ValueError, "logits_q"),
        ((np.zeros(0), np.zeros(0, int), np.zeros(4)), ValueError, "at least one outcome"),
        ((np.zeros(1), np.zeros(1, int), np.zeros(0)), ValueError, "at least one outcome"),
        ((np.zeros(1, int), np.zeros(1, int), np.zeros(2)), TypeError, "floating point"),
    ],
)
def test_what_does_not_fit(arguments, error, message):
    arguments = [np.asarray(x, "f4") if isinstance(x, list) else x for x in arguments]
    with pytest.raises(error, match=f"topk_kl_divergence: .*{message}"):
        topk_kl_divergence(*arguments)


def test_tail_is_one_of_three():
    one = jnp.zeros(1), jnp.zeros(1, int), jnp.zeros(2)
    with pytest.raises(ValueError, match="topk_kl_divergence: tail must be one of"):
        topk_kl_divergence(*one, tail="rest")
