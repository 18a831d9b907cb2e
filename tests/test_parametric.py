"""Closed forms against mpmath on the grid of parametric_grid.py: values, derivatives."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import parametric_grid
import parametric_oracles
import pytest
from compilations import compilations
from oracles import DIGITS
from programs import in_precision, optimized, quick

from kl_jax import checked, parametric

INF, NAN = np.inf, np.nan
NAMES = parametric_grid.NAMES
PARAMETERS = parametric_grid.PARAMETERS
parameters_of = parametric_grid.parameters_of
SCALAR = [name for name in NAMES if "vector" not in PARAMETERS[name]]

# The largest relative error of a value, and of a derivative relative to the largest one:
# twice the worst seen on this grid or in the benchmark, and rounded up.
BOUND = {name: {"float32": 1e-6, "float64": 1e-14} for name in NAMES}
GRADIENT_BOUND = {name: {"float32": 3e-6, "float64": 1e-14} for name in NAMES}
for name in ("gumbel", "weibull"):  # e^w amplifies the error of w = 20 ... 70 by w
    BOUND[name] = {"float32": 1e-5, "float64": 3e-14}
    GRADIENT_BOUND[name] = {"float32": 2e-5, "float64": 3e-14}
# In proportion to the condition number, here up to 1e3. The triangular solve is LAPACK's,
# and rounds as the processor does: gradients are off by 5e-5 on a Xeon, 1.3e-4 on an EPYC,
# where a value of the benchmark is off by 5.6e-5.
BOUND["multivariate_normal"] = {"float32": 6e-5, "float64": 2e-13}
GRADIENT_BOUND["multivariate_normal"] = {"float32": 2.6e-4, "float64": 3e-12}
# For factors of one size against independent ones.
BOUND["low_rank_multivariate_normal"] = {"float32": 5e-6, "float64": 2e-14}
GRADIENT_BOUND["low_rank_multivariate_normal"] = {"float32": 1e-5, "float64": 5e-14}
GRADIENT_BOUND["matrix_normal"] = {"float32": 5e-6, "float64": 1e-14}  # 2.4e-6 seen
SECOND_BOUND = {"float32": 1e-4, "float64": 1e-12}
FLAT_BOUND = {name: {"float32": 0.0, "float64": 0.0} for name in NAMES}
FLAT_BOUND["multivariate_normal"] = SECOND_BOUND
FLAT_BOUND["low_rank_multivariate_normal"] = SECOND_BOUND

# Nothing is promised of smaller numbers: they may be flushed to 0.
TINY = {dtype: float(np.finfo(dtype).smallest_normal) for dtype in SECOND_BOUND}

# Rows of one call: the tests of a function share one program for each shape of a row. Loops
# over 160 rows are unrolled, and take a tenth longer to compile.
ROWS = 1024

# Of those that share their special function with another family, which float64 tests:
# bernoulli, normal, gamma, gumbel, continuous_bernoulli or beta.
IN_FLOAT32_ALONE = ("binomial", "geometric", "log_normal", "half_normal", "inverse_gamma")
IN_FLOAT32_ALONE += ("chi2", "weibull", "continuous_bernoulli_logits", "dirichlet")
IN_FLOAT32_ALONE += ("multivariate_normal_diag", "negative_binomial", "logit_normal")
IN_FLOAT32_ALONE += ("inverse_wishart",)


# Whose programs take longest to compile: 3 CPU seconds less each. What they are made of is
# optimized in the tests of others.
COMPILED_QUICKLY = ("wishart", "matrix_normal")


def quickest(names):
    """Cases (name, dtype), of which those are slow that are another family's function."""
    slow = [x for x in IN_FLOAT32_ALONE if x != "dirichlet"]
    return [
        pytest.param(*x, marks=[pytest.mark.slow] if x[0] in slow else [])
        for x in with_dtypes(names)
    ]


def with_dtypes(names):
    """Cases (name, dtype)."""
    return [(name, "float32") for name in names] + [
        (name, "float64") for name in names if name not in IN_FLOAT32_ALONE
    ]


@functools.cache
def program(name, how):
    """Gradients of the sum, and values: row by row, as each has its own parameters."""
    function, argnums = getattr(parametric, name), parameters_of(name)

    def total(*arguments):
        values = function(*arguments)
        return values.sum(), values

    return how(jax.grad(total, argnums, has_aux=True))


def stacked(rows, dtype, size=ROWS):
    """A batch of parameters, the last row repeated."""
    assert len(rows) <= size, f"{len(rows)} rows"
    rows = rows + rows[-1:] * (size - len(rows))
    return [np.asarray(column, dtype) for column in zip(*rows, strict=True)]


def evaluate(name, rows, dtype):
    """[value, derivatives in each parameter] of each row of parameters.

    In float32 with all optimisations, for one family of each special function and for the
    shape that most rows of its grid have: the formula is the same for the others.
    """
    found, groups = [None] * len(rows), {}
    for i, row in enumerate(rows):
        groups.setdefault(shapes(row), []).append(i)
    for shape, members in groups.items():
        of_its_own = name not in (*IN_FLOAT32_ALONE, *COMPILED_QUICKLY)
        of_its_own = of_its_own and shape == most_frequent_shapes(name)
        how = in_precision(dtype) if of_its_own else quick
        slopes, values = program(name, how)(*stacked([rows[i] for i in members], dtype))
        assert values.shape == (ROWS,)
        assert values.dtype == dtype
        assert all(g.dtype == dtype for g in slopes)
        for k, i in enumerate(members):
            found[i] = float(values[k]), [g[k] for g in slopes]
    return found


def shapes(row):
    return tuple(np.shape(x) for x in row)


