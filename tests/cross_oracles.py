"""KL between two families in mpmath: -entropy of p - E log q, from moments of p.

A family of p has its entropy and moments, one of q the logarithm of its density as a
function of such moments. All are those of textbooks: N. Johnson, S. Kotz, N. Balakrishnan,
"Continuous univariate distributions" (1994, 1995); of the continuous Bernoulli distribution
G. Loaiza-Ganem and J. Cunningham (2019). test_cross.py integrates the densities.

Shares no code with kl_jax. Parameters are floats, taken exactly.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp

# Of a KL of 1e-13 whose terms are 1e6, 40 digits are left.
DIGITS = 60
# A step of differences, relative to natural units: a central one errs by its square.
STEP = mp.mpf(10) ** -20


@functools.cache
def loggamma(x):
    return mp.loggamma(x)


@functools.cache
def digamma(x):
    return mp.digamma(x)


def log_beta(a, b):
    return loggamma(a) + loggamma(b) - loggamma(a + b)


class Moments(NamedTuple):
    """Functions of a distribution's parameters; those that no pair asks for are absent."""

    entropy: Callable
    mean: Callable
    variance: Callable | None = None
    mean_log: Callable | None = None  # E log x
    mean_log_rest: Callable | None = None  # E log(1 - x)
    generating: Callable | None = None  # of t and the parameters: E e^(t x)
    distance: Callable | None = None  # of m and the parameters: E |x - m|


def x_log_x(x):
    return x * mp.log(x) if x else mp.mpf(0)


def mean_log_of_interval(low, high):
    return (x_log_x(high) - x_log_x(low)) / (high - low) - 1


def logit(probs):
    return mp.log(probs / (1 - probs))


def partition(x):
    return mp.log(mp.expm1(x) / x) if x else mp.mpf(0)


def mean_of_logit(x):
    return 1 / -mp.expm1(-x) - 1 / x if x else mp.mpf(1) / 2


def variance_of_logit(x):
    return 1 / x**2 - 1 / (4 * mp.sinh(x / 2) ** 2) if x else mp.mpf(1) / 12


def of_exponential(moment):
    """A gamma distribution of concentration 1."""
    return lambda *x: moment(*x[:-1], mp.mpf(1), x[-1])


def normal_distance(m, loc, scale):
    t = (loc - m) / scale
    peak = mp.sqrt(2 / mp.pi) * mp.exp(-(t**2) / 2)
    return scale * (peak + t * mp.erf(t / mp.sqrt(2)))


GAMMA = Moments(
    lambda a, r: a - mp.log(r) + loggamma(a) + (1 - a) * digamma(a),
    lambda a, r: a / r,
    lambda a, r: a / r**2,
    lambda a, r: digamma(a) - mp.log(r),
    generating=lambda t, a, r: (1 - t / r) ** -a,
)
P = {
    "bernoulli": Moments(lambda p: -x_log_x(p) - x_log_x(1 - p), lambda p: p),
    "beta": Moments(
        lambda a, b: (
            log_beta(a, b)
            - (a - 1) * digamma(a)
            - (b - 1) * digamma(b)
            + (a + b - 2) * digamma(a + b)
        ),
        lambda a, b: a / (a + b),
        lambda a, b: a * b / ((a + b) ** 2 * (a + b + 1)),
        lambda a, b: digamma(a) - digamma(a + b),
    ),
    "continuous_bernoulli": Moments(
        lambda p: partition(logit(p)) - logit(p) * mean_of_logit(logit(p)),
        lambda p: mean_of_logit(logit(p)),
        lambda p: variance_of_logit(logit(p)),
    ),
    "exponential": Moments(
        *(of_exponential(x) for x in GAMMA[:4]),
        generating=of_exponential(GAMMA.generating),
    ),
    "gamma": GAMMA,
    "gumbel": Moments(
        lambda m, s: mp.log(s) + mp.euler + 1,
        lambda m, s: m + mp.euler * s,
        lambda m, s: (mp.pi * s) ** 2 / 6,
    ),
    "laplace": Moments(
        lambda m, s: 1 + mp.log(2 * s), lambda m, s: m, lambda m, s: 2 * s**2
    ),
    "normal": Moments(
        lambda m, s: mp.log(2 * mp.pi * mp.e * s**2) / 2,
        lambda m, s: m,
        lambda m, s: s**2,
        generating=lambda t, m, s: mp.exp(t * m + (t * s) ** 2 / 2),
        distance=normal_distance,
    ),
    "pareto": Moments(
        lambda s, a: mp.log(s / a) + 1 + 1 / a,
        lambda s, a: a * s / (a - 1),
        lambda s, a: s**2 * a / ((a - 1) ** 2 * (a - 2)),
        lambda s, a: mp.log(s) + 1 / a,
    ),
    "uniform": Moments(
        lambda low, high: mp.log(high - low),
        lambda low, high: (low + high) / 2,
        lambda low, high: (high - low) ** 2 / 12,
        mean_log_of_interval,
        lambda low, high: mean_log_of_interval(1 - high, 1 - low),
        lambda t, low, high: (mp.exp(t * high) - mp.exp(t * low)) / (t * (high - low)),
    ),
}


