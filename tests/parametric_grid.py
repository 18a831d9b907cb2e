"""Parameters of pairs of distributions: everyday, equal, nearly equal, and extreme."""

import math

import numpy as np

# What each parameter of one distribution is.
PARAMETERS = {
    "bernoulli": ("probability",),
    "bernoulli_logits": ("logit",),
    "binomial": ("count", "probability"),
    "negative_binomial": ("count", "probability"),
    "multinomial": ("count", "vector"),
    "geometric": ("probability",),
    "poisson": ("positive",),
    "normal": ("loc", "positive"),
    "normal_standard": (),
    "normal_log_variance": ("mean", "log variance"),
    "log_normal": ("loc", "positive"),
    "logit_normal": ("loc", "positive"),
    "truncated_normal": ("loc", "positive", "bound", "bound"),
    "half_normal": ("positive",),
    "laplace": ("loc", "positive"),
    "cauchy": ("loc", "positive"),
    "gumbel": ("loc", "positive"),
    "exponential": ("positive",),
    "gamma": ("positive", "positive"),
    "inverse_gamma": ("positive", "positive"),
    "chi2": ("positive",),
    "weibull": ("scale of a power", "positive"),
    "pareto": ("lower end", "positive"),
    "beta": ("positive", "positive"),
    "dirichlet": ("vector",),
    "continuous_bernoulli": ("probability",),
    "continuous_bernoulli_logits": ("logit",),
    "von_mises": ("angle", "positive"),
    "von_mises_fisher": ("vector", "positive"),
    "wishart": ("positive", "vector"),
    "inverse_wishart": ("positive", "vector"),
    "matrix_normal": ("vector", "vector", "vector"),
    "uniform": ("interval", "interval"),
    "multivariate_normal": ("vector", "vector"),
    "multivariate_normal_diag": ("vector", "vector"),
    "low_rank_multivariate_normal": ("vector", "vector", "vector"),
}
NAMES = tuple(PARAMETERS)

# What is equal in p and q, and not to differentiate in.
FIXED = ("count", "bound")

# Half the derivatives of KL do not vanish at p = q: the support moves.
OF_ITS_SUPPORT = ("pareto", "uniform")

APART = {
    "float32": (1, 0.1, 1e-2, 1e-4, 1e-6),
    "float64": (1, 0.1, 1e-2, 1e-4, 1e-6, 1e-10),
}
RANGES = ((1e-3, 0.1), (0.1, 1e2), (1e2, 1e4), (1e4, 1e6))
EVERYDAY = (0.1, 1e2)


def grid(name, dtype, rng):
    """A list of (kind, parameters): floats of `dtype`, or arrays of them, p's first."""
    if "vector" in PARAMETERS[name]:
        rows = VECTORS[name](APART[dtype], rng)
    elif name in SPECIAL:
        rows = SPECIAL[name](APART[dtype], rng)
    else:
        rows = [*pairs(name, APART[dtype], rng), *EXTRA.get(name, lambda _: ())(rng)]
    rounded = [(kind, cast(parameters, dtype)) for kind, parameters in rows]
    if name not in SPECIAL and "vector" not in PARAMETERS[name]:
        rounded += neighbours(name, dtype, rng)
    return rounded


def parameters_of(name):
    """The positions of the floats to differentiate in."""
    kinds = PARAMETERS[name]
    n = 2 if name == "normal_standard" else 2 * len(kinds)
    return tuple(i for i in range(n) if not kinds or kinds[i % len(kinds)] not in FIXED)


def cast(parameters, dtype):
    return tuple(np.asarray(x, dtype)[()] for x in parameters)


# --- pairs of families of one or two numbers -------------------------------------------


def uniform(rng, low, high, size=None):
    """Log-uniform."""
    return np.exp(rng.uniform(math.log(low), math.log(high), size))


def sign(rng):
    return rng.choice((-1.0, 1.0))


def draw(name, rng, low=EVERYDAY[0], high=EVERYDAY[1]):
    """Parameters of one distribution; positive ones from `low` to `high`."""
    found = []
    for kind in reversed(PARAMETERS[name]):
        if kind == "probability":
            x = 1 / (1 + math.exp(-rng.uniform(-16, 16)))
        elif kind in ("logit", "log variance"):
            x = rng.uniform(-16, 16)
        elif kind == "mean":
            x = 3 * math.exp(found[0] / 2) * rng.normal()
        elif kind == "count":
            x = float(rng.choice((1, 2, 10, 1000, 10**6)))
        elif kind == "angle":
            x = rng.uniform(-math.pi, math.pi)
        elif kind == "loc":
            x = 3 * found[0] * rng.normal()
        else:
            x = uniform(rng, low, high)
        found.insert(0, clip(kind, x))
    return tuple(found)


