"""Objects of NumPyro, TensorFlow Probability and Distrax, against mpmath.

What needs one of them is skipped where it is absent: the extra `interop` installs all.
"""

import collections
import functools
import math
import subprocess
import sys

import cross_grid
import jax
import jax.numpy as jnp
import libraries
import mpmath as mp
import numpy as np
import oracles
import parametric_grid
import parametric_oracles
import pytest
import test_cross
from oracles import DIGITS
from programs import optimized, quick
from test_parametric import BOUND, GRADIENT_BOUND, equal, relative_error, shapes

from kl_jax import checked, interop, kl_from_densities
from kl_jax.interop import KLBetween, _forms, kl_between

# The libraries warn at their import, of JAX's names and of NumPy's.
pytestmark = pytest.mark.filterwarnings("ignore:::", "error:::kl_jax")

MODULES = {
    "numpyro": "numpyro.distributions",
    "tfp": "tensorflow_probability.substrates.jax",
    "distrax": "distrax",
}
REGISTER = {
    "numpyro": interop.register_numpyro,
    "tfp": interop.register_tfp,
    "distrax": interop.register_distrax,
}


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """The libraries promote ranks and dtypes, which the other tests forbid."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def opened(name):
    """The distributions of a library, which uses kl_jax from then on."""
    reason = "not installed: it is part of the extra `interop`"
    module = pytest.importorskip(MODULES[name], reason=reason)
    REGISTER[name]()
    return module.distributions if name == "tfp" else module


@pytest.fixture
def numpyro():
    return opened("numpyro")


@pytest.fixture
def tfd():
    return opened("tfp")


@pytest.fixture
def distrax():
    return opened("distrax")


def of_library(name, d, p, q):
    """Its own call."""
    return d.kl_divergence(p, q) if name == "numpyro" else p.kl_divergence(q)


MAKE = {library: libraries.MAKE[library] for library in MODULES}
# NumPyro has no diagonal normal distribution: Independent is tested below.
FAMILIES = [
    (library, name)
    for library, makers in MAKE.items()
    for name in makers
    if (library, name) != ("numpyro", "multivariate_normal_diag")
]


def rows_of(name, count):
    """Pairs of one shape from the grid of test_parametric, of every kind there."""
    grid = parametric_grid.grid(name, "float32", np.random.default_rng(5))
    shape = collections.Counter(shapes(row) for _, row in grid).most_common(1)[0][0]
    rows = [row for _, row in grid if shapes(row) == shape]
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)]


@pytest.mark.parametrize(("library", "name"), FAMILIES)
def test_families(library, name):
    """Values by the library's own call and by `kl_between`, and gradients through it: those
    of `parametric`, within its bounds.
    """
    d, make = opened(library), MAKE[library][name]
    rows = rows_of(name, 16)

    def total(*parameters):
        half = len(parameters) // 2
        p, q = make(d, *parameters[:half]), make(d, *parameters[half:])
        values = of_library(library, d, p, q)
        return values.sum(), (values, kl_between(p, q))

    count = len(rows[0])
    columns = [np.asarray(x) for x in zip(*rows, strict=True)]
    # XLA without optimisation flushes a part of e^-80 to 0.
    how = optimized if name == "bernoulli_logits" else quick
    program = how(jax.grad(total, range(count), has_aux=True))
    slopes, (values, found) = program(*columns)
    assert found.rule == f"parametric.{name}"
    assert values.shape == (len(rows),)
    # XLA fuses the two calls in different ways: 1.4 ULP of `multinomial`.
    np.testing.assert_allclose(found.value, values, rtol=4e-7)
    for row, value in zip(rows, values.tolist(), strict=True):
        assert_relative(name, row, value)
    for i in [i for i, row in enumerate(rows) if not equal(name, row)][::4]:
        each = [slopes[k][i].ravel().tolist() for k in parametric_grid.parameters_of(name)]
        units = parametric_grid.units(name, rows[i])
        error, largest = parametric_oracles.gradient_error(name, rows[i], each, units)
        assert error <= GRADIENT_BOUND[name]["float32"] * largest, rows[i]


def assert_relative(name, row, value):
    """Within the error of `parametric`; 0 where p = q."""
    if equal(name, row):
        assert value == 0, row
    else:
        assert relative_error(name, row, value, "float32") <= BOUND[name]["float32"], row


# --- what falls out of a family --------------------------------------------------------

# Next to it in float32, so that a value that has lost its digits is seen.
NEAR = 1 + 2.0**-12


def true(name, *parameters):
    return parametric_oracles.kl(name, parameters)


def sigmoid(x):
    with mp.workdps(DIGITS):
        return 1 / (1 + mp.exp(-mp.mpf(x)))


def of_logits(name, *logits):
    """The closed form of probabilities that are no floats."""
    with mp.workdps(DIGITS):
        return parametric_oracles.formula(name)(*map(sigmoid, logits))


def of_softmax(x, y):
    """KL of two categorical distributions of these logits."""
    with mp.workdps(DIGITS):
        powers = [[mp.exp(mp.mpf(float(v))) for v in z] for z in (x, y)]
        p, q = ([v / mp.fsum(z) for v in z] for z in powers)
        return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q, strict=True))


OUTCOMES = np.array([0.5, -1, 2], "f4")

# name: (p, q, what they are, their KL). All of d, numpyro.distributions.
CROSS = {
    "exponential, gamma": (
        lambda d: (d.Exponential(1.5), d.Gamma(NEAR, 1.5)),
        ("parametric.gamma", true("gamma", 1.0, 1.5, NEAR, 1.5)),
    ),
    "gamma, exponential": (
        lambda d: (d.Gamma(2.0, 1.5), d.Exponential(0.5)),
        ("parametric.gamma", true("gamma", 2.0, 1.5, 1.0, 0.5)),
    ),
    "chi2, gamma": (
        lambda d: (d.Chi2(3.0), d.Gamma(1.5, 0.5 * NEAR)),
        ("parametric.gamma", true("gamma", 1.5, 0.5, 1.5, 0.5 * NEAR)),
    ),
    "exponential, chi2": (
        lambda d: (d.Exponential(0.5), d.Chi2(2 * NEAR)),
        ("parametric.gamma", true("chi2", 2.0, 2 * NEAR)),
    ),
    "uniform, beta": (
        lambda d: (d.Uniform(0.0, 1.0), d.Beta(1.0, NEAR)),
        ("parametric.cross.uniform_beta", true("beta", 1.0, 1.0, 1.0, NEAR)),
    ),
    "beta, uniform": (
        lambda d: (d.Beta(NEAR, 1.0), d.Uniform(0.0, 1.0)),
        ("parametric.cross.beta_uniform", true("beta", NEAR, 1.0, 1.0, 1.0)),
    ),
    "beta, wider uniform": (
        lambda d: (d.Beta(2.0, 3.0), d.Uniform(-1.0, 1.0)),
        ("parametric.cross.beta_uniform", true("beta", 2.0, 3.0, 1.0, 1.0) + mp.log(2)),
    ),
    "beta, uniform beside it": (
        lambda d: (d.Beta(2.0, 3.0), d.Uniform(0.25, 1.0)),
        ("parametric.cross.beta_uniform", mp.inf),
    ),
    "uniform beside beta": (
        lambda d: (d.Uniform(-0.25, 1.0), d.Beta(2.0, 3.0)),
        ("parametric.cross.uniform_beta", mp.inf),
    ),
}
# By logits: binomial and geometric in all three, as far as they have them.
LOGITS = {
    "geometric": (
        lambda d: (d.Geometric(logits=0.5), d.Geometric(logits=0.5 * NEAR)),
        ("interop.geometric_logits", of_logits("geometric", 0.5, 0.5 * NEAR)),
    ),
    "binomial": (
        lambda d: (
            d.Binomial(total_count=10.0, logits=0.5),
            d.Binomial(total_count=10.0, logits=0.5 * NEAR),
        ),
        ("interop.binomial_logits", 10 * of_logits("bernoulli", 0.5, 0.5 * NEAR)),
    ),
    "negative binomial": (
        lambda d: (
            d.NegativeBinomial(total_count=10.0, logits=0.5),
            d.NegativeBinomial(total_count=10.0, logits=0.5 * NEAR),
        ),
        (
            "interop.negative_binomial_logits",
            10 * of_logits("geometric", -0.5, -0.5 * NEAR),
        ),
    ),
    "multinomial": (
        lambda d: (
            d.Multinomial(total_count=10.0, logits=OUTCOMES),
            d.Multinomial(total_count=10.0, logits=OUTCOMES * np.float32(NEAR)),
        ),
        (
            "interop.multinomial_logits",
            10 * of_softmax(OUTCOMES, OUTCOMES * np.float32(NEAR)),
        ),
    ),
    "bernoulli of both": (
        lambda d: (d.Bernoulli(probs=0.25), d.Bernoulli(logits=0.5)),
        ("parametric.bernoulli_logits", true("bernoulli", 0.25, sigmoid(0.5))),
    ),
}


def assert_found(library, d, p, q, expected):
    """By the library's own call, and by `kl_between` with that rule."""
    rule, value = expected
    found = kl_between(p, q)
    assert found.rule == rule
    for x in (found.value, of_library(library, d, p, q)):
        if mp.isinf(value):
            assert x == np.inf
        else:
            # Of these the worst is 4e-7, a Gamma with one concentration.
            assert abs(mp.mpf(float(x)) - value) <= 1e-6 * value


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("name", [*CROSS, *LOGITS])
@pytest.mark.parametrize("library", ["numpyro", "tfp"])
def test_cross_pairs(library, name):
    d = opened(library)
    make, expected = (CROSS | LOGITS)[name]
    assert_found(library, d, *make(d), expected)


