"""Mixtures of distributions against mpmath, derivatives, and Jensen-Shannon of many."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from programs import optimized, quick

from kl_jax import jensen_shannon_divergence, kl_divergence, mixture_logits

INF, NAN = np.inf, np.nan
WEIGHTS = np.array([2.0, 1.0, 0.0, 0.5], "f4")


def exact(logits, weights):
    """log of the weighted mean, of a stack [n, outcomes]."""
    with mp.workdps(oracles.DIGITS):
        rows = [oracles.softmax(row) for row in logits]
        total = mp.fsum(mp.mpf(float(w)) for w in weights)
        masses = [
            mp.fsum(mp.mpf(float(w)) * row[k] for w, row in zip(weights, rows, strict=True))
            for k in range(len(rows[0]))
        ]
        return [mp.log(m / total) if m else -mp.inf for m in masses]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_mean_of_softmaxes(weights, dtype):
    rng = np.random.default_rng(0)
    scale = np.array([0.01, 1, 20])[:, None, None]
    logits = (rng.normal(size=(3, 4, 9)) * scale + 1000 * (scale > 1)).astype(dtype)
    logits[:, :, 3] = -INF
    logits[1, :3, 4] = -INF
    weights = None if weights is None else weights.astype(dtype)
    found = optimized(mixture_logits, static_argnames="axis")(logits, weights, axis=1)
    assert found.shape == (3, 9)
    assert found.dtype == dtype
    for row, stack in zip(found, logits, strict=True):
        true = exact(stack, np.ones(4) if weights is None else weights)
        for f, t in zip(row.tolist(), true, strict=True):
            if mp.isinf(t):
                assert f == -INF
            else:
                assert abs(f - t) <= 4 * float(np.finfo(dtype).eps) * max(1, abs(t))


def test_derivatives_against_the_textbook_and_where_nothing_is():
    """Logits of -inf in some and in all, a distribution without outcomes, a weight of 0."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 6)).astype("f4")
    logits[:, 2] = logits[1, 3] = -INF
    empty = logits.copy()
    empty[3] = -INF
    coefficients = rng.normal(size=6).astype("f4")

    def ours(x, w):
        m = mixture_logits(x, w)
        return jnp.sum(coefficients * jnp.where(m == -INF, 0, m))

    def textbook(x, w):
        mean = jnp.tensordot(w / w.sum(), jax.nn.softmax(x, -1), 1)
        return jnp.sum(
            coefficients * jnp.where(mean == 0, 0, jnp.log(jnp.where(mean == 0, 1, mean)))
        )

    def derivatives(f, x):
        gradient = jax.grad(f, (0, 1))
        total = lambda *args: sum(jnp.sum(jnp.sin(g)) for g in gradient(*args))
        return gradient(x, WEIGHTS), jax.grad(total, (0, 1))(x, WEIGHTS)

    found, true, of_empty = quick(
        lambda: (
            derivatives(ours, logits),
            derivatives(textbook, logits),
            derivatives(ours, empty),
        )
    )()
    for f, t in zip(*map(jax.tree.leaves, (found, true)), strict=True):
        np.testing.assert_allclose(f, t, rtol=2e-5, atol=1e-6)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(of_empty))


def test_jensen_shannon_of_many():
    """The mean KL from the mixture: that of two, and its gradient with a class in none."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(2, 5, 7)).astype("f4")
    z[:, :, 3] = -INF

    def of_many(z):
        m = mixture_logits(z)
        return sum(kl_divergence(x, m) for x in z) / len(z)

    both = lambda f: jax.value_and_grad(lambda z: f(z).sum())
    found, true = quick(
        lambda z: (both(of_many)(z), both(lambda z: jensen_shannon_divergence(*z))(z))
    )(z)
    for f, t in zip(*map(jax.tree.leaves, (found, true)), strict=True):
        np.testing.assert_allclose(f, t, rtol=1e-5, atol=1e-6)


def test_boundary():
    logits = np.array([[INF, 0, -INF], [0, 0, -INF], [-INF] * 3], "f4")
    mixture = quick(mixture_logits)
    np.testing.assert_allclose(np.exp(mixture(logits)), [0.5, 1 / 6, 0], atol=1e-6)
    np.testing.assert_array_equal(mixture(logits[2:]), -INF)
    assert np.isnan(mixture(np.array([[NAN, 0], [0, 0]], "f4"))).all()
    assert np.isnan(mixture(logits[:2], np.zeros(2, "f4"))).all()
