"""What XLA compiles for TPUs and GPUs, on a machine that has none: memory, collectives, the
operands of the matrix products. Needs the extra `aot`; the export does not.
"""

import functools
import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from programs import quick

from kl_jax import kl_divergence, linear_kl_divergence, mean, parametric, topk_kl_divergence

MIB = 2**20


def described(kind, monkeypatch):
    """The devices of a TPU or GPU by its description."""
    if kind == "h200":
        if importlib.util.find_spec("jax_cuda13_plugin") is None:
            pytest.skip("jax-cuda13-plugin is not installed")
        target = (pathlib.Path(__file__).parent / "h200.txtpb").read_text()
        return topologies.get_topology_desc(
            platform="cuda", topology_name=kind, target_config=target, topology="1x1x1"
        ).devices
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # of several workers
    return topologies.get_topology_desc(platform="tpu", topology_name=kind).devices


def compiled(f, shapes, dtype, shardings):
    x = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for shape, sharding in zip(shapes, shardings, strict=True)
    ]
    return jax.jit(f).lower(*x).compile()


HEAD = [(4096, 2048), (2048, 131072)] * 2
STUDENT = jax.value_and_grad(mean(linear_kl_divergence), (2, 3))


@pytest.mark.aot
@pytest.mark.parametrize(("kind", "bound"), [("v5p:2x2x1", 256), ("h200", 640)])
def test_memory_and_operands_of_the_head(kind, bound, monkeypatch):
    device = SingleDeviceSharding(described(kind, monkeypatch)[0])
    program = compiled(STUDENT, HEAD, jnp.bfloat16, [device] * 4)
    assert program.memory_analysis().temp_size_in_bytes <= bound * MIB
    text = program.as_text()
    types = dict(re.findall(r"(%?[\w.-]+)(?: =|:) (\w+)\[", text))
    products = re.findall(r" (?:dot|convolution)\((%?[\w.-]+), (%?[\w.-]+)\)", text)
    assert len(products) == 6
    for pair in products:
        assert [types[name] for name in pair] == ["bf16", "bf16"]


@pytest.mark.aot
@pytest.mark.parametrize(
    ("kind", "name"), [("v5e:2x2", "kl"), *(("h200", name) for name in registry.MAIN)]
)
def test_memory_of_a_divergence(kind, name, monkeypatch):
    """Of 512 MiB of logits a side."""
    device = SingleDeviceSharding(described(kind, monkeypatch)[0])
    loss = mean(registry.MAIN[name].function)
    for f in (loss, jax.value_and_grad(loss, 1)):
        program = compiled(f, [(2048, 131072)] * 2, jnp.bfloat16, [device] * 2)
        assert program.memory_analysis().temp_size_in_bytes <= 16 * MIB


@pytest.mark.aot
def test_collectives_of_a_sharded_vocabulary(monkeypatch):
    """One all-reduce for value and gradient of the divergence; one more for the head: all
    shards have a part in the gradient in the hidden states.
    """
    devices = described("v5e:2x2", monkeypatch)
    mesh = Mesh(np.array(devices), ("vocab",))
    whole, split = P(), P(None, "vocab")

    def program(f, shapes, specs, argnums):
        def loss(*x):
            spread = jax.shard_map(
                functools.partial(f, axis_name="vocab"),
                mesh=mesh,
                in_specs=specs,
                out_specs=P(),
            )
            return jnp.mean(spread(*x))

        grad = jax.value_and_grad(loss, argnums)
        shardings = [NamedSharding(mesh, s) for s in specs]
        return compiled(grad, shapes, jnp.bfloat16, shardings).as_text()

    def collectives(text):
        kinds = r" (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\("
        return re.findall(kinds, text)

    text = program(kl_divergence, [(1024, 32768)] * 2, (split, split), (0, 1))
    assert collectives(text) == ["all-reduce"]
    shapes = [(1024, 256), (256, 32768)] * 2
    text = program(linear_kl_divergence, shapes, (whole, split) * 2, (2, 3))
    assert collectives(text) == ["all-reduce"] * 2


@pytest.mark.aot
@pytest.mark.parametrize("kind", ["v5p:2x2x1", "h200"])
def test_closed_forms_compile(kind, monkeypatch):
    """Those with loops, decompositions and Bessel functions, and their gradients."""
    device = SingleDeviceSharding(described(kind, monkeypatch)[0])

    def total(a, b, k, m, factor_p, factor_q):
        kl = parametric.dirichlet(a, b) + parametric.von_mises(0.0, k, 1.0, m)
        low_rank = parametric.low_rank_multivariate_normal(
            0.0, factor_p, a, 0.0, factor_q, b
        )
        return jnp.sum(kl + low_rank)

    shapes = [(4, 3), (4, 3), (4,), (4,), (4, 3, 2), (4, 3, 2)]
    program = compiled(jax.grad(total, tuple(range(6))), shapes, jnp.float32, [device] * 6)
    assert len(program.output_shardings) == 6


@pytest.mark.slow  # test_export.py has the programs of this platform
def test_one_export_for_all_platforms():
    def loss(a, b, log_p, index, h_p, w_p, h_q, w_q):
        kl = kl_divergence(a, b) + topk_kl_divergence(log_p, index, b)
        return jnp.mean(kl + linear_kl_divergence(h_p, w_p, h_q, w_q, block=16))

    rng = np.random.default_rng(0)
    shapes = ((4, 40), (4, 40), (4, 3), (4, 5), (5, 40), (4, 6), (6, 40))
    a, b, log_p, *heads = (rng.normal(size=s).astype("f4") - 2 for s in shapes)
    index = np.tile(np.arange(3, dtype="i4"), (4, 1))
    x = (a, b, log_p, index, *heads)
    grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 4, 5, 6, 7)))
    platforms = ("cpu", "cuda", "rocm", "tpu")
    exported = jax.export.export(grad, platforms=platforms)(*x)
    assert exported.platforms == platforms
    pair = quick(exported.call)(*x), quick(grad)(*x)
    for found, true in zip(*map(jax.tree.leaves, pair), strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-5, atol=1e-6 * np.abs(true).max())