def cross_pairs():
    """(library, pair), of all pairs of which it has both classes; Distrax has one of them
    at least, and TFP the other.
    """
    for name, families in cross_grid.PAIRS.items():
        for library, makers in MAKE.items():
            enough = any if library == "distrax" else all
            if enough(family in makers for family in families):
                yield library, name


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(("library", "name"), list(cross_pairs()))
def test_pairs_of_two_families(library, name):
    """As good as `parametric.cross`, against the same oracle: q near p, and not."""
    rng, families = np.random.default_rng(7), cross_grid.PAIRS[name]
    rows = [cross_grid.everyday(name, rng) for _ in range(6)]
    rows += [cross_grid.nearest(name, by, rng, cross_grid.EVERYDAY) for by in (0, 1e-3)]
    rows = [test_cross.rounded(row, "float32") for row in rows]
    columns = [np.asarray(x, "f4") for x in zip(*rows, strict=True)]
    n, pair = cross_grid.of_p(name), []
    for family, parameters in zip(families, (columns[:n], columns[n:]), strict=True):
        of = library if family in MAKE[library] else "tfp"
        pair.append(MAKE[of][family](opened(of), *parameters))
    found = kl_between(*pair)
    of_one_family = set(families) == {"exponential", "gamma"}
    assert found.rule == f"parametric.{'gamma' if of_one_family else f'cross.{name}'}"
    values = of_library(library, opened(library), *pair)
    np.testing.assert_array_equal(found.value, values)
    for row, value in zip(rows, values.tolist(), strict=True):
        true = test_cross.oracle(name, row)
        assert abs(value - true) <= test_cross.BOUND[name]["float32"] * true, row


