"""The two laws, nesting, devices, absent rows, transforms."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import kl_jax
from kl_jax import Weighted, batchmean, kl_divergence, masked, mean, weighted
from kl_jax import sum as sum_

INF, NAN = np.inf, np.nan


def square(x, y):
    return (x - y) ** 2


def ragged(shape=(5, 7), seed=0):
    """Two arrays and a mask of ragged rows: one empty, one full, others in between."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    lengths = np.array([0, shape[1], 3, 1, 6])[: shape[0]]
    mask = np.arange(shape[1]) < lengths[:, None]
    return x, y, mask


# --- the laws --------------------------------------------------------------------


def test_masked_mean_is_mean_where():
    x, y, mask = ragged()
    found = mean(masked(square))(x, y, mask=mask)
    np.testing.assert_allclose(found, jnp.mean(square(x, y), where=mask), rtol=1e-6)
    total = sum_(masked(square))(x, y, mask=mask)
    np.testing.assert_allclose(total, jnp.sum(square(x, y), where=mask), rtol=1e-6)


def test_weighted_mean_is_average():
    x, y, _ = ragged()
    rng = np.random.default_rng(1)
    for w in (rng.uniform(0, 2, x.shape), rng.normal(size=x.shape), np.eye(5, 7)):
        w = w.astype(np.float32)
        found = mean(weighted(square))(x, y, weights=w)
        expected = jnp.average(square(x, y), weights=w)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    counts = rng.integers(0, 5, x.shape)
    found = mean(weighted(square))(x, y, weights=counts)
    np.testing.assert_allclose(found, np.average(square(x, y), weights=counts), rtol=1e-6)


def test_weights_that_cancel_are_not_an_empty_mean():
    values = jnp.array([1.0, 3.0])
    found = mean(weighted(lambda: values))(weights=jnp.array([1.0, -1.0]))
    assert found == -INF  # as jnp.average: -2 / 0


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), (1, 0), (-1,)])
def test_unweighted_reductions_are_numpys(axis):
    x, y, _ = ragged()
    values = square(x, y).astype(np.float64)
    for ours, theirs in ((sum_, np.sum), (mean, np.mean)):
        found = ours(square, axis)(x, y)
        np.testing.assert_allclose(found, theirs(values, axis), rtol=1e-6)


def test_batchmean_divides_by_the_leading_length():
    x, y, mask = ragged()
    values = square(x, y).astype(np.float64)
    np.testing.assert_allclose(batchmean(square)(x, y), values.sum() / 5, rtol=1e-6)
    found = batchmean(masked(square))(x, y, mask=mask)  # absent rows are counted
    np.testing.assert_allclose(found, values[mask].sum() / 5, rtol=1e-6)
    assert batchmean(square)(jnp.float32(1), jnp.float32(3)) == 4
    assert np.isnan(batchmean(square)(x[:0], y[:0]))


# --- nesting ---------------------------------------------------------------------


def test_aggregations_of_ragged_rows():
    x, y, mask = ragged()
    values = square(x, y).astype(np.float64)
    rows = [values[i][mask[i]] for i in range(5) if mask[i].any()]
    cases = (
        (mean(masked(square)), np.mean(np.concatenate(rows))),
        (mean(mean(masked(square), axis=-1)), np.mean([r.mean() for r in rows])),
        (mean(sum_(masked(square), axis=-1)), np.mean([r.sum() for r in rows])),
        (sum_(mean(masked(square), axis=-1)), np.sum([r.mean() for r in rows])),
        (sum_(sum_(masked(square), axis=-1)), np.sum([r.sum() for r in rows])),
    )
    for loss, expected in cases:
        np.testing.assert_allclose(loss(x, y, mask=mask), expected, rtol=1e-6)
        found = jax.jit(loss)(x, y, mask=mask)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_partial_reduction_carries_presence():
    x, y, mask = ragged()
    out = mean(masked(square), axis=-1)(x, y, mask=mask)
    assert isinstance(out, Weighted)
    np.testing.assert_array_equal(out.weights, mask.any(-1))
    assert out.values[0] == 0  # absent: not nan, which would survive a product with 0
    assert out.values.dtype == out.weights.dtype == jnp.float32
    assert not isinstance(mean(square, axis=-1)(x, y), Weighted)


