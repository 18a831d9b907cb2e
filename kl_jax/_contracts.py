"""Every relation between arguments, checked while JAX traces.

Shapes, dtypes, axes and keywords are static, so these checks run once per
trace, under `jit`, `vmap`, `grad` and `shard_map` alike, and cost nothing
afterwards. Each raises a `ValueError` or `TypeError` whose message names the
public function, the argument, what was expected and what was found.

This is the only file that imports chex. It asserts the relations it knows, of shapes and
dtypes; the rest are plain comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kl_jax import _keywords
from kl_jax._arithmetic import result_dtype

AxisName = Hashable  # a name, a tuple of names, or None

_SCALARS = (bool, int, float, complex, np.generic)


def is_array(value: Any) -> bool:
    """Whether it is an array, and no Python number."""
    return isinstance(value, (Array, np.ndarray))


def as_array(function: str, name: str, value: Any) -> Array:
    """`value` as an array, if it is one (or a scalar) to begin with.

    Lists and tuples are refused, as everywhere in JAX: one built by mistake
    would be traced element by element.
    """
    if not (
        isinstance(value, (Array, np.ndarray, *_SCALARS)) or hasattr(value, "__jax_array__")
    ):
        raise TypeError(
            f"{function}: {name} must be an array, found {type(value).__name__}."
        )
    if isinstance(value, Array):
        return value  # asarray would be an operation, at which jax_debug_infs looks
    try:
        # Outside `jit`, jnp.asarray compiles a program for each shape of a NumPy array.
        put = jax.device_put if isinstance(value, np.ndarray) else jnp.asarray
        return put(value)
    except TypeError:  # NumPy arrays of strings, objects, dates
        raise TypeError(
            f"{function}: {name} must be an array of numbers, found dtype "
            f"{getattr(value, 'dtype', type(value).__name__)}."
        ) from None


def function(function: str, fun: Any, name: str = "the argument to transform") -> None:
    """What a transform transforms, or a function of a scalar."""
    if not callable(fun):
        transforms = name == "the argument to transform"
        instead = f" Write {function}(f)(...) for {function}(f(...))." if transforms else ""
        raise TypeError(
            f"{function}: {name} must be a function, found {type(fun).__name__}.{instead}"
        )


def _assert(
    error: Exception, holds: bool, assertion: Callable[..., None], *args: Any
) -> None:
    """An assertion of chex, in the words of `error` alone: chex would put its own before
    them. `holds` says the same once more: chex.disable_asserts() turns assertions off for a
    whole process, and where shapes do not fit, results would change silently.
    """
    try:
        assertion(*args)
    except AssertionError:
        raise error from None
    if not holds:
        raise error


def typed(function: str, name: str, array: Array, kind: Any, expected: str) -> None:
    error = TypeError(f"{function}: {name} must be {expected}, found dtype {array.dtype}.")
    _assert(error, jnp.issubdtype(array.dtype, kind), chex.assert_type, array, kind)


def floating(function: str, **arguments: Any) -> list[Array]:
    """The arguments as arrays. Anything that is not floating point is a `TypeError`."""
    arrays = []
    for name, value in arguments.items():
        array = as_array(function, name, value)
        typed(function, name, array, jnp.floating, "floating point")
        arrays.append(array)
    return arrays


def integers(function: str, name: str, value: Any) -> Array:
    """An array of signed integers, at least of 32 bits."""
    array = as_array(function, name, value)
    typed(function, name, array, jnp.integer, "of an integer type")
    wide = jnp.int64 if array.dtype.itemsize > 4 else jnp.int32
    # What does not fit turns negative, and is out of any range.
    return array.astype(jax.dtypes.canonicalize_dtype(wide))


def floats(function: str, **arguments: Any) -> list[Array]:
    """The arguments as arrays of the result dtype.

    That is float64 if one of them is float64, else float32; a Python number
    takes the dtype of the arrays beside it. Anything that is not floating
    point is a `TypeError`.
    """
    return _in_result_dtype(floating(function, **arguments))


def numbers(function: str, **arguments: Any) -> list[Array]:
    """As `floats`, of integers too: arrays of them count as float32, Python's as floats."""
    arrays = []
    for name, value in arguments.items():
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        array = as_array(function, name, value)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            expected = "floating point or of an integer type"
            typed(function, name, array, jnp.floating, expected)
        arrays.append(array)
    return _in_result_dtype(arrays)


def _in_result_dtype(arrays: list[Array]) -> list[Array]:
    deciding = [array for array in arrays if not array.weak_type] or arrays
    dtype = result_dtype(*deciding)
    return [jax.lax.convert_element_type(array, dtype) for array in arrays]


