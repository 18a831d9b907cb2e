"""KL along an axis: values, boundary, derivatives; from probabilities; the transforms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
import registry
import scipy.special
import scipy.stats
from jax.sharding import AxisType, PartitionSpec
from oracles import FLOOR, assert_within
from programs import (
    compiled,
    in_precision,
    of_lengths,
    of_rows,
    optimized,
    padded,
    quick,
    temporary_memory,
)
from registry import DIVERGENCES, MAIN

from kl_jax import (
    jeffreys_divergence,
    jensen_shannon_distance,
    jensen_shannon_divergence,
    kl_divergence,
    kl_divergence_from_probs,
    rel_entr,
    renyi_divergence,
    reverse_kl_divergence,
    skew_kl_divergence,
)
from kl_jax._passes import summarize

INF, NAN = np.inf, np.nan


def batch(dtype, size, seed=0):
    """(a, b): rows of one length, near-equal to far apart, flat, normal and peaked."""
    rng = np.random.default_rng(seed)
    digits = 7 if dtype == "float32" else 14
    scale = np.repeat([0.01, 1.0, 20.0], 5)[:, None]
    noise = 10.0 ** -np.tile([0.0, 1, 3, 5, digits], 3)[:, None]
    a = rng.normal(size=(15, size)) * scale
    b = a + rng.normal(size=(15, size)) * noise
    a[::4] += 1000.0  # one side far off, or the other
    b[2::8] += 1000.0
    return a.astype(dtype), b.astype(dtype)


# benchmarks/accuracy.py sees at most 7.3 ULP.
BOUND = 8.0

# 257 outcomes are looked through for the mode as a whole, 320 in five chunks of 64.
SIZES = (2, 3, 7, 33, 257, 320)
LENGTHS = {"float32": (7, 257, 320), "float64": (320,)}

value = of_lengths(compiled(kl_divergence), (33,))
_value_and_gradients = {
    "float32": compiled(of_rows(kl_divergence)),
    "float64": quick(of_rows(kl_divergence)),
}


def value_and_gradients(a, b):
    """As users compile it in float32; float64 has constants of its own, and `value`."""
    dtype = str(a.dtype)
    return of_lengths(_value_and_gradients[dtype], LENGTHS[dtype])(a, b)


def truth(a, b):
    return [oracles.kl(x, y) for x, y in zip(a, b, strict=True)]


def test_error_in_ulp(dtype):
    """With gradients, as in training, of all sizes; and of one the value alone."""
    for size in SIZES if dtype == "float32" else (3, 33, 320):
        a, b = batch(dtype, size)
        true = truth(a, b)
        assert_within(BOUND, value_and_gradients(a, b)[0], true, dtype)
        if size == 33:
            assert_within(BOUND, value(a, b), true, dtype)


@functools.cache
def peaked(size):
    """Rows with a mode of e^5 to e^22 before many small terms, as in a classifier that is
    sure, and some of `batch`; and their KL.
    """
    rng = np.random.default_rng(14)
    a = rng.normal(size=(12, size))
    a[:, size // 3] += np.linspace(5, 22, 12)
    b = a + rng.normal(size=a.shape) * 10.0 ** -np.resize([0.0, 1, 2, 4], 12)[:, None]
    a, b = np.concatenate([np.float32([a, b]), np.array(batch("float32", size))[:, ::3]], 1)
    return a, b, truth(a, b)


@pytest.mark.parametrize(("rows", "size"), [(1, 320), (1, 1009), (3, 1009), (3, 1024)])
def test_error_in_ulp_of_few_rows(rows, size):
    """Summed one after the other, small terms after a large one lose up to 15 ULP. Worst
    seen 4.
    """
    a, b, true = (x[: 17 // rows * rows] for x in peaked(size))
    function = optimized(kl_divergence)
    cuts = range(0, len(a), rows)
    few = np.concatenate([function(a[i : i + rows], b[i : i + rows]) for i in cuts])
    assert_within(BOUND, few, true)


@pytest.mark.slow
def test_every_number_of_a_row_alone_has_the_same_bits():
    a, b = np.random.default_rng(0).normal(size=(2, 300, 1000)).astype("f4")
    numbers = optimized(summarize)
    found = numbers(a, b)
    each = [numbers(a[i : i + 1], b[i : i + 1]) for i in range(300)]
    for x, *alone in zip(found, *each, strict=True):
        np.testing.assert_array_equal(x, np.concatenate(alone))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("kl", 1000, marks=pytest.mark.slow),
        pytest.param("kl", 4096, marks=pytest.mark.slow),
        ("jensen_shannon", 1000),
    ],
)
def test_a_row_has_the_same_bits_in_any_batch(name, size):
    """On CPUs, as a trainer and a sampler must agree. Slopes differ in their last bits."""
    a, b = (x[:24] for x in batch("float32", size))
    whole = jax.value_and_grad(DIVERGENCES[name].function, 1)
    both = (compiled if name == "kl" else optimized)(jax.vmap(whole))
    value, slopes = both(a, b)
    parts = [(slice(i, i + 1), both) for i in range(15)]
    if (name, size) == ("kl", 1000):
        # 300 rows are two tiles, of which each sums 6400 blocks.
        batches = [batch("float32", size, seed) for seed in range(20)]
        few = np.concatenate([both(*x)[0] for x in batches])
        every = np.concatenate(batches, 1)
        np.testing.assert_array_equal(compiled(kl_divergence)(*every), few)
        # Alone, rows have 25 blocks: the last is summed beside 7 of zeros.
        each = np.concatenate([both(*every[:, i : i + 1])[0] for i in range(300)])
        np.testing.assert_array_equal(each, few)
        parts += [(slice(i, i + 5), both) for i in range(0, 15, 5)]
        on = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
        rows = PartitionSpec("rows")
        spread = jax.shard_map(jax.vmap(whole), mesh=on, in_specs=rows, out_specs=rows)
        parts.append((slice(8), compiled(spread)))
    for part, function in parts:
        found, alike = function(a[part], b[part]), slopes[part]
        np.testing.assert_array_equal(found[0], value[part])
        # JAX 0.12 contracts other products: worst seen 5e-7.
        assert (np.abs(found[1] - alike) <= 1e-6 * np.abs(alike).max()).all()


def test_half_precision_is_computed_in_float32():
    """The logits are rounded, and then exact. 1024 outcomes are two chunks."""
    a, b = (x[:12].astype(jnp.bfloat16) for x in batch("float32", 1024, seed=12))
    assert_within(BOUND, optimized(kl_divergence)(a, b), truth(a, b))
    _, slopes = jax.eval_shape(of_rows(kl_divergence), a, b)
    assert all(g.dtype == jnp.bfloat16 for g in slopes)
    assert jax.eval_shape(kl_divergence, a.astype("float16"), b).dtype == jnp.float32


def test_a_real_vocabulary():
    """32000 outcomes, 125 chunks, of 20 rows, three tiles of which the last overlaps.

    25 outcomes 1279 times, and 25 others last, where the mode is: KL and its gradients
    follow from 50 outcomes with the masses n e^x.
    """
    rng = np.random.default_rng(13)
    noise = 10.0 ** -np.tile([0.0, 2, 4, 6], 5)[:, None]
    a = rng.normal(size=(20, 50))
    a[:, 25:] += np.linspace(0, 15, 20)[:, None]
    b = a + noise * rng.normal(size=a.shape)
    a, b = a.astype("f4"), b.astype("f4")
    times = np.repeat([1279, 1], 25)
    found, slopes = _value_and_gradients["float32"](
        *(np.concatenate([np.tile(x[:, :25], 1279), x[:, 25:]], -1) for x in (a, b))
    )
    with mp.workdps(oracles.DIGITS):
        log_times = [mp.log(int(n)) for n in times]
        logs = [[n + float(v) for n, v in zip(log_times, x, strict=True)] for x in (*a, *b)]
        rows = list(zip(logs[:20], logs[20:], strict=True))
        assert_within(BOUND, found, [oracles.kl(x, y) for x, y in rows])
        gradients = [oracles.kl_gradients(x, y) for x, y in rows]
    for row in range(0, 20, 3):
        for side in (0, 1):
            true = np.array([float(g) for g in gradients[row][side]]) / times
            copies = np.concatenate([np.tile(true[:25], 1279), true[25:]])
            assert_gradient(slopes[side][row], copies, "float32")


def test_error_in_ulp_of_a_mode_in_the_last_chunk():
    """Measured from the mode of another chunk the masses overflow."""
    a, b = batch("float32", 320, seed=14)
    a[:, -1] += np.repeat([20, 200, 2000], 5).astype("f4")
    b[:, -1] = a[:, -1] + 0.5
    assert_within(BOUND, value_and_gradients(a, b)[0], truth(a, b))


def test_error_in_ulp_of_a_peaked_p():
    """KL is that of the few others, whose shift of 10 to 60 has a rounding error."""
    rng = np.random.default_rng(15)
    a, noise = rng.normal(size=(2, 15, 3))
    a[:, 0] += np.linspace(10, 60, 15)
    a, b = a.astype("f4"), (a + noise).astype("f4")
    assert_within(BOUND, value_and_gradients(a, b)[0], truth(a, b))


def test_error_in_ulp_where_q_lacks_the_mode():
    """Next to the gap at the mode the rounding of the mean is all that the others have."""
    rng = np.random.default_rng(12)
    a = (0.01 * rng.normal(size=(9, 257))).astype("f4")
    b = (a + 1e-3 * rng.normal(size=a.shape)).astype("f4")
    b[np.arange(9), a.argmax(-1)] -= np.repeat([10, 20, 29], 3).astype("f4")
    assert_within(BOUND, value_and_gradients(a, b)[0], truth(a, b))


def test_one_operation_at_a_time_agrees_within_the_bound():
    # XLA may fold in a program what it executes alone; error-free sums must survive it.
    a, b = batch("float32", 33)
    with jax.disable_jit():
        alone = np.asarray(kl_divergence(a, b))
    together = value(a, b)
    assert (np.abs(alone - together) <= 2 * BOUND * np.spacing(alone + 2**-90)).all()


def test_equal_logits_give_exactly_0(dtype):
    for size in LENGTHS[dtype]:
        a, _ = batch(dtype, size)
        found, gradients = value_and_gradients(a, a)
        np.testing.assert_array_equal(found, 0)
        np.testing.assert_array_equal(gradients, 0)


def assert_gradient(found, true, dtype, bound=8):
    """Within 8 eps, 1e-6 in float32, of the largest component. Worst seen 4.2 eps."""
    largest = np.abs(true).max()
    underflow = 0 if largest > 1e-30 else 1e-30
    eps = float(np.finfo(dtype).eps)
    assert np.abs(found - true).max() <= bound * eps * largest + underflow


def assert_gradients(a, b, dtype, bound=8):
    _, found = value_and_gradients(a, b)
    for row in range(len(a)):
        expected = oracles.kl_gradients(a[row], b[row])
        for f, e in zip(found, expected, strict=True):
            assert_gradient(f[row], np.array([float(x) for x in e]), dtype, bound)


def test_first_derivatives(dtype):
    for size in SIZES if dtype == "float32" else (3, 33, 320):
        assert_gradients(*batch(dtype, size, seed=1), dtype)


def test_first_derivatives_of_a_peaked_p(dtype):
    """The slopes are p times tiny differences; at the mode, minus the sum of the rest.

    log(q / p) = -40 at an outcome that holds the KL leaves 20 eps in log(q / p) at the
    mode, which is the small difference of two numbers of the size of the KL.
    """
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(2, 40, 4)) * 15
    a, b = (np.concatenate([x, x + 1000.0]).astype(dtype) for x in (a, b))
    assert_gradients(a, b, dtype, 32)


def test_first_derivatives_of_a_mask_on_one_side(dtype):
    """A large KL: d - KL has no digits left, q - p has all."""
    low = np.array([[-100.0], [-1e4], [-1e9], [np.finfo("f4").min]])
    a = np.tile(np.array([0.0, 1.0, 2.0, -1.0], dtype), (4, 1))
    b = np.concatenate([np.tile([0.5, 1.0, 1.5], (4, 1)), low], -1).astype(dtype)
    p, q = (np.exp(x - 2.0) / np.exp(x - 2.0).sum(-1, keepdims=True) for x in (a, b))
    _, (_, found) = value_and_gradients(a, b)
    np.testing.assert_allclose(found, q - p, atol=1e-6)


def test_large_divergences(dtype):
    a, b = [], []
    for gap in (20.0, 31.0, 100.0, 1000.0):
        p = [gap, 0.0, -gap, 1.0]
        a += [p, p]
        b += [p[::-1], [0.0] * 4]
    for gap in (1e6, 1e30):  # p is one outcome, to which q gives e^-gap
        a.append([gap, 0.0, -INF, -INF])
        b.append([0.0, gap, -INF, -INF])
    a, b = np.array(a, dtype), np.array(b, dtype)
    found = value(a, b)
    for f, x, y in zip(found[:-2], a, b, strict=False):
        assert oracles.ulps(f, oracles.kl(x, y), dtype) <= 4, (x, y)
    np.testing.assert_array_equal(found[-2:], a[-2:, 0])


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


@quick
@jax.vmap
def value_and_derivatives(a, b):
    return (
        *jax.value_and_grad(kl_divergence, (0, 1))(a, b),
        jax.jvp(kl_divergence, (a, b), (jnp.ones_like(a), jnp.zeros_like(b)))[1],
        jax.hessian(kl_divergence, (0, 1))(a, b),
    )


def alone(a, b, dtype):
    """A case without other rows, among which infinities change the way that is taken."""
    pair = (padded(np.array([x] * 2, dtype), 3) for x in (a, b))
    return jax.tree.map(lambda x: x[0], value_and_derivatives(*pair))


@pytest.mark.parametrize("case", BOUNDARY)
def test_boundary(case, dtype):
    a, b, value, *slopes = BOUNDARY[case]
    found, gradients, pushed, hessian = alone(a, b, dtype)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient[: len(a)], slope, rtol=1e-6, atol=1e-7)
        absent = gradient[len(a) :]
        np.testing.assert_array_equal(absent[~np.isnan(absent)], 0)
    assert np.isnan(pushed) == np.isnan(value)
    finite = not np.isnan(value)
    assert all(np.isfinite(h).all() == finite for row in hessian for h in row)
    assert not finite or np.isfinite(gradients).all()


def test_one_outcome():
    loss = quick(jax.value_and_grad(lambda a, b: kl_divergence(a, b).sum(), (0, 1)))
    found, slopes = loss(np.array([[3.0]], "f4"), np.array([[-7.0]], "f4"))
    assert found == 0
    np.testing.assert_array_equal(slopes, 0)


def test_differences_that_overflow_float32():
    cases = (
        ([3e38, -3e38], [-3e38, 3e38], INF, [[0, 0, 0], [-1, 1, 0]]),  # 6e38 is the truth
        ([0, -200], [3e38, -3e38], 0, [[0] * 3, [0] * 3]),  # e^-200 6e38 is
    )
    for a, b, value, expected in cases:
        found, gradients, pushed, hessian = alone(a, b, "float32")
        assert found == value
        np.testing.assert_array_equal(gradients, expected)
        assert pushed == 0
        assert np.isfinite(jax.tree.leaves(hessian)).all()


def test_nan_stays_in_its_row():
    a, b = batch("float32", 33, seed=2)
    clean = value(a, b)
    a[1, 2] = NAN
    found = value(a, b)
    np.testing.assert_array_equal(np.isnan(found), np.arange(15) == 1)
    others = np.arange(15) != 1
    np.testing.assert_allclose(found[others], clean[others], rtol=1e-6, atol=2e-38)


@quick
@jax.vmap
def of_support(a, b, where):
    loss = functools.partial(kl_divergence, where=where)
    return jax.value_and_grad(loss, (0, 1))(a, b)


def test_where_selects_the_support():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 4, 6)).astype(np.float32)
    keep = np.array([True, True, False, True, False, True])
    a[:, 2], b[:, 2] = NAN, INF
    a[:, 4], b[:, 4] = INF, NAN
    where = np.tile(keep, (4, 1))
    found, gradients = of_support(a, b, where)
    kept = a[:, keep], b[:, keep]
    expected, inside = of_support(*kept, np.ones((4, 4), bool))
    np.testing.assert_allclose(expected, [float(x) for x in truth(*kept)], rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for g, e in zip(gradients, inside, strict=True):
        np.testing.assert_allclose(g[:, keep], e, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(g[:, ~keep], 0)
    where[1] = False  # no outcome at all
    found, gradients = of_support(a, b, where)
    assert found[1] == 0
    for g in gradients:
        np.testing.assert_array_equal(g[1], 0)


def of_last_axis(a, b):
    """KL from its definition in float64, of probabilities that need not sum to one."""
    return np.sum(np.where(a > 0, a * np.log(np.where(a > 0, a, 1) / b), 0), -1)


AXES = [0, (0, 2), (1, -1), (0, 1, 2), [1]]


@pytest.mark.parametrize(
    ("function", "axis"),
    [
        *((kl_divergence, axis) for axis in AXES),
        *((kl_divergence_from_probs, axis) for axis in (1, 2, -1, -3, *AXES)),
    ],
)
def test_axis(function, axis):
    """With a `where` of two of three axes: all True first, and then not."""
    rng = np.random.default_rng(4)
    a, b = rng.uniform(0.1, 1, (2, 3, 4, 5)).astype(np.float32)
    axes = {x % 3 for x in (axis if isinstance(axis, (tuple, list)) else (axis,))}
    order = [i for i in range(3) if i not in axes]

    def flat(x):
        x = np.moveaxis(np.broadcast_to(x, a.shape), order, range(len(order)))
        return x.reshape(*(x.shape[i] for i in range(len(order))), -1)

    selected = quick(lambda a, b, where: function(a, b, axis=axis, where=where))
    for where in (np.ones((3, 1, 5), bool), rng.uniform(size=(3, 1, 5)) < 0.7):
        p, q = (np.float64(flat(x)) for x in (a, b))
        if function is kl_divergence:
            p, q = np.exp(p), np.exp(q)
        p, q = (np.where(flat(where), x, 0) for x in (p, q))
        if function is kl_divergence:
            p, q = (x / np.maximum(x.sum(-1, keepdims=True), 1e-9) for x in (p, q))
        expected = of_last_axis(p, np.where(flat(where), q, 1))
        np.testing.assert_allclose(selected(a, b, where), expected, rtol=1e-5)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("function", [kl_divergence, kl_divergence_from_probs])
def test_axis_without_where_and_where_of_every_axis(function):
    rng = np.random.default_rng(4)
    a, b = rng.uniform(0.1, 1, (2, 3, 4, 5)).astype(np.float32)
    full = rng.uniform(size=a.shape) < 0.7
    flat = [x.transpose(1, 0, 2).reshape(4, 15) for x in (a, b, full)]
    calls = {
        "all": (function(a, b, axis=(0, 2)), np.ones_like(flat[2])),
        "some": (function(a, b, axis=(0, 2), where=full), flat[2]),
    }
    for name, (found, keep) in calls.items():
        p, q = (np.float64(x) for x in flat[:2])
        if function is kl_divergence:
            p, q = np.exp(p), np.exp(q)
            p, q = (x / np.sum(x, -1, keepdims=True, where=keep) for x in (p, q))
        expected = of_last_axis(np.where(keep, p, 0), q)
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)


def test_shapes_with_no_rows():
    a = jnp.zeros((0, 4))
    assert kl_divergence(a, a).shape == (0,)
    assert kl_divergence_from_probs(a, a).shape == (0,)
    assert kl_divergence(jnp.zeros((2, 0, 4)), jnp.zeros((2, 0, 4)), axis=0).shape == (
        0,
        4,
    )


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

    @quick
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


@pytest.mark.usefixtures("quickly")
def test_jit_and_vmap():
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
    mapped = quick(jax.vmap(jax.vmap(kl_divergence)))
    outer = functools.partial(kl_divergence, axis=0)
    outer = quick(jax.vmap(outer, in_axes=2, out_axes=1))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    expected = kl_divergence(a, b)
    close(quick(kl_divergence)(a, b), expected)
    close(mapped(a, b), expected)
    close(outer(*(x.transpose(2, 1, 0) for x in (a, b))), expected.T)


def test_fisher_vector_products(dtype):
    """jvp of grad: q (v - E_q[v]) in logits_q, also where q is nearly one outcome."""
    eps = float(np.finfo(dtype).eps)

    @in_precision(dtype)
    @jax.vmap
    def product(a, b, v):
        return jax.jvp(lambda b: jax.grad(kl_divergence, 1)(a, b), (b,), (v,))[1]

    rng = np.random.default_rng(3)
    # q is nearly one outcome, and p has its mode elsewhere.
    peaked = rng.normal(size=(2, 12, 5))
    peaked[1, :, 2] += np.arange(12)
    rows = [batch(dtype, size, seed=2) for size in (3, 7, 33)] + [peaked.astype(dtype)]
    a, b = (np.concatenate([padded(x[i], 33) for x in rows]) for i in (0, 1))
    v = rng.normal(size=a.shape).astype(dtype)
    for f, y, t in zip(product(a, b, v), b, v, strict=True):
        with mp.workdps(oracles.DIGITS):
            q = oracles.softmax(y)
            centre = mp.fsum(x * float(z) for x, z in zip(q, t, strict=True))
            true = [x * (float(z) - centre) for x, z in zip(q, t, strict=True)]
        true = np.array([float(x) for x in true])
        # Worst seen 2.8 eps; where all components underflow nothing is promised.
        assert np.abs(f - true).max() <= 8 * eps * np.abs(true).max() + 1e-37


@pytest.mark.parametrize("name", [name for name in MAIN if name != "reverse_kl"])
def test_memory_of_value_and_gradient(name):
    """Nothing of the size of the logits, 8 MiB each here in float32, beside the gradient
    itself; of bfloat16 no copy in float32, nor anything else of that size.
    """
    wide, half = (jax.ShapeDtypeStruct((64, 32768), t) for t in (jnp.float32, jnp.bfloat16))
    loss = lambda a, b: MAIN[name].function(a, b).mean()
    of_q, both = (jax.value_and_grad(loss, n) for n in (1, (0, 1)))
    programs = [(loss, wide), (of_q, half)]
    for function, logits in programs + [(of_q, wide), (both, wide)] * (name == "kl"):
        assert temporary_memory(function, logits, logits) <= 4 * 2**20


@pytest.mark.parametrize(
    "function",
    [kl_divergence, jeffreys_divergence, functools.partial(renyi_divergence, order=2.0)],
    ids=["kl", "jeffreys", "renyi"],
)
def test_what_reverse_mode_keeps(function):
    """The logits, and numbers a row; what a checkpoint forgets XLA may hide on CPUs."""
    logits = jax.ShapeDtypeStruct((64, 1000), jnp.float32)
    pullback = jax.eval_shape(lambda *x: jax.vjp(function, *x)[1], logits, logits)
    sizes = sorted(x.size for x in jax.tree.leaves(pullback))
    assert sizes[-2:] == [64000, 64000]
    assert sizes[-3] <= 64


def test_infinities_in_other_rows_change_nothing(dtype):
    """On CPUs a tile of rows with any takes a way of its own."""
    values = (value, lambda a, b: value_and_gradients(a, b)[0])
    for size, function in zip((33, 320), values, strict=True):
        a, b = batch(dtype, size, seed=11)
        expected = function(a, b)
        for row, low, high in ((0, -INF, 0), (3, 0, -INF), (-1, INF, 0), (2, 0, 800)):
            x, y = a.copy(), b.copy()
            x[row, 0], y[row, 0] = low, high
            rest = np.arange(len(a)) != row % len(a)
            unit = np.spacing(np.maximum(expected, FLOOR[dtype]).astype(dtype))[rest]
            difference = np.abs(function(x, y) - expected)[rest]
            assert (difference <= 2 * BOUND * unit).all()


# --- the other divergences --------------------------------------------------------

# Gradients of optimized programs, which take 2 to 3 s to compile; those of the others, and
# in float64, quickly.
WITH_GRADIENTS = ("jeffreys", "jensen_shannon", "renyi 0.5", "renyi 2")
ALONE = ("jensen_shannon", "renyi 2")  # of these the value without gradients, too
IN_FLOAT64 = ("jeffreys", "jensen_shannon", "renyi 0.5", "renyi 2")
# Other constants of one formula are slow.
FIRST = ("jeffreys", "jensen_shannon", "skew_kl", "renyi 0.5", "renyi 2")
CASES = [
    pytest.param(name, "float32", marks=[] if name in FIRST else [pytest.mark.slow])
    for name in DIVERGENCES
    if name not in ("kl", "reverse_kl")
] + [(name, "float64") for name in IN_FLOAT64]


def oracle_of(name):
    return functools.partial(oracles.divergence, DIVERGENCES[name])


@functools.cache
def of_other(name, dtype):
    """Values; and values with gradients."""
    if name == "kl":
        return value, value_and_gradients
    function = DIVERGENCES[name].function
    both = of_rows(function)
    both = optimized(both) if name in WITH_GRADIENTS and dtype == "float32" else quick(both)
    values = optimized(function) if name in ALONE or name not in WITH_GRADIENTS else None
    return values and of_lengths(values, (33,)), of_lengths(both, (33,))


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_error_and_gradients_of_the_others(name, dtype):
    """Values in ULP; gradients within 16 eps of the largest component, worst seen 9."""
    oracle, eps = oracle_of(name), float(np.finfo(dtype).eps)
    with jax.enable_x64(dtype == "float64"):
        values, slopes = of_other(name, dtype)
        far = (np.random.default_rng(13).normal(size=(2, 12, 5)) * 6).astype(dtype)
        for a, b in (batch(dtype, 3, seed=4), batch(dtype, 33, seed=4), far):
            true = [oracle(x, y) for x, y in zip(a, b, strict=True)]
            assert_within(BOUND, slopes(a, b)[0], true, dtype)
            np.testing.assert_array_equal(slopes(a, a)[0], 0)
            if values and dtype == "float32":
                assert_within(BOUND, values(a, b), true)
                np.testing.assert_array_equal(values(a, a), 0)
        rng = np.random.default_rng(5)
        noise = np.repeat([1.0, 1e-2, 1e-5], 3)[:, None]
        a = (rng.normal(size=(9, 5)) * 3).astype(dtype)
        b = (a + rng.normal(size=a.shape) * noise + 10).astype(dtype)
        _, found = slopes(a, b)
    for i in range(len(a)):
        in_p = oracles.gradient(lambda x, y=b[i]: oracle(x, y), a[i])
        in_q = oracles.gradient(lambda y, x=a[i]: oracle(x, y), b[i])
        for f, true in zip(found, (in_p, in_q), strict=True):
            true = np.array([float(x) for x in true])
            assert np.abs(f[i] - true).max() <= 16 * eps * np.abs(true).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((x, "float64") for x in ("jeffreys", "jensen_shannon 0.1", "renyi 0.5")),
        ("renyi 2", "float64"),
        *((x, "float32") for x in ("jensen_shannon", "jensen_shannon 0.1", "skew_kl")),
    ],
)
def test_second_derivatives_of_the_others(name, dtype):
    """Forward over reverse against differences of the gradient in float64."""
    gradient = jax.grad(DIVERGENCES[name].function, (0, 1))
    both = quick(lambda *x: jax.jvp(gradient, x[:2], x[2:]))
    with jax.enable_x64(True):
        a, b, u, v = np.random.default_rng(6).normal(size=(4, 5)).astype(dtype)
        found = both(a, b, u, v)[1]
        a, b, u, v = (x.astype("float64") for x in (a, b, u, v))
        h = 1e-5
        (up, _), (down, _) = (both(a + s * u, b + s * v, u, v) for s in (h, -h))
        bound = {"float64": 1e-8, "float32": 1e-6}[dtype]
        for f, x, y in zip(found, up, down, strict=True):
            np.testing.assert_allclose(f, (x - y) / (2 * h), atol=bound)


# Logits of p and q, and the value of what `registry` says nothing else of. Gradients are
# finite wherever the value is.
EDGES = {
    "equal": ([0, 1, 2], [0, 1, 2], 0),
    "shared -inf": ([0, 1, -INF], [3, 4, -INF], 0),
    "p = 0 < q": ([0, -INF], [0, 0], 0),
    "q = 0 < p": ([0, 0], [0, -INF], 0),
    "disjoint": ([0, -INF], [-INF, 0], 0),
    "p has no outcome": ([-INF] * 2, [0, 1], 0),
    "neither has one": ([-INF] * 2, [-INF] * 2, 0),
    "+inf alike": ([INF, 0], [INF, 5], 0),
    "+inf apart": ([INF, 0], [0, INF], 0),
    "one outcome": ([3], [-7], 0),
    "offset 1e4": ([1e4, 1e4 + 1], [0, 1], 0),
    "offset 1e30": ([1e30, 1e30], [0, 0], 0),
    "finfo.min mask": ([0, np.finfo("f4").min], [0, np.finfo("f4").min], 0),
    "q = 0 where p underflows": ([0, -1000], [0, -INF], 0),
    "far apart": ([1e4, 0], [0, 1e4], 0),
    "nan in p": ([NAN, 0], [0, 0], NAN),
    "nan in q": ([0, 0], [NAN, 0], NAN),
}


def edges(dtype):
    """All cases as rows: what a case lacks in outcomes exists on neither side."""
    rows = np.full((2, len(EDGES), 3), -INF)
    for i, (a, b, _) in enumerate(EDGES.values()):
        rows[0, i, : len(a)], rows[1, i, : len(b)] = a, b
    return rows.astype(dtype)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in MAIN),
        *((name, "float64") for name in MAIN if name != "skew_kl"),
    ],
)
def test_boundary_of_every_divergence(name, dtype):
    """Also beside an outcome of nan that does not exist, which `where` says."""
    a, b = edges(dtype)
    with jax.enable_x64(dtype == "float64"):
        if name == "reverse_kl":  # kl_divergence with p and q exchanged
            found, gradients = value_and_gradients(b, a)
        else:
            found, gradients = of_other(name, dtype)[1](a, b)
    assert set(MAIN[name].edges) <= set(EDGES)
    for i, (case, (_, _, default)) in enumerate(EDGES.items()):
        value = MAIN[name].edges.get(case, default)
        if value is None:
            assert 0 < found[i] < INF, case
        else:
            np.testing.assert_allclose(found[i], value, rtol=1e-6, atol=0, err_msg=case)
        if not np.isnan(found[i]):
            assert all(np.isfinite(g[i]).all() for g in gradients), case
    if name in ("kl", "renyi 0.5"):
        of_p, of_q = (g[list(EDGES).index("disjoint")][:2] for g in gradients)
        np.testing.assert_array_equal(of_p, 0)
        np.testing.assert_allclose(of_q, [-1, 1])  # q - p
    if dtype == "float32":
        function = MAIN[name].function
        hidden = (np.concatenate([x, np.full((len(x), 1), NAN, dtype)], -1) for x in (a, b))
        keep = np.array([[True, True, True, False]])
        beside = quick(function)(*hidden, where=keep)
        np.testing.assert_allclose(beside, found, rtol=1e-6)


@pytest.mark.parametrize("name", ["kl", "jensen_shannon", "renyi 0.5"])
def test_what_has_no_mass_has_no_slope(name):
    """p = 0, however large log(q / p): their product is no number of its own."""
    a, b = np.array([[0, -1e38], [0, 50]], "f4")
    slope, _ = quick(jax.grad(DIVERGENCES[name].function, (0, 1)))(a, b)
    assert slope[1] == 0
    assert abs(slope[0]) <= 1e-7


def logits(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(40, 6)) * 3
    return a.astype(dtype), (a + rng.normal(size=(40, 6))).astype(dtype)


def test_limits_of_the_parameters():
    js, skew, renyi = jensen_shannon_divergence, skew_kl_divergence, renyi_divergence

    @quick
    def every(a, b):
        return {
            "kl": kl_divergence(a, b),
            "back": kl_divergence(b, a),
            "reverse": reverse_kl_divergence(a, b),
            "jeffreys": jeffreys_divergence(a, b),
            **{f"renyi {x}": renyi(a, b, order=x) for x in (1 + 1e-6, 1 - 1e-6, 1, 1e-6)},
            **{f"js {x}": js(a, b, beta=x) for x in (0, 1e-7, 0.2, 0.5, 0.8, 1 - 1e-7, 1)},
            **{f"skew {x}": skew(a, b, skew=x) for x in (0, 1e-7, 1)},
        }

    a, b = logits(7)
    of, exchanged = every(a, b), every(b, a)
    close = functools.partial(np.testing.assert_allclose, rtol=3e-5)
    close(of[f"renyi {1 + 1e-6}"], of["kl"])
    close(of[f"renyi {1 - 1e-6}"], of["kl"])
    close(of[f"renyi {1e-6}"] / 1e-6, of["back"])
    close(of[f"js {1e-7}"] / 1e-7, of["kl"])
    close(of[f"js {1 - 1e-7}"] / 1e-7, of["back"])
    close(of[f"skew {1e-7}"], of["kl"])
    for name in ("js 0", "js 1", "skew 1"):
        np.testing.assert_array_equal(of[name], 0)
    for name, other in (("renyi 1", "kl"), ("skew 0", "kl"), ("reverse", "back")):
        np.testing.assert_array_equal(of[name], of[other])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    close(of["jeffreys"], of["kl"] + of["back"])
    close(of["js 0.5"], exchanged["js 0.5"])
    close(of["js 0.2"], exchanged["js 0.8"])


def test_renyi_where_q_has_half_its_mass_beside_p():
    """log(q / p) is the same at all outcomes of p, and so is its rounding. Worst seen 2.4
    ULP, and 5.8 where the power is that of log(p).
    """
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 257))
    b = a + rng.normal(size=a.shape) * 10.0 ** -np.resize([12, 6, 2], 60)[:, None]
    a[:, 1:] = np.where(rng.uniform(size=(60, 256)) < 0.6, -INF, a[:, 1:])
    a, b = a.astype("f4"), b.astype("f4")
    found = optimized(functools.partial(renyi_divergence, order=0.1))(a, b)
    for x, y, f in zip(a, b, found, strict=True):
        true = registry.renyi(oracles.Mpmath, oracles.softmax(x), oracles.softmax(y), 0.1)
        assert oracles.ulps(f, true, "float32") <= 5


@pytest.mark.parametrize("order", [20, 100])
def test_renyi_of_large_orders(order):
    """(order - 1) log(q / p) passes 80 where q is far above p: that term is not small."""
    a = np.array([[0, -1, -2], [3, 0, -2], [0, -80, -3]], np.float32)
    b = np.array([[0, 1, 2.5], [-1, 2, 2], [0, -85, -3]], np.float32)
    found = quick(functools.partial(renyi_divergence, order=order))(a, b)
    true = [
        float(registry.renyi(oracles.Mpmath, oracles.softmax(x), oracles.softmax(y), order))
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(found, true, rtol=1e-5)


@pytest.mark.slow
def test_bounds_and_inequalities():
    orders = (0.2, 0.5, 1, 2, 3)

    @quick
    def every(a, b):
        return {
            "kl": kl_divergence(a, b),
            "jeffreys": jeffreys_divergence(a, b),
            "js": jensen_shannon_divergence(a, b),
            "skew": skew_kl_divergence(a, b),
            **{f"renyi {o}": renyi_divergence(a, b, order=o) for o in orders},
        }

    of_products = quick(kl_divergence)
    for seed in range(3):
        a, b = logits(seed, "float64")
        p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
        # Data processing: merging outcomes never adds information.
        coarse = [x.reshape(40, 3, 2).sum(-1) for x in (p, q)]
        coarse = [np.pad(np.log(x), [(0, 0), (0, 3)], constant_values=-INF) for x in coarse]
        mixed = [np.log((x + x[::-1]) / 2) for x in (p, q)]
        product = [(x[:20, :, None] + x[20:, None, :]).reshape(20, 36) for x in (a, b)]
        with jax.enable_x64(True):
            found, of_coarse, of_mixed = every(a, b), every(*coarse), every(*mixed)
            of_product = of_products(*product)
        kl, slack = found["kl"], 1 + 1e-14
        total_variation = np.abs(p - q).sum(-1) / 2
        assert (2 * total_variation**2 <= kl * slack).all()  # Pinsker
        assert (found["js"] <= np.log(2) * slack).all()
        assert (found["skew"] <= -np.log(0.1) * slack).all()
        for low, high in itertools.pairwise(orders):
            assert (found[f"renyi {low}"] <= found[f"renyi {high}"] * slack).all()
        for name in ("kl", "jeffreys", "js", "skew", "renyi 0.5"):
            assert (of_coarse[name] <= found[name] * (1 + 1e-12)).all()
        # Additivity over products, joint convexity.
        np.testing.assert_allclose(of_product, kl[:20] + kl[20:], rtol=1e-14)
        assert (of_mixed["kl"] <= (kl + kl[::-1]) / 2 * slack).all()


@pytest.mark.parametrize("name", ["reverse_kl", "jeffreys", "jensen_shannon", "renyi 0.5"])
def test_axis_where_and_half_precision_of_the_others(name):
    function = DIVERGENCES[name].function
    oracle = oracle_of(name)
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(2, 3, 4, 5)).astype(jnp.bfloat16)
    where = rng.uniform(size=(3, 1, 5)) < 0.8
    where[:, :, 0] = True
    kept = np.broadcast_to(where, a.shape).transpose(1, 0, 2).reshape(4, 15)
    flat = [x.transpose(1, 0, 2).reshape(4, 15) for x in (a, b)]
    true = [float(oracle(x[keep], y[keep])) for x, y, keep in zip(*flat, kept, strict=True)]
    found = quick(lambda a, b: function(a, b, axis=(0, 2), where=where))(a, b)
    np.testing.assert_allclose(found, true, rtol=2e-6)
    assert found.dtype == jnp.float32
    slope = jax.eval_shape(jax.grad(lambda b: function(a, b).sum()), b)
    assert slope.dtype == jnp.bfloat16


def test_jensen_shannon_distance(dtype):
    """The root, and its slopes: 0 at equality, and bounded near it."""
    row = DIVERGENCES["jensen_shannon 0.1"]
    function = functools.partial(jensen_shannon_distance, beta=0.1)
    distance = lambda x, y: mp.sqrt(oracles.divergence(row, x, y))
    a, b = (x[:8] for x in batch(dtype, 7, seed=9))
    both = quick(of_rows(function))
    value, slopes = both(a, b)
    for x, y, found, *gradients in zip(a, b, value, *slopes, strict=True):
        with mp.workdps(oracles.DIGITS):
            true = distance(x, y)
            assert oracles.ulps(found, true, dtype) <= 5
            if true:
                in_p = oracles.gradient(lambda x, y=y: distance(x, y), x)
                in_q = oracles.gradient(lambda y, x=x: distance(x, y), y)
                for g, t in zip(gradients, (in_p, in_q), strict=True):
                    t = np.array([float(v) for v in t])
                    assert np.abs(g - t).max() <= 32 * np.finfo(dtype).eps * np.abs(t).max()
    _, slopes = both(a, a)
    for slope in slopes:
        np.testing.assert_array_equal(slope, 0)
    # The Jensen-Shannon distance is a metric.
    c = np.roll(a, 1, 0)
    metric = quick(jensen_shannon_distance)
    ab, bc, ac = (metric(*x) for x in ((a, b), (b, c), (a, c)))
    assert (ac <= (ab + bc) * (1 + 1e-6)).all()


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
    for value in ("1", None, True):
        with pytest.raises(
            TypeError, match=f"{function.__name__}: {name} must be a number"
        ):
            function(a, a, **{name: value})
    with pytest.raises(TypeError, match=f"{function.__name__}: {name} must be floating"):
        function(a, a, **{name: jnp.array(1)})
    with pytest.raises(
        ValueError, match=f"{function.__name__}: {name} must be a number or a 0-d"
    ):
        function(a, a, **{name: jnp.array([0.5])})


# Worst seen: of the logits 8e-6 (of orders near 1), in the parameter 8e-7.
ARRAYS = [
    *(("jensen_shannon", t) for t in (0, 1e-6, 0.1, 0.9, 1)),
    *(("skew_kl", t) for t in (0, 1e-6, 0.1, 0.5, 0.999)),
    *(("renyi 0.5", t) for t in (1e-3, 0.3, 0.9, 1, 1.1, 2)),
]


@functools.cache
def of_arrays(name):
    """Of an array and logits: value and gradients, and the derivatives of those in it."""
    row = DIVERGENCES[name]
    (keyword,) = row.parameters

    def value(t, a, b):
        return row.of_kl_jax(a, b, **{keyword: t})

    first = jax.value_and_grad(value, (0, 1, 2))
    each = functools.partial(jax.vmap, in_axes=(None, 0, 0))
    return quick(each(first)), quick(each(jax.jacfwd(lambda *x: first(*x)[1])))


@pytest.mark.parametrize(("name", "parameter"), ARRAYS)
def test_parameters_that_are_arrays(name, parameter):
    """At the ends of the range, and where Renyi's divergence is KL, as within."""
    definition = DIVERGENCES[name].definition
    rng = np.random.default_rng(5)
    a = (rng.normal(size=(6, 4)) * 3).astype("f4")
    noise = np.repeat([3.0, 1e-2, 1e-5], 2)[:, None]
    b = (a + rng.normal(size=a.shape) * noise + 7).astype("f4")
    t = np.float32(parameter)
    first, second = of_arrays(name)
    value, slopes = first(np.array(t), a, b)
    mixed = second(np.array(t), a, b)

    def of(x, y, t):
        return definition(oracles.Mpmath, oracles.softmax(x), oracles.softmax(y), t)

    def gradients(x, y, t):
        in_p = oracles.gradient(lambda x: of(x, y, t), x)
        return np.array([in_p, oracles.gradient(lambda y: of(x, y, t), y)])

    with mp.workdps(oracles.DIGITS):
        h = mp.mpf(10) ** -30
        # One-sided at the ends; beside 1, where the definition is another one.
        exact = mp.mpf(float(t))
        at = exact + h if exact == 0 else exact - h if exact == 1 else exact
        low, high = at - h / 2, at + h / 2
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert oracles.ulps(value[i], of(x, y, exact), "float32") <= BOUND
            in_t = (of(x, y, high) - of(x, y, low)) / h
            assert abs(slopes[0][i] - in_t) <= 2e-6 * abs(in_t)
            true = gradients(x, y, exact)
            of_both = (gradients(x, y, high) - gradients(x, y, low)) / h
            for j in range(2):
                size = np.abs(true[j]).max()
                assert np.abs(slopes[j + 1][i] - true[j]).max() <= 2e-5 * size
                size = np.abs(of_both[j]).max()
                assert np.abs(mixed[j + 1][i] - of_both[j]).max() <= 1e-4 * size