def test_nested_weights_multiply():
    x, y, mask = ragged()
    w = np.random.default_rng(2).uniform(0.1, 2, x.shape).astype(np.float32)
    expected = np.average(square(x, y), weights=w * mask)
    for loss in (mean(masked(weighted(square))), mean(weighted(masked(square)))):
        found = loss(x, y, mask=mask, weights=w)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Rows weighted after a partial reduction: an absent row stays absent.
    rows = np.array([5, 1, 2, 3, 4], np.float32)
    per_row = mean(masked(square), axis=-1)
    found = mean(weighted(per_row))(x, y, mask=mask, weights=rows)
    means = per_row(x, y, mask=mask).values
    np.testing.assert_allclose(found, np.average(means[1:], weights=rows[1:]), rtol=1e-6)


# --- nothing, absent rows, dtypes --------------------------------------------------


def test_mean_over_nothing_is_nan_with_gradient_0():
    x, y, mask = ragged()
    loss = mean(masked(square))
    value, grads = jax.value_and_grad(loss, (0, 1))(x, y, mask=np.zeros_like(mask))
    assert np.isnan(value)
    for g in grads:
        np.testing.assert_array_equal(g, 0)
    assert np.isnan(mean(square)(x[:0], y[:0]))
    nested = mean(mean(masked(square), axis=-1))
    assert np.isnan(nested(x, y, mask=np.zeros_like(mask)))
    assert sum_(masked(square))(x, y, mask=np.zeros_like(mask)) == 0


def test_no_nan_arises_on_the_way():
    # An empty row inside a batch must not trip jax_debug_nans.
    x, y, mask = ragged()
    with jax.debug_nans(True):
        jax.grad(mean(mean(masked(square), axis=-1)))(x, y, mask=mask)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_absent_rows_do_not_reach_the_value(bad):
    x, y, mask = ragged()
    spoilt = np.where(mask, x, np.float32(bad))
    for loss in (
        mean(masked(square)),
        sum_(masked(square)),
        batchmean(masked(square)),
        mean(mean(masked(square), axis=-1)),
    ):
        clean = loss(x, y, mask=mask)
        np.testing.assert_array_equal(loss(spoilt, y, mask=mask), clean)


def test_absent_rows_and_gradients_are_as_documented():
    """Selecting outputs cannot protect the gradient; selecting inputs does."""
    a, b = np.random.default_rng(3).normal(size=(2, 4, 6)).astype(np.float32)
    mask = np.array([True, False, True, True])
    a[1] = NAN
    loss = mean(masked(kl_divergence))
    gradient = jax.grad(loss, 1)(a, b, mask=mask)
    assert np.isnan(gradient[1]).any()
    assert np.isfinite(gradient[mask]).all()
    select = lambda x: jnp.where(mask[:, None], x, 0)
    guarded = jax.grad(lambda b: loss(select(a), select(b), mask=mask))(b)
    assert np.isfinite(guarded).all()
    np.testing.assert_array_equal(guarded[1], 0)


def test_counts_and_sums_are_float32():
    ones = jnp.ones(1001, jnp.bfloat16)
    keep = np.ones(1001, bool)
    assert jnp.sum(ones) == 1000  # what bfloat16 would have given
    totals = sum_(lambda: ones)(), sum_(masked(lambda: ones))(mask=keep)
    for total in totals:
        assert total == 1001
        assert total.dtype == jnp.float32
    assert mean(masked(lambda: ones))(mask=keep) == 1
    correct = jnp.array([True, False, True, True])
    assert mean(lambda: correct)() == 0.75
    assert sum_(lambda: jnp.arange(4))().dtype == jnp.float32
    with jax.enable_x64(True):
        assert mean(lambda: jnp.ones(3, jnp.float64))().dtype == jnp.float64


# --- transforms of JAX -------------------------------------------------------------


def logits_and_mask(batch, seed=7):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, batch, 3, 11)).astype(np.float32)
    mask = rng.uniform(size=(batch, 3)) < 0.6
    mask[0] = False
    mask[-1] = True
    return a, b, mask


