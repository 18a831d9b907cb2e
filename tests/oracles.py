"""Definitions in mpmath, and the measure of error. Shares no code with kl_jax."""

import mpmath as mp
import numpy as np

# Terms that agree to 2^-106 of each other still have 100 digits left.
DIGITS = 140


def rel_entr(p, q):
    """p log(p / q) of two positive floats, exactly as given."""
    with mp.workdps(DIGITS):
        p, q = mp.mpf(float(p)), mp.mpf(float(q))
        return p * mp.log(p / q)


def generalized_kl(p, q):
    with mp.workdps(DIGITS):
        p, q = mp.mpf(float(p)), mp.mpf(float(q))
        return p * mp.log(p / q) - p + q


def log_ratio(p, q):
    with mp.workdps(DIGITS):
        return mp.log(mp.mpf(float(p)) / mp.mpf(float(q)))


def phi(x):
    with mp.workdps(DIGITS):
        x = mp.mpf(float(x))
        return mp.exp(x) - 1 - x


def softmax(logits):
    with mp.workdps(DIGITS):
        exact = [mp.exp(mp.mpf(float(x))) for x in logits]
        total = mp.fsum(exact)
        return [x / total for x in exact]


def kl(logits_p, logits_q):
    """Sum of p (log p - log q) over the outcomes with p > 0, of one row of logits."""
    with mp.workdps(DIGITS):
        p, q = softmax(logits_p), softmax(logits_q)
        if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
            return mp.inf
        terms = [a * mp.log(a / b) for a, b in zip(p, q, strict=True) if a > 0]
        return mp.fsum(terms)


def kl_gradients(logits_p, logits_q):
    """(-p (log(q / p) + KL), q - p), from the definition."""
    with mp.workdps(DIGITS):
        p, q = softmax(logits_p), softmax(logits_q)
        value = kl(logits_p, logits_q)
        in_p = [
            a * (mp.log(a / b) - value) if a > 0 else mp.mpf(0)
            for a, b in zip(p, q, strict=True)
        ]
        return in_p, [b - a for a, b in zip(p, q, strict=True)]


def spacing(true, dtype):
    """The distance between floats at `true`; at least that of the normal numbers."""
    info = np.finfo(dtype)
    with mp.workdps(DIGITS):
        magnitude = max(abs(true), mp.mpf(float(info.smallest_normal)))
        exponent = int(mp.floor(mp.log(magnitude, 2)))
        return mp.ldexp(1, exponent - info.nmant)


def ulps(found, true, dtype):
    """|found - true| in spacings at the true value; 0 where both are the same infinity."""
    found = float(found)
    if found == float(true):
        exact = np.isinf(found) or mp.mpf(found) == true
        if exact:
            return 0.0
    if not np.isfinite(found) or mp.isinf(true):
        return float("inf")
    with mp.workdps(DIGITS):
        return float(abs(mp.mpf(found) - true) / spacing(true, dtype))