@pytest.mark.parametrize(
    "name",
    ["jensen_shannon", pytest.param("skew_kl", marks=pytest.mark.slow), "renyi 0.5"],
)
def test_one_program_serves_all_values_of_an_array(name):
    """Also a row each, under vmap; the number is another program, of the same values."""
    row = DIVERGENCES[name]
    (keyword,) = row.parameters
    traces = []

    @quick
    def of(a, b, t):
        traces.append(t)
        return row.of_kl_jax(a, b, **{keyword: t})

    rows = quick(jax.vmap(lambda a, b, t: row.of_kl_jax(a, b, **{keyword: t})))
    number = quick(lambda a, b: row.of_kl_jax(a, b, **{keyword: 0.5}))
    a, b = np.random.default_rng(7).normal(size=(2, 3, 5)).astype("f4")
    t = np.array([0.2, 0.5, 0.7], "f4")
    each = rows(a, b, t)
    for i in range(3):
        found = of(a[i], b[i], t[i])
        assert found.shape == ()
        np.testing.assert_array_max_ulp(found, each[i], 8)
        if t[i] == 0.5:
            np.testing.assert_array_max_ulp(found, number(a[i], b[i]), 8)
            half = of(a[i], b[i], t[i].astype(jnp.bfloat16))  # as schedules may be
            np.testing.assert_array_max_ulp(found, half, 8)
    assert len(traces) == 2  # one a dtype
    for outside in (-0.1, NAN, INF, 1.1):
        if outside != 1.1 or keyword != "order":
            assert np.isnan(of(a[0], b[0], np.float32(outside)))
    # p with an outcome that q lacks.
    value = of(np.zeros(5, "f4"), np.array([0, 0, 0, 0, -INF], "f4"), np.float32(0))
    at_0 = {"beta": 0, "skew": INF, "order": NAN}[keyword]
    np.testing.assert_array_equal(value, at_0)