@functools.cache
def most_frequent_shapes(name):
    grid = parametric_grid.grid(name, "float32", np.random.default_rng(0))
    return collections.Counter(shapes(row) for _, row in grid).most_common(1)[0][0]


def text(parameters):
    return f"({', '.join(str(x).replace(chr(10), '') for x in parameters)})"


def halves(name, parameters):
    if name == "normal_standard":
        return parameters, (0, 0)
    half = len(parameters) // 2
    return parameters[:half], parameters[half:]


def equal(name, parameters):
    pairs = zip(*halves(name, parameters), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(("name", "dtype"), quickest(NAMES), indirect=["dtype"])
def test_grid(name, dtype):
    """Values and gradients; none negative, 0 where p = q. The worst of each is shown.

    A derivative's error is in natural units, relative to the largest derivative.
    """
    grid = parametric_grid.grid(name, dtype, np.random.default_rng(0))
    if dtype == "float64":  # of vectors and matrices of one shape
        shape = np.shape(grid[-1][1][0])
        grid = [(kind, row) for kind, row in grid if np.shape(row[0]) == shape]
    found = evaluate(name, [parameters for _, parameters in grid], dtype)
    wrong, worst, steepest = [], (0.0, ""), (0.0, "")
    for (kind, parameters), (value, slopes) in zip(grid, found, strict=True):
        where = f"{kind}: {text(parameters)}"
        if equal(name, parameters):
            if value != 0:
                wrong.append(f"not 0 but {value}, {where}")
        elif not value >= 0:
            wrong.append(f"{value}, {where}")
        else:
            error = relative_error(name, parameters, value, dtype)
            worst = max(worst, (error, f"{value}, {where}"))
        slopes = [g.ravel().tolist() for g in slopes]
        if not np.isfinite(np.concatenate(slopes)).all():
            wrong.append(f"gradient {slopes}, {where}")
            continue
        units = parametric_grid.units(name, parameters)
        if equal(name, parameters) and name not in parametric_grid.OF_ITS_SUPPORT:
            units = [units[i] for i in parameters_of(name)]
            if max(map(size, slopes, units)) > FLAT_BOUND[name][dtype]:
                wrong.append(f"gradient not 0 but {slopes}, {where}")
            continue
        error, largest = parametric_oracles.gradient_error(name, parameters, slopes, units)
        error /= max(largest, TINY[dtype])
        steepest = max(steepest, (error, f"{slopes}, {where}"))
    summary = [
        f"value off by {worst[0]:.2g}: {worst[1]}",
        f"gradient off by {steepest[0]:.2g}: {steepest[1]}",
        f"{len(wrong)} negative, not finite, or not 0 where p = q",
        *wrong[:5],
    ]
    assert not wrong, "\n".join(summary)
    assert worst[0] <= BOUND[name][dtype], "\n".join(summary)
    assert steepest[0] <= GRADIENT_BOUND[name][dtype], "\n".join(summary)


def size(slopes, unit):
    return np.abs(np.multiply(slopes, np.ravel(unit))).max()


def relative_error(name, parameters, value, dtype):
    """Of a true value below the smallest normal number: 0, flushed or not, or inf."""
    true = parametric_oracles.kl(name, parameters)
    with mp.workdps(DIGITS):
        assert 0 < true < float(np.finfo(dtype).max), (name, parameters, true)
        if true < TINY[dtype]:
            return 0.0 if value <= TINY[dtype] else INF
        return float(abs(mp.mpf(value) - true) / true)


# --- second derivatives ----------------------------------------------------------------

# Rows of one call, as above.
FEW = 10


@functools.cache
def second_derivatives(name):
    return quick(jax.vmap(jax.hessian(getattr(parametric, name), parameters_of(name))))


# Without those that are another function of other parameters.
OTHERS = (
    "normal_standard",
    "log_normal",
    "logit_normal",
    "truncated_normal",
    "half_normal",
    "binomial",
    "negative_binomial",
    "inverse_gamma",
    "chi2",
)
CURVED = [name for name in SCALAR if name not in (*OTHERS, *parametric_grid.OF_ITS_SUPPORT)]


def at_equality(name, dtype):
    """Everyday parameters of one distribution, and where series and tails are."""
    rng = np.random.default_rng(3)
    rows = [parametric_grid.draw(name, rng) for _ in range(8)]
    if name.startswith("continuous_bernoulli"):
        rows += [(0.5,)] if name == "continuous_bernoulli" else [(0.0,), (1e-3,)]
    return [parametric_grid.cast(row, dtype) for row in rows]


# float64 for one of each kind of special function: half a minute of compiling saved.
CURVED_IN_FLOAT64 = ("normal", "gamma", "continuous_bernoulli", "von_mises")


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVED)
def test_second_derivatives_where_p_is_q_are_the_fisher_information(name):
    check_second_derivatives(name, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVED_IN_FLOAT64)
def test_second_derivatives_in_float64(name):
    with jax.enable_x64(True):
        check_second_derivatives(name, "float64")


def check_second_derivatives(name, dtype):
    rows = at_equality(name, dtype)
    hessian = second_derivatives(name)(*stacked([p + p for p in rows], dtype, FEW))
    found = np.stack([np.stack(blocks, -1) for blocks in hessian], -2)
    assert np.isfinite(found).all()
    positions = parameters_of(name)
    n = len(positions) // 2
    for k, row in enumerate(rows):
        true = np.array(parametric_oracles.fisher(name, row), float)
        unit = [float(parametric_grid.units(name, (*row, *row))[i]) for i in positions[:n]]
        scaled = np.outer(unit, unit)
        close = SECOND_BOUND[dtype] * np.abs(true * scaled).max()
        blocks = found[k].reshape(2, n, 2, n)
        for i, j, sign in ((0, 0, 1), (1, 1, 1), (0, 1, -1), (1, 0, -1)):
            error = np.abs(blocks[i, :, j] - sign * true) * scaled
            assert error.max() <= close, (row, i, j, blocks[i, :, j], sign * true)


