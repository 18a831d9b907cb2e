"""Worst error in ULP of the closed forms of kl_jax and of what people use.

    python benchmarks/parametric_accuracy.py          writes results/parametric.md
    python benchmarks/parametric_accuracy.py --quick  fewer points, float32, prints only
    python benchmarks/parametric_accuracy.py --families beta gamma   these rows, prints only

Needs the `test` extra; torch, numpyro and tfp-nightly are measured where installed.
About 5 minutes of one processor, --quick one.
"""

import functools
import pathlib
import sys
import warnings

import jax
import machine
import numpy as np
import scipy.special
from accuracy import Worst, in_digits, in_ulps

from kl_jax import parametric

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import libraries  # noqa: E402
import oracles  # noqa: E402
import parametric_grid as grid  # noqa: E402
import parametric_oracles  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"

# --- inputs ---------------------------------------------------------------------

EVERYDAY, NEAR, LARGE = "everyday", "differ by 1e-4", "1e4 to 1e6, differ by 1 to 1e-3"
ILL = "condition number 1e3, differ by 1 to 1e-3"

# Of a concentration, rate or number of trials.
SIZED = ("binomial", "poisson", "gamma", "inverse_gamma", "chi2", "weibull", "pareto")
SIZED += ("beta", "dirichlet", "von_mises", "von_mises_fisher", "wishart")
SIZED += ("inverse_wishart",)

SUMMARY = ("beta", "dirichlet", "gamma", "normal", "von_mises")


def classes(name, dtype, count):
    """(class, rows of parameters)."""
    rng = np.random.default_rng(list(name.encode()))
    kinds = [EVERYDAY, NEAR]
    if name in SIZED:
        kinds.append(LARGE)
    if name in MATRICES:
        kinds.append(ILL)
    for kind in kinds:
        rows = [sample(name, kind, rng) for _ in range(count)]
        rows = [grid.cast(row, dtype) for row in rows]
        yield kind, [row for row in rows if not same(name, row)]


def same(name, row):
    """Rounded to equal parameters: no library has an error."""
    if name == "normal_standard":
        return not any(row)
    half = len(row) // 2
    return all(map(np.array_equal, row[:half], row[half:]))


def sample(name, kind, rng):
    by = 1e-4 if kind == NEAR else 10 ** -rng.uniform(0, 3)
    if name in VECTORS:
        return VECTORS[name](kind, by, rng)
    if name == "normal_standard":
        return tuple(rng.normal(size=2) * (1 if kind == EVERYDAY else by))
    if name == "uniform":
        low, high = np.array([0.0, 1.0]) + rng.normal() * 5
        wide = rng.uniform(0, 10 if kind == EVERYDAY else by, 2)
        return low, high, low - wide[0], high + wide[1]
    if kind == EVERYDAY:
        return grid.ordinary(name, rng)
    low, high = (1e4, 1e6) if kind == LARGE else grid.EVERYDAY
    p = grid.draw(name, rng, low, high)
    if name == "binomial" and kind == LARGE:
        p = (1e6, p[1])
    return p + grid.moved(name, p, by, rng)


def entries(kind, by, rng):
    size = rng.choice((2, 10, 100))
    low, high = (1e4, 1e6) if kind == LARGE else grid.EVERYDAY
    a = grid.uniform(rng, low, high, size)
    if kind == EVERYDAY:
        return a, grid.uniform(rng, low, high, size)
    return a, a * np.exp(by * rng.uniform(-1, 1, size))


def full(kind, by, rng):
    size = rng.choice((2, 6))
    root, loc = grid.factor(rng, size, 1e3 if kind == ILL else 10), rng.normal(size=size)
    if kind == EVERYDAY:
        return loc, root, rng.normal(size=size), grid.factor(rng, size, 10)
    return loc, root, loc + root @ rng.normal(size=size) * by, grid.tilted(rng, root, by)


def diagonal(kind, by, rng):
    size = rng.choice((2, 6))
    scale = grid.uniform(rng, 0.1, 10, size)
    loc, (x, y) = rng.normal(size=size), by * rng.uniform(-1, 1, (2, size))
    if kind == EVERYDAY:
        return loc, scale, rng.normal(size=size), grid.uniform(rng, 0.1, 10, size)
    return loc, scale, loc + scale * x, scale * np.exp(y)


