r"""Every condition on values, checked where `checked` asks for it.

The relations of `_contracts` are static; these are not. Each function here is one condition
on one argument, and one line at the head of a public function. Outside `checked` it returns
at once: nothing is traced, compiled or computed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import checkify
from jax.typing import ArrayLike

from kl_jax import _contracts
from kl_jax._arithmetic import result_dtype
from kl_jax._contracts import AxisName
from kl_jax._functions import name_of, wraps

__all__ = ["checked"]

P = ParamSpec("P")
Result = TypeVar("Result")

# JAX makes this context a part of the key of every cache: a function that was traced
# without checks is traced once more with them, and the other way round. (A check that
# waited in each trace would be an effect: a jitted call with one takes 100 us, not 9.)
_checking = jax.make_user_context(False)


def checked(fun: Callable[P, Result]) -> Callable[P, Result]:
    """`fun`, and a `ValueError` where a value is no distribution, logit, count or scale.

    Functions of kl_jax never look at values by themselves: what they give outside their
    domain is in their *Boundary* lines. Under `checked` they do, as deep inside `jit`,
    `grad`, `vmap`, `scan`, `remat` and `shard_map` as they are called. The message names
    the function, the argument, what was expected, and the first entry that is not. It is
    for tests and for the step that gave nan: `fun` is compiled once more, with the checks
    in it, and each call waits for its result.

    Expected are: logits and log-probabilities finite or -inf; probabilities and masses not
    negative; counts not negative; samples, heads and weights finite; indices of top-k
    teachers in range and not repeated; temperatures finite and > 0; parameters of
    `parametric` in the domain of their family. Probabilities sum to 1 within

        eps + n s / 2 + sqrt(e)

    for n outcomes in a dtype of resolution eps and smallest subnormal number s, summed in
    a dtype of resolution e: 0.0082 for bfloat16, 0.0013 for float16 (0.0052 for a
    vocabulary of 131072), 0.00035 for float32, 1.5e-8 for float64. The first two terms are
    the rounding of the probabilities and of what they were divided by; the third leaves
    half the digits to the summation, as `numpy.random.Generator.choice` does. The k
    log-probabilities of a top-k teacher may sum to 2 eps (2 + log k) more than 1:
    logarithms are rounded relative to their size.

    Args:
      fun: A function made of kl_jax's, the outermost that is called: `checked(jit(f))`, not
        `jit(checked(f))`. What it returns are arrays.

    Returns:
      A function with the same arguments and the same result.

    Raises:
      ValueError: When called, for the first value that is not as expected.
      TypeError: When called inside `jit`, `grad` or another transform: an error that
        depends on values cannot leave a trace.

    Outcomes outside `where=` are not looked at. Rows that `masked` or a weight of 0 removes
    are, for the divergence does not see the mask: select them too, as is needed for
    gradients anyway,

        logits = jnp.where(mask[..., None], logits, 0)

    Inside `vmap` and `shard_map` the index is that in the function's own argument: in one
    of the mapped elements, or in the shard of a device. Not checked is what a
    reverse-mode derivative of `lax.scan` traces inside the loop, for JAX drops checks
    there, and what was compiled ahead of time.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from kl_jax import kl_divergence
    >>> loss = checked(jax.jit(kl_divergence))
    >>> loss(jnp.zeros((2, 3)), jnp.array([[0.0, 1.0, 2.0], [0.0, jnp.nan, 1.0]]))
    Traceback (most recent call last):
    ValueError: kl_divergence: logits_q must be finite or -inf, found nan at index (1, 1).
    """
    _contracts.function("checked", fun)
    with_error = checkify.checkify(fun, errors=checkify.user_checks)

    def transformed(*args: P.args, **kwargs: P.kwargs) -> Result:
        with _checking(True):
            error, result = with_error(*args, **kwargs)
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((error, result))):
            raise TypeError(
                "checked: it must be the outermost transform, as in checked(jit(f)), found "
                "a call inside jit, grad or another."
            )
        if (text := error.get()) is not None:
            raise ValueError(_message(text))
        return result

    does = f"`{name_of(fun)}`, and a ValueError where a value is not as expected."
    return wraps("checked", fun, transformed, does)


def _message(text: str) -> str:
    """Of the first device that has one, without what checkify says around it."""
    first = re.sub(r"^at mapped index [\d, ]+: ", "", text)
    return first.split(" (`check` failed)")[0]


# --- conditions -----------------------------------------------------------------


def _when_checked(condition: Callable[..., None]) -> Callable[..., None]:
    """`condition(function, argument's name, array, ...)`, or nothing outside `checked`."""

    @functools.wraps(condition)
    def look(function: str, name: str, array: ArrayLike, *args: Any, **kwargs: Any) -> None:
        if _checking.value:
            condition(function, name, jnp.asarray(array), *args, **kwargs)

    return look


@_when_checked
def no_nan(function: str, name: str, x: Array) -> None:
    """Any number, infinite ones included."""
    _refuse(function, name, x, jnp.isnan(x), "be a number")


@_when_checked
def all_finite(function: str, name: str, x: Array) -> None:
    """Neither nan nor infinite."""
    _refuse(function, name, x, ~jnp.isfinite(x), "be finite")


@_when_checked
def logits(function: str, name: str, x: Array, where: Array | None = None) -> None:
    """Logits and log-probabilities, where they exist: -inf is probability 0."""
    _refuse(function, name, x, ~(x < jnp.inf), "be finite or -inf", where)


@_when_checked
def all_non_negative(
    function: str, name: str, x: Array, where: Array | None = None
) -> None:
    """Masses and counts; inf is one."""
    _refuse(function, name, x, ~(x >= 0), "be >= 0", where)


@_when_checked
def all_positive(function: str, name: str, x: Array) -> None:
    """Temperatures and orders: finite and > 0."""
    _refuse(function, name, x, ~((x > 0) & (x < jnp.inf)), "be finite and > 0")


@_when_checked
def all_fractions(function: str, name: str, x: Array) -> None:
    """Weights of a mixture."""
    _refuse(function, name, x, ~((x >= 0) & (x <= 1)), "be in [0, 1]")


@_when_checked
def inside(
    function: str, name: str, x: Array, contains: Callable[[Array], Array], expected: str
) -> None:
    """Any other condition on each entry, with what to say of it."""
    _refuse(function, name, x, ~contains(x), expected)


@_when_checked
def no_shared_points(function: str, name: str, x: Array, other: str, y: ArrayLike) -> None:
    """Samples of two distributions, drawn apart; row by row, in little memory."""

    def distance(point: Array) -> Array:
        return jnp.min(jnp.max(jnp.abs(point[None] - y), -1))

    nearest = lax.map(distance, x, batch_size=64)
    expected = (
        "be > 0, for samples drawn apart: shared points give a number below KL, about -1 "
        "for a data set and itself; for data of few values write kl_from_counts"
    )
    _refuse(function, f"the distance of {name} to {other}", nearest, nearest == 0, expected)


@_when_checked
def probabilities(
    function: str,
    name: str,
    x: Array,
    axes: tuple[int, ...],
    where: Array | None = None,
    axis_name: AxisName = None,
) -> None:
    """Not negative, and of sum 1 where they exist. Where none does there is no row."""
    all_non_negative(function, name, x, where)
    exists = jnp.ones(x.shape, bool) if where is None else jnp.broadcast_to(where, x.shape)
    exist, total = (
        jnp.sum(y, axes, keepdims=True)
        for y in (
            exists.astype(result_dtype(x)),
            jnp.where(exists, x.astype(result_dtype(x)), 0),
        )
    )
    outcomes = math.prod(x.shape[a] for a in axes)
    if axis_name is not None:
        exist, total = lax.psum((exist, total), axis_name)
        outcomes *= lax.axis_size(axis_name)
    tolerance = _rounding(x, float(jnp.finfo(x.dtype).eps), outcomes)
    off = (exist > 0) & (jnp.abs(total - 1) > tolerance)
    expected = f"sum to 1 within {tolerance:.2g}"
    _refuse(function, name, total, off, expected, summed=axes)


@_when_checked
def part_of_log_probabilities(function: str, name: str, x: Array) -> None:
    """Logarithms of some of the probabilities of each row, along the last axis."""
    logits(function, name, x)
    total = jnp.sum(jnp.exp(x.astype(result_dtype(x))), -1, keepdims=True)
    outcomes = x.shape[-1]
    # Twice what topk_kl_divergence takes for rounding: this sum is rounded, too.
    bound = 1 + 2 * float(jnp.finfo(x.dtype).eps) * (2 + math.log(outcomes))
    expected = f"have exponentials of sum <= {bound:.9g}"
    _refuse(function, name, total, total > bound, expected, summed=(x.ndim - 1,))


@_when_checked
def indices(function: str, name: str, x: Array, outcomes: int, log_p: Array) -> None:
    """Of the outcomes, along the last axis, and each of one log p. -inf is no entry."""
    present = log_p != -jnp.inf
    outside = (x < 0) | (x >= outcomes)
    _refuse(function, name, x, outside, f"be in [0, {outcomes})", present)
    k = x.shape[-1]
    earlier = jnp.tril(jnp.ones((k, k), bool), -1)
    same = (x[..., :, None] == x[..., None, :]) & present[..., None, :]
    same = same & (log_p[..., :, None] != log_p[..., None, :])
    again = jnp.any(same, -1, where=jnp.broadcast_to(earlier, same.shape))
    _refuse(function, name, x, again, "not repeat with another log p", present)


def _rounding(x: Array, eps: float, outcomes: int) -> float:
    """How far from 1 a sum of probabilities may be: `checked` says why."""
    smallest = float(jnp.finfo(x.dtype).smallest_subnormal)
    return eps + outcomes * smallest / 2 + float(jnp.finfo(result_dtype(x)).eps) ** 0.5


def _refuse(
    function: str,
    name: str,
    x: Array,
    bad: Array,
    expected: str,
    where: Array | None = None,
    summed: tuple[int, ...] = (),
) -> None:
    """The check itself. `summed` are axes that `x` had before."""
    bad = bad if where is None else bad & where
    index = []
    one = bad  # and in the end nothing but the first, the last axis running fastest
    for axis, size in enumerate(bad.shape):
        along = lax.broadcasted_iota(jnp.int32, bad.shape, axis)
        index.append(jnp.min(along, initial=size, where=one))
        one = one & (along == index[-1])
    found = jnp.sum(jnp.where(one, x, 0))
    places = [":" if axis in summed else "{}" for axis in range(bad.ndim)]
    value = "{:.6g}" if jnp.issubdtype(x.dtype, jnp.floating) else "{}"
    at = ", ".join(places) + ("," if len(places) == 1 else "")
    shown = [i for axis, i in enumerate(index) if axis not in summed]
    checkify.debug_check(
        ~jnp.any(bad),
        f"{function}: {name} must {expected}, found {value} at index ({at}).",
        found,
        *shown,
    )