@pytest.mark.slow
def test_second_derivatives_of_dirichlet_where_p_is_q(dtype):
    """The Fisher information: trigamma on the diagonal, less that of the total."""
    rows = [np.array(a, dtype) for a in ([0.5, 2.0, 7.0], [3.0, 3.0, 3.0])]
    hessian = second_derivatives("dirichlet")(*stacked([(a, a) for a in rows], dtype, FEW))
    for k, row in enumerate(rows):
        with mp.workdps(DIGITS):
            x = [mp.mpf(float(v)) for v in row]
            total = float(mp.psi(1, mp.fsum(x)))
            true = np.diag([float(mp.psi(1, v)) for v in x]) - total
        for i, j in np.ndindex(2, 2):
            expected = true if i == j else -true
            close = SECOND_BOUND[dtype] * np.abs(true).max()
            np.testing.assert_allclose(hessian[i][j][k], expected, rtol=0, atol=close)


def test_second_derivatives_of_normal_standard(dtype):
    """1 in the mean, e^log_variance / 2 in the other."""
    rows = [(0.0, 0.0), (1.5, -3.0), (-2.0, 1.0)]
    x, y = stacked(rows, dtype, FEW)
    (mm, mv), (vm, vv) = second_derivatives("normal_standard")(x, y)
    np.testing.assert_array_equal(mm, 1)
    np.testing.assert_array_equal(mv, 0)
    np.testing.assert_array_equal(vm, 0)
    np.testing.assert_allclose(vv, np.exp(y) / 2, rtol=BOUND["normal_standard"][dtype])


@pytest.mark.parametrize(
    "size", [*(pytest.param(size, marks=pytest.mark.slow) for size in (2, 60)), 1000]
)
def test_von_mises_fisher_in_other_dimensions(size, dtype):
    """Orders from 0 to 499; in 60 dimensions float64 has the series up to k = 7."""
    rng = np.random.default_rng(31)
    rows = []
    for k in (1e-3, 0.5, 3.0, 12.0, 25.0, 300.0, 2e4, 1e6):
        x = rng.normal(size=size)
        x /= np.linalg.norm(x)
        y = parametric_grid.turned(rng, x, 0.3 * min(1, k**-0.5))
        rows += [(x, k, y, k * ratio) for ratio in (1 + 1e-5, 0.6, 5.0)]
        rows += [(x, k, x, 1e-3 + 1e-2 * k)]
    function = quick(parametric.von_mises_fisher)
    found = function(*stacked(rows, dtype, len(rows)))
    for row, value in zip(rows, found, strict=True):
        row = parametric_grid.cast(row, dtype)
        error = relative_error("von_mises_fisher", row, float(value), dtype)
        assert error <= BOUND["von_mises_fisher"][dtype], (row[1], row[3], error)


@pytest.mark.slow
def test_second_derivatives_of_von_mises_fisher_and_wishart(dtype):
    """At p = q in k: 1 / k^2 - 1 / sinh(k)^2 in 3 dimensions; in df: trigamma functions."""
    x = np.eye(3)[0]
    k = [0.01, 0.7, 3.0, 15.0, 17.0, 40.0]
    rows = [(x, v, x, v) for v in k]
    hessian = quick(jax.vmap(jax.hessian(parametric.von_mises_fisher, (1, 3))))(
        *stacked(rows, dtype, FEW)
    )
    with mp.workdps(DIGITS):
        exact = [mp.mpf(float(np.asarray(v, dtype))) for v in k]
        true = np.array([1 / v**2 - mp.csch(v) ** 2 for v in exact], float)
    for i, j, sign in ((0, 0, 1), (0, 1, -1), (1, 1, 1)):
        found = hessian[i][j][: len(k)]
        np.testing.assert_allclose(found, sign * true, rtol=SECOND_BOUND[dtype])
    df = [1.01, 2.0, 30.0]
    rows = [(v, np.eye(2), v, np.eye(2)) for v in df]
    hessian = quick(jax.vmap(jax.hessian(parametric.wishart, (0, 2))))(
        *stacked(rows, dtype, FEW)
    )
    with mp.workdps(DIGITS):
        exact = [mp.mpf(float(np.asarray(v, dtype))) for v in df]
        true = [(mp.psi(1, v / 2) + mp.psi(1, (v - 1) / 2)) / 4 for v in exact]
    for i, j, sign in ((0, 0, 1), (0, 1, -1), (1, 1, 1)):
        found = hessian[i][j][: len(df)]
        np.testing.assert_allclose(
            found, sign * np.array(true, float), rtol=SECOND_BOUND[dtype]
        )


