r"""KL(p || q) between two members of a family, from their parameters, in nats.

Each function takes the parameters of p, then those of q, named and ordered as in
torch.distributions. Textbook formulas subtract logarithms, log Gammas and traces that
nearly agree where p and q do. Here every closed form is a sum of Bregman divergences,

    B_f(x, y) = f(x) - f(y) - f'(y) (x - y) >= 0    of a convex f,

which are 0 exactly at equality and do not cancel (in `_convex`), and of squares:

    G(x, y) = x log(x / y) - x + y,    S(x, y) = x / y - 1 - log(x / y)

are those of x log x and of -log x. Only `truncated_normal` is a quadrature.

| function | parameters | range | ULP |
|---|---|---|---|
| `bernoulli` | probs | 1e-7 to 1 - 1e-7 | 1.3 |
| `bernoulli_logits` | logits | -1e3 to 1e3 | 3.5 |
| `binomial` | total_count, probs | probs 1e-7 to 1 - 1e-7, counts to 1e6 | 2.1 |
| `negative_binomial` | total_count, probs | probs 1e-7 to 1 - 1e-7, counts to 1e6 | 2.0 |
| `multinomial` | total_count, probs | masses 1e-7 to 1, counts to 1e6 | 3.5 |
| `geometric` | probs | 1e-7 to 1 - 1e-7 | 2.1 |
| `poisson` | rate | 1e-3 to 1e6 | 2.3 |
| `normal` | loc, scale | 1e-3 to 1e6 | 2.1 |
| `normal_standard` | mean, log_variance | log_variance -80 to 80 | 1.2 |
| `normal_log_variance` | mean, log_variance | log_variance -300 to 300 | 4.1 |
| `log_normal` | loc, scale | 1e-3 to 1e6 | 2.3 |
| `logit_normal` | loc, scale | 1e-3 to 1e6 | 2.2 |
| `truncated_normal` | loc, scale, low, high | locs to 1e6 scales outside | 6.0 |
| `half_normal` | scale | 1e-3 to 1e6 | 1.8 |
| `laplace` | loc, scale | 1e-3 to 1e6 | 2.2 |
| `cauchy` | loc, scale | 1e-3 to 1e6 | 2.5 |
| `gumbel` | loc, scale | e^w to 1e25 | 19.6 |
| `weibull` | scale, concentration | e^w to 1e25 | 19.6 |
| `exponential` | rate | 1e-3 to 1e6 | 1.9 |
| `gamma` | concentration, rate | 1e-3 to 1e6 | 2.6 |
| `inverse_gamma` | concentration, rate | 1e-3 to 1e6 | 3.1 |
| `chi2` | df | 1e-3 to 1e6 | 2.6 |
| `pareto` | scale, alpha | 1e-3 to 1e6 | 1.7 |
| `uniform` | low, high | margins 1e-6 to 100 widths | 1.3 |
| `beta` | concentration1, concentration0 | 1e-3 to 1e6 | 4.4 |
| `dirichlet` | concentration | 1e-3 to 1e6 | 4.7 |
| `continuous_bernoulli` | probs | 1e-7 to 1 - 1e-7 | 3.5 |
| `continuous_bernoulli_logits` | logits | -1e5 to 1e3 | 3.5 |
| `von_mises` | loc, concentration | 1e-3 to 1e6 | 6.3 |
| `von_mises_fisher` | mean_direction, concentration | 1e-3 to 1e6 | 5.8 |
| `wishart` | df, scale_tril | df - d + 1 1e-2 to 1e4, condition number 10 | 5.3 |
| `inverse_wishart` | df, scale_tril | df - d + 1 1e-2 to 1e4, condition number 10 | 6.0 |
| `matrix_normal` | loc, scale_tril_row, scale_tril_column | condition number to 10 | 7.1 |
| `multivariate_normal` | loc, scale_tril | condition number to 30 | 3.6 |
| `multivariate_normal_diag` | loc, scale | 1e-3 to 1e6 | 3.1 |
| `low_rank_multivariate_normal` | loc, cov_factor, cov_diag | factors 0.1 to 30 | 19.0 |

Between two families, as of a Laplace p and a normal q: `kl_jax.parametric.cross`.

Shapes: parameters broadcast by NumPy's rules, as a batch of posteriors against one prior,
and the result has the shape that they broadcast to. Vectors, of `dirichlet`, `multinomial`,
`von_mises_fisher` and the multivariate normals, use up the last axis. Matrices have equal
last two axes, and broadcast before them, as do numbers beside vectors or matrices.
Dtypes: float64 if a parameter is, else float32, also for integers. Shapes that do not fit
are a `ValueError` and other dtypes a `TypeError` that name the function and the parameter.

Boundary: inf where p has mass outside the support of q. nan for parameters outside their
  domain, such as a scale of 0 or less; `kl_jax.checked` makes that an error.
Gradient: of every order in every parameter; 0 at p = q, but for the ends of `uniform` and
  `pareto`, where KL has a kink. Where KL is inf, the gradient is 0 if the supports do not
  nest (`uniform`, `pareto`); at a probability or rate of exactly 0 it is the limit, as for
  `generalized_kl`. A slope that overflows is the largest number of the dtype.
Error: relative at most 1e-6 in float32 and 1e-14 in float64 over the ranges of the table
  (tests/test_parametric.py), for p and q that differ by 1e-6 as for those far apart. More
  in `gumbel` and `weibull` (1e-5) whose e^w amplifies the error of w by w, in
  `low_rank_multivariate_normal` (5e-6; 1e-5 for D of 1e-3 and factors of 30, and up to
  1e-4 where D_p / D_q of 1e3 cancels, as of a standard normal p and a tight q), and in
  `multivariate_normal` in proportion to the condition number of q's factor (6e-5 at 1e3),
  as in the other families of matrices (1e-6 up to 10).
  Scalar concentrations, rates and scales, and those of `dirichlet`, may be from 1e-20 to
  1e12: no value is nan or negative, p = q gives 0, jitted or not, and the error is at most
  1e-5 of values above 1e-30.
  ULP: the worst of the float32 pairs of benchmarks/results/parametric.md, beside
  torch.distributions, TensorFlow Probability and NumPyro; `normal_log_variance` is in
  other.md there.

Student's t has no closed form, nor have two Kumaraswamy distributions of different a (of
one a they are `exponential` in b). In one dimension there is quadrature:

>>> import jax.numpy as jnp
>>> from jax.scipy.stats import t
>>> from kl_jax import kl_from_densities
>>> log_p, log_q = lambda x: t.logpdf(x, 5.0), lambda x: t.logpdf(x, 3.0, 0.5, 2.0)
>>> print(round(kl_from_densities(log_p, log_q, -jnp.inf, jnp.inf).item(), 4))
0.3164

Source: Gil, Alajaji and Linder, "Renyi divergence measures for commonly used univariate
continuous distributions" (2013), for most textbook forms; Banerjee, Merugu, Dhillon and
Ghosh, "Clustering with Bregman divergences" (2005), for KL of exponential families.
"""