@pytest.mark.parametrize("library", MAKE)
def test_uniform_on_a_part_of_the_unit_interval(library):
    """Of [0, b], against a Beta distribution of density 2 x: 1 - log(2 b^2)."""
    d = opened(library)

    def kl(b):
        p, q = d.Uniform(0.0, b), d.Beta(2.0, 1.0)
        assert kl_between(p, q).rule == "parametric.cross.uniform_beta"
        return of_library(library, d, p, q)

    b = np.array([0.5, 2.0**-10], "f4")
    values, slopes = quick(jax.vmap(jax.value_and_grad(kl)))(b)
    np.testing.assert_allclose(values, 1 - np.log(2 * b * b), 1e-6)
    np.testing.assert_allclose(slopes, -2 / b, 1e-5)


@pytest.mark.parametrize("library", MAKE)
def test_logits_beside_another_family(library):
    """Of logit 0: by probs, which are 1/2, and for the continuous one uniform on [0, 1]."""
    d, tfd = opened(library), opened("tfp" if library == "distrax" else library)
    bernoulli = MAKE[library]["bernoulli_logits"](d, 0.0)
    found = kl_between(bernoulli, tfd.Poisson(1.0))
    assert found.rule == "parametric.cross.bernoulli_poisson"
    np.testing.assert_allclose(found.value, 1 - np.log(2), 1e-6)
    if library != "numpyro":
        found = kl_between(tfd.ContinuousBernoulli(logits=0.0), d.Uniform(0.0, 2.0))
        assert found.rule == "parametric.cross.continuous_bernoulli_uniform"
        np.testing.assert_allclose(found.value, np.log(2), 1e-6)


def normals(rng, *shape):
    """loc and scale."""
    return rng.normal(size=shape).astype("f4"), rng.uniform(0.5, 2, shape).astype("f4")