def test_truncated_normals_of_any_size():
    """Scales from 1e-20 to 1e12, locs up to 1e6 scales from an interval of 1e-6 to 1e6, and
    q of another scale or loc or near p. 6.3e-7 seen of 3000.
    """
    rng, n = np.random.default_rng(33), 400
    size = lambda low, high: 10 ** rng.uniform(low, high, n)
    sign, kind, ends = rng.choice([-1, 1], n), np.arange(n) % 4, rng.integers(0, 4, n)
    scale = size(-20, 12)
    low = scale * rng.normal(size=n) * size(-3, 3)
    high = low + np.maximum(scale * size(-6, 6), 1e-5 * abs(low))
    loc = low + sign * scale * size(-6, 6)
    other = scale * np.exp(np.clip(rng.normal(size=n) * size(-7, 1), -20, 20))
    other = np.where(kind < 2, size(-20, 12), other)
    shift = np.minimum(scale, other) * rng.normal(size=n) * size(-7, 3)
    low, high = np.where(ends == 1, -INF, low), np.where(ends == 2, INF, high)
    q = np.where(kind % 2, loc, loc + shift), other
    rows = np.float32([loc, scale, low, high, *q, low, high]).T
    found = evaluate("truncated_normal", list(map(tuple, rows)), "float32")
    for row, (value, _) in zip(rows, found, strict=True):
        assert value >= 0, row
        with mp.workdps(DIGITS):
            true = parametric_oracles.kl("truncated_normal", row)
            if 1e-30 < true < 1e30:
                error = abs(mp.mpf(value) - true) / true
                assert error <= BOUND["truncated_normal"]["float32"], (row, value, true)


@functools.cache
def all_derivatives_of_truncated_normal():
    """Of loc and scale of both, and of the ends that they share: one and two of each."""

    def of(m, s, n, t, low, high):
        return parametric.truncated_normal(m, s, low, high, n, t, low, high)

    six = tuple(range(6))
    both = lambda *x: (jax.grad(of, six)(*x), jax.hessian(of, six[:4])(*x))
    return quick(jax.vmap(both))


@pytest.mark.slow
def test_derivatives_of_truncated_normal(dtype):
    """Where p = q, near it, and far; with a loc inside the interval and far from it."""

    def oracle(m, s, n, t, low, high):
        return parametric_oracles.truncated_normal(m, s, low, high, n, t, low, high)

    def slopes(*x):
        return parametric_oracles.differences(oracle, list(x))

    rows = [
        (loc, 1.5, loc + by, 1.5 * (1 + by), 0.5, 2.0)
        for loc in (1.0, -12.0, 40.0)
        for by in (0.0, 1e-4, 0.75)
    ]
    rows = [parametric_grid.cast(row, dtype) for row in rows]
    first, second = all_derivatives_of_truncated_normal()(*stacked(rows, dtype, FEW))
    close = {"float32": 1e-5, "float64": 1e-13}[dtype]
    step = mp.mpf(10) ** -20
    for k, row in enumerate(rows):
        with mp.workdps(DIGITS):
            x = [parametric_oracles.exact(v) for v in row]
            true = [np.array(slopes(*x), float)]
            for i in range(4):
                ends = ([*x[:i], x[i] + h, *x[i + 1 :]] for h in (step, -step))
                up, down = (slopes(*y) for y in ends)
                change = [(a - b) / (2 * step) for a, b in zip(up, down, strict=True)]
                true.append(np.array(change[:4], float))
        units = np.array([row[1]] * 2 + [row[3]] * 2 + [row[1]] * 2, float)
        found = np.array([x[k] for x in first])
        error = np.abs(found - true[0]) * units
        # Where p = q the differences leave 1e-79, and this is 0.
        bound = close * np.abs(true[0] * units).max() + 1e-60
        assert error.max() <= bound, (row, found, true[0])
        units = np.outer(units[:4], units[:4])
        found = np.array([[x[k] for x in of_one] for of_one in second])
        error = np.abs(found - true[1:]) * units
        assert error.max() <= close * np.abs(true[1:] * units).max(), (row, found, true)


def test_low_rank_factors_rotated_against_each_other(dtype):
    """One distribution written in two ways: KL is rounding, and still not negative."""
    rng = np.random.default_rng(9)
    diag = np.exp(rng.uniform(-2, 2, (200, 6))).astype(dtype)
    factor = (10 * rng.normal(size=(200, 6, 2))).astype(dtype)
    rotation = np.linalg.qr(rng.normal(size=(200, 2, 2)))[0]
    turned = (factor @ rotation).astype(dtype)
    total = lambda m: parametric.low_rank_multivariate_normal(
        m, factor, diag, 0.0, turned, diag
    )
    both = quick(lambda m: (total(m), jax.grad(lambda m: total(m).sum())(m)))
    value, slopes = both(np.zeros((200, 6), dtype))
    assert (value >= 0).all()
    np.testing.assert_array_equal(slopes, 0)
    # That of `turned`, of relative size eps: its square, times |V|^2 = 1e4. 1e-11 seen.
    assert (value <= 1e4 * float(np.finfo(dtype).eps) ** 2).all()
    # Columns in another order, with other signs, are the same to the last bit.
    total = lambda m: parametric.low_rank_multivariate_normal(
        m, factor, diag, 0.0, factor[..., ::-1] * np.array([1, -1], dtype), diag
    )
    assert (quick(total)(np.zeros((200, 6), dtype)) == 0).all()


@quick
def of_turned_factors(m, factor, diag, turned):
    total = lambda m: parametric.low_rank_multivariate_normal(
        m, factor, diag, 0.0, turned, diag
    )
    return total(m), jax.grad(lambda m: total(m).sum())(m)


def test_low_rank_factors_of_which_rounding_is_negative():
    """Of as many factors as features: 10 of 400 are -3e-11 to 0 before they are held at 0,
    where the gradient is left as it is.
    """
    rng = np.random.default_rng(1)
    diag = np.exp(rng.uniform(-6, 6, (400, 3))).astype("f4")
    factor = (3 * rng.normal(size=(400, 3, 3))).astype("f4")
    rotation = np.linalg.qr(rng.normal(size=(400, 3, 3)))[0]
    turned = (factor @ rotation).astype("f4")
    value, _ = of_turned_factors(np.zeros((400, 3), "f4"), factor, diag, turned)
    assert (value >= 0).all()
    _, slopes = of_turned_factors(np.full((400, 3), 1e-6, "f4"), factor, diag, turned)
    assert (np.abs(slopes).max(-1) > 0).all()


