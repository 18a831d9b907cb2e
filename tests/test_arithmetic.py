"""Numbers in two words against exact products."""

import mpmath as mp
import numpy as np
import oracles
from programs import compiled

from kl_jax import _arithmetic


def test_products_in_two_words_are_exact(dtype):
    """Also under jit, where XLA may fold or fuse what is not a variable."""
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=(2, 2000)) * np.exp(rng.uniform(-15, 15, (2, 2000)))
    a, b = a.astype(dtype), b.astype(dtype)
    high, low = compiled(_arithmetic.two_prod)(a, b)
    for x, y, h, e in zip(*(v.tolist() for v in (a, b, high, low)), strict=True):
        with mp.workdps(oracles.DIGITS):
            assert mp.mpf(x) * mp.mpf(y) == mp.mpf(h) + mp.mpf(e)
