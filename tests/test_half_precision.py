"""Logits of 16 bits, whose differences need no rounding errors: values and slopes."""

import functools

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from programs import of_lengths, optimized
from registry import MAIN

from kl_jax import _passes
from kl_jax._blocks import outcome_terms
from kl_jax._passes import summarize

HALVES = ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
LENGTHS = (2, 5, 100, 1009)
BOUND = 8.0


def near(rng, z):
    """A few logits that differ in the last bit."""
    return z, np.where(rng.random(z.size) < 0.05, z * (1 + 2.0**-7), z)


def noisy(rng, z):
    return z, z + 10.0 ** -rng.integers(0, 3) * rng.normal(size=z.size)


def apart(rng, z):
    """One side is offset, so far that most of its bits are those of the offset, or all."""
    return z, z + rng.choice([-1000.0, -30, 5, 1e4]) + 0.1 * rng.normal(size=z.size)


def beside_a_mode(rng, z):
    """Logits of 1e-6 to 1e-3 on both sides, of which a difference to the mode keeps 4 bits,
    or on one while the other is offset.
    """
    tiny = 10.0 ** rng.integers(-6, -2)
    mode = np.where(np.arange(z.size) == z.size // 3, rng.choice([3.0, 7, 12, 20, 50]), 0)
    a, b = (mode + (mode == 0) * tiny * x for x in (z, rng.normal(size=z.size)))
    return ((a, b), (a, mode - 1000), (mode - 1000, b))[rng.integers(3)]


def equal_beside_a_mode(rng, z):
    """All in the same place between two floats of the size of the mode."""
    mode = np.where(np.arange(z.size) == z.size // 3, rng.choice([3.0, 7, 12, 20, 50]), 0)
    tiny = 10.0 ** rng.integers(-6, -2) * rng.uniform(0.1, 1)
    change = rng.uniform(0.5, 2)
    return mode + (mode == 0) * tiny, mode * (1 + 2.0**-5) + (mode == 0) * tiny * change


def where_p_is_absent(rng, z):
    """q is measured from a mean of many bits, and what matters of it is far below."""
    a, b = 0.1 * z, 0.1 * z + 0.01 * rng.normal(size=z.size)
    a[-1], b[-1] = -40, rng.uniform(-16, -8)
    return a, b


def below_a_tiny_mode(rng, z):
    """A difference to the mode loses that."""
    a, b = (np.where(np.arange(z.size) == 0, x, x - 9.5) for x in (1e-5 * z, 2e-5 * z))
    b[-1] = rng.uniform(-16, -8)
    return a, b


def beside_the_mode_of_q(rng, z):
    """The logit of q at p's mode is far from all others, which are near p's."""
    a, b = z, z + 10.0 ** -rng.integers(0, 3) * rng.normal(size=z.size)
    return a, b + rng.choice([-1e4, -30, -3, 3, 30]) * (a == a.max())


def with_gaps(rng, z):
    """Outcomes without mass: of both, or of p alone."""
    gone = rng.random((2, z.size)) < 0.3
    gone[:, :1] = False
    a, b = z * 4, z * 4 + rng.normal(size=z.size)
    return np.where(gone[0], -np.inf, a), np.where(gone[0] & gone[1], -np.inf, b)


KINDS = (
    *(near, noisy, apart, beside_a_mode, equal_beside_a_mode),
    *(where_p_is_absent, below_a_tiny_mode, beside_the_mode_of_q, with_gaps),
)


@functools.cache
def batches(dtype):
    """(a, b) of each length: 8 rows of each kind, of the longest one."""
    found = []
    for size in LENGTHS:
        rng = np.random.default_rng(size)
        rows = [kind(rng, rng.normal(size=size)) for kind in KINDS for _ in range(8)]
        rows = rows[:: 8 if size > 100 else 1]
        found.append(np.array(rows, "f4").swapaxes(0, 1).astype(jnp.dtype(dtype)))
    return found


def wide(x):
    return np.asarray(x, "f4")


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", [name for name in MAIN if name != "reverse_kl"])
def test_error_in_ulp(name, dtype):
    """Worst seen 5.6."""
    function = of_lengths(optimized(MAIN[name].function), (100, 1009))
    for a, b in batches(dtype):
        rows = zip(wide(a), wide(b), strict=True)
        true = [oracles.divergence(MAIN[name], x, y) for x, y in rows]
        oracles.assert_within(BOUND, function(a, b), true)


@pytest.mark.parametrize("dtype", HALVES)
def test_error_in_ulp_on_accelerators(dtype):
    """As all rows are computed there, and few of them on CPUs. Worst seen 5.6."""
    function = optimized(lambda a, b: _passes._of_whole(a, b).kl)
    for a, b in batches(dtype)[1:]:
        true = [oracles.kl(x, y) for x, y in zip(wide(a), wide(b), strict=True)]
        oracles.assert_within(BOUND, function(a, b), true)


@pytest.mark.parametrize("dtype", HALVES)
def test_slopes(dtype):
    """What they are made of, in ULP of the largest of each row. Worst seen 14.3, and as
    much of the same numbers in float32.
    """
    terms = optimized(lambda a, b: outcome_terms(summarize(a, b), a, b))
    for a, b in batches(dtype)[:-1]:
        found = terms(a, b)
        for row, (x, y) in enumerate(zip(wide(a), wide(b), strict=True)):
            with mp.workdps(oracles.DIGITS):
                p, q = oracles.softmax(x), oracles.softmax(y)
                which = [i for i, s in enumerate(zip(p, q, strict=True)) if min(s) > 1e-30]
                r = {i: mp.log(q[i] / p[i]) for i in which}
                true = {
                    "p": (found.p, p),
                    "q": (found.q, q),
                    "q - p": (found.q_minus_p, [t - s for s, t in zip(p, q, strict=True)]),
                    "r": (found.r, r),
                }
                kl = oracles.kl(x, y)
                if kl < mp.inf:
                    true["p d"] = found.p * found.d, {i: p[i] * (r[i] + kl) for i in which}
                for name, (values, exact) in true.items():
                    unit = oracles.spacing(max(abs(exact[i]) for i in which), "float32")
                    errors = (abs(float(values[row, i]) - exact[i]) / unit for i in which)
                    assert max(errors) <= 16, (name, x, y)
