"""Mixtures of distributions against mpmath, derivatives, and Jensen-Shannon of many; and
bounds of KL between mixtures of components, against mpmath, quadrature and known cases.
"""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from programs import optimized, quick

from kl_jax import (
    jensen_shannon_divergence,
    kl_divergence,
    kl_estimate,
    mixture_kl_approximation,
    mixture_kl_upper_bound,
    mixture_logits,
)

INF, NAN = np.inf, np.nan
WEIGHTS = np.array([2.0, 1.0, 0.0, 0.5], "f4")


def exact(logits, weights):
    """log of the weighted mean, of a stack [n, outcomes]."""
    with mp.workdps(oracles.DIGITS):
        rows = [oracles.softmax(row) for row in logits]
        total = mp.fsum(mp.mpf(float(w)) for w in weights)
        masses = [
            mp.fsum(mp.mpf(float(w)) * row[k] for w, row in zip(weights, rows, strict=True))
            for k in range(len(rows[0]))
        ]
        return [mp.log(m / total) if m else -mp.inf for m in masses]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_mean_of_softmaxes(weights, dtype):
    rng = np.random.default_rng(0)
    scale = np.array([0.01, 1, 20])[:, None, None]
    logits = (rng.normal(size=(3, 4, 9)) * scale + 1000 * (scale > 1)).astype(dtype)
    logits[:, :, 3] = -INF
    logits[1, :3, 4] = -INF
    weights = None if weights is None else weights.astype(dtype)
    found = optimized(mixture_logits, static_argnames="axis")(logits, weights, axis=1)
    assert found.shape == (3, 9)
    assert found.dtype == dtype
    for row, stack in zip(found, logits, strict=True):
        true = exact(stack, np.ones(4) if weights is None else weights)
        for f, t in zip(row.tolist(), true, strict=True):
            if mp.isinf(t):
                assert f == -INF
            else:
                assert abs(f - t) <= 4 * float(np.finfo(dtype).eps) * max(1, abs(t))


def test_derivatives_against_the_textbook_and_where_nothing_is():
    """Logits of -inf in some and in all, a distribution without outcomes, a weight of 0."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 6)).astype("f4")
    logits[:, 2] = logits[1, 3] = -INF
    empty = logits.copy()
    empty[3] = -INF
    coefficients = rng.normal(size=6).astype("f4")

    def ours(x, w):
        m = mixture_logits(x, w)
        return jnp.sum(coefficients * jnp.where(m == -INF, 0, m))

    def textbook(x, w):
        mean = jnp.tensordot(w / w.sum(), jax.nn.softmax(x, -1), 1)
        return jnp.sum(
            coefficients * jnp.where(mean == 0, 0, jnp.log(jnp.where(mean == 0, 1, mean)))
        )

    def derivatives(f, x):
        gradient = jax.grad(f, (0, 1))
        total = lambda *args: sum(jnp.sum(jnp.sin(g)) for g in gradient(*args))
        return gradient(x, WEIGHTS), jax.grad(total, (0, 1))(x, WEIGHTS)

    found, true, of_empty = quick(
        lambda: (
            derivatives(ours, logits),
            derivatives(textbook, logits),
            derivatives(ours, empty),
        )
    )()
    for f, t in zip(*map(jax.tree.leaves, (found, true)), strict=True):
        np.testing.assert_allclose(f, t, rtol=2e-5, atol=1e-6)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(of_empty))


def test_jensen_shannon_of_many():
    """The mean KL from the mixture: that of two, and its gradient with a class in none."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(2, 5, 7)).astype("f4")
    z[:, :, 3] = -INF

    def of_many(z):
        m = mixture_logits(z)
        return sum(kl_divergence(x, m) for x in z) / len(z)

    both = lambda f: jax.value_and_grad(lambda z: f(z).sum())
    found, true = quick(
        lambda z: (both(of_many)(z), both(lambda z: jensen_shannon_divergence(*z))(z))
    )(z)
    for f, t in zip(*map(jax.tree.leaves, (found, true)), strict=True):
        np.testing.assert_allclose(f, t, rtol=1e-5, atol=1e-6)


