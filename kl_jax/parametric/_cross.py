"""What the pairs of `cross` are made of: how far p is from q's family, and q from p's.

Where q's family is an exponential one, with r its member of p's expected statistics,

    KL(p || q) = KL(p || r) + KL(r || q):

the first is a function of p alone, the second one of the closed forms, and neither is
negative. For normal q the first is p's negentropy.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array, lax

from kl_jax._arithmetic import (
    divide,
    reciprocal,
    two_prod,
    two_sum,
    words_product,
)
from kl_jax._exponentials import exp_in_two_words, expm1, log1p, phi
from kl_jax.elementwise import (
    generalized_kl_term,
    is_close,
    itakura_saito,
    log_ratio,
    logit,
)
from kl_jax.parametric._convex import (
    EXPONENTIAL_NORMALIZER,
    bregman,
    difference_of,
    normalizer_curvature,
    normalizer_mean,
    quadrature,
)
from kl_jax.parametric._stirling import (
    STIRLING,
    negentropy_rest,
    stirling,
    stirling_drop,
    stirling_slope,
)
from kl_jax.parametric.bounded import betas
from kl_jax.parametric.location_scale import EULER, normal_scales

Words = tuple[Array, Array]

# Negentropies that depend on no parameter, and 1 - log(2 pi) / 2.
LAPLACE = (math.log(math.pi) - 1) / 2
UNIFORM = math.log(math.pi * math.e / 6) / 2
GUMBEL = math.log(math.pi**3 / 3) / 2 - 0.5 - EULER
_NORMAL_TO_GUMBEL = 1 - math.log(2 * math.pi) / 2


def _word(x: Array) -> Words:
    return x, jnp.zeros_like(x)


def _plus(x: Words, y: Words) -> Words:
    total, error = two_sum(x[0], y[0])
    return total, error + (x[1] + y[1])


def _minus(x: Words, y: Words) -> Array:
    """x - y, rounded once, and a constant to derivatives: those are of the rounded x, y."""
    return lax.stop_gradient((x[0] - y[0]) + (x[1] - y[1]))


def _less_log1p(x: Array) -> Array:
    """x - log(1 + x)."""
    return itakura_saito(1 + x, jnp.ones_like(x), x)


# --- to a normal distribution -----------------------------------------------------------


def to_normal(
    negentropy: Array | float,
    offset: Array,
    scale_p: Array,
    scale_q: Array,
    difference: Array | None = None,
) -> Array:
    """`offset` is p's mean less q's in units of q's standard deviation; the scales are both
    standard deviations, in any unit, with their difference as in `log_ratio`.
    """
    return negentropy + normal_scales(scale_p, scale_q, difference) + jnp.square(offset) / 2


def gamma_negentropy(a: Array) -> Array:
    return reciprocal(3 * a) + negentropy_rest(a)


def gamma_offset(a: Array, rate: Array, loc: Array, scale: Array) -> Array:
    """(a / rate - loc) / scale. The difference of the means is exact: of a = 1e6 they are
    1000 standard deviations, and KL may be 1 / (3 a).
    """
    exact = _minus(_word(a), two_prod(loc, rate))
    return divide(divide(difference_of(a, loc * rate, exact), rate), scale)


def gamma_to_normal(a: Array, rate: Array, loc: Array, scale: Array) -> Array:
    # The difference of the standard deviations from that of the variances, likewise exact:
    # the negentropy of 1 / (3 a) is below what rounding makes of it.
    deviation, width = jnp.sqrt(a), rate * scale
    square = words_product(*[two_prod(rate, scale)] * 2)
    difference = _minus(_word(a), square) / lax.stop_gradient(deviation + width)
    offset = gamma_offset(a, rate, loc, scale)
    return to_normal(gamma_negentropy(a), offset, deviation, width, difference)


def _beta_negentropy(a: Array, b: Array) -> Array:
    """A twelfth of the squared skewness for large a and b, and what is left without it: of
    a = b of 1e6 the parts are 1e-6, and the whole is 2e-13.
    """
    n = a + b
    in_a, in_b, in_n = negentropy_rest(jnp.stack([a, b, n]))
    skewness = divide(a - b, a) * divide(divide(a - b, b), n) / 3
    rest = _less_log1p(reciprocal(n)) / 2 + stirling_slope(n) - in_n
    return skewness + (in_a + in_b + rest)


def beta_to_normal(a: Array, b: Array, loc: Array, scale: Array) -> Array:
    total = two_sum(a, b)
    n = total[0]
    exact = _minus(_word(a), words_product(_word(loc), total))
    offset = divide(divide(difference_of(a, loc * n, exact), n), scale)
    # Both standard deviations times n, and the difference of their squares times n + 1.
    deviation, width = jnp.sqrt(a * divide(b, n + 1)), scale * n
    square = words_product(*[words_product(_word(scale), total)] * 2)
    square = _plus(words_product(square, total), square)  # n + 1 of them
    difference = _minus(two_prod(a, b), square)
    difference = difference / lax.stop_gradient((n + 1) * (deviation + width))
    return to_normal(_beta_negentropy(a, b), offset, deviation, width, difference)


def from_uniform(x: Array) -> Array:
    """KL of continuous Bernoulli distributions: of logit `x` to that of logit 0."""
    return bregman(EXPONENTIAL_NORMALIZER, jnp.zeros_like(x), x, -x)


def to_uniform(x: Array) -> Array:
    return bregman(EXPONENTIAL_NORMALIZER, x, jnp.zeros_like(x), x)


def continuous_bernoulli_to_normal(probs: Array, loc: Array, scale: Array) -> Array:
    x = logit(probs)
    variance = normalizer_curvature(x)
    negentropy = jnp.log(2 * math.pi * math.e * variance) / 2 + from_uniform(x)
    # The mean less loc, from the end of [0, 1] that the mean is near.
    offset = normalizer_mean(x) + jnp.where(x < 0, -loc, 1 - loc)
    return to_normal(negentropy, divide(offset, scale), jnp.sqrt(variance), scale)


def pareto_to_normal(low: Array, alpha: Array, loc: Array, scale: Array) -> Array:
    """inf where alpha <= 2."""
    inside = alpha > 2
    alpha = jnp.where(inside, alpha, 3)
    logs = [log_ratio(alpha, alpha - k, jnp.full_like(alpha, k)) for k in (1, 2)]
    negentropy = logs[0] + logs[1] / 2 - reciprocal(alpha)
    offset = divide((low - loc) + divide(low, alpha - 1), scale)
    deviation = divide(low, alpha - 1) * jnp.sqrt(divide(alpha, alpha - 2))
    exponential = math.log(2 * math.pi) / 2 - 0.5
    value = to_normal(negentropy + exponential, offset, deviation, scale)
    return jnp.where(inside, value, jnp.inf)


# --- to a Gumbel distribution -----------------------------------------------------------


def to_gumbel(offset: Array, scale_p: Array, scale_q: Array, rest: Array | float) -> Array:
    """With c = (scale_p / scale_q)^2 / 2 = log E e^-z of p, z = (x - its mean) / q's scale:
    for a normal p its standard deviation is `scale_p`, and `rest` is 0.

    The best loc for q's scale makes phi 0.
    """
    c = jnp.square(divide(scale_p, scale_q)) / 2
    return phi(c - offset) + normal_scales(scale_p, scale_q) + rest + _NORMAL_TO_GUMBEL


def gamma_to_gumbel(a: Array, rate: Array, loc: Array, scale: Array) -> Array:
    # c = a (x - log(1 + x)) of x = 1 / (rate scale), of a normal distribution a x^2 / 2.
    x = reciprocal(rate * scale)
    divergence = _less_log1p(x)
    rest = gamma_negentropy(a) + log_ratio(2 * divergence, jnp.square(x)) / 2
    offset = gamma_offset(a, rate, loc, scale)
    return to_gumbel(offset, jnp.sqrt(2 * a * divergence), jnp.ones_like(x), rest)


def uniform_to_gumbel(low: Array, high: Array, loc: Array, scale: Array) -> Array:
    # c = log(sinh(x / 2) / (x / 2)), and no logarithm that is not joined with another.
    x = divide(high - low, scale)
    c = to_uniform(x)
    offset = divide(((low - loc) + (high - loc)) / 2, scale)
    return phi(c - offset) + (c - jnp.log(x / math.e))


# --- to a Laplace distribution ----------------------------------------------------------


def normal_to_laplace(m_p: Array, s_p: Array, m_q: Array, s_q: Array) -> Array:
    """Those of one loc are an exponential family of |x - loc|, with E |x - loc| the scale.

    It is s_p sqrt(2 / pi) g, g = e^(-t^2 / 2) + t sqrt(pi / 2) erf(t / sqrt(2)).
    """
    t = divide(m_p - m_q, s_p)
    root = math.sqrt(math.pi / 2)
    g_minus_1 = expm1(-jnp.square(t) / 2) + t * (root * lax.erf(t / math.sqrt(2)))
    distance = s_p * ((1 + g_minus_1) / root)
    of_one_loc = 0.5 + math.log(2 / math.pi)
    return itakura_saito(distance, s_q) + log1p(g_minus_1) + of_one_loc


# --- to a gamma distribution ------------------------------------------------------------


def to_gamma(c: Array, y: Array, difference: Array, gap: Array, rest: Array) -> Array:
    """Of concentration `c`, and a rate that is y over p's mean; c - y is the difference.

    `gap` is log E x - E log x of p. By Stirling's formula KL at y = c is S(2 c gap, 1) / 2,
    R(c), and `rest`: E log x - entropy of p + log(4 pi e gap) / 2.
    """
    shape = itakura_saito(2 * c * gap, jnp.ones_like(c)) / 2 + stirling(c)
    return generalized_kl_term(c, y, difference) + (shape + rest)


def uniform_log_gap(low: Array, high: Array, width: Array) -> Array:
    """log E x - E log x on an interval of positive numbers, with high - low given: 1 - x
    has not all digits of x.

    With t = width / (high + low) it is t^2 times the integral of (1 - v) v / (1 - t^2 v^2)
    over v from 0 to 1, by quadrature of positive terms: what is left out is 6e-10, 2e-17.
    Where t > 0.8 the difference of other forms loses a factor of 5 at most.
    """
    t, ratio = divide(width, low + high), divide(low, high)
    near = t < 0.8
    square = jnp.square(jnp.where(near, t, 0))
    v, w = quadrature(t)
    integral = jnp.sum(w * (1 - v) * v / (1 - square[None] * jnp.square(v)), 0)
    ratio = jnp.where(near, 0, ratio)
    far = (1 - math.log(2)) + (log1p(ratio) + divide(_x_log_x(ratio), 1 - ratio))
    return jnp.where(near, square * integral, far)


def _x_log_x(x: Array) -> Array:
    return x * log_ratio(x, jnp.ones_like(x))


def uniform_to_gamma(low: Array, high: Array, c: Array, rate: Array) -> Array:
    """inf where low < 0."""
    inside = low >= 0
    a, b = jnp.where(inside, low, 1), jnp.where(inside, high, 2)
    total, error = two_sum(a, b)
    difference = _minus(_word(c), words_product(_word(rate), (total / 2, error / 2)))
    gap = uniform_log_gap(a, b, b - a)
    square = jnp.square(divide(b - a, total))
    rest = (UNIFORM - gap) + log_ratio(6 * gap, square) / 2
    value = to_gamma(c, rate * (total / 2), difference, gap, rest)
    return jnp.where(inside, value, jnp.inf)


def pareto_to_gamma(low: Array, alpha: Array, c: Array, rate: Array) -> Array:
    """inf where alpha <= 1."""
    inside = alpha > 1
    alpha = jnp.where(inside, alpha, 2)
    less = alpha - 1
    product = words_product(two_prod(rate, low), _word(alpha))
    difference = _minus(two_prod(c, less), product) / less
    # The gap is S(1 - 1 / alpha, 1). Near alpha = 1 the difference has lost its digits, and
    # far from it the quotient (alpha - 1) / alpha those of its derivative, 1 less itself.
    inverse = reciprocal(alpha)
    left = jnp.where(alpha < 2, divide(less, alpha), 1 - inverse)
    gap = itakura_saito(left, jnp.ones_like(left), -inverse)
    rest = (math.log(2 * math.pi) - 1) / 2 + log_ratio(2 * alpha * gap, inverse) / 2
    value = to_gamma(c, rate * low * divide(alpha, less), difference, gap, rest)
    return jnp.where(inside, value, jnp.inf)


def beta_to_gamma(a: Array, b: Array, c: Array, rate: Array) -> Array:
    """With n = a + b it falls as 1 / n^2 where p is nearly a gamma distribution, of small a
    and large b, and as a / (3 b n) where both are nearly normal.

    By Stirling's formula it is S(c b / n, a) / 2 and G(c, rate a / n), both 0 there, and
    terms of that size.
    """
    total = two_sum(a, b)
    n = total[0]
    change = _minus(words_product(_word(c), total), two_prod(rate, a)) / n
    of_means = generalized_kl_term(c, rate * divide(a, n), change)
    change = _minus(two_prod(c, b), words_product(_word(a), total)) / n
    of_variances = itakura_saito(c * divide(b, n), a, change) / 2
    in_b, in_a = stirling_drop(1, jnp.stack([b, a]), jnp.stack([n, n]), jnp.stack([a, b]))
    rest = divide(divide(a, b), n) / 2 + ((b - 1) * in_b - stirling_drop(0, b, n, a))
    # R(c) - R(a) - (c - a) (R'(a) - R'(n)), of which the linear part of B_R would cancel
    # where c is far above a, and b far below.
    near = bregman(STIRLING, c, a, c - a) + (c - a) * stirling_slope(n)
    of_c, of_a = stirling(jnp.stack([c, a]))
    far = (of_c - of_a) - (c - a) * in_a
    return (of_means + of_variances) + (rest + jnp.where(is_close(c, a), near, far))


# --- to distributions on an interval ----------------------------------------------------


def continuous_bernoulli_to_exponential(probs: Array, rate: Array) -> Array:
    x = logit(probs)
    mean = normalizer_mean(x) + jnp.where(x < 0, 0, jnp.ones_like(x))
    product, one = rate * mean, jnp.ones_like(x)
    # From a logit of -1 down p is an exponential distribution of rate `limit`, cut at 1. It
    # loses a mass of odds = e^-limit, and KL may be that small: near 16 it is 1e-7, and the
    # rounding of the limit, 1e-6, is put back.
    tail = x < -1
    p = jnp.where(tail, probs, 0.25)
    odds, limit = divide(p, 1 - p), -logit(p)
    power, error = exp_in_two_words(-limit)
    error = (((power - p) - p * power) + (1 - p) * error) / p
    decay = divide(odds, 1 - odds)  # 1 / (e^limit - 1)
    change = lax.stop_gradient(((rate - limit) - error) / limit - rate * decay)
    of_means = itakura_saito(product, one, jnp.where(tail, change, product - 1))
    nearest = -log1p(-odds) - itakura_saito(limit * mean, one, -limit * decay)
    return of_means + jnp.where(tail, nearest, jnp.log(math.e * mean) + from_uniform(x))


def beta_to_continuous_bernoulli(a: Array, b: Array, probs: Array) -> Array:
    x = logit(probs)
    one = jnp.ones_like(x)
    # Beyond a logit of 2 by the exponential distribution that q is part of, at the end of
    # [0, 1] that q is near: the terms of the other form cancel there, as p may, too.
    far = jnp.abs(x) > 2
    near_x, size = jnp.where(far, 0, x), jnp.where(far, jnp.abs(x), 2)
    near = (betas(a, b, one, one) + to_uniform(near_x)) + near_x * divide(
        b - a, 2 * (a + b)
    )
    swap = x > 0
    tail = beta_to_gamma(jnp.where(swap, b, a), jnp.where(swap, a, b), one, size)
    return jnp.where(far, tail + log1p(-jnp.exp(-size)), near)


def uniform_to_beta(low: Array, high: Array, c: Array, d: Array) -> Array:
    """inf unless the interval is within [0, 1]."""
    inside = (low >= 0) & (high <= 1)
    a, b = jnp.where(inside, low, 0), jnp.where(inside, high, 1)
    one, width = jnp.ones_like(c), b - a
    # Where q is not far from the uniform distribution on [0, 1], relative to that.
    log_width = log_ratio(width, one, -(a + (1 - b)))
    logs = [
        _x_log_x(b) - _x_log_x(a),
        _x_log_x(1 - a) - _x_log_x(1 - b),
    ]
    terms = divide((c - 1) * logs[0] + (d - 1) * logs[1], width)
    near = (betas(one, one, c, d) - log_width) - terms
    # Elsewhere by Stirling's formula, as `to_gamma`; a Beta distribution is nearly normal.
    n, mean, rest = c + d, (a + b) / 2, ((1 - b) + (1 - a)) / 2
    total, error = two_sum(a, b)
    product = words_product(two_sum(c, d), (total / 2, error / 2))
    change = _minus(_word(c), product)
    of_means = generalized_kl_term(c, n * mean, change) + generalized_kl_term(
        d, n * rest, -change
    )
    ends = jnp.stack([a, 1 - b]), jnp.stack([b, 1 - a])
    gaps = uniform_log_gap(*ends, jnp.stack([width, width]))
    gap = c * gaps[0] + d * gaps[1]
    square = jnp.square(divide(divide(width, mean), rest))
    of_scales = log_ratio(24 * gap * divide(divide(n, c), d), square) / 2
    stirlings = stirling(jnp.stack([c, d, n]))
    far = itakura_saito(2 * gap, one) / 2 + of_scales + (UNIFORM - gaps[0] - gaps[1])
    far = of_means + (far + (stirlings[0] + stirlings[1] - stirlings[2]))
    value = jnp.where(is_close(c, one) & is_close(d, one), near, far)
    return jnp.where(inside, value, jnp.inf)


def uniform_to_continuous_bernoulli(low: Array, high: Array, probs: Array) -> Array:
    """inf unless the interval is within [0, 1]."""
    inside = (low >= 0) & (high <= 1)
    a, b = jnp.where(inside, low, 0), jnp.where(inside, high, 1)
    x = logit(probs)
    far = jnp.abs(x) > 2
    near_x, size = jnp.where(far, 0, x), jnp.where(far, jnp.abs(x), 2)
    log_width = log_ratio(b - a, jnp.ones_like(x), -(a + (1 - b)))
    near = to_uniform(near_x) - log_width + near_x * ((1 - b) - a) / 2
    # The logit's size is not taken from what cancels it, at the end that q is near.
    mean = jnp.where(x < 0, (a + b) / 2, ((1 - a) + (1 - b)) / 2)
    tail = size * mean - jnp.log((b - a) * size / -expm1(-size))
    return jnp.where(inside, jnp.where(far, tail, near), jnp.inf)


def uniform_to_pareto(low: Array, high: Array, scale: Array, alpha: Array) -> Array:
    """inf where low < scale. Those of one scale are an exponential family of log x."""
    inside = low >= scale
    a, b = jnp.where(inside, low, scale), jnp.where(inside, high, 2 * scale)
    width = b - a
    mean_log = log_ratio((a + b) / 2, scale, (a - scale) + width / 2) - uniform_log_gap(
        a, b, width
    )
    nearest = 1 + mean_log + jnp.log(divide(mean_log * scale, width))
    value = itakura_saito(alpha * mean_log, jnp.ones_like(alpha)) + nearest
    return jnp.where(inside, value, jnp.inf)


def within_unit(value: Array, low: Array, high: Array) -> Array:
    """To a uniform q, of KL to that on [0, 1]: inf unless q's interval contains it."""
    inside = (low <= 0) & (high >= 1)
    more = jnp.where(inside, (high - 1) - low, 0)
    return jnp.where(inside, value + log1p(more), jnp.inf)