def low_rank(kind, by, rng):
    size, rank = ((2, 1), (6, 2))[rng.integers(2)]
    diag = grid.uniform(rng, 0.1, 10, size)
    columns = rng.normal(size=(size, rank)) * (30 if kind == ILL else 1)
    loc, (x, y) = rng.normal(size=size), by * rng.uniform(-1, 1, (2, size))
    if kind == EVERYDAY:
        q = rng.normal(size=size), rng.normal(size=(size, rank)), diag[::-1]
    else:
        other = columns * (1 + by * rng.uniform(-1, 1, (size, rank)))
        q = loc + x, other, diag * np.exp(y)
    return loc, columns, diag, *q


def outcomes(kind, by, rng):
    size = rng.choice((2, 10, 100))
    count = float(rng.choice((1, 10, 1000)))
    p, other = grid.uniform(rng, 1e-4, 1, (2, size))
    q = other if kind == EVERYDAY else p * np.exp(by * rng.uniform(-1, 1, size))
    return count, p / p.sum(), count, q / q.sum()


def on_a_sphere(kind, by, rng):
    size = rng.choice((3, 10, 100))
    low, high = (1e4, 1e6) if kind == LARGE else grid.EVERYDAY
    (x, y), k = rng.normal(size=(2, size)), grid.uniform(rng, low, high)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    if kind == EVERYDAY:
        return x, k, y, grid.uniform(rng, low, high)
    y = grid.turned(rng, x, by * min(1, k**-0.5))
    return x, k, y, k * np.exp(by * rng.uniform(-1, 1))


def scatter(kind, by, rng):
    size = rng.choice((2, 4))
    low, high = (1e4, 1e6) if kind == LARGE else grid.EVERYDAY
    root, excess = grid.factor(rng, size, 10), grid.uniform(rng, low, high)
    df = size - 1 + excess
    if kind == EVERYDAY:
        other = grid.factor(rng, size, 10)
        return df, root, size - 1 + grid.uniform(rng, low, high), other
    other = size - 1 + excess * np.exp(by * rng.uniform(-1, 1))
    return df, root, other, grid.tilted(rng, root, by)


def table_of_numbers(kind, by, rng):
    n, m = ((2, 3), (1, 4))[rng.integers(2)]
    row, column = grid.factor(rng, n, 10 if n > 1 else 1), grid.factor(rng, m, 10)
    noise = row @ rng.normal(size=(n, m)) @ column.T
    if kind == EVERYDAY:
        q = grid.factor(rng, n, 10 if n > 1 else 1), grid.factor(rng, m, 10)
        return np.zeros((n, m)), row, column, noise, *q
    loc = row @ rng.normal(size=(n, m)) @ column.T
    q = grid.tilted(rng, row, by), grid.tilted(rng, column, by)
    return loc, row, column, loc + by * noise, *q


def on_an_interval(kind, by, rng):
    """Of p around its loc, next to it or up to 30 scales from it, and half of infinity."""
    scale, width = grid.uniform(rng, 0.1, 100, 2)
    loc = scale * rng.normal() * 10 ** rng.uniform(-1, 1.5)
    low = loc * rng.uniform() - width
    high = low + width * rng.uniform(1, 2)
    ends = ((low, high), (-np.inf, high), (low, np.inf))[rng.integers(3)]
    if kind == EVERYDAY:
        q = loc + scale * rng.normal(), grid.uniform(rng, 0.1, 100)
    else:
        q = loc + by * scale * rng.uniform(-1, 1), scale * np.exp(by * rng.uniform(-1, 1))
    return loc, scale, *ends, *q, *ends


VECTORS = {
    "truncated_normal": on_an_interval,
    "multinomial": outcomes,
    "von_mises_fisher": on_a_sphere,
    "wishart": scatter,
    "inverse_wishart": scatter,
    "matrix_normal": table_of_numbers,
    "dirichlet": entries,
    "multivariate_normal": full,
    "multivariate_normal_diag": diagonal,
    "low_rank_multivariate_normal": low_rank,
}
MATRICES = ("multivariate_normal", "low_rank_multivariate_normal")