def parameters(function: str, **arguments: Any) -> list[Array]:
    """Numbers, broadcast against one another, as arrays of the result dtype."""
    arrays = numbers(function, **arguments)
    return broadcast(function, **dict(zip(arguments, arrays, strict=True)))


def matrices_and_vectors(
    function: str, matrices: dict[str, Array], vectors: dict[str, Array]
) -> dict[str, Array]:
    """Matrices [..., d, r] and vectors [..., d] or of one number, with batch axes that
    broadcast.
    """
    first = next(iter(matrices))
    wanted = matrices[first].shape[-2:]
    for name, array in matrices.items():
        if array.shape[-2:] != wanted:
            raise ValueError(
                f"{function}: {name} must have the last two axes of {first}, {wanted}, "
                f"found {array.shape}."
            )
    for name, array in vectors.items():
        if array.ndim and array.shape[-1] not in (1, wanted[0]):
            raise ValueError(
                f"{function}: {name} must have a last axis of {wanted[0]}, or of 1, "
                f"found {array.shape}."
            )
    batches = {name: array.shape[:-2] for name, array in matrices.items()}
    batches |= {name: array.shape[:-1] for name, array in vectors.items()}
    batch = _broadcast_shape(function, "batch axes", batches)
    return {
        name: jnp.broadcast_to(array, batch + (wanted if name in matrices else wanted[:1]))
        for name, array in (matrices | vectors).items()
    }


def events(**shapes: str) -> Callable[..., list[Array]]:
    """A contract as `parameters`, of numbers, vectors and matrices with batch axes. By the
    name of a parameter without _p or _q: letters for its last axes, one letter one length.
    """

    def parameters(function: str, **arguments: Any) -> list[Array]:
        arrays = numbers(function, **arguments)
        lengths: dict[str, int] = {}
        batches, wanted = {}, []
        for name, array in zip(arguments, arrays, strict=True):
            letters = shapes[name.removesuffix("_p").removesuffix("_q")]
            batch = max(array.ndim - len(letters), 0)
            for letter, length in zip(letters, array.shape[batch:], strict=False):
                lengths.setdefault(letter, length)
            wanted.append(tuple(lengths.get(letter, 1) for letter in letters))
            if array.shape[batch:] != wanted[-1] or 0 in wanted[-1]:
                known = [f"{x} = {n or 'at least 1'}" for x, n in lengths.items()]
                raise ValueError(
                    f"{function}: {name} must have shape [..., {', '.join(letters)}], with "
                    f"{', '.join(known) or 'axes of any length'}, found {array.shape}."
                )
            batches[name] = array.shape[:batch]
        batch = _broadcast_shape(function, "batch axes", batches)
        return [
            jnp.broadcast_to(x, (*batch, *event))
            for x, event in zip(arrays, wanted, strict=True)
        ]

    return parameters


def at_least_2(function: str, name: str, array: Array) -> None:
    """Entries along the last axis."""
    if array.shape[-1] < 2:
        raise ValueError(
            f"{function}: {name} must have at least 2 entries, found {array.shape}."
        )


def samples(function: str, k: int, **arguments: Array) -> None:
    """Two matrices [samples, dimensions] with k neighbours for each sample of the first."""
    (first, x), (second, y) = arguments.items()
    for name, array in arguments.items():
        if array.ndim != 2 or not array.shape[1]:
            raise ValueError(
                f"{function}: {name} must have shape [samples, dimensions], with at least "
                f"one dimension, found {array.shape}."
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{function}: {second} must have the dimensions of {first}, {x.shape[1]}, "
            f"found {y.shape[1]}."
        )
    for name, array, least in ((first, x, k + 1), (second, y, k)):
        if len(array) < least:
            raise ValueError(
                f"{function}: {name} must have at least {least} samples for k={k}, "
                f"found {len(array)}."
            )


def counts(function: str, **arguments: Any) -> list[Array]:
    """Integers or floating point, as arrays of the result dtype: float64 if one has 64
    bits, else float32.
    """
    arrays = {}
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and value.dtype in (np.int64, np.uint64):
            value = value.astype(np.float64)  # without x64 JAX would cut the upper 32 bits
        array = as_array(function, name, value)
        if jnp.issubdtype(array.dtype, jnp.integer):
            array = array.astype(jnp.float64 if array.dtype.itemsize > 4 else jnp.float32)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{function}: {name} must be real numbers, found dtype {array.dtype}."
            )
        arrays[name] = array
    return floats(function, **arrays)


def operands(function: str, **arguments: Any) -> list[Any]:
    """Numbers and arrays as a compiled function takes them, which then looks at them: to
    make them arrays of one dtype first would be a program or two more.
    """
    return [_operand(function, name, x) for name, x in arguments.items()]


