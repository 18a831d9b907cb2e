"""Vocabularies over the devices of a mesh: in shard_map, and under plain jit."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import registry
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from programs import quick, quickly

from kl_jax import (
    _tiles,
    kl_divergence,
    kl_divergence_from_probs,
    linear_kl_divergence,
    masked,
    mean,
    topk_kl_divergence,
    topk_outcomes,
)

INF = np.inf
DIVERGENCES = {
    name: registry.DIVERGENCES[name]
    for name in (*registry.MAIN, "jensen_shannon 0.1", "renyi 2")
}
OUTCOMES = P(None, "vocab")
kl_on_one_device = quick(kl_divergence)


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


def relative(found, true, size=None):
    """Largest error of each row, by its largest component or by `size`."""
    found, true = (np.asarray(x, "f8") for x in (found, true))
    size = np.abs(true).max(-1) if size is None else size
    error = np.abs(found - true).max(-1)
    return np.max(error / np.where(size == 0, 1, size))


def test_values_of_all():
    a, b = logits()
    a[2, 5] = b[2, 5]  # else two of them are inf

    def every(a, b, axis_name=None):
        rows = DIVERGENCES.items()
        return {name: row.function(a, b, axis_name=axis_name) for name, row in rows}

    everywhere = quick(over_vocab(every))(a, b)
    for name, row in DIVERGENCES.items():
        for found, x, y in zip(everywhere[name], a, b, strict=True):
            true = oracles.divergence(row, x, y)
            assert oracles.ulps(found, true, "float32") <= 5  # 3.0 seen


def derivatives(f):
    """Values of f, and the gradients of their sum."""

    def total(a, b):
        values = f(a, b)
        return jnp.sum(values), values

    def both(a, b):
        (_, values), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(a, b)
        return values, gradients

    return both


@functools.cache
def kl_over_vocab():
    """Values and gradients of [12, 128] logits, with LLVM at rest: the HLO is the same."""
    with quickly():
        return jax.jit(derivatives(over_vocab(kl_divergence))).lower(*logits()).compile()


@pytest.mark.parametrize("name", ["kl", "renyi 2"])
def test_gradients(name):
    f = DIVERGENCES[name].function
    a, b = logits()
    everywhere = kl_over_vocab() if name == "kl" else quick(derivatives(over_vocab(f)))
    _, gradients = everywhere(a, b)
    _, alone = quick(derivatives(f))(a, b)
    for found, true in zip(gradients, alone, strict=True):
        # At p = 0 < q slopes of the others cancel: 6e-5 alone, 1e-6 here, of float64's.
        assert relative(found, true) <= (1e-6 if name == "kl" else 1e-4)


@pytest.mark.parametrize("name", ["kl", "jensen_shannon"])
def test_tiles_of_rows_inside(name):
    """More rows than a tile of a device has: what its loop carries varies over devices."""
    x = jax.ShapeDtypeStruct((4096, 2048), jnp.float32)
    value, slopes = jax.eval_shape(
        derivatives(over_vocab(DIVERGENCES[name].function)), x, x
    )
    assert value.shape == (4096,)
    assert all(slope.shape == x.shape for slope in slopes)


@pytest.mark.slow
def test_derivatives_taken_inside():
    """Of shard_map's body: each device has the gradient of its own logits."""
    a, b = logits(1)
    s, t = np.random.default_rng(2).normal(size=(2, *a.shape)).astype("f4")

    def second(axis_name):
        f = functools.partial(kl_divergence, axis_name=axis_name)
        grad = jax.grad(lambda a, b: jnp.sum(f(a, b)), (0, 1))
        return lambda a, b, s, t: jax.jvp(grad, (a, b), (s, t))

    inside = jax.shard_map(
        second("vocab"), mesh=mesh(8), in_specs=(OUTCOMES,) * 4, out_specs=OUTCOMES
    )
    gradients, changes = quick(inside)(a, b, s, t)
    alone = quick(second(None))
    true_gradients, true_changes = alone(a, b, s, t)
    for found, true in zip(gradients, true_gradients, strict=True):
        assert relative(found, true) <= 2e-6
    # What s and what t changes are rounded each by itself, and may cancel: in one row 0.466
    # and 0.458 leave 0.013, and an error relative to that is luck.
    parts = zip(alone(a, b, s, 0 * t)[1], alone(a, b, 0 * s, t)[1], strict=True)
    for found, true, both in zip(changes, true_changes, parts, strict=True):
        size = sum(np.abs(part).max(-1) for part in both)
        assert relative(found, true, size) <= 2e-6


