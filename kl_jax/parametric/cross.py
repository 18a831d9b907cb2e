r"""KL(p || q) between members of two families, from their parameters, in nats.

`p_q` takes the parameters of p, then those of q, named and ordered as in
torch.distributions: `normal_laplace(loc_p, scale_p, loc_q, scale_q)`. There are all pairs
of two families that torch.distributions has, but for those whose KL is always inf.

Where q's family is an exponential one, KL is that from p to its member of p's expected
statistics, a function of p alone, and from there to q, one of the closed forms of
`kl_jax.parametric`: two parts that are never negative. So p and q that are nearly equal
keep their digits: `exponential_gamma` is `gamma` of concentration 1, and `uniform_beta` on
[0, 1] is `beta` of concentrations 1. "Least" is the infimum of KL over all parameters.

| pair | p | q | least | ULP |
|---|---|---|---|---|
| `bernoulli_poisson` | probs | rate | 0 | 1.3 |
| `beta_continuous_bernoulli` | concentration1, concentration0 | probs | 0 | 20.8 |
| `beta_exponential` | concentration1, concentration0 | rate | 0 | 3.7 |
| `beta_gamma` | concentration1, concentration0 | concentration, rate | 0 | 3.4 |
| `beta_normal` | concentration1, concentration0 | loc, scale | 0 | 4.5 |
| `beta_uniform` | concentration1, concentration0 | low, high | 0 | 2.1 |
| `continuous_bernoulli_exponential` | probs | rate | 0 | 3.3 |
| `continuous_bernoulli_normal` | probs | loc, scale | 0.1765 | 9.3 |
| `continuous_bernoulli_uniform` | probs | low, high | 0 | 3.0 |
| `exponential_gamma` | rate | concentration, rate | 0 | 1.5 |
| `exponential_gumbel` | rate | loc, scale | 0.1745 | 7.4 |
| `exponential_normal` | rate | loc, scale | 0.4189 | 1.3 |
| `gamma_exponential` | concentration, rate | rate | 0 | 2.6 |
| `gamma_gumbel` | concentration, rate | loc, scale | 0.0028 | 83.5 |
| `gamma_normal` | concentration, rate | loc, scale | 0 | 3.9 |
| `gumbel_normal` | loc, scale | loc, scale | 0.0905 | 2.8 |
| `laplace_normal` | loc, scale | loc, scale | 0.0724 | 3.6 |
| `normal_gumbel` | loc, scale | loc, scale | 0.0811 | 15.5 |
| `normal_laplace` | loc, scale | loc, scale | 0.0484 | 4.4 |
| `pareto_exponential` | scale, alpha | rate | 0.8256 | 1.8 |
| `pareto_gamma` | scale, alpha | concentration, rate | 0.4189 | 2.9 |
| `pareto_normal` | scale, alpha | loc, scale | 0.4189 | 3.1 |
| `uniform_beta` | low, high | concentration1, concentration0 | 0 | 10.1 |
| `uniform_continuous_bernoulli` | low, high | probs | 0 | 2.0 |
| `uniform_exponential` | low, high | rate | 0.3069 | 3.4 |
| `uniform_gamma` | low, high | concentration, rate | 0.1765 | 6.4 |
| `uniform_gumbel` | low, high | loc, scale | 0.2073 | 13.3 |
| `uniform_normal` | low, high | loc, scale | 0.1765 | 3.6 |
| `uniform_pareto` | low, high | scale, alpha | 0.3069 | 7.1 |

Shapes and dtypes: as in `kl_jax.parametric`.

Boundary: inf where p has mass outside the support of q, as a uniform p with low < 0 against
  a gamma q, and where a moment of p is infinite: in `pareto_exponential` and `pareto_gamma`
  for alpha <= 1, in `pareto_normal` for alpha <= 2. nan for parameters outside their
  domain; `kl_jax.checked` makes that an error. Always inf, and so not here, is KL from a
  normal, Laplace or Gumbel p to an exponential, gamma or Pareto q; from these and an
  exponential, gamma or Pareto p to a Beta, continuous Bernoulli or uniform q; from a Beta,
  continuous Bernoulli, exponential or gamma p to a Pareto q; and from a Poisson p to a
  Bernoulli or binomial q.

Gradient: of every order in every parameter; 0 where KL is inf. A derivative in an end of a
  uniform p that lies on an end of the support of q leaves out what is infinite there.

Error: relative at most 1e-6 in float32 and 1e-14 in float64 for parameters from 1e-3 to 1e6
  and probabilities from 1e-7 to 1 - 1e-7 (tests/test_cross.py), for the nearest q as for
  one that is far. More in `uniform_beta` (2e-6), in `beta_continuous_bernoulli` (3e-6),
  where terms of 1 leave 1/30 near logits of 2, and in the pairs of a Gumbel q (1e-5), whose
  e^w amplifies the error of w by w, and to which a gamma p of concentration 5 comes as near
  as 0.0028.
  ULP: the worst of the float32 pairs of benchmarks/results/cross.md.

Source: Amari and Nagaoka, "Methods of information geometry" (2000), 3.4, for the two parts;
Johnson, Kotz and Balakrishnan, "Continuous univariate distributions" (1994), for moments.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax._arithmetic import divide
from kl_jax.elementwise import generalized_kl_term, logit
from kl_jax.parametric import _cross
from kl_jax.parametric.bounded import betas
from kl_jax.parametric.domain import (
    above_low,
    arrays,
    closed_form,
    finite,
    non_negative,
    open_probability,
    positive,
    probability,
)
from kl_jax.parametric.location_scale import EULER
from kl_jax.parametric.positive import gammas


@closed_form(probs=probability, rate=non_negative)
def bernoulli_poisson(probs_p: ArrayLike, rate_q: ArrayLike) -> Array:
    """p log(p / rate_q) + (1 - p) log(1 - p) + rate_q, with p = probs_p.

    >>> round(bernoulli_poisson(0.5, 1.0).item(), 4)
    0.3069
    """
    p, rate = arrays(probs_p, rate_q)
    return generalized_kl_term(p, rate) + generalized_kl_term(1 - p, jnp.ones_like(p), -p)


@closed_form(concentration1=positive, concentration0=positive, probs=open_probability)
def beta_continuous_bernoulli(
    concentration1_p: ArrayLike, concentration0_p: ArrayLike, probs_q: ArrayLike
) -> Array:
    """log((e^x - 1) / x) - x E x - entropy of p, with x = log(probs_q / (1 - probs_q)).

    >>> round(beta_continuous_bernoulli(2.0, 3.0, 0.5).item(), 4)
    0.2349
    """
    return _cross.beta_to_continuous_bernoulli(
        *arrays(concentration1_p, concentration0_p, probs_q)
    )


@closed_form(concentration1=positive, concentration0=positive, rate=positive)
def beta_exponential(
    concentration1_p: ArrayLike, concentration0_p: ArrayLike, rate_q: ArrayLike
) -> Array:
    """`beta_gamma` of concentration 1: rate_q E x - log(rate_q) - entropy of p.

    >>> round(beta_exponential(2.0, 3.0, 2.0).item(), 4)
    0.3418
    """
    a, b, rate = arrays(concentration1_p, concentration0_p, rate_q)
    return _cross.beta_to_gamma(a, b, jnp.ones_like(a), rate)


@closed_form(
    concentration1=positive, concentration0=positive, concentration=positive, rate=positive
)
def beta_gamma(
    concentration1_p: ArrayLike,
    concentration0_p: ArrayLike,
    concentration_q: ArrayLike,
    rate_q: ArrayLike,
) -> Array:
    """log Gamma(c) - c log(rate_q) - (c - 1) E log x + rate_q E x - entropy of p.

    c = concentration_q, and for p of a, b with n = a + b, E x = a / n and
    E log x = digamma(a) - digamma(n).

    >>> round(beta_gamma(2.0, 3.0, 2.0, 5.0).item(), 4)
    0.0994
    """
    return _cross.beta_to_gamma(
        *arrays(concentration1_p, concentration0_p, concentration_q, rate_q)
    )


@closed_form(concentration1=positive, concentration0=positive, loc=finite, scale=positive)
def beta_normal(
    concentration1_p: ArrayLike,
    concentration0_p: ArrayLike,
    loc_q: ArrayLike,
    scale_q: ArrayLike,
) -> Array:
    """log(2 pi scale_q^2) / 2 + (V + (E x - loc_q)^2) / (2 scale_q^2) - entropy of p.

    For p of a, b with n = a + b, E x = a / n and V = a b / (n^2 (n + 1)).

    >>> round(beta_normal(2.0, 3.0, 0.4, 0.25).item(), 4)
    0.0876
    """
    return _cross.beta_to_normal(
        *arrays(concentration1_p, concentration0_p, loc_q, scale_q)
    )


@closed_form(concentration1=positive, concentration0=positive, high=above_low)
def beta_uniform(
    concentration1_p: ArrayLike,
    concentration0_p: ArrayLike,
    low_q: ArrayLike,
    high_q: ArrayLike,
) -> Array:
    """log(high_q - low_q) - entropy of p; inf unless low_q <= 0 and high_q >= 1.

    >>> round(beta_uniform(2.0, 3.0, 0.0, 2.0).item(), 4)
    0.9281
    """
    a, b, low, high = arrays(concentration1_p, concentration0_p, low_q, high_q)
    one = jnp.ones_like(a)
    return _cross.within_unit(betas(a, b, one, one), low, high)


@closed_form(probs=open_probability, rate=positive)
def continuous_bernoulli_exponential(probs_p: ArrayLike, rate_q: ArrayLike) -> Array:
    """x m - log((e^x - 1) / x) - log(rate_q) + rate_q m.

    x = log(probs_p / (1 - probs_p)), and the mean m is 1 / (1 - e^-x) - 1 / x.

    >>> round(continuous_bernoulli_exponential(0.25, 1.0).item(), 4)
    0.4591
    """
    return _cross.continuous_bernoulli_to_exponential(*arrays(probs_p, rate_q))


@closed_form(probs=open_probability, loc=finite, scale=positive)
def continuous_bernoulli_normal(
    probs_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(2 pi scale_q^2) / 2 + (V + (m - loc_q)^2) / (2 scale_q^2) - entropy of p.

    With m of `continuous_bernoulli_exponential`, and the variance V, its derivative in x.

    >>> round(continuous_bernoulli_normal(0.25, 0.5, 0.5).item(), 4)
    0.4478
    """
    return _cross.continuous_bernoulli_to_normal(*arrays(probs_p, loc_q, scale_q))