def _operand(function: str, name: str, x: Any) -> Any:
    if isinstance(x, int) and not isinstance(x, bool):
        return float(x)  # a number like any other
    if isinstance(x, (np.ndarray, np.integer)) and x.dtype in (np.int64, np.uint64):
        if jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype:
            return x.astype(np.float32)  # JAX would cut the upper 32 bits
    try:
        jax.typeof(x)
    except (TypeError, ValueError):  # no array, or an object that can be made one
        return floating(function, **{name: x})[0]
    return x


def limits(function: str, points: Sequence[Any] = (), **arguments: Any) -> list[Array]:
    """Numbers or 0-d arrays, and the points that `points` has let pass, in the dtype of the
    arrays among them.
    """
    one_axis = len(points) == 1 and jnp.ndim(points[0])
    inner = {"points" if one_axis else f"points[{i}]": x for i, x in enumerate(points)}
    arrays = numbers(function, **arguments, **inner)
    for name, array in zip([*arguments, *inner], arrays, strict=True):
        if array.ndim and name != "points":
            raise ValueError(
                f"{function}: {name} must be a number or a 0-d array, "
                f"found shape {array.shape}."
            )
    return arrays


def points(function: str, value: Any) -> list[Any]:
    """Numbers inside an interval, as operands of a compiled function: a list of scalars, or
    of one array [points].
    """
    if isinstance(value, (list, tuple)):
        names = {f"points[{i}]": x for i, x in enumerate(value)}
        return operands(function, **names)
    (found,) = operands(function, points=value)
    if jnp.ndim(found) != 1:
        raise ValueError(
            f"{function}: points must be a sequence of numbers or an array with one axis, "
            f"found shape {jnp.shape(found)}."
        )
    return [found]


def traceable(function: str, name: str, fun: Callable[..., Any], x: Any) -> Any:
    """The result of a function of a scalar that JAX traces."""
    try:
        return fun(x)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.NonConcreteBooleanIndexError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise TypeError(
            f"{function}: {name} must be a function that JAX can trace, found one that "
            f"asks for the value of its argument ({type(error).__name__}), as those of "
            "NumPy, SciPy and math do. Write it with jax.numpy: in place of scipy.stats, "
            "jax.scipy.stats."
        ) from error


def equal_shapes(function: str, **arguments: Array) -> None:
    """Every argument has the shape of the first."""
    first, *others = arguments
    for name in others:
        wanted, found = arguments[first].shape, arguments[name].shape
        error = ValueError(
            f"{function}: {name} must have the shape of {first}, {wanted}, found {found}."
        )
        pair = [arguments[first], arguments[name]]
        _assert(error, wanted == found, chex.assert_equal_shape, pair)


def same_rows(function: str, **arguments: Array) -> None:
    """Every argument has the shape of the first, but for its last axis."""
    first, *others = arguments
    if not arguments[first].ndim:
        raise ValueError(
            f"{function}: {first} must have at least one axis, found shape ()."
        )
    wanted = arguments[first].shape[:-1]
    for name in others:
        found = arguments[name].shape
        if not found or found[:-1] != wanted:
            raise ValueError(
                f"{function}: {name} must have the shape of {first} but for the last "
                f"axis, expected {(*wanted, 'any')}, found {found}."
            )


def kernel(function: str, **arguments: Array) -> None:
    """A matrix [features, outcomes], the second argument, that fits the first."""
    (first, hidden), (name, weights) = arguments.items()
    if weights.ndim != 2 or weights.shape[0] != hidden.shape[-1]:
        raise ValueError(
            f"{function}: {name} must have two axes, the first as long as the last of "
            f"{first}, expected {(hidden.shape[-1], 'any')}, found {weights.shape}."
        )


def matrices(function: str, **arguments: Array) -> None:
    """At least two axes, each of the last two of some length."""
    for name, array in arguments.items():
        if array.ndim < 2 or 0 in array.shape[-2:]:
            raise ValueError(
                f"{function}: {name} must be matrices along the last two axes, "
                f"found shape {array.shape}."
            )


def square_matrices(function: str, **arguments: Array) -> None:
    """Likewise, and the last two of one length."""
    matrices(function, **arguments)
    for name, array in arguments.items():
        if array.shape[-2] != array.shape[-1]:
            raise ValueError(
                f"{function}: {name} must be square along the last two axes, "
                f"found shape {array.shape}."
            )


