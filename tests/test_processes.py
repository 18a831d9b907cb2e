"""Two processes that share a mesh: one training step, as on one process."""

import functools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from programs import quick

from kl_jax import linear_kl_divergence, masked, mean

# hidden states, weights of p, hidden states of q, weights of q, mask of the rows
SHAPES = ((6, 8), (8, 96), (6, 10), (10, 96))
SPECS = (P("rows"), P(None, "vocab"), P("rows"), P(None, "vocab"), P("rows"))


def arrays():
    rng = np.random.default_rng(0)
    return [*(rng.normal(size=s).astype("f4") for s in SHAPES), np.arange(6) != 4]


def loss(axes, h_p, w_p, h_q, w_q, mask):
    rows, vocab = axes
    head = functools.partial(
        linear_kl_divergence, temperature=2.0, block=20, axis_name=vocab
    )
    return mean(masked(head), axis_name=rows)(h_p, w_p, h_q, w_q, mask=mask)


def step(loss, *x):
    """The loss, the gradients in the student, and the student's weights after one step."""
    value, (d_hidden, d_weights) = jax.value_and_grad(loss, (2, 3))(*x)
    optimizer = optax.sgd(0.1)
    updates, _ = optimizer.update(d_weights, optimizer.init(x[3]))
    return value, d_hidden, d_weights, optax.apply_updates(x[3], updates)


def one_of_two(process, port, out):
    """Run by each of the two; the first one writes down what they found together."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert jax.process_count() == 2
    assert len(jax.devices()) == 4
    # The vocabulary is shared between the processes, the rows within each.
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2).T, ("rows", "vocab"))
    shardings = [NamedSharding(mesh, s) for s in SPECS]
    x = [
        jax.make_array_from_callback(
            z.shape, s, functools.partial(np.ndarray.__getitem__, z)
        )
        for z, s in zip(arrays(), shardings, strict=True)
    ]
    spread = jax.shard_map(
        functools.partial(loss, ("rows", "vocab")),
        mesh=mesh,
        in_specs=SPECS,
        out_specs=P(),
    )
    whole = NamedSharding(mesh, P())
    found = quick(functools.partial(step, spread), out_shardings=whole)(*x)
    if process == 0:
        np.savez(out, *found)
    jax.distributed.shutdown()


@pytest.mark.slow
def test_one_step_of_two_processes(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    out = tmp_path / "found.npz"
    here = str(pathlib.Path(__file__).parent)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.getenv("PYTHONPATH")])]),
    }
    code = "import sys, test_processes as t; t.one_of_two(int(sys.argv[1]), *sys.argv[2:])"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(process), str(port), str(out)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], errors
    alone = functools.partial(step, functools.partial(loss, (None, None)))
    expected = quick(alone)(*arrays())
    found = np.load(out)
    for name, true in zip(found.files, expected, strict=True):
        atol = 2e-6 * np.abs(true).max()
        np.testing.assert_allclose(found[name], true, rtol=0, atol=atol)
