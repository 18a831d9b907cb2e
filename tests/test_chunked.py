"""Chunks of rows: what they return, every derivative, devices, memory; and recipes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from programs import quick, temporary_memory

from kl_jax import (
    Weighted,
    chunked,
    jensen_shannon_divergence,
    kl_divergence,
    masked,
    mean,
    mixture_logits,
    topk_kl_divergence,
)
from kl_jax import sum as sum_

NAN = np.nan


def surprise(hidden, *, weights):
    """Of rows, and 0.2 CPU seconds of compiling; slopes need the logits once more."""
    return jax.nn.logsumexp(hidden @ weights, -1)


def head(rows, seed=0, features=3, outcomes=11, dtype="float32"):
    rng = np.random.default_rng(seed)
    shapes = (rows, features), (features, outcomes)
    return [rng.normal(size=s).astype(dtype) for s in shapes]


def derivatives(f):
    """Values, gradients, and a derivative of both, of values that count differently."""

    def total(hidden, weights):
        values = f(hidden, weights=weights)
        return jnp.sum(values * jnp.arange(1, len(values) + 1, dtype=values.dtype)), values

    gradient = jax.grad(total, (0, 1), has_aux=True)

    def both(*x):
        return jax.jvp(gradient, x, tuple(jnp.cos(y) for y in x))

    return both


def assert_same(found, true, rtol):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(true), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.abs(y).max(initial=0))


# --- values and derivatives --------------------------------------------------------


# No rows, one, 1 more than a chunk (3 are repeated), chunks that divide them, 1 repeated.
@pytest.mark.parametrize("rows", [0, 1, 5, 12, 11])
def test_values_and_derivatives_are_those_without_chunks(rows, dtype):
    x = head(rows, dtype=dtype)
    one, other = surprise, chunked(surprise, 4)
    found, true = quick(lambda *x: [derivatives(f)(*x) for f in (other, one)])(*x)
    # Sums over the rows in another order: 1.0 of them in float32, 1.4 in float64.
    assert_same(found, true, 8 * np.finfo(dtype).eps)


def test_chunks_of_one_row_and_the_order_of_rows():
    x = np.arange(24, dtype="f4").reshape(6, 4)
    with_axis = {size: quick(chunked(jnp.negative, size)) for size in (1, 2, 4, 5)}
    for f in with_axis.values():
        np.testing.assert_array_equal(f(x), -x)
    for size in (2, 3):
        found = quick(chunked(jnp.negative, size, axis=1))(x)
        np.testing.assert_array_equal(found, -x)


@pytest.mark.parametrize("rows", [8, 9])
def test_rows_of_a_call(rows):
    """No more rows than asked for, and none that do not exist."""
    seen = []

    def rank(x):
        seen.append(x.shape[0])
        return 1 / x  # inf of a row of zeros, as padding would be

    assert np.isfinite(quick(chunked(rank, 4))(np.ones(rows, "f4"))).all()
    assert set(seen) == {4}
    seen.clear()
    quick(chunked(rank, 100))(np.ones(rows, "f4"))
    assert seen == [rows]


@pytest.mark.parametrize("rows", [8, 7])
def test_a_row_of_nan_stays_alone(rows):
    hidden, weights = head(rows)
    hidden[5] = NAN  # of 7 rows, one that two chunks compute
    gradient = jax.vjp
    f = chunked(surprise, 4)

    @quick
    def both(hidden):
        values, back = gradient(lambda h: f(h, weights=weights), hidden)
        return values, *back(jnp.ones_like(values))

    for found in both(hidden):
        bad = np.isnan(found).reshape(rows, -1).any(-1)
        np.testing.assert_array_equal(bad, np.arange(rows) == 5)


def test_reverse_over_reverse_and_closed_over_weights():
    hidden, weights = head(7)

    def curvature(f, weights):
        slope = jax.grad(lambda w: jnp.sum(f(hidden, w)))
        return jax.grad(lambda w: jnp.sum(slope(w) ** 2))(weights)

    by_keyword = lambda h, w: chunked(surprise, 3)(h, weights=w)
    closed_over = lambda h, w: chunked(lambda h: surprise(h, weights=w), 3)(h)
    plain = lambda h, w: surprise(h, weights=w)
    every = quick(lambda w: [curvature(f, w) for f in (by_keyword, closed_over, plain)])
    *found, true = every(weights)
    for one in found:
        assert_same(one, true, 1e-6)  # 1e-7


def test_vmap_of_rows_and_of_weights():
    hidden, weights = (np.stack([x, 2 * x, -x]) for x in head(7))
    f = chunked(surprise, 3)
    both = lambda f: [
        jax.vmap(lambda h, w: f(h, weights=w), axes)
        for axes in ((0, 0), (0, None), (None, 0))
    ]
    choose = lambda axes: [(hidden, weights), (hidden, weights[0]), (hidden[0], weights)]
    found, true = quick(
        lambda _: [
            [g(*x) for g, x in zip(both(f), choose(0), strict=True)] for f in (f, surprise)
        ]
    )(0)
    assert_same(found, true, 1e-6)  # 6e-8


@functools.cache
def of_1024_chunks():
    """Of bfloat16 weights, as a keyword and closed over: errors, and the gradients."""
    hidden, weights = head(1024, features=4, outcomes=5)
    hidden = (1 + 0.1 * hidden).astype(jnp.bfloat16)
    weights = weights.astype(jnp.bfloat16)

    @quick
    def both(weights):
        f = chunked(surprise, 1)
        closed_over = lambda w: chunked(lambda h: surprise(h, weights=w), 1)
        return (
            jax.grad(lambda w: jnp.sum(f(hidden, weights=w), dtype="f4"))(weights),
            jax.grad(lambda w: jnp.sum(closed_over(w)(hidden), dtype="f4"))(weights),
        )

    x, w = (y.astype("f8") for y in (hidden, weights))
    slopes = np.exp(x @ w)
    true = x.T @ (slopes / slopes.sum(-1, keepdims=True))
    return [np.abs(g.astype("f8") / true - 1).max() for g in both(weights)], both(weights)


def test_gradients_in_half_precision_are_summed_in_float32():
    (found, closed_over), gradients = of_1024_chunks()
    assert gradients[0].dtype == jnp.bfloat16
    # 0.0032, a rounding of the result to bfloat16 and those of 1024 slopes; without, 0.6.
    assert found < 1e-2
    assert closed_over > 0.1  # as documented


# --- arguments and results -----------------------------------------------------------


@pytest.mark.usefixtures("quickly")
def test_trees_of_arguments_and_results():
    hidden, weights = head(7)
    index = np.arange(7)

    def f(pair, nothing, *, heads, names, scale=1.0):
        assert nothing is None
        assert names == ("log_sum", None)
        first = surprise(pair["hidden"], weights=heads[0]) * scale
        return {"log_sum": (first, pair["index"]), "none": None}

    call = quick(
        lambda h, w: chunked(f, 3)(
            {"hidden": h, "index": index},
            None,
            heads=[w, 3],
            names=("log_sum", None),
            scale=2.0,
        )
    )
    found = call(hidden, weights)
    assert found["none"] is None
    first, second = found["log_sum"]
    np.testing.assert_allclose(first, 2 * surprise(hidden, weights=weights), rtol=1e-6)
    np.testing.assert_array_equal(second, index)


def test_masks_inside_and_outside():
    hidden, weights = head(7)
    mask = np.arange(7) % 3 > 0
    by_place = lambda h, m, *, weights: masked(surprise)(h, mask=m, weights=weights)

    @quick
    def losses(h, m, w):
        return (
            mean(masked(surprise))(h, mask=m, weights=w),
            mean(masked(chunked(surprise, 3)))(h, mask=m, weights=w),
            mean(chunked(by_place, 3))(h, m, weights=w),
            sum_(chunked(by_place, 3))(h, m, weights=w) / m.sum(dtype="f4"),
            chunked(by_place, 3)(h, m, weights=w),
        )

    true, *found, parts = losses(hidden, mask, weights)
    np.testing.assert_allclose(found, [true] * 3, rtol=1e-6)
    assert isinstance(parts, Weighted)
    np.testing.assert_array_equal(parts.weights, mask)


X = np.ones((6, 2), "f4")
CALLS = {
    "no function": (
        *(TypeError, r"the argument to transform must be a function, found float"),
        lambda: chunked(3.0, 2),
    ),
    "size": (ValueError, r"size must be > 0, found 0", lambda: chunked(surprise, 0)),
    "size 2.5": (TypeError, r"size must be an integer", lambda: chunked(surprise, 2.5)),
    "axis": (TypeError, r"axis must be an integer", lambda: chunked(surprise, 2, axis=0.0)),
    "axis -1": (ValueError, r"axis must be >= 0", lambda: chunked(surprise, 2, axis=-1)),
    "axis 2": (
        *(ValueError, r"positional argument 0 must have rows along axis 2, found shape"),
        lambda: chunked(jnp.sin, 2, axis=2)(X),
    ),
    "no rows": (
        *(TypeError, r"there must be a positional argument with rows, found none"),
        lambda: chunked(surprise, 2)(None, weights=X),
    ),
    "no array": (
        *(TypeError, r"positional argument 1\['a'\] must be an array, found str"),
        lambda: chunked(lambda x, y: x, 2)(X, {"a": "b"}),
    ),
    "lengths": (
        *(ValueError, r"argument 1 must be as long .* argument 0, 6, found shape \(5, 2\)"),
        lambda: chunked(jnp.add, 2)(X, X[:5]),
    ),
    "reduced": (
        *(ValueError, r"one entry for each of the 2 rows given, along axis 0, .* \(\)"),
        lambda: chunked(jnp.sum, 2)(X),
    ),
    "reduced at once": (
        *(ValueError, r"one entry for each of the 6 rows given, .* as in mean\(chunked"),
        lambda: chunked(jnp.sum, 9)(X),
    ),
    "other length": (
        *(ValueError, r"one entry for each of the 4 rows given, .* found shape \(3, 2\)"),
        lambda: chunked(lambda x: x[:3], 4)(X),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors(name):
    error, message, call = CALLS[name]
    with pytest.raises(error, match=f"^chunked: .*{message}"):
        call()


# --- devices -----------------------------------------------------------------------


def mesh_of(kind):
    return jax.make_mesh((8,), ("rows",), axis_types=(kind,))


def loss_of(f, **kwargs):
    return lambda hidden, weights: mean(f, **kwargs)(hidden, weights=weights)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("inside", [False, True])
def test_shard_map(inside):
    """Devices cut their own rows, and sum the gradient of the weights once."""
    x = head(40)
    local = loss_of(chunked(surprise, 2), axis_name="rows")
    places = {"mesh": mesh_of(AxisType.Auto), "in_specs": (P("rows"), P())}
    if inside:
        body, specs = jax.value_and_grad(local, (0, 1)), (P(), (P("rows"), P()))
        both = jax.shard_map(body, out_specs=specs, **places)
    else:
        both = jax.value_and_grad(jax.shard_map(local, out_specs=P(), **places), (0, 1))
    true = quick(jax.value_and_grad(loss_of(surprise), (0, 1)))(*x)
    program = jax.jit(both).lower(*x).compile()
    assert_same(program(*x), true, 1e-6)  # 1e-7
    sums = re.findall(r' all-reduce\(.*op_name="([^"]*)"', program.as_text())
    assert sums
    assert not [name for name in sums if "while" in name]


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("rows", [32, 24])
def test_plain_jit_on_sharded_rows(kind, rows):
    """Chunks of 16: they divide 32 rows, and devices share each; 8 of 24 are repeated."""
    mesh = mesh_of(kind)
    x = head(rows)
    placed = [
        jax.device_put(y, NamedSharding(mesh, spec))
        for y, spec in zip(x, (P("rows"), P()), strict=True)
    ]
    gradient = jax.value_and_grad(loss_of(chunked(surprise, 16)), (0, 1))
    true = quick(jax.value_and_grad(loss_of(surprise), (0, 1)))(*x)
    with jax.set_mesh(mesh):
        program = jax.jit(gradient).lower(*placed).compile()
        assert_same(program(*placed), true, 1e-6)  # 1e-7
    assert ("all-gather" in program.as_text()) == (rows == 24)


# --- memory --------------------------------------------------------------------------


def jsd(h_p, h_q, *, w_p, w_q):
    return jensen_shannon_divergence(h_p @ w_p, h_q @ w_q, beta=0.3)


@pytest.mark.parametrize("rows", [256, 250])
def test_memory_is_that_of_a_chunk(rows):
    """Of 8 MiB of logits, chunks of 0.5, and twice the weights, of 1."""
    h, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, 32), (32, 8192)))
    gradient = jax.value_and_grad(loss_of(chunked(surprise, 16)), (0, 1))
    assert temporary_memory(gradient, h, w) <= 4 * 2**20


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("divergence", [kl_divergence, jensen_shannon_divergence])
def test_the_derivative_computes_no_sum_anew(divergence):
    """The first pass over the logits asks whether all of them are finite, and once."""

    def head(h_p, h_q, *, w):
        return divergence(h_p @ w, h_q @ w)

    def loss(h_p, h_q, w):
        return mean(chunked(head, 4))(h_p, h_q, w=w)

    shapes = (8, 3), (8, 3), (3, 5)
    arguments = [jax.ShapeDtypeStruct(x, jnp.float32) for x in shapes]
    program = jax.jit(jax.value_and_grad(loss, 1)).lower(*arguments).compile()
    assert program.as_text().count("conditional(") == 1


def test_dense_rows_are_not_copied():
    """Logits of 8 MiB that are given, of which the last chunk repeats some."""
    x = jax.ShapeDtypeStruct((250, 8192), jnp.float32)
    gradient = jax.value_and_grad(mean(chunked(lambda x: jax.nn.logsumexp(x, -1), 16)))
    assert temporary_memory(gradient, x) <= 2 * 2**20


# --- recipes -------------------------------------------------------------------------

ROWS, FEATURES, OUTCOMES = 7, 4, 13


def heads(seed=1):
    rng = np.random.default_rng(seed)
    shapes = [(ROWS, FEATURES), (FEATURES, OUTCOMES)] * 2 + [(OUTCOMES,)]
    return [rng.normal(size=s) for s in shapes]


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def test_generalised_jensen_shannon_of_two_heads():
    h_p, w_p, h_q, w_q, _ = heads()
    f = chunked(jsd, 3)
    found = quick(lambda *x: f(*x[:2], w_p=x[2], w_q=x[3]))(
        *(x.astype("f4") for x in (h_p, h_q, w_p, w_q))
    )
    p, q = softmax(h_p @ w_p), softmax(h_q @ w_q)
    m = 0.3 * p + 0.7 * q
    np.testing.assert_allclose(found, 0.3 * kl(p, m) + 0.7 * kl(q, m), rtol=1e-5)


def test_three_losses_of_one_product():
    """Cross-entropy, T^2 KL from a dense teacher of probabilities, and the entropy."""
    h, w, _, _, bias = (x.astype("f4") for x in heads())
    rng = np.random.default_rng(2)
    teacher = softmax(rng.normal(size=(ROWS, OUTCOMES))).astype("f4")
    labels = rng.integers(0, OUTCOMES, ROWS)

    def losses(hidden, labels, teacher, *, weights, bias, temperature, cap):
        logits = cap * jnp.tanh((hidden @ weights + bias[None]) / cap)
        log_q = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_q, labels[:, None], -1)[:, 0]
        log_p = jnp.log(teacher)
        t = temperature
        return {
            "cross-entropy": -chosen,
            "distillation": t * t * kl_divergence(log_p / t, logits / t),
            "entropy": -jnp.sum(jnp.exp(log_q) * log_q, -1),
        }

    f = functools.partial(chunked(losses, 3), temperature=2.0, cap=3.0)
    found = quick(lambda h, w, b: f(h, labels, teacher, weights=w, bias=b))(h, w, bias)
    z = 3 * np.tanh((h.astype("f8") @ w.astype("f8") + bias) / 3)
    q = softmax(z)
    p = softmax(np.log(teacher.astype("f8")) / 2)
    true = {
        "cross-entropy": -np.log(q[np.arange(ROWS), labels]),
        "distillation": 4 * kl(p, softmax(z / 2)),
        "entropy": -(q * np.log(q)).sum(-1),
    }
    for name, expected in true.items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-6, err_msg=name)


def test_a_stored_top_k_teacher_of_a_head():
    h, w, *_ = (x.astype("f4") for x in heads())
    rng = np.random.default_rng(3)
    p = softmax(rng.normal(size=(ROWS, OUTCOMES)))
    index = np.argsort(-p)[:, :3]
    top = np.take_along_axis(p, index, -1)
    f = chunked(lambda i, x, h, *, w: topk_kl_divergence(x, i, h @ w), 3)
    found = quick(lambda h, w: f(index, np.log(top).astype("f4"), h, w=w))(h, w)
    q = softmax(h.astype("f8") @ w.astype("f8"))
    pair = (top, np.take_along_axis(q, index, -1))
    tails = (np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in pair)
    np.testing.assert_allclose(found, kl(*tails), rtol=1e-5)


def test_several_teachers():
    h, w, _, student, _ = (x.astype("f4") for x in heads())
    others = np.stack([w, w[::-1], -w])

    def f(h, *, teachers, student):
        return kl_divergence(mixture_logits(h[None] @ teachers), h @ student)

    found = quick(lambda h, t, s: chunked(f, 3)(h, teachers=t, student=s))(
        h, others, student
    )
    x = h.astype("f8")
    p = softmax(x[None] @ others.astype("f8")).mean(0)
    np.testing.assert_allclose(found, kl(p, softmax(x @ student.astype("f8"))), rtol=1e-5)