# --- far from one ----------------------------------------------------------------------

# Families of positive numbers, without those that are another function of other parameters.
FAR = ("poisson", "normal", "laplace", "cauchy", "gumbel", "exponential", "gamma", "pareto")
FAR += ("von_mises", "beta")
SCALED = ("normal", "laplace", "cauchy", "gumbel", "exponential", "gamma")
SLOWLY_FAR = ("weibull", "chi2", "dirichlet")
FAR_BOUND = 1e-5  # that of gumbel and weibull, the largest of these


def far_from_one(name):
    """Rows of parameters from 1e-20 to 1e12: equal, nearly equal, equal in some, any."""
    rng = np.random.default_rng(21)
    size = 3 if name == "dirichlet" else len(PARAMETERS[name])
    shape = (160, size)
    p, q = (10 ** rng.uniform(-20, 12, shape) for _ in "pq")
    nearly = p * (1 + rng.choice([-1, 1], shape) * 10 ** rng.uniform(-7, -1, shape))
    some = np.where(rng.random(shape) < 0.5, p, q)
    kind = np.arange(len(p))[:, None] % 4
    q = np.select([kind == 0, kind == 1, kind == 2], [p, nearly, some], q)
    # Of rates and scales the ratio overflows, of one location.
    large = 1e20 if name in SCALED else 1e12
    p[2, :-1], p[6, :-1] = q[2, :-1], q[6, :-1]
    p[2, -1], q[2, -1] = q[6, -1], p[6, -1] = large, 1e-20
    if name == "pareto":
        q[:, 0] = np.minimum(p[:, 0], q[:, 0])
    if "angle" in PARAMETERS[name]:
        p[:, 0], q[:, 0] = p[:, 0] % 3, np.where(kind[:, 0] == 0, p[:, 0] % 3, q[:, 0] % 3)
    p, q = np.float32(p), np.float32(q)
    return (p, q) if name == "dirichlet" else (*p.T, *q.T)


@pytest.mark.parametrize(
    "name", [*FAR, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY_FAR)]
)
def test_parameters_far_from_one(name):
    """Never negative nor nan, 0 where p = q, and the same alone without most optimisations
    and row by row, where XLA fuses it with what computes the parameters.
    """
    function, columns = getattr(parametric, name), far_from_one(name)

    def within(scale, shift, *columns):
        return function(*(x * scale + shift for x in columns)) + shift

    alone = quick(function)(*columns)
    axes = (None, None) + (0,) * len(columns)
    fused = optimized(jax.vmap(within, axes))(np.float32(1), np.float32(0), *columns)
    half = len(columns) // 2
    same = [np.equal(x, y) for x, y in zip(columns[:half], columns[half:], strict=True)]
    same = np.stack([x.all(-1) if x.ndim == 2 else x for x in same]).all(0)
    assert same[::4].all()
    for found in (alone, fused):
        assert (found >= 0).all(), [x[~(found >= 0)][:3] for x in columns]
        np.testing.assert_array_equal(found[same], 0)
    np.testing.assert_allclose(fused, alone, 2 * FAR_BOUND, TINY["float32"])
    for k in np.flatnonzero(~same):
        row = tuple(x[k] for x in columns)
        with mp.workdps(2 * DIGITS):
            true = parametric_oracles.kl(name, row)
            if 1e-30 < true < 3e38:
                error = abs(mp.mpf(float(fused[k])) - true) / true
                assert error <= FAR_BOUND, (row, fused[k], true)


# Each operation is a program of its own: of beta there are 150.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["laplace", "gamma"])
def test_operations_one_at_a_time(name):
    """Where no product and sum are contracted into one rounding."""
    function = getattr(parametric, name)
    columns = [x[:12] for x in far_from_one(name)]
    together = optimized(function)(*columns)
    with jax.disable_jit():
        apart = np.asarray(function(*columns))
    assert (apart >= 0).all()
    np.testing.assert_array_equal(apart[::4], 0)
    np.testing.assert_allclose(apart, together, 2 * FAR_BOUND, TINY["float32"])


LOPSIDED = (
    *((9e5, 0.37, 9e5, 0.5), (5e5, 1e-3, 5e5, 1e-3), (2e-3, 1.5, 2.1e-3, 1.5)),
    *((1e-3, 20.0, 5.0, 1e4), (0.02, 1400.0, 6e4, 2e-3), (50.0, 1e-2, 70.0, 0.03)),
)


@pytest.mark.slow
def test_second_derivatives_of_lopsided_betas():
    """In one concentration of q twice: trigamma less that of the sum, where they cancel."""
    hessian = second_derivatives("beta")(*stacked(list(LOPSIDED), "float32", FEW))
    for k, row in enumerate(LOPSIDED):
        with mp.workdps(DIGITS):
            q = [mp.mpf(float(np.float32(x))) for x in row[2:]]
            true = [float(mp.psi(1, x) - mp.psi(1, mp.fsum(q))) for x in q]
        found = [hessian[i][i][k] for i in (2, 3)]
        np.testing.assert_allclose(found, true, rtol=SECOND_BOUND["float32"])


# --- transformations ---------------------------------------------------------------------


def everyday(name):
    """Rows of one shape."""
    grid = parametric_grid.grid(name, "float32", np.random.default_rng(5))
    rows = [x for kind, x in grid if kind.startswith("everyday")]
    return [x for x in rows if np.shape(x[0]) == np.shape(rows[0][0])][:FEW]


