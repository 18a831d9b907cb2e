"""Two linear heads: values, boundary, every derivative, dtypes of the products, memory."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from programs import optimized, quick, temporary_memory

from kl_jax import linear_kl_divergence, mean

INF = np.inf
ALL = tuple(range(6))


def heads(seed, rows=5, features=(8, 6), vocab=77, dtype="float64"):
    """hidden_p, weights_p, hidden_q, weights_q, bias_p, bias_q."""
    rng = np.random.default_rng(seed)
    shapes = [s for f in features for s in ((rows, f), (f, vocab))] + [(vocab,)] * 2
    return tuple((rng.normal(size=s) * 0.7).astype(dtype) for s in shapes)


def fused(*x, **kwargs):
    *four, bias_p, bias_q = x
    return linear_kl_divergence(*four, bias_p=bias_p, bias_q=bias_q, **kwargs)


def test_slopes_too_small_for_float16():
    rng = np.random.default_rng(9)
    hidden = np.tile(rng.normal(size=(4, 8)), (512, 1))
    w_p = rng.normal(size=(8, 50))
    x = [
        v.astype("f2")
        for v in (hidden, w_p, hidden, w_p + 0.02 * rng.normal(size=w_p.shape))
    ]
    grad = quick(jax.grad(mean(linear_kl_divergence), (1, 3)))
    for found, true in zip(grad(*x), grad(*(v.astype("f4") for v in x)), strict=True):
        close = 2 * 2.0**-10 * np.abs(true).max()
        np.testing.assert_allclose(found.astype("f4"), true, rtol=0, atol=close)


def test_one_argument_of_float64():
    with jax.enable_x64(True):
        hidden = jax.ShapeDtypeStruct((4, 3), jnp.float32)
        weights = jax.ShapeDtypeStruct((3, 9), jnp.float64)
        value = jax.eval_shape(linear_kl_divergence, hidden, weights, hidden, weights)
        assert value.dtype == jnp.float64


def textbook(*x, temperature=1.0, softcap_p=None, softcap_q=None):
    """Sum of p (log p - log q) over the whole logits."""
    h_p, w_p, h_q, w_q, b_p, b_q = x

    def log_probs(h, w, b, cap):
        z = h @ w + b[None]
        z = z if cap is None else cap * jnp.tanh(z / cap)
        return jax.nn.log_softmax(z / temperature)

    log_p, log_q = log_probs(h_p, w_p, b_p, softcap_p), log_probs(h_q, w_q, b_q, softcap_q)
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def exact_heads(noise, seed=0):
    """Whose products are exact in float32: multiples of 1/8 and of 2^-14 below 1."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(-7, 8, (6, 8)) / 8
    w_p = rng.integers(-(2**12), 2**12, (8, 77)) / 2**14
    w_q = w_p + rng.integers(-noise, noise + 1, w_p.shape) / 2**14
    return [x.astype("float32") for x in (hidden, w_p, hidden, w_q)]


@functools.cache
def of_near_equal_heads():
    """Heads, KL, and the gradients of its mean in hidden states and weights of q, by noise;
    all outcomes in one tile.
    """

    @optimized
    def values_and_gradients(h_p, w_p, *q):
        values, back = jax.vjp(lambda *q: linear_kl_divergence(h_p, w_p, *q), *q)
        return values, back(jnp.full_like(values, 1 / values.size))

    heads = {noise: exact_heads(noise) for noise in (0, 1, 8, 1024, 8192)}
    return {noise: (x, *values_and_gradients(*x)) for noise, x in heads.items()}


@pytest.mark.parametrize("block", [16, None])
def test_near_equal_heads_with_exact_products(block):
    """The bound of kl_divergence; the last of the tiles of 16 overlaps the one before."""
    tiled = optimized(functools.partial(linear_kl_divergence, block=16))
    for x, values, _ in of_near_equal_heads().values():
        a, b = (h.astype("f8") @ w.astype("f8") for h, w in (x[:2], x[2:]))
        for found, *row in zip(values if block is None else tiled(*x), a, b, strict=True):
            true = oracles.kl(*row)
            assert oracles.ulps(found, true, "float32") <= 8 if true else found == 0


