"""Closed forms between two families against mpmath: values, derivatives, boundaries."""

import functools
import math
import re

import cross_grid
import cross_oracles
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from compilations import compilations
from programs import of_rows, quick

from kl_jax import checked, parametric
from kl_jax.parametric import cross

INF, NAN = np.inf, np.nan
PAIRS, FAMILIES = cross_grid.PAIRS, cross_grid.FAMILIES

# The largest relative error of a value, and of a derivative relative to the largest one or
# to KL where that is more: where q is the nearest all derivatives are rounding.
BOUND = {name: {"float32": 1e-6, "float64": 1e-14} for name in PAIRS}
GRADIENT_BOUND = {name: {"float32": 3e-6, "float64": 3e-14} for name in PAIRS}
for name, (_, q) in PAIRS.items():
    if q == "gumbel":  # e^w amplifies the error of w by w, and a gamma p is near at 4.6
        BOUND[name] = {"float32": 1e-5, "float64": 3e-14}
        GRADIENT_BOUND[name] = {"float32": 2e-5, "float64": 5e-14}
# Terms of 1 that leave 1 / 30 at logits of 1.5 to 2.5.
BOUND["beta_continuous_bernoulli"] = {"float32": 3e-6, "float64": 1e-14}
BOUND["uniform_beta"] = {"float32": 2e-6, "float64": 1e-14}
GRADIENT_BOUND["beta_normal"] = {"float32": 1e-5, "float64": 5e-14}

# Those that are another function of a concentration of 1, or with a logarithm added.
OF_OTHERS = [name for name, pair in PAIRS.items() if "exponential" in pair]
OF_OTHERS.remove("continuous_bernoulli_exponential")
OF_OTHERS.append("beta_uniform")
# Gradients of which float64 alone looks at, as they take 2 to 5 s to compile.
IN_FLOAT64_ALONE = ("beta_continuous_bernoulli", "beta_gamma", "beta_normal")
IN_FLOAT64_ALONE += ("uniform_beta",)

ROWS = 64  # of one call: all tests of a pair share one program


def quickest(names):
    """Those of others are slow."""
    slow = pytest.mark.slow
    return [pytest.param(x, marks=[slow] if x in OF_OTHERS else []) for x in names]


@functools.cache
def program(name, dtype):
    """Values and gradients, row by row; the latter are None where float32 has none."""
    function = getattr(cross, name)
    if dtype == "float32" and name in IN_FLOAT64_ALONE:
        return quick(lambda *x: (function(*x), None))
    return quick(of_rows(function))


def evaluate(name, rows, dtype):
    """[value, derivatives in each parameter, or None] of each row of parameters."""
    assert len(rows) <= ROWS
    padded = [*rows, *[rows[-1]] * (ROWS - len(rows))]
    columns = [np.asarray(x, dtype) for x in zip(*padded, strict=True)]
    values, slopes = program(name, dtype)(*columns)
    assert values.dtype == dtype
    of_rows = zip(*slopes, strict=True) if slopes else [None] * ROWS
    found = zip(values.tolist(), of_rows, strict=True)
    return [(x, g and [float(y) for y in g]) for x, g in list(found)[: len(rows)]]


def rounded(row, dtype):
    return tuple(np.asarray(x, dtype).item() for x in row)


@functools.cache
def grid(name, dtype):
    """Rows of parameters, as floats of that dtype."""
    rng = np.random.default_rng(list(PAIRS).index(name))
    rows = [
        cross_grid.nearest(name, by, rng, sizes)
        for sizes in cross_grid.RANGES
        for by in (*cross_grid.APART, 0)
    ]
    rows += [cross_grid.everyday(name, rng) for _ in range(12)]
    rows += [cross_grid.extreme(name, rng) for _ in range(8)]
    rows += EXTRA.get(name, ())
    rows = [rounded(row, dtype) for row in rows]
    return [row for row in rows if oracle(name, row) < 1e30]


