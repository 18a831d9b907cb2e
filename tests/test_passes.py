"""The sums of a block, as every platform computes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from block_cases import BOUND, OUTCOMES, assert_invariants, batch, worst
from programs import optimized, quick

from kl_jax import _passes, _reductions, _tiles
from kl_jax._passes import summarize

INF = np.inf

whole = optimized(summarize)


def test_the_whole(dtype):
    a, b, true = batch(dtype)
    block = whole(a, b)
    assert worst(block.kl, true) <= BOUND
    assert_invariants(block, dtype)


@pytest.mark.parametrize("size", [1000, 1009])
def test_the_mass_beside_one_mode(size):
    """The weight 1 among the others would cost 4 ULP: each of 10 to 20 roundings is beside
    it. Places in any block, and in what is in none.
    """
    rng = np.random.default_rng(3)
    a = rng.normal(size=(200, size)).astype("f4")
    places = np.append(rng.integers(size, size=199), size - 1)
    a[np.arange(200), places] += rng.uniform(10, 22, 200).astype("f4")
    mass = whole(a, a).mass_p
    true = np.exp(a - a.max(-1, keepdims=True).astype("f8")).sum(-1)
    np.testing.assert_allclose(mass, true, rtol=2.0**-23)


@pytest.mark.parametrize("sides", [([0, -INF], [-3e38, -INF]), ([-3e38, -INF], [0, 0])])
def test_one_outcome_near_the_smallest_float(sides):
    a, b = (np.float32(x) for x in sides)
    assert oracles.ulps(whole(a, b).kl, oracles.kl(a, b), "float32") <= 2


def test_half_precision_is_summed_in_float32():
    a, b, _ = batch("float32")
    a, b = (x.astype(jnp.bfloat16) for x in (a, b))
    found = whole(a, b)
    assert all(x.dtype == jnp.float32 for x in found)
    wide = whole(a.astype("float32"), b.astype("float32"))
    # One program or two contract different products: worst seen 2 ULP.
    np.testing.assert_array_max_ulp(found.kl, wide.kl, 8)
    for other in ("float32", "float16"):
        mixed = jax.eval_shape(summarize, a, b.astype(other))
        assert all(x.dtype == jnp.float32 for x in mixed)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("bfloat16", 1000), ("bfloat16", 70001), ("float16", 1000), ("float16", 9001)],
)
def test_the_mode_of_half_precision(dtype, size):
    """Found by its bits, which in the longer rows leave one place for two outcomes."""
    rng = np.random.default_rng(size)
    a = rng.normal(size=(24, size)) * 10.0 ** rng.integers(-4, 4, (24, 1))
    a[:4] = -np.abs(a[:4])
    a[4:10] = np.array([0, -0.0, -INF, INF, -1e4, -1e-3])[:, None]
    a[10] = np.where(rng.random(size) < 0.5, 0, -0.0)
    a[11:16] = -INF
    a[np.arange(11, 16), [0, 1, size // 2, size - 2, size - 1]] = [-3, 0, -1e-3, 5, INF]
    a = a.astype(jnp.dtype(dtype))
    places = np.broadcast_to(np.arange(size, dtype="f4"), a.shape)
    top, place, _ = quick(_reductions.mode_by_index)(a, places)
    np.testing.assert_array_equal(top[:, 0], a.max(-1))
    place = np.asarray(place, int)
    np.testing.assert_array_equal(np.take_along_axis(a, place, -1), top)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_nan_on_accelerators(nan, side):
    sides = np.zeros((2, 3, 40), jnp.bfloat16)
    sides[side, 1, 7] = nan
    found = quick(_passes._of_whole)(*sides).kl
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])


def test_a_row_beside_any_other():
    """Those with infinities, and far out, are computed in another way."""
    a, b = np.random.default_rng(4).normal(size=(2, 12, 50)).astype("f4")
    found = whole(a, b)
    a[[8, 10], 3], b[[9, 11], 3] = [INF, 100], [-INF, 1e30]
    for x, y in zip(found, whole(a, b), strict=True):
        np.testing.assert_array_equal(x[:8], y[:8])


# This machine's own way is that of `whole`.
VARIANTS = {
    "gpu": functools.partial(_passes._of_whole, sums=_reductions._sums_in_pairs),
    "tpu": _passes._of_whole,
    "mesh": functools.partial(_passes._of_whole, mode=_reductions.mode_by_mask),
}


@pytest.mark.parametrize(
    ("variant", "dtype"), [*((v, "float32") for v in VARIANTS), ("gpu", "float64")]
)
def test_platforms_agree(variant, dtype):
    a, b, true = batch(dtype)
    with jax.enable_x64(dtype == "float64"):
        found = optimized(VARIANTS[variant])(a, b)
    assert worst(found.kl, true) <= BOUND
    assert_invariants(found, dtype)


def test_shifts_on_accelerators():
    """KL is that of the few others, whose shift of 10 to 60 has a rounding error."""
    rng = np.random.default_rng(15)
    a, noise = rng.normal(size=(2, 15, 3))
    a[:, 0] += np.linspace(10, 60, 15)
    a, b = a.astype("f4"), (a + noise).astype("f4")
    found = optimized(_passes._of_whole)(a, b).kl
    oracles.assert_within(8.0, found, [oracles.kl(x, y) for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize("function", [_passes._of_whole, summarize])
def test_the_smallest_number_is_a_logit(function):
    smallest = np.finfo("f4").min
    a, b = np.zeros((2, 2), "f4"), np.array([[0, smallest], [0, -INF]], "f4")
    found = quick(function)(a, b).kl
    np.testing.assert_allclose(found, [-smallest / 2, INF], rtol=1e-6)


def in_tiles(a, b):
    return _passes.unstacked(_tiles.in_tiles(_passes._tile, a, b))


@pytest.mark.parametrize(
    ("rows", "tile"), [(0, 64), (1, 64), (2, 64), (7, 64), (64, 5 * OUTCOMES)]
)
def test_tiles_of_rows(rows, tile, monkeypatch):
    """Two rows a tile, or five; the last tile may overlap the one before."""
    monkeypatch.setattr(_tiles, "_TILE", tile)
    a, b, true = (x[:rows] for x in batch("float32"))
    found = quick(in_tiles)(a, b)
    assert all(x.shape == (rows,) for x in found)
    if rows:
        assert worst(found.kl, true) <= BOUND
        assert_invariants(found, "float32")


def test_tiles_of_a_batch_and_under_vmap(monkeypatch):
    monkeypatch.setattr(_tiles, "_TILE", 64)
    a, b, true = (x[:30] for x in batch("float32"))
    a, b = (x.reshape(2, 3, 5, OUTCOMES) for x in (a, b))
    for f in (in_tiles, jax.vmap(in_tiles)):
        found = quick(lambda a, b, f=f: f(a, b))(a, b)
        assert found.kl.shape == (2, 3, 5)
        assert worst(found.kl.reshape(-1), true) <= BOUND
