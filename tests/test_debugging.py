"""jax_debug_nans and jax_debug_infs stop at no number that is not part of a result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parametric_grid
import pytest
import registry
from programs import quickly
from test_divergences import EDGES, edges
from test_export import OF_ROWS

import kl_jax
from kl_jax import parametric

pytestmark = pytest.mark.slow  # some 1000 programs of one operation each

INF = np.inf
# All arrays are of one shape where they can be: one operation after the other compiles a
# program for each operation and shape.
NUMBERS = [i for i, case in enumerate(EDGES) if not case.startswith("nan")]
ROWS = tuple(np.random.default_rng(0).normal(size=(2, len(NUMBERS) + 2, 6)).astype("f4"))
# Those of `OF_ROWS` that are below, of other parameters.
ELSEWHERE = ("kl_div", "dirichlet", "diagonal", "full", "low rank", "beta", "normal")
ELSEWHERE += ("von_mises", "normal_standard")


def log_normal_density(m, x):
    return -jnp.square(x - m) / 2


def of_densities(m, n):
    p, q = (functools.partial(log_normal_density, x) for x in (m, n))
    return kl_jax.kl_from_densities(p, q, -INF, INF, order=63)


def boundary(name=None):
    """Logits of -inf and +inf and rows without outcomes, and two rows of `ROWS`; with a
    name without those where this divergence is inf, and others once more.
    """
    values = registry.MAIN[name].edges if name else {}
    rows = [i for i in NUMBERS if values.get(list(EDGES)[i], 0) != INF]
    x = edges("float32")[:, np.resize(rows, len(NUMBERS))]
    x = np.pad(x, [(0, 0), (0, 0), (0, 3)], constant_values=-INF)
    return tuple(np.concatenate([x, np.stack(ROWS)[:, :2]], 1))


def of_family(name):
    """Pairs of distributions, as many as `ROWS` has numbers; vectors of one size."""
    cases = [x for _, x in parametric_grid.grid(name, "float32", np.random.default_rng(0))]
    shapes = [np.shape(x) for x in cases[0]]
    cases = [x for x in cases if [np.shape(y) for y in x] == shapes]
    if name == "dirichlet":
        return cases[0]
    of_each = (np.stack(x) for x in zip(*cases, strict=True))
    return tuple(np.resize(x, ROWS[0].shape + x.shape[1:]) for x in of_each)


CALLS = {
    name: (f, ROWS)
    for name, f in OF_ROWS.items()
    if name not in ELSEWHERE and name not in registry.MAIN
}
CALLS |= {
    "kl_div": (OF_ROWS["kl_div"], (ROWS[0], np.abs(ROWS[1]))),
    "kl_from_samples": (
        kl_jax.kl_from_samples,
        tuple(np.swapaxes(x[:2], -1, -2) for x in ROWS),
    ),
    "kl_from_densities": (of_densities, tuple(np.float32([0, 1]))),
    **{
        family: (getattr(parametric, family), of_family(family))
        for family in parametric_grid.NAMES
    },
}


@pytest.mark.parametrize("name", CALLS)
def test_debugging(name):
    """As it is, and one operation after the other, which sees what is in between."""
    function, arguments = CALLS[name]
    arguments = [jax.device_put(x) for x in arguments]
    with quickly(), jax.debug_nans(True):
        with jax.debug_infs(True):
            found = function(*arguments)
        if name == "dirichlet":  # beta's terms, of loops that take 10 s
            return
        with jax.disable_jit():
            apart = function(*arguments)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["jensen_shannon", "renyi 0.5", "topk", "linear", "loss"])
def test_debugging_of_gradients(name):
    """That of `loss` is the one of kl_divergence."""
    slopes = jax.grad(lambda *x: jnp.sum(OF_ROWS[name](*x)), (0, 1))
    with quickly(), jax.debug_nans(True):
        slopes(*map(jax.device_put, ROWS))


@pytest.mark.parametrize("name", registry.MAIN)
def test_debugging_at_the_boundary(name):
    """Of every divergence of logits, and a value of inf one operation after the other."""
    function = registry.MAIN[name].function
    with quickly(), jax.debug_nans(True):
        with jax.debug_infs(True):
            found = function(*boundary(name))
        with jax.disable_jit():
            apart = function(*boundary())
    np.testing.assert_allclose(found[-2:], apart[-2:], rtol=1e-4)