def test_boundary():
    logits = np.array([[INF, 0, -INF], [0, 0, -INF], [-INF] * 3], "f4")
    mixture = quick(mixture_logits)
    np.testing.assert_allclose(np.exp(mixture(logits)), [0.5, 1 / 6, 0], atol=1e-6)
    np.testing.assert_array_equal(mixture(logits[2:]), -INF)
    assert np.isnan(mixture(np.array([[NAN, 0], [0, 0]], "f4"))).all()
    assert np.isnan(mixture(logits[:2], np.zeros(2, "f4"))).all()


# --- KL by that of components -------------------------------------------------------

approximation = optimized(mixture_kl_approximation)
upper_bound = optimized(mixture_kl_upper_bound, static_argnames="steps")


def normals(rng, n, spread=3.0):
    """log-weights, means and scales of a mixture, in float64."""
    weights = rng.dirichlet(np.ones(n))
    return np.log(weights), rng.normal(size=n) * spread, np.exp(rng.normal(size=n) / 2)


def kl_of_normals(p, q):
    (_, m, s), (_, n, t) = p, q
    r = s[:, None] / t
    return ((m[:, None] - n) / t) ** 2 / 2 + (r**2 - 1) / 2 - np.log(r)


def bhattacharyya_of_normals(p):
    _, m, s = p
    square = s[:, None] ** 2 + s**2
    apart = (m[:, None] - m) ** 2 / (4 * square)
    return apart + np.log(square / (2 * s[:, None] * s)) / 2


def overlap_of_normals(p, q):
    """-log of the integral of f_a g_b, less the entropy of f_a."""
    (_, m, s), (_, n, t) = p, q
    square = s[:, None] ** 2 + t**2
    log_overlap = -((m[:, None] - n) ** 2 / square + np.log(2 * np.pi * square)) / 2
    return -log_overlap - np.log(2 * np.pi * np.e * s[:, None] ** 2) / 2


def log_density(x, mixture):
    log_weights, m, s = mixture
    log_f = -(((x[:, None] - m) / s) ** 2) / 2 - np.log(s) - np.log(2 * np.pi) / 2
    return np.logaddexp.reduce(log_weights + log_f, axis=1)


def by_quadrature(p, q):
    """Trapezia of an analytic integrand: 1e-12 of it, from 40 scales out on nothing."""
    ends = (p[1] - 40 * p[2]).min(), (p[1] + 40 * p[2]).max()
    x = np.linspace(*ends, 200_001)
    log_p, log_q = log_density(x, p), log_density(x, q)
    return np.sum(np.exp(log_p) * (log_p - log_q)) * (x[1] - x[0])


def exact_approximation(v, w, c, d):
    """The formula, and the mean of |log w / v - (d - c)| or, of pairs that do not agree,
    of 1 and the logarithms: what it is given is taken for exact.
    """
    with mp.workdps(oracles.DIGITS):
        v, w = ([mp.mpf(float(x)) for x in y] for y in (v, w))
        share = oracles.softmax(v)
        log_sum = lambda x, y: mp.log(mp.fsum(mp.exp(a - b) for a, b in zip(x, y)))  # noqa: B905
        none = [mp.mpf(0)] * 99
        value = size = mp.mpf(0)
        for weight, to_p, to_q in zip(share, c, d, strict=True):
            to_p, to_q = ([mp.mpf(float(x)) for x in y] for y in (to_p, to_q))
            a, b = log_sum(v, to_p), log_sum(w, to_q)
            value += weight * (a - b)
            if len(v) == len(w):
                r = oracles.softmax([x - y for x, y in zip(v, to_p, strict=True)])
                apart = [abs(w[i] - v[i] - (to_q[i] - to_p[i])) for i in range(len(v))]
                near = mp.fsum(x * y for x, y in zip(r, apart, strict=True))
            else:
                near = mp.inf
            size += weight * min(near, 1 + abs(a) + abs(b))
        return value - (log_sum(v, none) - log_sum(w, none)), size


