"""Closed forms of the KL divergence in mpmath, as textbooks print them.

M. Gil, F. Alajaji, T. Linder, "Renyi divergence measures for commonly used univariate
continuous distributions" (2013), table 2: beta, chi2, exponential, gamma, normal, half
normal, laplace, pareto, uniform, weibull. F. Chyzak, F. Nielsen, "A closed-form formula
for the Kullback-Leibler divergence between Cauchy distributions" (2019). C. Bauckhage,
"Computing the Kullback-Leibler divergence between two Weibull distributions" (2013).
W. Penny, "KL-divergences of normal, gamma, Dirichlet and Wishart densities" (2001).
The others are E_p[T] (theta_p - theta_q) + A(theta_q) - A(theta_p) of an exponential
family, or derived in their docstring. test_parametric_oracles.py integrates densities.

Shares no code with kl_jax. Parameters are floats, or arrays of floats, taken exactly.
"""

import functools

import mpmath as mp
import numpy as np
from oracles import DIGITS

# A step of differences: the error of a central one is 1e-80 of the third derivative.
STEP = mp.mpf(10) ** -40


@functools.cache
def loggamma(x):
    return mp.loggamma(x)


@functools.cache
def digamma(x):
    return mp.digamma(x)


@functools.cache
def trigamma(x):
    return mp.psi(1, x)


@functools.cache
def bessel(order, x):
    return mp.besseli(order, x)


# --- discrete --------------------------------------------------------------------


def bernoulli(p, q):
    return p * mp.log(p / q) + (1 - p) * mp.log((1 - p) / (1 - q))


def bernoulli_logits(x, y):
    """Of probabilities 1 / (1 + e^-x), and 1 / (1 + e^x) of the other outcome."""
    p, q = ([1 / (1 + mp.exp(s * z)) for s in (-1, 1)] for z in (x, y))
    return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q, strict=True))


def binomial(count_p, p, count_q, q):
    """Of equal counts: that many Bernoulli trials."""
    assert count_p == count_q
    return count_p * bernoulli(p, q)


def negative_binomial(count_p, p, count_q, q):
    """Successes before `count` failures, of which count p / (1 - p) are expected."""
    assert count_p == count_q
    return count_p * (mp.log((1 - p) / (1 - q)) + p / (1 - p) * mp.log(p / q))


def multinomial(count, p, _, q):
    """Of masses; outcomes of independent trials."""
    total_p, total_q = mp.fsum(p), mp.fsum(q)
    pairs = [(x / total_p, y / total_q) for x, y in zip(p, q, strict=True)]
    return count * mp.fsum(x * mp.log(x / y) for x, y in pairs)


def geometric(p, q):
    """Failures before a success, of which (1 - p) / p are expected."""
    return mp.log(p / q) + (1 - p) / p * mp.log((1 - p) / (1 - q))


def poisson(p, q):
    return p * mp.log(p / q) - p + q


# --- of location and scale ---------------------------------------------------------


def normal(loc_p, scale_p, loc_q, scale_q):
    square = (scale_p**2 + (loc_p - loc_q) ** 2) / scale_q**2
    return mp.log(scale_q / scale_p) + square / 2 - mp.mpf(1) / 2


def normal_standard(mean, log_variance):
    return (mean**2 + mp.exp(log_variance) - 1 - log_variance) / 2


def normal_log_variance(mean_p, log_variance_p, mean_q, log_variance_q):
    roots = (mp.exp(v / 2) for v in (log_variance_p, log_variance_q))
    return normal(mean_p, next(roots), mean_q, next(roots))


