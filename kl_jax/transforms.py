r"""Reductions as transforms of functions: `mean(f)`, as one writes `grad(f)`.

A loss is a divergence per row and a rule for turning rows into one number. The
usual way to say the rule is a string, `reduction="mean"`, threaded through every
function and kernel; each string is one more case, and none can say "the mean
over tokens kept, then the mean over sequences". Here the rule is composition:

    mean(f)                              nats per row
    mean(masked(f))                      nats per token kept          (token mean)
    mean(mean(masked(f), axis=-1))       nats per token, each sequence equal
    mean(sum(masked(f), axis=-1))        nats per sequence
    mean(masked(f), axis_name="data")    the first, over a mesh axis

`masked` and `weighted` add one keyword each and reduce nothing; `sum`, `mean` and
`batchmean` reduce and add nothing. They transform any function that returns real
values. What a reduction has to know travels in the value, as `Weighted(values,
weights)`: not on the function, where `jit` and `vmap` would copy it to functions
that it does not describe.

Two laws hold, and are tests:

    mean(masked(f))(*args, mask=m)      ==  jnp.mean(f(*args), where=m)
    mean(weighted(f))(*args, weights=w) ==  jnp.average(f(*args), weights=w)

Numerators and denominators are summed apart and divided last, over array axes and
over devices. A mean of means is another number: where devices or micro-batches keep
different numbers of tokens it is wrong. To accumulate over micro-batches, add up the
numerators `sum(g)(...)` and the denominators `jnp.sum(g(...).weights)` for
`g = masked(f)`, and divide at the end.

A row of weight 0 is absent. Whatever it holds, nan and inf included, does not reach
the value. It can reach a gradient: the derivative of `f` at an absent row is multiplied
by 0, and 0 * nan is nan. So where absent rows may hold nan or +-inf *inputs*, select the
inputs too, `jnp.where(mask[..., None], logits, 0)`; selecting outputs cannot help.

Build the transformed function once, outside the training loop: `jax.jit(mean(f))` is a
new function each time it is written, and traced anew.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, ParamSpec, TypeVar, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts, _keywords, _rows
from kl_jax._arithmetic import nan_where, result_dtype
from kl_jax._contracts import AxisName
from kl_jax._functions import (
    described,
    name_of,
    of_two_arguments,
    takes,
    takes_logits,
    wraps,
)

__all__ = [
    "Weighted",
    "batchmean",
    "masked",
    "mean",
    "reverse",
    "sum",
    "tempered",
    "weighted",
]

Axis = int | Sequence[int] | None
P = ParamSpec("P")
Result = TypeVar("Result")


class Weighted(NamedTuple):
    """Values, and the weight each carries into the next reduction. Weight 0 is absent.

    What a function under `masked` or `weighted` returns, and a partial reduction of it.
    """

    values: Array
    weights: Array

    def _no_arithmetic(self, other: Any) -> NoReturn:
        """As tuples, two of them would be joined by + and one repeated by *."""
        raise TypeError(
            "Weighted: it has no + and no *. Reduce it, as in mean(f) or sum(f), or "
            "compute with its .values and .weights."
        )

    __add__ = __radd__ = __mul__ = __rmul__ = _no_arithmetic


def masked(fun: Callable[..., ArrayLike | Weighted]) -> Callable[..., Weighted]:
    """`fun` with the keyword `mask=`: rows where it is False are absent.

    Args:
      fun: A function that returns real values, or `Weighted` ones.

    Returns:
      A function that returns `Weighted(values, weights)`, for a reduction to consume.
      Its `mask=` is boolean, of the shape of the values. Around a function that is
      `weighted` or reduced already the weights multiply.

    Raises:
      TypeError: If the mask is missing or not boolean.
      ValueError: If its shape is not that of the values.

    Gradient: 0 in absent rows that hold finite numbers. The derivative of `fun` at an
      absent row is multiplied by 0, and 0 * nan is nan: where such rows may hold nan or
      inf, select the inputs too, `jnp.where(mask[..., None], logits, 0)`.

    >>> import jax.numpy as jnp
    >>> loss = mean(masked(jnp.square))
    >>> x = jnp.array([1.0, 2.0, jnp.nan])
    >>> loss(x, mask=jnp.array([True, True, False])).item()
    2.5

    Source: `where=` of `jax.numpy.mean`.
    """
    _contracts.function("masked", fun)

    def transformed(*args: Any, mask: Any = None, **kwargs: Any) -> Weighted:
        if mask is None:
            _missing(transformed, "mask")
        values, weights = _weighted("masked", fun(*args, **kwargs))
        keep = _rows.mask(mask, values)
        if weights is None:
            return Weighted(values, keep.astype(values.dtype))
        return Weighted(values, jnp.where(keep, weights, 0))

    does = f"`{name_of(fun)}`, of whose rows those are absent where the mask is False."
    return wraps("masked", fun, transformed, does, adds="mask", returns="Weighted")


def weighted(fun: Callable[..., ArrayLike | Weighted]) -> Callable[..., Weighted]:
    """`fun` with the keyword `weights=`: how much each row counts.

    Args:
      fun: A function that returns real values, or `Weighted` ones.

    Returns:
      A function that returns `Weighted(values, weights)`, for a reduction to consume.
      Its `weights=` are real numbers, of the shape of the values. Around a function that
      is `masked` or reduced already the weights multiply.

    Raises:
      TypeError: If the weights are missing or not real numbers.
      ValueError: If their shape is not that of the values.

    Gradient: a weight of exactly 0 makes its row absent: the value there, which may be
      nan, does not enter the gradient in the weight either.

    >>> import jax.numpy as jnp
    >>> loss = mean(weighted(jnp.square))
    >>> loss(jnp.array([1.0, 2.0]), weights=jnp.array([3.0, 1.0])).item()
    1.75

    Source: `jax.numpy.average`.
    """
    _contracts.function("weighted", fun)

    def transformed(*args: Any, weights: Any = None, **kwargs: Any) -> Weighted:
        if weights is None:
            _missing(transformed, "weights")
        values, carried = _weighted("weighted", fun(*args, **kwargs))
        array = _rows.weights("weighted", weights, values)
        _checks.all_finite("weighted", "weights", array)
        return Weighted(values, array if carried is None else carried * array)

    does = f"`{name_of(fun)}`, whose rows count by their weights in the next reduction."
    return wraps("weighted", fun, transformed, does, adds="weights", returns="Weighted")


def _missing(transformed: Callable[..., Any], keyword: str) -> None:
    name = transformed.__name__
    raise TypeError(
        f"{name}: the argument {keyword} is missing, write {name}(..., {keyword}=...)."
    )


@overload
def sum(
    fun: Callable[P, ArrayLike | Weighted], axis: None = None, *, axis_name: AxisName = ...
) -> Callable[P, Array]: ...
@overload
def sum(
    fun: Callable[P, Weighted], axis: int | Sequence[int], *, axis_name: AxisName = ...
) -> Callable[P, Weighted]: ...
@overload
def sum(
    fun: Callable[P, ArrayLike], axis: int | Sequence[int], *, axis_name: AxisName = ...
) -> Callable[P, Array]: ...
def sum(
    fun: Callable[..., Any], axis: Axis = None, *, axis_name: AxisName = None
) -> Callable[..., Any]:
    """`fun`, and then the (weighted) sum of its values.

    Args:
      fun: A function that returns real values, or `Weighted` ones.
      axis: Axes of the values to sum over; all of them by default.
      axis_name: Mesh or `vmap` axes, over which the values vary, to sum over as well. A
        gradient that is taken inside `pmap`, `vmap(axis_name=)` or
        `shard_map(check_vma=False)` counts every device: of n it is n times too large. Take
        it outside, or inside `shard_map` with `check_vma=True`.

    Returns:
      A function with the arguments of `fun`. With `axis=None` it returns an array of
      shape (); else an array without those axes, as `Weighted` if the values were: a row
      with nothing present is absent, any other has weight 1. At least float32.

    Raises:
      ValueError: If an axis is out of range.
      TypeError: If the values are not real.

    >>> import jax.numpy as jnp
    >>> sum(jnp.square)(jnp.array([1.0, 2.0])).item()
    5.0

    Source: `jax.numpy.sum`.
    """
    return _reduction("sum", fun, axis, axis_name)


@overload
def mean(
    fun: Callable[P, ArrayLike | Weighted],
    axis: None = None,
    *,
    axis_name: AxisName = ...,
    empty: float = ...,
) -> Callable[P, Array]: ...
@overload
def mean(
    fun: Callable[P, Weighted],
    axis: int | Sequence[int],
    *,
    axis_name: AxisName = ...,
    empty: float = ...,
) -> Callable[P, Weighted]: ...
@overload
def mean(
    fun: Callable[P, ArrayLike],
    axis: int | Sequence[int],
    *,
    axis_name: AxisName = ...,
    empty: float = ...,
) -> Callable[P, Array]: ...
def mean(
    fun: Callable[..., Any],
    axis: Axis = None,
    *,
    axis_name: AxisName = None,
    empty: float = math.nan,
) -> Callable[..., Any]:
    """`fun`, and then the (weighted) mean of its values.

    The sum of weight * value over the sum of the weights, each summed over all devices
    first.

    Args:
      fun: A function that returns real values, or `Weighted` ones.
      axis: Axes of the values to average over; all of them by default.
      axis_name: Mesh or `vmap` axes, over which the values vary, to average over as well.
        See `sum` for gradients that are taken inside.
      empty: The mean of nothing, a number known while tracing. Where it is given no nan
        arises on the way, so that `jax_debug_nans` is quiet.

    Returns:
      A function with the arguments of `fun`. With `axis=None` it returns an array of
      shape (); else an array without those axes, as `Weighted` if the values were: a row
      with nothing present is absent, any other has weight 1. At least float32.

    Raises:
      ValueError: If an axis is out of range.
      TypeError: If the values are not real.

    Boundary: `empty` where nothing is present.
    Gradient: 0 where nothing is present, so that an empty batch is seen in the log and
      does no harm to parameters.

    >>> import jax.numpy as jnp
    >>> mean(jnp.square)(jnp.array([1.0, 2.0])).item()
    2.5

    Source: `jax.numpy.mean` and `jax.numpy.average`.
    """
    empty = _keywords.real_number("mean", "empty", empty)
    return _reduction("mean", fun, axis, axis_name, empty)


def batchmean(
    fun: Callable[P, ArrayLike | Weighted], *, axis_name: AxisName = None
) -> Callable[P, Array]:
    """`fun`, and then the (weighted) sum of its values over their leading length.

    Absent rows are counted in the length, as PyTorch does. Values of shape () are
    divided by 1.

    Args:
      fun: A function that returns real values, or `Weighted` ones.
      axis_name: Mesh or `vmap` axes that split the leading axis. See `sum` for gradients
        that are taken inside.

    Returns:
      A function with the arguments of `fun` that returns an array of shape (), at least
      float32.

    Raises:
      TypeError: If the values are not real.

    Boundary: nan where the leading length is 0.

    >>> import jax.numpy as jnp
    >>> batchmean(jnp.square)(jnp.array([[1.0, 2.0], [3.0, 4.0]])).item()
    15.0

    Source: `torch.nn.KLDivLoss`, `reduction="batchmean"`.
    """
    return _reduction("batchmean", fun, None, axis_name)


def _returned(function: str, returned: Any) -> Array:
    """The values a function returned, at least float32: a count of 1001 ones in bfloat16
    is 1000.
    """
    values = _rows.returned(function, returned)
    return values.astype(result_dtype(values))


def _weighted(function: str, out: Any) -> tuple[Array, Array | None]:
    """The values a function returned, and their weights if it returned `Weighted`."""
    if isinstance(out, Weighted):
        values = _returned(function, out.values)
        return values, _rows.weights(function, out.weights, values)
    return _returned(function, out), None


# What a reduction makes of its sums: total, count and leading length.
_QUOTIENTS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "sum": lambda total, count, length: total,
    "mean": lambda total, count, length: total / count,
    "batchmean": lambda total, count, length: total / length,
}


def _reduction(
    function: str,
    fun: Callable[..., Any],
    axis: Axis,
    axis_name: AxisName,
    empty: float = math.nan,
) -> Callable[..., Any]:
    """`fun`, and then the reduction of that name of its values."""
    _contracts.function(function, fun)

    def transformed(*args: Any, **kwargs: Any) -> Any:
        values, weights = _weighted(function, fun(*args, **kwargs))
        axes = tuple(range(values.ndim))
        if axis is not None:
            axes = _contracts.axes(function, axis, values.shape)
        if weights is not None:
            _checks.all_finite(function, "weights", weights)
        partial = axis is not None
        return _reduced(function, axes, partial, axis_name, empty, values, weights)

    where = "" if axis is None else f" along axis {axis}"
    does = f"The {function} of the values of `{name_of(fun)}`{where}."
    returns = "Array" if axis is None else "Array | Weighted"
    return wraps(function, fun, transformed, does, returns=returns)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _reduced(
    function: str,
    axes: tuple[int, ...],
    partial: bool,
    axis_name: AxisName,
    empty: float,
    values: Array,
    weights: Array | None,
) -> Array | Weighted:
    """Numerators and denominators, summed apart and divided last."""
    quotient = _QUOTIENTS[function]
    if weights is not None:
        present = weights != 0
        # Select before multiplying: an absent value may be inf, and 0 * inf is nan.
        total = jnp.sum(weights * jnp.where(present, values, 0), axes)
        count = jnp.sum(weights, axes)
        rows = jnp.sum(present.astype(values.dtype), axes)
    else:
        total = jnp.sum(values, axes)
        # Not an integer: 2^31 values would overflow it.
        rows = count = jnp.full((), math.prod(values.shape[a] for a in axes), values.dtype)
    length = jnp.full((), values.shape[0] if values.ndim else 1, values.dtype)
    if axis_name is not None:
        sums = (total, count, rows, length)
        total, count, rows, length = lax.psum(sums, axis_name)
    some = rows > 0
    value = quotient(total, jnp.where(some, count, 1), length)
    if weights is not None and partial:
        return Weighted(jnp.where(some, value, 0), some.astype(value.dtype))
    if function == "mean":
        # A literal nan would stop jax_debug_nans where jit is disabled.
        nothing = nan_where(~some, value) if math.isnan(empty) else empty
        return jnp.where(some, value, nothing)
    # 0 / 0 only of a length of 0, and a constant: the gradient there is 0.
    nothing = quotient(jnp.zeros_like(total), rows, length)
    return jnp.where(some, value, lax.stop_gradient(nothing))


# --- transforms of a divergence -------------------------------------------------


def reverse(divergence: Callable[P, Result]) -> Callable[P, Result]:
    """`divergence` with its first two arguments exchanged: KL(q || p) from KL(p || q).

    Args:
      divergence: A function of p and q: its only required positional parameters.

    Returns:
      A function with the same arguments, to be passed by place or by name.

    Raises:
      TypeError: If `divergence` has any other number of required positional parameters, as
        the linear heads and most closed forms have, or is a function of kl_jax whose two
        are not p's and q's.

    >>> import jax.numpy as jnp
    >>> from kl_jax import kl_divergence
    >>> a, b = jnp.array([0.0, 1.0]), jnp.array([0.0, 3.0])
    >>> (reverse(kl_divergence)(a, b) == kl_divergence(b, a)).item()
    True
    """
    _contracts.function("reverse", divergence)
    instead = "Exchange p's and q's where it is called."
    arguments = of_two_arguments("reverse", divergence, instead)

    fun: Callable[..., Result] = divergence

    def transformed(*args: Any, **kwargs: Any) -> Result:
        p, q, others, keywords = arguments(*args, **kwargs)
        return fun(q, p, *others, **keywords)

    does = f"`{name_of(divergence)}` with its first two arguments exchanged."
    return wraps("reverse", divergence, transformed, does)


def tempered(
    divergence: Callable[P, ArrayLike], temperature: float | Array
) -> Callable[P, Array]:
    r"""`divergence` of logits / T, times T^2: the distillation loss at temperature T.

    The factor keeps the gradient in the logits, which falls as 1 / T^2, comparable
    between temperatures.

    Args:
      divergence: A function of two logits, its only required positional parameters, that
        returns an array.
      temperature: T, a number > 0 or a 0-d floating array (as from an optax schedule).

    Returns:
      A function with the same arguments, by place or by name; its result is in T^2 nats.

    Raises:
      ValueError: If the temperature is a number that is not finite and > 0, or an array
        with axes.
      TypeError: If the temperature is neither a number nor a floating array. If
        `divergence` has not exactly two required positional parameters, or is a function of
        kl_jax whose two are no logits; a function of yours that takes probabilities cannot
        be told apart. If it returns weighted values: write `masked(tempered(f, T))`.

    >>> import jax.numpy as jnp
    >>> from kl_jax import kl_divergence
    >>> a, b = jnp.array([0.0, 1.0]), jnp.array([0.0, 3.0])
    >>> round(tempered(kl_divergence, 2.0)(a, b).item(), 4)
    0.4195

    Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015).
    """
    _contracts.function("tempered", divergence)
    instead = "Write a function of two logits, as kl_divergence is, or divide by T inside."
    if takes(divergence, "temperature"):
        instead = f"Write {name_of(divergence)}(..., temperature=T)."
    arguments = of_two_arguments("tempered", divergence, instead)
    if not takes_logits(divergence):
        raise TypeError(
            f"tempered: the function to transform must take logits, found "
            f"{described(divergence)}. Write a divergence of logits, as kl_divergence is; "
            f"log-probabilities are logits."
        )
    t = _contracts.positive_number("tempered", "temperature", temperature)

    def transformed(*args: Any, **kwargs: Any) -> Array:
        p, q, others, keywords = arguments(*args, **kwargs)
        a, b = _contracts.floating("tempered", logits_p=p, logits_q=q)
        _checks.all_positive("tempered", "temperature", t)
        value = divergence(*_divided(a, b, t), *others, **keywords)
        return _times_square(_rows.returned("tempered", value), t)

    does = f"`{name_of(divergence)}` of logits / T, times T^2."
    return wraps("tempered", divergence, transformed, does, returns="Array")


@jax.jit
def _divided(a: Array, b: Array, t: float | Array) -> tuple[Array, Array]:
    a, b = _contracts.floats("tempered", logits_p=a, logits_q=b)
    divisor = jnp.asarray(t, a.dtype)
    return a / divisor, b / divisor


@jax.jit
def _times_square(x: Array, t: float | Array) -> Array:
    factor = jnp.asarray(t, x.dtype)
    return x * factor * factor  # t^2 itself may overflow