# Where both are one distribution or nearly, and others that are hard.
EXTRA = {
    "bernoulli_poisson": [(p, p) for p in (1e-7, 1e-4, 0.1, 0.5, 1.0)],
    "exponential_gamma": [
        *((1.0, 1.0 + by, 1.0) for by in (1e-6, 1e-4, -1e-2)),
        *((0.3, 1.0, 0.3 * by) for by in (1 + 1e-6, 1.01)),
    ],
    "gamma_exponential": [
        *((1.0 + by, 1.0, 1.0) for by in (1e-6, 1e-4, -1e-2)),
        *((1.0, 0.3, 0.3 * by) for by in (1 + 1e-6, 1.01)),
    ],
    "uniform_beta": [
        *((0.0, 1.0, 1.0 + by, 1.0 - 2 * by) for by in (1e-6, 1e-4, 1e-2)),
        *((by, 1.0, 1.0 + by, 1.0) for by in (1e-6, 1e-4, 1e-2)),
        (0.0, 1.0 - 1e-5, 1.0, 1.001),
    ],
    "uniform_continuous_bernoulli": [
        *((0.0, 1.0, 0.5 + by) for by in (1e-6, 1e-4, 1e-2)),
        *((by, 1.0, 0.5 + by) for by in (1e-6, 1e-4, 1e-2)),
    ],
    "continuous_bernoulli_uniform": [(0.5 + x, 0.0, 1.0) for x in (1e-6, -1e-4, 1e-2)],
    "continuous_bernoulli_exponential": [
        (p, math.log((1 - p) / p) * (1 + by))
        for p in (1e-7, 1e-5, 1e-3, 0.1, 0.25)
        for by in (0, 1e-3)
    ],
    "beta_uniform": [(1.0 + 1e-6, 1.0, 0.0, 1.0), (1.0, 1.0 - 1e-4, 0.0, 1.0 + 1e-6)],
    "beta_gamma": [(2.0, b, 2.0, b + 2.0) for b in (10.0, 1e3, 1e6)],
    "beta_exponential": [(1.0, b, b + 1.0) for b in (10.0, 1e3, 1e6)],
    "beta_normal": [(a, a, 0.5, math.sqrt(1 / (8 * a + 4))) for a in (3.0, 4.0, 1e3, 1e6)],
    "gamma_normal": [(a, 1.0, a, math.sqrt(a)) for a in (3.0, 4.0, 1e3, 1e6)],
    "beta_continuous_bernoulli": [
        *((1.0 + by, 1.0, 0.5 + by) for by in (1e-6, 1e-4, 1e-2)),
        *((1.0, b, 1 / (1 + math.exp(b))) for b in (1.5, 2.5, 3.5, 6.0, 12.0)),
    ],
}


@functools.cache
def oracle(name, row):
    return cross_oracles.kl(*PAIRS[name], row, cross_grid.of_p(name))


@pytest.mark.parametrize("name", quickest(PAIRS))
def test_grid(name, dtype):
    """Values and gradients. The worst of each is shown."""
    rows = grid(name, dtype)
    wrong, worst, steepest = [], (0.0, ""), (0.0, "")
    tiny = float(np.finfo(dtype).smallest_normal)
    for row, (value, slopes) in zip(rows, evaluate(name, rows, dtype), strict=True):
        true = oracle(name, row)
        if true < tiny:
            assert 0 <= value <= tiny, row
            continue
        if not (value >= 0 and np.isfinite(slopes or 0).all()):
            wrong.append(f"{value}, {slopes}: {row}")
            continue
        error = float(abs(value - true) / true)
        worst = max(worst, (error, f"{value}: {row}"))
        if slopes is None:
            continue
        unit = cross_grid.units(name, row)
        true_slopes = cross_oracles.gradient(*PAIRS[name], row, cross_grid.of_p(name), unit)
        found = [g * u for g, u in zip(slopes, unit, strict=True) if u is not None]
        size = max(*map(abs, true_slopes), float(true))
        error = max(abs(x - y) for x, y in zip(found, true_slopes, strict=True)) / size
        steepest = max(steepest, (error, f"{found} for {true_slopes}: {row}"))
    summary = [
        f"value off by {worst[0]:.2g}: {worst[1]}",
        f"gradient off by {steepest[0]:.2g}: {steepest[1]}",
        f"{len(wrong)} negative or not finite",
        *wrong[:5],
    ]
    assert not wrong, "\n".join(summary)
    assert worst[0] <= BOUND[name][dtype], "\n".join(summary)
    assert steepest[0] <= GRADIENT_BOUND[name][dtype], "\n".join(summary)


# One for each of the functions that these are made of.
MADE_OF = ("gamma_normal", "normal_laplace", "gamma_gumbel", "uniform_gumbel")
MADE_OF += (
    "uniform_gamma",
    "pareto_gamma",
    "continuous_bernoulli_normal",
    "uniform_pareto",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE_OF)
