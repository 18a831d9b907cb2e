"""Calls that a type checker must refuse: of one accepted the `ignore` would be unused."""

from jax import Array

from kl_jax import (
    checked,
    chunked,
    kl_div,
    kl_divergence,
    kl_estimate,
    masked,
    mean,
    mixture_kl_upper_bound,
    parametric,
    reverse,
    tempered,
    topk_kl_divergence,
    topk_outcomes,
)


def wrong(a: Array, b: Array, mask: Array) -> None:
    mean(kl_divergence)(a)  # pyrefly: ignore[missing-argument]
    mean(kl_divergence)(a, b, axs=0)  # pyrefly: ignore[unexpected-keyword]
    mean(kl_divergence(a, b))  # pyrefly: ignore[bad-argument-type]
    mean(kl_divergence, axis="rows")  # pyrefly: ignore[no-matching-overload]
    reverse(kl_divergence)(a)  # pyrefly: ignore[missing-argument]
    tempered(kl_divergence, "2")  # pyrefly: ignore[bad-argument-type]
    tempered(masked(kl_divergence), 2.0)  # pyrefly: ignore[bad-argument-type]
    tempered(kl_divergence, 2.0)("a", b)  # pyrefly: ignore[bad-argument-type]
    checked(kl_divergence)(a, b, msk=mask)  # pyrefly: ignore[unexpected-keyword]
    chunked(kl_divergence, "64")  # pyrefly: ignore[bad-argument-type]
    parametric.normal(0.0, 1.0, 1.0)  # pyrefly: ignore[missing-argument]
    parametric.cross.beta_normal(1.0, 2.0, 0.5)  # pyrefly: ignore[missing-argument]
    kl_estimate(a, b, estimator="k4")  # pyrefly: ignore[bad-argument-type]
    topk_kl_divergence(a, a, b, tail="buket")  # pyrefly: ignore[bad-argument-type]
    topk_outcomes(a, a, b, tail="drop")  # pyrefly: ignore[bad-argument-type]
    mixture_kl_upper_bound(a, a, b, steps="9")  # pyrefly: ignore[bad-argument-type]
    kl_div(a, b, reduction="batch_mean")  # pyrefly: ignore[bad-argument-type]
    loss: float = mean(kl_divergence)(a, b)  # pyrefly: ignore[bad-assignment]
    print(loss)
