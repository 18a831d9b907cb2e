"""Terms and logarithms of a constant, outcome by outcome."""

import functools

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from programs import compiled

from kl_jax import _generators, _renyi
from kl_jax._blocks import OutcomeTerms

WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)


def skew(p, q, s):
    m = s * p + (1 - s) * q
    return p * mp.log(p / m) - p + m


def jensen_shannon(p, q, beta):
    m = beta * p + (1 - beta) * q
    return beta * p * mp.log(p / m) + (1 - beta) * q * mp.log(q / m)


def renyi(p, q, order):
    return (order * p + (1 - order) * q - p**order * q ** (1 - order)) / (1 - order)


# With bounds; worst seen: 2.3, 2.8, and 5.2 of 0.1, whose form far apart cancels most.
TERMS = {
    "skew": (_generators._skew_term, skew, (0.1, 0.3), 3),
    "jensen_shannon": (_generators._jensen_shannon_term, jensen_shannon, WEIGHTS, 3.5),
    "renyi": (_renyi._term, renyi, WEIGHTS, 6),
}


@functools.cache
def distances():
    """Near equality, about the ends of the polynomials, and far apart."""
    rng = np.random.default_rng(0)
    near, far = np.exp(rng.uniform(-30, 0, 60)), rng.uniform(4, 80, 40)
    return np.concatenate([near, rng.uniform(0.5, 4, 150), far]).astype("float32")


def sides(r):
    """p and q of log(q / p), the larger of which is 1."""
    with mp.workdps(oracles.DIGITS):
        return [[mp.exp(min(mp.mpf(float(s * x)), 0)) for x in r] for s in (-1, 1)]


@pytest.mark.parametrize("name", TERMS)
def test_terms_in_ulp(name):
    term, exact, constants, bound = TERMS[name]
    r = np.concatenate([distances(), -distances()])
    exact_p, exact_q = sides(r)
    p, q = (np.array([float(x) for x in y], "float32") for y in (exact_p, exact_q))

    def terms(p, q, r):
        x = OutcomeTerms(p, q, q - p, r, r, jnp.log(p), jnp.log(q))
        return tuple(term(x, c) for c in constants)

    for c, found in zip(constants, compiled(terms)(p, q, r), strict=True):
        with mp.workdps(oracles.DIGITS):
            pairs = zip(exact_p, exact_q, strict=True)
            true = [exact(*x, mp.mpf(c)) for x in pairs]
            assert oracles.worst(found, true, "float32") <= bound


@pytest.mark.parametrize("weight", WEIGHTS)
def test_logarithms_of_shares_in_ulp(weight):
    """Of the larger of p and q; the other loses ten times that where d is all but lost."""
    r = np.concatenate([distances(), -distances()])
    found = compiled(lambda r: _generators._log_shares_of(weight, r))(r)
    with mp.workdps(oracles.DIGITS):
        w, pairs = mp.mpf(weight), list(zip(*sides(r), strict=True))
        for i, larger in enumerate((r < 0, r > 0)):
            true = [mp.log(x[i] / (w * x[0] + (1 - w) * x[1])) for x in pairs]
            true = np.array(true)
            for some, bound in ((larger, 2.5), (~larger, 13)):
                assert oracles.worst(found[i][some], true[some], "float32") <= bound