def kl_of_normals(p, q):
    """The sum of KL of components, exactly."""
    with mp.workdps(DIGITS):
        return mp.fsum(true("normal", *row) for row in zip(*p, *q, strict=True))


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("library", MAKE)
def test_independent_components_against_a_full_covariance(library):
    d = opened(library)
    rng = np.random.default_rng(0)
    loc, scale = normals(rng, 3)
    # A factor that is nearly diagonal, so that digits are lost if they are anywhere.
    factor = np.diag(scale * np.float32(NEAR)).astype("f4")
    factor[2, 0] = 2.0**-12
    base = d.Normal(loc, scale)
    independent = d.Independent(base, 1)
    full = MAKE[library]["multivariate_normal"](d, loc, factor)
    matrix = np.diag(scale)
    for p, q, row in (
        (independent, full, (loc, matrix, loc, factor)),
        (full, independent, (loc, factor, loc, matrix)),
    ):
        value = true("multivariate_normal", *row)
        assert_found(library, d, p, q, ("parametric.multivariate_normal", value))


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("library", ["tfp", "distrax"])
def test_independent_components_against_a_diagonal(library):
    """And a diagonal against a full covariance."""
    d = opened(library)
    rng = np.random.default_rng(1)
    p, q = normals(rng, 3), normals(rng, 3)
    independent = d.Independent(d.Normal(*p), 1)
    # The sign of a scale is that of a reflection.
    diagonal = d.MultivariateNormalDiag(q[0], q[1] * np.array([1, -1, 1], "f4"))
    full = MAKE[library]["multivariate_normal"](
        d, p[0], np.diag(p[1]) * np.array([[1, -1, -1]], "f4")
    )
    rule = "parametric.multivariate_normal_diag"
    value = kl_of_normals(p, q)
    assert_found(library, d, independent, diagonal, (rule, value))
    assert_found(library, d, diagonal, independent, (rule, kl_of_normals(q, p)))
    assert_found(library, d, full, diagonal, ("parametric.multivariate_normal", value))


@pytest.mark.parametrize("library", ["tfp", "distrax"])
def test_outside_the_domain_of_a_parameter(library):
    """They themselves have -1.3 where it is q's concentration, and 2.7 where it is p's."""
    d = opened(library)
    p, q = d.VonMises(0.0, 1.0), d.VonMises(1.0, -1.0)
    for pair in ((p, q), (q, p)):
        assert np.isnan(of_library(library, d, *pair))


# --- categorical -----------------------------------------------------------------------


def categorical(library, d, **given):
    if library != "numpyro":
        return d.Categorical(**given)
    return (
        d.CategoricalLogits(**given) if "logits" in given else d.CategoricalProbs(**given)
    )


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("library", MAKE)
def test_categorical(library):
    """By logits and by probs, of batches that broadcast; right where they are near."""
    d = opened(library)
    rng = np.random.default_rng(2)
    a = rng.normal(size=(2, 1, 5)).astype("f4")
    b = (a[0] + 1e-3 * rng.normal(size=(3, 5))).astype("f4")
    p, q = categorical(library, d, logits=a), categorical(library, d, logits=b)
    # Distrax has normalised them, and that rounds.
    a, b = (np.broadcast_to(np.asarray(x.logits), (2, 3, 5)) for x in (p, q))
    found = kl_between(p, q)
    assert found.rule == "kl_divergence"
    assert found.value.shape == (2, 3)
    np.testing.assert_array_equal(of_library(library, d, p, q), found.value)
    for i in np.ndindex(2, 3):
        # 4 ULP is the bound of kl_divergence.
        assert oracles.ulps(found.value[i], oracles.kl(a[i], b[i]), "float32") <= 4

    probs = np.array([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.7, 0.0]], "f4")
    near = np.array([0.5, 0.25 * NEAR, 0.25 * (2 - NEAR), 0.0], "f4")
    p, q = categorical(library, d, probs=probs), categorical(library, d, probs=near)
    values = of_library(library, d, p, q)
    for value, row in zip(values, np.asarray(p.probs), strict=True):
        with mp.workdps(DIGITS):
            logs = [
                [mp.log(mp.mpf(float(x))) if x else -mp.inf for x in z]
                for z in (row, np.asarray(q.probs))
            ]
        # The logarithms are rounded: a digit of those that differ by 2^-13.
        exact = oracles.kl(*logs)
        assert abs(mp.mpf(float(value)) - exact) <= 2e-3 * exact
    assert of_library(library, d, p, p).max() == 0
    uniform = categorical(library, d, probs=np.full(4, 0.25, "f4"))
    assert np.isinf(of_library(library, d, uniform, q))
    by_logits = categorical(library, d, logits=np.log(np.full(4, 0.25, "f4")))
    assert kl_between(by_logits, uniform).value < 1e-13  # one of them was rounded


def test_outcomes_that_round_to_0():
    """Distrax's KL is finite there, TFP's is inf."""
    a, b = np.array([0, 0, -200], "f4"), np.array([0, 1, -np.inf], "f4")
    values = {}
    for library in ("distrax", "tfp"):
        d = opened(library)
        p, q = categorical(library, d, logits=a), categorical(library, d, logits=b)
        values[library] = float(kl_between(p, q).value)
    assert values["tfp"] == np.inf
    exact = oracles.kl(a[:2], b[:2])
    assert oracles.ulps(np.float32(values["distrax"]), exact, "float32") <= 4