def test_second_derivatives_and_forward_mode(name):
    """Of q near p in mean and size: where they meet, terms of both are large."""
    function, rng = getattr(cross, name), np.random.default_rng(11)
    rows = [rounded(cross_grid.everyday(name, rng), "float32") for _ in range(6)]
    columns = [np.asarray(x, "f4") for x in zip(*rows, strict=True)]
    tangents = [np.asarray(rng.normal(size=len(x)) * x, "f4") for x in columns]
    every = range(len(columns))

    @quick
    @jax.vmap
    def derivatives(x, t):
        return (
            jax.grad(function, every)(*x),
            jax.jvp(function, x, t)[1],
            jax.hessian(function, every)(*x),
        )

    slopes, along, curves = derivatives(tuple(columns), tuple(tangents))
    # Two orders of one derivative.
    products = np.multiply(slopes, tangents)
    error = np.abs(along - products.sum(0))
    assert (error <= 1e-5 * np.abs(products).sum(0)).all()
    family = *PAIRS[name], rows, cross_grid.of_p(name)
    for k, row in enumerate(rows):
        unit = [u or 0 for u in cross_grid.units(name, row)]
        true = second_differences(*family[:2], row, family[3], unit)
        found = [[float(curves[i][j][k]) * unit[i] * unit[j] for j in every] for i in every]
        error = np.abs(np.subtract(found, true)).max() / np.abs(true).max()
        assert error <= 1e-4, (row, error, found, true)


def second_differences(p, q, row, of_p, units):
    """In each two parameters, times their units, of mpmath."""
    step = mp.mpf(10) ** -15
    with mp.workdps(cross_oracles.DIGITS):
        function = cross_oracles.formula(p, q, of_p)

        def at(*steps):
            point = [
                mp.mpf(x) + s * step * u for x, s, u in zip(row, steps, units, strict=True)
            ]
            return function(*point)

        n = len(row)
        unit = np.eye(n, dtype=int).tolist()
        plus = lambda a, b, s, t: at(*(s * x + t * y for x, y in zip(a, b, strict=True)))
        signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
        return [
            [
                float(
                    mp.fsum(s * t * plus(unit[i], unit[j], s, t) for s, t in signs)
                    / (4 * step**2)
                )
                for j in range(n)
            ]
            for i in range(n)
        ]


# --- the oracles -------------------------------------------------------------------

SUPPORT = {"normal": (-INF, INF), "gumbel": (-9, 90), "laplace": (-INF, INF)}
POINTS = {
    "beta": (2.5, 1.5),
    "continuous_bernoulli": (0.25,),
    "exponential": (1.5,),
    "gamma": (2.5, 1.5),
    "gumbel": (0.25, 1.5),
    "laplace": (0.25, 1.5),
    "normal": (0.25, 1.5),
    "pareto": (0.5, 4.5),
    "uniform": (0.25, 0.75),
}


def support(family, row):
    if family in ("beta", "continuous_bernoulli"):
        return 0, 1
    if family in ("exponential", "gamma"):
        return 0, INF
    if family == "pareto":
        return row[0], INF
    return row if family == "uniform" else SUPPORT[family]


def mass(log_density, ends, breaks, row):
    return mp.quad(lambda x: mp.exp(log_density(x, *row)), cut(ends, breaks))


def cut(ends, breaks):
    inside = sorted(x for x in breaks if ends[0] < x < ends[1])
    return [ends[0], *inside, ends[1]]


@pytest.mark.parametrize("name", [x for x in PAIRS if x != "bernoulli_poisson"])
def test_oracles_against_integrals(name):
    """Of densities that are normalised by integrals, too."""
    p, q = PAIRS[name]
    row_q = (-0.5, 1.5) if q == "uniform" else POINTS[q]
    row_q = (0.125, 1.5) if name == "uniform_pareto" else row_q
    breaks = {0, 0.25, 0.5, 1, 4}
    log_p, log_q = cross_oracles.DENSITIES[p], cross_oracles.DENSITIES[q]
    with mp.workdps(20):
        ends, row_p, row_q = support(p, POINTS[p]), map_exact(POINTS[p]), map_exact(row_q)
        masses = (
            mass(log_p, ends, breaks, row_p),
            mass(log_q, support(q, row_q), breaks, row_q),
        )

        def term(x):
            log_density = log_p(x, *row_p)
            return mp.exp(log_density) * (log_density - log_q(x, *row_q))

        found = mp.quad(term, cut(ends, breaks)) / masses[0] + mp.log(masses[1] / masses[0])
        true = cross_oracles.kl(p, q, (*row_p, *row_q), len(row_p))
        assert abs(found - true) <= 1e-10 * true, (found, true)


