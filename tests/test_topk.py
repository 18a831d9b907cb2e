"""KL from the k largest log-probabilities: value, bound, boundary, derivatives."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
import registry
from programs import in_precision, of_rows, optimized, quick

from kl_jax import kl_divergence, topk_kl_divergence, topk_outcomes

INF, NAN = np.inf, np.nan
TAILS = ("bucket", "renormalize", "drop")


def by_tail(log_p, index, logits_q):
    return {t: topk_kl_divergence(log_p, index, logits_q, tail=t) for t in TAILS}


def slopes_by_tail(log_p, index, logits_q):
    """Value, and derivatives in `log_p` and `logits_q`, of every row."""

    def of_tail(tail):
        fun = lambda x, y: topk_kl_divergence(x, index, y, tail=tail)
        value, back = jax.vjp(fun, log_p, logits_q)
        return value, *back(jnp.ones_like(value))

    return {tail: of_tail(tail) for tail in TAILS}


_slopes_of_8_rows = quick(slopes_by_tail)


def slopes_of_rows(*arguments):
    """`slopes_by_tail` of at most 8 rows, by one program for all tests with the same k and
    number of outcomes.
    """
    rows = len(arguments[0])
    padded = (np.concatenate([x, x[:1].repeat(8 - rows, 0)]) for x in arguments)
    found = _slopes_of_8_rows(*padded)
    return {tail: [x[:rows] for x in of_tail] for tail, of_tail in found.items()}


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


def test_value(dtype):
    noises = [teacher(0, 4, noise=noise) for noise in (1.0, 1e-2)]
    _, b, log_p, index = map(np.concatenate, zip(*noises, strict=True))
    log_p, b = log_p.astype(dtype), b.astype(dtype)
    for tail, found in in_precision(dtype)(by_tail)(log_p, index, b).items():
        assert found.dtype == dtype
        true = [float(oracle(*x, tail)) for x in zip(log_p, index, b, strict=True)]
        # 1 - P and log(1 - Q) are rounded: 8 eps of the terms, which cancel in the sum.
        atol = 8 * np.finfo(dtype).eps
        np.testing.assert_allclose(found, true, rtol=0, atol=atol, err_msg=tail)


def test_all_outcomes_are_the_divergence_itself():
    noises = [teacher(1, 11, noise=noise) for noise in (1.0, 1e-3, 1e-6)]
    noises.append(teacher(2, 11, rows=40))  # some sum to less than 1 by rounding
    _, b, log_p, index = map(np.concatenate, zip(*noises, strict=True))
    log_p, b = log_p.astype("f4"), b.astype("f4")
    in_order = np.take_along_axis(log_p, np.argsort(index, -1), -1)
    found, expected = quick(lambda x, i, y, z: (by_tail(x, i, y), kl_divergence(z, y)))(
        log_p, index, b, in_order
    )
    for tail in ("bucket", "renormalize"):
        np.testing.assert_allclose(found[tail], expected, rtol=2e-6)


def test_bucket_is_a_lower_bound_that_grows_with_k():
    with jax.enable_x64(True):
        a, b, log_p, index = teacher(2, 11)
        order = np.argsort(-log_p, -1)
        log_p, index = (np.take_along_axis(x, order, -1) for x in (log_p, index))
        known = np.stack([np.where(np.arange(11) < k, log_p, -INF) for k in range(1, 12)])
        index, q = (np.broadcast_to(x, known.shape) for x in (index, b))
        both = quick(lambda a, b, *x: (topk_kl_divergence(*x), kl_divergence(a, b)))
        bounds, whole = both(a, b, known, index, q)
        assert (np.diff(bounds, axis=0) >= -1e-14).all()
        np.testing.assert_allclose(bounds[-1], whole, rtol=1e-12)
        assert (bounds[0] > 0).all()


def test_drop_may_be_negative():
    log_p, index = np.log(np.array([[0.2, 0.1]], "f4")), np.array([[0, 1]], "i4")
    found = slopes_of_rows(log_p, index, np.log(np.array([[0.5, 0.4, 0.1]], "f4")))
    assert found["drop"][0] < 0
    assert found["bucket"][0] > 0


@pytest.mark.parametrize("tail", TAILS)
def test_gradients(tail):
    """Against differences of the oracle at 30 digits."""
    _, b, log_p, index = teacher(3, 4, rows=2)
    with jax.enable_x64(True):
        _, *slopes = slopes_of_rows(log_p, index, b)[tail]
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


@pytest.mark.slow
def test_forward_over_reverse():
    _, b, log_p, index = teacher(4, 4)
    u, v = np.random.default_rng(5).normal(size=b.shape), np.ones_like(log_p)

    def changes(x, y, dx, dy):
        return jax.jvp(lambda x, y: slopes_by_tail(x, index, y), (x, y), (dx, dy))[1]

    h = 1e-5
    steps = [(log_p + s * v, index, b + s * u) for s in (h, -h)]
    with jax.enable_x64(True):
        found = quick(changes)(log_p, b, v, u)
        both = slopes_of_rows(*map(np.concatenate, zip(*steps, strict=True)))
    for tail in TAILS:
        for f, x in zip(found[tail], both[tail], strict=True):
            np.testing.assert_allclose(f, (x[:4] - x[4:]) / (2 * h), atol=1e-8)


def test_vmap():
    _, b, log_p, index = teacher(4, 4)
    with jax.enable_x64(True):
        found = quick(jax.vmap(by_tail))(log_p, index, b)
        expected = slopes_of_rows(log_p, index, b)
    for tail in TAILS:
        np.testing.assert_allclose(found[tail], expected[tail][0], rtol=1e-12)


def test_indices_that_are_wrong_make_their_row_nan():
    log_p = np.log(np.array([[0.5, 0.3]] * 5, "f4"))
    index = np.array([[0, 1], [1, 1], [0, 3], [-1, 0], [2, 0]], "i4")
    q = np.zeros((5, 3), "f4")
    high = np.array([[0, 2**32 - 1]] * 5, np.uint32)  # not -1
    found = slopes_of_rows(log_p, index, q)
    narrow, unsigned = quick(lambda x, i, j, y: (by_tail(x, i, y), by_tail(x, j, y)))(
        log_p, index.astype("i1"), high, q
    )
    for tail in TAILS:
        value = found[tail][0]
        np.testing.assert_array_equal(np.isnan(value), [False, True, True, True, False])
        np.testing.assert_array_equal(narrow[tail], value)
        assert np.isnan(unsigned[tail]).all()


def test_entries_of_no_probability_are_ignored_with_their_index():
    log_p, index = np.log(np.array([[0.5, 0.3]], "f4")), np.array([[2, 0]], "i4")
    q = np.array([[0.1, 0.5, -1.0]], "f4")
    expected = slopes_of_rows(log_p, index, q)
    others = np.array([[-1], [1], [2], [100]], "i4")
    x, at, y = (z.repeat(4, 0) for z in (log_p, index, q))
    x, at = np.append(x, np.full((4, 1), -INF, "f4"), 1), np.append(at, others, 1)
    found = slopes_of_rows(x, at, y)
    for tail in TAILS:
        value, in_p, in_q = found[tail]
        true, _, slope = (z.repeat(4, 0) for z in expected[tail])
        np.testing.assert_allclose(value, true, rtol=1e-6)
        np.testing.assert_allclose(in_q, slope, rtol=1e-6)
        assert np.isfinite(in_p[:, :2]).all()
        assert (in_p[:, 2] == 0).all()


def test_more_than_the_whole_by_rounding():
    log_p = np.log(np.array([[0.75, 0.25]] * 2, "f4")) + np.float32(2e-7)
    logits = np.array([[0.0, 1.0, 2.0], [0.0, -INF, 2.0]], "f4")
    index = np.array([[0, 2]] * 2, "i4")
    value, in_p, in_q = slopes_of_rows(log_p, index, logits)["bucket"]
    whole = np.array([0.75, 0.0, 0.25])
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    known = whole > 0
    true = (whole[known] * np.log(whole[known] / q[:, known])).sum(-1)
    np.testing.assert_allclose(value, true, rtol=1e-5)
    np.testing.assert_allclose(in_q, q - whole, atol=1e-6)
    assert np.isfinite(in_p).all()
    beyond = slopes_of_rows(log_p + np.float32(1e-6), index, logits)["bucket"][0]
    assert np.isnan(beyond).all()


def test_an_entry_that_comes_twice_counts_once():
    """As vLLM stores the token of the prompt beside the k largest; in slopes, too."""
    log_p = np.log(np.array([[0.5, 0.5, 0.3]], "f4"))
    logits = np.log(np.array([[0.4, 0.1, 0.3, 0.2]], "f4"))
    twice = slopes_of_rows(log_p, np.array([[2, 2, 0]], "i4"), logits)
    alone = np.append(log_p[:, 1:], [[-INF]], 1).astype("f4")  # of one program with these
    once = slopes_of_rows(alone, np.array([[2, 0, 0]], "i4"), logits)
    for tail in TAILS:
        (value, in_p, in_q), (v, p, q) = twice[tail], once[tail]
        np.testing.assert_allclose(value, v, rtol=1e-6)
        np.testing.assert_allclose(in_q, q, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(in_p[:, :2].sum(-1), p[:, 0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(in_p[:, 2], p[:, 1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_a_whole_policy_against_a_masked_student(dtype):
    """What `log_softmax` loses is no mass outside, whatever masks the student there."""
    rng = np.random.default_rng(3)
    shape = (3, 200, 5)
    scale = np.array([1, 3, 8])[:, None, None]
    z, y = (jnp.asarray(rng.normal(size=shape) * scale, dtype) for _ in "pq")
    index = np.broadcast_to(np.arange(5, dtype="i4"), shape)
    masks = jnp.asarray([-INF, -1e4, -1e9, float(jnp.finfo(dtype).min)], dtype)

    @quick
    def both(z, y, masks):
        log_p = jax.nn.log_softmax(z)
        pad = lambda x, fill: jnp.concatenate(
            [x, jnp.full((*shape[:2], 3), fill, dtype)], -1
        )
        expected = kl_divergence(pad(log_p, -INF), pad(y, -INF))
        return [topk_kl_divergence(log_p, index, pad(y, m)) for m in masks], expected

    found, expected = both(z, y, masks)
    for values in found:
        # log_softmax is not renormalised in one of them.
        close = 4 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(values, expected, rtol=close, atol=close)


def test_small_tails_have_all_their_digits():
    """Value and slopes where 1 - P is 1e-2 to 1e-6, of log p as they are stored."""
    rng = np.random.default_rng(4)
    worst = 0.0
    rows = []
    for scale in (3.0, 4.0, 5.0, 6.0):
        logits = rng.normal(size=(4, 60)) * scale
        for a in logits:
            log_p = np.sort(a - np.log(np.exp(a).sum()))[::-1][:20].astype("f4")
            order = np.argsort(-a)[:20]
            rows.append(
                (log_p, order.astype("i4"), (a + rng.normal(size=60) * 0.1).astype("f4"))
            )
    log_p, index, logits = (np.stack(x) for x in zip(*rows, strict=True))

    @optimized
    def of_q(log_p, index, logits):
        return of_rows(functools.partial(topk_kl_divergence, log_p, index))(logits)

    value, (slopes,) = of_q(log_p, index, logits)
    with mp.workdps(oracles.DIGITS):
        for x, i, y, v, g in zip(log_p, index, logits, value, slopes, strict=True):
            p = [mp.exp(mp.mpf(float(z))) for z in x]
            q = oracles.softmax(y)
            rest, rest_q = 1 - mp.fsum(p), 1 - mp.fsum(q[k] for k in i)
            if rest < 1e-6:
                continue
            terms = [a * mp.log(a / q[k]) for a, k in zip(p, i, strict=True)]
            true = mp.fsum(terms) + rest * mp.log(rest / rest_q)
            assert abs(v - true) <= 1e-6 * true
            outside = [k for k in range(60) if k not in i]
            exact = np.array([float(q[k] * (1 - rest / rest_q)) for k in outside])
            assert np.abs(g[outside] - exact).max() <= 1e-5 * float(rest)
            worst = max(worst, float(rest))
    assert worst > 1e-3


@pytest.mark.usefixtures("quickly")
def test_temperature_of_what_is_known():
    """T^2 KL of both sides given the k outcomes; of another tail it cannot be known."""
    log_p, index = np.log(np.float32([0.5, 0.3])), np.array([2, 0], "i4")
    logits = np.array([0.3, -1.0, 0.7, 0.1], "f4")
    f = lambda t: topk_kl_divergence(
        log_p, index, logits, tail="renormalize", temperature=t
    )
    value, slope = quick(jax.value_and_grad(f))(np.float32(2))
    true = lambda t: (
        t * t * float(oracles.kl(np.float64(log_p) / t, np.float64(logits[index]) / t))
    )
    np.testing.assert_allclose(value, true(2.0), rtol=1e-5)
    np.testing.assert_allclose(slope, (true(2.01) - true(1.99)) / 0.02, rtol=1e-3)
    assert f(2) == value
    for tail in ("bucket", "drop"):
        with pytest.raises(
            ValueError, match=r"^topk_kl_divergence: temperature must be 1 for"
        ):
            topk_kl_divergence(log_p, index, logits, tail=tail, temperature=2.0)


def test_all_outcomes_that_fall_short_of_the_whole_by_rounding():
    """There is no outcome outside to have the rest."""
    log_p = np.log(np.array([[0.25, 0.5, 0.25]], "f4")) - np.float32(1e-6)
    logits = np.array([[0.0, 1.0, 2.0]], "f4")
    found = slopes_of_rows(log_p, np.array([[2, 0, 1]], "i4"), logits)
    p = np.array([0.5, 0.25, 0.25])
    q = np.exp(logits[0]) / np.exp(logits[0]).sum()
    for tail in ("bucket", "renormalize"):
        value, in_p, in_q = found[tail]
        np.testing.assert_allclose(value, p @ np.log(p / q), rtol=1e-5)
        np.testing.assert_allclose(in_q, [q - p], atol=2e-6)
        assert np.isfinite(in_p).all()


def test_boundary():
    some, one = np.log([0.5, 0.25]), [0.0, 1.0, 2.0]
    rows = [
        ([-INF, -INF], one),
        (some, [0.0, -INF, 1.0]),
        (some, [0.0, 0.0, -INF]),
        ([NAN, some[1]], one),
        (some, [0.0, 1.0, NAN]),
    ]
    log_p, q = (np.array(z, "f4") for z in zip(*rows, strict=True))
    found = slopes_of_rows(log_p, np.array([[0, 1]] * 5, "i4"), q)
    for tail in TAILS:
        value, _, slope = found[tail]
        np.testing.assert_allclose(value[0], 0, atol=1e-7)
        np.testing.assert_allclose(slope[0], 0, atol=1e-7)
        if tail != "renormalize":
            assert np.isnan(value[3:]).all()
    assert (found["bucket"][0][1:3] == INF).all()


def test_what_is_ignored_takes_no_place():
    """Its index is no index, and no other's; nor is its entry in the list."""
    q, half = np.array([0.0, 1.0, 2.0], "f4"), np.float32(np.log(0.5))
    of_tails = quick(by_tail)
    expected = of_tails(half[None], np.array([0]), q)
    for index in ([2, 0, 7], [0, 0, 0], [-1, 0, 1]):
        found = of_tails(np.array([-INF, half, -INF], "f4"), np.array(index), q)
        for tail in TAILS:
            np.testing.assert_allclose(found[tail], expected[tail], rtol=1e-6)


