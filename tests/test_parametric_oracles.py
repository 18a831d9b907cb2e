"""The closed forms of parametric_oracles.py against integrals, sums and differences.

Densities are without their normaliser, which is integrated too.
"""

import math

import mpmath as mp
import numpy as np
import parametric_grid
import parametric_oracles as oracles
import pytest

# Nothing of the library is run here.
pytestmark = pytest.mark.slow

DIGITS = 30


def close(found, true, relative=1e-15):
    assert true != 0
    assert abs(found - true) <= relative * abs(true), (found, true)


def integrated(log_density, support, p, q):
    p, q = ([mp.mpf(x) for x in y] for y in (p, q))
    mass = lambda y: mp.quad(lambda x: mp.exp(log_density(x, *y)), support)
    mass_p, mass_q = mass(p), mass(q)

    def term(x):
        log_p = log_density(x, *p)
        return mp.exp(log_p) * (log_p - log_density(x, *q))

    return mp.quad(term, support) / mass_p + mp.log(mass_q / mass_p)


@pytest.mark.parametrize("name", oracles.CONTINUOUS)
def test_against_an_integral(name):
    support, log_density = oracles.CONTINUOUS[name]
    for parameters in oracles.POINTS[name]:
        half = len(parameters) // 2
        with mp.workdps(DIGITS):
            found = integrated(log_density, support, parameters[:half], parameters[half:])
            close(oracles.kl(name, parameters), found)


def test_against_an_integral_over_the_support_of_p():
    with mp.workdps(DIGITS):
        for m, a, n, b in ((2.0, 1.5, 1.25, 3.0), (1.0, 4.0, 1.0, 2.5)):
            log_p = lambda x, a=a, m=m: mp.log(a) + a * mp.log(m) - (a + 1) * mp.log(x)
            log_q = lambda x, b=b, n=n: mp.log(b) + b * mp.log(n) - (b + 1) * mp.log(x)
            # x = m e^t
            term = lambda t, p=log_p, q=log_q, m=m: (
                mp.exp(p(m * mp.exp(t)) + t) * m * (p(m * mp.exp(t)) - q(m * mp.exp(t)))
            )
            found = mp.quad(term, (0, 1, mp.inf))
            close(oracles.kl("pareto", (m, a, n, b)), found)
        for low, high, below, above in ((0.25, 0.75, -1.0, 1.0), (2.0, 3.0, 2.0, 3.5)):
            ratio = mp.log(mp.mpf(above - below) / mp.mpf(high - low))
            found = mp.quad(lambda _, r=ratio, w=high - low: r / w, (low, high))
            close(oracles.kl("uniform", (low, high, below, above)), found)


def marginal(a, b, c, d):
    """KL of two beta distributions by integrals; log x and log(1 - x) on halves."""

    def integral(f):
        return mp.quad(lambda x: f(mp.log(x), mp.log1p(-x)), (0, 0.5)) + mp.quad(
            lambda x: f(mp.log1p(-x), mp.log(x)), (0, 0.5)
        )

    density = lambda s, t, a, b: mp.exp((a - 1) * s + (b - 1) * t)
    mass_p = integral(lambda s, t: density(s, t, a, b))
    mass_q = integral(lambda s, t: density(s, t, c, d))
    term = lambda s, t: density(s, t, a, b) * ((a - c) * s + (b - d) * t)
    return integral(term) / mass_p + mp.log(mass_q / mass_p)


BETA = ((2.5, 1.5, 0.75, 3.0), (0.5, 4.0, 1.0, 1.25))


def test_beta_and_dirichlet_against_integrals():
    with mp.workdps(DIGITS):
        for row in BETA:
            found = marginal(*row)
            close(oracles.kl("beta", row), found)
            close(oracles.kl("dirichlet", (row[:2], row[2:])), found)
        # The first entry is beta, and so is the second's part of the remainder.
        a, b = (1.5, 0.75, 2.0), (0.5, 1.25, 3.0)
        found = marginal(a[0], a[1] + a[2], b[0], b[1] + b[2]) + marginal(
            a[1], a[2], b[1], b[2]
        )
        close(oracles.kl("dirichlet", (a, b)), found)


