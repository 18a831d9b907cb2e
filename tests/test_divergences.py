"""KL along an axis: values, boundary, derivatives; from probabilities; the transforms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
import scipy.stats

from kl_jax import (
    jeffreys_divergence,
    jensen_shannon_divergence,
    kl_divergence,
    kl_divergence_from_probs,
    masked,
    mean,
    rel_entr,
    renyi_divergence,
    reverse,
    reverse_kl_divergence,
    skew_kl_divergence,
    tempered,
)

INF, NAN = np.inf, np.nan


def batches(dtype, seed=0):
    """(a, b): rows of one length, near-equal to far apart, flat, normal and peaked."""
    rng = np.random.default_rng(seed)
    digits = 7 if dtype == "float32" else 14
    for size in (2, 3, 7, 33, 257):
        scale = np.repeat([0.01, 1.0, 20.0], 5)[:, None]
        noise = 10.0 ** -np.tile([0.0, 1, 3, 5, digits], 3)[:, None]
        a = rng.normal(size=(15, size)) * scale
        b = a + rng.normal(size=(15, size)) * noise
        a[::4] += 1000.0  # one side far off
        yield a.astype(dtype), b.astype(dtype)


# benchmarks/accuracy.py sees at most 7.3 ULP. Below the floor float32 terms underflow,
# and the 140 digits that the oracle has of each term end.
BOUND = 8.0
FLOOR = {"float32": 2.0**-90, "float64": 2.0**-400}

value_and_gradients = jax.jit(jax.vmap(jax.value_and_grad(kl_divergence, (0, 1))))


def test_error_in_ulp(dtype):
    for a, b in batches(dtype):
        found = np.asarray(jax.jit(kl_divergence)(a, b))
        assert (found >= 0).all()
        for value, x, y in zip(found, a, b, strict=True):
            true = oracles.kl(x, y)
            if true > FLOOR[dtype]:
                assert oracles.ulps(value, true, dtype) <= BOUND, (x, y)
            else:
                assert value <= 2 * FLOOR[dtype]


def test_one_operation_at_a_time_agrees_within_the_bound():
    # XLA may fold in a program what it executes alone; error-free sums must survive it.
    a, b = list(batches("float32"))[3]
    with jax.disable_jit():
        alone = np.asarray(kl_divergence(a, b))
    together = np.asarray(kl_divergence(a, b))
    assert (np.abs(alone - together) <= 2 * BOUND * np.spacing(alone + 2**-90)).all()


def test_equal_logits_give_exactly_0(dtype):
    for a, _ in list(batches(dtype))[::2]:
        value, gradients = value_and_gradients(a, a)
        np.testing.assert_array_equal(value, 0)
        np.testing.assert_array_equal(gradients, 0)


def assert_gradients(a, b, dtype, bound=8):
    """Within 8 eps, 1e-6 in float32, of the largest component. Worst seen 4.2 eps."""
    eps = float(np.finfo(dtype).eps)
    _, found = value_and_gradients(a, b)
    for row in range(len(a)):
        expected = oracles.kl_gradients(a[row], b[row])
        for f, e in zip(found, expected, strict=True):
            e = np.array([float(x) for x in e])
            largest = np.abs(e).max()
            underflow = 0 if largest > 1e-30 else 1e-30
            assert np.abs(np.asarray(f[row]) - e).max() <= bound * eps * largest + underflow


def test_first_derivatives(dtype):
    for a, b in batches(dtype, seed=1):
        assert_gradients(a, b, dtype)


def test_first_derivatives_of_a_mask_on_one_side(dtype):
    """A large KL: d - KL has no digits left, q - p has all."""
    for low in (-100.0, -1e4, -1e9, np.finfo("f4").min):
        a, b = np.array([[0.0, 1.0, 2.0, -1.0], [0.5, 1.0, 1.5, low]], dtype)
        found = jax.grad(kl_divergence, 1)(a, b)
        p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (a, b))
        np.testing.assert_allclose(found, q - p, atol=1e-6)


def test_first_derivatives_of_a_peaked_p(dtype):
    """The slopes are p times tiny differences; at the mode, minus the sum of the rest.

    log(q / p) = -40 at an outcome that holds the KL leaves 20 eps in log(q / p) at the
    mode, which is the small difference of two numbers of the size of the KL.
    """
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(2, 40, 4)) * 15
    a, b = (np.concatenate([x, x + 1000.0]).astype(dtype) for x in (a, b))
    assert_gradients(a, b, dtype, 32)


def test_large_divergences(dtype):
    for gap in (20.0, 31.0, 100.0, 1000.0):
        a = np.array([gap, 0.0, -gap, 1.0], dtype)
        for b in (a[::-1].copy(), np.zeros(4, dtype)):
            found = kl_divergence(a, b)
            assert oracles.ulps(found, oracles.kl(a, b), dtype) <= 4, (gap, b)
    for gap in (1e6, 1e30):  # p is one outcome, to which q gives e^-gap
        a, b = np.array([[gap, 0.0], [0.0, gap]], dtype)
        assert kl_divergence(a, b) == a[0]


# logits_p, logits_q, value, gradient in logits_p, gradient in logits_q
_S = 1 / (1 + np.e)
BOUNDARY = {
    "shared -inf": ([0, 1, -INF], [0, 1, -INF], 0, [0, 0, 0], [0, 0, 0]),
    "p = 0 < q": (
        [0, 0, -INF],
        [0, 0, 0],
        np.log(1.5),
        [0, 0, 0],
        [-1 / 6, -1 / 6, 1 / 3],
    ),
    "q = 0 < p": ([0, 0, 0], [0, 0, -INF], INF, [0, 0, 0], [1 / 6, 1 / 6, -1 / 3]),
    "disjoint": ([0, -INF], [-INF, 0], INF, [0, 0], [-1, 1]),
    "p has no outcome": ([-INF] * 2, [0, 1], 0, [0, 0], [0, 0]),
    "q has no outcome": ([0, 1], [-INF] * 2, INF, [0, 0], [-_S, _S - 1]),
    "neither has one": ([-INF] * 2, [-INF] * 2, 0, [0, 0], [0, 0]),
    "+inf is a point mass": ([INF, 0], [0, 0], np.log(2), [0, 0], [-0.5, 0.5]),
    "+inf on both": ([INF, 0], [INF, 5], 0, [0, 0], [0, 0]),
    "+inf apart": ([INF, 0], [0, INF], INF, [0, 0], [-1, 1]),
    "two +inf": ([INF, 0, 0], [INF, INF, 0], np.log(2), [0] * 3, [-0.5, 0.5, 0]),
    "one outcome": ([3], [-7], 0, [0], [0]),
    "finfo.min mask": (
        [0, 0, np.finfo("f4").min],
        [0, 0, np.finfo("f4").min],
        0,
        [0] * 3,
        [0] * 3,
    ),
    "offset 1e30": ([1e30, 1e30], [0, 0], 0, [0, 0], [0, 0]),
    "huge spread": ([1000, -1000], [-1000, 1000], 2000, [0, 0], [-1, 1]),
    "nan in p": ([NAN, 0], [0, 0], NAN, [NAN] * 2, [NAN] * 2),
    "nan in q": ([0, 0], [NAN, 0], NAN, [NAN] * 2, [NAN] * 2),
}


@jax.jit
def value_and_derivatives(a, b):
    return (
        *jax.value_and_grad(kl_divergence, (0, 1))(a, b),
        jax.jvp(kl_divergence, (a, b), (jnp.ones_like(a), jnp.zeros_like(b)))[1],
        jax.hessian(kl_divergence, (0, 1))(a, b),
    )


@pytest.mark.parametrize("case", BOUNDARY)
def test_boundary(case, dtype):
    a, b, value, in_p, in_q = (np.asarray(x, dtype) for x in BOUNDARY[case])
    found, gradients, pushed, hessian = value_and_derivatives(a, b)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    np.testing.assert_allclose(gradients[0], in_p, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(gradients[1], in_q, rtol=1e-6, atol=1e-7)
    assert np.isnan(pushed) == np.isnan(value)
    finite = not np.isnan(value)
    assert all(np.isfinite(h).all() == finite for row in hessian for h in row)


def test_differences_that_overflow_float32():
    cases = (
        ([3e38, -3e38], [-3e38, 3e38], INF, [[0, 0], [-1, 1]]),  # 6e38 is the truth
        ([0, -200], [3e38, -3e38], 0, [[0, 0], [0, 0]]),  # e^-200 6e38 is
    )
    for a, b, value, expected in cases:
        a, b = np.float32(a), np.float32(b)
        found, gradients, pushed, hessian = value_and_derivatives(a, b)
        assert found == value
        np.testing.assert_array_equal(gradients, expected)
        assert pushed == 0
        assert np.isfinite(jax.tree.leaves(hessian)).all()


def test_nan_stays_in_its_row():
    a = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    b = a + 1e-2 * np.arange(5, dtype=np.float32)
    clean = kl_divergence(a, b)
    a[1, 2] = NAN
    found = kl_divergence(a, b)
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])
    np.testing.assert_array_equal(found[np.array([0, 2])], clean[np.array([0, 2])])


def test_where_selects_the_support():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 4, 6)).astype(np.float32)
    keep = np.array([True, True, False, True, False, True])
    a[:, 2], b[:, 2] = NAN, INF
    a[:, 4], b[:, 4] = INF, NAN
    loss = lambda a, b: kl_divergence(a, b, where=keep[None]).sum()
    found, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(a, b)
    kept = a[:, keep], b[:, keep]
    np.testing.assert_allclose(found, kl_divergence(*kept).sum(), rtol=1e-6)
    expected = jax.grad(lambda a, b: kl_divergence(a, b).sum(), (0, 1))(*kept)
    for g, e in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(g[:, keep], e, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(g[:, ~keep], 0)
    full = np.broadcast_to(keep, a.shape).copy()
    full[1] = False
    found = kl_divergence(a, b, where=full)
    assert found[1] == 0  # no outcome at all
    gradient = jax.grad(lambda b: kl_divergence(a, b, where=full).sum())(b)
    np.testing.assert_array_equal(gradient[1], 0)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3, (0, 2), (1, -1), (0, 1, 2), [1]])
@pytest.mark.parametrize("function", [kl_divergence, kl_divergence_from_probs])
def test_axis(function, axis):
    rng = np.random.default_rng(4)
    a, b = rng.uniform(0.1, 1, (2, 3, 4, 5)).astype(np.float32)
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    order = [i for i in range(3) if i not in {x % 3 for x in axes}]
    flat = [
        np.moveaxis(x, order, range(len(order))).reshape(*(x.shape[i] for i in order), -1)
        for x in (a, b)
    ]
    found = function(a, b, axis=axis)
    np.testing.assert_allclose(found, function(*flat), rtol=1e-5)
    where = rng.uniform(size=(3, 1, 5)) < 0.7
    full = np.broadcast_to(where, a.shape)
    np.testing.assert_allclose(
        function(a, b, axis=axis, where=where),
        function(a, b, axis=axis, where=full),
        rtol=1e-6,
    )


def test_shapes_with_no_rows():
    a = jnp.zeros((0, 4))
    assert kl_divergence(a, a).shape == (0,)
    assert kl_divergence_from_probs(a, a).shape == (0,)
    assert kl_divergence(jnp.zeros((2, 0, 4)), jnp.zeros((2, 0, 4)), axis=0).shape == (
        0,
        4,
    )


def test_half_precision_is_computed_in_float32():
    rng = np.random.default_rng(5)
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in rng.normal(size=(2, 3, 1000)))
    value, gradients = jax.value_and_grad(lambda a, b: kl_divergence(a, b).sum(), (0, 1))(
        a, b
    )
    wide = kl_divergence(a.astype(jnp.float32), b.astype(jnp.float32))
    assert kl_divergence(a, b).dtype == jnp.float32
    np.testing.assert_array_equal(kl_divergence(a, b), wide)
    assert all(g.dtype == jnp.bfloat16 for g in gradients)
    assert kl_divergence(a.astype(jnp.float16), b).dtype == jnp.float32
    assert np.isfinite(value)


def test_second_derivatives_and_every_mode(dtype):
    rng = np.random.default_rng(6)
    a, b, u, v = rng.normal(size=(4, 5)).astype(dtype)
    p, q = (np.array([float(x) for x in oracles.softmax(y)]) for y in (a, b))
    d = (b - a).astype(float) - p @ (b - a).astype(float)
    # H_aa = p (1 - d) [i = j] + p p' (d + d' - 1), H_ab = p p' - p [i = j].
    aa = np.diag(p * (1 - d)) + np.outer(p, p) * (d[:, None] + d[None] - 1)
    ab = np.outer(p, p) - np.diag(p)
    bb = np.diag(q) - np.outer(q, q)
    g = -p * d, q - p

    gradient = jax.grad(kl_divergence, (0, 1))

    @jax.jit
    def every_mode(a, b, u, v):
        inner = lambda a, b: gradient(a, b)[0] @ u + gradient(a, b)[1] @ v
        _, linear = jax.linearize(kl_divergence, a, b)
        return {
            "hessian": jax.hessian(kl_divergence, (0, 1))(a, b),
            "gradient": gradient(a, b),
            "checkpoint": jax.grad(jax.checkpoint(kl_divergence), (0, 1))(a, b),
            "forward": jax.jvp(kl_divergence, (a, b), (u, v))[1],
            "linearize": linear(u, v),
            "forward over reverse": jax.jvp(gradient, (a, b), (u, v))[1],
            "reverse over reverse": jax.grad(inner, (0, 1))(a, b),
        }

    found = every_mode(a, b, u, v)
    product = (aa @ u + ab @ v, ab.T @ u + bb @ v)
    slope = g[0] @ u + g[1] @ v
    expected = {
        "hessian": ((aa, ab), (ab.T, bb)),
        "gradient": g,
        "checkpoint": g,
        "forward": slope,
        "linearize": slope,
        "forward over reverse": product,
        "reverse over reverse": product,
    }
    # Worst seen 2.2 eps, of entries of size 1.
    close = functools.partial(
        np.testing.assert_allclose, rtol=0, atol=5 * float(np.finfo(dtype).eps)
    )
    for mode, wanted in expected.items():
        jax.tree.map(functools.partial(close, err_msg=mode), found[mode], wanted)


def test_jit_and_vmap():
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
    expected = kl_divergence(a, b)
    np.testing.assert_allclose(jax.jit(kl_divergence)(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.vmap(kl_divergence))(a, b), expected, rtol=1e-6)
    outer = jax.vmap(functools.partial(kl_divergence, axis=0), in_axes=2, out_axes=1)
    np.testing.assert_allclose(outer(a, b), kl_divergence(a, b, axis=0), rtol=1e-6)


def test_fisher_vector_products(dtype):
    """jvp of grad: q (v - E_q[v]) in logits_q, also where q is nearly one outcome."""
    eps = float(np.finfo(dtype).eps)
    product = lambda a, b, v: jax.jvp(
        lambda b: jax.grad(kl_divergence, 1)(a, b), (b,), (v,)
    )
    product = jax.jit(jax.vmap(product))
    for a, b in list(batches(dtype, seed=2))[1:4]:
        v = np.random.default_rng(3).normal(size=a.shape).astype(dtype)
        _, found = product(a, b, v)
        for f, y, t in zip(np.asarray(found), b, v, strict=True):
            with mp.workdps(oracles.DIGITS):
                q = oracles.softmax(y)
                centre = mp.fsum(x * float(z) for x, z in zip(q, t, strict=True))
                true = [x * (float(z) - centre) for x, z in zip(q, t, strict=True)]
            true = np.array([float(x) for x in true])
            # Worst seen 2.8 eps; where all components underflow nothing is promised.
            assert np.abs(f - true).max() <= 8 * eps * np.abs(true).max() + 1e-37


def test_memory_of_value_and_gradient():
    """Nothing of the size of the logits, 8 MiB each here, beside the gradient itself."""
    logits = jax.ShapeDtypeStruct((64, 32768), jnp.float32)
    loss = lambda a, b: kl_divergence(a, b).mean()
    for function in (loss, jax.value_and_grad(loss, 1), jax.value_and_grad(loss, (0, 1))):
        memory = jax.jit(function).lower(logits, logits).compile().memory_analysis()
        assert memory.temp_size_in_bytes <= 4 * 2**20


def test_infinities_in_other_rows_change_nothing(dtype):
    """On CPUs a tile of rows with any takes a way of its own."""
    for a, b in list(batches(dtype, seed=11))[::2]:
        function = jax.jit(kl_divergence)
        expected = np.asarray(function(a, b))
        for row, low, high in ((0, -INF, 0), (3, 0, -INF), (-1, INF, 0), (2, 0, 800)):
            x, y = a.copy(), b.copy()
            x[row, 0], y[row, 0] = low, high
            found = np.asarray(function(x, y))
            rest = np.arange(len(a)) != row % len(a)
            unit = np.spacing(np.maximum(expected, FLOOR[dtype]).astype(dtype))[rest]
            assert (np.abs(found - expected)[rest] <= 2 * BOUND * unit).all()


def test_rows_that_are_no_whole_number_of_tiles(monkeypatch):
    from kl_jax import blocks

    a, b = list(batches("float32"))[3]
    expected = np.asarray(kl_divergence(a, b))
    for tile in (160, 33 * 14):
        monkeypatch.setattr(blocks, "_TILE", tile)
        found = np.asarray(jax.jit(lambda a, b: kl_divergence(a, b))(a, b))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-38)


# --- the other divergences --------------------------------------------------------

OTHERS = {
    "reverse_kl": (reverse_kl_divergence, None),
    "jeffreys": (jeffreys_divergence, None),
    "jensen_shannon": (jensen_shannon_divergence, 0.5),
    "jensen_shannon 0.1": (functools.partial(jensen_shannon_divergence, beta=0.1), 0.1),
    "skew_kl": (skew_kl_divergence, 0.1),
    "skew_kl 0.9": (functools.partial(skew_kl_divergence, skew=0.9), 0.9),
    "renyi 0.1": (functools.partial(renyi_divergence, order=0.1), 0.1),
    "renyi 0.5": (functools.partial(renyi_divergence, order=0.5), 0.5),
    "renyi 0.99": (functools.partial(renyi_divergence, order=0.99), 0.99),
    "renyi 2": (functools.partial(renyi_divergence, order=2), 2),
}


def oracle_of(name, parameter):
    return lambda a, b: oracles.divergence(name.split()[0], a, b, parameter)


@pytest.mark.parametrize("name", OTHERS)
def test_error_of_the_others_in_ulp(name, dtype):
    function, parameter = OTHERS[name]
    oracle, function = oracle_of(name, parameter), jax.jit(function)
    for a, b in list(batches(dtype, seed=4))[1:4:2]:
        found = np.asarray(function(a, b))
        np.testing.assert_array_equal(function(a, a), 0)
        assert (found >= 0).all()
        for value, x, y in zip(found, a, b, strict=True):
            true = oracle(x, y)
            if true > FLOOR[dtype]:
                assert oracles.ulps(value, true, dtype) <= BOUND, (x, y)


@pytest.mark.parametrize("name", OTHERS)
def test_gradients_of_the_others(name, dtype):
    """Within 16 eps of the largest component. Worst seen 9."""
    function, parameter = OTHERS[name]
    oracle, eps = oracle_of(name, parameter), float(np.finfo(dtype).eps)
    slopes = jax.jit(jax.vmap(jax.grad(function, (0, 1))))
    rng = np.random.default_rng(5)
    for noise in (1.0, 1e-2, 1e-5):
        a = (rng.normal(size=(3, 5)) * 3).astype(dtype)
        b = (a + rng.normal(size=a.shape) * noise + 10).astype(dtype)
        found = slopes(a, b)
        for i in range(len(a)):
            in_p = oracles.gradient(lambda x, y=b[i]: oracle(x, y), a[i])
            in_q = oracles.gradient(lambda y, x=a[i]: oracle(x, y), b[i])
            for f, true in zip(found, (in_p, in_q), strict=True):
                true = np.array([float(x) for x in true])
                assert np.abs(f[i] - true).max() <= 16 * eps * np.abs(true).max()


def test_second_derivatives_of_the_others():
    """Forward over reverse against differences of the gradient, in float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(6)
        a, b, u, v = rng.normal(size=(4, 5))
        for name in ("jeffreys", "jensen_shannon 0.1", "renyi 0.5", "renyi 2"):
            function, _ = OTHERS[name]
            gradient = jax.grad(function, (0, 1))
            both = jax.jit(lambda *x, g=gradient: jax.jvp(g, x, (u, v)))
            h = 1e-5
            (up, _), (down, _) = both(a + h * u, b + h * v), both(a - h * u, b - h * v)
            for f, x, y in zip(both(a, b)[1], up, down, strict=True):
                np.testing.assert_allclose(f, (x - y) / (2 * h), atol=1e-8, err_msg=name)