@pytest.mark.parametrize("library", MAKE)
def test_other_numbers_of_outcomes(library):
    d = opened(library)
    p, q = (categorical(library, d, logits=np.zeros(n, "f4")) for n in (3, 1))
    with pytest.raises(ValueError, match="as many outcomes as p, 3, found 1"):
        kl_between(p, q)
    with pytest.raises(ValueError, match="as many outcomes as p, 3, found 1"):
        of_library(library, d, p, q)
    p, q = (d.Dirichlet(np.ones(n, "f4")) for n in (3, 2))
    message = (
        r"parametric.dirichlet: q must have the event_shape of p, \(3,\), found \(2,\)"
    )
    with pytest.raises(ValueError, match=message):
        kl_between(p, q)


# --- what is made of others ------------------------------------------------------------


def assert_same(d, p, q, shape, value=None, rule="parametric.normal"):
    """The library's call, `kl_between`, and what they are."""
    theirs, found = d.kl_divergence(p, q), kl_between(p, q)
    assert found.rule == rule
    assert found.value.shape == shape
    np.testing.assert_array_equal(theirs, found.value)
    if value is not None:
        # Sums of few terms, each within 1e-6.
        np.testing.assert_allclose(found.value, np.asarray(value, "f8"), 1e-6)


@pytest.mark.usefixtures("quickly")
def test_made_of_others_in_numpyro(numpyro):
    d = numpyro
    rng = np.random.default_rng(3)
    p, q = normals(rng, 2, 3), normals(rng, 3)
    each = np.array(
        [
            [true("normal", p[0][i, j], p[1][i, j], q[0][j], q[1][j]) for j in range(3)]
            for i in range(2)
        ],
        dtype=object,
    ).astype("f8")
    a, b = d.Normal(*p), d.Normal(*q)
    assert_same(d, a, b, (2, 3), each)
    assert_same(d, a.to_event(1), b.to_event(1), (2,), each.sum(1))
    assert_same(d, a.to_event(2), b.expand((2, 3)).to_event(2), (), each.sum())
    # One of them twice independent: what both share is summed, then the rest.
    twice = d.Independent(a.to_event(1), 1)
    assert_same(d, twice, b.expand((2, 3)).to_event(2), (), each.sum())
    wide = np.broadcast_to(each, (4, 2, 3))
    assert_same(d, a.expand((4, 2, 3)), b, (4, 2, 3), wide)
    assert_same(d, a, b.expand((4, 2, 3)), (4, 2, 3), wide)
    assert_same(d, a.expand((4, 2, 3)).to_event(1), b.to_event(1), (4, 2), wide.sum(2))
    assert_same(d, d.Normal(0.0, 1.0).expand((3,)), d.Normal(1.0, 1.0), (3,), [0.5] * 3)

    keep = np.array([True, False, True])
    assert_same(d, a.mask(keep), b.mask(True).mask(keep), (2, 3), each * keep)
    other = np.array([[True], [False]])
    assert_same(d, a.mask(keep), b.expand((2, 3)).mask(other), (2, 3), each * keep * other)
    sums = (each * keep).sum(1)
    assert_same(d, a.mask(keep).to_event(1), b.mask(keep).to_event(1), (2,), sums)
    nothing = a.mask(False), b.mask(keep)
    assert_same(d, *nothing, (), 0.0, "numpyro")
    with pytest.raises(ValueError, match=r"kl_between: q must have the event_shape of p"):
        kl_between(a.to_event(1), d.Normal(0.0, np.ones(1, "f4")).to_event(1))


@pytest.mark.usefixtures("quickly")
def test_made_of_others_in_tfp(tfd):
    d = tfd
    rng = np.random.default_rng(3)
    p, q = normals(rng, 2, 3), normals(rng, 2, 3)
    each = np.array(
        [
            [true("normal", *row) for row in zip(*x, strict=True)]
            for x in zip(*p, *q, strict=True)
        ],
        dtype=object,
    ).astype("f8")
    a, b = d.Normal(*p), d.Normal(*q)
    assert_same(d, d.Independent(a, 1), d.Independent(b, 1), (2,), each.sum(1))
    nested = [d.Independent(d.Independent(x, 1), 1) for x in (a, b)]
    assert_same(d, *nested, (), each.sum())
    keep, other = np.array([True, False, False]), np.array([True, True, False])
    masked = np.where(keep == other, np.where(keep, each, 0), np.nan)
    assert_same(d, d.Masked(a, keep), d.Masked(b, other), (2, 3), masked)
    strict = [d.Masked(x, m, allow_nan_stats=False) for x, m in ((a, keep), (b, other))]
    with pytest.raises(ValueError, match="matching mask"):
        kl_between(*strict)
    samples = [d.Sample(x, 5) for x in (a, b)]
    assert_same(d, *samples, (2, 3), 5 * each, "tfp")
    with pytest.raises(ValueError, match="event_shape"):
        kl_between(d.Independent(a, 1), d.Independent(d.Normal(0.0, np.ones(1, "f4")), 1))


