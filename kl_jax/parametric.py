r"""KL(p || q) between two members of a family, from their parameters, those of p first."""

from __future__ import annotations

from jax import Array
from jax.typing import ArrayLike

from kl_jax import contracts
from kl_jax.elementwise import phi

__all__ = ["normal_standard"]


def normal_standard(mean: ArrayLike, log_variance: ArrayLike) -> Array:
    r"""KL(N(mean, e^log_variance) || N(0, 1)), in nats, one value a component.

    (mean^2 + e^log_variance - 1 - log_variance) / 2. The latent dimensions of a variational
    autoencoder are independent: their KL is the sum over the last axis.
    """
    mean, log_variance = contracts.floats(
        "parametric.normal_standard", mean=mean, log_variance=log_variance
    )
    return (mean * mean + phi(log_variance)) / 2
