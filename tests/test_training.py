"""The library where it is used: an optax training step, jitted, scanned, distributed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from programs import quick

from kl_jax import kl_divergence, masked, mean, tempered

VOCABULARY, FEATURES, BATCH, TIME = 23, 5, 8, 4
LOSS = mean(masked(tempered(kl_divergence, 2.0)))


@pytest.fixture(autouse=True)
def optax_promotes():
    """optax multiplies floats by integer counts, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, TIME, FEATURES)).astype(np.float32)
    teacher = rng.normal(size=(FEATURES, VOCABULARY)).astype(np.float32)
    logits = x @ teacher
    logits[..., -3:] = -np.inf  # a padded vocabulary, masked in teacher and student alike
    mask = np.arange(TIME) < rng.integers(0, TIME + 1, (BATCH, 1))
    logits[~mask] = -np.inf  # and padded rows, without any outcome
    return x, logits, mask


def loss(weights, x, logits, mask):
    student = jnp.where(jnp.arange(VOCABULARY) < VOCABULARY - 3, x @ weights, -jnp.inf)
    return LOSS(logits, student, mask=mask)


def train(steps, batch, gradient=None):
    """The losses, and the weights after each step."""
    gradient = gradient or jax.value_and_grad(loss)
    optimizer = optax.adam(0.1)

    def step(carry, _):
        weights, state = carry
        value, grads = gradient(weights, *batch)
        updates, state = optimizer.update(grads, state)
        weights = optax.apply_updates(weights, updates)
        return (weights, state), (value, weights)

    def run():
        weights = jnp.zeros((FEATURES, VOCABULARY))
        return jax.lax.scan(step, (weights, optimizer.init(weights)), length=steps)[1]

    return quick(run)()


@functools.cache
def on_one_device():
    return train(300, data())


def test_a_student_learns_its_teacher():
    values, _ = on_one_device()
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert values[-1] < 1e-3 * values[0]


def test_agrees_with_optax_where_optax_is_defined():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 6, 9)).astype(np.float32)
    theirs = lambda a, b: optax.losses.kl_divergence(
        jax.nn.log_softmax(b), jax.nn.softmax(a)
    ).mean()
    ours, theirs = (jax.value_and_grad(f, 1) for f in (mean(kl_divergence), theirs))
    (value, gradient), (expected, expected_gradient) = quick(
        lambda a, b: (ours(a, b), theirs(a, b))
    )(a, b)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_eight_devices_train_as_one():
    batch = data()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    local = mean(masked(tempered(kl_divergence, 2.0)), axis_name="data")

    def local_loss(weights, x, logits, mask):
        student = jnp.where(jnp.arange(VOCABULARY) < VOCABULARY - 3, x @ weights, -jnp.inf)
        return local(logits, student, mask=mask)

    gradient = functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P("data"), P("data"), P("data")),
        out_specs=(P(), P()),
    )(jax.value_and_grad(local_loss))
    placed = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in batch]
    values, weights = train(5, placed, gradient)
    expected, expected_weights = on_one_device()
    np.testing.assert_allclose(values, expected[:5], rtol=1e-5)
    np.testing.assert_allclose(weights[-1], expected_weights[4], rtol=1e-3, atol=1e-5)
