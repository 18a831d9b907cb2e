"""The divergences of logits, for all tests and benchmarks that go through them.

A new one is a row here. Its definition is written once, from p and q and for any numbers:
`of` has `kl(p, q)`, `log` and `sum` of mpmath's in the tests, of Arb's in the benchmarks.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import kl_jax

INF, L2 = math.inf, math.log(2)


class Divergence(NamedTuple):
    of_kl_jax: Callable
    parameters: dict  # passed by name; their values are passed to the definition
    definition: Callable  # of, p, q, *parameters
    edges: dict | None = None  # values by case; None for one that is positive and finite
    label: str | None = None  # in the benchmarks

    @property
    def function(self):
        """With its parameters."""
        if not self.parameters:
            return self.of_kl_jax
        return functools.partial(self.of_kl_jax, **self.parameters)


def between(of, p, q, w):
    return [w * x + (1 - w) * y for x, y in zip(p, q, strict=True)]


def jensen_shannon(of, p, q, beta):
    m = between(of, p, q, beta)
    return beta * of.kl(p, m) + (1 - beta) * of.kl(q, m)


def skew_kl(of, p, q, skew):
    return of.kl(p, between(of, p, q, skew))


def renyi(of, p, q, order):
    """log(sum of p^order q^(1 - order)) / (order - 1); KL at order 1."""
    if order == 1:
        return of.kl(p, q)
    pairs = [(x, y) for x, y in zip(p, q, strict=True) if x]
    if order > 1 and any(not y for _, y in pairs):
        return INF
    powers = [x * (y / x) ** (1 - order) for x, y in pairs if y]
    return of.log(of.sum(powers)) / (order - 1) if powers else INF


def divergence(name, definition, edges=None, label=None, **parameters):
    function = getattr(kl_jax, f"{name}_divergence")
    return Divergence(function, parameters, definition, edges, label)


# The cases of test_divergences.EDGES in which the value is not the default.
DIVERGENCES = {
    "kl": divergence(
        "kl",
        lambda of, p, q: of.kl(p, q),
        edges={
            "p = 0 < q": L2,
            "q = 0 < p": INF,
            "disjoint": INF,
            "+inf apart": INF,
            "q = 0 where p underflows": INF,
            "far apart": 1e4,
        },
    ),
    "reverse_kl": divergence(
        "reverse_kl",
        lambda of, p, q: of.kl(q, p),
        edges={
            "p = 0 < q": INF,
            "q = 0 < p": L2,
            "disjoint": INF,
            "p has no outcome": INF,
            "+inf apart": INF,
            "far apart": 1e4,
        },
    ),
    "jeffreys": divergence(
        "jeffreys",
        lambda of, p, q: of.kl(p, q) + of.kl(q, p),
        edges={
            "p = 0 < q": INF,
            "q = 0 < p": INF,
            "disjoint": INF,
            "+inf apart": INF,
            "q = 0 where p underflows": INF,
            "far apart": 2e4,
        },
        label="Jeffreys",
    ),
    "jensen_shannon": divergence(
        "jensen_shannon",
        jensen_shannon,
        edges={
            "p = 0 < q": None,
            "q = 0 < p": None,
            "disjoint": L2,
            "+inf apart": L2,
            "far apart": L2,
        },
        label="Jensen-Shannon",
        beta=0.5,
    ),
    "jensen_shannon 0.1": divergence("jensen_shannon", jensen_shannon, beta=0.1),
    "skew_kl": divergence(
        "skew_kl",
        skew_kl,
        edges={
            "p = 0 < q": None,
            "q = 0 < p": None,
            "disjoint": -math.log(0.1),
            "+inf apart": -math.log(0.1),
            "far apart": -math.log(0.1),
        },
        label="skew KL, 0.1",
        skew=0.1,
    ),
    "skew_kl 0.9": divergence("skew_kl", skew_kl, skew=0.9),
    "renyi 0.1": divergence("renyi", renyi, order=0.1),
    "renyi 0.3": divergence("renyi", renyi, label="Renyi, order 0.3", order=0.3),
    "renyi 0.5": divergence(
        "renyi",
        renyi,
        edges={
            "p = 0 < q": L2,
            "q = 0 < p": L2,
            "disjoint": INF,
            "+inf apart": INF,
            "far apart": 1e4 - 2 * L2,
        },
        label="Renyi, order 0.5",
        order=0.5,
    ),
    "renyi 0.99": divergence("renyi", renyi, order=0.99),
    "renyi 2": divergence("renyi", renyi, label="Renyi, order 2", order=2.0),
}

# With boundary cases: one for each function of kl_jax.
MAIN = {name: row for name, row in DIVERGENCES.items() if row.edges is not None}