def clip(kind, x):
    return min(max(x, 1e-7), 1 - 1e-7) if kind == "probability" else x


def moved(name, parameters, by, rng, which=None):
    """Parameters that differ relatively by about `by`, all or just one."""
    found = []
    for i, (kind, x) in enumerate(zip(PARAMETERS[name], parameters, strict=True)):
        step = sign(rng) * by * rng.uniform(0.5, 1)
        if which not in (None, i) or kind == "count":
            step = 0.0
        if kind == "probability":
            y = x + step * x * (1 - x)
        elif kind in ("logit", "log variance"):
            y = x + step
        elif kind == "mean":
            y = x + step * math.exp(parameters[-1] / 2)
        elif kind == "loc":
            y = x + step * parameters[-1]
        elif kind == "angle":
            y = x + step * min(1, parameters[-1] ** -0.5)
        elif kind == "scale of a power":
            y = x * math.exp(step / max(parameters[-1], 1))
        elif kind == "lower end":
            y = x * math.exp(-abs(step))
        else:
            y = x * math.exp(step)
        found.append(clip(kind, y))
    return tuple(found)


def ordinary(name, rng, low=EVERYDAY[0], high=EVERYDAY[1]):
    """Two distributions: independent, but of one count, one end or near locations."""
    p, q = draw(name, rng, low, high), list(draw(name, rng, low, high))
    kinds = PARAMETERS[name]
    if name in ("gumbel", "weibull"):
        return far(name, p, rng)
    for i, kind in enumerate(kinds):
        if kind == "count":
            q[i] = p[i]
        if kind == "lower end":
            q[i] = min(p[i], q[i])
        if kind == "loc":
            q[i] = p[i] + p[-1] * sign(rng) * uniform(rng, 1e-4, 1e2)
        if kind == "mean":
            q[i] = p[i] + math.exp(p[-1] / 2) * sign(rng) * uniform(rng, 1e-4, 1e2)
    return p + tuple(q)


def far(name, p, rng):
    """Extreme values: a ratio of the exponents from 1/10 to 10, and KL at most 1e30."""
    ratio = uniform(rng, 0.1, 10)
    shift = rng.uniform(-50, 50) * rng.uniform() ** 2
    first, last = p
    if name == "gumbel":
        return (*p, first + shift * last * ratio, last * ratio)
    logs = min(max(-shift / (last * ratio), -50), 50)  # the scale stays a float32
    return (*p, first * math.exp(logs), last * ratio)


def pairs(name, apart, rng):
    kinds = PARAMETERS[name]
    free = [i for i, kind in enumerate(kinds) if kind != "count"]
    for low, high in RANGES:
        p = draw(name, rng, low, high)
        yield "equal", p + p
        for by in apart:
            for which in [None, *free] if len(free) > 1 else [None, None]:
                p = draw(name, rng, low, high)
                yield f"apart {by}", p + moved(name, p, by, rng, which)
    for _ in range(12):
        yield "everyday", ordinary(name, rng)
    for _ in range(8):
        yield "any size", ordinary(name, rng, RANGES[0][0], RANGES[-1][1])


def neighbours(name, dtype, rng):
    """One parameter of q is the next float."""
    kinds = PARAMETERS[name]
    for low, high in RANGES:
        for i, kind in enumerate(kinds):
            if kind == "count":
                continue
            p = cast(draw(name, rng, low, high), dtype)
            toward = 0 if kind in ("lower end", "probability") else np.inf
            q = list(p)
            q[i] = np.nextafter(p[i], np.asarray(toward, dtype))
            yield "one ULP", p + tuple(q)


# --- what else is hard, by family ------------------------------------------------------


def probabilities(rng):
    tiny, near = 1e-7, 1 - 1e-7
    for p in (tiny, 1e-3, 0.5, 0.999, near):
        for q in (tiny, 0.4, near):
            yield "tails", (p, q)