def test_a_masked_vocabulary_has_finite_gradients():
    """q has no mass outside, and neither has p."""
    log_p, q = np.array([[0.0, -INF]], "f4"), np.array([[-INF, 0.0, -INF]], "f4")
    found = slopes_of_rows(log_p, np.array([[1, 0]], "i4"), q)
    for value, *slopes in found.values():
        assert value == 0
        assert all(np.isfinite(s).all() for s in slopes)


def test_half_precision_is_computed_in_float32():
    _, b, log_p, index = teacher(6, 4)
    x, y = log_p.astype(jnp.bfloat16), b.astype(jnp.bfloat16)

    @quick
    def as_it_is_and_in_float32(x, index, y):
        wide = topk_kl_divergence(x.astype("float32"), index, y.astype("float32"))
        return topk_kl_divergence(x, index, y), wide

    found, wide = as_it_is_and_in_float32(x, index, y)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, wide)
    loss = lambda y: topk_kl_divergence(x, index, y).sum()
    assert jax.eval_shape(jax.grad(loss), y).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.0], [0], [0.0, 1.0]), TypeError, "topk_index must be of an integer type"),
        ((np.zeros(2), np.zeros(3, int), np.zeros(4)), ValueError, "topk_index must have"),
        ((np.zeros((2, 1)), np.zeros((2, 1), int), np.zeros(4)), ValueError, "logits_q"),
        ((np.zeros(1), np.zeros(1, int), np.zeros(())), ValueError, "logits_q must have"),
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
    one = np.zeros(1, "f4"), np.zeros(1, int), np.zeros(2, "f4")
    with pytest.raises(ValueError, match="topk_kl_divergence: tail must be one of"):
        topk_kl_divergence(*one, tail="rest")


