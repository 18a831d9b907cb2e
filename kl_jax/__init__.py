"""kl_jax: the Kullback-Leibler divergence for JAX."""

from importlib.metadata import version as _version

from kl_jax import parametric as parametric
from kl_jax._checks import checked as checked
from kl_jax.chunks import chunked as chunked
from kl_jax.counts import kl_from_counts as kl_from_counts
from kl_jax.densities import kl_from_densities as kl_from_densities
from kl_jax.divergences import jeffreys_divergence as jeffreys_divergence
from kl_jax.divergences import jensen_shannon_distance as jensen_shannon_distance
from kl_jax.divergences import jensen_shannon_divergence as jensen_shannon_divergence
from kl_jax.divergences import kl_divergence as kl_divergence
from kl_jax.divergences import renyi_divergence as renyi_divergence
from kl_jax.divergences import reverse_kl_divergence as reverse_kl_divergence
from kl_jax.divergences import skew_kl_divergence as skew_kl_divergence
from kl_jax.elementwise import generalized_kl as generalized_kl
from kl_jax.elementwise import logits_from_probs as logits_from_probs
from kl_jax.elementwise import rel_entr as rel_entr
from kl_jax.estimators import kl_estimate as kl_estimate
from kl_jax.estimators import kl_from_samples as kl_from_samples
from kl_jax.linear import linear_kl_divergence as linear_kl_divergence
from kl_jax.mixtures import mixture_kl_approximation as mixture_kl_approximation
from kl_jax.mixtures import mixture_kl_upper_bound as mixture_kl_upper_bound
from kl_jax.mixtures import mixture_logits as mixture_logits
from kl_jax.probabilities import kl_divergence_from_probs as kl_divergence_from_probs
from kl_jax.topk import topk_kl_divergence as topk_kl_divergence
from kl_jax.topk import topk_outcomes as topk_outcomes
from kl_jax.torch_compat import KLDivLoss as KLDivLoss
from kl_jax.torch_compat import kl_div as kl_div
from kl_jax.transforms import Weighted as Weighted
from kl_jax.transforms import batchmean as batchmean
from kl_jax.transforms import masked as masked
from kl_jax.transforms import mean as mean
from kl_jax.transforms import reverse as reverse
from kl_jax.transforms import sum as sum
from kl_jax.transforms import tempered as tempered
from kl_jax.transforms import weighted as weighted

__version__ = _version("kl_jax")

# Without `sum`: `from kl_jax import *` must not hide Python's.
__all__ = [
    "KLDivLoss",
    "Weighted",
    "batchmean",
    "checked",
    "chunked",
    "generalized_kl",
    "jeffreys_divergence",
    "jensen_shannon_distance",
    "jensen_shannon_divergence",
    "kl_div",
    "kl_divergence",
    "kl_divergence_from_probs",
    "kl_estimate",
    "kl_from_counts",
    "kl_from_densities",
    "kl_from_samples",
    "linear_kl_divergence",
    "logits_from_probs",
    "masked",
    "mean",
    "mixture_kl_approximation",
    "mixture_kl_upper_bound",
    "mixture_logits",
    "parametric",
    "rel_entr",
    "renyi_divergence",
    "reverse",
    "reverse_kl_divergence",
    "skew_kl_divergence",
    "tempered",
    "topk_kl_divergence",
    "topk_outcomes",
    "weighted",
]
