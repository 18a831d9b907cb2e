"""Vocabularies over the devices of a mesh: in shard_map, and under plain jit."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kl_jax import (
    jeffreys_divergence,
    jensen_shannon_divergence,
    kl_divergence,
    kl_divergence_from_probs,
    linear_kl_divergence,
    masked,
    mean,
    renyi_divergence,
    reverse_kl_divergence,
    skew_kl_divergence,
    topk_kl_divergence,
)

INF = np.inf
DIVERGENCES = {
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "jeffreys": jeffreys_divergence,
    "jensen_shannon 0.3": functools.partial(jensen_shannon_divergence, beta=0.3),
    "skew_kl 0.1": functools.partial(skew_kl_divergence, skew=0.1),
    "renyi 0.5": functools.partial(renyi_divergence, order=0.5),
    "renyi 2": functools.partial(renyi_divergence, order=2.0),
}
OUTCOMES = P(None, "vocab")


def mesh(*sizes, kind=AxisType.Auto):
    names = ("rows", "vocab")[-len(sizes) :]
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))


def logits(seed=0, outcomes=128):
    """Near-equal to far apart, one side far off, the last shard and a half padded."""
    rng = np.random.default_rng(seed)
    scale = np.repeat([0.01, 1.0, 20.0], 4)[:, None]
    a = rng.normal(size=(12, outcomes)) * scale
    b = a + rng.normal(size=a.shape) * 10.0 ** -np.tile([0.0, 1, 3, 5], 3)[:, None]
    a[::3] += 1000.0
    a[:, 100:] = b[:, 100:] = -INF
    a[2, 5] = -INF  # p = 0 < q
    a[3, 40:] = b[3, 40:] = -INF  # one row lives on three shards
    return a.astype("float32"), b.astype("float32")


def over_vocab(f):
    """f with the outcomes of its arguments over eight devices."""
    return jax.shard_map(
        functools.partial(f, axis_name="vocab"),
        mesh=mesh(8),
        in_specs=(OUTCOMES,) * 2,
        out_specs=P(),
    )


def relative(found, true):
    """Largest error of each row, by its largest component."""
    found, true = (np.asarray(x, "f8") for x in (found, true))
    size = np.abs(true).max(-1)
    error = np.abs(found - true).max(-1)
    return np.max(error / np.where(size == 0, 1, size))


def test_values_of_all():
    a, b = logits()
    a[2, 5] = b[2, 5]  # else two of them are inf

    def every(a, b, axis_name=None):
        return {name: f(a, b, axis_name=axis_name) for name, f in DIVERGENCES.items()}

    everywhere, alone = jax.jit(over_vocab(every))(a, b), jax.jit(every)(a, b)
    for name in DIVERGENCES:
        kind, *parameter = name.split()
        rows = zip(everywhere[name], alone[name], a, b, strict=True)
        for found, expected, x, y in rows:
            true = oracles.divergence(kind, x, y, *parameter)
            assert oracles.ulps(found, true, "float32") <= 8
            # Two results of about one ULP each, and at most 4.7.
            assert abs(found - expected) <= 4 * np.spacing(expected)


@pytest.mark.parametrize("name", ["kl", "renyi 2"])
def test_gradients(name):
    f = DIVERGENCES[name]
    a, b = logits()

    def gradients(f):
        return jax.jit(jax.grad(lambda a, b: jnp.sum(f(a, b)), (0, 1)))(a, b)

    for found, true in zip(gradients(over_vocab(f)), gradients(f), strict=True):
        # At p = 0 < q slopes of the others cancel: 6e-5 alone, 1e-6 here, of float64's.
        assert relative(found, true) <= (1e-6 if name == "kl" else 1e-4)


def test_derivatives_taken_inside():
    """Of shard_map's body: each device has the gradient of its own logits."""
    a, b = logits(1)
    t = tuple(np.random.default_rng(2).normal(size=(2, *a.shape)).astype("f4"))

    def second(axis_name):
        f = functools.partial(kl_divergence, axis_name=axis_name)
        grad = jax.grad(lambda a, b: jnp.sum(f(a, b)), (0, 1))
        return lambda a, b, s, t: jax.jvp(grad, (a, b), (s, t))

    inside = jax.shard_map(
        second("vocab"), mesh=mesh(8), in_specs=(OUTCOMES,) * 4, out_specs=OUTCOMES
    )
    found = jax.tree.leaves(jax.jit(inside)(a, b, *t))
    true = jax.tree.leaves(jax.jit(second(None))(a, b, *t))
    for one, other in zip(found, true, strict=True):
        assert relative(one, other) <= 2e-6