def truncated_normal(m_p, s_p, low, high, m_q, s_q, low_q, high_q):
    """By the mean and variance of p, and the masses of both normal distributions on the
    interval: Johnson, Kotz and Balakrishnan, "Continuous univariate distributions" (1994),
    volume 1, section 10.1 of chapter 13.
    """
    assert (low, high) == (low_q, high_q)

    def mass(m, s):
        u, v = (low - m) / s / mp.sqrt(2), (high - m) / s / mp.sqrt(2)
        if v < 0:
            u, v = -v, -u
        return (mp.erfc(u) - mp.erfc(v) if u > 0 else mp.erf(v) - mp.erf(u)) / 2

    def density(x):
        return mp.npdf(x, m_p, s_p) if mp.isfinite(x) else mp.mpf(0)

    def moment(x):
        return (x - m_p) * density(x) if mp.isfinite(x) else mp.mpf(0)

    # Near equality the terms agree in 24 digits, and so do the masses of a short interval.
    inside = mass(m_p, s_p)
    mean = m_p + s_p**2 * (density(low) - density(high)) / inside
    second = s_p**2 * (1 + (moment(low) - moment(high)) / inside)  # of x - m_p
    from_q = second + 2 * (m_p - m_q) * (mean - m_p) + (m_p - m_q) ** 2
    terms = from_q / s_q**2 - second / s_p**2
    return terms / 2 + mp.log(s_q * mass(m_q, s_q) / (s_p * inside))


def half_normal(scale_p, scale_q):
    return normal(0, scale_p, 0, scale_q)


def laplace(loc_p, scale_p, loc_q, scale_q):
    d = abs(loc_p - loc_q)
    decay = scale_p / scale_q * mp.exp(-d / scale_p)
    return mp.log(scale_q / scale_p) + d / scale_q + decay - 1


def cauchy(loc_p, scale_p, loc_q, scale_q):
    square = (scale_p + scale_q) ** 2 + (loc_p - loc_q) ** 2
    return mp.log(square / (4 * scale_p * scale_q))


def gumbel(loc_p, scale_p, loc_q, scale_q):
    """The log of a density is -log scale - z - e^-z, z = (x - loc) / scale; under p, E z is
    Euler's constant, and E e^(-t z) = Gamma(1 + t).
    """
    ratio, shift = scale_p / scale_q, (loc_p - loc_q) / scale_q
    moment = mp.exp(loggamma(1 + ratio) - shift)
    return -mp.log(ratio) + shift + (ratio - 1) * mp.euler + moment - 1


def uniform(low_p, high_p, low_q, high_q):
    return mp.log((high_q - low_q) / (high_p - low_p))


# --- positive ----------------------------------------------------------------------


def exponential(rate_p, rate_q):
    return mp.log(rate_p / rate_q) + rate_q / rate_p - 1


def gamma(a, rate_p, b, rate_q):
    return (
        (a - b) * digamma(a)
        - loggamma(a)
        + loggamma(b)
        + b * mp.log(rate_p / rate_q)
        + a * (rate_q - rate_p) / rate_p
    )


def chi2(df_p, df_q):
    half = mp.mpf(1) / 2
    return gamma(df_p / 2, half, df_q / 2, half)


def weibull(scale_p, k, scale_q, m):
    moment = mp.exp(m * mp.log(scale_p / scale_q) + loggamma(1 + m / k))
    logs = mp.log(k) - k * mp.log(scale_p) - mp.log(m) + m * mp.log(scale_q)
    return logs + (k - m) * (mp.log(scale_p) - mp.euler / k) + moment - 1


def pareto(scale_p, a, scale_q, b):
    return b * mp.log(scale_p / scale_q) + mp.log(a / b) + b / a - 1


# --- on an interval, a circle, a simplex --------------------------------------------


def beta(a, b, c, d):
    """Concentrations a = concentration1_p and b, of p; c and d, of q."""
    return (
        log_beta(c, d)
        - log_beta(a, b)
        + (a - c) * digamma(a)
        + (b - d) * digamma(b)
        + (c - a + d - b) * digamma(a + b)
    )


def log_beta(a, b):
    return loggamma(a) + loggamma(b) - loggamma(a + b)


def dirichlet(a, b):
    total_a, total_b = mp.fsum(a), mp.fsum(b)
    norm = loggamma(total_a) - loggamma(total_b)
    terms = (
        loggamma(y) - loggamma(x) + (x - y) * (digamma(x) - digamma(total_a))
        for x, y in zip(a, b, strict=True)
    )
    return norm + mp.fsum(terms)