# --- what is measured ------------------------------------------------------------


def in_library(library, d, name):
    """KL of two of a library's distributions, from all parameters of both."""
    make = libraries.MAKE[library][name]

    def function(*parameters):
        half = len(parameters) // 2
        p, q = make(d, *parameters[:half]), make(d, *parameters[half:])
        return d.kl_divergence(p, q)

    return function


def torch_kl(name):
    import torch

    function = in_library("torch", torch.distributions, name)
    return lambda *x: function(*(torch.tensor(np.asarray(v)) for v in x)).numpy()


def tfp_kl(name):
    from tensorflow_probability.substrates.jax import distributions as d

    return jax.jit(in_library("tfp", d, name))


def numpyro_kl(name):
    import numpyro.distributions as d

    return jax.jit(in_library("numpyro", d, name))


# Textbook forms of SciPy's special functions, which has no closed forms itself.


def scipy_bernoulli(p, q):
    return scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)


def scipy_normal(m, s, n, t):
    return np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5


def scipy_gamma(a, r, b, s):
    log, psi = scipy.special.gammaln, scipy.special.psi
    return (a - b) * psi(a) - log(a) + log(b) + b * np.log(r / s) + a * (s - r) / r


def scipy_beta(a, b, c, d):
    log, psi = scipy.special.betaln, scipy.special.psi
    total = (c - a + d - b) * psi(a + b)
    return log(c, d) - log(a, b) + (a - c) * psi(a) + (b - d) * psi(b) + total


def scipy_dirichlet(a, b):
    log, psi = scipy.special.gammaln, scipy.special.psi
    terms = log(b) - log(a) + (a - b) * (psi(a) - psi(a.sum(-1, keepdims=True)))
    return log(a.sum(-1)) - log(b.sum(-1)) + terms.sum(-1)


def scipy_von_mises(m, k, n, j):
    i0, i1 = scipy.special.i0e, scipy.special.i1e
    return np.log(i0(j) / i0(k)) + j - k + i1(k) / i0(k) * (k - j * np.cos(m - n))


SCIPY = {
    "bernoulli": scipy_bernoulli,
    "poisson": scipy.special.kl_div,
    "normal": scipy_normal,
    "gamma": scipy_gamma,
    "beta": scipy_beta,
    "dirichlet": scipy_dirichlet,
    "von_mises": scipy_von_mises,
}


def scipy_kl(name):
    function = SCIPY[name]
    return lambda *x: function(*(np.asarray(v, np.float64) for v in x))


def kl_jax_kl(name):
    return jax.jit(getattr(parametric, name))


# column: (its package, KL by name of a family)
LIBRARIES = {
    "kl_jax": ("jax", kl_jax_kl),
    "torch": ("torch", torch_kl),
    "tfp": ("tfp-nightly", tfp_kl),
    "numpyro": ("numpyro", numpyro_kl),
    "SciPy's functions in float64": ("scipy", scipy_kl),
}


def columns():
    return [name for name, (package, _) in LIBRARIES.items() if machine.installed(package)]


def grouped(rows):
    """(positions, stacked parameters) of rows of one shape."""
    groups = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(x.shape for x in row), []).append(i)
    for members in groups.values():
        yield members, [np.stack(x) for x in zip(*(rows[i] for i in members), strict=True)]


def evaluated(library, name, rows):
    """KL of each row; None where the library has none."""
    try:
        function = LIBRARIES[library][1](name)
        found = np.full(len(rows), np.nan)
        for members, stacked in grouped(rows):
            found[members] = np.asarray(function(*stacked))
    except (AttributeError, KeyError, NotImplementedError):
        return None
    except TypeError:
        if library != "tfp":  # which cannot trace its matrix normal distributions
            raise
        return None
    return found


@functools.cache
def differentiated(name):
    function = getattr(parametric, name)
    argnums = grid.parameters_of(name)
    return jax.jit(jax.grad(lambda *x: function(*x).sum(), argnums))


