"""PyTorch's `torch.nn.functional.kl_div` and `torch.nn.KLDivLoss`, for code to port.

The argument order, the broadcasting, the string reductions and the deprecated booleans
are PyTorch's, and exist only here. New code calls `kl_divergence` and the transforms of
`kl_jax.transforms`.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from dataclasses import InitVar
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts, _keywords, transforms
from kl_jax.elementwise import rel_entr_of_log_q, rel_entr_of_logs

__all__ = ["KLDivLoss", "kl_div"]

Reduction = Literal["none", "batchmean", "sum", "mean", "elementwise_mean"]


def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    log_target: bool = False,
) -> Array:
    r"""PyTorch's pointwise KL divergence loss, target * (log target - input), in nats.

    KL(target || exp(input)) once summed over outcomes: mind the order, `input` is log q.
    `reduction="batchmean"` is the mean over rows of [rows, outcomes]; "mean" divides by
    the number of outcomes too, and is no KL divergence.

    Args:
      input: log q.
      target: p, or log p with `log_target`.
      size_average: Deprecated, as `reduce`. If either is given `reduction` is ignored:
        `reduce=False` is "none", else `size_average=False` is "sum", else "mean".
      reduce: Deprecated.
      reduction: "none"; "sum"; "mean", over all elements; or "batchmean", the sum over
        `input.shape[0]` (1 for a 0-d input).
      log_target: Whether `target` is log p.

    Returns:
      The shape both arguments broadcast to for "none", else (); at least float32.

    Raises:
      TypeError: If an argument is not a floating-point array, or `log_target` no bool.
      ValueError: If the shapes do not broadcast, or the reduction is none of the above.

    Warns:
      DeprecationWarning: For `size_average`, `reduce` and `reduction="elementwise_mean"`.
      UserWarning: For `reduction="mean"`, that it divides by the support size too.

    Boundary: 0 where p = 0, inf where q = 0 < p. It differs from PyTorch 2.13 in this:

      ==========================================  ===============  =====================
      case                                        PyTorch          here
      ==========================================  ===============  =====================
      target 0, input +-inf                       nan              0
      log target -inf, any input but nan          nan              0
      log target so low that its exp underflows,
        input -inf or +inf                        nan              inf or -inf
      target inf, input finite                    nan if input>=0  inf
      gradient in the target in these cases,
        where it is infinite                      nan              inf or -inf
      products that overflow on the way           as multiplied    as multiplied here
      gradient in target at target 0              nan              0
      gradient in log target at -inf              nan              0
      its second derivatives there                nan              0 (mixed, target 0: -1)
      `size_average` or `reduce` given, with
        reduction="batchmean"                     divides twice    divides once
      half-precision arguments                    half precision   computed in float32
      other dtypes, mixed or 0-d                  torch promotion  float64 if one is,
                                                                   else float32
      subnormal numbers on CPU                    kept             flushed to 0 by XLA
      Python numbers and NumPy arrays             TypeError        accepted
      category of deprecation warnings            UserWarning      DeprecationWarning
      category of errors for dtypes and shapes    RuntimeError     TypeError, ValueError
      ==========================================  ===============  =====================

    Gradient: -target in input, log(target) - input + 1 in target; with `log_target`,
      -e^target and e^target (target - input + 1). The conventions are in the table.
    Error: each term within 3 ULP of the larger of target * log target and target * input;
      with `log_target`, within 3 ULP of itself (tests/test_torch_compat.py;
      benchmarks/other_accuracy.py: 1.8, and 2.0 in float64). `kl_divergence` of logits is
      the accurate way where p and q nearly agree: the rounding of log-probabilities stays
      in the sum.

    >>> import jax.numpy as jnp
    >>> log_q = jnp.log(jnp.array([[0.9, 0.1]]))
    >>> p = jnp.array([[0.5, 0.5]])
    >>> round(kl_div(log_q, p, reduction="batchmean").item(), 4)
    0.5108

    Source: `torch.nn.functional.kl_div`, PyTorch 2.13.
    """
    resolved = _resolved(size_average, reduce, reduction)
    return _kl_div(input, target, resolved, log_target)


@dataclasses.dataclass(frozen=True)
class KLDivLoss:
    """`kl_div` with its options fixed, as `torch.nn.KLDivLoss`: a frozen, hashable value.

    Args:
      size_average: Deprecated, as `reduce`; resolved into `reduction` at construction.
      reduce: Deprecated.
      reduction: As in `kl_div`.
      log_target: As in `kl_div`.

    Returns:
      A function of `(input, target)`, the loss in nats as `kl_div` returns it.

    Raises:
      TypeError, ValueError: When called, as `kl_div` does.

    >>> import jax.numpy as jnp
    >>> loss = KLDivLoss(reduction="batchmean")
    >>> log_q = jnp.log(jnp.array([[0.9, 0.1]]))
    >>> round(loss(log_q, jnp.array([[0.5, 0.5]])).item(), 4)
    0.5108

    Source: `torch.nn.KLDivLoss`, PyTorch 2.13.
    """

    size_average: InitVar[bool | None] = None
    reduce: InitVar[bool | None] = None
    reduction: Reduction = "mean"
    log_target: bool = False

    def __post_init__(self, size_average: bool | None, reduce: bool | None) -> None:
        if size_average is not None or reduce is not None:
            resolved = _from_booleans(size_average, reduce, stacklevel=4)
            object.__setattr__(self, "reduction", resolved)

    def __call__(self, input: ArrayLike, target: ArrayLike) -> Array:
        """The loss, as `kl_div` of these options."""
        resolved = _resolved(None, None, self.reduction)
        return _kl_div(input, target, resolved, self.log_target)


def _from_booleans(size_average: bool | None, reduce: bool | None, stacklevel: int) -> str:
    """The reduction that the deprecated pair stands for; None counts as True."""
    if reduce is not None and not reduce:
        resolved = "none"
    elif size_average is not None and not size_average:
        resolved = "sum"
    else:
        resolved = "mean"
    warnings.warn(
        "kl_div: size_average and reduce are deprecated, write "
        f"reduction={resolved!r} instead.",
        DeprecationWarning,
        stacklevel,
    )
    return resolved


def _resolved(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """One of "none", "batchmean", "sum", "mean"; warns its caller's caller."""
    if size_average is not None or reduce is not None:
        return _from_booleans(size_average, reduce, stacklevel=4)
    _keywords.choice("kl_div", "reduction", reduction, get_args(Reduction))
    if reduction == "elementwise_mean":
        warnings.warn(
            "kl_div: reduction='elementwise_mean' is deprecated, write reduction='mean' "
            "instead.",
            DeprecationWarning,
            stacklevel=3,
        )
        return "mean"
    if reduction == "mean":
        warnings.warn(
            "kl_div: reduction='mean' divides by the support size as well as the batch "
            "size; reduction='batchmean' divides by the batch size alone, as the KL "
            "divergence is defined.",
            UserWarning,
            stacklevel=3,
        )
    return reduction


def _kl_div(input: Any, target: Any, reduction: str, log_target: bool) -> Array:
    _keywords.flag("kl_div", "log_target", log_target)
    log_q, p = _contracts.floats("kl_div", input=input, target=target)
    _checks.no_nan("kl_div", "input", log_q)
    (_checks.no_nan if log_target else _checks.all_non_negative)("kl_div", "target", p)
    return _reduced(reduction, log_target, log_q, p)


# Executed one operation at a time, a first call would compile 11 programs.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _reduced(reduction: str, log_target: bool, log_q: Array, p: Array) -> Array:
    # PyTorch divides by the length of `input`, not of what it broadcasts to.
    rows = log_q.shape[0] if log_q.ndim else 1
    log_q, p = _contracts.broadcast("kl_div", input=log_q, target=p)
    pointwise = rel_entr_of_logs if log_target else rel_entr_of_log_q
    if reduction == "none":
        return pointwise(p, log_q)
    if reduction == "mean":
        return transforms.mean(pointwise)(p, log_q)
    total = transforms.sum(pointwise)(p, log_q)
    return total / jnp.asarray(rows, total.dtype) if reduction == "batchmean" else total