def continuous_bernoulli_logits(x, y):
    """Exponential family e^(x t) on [0, 1], of log-partition log((e^x - 1) / x)."""
    if x == 0:
        log_partition, mean = mp.mpf(0), mp.mpf(1) / 2
    else:
        log_partition, mean = mp.log(mp.expm1(x) / x), 1 / -mp.expm1(-x) - 1 / x
    other = mp.log(mp.expm1(y) / y) if y else mp.mpf(0)
    return mean * (x - y) + other - log_partition


def continuous_bernoulli(p, q):
    return continuous_bernoulli_logits(mp.log(p / (1 - p)), mp.log(q / (1 - q)))


def von_mises(loc_p, k, loc_q, m):
    mean = bessel(1, k) / bessel(0, k)
    return mp.log(bessel(0, m) / bessel(0, k)) + mean * (k - m * mp.cos(loc_p - loc_q))


def von_mises_fisher(x, k, y, j):
    """Mean directions x and y, of any length, and concentrations."""
    v = mp.mpf(len(x)) / 2 - 1
    cos = mp.fdot(x, y) / mp.sqrt(mp.fdot(x, x) * mp.fdot(y, y))
    norms = mp.log(bessel(v, j) / bessel(v, k)) - v * mp.log(j / k)
    return norms + bessel(v + 1, k) / bessel(v, k) * (k - j * cos)


# --- multivariate normal -------------------------------------------------------------


def gaussian(loc_p, cov_p, loc_q, cov_q):
    """Of two covariance matrices."""
    precision, d = cov_q**-1, loc_p - loc_q
    trace = mp.fsum((precision * cov_p)[i, i] for i in range(cov_p.rows))
    square = (d.T * precision * d)[0]
    return (trace + square - cov_p.rows + mp.log(mp.det(cov_q) / mp.det(cov_p))) / 2


def of_gaussian(loc_p, cov_p, loc_q, cov_q):
    """The gradient of `gaussian`, by matrix calculus."""
    precision_p, precision_q, d = cov_p**-1, cov_q**-1, loc_p - loc_q
    in_loc = precision_q * d
    in_cov_p = (precision_q - precision_p) / 2
    in_cov_q = (precision_q - precision_q * (cov_p + d * d.T) * precision_q) / 2
    return in_loc, in_cov_p, -in_loc, in_cov_q


def lower(factor):
    return mp.matrix(
        [
            [factor[i, j] if j <= i else mp.mpf(0) for j in range(factor.cols)]
            for i in range(factor.rows)
        ]
    )


def multivariate_normal(loc_p, tril_p, loc_q, tril_q):
    """Of the lower triangles alone."""
    tril_p, tril_q = lower(tril_p), lower(tril_q)
    return gaussian(loc_p, tril_p * tril_p.T, loc_q, tril_q * tril_q.T)


def multivariate_normal_diag(loc_p, scale_p, loc_q, scale_q):
    return mp.fsum(map(normal, loc_p, scale_p, loc_q, scale_q))


def low_rank_multivariate_normal(loc_p, factor_p, diag_p, loc_q, factor_q, diag_q):
    cov_p = factor_p * factor_p.T + mp.diag(list(diag_p))
    cov_q = factor_q * factor_q.T + mp.diag(list(diag_q))
    return gaussian(loc_p, cov_p, loc_q, cov_q)


# --- matrices -------------------------------------------------------------------------


def of_wisharts(df_p, scale_p, df_q, scale_q):
    """Of two scale matrices."""
    d, ratio = scale_p.rows, scale_q**-1 * scale_p
    trace = mp.fsum(ratio[i, i] for i in range(d))
    scales = df_p * (trace - d) - df_q * mp.log(mp.det(ratio))
    gammas = [
        loggamma((df_q - i) / 2)
        - loggamma((df_p - i) / 2)
        + (df_p - df_q) / 2 * digamma((df_p - i) / 2)
        for i in range(d)
    ]
    return scales / 2 + mp.fsum(gammas)


def wishart(df_p, tril_p, df_q, tril_q):
    p, q = lower(tril_p), lower(tril_q)
    return of_wisharts(df_p, p * p.T, df_q, q * q.T)