def mixtures_of_normals(kind, count, dtype):
    """Arguments of mixtures that differ by noise, in another order, or of 5 and 3
    components, with weights up to a constant.
    """
    rng = np.random.default_rng(3)
    cases = []
    for _ in range(count):
        p = normals(rng, 5, spread=30 if kind == "reversed" else 3)
        if kind == "reversed":
            q = p[0][::-1] + 0.5, p[1][::-1], p[2][::-1]
        elif kind == "uneven":
            q = normals(rng, 3)
            q = q[0] + 0.5, *q[1:]
        else:
            q = *(x + kind * rng.normal(size=5) for x in p[:2]), p[2]
        cases.append((p[0], q[0], kl_of_normals(p, p), kl_of_normals(p, q)))
    return [np.stack(x).astype(dtype) for x in zip(*cases, strict=True)]


@pytest.mark.parametrize("kind", [1e-7, 1e-3, 1.0, "reversed", "uneven"])
def test_the_approximation_is_its_formula(kind, dtype):
    stacks = mixtures_of_normals(kind, 4, dtype)
    found = approximation(*stacks)
    assert found.dtype == dtype
    for f, *case in zip(found, *stacks, strict=True):
        true, size = exact_approximation(*case)
        assert abs(f - true) <= 6 * float(np.finfo(dtype).eps) * size


@pytest.mark.slow
def test_bounds_of_mixtures_of_normals():
    """The three rows of the table, and the variational bound, against quadrature."""
    rng = np.random.default_rng(4)
    kinds = {"lower": [], "kl": [], "approximation": [], "upper": [], "coupled": []}
    for k in range(40):
        p = normals(rng, 3, spread=(0.3, 1.0, 3.0, 10.0)[k % 4])
        q = normals(rng, 4, spread=(0.3, 1.0, 3.0, 10.0)[k % 4])
        pp, pq = kl_of_normals(p, p), kl_of_normals(p, q)
        weights = p[0], q[0]
        kinds["kl"].append(by_quadrature(p, q))
        kinds["lower"].append((*weights, pp, overlap_of_normals(p, q)))
        kinds["approximation"].append((*weights, pp, pq))
        kinds["upper"].append((*weights, bhattacharyya_of_normals(p), pq))
        kinds["coupled"].append((*weights, pq))
    stacked = lambda kind: map(np.float32, map(np.stack, zip(*kinds[kind], strict=True)))
    kl = np.array(kinds["kl"])
    lower, upper = (approximation(*stacked(kind)) for kind in ("lower", "upper"))
    coupled = upper_bound(*stacked("coupled"))
    # What rounding to float32 may change: the distances by 1e-7 of themselves.
    for bound in (upper, coupled):
        assert (bound > kl * (1 - 1e-5)).all()
    assert (lower < kl * (1 + 1e-5)).all()
    # None is there for nothing: the medians are 0.38, 1.05, 1.47 and 1.39 times KL.
    every = lower, approximation(*stacked("approximation")), upper, coupled
    ratios = np.median(np.stack(every) / kl, 1)
    assert (ratios > [0.3, 0.9, 1.0, 1.0]).all()
    assert (ratios < [1.0, 1.2, 1.6, 1.6]).all()
    assert 5 < (upper < coupled).sum() < 35