def map_exact(row):
    return tuple(map(mp.mpf, row))


def test_bernoulli_and_poisson_against_a_sum():
    p, rate = mp.mpf(0.25), mp.mpf(1.5)
    true = (1 - p) * (mp.log(1 - p) + rate) + p * (mp.log(p / rate) + rate)
    assert abs(cross_oracles.kl("bernoulli", "poisson", (p, rate), 1) - true) < 1e-14


# --- boundaries --------------------------------------------------------------------

EDGES = {
    "bernoulli_poisson": (((0.0, 2.0), 2.0), ((0.0, 0.0), 0.0), ((0.5, 0.0), INF)),
    "beta_uniform": (
        *(((1.0, 1.0, 0.0, 1.0), 0.0), ((2.0, 1.0, 0.1, 1.0), INF)),
        ((2.0, 1.0, 0.0, 0.9), INF),
    ),
    "continuous_bernoulli_uniform": (
        *(((0.5, 0.0, 1.0), 0.0), ((0.5, -1.0, 1.0), math.log(2))),
        *(((0.5, 0.1, 1.0), INF), ((0.5, 0.0, 0.9), INF)),
    ),
    "exponential_gamma": (((0.3, 1.0, 0.3), 0.0),),
    "gamma_exponential": (((1.0, 0.3, 0.3), 0.0),),
    "pareto_exponential": (((1.0, 1.0, 1.0), INF), ((1.0, 0.5, 1.0), INF)),
    "pareto_gamma": (((1.0, 1.0, 2.0, 1.0), INF), ((1.0, 0.5, 2.0, 1.0), INF)),
    "pareto_normal": (((1.0, 2.0, 0.0, 1.0), INF), ((1.0, 1.5, 0.0, 1.0), INF)),
    "uniform_beta": (
        *(((0.0, 1.0, 1.0, 1.0), 0.0), ((0.0, 0.5, 1.0, 1.0), math.log(2))),
        *(((-0.1, 1.0, 1.0, 1.0), INF), ((0.0, 1.1, 1.0, 1.0), INF)),
        *(((-0.1, 1.0, 9.0, 9.0), INF), ((2.0, 3.0, 9.0, 9.0), INF)),
    ),
    "uniform_continuous_bernoulli": (
        *(((0.0, 1.0, 0.5), 0.0), ((0.0, 0.5, 0.5), math.log(2))),
        *(((-0.1, 1.0, 0.5), INF), ((0.0, 1.1, 0.99), INF)),
    ),
    "uniform_exponential": (((-0.1, 1.0, 1.0), INF), ((-2.0, -1.0, 1.0), INF)),
    "uniform_gamma": (((-0.1, 1.0, 2.0, 1.0), INF), ((-2.0, -1.0, 2.0, 1.0), INF)),
    "uniform_pareto": (((0.9, 2.0, 1.0, 1.0), INF), ((-2.0, -1.0, 1.0, 1.0), INF)),
}


@pytest.mark.parametrize("name", quickest(EDGES))
def test_edges(name, dtype):
    """Where KL is inf the gradient is 0, but at a rate of 0."""
    found = evaluate(name, [row for row, _ in EDGES[name]], dtype)
    for (row, expected), (value, slopes) in zip(EDGES[name], found, strict=True):
        assert value == pytest.approx(expected, rel=1e-6, abs=0), row
        if slopes is None:
            continue
        assert np.isfinite(slopes).all(), (row, slopes)
        if expected in (0, INF) and name != "bernoulli_poisson":
            free = slice(cross_grid.of_p(name) if "uniform" in name else 0, None)
            bad = slopes if expected else slopes[free] if name == "uniform_beta" else [0]
            np.testing.assert_array_equal(bad, 0, str(row))


