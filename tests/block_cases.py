"""Rows of logits with their KL, for tests of blocks and of the passes that make one."""

import functools

import numpy as np
import oracles
from oracles import FLOOR

INF = np.inf
OUTCOMES = 24

# In ULP. Worst seen of 900 partitions of the batch: 7.6 merged at once (3.5 without
# blocks).
BOUND = 10.0


@functools.cache
def batch(dtype, seed=0):
    """(a, b, KL): near-equal to far apart, flat, normal and peaked; as they are, with one
    side far off, sorted so that blocks differ, with p and q absent in places, and equal.
    """
    rng = np.random.default_rng(seed)
    digits = 7 if dtype == "float32" else 14
    scale = np.repeat([0.01, 1.0, 20.0], 5)[:, None]
    noise = 10.0 ** -np.tile([0.0, 1, 3, 5, digits], 3)[:, None]
    a = rng.normal(size=(15, OUTCOMES)) * scale
    b = a + rng.normal(size=(15, OUTCOMES)) * noise
    some = rng.uniform(size=a.shape) < 0.7
    gaps = (
        np.where(some, a, -INF),
        np.where(some | (rng.uniform(size=a.shape) < 0.5), b, -INF),
    )
    half = np.where(np.arange(OUTCOMES) < 7, -INF, a)
    a, b = (
        np.concatenate(x).astype(dtype)
        for x in (
            (a, a + 1e3, a + 1e4, a, a, np.sort(a), gaps[0], half, a),
            (b, b, b, b + 1e4, b - 1e3, np.sort(b), gaps[1], b, a),
        )
    )
    return a, b, truth(a, b)


def truth(a, b):
    """KL as a sum of two floats, and its ULP: mpmath only once a row."""
    rows = []
    for x, y in zip(a, b, strict=True):
        true = oracles.kl(x, y)
        rest = 0.0 if np.isinf(float(true)) else float(true - float(true))
        unit = 1.0 if np.isinf(float(true)) else float(oracles.spacing(true, a.dtype))
        rows.append((float(true), rest, unit))
    return np.array(rows)


def worst(found, true):
    """In ULP, of rows that are all >= 0, and 0 or inf only where the truth is."""
    value, rest, unit = true.T
    floor = FLOOR[found.dtype.name]
    found = np.float64(found)
    assert (found >= 0).all()
    small = (value > 0) & (value <= floor)
    assert (found[small] <= 2 * floor).all()
    exact = (value == 0) | np.isinf(value)
    np.testing.assert_array_equal(found[exact], value[exact])
    rows = ~small & ~exact
    return max((np.abs((found - value) - rest) / unit)[rows], default=0.0)


def invariants(block):
    """What does not depend on the mode: log masses of p and q, E_p[b - a]."""
    top, anchor, mean, mass_p, mass_q, origin = (np.float64(x) for x in block[:6])
    with np.errstate(divide="ignore"):
        return top + np.log(mass_p), origin + np.log(mass_q), mean + (anchor - top)


@functools.cache
def expected_invariants(dtype):
    """Of the batch, from the definitions in long double; and its largest logits."""
    a, b, _ = batch(dtype)
    a, b = np.longdouble(a), np.longdouble(b)
    weight = np.exp(a - a.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        mean = np.where(weight > 0, weight * (b - a), 0).sum(-1)
    largest = lambda x: np.abs(np.where(np.isinf(x), 0, x)).max(-1)
    logs = (np.logaddexp.reduce(x, -1) for x in (a, b))
    return (*logs, mean), 1 + np.maximum(largest(a), largest(b))


def assert_invariants(block, dtype):
    """Worst seen 2.9 eps of the largest logit."""
    expected, size = expected_invariants(dtype)
    for found, wanted in zip(invariants(block), expected, strict=True):
        error = np.abs(found - wanted[: len(found)]) / size[: len(found)]
        assert (error <= 4 * np.finfo(dtype).eps).all(), error.max() / np.finfo(dtype).eps
