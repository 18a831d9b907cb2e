"""Distrax, whose distributions are in the registry of TensorFlow Probability, too."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from kl_jax.elementwise import logits_from_probs
from kl_jax.interop import _forms, tfp
from kl_jax.interop._families import alike, crossed, families, merged
from kl_jax.interop._rules import (
    Between,
    Family,
    KLBetween,
    Library,
    Members,
    Parameters,
    attributes,
    beside,
    both_are,
    converted,
    family,
    pairs,
    required,
    with_matrix,
)


def _distrax(function: str) -> Any:
    return required(function, "distrax", "distrax")


def register_distrax() -> None:
    """Makes `kl_divergence` of Distrax's distributions use the closed forms of kl_jax.

    For the families that both have and for pairs of two of them, against one another and
    against those of TensorFlow Probability; two of those need `register_tfp`. Independent,
    Joint and transformed distributions remain Distrax's to take apart. Holds for this
    process and for what is traced after it; a second call does nothing.

    Raises:
      ImportError: If Distrax cannot be imported.

    >>> import distrax
    >>> from kl_jax import interop
    >>> interop.register_distrax()
    >>> p, q = distrax.Normal(0.0, 1.0), distrax.Normal(1.0, 2.0)
    >>> print(f"{p.kl_divergence(q):.4f}")
    0.4431
    """
    distrax, substrate = _distrax("register_distrax"), tfp.substrate("register_distrax")
    table = _table(distrax, substrate)
    which = (x for x in pairs(table) if any(issubclass(c, distrax.Distribution) for c in x))
    tfp.register(substrate, table, which)


# Which of logits and probs a distribution was given is only in these attributes: the public
# ones compute what was not.


_logit = converted(_forms.logit, "_probs", "_logits")
_logits = converted(logits_from_probs, "_probs", "_logits")


@functools.cache
def _table(distrax: Any, substrate: Any) -> tuple[Family, ...]:
    tfd = substrate.distributions

    def both(name: str, ours: Parameters, theirs: Parameters | None = None) -> Members:
        return {getattr(distrax, name): ours, getattr(tfd, name): theirs or ours}

    ours = alike(distrax) | {
        "bernoulli": {distrax.Bernoulli: attributes("_probs")},
        "bernoulli_logits": {distrax.Bernoulli: _logit},
        "beta": {distrax.Beta: attributes("alpha", "beta")},
    }
    members = merged(tfp.members(tfd), ours)
    probs = {"bernoulli": {distrax.Bernoulli: attributes("probs")}}
    with_probs = merged(tfp.with_probs(tfd), probs)
    # Distrax compares a Dirichlet distribution of two with a Beta distribution.
    stacked = {cls: _stacked(parameters) for cls, parameters in members["beta"].items()}
    simplex = {**members["dirichlet"], **stacked}
    # A one-hot distribution of Distrax is a Categorical, and compared with one.
    outcomes = {
        **both("Categorical", _logits, tfp.logits),
        tfd.OneHotCategorical: tfp.logits,
    }
    normals = {
        distrax.MultivariateNormalFromBijector: functools.partial(_diagonal, distrax),
        tfd.MultivariateNormalLinearOperator: functools.partial(tfp.diagonal, substrate),
    }
    full = {
        distrax.MultivariateNormalFromBijector: functools.partial(_factor, distrax),
        tfd.MultivariateNormalLinearOperator: functools.partial(tfp.factor, substrate),
    }
    of_independent = functools.partial(tfp.independent_normal, (distrax.Normal, tfd.Normal))
    independent = both("Independent", of_independent)
    with_matrices = both("Independent", with_matrix(of_independent))
    return (
        family("normal_log_variance", {distrax.LogStddevNormal: _log_variance}),
        *families(members),
        # Distrax multiplies by probabilities: where p rounds to 0 its KL is not inf.
        Family("kl_divergence", _forms.categorical_of_probs, outcomes, outcomes),
        Family("parametric.dirichlet", _forms.dirichlet, simplex, simplex),
        *beside("multivariate_normal_diag", normals, independent),
        *beside("multivariate_normal", full, with_matrices),
        *crossed(members | with_probs),
    )


def _log_variance(x: Any) -> tuple[Any, ...]:
    return x.loc, 2 * x.log_scale


def _stacked(of_beta: Parameters) -> Parameters:
    """Those of a Beta distribution as of a Dirichlet distribution."""

    def parameters(x: Any) -> tuple[Any, ...] | None:
        found = of_beta(x)
        return found and (jnp.stack(jnp.broadcast_arrays(*found), -1),)

    return parameters


def _diagonal(distrax: Any, x: Any) -> tuple[Any, ...] | None:
    """loc and scale where `scale` is diagonal, of any sign."""
    return (
        (x.loc, jnp.abs(x.scale.diag)) if isinstance(x.scale, distrax.DiagLinear) else None
    )


def _factor(distrax: Any, x: Any) -> tuple[Any, ...] | None:
    """loc and Cholesky factor where `scale` is lower triangular or diagonal."""
    if isinstance(x.scale, distrax.TriangularLinear) and x.scale.is_lower:
        return x.loc, _forms.with_positive_diagonal(x.scale.matrix)
    return with_matrix(functools.partial(_diagonal, distrax))(x)


def _parts(p: Any, q: Any, between: Between) -> KLBetween | None:
    """As Distrax's rule."""
    ours = _distrax("kl_between").Independent
    theirs = tfp.substrate("kl_between").distributions.Independent
    if both_are((ours, theirs), p, q):
        return tfp.independent(p, q, between)
    return None


DISTRAX = Library(
    "distrax",
    lambda: _table(_distrax("kl_between"), tfp.substrate("kl_between")),
    _parts,
    lambda p, q: tfp.substrate("kl_between").distributions.kl_divergence(p, q),
)