@pytest.mark.parametrize("name", quickest(PAIRS))
def test_what_is_no_distribution_gives_nan(name, dtype):
    """A parameter that is 0, negative, nan or inf, of gradient 0."""
    row, rows = grid(name, dtype)[0], []
    for i, kind in enumerate(cross_grid.kinds(name)):
        bad = {"probability": (-0.5, 1.5), "low": (), "high": (row[i - 1],)}
        bad |= {"loc": (INF,), "positive": (-1.0,), "power": (0.0,), "end": (-1.0,)}
        if name != "bernoulli_poisson":
            bad |= {"probability": (0.0, 1.0), "positive": (0.0, -1.0)}
        rows += [(*row[:i], x, *row[i + 1 :]) for x in (NAN, *bad[kind])]
    for row, (value, slopes) in zip(rows, evaluate(name, rows, dtype), strict=True):
        assert np.isnan(value), (row, value)
        if slopes is not None:
            np.testing.assert_array_equal(slopes, 0)


# --- what all of them share with the other closed forms -----------------------------


def example(name):
    """The parameters and the result of that in a docstring."""
    found = re.search(
        r">>> round\(\w+\((.*)\)\.item.*\n\s*(.*)", getattr(cross, name).__doc__
    )
    return tuple(map(float, found[1].split(", "))), float(found[2])


@pytest.mark.parametrize("name", quickest(PAIRS))
def test_examples(name):
    """Those in docstrings, which are slow: each compiles a program of its own."""
    row, expected = example(name)
    assert round(evaluate(name, [row], "float32")[0][0], 4) == expected
    assert round(float(oracle(name, row)), 4) == expected


@pytest.mark.slow
def test_one_family_in_two_is_that_family():
    """To the last bit: what is equal there is equal here."""
    a, r, b, s = np.float32([[1, 0.5, 7], [0.3, 1, 2], [1, 1.1, 0.2], [0.3, 2, 5]])

    @quick
    def pairs(a, r, b, s):
        one = jnp.ones_like(a)
        return (
            (cross.exponential_gamma(r, b, s), parametric.gamma(one, r, b, s)),
            (cross.gamma_exponential(a, r, s), parametric.gamma(a, r, one, s)),
            (cross.beta_uniform(a, r, 0.0, 1.0), parametric.beta(a, r, one, one)),
            (cross.uniform_beta(0.0, 1.0, b, r), parametric.beta(one, one, b, r)),
            (cross.beta_exponential(a, r, s), cross.beta_gamma(a, r, one, s)),
            (cross.exponential_gumbel(r, 0.5, s), cross.gamma_gumbel(one, r, 0.5, s)),
            (cross.exponential_normal(r, 0.5, s), cross.gamma_normal(one, r, 0.5, s)),
            (cross.pareto_exponential(a, 1 + r, s), cross.pareto_gamma(a, 1 + r, one, s)),
            (cross.uniform_exponential(0, a, s), cross.uniform_gamma(0, a, one, s)),
        )

    for found, expected in pairs(a, r, b, s):
        np.testing.assert_allclose(found, expected, 2e-7)


def test_parameters_broadcast():
    """Two normal distributions p against three q."""
    loc, scale = np.float32([[0], [1]]), np.float32([0.5, 1, 2])
    both = quick(
        lambda *x: (cross.laplace_normal(*x), cross.uniform_gumbel(0, 1, x[0], x[3]))
    )
    found, others = both(loc, np.float32(1), np.float32(0.5), scale)
    assert found.shape == others.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        row = (loc[i, 0].item(), 1.0, 0.5, scale[j].item())
        assert float(abs(found[i, j] / oracle("laplace_normal", row) - 1)) < 1e-6


def test_errors_name_the_module():
    message = (
        r"^parametric.cross.uniform_normal: high_p must be above the lower end, found 3 at"
    )
    with pytest.raises(ValueError, match=message):
        checked(cross.uniform_normal)(5.0, 3.0, 1.0, 1.0)
    message = r"^parametric.cross.normal_laplace: missing a required argument: 'scale_q'\.$"
    with pytest.raises(TypeError, match=message):
        cross.normal_laplace(0.0, 1.0, 0.0)
    message = (
        "^parametric.cross.laplace_normal: the arguments must have shapes that broadcast"
    )
    with pytest.raises(ValueError, match=message):
        cross.laplace_normal(np.ones(2), np.ones(3), 0.0, 1.0)


def test_a_first_call_outside_jit_compiles_one_program():
    with compilations() as programs:
        cross.laplace_normal(0, 1.0, np.ones(3, np.float32), 2)
    assert len(programs) == 1
