"""Families by name, with the classes of a library that are members; and their rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from kl_jax import parametric
from kl_jax.interop._rules import Family, Members, attributes, family

# What all libraries that have a family call its class and, in the order of `parametric`,
# its parameters.
_NAMES = {
    "poisson": ("Poisson", "rate"),
    "normal": ("Normal", "loc", "scale"),
    "log_normal": ("LogNormal", "loc", "scale"),
    "half_normal": ("HalfNormal", "scale"),
    "laplace": ("Laplace", "loc", "scale"),
    "cauchy": ("Cauchy", "loc", "scale"),
    "gumbel": ("Gumbel", "loc", "scale"),
    "weibull": ("Weibull", "scale", "concentration"),
    "exponential": ("Exponential", "rate"),
    "chi2": ("Chi2", "df"),
    "gamma": ("Gamma", "concentration", "rate"),
    "uniform": ("Uniform", "low", "high"),
    "beta": ("Beta", "concentration1", "concentration0"),
    "dirichlet": ("Dirichlet", "concentration"),
    "von_mises": ("VonMises", "loc", "concentration"),
    "logit_normal": ("LogitNormal", "loc", "scale"),
    "von_mises_fisher": ("VonMisesFisher", "mean_direction", "concentration"),
    "wishart": ("Wishart", "concentration", "scale_tril"),
    "inverse_wishart": ("InverseWishart", "concentration", "scale_tril"),
    "matrix_normal": ("MatrixNormal", "loc", "scale_tril_row", "scale_tril_column"),
}
# Members of the gamma family, too: of two families of these KL is that of `gamma`.
_GAMMAS = {"Exponential": lambda x: (1.0, x.rate), "Chi2": lambda x: (x.df / 2, 0.5)}


def alike(d: Any) -> dict[str, Members]:
    """The families of a library that are called as in the others."""
    found: dict[str, Members] = {
        name: {getattr(d, cls): attributes(*parameters)}
        for name, (cls, *parameters) in _NAMES.items()
        if hasattr(d, cls)
    }
    special = {getattr(d, x): of_x for x, of_x in _GAMMAS.items() if hasattr(d, x)}
    found["gamma"] = {**found["gamma"], **special}
    return found


def merged(one: Mapping[str, Members], more: Mapping[str, Members]) -> dict[str, Members]:
    """The families of one library, with the members that another has."""
    return {name: {**members, **more.get(name, {})} for name, members in one.items()}


def families(members: Mapping[str, Members]) -> Iterator[Family]:
    """Rows of `kl_jax.parametric`."""
    return itertools.starmap(family, members.items())


def crossed(members: Mapping[str, Members]) -> Iterator[Family]:
    """Rows of `kl_jax.parametric.cross`, of all pairs that it has of these families.

    After those of one family, of which p and q may both be members.
    """
    for p, q in itertools.permutations(members, 2):
        rule = f"{p}_{q}"
        if hasattr(parametric.cross, rule):
            function = getattr(parametric.cross, rule)
            yield Family(f"parametric.cross.{rule}", function, members[p], members[q])