@pytest.mark.usefixtures("quickly")
def test_distrax_beside_tfp(distrax, tfd):
    rng = np.random.default_rng(4)
    p, q = normals(rng, 3), normals(rng, 3)
    value = float(kl_of_normals(p, q))
    for a in (distrax, tfd):
        for b in (distrax, tfd):
            pair = [d.Independent(d.Normal(*x), 1) for d, x in ((a, p), (b, q))]
            assert_same(tfd, *pair, (), value)
            diagonal = [d.MultivariateNormalDiag(*x) for d, x in ((a, p), (b, q))]
            rule = "parametric.multivariate_normal_diag"
            assert_same(tfd, *diagonal, (), value, rule)
    # Of one of each, also by Distrax's own call: 1e-8, where the textbook's rounds to 1e-7.
    b = float(np.float32(2.0002))
    found = distrax.Gamma(2.0, 1.0).kl_divergence(tfd.Gamma(np.float32(b), 1.0))
    exact = float(true("gamma", 2.0, 1.0, b, 1.0))
    assert abs(float(found) - exact) <= 1e-6 * exact
    wrapped = distrax.as_distribution(tfd.Cauchy(0.5, 1.0))
    cauchy = float(true("cauchy", 0.5, 1.0, 1.0, 2.0))
    assert_same(tfd, wrapped, tfd.Cauchy(1.0, 2.0), (), cauchy, "parametric.cauchy")
    # A Beta is a Dirichlet distribution of two, a one-hot distribution a categorical one.
    beta, dirichlet = distrax.Beta(2.0, 3.0), distrax.Dirichlet(np.array([1.5, 4.0], "f4"))
    assert_same(
        *(tfd, beta, dirichlet, (), true("beta", 2.0, 3.0, 1.5, 4.0)),
        rule="parametric.dirichlet",
    )
    with pytest.raises(ValueError, match="as many outcomes as p, 2, found 3"):
        kl_between(beta, distrax.Dirichlet(np.ones(3, "f4")))
    logits = np.zeros(3, "f4"), np.arange(3, dtype="f4")
    pair = distrax.OneHotCategorical(logits[0]), distrax.Categorical(logits[1])
    assert kl_between(*pair).rule == "kl_divergence"
    # An upper triangular scale is left to Distrax.
    upper = distrax.MultivariateNormalTri(p[0], np.eye(3, dtype="f4"), is_lower=False)
    assert kl_between(upper, diagonal[1]).rule == "distrax"


# --- what remains the library's --------------------------------------------------------


@pytest.mark.usefixtures("quickly")
def test_what_remains_of_numpyro(numpyro):
    d = numpyro
    v = np.array([0.5, -1.0], "f4")
    found = kl_between(d.Delta(v), d.Normal(0.0, 1.0))
    assert found.rule == "numpyro"
    np.testing.assert_allclose(found.value, -d.Normal(0.0, 1.0).log_prob(v))
    # A mass function too, and as a part of others.
    found = kl_between(d.Delta(v, event_dim=1), d.Normal(0.0, 1.0).expand((2,)).to_event(1))
    assert found.value.shape == ()
    found = kl_between(d.Kumaraswamy(2.0, 3.0), d.Beta(2.0, 3.0))
    assert found.rule == "numpyro"


def test_registering_twice(numpyro, tfd, distrax):
    registry = tfd.kullback_leibler._DIVERGENCES
    before = dict(numpyro.kl_divergence.funcs), dict(registry)
    for register in REGISTER.values():
        register()
    assert before == (dict(numpyro.kl_divergence.funcs), dict(registry))


@pytest.mark.usefixtures("quickly")
def test_a_scale_of_another_kind(tfd):
    """What was registered falls back to what the library had."""
    one = np.ones(2, "f4")
    p = tfd.MultivariateNormalDiagPlusLowRank(0 * one, one, np.ones((2, 1), "f4"))
    q = tfd.MultivariateNormalDiag(0 * one, one)
    found = kl_between(p, q)
    assert found.rule == "tfp"
    # The covariance is (I + 1 1^T)^2, of eigenvalues 1 and 9.
    np.testing.assert_allclose(found.value, (8 - np.log(9)) / 2, 1e-6)
    p, q = (tfd.Gamma(2.0, log_rate=x) for x in (0.0, 1.0))
    assert kl_between(p, q).rule == "tfp"


