"""Parameters of pairs of two families: everyday, extreme, and the nearest there are."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

INF = np.inf


class Family(NamedTuple):
    """What each parameter is, and a member by its mean and standard deviation, nearly."""

    kinds: tuple
    nearest: Callable | None = None


FAMILIES = {
    "bernoulli": Family(("probability",)),
    "poisson": Family(("positive",), lambda m, s: (m,)),
    "beta": Family(("positive", "positive"), lambda m, s: of_beta(m, s)),
    "continuous_bernoulli": Family(("probability",), lambda m, s: (of_mean(m),)),
    "exponential": Family(("positive",), lambda m, s: (1 / m,)),
    "gamma": Family(("positive", "positive"), lambda m, s: ((m / s) ** 2, m / s**2)),
    "gumbel": Family(("loc", "positive"), lambda m, s: (m - 0.45 * s, 0.8 * s)),
    "laplace": Family(("loc", "positive"), lambda m, s: (m, 0.8 * s)),
    "normal": Family(("loc", "positive"), lambda m, s: (m, s)),
    "pareto": Family(("end", "power")),
    "uniform": Family(("low", "high")),
}


def of_beta(m, s):
    n = m * (1 - m) / s**2 - 1
    return max(m * n, 1e-3), max((1 - m) * n, 1e-3)


def of_mean(m):
    """1 / (1 + e^-x) of a logit that has about this mean: near 1/2 of 12 times more."""
    x = 12 * (m - 0.5) if 0.3 < m < 0.7 else 1 / (1 - m) if m > 0.5 else -1 / m
    return clipped(1 / (1 + math.exp(-x)))


def clipped(p):
    return min(max(p, 1e-7), 1 - 1e-7)


# Mean and standard deviation of a p.
MOMENTS = {
    "bernoulli": lambda p: (p, 1),
    "beta": lambda a, b: (a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)),
    "continuous_bernoulli": lambda p: of_logit(math.log(p / (1 - p))),
    "exponential": lambda r: (1 / r, 1 / r),
    "gamma": lambda a, r: (a / r, math.sqrt(a) / r),
    "gumbel": lambda m, s: (m + 0.5772157 * s, s * math.pi / math.sqrt(6)),
    "laplace": lambda m, s: (m, math.sqrt(2) * s),
    "normal": lambda m, s: (m, s),
    "pareto": lambda s, a: (a * s / (a - 1), s / (a - 1) * math.sqrt(a / max(a - 2, 1))),
    "uniform": lambda low, high: ((low + high) / 2, (high - low) / math.sqrt(12)),
}


def of_logit(x):
    if abs(x) < 1e-2:
        return 0.5, math.sqrt(1 / 12)
    mean = 1 / -math.expm1(-x) - 1 / x
    return mean, math.sqrt(1 / x**2 - 1 / (4 * math.sinh(x / 2) ** 2))


# (p, q) of `cross.p_q`
PAIRS = {
    f"{p}_{q}": (p, q)
    for p, qs in {
        "bernoulli": ("poisson",),
        "beta": ("continuous_bernoulli", "exponential", "gamma", "normal", "uniform"),
        "continuous_bernoulli": ("exponential", "normal", "uniform"),
        "exponential": ("gamma", "gumbel", "normal"),
        "gamma": ("exponential", "gumbel", "normal"),
        "gumbel": ("normal",),
        "laplace": ("normal",),
        "normal": ("gumbel", "laplace"),
        "pareto": ("exponential", "gamma", "normal"),
        "uniform": (
            *("beta", "continuous_bernoulli", "exponential", "gamma", "gumbel"),
            *("normal", "pareto"),
        ),
    }.items()
    for q in qs
}
ON_UNIT = ("beta", "continuous_bernoulli")  # their support is [0, 1]


def of_p(name):
    """How many parameters are p's."""
    return len(FAMILIES[PAIRS[name][0]].kinds)