from kl_jax.parametric import cross as cross
from kl_jax.parametric.bounded import beta as beta
from kl_jax.parametric.bounded import continuous_bernoulli as continuous_bernoulli
from kl_jax.parametric.bounded import (
    continuous_bernoulli_logits as continuous_bernoulli_logits,
)
from kl_jax.parametric.bounded import dirichlet as dirichlet
from kl_jax.parametric.bounded import uniform as uniform
from kl_jax.parametric.bounded import von_mises as von_mises
from kl_jax.parametric.directional import von_mises_fisher as von_mises_fisher
from kl_jax.parametric.discrete import bernoulli as bernoulli
from kl_jax.parametric.discrete import bernoulli_logits as bernoulli_logits
from kl_jax.parametric.discrete import binomial as binomial
from kl_jax.parametric.discrete import geometric as geometric
from kl_jax.parametric.discrete import multinomial as multinomial
from kl_jax.parametric.discrete import negative_binomial as negative_binomial
from kl_jax.parametric.discrete import poisson as poisson
from kl_jax.parametric.location_scale import cauchy as cauchy
from kl_jax.parametric.location_scale import gumbel as gumbel
from kl_jax.parametric.location_scale import half_normal as half_normal
from kl_jax.parametric.location_scale import laplace as laplace
from kl_jax.parametric.location_scale import log_normal as log_normal
from kl_jax.parametric.location_scale import logit_normal as logit_normal
from kl_jax.parametric.location_scale import normal as normal
from kl_jax.parametric.location_scale import normal_log_variance as normal_log_variance
from kl_jax.parametric.location_scale import normal_standard as normal_standard
from kl_jax.parametric.location_scale import weibull as weibull
from kl_jax.parametric.matrices import inverse_wishart as inverse_wishart
from kl_jax.parametric.matrices import matrix_normal as matrix_normal
from kl_jax.parametric.matrices import wishart as wishart
from kl_jax.parametric.multivariate import (
    low_rank_multivariate_normal as low_rank_multivariate_normal,
)
from kl_jax.parametric.multivariate import multivariate_normal as multivariate_normal
from kl_jax.parametric.multivariate import (
    multivariate_normal_diag as multivariate_normal_diag,
)
from kl_jax.parametric.positive import chi2 as chi2
from kl_jax.parametric.positive import exponential as exponential
from kl_jax.parametric.positive import gamma as gamma
from kl_jax.parametric.positive import inverse_gamma as inverse_gamma
from kl_jax.parametric.positive import pareto as pareto
from kl_jax.parametric.truncated import truncated_normal as truncated_normal