# One for each of the functions that closed forms are made of.
MADE_OF = ["bernoulli_logits", "laplace", "cauchy", "gumbel", "gamma", "dirichlet"]
MADE_OF += ["von_mises", "continuous_bernoulli", "multivariate_normal"]
MADE_OF += ["low_rank_multivariate_normal"]


@pytest.mark.parametrize("name", MADE_OF)
def test_batches_rows_and_both_modes_agree(name):
    """Batches in reverse mode, as `evaluate` has them, against rows in both modes."""
    function, argnums, rows = getattr(parametric, name), parameters_of(name), everyday(name)
    arguments = stacked(rows, "float32", FEW)
    rng = np.random.default_rng(6)
    tangents = [rng.normal(size=x.shape).astype("float32") for x in arguments]

    @quick
    @jax.vmap
    def row_by_row(arguments, tangents):
        reverse = jax.value_and_grad(function, argnums)(*arguments)
        return reverse, jax.jvp(function, arguments, tangents)[1]

    (values, slopes), forward = row_by_row(tuple(arguments), tuple(tangents))
    batch = evaluate(name, rows, "float32")
    # Each is within the bound of the true value.
    together = [value for value, _ in batch]
    np.testing.assert_allclose(values[: len(rows)], together, 2 * BOUND[name]["float32"])
    close = 2 * GRADIENT_BOUND[name]["float32"]
    products = []
    for i, alone, *whole in zip(argnums, slopes, *(x for _, x in batch), strict=True):
        alone, whole = alone[: len(rows)], np.stack(whole)
        largest = np.abs(whole).max()
        np.testing.assert_allclose(alone, whole, rtol=close, atol=close * largest)
        product = np.asarray(alone, float) * tangents[i][: len(rows)]
        products.append(product.reshape(len(rows), -1))
    products = np.concatenate(products, 1)
    error = np.abs(forward[: len(rows)] - products.sum(1))
    assert (error <= close * np.abs(products).sum(1)).all()


# One for each contract: numbers, a support, vectors, matrices; and for each shape of code.
BROADCAST = ["normal", "normal_standard", "binomial", "uniform", "dirichlet"]
BROADCAST += ["multivariate_normal", "multivariate_normal_diag"]
BROADCAST += ["low_rank_multivariate_normal"]
BROADCAST += [pytest.param("beta", marks=pytest.mark.slow)]  # a Dirichlet of two


@pytest.mark.parametrize("name", BROADCAST)
def test_parameters_broadcast(name):
    """Two distributions p against three q, values and gradients, as if each were given."""
    function, argnums = getattr(parametric, name), parameters_of(name)
    columns = stacked(everyday(name)[:3], "float32", 3)
    half = len(columns) // 2
    given = [x[:2, None] if i < half else x for i, x in enumerate(columns)]
    each = [
        np.broadcast_to(x, (2, 3, *x.shape[2 if i < half else 1 :]))
        for i, x in enumerate(given)
    ]

    @quick
    def of_both(given, each):
        def total(*arguments):
            values = function(*arguments)
            return values.sum(), values

        gradient = jax.grad(total, argnums, has_aux=True)
        return gradient(*given), gradient(*each)

    (slopes, values), (slopes_of_each, expected) = of_both(given, each)
    assert values.shape == (2, 3)
    np.testing.assert_allclose(values, expected, rtol=2 * BOUND[name]["float32"])
    close = 2 * GRADIENT_BOUND[name]["float32"]
    for i, found, all_of_them in zip(argnums, slopes, slopes_of_each, strict=True):
        true = all_of_them.sum(1, keepdims=True) if i < half else all_of_them.sum(0)
        size = np.abs(all_of_them[np.isfinite(all_of_them)]).max()
        np.testing.assert_allclose(found, true, rtol=close, atol=3 * close * size)