# Value where it is a number, or that it is finite. Gradients are finite wherever it is.
L2 = np.log(2)
EDGES = {
    "equal": ([0, 1, 2], [0, 1, 2], [0, 0, 0, 0, 0, 0]),
    "shared -inf": ([0, 1, -INF], [3, 4, -INF], [0, 0, 0, 0, 0, 0]),
    "p = 0 < q": ([0, -INF], [0, 0], [L2, INF, INF, None, None, L2]),
    "q = 0 < p": ([0, 0], [0, -INF], [INF, L2, INF, None, None, L2]),
    "disjoint": ([0, -INF], [-INF, 0], [INF, INF, INF, L2, -np.log(0.1), INF]),
    "p has no outcome": ([-INF] * 2, [0, 1], [0, INF, 0, 0, 0, 0]),
    "neither has one": ([-INF] * 2, [-INF] * 2, [0, 0, 0, 0, 0, 0]),
    "+inf alike": ([INF, 0], [INF, 5], [0, 0, 0, 0, 0, 0]),
    "+inf apart": ([INF, 0], [0, INF], [INF, INF, INF, L2, -np.log(0.1), INF]),
    "one outcome": ([3], [-7], [0, 0, 0, 0, 0, 0]),
    "offset 1e4": ([1e4, 1e4 + 1], [0, 1], [0, 0, 0, 0, 0, 0]),
    "offset 1e30": ([1e30, 1e30], [0, 0], [0, 0, 0, 0, 0, 0]),
    "finfo.min mask": ([0, np.finfo("f4").min], [0, np.finfo("f4").min], [0] * 6),
    "far apart": ([1e4, 0], [0, 1e4], [1e4, 1e4, 2e4, L2, -np.log(0.1), 1e4 - 2 * L2]),
    "nan in p": ([NAN, 0], [0, 0], [NAN] * 6),
    "nan in q": ([0, 0], [NAN, 0], [NAN] * 6),
}