def steepest(name, rows):
    """The largest error of a derivative relative to the largest, in natural units."""
    worst = Worst()
    for members, stacked in grouped(rows):
        slopes = [np.asarray(g) for g in differentiated(name)(*stacked)]
        for k, i in enumerate(members):
            found = [g[k].ravel().tolist() for g in slopes]
            if not np.isfinite(np.concatenate(found)).all():
                worst.add(np.nan)
                continue
            units = grid.units(name, rows[i])
            error, largest = parametric_oracles.gradient_error(name, rows[i], found, units)
            worst.add(0.0, lambda _, error=error / largest: error)
    return worst.cell(in_digits)


# --- tables ---------------------------------------------------------------------


def merge(one, other):
    """The worse of two cells."""
    if one is None or other is None:
        return one or other
    merged = Worst()
    merged.error = max(one.error, other.error)
    for count in ("negative", "inf", "nan"):
        setattr(merged, count, getattr(one, count) + getattr(other, count))
    return merged


def cell(worst):
    return "-" if worst is None else worst.cell(in_ulps)


def table(dtype, count, totals, names):
    libraries = columns()
    heads = [*libraries, "kl_jax, gradient"]
    yield f"| {dtype} | p and q | " + " | ".join(heads) + " |"
    yield "|---|---|" + "---|" * len(heads)
    for name in names:
        if not hasattr(parametric, name):
            print(f"NOT MEASURED: {name}", file=sys.stderr)
        for kind, rows in classes(name, dtype, count):
            truth = [parametric_oracles.kl(name, row) for row in rows]
            cells = []
            for library in libraries:
                found = evaluated(library, name, rows)
                worst = None if found is None else Worst()
                for x, true in zip([] if found is None else found, truth, strict=False):
                    worst.add(x, lambda x, true=true: oracles.ulps(x, true, dtype))
                cells.append(cell(worst))
                key = name, library
                totals[key] = merge(totals.get(key), worst)
            slopes = steepest(name, rows) if hasattr(parametric, name) else "-"
            yield f"| {name} | {kind} | " + " | ".join([*cells, slopes]) + " |"


def summary(dtype, totals):
    """For README: all classes together."""
    libraries = [name for name in columns() if "SciPy" not in name]
    yield f"| worst error in ULP, {dtype} | " + " | ".join(libraries) + " |"
    yield "|---|" + "---|" * len(libraries)
    for name in SUMMARY:
        cells = [cell(totals.get((name, library))) for library in libraries]
        label = name.replace("_", " ").title()
        yield f"| {label} | " + " | ".join(cells) + " |"


def report(quick, names):
    packages = ["jax", "jaxlib", "numpy", "scipy", "mpmath", "torch", "tfp-nightly"]
    count = 20 if quick else 100
    yield "# Worst error in ULP of closed forms (and the number of negative results)"
    yield ""
    yield machine.describe(*packages, "numpyro")
    yield (
        f"{count} pairs a class. Positive parameters are log-uniform, 0.1 to 100 where not "
        "said otherwise. No KL is 0 here, so none may be negative; - where a library has "
        "no closed form. SciPy's functions: textbook forms in float64, of the same inputs; "
        f"off in ULP of the row's precision. Gradient: {steepest.__doc__[0].lower()}"
        f"{steepest.__doc__[1:]}"
    )
    for dtype in ("float32",) if quick else ("float32", "float64"):
        totals = {}
        with jax.enable_x64(dtype == "float64"):
            yield ""
            yield from table(dtype, count, totals, names)
            if names == grid.NAMES:
                yield ""
                yield from summary(dtype, totals)
        differentiated.cache_clear()


def main():
    parser = machine.options(__doc__)
    parser.add_argument("--families", nargs="+", choices=grid.NAMES, default=grid.NAMES)
    options = parser.parse_args()
    quick, names = options.quick, tuple(options.families)
    warnings.simplefilter("ignore")
    text = machine.printed(report(quick, names))
    if not quick and names == grid.NAMES:
        (RESULTS / "parametric.md").write_text(text)


if __name__ == "__main__":
    main()
