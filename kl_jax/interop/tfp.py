"""TensorFlow Probability on JAX, whose `kl_divergence` looks in a registry of pairs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from kl_jax._arithmetic import nan_where
from kl_jax.elementwise import logits_from_probs
from kl_jax.interop import _forms
from kl_jax.interop._families import alike, crossed, families
from kl_jax.interop._rules import (
    Between,
    Family,
    KLBetween,
    Library,
    Members,
    Registered,
    attributes,
    beside,
    both_are,
    composed,
    converted,
    counted,
    family,
    one_event_shape,
    pairs,
    required,
    with_matrix,
)


def substrate(function: str) -> Any:
    """The package, imported now."""
    return required(function, "tensorflow_probability.substrates.jax", "tfp-nightly")


def register_tfp() -> None:
    """Makes `kl_divergence` of TensorFlow Probability use the closed forms of kl_jax.

    That of `tensorflow_probability.substrates.jax.distributions`, and the method of a
    distribution, for the families that both have and for pairs of two of them, and so in
    all that it makes of them: Independent, Masked, Sample and transformed distributions
    remain its own to take apart. So does what it alone has, such as a scale that is neither
    diagonal nor triangular, and Gamma distributions by `log_rate`. Holds for this process
    and for what is traced after it; a second call does nothing.

    Raises:
      ImportError: If TensorFlow Probability cannot be imported.

    >>> from tensorflow_probability.substrates import jax as tfp
    >>> from kl_jax import interop
    >>> interop.register_tfp()
    >>> p, q = tfp.distributions.Exponential(1.0), tfp.distributions.Gamma(2.0, 1.0)
    >>> print(f"{p.kl_divergence(q):.4f}")
    0.5772
    """
    tfp = substrate("register_tfp")
    table = _table(tfp)
    register(tfp, table, pairs(table))


def register(tfp: Any, table: Sequence[Family], which: Iterable[tuple[type, type]]) -> None:
    """Pairs of classes, in the registry of TensorFlow Probability.

    Its RegisterKL refuses a pair that it has.
    """
    registry = tfp.distributions.kullback_leibler
    before = {pair: registry._registered_kl(*pair) for pair in which}
    for pair, otherwise in before.items():
        if not isinstance(registry._DIVERGENCES.get(pair), Registered):
            registry._DIVERGENCES[pair] = Registered(table, otherwise)


# By logits, or by what probs are converted to; and those of all outcomes, and a rate.
logit = converted(_forms.logit)
logits = converted(logits_from_probs)
_log_rate = converted(logits_from_probs, "rate", "log_rate")


def members(d: Any) -> dict[str, Members]:
    """All families of one class."""
    probs = attributes("probs")
    return alike(d) | {
        "bernoulli": {d.Bernoulli: probs},
        "bernoulli_logits": {d.Bernoulli: logit},
        "binomial": {d.Binomial: attributes("total_count", "probs")},
        "geometric": {d.Geometric: probs},
        "inverse_gamma": {d.InverseGamma: attributes("concentration", "scale")},
        "pareto": {d.Pareto: attributes("scale", "concentration")},
        "negative_binomial": {d.NegativeBinomial: attributes("total_count", "probs")},
        "multinomial": {d.Multinomial: attributes("total_count", "probs")},
        "truncated_normal": {d.TruncatedNormal: attributes("loc", "scale", "low", "high")},
        "continuous_bernoulli": {d.ContinuousBernoulli: probs},
        "continuous_bernoulli_logits": {d.ContinuousBernoulli: logit},
        "low_rank_multivariate_normal": {
            d.MultivariateNormalDiagPlusLowRankCovariance: _low_rank
        },
    }


def with_probs(d: Any) -> dict[str, Members]:
    """Those of them that are given by logits or probs, by the latter."""
    classes = {"bernoulli": d.Bernoulli, "continuous_bernoulli": d.ContinuousBernoulli}
    return {name: {cls: lambda x: (x.probs_parameter(),)} for name, cls in classes.items()}


@functools.cache
def _table(tfp: Any) -> tuple[Family, ...]:
    d = tfp.distributions
    of_one_class = members(d)
    trials = {d.Binomial: counted(logit)}
    failures = {d.Geometric: logit}
    before_failures = {d.NegativeBinomial: counted(logit)}
    draws = {d.Multinomial: counted(logits)}
    scatters = {d.WishartLinearOperator: functools.partial(_wishart, tfp)}
    matrices = {d.MatrixNormalLinearOperator: functools.partial(_matrix_normal, tfp)}
    log_rates = {d.Poisson: _log_rate}
    # In one of two classes, which have other events.
    outcomes = [{cls: logits} for cls in (d.Categorical, d.OneHotCategorical)]
    normal = {d.MultivariateNormalLinearOperator: functools.partial(diagonal, tfp)}
    full = {d.MultivariateNormalLinearOperator: functools.partial(factor, tfp)}
    independent = functools.partial(independent_normal, d.Normal)
    return (
        *families(of_one_class),
        composed(_forms.binomial_logits, trials, trials),
        composed(_forms.geometric_logits, failures, failures),
        composed(_forms.negative_binomial_logits, before_failures, before_failures),
        composed(_forms.multinomial_logits, draws, draws),
        family("wishart", scatters),
        family("matrix_normal", matrices),
        *(Family("kl_divergence", _forms.categorical, x, x) for x in outcomes),
        composed(_forms.poisson_log_rate, log_rates, log_rates),
        *beside("multivariate_normal_diag", normal, {d.Independent: independent}),
        *beside("multivariate_normal", full, {d.Independent: with_matrix(independent)}),
        *crossed(of_one_class | with_probs(d)),
    )


def _loc(x: Any) -> Any:
    return 0.0 if x.loc is None else x.loc


def diagonal(tfp: Any, x: Any) -> tuple[Any, ...] | None:
    """loc and scale where `scale` is diagonal, of any sign."""
    linalg = tfp.tf2jax.linalg
    kinds = linalg.LinearOperatorDiag, linalg.LinearOperatorScaledIdentity
    if not isinstance(x.scale, (*kinds, linalg.LinearOperatorIdentity)):
        return None
    return _loc(x), jnp.abs(x.scale.diag_part())


def _triangle(tfp: Any, operator: Any) -> Any:
    """The Cholesky factor of the covariance of a triangular operator; None of others."""
    if not isinstance(operator, tfp.tf2jax.linalg.LinearOperatorLowerTriangular):
        return None
    return _forms.with_positive_diagonal(operator.to_dense())


def factor(tfp: Any, x: Any) -> tuple[Any, ...] | None:
    """loc and Cholesky factor where `scale` is triangular or diagonal."""
    triangle = _triangle(tfp, x.scale)
    if triangle is not None:
        return _loc(x), triangle
    return with_matrix(functools.partial(diagonal, tfp))(x)


def _wishart(tfp: Any, x: Any) -> tuple[Any, ...] | None:
    """Of matrices, not of their Cholesky factors, where `scale` is triangular."""
    triangle = None if x.input_output_cholesky else _triangle(tfp, x.scale)
    return None if triangle is None else (x.df, triangle)


def _matrix_normal(tfp: Any, x: Any) -> tuple[Any, ...] | None:
    row, column = _triangle(tfp, x.scale_row), _triangle(tfp, x.scale_column)
    return None if row is None or column is None else (x.loc, row, column)


def independent_normal(normals: Any, x: Any) -> tuple[Any, ...] | None:
    """loc and scale of independent normal components along one axis."""
    if not isinstance(x.distribution, normals) or len(tuple(x.event_shape)) != 1:
        return None
    return tuple(jnp.broadcast_arrays(x.distribution.loc, x.distribution.scale))


def _low_rank(x: Any) -> tuple[Any, ...]:
    return _loc(x), x.cov_perturb_factor, x.cov_diag_factor


def independent(p: Any, q: Any, between: Between) -> KLBetween | None:
    """Of as many components with equal events; else what the library makes of it."""
    one_event_shape("kl_between", p, q)
    inner = [x.distribution for x in (p, q)]
    events = [tuple(x.event_shape) for x in inner]
    if events[0] != events[1]:
        return None
    found = between(*inner)
    components = len(tuple(p.event_shape)) - len(events[0])
    return KLBetween(jnp.sum(found.value, tuple(range(-components, 0))), found.rule)


def _parts(p: Any, q: Any, between: Between) -> KLBetween | None:
    """As the rules of TensorFlow Probability for these classes. What must raise where
    statistics are nan, it raises itself.
    """
    d = substrate("kl_between").distributions
    if both_are(d.Independent, p, q):
        return independent(p, q, between)
    if both_are(d.Masked, p, q) and p.allow_nan_stats and q.allow_nan_stats:
        found = between(p.distribution, q.distribution)
        a, b = p.validity_mask, q.validity_mask
        value = nan_where(a != b, jnp.where(a & b, found.value, 0))
        return KLBetween(value, found.rule)
    return None


TFP = Library(
    "tfp",
    lambda: _table(substrate("kl_between")),
    _parts,
    lambda p, q: substrate("kl_between").distributions.kl_divergence(p, q),
)
