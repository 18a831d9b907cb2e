"""A first call outside `jit` compiles a few programs, not one for each operation."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from programs import quickly

import kl_jax
from kl_jax import parametric

narrow, wide = jax.jit(lambda x: -x * x / 2), jax.jit(lambda x: -x * x / 8 - jnp.log(2.0))


def array(*shape, dtype="f4"):
    """Not by `jnp.asarray`: of a NumPy array that is a program for each shape."""
    x = np.random.default_rng(0).uniform(0.1, 0.9, shape)
    return jax.device_put((x * 10 if dtype[0] == "i" else x).astype(dtype))


def mask(*shape):
    return jax.device_put(np.arange(np.prod(shape)).reshape(shape) % 3 > 0)


def of_probs(f):
    """A transform of the cheapest divergence."""
    return f(kl_jax.kl_divergence_from_probs)


LOGITS = (array(3, 7), array(3, 7))
HEADS = (array(3, 4), array(4, 9), array(3, 5), array(5, 9))
TOP_K = (array(2, 2), jax.device_put(np.array([[0, 1], [2, 5]], "i4")), array(2, 9))
call = functools.partial

CALLS = {
    "kl_divergence": call(kl_jax.kl_divergence, *LOGITS, axis=0, where=mask(3, 7)),
    "renyi_divergence": call(kl_jax.renyi_divergence, *LOGITS, order=0.5),
    "kl_divergence_from_probs": call(
        kl_jax.kl_divergence_from_probs, *LOGITS, where=mask(3, 7)
    ),
    "rel_entr": call(kl_jax.rel_entr, 0.5, 0.25),
    "generalized_kl": call(kl_jax.generalized_kl, *LOGITS),
    "reverse": call(of_probs(kl_jax.reverse), *LOGITS),
    "tempered": call(kl_jax.tempered(lambda a, b: kl_jax.rel_entr(a, b), 2.0), *LOGITS),
    "chunked": call(of_probs(lambda f: kl_jax.chunked(f, 2)), *LOGITS),
    "masked": call(of_probs(kl_jax.masked), *LOGITS, mask=mask(3)),
    "weighted": call(of_probs(kl_jax.weighted), *LOGITS, weights=array(3)),
    "sum": call(of_probs(kl_jax.sum), *LOGITS),
    "mean": call(of_probs(lambda f: kl_jax.mean(kl_jax.masked(f))), *LOGITS, mask=mask(3)),
    "batchmean": call(of_probs(kl_jax.batchmean), *LOGITS),
    "kl_estimate": call(kl_jax.kl_estimate, array(9), array(9)),
    "kl_from_samples": call(kl_jax.kl_from_samples, array(9, 2), array(8, 2)),
    "kl_from_counts": call(kl_jax.kl_from_counts, array(4), array(4), pseudocount=0.5),
    "kl_from_counts of integers": call(
        kl_jax.kl_from_counts, array(4, dtype="i1"), array(4, dtype="i4")
    ),
    "kl_from_densities": call(
        kl_jax.kl_from_densities, narrow, wide, -1.0, jnp.inf, with_error=True
    ),
    "kl_from_densities, points": call(
        kl_jax.kl_from_densities, narrow, wide, -1.0, jnp.inf, points=[1, array(1)[0], 2.0]
    ),
    "linear_kl_divergence": call(
        kl_jax.linear_kl_divergence, *HEADS, temperature=2.0, softcap_q=3.0, bias_p=array(9)
    ),
    "topk_kl_divergence": call(kl_jax.topk_kl_divergence, *TOP_K),
    "topk_kl_divergence, drop": call(kl_jax.topk_kl_divergence, *TOP_K, tail="drop"),
    "topk_outcomes": call(kl_jax.topk_outcomes, *TOP_K),
    "mixture_kl_approximation": call(
        kl_jax.mixture_kl_approximation, array(2), array(2), array(2, 2), array(2, 2)
    ),
    "mixture_kl_upper_bound": call(
        kl_jax.mixture_kl_upper_bound, array(2), array(3), array(2, 3)
    ),
    "kl_div": call(kl_jax.kl_div, array(3, 4), array(4), reduction="batchmean"),
    "kl_div of halves": call(
        kl_jax.kl_div, array(3, 4, dtype="f2"), array(4, dtype="f2"), reduction="sum"
    ),
    "KLDivLoss": call(kl_jax.KLDivLoss(reduction="none", log_target=True), *LOGITS),
    # The other families are in test_parametric, which asks for one program each.
    "dirichlet": call(parametric.dirichlet, array(3, 4), 2.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_first_call_compiles_at_most_3_programs(name):
    given = 2 if name.startswith("kl_from_densities") else 0  # the two densities
    with warnings.catch_warnings(), quickly(), compilations() as programs:
        warnings.simplefilter("ignore")
        CALLS[name]()
    assert len(programs) <= 3 + given