LOSSES = {
    "token mean": lambda **k: mean(masked(kl_divergence), **k),
    "sum": lambda **k: sum_(masked(kl_divergence), **k),
    "batchmean": lambda **k: batchmean(masked(kl_divergence), **k),
    "sequence mean of token means": lambda **k: mean(
        mean(masked(kl_divergence), axis=-1), **k
    ),
    "sequence mean of token sums": lambda **k: mean(
        sum_(masked(kl_divergence), axis=-1), **k
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_jit_grad_hessian(name):
    a, b, mask = logits_and_mask(4)
    loss = LOSSES[name]()
    values = np.asarray(kl_divergence(a, b))
    reference = {
        "token mean": values[mask].mean(),
        "sum": values[mask].sum(),
        "batchmean": values[mask].sum() / 4,
    }
    value, gradient = jax.jit(jax.value_and_grad(loss, 1))(a, b, mask=mask)
    if name in reference:
        np.testing.assert_allclose(value, reference[name], rtol=1e-6)
    np.testing.assert_array_equal(gradient[~mask], 0)
    assert (np.abs(gradient[mask]).max(-1) > 0).all()
    small = (a[:2, :, :3], b[:2, :, :3])
    hessian = jax.hessian(lambda b: loss(small[0], b, mask=mask[2:]))
    hessian = jax.jit(hessian)(small[1])
    assert np.isfinite(hessian).all()
    assert np.abs(hessian).max() > 0


def test_vmap_reduces_each_example():
    a, b, mask = logits_and_mask(4)
    loss = mean(masked(kl_divergence))
    found = jax.vmap(lambda a, b, m: loss(a, b, mask=m))(a, b, mask)
    each = [loss(a[i], b[i], mask=mask[i]) for i in range(4)]
    np.testing.assert_allclose(found, each, rtol=1e-6)  # nan for the empty one


def test_axis_name_under_vmap_is_the_whole_mean():
    a, b, mask = logits_and_mask(4)
    split = lambda x: x.reshape(2, 2, *x.shape[1:])
    loss = mean(masked(kl_divergence), axis_name="part")
    found = jax.vmap(lambda a, b, m: loss(a, b, mask=m), axis_name="part")(
        split(a), split(b), split(mask)
    )
    whole = mean(masked(kl_divergence))(a, b, mask=mask)
    np.testing.assert_allclose(found, [whole, whole], rtol=1e-6)


def test_micro_batches_add_numerators_and_denominators():
    a, b, mask = logits_and_mask(6)
    terms = masked(kl_divergence)

    def numerator(b, a, m):
        return sum_(terms)(a, b, mask=m), jnp.sum(terms(a, b, mask=m).weights)

    def step(carry, batch):
        a, b, m = batch
        (total, count), gradient = jax.value_and_grad(numerator, has_aux=True)(b, a, m)
        return (carry[0] + total, carry[1] + count), gradient

    parts = tuple(x.reshape(3, 2, *x.shape[1:]) for x in (a, b, mask))
    (total, count), gradient = jax.lax.scan(step, (0.0, 0.0), parts)
    value, expected = jax.value_and_grad(mean(terms), 1)(a, b, mask=mask)
    np.testing.assert_allclose(total / count, value, rtol=1e-6)
    np.testing.assert_allclose(
        gradient.reshape(b.shape) / count, expected, rtol=1e-5, atol=1e-8
    )


# --- devices -----------------------------------------------------------------------


def mesh_of(name, kind="Auto"):
    """Eight CPU devices in a row."""
    return jax.make_mesh((8,), (name,), axis_types=(getattr(jax.sharding.AxisType, kind),))


def placed(mesh, spec, *arrays):
    return [jax.device_put(x, NamedSharding(mesh, spec)) for x in arrays]


@pytest.mark.parametrize("grad_inside", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "Auto") for name in LOSSES), ("token mean", "Explicit")]
)
def test_shard_map_equals_one_device(name, kind, grad_inside):
    """Eight devices with unequal masks, the first with nothing at all."""
    a, b, mask = logits_and_mask(8)
    assert len(set(mask.sum(-1))) > 2
    whole = lambda a, b, m: LOSSES[name]()(a, b, mask=m)
    local = lambda a, b, m: LOSSES[name](axis_name="data")(a, b, mask=m)
    mesh = mesh_of("data", kind)
    shard = functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("data"),) * 3)
    if grad_inside:
        body = jax.value_and_grad(local, 1)
        both = shard(body, out_specs=(P(), P("data")))
    else:
        both = jax.value_and_grad(shard(local, out_specs=P()), 1)
    value, gradient = jax.jit(both)(*placed(mesh, P("data"), a, b, mask))
    expected, expected_gradient = jax.value_and_grad(whole, 1)(a, b, mask)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