def test_equal_mixtures_and_lone_components():
    """0 where they are equal: in another order, and with a component in two halves."""
    rng = np.random.default_rng(5)
    p = normals(rng, 4, spread=0.1)
    v, pp = p[0].astype("f4"), kl_of_normals(p, p).astype("f4")
    assert approximation(v, v, pp, pp) == 0
    assert upper_bound(v, v, pp) == 0
    order = np.array([2, 0, 3, 1])
    assert upper_bound(v, v[order], pp[:, order]) == 0
    assert abs(approximation(v, v[order], pp, pp[:, order])) < 1e-6
    # Shares of 0.25 and 0.75 of a component: the logarithms of the weights are rounded.
    halves = np.append(v, v[3] + np.log(np.float32(0.25)))
    halves[3] += np.log(np.float32(0.75))
    index = np.append(np.arange(4), 3)
    assert 0 <= upper_bound(halves, v, pp[index]) < 1e-13
    assert 0 <= upper_bound(v, halves, pp[:, index]) < 1e-13
    # KL(f || g), to the bit.
    one, d = np.zeros(1, "f4"), np.full((1, 1), 0.7, "f4")
    assert upper_bound(one, one + 2, d) == approximation(one, one, 0 * d, d) == d[0, 0]
    # Components that share no mass: the KL of the weights, also in another order.
    far = np.where(np.eye(4) == 1, 0, INF).astype("f4")
    w = rng.normal(size=4).astype("f4")
    true = quick(kl_divergence)(v, w)
    np.testing.assert_allclose(upper_bound(v, w, far), true, rtol=1e-6)
    np.testing.assert_allclose(upper_bound(v, w[order], far[:, order]), true, rtol=1e-6)
    np.testing.assert_allclose(approximation(v, w, far, far), true, rtol=1e-6)


def that_nearly_agree(noise, count, dtype):
    """Weights of p and of q, and the KLs of their components."""
    rng = np.random.default_rng(6)
    cases = []
    for _ in range(count):
        p = normals(rng, 5)
        q = p[0] + noise * rng.normal(size=5), p[1] + noise * rng.normal(size=5), p[2]
        cases.append((p[0], q[0], kl_of_normals(p, q)))
    return [np.stack(x).astype(dtype) for x in zip(*cases, strict=True)]


def bound_of_pairs(v, w, d):
    """The bound where each component is coupled with the one of its index."""
    with mp.workdps(oracles.DIGITS):
        share = oracles.softmax(v)
        pairs = mp.fsum(x * mp.mpf(float(d[i, i])) for i, x in enumerate(share))
        return pairs + oracles.kl(v, w)


@pytest.mark.parametrize("noise", [1e-6, 1e-2])
def test_the_upper_bound_of_mixtures_that_nearly_agree(noise):
    """That of the nearest components, in mpmath, to a few ULP; in another order too."""
    order = np.random.default_rng(6).permutation(5)
    for v, w, d in zip(*that_nearly_agree(noise, 4, "f4"), strict=True):
        true = bound_of_pairs(v, w, d)
        for found in (upper_bound(v, w, d), upper_bound(v, w[order], d[:, order])):
            assert oracles.ulps(found, true, "float32") <= 4


@pytest.mark.slow  # six programs of loops
def test_the_upper_bound_by_steps():
    """The first step is Hershey and Olsen's, no step is for the worse, and after k of them
    the bound is within log(1 / min w) / k of the least on a grid of couplings.
    """
    rng = np.random.default_rng(7)
    v, w = (rng.normal(size=(9, 2)).astype("f4") for _ in range(2))
    d = rng.exponential(size=(9, 2, 2)).astype("f4")
    share, other = (np.asarray(jax.nn.softmax(x), "f8")[:, None, None] for x in (v, w))
    grid = np.linspace(0, 1, 401)
    t = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)  # of the first component of q
    s = (share * t).sum(-1)
    divergence = lambda s, w: np.where(s > 0, s * np.log(np.maximum(s, 1e-300) / w), 0)
    weights = divergence(s, other[..., 0]) + divergence(1 - s, other[..., 1])
    d0, d1 = d[:, None, None, :, 0], d[:, None, None, :, 1]
    within = (share * (t * d0 + (1 - t) * d1)).sum(-1)
    least = (weights + within).min((1, 2))
    steps = (1, 2, 5, 20, 100, 1000)
    bound = quick(mixture_kl_upper_bound, static_argnames="steps")
    found = np.stack([bound(v, w, d, steps=k) for k in steps])
    assert (np.diff(found, axis=0) < 1e-6).all()
    assert (found > least - 1e-4).all()  # the grid is that far above
    within = -np.log(other.min((1, 2, 3)))[None] / np.array(steps)[:, None]
    assert (found < least + within + 1e-6).all()

    def of(t):
        joint = share[:, 0, 0, :, None] * t / t.sum(-1, keepdims=True)
        weights = divergence(joint.sum(-2), other[:, 0, 0]).sum(-1)
        return (joint * d).sum((1, 2)) + weights

    coupled, nearest = of(np.exp(-d) * other[:, 0]), of(d == d.min(-1, keepdims=True))
    assert 2 < (coupled < nearest).sum() < 9
    np.testing.assert_allclose(found[0], np.minimum(coupled, nearest), rtol=1e-5)