def log_uniform(rng, low, high):
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def draw(name, side, rng, low, high):
    """A member of p's or of q's family: positive parameters from `low` to `high`."""
    p, q = PAIRS[name]
    family = (p, q)[side]
    if family == "pareto":
        least = {"exponential": 1, "gamma": 1, "normal": 2}.get(q, 0)
        return log_uniform(rng, low, high), least + log_uniform(rng, low, high)
    if family == "uniform" and side == 1:
        return -rng.choice((0, low)), 1 + rng.choice((0, high))
    if family == "uniform":
        if q in ON_UNIT:
            low, wide = rng.uniform(), log_uniform(rng, 1e-4, 1)
            return (
                (0, 1) if rng.random() < 0.2 else (low * (1 - wide), low + wide * (1 - low))
            )
        at_0 = q != "pareto" and rng.random() < 0.2
        least = 0 if at_0 else log_uniform(rng, low, high)
        return least, least + max(log_uniform(rng, low, high), 1e-4 * least)
    found = []
    for kind in reversed(FAMILIES[family].kinds):
        if kind == "probability":
            x = clipped(1 / (1 + math.exp(-rng.uniform(-16, 16))))
        elif kind == "loc":
            x = 3 * found[0] * rng.normal()
        else:
            x = log_uniform(rng, low, high)
        found.insert(0, x)
    return tuple(found)


def near(name, p, by, rng):
    """p, and about the member of q's family that is nearest, moved relatively by `by`."""
    family = PAIRS[name][1]
    mean, deviation = MOMENTS[PAIRS[name][0]](*p)
    if family == "uniform":
        return (*p, -by, 1 + by)
    if family == "pareto":
        low = p[0]
        mean_log = (p[1] * math.log(p[1] / low)) / (p[1] - low) - 1
        q = low * (1 - abs(by) / 2), max(1 / mean_log, 1e-3)
    else:
        q = FAMILIES[family].nearest(mean, deviation)
    if family == "exponential":
        deviation = mean
    moved = []
    for kind, x in zip(FAMILIES[family].kinds, q, strict=True):
        step = by * rng.uniform(-1, 1)
        if kind == "loc":
            x = x + deviation * step
        elif kind == "probability":
            x = clipped(x + step * x * (1 - x))
        elif family != "pareto" or kind == "power":
            x = x * math.exp(step)
        moved.append(x)
    return (*p, *moved)


RANGES = ((1e-3, 0.1), (0.1, 1e2), (1e2, 1e4), (1e4, 1e6))
EVERYDAY = RANGES[1]
APART = (0, 1e-6, 1e-3, 0.1)


def everyday(name, rng):
    """Members of about one mean and size, as a fit has them; and any two."""
    p = draw(name, 0, rng, *EVERYDAY)
    return near(name, p, rng.uniform(0.1, 2), rng)


def extreme(name, rng):
    ends = RANGES[0][0], RANGES[-1][1]
    p, q = draw(name, 0, rng, *ends), draw(name, 1, rng, *ends)
    if name == "uniform_pareto":
        q = p[0] * log_uniform(rng, 1e-3, 1), q[1]
    return p + q


def nearest(name, by, rng, sizes):
    return near(name, draw(name, 0, rng, *sizes), by, rng)


def kinds(name):
    p, q = PAIRS[name]
    return FAMILIES[p].kinds + FAMILIES[q].kinds


def units(name, row):
    """A step of each parameter that is like a factor of a positive one. None at an end of a
    support, where the derivative of one side is infinite.
    """
    q, n, found = PAIRS[name][1], of_p(name), []
    for i, (kind, x) in enumerate(zip(kinds(name), row, strict=True)):
        first = 0 if i < n else n
        if kind in ("low", "high"):
            at_end = i < n and q in ("gamma", "exponential", *ON_UNIT) and x in (0, 1)
            found.append(None if at_end else row[first + 1] - row[first])
        elif kind == "loc":
            found.append(row[first + 1])
        elif kind == "end":
            found.append(x / max(row[first + 1], 1))
        else:
            found.append(x * (1 - x) or None if kind == "probability" else x)
    return found
