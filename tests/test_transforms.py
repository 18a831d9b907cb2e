"""The two laws, nesting, devices, absent rows, transforms."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parametric_grid
import pytest
import registry
from jax.experimental import checkify
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from programs import quick

import kl_jax
from kl_jax import (
    KLDivLoss,
    Weighted,
    batchmean,
    checked,
    kl_divergence,
    kl_divergence_from_probs,
    masked,
    mean,
    reverse,
    tempered,
    weighted,
)
from kl_jax import sum as sum_

INF, NAN = np.inf, np.nan


def square(x, y):
    return (x - y) ** 2


def distance(x, y):
    """Of rows, as a divergence is, and 0.3 CPU seconds of compiling instead of 2."""
    return jnp.sum(square(x, y), -1)


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
    losses = mean(masked(square)), sum_(masked(square))
    found, total = quick(lambda x, y, m: [f(x, y, mask=m) for f in losses])(x, y, mask)
    np.testing.assert_allclose(found, np.mean(square(x, y), where=mask), rtol=1e-6)
    np.testing.assert_allclose(total, np.sum(square(x, y), where=mask), rtol=1e-6)


def test_weighted_mean_is_average():
    x, y, _ = ragged()
    loss = quick(mean(weighted(square)))
    rng = np.random.default_rng(1)
    for w in (rng.uniform(0, 2, x.shape), rng.normal(size=x.shape), np.eye(5, 7)):
        w = w.astype(np.float32)
        expected = np.average(square(x, y), weights=w)
        np.testing.assert_allclose(loss(x, y, weights=w), expected, rtol=1e-5)
    counts = rng.integers(0, 5, x.shape)
    found = loss(x, y, weights=counts)
    np.testing.assert_allclose(found, np.average(square(x, y), weights=counts), rtol=1e-6)


def test_weights_that_cancel_are_not_an_empty_mean():
    loss = quick(mean(weighted(lambda x: x)))
    x, weights = np.array([[1, 3], [1, -1]], np.float32)
    assert loss(x, weights=weights) == -INF  # as jnp.average: -2 / 0


AXES = (None, 0, 1, -1, (0, 1), (1, 0), (-1,))


@quick
def over_all_axes(x, y):
    return [(sum_(square, axis)(x, y), mean(square, axis)(x, y)) for axis in AXES]


@pytest.mark.parametrize("axis", AXES)
def test_unweighted_reductions_are_numpys(axis):
    x, y, _ = ragged()
    values = square(x, y).astype(np.float64)
    total, average = over_all_axes(x, y)[AXES.index(axis)]
    np.testing.assert_allclose(total, np.sum(values, axis), rtol=1e-6)
    np.testing.assert_allclose(average, np.mean(values, axis), rtol=1e-6)


def test_batchmean_divides_by_the_leading_length():
    @quick
    def losses(x, y, mask):
        return (
            batchmean(square)(x, y),
            batchmean(masked(square))(x, y, mask=mask),
            batchmean(square)(x[0, 0], y[0, 0]),
            batchmean(square)(x[:0], y[:0]),
        )

    x, y, mask = ragged()
    x[0, 0], y[0, 0] = 1, 3
    values = square(x, y).astype(np.float64)
    of_all, of_present, of_scalars, of_nothing = losses(x, y, mask)
    np.testing.assert_allclose(of_all, values.sum() / 5, rtol=1e-6)
    # absent rows are counted
    np.testing.assert_allclose(of_present, values[mask].sum() / 5, rtol=1e-6)
    assert of_scalars == 4
    assert np.isnan(of_nothing)


# --- nesting ---------------------------------------------------------------------


@pytest.mark.usefixtures("quickly")
def test_aggregations_of_ragged_rows():
    """Without `jit`, and all in one."""
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
    together = quick(lambda x, y, m: [loss(x, y, mask=m) for loss, _ in cases])(x, y, mask)
    for (loss, expected), found in zip(cases, together, strict=True):
        np.testing.assert_allclose(loss(x, y, mask=mask), expected, rtol=1e-6)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_partial_reduction_carries_presence():
    x, y, mask = ragged()
    out, without = quick(
        lambda x, y, mask: (
            mean(masked(square), axis=-1)(x, y, mask=mask),
            mean(square, axis=-1)(x, y),
        )
    )(x, y, mask)
    assert isinstance(out, Weighted)
    np.testing.assert_array_equal(out.weights, mask.any(-1))
    assert out.values[0] == 0  # absent: not nan, which would survive a product with 0
    assert out.values.dtype == out.weights.dtype == jnp.float32
    assert not isinstance(without, Weighted)


def test_nested_weights_multiply():
    per_row = mean(masked(square), axis=-1)

    @quick
    def losses(x, y, mask, w, rows):
        return (
            mean(masked(weighted(square)))(x, y, mask=mask, weights=w),
            mean(weighted(masked(square)))(x, y, mask=mask, weights=w),
            mean(weighted(per_row))(x, y, mask=mask, weights=rows),
            per_row(x, y, mask=mask).values,
        )

    x, y, mask = ragged()
    w = np.random.default_rng(2).uniform(0.1, 2, x.shape).astype(np.float32)
    rows = np.array([5, 1, 2, 3, 4], np.float32)
    *both, found, means = losses(x, y, mask, w, rows)
    expected = np.average(square(x, y), weights=w * mask)
    np.testing.assert_allclose(both, [expected] * 2, rtol=1e-6)
    # Rows weighted after a partial reduction: an absent row stays absent.
    np.testing.assert_allclose(found, np.average(means[1:], weights=rows[1:]), rtol=1e-6)


# --- nothing, absent rows, dtypes --------------------------------------------------


def test_mean_over_nothing_is_nan_with_gradient_0():
    @quick
    def losses(x, y, mask):
        nested = mean(mean(masked(square), axis=-1))
        return (
            jax.value_and_grad(mean(masked(square)), (0, 1))(x, y, mask=mask),
            mean(square)(x[:0], y[:0]),
            nested(x, y, mask=mask),
            sum_(masked(square))(x, y, mask=mask),
        )

    x, y, mask = ragged()
    (value, grads), of_nothing, nested, total = losses(x, y, np.zeros_like(mask))
    assert np.isnan(value)
    for g in grads:
        np.testing.assert_array_equal(g, 0)
    assert np.isnan(of_nothing)
    assert np.isnan(nested)
    assert total == 0


@pytest.mark.parametrize("empty", [0.0, 3, -INF])
def test_a_mean_over_nothing_is_what_is_given(empty):
    """In value, with gradient 0, on no rows and on absent ones, also along an axis."""
    x = np.ones((2, 3), "f4")
    absent = np.zeros((2, 3), bool)

    @quick
    def means(x):
        both = lambda f, **k: jax.value_and_grad(lambda x: f(jnp.square)(x, **k))(x)
        return (
            both(lambda f: mean(masked(f), empty=empty), mask=absent),
            mean(mean(masked(jnp.square), axis=1), empty=empty)(x, mask=absent),
            mean(jnp.square, axis=1, empty=empty)(x[:, :0]),
            mean(jnp.square, empty=empty)(x),
        )

    (value, gradient), nested, of_no_length, of_all = means(x)
    assert value == nested == empty
    np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_array_equal(of_no_length, [empty] * 2)
    assert of_all == 1
    if np.isfinite(empty):
        with jax.debug_nans(True):
            assert mean(masked(jnp.square), empty=empty)(x, mask=absent) == empty
    for wrong in ("0", None, True):
        with pytest.raises(TypeError, match=r"^mean: empty must be a number, found"):
            mean(jnp.square, empty=wrong)


def test_no_nan_arises_on_the_way():
    """An empty row inside a batch does not trip jax_debug_nans."""
    x, y, mask = ragged()
    gradient = jax.grad(mean(mean(masked(square), axis=-1)))
    gradient = quick(checkify.checkify(gradient, errors=checkify.nan_checks))
    error, _ = gradient(x, y, mask=mask)
    error.throw()
    error, _ = gradient(x * NAN, y, mask=mask)
    assert "nan generated by primitive" in error.get()


@quick
def without_absent_rows(x, y, mask, weights):
    losses = (
        lambda f: mean(f),
        lambda f: sum_(f),
        lambda f: batchmean(f),
        lambda f: mean(mean(f, axis=-1)),
    )
    of_masked = [loss(masked(square))(x, y, mask=mask) for loss in losses]
    # XLA selects where a mask is multiplied; numbers it has to multiply.
    return of_masked, [loss(weighted(square))(x, y, weights=weights) for loss in losses]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_absent_rows_do_not_reach_the_value(bad):
    x, y, mask = ragged()
    weights = np.where(mask, np.float32(2), 0)
    spoilt = np.where(mask, x, np.float32(bad))
    clean = without_absent_rows(x, y, mask, weights)
    np.testing.assert_array_equal(without_absent_rows(spoilt, y, mask, weights), clean)


def test_absent_rows_and_gradients_are_as_documented():
    """Selecting outputs cannot protect the gradient; selecting inputs does."""
    a, b = np.random.default_rng(3).normal(size=(2, 4, 6)).astype(np.float32)
    mask = np.array([True, False, True, True])
    a[1] = NAN
    loss = mean(masked(kl_divergence))
    select = lambda x: jnp.where(mask[:, None], x, 0)

    @quick
    def gradients(a, b):
        guarded = jax.grad(lambda b: loss(select(a), select(b), mask=mask))
        return jax.grad(loss, 1)(a, b, mask=mask), guarded(b)

    gradient, guarded = gradients(a, b)
    assert np.isnan(gradient[1]).any()
    assert np.isfinite(gradient[mask]).all()
    assert np.isfinite(guarded).all()
    np.testing.assert_array_equal(guarded[1], 0)


MOST = float(np.finfo("f4").max)
# Of two numbers a row; of rows of two logits on each side; of counts; of parameters.
EXTREME = (0.0, 1e-30, 1e-10, 0.5, 1e10, 1e30, MOST, -1.0, -1e9)
LOGITS = (0.0, -1e9, 80.0, 1e30, -MOST)
COUNTS = (0.0, 1.0, 1e9, -1.0)
PARAMETERS = (0.0, -1.0, 1e-3, 0.5, 1.0, 1e3)
# Families that differ in what overflows; the others are made of the same functions.
FAMILIES = ("normal", "poisson", "binomial", "laplace", "gamma", "beta", "uniform")
HIDDEN = {
    **{f.__name__: (f, 2, EXTREME, ()) for f in (kl_jax.rel_entr, kl_jax.generalized_kl)},
    "kl_estimate": (kl_jax.kl_estimate, 2, EXTREME, ()),
    "pathwise": (
        functools.partial(kl_jax.kl_estimate, reparameterized=True),
        *(2, EXTREME, ()),
    ),
    **{
        name: (registry.MAIN[name].function, 2, LOGITS, (2,))
        for name in ("kl", "jensen_shannon", "renyi 0.5")
    },
    "kl_divergence_from_probs": (kl_divergence_from_probs, 2, EXTREME, (2,)),
    "kl_from_counts": (kl_jax.kl_from_counts, 2, COUNTS, (2,)),
    **{
        name: (
            getattr(kl_jax.parametric, name),
            *(2 * len(parametric_grid.PARAMETERS[name]), PARAMETERS, ()),
        )
        for name in FAMILIES
    },
    "dirichlet": (kl_jax.parametric.dirichlet, 2, PARAMETERS, (2,)),
}
OF_FAMILIES = (*FAMILIES, "dirichlet")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in OF_FAMILIES else name
        for name in HIDDEN
    ],
)
def test_a_mask_hides_finite_rows_from_every_derivative(name):
    """Rows of finite padding, in the domain and outside: slopes are numbers, and 0."""
    function, count, values, shape = HIDDEN[name]
    rng = np.random.default_rng(12)
    arguments = tuple(rng.choice(values, size=(count, 512, *shape)).astype("f4"))
    loss = mean(masked(function))

    @quick
    def derivatives(*arguments):
        places = tuple(range(count))
        hidden = jnp.zeros(512, bool)
        gradient = jax.grad(lambda *x: loss(*x, mask=hidden), places)
        total = lambda *x: sum(jnp.sum(g) for g in gradient(*x))
        return gradient(*arguments), jax.grad(total, places)(*arguments)

    for found in jax.tree.leaves(derivatives(*arguments)):
        np.testing.assert_array_equal(found, 0)


def test_counts_and_sums_are_float32():
    @quick
    def sums(ones, keep):
        some = jnp.array([True, False, True, True])
        return {
            "of bfloat16": jnp.sum(ones),
            "unweighted": sum_(lambda: ones)(),
            "masked": sum_(masked(lambda: ones))(mask=keep),
            "mean": mean(masked(lambda: ones))(mask=keep),
            "mean of booleans": mean(lambda: some)(),
            "of integers": sum_(lambda: jnp.arange(4))(),
        }

    found = sums(np.ones(1001, jnp.bfloat16), np.ones(1001, bool))
    assert found["of bfloat16"] == 1000  # what bfloat16 would have given
    for total in (found["unweighted"], found["masked"]):
        assert total == 1001
        assert total.dtype == jnp.float32
    assert found["mean"] == 1
    assert found["mean of booleans"] == 0.75
    assert found["of integers"].dtype == jnp.float32
    with jax.enable_x64(True):
        of_float64 = jax.eval_shape(mean(lambda: jnp.ones(3, jnp.float64)))
        assert of_float64.dtype == jnp.float64


# --- transforms of JAX -------------------------------------------------------------


def logits_and_mask(batch, seed=7):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, batch, 3, 11)).astype(np.float32)
    mask = rng.uniform(size=(batch, 3)) < 0.6
    mask[0] = False
    mask[-1] = True
    return a, b, mask


LOSSES = {
    "token mean": lambda f, **k: mean(masked(f), **k),
    "sum": lambda f, **k: sum_(masked(f), **k),
    "batchmean": lambda f, **k: batchmean(masked(f), **k),
    "sequence mean of token means": lambda f, **k: mean(mean(masked(f), axis=-1), **k),
    "sequence mean of token sums": lambda f, **k: mean(sum_(masked(f), axis=-1), **k),
}


def of_rows(name):
    """What is reduced: kl_divergence in the most common loss."""
    return kl_divergence if name == "token mean" else distance


@pytest.mark.parametrize("name", LOSSES)
def test_jit_grad_hessian(name):
    a, b, mask = logits_and_mask(4)
    f = of_rows(name)
    loss = LOSSES[name](f)
    gradient = jax.value_and_grad(loss, 1)
    (value, gradient), values = quick(
        lambda a, b, mask: (gradient(a, b, mask=mask), f(a, b))
    )(a, b, mask)
    reference = {
        "token mean": values[mask].mean(),
        "sum": values[mask].sum(),
        "batchmean": values[mask].sum() / 4,
    }
    if name in reference:
        np.testing.assert_allclose(value, reference[name], rtol=1e-6)
    np.testing.assert_array_equal(gradient[~mask], 0)
    assert (np.abs(gradient[mask]).max(-1) > 0).all()
    small = (a[:2, :, :3], b[:2, :, :3])
    hessian = jax.hessian(lambda b: loss(small[0], b, mask=mask[2:]))
    hessian = quick(hessian)(small[1])
    assert np.isfinite(hessian).all()
    assert np.abs(hessian).max() > 0


mean_distance = quick(mean(masked(distance)))


def test_vmap_reduces_each_example():
    a, b, mask = logits_and_mask(4)
    loss = mean(masked(distance))
    found = quick(jax.vmap(lambda a, b, m: loss(a, b, mask=m)))(a, b, mask)
    each = [mean_distance(a[i], b[i], mask=mask[i]) for i in range(4)]
    np.testing.assert_allclose(found, each, rtol=1e-6)  # nan for the empty one


def test_axis_name_under_vmap_is_the_whole_mean():
    a, b, mask = logits_and_mask(8)
    split = lambda x: x.reshape(2, 4, *x.shape[1:])
    loss = mean(masked(distance), axis_name="part")
    parts = jax.vmap(lambda a, b, m: loss(a, b, mask=m), axis_name="part")
    found = quick(parts)(split(a), split(b), split(mask))
    whole = mean_distance(a, b, mask=mask)
    np.testing.assert_allclose(found, [whole, whole], rtol=1e-6)


def test_micro_batches_add_numerators_and_denominators():
    a, b, mask = logits_and_mask(6)
    terms = masked(distance)

    def numerator(b, a, m):
        return sum_(terms)(a, b, mask=m), jnp.sum(terms(a, b, mask=m).weights)

    def step(carry, batch):
        a, b, m = batch
        (total, count), gradient = jax.value_and_grad(numerator, has_aux=True)(b, a, m)
        return (carry[0] + total, carry[1] + count), gradient

    @quick
    def both(*whole):
        parts = tuple(x.reshape(3, 2, *x.shape[1:]) for x in whole)
        a, b, mask = whole
        return (
            jax.lax.scan(step, (0.0, 0.0), parts),
            jax.value_and_grad(mean(terms), 1)(a, b, mask=mask),
        )

    ((total, count), gradient), (value, expected) = both(a, b, mask)
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


@functools.cache
def on_one_device(name):
    """A loss of all that is spread over devices here, and its gradients."""
    a, b, mask = logits_and_mask(8)
    return quick(jax.value_and_grad(LOSSES[name](of_rows(name)), (0, 1)))(a, b, mask=mask)


@pytest.mark.parametrize("grad_inside", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "Auto") for name in LOSSES), ("token mean", "Explicit")]
)
def test_shard_map_equals_one_device(name, kind, grad_inside):
    """Eight devices with unequal masks, the first with nothing at all."""
    a, b, mask = logits_and_mask(8)
    assert len(set(mask.sum(-1))) > 2
    local = lambda a, b, m: LOSSES[name](of_rows(name), axis_name="data")(a, b, mask=m)
    mesh = mesh_of("data", kind)
    shard = functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("data"),) * 3)
    if grad_inside:
        body = jax.value_and_grad(local, 1)
        both = shard(body, out_specs=(P(), P("data")))
    else:
        both = jax.value_and_grad(shard(local, out_specs=P()), 1)
    value, gradient = quick(both)(*placed(mesh, P("data"), a, b, mask))
    expected, (_, expected_gradient) = on_one_device(name)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


def test_mean_of_local_means_would_be_another_number():
    a, b, mask = logits_and_mask(8)
    mask[:, 0] = True
    local = [mean_distance(a[i], b[i], mask=mask[i]) for i in range(8)]
    assert abs(np.mean(local) - mean_distance(a, b, mask=mask)) > 1e-3


def test_unweighted_reductions_across_devices():
    a, b, _ = logits_and_mask(8)
    reductions = (sum_, mean, batchmean)

    def local(a, b):
        return [reduce(distance, axis_name="data")(a, b) for reduce in reductions]

    shard = jax.shard_map(
        local, mesh=mesh_of("data"), in_specs=(P("data"),) * 2, out_specs=P()
    )
    expected = quick(lambda a, b: [reduce(distance)(a, b) for reduce in reductions])(a, b)
    np.testing.assert_allclose(quick(shard)(a, b), expected, rtol=1e-6)


def test_partial_reduction_over_a_sharded_axis():
    """Tokens of one sequence lie on different devices."""
    a, b, mask = (np.swapaxes(x, 0, 1) for x in logits_and_mask(8))  # [3, 8, ...]

    def local(a, b, m):
        rows = mean(masked(distance), axis=-1, axis_name="time")
        return mean(rows)(a, b, mask=m)

    specs = (P(None, "time"),) * 3
    shard = jax.shard_map(local, mesh=mesh_of("time"), in_specs=specs, out_specs=P())
    found = quick(shard)(a, b, mask)
    expected = quick(mean(mean(masked(distance), axis=-1)))(a, b, mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_plain_jit_on_sharded_arrays(kind):
    mesh = mesh_of("data", kind)
    loss = mean(masked(kl_divergence))
    gradient = quick(jax.value_and_grad(lambda a, b, m: loss(a, b, mask=m), (0, 1)))
    with jax.set_mesh(mesh):
        value, gradients = gradient(*placed(mesh, P("data"), *logits_and_mask(8)))
    expected, expected_gradients = on_one_device("token mean")
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, true in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-5, atol=1e-8)


# --- functions as functions ----------------------------------------------------------


def test_a_transformed_function_says_what_it_is():
    loss = mean(masked(kl_divergence))
    assert loss.__name__ == loss.__qualname__ == "mean(masked(kl_divergence))"
    assert repr(loss).startswith("<function mean(masked(kl_divergence)) at")
    summary, _, rest = inspect.getdoc(loss).partition("\n\n")
    assert summary == "The mean of the values of `masked(kl_divergence)`."
    assert "`masked(kl_divergence)`" in rest
    assert "keyword `mask`" in masked(kl_divergence).__doc__
    assert "along axis -1" in mean(kl_divergence, axis=-1).__doc__
    named = {
        reverse(kl_divergence): "reverse(kl_divergence)",
        tempered(kl_divergence, 2.0): "tempered(kl_divergence)",
        checked(jax.jit(kl_divergence)): "checked(kl_divergence)",
        mean(functools.partial(kl_divergence, axis=0)): "mean(partial(kl_divergence))",
        mean(lambda x: x): "mean(<lambda>)",
        mean(KLDivLoss(reduction="none")): "mean(KLDivLoss)",
    }
    for function, name in named.items():
        assert function.__name__ == name
        assert function.__doc__ != kl_divergence.__doc__


def test_signatures_of_transformed_functions():
    def of(function):
        return inspect.signature(function)

    parameters = of(kl_divergence).parameters
    for function, returns in (
        (mean(kl_divergence), "Array"),
        (mean(kl_divergence, axis=0), "Array | Weighted"),
        (reverse(kl_divergence), "Array"),
        (tempered(kl_divergence, 2.0), "Array"),
        (checked(kl_divergence), "Array"),
    ):
        assert of(function).parameters == parameters
        assert of(function).return_annotation == returns
    for transform, name in ((masked, "mask"), (weighted, "weights")):
        found = of(transform(kl_divergence))
        assert list(found.parameters) == [*parameters, name]
        assert found.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert found.return_annotation == "Weighted"
        assert name in of(transform(lambda **k: 0)).parameters
    loss = mean(masked(functools.partial(square, y=1.0)))
    assert quick(loss)(np.float32(3), mask=np.array(True)) == 4

    def tagged(x):
        return x

    tagged.note = "describes tagged"
    assert not hasattr(mean(tagged), "note")


def test_weighted_values_take_no_part_in_arithmetic():
    w = Weighted(np.ones(3), np.ones(3))
    for operation in (lambda: w + w, lambda: 2 * w, lambda: w * 2, lambda: 0 + w):
        with pytest.raises(TypeError, match=r"^Weighted: .* mean\(f\) or sum\(f\)"):
            operation()


def test_one_trace_for_a_function_built_once():
    calls = chex.assert_max_traces(square, n=1)
    loss = quick(mean(masked(calls)))
    x, y, mask = ragged()
    for _ in range(3):
        loss(x, y, mask=mask)


def test_exported_weighted_is_a_pytree():
    out = quick(masked(square))(*ragged()[:2], mask=ragged()[2])
    assert isinstance(out, kl_jax.Weighted)
    assert len(jax.tree.leaves(out)) == 2


# --- reverse and tempered --------------------------------------------------------------


@pytest.mark.usefixtures("quickly")
def test_reverse():
    rng = np.random.default_rng(9)
    p, q = rng.uniform(size=(2, 4, 6)).astype(np.float32)
    function = kl_divergence_from_probs
    other = reverse(function)
    np.testing.assert_array_equal(other(p, q, axis=0), function(q, p, axis=0))
    np.testing.assert_array_equal(reverse(other)(p, q), function(p, q))


FORMS = {
    "itself": lambda f: f,
    "jit": jax.jit,
    "partial": functools.partial,
    "lambda": lambda f: lambda a, b: f(a, b),
    "any number": lambda f: lambda *arguments: f(*arguments),
    "mean": mean,
}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("form", FORMS)
def test_functions_of_any_form_are_reversed_and_tempered(form):
    a, b = np.random.default_rng(11).normal(size=(2, 6)).astype(np.float32)
    function = FORMS[form](kl_divergence)
    found = quick(lambda a, b: (reverse(function)(a, b), tempered(function, 1.0)(a, b)))
    np.testing.assert_allclose(found(a, b), [kl_divergence(b, a), kl_divergence(a, b)])


@pytest.mark.usefixtures("quickly")
def test_logits_by_name():
    a, b = np.array([0.0, 1.0], "f4"), np.array([0.0, 3.0], "f4")
    for function in (reverse(kl_divergence), tempered(kl_divergence, 1.0)):
        expected = function(a, b)
        assert function(logits_q=b, logits_p=a) == function(a, logits_q=b) == expected
        for wrong in ({"logits_q": b}, {"logits_p": a, "q": b}, {}):
            name = function.__name__.replace("(", r"\(").replace(")", r"\)")
            with pytest.raises(TypeError, match=f"^{name}: "):
                function(**wrong)
    with pytest.raises(TypeError, match=r"^reverse\(<lambda>\): .* found 1 of them"):
        reverse(lambda *x: x)(a)


@pytest.mark.usefixtures("quickly")
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
    half = jax.eval_shape(loss, *(x.astype(jnp.bfloat16) for x in (a, b)))
    assert half.dtype == jnp.float32


@pytest.mark.usefixtures("quickly")
def test_tempered_far_out():
    a, b = np.array([0.0, 1.0], "f4"), np.array([0.0, 3.0], "f4")
    for temperature in (1e-30, 1e-10, 1e10, 1e30):
        assert np.isfinite(tempered(kl_divergence, temperature)(a, b))
    np.testing.assert_allclose(tempered(kl_divergence, 1e5)(a, b), 0.5, rtol=1e-4)


def test_tempered_by_a_traced_schedule():
    a, b = np.array([0.0, 1.0], "f4"), np.array([0.0, 3.0], "f4")
    both = quick(jax.value_and_grad(lambda t: tempered(kl_divergence, t)(a, b)))
    value, slope = both(np.float32(2))
    np.testing.assert_allclose(value, tempered(kl_divergence, 2)(a, b), rtol=1e-6)
    step = np.float32(1e-3)
    up, down = (float(both(np.float32(2) + s)[0]) for s in (step, -step))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-2)
