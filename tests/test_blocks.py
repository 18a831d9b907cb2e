"""Blocks of outcomes: any partition, merged in any order, gives the KL of the whole."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from block_cases import BOUND, OUTCOMES, assert_invariants, batch, truth, worst
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import optimized, quick

from kl_jax._blocks import merge
from kl_jax._passes import Block, summarize

INF, NAN = np.inf, np.nan
PIECES = 6

# Worst seen of 900 partitions merged in pairs: 36 ULP in row 119, p peaked, 7 outcomes of q
# alone, KL 1e-5; in other rows 8.0.
IN_PAIRS = 48.0


def merged_pair(x, y):
    return merge(jax.tree.map(lambda *z: jnp.stack(z), x, y))


whole = optimized(summarize)
union = optimized(merge, static_argnames="axis")
pair = optimized(merged_pair)
quick_whole = quick(summarize)
quick_union = quick(merge, static_argnames="axis")
quick_pair = quick(merged_pair)


def cut(x, sizes):
    """[..., OUTCOMES] as [pieces, ..., OUTCOMES]: pieces of these sizes, padded."""
    pieces = np.split(x, np.cumsum(sizes)[:-1], -1)
    pad = lambda y: [(0, 0)] * (x.ndim - 1) + [(0, OUTCOMES - y.shape[-1])]
    return np.stack([np.pad(y, pad(y), constant_values=-INF) for y in pieces])


def of_index(summaries, i):
    return jax.tree.map(lambda x: x[i], summaries)


def orders(draw, count):
    """Which two blocks to merge next, until one is left."""
    for left in range(count, 1, -1):
        yield draw(st.permutations(range(left)))[:2]


partitions = st.lists(
    st.integers(1, OUTCOMES - 1), min_size=PIECES - 1, max_size=PIECES - 1, unique=True
).map(lambda cuts: np.diff([0, *sorted(cuts), OUTCOMES]))

few = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# --- any partition, any order -------------------------------------------------------


@few
@given(sizes=partitions, data=st.data())
def test_any_partition_in_any_order(dtype, sizes, data):
    a, b, true = batch(dtype)
    pieces = whole(cut(a, sizes), cut(b, sizes))
    at_once = union(pieces)
    assert worst(at_once.kl, true) <= BOUND
    assert_invariants(at_once, dtype)
    heap = [of_index(pieces, i) for i in range(PIECES)]
    for i, j in orders(data.draw, PIECES):
        first, second = heap[i], heap[j]
        heap = [x for k, x in enumerate(heap) if k not in (i, j)]
        heap.append(pair(first, second))
    assert worst(heap[0].kl, true) <= IN_PAIRS
    assert_invariants(heap[0], dtype)


def test_blocks_of_one_outcome():
    a, b, true = batch("float32")
    inner = whole(a[..., None], b[..., None])
    np.testing.assert_array_equal(inner.kl, 0)
    assert worst(union(inner, axis=-1).kl, true) <= BOUND


def test_any_axis():
    a, b, true = batch("float32")
    inner = whole(*(cut(x, [4] * PIECES) for x in (a, b)))
    last = quick_union(Block(*(x.T for x in inner)), axis=-1)
    assert worst(last.kl, true) <= BOUND
    grid = Block(*(x.reshape(2, 3, -1) for x in inner))
    for axes in ((1, 0), (-3, -2)):
        found = quick_union(quick_union(grid, axis=axes[0]), axis=axes[1])
        assert worst(found.kl, true) <= BOUND
        assert_invariants(found, "float32")


def test_shards_of_the_vocabulary():
    a, b, true = batch("float32")
    shards = [np.stack(np.split(x, 8, -1)) for x in (a, b)]
    each = quick(jax.vmap(summarize))(*shards)
    assert worst(quick_union(each, axis=0).kl, true) <= BOUND
    by_row = quick(jax.vmap(merge, in_axes=1))(each)
    assert worst(by_row.kl, true) <= BOUND


# --- blocks with no mass, infinities, nan -----------------------------------------


def test_mass_of_q_in_blocks_without_p(dtype):
    """KL = log(1 + n e^b) of n such outcomes, also where that is nearly 0 or huge."""
    far = np.array([-60.0, -10, 0, 10, 29, 80, 1e4], dtype)
    shape = batch(dtype)[0].shape
    none = np.full(shape, -INF, dtype)
    zero, b = none.copy(), none.copy()
    zero[:, 0], b[:, 0] = 0, np.resize(far, len(b))
    p, q = whole(zero, zero), whole(none, b)
    np.testing.assert_array_equal(q.kl, 0)
    twice = pair(q, q)
    np.testing.assert_array_equal(twice.kl, 0)
    for block, n in ((q, 1), (twice, 2)):
        sides = [[0] + [-INF] * n] * len(far), [[0] + [x] * n for x in far]
        true = truth(*(np.array(x, dtype) for x in sides))
        for found in (pair(p, block), pair(block, p)):
            assert worst(found.kl[: len(far)], true) <= 2  # seen 1.0


def test_mass_of_p_in_blocks_without_q(dtype):
    a, b, _ = batch(dtype)
    none = np.full_like(a, -INF)
    full, lacking = whole(a, b), whole(a, none)
    for found in (pair(full, lacking), pair(lacking, full), pair(lacking, lacking)):
        np.testing.assert_array_equal(found.kl, INF)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e3])
def test_a_block_without_outcomes_is_neutral(offset, dtype):
    a, b, _ = batch(dtype)
    full = whole(a, b + np.asarray(offset, dtype))
    empty = whole(*[np.full_like(a, -INF)] * 2)
    for found in (pair(full, empty), pair(empty, pair(full, empty)), pair(full, full)):
        # The same sums, shifted by the rounding of the mean: worst seen 2 ULP.
        np.testing.assert_array_max_ulp(found.kl[:15], full.kl[:15], 4, dtype)
    np.testing.assert_array_equal(pair(empty, empty).kl, 0)


@functools.cache
def every(values, dtype):
    """Three outcomes a row, with all logits of both sides; and as blocks of one."""
    rows = np.array(list(itertools.product(values, repeat=6)), dtype)
    rows = np.resize(rows, (15625, 6))  # one program for all
    a, b = rows[:, :3], rows[:, 3:]
    single = quick_whole(a.T[..., None], b.T[..., None])
    one = [of_index(single, i) for i in range(3)]
    merged = (
        quick_union(single),
        quick_pair(quick_pair(one[0], one[1]), one[2]),
        quick_pair(one[0], quick_pair(one[1], one[2])),
        quick_pair(quick_pair(one[2], one[0]), one[1]),
    )
    return a, b, quick_whole(a, b), merged


EVERY = {
    "moderate": (-INF, 0.0, 1.0, 20.0, -20.0),
    "far": (-INF, 0.0, -50.0, 1000.0, -1000.0),
    "infinite": (-INF, 0.0, 1.0, INF),
}


@pytest.mark.parametrize("values", EVERY)
def test_all_logits_of_a_few(values):
    a, b, direct, merged = every(EVERY[values], "float32")
    direct = np.asarray(direct.kl)
    assert (direct >= 0).all()
    largest = np.where(np.isposinf(a).any(-1), INF, -np.finfo("f4").max)[:, None]
    outcomes = a >= largest
    has_q = np.where(np.isposinf(b).any(-1)[:, None], b == INF, b > -INF)
    np.testing.assert_array_equal(np.isposinf(direct), (outcomes & ~has_q).any(-1))
    for found in merged:
        # Worst seen 3e-7.
        np.testing.assert_allclose(found.kl, direct, rtol=1e-6)


def test_nan_in_any_block():
    a, b, direct, merged = every((-INF, 0.0, 1.0, NAN), "float32")
    some = ~np.isneginf(a).all(-1)
    expected = (np.isnan(a) | np.isnan(b)).any(-1)
    for found in (direct, *merged):
        np.testing.assert_array_equal(np.isnan(found.kl)[some], expected[some])
    clean = ~expected
    for found in merged:
        np.testing.assert_allclose(
            np.asarray(found.kl)[clean],
            np.asarray(direct.kl)[clean],
            rtol=1e-6,
        )


@pytest.mark.parametrize("side", [0, 1])
def test_nan_stays_in_its_row(side, dtype):
    sides = [x.copy() for x in batch(dtype)[:2]]
    sizes = [4] * PIECES
    cleaned = union(whole(*(cut(x, sizes) for x in sides))).kl
    sides[side][3, 9] = NAN
    found = union(whole(*(cut(x, sizes) for x in sides))).kl
    assert np.isnan(found[3])
    others = np.arange(len(found)) != 3
    np.testing.assert_array_equal(found[others], cleaned[others])


# --- shapes ------------------------------------------------------------------------


def test_shapes():
    a = jnp.zeros((2, 3, 4, 5))
    inner = jax.eval_shape(summarize, a, a)
    assert all(x.shape == (2, 3, 4) for x in inner)
    shapes = {0: (3, 4), 1: (2, 4), 2: (2, 3), -1: (2, 3), -3: (3, 4)}
    for axis, shape in shapes.items():
        merged = jax.eval_shape(functools.partial(merge, axis=axis), inner)
        assert all(x.shape == shape for x in merged)
    single = jax.eval_shape(summarize, a[0, 0, 0], a[0, 0, 0])
    assert all(x.shape == () for x in single)