def counted(rng):
    for count in (1.0, 7.0, 1e3, 1e6):
        for _, (p, q) in list(probabilities(rng))[::3]:
            yield "tails", (count, p, count, q)


def logits(rng):
    table = (
        *((30, 29), (-30, -31), (30, -30), (80, 79.5), (-80, -79.99), (100, -100)),
        *((1e3, -1e3), (-1e3, 3), (0, 1e3), (0, -40), (120, 121)),
    )
    return [("tails", pair) for pair in table]


def continuous_logits(rng):
    table = (*((1e3, 1.1e3), (-1e3, 5), (5, -1e3), (1e3, -1e3), (60, 61), (-1e5, -1e4)),)
    yield from (("tails", pair) for pair in table)
    for step in (1e-6, 1e-4, 1e-2, 0.1, 1, 3):
        yield "around 0", (0, step)
        yield "around 0", (step, 0)
        yield "around 0", (step, -step)
        yield "around 0", (step, -1.01 * step)


def around_half(rng):
    yield from probabilities(rng)
    for step in (1e-7, 1e-6, 1e-4, 1e-2, 0.1, 0.3):
        yield "around 1/2", (0.5, 0.5 + step)
        yield "around 1/2", (0.5 - step, 0.5)
        yield "around 1/2", (0.5 - step, 0.5 + step)
        yield "around 1/2", (0.5 + step, 0.5 + 1.01 * step)


def locations(rng):
    """One scale, and locations 1e-4 to 100 scales apart; one location, other scales."""
    for scales in (1e-4, 1e-2, 1, 10, 100):
        for loc in (0.0, 1.0):
            yield "locations", (loc, 0.7, loc + 0.7 * scales, 0.7)
            yield "locations", (loc, 2.0, loc - 2 * scales, 3.0)
    for ratio in (0.1, 0.99, 1.0001, 10):
        yield "one location", (1.5, 0.7, 1.5, 0.7 * ratio)


def log_variances(rng):
    """Whose exponentials, or whose means' squares, leave the range of float32."""
    for v in (-300.0, -80.0, 80.0, 300.0):
        for by in (1e-3, 1.0, -40.0, 70.0):
            yield "one mean", (0.3, v, 0.3, v + by)
    yield "one mean", (0.3, 89.0, 0.3, 0.0)
    for _ in range(4):  # the difference is rounded
        yield "one mean", (0.3, rng.uniform(30, 45), 0.3, rng.uniform(-42, -30))
    yield "small", (1e-30, -100.0, 0.0, -98.0)
    yield "small", (1e-18, -160.0, 0.0, -158.0)
    yield "large", (2e38, 190.0, -2e38, 101.0)
    for v, by in ((-9.0, 1e-6), (-9.0, 1e-3), (-20.0, 0.5)):
        yield "one mean", (0.0, v, 0.0, v - by)


def locations_of_gumbel(rng):
    for _, (loc_p, scale_p, loc_q, scale_q) in locations(rng):
        if abs(loc_p - loc_q) <= 60 * scale_q:
            yield "locations", (loc_p, scale_p, loc_q, scale_q)


def matched(rng):
    """Gammas of one mean: the rates are as the concentrations."""
    for a in (1e-2, 1.0, 1e2, 1e4, 1e6):
        for by in (1, 0.1, 1e-2, 1e-4):
            mean, b = uniform(rng, 1e-2, 1e2), a * math.exp(sign(rng) * by)
            yield "one mean", (a, a / mean, b, b / mean)


def lopsided(rng):
    large = (1e4, 1e4, 1.01e4, 1e4), (1e6, 1, 1e6, 1.01), (1e6, 1e-2, 1e6, 1.1e-2)
    other = (1e6, 1, 1, 1), (1, 1, 1e6, 1), (1e6, 1e-2, 1.1e6, 1e-2), (1e6, 1e-2, 2, 3)
    ratio = (1e6, 1e6, 1.001e6, 1.001e6), (1e5, 10, 1.01e5, 10.1), (1e-2, 1e6, 1e6, 1e-2)
    yield from (("lopsided", (*row,)) for row in large + other + ratio)
    # One concentration has nearly all, of both or of one, and the other may stay the same.
    for k in range(60):
        small, large = uniform(rng, 1e-3, 0.1, 2), uniform(rng, 0.1, 1e6, 2)
        by = sign(rng) * uniform(rng, 1e-6, 3, 2)
        row = (
            (small[0], large[0], small[0], large[1]),
            (small[0], large[0], small[0], large[0] * math.exp(by[0])),
            (small[0], large[0], small[0] * math.exp(by[1]), large[0] * math.exp(by[0])),
            (small[0], large[0], large[1], small[1]),
            (small[0], small[1], small[0], large[0]),
        )[k % 5]
        yield "one small", tuple(min(max(x, 1e-3), 1e6) for x in row)
    for p, q in ((15.5, 1e-3), (318.4, 1e-3), (0.0453, 0.00586)):
        yield "two small", (1.03e-3, p, 1e-3, q)


