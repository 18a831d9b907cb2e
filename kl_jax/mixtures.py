"""Mixtures: of distributions that are given by logits, and KL by that of components."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts, _keywords
from kl_jax._arithmetic import jitted_custom_jvp
from kl_jax._blocks import log_mass
from kl_jax._exponentials import log1p, phi
from kl_jax._passes import clamp_inf
from kl_jax._sharding import varying_as
from kl_jax.divergences import kl_divergence

__all__ = ["mixture_kl_approximation", "mixture_kl_upper_bound", "mixture_logits"]


def mixture_logits(
    logits: ArrayLike, weights: ArrayLike | None = None, *, axis: int = 0
) -> Array:
    r"""log of the weighted mean of softmax(logits) along `axis`, in nats.

    The mixture of an ensemble of teachers, or of the distributions of a Jensen-Shannon
    divergence of many: with `m = mixture_logits(z)` that is the mean of
    `kl_divergence(z[i], m)`.

    Args:
      logits: Logits or log-probabilities, with the outcomes along the last axis.
      weights: One for each distribution along `axis`, non-negative; equal by default. They
        are divided by their sum.
      axis: The axis of the distributions, any but the last.

    Returns:
      Log-probabilities, the shape of `logits` without `axis`; float64 if an argument is,
      else float32.

    Raises:
      ValueError: If `axis` is the last one or out of range, there is no outcome or no
        distribution, or the shape of the weights does not fit.
      TypeError: If the logits are not floating point, or the weights not real numbers.

    Boundary: -inf where all are, and where the weights of others are 0. A distribution
      without outcomes takes no part. nan for nan, and where all weights are 0.
    Gradient: in the logits and in the weights, of every order; finite where logits are -inf
      or weights 0.
    Error: at most 4 ULP of the larger of the result and 1 (tests/test_mixtures.py;
      benchmarks/other_accuracy.py: 2.1, and 2.5 in float64). Where the distributions nearly
      agree, divergences from the mixture have the rounding of its logits:
      `jensen_shannon_divergence` of two is right there.

    >>> import jax.numpy as jnp
    >>> z = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]))
    >>> mixture = jnp.exp(mixture_logits(z, jnp.array([3, 1])))
    >>> [round(x, 4) for x in mixture.tolist()]
    [0.4, 0.6, 0.0]

    Source: Lin, "Divergence measures based on the Shannon entropy" (1991).
    """
    name = "mixture_logits"
    (array,) = _contracts.floating(name, logits=logits)
    (place,) = _contracts.axes(name, axis, array.shape)
    _contracts.not_the_last(name, place, array.shape)
    _contracts.some_outcomes(name, array.shape, (place,))
    _contracts.some_outcomes(name, array.shape, (array.ndim - 1,))
    _checks.logits(name, "logits", array)
    if weights is None:
        return _mixture_logits(place, array, None)
    (parts,) = _contracts.numbers(name, weights=weights)
    _contracts.shape(name, "weights", parts, array.shape[place : place + 1])
    _checks.all_non_negative(name, "weights", parts)
    return _mixture_logits(place, array, parts)


@functools.partial(jax.jit, static_argnums=0)
def _mixture_logits(axis: int, logits: Array, weights: Array | None) -> Array:
    if weights is None:
        weights = jnp.ones(logits.shape[axis], logits.dtype)
    x, w = _contracts.floats("mixture_logits", logits=logits, weights=weights)
    x = clamp_inf(jnp.moveaxis(x, axis, 0), x.dtype)
    # Not x - log(sum of e^x): at an offset of 1000 that logarithm is off by 3e-5.
    mode = lax.stop_gradient(jnp.max(x, -1, keepdims=True))
    x = x - jnp.where(mode == -jnp.inf, 0, mode)
    log_size = log_mass(None, x)[..., None]
    log_p = x - jnp.where(log_size == -jnp.inf, 0, log_size)
    # Relative to the largest, and not with log(weight): its slope at weight 0 is inf.
    top = lax.stop_gradient(jnp.max(log_p, 0))
    top = jnp.where(top == -jnp.inf, 0, top)
    terms = jnp.exp(log_p - top[None]) * w.reshape(-1, *(1 for _ in top.shape))
    mass = jnp.sum(terms, 0)
    none = mass == 0
    value = jnp.where(none, -jnp.inf, top + jnp.log(jnp.where(none, 1, mass)))
    return value - jnp.log(jnp.sum(w))


def mixture_kl_approximation(
    log_weights_p: ArrayLike,
    log_weights_q: ArrayLike,
    distances_pp: ArrayLike,
    distances_pq: ArrayLike,
) -> Array:
    r"""KL(p || q) of two mixtures by distances between their components, in nats.

    For p = sum_a v_a f_a and q = sum_b w_b g_b, with c_aa' between f_a and f_a' and d_ab
    between f_a and g_b, it is

        sum_a v_a log(sum_a' v_a' e^(-c_aa') / sum_b w_b e^(-d_ab)).

    The distances decide what that says of KL(p || q):

    | c_aa' | d_ab | it is |
    |---|---|---|
    | KL(f_a ‖ f_a') | KL(f_a ‖ g_b) | the variational approximation, and no bound |
    | -log ∫ f_a^s f_a'^(1 - s), 0 <= s <= 1 | KL(f_a ‖ g_b) | an upper bound |
    | KL(f_a ‖ f_a') | -log ∫ f_a g_b - H(f_a) | a lower bound |

    Why: KL(p || q) = sum_a v_a KL(f_a || q) - I, where I = sum_a v_a KL(f_a || p) is what a
    draw of p tells of its component. With distances KL, -log(sum_b w_b e^(-d_ab)) is at
    least KL(f_a || q), and with c in the place of d at least KL(f_a || p): the variational
    approximation is a difference of two upper bounds. It is a lower bound where q has one
    component, an upper bound where p has one, KL where no components share mass but f_a and
    one g_b of its own, 0 for p = q, and may be negative. Chernoff's distance in the second
    row (Bhattacharyya's for s = 1/2) makes I too small, and -log ∫ f_a g_b less the entropy
    H(f_a) in the third makes KL(f_a || q) too small. From KLs alone no lower bound but 0
    follows: a q of two components may be f_a itself. An upper bound does:
    `mixture_kl_upper_bound`.

    *By samples*: as many from each component, which are functions of its parameters, with
    its weight beside them, as in `by_samples` below. That has a standard error, and a
    gradient in all parameters.

    Args:
      log_weights_p: log v_a, [..., A], up to a constant: logits. -inf is no component.
      log_weights_q: log w_b, [..., B], likewise.
      distances_pp: c_aa', [..., A, A].
      distances_pq: d_ab, [..., A, B]. Closed forms of KL broadcast:
        `parametric.normal(loc_p[:, None], scale_p[:, None], loc_q[None], scale_q[None])`.

    Returns:
      The leading axes, which are the same in all arguments; float64 if an argument is, else
      float32.

    Raises:
      ValueError: If the shapes do not fit, or a mixture has no axis of components or none
        of them.
      TypeError: If an argument is not floating point.

    Boundary: inf where all d_ab of an f_a are, for components with weight, and where q has
      no component. 0 where p has none. Distances of components without weight may be inf.
      nan for nan.
    Gradient: that of the formula, of every order; 0 where the value is inf.
    Error: at most 6 ULP (tests/test_mixtures.py; benchmarks/other_accuracy.py: 2.2, and 2.0
      in float64) of the mean of |log(w_b / v_b) - (d_ab - c_ab)| where p and q have as many
      components and those of one index nearly agree, however little they differ; else of
      the logarithms or 1.

    >>> import jax.numpy as jnp
    >>> from kl_jax import parametric
    >>> log_weights = jnp.log(jnp.array([0.5, 0.5]))
    >>> kl = lambda x, y: parametric.normal(x[:, None], 1.0, y[None], 1.0)
    >>> p, q = jnp.array([0.0, 4.0]), jnp.array([1.0, 4.0])
    >>> value = mixture_kl_approximation(log_weights, log_weights, kl(p, p), kl(p, q))
    >>> round(value.item(), 4)
    0.2445

    >>> from jax.scipy.stats import norm
    >>> from kl_jax import kl_estimate, kl_from_densities
    >>> def log_density(x, log_weights, loc, scale):  # of a number x
    ...     return jax.nn.logsumexp(log_weights + norm.logpdf(x, loc, scale))
    >>> def by_samples(p, q, noise):  # noise [n, A], standard normal
    ...     log_weights, loc, scale = p
    ...     def of_row(noise):
    ...         x = loc + scale * noise
    ...         log_p, log_q = (jax.vmap(lambda x: log_density(x, *m))(x) for m in (p, q))
    ...         return kl_estimate(log_p, log_q, reparameterized=True)
    ...     each, weights = jax.vmap(of_row)(noise), jnp.exp(log_weights)
    ...     error = jnp.sqrt(weights**2 @ each.var(0, ddof=1) / len(noise))
    ...     return weights @ each.mean(0), error
    >>> p, q = (log_weights, p, jnp.ones(2)), (log_weights, q, jnp.ones(2))
    >>> value, error = by_samples(p, q, jax.random.normal(jax.random.key(0), (4000, 2)))
    >>> densities = (lambda x: log_density(x, *p)), (lambda x: log_density(x, *q))
    >>> bool(abs(value - kl_from_densities(*densities, -jnp.inf, jnp.inf)) < 3 * error)
    True

    Source: Hershey and Olsen, "Approximating the Kullback Leibler divergence between
    Gaussian mixture models" (2007), for the approximation; Kolchinsky and Tracey,
    "Estimating mixture entropy with pairwise distances" (2017), for I; Durrieu, Thiran and
    Kelly, "Lower and upper bounds for approximation of the Kullback-Leibler divergence
    between Gaussian mixture models" (2012), for the lower bound.
    """
    name = "mixture_kl_approximation"
    v, w, c, d = _contracts.floats(
        name,
        log_weights_p=log_weights_p,
        log_weights_q=log_weights_q,
        distances_pp=distances_pp,
        distances_pq=distances_pq,
    )
    _components(name, v, w, distances_pp=(c, v), distances_pq=(d, w))
    for argument, array in {"distances_pp": c, "distances_pq": d}.items():
        _checks.inside(name, argument, array, lambda x: x > -jnp.inf, "be > -inf")
    return _approximation(v, w, c, d)


def mixture_kl_upper_bound(
    log_weights_p: ArrayLike,
    log_weights_q: ArrayLike,
    kl_pq: ArrayLike,
    *,
    steps: int = 100,
) -> Array:
    r"""An upper bound of KL(p || q) of two mixtures by KLs of their components, in nats.

    For p = sum_a v_a f_a and q = sum_b w_b g_b, and any t_ab >= 0 with sum_b t_ab = 1,

        KL(p || q) <= sum_b s_b log(s_b / w_b) + sum_ab v_a t_ab KL(f_a || g_b),

    with s_b = sum_a v_a t_ab: by the chain rule of relative entropy that is the KL of the
    joint distributions, v_a t_ab f_a(x) and v_a t_ab w_b / s_b g_b(x), of x and the two
    components, and p and q are their marginals. The result is that of the t that `steps`
    steps towards the best one find, or of the t that has each f_a at its nearest g_b, if
    that is less. No term is negative.

    It is KL(p || q) where both have one component, or no components share mass but f_a and
    one g_b of its own; -log(sum_b w_b e^(-KL(f_a || g_b))) where p has one; and 0 for equal
    mixtures, whatever the order of their components. Where many f_a make up one g_b it is
    too large by what a draw of p tells of its component: there the second row of the table
    of `mixture_kl_approximation` is an upper bound that is better.

    Args:
      log_weights_p: log v_a, [..., A], up to a constant: logits. -inf is no component.
      log_weights_q: log w_b, [..., B], likewise.
      kl_pq: KL(f_a || g_b), [..., A, B], as `kl_jax.parametric` gives them.
      steps: How many, a static integer > 0, each of the time of e^x of `kl_pq`. After k of
        them the bound is at most log(1 / min w_b) / k above the least of its kind.

    Returns:
      The leading axes, which are the same in all arguments; float64 if an argument is, else
      float32.

    Raises:
      ValueError: If the shapes do not fit, a mixture has no axis of components or none of
        them, or `steps` is not > 0.
      TypeError: If an argument is not floating point, or `steps` no integer.

    Boundary: inf where all KL(f_a || g_b) of an f_a with weight are, and where q has no
      component. 0 where p has none. KLs of components without weight may be inf. nan for
      nan.
    Gradient: that of the bound with the t that was found held fixed, which is an upper
      bound at all other parameters too. Where t is the best, it is that of the least bound.
      Second derivatives hold t fixed as well. Finite, and that of the KL of the weights
      alone where a KL(f_a || g_b) makes the value inf.
    Error: at most 4 ULP of the bound, however little p and q differ
      (tests/test_mixtures.py; benchmarks/other_accuracy.py: 2.2, and 1.9 in float64).

    >>> import jax.numpy as jnp
    >>> from kl_jax import parametric
    >>> log_weights = jnp.log(jnp.array([0.5, 0.5]))
    >>> p, q = jnp.array([0.0, 4.0]), jnp.array([4.0, 1.0])
    >>> kl_pq = parametric.normal(p[:, None], 1.0, q[None], 1.0)
    >>> round(mixture_kl_upper_bound(log_weights, log_weights, kl_pq).item(), 4)
    0.25

    Source: Hershey and Olsen, "Approximating the Kullback Leibler divergence between
    Gaussian mixture models" (2007), the variational upper bound; Lu, Freund and Nesterov,
    "Relatively smooth convex optimization by first-order methods" (2018), for its rate.
    """
    name = "mixture_kl_upper_bound"
    steps = _keywords.positive_integer(name, "steps", steps)
    v, w, kl = _contracts.floats(
        name, log_weights_p=log_weights_p, log_weights_q=log_weights_q, kl_pq=kl_pq
    )
    _components(name, v, w, kl_pq=(kl, w))
    _checks.all_non_negative(name, "kl_pq", kl)
    return _upper_bound(steps, v, w, kl)


def _components(name: str, v: Array, w: Array, **matrices: tuple[Array, Array]) -> None:
    """Log-weights of p and of q, and matrices from p to the mixture beside each."""
    _contracts.same_rows(name, log_weights_p=v, log_weights_q=w)
    for argument, x in {"log_weights_p": v, "log_weights_q": w}.items():
        _contracts.some_outcomes(name, x.shape, (x.ndim - 1,))
        _checks.logits(name, argument, x)
    for argument, (matrix, to) in matrices.items():
        _contracts.shape(name, argument, matrix, (*v.shape, to.shape[-1]))


@jax.jit
def _approximation(v: Array, w: Array, c: Array, d: Array) -> Array:
    v, w = (clamp_inf(x, x.dtype) for x in (v, w))
    rows = [jnp.broadcast_to(x[..., None, :], m.shape) for x, m in ((v, c), (w, d))]
    each = _log_ratio(*rows, c, d)
    total = _log_ratio(v, w, jnp.zeros_like(v), jnp.zeros_like(w))[..., None]
    return _expectation(_shares(v), each - jnp.where(each == jnp.inf, 0, total))


@functools.partial(jax.jit, static_argnums=0)
def _upper_bound(steps: int, v: Array, w: Array, kl: Array) -> Array:
    v, w = (clamp_inf(x, x.dtype) for x in (v, w))

    def bound(log_t: Array) -> Array:
        # A lone term of a sum of logarithms comes out unchanged: equal weights stay equal.
        log_s = log_mass(None, jnp.swapaxes(v[..., None] + log_t, -1, -2))
        within = _expectation(_shares(v), _expectation(jnp.exp(log_t), kl))
        return kl_divergence(log_s, w) + within

    found = _couplings(steps, *lax.stop_gradient((v, w, kl)))
    return jnp.minimum(*map(bound, found))


def _couplings(steps: int, v: Array, w: Array, kl: Array) -> tuple[Array, Array]:
    """log t: of each f_a at its nearest g_b, and after so many steps from t_ab = w_b."""
    some = jnp.any(w > -jnp.inf, -1, keepdims=True)
    w = jnp.where(some, w, 0)[..., None, :]
    kl = jnp.where(w == -jnp.inf, jnp.inf, kl)
    least = jnp.min(kl, -1, keepdims=True)
    none = (least == jnp.inf) & (w > -jnp.inf)
    farther = jnp.where(none, 0, kl - jnp.where(least == jnp.inf, 0, least))
    nearest = _normalized(jnp.where(farther == 0, w, -jnp.inf))

    def step(_: Array, log_t: Array) -> Array:
        # Mirror descent, and Hershey and Olsen's alternation: t e^-KL w / s, normalised.
        log_s = log_mass(None, jnp.swapaxes(v[..., None] + log_t, -1, -2))[..., None, :]
        absent = (log_s == -jnp.inf) | (w == -jnp.inf)
        log_t = log_t - farther + jnp.where(absent, 0, w - log_s)
        return _normalized(log_t)

    start = varying_as(jnp.broadcast_to(_normalized(w), kl.shape), (v, kl))
    return nearest, lax.fori_loop(0, steps, step, start)


def _normalized(logits: Array) -> Array:
    total = log_mass(None, logits)[..., None]
    return logits - jnp.where(total == -jnp.inf, 0, total)


def _shares(logits: Array) -> Array:
    """softmax; 0 where all logits are -inf."""
    return jnp.exp(_normalized(logits))


def _expectation(p: Array, x: Array) -> Array:
    """Sum of p x, where p is not 0; inf with slopes 0 where such an x is."""
    infinite = (x == jnp.inf) & (p > 0)
    total = jnp.sum(p * jnp.where((p == 0) | infinite, 0, x), -1)
    return jnp.where(jnp.any(infinite, -1), jnp.inf, total)


@jitted_custom_jvp
def _log_ratio(v: Array, w: Array, c: Array, d: Array) -> Array:
    """log(sum of v e^-c / sum of w e^-d) of logarithms v and w, along the last axis.

    The difference of the logarithms has the rounding of both, 1e-7 where it may be 1e-9.
    For as many terms on both sides, with r the shares of the first sum and
    x = (w - v) - (d - c), it is -E_r[x] - log1p(E_r[phi(x - E_r[x])]), of which the error
    is that of E_r|x|. Where the second part exceeds 1, it cancels with the first.
    """
    a, b = v - c, w - d
    if a.shape != b.shape:
        return log_mass(None, a) - log_mass(None, b)
    r = _shares(a)
    both = jnp.isfinite(a) & jnp.isfinite(b)
    v, w, c, d = (jnp.where(both, x, 0) for x in (v, w, c, d))
    x = (w - v) - (d - c)
    mean = jnp.sum(r * x, -1)
    excess = jnp.where(both, phi(x - mean[..., None]), 0)
    rest = log1p(jnp.sum(jnp.where(r == 0, 0, r * excess), -1))
    # E_r does not see what r has at e^-90 and the other sum at 1, as in another order.
    far = (jnp.abs(x - mean[..., None]) > 8) & (jnp.maximum(r, _shares(b)) > 1e-30)
    far = far | (jnp.isfinite(a) != jnp.isfinite(b))
    near = (rest <= 1) & ~jnp.any(far, -1)
    of_a, of_b = (jnp.where(near, 0, log_mass(None, y)) for y in (a, b))
    return jnp.where(near, -mean - rest, of_a - of_b)


@_log_ratio.defjvp
def _log_ratio_jvp(primals, tangents):
    (v, w, c, d), (dv, dw, dc, dd) = primals, tangents
    change = jnp.sum(_shares(v - c) * (dv - dc), -1)
    return _log_ratio(*primals), change - jnp.sum(_shares(w - d) * (dw - dd), -1)