def test_boundary():
    rows = {  # what p and q are at two outcomes of different shards, and KL
        "q = 0 < p": ((0.0, 0.0), (0.0, -INF), INF),
        "p = 0 < q": ((0.0, -INF), (0.0, 0.0), np.log(2)),
        "no p": ((-INF, -INF), (0.0, 0.0), 0.0),
        "nothing": ((-INF, -INF), (-INF, -INF), 0.0),
        "two point masses": ((0.0, -INF), (-INF, 0.0), INF),
        "+inf": ((INF, 0.0), (INF, 0.0), 0.0),
        "nan": ((np.nan, 0.0), (0.0, 0.0), np.nan),
    }
    a = np.full((len(rows), 16), -INF, "f4")
    b = a.copy()
    for i, (x, y, _) in enumerate(rows.values()):
        a[i, [1, 12]], b[i, [1, 12]] = x, y
    f = over_vocab(kl_divergence)
    grad = jax.grad(lambda a, b: jnp.sum(f(a, b)), (0, 1))
    value, gradients = jax.jit(lambda a, b: (f(a, b), grad(a, b)))(a, b)
    expected = [v for *_, v in rows.values()]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for g in gradients:
        assert np.isfinite(g[:-1]).all()


def test_from_probabilities():
    p, q = (np.asarray(jax.nn.softmax(x)) for x in logits(3))
    found = jax.jit(over_vocab(kl_divergence_from_probs))(p, q)
    expected = kl_divergence_from_probs(p, q)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_small_all_reduce():
    """All that devices exchange for value and gradient: one summary of each row."""
    f = over_vocab(kl_divergence)
    grad = jax.value_and_grad(lambda a, b: jnp.sum(f(a, b)), (0, 1))
    module = jax.jit(grad).lower(*logits()).compile().as_text()
    assert len(re.findall(r" all-reduce\(", module)) == 1
    assert not re.findall(r"all-gather|all-to-all|collective-permute", module)


def collectives(module):
    """The shapes that all-gathers and all-reduces of a compiled module return."""
    lines = re.findall(r"= (.*?) all-(?:gather|reduce)\(", module)
    shapes = re.findall(r"\w+\[([\d,]*)\]", " ".join(lines))
    return [tuple(int(n) for n in s.split(",") if n) for s in shapes]


