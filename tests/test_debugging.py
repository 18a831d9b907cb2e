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

INF = np.inf
ROWS = tuple(np.random.default_rng(0).normal(size=(2, 2, 6)).astype("f4"))
# Those of `OF_ROWS` that are below, of other parameters.
ELSEWHERE = ("kl_div", "dirichlet", "diagonal", "full", "low rank", "beta", "normal")
ELSEWHERE += ("von_mises", "normal_standard")


def log_normal_density(m, x):
    return -jnp.square(x - m) / 2


def of_densities(m, n):
    p, q = (functools.partial(log_normal_density, x) for x in (m, n))
    return kl_jax.kl_from_densities(p, q, -INF, INF, order=63)


CALLS = {name: (f, ROWS) for name, f in OF_ROWS.items() if name not in ELSEWHERE}
CALLS |= {
    "kl_div": (OF_ROWS["kl_div"], (ROWS[0], np.abs(ROWS[1]))),
    "kl_from_samples": (kl_jax.kl_from_samples, tuple(np.swapaxes(ROWS, -1, -2))),
    "kl_from_densities": (of_densities, tuple(np.float32([0, 1]))),
}
for family in parametric_grid.NAMES:
    cases = parametric_grid.grid(family, "float32", np.random.default_rng(0))
    CALLS[family] = (getattr(parametric, family), cases[0][1])


@pytest.mark.parametrize("name", CALLS)
def test_debugging(name):
    """As it is, and one operation after the other, which sees what is in between."""
    function, arguments = CALLS[name]
    arguments = [jnp.asarray(x) for x in arguments]
    with quickly(), jax.debug_nans(True):
        with jax.debug_infs(True):
            found = function(*arguments)
        if name == "dirichlet":  # beta's terms, of loops that take 10 s
            return
        with jax.disable_jit():
            apart = function(*arguments)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["kl", "jensen_shannon", "renyi 0.5", "topk", "linear", "loss"]
)
def test_debugging_of_gradients(name):
    function, arguments = CALLS[name]
    slopes = jax.grad(lambda *x: jnp.sum(function(*x)), (0, 1))
    with quickly(), jax.debug_nans(True):
        slopes(*(jnp.asarray(x) for x in arguments))


@pytest.mark.parametrize("name", registry.MAIN)
def test_debugging_at_the_boundary(name):
    """Logits of -inf and +inf, rows without outcomes, and a value of inf."""
    row = registry.MAIN[name]
    rows = [i for i, case in enumerate(EDGES) if not case.startswith("nan")]
    finite = [i for i in rows if row.edges.get(list(EDGES)[i], 0) != INF]
    with quickly(), jax.debug_nans(True):
        with jax.debug_infs(True):
            row.function(*edges("float32")[:, finite])
        with jax.disable_jit():
            row.function(*edges("float32")[:, rows])