# --- outcomes -------------------------------------------------------------------


def merged(row, log_p, index, b):
    """A divergence by its definition, of the entries and the rest, and of any numbers."""
    with mp.workdps(oracles.DIGITS):
        p, e = ([mp.exp(mp.mpmathify(x)) for x in z] for z in (log_p, b))
        q = [e[i] / mp.fsum(e) for i in index]
        if len(p) < len(e):
            p, q = [*p, 1 - mp.fsum(p)], [*q, 1 - mp.fsum(q)]
        parameters = map(mp.mpf, row.parameters.values())
        return row.definition(oracles.Mpmath, p, q, *parameters)


@quick
def of_outcomes_and_whole(log_p, index, a, b):
    """Every divergence of merged outcomes, then of all of them."""
    pair = zip(topk_outcomes(log_p, index, b), (a, b), strict=True)
    pad = functools.partial(jnp.pad, pad_width=[(0, 0), (0, 1)], constant_values=-INF)
    p, q = (jnp.concatenate([x, pad(y)]) for x, y in pair)
    rows = registry.DIVERGENCES.items()
    return {name: row.function(p, q) for name, row in rows}


def test_every_divergence_of_outcomes():
    """It is the definition's of what is merged, grows with k, and is at most the whole."""
    ks = (1, 4, 7, 11)
    noises = [teacher(seed, 11, rows=2, noise=n) for seed, n in ((7, 1.0), (8, 1e-2))]
    _, b, log_p, index = (np.concatenate(x) for x in zip(*noises, strict=True))
    log_p, b = log_p.astype("f4"), b.astype("f4")
    a = np.take_along_axis(log_p, np.argsort(index, -1), -1)
    order = np.argsort(-log_p, -1)
    log_p, index = (np.take_along_axis(x, order, -1) for x in (log_p, index))
    known = np.concatenate([np.where(np.arange(11) < k, log_p, -INF) for k in ks])
    repeated = (np.concatenate([x] * len(ks)) for x in (index, a, b))
    found = of_outcomes_and_whole(known.astype("f4"), *repeated)
    for name, row in registry.DIVERGENCES.items():
        bounds, whole = np.split(found[name].reshape(2 * len(ks), 4), 2)
        whole = whole[0]
        for values, k in zip(bounds[:-1], ks, strict=False):
            rows = zip(log_p, index, b, strict=True)
            true = [float(merged(row, x[:k], i[:k], y)) for x, i, y in rows]
            # As in test_value, times the order 2: 3e-7 seen.
            np.testing.assert_allclose(values, true, rtol=0, atol=1e-6, err_msg=name)
            assert (values < whole).all()
        assert (np.diff(bounds, axis=0) > 0).all()
        # Two results of at most 8 ULP.
        np.testing.assert_allclose(bounds[-1], whole, rtol=2e-6, err_msg=name)