def angles(rng):
    for k in (1e-3, 0.1, 1, 10, 1e3, 1e6):
        yield "opposite", (0.5, k, 3.5, k)
        yield "opposite", (0.5, k, -1.5, 2 * k)
        yield "one location", (0.5, k, 0.5, 1e-2 * k)
    yield "one location", (0.5, 1e-3, 0.5, 1e6)
    yield "across pi", (-3.0861273, 14.372494, 2.9044945, 6.119441)
    yield "across pi", (3.12, 3.0, -3.1, 2.5)


def lower_ends(rng):
    for a in (1e-2, 1.0, 30.0, 1e4):
        for above in (1e-4, 1e-2, 1, 1e3):
            yield "one lower end", (2.5, a, 2.5, a * (1 + above))
            yield "lower ends", (2.5 * (1 + above), a, 2.5, a)


def powers(rng):
    for ratio in (0.1, 0.5, 0.99, 1.01, 2, 10):
        for k in (1e-2, 1.0, 1e2):
            yield "ratio of the powers", (2.0, k, 2.0, k * ratio)
            yield (
                "ratio of the powers",
                (2.0, k, 2.0 * math.exp(-min(1 / k, 30)), k * ratio),
            )


EXTRA = {
    "bernoulli": probabilities,
    "bernoulli_logits": logits,
    "binomial": counted,
    "negative_binomial": counted,
    "geometric": probabilities,
    "normal": locations,
    "normal_log_variance": log_variances,
    "log_normal": locations,
    "logit_normal": locations,
    "laplace": locations,
    "cauchy": locations,
    "gumbel": locations_of_gumbel,
    "gamma": matched,
    "inverse_gamma": matched,
    "weibull": powers,
    "pareto": lower_ends,
    "beta": lopsided,
    "continuous_bernoulli": around_half,
    "continuous_bernoulli_logits": continuous_logits,
    "von_mises": angles,
}


def standard(apart, rng):
    """Mean and log variance, of which (0, 0) is the standard normal itself."""
    yield "equal", (0.0, 0.0)
    for by in (*apart, 3e-3, 1e-3, 1e-5):
        for _ in range(3):
            x, y = (sign(rng) * by * rng.uniform(0.5, 1) for _ in "ab")
            yield f"apart {by}", (x, y)
        yield f"apart {by}", (x, 0.0)
        yield f"apart {by}", (0.0, y)
    for _ in range(12):
        yield "everyday", (rng.normal(), rng.normal())
    for log_variance in (-80.0, -20.0, -3.0, 5.0, 20.0, 80.0):
        yield "any size", (100 * rng.normal(), log_variance)


def nested(apart, rng):
    """Intervals of p, and q's with margins."""
    for _ in range(6):
        low = 10 * rng.normal()
        high = low + uniform(rng, 1e-2, 1e3)
        yield "equal", (low, high, low, high)
        for margin in (*apart, 100):
            size = margin * (high - low)
            x, y = size * rng.uniform(0.5, 1, 2)
            yield f"apart {margin}", (low, high, low - x, high + y)
            yield f"apart {margin}", (low, high, low - x, high)
            yield f"apart {margin}", (low, high, low, high + y)
    for wide in (1, 2, 5, 10):
        yield "everyday", (0.25, 0.5, -wide * rng.uniform(), wide)
    yield "any size", (1, 1 + 1e-6, -1e6, 1e6)