def summed(log_mass, p, q, terms):
    logs = [[log_mass(k, *x) for k in range(terms)] for x in (p, q)]
    mass_p, mass_q = (mp.fsum(map(mp.exp, x)) for x in logs)
    moment = mp.fsum(mp.exp(x) * (x - y) for x, y in zip(*logs, strict=True))
    return moment / mass_p + mp.log(mass_q / mass_p)


@pytest.mark.parametrize("name", oracles.DISCRETE)
def test_against_a_sum(name):
    log_mass, points, terms = oracles.DISCRETE[name]
    for p, q in points:
        with mp.workdps(DIGITS):
            found = summed(log_mass, [mp.mpf(p)], [mp.mpf(q)], terms)
            close(oracles.kl(name, (p, q)), found)


def test_binomial_against_a_sum():
    n = 12
    log_mass = lambda k, p: mp.log(math.comb(n, k) * p**k * (1 - p) ** (n - k))
    for p, q in ((0.25, 0.875), (0.5, 0.375)):
        with mp.workdps(DIGITS):
            found = summed(log_mass, [mp.mpf(p)], [mp.mpf(q)], n + 1)
            close(oracles.kl("binomial", (n, p, n, q)), found)


def test_von_mises_against_a_sum_over_the_circle():
    """Equal steps integrate a smooth periodic function to all digits."""
    log_density = lambda i, loc, k: k * mp.cos(i * mp.pi / 60 - loc)
    for p, q in (((0.5, 2.0), (-1.0, 3.5)), ((3.0, 0.25), (1.0, 8.0))):
        with mp.workdps(DIGITS):
            found = summed(log_density, p, q, 120)
            close(oracles.kl("von_mises", (*p, *q)), found)


def test_negative_binomial_against_a_sum():
    n = 3
    log_mass = lambda k, p: mp.log(mp.binomial(k + n - 1, k)) + k * mp.log(p)
    for p, q in ((0.25, 0.875), (0.5, 0.375)):
        with mp.workdps(DIGITS):
            found = summed(log_mass, [mp.mpf(p)], [mp.mpf(q)], 900)
            close(oracles.kl("negative_binomial", (n, p, n, q)), found)


def test_multinomial_against_a_sum():
    """Of all outcomes of three trials."""
    p, q = [0.25, 0.5, 0.25], [1.0, 0.5, 0.5]
    with mp.workdps(DIGITS):
        logs = [[mp.log(v / mp.fsum(x)) for v in x] for x in (p, q)]
        terms = []
        for trials in np.ndindex(3, 3, 3):
            of_p, of_q = (mp.fsum(x[i] for i in trials) for x in logs)
            terms.append(mp.exp(of_p) * (of_p - of_q))
        close(oracles.kl("multinomial", (3, p, 3, q)), mp.fsum(terms))


def test_von_mises_fisher_against_elementary_forms():
    """In 2 dimensions it is von Mises; in 3 the normaliser is k / sinh k."""
    with mp.workdps(DIGITS):
        x, y = ([mp.cos(t), mp.sin(t)] for t in (mp.mpf(1) / 2, mp.mpf(-1)))
        found = oracles.von_mises_fisher(x, mp.mpf(2), y, mp.mpf(7) / 2)
        close(oracles.kl("von_mises", (0.5, 2.0, -1.0, 3.5)), found)
        k, j, cos = mp.mpf(2), mp.mpf(7) / 2, mp.mpf(3) / 5
        norms = mp.log(k / mp.sinh(k)) - mp.log(j / mp.sinh(j))
        found = norms + (mp.coth(k) - 1 / k) * (k - j * cos)
        close(oracles.kl("von_mises_fisher", ([1, 0, 0], 2.0, [3, 0, 4], 3.5)), found)


