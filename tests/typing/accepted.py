"""Calls that a type checker must accept, with the types that it must find."""

from typing import assert_type

import jax.numpy as jnp
from jax import Array

from kl_jax import (
    Weighted,
    batchmean,
    checked,
    chunked,
    kl_divergence,
    kl_estimate,
    kl_from_densities,
    masked,
    mean,
    mixture_kl_approximation,
    mixture_kl_upper_bound,
    parametric,
    reverse,
    tempered,
    topk_kl_divergence,
    topk_outcomes,
    weighted,
)
from kl_jax import sum as sum_
from kl_jax.interop import KLBetween, kl_between


def divergences(a: Array, b: Array) -> None:
    assert_type(kl_divergence(a, b, axis=(0, 1), where=a > 0), Array)
    assert_type(reverse(kl_divergence)(a, b, axis=0), Array)
    assert_type(tempered(kl_divergence, jnp.float32(2))(a, logits_q=b), Array)
    assert_type(checked(kl_divergence)(a, logits_q=b), Array)
    assert_type(chunked(kl_divergence, 64)(a, logits_q=b), Array)
    assert_type(parametric.normal(0, 1.0, loc_q=a, scale_q=b), Array)
    assert_type(parametric.cross.normal_laplace(0, 1.0, loc_q=a, scale_q=b), Array)
    assert_type(kl_between(a, b), KLBetween)  # objects of any library, here of none
    assert_type(kl_between(a, b).value, Array)


def reductions(a: Array, b: Array, mask: Array) -> None:
    assert_type(mean(kl_divergence)(a, b, axis=0), Array)
    assert_type(mean(kl_divergence, axis=0)(a, logits_q=b), Array)
    assert_type(batchmean(kl_divergence)(a, b), Array)
    assert_type(masked(kl_divergence)(a, b, mask=mask), Weighted)
    assert_type(mean(masked(kl_divergence))(a, b, mask=mask), Array)
    assert_type(sum_(weighted(kl_divergence), axis=-1)(a, b, weights=a), Weighted)
    assert_type(mean(mean(masked(kl_divergence), axis=-1))(a, b, mask=mask), Array)
    assert_type(mean(masked(chunked(kl_divergence, 64)))(a, b, mask=mask), Array)
    assert_type(chunked(masked(kl_divergence), 64)(a, b, mask=mask), Weighted)


def keywords(a: Array, index: Array) -> None:
    assert_type(kl_estimate(a, a, estimator="k1"), Array)
    assert_type(topk_kl_divergence(a, index, a, tail="drop"), Array)
    assert_type(topk_outcomes(a, index, a, tail="renormalize"), tuple[Array, Array])
    assert_type(kl_divergence(*topk_outcomes(a, index, a)), Array)
    assert_type(mixture_kl_approximation(a, a, a, a), Array)
    assert_type(mixture_kl_upper_bound(a, a, a, steps=10), Array)
    assert_type(kl_from_densities(lambda x: -x, jnp.negative, 0, jnp.inf), Array)
    value, error = kl_from_densities(jnp.negative, jnp.negative, 0, 1, with_error=True)
    assert_type(value + error, Array)
    points = kl_from_densities(jnp.negative, jnp.negative, 0, 1, points=[0.5, value])
    assert_type(points, Array)
    assert_type(kl_from_densities(jnp.sin, jnp.sin, 0, 1, points=jnp.ones(2)), Array)