def cut(apart, rng):
    """An interval around p's loc, next to it, far from it, or without one of its ends."""
    for low, high in (*RANGES, (RANGES[0][0], RANGES[-1][1])):
        for by in (0.0, *apart, *apart):
            scale, width = uniform(rng, low, high, 2)
            loc = scale * rng.normal() * 10 ** rng.uniform(-1, 1.5)
            start = scale * rng.normal()
            end = start + max(width, 1e-5 * abs(start))
            ends = ((start, end), (start, end), (-np.inf, end), (start, np.inf))
            ends = ends[rng.integers(4)]
            step = by * rng.uniform(0.5, 1, 2) * rng.choice([-1, 0, 1], 2)
            q = loc + step[0] * scale, scale * np.exp(step[1])
            yield f"apart {by}" if step.any() else "equal", (loc, scale, *ends, *q, *ends)
            wide = loc, uniform(rng, low, high)
            yield "any size", (loc, scale, *ends, *wide, *ends)
    for start in (0.0, 30.0, -1e3):
        ends = start, start + rng.uniform(0.1, 10)
        for by in (1e-3, 1.0):
            yield "everyday", (0.3, 1.0, *ends, 0.3 + by, 1.0 + by * rng.uniform(), *ends)
            # One slope at the end, of two locs.
            yield "far from both", (0.0, 1.0, *ends, -3.0, 1.1, *ends)


SPECIAL = {"normal_standard": standard, "uniform": nested, "truncated_normal": cut}

# --- vectors and matrices --------------------------------------------------------------


def concentrations(apart, rng):
    for size in (2, 3):
        for low, high in ((1e-2, 0.1), (0.1, 1e2), (1e2, 1e6)):
            a = uniform(rng, low, high, size)
            yield "equal", (a, a)
            for by in apart:
                a = uniform(rng, low, high, size)
                step = by * rng.uniform(-1, 1, size)
                yield f"apart {by}", (a, a * np.exp(step))
            yield "one entry", (a, a * np.where(np.arange(size) == 1, 1.01, 1))
            yield "everyday", (a, uniform(rng, 1e-2, 1e4, size))
            yield "scaled", (a, a * 1.02)
        ends = np.where(np.arange(size) == 0, 1e6, 1e-2)
        yield "uneven", (ends, ends * np.exp(1e-3 * rng.uniform(-1, 1, size)))
        yield "uneven", (ends, ends[::-1])
        for by in (1e-6, 1e-3, 1, 3):
            small = uniform(rng, 1e-3, 1e-2, size)
            a = np.where(np.arange(size) == 1, uniform(rng, 0.1, 1e4), small)
            yield "one small", (a, a * np.exp(by * rng.uniform(-1, 1, size)))
            yield "one small", (a, np.where(np.arange(size) == 1, a * (1 + by), a))
            yield "two small", (a, small)
        yield "uneven", (np.ones(size), np.full(size, 1e6))
        yield "uneven", (np.full(size, 1e6), np.ones(size))
        yield "scaled", (np.full(size, 1e5), np.full(size, 1.001e5))
    yield "equal", (np.full(100, 5.0), np.full(100, 5.0))
    yield "scaled", (np.full(100, 5.0), np.full(100, 5.005))
    yield "scaled", (np.full(100, 5.0), np.full(100, 1e4))
    a = np.round(uniform(rng, 0.1, 100, 100), 2)
    yield "apart 0.01", (a, a * (1 + 1e-2 * rng.integers(-1, 2, 100)))
    yield "apart 0.0001", (a, a * (1 + 1e-4 * rng.integers(-1, 2, 100)))


def factor(rng, size, condition):
    """A lower triangle of that condition number, of a random size."""
    u, v = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in "uv")
    root = u * np.geomspace(1, 1 / condition, size) @ v
    return np.linalg.cholesky(root @ root.T) * uniform(rng, 0.1, 10)


def tilted(rng, root, by):
    """Its product with a lower triangle that differs by `by` from the identity."""
    size = len(root)
    step = np.tril(rng.uniform(-1, 1, (size, size)) / math.sqrt(size), -1) * by
    return root @ (step + np.diag(np.exp(by * rng.uniform(-1, 1, size))))


def multivariate(apart, rng):
    for size in (1, 2, 6):
        for condition in (1, 30, 1e3) if size > 1 else (1,):
            root, loc = factor(rng, size, condition), rng.normal(size=size)
            yield "equal", (loc, root, loc, root)
            for by in apart:
                shift = root @ rng.normal(size=size) * by
                other = tilted(rng, root, by)
                yield f"apart {by}, condition {condition}", (loc, root, loc + shift, other)
            yield f"one scale, condition {condition}", (loc, root, loc + shift, root)
            yield f"one location, condition {condition}", (loc, root, loc, other)
            q = rng.normal(size=size), factor(rng, size, condition)
            yield f"everyday, condition {condition}", (loc, root, *q)