def test_wishart_of_one_row_is_gamma():
    """Of concentration df / 2 and rate 1 / (2 scale); its inverse is the inverse gamma."""
    with mp.workdps(DIGITS):
        given = 2.5, [[1.5]], 4.0, [[0.75]]
        found = oracles.gamma(mp.mpf(1.25), mp.mpf(1) / 4.5, mp.mpf(2), mp.mpf(1) / 1.125)
        close(oracles.kl("wishart", given), found)
        found = oracles.gamma(mp.mpf(1.25), mp.mpf(1.125), mp.mpf(2), mp.mpf(0.28125))
        close(oracles.kl("inverse_wishart", given), found)


def test_wishart_of_two_rows_against_its_moments():
    """E log det X = digamma(df / 2) + digamma((df - 1) / 2) + log det(2 P), E X = df P, and
    the normaliser det(2 P)^(df / 2) Gamma_2(df / 2), of densities proportional to
    det(X)^((df - 3) / 2) e^(-trace(P^-1 X) / 2).
    """
    given = 3.5, [[1.0, 0.0], [0.5, 1.5]], 6.0, [[2.0, 0.0], [-0.5, 0.75]]
    with mp.workdps(DIGITS):
        n, m = mp.mpf(given[0]), mp.mpf(given[2])
        p, q = (mp.matrix(given[i]) * mp.matrix(given[i]).T for i in (1, 3))

        def log_norm(df, s):
            gammas = mp.loggamma(df / 2) + mp.loggamma((df - 1) / 2)
            return df / 2 * mp.log(4 * mp.det(s)) + gammas

        log_det = mp.digamma(n / 2) + mp.digamma((n - 1) / 2) + mp.log(4 * mp.det(p))
        mean = lambda df, s: (df - 3) / 2 * log_det - n * trace((s**-1) * p) / 2
        trace = lambda x: x[0, 0] + x[1, 1]
        found = mean(n, p) - mean(m, q) - log_norm(n, p) + log_norm(m, q)
        close(oracles.kl("wishart", given), found)


def test_matrix_normal_against_a_sum_over_a_grid():
    """Of one row: a multivariate normal of the columns, times the row's scale."""
    loc_p, loc_q = [[0.5, -1.0]], [[1.0, 0.25]]
    root_p, root_q = [[1.5, 0.0], [0.5, 0.75]], [[1.0, 0.0], [-0.75, 2.0]]
    with mp.workdps(DIGITS):
        p, q = 2 * mp.matrix(root_p), mp.matrix(root_q) / 2
        found = whitened(mp.matrix(loc_p[0]), p, mp.matrix(loc_q[0]), q * q.T)
        given = loc_p, [[2.0]], root_p, loc_q, [[0.5]], root_q
        close(oracles.kl("matrix_normal", given), found)


def test_normal_standard():
    for mean, log_variance in ((0.5, -1.0), (-2.0, 0.75)):
        with mp.workdps(DIGITS):
            scale = mp.exp(mp.mpf(log_variance) / 2)
            support, log_density = oracles.CONTINUOUS["normal"]
            found = integrated(log_density, support, (mean, scale), (0, 1))
            close(oracles.kl("normal_standard", (mean, log_variance)), found)


def whitened(loc_p, root_p, loc_q, cov_q):
    """Sum over a grid of z, x = loc_p + root_p z: all digits, as terms decay as e^-z^2."""
    size, step, reach = root_p.rows, mp.mpf(3) / 5, 16
    precision, det_q = cov_q**-1, mp.det(cov_q)
    det_p = mp.det(root_p) ** 2
    weights = [mp.exp(-((k * step) ** 2) / 2) for k in range(-reach, reach + 1)]
    total = mp.fsum(weights)
    terms = []
    for index in np.ndindex(*[2 * reach + 1] * size):
        z = mp.matrix([(k - reach) * step for k in index])
        x = loc_p + root_p * z - loc_q
        log_p = -(mp.log(det_p) + mp.fsum(v * v for v in z)) / 2
        log_q = -(mp.log(det_q) + (x.T * precision * x)[0]) / 2
        terms.append(mp.fprod(weights[k] / total for k in index) * (log_p - log_q))
    return mp.fsum(terms)