def test_boundary():
    rows = {  # what p and q are at two outcomes of different shards, and KL
        "nan": ((np.nan, 0.0), (0.0, 0.0), np.nan),
        "q = 0 < p": ((0.0, 0.0), (0.0, -INF), INF),
        "p = 0 < q": ((0.0, -INF), (0.0, 0.0), np.log(2)),
        "no p": ((-INF, -INF), (0.0, 0.0), 0.0),
        "nothing": ((-INF, -INF), (-INF, -INF), 0.0),
        "two point masses": ((0.0, -INF), (-INF, 0.0), INF),
        "+inf": ((INF, 0.0), (INF, 0.0), 0.0),
    }
    a, b = np.full((2, 12, 128), -INF, "f4")
    for i, (x, y, _) in enumerate(rows.values()):
        a[i, [8, 100]], b[i, [8, 100]] = x, y
    value, gradients = jax.device_get(kl_over_vocab()(a, b))
    expected = [v for *_, v in rows.values()]
    np.testing.assert_allclose(value[: len(rows)], expected, rtol=1e-6)
    for g in gradients:
        assert np.isfinite(g[1:]).all()


def test_from_probabilities():
    shares = [np.exp(x - x.max(-1, keepdims=True)) for x in logits(3)]
    p, q = (x / x.sum(-1, keepdims=True) for x in shares)
    found = quick(over_vocab(kl_divergence_from_probs))(p, q)
    expected = quick(kl_divergence_from_probs)(p, q)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_small_all_reduce():
    """All that devices exchange for value and gradient: one summary of each row."""
    module = kl_over_vocab().as_text()
    assert len(re.findall(r" all-reduce\(", module)) == 1
    assert not re.findall(r"all-gather|all-to-all|collective-permute", module)


def collectives(module):
    """The shapes that all-gathers and all-reduces of a compiled module return."""
    lines = re.findall(r"= (.*?) all-(?:gather|reduce)\(", module)
    shapes = re.findall(r"\w+\[([\d,]*)\]", " ".join(lines))
    return [tuple(int(n) for n in s.split(",") if n) for s in shapes]


def arguments(seed=5):
    """Of `losses`: 8 rows, 128 outcomes."""
    rng = np.random.default_rng(seed)
    teacher, b = rng.normal(size=(2, 8, 128)).astype("f4")
    b[1, :32] -= 200  # one device's largest logit is far below the others'
    log_p = 2 * teacher - np.log(np.sum(np.exp(2 * teacher), -1, keepdims=True))
    index = np.argsort(-log_p, -1)[:, :5].astype("i4")
    log_p = np.take_along_axis(log_p, index, -1)
    log_p[2, 3:] = -INF  # two that are ignored
    a = b + np.random.default_rng(6).normal(size=b.shape).astype("f4")
    shapes = ((8, 12), (12, 128), (8, 10), (10, 128), (128,), (128,))
    heads = [rng.normal(size=s).astype("f4") for s in shapes]
    heads[4][120:] = heads[5][120:] = -INF
    return log_p, index, a, b, *heads


def linear(*x, axis_name=None):
    *four, bias_p, bias_q = x
    keywords = {"temperature": 2.0, "softcap_q": 5.0, "block": 24, "axis_name": axis_name}
    return linear_kl_divergence(*four, bias_p=bias_p, bias_q=bias_q, **keywords)


def losses(axes, keep, log_p, index, a, b, *heads):
    """The sum of three, of which two share logits, and each of them."""
    rows, vocab = axes
    each = tuple(
        mean(masked(f), axis_name=rows)(*x, mask=keep, axis_name=vocab)
        for f, x in (
            (topk_kl_divergence, (log_p, index, b)),
            (kl_divergence, (a, b)),
            (linear, heads),
        )
    )
    return sum(each), each


def with_gradients(axes):
    """Of `losses`, the gradients in all that is floating point, in order."""
    arrays = (1, *range(3, 11))
    return jax.value_and_grad(functools.partial(losses, axes), arrays, has_aux=True)


on_one_device = quick(with_gradients((None, None)))


