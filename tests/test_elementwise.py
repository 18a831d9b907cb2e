"""Values and derivatives of every order against mpmath; the edges; SciPy's conventions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import compiled, quick

from kl_jax import (
    elementwise,
    generalized_kl,
    jensen_shannon_divergence,
    logits_from_probs,
    rel_entr,
)

INF, NAN = np.inf, np.nan

# The bounds that the docstrings state, in ULP. benchmarks/accuracy.py sees 2.6 and 2.9 on
# more points; 4 million pairs of ratios from 1/10 to 10, once, 3.1 and 4.0.
BOUND = {"rel_entr": 4.0, "generalized_kl": 4.5, "log_ratio": 3.0, "itakura_saito": 5.0}


def ratios(dtype, n, seed=0):
    """Pairs (p, q) that agree to 0 ... all digits, differ by little, much, enormously."""
    rng = np.random.default_rng(seed)
    digits = 7 if dtype == "float32" else 15
    for k in range(digits + 1):  # relative difference 10^-k
        p = np.exp(rng.uniform(-12, 2, n)).astype(dtype)
        q = (p * (1 + rng.uniform(-1, 1, n) * 10.0**-k)).astype(dtype)
        yield f"1e-{k}", p, q
    for low, high in ((0.1, 0.3), (0.24, 0.26), (0.3, 0.6), (1.7, 3.2), (3.9, 4.1)):
        p = rng.uniform(1, 2, n).astype(dtype)
        yield f"ratio {low}", p, (p * rng.uniform(low, high, n)).astype(dtype)
    p = rng.uniform(0, 1, n).astype(dtype)
    yield "one ulp", p, np.nextafter(p, np.asarray(1, dtype))
    info = np.finfo(dtype)
    low = np.log(float(info.smallest_normal)) + 2
    high = np.log(float(info.max)) - 2
    p, q = np.exp(rng.uniform(low, high, (2, n))).astype(dtype)
    yield "any magnitude", p, q
    near = info.smallest_normal * rng.uniform(1, 40, (2, n)).astype(dtype)
    yield "smallest normal", *near
    large = info.max * rng.uniform(0.02, 1, (2, n)).astype(dtype)
    yield "largest", *large


@pytest.mark.parametrize("name", ["rel_entr", "generalized_kl", "log_ratio"])
def test_error_in_ulp(name, dtype):
    function = compiled(getattr(elementwise, name))
    oracle = getattr(oracles, name)
    for kind, p, q in ratios(dtype, 300):
        assert ((p > 0) & (q > 0)).all()
        found = function(p, q)
        assert found.dtype == dtype
        truth = [oracle(a, b) for a, b in zip(p, q, strict=True)]
        error = oracles.worst(found, truth, dtype)
        assert error <= BOUND[name], f"{kind}: {error}"
        for value, true in zip(found, truth, strict=True):
            tiny = float(np.finfo(dtype).smallest_normal)
            if abs(true) < tiny:  # flushed to 0 or not: nothing more is promised
                assert abs(value) <= tiny


# Where nothing cancels in float64, NumPy's is exact to a float32: so many points find the
# worst ones, of which mpmath's few hundred are some way off.
PAIRS = {
    "_rel_entr": (lambda p, q: p * np.log(p / q), BOUND["rel_entr"]),
    "generalized_kl_term": (
        lambda p, q: p * np.log(p / q) - p + q,
        BOUND["generalized_kl"],
    ),
    "log_ratio": (lambda p, q: np.log(p / q), 2.5),  # 3 next to the smallest numbers
    "itakura_saito": (lambda p, q: p / q - 1 - np.log(p / q), BOUND["itakura_saito"]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_error_in_ulp_of_many_pairs(name):
    theirs, bound = PAIRS[name]
    rng = np.random.default_rng(3)
    p = rng.uniform(1, 2, 400_000).astype("f4")
    ratios = rng.uniform([[0.24], [1.7]], [[0.6], [4.1]], (2, len(p) // 2))
    q = (p * ratios.ravel()).astype("f4")
    oracles.assert_near(
        compiled(getattr(elementwise, name))(p, q), theirs(*np.float64([p, q])), bound
    )


@pytest.mark.parametrize("function", [rel_entr, generalized_kl])
def test_one_operation_at_a_time_agrees_within_the_bound(function):
    # XLA may fold in a program what it executes alone; error-free sums must survive it.
    for _, p, q in ratios("float32", 200, seed=5):
        with jax.disable_jit():
            alone = np.asarray(function(p, q))
        together = np.asarray(function(p, q))
        finite = np.isfinite(alone)
        np.testing.assert_array_equal(alone[~finite], together[~finite])
        alone, together = alone[finite], together[finite]
        step = np.spacing(np.abs(alone) + np.finfo("float32").tiny)
        assert (np.abs(alone - together) <= 2 * 4.5 * step).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-22, 30), st.integers(0, 7))
def test_generalized_kl_is_never_negative_and_0_only_at_equality(seed, scale, digits):
    rng = np.random.default_rng(seed)
    p = (rng.uniform(1, 10, 256) * 10.0**scale).astype(np.float32)
    q = (p * (1 + rng.uniform(-1, 1, 256) * 10.0**-digits)).astype(np.float32)
    value = np.asarray(generalized_kl(p, q))
    assert (value >= 0).all()
    # The smallest non-zero term is p 2^-48 / 2: above the smallest normal number here.
    np.testing.assert_array_equal(value == 0, p == q)
    np.testing.assert_array_equal(generalized_kl(p, p), 0)
    np.testing.assert_array_equal(rel_entr(p, p), 0)


def test_extreme_pairs(dtype):
    info = np.finfo(dtype)
    tiny, big = float(info.smallest_normal), float(info.max)
    pairs = itertools.product((tiny, 2.9 * tiny, 1.0, big / 3.4, big), repeat=2)
    pairs = np.array(list(pairs)).astype(dtype)
    for function, oracle in (
        (rel_entr, oracles.rel_entr),
        (generalized_kl, oracles.generalized_kl),
    ):
        for found, (p, q) in zip(np.asarray(function(*pairs.T)), pairs, strict=True):
            true = oracle(p, q)
            if abs(true) > mp.mpf(big) * (1 + mp.mpf(float(info.eps))):
                assert found == np.sign(float(mp.sign(true))) * INF
            elif abs(true) >= tiny:
                assert oracles.ulps(found, true, dtype) <= 4.5, (p, q)


EDGES = (0.0, -0.0, 1.0, 1e38, -1.0, INF, -INF, NAN)


def test_edges_are_scipys(dtype):
    p, q = (a.ravel().astype(dtype) for a in np.meshgrid(EDGES, EDGES))
    with np.errstate(all="ignore"):
        expected = scipy.special.rel_entr(p, q)
        generalized = scipy.special.kl_div(p, q)
    np.testing.assert_allclose(rel_entr(p, q), expected, rtol=1e-6)
    # SciPy's inf - inf, where just one of the two is inf: the limit is inf.
    one = ((p == INF) & (q > 0) & (q < INF)) | ((q == INF) & (p > 0) & (p < INF))
    assert np.isnan(generalized[one]).any()
    generalized[one] = INF
    np.testing.assert_allclose(generalized_kl(p, q), generalized, rtol=1e-6)


@functools.cache
def orders(function):
    second = jax.hessian(function, (0, 1))
    every = (jax.grad(function, (0, 1)), second, jax.jacfwd(second, (0, 1)))
    return quick(jax.vmap(lambda p, q: tuple(f(p, q) for f in every)))


def derivatives(function, p, q):
    """First, second and third derivatives of a function of two scalars, over arrays."""
    found = orders(function)(np.resize(p, 50), np.resize(q, 50))
    return jax.tree.map(lambda x: x[: len(p)], found)


def test_derivatives_at_the_edges(dtype):
    """p, q, and the slopes of rel_entr and of generalized_kl in each; for infinite ones the
    largest number, which a mask can multiply by 0.
    """
    most = float(np.finfo(dtype).max)
    table = (
        (0.0, 0.5, (0.0, 0.0), (0.0, 1.0)),
        (-0.0, 0.5, (0.0, 0.0), (0.0, 1.0)),
        (0.0, 0.0, (0.0, 0.0), (0.0, 0.0)),
        (0.5, 0.0, (most, -most), (most, -most)),
        (0.5, 0.5, (1.0, -1.0), (0.0, 0.0)),
        (0.5, 0.25, (np.log(2) + 1, -2.0), (np.log(2), -1.0)),
    )
    p, q = (np.array([row[i] for row in table], dtype) for i in (0, 1))
    for function, column in ((rel_entr, 2), (generalized_kl, 3)):
        expected = np.array([row[column] for row in table])
        first, second, third = derivatives(function, p, q)
        np.testing.assert_allclose(np.stack(first, 1), expected, rtol=1e-6)
        for leaf in jax.tree.leaves((second, third)):
            assert np.isfinite(leaf).all()
        # The mixed derivative is -1/q at p = 0 too, in either order.
        np.testing.assert_array_equal(second[0][1][0], second[1][0][0])
        np.testing.assert_array_equal(second[0][1][0], -2)


def test_first_derivatives_near_equality(dtype):
    """Slopes of generalized_kl keep their digits, where log p - log q would lose them."""
    eps = float(np.finfo(dtype).eps)
    slopes = compiled(jax.vmap(jax.grad(generalized_kl, (0, 1))))
    for _, p, q in ratios(dtype, 100, seed=2):
        keep = (p > 1e-20) & (q > 1e-20) & (p < 1e20) & (q < 1e20)
        found = [x[keep] for x in slopes(p, q)]
        p, q = p[keep], q[keep]
        for a, b, in_p, in_q in zip(p, q, *found, strict=True):
            with mp.workdps(oracles.DIGITS):
                exact = 1 - mp.mpf(float(a)) / mp.mpf(float(b))
            assert abs(float(in_q) - float(exact)) <= 2 * eps * abs(float(exact))
            assert oracles.ulps(in_p, oracles.log_ratio(a, b), dtype) <= 3


@pytest.mark.parametrize("function", [rel_entr, generalized_kl])
def test_second_and_third_derivatives(function, dtype):
    rng = np.random.default_rng(4)
    p, q = np.exp(rng.uniform(-5, 5, (2, 50))).astype(dtype)
    _, ((pp, pq), (qp, qq)), third = derivatives(function, p, q)
    close = {"rtol": 4 * float(np.finfo(dtype).eps)}
    np.testing.assert_allclose(pp, 1 / p, **close)
    np.testing.assert_allclose(pq, -1 / q, **close)
    np.testing.assert_allclose(qp, -1 / q, **close)
    np.testing.assert_allclose(qq, p / q**2, **close)
    expected = {"ppp": -1 / p**2, "ppq": 0 * p, "pqq": 1 / q**2, "qqq": -2 * p / q**3}
    for i, j, k in np.ndindex(2, 2, 2):
        which = "".join(sorted("pq"[n] for n in (i, j, k)))
        np.testing.assert_allclose(third[i][j][k], expected[which], **close)


@pytest.mark.parametrize("function", [rel_entr, generalized_kl])
def test_second_derivatives_at_extreme_magnitudes(function):
    # JAX's own quotient rule would divide by q^2: 0 at 1e-25, inf at 1e25.
    p = np.array([1e-20, 0.0, 1e38, 1e-25, 3e-37], "f4")
    q = np.array([1e-20, 1e-25, 1e25, 1e-25, 2e-37], "f4")
    _, ((_, pq), (qp, qq)), _ = derivatives(function, p, q)
    close = {"rtol": 1e-6}
    np.testing.assert_allclose(pq, -1 / q, **close)
    np.testing.assert_allclose(qp, -1 / q, **close)
    np.testing.assert_allclose(qq, p / q / q, **close)


def test_gradient_of_neighbours_next_to_the_smallest_normal():
    p = np.finfo("float32").smallest_normal
    q = np.nextafter(p, np.float32(1))
    slope = compiled(jax.grad(generalized_kl, 1))(p, q)
    np.testing.assert_allclose(slope, 1 - float(p) / float(q), rtol=1e-6)


def test_forward_reverse_and_vmap_agree(dtype):
    rng = np.random.default_rng(6)
    p, q, dp, dq = rng.uniform(0.1, 1, (4, 7)).astype(dtype)
    for function in (rel_entr, generalized_kl):

        @quick
        def every(p, q, dp, dq, function=function):
            total = lambda p, q: function(p, q).sum()
            push = lambda p, q: jax.jvp(total, (p, q), (dp, dq))[1]
            return {
                "forward": jax.jvp(function, (p, q), (dp, dq))[1],
                "pullback": jax.vmap(jax.grad(function, (0, 1)))(p, q),
                "over": jax.jvp(jax.grad(total, (0, 1)), (p, q), (dp, dq))[1],
                "under": jax.grad(push, (0, 1))(p, q),
            }

        found = every(p, q, dp, dq)
        in_p, in_q = found["pullback"]
        np.testing.assert_allclose(found["forward"], in_p * dp + in_q * dq, rtol=1e-5)
        np.testing.assert_allclose(found["over"], found["under"], rtol=1e-5)


def test_constant_argument_of_infinite_slope_takes_no_part():
    p, q, one = np.array([[0.5, 0.5], [0.0, 0.5], [1.0, 1.0]], "f4")
    push = quick(lambda p, q, t: jax.jvp(lambda q: rel_entr(p, q), (q,), (t,))[1])
    tangent = push(p, q, one)
    np.testing.assert_array_equal(tangent, [-np.finfo("f4").max, -1])


@pytest.mark.parametrize("function", [rel_entr, generalized_kl])
def test_through_a_softmax_that_underflows(function):
    """p = 0 by underflow: gradients finite, and those of the exact computation."""
    a = np.array([0.0, -200.0, 1.0, -104.0])
    b = np.array([0.5, 3.0, -1.0, -90.0])
    total = lambda a, b: function(jax.nn.softmax(a), jax.nn.softmax(b)).sum()

    @quick
    def both(a, b):
        return jax.grad(total, (0, 1))(a, b), jax.hessian(total, (0, 1))(a, b)

    found, hessian = both(a.astype("float32"), b.astype("float32"))
    expected = oracles.kl_gradients(a, b)
    for f, e in zip(found, expected, strict=True):
        e = np.array([float(x) for x in e])
        np.testing.assert_allclose(f, e, atol=1e-6 * np.abs(e).max())
    assert all(np.isfinite(block).all() for row in hessian for block in row)


def test_terms_from_logarithms(dtype):
    """Within 3 ULP of the larger product for (p, log q), and of the term for two logs."""
    rng = np.random.default_rng(9)
    p = np.exp(rng.uniform(-20, 3, 500)).astype(dtype)
    noise = rng.uniform(-1, 1, 500) * 10.0 ** rng.integers(-7, 1, 500)
    log_q = (np.log(p.astype(float)) * (1 + noise)).astype(dtype)
    found = compiled(elementwise.rel_entr_of_log_q)(p, log_q)
    log_p = np.log(p)
    logs = compiled(elementwise.rel_entr_of_logs)(log_p, log_q)
    for i in range(500):
        with mp.workdps(oracles.DIGITS):
            x, y = mp.mpf(float(p[i])), mp.mpf(float(log_q[i]))
            products = x * mp.log(x), x * y
            unit = max(oracles.spacing(abs(t), dtype) for t in products)
            assert abs(mp.mpf(float(found[i])) - (products[0] - products[1])) <= 3 * unit
            s = mp.mpf(float(log_p[i]))
            assert oracles.ulps(logs[i], mp.exp(s) * (s - y), dtype) <= 3


def test_logit(dtype):
    """On both sides of 1/2: below it 1 - p is rounded."""
    rng = np.random.default_rng(17)
    p = np.concatenate(
        [
            rng.uniform(0, 1, 200),
            0.5 + rng.uniform(-1, 1, 200) * 10.0 ** -rng.integers(1, 8, 200),
            10.0 ** -rng.uniform(1, 30, 20),
            1 - 2.0 ** -np.arange(2.0, 25),
        ]
    ).astype(dtype)
    found = quick(elementwise.logit)(p)
    with mp.workdps(oracles.DIGITS):
        truth = [mp.log(x / (1 - x)) for x in map(mp.mpf, p.tolist())]
    assert oracles.worst(found, truth, dtype) <= BOUND["log_ratio"]
    edges = np.array([0, 1, 0.5, -0.5, 1.5, NAN], dtype)
    expected = [-INF, INF, 0, NAN, NAN, NAN]
    np.testing.assert_array_equal(quick(elementwise.logit)(edges), expected)


# --- Bregman divergences ---------------------------------------------------------


def test_itakura_saito(dtype):
    both = compiled(jax.vmap(jax.value_and_grad(elementwise.itakura_saito, (0, 1))))
    eps = float(np.finfo(dtype).eps)
    for kind, p, q in ratios(dtype, 200, seed=11):
        keep = (p > 1e-9) & (q > 1e-9) & (p < 1e9) & (q < 1e9)
        found = both(p, q)
        value, (in_p, in_q) = jax.tree.map(lambda x, keep=keep: x[keep], found)
        p, q = p[keep], q[keep]
        truth = [oracles.itakura_saito(a, b) for a, b in zip(p, q, strict=True)]
        assert oracles.worst(value, truth, dtype) <= BOUND["itakura_saito"], kind
        assert (np.asarray(value) >= 0).all()
        np.testing.assert_array_equal(np.asarray(value) == 0, p == q)
        wide_p, wide_q = (x.astype(np.longdouble) for x in (p, q))
        close = {"rtol": 5 * eps}
        np.testing.assert_allclose(in_p, (wide_p - wide_q) / wide_p / wide_q, **close)
        np.testing.assert_allclose(in_q, (wide_q - wide_p) / wide_q**2, **close)


@pytest.mark.parametrize("name", ["generalized_kl_term", "itakura_saito", "log_ratio"])
def test_a_difference_that_p_and_q_have_lost(name, dtype):
    """Of 1 - p and 1 - q for p, q = 1e-12 ... 0.1: all digits, as if these were exact."""
    rng = np.random.default_rng(13)
    p = np.exp(rng.uniform(np.log(1e-12), np.log(0.1), 300)).astype(dtype)
    q = (p * (1 + rng.uniform(-1, 1, 300) * 10.0 ** -rng.integers(0, 4, 300))).astype(dtype)
    function = getattr(elementwise, name)
    found = compiled(lambda p, q: function(1 - p, 1 - q, q - p))(p, q)
    with mp.workdps(oracles.DIGITS):
        pairs = [
            (1 - mp.mpf(float(a)), 1 - mp.mpf(float(b))) for a, b in zip(p, q, strict=True)
        ]
        truth = {
            "generalized_kl_term": [x * mp.log(x / y) - x + y for x, y in pairs],
            "itakura_saito": [x / y - 1 - mp.log(x / y) for x, y in pairs],
            "log_ratio": [mp.log(x / y) for x, y in pairs],
        }[name]
        assert oracles.worst(found, truth, dtype) <= 4.0


def test_equal_subnormal_numbers_are_equal(dtype):
    x = np.finfo(dtype).smallest_normal * np.array([0.9, 1e-3], dtype)
    np.testing.assert_array_equal(quick(generalized_kl)(x, x), 0)


def test_logits_of_probabilities(dtype):
    """log p with slopes 1 / p and -1 / p^2; at 0 none, so that divergences of rows with
    empty bins are differentiable in probabilities.
    """
    p = np.array([0.5, 1.0, 1e-15, 3e5, 0.0, INF, -1.0, NAN], dtype)
    orders = [logits_from_probs, jax.grad(logits_from_probs)]
    orders.append(jax.grad(orders[1]))
    found = quick(jax.vmap(lambda p: jnp.stack([f(p) for f in orders])))(p)
    some = np.float64(p[:4])
    true = np.stack([np.log(some), 1 / some, -1 / some**2], 1)
    np.testing.assert_allclose(found[:4], true, rtol=1e-6)
    np.testing.assert_array_equal(found[4:, 0], [-INF, INF, NAN, NAN])
    np.testing.assert_array_equal(found[4:7, 1:], 0)

    def of_probs(p, q):
        return jensen_shannon_divergence(logits_from_probs(p), logits_from_probs(q))

    x, y = np.array([[0.0, 0.4, 0.6], [0.0, 0.7, 0.3]], dtype)
    value, gradients = quick(jax.value_and_grad(of_probs, (0, 1)))(x, y)
    m = (x + y)[1:] / 2
    expected = [np.log(z[1:] / m) / 2 for z in (x, y)]
    terms = [z[1:] @ e for z, e in zip((x, y), expected, strict=True)]
    np.testing.assert_allclose(value, sum(terms), rtol=1e-5)
    for gradient, e, term in zip(gradients, expected, terms, strict=True):
        np.testing.assert_allclose(gradient, [0, *(e - term)], rtol=1e-5)


def test_half_precision_is_computed_in_float32():
    p = np.array([0.3, 0.0, 0.7]).astype(jnp.bfloat16)
    q = np.array([0.2, 0.5, 0.7]).astype(jnp.bfloat16)
    for function in (rel_entr, generalized_kl):
        value = function(p, q)
        assert value.dtype == jnp.float32
        wide = function(p.astype("float32"), q.astype("float32"))
        np.testing.assert_array_equal(value, wide)
        total = lambda p, q, f=function: f(p, q).sum()
        assert jax.eval_shape(jax.grad(total), p, q).dtype == jnp.bfloat16