OF_OUTCOMES = {
    **{
        name: (registry.DIVERGENCES[name], "bucket")
        for name in ("kl", "jensen_shannon", "renyi 0.5")
    },
    "kl, renormalized": (registry.DIVERGENCES["kl"], "renormalize"),
}


def eight_rows():
    """Three that are as usual, three that are no distributions, and two at the boundary."""
    noises = [teacher(seed, 4, rows=3, noise=n) for seed, n in ((9, 1.0), (10, 1e-2))]
    rows = zip(*noises, strict=True)
    _, b, log_p, index = (np.concatenate([x, y, x[:2]]) for x, y in rows)
    index[3, 2] = 11
    index[4, 1] = index[4, 0]
    log_p[5] = np.log(0.3)  # of sum 1.2
    b[6, index[6, 0]] = -INF
    log_p[7] = np.log(0.25)
    return log_p.astype("f4"), index, b.astype("f4")


@functools.cache
def slopes_of_outcomes():
    """Values and derivatives of `OF_OUTCOMES` for `eight_rows`."""

    @quick
    def slopes(log_p, index, b):
        def of(row, tail):
            fun = lambda x, y: row.function(*topk_outcomes(x, index, y, tail=tail))
            value, back = jax.vjp(fun, log_p, b)
            return value, *back(jnp.ones_like(value))

        return {name: of(*x) for name, x in OF_OUTCOMES.items()}

    return slopes(*eight_rows())