def inverse_wishart(df_p, tril_p, df_q, tril_q):
    """That of the inverses, whose scales are the inverses."""
    p, q = lower(tril_p), lower(tril_q)
    return of_wisharts(df_p, (p * p.T) ** -1, df_q, (q * q.T) ** -1)


def matrix_normal(loc_p, row_p, column_p, loc_q, row_q, column_q):
    """Of the rows one after the other, with the Kronecker product of the covariances."""
    rows = lambda m: mp.matrix(list(m))
    factors = [[lower(x) for x in pair] for pair in ((row_p, column_p), (row_q, column_q))]
    cov_p, cov_q = (kronecker(a * a.T, b * b.T) for a, b in factors)
    return gaussian(rows(loc_p), cov_p, rows(loc_q), cov_q)


def kronecker(a, b):
    n, m = a.rows, b.rows
    found = mp.matrix(n * m, n * m)
    for i, j, k, h in np.ndindex(n, n, m, m):
        found[i * m + k, j * m + h] = a[i, j] * b[k, h]
    return found


# --- derivatives ---------------------------------------------------------------------


def of_multivariate_normal(loc_p, tril_p, loc_q, tril_q):
    tril_p, tril_q = lower(tril_p), lower(tril_q)
    in_loc, in_cov_p, in_loc_q, in_cov_q = of_gaussian(
        loc_p, tril_p * tril_p.T, loc_q, tril_q * tril_q.T
    )
    return in_loc, lower(2 * in_cov_p * tril_p), in_loc_q, lower(2 * in_cov_q * tril_q)


def of_low_rank_multivariate_normal(loc_p, factor_p, diag_p, loc_q, factor_q, diag_q):
    in_loc, in_cov_p, in_loc_q, in_cov_q = of_gaussian(
        loc_p,
        factor_p * factor_p.T + mp.diag(list(diag_p)),
        loc_q,
        factor_q * factor_q.T + mp.diag(list(diag_q)),
    )
    diagonal = lambda m: [m[i, i] for i in range(m.rows)]
    return (
        *(in_loc, 2 * in_cov_p * factor_p, diagonal(in_cov_p)),
        *(in_loc_q, 2 * in_cov_q * factor_q, diagonal(in_cov_q)),
    )


def of_multivariate_normal_diag(loc_p, scale_p, loc_q, scale_q):
    rows = zip(loc_p, scale_p, loc_q, scale_q, strict=True)
    return tuple(zip(*(differences(normal, row) for row in rows), strict=True))


def of_dirichlet(a, b):
    total_a, total_b = mp.fsum(a), mp.fsum(b)
    shared = (total_a - total_b) * trigamma(total_a)
    in_a = [(x - y) * trigamma(x) - shared for x, y in zip(a, b, strict=True)]
    shared = digamma(total_a) - digamma(total_b)
    in_b = [digamma(y) - digamma(x) + shared for x, y in zip(a, b, strict=True)]
    return in_a, in_b


def of_multinomial(count, p, _, q):
    total_p, total_q = mp.fsum(p), mp.fsum(q)
    logs = [mp.log(x / total_p * total_q / y) for x, y in zip(p, q, strict=True)]
    mean = mp.fsum(x / total_p * v for x, v in zip(p, logs, strict=True))
    in_p = [count * (v - mean) / total_p for v in logs]
    in_q = [count * (1 / total_q - x / total_p / y) for x, y in zip(p, q, strict=True)]
    return None, in_p, None, in_q


def of_von_mises_fisher(x, k, y, j):
    d = len(x)
    v = mp.mpf(d) / 2 - 1
    size_x, size_y = mp.sqrt(mp.fdot(x, x)), mp.sqrt(mp.fdot(y, y))
    cos = mp.fdot(x, y) / size_x / size_y
    ratio_k, ratio_j = (bessel(v + 1, z) / bessel(v, z) for z in (k, j))
    curvature = 1 - ratio_k**2 - (d - 1) * ratio_k / k
    in_x = -j * ratio_k * (y / size_y - cos * x / size_x) / size_x
    in_y = -j * ratio_k * (x / size_x - cos * y / size_y) / size_y
    return in_x, [curvature * (k - j * cos)], in_y, [ratio_j - cos * ratio_k]