# --- from probabilities ----------------------------------------------------------


def test_from_probs_is_the_sum_of_rel_entr():
    rng = np.random.default_rng(8)
    p, q = rng.uniform(size=(2, 4, 9))
    p[0, :3], q[1, 2] = 0, 0
    q[2] = p[2] * (1 + 1e-4 * rng.normal(size=9))
    p, q = (x.astype(np.float32) for x in (p, q))
    both = quick(lambda p, q: (kl_divergence_from_probs(p, q), rel_entr(p, q)))
    found, terms = both(p, q)
    assert found[1] == INF
    rest = np.arange(4) != 1
    size = np.abs(terms[rest]).sum(-1)
    true = scipy.special.rel_entr(*np.float64([p, q])).sum(-1)
    assert (np.abs(found[rest] - true[rest]) <= 4 * np.spacing(size)).all()
    p, q = (x / x.sum(-1, keepdims=True) for x in np.delete([p, q], 2, axis=1))
    np.testing.assert_allclose(
        kl_divergence_from_probs(p, q), scipy.stats.entropy(p, q, axis=-1), rtol=1e-5
    )


def test_from_probs_where_hides_values_and_gradients():
    p = np.array([0.2, 0.8, NAN, -1.0], np.float32)
    q = np.array([0.5, 0.5, 0.0, INF], np.float32)
    both = quick(
        lambda p, q, where: jax.value_and_grad(
            lambda p, q: kl_divergence_from_probs(p, q, where=where), (0, 1)
        )(p, q)
    )
    keep = np.array([True, True, False, False])
    value, gradients = both(p, q, keep)
    clean = both(*(np.resize(x[:2], 4) for x in (p, q)), keep)
    assert value == clean[0]
    np.testing.assert_allclose(value, scipy.stats.entropy(p[:2], q[:2]), rtol=1e-6)
    for g, e in zip(gradients, clean[1], strict=True):
        np.testing.assert_array_equal(g, np.append(e[:2], [0, 0]))
    np.testing.assert_allclose(gradients[0][:2], np.log(p[:2] / q[:2]) + 1, rtol=1e-6)
    np.testing.assert_allclose(gradients[1][:2], -p[:2] / q[:2], rtol=1e-6)
    # SciPy: outside the domain.
    assert both(p, q, np.array([False, False, False, True]))[0] == INF