def edges(dtype):
    """All cases as rows: what a case lacks in outcomes exists on neither side."""
    rows = np.full((2, len(EDGES), 3), -INF)
    for i, (a, b, _) in enumerate(EDGES.values()):
        rows[0, i, : len(a)], rows[1, i, : len(b)] = a, b
    return rows.astype(dtype)


@pytest.mark.parametrize(
    "function",
    [
        kl_divergence,
        reverse_kl_divergence,
        jeffreys_divergence,
        jensen_shannon_divergence,
        skew_kl_divergence,
        functools.partial(renyi_divergence, order=0.5),
    ],
    ids=["kl", "reverse_kl", "jeffreys", "jensen_shannon", "skew_kl", "renyi"],
)
def test_boundary_of_every_divergence(function, dtype, request):
    column = ("kl", "reverse_kl", "jeffreys", "jensen_shannon", "skew_kl", "renyi").index(
        request.node.callspec.id.split("-")[-1]
    )
    a, b = edges(dtype)
    found, gradients = jax.jit(jax.vmap(jax.value_and_grad(function, (0, 1))))(a, b)
    hidden = (np.concatenate([x, np.full((len(x), 1), NAN, dtype)], -1) for x in (a, b))
    keep = np.array([[True, True, True, False]])
    beside = function(*hidden, where=keep)
    for i, (case, (_, _, values)) in enumerate(EDGES.items()):
        value = values[column]
        if value is None:
            assert 0 < found[i] < INF, case
        else:
            np.testing.assert_allclose(found[i], value, rtol=1e-6, atol=0, err_msg=case)
        if np.isfinite(found[i]):
            assert all(np.isfinite(g[i]).all() for g in gradients), case
        np.testing.assert_allclose(beside[i], found[i], rtol=1e-6, err_msg=case)