def of_scales(df_p, scale_p, df_q, scale_q):
    """The gradient of `of_wisharts`, by matrix calculus."""
    d = scale_p.rows
    in_p = (df_p * scale_q**-1 - df_q * scale_p**-1) / 2
    in_q = (df_q * scale_q**-1 - df_p * scale_q**-1 * scale_p * scale_q**-1) / 2
    ratio = scale_q**-1 * scale_p
    trace = mp.fsum(ratio[i, i] for i in range(d)) - d
    a, b = ([(df - i) / 2 for i in range(d)] for df in (df_p, df_q))
    in_df_p = trace / 2 + (df_p - df_q) / 4 * mp.fsum(map(trigamma, a))
    digammas = mp.fsum(digamma(y) - digamma(x) for x, y in zip(a, b, strict=True))
    return [in_df_p], in_p, [(digammas - mp.log(mp.det(ratio))) / 2], in_q


def of_wishart(df_p, tril_p, df_q, tril_q):
    p, q = lower(tril_p), lower(tril_q)
    in_df_p, in_p, in_df_q, in_q = of_scales(df_p, p * p.T, df_q, q * q.T)
    return in_df_p, lower(2 * in_p * p), in_df_q, lower(2 * in_q * q)


def of_inverse_wishart(df_p, tril_p, df_q, tril_q):
    p, q = ((x * x.T) ** -1 for x in (lower(tril_p), lower(tril_q)))
    in_df_p, in_p, in_df_q, in_q = of_scales(df_p, p, df_q, q)
    # The inverse of a scale changes by minus itself times the change times itself.
    in_p, in_q = -2 * p * in_p * p * lower(tril_p), -2 * q * in_q * q * lower(tril_q)
    return in_df_p, lower(in_p), in_df_q, lower(in_q)


def of_matrix_normal(*point):
    """By matrix calculus, of the Kronecker products."""
    loc_p, row_p, column_p, loc_q, row_q, column_q = point
    n, m = loc_p.rows, loc_p.cols
    sides = [[lower(x) for x in pair] for pair in ((row_p, column_p), (row_q, column_q))]
    flat = [
        mp.matrix([x[i, j] for i in range(n) for j in range(m)]) for x in (loc_p, loc_q)
    ]
    scales = [[a * a.T, b * b.T] for a, b in sides]
    covs = [kronecker(*pair) for pair in scales]
    in_loc, in_cov_p, _, in_cov_q = of_gaussian(flat[0], covs[0], flat[1], covs[1])
    found = []
    for in_cov, (a, b), (u, v) in zip((in_cov_p, in_cov_q), sides, scales, strict=True):
        in_row, in_column = mp.matrix(n, n), mp.matrix(m, m)
        for i, j, k, h in np.ndindex(n, n, m, m):
            slope = in_cov[i * m + k, j * m + h]
            in_row[i, j] += slope * v[k, h]
            in_column[k, h] += slope * u[i, j]
        found.append([lower(2 * in_row * a), lower(2 * in_column * b)])
    return in_loc, *found[0], -in_loc, *found[1]


GRADIENT = {
    "multinomial": of_multinomial,
    "von_mises_fisher": of_von_mises_fisher,
    "wishart": of_wishart,
    "inverse_wishart": of_inverse_wishart,
    "matrix_normal": of_matrix_normal,
    "multivariate_normal": of_multivariate_normal,
    "multivariate_normal_diag": of_multivariate_normal_diag,
    "low_rank_multivariate_normal": of_low_rank_multivariate_normal,
    "dirichlet": of_dirichlet,
}


def differences(function, point):
    """Central ones, in every coordinate of a list of mpmath numbers."""
    slopes = []
    for i in range(len(point)):
        up, down = ([*point[:i], point[i] + s, *point[i + 1 :]] for s in (STEP, -STEP))
        slopes.append((function(*up) - function(*down)) / (2 * STEP))
    return slopes