# --- errors ----------------------------------------------------------------------------


@pytest.mark.usefixtures("quickly")
def test_pairs_without_a_closed_form(numpyro, tfd):
    for d in (numpyro, tfd):
        p, q = d.Logistic(0.0, 1.0), d.Normal(0.0, 1.0)
        message = r"(?s)Logistic, and q, .*Normal\. .*kl_from_densities\(.*kl_estimate\("
        with pytest.raises(NotImplementedError, match=message):
            kl_between(p, q)
    independent = numpyro.Independent(numpyro.Gumbel(np.zeros(2, "f4"), 1.0), 1)
    with pytest.raises(NotImplementedError, match="MultivariateNormal"):
        numpyro.kl_divergence(
            independent, numpyro.MultivariateNormal(0.0, np.eye(2, dtype="f4"))
        )


@pytest.mark.usefixtures("quickly")
def test_what_the_message_says(numpyro):
    p, q = numpyro.Logistic(0.5, 1.0), numpyro.Normal(0.0, 1.0)
    value = kl_from_densities(p.log_prob, q.log_prob, -np.inf, np.inf, points=[0.5])
    # log(sqrt(2 pi)) - 2 + (pi^2 / 3 + 1/4) / 2
    np.testing.assert_allclose(value, np.log(2 * np.pi) / 2 - 1.875 + np.pi**2 / 6, 1e-5)


def test_what_is_no_distribution(numpyro, tfd):
    with pytest.raises(TypeError, match=r"kl_between: p must be a distribution of numpyro"):
        kl_between(jnp.zeros(3), numpyro.Normal(0.0, 1.0))
    with pytest.raises(TypeError, match="p and q must be of one library"):
        kl_between(numpyro.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0))


@pytest.mark.parametrize("library", MODULES)
def test_without_the_library(library, monkeypatch):
    for name in (MODULES[library], MODULES[library].split(".")[0]):
        monkeypatch.setitem(sys.modules, name, None)
    message = rf"register_{library}: {MODULES[library]} cannot be .*the extra\s`interop`"
    with pytest.raises(ImportError, match=message):
        REGISTER[library]()


