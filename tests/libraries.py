"""One distribution of each library, by the parameters of `kl_jax.parametric` in order.

`MAKE[library][family](d, *parameters)`, with d the module of that library's distributions.
"""

TORCH = {
    "bernoulli": lambda d, p: d.Bernoulli(probs=p),
    "bernoulli_logits": lambda d, x: d.Bernoulli(logits=x),
    "binomial": lambda d, n, p: d.Binomial(n, probs=p),
    "geometric": lambda d, p: d.Geometric(probs=p),
    "poisson": lambda d, r: d.Poisson(r),
    "normal": lambda d, m, s: d.Normal(m, s),
    "log_normal": lambda d, m, s: d.LogNormal(m, s),
    "half_normal": lambda d, s: d.HalfNormal(s),
    "laplace": lambda d, m, s: d.Laplace(m, s),
    "cauchy": lambda d, m, s: d.Cauchy(m, s),
    "gumbel": lambda d, m, s: d.Gumbel(m, s),
    "weibull": lambda d, s, k: d.Weibull(s, k),
    "exponential": lambda d, r: d.Exponential(r),
    "gamma": lambda d, a, r: d.Gamma(a, r),
    "inverse_gamma": lambda d, a, r: d.InverseGamma(a, r),
    "chi2": lambda d, k: d.Chi2(k),
    "pareto": lambda d, s, a: d.Pareto(s, a),
    "uniform": lambda d, a, b: d.Uniform(a, b),
    "beta": lambda d, a, b: d.Beta(a, b),
    "dirichlet": lambda d, a: d.Dirichlet(a),
    "continuous_bernoulli": lambda d, p: d.ContinuousBernoulli(probs=p),
    "continuous_bernoulli_logits": lambda d, x: d.ContinuousBernoulli(logits=x),
    "von_mises": lambda d, m, k: d.VonMises(m, k),
    "multivariate_normal": lambda d, m, s: d.MultivariateNormal(m, scale_tril=s),
    "multivariate_normal_diag": lambda d, m, s: d.Independent(d.Normal(m, s), 1),
    "low_rank_multivariate_normal": lambda d, m, w, v: d.LowRankMultivariateNormal(m, w, v),
}
# The continuous Bernoulli distribution it does not have.
NUMPYRO = {name: TORCH[name] for name in TORCH if "continuous" not in name} | {
    "negative_binomial": lambda d, n, p: d.NegativeBinomialProbs(n, p),
    "multinomial": lambda d, n, p: d.MultinomialProbs(p, n),
    "truncated_normal": lambda d, m, s, a, b: d.TruncatedNormal(m, s, low=a, high=b),
    "wishart": lambda d, k, s: d.Wishart(k, scale_tril=s),
    "inverse_wishart": lambda d, k, s: d.InverseWishart(k, scale_tril=s),
    "matrix_normal": lambda d, m, r, c: d.MatrixNormal(m, r, c),
    "bernoulli": lambda d, p: d.BernoulliProbs(p),
    "bernoulli_logits": lambda d, x: d.BernoulliLogits(x),
    "binomial": lambda d, n, p: d.BinomialProbs(p, n),
    "geometric": lambda d, p: d.GeometricProbs(p),
}
TFP = TORCH | {
    "negative_binomial": lambda d, n, p: d.NegativeBinomial(n, probs=p),
    "multinomial": lambda d, n, p: d.Multinomial(n, probs=p),
    "truncated_normal": lambda d, m, s, a, b: d.TruncatedNormal(m, s, a, b),
    "logit_normal": lambda d, m, s: d.LogitNormal(m, s),
    "von_mises_fisher": lambda d, m, k: d.VonMisesFisher(m, k),
    "wishart": lambda d, k, s: d.WishartTriL(k, s),
    "matrix_normal": lambda d, m, *sides: d.MatrixNormalLinearOperator(
        m, *(d.MultivariateNormalTriL(scale_tril=x).scale for x in sides)
    ),
    "weibull": lambda d, s, k: d.Weibull(k, s),
    "pareto": lambda d, s, a: d.Pareto(a, s),
    "multivariate_normal": lambda d, m, s: d.MultivariateNormalTriL(m, s),
    "multivariate_normal_diag": lambda d, m, s: d.MultivariateNormalDiag(m, s),
    "low_rank_multivariate_normal": (
        lambda d, m, w, v: d.MultivariateNormalDiagPlusLowRankCovariance(m, v, w)
    ),
}
DISTRAX = {
    name: TFP[name]
    for name in (
        *("bernoulli", "bernoulli_logits", "beta", "dirichlet", "gamma", "gumbel"),
        *("laplace", "normal", "uniform", "von_mises", "multivariate_normal_diag"),
    )
} | {
    "normal_log_variance": lambda d, m, v: d.LogStddevNormal(m, v / 2),
    "multivariate_normal": lambda d, m, s: d.MultivariateNormalTri(m, s),
}
MAKE = {"torch": TORCH, "numpyro": NUMPYRO, "tfp": TFP, "distrax": DISTRAX}