# --- by name --------------------------------------------------------------------------


# Under another name the same function.
SAME = {"log_normal": normal, "logit_normal": normal, "inverse_gamma": gamma}


def formula(name):
    return SAME.get(name) or globals()[name]


def exact(parameter):
    """A number, a vector (n by 1) or a matrix, of mpmath."""
    array = np.asarray(parameter, np.float64)
    return mp.matrix(array.tolist()) if array.ndim else mp.mpf(float(array))


def kl(name, parameters):
    with mp.workdps(DIGITS):
        return formula(name)(*map(exact, parameters))


def gradient(name, parameters):
    """A flat list for every parameter, None for a count. At an end of a support the
    derivative of the formula, which is the one from inside.
    """
    with mp.workdps(DIGITS):
        point = [exact(x) for x in parameters]
        if name in GRADIENT:
            slopes = GRADIENT[name](*point)
            return [None if x is None else list(x) for x in slopes]
        if name == "truncated_normal":
            m_p, s_p, *ends, m_q, s_q, _, _ = point
            value = lambda *x: truncated_normal(*x[:2], *ends, *x[2:], *ends)
            slopes = [[slope] for slope in differences(value, [m_p, s_p, m_q, s_q])]
            return [*slopes[:2], None, None, *slopes[2:], None, None]
        if name in ("binomial", "negative_binomial"):
            count, p, _, q = point
            value = lambda p, q: formula(name)(count, p, count, q)
            in_p, in_q = differences(value, [p, q])
            return [None, [in_p], None, [in_q]]
        return [[slope] for slope in differences(formula(name), point)]


def fisher(name, parameters):
    """The second derivatives in the parameters of q, at q = p = `parameters`: a matrix."""
    with mp.workdps(DIGITS):
        p = [exact(x) for x in parameters]
        function = lambda *q: formula(name)(*p, *q)
        rows = []
        for i in range(len(p)):
            up, down = ([*p[:i], p[i] + s, *p[i + 1 :]] for s in (STEP, -STEP))
            pairs = zip(differences(function, up), differences(function, down), strict=True)
            rows.append([(x - y) / (2 * STEP) for x, y in pairs])
        return rows


def gradient_error(name, parameters, found, units):
    """The largest error of a derivative times its unit, and the largest derivative so.

    `found` has no entries for counts, `units` has.
    """
    true = gradient(name, parameters)
    units = [u for u, x in zip(units, true, strict=True) if x is not None]
    true = [x for x in true if x is not None]
    errors, sizes = [], []
    with mp.workdps(DIGITS):
        for slopes, exact_ones, unit in zip(found, true, units, strict=True):
            each = np.broadcast_to(unit, np.shape(slopes)).tolist()
            for x, y, u in zip(slopes, exact_ones, each, strict=True):
                errors.append(abs(mp.mpf(x) - y) * u)
                sizes.append(abs(y) * u)
        return float(max(errors)), float(max(sizes))


# --- what the oracles are tested against ----------------------------------------------