def logits(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(40, 6)) * 3
    return a.astype(dtype), (a + rng.normal(size=(40, 6))).astype(dtype)


def test_limits_of_the_parameters():
    a, b = logits(7)
    kl, back = kl_divergence(a, b), kl_divergence(b, a)
    js, skew, renyi = (
        jensen_shannon_divergence,
        skew_kl_divergence,
        renyi_divergence,
    )
    close = functools.partial(np.testing.assert_allclose, rtol=3e-5)
    close(renyi(a, b, order=1 + 1e-6), kl)
    close(renyi(a, b, order=1 - 1e-6), kl)
    np.testing.assert_array_equal(renyi(a, b, order=1), kl)
    close(renyi(a, b, order=1e-6) / 1e-6, back)
    close(js(a, b, beta=1e-7) / 1e-7, kl)
    close(js(a, b, beta=1 - 1e-7) / 1e-7, back)
    for beta in (0, 1):
        np.testing.assert_array_equal(js(a, b, beta=beta), 0)
    close(skew(a, b, skew=1e-7), kl)
    np.testing.assert_array_equal(skew(a, b, skew=0), kl)
    np.testing.assert_array_equal(skew(a, b, skew=1), 0)
    np.testing.assert_allclose(jeffreys_divergence(a, b), kl + back, rtol=1e-6)
    np.testing.assert_array_equal(reverse_kl_divergence(a, b), back)
    np.testing.assert_allclose(js(a, b), js(b, a), rtol=1e-6)
    np.testing.assert_allclose(js(a, b, beta=0.2), js(b, a, beta=0.8), rtol=1e-6)