def test_the_kl_of_outcomes_is_that_of_the_top_k():
    """To the bit, also where it is nan or inf."""
    found, expected = slopes_of_outcomes(), slopes_of_rows(*eight_rows())
    for name, tail in (("kl", "bucket"), ("kl, renormalized", "renormalize")):
        for x, y in zip(found[name], expected[tail], strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", ["kl", "jensen_shannon", "renyi 0.5"])
def test_gradients_of_outcomes(name):
    row, _ = OF_OUTCOMES[name]
    values = slopes_of_outcomes()[name]
    for x, index, y, _, *slopes in list(zip(*eight_rows(), *values, strict=True))[:3]:
        of_p = lambda z, i=index, y=y: merged(row, z, i, y)
        of_q = lambda z, i=index, x=x: merged(row, x, i, z)
        for g, of, at in zip(slopes, (of_p, of_q), (x, y), strict=True):
            true = np.array(oracles.gradient(of, at), "f8")
            # Of the largest slope; 3.1e-7 seen.
            np.testing.assert_allclose(g, true, rtol=0, atol=1e-6 * np.abs(true).max())


def test_slopes_of_outcomes_at_the_boundary():
    """Finite, and 0 in rows of nan: a mask hides these from every derivative."""
    for name, (value, *slopes) in slopes_of_outcomes().items():
        for slope in slopes:
            assert np.isfinite(slope).all(), name
            assert (slope[np.isnan(value)] == 0).all(), name


def test_every_divergence_of_outcomes_at_the_boundary():
    """nan for what is no distribution, and inf where the definition is."""
    log_p, index, b = (np.concatenate([x, x]) for x in eight_rows())
    log_p = np.pad(log_p, [(0, 0), (0, 7)], constant_values=-INF)
    index = np.pad(index, [(0, 0), (0, 7)])
    found = of_outcomes_and_whole(log_p, index, b, b)
    for name, row in registry.DIVERGENCES.items():
        value = found[name][:8]
        assert np.flatnonzero(np.isnan(value)).tolist() == [3, 4, 5], name
        q_has_none = row.definition(
            oracles.Mpmath, [0.5, 0.5], [1, 0], *row.parameters.values()
        )
        p_has_none = row.definition(
            oracles.Mpmath, [1, 0], [0.5, 0.5], *row.parameters.values()
        )
        assert (value[6] == INF) == (q_has_none == INF), name
        assert (value[7] == INF) == (p_has_none == INF), name


def test_outcomes_that_a_student_holds_likely():
    """The roles exchanged: KL(student || teacher) on the student's own k, and the rest."""
    teacher_logits, student, *_ = (x.astype("f4") for x in teacher(11, 3, rows=2))

    def loss(student):
        log_p, index = jax.lax.top_k(jax.nn.log_softmax(student), 3)
        pair = topk_outcomes(log_p, index, teacher_logits)
        return kl_divergence(*pair)

    value, (slopes,) = quick(of_rows(loss))(student)

    def true(x, index, y):
        with mp.workdps(oracles.DIGITS):
            log_size = mp.log(mp.fsum(map(mp.exp, x)))
            log_p = [x[i] - log_size for i in index]
        return merged(registry.DIVERGENCES["kl"], log_p, index, y)

    for x, y, v, g in zip(student, teacher_logits.tolist(), value, slopes, strict=True):
        index = np.argsort(-x)[:3]
        of_x = lambda z, i=index, y=y: true(z, i, y)
        np.testing.assert_allclose(v, float(of_x(x.tolist())), rtol=2e-6)
        expected = np.array(oracles.gradient(of_x, x), "f8")
        np.testing.assert_allclose(g, expected, rtol=0, atol=2e-6)


def test_places_of_outcomes():
    """By index, then what is ignored, and the rest last; with vmap, and of bfloat16."""
    index = np.array([[5, 7, 0, 5], [3, 1, 2, 0]], "i4")
    half = np.float32(np.log(0.5))
    log_p = half * np.array([[1, INF, 2, 1], [3, 2, 3, 1]], "f4")
    b = np.array([[1.0, 2, 3, 4, -INF, 5], [1, 2, 3, 4, 4, -INF]], "f4")
    narrow = lambda x, i, y: topk_outcomes(x.astype("bfloat16"), i, y.astype("bfloat16"))
    each = [topk_outcomes, functools.partial(topk_outcomes, tail="renormalize"), narrow]
    found = quick(lambda *x: [f(*x) for f in (*each, jax.vmap(topk_outcomes))])(
        log_p, index, b
    )
    p = np.array([[0.25, 0.5, 0, 0, 0.25], [0.5, 0.25, 0.125, 0.125, 0]], "f4")
    rest = np.log(np.exp(b[0, 1:4]).sum())
    q = np.array([[1, 5, -INF, -INF, rest], [1, 2, 3, 4, 4]], "f4")
    for n, (found_p, found_q) in enumerate(found):
        assert found_p.dtype == found_q.dtype == jnp.float32
        last = 4 if n == 1 else 5
        atol = 1e-2 if n == 2 else 1e-6
        np.testing.assert_allclose(np.exp(found_p), p[:, :last], rtol=0, atol=atol)
        np.testing.assert_allclose(found_q, q[:, :last], rtol=0, atol=1e-6)


def test_outcomes_need_a_pair_of_distributions():
    one = np.zeros(1, "f4"), np.zeros(1, int), np.zeros(2, "f4")
    with pytest.raises(
        ValueError, match=r"^topk_outcomes: tail must be 'bucket' or .* Wri"
    ):
        topk_outcomes(*one, tail="drop")
    with pytest.raises(
        ValueError, match=r"^topk_outcomes: tail must be one of 'bucket', 'r"
    ):
        topk_outcomes(*one, tail="rest")
    with pytest.raises(ValueError, match=r"^topk_outcomes: topk_index must have"):
        topk_outcomes(one[0], np.zeros(3, int), one[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon", "renyi 0.5"])
def test_forward_over_reverse_of_outcomes(name):
    _, b, log_p, index = teacher(12, 4)
    u, v = np.random.default_rng(13).normal(size=b.shape), np.ones_like(log_p)
    function = registry.DIVERGENCES[name].function

    @quick
    def changes(x, y, dx, dy):
        f = lambda x, y: jnp.sum(function(*topk_outcomes(x, index, y)))
        return jax.jvp(jax.grad(f, (0, 1)), (x, y), (dx, dy))

    h = 1e-6
    with jax.enable_x64(True):
        _, found = changes(log_p, b, v, u)
        up, down = (changes(log_p + s * v, b + s * u, v, u)[0] for s in (h, -h))
    for f, x, y in zip(found, up, down, strict=True):
        np.testing.assert_allclose(f, (x - y) / (2 * h), rtol=0, atol=1e-8)