def test_multivariate_normals_against_a_sum_over_a_grid():
    loc_p, loc_q = [0.5, -1.0], [1.0, 0.25]
    root_p, root_q = [[1.5, 0.0], [0.5, 0.75]], [[1.0, 0.0], [-0.75, 2.0]]
    with mp.workdps(DIGITS):
        p, q = mp.matrix(root_p), mp.matrix(root_q)
        found = whitened(mp.matrix(loc_p), p, mp.matrix(loc_q), q * q.T)
        true = oracles.kl("multivariate_normal", (loc_p, root_p, loc_q, root_q))
        close(true, found)
        p, q = mp.diag([1.5, 0.75]), mp.diag([1.0, 2.0])
        found = whitened(mp.matrix(loc_p), p, mp.matrix(loc_q), q * q)
        diagonal = (loc_p, [1.5, 0.75], loc_q, [1.0, 2.0])
        close(oracles.kl("multivariate_normal_diag", diagonal), found)
        w, v = mp.matrix([[1.5], [-0.5]]), mp.matrix([[0.25], [1.0]])
        root = mp.cholesky(w * w.T + mp.diag([0.5, 2.0]))
        cov_q = v * v.T + mp.diag([1.5, 0.25])
        found = whitened(mp.matrix(loc_p), root, mp.matrix(loc_q), cov_q)
        low_rank = [[1.5], [-0.5]], [0.5, 2.0], loc_q, [[0.25], [1.0]], [1.5, 0.25]
        close(oracles.kl("low_rank_multivariate_normal", (loc_p, *low_rank)), found)


@pytest.mark.parametrize("name", oracles.GRADIENT)
def test_gradients_in_vectors_and_matrices_against_differences(name):
    rows = parametric_grid.grid(name, "float64", np.random.default_rng(1))
    seen = set()
    for kind, parameters in rows:
        shapes = tuple(x.shape for x in parameters)
        if shapes in seen or kind == "equal" or max(shapes)[0] > 3:
            continue
        seen.add(shapes)

        def value(*flat, shapes=shapes):
            remaining, arrays = iter(flat), []
            for shape in shapes:
                if not shape:
                    arrays.append(next(remaining))
                    continue
                rows, *columns = shape
                width = math.prod(columns)
                table = [[next(remaining) for _ in range(width)] for _ in range(rows)]
                arrays.append(mp.matrix(table))
            return oracles.formula(name)(*arrays)

        with mp.workdps(oracles.DIGITS):
            flat = [mp.mpf(x) for v in parameters for x in v.ravel().tolist()]
            true = oracles.differences(value, flat)
            slopes = oracles.gradient(name, parameters)
            found = [x for v in slopes for x in v or [None]]
            true = [x for x, y in zip(true, found, strict=True) if y is not None]
            found = [x for x in found if x is not None]
            largest = max(map(abs, true))
            for x, y in zip(found, true, strict=True):
                assert abs(x - y) <= 1e-30 * largest, (kind, x, y)
    assert len(seen) >= (1 if name == "von_mises_fisher" else 2)


def test_fisher_information_against_textbooks():
    for name, parameters, expected in (
        ("normal", (0.5, 2.0), ((0.25, 0), (0, 0.5))),
        ("poisson", (4.0,), ((0.25,),)),
        ("bernoulli", (0.5,), ((4,),)),
        ("laplace", (0.5, 2.0), ((0.25, 0), (0, 0.25))),
        ("cauchy", (0.5, 2.0), ((0.125, 0), (0, 0.125))),
    ):
        with mp.workdps(DIGITS):
            expected = mp.matrix([[mp.mpf(x) for x in row] for row in expected])
            found = mp.matrix(oracles.fisher(name, parameters))
            assert mp.mnorm(found - expected) <= 1e-25
    with mp.workdps(DIGITS):
        found = mp.matrix(oracles.fisher("gamma", (2.5, 0.5)))
        expected = mp.matrix([[mp.psi(1, 2.5), -2], [-2, 10]])
        assert mp.mnorm(found - expected) <= 1e-25