def textbook(v, w, c, d):
    of_p = jax.nn.logsumexp(jax.nn.log_softmax(v)[None] - c, -1)
    of_q = jax.nn.logsumexp(jax.nn.log_softmax(w)[None] - d, -1)
    return jnp.sum(jax.nn.softmax(v) * (of_p - of_q))


@pytest.mark.slow
def test_derivatives_of_the_approximation():
    """First and second, of 3 and 3 components and of 3 and 2."""
    rng = np.random.default_rng(8)
    v, w, c, d = (rng.normal(size=n).astype("f4") for n in (3, 3, (3, 3), (3, 3)))
    near = v, v + 0.1 * w, abs(c), abs(c) + 0.1 * d
    uneven = v, w[:2], abs(c), abs(d[:, :2])

    def derivatives(f, arguments):
        gradient = jax.grad(f, (0, 1, 2, 3))
        total = lambda *x: sum(jnp.sum(jnp.sin(g)) for g in gradient(*x))
        return gradient(*arguments), jax.grad(total, (0, 1, 2, 3))(*arguments)

    found, true = quick(
        lambda *cases: [
            [derivatives(f, x) for x in cases] for f in (mixture_kl_approximation, textbook)
        ]
    )(near, uneven)
    for f, t in zip(*map(jax.tree.leaves, (found, true)), strict=True):
        np.testing.assert_allclose(f, t, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_gradient_of_the_upper_bound():
    """That of -log(sum w e^-d) where p has one component, which is the best t; and of two
    that nearly agree that of KL of the weights and of the KLs of the pairs.
    """
    rng = np.random.default_rng(9)
    v, w, d = (rng.normal(size=n).astype("f4") for n in (1, 4, (1, 4)))
    d = abs(d)
    of_one = lambda v, w, d: -jax.nn.logsumexp(jax.nn.log_softmax(w) - d[0])
    a, b, pairs = (rng.normal(size=n).astype("f4") for n in (4, 4, (4, 4)))
    pairs = np.where(np.eye(4) == 1, abs(pairs) / 9, 5 + abs(pairs))
    of_pairs = lambda v, w, d: kl_divergence(v, w) + jax.nn.softmax(v) @ jnp.diag(d)
    both = lambda f, *x: jax.value_and_grad(f, (0, 1, 2))(*x)
    found, true = quick(
        lambda one, many: (
            (both(mixture_kl_upper_bound, *one), both(mixture_kl_upper_bound, *many)),
            (both(of_one, *one), both(of_pairs, *many)),
        )
    )((v, w, d), (a, a + b / 9, pairs))
    for f, t in zip(*map(jax.tree.leaves, (found, true)), strict=True):
        np.testing.assert_allclose(f, t, rtol=1e-5, atol=1e-6)


def test_components_that_are_absent_or_out_of_reach():
    """Values, and finite gradients. Absent components may be at any distance."""
    v, w = np.array([0, -INF, 1], "f4"), np.array([-INF, 0.5, 0.2], "f4")
    rng = np.random.default_rng(10)
    c, d = (rng.exponential(size=(3, 3)).astype("f4") for _ in range(2))
    c[1], c[:, 1], d[1], d[:, 0] = INF, INF, INF, 0
    out = d.copy()
    out[2] = INF
    none = np.full(3, -INF, "f4")
    cases = {
        "few": (v, w, c, d),
        "out of reach": (v, w, c, out),
        "q has none": (v, none, c, d),
        "p has none": (none, w, c, d),
        "neither": (none, none, c, d),
        "nan": (v, w, c, d * NAN),
    }
    stacks = [np.stack(x) for x in zip(*cases.values(), strict=True)]
    bound = lambda v, w, c, d: mixture_kl_upper_bound(v, w, d)

    def both(f, *arguments):
        value, pullback = jax.vjp(f, *arguments)
        return value, pullback(jnp.ones_like(value))

    functions = mixture_kl_approximation, bound
    found = quick(lambda *x: [both(f, *x) for f in functions])(*stacks)
    alone = v[[0, 2]], w[1:], c[np.ix_([0, 2], [0, 2])], d[np.ix_([0, 2], [1, 2])]
    for (values, gradients), f in zip(found, functions, strict=True):
        np.testing.assert_allclose(values[0], quick(f)(*alone), rtol=1e-6)
        np.testing.assert_array_equal(values[1:], [INF, INF, 0, 0, NAN])
        assert all(np.isfinite(g[:-1]).all() for g in gradients)


@pytest.mark.slow
def test_distances_that_differ_between_devices():
    """In `shard_map`, of weights that do not."""
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    v, w = np.zeros(2, "f4"), np.array([0, 1, -INF], "f4")
    d = np.random.default_rng(12).exponential(size=(2, 2, 3)).astype("f4")
    f = lambda v, w, d: mixture_kl_upper_bound(v, w, d[0])[None]
    specs = (P(), P(), P("rows"))
    found = quick(jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=P("rows")))(v, w, d)
    alone = quick(mixture_kl_upper_bound)(*(np.stack([x, x]) for x in (v, w)), d)
    np.testing.assert_allclose(found, alone, rtol=1e-6)