def test_gradients_of_near_equal_heads():
    (hidden, w_p, _, w_q), _, found = of_near_equal_heads()[8]
    h, x, y = (z.astype("f8") for z in (hidden, w_p, w_q))
    pairs = zip(h @ x, h @ y, strict=True)
    slopes = np.array([oracles.kl_gradients(a, b)[1] for a, b in pairs], "f8") / len(h)
    for one, true in zip(found, (slopes @ y.T, h.T @ slopes), strict=True):
        # The slopes have 1e-6 of the largest; sums of 77 of them in float32.
        np.testing.assert_allclose(one, true, atol=3e-6 * np.abs(true).max())


# One program for all tests of one dtype and vocabulary.
OPTIONS = {"temperature": 2.0, "softcap_p": 3.0, "softcap_q": 3.0}
value_and_gradients = quick(
    jax.value_and_grad(mean(functools.partial(fused, block=64, **OPTIONS)), ALL)
)


def test_equal_heads_give_exactly_0():
    x = heads(1, features=(8, 8), vocab=300, dtype="float32")
    for dtype in ("float32", "bfloat16"):
        h, w, _, _, bias, _ = (z.astype(jnp.dtype(dtype)) for z in x)
        value, gradients = value_and_gradients(h, w, h, w, bias, bias)
        assert value == 0
        assert all((g == 0).all() for g in gradients)
    _, values, gradients = of_near_equal_heads()[0]
    assert all((z == 0).all() for z in (values, *gradients))


@pytest.mark.parametrize("block", [1, 7, 77, 100, None])
def test_logits_of_0_do_not_hide_the_padding(block):
    """q has one logit of log 2: KL = log((V + 1) / V) - log(2) / V."""
    hidden, weights = np.zeros((2, 3), "f4"), np.zeros((3, 77), "f4")
    bias = np.zeros(77, "f4")
    bias[70] = math.log(2)
    f = quick(lambda h, w, b: linear_kl_divergence(h, w, h, w, bias_q=b, block=block))
    found = f(hidden, weights, bias)
    np.testing.assert_allclose(found, math.log(78 / 77) - math.log(2) / 77, rtol=1e-6)


def test_padding_by_a_bias_of_minus_infinity_changes_nothing():
    x = heads(2, features=(8, 8), vocab=310, dtype="float32")
    short = [z if z.shape[-1] != 310 else z[..., :300] for z in x]
    for bias in x[4:]:
        bias[300:] = -INF
    value, gradients = value_and_gradients(*x)
    expected, wanted = value_and_gradients(*short)
    np.testing.assert_allclose(value, expected, rtol=5e-7)
    for found, true in zip(gradients, wanted, strict=True):
        if found.shape != true.shape:
            assert (found[..., 300:] == 0).all()
            found = found[..., :300]
        np.testing.assert_allclose(found, true, rtol=0, atol=1e-6 * np.abs(true).max())


def test_boundary():
    *x, bias_p, bias_q = heads(3, dtype="float32")
    f = quick(jax.value_and_grad(lambda *x: fused(*x, block=16).sum(), ALL))
    bias_q[5] = -INF  # q = 0 < p
    value, gradients = f(*x, bias_p, bias_q)
    assert value == INF
    assert all(np.isfinite(g).all() for g in gradients)
    bias_p[5] = -INF  # no outcome at all
    value, gradients = f(*x, bias_p, bias_q)
    assert np.isfinite(value)
    assert gradients[4][5] == gradients[5][5] == 0
    bias_q[5] = 1.0  # p = 0 < q
    assert np.isfinite(f(*x, bias_p, bias_q)[0])
    bias_p[:] = -INF  # p has no outcome
    value, gradients = f(*x, bias_p, bias_q)
    assert value == 0
    assert all((g == 0).all() for g in gradients)