@closed_form(probs=open_probability, high=above_low)
def continuous_bernoulli_uniform(
    probs_p: ArrayLike, low_q: ArrayLike, high_q: ArrayLike
) -> Array:
    """log(high_q - low_q) - entropy of p; inf unless low_q <= 0 and high_q >= 1.

    >>> round(continuous_bernoulli_uniform(0.25, 0.0, 2.0).item(), 4)
    0.742
    """
    p, low, high = arrays(probs_p, low_q, high_q)
    return _cross.within_unit(_cross.from_uniform(logit(p)), low, high)


@closed_form(rate=positive, concentration=positive)
def exponential_gamma(
    rate_p: ArrayLike, concentration_q: ArrayLike, rate_q: ArrayLike
) -> Array:
    """`gamma` of concentration 1.

    >>> round(exponential_gamma(1.0, 2.0, 2.0).item(), 4)
    0.1909
    """
    rate_p, b, rate_q = arrays(rate_p, concentration_q, rate_q)
    return gammas(jnp.ones_like(b), rate_p, b, rate_q)


@closed_form(rate=positive, loc=finite, scale=positive)
def exponential_gumbel(rate_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike) -> Array:
    """`gamma_gumbel` of concentration 1.

    >>> round(exponential_gumbel(1.0, 0.5, 1.0).item(), 4)
    0.3244
    """
    rate, loc, scale = arrays(rate_p, loc_q, scale_q)
    return _cross.gamma_to_gumbel(jnp.ones_like(rate), rate, loc, scale)