def normal_log_density(of, p, m, s):
    square = (of.variance(*p) + (of.mean(*p) - m) ** 2) / s**2
    return -mp.log(2 * mp.pi * s**2) / 2 - square / 2


def gumbel_log_density(of, p, m, s):
    power = mp.exp(m / s) * of.generating(-1 / s, *p)
    return -mp.log(s) - (of.mean(*p) - m) / s - power


def gamma_log_density(of, p, a, r):
    normaliser = a * mp.log(r) - loggamma(a)
    return normaliser + (a - 1) * of.mean_log(*p) - r * of.mean(*p)


def beta_log_density(of, p, a, b):
    logs = (a - 1) * of.mean_log(*p) + (b - 1) * of.mean_log_rest(*p)
    return logs - log_beta(a, b)


def pareto_log_density(of, p, s, a):
    return mp.log(a) + a * mp.log(s) - (a + 1) * of.mean_log(*p)


# E log q of a p, from its moments and parameters.
Q = {
    "beta": beta_log_density,
    "continuous_bernoulli": lambda of, p, q: logit(q) * of.mean(*p) - partition(logit(q)),
    "exponential": lambda of, p, r: mp.log(r) - r * of.mean(*p),
    "gamma": gamma_log_density,
    "gumbel": gumbel_log_density,
    "laplace": lambda of, p, m, s: -mp.log(2 * s) - of.distance(m, *p) / s,
    "normal": normal_log_density,
    "pareto": pareto_log_density,
    "poisson": lambda of, p, r: (of.mean(*p) * mp.log(r) if p[0] else 0) - r,
    "uniform": lambda of, p, low, high: -mp.log(high - low),
}


def formula(p, q, of_p):
    """KL of mpmath numbers, of which the first `of_p` are p's parameters."""
    of = P[p]
    return lambda *x: -of.entropy(*x[:of_p]) - Q[q](of, x[:of_p], *x[of_p:])


def kl(p, q, parameters, of_p):
    with mp.workdps(DIGITS):
        return formula(p, q, of_p)(*map(mp.mpf, parameters))


def gradient(p, q, parameters, of_p, units):
    """The derivative in each parameter times its unit, by central differences; none where
    the unit is None.
    """
    with mp.workdps(DIGITS):
        function, point = formula(p, q, of_p), list(map(mp.mpf, parameters))
        slopes = []
        for i, unit in enumerate(units):
            if unit is None:
                continue
            step = STEP * unit
            up, down = ([*point[:i], point[i] + s, *point[i + 1 :]] for s in (step, -step))
            slopes.append(float((function(*up) - function(*down)) / (2 * STEP)))
        return slopes


# Logarithms of the densities but for a constant, and supports, of points that integrals
# are taken at.
DENSITIES = {
    "beta": lambda x, a, b: (a - 1) * mp.log(x) + (b - 1) * mp.log(1 - x),
    "continuous_bernoulli": lambda x, p: x * logit(p),
    "exponential": lambda x, r: -r * x,
    "gamma": lambda x, a, r: (a - 1) * mp.log(x) - r * x,
    "gumbel": lambda x, m, s: -(x - m) / s - mp.exp(-(x - m) / s),
    "laplace": lambda x, m, s: -abs(x - m) / s,
    "normal": lambda x, m, s: -(((x - m) / s) ** 2) / 2,
    "pareto": lambda x, s, a: -(a + 1) * mp.log(x),
    "uniform": lambda x, low, high: mp.mpf(0),
}
