"""Exported with a symbolic number of rows, or of outcomes: one artefact for all sizes."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax import export
from programs import quick

import kl_jax
from kl_jax import masked, mean, parametric, tempered, weighted

PLATFORMS = ("cpu", "cuda", "tpu")


def matrix(x):
    return jnp.tril(3 * jnp.eye(x.shape[-1], dtype=x.dtype)[None] + x[..., None])


def positive(x):
    return 1 + jnp.abs(x)


def first(x):
    """The first three as a stored teacher, and where they are."""
    index = jnp.zeros((x.shape[0], 3), int) + jnp.arange(3)[None]
    return jax.nn.log_softmax(x, -1)[:, :3], index


WEIGHTS = np.ones((6, 9), "f4")
# Of two arrays [rows, 6].
OF_ROWS = {
    **{name: row.function for name, row in registry.MAIN.items()},
    "distance": kl_jax.jensen_shannon_distance,
    "from_probs": lambda a, b: kl_jax.kl_divergence_from_probs(positive(a), positive(b)),
    "rel_entr": lambda a, b: kl_jax.rel_entr(positive(a), positive(b)),
    "generalized_kl": lambda a, b: kl_jax.generalized_kl(positive(a), positive(b)),
    "logits_from_probs": lambda a, b: kl_jax.logits_from_probs(positive(a)),
    "mixture_logits": lambda a, b: kl_jax.mixture_logits(jnp.stack([a, b])),
    "mixture_kl_approximation": lambda a, b: kl_jax.mixture_kl_approximation(
        a, b, matrix(a), matrix(b)
    ),
    "mixture_kl_upper_bound": lambda a, b: kl_jax.mixture_kl_upper_bound(a, b, matrix(a)),
    "kl_estimate": kl_jax.kl_estimate,
    "kl_from_counts": lambda a, b: kl_jax.kl_from_counts(positive(a), positive(b)),
    "linear": lambda a, b: kl_jax.linear_kl_divergence(a, WEIGHTS, b, WEIGHTS),
    "topk": lambda a, b: kl_jax.topk_kl_divergence(*first(a), b),
    "topk_outcomes": lambda a, b: kl_jax.topk_outcomes(*first(a), b),
    "kl_div": functools.partial(kl_jax.kl_div, reduction="batchmean"),
    "loss": lambda a, b: mean(masked(tempered(kl_jax.kl_divergence, 2.0)))(
        a, b, mask=a[:, 0] > 0
    ),
    "chunked": kl_jax.chunked(jnp.add, 4),
    "sum": kl_jax.sum(lambda a, b: a),
    "mean along an axis": lambda a, b: mean(weighted(jnp.square), axis=-1)(a, weights=b),
    "batchmean": kl_jax.batchmean(lambda a, b: a),
    "dirichlet": lambda a, b: parametric.dirichlet(positive(a), positive(b)),
    "diagonal": lambda a, b: parametric.multivariate_normal_diag(a, positive(a), b, 1.0),
    "full": lambda a, b: parametric.multivariate_normal(a, matrix(a), b, matrix(b)),
    "low rank": lambda a, b: parametric.low_rank_multivariate_normal(
        a, a[..., None], positive(a), b, b[..., None], 1.0
    ),
    # The other families have the same contract around other elementwise formulas.
    "beta": lambda a, b: parametric.beta(positive(a), 2, positive(b), 3),
    "normal": lambda a, b: parametric.normal(a, positive(b), b, 1.0),
    "von_mises": lambda a, b: parametric.von_mises(a, positive(b), b, 1.0),
    "normal_standard": parametric.normal_standard,
}
OF_OUTCOMES = [*registry.MAIN, "from_probs", "rel_entr", "mixture_logits", "kl_div"]
# A symbolic number of rows keeps them from being cut, whatever is known of the outcomes.
OF_ROWS_ALONE = ["kl", *(name for name in OF_ROWS if name not in OF_OUTCOMES)]
OF_ONE_CONTRACT = ["beta", "von_mises"]  # that of normal


def exported(name, shape, platforms=PLATFORMS):
    function = OF_ROWS[name]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export.export(jax.jit(function), platforms=platforms)(x, x), function


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in OF_ONE_CONTRACT else name
        for name in OF_ROWS_ALONE
    ],
)
def test_a_symbolic_number_of_rows(name):
    (rows,) = export.symbolic_shape("rows")
    exported(name, (rows, 6))


@pytest.mark.parametrize("name", OF_OUTCOMES)
def test_a_symbolic_number_of_outcomes(name):
    rows, outcomes = export.symbolic_shape("rows, outcomes")
    exported(name, (rows, outcomes))


def test_what_was_exported_runs():
    rng = np.random.default_rng(0)
    (rows,) = export.symbolic_shape("rows")
    artefact, function = exported("kl", (rows, 6), ["cpu"])
    a, b = rng.normal(size=(2, 300, 6)).astype("f4")
    expected = quick(function)(a, b)
    for n in (1, 300):
        found = quick(artefact.call)(a[:n], b[:n])
        np.testing.assert_allclose(found, expected[:n], rtol=1e-5)