def diagonal(apart, rng):
    for size in (1, 3, 6):
        for low, high in (*RANGES, (RANGES[0][0], RANGES[-1][1])):
            scale = uniform(rng, low, high, size)
            loc = scale * rng.normal(size=size)
            yield "equal", (loc, scale, loc, scale)
            for by in apart:
                x, y = by * rng.uniform(-1, 1, (2, size))
                yield f"apart {by}", (loc, scale, loc + scale * x, scale * np.exp(y))
            yield "everyday", (loc, scale, loc + scale, uniform(rng, low, high, size))


def low_rank(apart, rng):
    for size, rank in ((2, 1), (3, 2)):
        for strength in (0.1, 1, 30):
            diag = uniform(rng, 0.1, 10, size)
            loc, columns = rng.normal(size=size), strength * rng.normal(size=(size, rank))
            p = loc, columns, diag
            yield "equal", p + p
            for by in apart:
                x, y = by * rng.uniform(-1, 1, (2, size))
                z = columns * (1 + by * rng.uniform(-1, 1, (size, rank)))
                yield f"apart {by}, factor {strength}", (*p, loc + x, z, diag * np.exp(y))
            yield f"one factor {strength}", (*p, loc + x, columns, diag * np.exp(y))
            q = rng.normal(size=size), rng.normal(size=(size, rank)), diag[::-1]
            yield f"everyday, factor {strength}", (*p, *q)
            tight = loc, columns, uniform(rng, 1e-3, 1e-2, size) + 3 * (columns[:, 0] > 0)
            standard = np.zeros(size), np.zeros((size, rank)), np.ones(size)
            yield f"tight, factor {strength}", (*tight, *standard)
            rotation = np.linalg.qr(rng.normal(size=(rank, rank)))[0]
            order = rng.permutation(rank)
            for by in apart[1:]:
                z = columns * (1 + by * rng.uniform(-1, 1, (size, rank)))
                yield f"rotated, apart {by}", (*p, loc, z @ rotation, diag)
                yield f"permuted, apart {by}", (*tight, loc, -z[:, order], tight[2])


def masses(apart, rng):
    """With a count: probabilities, whose sums are rounded, and other masses."""
    for size in (3, 2):
        for low in (1e-7, 1e-2):
            p = uniform(rng, low, 1, size)
            yield "equal", (7.0, p, 7.0, p)
            for by in apart:
                count = float(rng.choice((1, 2, 10, 1000, 10**6)))
                p = uniform(rng, low, 1, size)
                q = p * np.exp(by * rng.uniform(-1, 1, size))
                yield f"apart {by}", (count, p / p.sum(), count, q / q.sum())
                yield f"apart {by}", (count, p, count, 3 * q)
                yield "one entry", (count, p, count, p * (1 + by * (np.arange(size) == 0)))
            for _ in range(3):
                yield "everyday", (count, p, count, uniform(rng, low, 1, size))


def turned(rng, x, by):
    """A direction at an angle of about `by` to x."""
    y = rng.normal(size=len(x))
    y -= (x @ y) / (x @ x) * x
    return x * math.cos(by) + y / np.linalg.norm(y) * np.linalg.norm(x) * math.sin(by)


def directions(apart, rng):
    for size in (3, 10):
        for low, high in (*RANGES, (RANGES[0][0], RANGES[-1][1])):
            x, k = rng.normal(size=size), uniform(rng, low, high)
            x /= np.linalg.norm(x)
            yield "equal", (x, k, x, k)
            for by in apart:
                y = turned(rng, x, by * rng.uniform(0.5, 1) * min(1, k**-0.5))
                j = k * math.exp(sign(rng) * by * rng.uniform(0.5, 1))
                yield f"apart {by}", (x, k, y, j)
                yield "one of two", (x, k, *((y, k) if rng.random() < 0.5 else (x, j)))
            yield "opposite", (x, k, -x, uniform(rng, low, high))
            yield "one direction", (x, k, x, uniform(rng, low, high))
            x, y = rng.normal(size=(2, size))
            yield "everyday", (x, uniform(rng, low, high), y, uniform(rng, low, high))