def shape(function: str, name: str, array: Array, expected: tuple[int, ...]) -> None:
    """One argument of a shape that the others fix."""
    error = ValueError(
        f"{function}: {name} must have shape {expected}, found {array.shape}."
    )
    _assert(error, array.shape == expected, chex.assert_shape, array, expected)


def broadcast(function: str, **arguments: Array) -> list[Array]:
    """The arguments, broadcast against one another."""
    shapes = {name: array.shape for name, array in arguments.items()}
    shape = _broadcast_shape(function, "shapes", shapes)
    return [jnp.broadcast_to(array, shape) for array in arguments.values()]


def _broadcast_shape(
    function: str, what: str, shapes: dict[str, tuple[int, ...]]
) -> tuple[int, ...]:
    try:
        return jnp.broadcast_shapes(*shapes.values())
    except ValueError:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{function}: the arguments must have {what} that broadcast, found {found}."
        ) from None


def axes(
    function: str, axis: int | Sequence[int], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """`axis` as a sorted tuple of non-negative axes of `shape`."""
    given: Sequence[Any] = axis if isinstance(axis, (tuple, list)) else (axis,)
    for a in given:
        if isinstance(a, (bool, np.bool_)) or not isinstance(a, (int, np.integer)):
            raise TypeError(
                f"{function}: axis must be an integer or a tuple of integers, "
                f"found {axis!r}."
            )
        if not -len(shape) <= a < len(shape):
            raise ValueError(
                f"{function}: axis must lie in [{-len(shape)}, {len(shape)}) "
                f"for shape {shape}, found {axis!r}."
            )
    found = {int(a) % len(shape) for a in given}
    if len(found) != len(given) or not given:
        raise ValueError(
            f"{function}: axis must name at least one axis, and none twice, "
            f"found {axis!r} for shape {shape}."
        )
    return tuple(sorted(found))


def not_the_last(function: str, axis: int, shape: tuple[int, ...]) -> None:
    """An axis beside the last, which is that of the outcomes."""
    if axis == len(shape) - 1:
        raise ValueError(
            f"{function}: axis must not be the last, that of the outcomes, found {axis}."
        )


def axis_name(function: str, name: AxisName) -> None:
    """`axis_name=`: axes of `shard_map` or `vmap`, where this is called."""
    if name is None:
        return
    try:
        jax.lax.axis_size(name)
    except (NameError, TypeError, ValueError):
        raise ValueError(
            f"{function}: axis_name must name axes of the shard_map or vmap that this is "
            f"called in, found {name!r}."
        ) from None


def some_outcomes(function: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """A distribution over no outcomes does not exist."""
    if math.prod(shape[a] for a in axes) == 0:
        raise ValueError(
            f"{function}: there must be at least one outcome along axis {axes}, "
            f"found shape {shape}."
        )


def support(function: str, where: Any, shape: tuple[int, ...]) -> Array:
    """`where=`: boolean, the rank of the distributions, each dimension equal or 1."""
    array = as_array(function, "where", where)
    typed(function, "where", array, jnp.bool_, "boolean")
    fits = array.ndim == len(shape) and all(
        found in (1, wanted) for found, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{function}: where must have the rank of the distributions and each "
            f"dimension equal to theirs or 1, expected {shape}, found {array.shape}."
        )
    return array


def positive_number(function: str, name: str, value: Any) -> Any:
    """A finite number > 0, or a 0-d floating array whose value is not looked at."""
    array = _scalar_array(function, name, value)
    return _keywords.positive_number(function, name, value) if array is None else array


def fraction(function: str, name: str, value: Any) -> float | Array:
    """A number of [0, 1], or a 0-d floating array whose value is not looked at."""
    array = _scalar_array(function, name, value)
    return _keywords.fraction(function, name, value) if array is None else array


def _scalar_array(function: str, name: str, value: Any) -> Array | None:
    if not isinstance(value, (Array, np.ndarray)):
        return None
    array = as_array(function, name, value)
    typed(function, name, array, jnp.floating, "floating point")
    if array.ndim:
        raise ValueError(
            f"{function}: {name} must be a number or a 0-d array, "
            f"found shape {array.shape}."
        )
    return array


def pseudocount(function: str, value: Any, counts: Array) -> Any:
    """A finite Python number >= 0, or an array: 0-d or of one number for each outcome."""
    if isinstance(value, (Array, np.ndarray)):
        (array,) = numbers(function, pseudocount=value)
        if array.ndim:
            shape(function, "pseudocount", array, counts.shape[-1:])
        return array
    _keywords.number(function, "pseudocount", value)
    if not 0 <= value <= float(np.finfo(np.float32).max):
        raise ValueError(
            f"{function}: pseudocount must be finite and >= 0 in float32, found {value!r}."
        )
    return float(value)