def test_rows_and_vocabulary_at_once():
    """The heads and the reductions on a mesh of two axes, with derivatives inside the body.
    test_processes takes them outside.
    """
    x = (np.arange(8) % 3 != 0, *arguments())
    rows, whole, sides = P("rows"), P("rows", "vocab"), (P("rows"), P(None, "vocab"))
    of_arrays = (rows, whole, whole, *sides, *sides, P("vocab"), P("vocab"))
    specs = (rows, rows, *of_arrays)
    on = mesh(2, 4, kind=AxisType.Explicit)
    inside = jax.shard_map(
        with_gradients(("rows", "vocab")),
        mesh=on,
        in_specs=specs,
        out_specs=((P(), P()), of_arrays),
    )
    with jax.set_mesh(on):
        there = [
            jax.device_put(z, NamedSharding(on, s)) for z, s in zip(x, specs, strict=True)
        ]
        (_, each), gradients = quick(inside)(*there)
    (_, expected), wanted = on_one_device(*x)
    np.testing.assert_allclose(each, expected, rtol=1e-6)
    for found, true in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, true, rtol=0, atol=2e-6 * np.abs(true).max())


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_plain_jit(kind):
    """No collective moves anything of the size of rows times vocabulary."""
    log_p, index, a, b, *_ = arguments()

    def loss(a, b, log_p, index):
        return jnp.mean(kl_divergence(a, b) + topk_kl_divergence(log_p, index, b))

    grad = jax.value_and_grad(loss, (0, 1, 2))
    on = mesh(2, 4, kind=kind)
    with quickly(), jax.set_mesh(on):  # the HLO is the same
        spec = P("rows", "vocab")
        specs = (spec, spec, P("rows"), P("rows"))
        x = [
            jax.device_put(z, NamedSharding(on, s))
            for z, s in zip((a, b, log_p, index), specs, strict=True)
        ]
        program = jax.jit(grad).lower(*x).compile()
        value, gradients = program(*x)
        if kind == AxisType.Explicit:
            assert jax.typeof(gradients[1]).sharding.spec == jax.typeof(x[1]).sharding.spec
    moved = collectives(program.as_text())
    assert moved  # the mean, at least
    assert max(np.prod(shape, dtype=int) for shape in moved) <= 8 * 5  # rows x k
    (_, (topk, kl, _)), wanted = on_one_device(np.ones(8, bool), *arguments())
    np.testing.assert_allclose(value, topk + kl, rtol=1e-6)
    in_log_p, in_a, in_b, *_ = wanted
    for found, true in zip(gradients, (in_a, in_b, in_log_p), strict=True):
        assert relative(found, true) <= 1e-5


def test_outcomes_of_a_stored_teacher():
    """In shard_map the same on all devices; on an Explicit mesh, of whole rows."""
    x = [z for i, z in enumerate(arguments()) if i in (0, 1, 3)]
    inside = jax.shard_map(
        functools.partial(topk_outcomes, axis_name="vocab"),
        mesh=mesh(8),
        in_specs=(P(), P(), OUTCOMES),
        out_specs=P(),
    )
    alone, found = quick(topk_outcomes)(*x), [quick(inside)(*x)]
    on = mesh(2, 4, kind=AxisType.Explicit)
    with quickly(), jax.set_mesh(on):
        specs = (P("rows"), P("rows"), P("rows", "vocab"))
        there = [
            jax.device_put(z, NamedSharding(on, s)) for z, s in zip(x, specs, strict=True)
        ]
        found.append(topk_outcomes(*there))
        for z in found[1]:
            assert jax.typeof(z).sharding.spec == P("rows", None)
    for pair in found:
        for z, expected in zip(pair, alone, strict=True):
            np.testing.assert_allclose(z, expected, rtol=2e-6)


def test_rows_are_not_cut_into_tiles_on_a_mesh(monkeypatch):
    """A loop over tiles would gather the rows of other devices. No other test has this
    shape: its trace would be found again.
    """
    monkeypatch.setattr(_tiles, "_TILE", 64)
    spread = NamedSharding(mesh(2, 4), P("rows", "vocab"))
    x = jax.ShapeDtypeStruct((16, 136), jnp.float32, sharding=spread)
    with quickly(), jax.set_mesh(spread.mesh):  # the HLO is the same
        text = jax.jit(kl_divergence).lower(x, x).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text


def test_linear_head_under_plain_jit():
    x = arguments()[4:]
    grad = jax.value_and_grad(lambda *x: jnp.mean(linear(*x)), (0, 1, 2, 3))
    on = mesh(2, 4, kind=AxisType.Explicit)
    specs = (P("rows"), P(), P("rows"), P(), P(), P())
    with quickly(), jax.set_mesh(on):  # the HLO is the same
        there = [
            jax.device_put(z, NamedSharding(on, s)) for z, s in zip(x, specs, strict=True)
        ]
        program = jax.jit(grad).lower(*there).compile()
        value, gradients = program(*there)
    assert "all-gather" not in program.as_text()
    (_, (*_, expected)), wanted = on_one_device(np.ones(8, bool), *arguments())
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, true in zip(gradients, wanted[3:7], strict=True):
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
        found = quick(f)(*there)
    np.testing.assert_allclose(found, kl_on_one_device(a, b), rtol=1e-6)


def test_an_axis_of_vmap():
    whole = logits(8)
    a, b = (x.reshape(12, 8, 16) for x in whole)
    f = jax.vmap(functools.partial(kl_divergence, axis_name="i"), 1, axis_name="i")
    found = quick(f)(a, b)
    np.testing.assert_array_equal(found, found[:1].repeat(8, 0))
    np.testing.assert_allclose(found[0], kl_on_one_device(*whole), rtol=1e-6)