@pytest.mark.parametrize("order", [20, 100])
def test_renyi_of_large_orders(order):
    """(order - 1) log(q / p) passes 80 where q is far above p: that term is not small."""
    a = np.array([[0, -1, -2], [3, 0, -2]], np.float32)
    b = np.array([[0, 1, 2.5], [-1, 2, 2]], np.float32)
    found = renyi_divergence(a, b, order=order)
    true = [
        float(oracles.divergence("renyi", x, y, order)) for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(found, true, rtol=1e-5)


def test_bounds_and_inequalities():
    for seed in range(3):
        a, b = logits(seed, "float64")
        with jax.enable_x64(True):
            kl = np.asarray(kl_divergence(a, b))
            p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
            total_variation = np.abs(p - q).sum(-1) / 2
            slack = 1 + 1e-14
            assert (2 * total_variation**2 <= kl * slack).all()  # Pinsker
            assert (jensen_shannon_divergence(a, b) <= L2 * slack).all()
            assert (skew_kl_divergence(a, b) <= -np.log(0.1) * slack).all()
            orders = [renyi_divergence(a, b, order=o) for o in (0.2, 0.5, 1, 2, 3)]
            assert all((x <= y * slack).all() for x, y in itertools.pairwise(orders))
            # Data processing: merging outcomes never adds information.
            coarse = [x.reshape(40, 3, 2).sum(-1) for x in (p, q)]
            coarse = [
                np.pad(np.log(x), [(0, 0), (0, 3)], constant_values=-INF) for x in coarse
            ]
            every = (
                kl_divergence,
                jeffreys_divergence,
                jensen_shannon_divergence,
                skew_kl_divergence,
                functools.partial(renyi_divergence, order=0.5),
            )
            for function in every:
                fine = np.asarray(function(a, b))
                assert (np.asarray(function(*coarse)) <= fine * (1 + 1e-12)).all()
            # Additivity over products, joint convexity.
            product = [(x[:20, :, None] + x[20:, None, :]).reshape(20, 36) for x in (a, b)]
            np.testing.assert_allclose(
                kl_divergence(*product), kl[:20] + kl[20:], rtol=1e-14
            )
            mixed = [np.log((x + x[::-1]) / 2) for x in (p, q)]
            assert (kl_divergence(*mixed) <= (kl + kl[::-1]) / 2 * slack).all()


@pytest.mark.parametrize("name", ["reverse_kl", "jeffreys", "jensen_shannon", "renyi 0.5"])
def test_axis_where_vmap_and_half_precision_of_the_others(name):
    function, _ = OTHERS[name]
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    where = rng.uniform(size=(3, 1, 5)) < 0.8
    where[:, :, 0] = True
    flat = [x.transpose(1, 0, 2).reshape(4, 15) for x in (a, b)]
    kept = np.broadcast_to(where, a.shape).transpose(1, 0, 2).reshape(4, 15)
    expected = function(*(np.where(kept, x, -INF) for x in flat))
    found = function(a, b, axis=(0, 2), where=where)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    np.testing.assert_allclose(jax.vmap(function)(*flat), function(*flat), rtol=2e-6)
    half = [x.astype(jnp.bfloat16) for x in flat]
    wide = function(*(x.astype(jnp.float32) for x in half))
    np.testing.assert_allclose(function(*half), wide, rtol=2e-6)
    slope = jax.grad(lambda b: function(half[0], b).sum())(half[1])
    assert slope.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (jensen_shannon_divergence, "beta"),
        (skew_kl_divergence, "skew"),
        (renyi_divergence, "order"),
    ],
)
def test_parameters_outside_their_range(function, name):
    a = jnp.zeros(3)
    for value in (-0.1, NAN, INF, 0.0 if name == "order" else 1.1):
        with pytest.raises(ValueError, match=f"{function.__name__}: {name} must be"):
            function(a, a, **{name: value})
    for value in ("1", None, True, jnp.float32(0.5)):
        with pytest.raises(
            TypeError, match=f"{function.__name__}: {name} must be a number"
        ):
            function(a, a, **{name: value})