def test_mean_of_local_means_would_be_another_number():
    a, b, mask = logits_and_mask(8)
    mask[:, 0] = True
    loss = mean(masked(kl_divergence))
    local = [loss(a[i], b[i], mask=mask[i]) for i in range(8)]
    assert abs(np.mean(local) - loss(a, b, mask=mask)) > 1e-3


def test_unweighted_reductions_across_devices():
    a, b, _ = logits_and_mask(8)
    mesh = mesh_of("data")
    for reduce in (sum_, mean, batchmean):
        local = reduce(kl_divergence, axis_name="data")
        shard = jax.shard_map(local, mesh=mesh, in_specs=(P("data"),) * 2, out_specs=P())
        found = jax.jit(shard)(a, b)
        np.testing.assert_allclose(found, reduce(kl_divergence)(a, b), rtol=1e-6)


def test_partial_reduction_over_a_sharded_axis():
    """Tokens of one sequence lie on different devices."""
    a, b, mask = (np.swapaxes(x, 0, 1) for x in logits_and_mask(8))  # [3, 8, ...]

    def local(a, b, m):
        rows = mean(masked(kl_divergence), axis=-1, axis_name="time")
        return mean(rows)(a, b, mask=m)

    specs = (P(None, "time"),) * 3
    shard = jax.shard_map(local, mesh=mesh_of("time"), in_specs=specs, out_specs=P())
    found = jax.jit(shard)(a, b, mask)
    expected = mean(mean(masked(kl_divergence), axis=-1))(a, b, mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_plain_jit_on_sharded_arrays(kind):
    a, b, mask = logits_and_mask(8)
    mesh = mesh_of("data", kind)
    step = lambda a, b, m: mean(masked(kl_divergence))(a, b, mask=m)
    loss = jax.jit(jax.value_and_grad(step))
    with jax.set_mesh(mesh):
        value, gradient = loss(*placed(mesh, P("data"), a, b, mask))
    expected, expected_gradient = loss(a, b, mask)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


# --- functions as functions ----------------------------------------------------------


def test_names_and_signatures():
    loss = mean(masked(kl_divergence))
    assert loss.__name__ == "kl_divergence"
    assert list(inspect.signature(mean(kl_divergence)).parameters) == list(
        inspect.signature(kl_divergence).parameters
    )
    parameter = inspect.signature(loss).parameters["mask"]
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match=r"kl_divergence\(\).*'mask'"):
        loss(jnp.zeros(3), jnp.zeros(3))
    assert "weights" in inspect.signature(weighted(lambda **k: 0)).parameters
    assert (
        mean(masked(functools.partial(square, y=1.0)))(jnp.float32(3), mask=np.array(True))
        == 4
    )

    def tagged(x):
        return x

    tagged.note = "describes tagged"
    assert not hasattr(mean(tagged), "note")


def test_one_trace_for_a_function_built_once():
    calls = chex.assert_max_traces(square, n=1)
    loss = jax.jit(mean(masked(calls)))
    x, y, mask = ragged()
    for _ in range(3):
        loss(x, y, mask=mask)


def test_exported_weighted_is_a_pytree():
    out = jax.jit(masked(square))(*ragged()[:2], mask=ragged()[2])
    assert isinstance(out, kl_jax.Weighted)
    assert len(jax.tree.leaves(out)) == 2