@pytest.mark.slow  # it samples
def test_samples_of_components_have_the_gradient_of_kl():
    """The recipe of the docstring: 0 within 4 standard errors, in every parameter."""
    rng = np.random.default_rng(11)
    p, q = normals(rng, 2), normals(rng, 3)
    step = 1e-5

    def shifted(which, i, j, by):
        pair = [[x.copy() for x in p], [x.copy() for x in q]]
        pair[which][i][j] += by
        return by_quadrature(*pair)

    places = [(k, i, j) for k, n in ((0, 2), (1, 3)) for i in range(3) for j in range(n)]
    true = [(shifted(*x, step) - shifted(*x, -step)) / (2 * step) for x in places]

    def log_density(x, log_weights, m, s):
        return jax.nn.logsumexp(log_weights + jax.scipy.stats.norm.logpdf(x, m, s))

    def of_row(p, q, noise):
        x = p[1] + p[2] * noise
        of = jax.vmap(log_density, (0, None, None, None))
        # k1: the weights of a shifted p do not sum to 1, for which k3 is another function.
        each = kl_estimate(of(x, *p), of(x, *q), estimator="k1", reparameterized=True)
        return jnp.exp(p[0]) @ each

    noise = rng.normal(size=(20_000, 2)).astype("f4")
    single = [tuple(x.astype("f4") for x in m) for m in (p, q)]
    gradient = jax.vmap(jax.grad(of_row, (0, 1)), (None, None, 0))
    rows = np.concatenate(jax.tree.leaves(quick(gradient)(*single, noise)), 1)
    error = rows.std(0, ddof=1) / len(noise) ** 0.5
    np.testing.assert_array_less(abs(rows.mean(0) - true), 4 * error + 1e-6)