def test_nothing_is_imported_before_it_is_called():
    code = """
import sys
import kl_jax
assert "kl_jax.interop" not in sys.modules
from kl_jax import interop
found = {"numpyro", "tensorflow_probability", "distrax"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- transformations of JAX ------------------------------------------------------------


def test_transformations(numpyro):
    d = numpyro

    def found(scale):
        return kl_between(d.Normal(0.0, scale), d.Normal(0.5, 1.0))

    scales = np.array([0.5, 1.0, 2.0], "f4")
    value = lambda s: -np.log(s) + (s * s + 0.25) / 2 - 0.5
    mapped = jax.jit(jax.vmap(found))(scales)
    assert isinstance(mapped, KLBetween)
    assert mapped.rule == "parametric.normal"
    np.testing.assert_allclose(mapped.value, value(scales), 1e-6)
    slope = jax.jit(jax.grad(lambda s: found(s).value))(np.float32(2))
    np.testing.assert_allclose(slope, 2 - 1 / 2, 1e-6)
    # Objects as arguments: numpyro's are pytrees.
    both = jax.jit(kl_between)(d.Normal(0.0, scales), d.Normal(0.5, 1.0))
    np.testing.assert_allclose(both.value, value(scales), 1e-6)
    with pytest.raises(ValueError, match=r"parametric.normal: scale_p must be > 0"):
        checked(jax.jit(lambda s: found(s).value))(np.float32(-1))
    assert np.isnan(jax.jit(found)(np.float32(-1)).value)


# --- the forms that are made of others -------------------------------------------------


def test_geometric_by_logits():
    """To probabilities of e^-100, where those of a Bernoulli distribution underflow."""
    rows = [(x, x + by) for x in (-100, -41, -39, -5, 0.5, 5) for by in (2.0**-12, 1, -1)]
    x, y = np.array([*rows, (-100, -30), (-50, 5), (-42, -35), (2, 2)], "f4").T
    values, slopes = quick(
        lambda *z: (
            _forms.geometric_logits(*z),
            jax.vjp(_forms.geometric_logits, *z)[1](jnp.ones(len(x))),
        )
    )(x, y)
    for a, b, value in zip(x, y, values, strict=True):
        with mp.workdps(DIGITS):
            # 4.4 ULP of bernoulli_logits, twice; of e^70 the 70 is rounded.
            exact = of_logits("geometric", float(a), float(b))
            bound = 1e-5 if b - a > 9 else 1e-6
            assert abs(mp.mpf(float(value)) - exact) <= bound * exact, (a, b)
    assert np.isfinite(slopes).all()


def test_binomial_by_logits():
    n, m = np.array([5, 5, 6, 4, 0], "f4"), np.array([5, 5, 5, 5, 0], "f4")
    x, y = np.array([0.5, -3, 1, 1, 1], "f4"), np.array([0.5 * NEAR, 2, 1, 1, np.inf], "f4")
    values = quick(_forms.binomial_logits)(n, x, m, y)
    for i in range(2):
        exact = 5 * of_logits("bernoulli", float(x[i]), float(y[i]))
        assert abs(mp.mpf(float(values[i])) - exact) <= 1e-6 * exact
    np.testing.assert_array_equal(values[2:], [np.inf, np.nan, 0])


def test_negative_binomial_and_multinomial_by_logits():
    n, m = np.array([5, 5, 6, 0, 0], "f4"), np.array([5, 5, 5, 5, 0], "f4")
    x, y = np.array([0.5, -3, 1, 1, 1], "f4"), np.array([0.5 * NEAR, 2, 1, 1, np.inf], "f4")
    values = quick(_forms.negative_binomial_logits)(n, x, m, y)
    for i in range(2):
        exact = 5 * of_logits("geometric", float(-x[i]), float(-y[i]))
        assert abs(mp.mpf(float(values[i])) - exact) <= 1e-6 * exact
    # Without failures p is 0 for certain: a q of 5 is that with (1 - q)^5.
    none = 5 * math.log1p(math.exp(1))
    np.testing.assert_allclose(values[2:], [np.nan, none, 0], rtol=1e-6)
    far = np.stack([OUTCOMES, OUTCOMES, *2 * [np.float32([0, 0, -np.inf])]])
    n, m = np.array([3, 3, 3, 0], "f4"), np.array([3, 4, 3, 0], "f4")
    found = quick(_forms.multinomial_logits)(n, far, m, far[:, ::-1])
    exact = float(3 * of_softmax(OUTCOMES, OUTCOMES[::-1]))
    np.testing.assert_allclose(found, [exact, np.inf, np.inf, 0], rtol=1e-6)


def test_truncated_normals_of_numpyro(numpyro):
    """Cut below, above or at both ends: one family."""
    below = numpyro.TruncatedNormal(0.0, 1.0, low=0.5)
    above = numpyro.TruncatedNormal(0.0, 1.0, high=2.0)
    both = numpyro.TruncatedNormal(0.0, 1.0, low=0.5, high=2.0)
    found = kl_between(below, numpyro.TruncatedNormal(1.0, 2.0, low=0.5))
    exact = true("truncated_normal", 0.0, 1.0, 0.5, np.inf, 1.0, 2.0, 0.5, np.inf)
    assert found.rule == "parametric.truncated_normal"
    assert abs(float(found.value) / float(exact) - 1) <= 1e-6
    assert kl_between(above, below).value == np.inf
    assert np.isnan(kl_between(both, below).value)  # a part of its interval
    laplace = numpyro.LeftTruncatedDistribution(numpyro.Laplace(0.0, 1.0), low=0.5)
    with pytest.raises(NotImplementedError, match="neither kl_jax nor"):
        kl_between(laplace, laplace)


def test_wishart_of_cholesky_factors(tfd):
    """Is of other events than one of matrices."""
    eye = np.eye(2, dtype="f4")
    factors = tfd.WishartTriL(3.0, eye, input_output_cholesky=True)
    assert kl_between(tfd.WishartTriL(3.0, eye), tfd.WishartTriL(3.0, eye)).value == 0
    with pytest.raises(NotImplementedError, match="neither kl_jax nor"):
        kl_between(factors, tfd.WishartTriL(3.0, eye))


def test_poisson_by_log_rates():
    """Of rates from e^-100 to e^80, both ways."""
    x = np.array([0.5, 0.5, 3, -100, 80, -3, -np.inf, -np.inf, 0, -90, 1], "f4")
    y = np.array([0.5 * NEAR, 1.5, -2, -2, 79, -4.5, -np.inf, 1, -np.inf, 3, 2], "f4")
    values = quick(_forms.poisson_log_rate)(x, y)
    for a, b, value in zip(x.tolist(), y.tolist(), values, strict=True):
        if np.isfinite([a, b]).all():
            with mp.workdps(DIGITS):
                exact = parametric_oracles.poisson(mp.exp(a), mp.exp(b))
                # e^x is right to 1 ULP of x = 80: 5e-6.
                assert abs(mp.mpf(float(value)) - exact) <= 1e-5 * exact, (a, b)
    np.testing.assert_allclose(values[6:9], [0, np.exp(1.0), np.inf], 1e-6)