# --- from probabilities ----------------------------------------------------------


def test_from_probs_is_the_sum_of_rel_entr():
    rng = np.random.default_rng(8)
    p, q = rng.uniform(size=(2, 4, 9))
    p[0, :3], q[1, 2] = 0, 0
    p, q = (x.astype(np.float32) for x in (p, q))
    found = kl_divergence_from_probs(p, q)
    np.testing.assert_array_equal(found, rel_entr(p, q).sum(-1))
    assert found[1] == INF
    p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
    np.testing.assert_allclose(
        kl_divergence_from_probs(p, q), scipy.stats.entropy(p, q, axis=-1), rtol=1e-5
    )


def test_from_probs_where_hides_values_and_gradients():
    p = np.array([0.2, 0.8, NAN, -1.0], np.float32)
    q = np.array([0.5, 0.5, 0.0, INF], np.float32)
    keep = np.array([True, True, False, False])
    loss = functools.partial(kl_divergence_from_probs, where=keep)
    value, gradients = jax.value_and_grad(loss, (0, 1))(p, q)
    expected, inside = jax.value_and_grad(kl_divergence_from_probs, (0, 1))(p[:2], q[:2])
    assert value == expected
    for g, e in zip(gradients, inside, strict=True):
        np.testing.assert_array_equal(g, np.append(e, [0, 0]))
    assert kl_divergence_from_probs(p[3:], q[3:]) == INF  # SciPy: outside the domain


