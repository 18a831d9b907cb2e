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


def expm1(x):
    with mp.workdps(DIGITS):
        return mp.exp(mp.mpf(x)) - 1


def log1p(x):
    with mp.workdps(DIGITS):
        return mp.log(1 + mp.mpf(x))


def phi(x):
    with mp.workdps(DIGITS):
        x = mp.mpf(x)
        return mp.exp(x) - 1 - x


def scaled_phi(x):
    with mp.workdps(DIGITS):
        return min(1, mp.exp(-mp.mpf(x))) * phi(x)


def log_mixture(x, weight):
    with mp.workdps(DIGITS):
        return mp.log(weight + (1 - mp.mpf(weight)) * mp.exp(mp.mpf(x)))


def itakura_saito(p, q):
    with mp.workdps(DIGITS):
        p, q = mp.mpf(float(p)), mp.mpf(float(q))
        return p / q - 1 - mp.log(p / q)


def bessel_ratio(x):
    return mp.besseli(1, x) / mp.besseli(0, x)


def bessel_curvature(x):
    return 1 - bessel_ratio(x) / x - bessel_ratio(x) ** 2


# A function and its first three derivatives, of mpmath numbers.
CONVEX = {
    "log_gamma": (
        mp.loggamma,
        mp.digamma,
        lambda x: mp.polygamma(1, x),
        lambda x: mp.polygamma(2, x),
    ),
    "stirling": (
        lambda x: mp.loggamma(x) - (x - mp.mpf(1) / 2) * mp.log(x) + x,
        lambda x: mp.digamma(x) - mp.log(x) + 1 / (2 * x),
        lambda x: mp.polygamma(1, x) - 1 / x - 1 / (2 * x**2),
        lambda x: mp.polygamma(2, x) + 1 / x**2 + 1 / x**3,
    ),
    "log_bessel": (
        lambda x: mp.log(mp.besseli(0, x)),
        bessel_ratio,
        bessel_curvature,
        lambda x: (
            bessel_ratio(x) / x**2 - (1 / x + 2 * bessel_ratio(x)) * bessel_curvature(x)
        ),
    ),
    "exponential_normalizer": (
        lambda x: mp.log(mp.expm1(x) / x),
        lambda x: 1 / -mp.expm1(-x) - 1 / x,
        lambda x: 1 / x**2 - 1 / (4 * mp.sinh(x / 2) ** 2),
        lambda x: -2 / x**3 + mp.cosh(x / 2) / (4 * mp.sinh(x / 2) ** 3),
    ),
    "softplus": (
        lambda x: mp.log1p(mp.exp(x)),
        lambda x: 1 / (1 + mp.exp(-x)),
        lambda x: 1 / (2 * mp.cosh(x / 2)) ** 2,
        lambda x: -mp.sinh(x / 2) / (4 * mp.cosh(x / 2) ** 3),
    ),
}


def bregman(name, x, y):
    """Of x and y, the divergence and its derivatives in x and in y."""
    f, slope, curvature, _ = CONVEX[name]
    with mp.workdps(DIGITS):
        x, y = mp.mpf(float(x)), mp.mpf(float(y))
        value = f(x) - f(y) - slope(y) * (x - y)
        return value, slope(x) - slope(y), -curvature(y) * (x - y)


def slopes(name, x, weight=None):
    """The first three derivatives of one of the five functions above."""
    with mp.workdps(DIGITS):
        x = mp.mpf(x)
        if name == "log1p":
            return [1 / (1 + x), -1 / (1 + x) ** 2, 2 / (1 + x) ** 3]
        if name == "log_mixture":
            s = 1 / (1 + weight / (1 - mp.mpf(weight)) * mp.exp(-x))
            return [s, s * (1 - s), s * (1 - s) * (1 - 2 * s)]
        if name == "scaled_phi" and x > 0:
            decay = [x, 1 - x, x - 2] if x < mp.inf else [0, 0, 0]
            return [d * mp.exp(-x) for d in decay]
        return [mp.exp(x) - (name != "expm1"), mp.exp(x), mp.exp(x)]


def softmax(logits):
    with mp.workdps(DIGITS):
        exact = [mp.exp(x if isinstance(x, mp.mpf) else mp.mpf(float(x))) for x in logits]
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


class Mpmath:
    """What the definitions of `registry` are evaluated in."""

    log, sum = mp.log, mp.fsum

    @staticmethod
    def kl(p, q):
        if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
            return mp.inf
        return mp.fsum(x * mp.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def divergence(row, logits_p, logits_q):
    """The value of a row of `registry`."""
    with mp.workdps(DIGITS):
        parameters = [mp.mpf(x) for x in row.parameters.values()]
        return row.definition(Mpmath, softmax(logits_p), softmax(logits_q), *parameters)


def gradient(function, point):
    """Of a function of a list of mpmath numbers, by differences of 2 h = 1e-40."""
    with mp.workdps(DIGITS):
        h = mp.mpf(10) ** -40
        x = [mp.mpf(float(v)) for v in point]
        slopes = []
        for i in range(len(x)):
            up, down = ([*x[:i], x[i] + s, *x[i + 1 :]] for s in (h, -h))
            slopes.append((function(up) - function(down)) / (2 * h))
        return slopes


def spacing(true, dtype):
    """The distance between floats at `true`; at least that of the normal numbers."""
    info = np.finfo(dtype)
    with mp.workdps(DIGITS):
        magnitude = max(abs(true), mp.mpf(float(info.smallest_normal)))
        _, exponent = mp.frexp(magnitude)  # 2^exponent is the next power of two above
        return mp.ldexp(1, exponent - 1 - info.nmant)


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


def worst(found, true, dtype):
    """The largest error in ULP of the results within the normal range."""
    info = np.finfo(dtype)
    errors = [
        ulps(f, t, dtype)
        for f, t in zip(np.asarray(found).tolist(), true, strict=True)
        if info.smallest_normal <= abs(t) <= info.max
    ]
    return max(errors, default=0.0)


def assert_near(found, true, bound):
    """Of many float32 numbers, with a truth in float64."""
    error = np.abs(found - true) / np.spacing(np.abs(true).astype("f4"))
    assert error.max() <= bound


# Below it float32 terms underflow, and the 140 digits of each term end.
FLOOR = {"float32": 2.0**-90, "float64": 2.0**-400}


def assert_within(bound, found, true, dtype="float32"):
    """`found` is not negative, and within `bound` ULP of what is above the floor."""
    assert found.dtype == dtype
    assert (found >= 0).all()
    for row, (f, t) in enumerate(zip(found, true, strict=True)):
        if t > FLOOR[dtype]:
            assert ulps(f, t, dtype) <= bound, (row, f, t)
        else:
            assert f <= 2 * FLOOR[dtype], (row, f, t)
