r"""KL(p || q) between two members of a family, from their parameters, in nats.

Each function takes the parameters of p, then those of q, named and ordered as in
torch.distributions. Textbook formulas subtract logarithms, log Gammas and traces that
nearly agree where p and q do. Here every closed form is a sum of Bregman divergences,

    B_f(x, y) = f(x) - f(y) - f'(y) (x - y) >= 0    of a convex f,

which are 0 exactly at equality and do not cancel (`elementwise` has them), and of squares:

    G(x, y) = x log(x / y) - x + y,    S(x, y) = x / y - 1 - log(x / y)

are those of x log x and of -log x.

TABLE

Shapes: parameters have equal shapes or none (a number serves every row), and the result has
that shape; `dirichlet` and the multivariate normals use up the last axis. Dtypes: float64
if a parameter is, else float32. A wrong shape is a `ValueError` and a wrong dtype a
`TypeError` that name the function and the parameter.

Boundary: inf where p has mass outside the support of q. nan for parameters outside their
  domain, such as a scale of 0 or less; `kl_jax.checked` makes that an error.
Gradient: of every order in every parameter, 0 at p = q. Where KL is inf it is 0 in the
  parameters whose supports do not match.
"""

from kl_jax.parametric.bounded import beta as beta
from kl_jax.parametric.bounded import continuous_bernoulli as continuous_bernoulli
from kl_jax.parametric.bounded import (
    continuous_bernoulli_logits as continuous_bernoulli_logits,
)
from kl_jax.parametric.bounded import dirichlet as dirichlet
from kl_jax.parametric.bounded import uniform as uniform
from kl_jax.parametric.bounded import von_mises as von_mises
from kl_jax.parametric.discrete import bernoulli as bernoulli
from kl_jax.parametric.discrete import bernoulli_logits as bernoulli_logits
from kl_jax.parametric.discrete import binomial as binomial
from kl_jax.parametric.discrete import geometric as geometric
from kl_jax.parametric.discrete import poisson as poisson
from kl_jax.parametric.location_scale import cauchy as cauchy
from kl_jax.parametric.location_scale import gumbel as gumbel
from kl_jax.parametric.location_scale import half_normal as half_normal
from kl_jax.parametric.location_scale import laplace as laplace
from kl_jax.parametric.location_scale import log_normal as log_normal
from kl_jax.parametric.location_scale import normal as normal
from kl_jax.parametric.location_scale import normal_standard as normal_standard
from kl_jax.parametric.location_scale import weibull as weibull
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