# One for each number of parameters: all functions broadcast by the same contract.
@pytest.mark.parametrize("name", ["poisson", "normal_standard", "uniform", "gamma"])
def test_numbers_against_batches(name):
    """Each parameter in turn is 0-d; then all of p, and then all."""
    function, batches = getattr(parametric, name), neighbourhood(name)
    n = len(batches)
    which = [{i} for i in range(n)] + [set(range((n + 1) // 2)), set(range(n))]

    @quick
    def mixed(batches):
        pairs = []
        for numbers in which:
            some = [x[0] if i in numbers else x for i, x in enumerate(batches)]
            same = [x[:1] if i in numbers else x for i, x in enumerate(batches)]
            shape = () if len(numbers) == n else (4,)
            same = [jnp.broadcast_to(x, (4,)) for x in same]
            value, expected = function(*some), function(*same)
            assert value.shape == shape
            pairs.append((value, expected if shape else expected[0]))
        return pairs

    for value, expected in mixed(batches):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(value, expected, rtol=2 * BOUND[name]["float32"])


def neighbourhood(name):
    """A batch of four, any p with any q of which has a finite KL: one p, four q's."""
    rng = np.random.default_rng(8)
    if name == "normal_standard":
        return [rng.normal(size=4).astype("float32") for _ in range(2)]
    if name == "uniform":
        p, qs = (0.0, 1.0), [(-x, 1 + x) for x in (0.0, 0.5, 2.0, 3.0)]
    else:
        p = parametric_grid.draw(name, rng)
        qs = [parametric_grid.moved(name, p, 0.5, rng) for _ in range(4)]
    rows = [parametric_grid.cast(p + q, "float32") for q in qs]
    return [np.stack(column) for column in zip(*rows, strict=True)]


# --- edges -------------------------------------------------------------------------------

# function: (parameters, KL)
EDGES = {
    "bernoulli": (
        *(((0, 0.25), -math.log(0.75)), ((1, 0.25), -math.log(0.25)), ((0, 0), 0)),
        *(((1, 1), 0), ((0.5, 0), INF), ((0.5, 1), INF), ((0, 1), INF), ((1, 0), INF)),
        *(((-0.5, 0.5), NAN), ((0.5, 1.5), NAN), ((1.5, 0.5), NAN), ((0.5, -0.5), NAN)),
    ),
    "bernoulli_logits": (
        *(((-INF, 0), math.log(2)), ((INF, 0), math.log(2)), ((INF, INF), 0)),
        *(((-INF, -INF), 0), ((0, INF), INF), ((0, -INF), INF), ((-INF, INF), INF)),
    ),
    "binomial": (
        *(
            ((5, 0.5, 3, 0.5), INF),
            ((3, 0, 5, 0.5), 5 * math.log(2)),
            ((3, 0.5, 5, 0.5), NAN),
            ((4, 0, 4, 0.5), 4 * math.log(2)),
        ),
        *(((4, 1, 4, 1), 0), ((4, 0.5, 4, 0), INF), ((4, -0.5, 4, 0.5), NAN)),
    ),
    "negative_binomial": (
        *(((3, 0, 3, 0.5), 3 * math.log(2)), ((0, 0.5, 3, 0.5), 3 * math.log(2))),
        *(((0, 0.5, 0, 0.25), 0), ((5, 0.5, 3, 0), INF), ((3, 0.5, 3, 0), INF)),
        *(((3, 0.5, 0, 0.5), INF), ((3, 0.5, 5, 0.5), NAN), ((3, 1, 3, 0.5), NAN)),
        *(((3, 0.5, 3, 1), NAN), ((-1, 0.5, -1, 0.25), NAN), ((3, 0, 5, 0), 0)),
    ),
    "multinomial": (
        ((3, np.array([1, 0]), 3, np.array([0.5, 0.5])), 3 * math.log(2)),
        ((3, np.array([0.5, 0.5]), 3, np.array([1, 0])), INF),
        ((3, np.array([0.5, 0.5]), 4, np.array([0.5, 0.5])), INF),
        ((0, np.array([0.5, 0.5]), 0, np.array([1, 0])), 0),
        ((3, np.array([1e30, 1e30]), 3, np.array([1e-20, 0])), INF),
        ((3, np.array([1e30, 0]), 3, np.array([1e-20, 1e-20])), 3 * math.log(2)),
        ((3, np.array([0, 0]), 3, np.array([1, 1])), NAN),
        ((3, np.array([-1, 2]), 3, np.array([1, 1])), NAN),
        ((3, np.array([1, 1]), 3, np.array([INF, 1])), NAN),
        ((2.5, np.array([1, 1]), 2.5, np.array([1, 2])), NAN),
    ),
    "geometric": (((1, 0.25), -math.log(0.25)), ((0.5, 1), INF), ((1, 1), 0)),
    "poisson": (((0, 2), 2), ((0, 0), 0), ((1, 0), INF), ((-1, 1), NAN), ((1, -1), NAN)),
    "uniform": (
        *(((0, 1, 0.5, 2), INF), ((0, 1, -1, 0.5), INF), ((0, 1, 2, 3), INF)),
        *(((0, 1, -1, 1), math.log(2)), ((1, 0, 0, 1), NAN), ((0, 1, 1, 0), NAN)),
    ),
    "truncated_normal": (
        *(((0, 1, -INF, INF, 1, 2, -INF, INF), math.log(2) - 0.25),),
        *(((0, 1, 0, 1, 0, 1, 0, 2), NAN), ((0, 1, 0, 2, 0, 1, 0, 1), INF)),
        *(((0, 1, 0, 1, 0, 1, 2, 3), INF), ((0, 1, 1, 0, 0, 1, 1, 0), NAN)),
        *(((0, 0, 0, 1, 0, 1, 0, 1), NAN), ((INF, 1, 0, 1, 0, 1, 0, 1), NAN)),
    ),
    "pareto": (((1, 2, 2, 2), INF), ((2, 1, 1, 1), math.log(2))),
    "half_normal": (((1, 2), math.log(2) - 0.375),),
    "cauchy": (
        *(((0, 1, 1e6, 1), math.log1p(1e12 / 4)),),
        *(((0, 1e-10, 1e30, 1e-10), 2 * math.log(5e39)),),
    ),
    "continuous_bernoulli": (((0, 0.5), NAN), ((0.5, 1), NAN)),
}


@pytest.mark.parametrize(("name", "dtype"), with_dtypes(EDGES), indirect=["dtype"])
def test_edges(name, dtype):
    found = evaluate(name, [row for row, _ in EDGES[name]], dtype)
    for (row, expected), (value, _) in zip(EDGES[name], found, strict=True):
        assert value == pytest.approx(expected, rel=1e-6, abs=0, nan_ok=True), row


@pytest.mark.parametrize(("name", "dtype"), with_dtypes(SCALAR), indirect=["dtype"])
def test_what_is_no_distribution_gives_nan(name, dtype):
    """A scale, rate or concentration that is 0 or negative; nan anywhere."""
    rng = np.random.default_rng(7)
    p = parametric_grid.draw(name, rng)
    kinds = PARAMETERS[name] * 2
    row = (*p, *p) if p else (0.5, 0.5)
    row = (0.0, 1.0, 0.0, 1.0) if name == "uniform" else row
    row = (0.0, 1.0, 0.0, 1.0) * 2 if name == "truncated_normal" else row
    rows = []
    for i in range(len(row)):
        values = [NAN]
        if kinds and kinds[i] in ("positive", "scale of a power", "lower end"):
            # Rate 0 and concentration 0 of these are distributions.
            values += [-1.0] if name in ("poisson", "von_mises") else [0.0, -1.0]
        if name == "continuous_bernoulli":
            values += [-0.5, 1.5]
        rows += [(*row[:i], x, *row[i + 1 :]) for x in values]
    for row, (value, _) in zip(rows, evaluate(name, rows, dtype), strict=True):
        assert np.isnan(value), (row, value)


def test_vectors_that_are_no_distribution_give_nan():
    """Vectors of 2 and matrices of shapes that are in the grid."""
    good, eye, column = np.array([1.0, 2.0]), np.eye(2), np.ones((2, 1))
    three, table = np.ones(3), np.ones((2, 3))
    for bad in (np.array([1.0, 0.0]), np.array([-1.0, 2.0]), np.array([NAN, 1.0])):
        longer = np.append(bad, 1.0)
        for name, rows in (
            ("dirichlet", ((bad, good), (good, bad))),
            (
                "multivariate_normal_diag",
                ((three, longer, three, three), (three, three, three, longer)),
            ),
            (
                "multivariate_normal",
                ((good, np.diag(bad), good, eye), (good, eye, good, np.diag(bad))),
            ),
            ("low_rank_multivariate_normal", ((good, column, bad, good, column, good),)),
            (
                "wishart",
                ((2.0, np.diag(bad), 2.0, eye), (1.0, eye, 2.0, eye), (2.0, eye, INF, eye)),
            ),
            (
                "matrix_normal",
                (
                    (table, np.diag(bad), np.eye(3), table, eye, np.eye(3)),
                    (table, eye, np.eye(3), NAN * table, eye, np.eye(3)),
                ),
            ),
            (
                "von_mises_fisher",
                ((0 * three, 1.0, three, 1.0), (three, -1.0, three, 1.0)),
            ),
        ):
            found = evaluate(name, rows, "float32")
            for row, (value, slopes) in zip(rows, found, strict=True):
                assert np.isnan(value), (name, row, value)
                assert not any(g.any() for g in slopes), (name, row, slopes)


# --- what all of them do once ------------------------------------------------------------

ONE, EYE = np.ones(3, np.float32), np.eye(3, dtype=np.float32)

# Of numbers, of arrays and of both; integers, an interval, vectors and matrices.
FIRST_CALLS = (
    ("normal", (0, 1.0, 1.0, 2.0)),
    ("normal", (ONE, ONE, ONE, ONE)),
    ("normal", (0.0, ONE, np.float32(1.0), 2.0)),
    ("binomial", (np.arange(3), 0.5, np.int32(3), ONE / 2)),
    ("uniform", (0.0, ONE, 0.0, 2.0)),
    ("multivariate_normal_diag", (0.0, ONE, 1.0, ONE)),
    ("multivariate_normal", (0.0, EYE, ONE, EYE)),
    ("low_rank_multivariate_normal", (0.0, EYE, 1.0, ONE, EYE, ONE)),
)


@pytest.mark.parametrize(("name", "parameters"), FIRST_CALLS)
def test_a_first_call_outside_jit_compiles_one_program(name, parameters):
    with compilations() as programs:
        getattr(parametric, name)(*parameters)
    assert len(programs) == 1


def test_parameters_are_given_in_order_or_by_name():
    function = parametric.normal
    assert function(0.0, 1.0, scale_q=2.0, loc_q=1.0) == function(0.0, 1.0, 1.0, 2.0)
    missing = r"^parametric.normal: missing a required argument: 'scale_q'\.$"
    with pytest.raises(TypeError, match=missing):
        function(0.0, 1.0, 1.0)
    unknown = r"^parametric.normal: got an unexpected keyword argument 'scale'\.$"
    with pytest.raises(TypeError, match=unknown):
        function(0.0, 1.0, 1.0, 2.0, scale=1.0)


def test_parameters_are_real_numbers():
    for bad, pattern in (
        ("1", "an array, found str"),
        ([1.0], "an array, found list"),
        (None, "an array, found NoneType"),
        (np.array(["1"]), "an array of numbers, found dtype <U1"),
        (np.ones(2, complex), "floating point or of an integer type, found dtype complex"),
        (True, "floating point or of an integer type, found dtype bool"),
    ):
        with pytest.raises(TypeError, match=f"parametric.normal: loc_p must be {pattern}"):
            parametric.normal(bad, 1.0, 0.0, 1.0)


@pytest.mark.usefixtures("quickly")
def test_integers_are_numbers():
    """Of 32 and of 64 bits, beside any float, also where JAX would cut 64 bits to 32."""
    p, q = np.array([3, 2**24 + 1, 2**40]), np.array([4, 2**24 + 3, 2**41])
    expected = quick(parametric.poisson)(np.float32(p), np.float32(q))
    for x, y in ((p, q), (p, np.float32(q)), (np.uint64(p), q)):
        found = parametric.poisson(x, y)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=2e-6)
    small = jax.jit(parametric.gamma)(jnp.array(2), 1, jnp.arange(1, 4), np.int8(2))
    np.testing.assert_array_equal(
        small, quick(parametric.gamma)(2.0, 1.0, np.float32([1, 2, 3]), 2.0)
    )
    with jax.enable_x64(True):
        found = parametric.poisson(p, np.float64(q))
        assert found.dtype == jnp.float64
        expected = quick(parametric.poisson)(np.float64(p), np.float64(q))
        np.testing.assert_array_equal(found, expected)
        assert parametric.poisson(p, 2).dtype == jnp.float32


def test_parameters_are_checked_also_outside_jit():
    message = r"^parametric.uniform: high_p must be above the lower end, found 3 at index"
    with pytest.raises(ValueError, match=message):
        checked(parametric.uniform)(5.0, 3.0, 0.0, 10.0)
