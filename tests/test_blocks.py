"""Blocks of outcomes: any partition, merged in any order, gives the KL of the whole."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import compiled, quick

from kl_jax import blocks
from kl_jax.blocks import Block, finalize, merge, of_outcomes

INF, NAN = np.inf, np.nan
OUTCOMES, PIECES = 24, 6

# Worst seen of 900 partitions of the batch: 7.6 ULP merged at once (3.5 without blocks);
# 36 in pairs, in row 119: p peaked, 7 outcomes of q alone, KL 1e-5; other rows 8.0.
# Below the floor float32 terms underflow, and the digits of the oracle end.
BOUND = 10.0
IN_PAIRS = 48.0
FLOOR = {"float32": 2.0**-90, "float64": 2.0**-400}


def merged_pair(x, y):
    return merge(jax.tree.map(lambda *z: jnp.stack(z), x, y))


whole = compiled(of_outcomes)
union = compiled(merge, static_argnames="axis")
pair = compiled(merged_pair)
quick_whole = quick(of_outcomes)
quick_union = quick(merge, static_argnames="axis")
quick_pair = quick(merged_pair)


@functools.cache
def batch(dtype, seed=0):
    """(a, b, KL): near-equal to far apart, flat, normal and peaked; as they are, with one
    side far off, sorted so that blocks differ, with p and q absent in places, and equal.
    """
    rng = np.random.default_rng(seed)
    digits = 7 if dtype == "float32" else 14
    scale = np.repeat([0.01, 1.0, 20.0], 5)[:, None]
    noise = 10.0 ** -np.tile([0.0, 1, 3, 5, digits], 3)[:, None]
    a = rng.normal(size=(15, OUTCOMES)) * scale
    b = a + rng.normal(size=(15, OUTCOMES)) * noise
    some = rng.uniform(size=a.shape) < 0.7
    gaps = (
        np.where(some, a, -INF),
        np.where(some | (rng.uniform(size=a.shape) < 0.5), b, -INF),
    )
    half = np.where(np.arange(OUTCOMES) < 7, -INF, a)
    a, b = (
        np.concatenate(x).astype(dtype)
        for x in (
            (a, a + 1e3, a + 1e4, a, a, np.sort(a), gaps[0], half, a),
            (b, b, b, b + 1e4, b - 1e3, np.sort(b), gaps[1], b, a),
        )
    )
    return a, b, truth(a, b)


def truth(a, b):
    """KL as a sum of two floats, and its ULP: mpmath only once a row."""
    rows = []
    for x, y in zip(a, b, strict=True):
        true = oracles.kl(x, y)
        rest = 0.0 if np.isinf(float(true)) else float(true - float(true))
        unit = 1.0 if np.isinf(float(true)) else float(oracles.spacing(true, a.dtype))
        rows.append((float(true), rest, unit))
    return np.array(rows)


def worst(found, true):
    """In ULP, of rows that are all >= 0, and 0 or inf only where the truth is."""
    value, rest, unit = true.T
    floor = FLOOR[found.dtype.name]
    found = np.float64(found)
    assert (found >= 0).all()
    small = (value > 0) & (value <= floor)
    assert (found[small] <= 2 * floor).all()
    exact = (value == 0) | np.isinf(value)
    np.testing.assert_array_equal(found[exact], value[exact])
    rows = ~small & ~exact
    return max((np.abs((found - value) - rest) / unit)[rows], default=0.0)


def cut(x, sizes):
    """[..., OUTCOMES] as [pieces, ..., OUTCOMES]: pieces of these sizes, padded."""
    pieces = np.split(x, np.cumsum(sizes)[:-1], -1)
    pad = lambda y: [(0, 0)] * (x.ndim - 1) + [(0, OUTCOMES - y.shape[-1])]
    return np.stack([np.pad(y, pad(y), constant_values=-INF) for y in pieces])


def of_index(summaries, i):
    return jax.tree.map(lambda x: x[i], summaries)


def invariants(block):
    """What does not depend on the mode: log masses of p and q, E_p[b - a]."""
    top, anchor, mean, mass_p, mass_q, origin = (np.float64(x) for x in block[:6])
    with np.errstate(divide="ignore"):
        return top + np.log(mass_p), origin + np.log(mass_q), mean + (anchor - top)


@functools.cache
def expected_invariants(dtype):
    """Of the batch, from the definitions in long double; and its largest logits."""
    a, b, _ = batch(dtype)
    a, b = np.longdouble(a), np.longdouble(b)
    weight = np.exp(a - a.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        mean = np.where(weight > 0, weight * (b - a), 0).sum(-1)
    largest = lambda x: np.abs(np.where(np.isinf(x), 0, x)).max(-1)
    logs = (np.logaddexp.reduce(x, -1) for x in (a, b))
    return (*logs, mean), 1 + np.maximum(largest(a), largest(b))


def assert_invariants(block, dtype):
    """Worst seen 2.9 eps of the largest logit."""
    expected, size = expected_invariants(dtype)
    for found, wanted in zip(invariants(block), expected, strict=True):
        error = np.abs(found - wanted[: len(found)]) / size[: len(found)]
        assert (error <= 4 * np.finfo(dtype).eps).all(), error.max() / np.finfo(dtype).eps


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


def test_the_whole(dtype):
    a, b, true = batch(dtype)
    block = whole(a, b)
    assert worst(finalize(block), true) <= BOUND
    assert_invariants(block, dtype)


@few
@given(sizes=partitions, data=st.data())
def test_any_partition_in_any_order(dtype, sizes, data):
    a, b, true = batch(dtype)
    pieces = whole(cut(a, sizes), cut(b, sizes))
    at_once = union(pieces)
    assert worst(finalize(at_once), true) <= BOUND
    assert_invariants(at_once, dtype)
    heap = [of_index(pieces, i) for i in range(PIECES)]
    for i, j in orders(data.draw, PIECES):
        first, second = heap[i], heap[j]
        heap = [x for k, x in enumerate(heap) if k not in (i, j)]
        heap.append(pair(first, second))
    assert worst(finalize(heap[0]), true) <= IN_PAIRS
    assert_invariants(heap[0], dtype)


def test_blocks_of_one_outcome():
    a, b, true = batch("float32")
    inner = whole(a[..., None], b[..., None])
    np.testing.assert_array_equal(finalize(inner), 0)
    assert worst(finalize(union(inner, axis=-1)), true) <= BOUND


def test_any_axis():
    a, b, true = batch("float32")
    inner = whole(*(cut(x, [4] * PIECES) for x in (a, b)))
    last = quick_union(Block(*(x.T for x in inner)), axis=-1)
    assert worst(finalize(last), true) <= BOUND
    grid = Block(*(x.reshape(2, 3, -1) for x in inner))
    for axes in ((1, 0), (-3, -2)):
        found = quick_union(quick_union(grid, axis=axes[0]), axis=axes[1])
        assert worst(finalize(found), true) <= BOUND
        assert_invariants(found, "float32")


def test_shards_of_the_vocabulary():
    a, b, true = batch("float32")
    shards = [np.stack(np.split(x, 8, -1)) for x in (a, b)]
    each = quick(jax.vmap(of_outcomes))(*shards)
    assert worst(finalize(quick_union(each, axis=0)), true) <= BOUND
    by_row = quick(jax.vmap(merge, in_axes=1))(each)
    assert worst(finalize(by_row), true) <= BOUND


# --- blocks with no mass, infinities, nan -----------------------------------------


def test_mass_of_q_in_blocks_without_p(dtype):
    """KL = log(1 + n e^b) of n such outcomes, also where that is nearly 0 or huge."""
    far = np.array([-60.0, -10, 0, 10, 29, 80, 1e4], dtype)
    shape = batch(dtype)[0].shape
    none = np.full(shape, -INF, dtype)
    zero, b = none.copy(), none.copy()
    zero[:, 0], b[:, 0] = 0, np.resize(far, len(b))
    p, q = whole(zero, zero), whole(none, b)
    np.testing.assert_array_equal(finalize(q), 0)
    twice = pair(q, q)
    np.testing.assert_array_equal(finalize(twice), 0)
    for block, n in ((q, 1), (twice, 2)):
        sides = [[0] + [-INF] * n] * len(far), [[0] + [x] * n for x in far]
        true = truth(*(np.array(x, dtype) for x in sides))
        for found in (pair(p, block), pair(block, p)):
            assert worst(finalize(found)[: len(far)], true) <= 2  # seen 1.0


def test_mass_of_p_in_blocks_without_q(dtype):
    a, b, _ = batch(dtype)
    none = np.full_like(a, -INF)
    full, lacking = whole(a, b), whole(a, none)
    for found in (pair(full, lacking), pair(lacking, full), pair(lacking, lacking)):
        np.testing.assert_array_equal(finalize(found), INF)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e3])
def test_a_block_without_outcomes_is_neutral(offset, dtype):
    a, b, _ = batch(dtype)
    full = whole(a, b + np.asarray(offset, dtype))
    empty = whole(*[np.full_like(a, -INF)] * 2)
    for found in (pair(full, empty), pair(empty, pair(full, empty)), pair(full, full)):
        # The same sums, shifted by the rounding of the mean: worst seen 2 ULP.
        np.testing.assert_array_max_ulp(found.kl[:15], full.kl[:15], 4, dtype)
    np.testing.assert_array_equal(finalize(pair(empty, empty)), 0)


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
    direct = np.asarray(finalize(direct))
    assert (direct >= 0).all()
    largest = np.where(np.isposinf(a).any(-1), INF, -np.finfo("f4").max)[:, None]
    outcomes = a >= largest
    has_q = np.where(np.isposinf(b).any(-1)[:, None], b == INF, b > -INF)
    np.testing.assert_array_equal(np.isposinf(direct), (outcomes & ~has_q).any(-1))
    for found in merged:
        # Worst seen 3e-7.
        np.testing.assert_allclose(finalize(found), direct, rtol=1e-6)


def test_nan_in_any_block():
    a, b, direct, merged = every((-INF, 0.0, 1.0, NAN), "float32")
    some = ~np.isneginf(a).all(-1)
    expected = (np.isnan(a) | np.isnan(b)).any(-1)
    for found in (direct, *merged):
        np.testing.assert_array_equal(np.isnan(finalize(found))[some], expected[some])
    clean = ~expected
    for found in merged:
        np.testing.assert_allclose(
            np.asarray(finalize(found))[clean],
            np.asarray(finalize(direct))[clean],
            rtol=1e-6,
        )


@pytest.mark.parametrize("side", [0, 1])
def test_nan_stays_in_its_row(side, dtype):
    sides = [x.copy() for x in batch(dtype)[:2]]
    sizes = [4] * PIECES
    cleaned = finalize(union(whole(*(cut(x, sizes) for x in sides))))
    sides[side][3, 9] = NAN
    found = finalize(union(whole(*(cut(x, sizes) for x in sides))))
    assert np.isnan(found[3])
    others = np.arange(len(found)) != 3
    np.testing.assert_array_equal(found[others], cleaned[others])


@pytest.mark.parametrize("sides", [([0, -INF], [-3e38, -INF]), ([-3e38, -INF], [0, 0])])
def test_one_outcome_near_the_smallest_float(sides):
    a, b = (np.float32(x) for x in sides)
    assert oracles.ulps(finalize(whole(a, b)), oracles.kl(a, b), "float32") <= 2


# --- shapes, dtypes, platforms -----------------------------------------------------


def test_shapes():
    a = jnp.zeros((2, 3, 4, 5))
    inner = jax.eval_shape(of_outcomes, a, a)
    assert all(x.shape == (2, 3, 4) for x in inner)
    shapes = {0: (3, 4), 1: (2, 4), 2: (2, 3), -1: (2, 3), -3: (3, 4)}
    for axis, shape in shapes.items():
        merged = jax.eval_shape(functools.partial(merge, axis=axis), inner)
        assert all(x.shape == shape for x in merged)
    single = jax.eval_shape(of_outcomes, a[0, 0, 0], a[0, 0, 0])
    assert all(x.shape == () for x in single)


def test_half_precision_is_computed_in_float32():
    a, b, _ = batch("float32")
    a, b = (x.astype(jnp.bfloat16) for x in (a, b))
    found = whole(a, b)
    assert all(
        x.dtype == jnp.float32 for x in (*found, *jax.eval_shape(merged_pair, found, found))
    )
    wide = whole(a.astype("float32"), b.astype("float32"))
    # One program or two contract different products: worst seen 2 ULP.
    np.testing.assert_array_max_ulp(finalize(found), finalize(wide), 8)
    for other in ("float32", "float16"):
        mixed = jax.eval_shape(of_outcomes, a, b.astype(other))
        assert all(x.dtype == jnp.float32 for x in mixed)


# This machine's own way is that of `whole`.
VARIANTS = {
    "gpu": functools.partial(blocks._of_whole, sums=blocks._sums_in_pairs),
    "tpu": blocks._of_whole,
    "mesh": functools.partial(blocks._of_whole, mode=blocks._mode_by_mask),
}


@pytest.mark.parametrize(
    ("variant", "dtype"), [*((v, "float32") for v in VARIANTS), ("gpu", "float64")]
)
def test_platforms_agree(variant, dtype):
    a, b, true = batch(dtype)
    with jax.enable_x64(dtype == "float64"):
        found = compiled(VARIANTS[variant])(a, b)
    assert worst(finalize(found), true) <= BOUND
    assert_invariants(found, dtype)


@pytest.mark.parametrize(
    ("rows", "tile"), [(0, 64), (1, 64), (2, 64), (7, 64), (64, 5 * OUTCOMES)]
)
def test_tiles_of_rows(rows, tile, monkeypatch):
    """Two rows a tile, or five; the last tile may overlap the one before."""
    monkeypatch.setattr(blocks, "_TILE", tile)
    a, b, true = (x[:rows] for x in batch("float32"))
    found = quick(lambda a, b: blocks._in_tiles(a, b))(a, b)
    assert all(x.shape == (rows,) for x in found)
    if rows:
        assert worst(finalize(found), true) <= BOUND
        assert_invariants(found, "float32")


def test_tiles_of_a_batch_and_under_vmap(monkeypatch):
    monkeypatch.setattr(blocks, "_TILE", 64)
    a, b, true = (x[:30] for x in batch("float32"))
    a, b = (x.reshape(2, 3, 5, OUTCOMES) for x in (a, b))
    for f in (blocks._in_tiles, jax.vmap(blocks._in_tiles)):
        found = quick(lambda a, b, f=f: f(a, b))(a, b)
        assert found.kl.shape == (2, 3, 5)
        assert worst(finalize(found).reshape(-1), true) <= BOUND