# --- transforms of a divergence -------------------------------------------------


def test_reverse():
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(2, 4, 6)).astype(np.float32)
    other = reverse(kl_divergence)
    np.testing.assert_array_equal(other(a, b, axis=0), kl_divergence(b, a, axis=0))
    np.testing.assert_array_equal(reverse(other)(a, b), kl_divergence(a, b))


@pytest.mark.parametrize("temperature", [0.1, 1, 2.0, np.float32(3), np.array(4.0, "f4")])
def test_tempered(temperature):
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=(2, 4, 6)).astype(np.float32)
    t = float(temperature)
    true = [float(oracles.kl(x, y)) * t * t for x, y in zip(a / t, b / t, strict=True)]
    loss = tempered(kl_divergence, temperature)
    found = loss(a, b)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, true, rtol=1e-5)
    mask = np.array([True, False, True, True])
    np.testing.assert_allclose(
        mean(masked(loss))(a, b, mask=mask), np.mean(np.array(true)[mask]), rtol=1e-5
    )
    half = tempered(kl_divergence, temperature)(
        a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    )
    assert half.dtype == jnp.float32


def test_tempered_far_out():
    a, b = jnp.array([0.0, 1.0]), jnp.array([0.0, 3.0])
    for temperature in (1e-30, 1e-10, 1e10, 1e30):
        assert np.isfinite(tempered(kl_divergence, temperature)(a, b))
    np.testing.assert_allclose(tempered(kl_divergence, 1e5)(a, b), 0.5, rtol=1e-4)


def test_tempered_by_a_traced_schedule():
    a, b = jnp.array([0.0, 1.0]), jnp.array([0.0, 3.0])
    loss = jax.jit(lambda t: tempered(kl_divergence, t)(a, b))
    np.testing.assert_allclose(
        loss(jnp.float32(2)), tempered(kl_divergence, 2)(a, b), rtol=1e-6
    )
    slope = jax.grad(loss)(jnp.float32(2))
    step = 1e-3
    numeric = mp.mpf(float(loss(jnp.float32(2 + step)))) - float(
        loss(jnp.float32(2 - step))
    )
    np.testing.assert_allclose(slope, float(numeric) / (2 * step), rtol=1e-2)