@closed_form(rate=positive, loc=finite, scale=positive)
def exponential_normal(rate_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike) -> Array:
    """`gamma_normal` of concentration 1.

    >>> round(exponential_normal(1.0, 1.0, 2.0).item(), 4)
    0.7371
    """
    rate, loc, scale = arrays(rate_p, loc_q, scale_q)
    return _cross.gamma_to_normal(jnp.ones_like(rate), rate, loc, scale)


@closed_form(concentration=positive, rate=positive)
def gamma_exponential(
    concentration_p: ArrayLike, rate_p: ArrayLike, rate_q: ArrayLike
) -> Array:
    """`gamma` of concentration 1.

    >>> round(gamma_exponential(2.0, 2.0, 1.0).item(), 4)
    0.1159
    """
    a, rate_p, rate_q = arrays(concentration_p, rate_p, rate_q)
    return gammas(a, rate_p, jnp.ones_like(a), rate_q)


@closed_form(concentration=positive, rate=positive, loc=finite, scale=positive)
def gamma_gumbel(
    concentration_p: ArrayLike, rate_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(scale_q) + a x - m + e^m (1 + x)^-a - entropy of p.

    a = concentration_p, x = 1 / (rate_p scale_q) and m = loc_q / scale_q.

    >>> round(gamma_gumbel(2.0, 2.0, 0.5, 0.5).item(), 4)
    0.1024
    """
    return _cross.gamma_to_gumbel(*arrays(concentration_p, rate_p, loc_q, scale_q))


@closed_form(concentration=positive, rate=positive, loc=finite, scale=positive)
def gamma_normal(
    concentration_p: ArrayLike, rate_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(2 pi scale_q^2) / 2 + (V + (E x - loc_q)^2) / (2 scale_q^2) - entropy of p.

    E x = concentration_p / rate_p, V = E x / rate_p.

    >>> round(gamma_normal(2.0, 2.0, 1.0, 0.5).item(), 4)
    0.3417
    """
    return _cross.gamma_to_normal(*arrays(concentration_p, rate_p, loc_q, scale_q))


@closed_form(loc=finite, scale=positive)
def gumbel_normal(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """`normal` of loc_p + C scale_p and pi scale_p / sqrt(6), and a constant.

    It is (log(pi^3 / 3) - 1) / 2 - C, with C Euler's constant.

    >>> round(gumbel_normal(0.0, 1.0, 0.5, 1.0).item(), 4)
    0.1672
    """
    m_p, s_p, m_q, s_q = arrays(loc_p, scale_p, loc_q, scale_q)
    offset = divide((m_p - m_q) + EULER * s_p, s_q)
    return _cross.to_normal(_cross.GUMBEL, offset, s_p * (math.pi / math.sqrt(6)), s_q)


@closed_form(loc=finite, scale=positive)
def laplace_normal(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """`normal` of loc_p and sqrt(2) scale_p, and (log(pi) - 1) / 2.

    >>> round(laplace_normal(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.2939
    """
    m_p, s_p, m_q, s_q = arrays(loc_p, scale_p, loc_q, scale_q)
    offset = divide(m_p - m_q, s_q)
    return _cross.to_normal(_cross.LAPLACE, offset, math.sqrt(2) * s_p, s_q)


@closed_form(loc=finite, scale=positive)
def normal_gumbel(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """z + e^(k^2 / 2 - z) - log(k) - log(2 pi e) / 2, z = (loc_p - loc_q) / scale_q.

    k = scale_p / scale_q.

    >>> round(normal_gumbel(0.0, 1.0, 0.0, 1.0).item(), 4)
    0.2298
    """
    m_p, s_p, m_q, s_q = arrays(loc_p, scale_p, loc_q, scale_q)
    return _cross.to_gumbel(divide(m_p - m_q, s_q), s_p, s_q, 0)


@closed_form(loc=finite, scale=positive)
def normal_laplace(
    loc_p: ArrayLike, scale_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(2 scale_q) + E|x - loc_q| / scale_q - log(2 pi e scale_p^2) / 2.

    E|x - loc_q| = scale_p sqrt(2 / pi) e^(-t^2 / 2) + (loc_p - loc_q) erf(t / sqrt(2)),
    t = (loc_p - loc_q) / scale_p.

    >>> round(normal_laplace(0.0, 1.0, 1.0, 2.0).item(), 4)
    0.5507
    """
    return _cross.normal_to_laplace(*arrays(loc_p, scale_p, loc_q, scale_q))


@closed_form(scale=positive, alpha=positive, rate=positive)
def pareto_exponential(scale_p: ArrayLike, alpha_p: ArrayLike, rate_q: ArrayLike) -> Array:
    """log(alpha_p / (scale_p rate_q)) - 1 / alpha_p - 1 + rate_q E x.

    `pareto_gamma` of concentration 1: E x = alpha_p scale_p / (alpha_p - 1), and inf where
    alpha_p <= 1.

    >>> round(pareto_exponential(1.0, 2.0, 0.5).item(), 4)
    0.8863
    """
    scale, alpha, rate = arrays(scale_p, alpha_p, rate_q)
    return _cross.pareto_to_gamma(scale, alpha, jnp.ones_like(rate), rate)


@closed_form(scale=positive, alpha=positive, concentration=positive, rate=positive)
def pareto_gamma(
    scale_p: ArrayLike, alpha_p: ArrayLike, concentration_q: ArrayLike, rate_q: ArrayLike
) -> Array:
    """log Gamma(c) - c log(rate_q) - (c - 1) E log x + rate_q E x - entropy of p.

    c = concentration_q, E x = alpha_p scale_p / (alpha_p - 1) and
    E log x = log(scale_p) + 1 / alpha_p. inf where alpha_p <= 1.

    >>> round(pareto_gamma(1.0, 3.0, 4.0, 3.0).item(), 4)
    0.6626
    """
    return _cross.pareto_to_gamma(*arrays(scale_p, alpha_p, concentration_q, rate_q))


@closed_form(scale=positive, alpha=positive, loc=finite)
def pareto_normal(
    scale_p: ArrayLike, alpha_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """log(2 pi scale_q^2) / 2 + (V + (E x - loc_q)^2) / (2 scale_q^2) - entropy of p.

    E x = alpha_p scale_p / (alpha_p - 1), V = E x^2 / (alpha_p (alpha_p - 2)). inf where
    alpha_p <= 2.

    >>> round(pareto_normal(1.0, 3.0, 1.5, 1.0).item(), 4)
    1.0592
    """
    return _cross.pareto_to_normal(*arrays(scale_p, alpha_p, loc_q, scale_q))


@closed_form(high=above_low, concentration1=positive, concentration0=positive)
def uniform_beta(
    low_p: ArrayLike,
    high_p: ArrayLike,
    concentration1_q: ArrayLike,
    concentration0_q: ArrayLike,
) -> Array:
    """log B(c, d) - log(w) - (c - 1) E log x - (d - 1) E log(1 - x), w = high_p - low_p.

    c, d are the concentrations; inf unless low_p >= 0 and high_p <= 1.

    >>> round(uniform_beta(0.0, 1.0, 2.0, 2.0).item(), 4)
    0.2082
    """
    return _cross.uniform_to_beta(
        *arrays(low_p, high_p, concentration1_q, concentration0_q)
    )


@closed_form(high=above_low, probs=open_probability)
def uniform_continuous_bernoulli(
    low_p: ArrayLike, high_p: ArrayLike, probs_q: ArrayLike
) -> Array:
    """log((e^x - 1) / x) - x (low_p + high_p) / 2 - log(high_p - low_p).

    x = log(probs_q / (1 - probs_q)); inf unless low_p >= 0 and high_p <= 1.

    >>> round(uniform_continuous_bernoulli(0.0, 0.5, 0.25).item(), 4)
    0.4683
    """
    return _cross.uniform_to_continuous_bernoulli(*arrays(low_p, high_p, probs_q))


@closed_form(high=above_low, rate=positive)
def uniform_exponential(low_p: ArrayLike, high_p: ArrayLike, rate_q: ArrayLike) -> Array:
    """rate_q (low_p + high_p) / 2 - log(rate_q (high_p - low_p)); inf where low_p < 0.

    >>> round(uniform_exponential(0.0, 2.0, 1.0).item(), 4)
    0.3069
    """
    low, high, rate = arrays(low_p, high_p, rate_q)
    return _cross.uniform_to_gamma(low, high, jnp.ones_like(rate), rate)


@closed_form(high=above_low, concentration=positive, rate=positive)
def uniform_gamma(
    low_p: ArrayLike, high_p: ArrayLike, concentration_q: ArrayLike, rate_q: ArrayLike
) -> Array:
    """log Gamma(c) - c log(rate_q) - (c - 1) E log x + rate_q E x - log(high_p - low_p).

    c = concentration_q; inf where low_p < 0.

    >>> round(uniform_gamma(0.0, 2.0, 2.0, 2.0).item(), 4)
    0.2274
    """
    return _cross.uniform_to_gamma(*arrays(low_p, high_p, concentration_q, rate_q))


@closed_form(high=above_low, loc=finite, scale=positive)
def uniform_gumbel(
    low_p: ArrayLike, high_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """z - log(k) + e^-z sinh(k / 2) / (k / 2), k = (high_p - low_p) / scale_q.

    z = ((low_p + high_p) / 2 - loc_q) / scale_q.

    >>> round(uniform_gumbel(0.0, 2.0, 1.0, 0.5).item(), 4)
    0.4271
    """
    return _cross.uniform_to_gumbel(*arrays(low_p, high_p, loc_q, scale_q))


@closed_form(high=above_low, loc=finite, scale=positive)
def uniform_normal(
    low_p: ArrayLike, high_p: ArrayLike, loc_q: ArrayLike, scale_q: ArrayLike
) -> Array:
    """`normal` of the mean and of w / sqrt(12), w = high_p - low_p, and log(pi e / 6) / 2.

    >>> round(uniform_normal(0.0, 2.0, 1.0, 1.0).item(), 4)
    0.3925
    """
    low, high, loc, scale = arrays(low_p, high_p, loc_q, scale_q)
    offset = divide(((low - loc) + (high - loc)) / 2, scale)
    deviation = (high - low) / math.sqrt(12)
    return _cross.to_normal(_cross.UNIFORM, offset, deviation, scale)


@closed_form(high=above_low, scale=positive, alpha=positive)
def uniform_pareto(
    low_p: ArrayLike, high_p: ArrayLike, scale_q: ArrayLike, alpha_q: ArrayLike
) -> Array:
    """(alpha_q + 1) E log x - alpha_q log(scale_q) - log(alpha_q w), w = high_p - low_p.

    inf where low_p < scale_q.

    >>> round(uniform_pareto(1.0, 2.0, 0.5, 1.0).item(), 4)
    1.4657
    """
    return _cross.uniform_to_pareto(*arrays(low_p, high_p, scale_q, alpha_q))
