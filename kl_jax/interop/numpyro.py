"""NumPyro, whose `kl_divergence` is a dispatcher on the classes of p and q."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from kl_jax.elementwise import logits_from_probs
from kl_jax.interop import _forms
from kl_jax.interop._families import alike, crossed, families
from kl_jax.interop._rules import (
    Between,
    Family,
    KLBetween,
    Library,
    Registered,
    attributes,
    beside,
    both_are,
    composed,
    counted,
    family,
    one_event_shape,
    pairs,
    required,
    with_matrix,
)


def _distributions(function: str) -> Any:
    return required(function, "numpyro.distributions", "numpyro")


def register_numpyro() -> None:
    """Makes `numpyro.distributions.kl_divergence` use the closed forms of kl_jax.

    For the families that both have and for pairs of two of them, and so in all that NumPyro
    makes of them, such as `TraceMeanField_ELBO`. Independent, expanded and masked
    distributions remain NumPyro's to take apart, and so does what it alone has, such as KL
    of a Delta, which is -log q(v), or of a Kumaraswamy and a Beta distribution. Holds for
    this process and for what is traced after it; a second call does nothing.

    Raises:
      ImportError: If NumPyro cannot be imported.

    >>> import numpyro.distributions as dist
    >>> from kl_jax import interop
    >>> interop.register_numpyro()
    >>> print(f"{dist.kl_divergence(dist.Exponential(1.0), dist.Gamma(2.0, 1.0)):.4f}")
    0.5772
    """
    d = _distributions("register_numpyro")
    table, dispatcher = _table(d), d.kl_divergence
    # All are resolved before the first is added: `dispatch` after `add` sorts all pairs.
    before = {pair: dispatcher.dispatch(*pair) for pair in pairs(table)}
    for pair, otherwise in before.items():
        if not isinstance(dispatcher.funcs.get(pair), Registered):
            dispatcher.add(pair, Registered(table, otherwise))


# The logits that a class has; and what the probs of another are converted to, of one
# outcome and of all.


def _given(x: Any) -> tuple[Any, ...]:
    return (x.logits,)


def _logit(x: Any) -> tuple[Any, ...]:
    return (_forms.logit(x.probs),)


def _logits(x: Any) -> tuple[Any, ...]:
    return (logits_from_probs(x.probs),)


@functools.cache
def _table(d: Any) -> tuple[Family, ...]:
    probs = attributes("probs")
    members = alike(d) | {
        "bernoulli": {d.BernoulliProbs: probs},
        "binomial": {d.BinomialProbs: attributes("total_count", "probs")},
        "geometric": {d.GeometricProbs: probs},
        "inverse_gamma": {d.InverseGamma: attributes("concentration", "rate")},
        "pareto": {d.Pareto: attributes("scale", "alpha")},
        "negative_binomial": {d.NegativeBinomialProbs: attributes("total_count", "probs")},
        "multinomial": {d.MultinomialProbs: attributes("total_count", "probs")},
        "truncated_normal": {
            cls: functools.partial(_truncated, d)
            for cls in (
                d.LeftTruncatedDistribution,
                d.RightTruncatedDistribution,
                d.TwoSidedTruncatedDistribution,
            )
        },
        "low_rank_multivariate_normal": {
            d.LowRankMultivariateNormal: attributes("loc", "cov_factor", "cov_diag")
        },
    }
    by_logit = {d.BernoulliLogits: _given, d.BernoulliProbs: _logit}
    trials = {d.BinomialLogits: counted(_given), d.BinomialProbs: counted(_logit)}
    failures = {d.GeometricLogits: _given, d.GeometricProbs: _logit}
    before_failures = {
        d.NegativeBinomialLogits: counted(_given),
        d.NegativeBinomialProbs: counted(_logit),
    }
    draws = {d.MultinomialLogits: counted(_given), d.MultinomialProbs: counted(_logits)}
    outcomes = {d.CategoricalLogits: _given, d.CategoricalProbs: _logits}
    full = {d.MultivariateNormal: attributes("loc", "scale_tril")}
    diagonal = {d.Independent: with_matrix(functools.partial(_normals, d))}
    with_probs = {"bernoulli": {d.BernoulliProbs: probs, d.BernoulliLogits: probs}}
    return (
        *families(members),
        family("bernoulli_logits", by_logit),
        composed(_forms.binomial_logits, trials, trials),
        composed(_forms.geometric_logits, failures, failures),
        composed(_forms.negative_binomial_logits, before_failures, before_failures),
        composed(_forms.multinomial_logits, draws, draws),
        Family("kl_divergence", _forms.categorical, outcomes, outcomes),
        *beside("multivariate_normal", full, diagonal),
        *crossed(members | with_probs),
    )


def _normals(d: Any, x: Any) -> tuple[Any, ...] | None:
    """loc and scale of independent normal components along one axis."""
    base = x.base_dist
    normal = _unexpanded(d, base)
    if not isinstance(normal, d.Normal) or x.reinterpreted_batch_ndims != 1:
        return None
    loc, scale = jnp.broadcast_arrays(normal.loc, normal.scale)
    if base is not normal:
        loc, scale = (jnp.broadcast_to(v, base.batch_shape) for v in (loc, scale))
    return loc, scale


def _truncated(d: Any, x: Any) -> tuple[Any, ...] | None:
    """loc, scale and both ends of a normal distribution that is cut at one or both."""
    normal = x.base_dist
    if not isinstance(normal, d.Normal):
        return None
    ends = getattr(x, "low", -jnp.inf), getattr(x, "high", jnp.inf)
    return normal.loc, normal.scale, *ends


def _parts(p: Any, q: Any, between: Between) -> KLBetween | None:
    """As NumPyro's rules for these classes. Of what is all masked KL is its own."""
    d = _distributions("kl_between")
    if isinstance(p, d.ExpandedDistribution) or isinstance(q, d.ExpandedDistribution):
        found = between(_unexpanded(d, p), _unexpanded(d, q))
        shape = jnp.broadcast_shapes(p.batch_shape, q.batch_shape)
        return KLBetween(jnp.broadcast_to(found.value, shape), found.rule)
    if both_are(d.Independent, p, q):
        one_event_shape("kl_between", p, q)
        shared = min(p.reinterpreted_batch_ndims, q.reinterpreted_batch_ndims)
        found = between(_less_independent(p, shared), _less_independent(q, shared))
        return KLBetween(jnp.sum(found.value, tuple(range(-shared, 0))), found.rule)
    if (
        both_are(d.MaskedDistribution, p, q)
        and p._mask is not False
        and q._mask is not False
    ):
        found = between(p.base_dist, q.base_dist)
        return KLBetween(jnp.where(p._mask & q._mask, found.value, 0), found.rule)
    return None


def _unexpanded(d: Any, x: Any) -> Any:
    return x.base_dist if isinstance(x, d.ExpandedDistribution) else x


def _less_independent(x: Any, dimensions: int) -> Any:
    return x.base_dist.to_event(x.reinterpreted_batch_ndims - dimensions)


NUMPYRO = Library(
    "numpyro",
    lambda: _table(_distributions("kl_between")),
    _parts,
    lambda p, q: _distributions("kl_between").kl_divergence(p, q),
)