@pytest.mark.slow
def test_every_derivative_against_the_textbook_in_float64():
    keywords = {"temperature": 1.7, "softcap_p": 5.0, "softcap_q": 3.0}
    rng = np.random.default_rng(4)
    x = heads(4)
    t = tuple(rng.normal(size=z.shape) for z in x)

    def derivatives(fun, **keywords):
        def loss(*x):
            return jnp.sum(fun(*x, **keywords) * jnp.arange(1.0, 6.0))

        grad = jax.grad(loss, ALL)

        def product(*x):
            return sum(jnp.vdot(u, v) for u, v in zip(grad(*x), t, strict=True))

        def all_of_them(*x):
            forward = jax.jvp(lambda *x: fun(*x, **keywords), x, t)
            return forward, grad(*x), jax.jvp(grad, x, t)[1], jax.grad(product, ALL)(*x)

        return quick(all_of_them)(*x)

    with jax.enable_x64(True):
        found = jax.tree.leaves(derivatives(fused, block=32, **keywords))
        true = jax.tree.leaves(derivatives(textbook, **keywords))
        for a, b in zip(found, true, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * np.abs(b).max())


def test_vmap_and_the_derivative_in_the_temperature():
    with jax.enable_x64(True):
        x = heads(5)

        def each(fun):
            return jax.vmap(jax.value_and_grad(lambda t, h: jnp.mean(fun(t, h))), (0, None))

        @quick
        def both(temperatures, h):
            found = each(lambda t, h: fused(h, *x[1:], temperature=t, block=32))
            true = each(lambda t, h: textbook(h, *x[1:], temperature=t))
            return found(temperatures, h), true(temperatures, h)

        for a, b in zip(*both(np.array([0.5, 1.0, 3.0]), x[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)


def test_products_have_operands_of_the_arguments_dtype():
    """Logits in float32, and one product more for each argument that is differentiated."""
    x = tuple(jax.ShapeDtypeStruct(z.shape, jnp.bfloat16) for z in heads(6)[:4])
    for argnums in ((2, 3), (3,), (0, 1, 2, 3)):
        grad = jax.grad(mean(linear_kl_divergence), argnums)
        text = jax.jit(grad).lower(*x).as_text()
        dots = re.findall(r"dot_general .* : (.*)", text)
        # Sums, of float32, are products with a vector.
        dots = [dot for dot in dots if not re.search(r"tensor<\d+xf32>\)", dot)]
        assert all(dot.count("xbf16>,") == dot.count("xbf16>)") == 1 for dot in dots)
        results = [dot.split("->")[1].strip() for dot in dots]
        assert set(results) >= {"tensor<5x77xf32>"}
        assert sum(result.endswith("xbf16>") for result in results) == len(argnums)
        assert all(g.dtype == jnp.bfloat16 for g in jax.eval_shape(grad, *x))


_textbook = quick(jax.value_and_grad(mean(functools.partial(textbook, **OPTIONS)), ALL))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    """Arguments of 8 or 11 bits, and everything else in float32."""
    x = heads(7, features=(8, 8), vocab=300, dtype="float32")
    x = tuple(z.astype(jnp.dtype(dtype)) for z in x)
    value, found = value_and_gradients(*x)
    true, wanted = _textbook(*(z.astype("float32") for z in x))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, true, rtol=1e-5)
    for g, h in zip(found, wanted, strict=True):
        assert g.dtype == dtype
        # One rounding of the slopes and one of the result.
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(g.astype("f4"), h, atol=2 * eps * np.abs(h).max())


def test_shapes_of_rows():
    h_p, w_p, h_q, w_q, *_ = heads(8, rows=6, dtype="float32")

    @quick
    def in_rows_and_in_a_grid(h_p, h_q):
        grid = (h.reshape(2, 3, -1) for h in (h_p, h_q))
        pairs = ((h_p, h_q), grid)
        return [linear_kl_divergence(p, w_p, q, w_q) for p, q in pairs]

    rows, grid = in_rows_and_in_a_grid(h_p, h_q)
    np.testing.assert_array_equal(grid, rows.reshape(2, 3))
    for shape, expected in (((8,), ()), ((0, 8), (0,)), ((2, 0, 8), (2, 0))):
        p, q = (np.zeros((*shape[:-1], n), "f4") for n in (8, 6))
        found = jax.eval_shape(linear_kl_divergence, p, w_p, q, w_q)
        assert found.shape == expected


def test_memory_does_not_grow_with_the_vocabulary():
    """16 MiB at most, where the logits of one side alone take 64."""
    shapes = [(512, 256), (256, 32768)] * 2
    x = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    f = jax.value_and_grad(mean(linear_kl_divergence), (2, 3))
    assert temporary_memory(f, *x) <= 16 * 2**20