def arguments(seed=5):
    """For topk and linear: 8 rows, 128 outcomes."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 8, 128)).astype("f4")
    log_p, index = jax.lax.top_k(jax.nn.log_softmax(2 * a), 5)
    shapes = ((8, 12), (12, 128), (8, 10), (10, 128), (128,), (128,))
    linear = [rng.normal(size=s).astype("f4") for s in shapes]
    linear[4][120:] = linear[5][120:] = -INF
    return np.asarray(log_p), np.asarray(index), b, linear


def linear(*x, axis_name=None):
    *four, bias_p, bias_q = x
    keywords = {"temperature": 2.0, "softcap_q": 5.0, "block": 24, "axis_name": axis_name}
    return linear_kl_divergence(*four, bias_p=bias_p, bias_q=bias_q, **keywords)


def test_rows_and_vocabulary_at_once():
    """The heads and the reductions on a mesh of two axes, with derivatives inside the body.
    test_processes takes them outside.
    """
    log_p, index, b, heads = arguments()
    keep = np.arange(8) % 3 != 0

    def loss(axes, log_p, index, b, keep, *heads):
        rows, vocab = axes
        a = mean(masked(topk_kl_divergence), axis_name=rows)(
            log_p, index, b, mask=keep, axis_name=vocab
        )
        c = mean(masked(linear), axis_name=rows)(*heads, mask=keep, axis_name=vocab)
        # The student's logits against those of the teacher next to it.
        d = mean(masked(kl_divergence), axis_name=rows)
        return a + c + d(b, 0.9 * b, mask=keep, axis_name=vocab)

    rows, whole = P("rows"), P("rows", "vocab")
    sides = (rows, P(None, "vocab")) * 2 + (P("vocab"),) * 2
    specs = (rows, rows, whole, rows, *sides)
    x = (log_p, index, b, keep, *heads)
    arrays = (0, 2, *range(4, 10))
    expected, wanted = jax.jit(
        jax.value_and_grad(functools.partial(loss, (None, None)), arrays)
    )(*x)
    on = mesh(2, 4, kind=AxisType.Explicit)
    over_both = functools.partial(loss, ("rows", "vocab"))
    inside = jax.shard_map(
        jax.value_and_grad(over_both, arrays),
        mesh=on,
        in_specs=specs,
        out_specs=(P(), tuple(specs[i] for i in arrays)),
    )
    with jax.set_mesh(on):
        there = [
            jax.device_put(z, NamedSharding(on, s)) for z, s in zip(x, specs, strict=True)
        ]
        value, gradients = jax.jit(inside)(*there)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, true in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, true, rtol=0, atol=2e-6 * np.abs(true).max())


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_plain_jit(kind):
    """No collective moves anything of the size of rows times vocabulary."""
    log_p, index, b, _ = arguments()
    a = b + np.random.default_rng(6).normal(size=b.shape).astype("f4")

    def loss(a, b, log_p, index):
        return jnp.mean(kl_divergence(a, b) + topk_kl_divergence(log_p, index, b))

    grad = jax.value_and_grad(loss, (0, 1, 2))
    on = mesh(2, 4, kind=kind)
    with jax.set_mesh(on):
        spec = P("rows", "vocab")
        specs = (spec, spec, P("rows"), P("rows"))
        x = [
            jax.device_put(z, NamedSharding(on, s))
            for z, s in zip((a, b, log_p, index), specs, strict=True)
        ]
        compiled = jax.jit(grad).lower(*x).compile()
        value, gradients = compiled(*x)
        if kind == AxisType.Explicit:
            assert jax.typeof(gradients[1]).sharding.spec == jax.typeof(x[1]).sharding.spec
    moved = collectives(compiled.as_text())
    assert moved  # the mean, at least
    assert max(np.prod(shape, dtype=int) for shape in moved) <= 8 * 5  # rows x k
    expected, wanted = jax.jit(grad)(a, b, log_p, index)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, true in zip(gradients, wanted, strict=True):
        assert relative(found, true) <= 1e-5


def test_linear_head_under_plain_jit():
    *_, x = arguments()
    grad = jax.value_and_grad(lambda *x: jnp.mean(linear(*x)), (0, 1, 2, 3))
    on = mesh(2, 4, kind=AxisType.Explicit)
    specs = (P("rows"), P(), P("rows"), P(), P(), P())
    with jax.set_mesh(on):
        there = [
            jax.device_put(z, NamedSharding(on, s)) for z, s in zip(x, specs, strict=True)
        ]
        compiled = jax.jit(grad).lower(*there).compile()
        value, gradients = compiled(*there)
    assert "all-gather" not in compiled.as_text()
    expected, wanted = jax.jit(grad)(*x)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, true in zip(gradients, wanted, strict=True):
        assert relative(found, true) <= 1e-5


def test_rows_stay_with_the_partitioner_while_the_vocabulary_is_manual():
    a, b = logits(7)
    on = mesh(2, 4, kind=AxisType.Explicit)
    f = jax.shard_map(
        functools.partial(kl_divergence, axis_name="vocab"),
        mesh=on,
        in_specs=(OUTCOMES,) * 2,
        out_specs=P(),
        axis_names={"vocab"},
    )
    with jax.set_mesh(on):
        there = (jax.device_put(x, NamedSharding(on, P("rows", "vocab"))) for x in (a, b))
        found = jax.jit(f)(*there)
    np.testing.assert_allclose(found, kl_divergence(a, b), rtol=1e-6)


def test_an_axis_of_vmap():
    a, b = (x.reshape(12, 8, 16) for x in logits(8))
    f = jax.vmap(functools.partial(kl_divergence, axis_name="i"), 1, axis_name="i")
    found = np.asarray(f(a, b))
    np.testing.assert_array_equal(found, found[:1].repeat(8, 0))
    expected = kl_divergence(a.reshape(12, -1), b.reshape(12, -1))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
