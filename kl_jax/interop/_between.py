"""KL of two objects of NumPyro, TensorFlow Probability or Distrax."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from kl_jax.interop._rules import KLBetween, Library, closed_form, no_closed_form
from kl_jax.interop.distrax import DISTRAX
from kl_jax.interop.numpyro import NUMPYRO
from kl_jax.interop.tfp import TFP

# By the package of their classes. A distribution of TensorFlow Probability that Distrax has
# wrapped is of classes of both.
_LIBRARIES = {
    "distrax": DISTRAX,
    "numpyro": NUMPYRO,
    "tensorflow_probability.substrates.jax": TFP,
}


def kl_between(p: Any, q: Any) -> KLBetween:
    """KL(p || q), in nats, of two distributions of NumPyro, TFP on JAX, or Distrax.

    By a closed form of kl_jax where there is one, registered or not, and else by the
    library's own `kl_divergence`: `rule` says which.

    Batches broadcast as in the library; Independent, expanded and masked distributions are
    taken apart as it does. Probabilities of a categorical distribution are renormalised.

    Args:
      p: A distribution of `numpyro.distributions`, of `distrax`, or of
        `tensorflow_probability.substrates.jax.distributions` (TFP).
      q: Another of that library. Those of Distrax and TFP may be mixed.

    Returns:
      `KLBetween(value, rule)`, a pytree: `jit` and `vmap` return it too.

    Raises:
      TypeError: If p or q is no distribution, or they are of different libraries.
      ValueError: If their event shapes differ, or their batch shapes do not broadcast.
      NotImplementedError: If there is no closed form, with what to write instead.

    Boundary: that of the function that `rule` names: nan outside the domain of a parameter,
      where a library computes on (TFP's KL of two von Mises distributions is -1.3 where q
      has the concentration -1). The libraries' KL of a point v is -log q(v), also of a
      density q, where it is inf. Of two categorical distributions of Distrax an outcome
      whose probability rounds to 0 is none of p, as there: it does not make KL inf where q
      has none of it either.
    Gradient: in the parameters that p and q are made of, of every order, as there.
    Error: that of the tables in `kl_jax.parametric` and `kl_jax.parametric.cross`. Where
      one of p and q is given by logits and the other by probs, probs are converted, and
      logits are beside another family. That rounds: digits are lost where p and q are
      nearly equal. So are those that a library loses before, when it normalises logits or
      decomposes a covariance matrix.

    >>> import numpyro.distributions as dist
    >>> from kl_jax.interop import kl_between
    >>> found = kl_between(dist.Gamma(2.0, 1.0), dist.Gamma(2.0002, 1.0))
    >>> print(f"{found.value:.3e} by {found.rule}")
    1.290e-08 by parametric.gamma

    Source: those of `kl_jax.parametric` and `kl_jax.parametric.cross`.
    """
    library = _library(p, q)
    found = closed_form(library.table(), p, q) or library.parts(p, q, kl_between)
    if found is not None:
        return found
    try:
        return KLBetween(jnp.asarray(library.kl_divergence(p, q)), library.name)
    except NotImplementedError as error:
        raise no_closed_form(p, q) from error


def _library(p: Any, q: Any) -> Library:
    names = {_name("p", p), _name("q", q)}
    if len(names) == 1 or "numpyro" not in names:
        return _LIBRARIES[min(names)]
    raise TypeError(
        "kl_between: p and q must be of one library, found a "
        f"{p.__class__.__module__}.{p.__class__.__name__} and a "
        f"{q.__class__.__module__}.{q.__class__.__name__}."
    )


def _name(name: str, x: Any) -> str:
    modules = [f"{cls.__module__}." for cls in x.__class__.__mro__]
    for package in _LIBRARIES:
        if any(module.startswith(f"{package}.") for module in modules):
            return package
    raise TypeError(
        f"kl_between: {name} must be a distribution of numpyro, distrax or "
        "tensorflow_probability.substrates.jax, found a "
        f"{x.__class__.__module__}.{x.__class__.__name__}."
    )