def scatters(apart, rng):
    for size in (3, 2):
        root = factor(rng, size, 10)
        for low, high in ((1e-2, 1), (1, 1e2), (1e2, 1e4)):
            df = size - 1 + uniform(rng, low, high)
            yield "equal", (df, root, df, root)
            for by in apart:
                other = size - 1 + (df - size + 1) * math.exp(sign(rng) * by)
                tilt = tilted(rng, root, by)
                yield f"apart {by}", (df, root, other, tilt)
                one_mean = other, root * math.sqrt(df / other)
                some = (other, root), (df, tilt), one_mean
                yield "one of two, or one mean", (df, root, *some[rng.integers(3)])
            for _ in range(2):
                q = size - 1 + uniform(rng, 1e-2, 1e2), factor(rng, size, 10)
                yield "everyday", (df, root, *q)


def tables(apart, rng):
    for n, m in ((2, 3), (1, 2)):
        row, column = factor(rng, n, 10 if n > 1 else 1), factor(rng, m, 10)
        loc = row @ rng.normal(size=(n, m)) @ column.T
        yield "equal", (loc, row, column, loc, row, column)
        for by in apart:
            shift = by * row @ rng.normal(size=(n, m)) @ column.T
            rows, columns = tilted(rng, row, by), tilted(rng, column, by)
            yield f"apart {by}", (loc, row, column, loc + shift, rows, columns)
            yield "one row factor", (loc, row, column, loc, row, columns)
            yield "one scale", (loc, row, column, loc + shift, 3 * row, column / 3)
            yield "traded", (loc, row, column, loc, 2 * rows, column / 2)
        q = factor(rng, n, 10 if n > 1 else 1), factor(rng, m, 10)
        yield "everyday", (loc, row, column, rng.normal(size=(n, m)), *q)


VECTORS = {
    "multinomial": masses,
    "von_mises_fisher": directions,
    "wishart": scatters,
    "inverse_wishart": scatters,
    "matrix_normal": tables,
    "dirichlet": concentrations,
    "multivariate_normal": multivariate,
    "multivariate_normal_diag": diagonal,
    "low_rank_multivariate_normal": low_rank,
}

# --- natural units ---------------------------------------------------------------------


def units(name, parameters):
    """By what to multiply each derivative: a step of the parameter that p would notice as
    it would notice a factor. A positive parameter's own size, a location's scale.
    """
    half = len(parameters) // 2
    x = [np.asarray(v, np.float64) for v in parameters]
    if name == "normal_standard":
        return [np.exp(x[1] / 2), np.ones(())]
    if name == "uniform":
        return [x[1] - x[0]] * 4
    if name == "truncated_normal":
        return [x[1]] * 4 + [x[5]] * 4
    if name == "multivariate_normal":
        return [np.abs(x[1]).max()] * 4
    if name == "multinomial":
        return [np.ones(()), x[1], np.ones(()), x[3]]
    if name == "von_mises_fisher":
        step = np.minimum(1, x[1] ** -0.5)
        return [step * np.linalg.norm(x[0]), x[1], step * np.linalg.norm(x[2]), x[3]]
    if name.endswith("wishart"):
        return [x[0], np.abs(x[1]).max(), x[2], np.abs(x[3]).max()]
    if name == "matrix_normal":
        scales = [np.abs(v).max() for v in x]
        of_one = [[scales[i] * scales[i + 1], *scales[i : i + 2]] for i in (1, 4)]
        return of_one[0] + of_one[1]
    if name == "low_rank_multivariate_normal":
        scale = np.sqrt(((x[1] ** 2).sum(-1) + x[2]).max())
        return [scale, scale, x[2], scale, scale, x[5]]
    found = []
    for i, v in enumerate(x):
        kind = PARAMETERS[name][i % half]
        if kind == "probability":
            found.append(v * (1 - v))
        elif kind in ("logit", "log variance", "count"):
            found.append(np.ones(()))
        elif kind == "mean":
            found.append(np.exp(x[half - 1] / 2))
        elif kind == "loc" or (name == "multivariate_normal_diag" and i % half == 0):
            found.append(x[half - 1])
        elif kind == "angle":
            found.append(np.minimum(1, x[half - 1] ** -0.5))
        else:
            found.append(v)
    return found