# name: (support, log of the density but for a constant)
CONTINUOUS = {
    "normal": ((-mp.inf, 0, mp.inf), lambda x, m, s: -(((x - m) / s) ** 2) / 2),
    "normal_log_variance": (
        (-mp.inf, 0, mp.inf),
        lambda x, m, v: -((x - m) ** 2) * mp.exp(-v) / 2,
    ),
    "log_normal": (
        (0, 1, mp.inf),
        lambda x, m, s: -(((mp.log(x) - m) / s) ** 2) / 2 - mp.log(x),
    ),
    "logit_normal": (
        (0, 0.5, 1),
        lambda x, m, s: (
            -(((mp.log(x) - mp.log1p(-x) - m) / s) ** 2) / 2 - mp.log(x) - mp.log1p(-x)
        ),
    ),
    "half_normal": ((0, mp.inf), lambda x, s: -((x / s) ** 2) / 2),
    "truncated_normal": (
        (0.5, 0.7, 1, 1.8, 2),
        lambda x, m, s, low, high: (1 - x) * (1 + x - 2 * m) / (2 * s * s),
    ),
    "laplace": ((-mp.inf, 0, 0.25, 1, mp.inf), lambda x, m, s: -abs(x - m) / s),
    "cauchy": ((-mp.inf, 0, mp.inf), lambda x, m, s: -mp.log(1 + ((x - m) / s) ** 2)),
    "gumbel": (
        (-8, -3, 0, 3, 20, 120),  # e^-e^-x has 5000 digits below
        lambda x, m, s: -(x - m) / s - mp.exp(-(x - m) / s),
    ),
    "exponential": ((0, mp.inf), lambda x, r: -r * x),
    "gamma": ((0, 1, mp.inf), lambda x, a, r: (a - 1) * mp.log(x) - r * x),
    "inverse_gamma": ((0, 1, mp.inf), lambda x, a, r: -(a + 1) * mp.log(x) - r / x),
    "chi2": ((0, 1, mp.inf), lambda x, k: (k / 2 - 1) * mp.log(x) - x / 2),
    "weibull": ((0, 1, mp.inf), lambda x, s, k: (k - 1) * mp.log(x) - (x / s) ** k),
    "continuous_bernoulli": (
        (0, 1),
        lambda x, p: x * mp.log(p) + (1 - x) * mp.log(1 - p),
    ),
    "continuous_bernoulli_logits": ((0, 1), lambda x, t: x * t),
}

POINTS = {
    "normal": ((0.25, 1.5, -0.5, 0.75), (1.0, 0.5, 1.125, 0.5)),
    "normal_log_variance": ((0.25, 1.5, -0.5, 0.75), (1.0, 0.5, 1.125, -0.5)),
    "log_normal": ((0.25, 1.5, -0.5, 0.75), (1.0, 0.5, 1.125, 0.5)),
    "logit_normal": ((0.25, 1.5, -0.5, 0.75), (1.0, 0.5, 1.125, 0.5)),
    "half_normal": ((1.5, 0.75), (0.5, 2.0)),
    "truncated_normal": (
        (0.25, 1.5, 0.5, 2.0, -0.5, 0.75, 0.5, 2.0),
        (-20.0, 1.0, 0.5, 2.0, 1.0, 3.0, 0.5, 2.0),
        (4.0, 0.25, 0.5, 2.0, 4.25, 0.25, 0.5, 2.0),
    ),
    "laplace": ((0.25, 1.5, 1.0, 0.75), (1.0, 0.5, 0.0, 2.0)),
    "cauchy": ((0.25, 1.5, -0.5, 0.75), (1.0, 0.5, 3.0, 2.0)),
    "gumbel": ((0.25, 1.5, -0.5, 0.75), (1.0, 0.5, 0.0, 1.25)),
    "exponential": ((1.5, 0.75), (0.5, 2.0)),
    "gamma": ((2.5, 1.5, 0.75, 0.5), (1.25, 3.0, 4.0, 2.0)),
    "inverse_gamma": ((2.5, 1.5, 1.75, 0.5), (1.25, 3.0, 4.0, 2.0)),
    "chi2": ((3.0, 5.5), (7.0, 1.5)),
    "weibull": ((2.0, 1.5, 1.0, 0.75), (0.5, 2.0, 1.5, 2.5)),
    "continuous_bernoulli": ((0.25, 0.875), (0.5, 0.125), (0.75, 0.5)),
    "continuous_bernoulli_logits": ((2.0, -3.0), (0.0, 1.5), (-0.5, 0.0)),
}


# The logarithm of a mass function but for a constant, and how many terms count.
DISCRETE = {
    "bernoulli": (lambda k, p: mp.log(p if k else 1 - p), ((0.25, 0.875), (0.5, 0.125)), 2),
    "bernoulli_logits": (lambda k, t: k * t, ((2.0, -3.0), (0.0, 1.5)), 2),
    "geometric": (lambda k, p: k * mp.log(1 - p), ((0.25, 0.875), (0.5, 0.125)), 700),
    "poisson": (
        lambda k, r: k * mp.log(r) - mp.loggamma(k + 1),
        ((2.5, 1.5), (0.75, 10.0)),
        150,
    ),
}
