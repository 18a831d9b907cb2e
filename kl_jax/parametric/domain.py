"""What every closed form does once: its parameters, their domain, and one program."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from kl_jax import _checks, _contracts
from kl_jax._arithmetic import nan_where
from kl_jax._sharding import auto_sharded

P = ParamSpec("P")

# Of a function, one of its parameters, and the values of all: where that one may be so.
Domain = Callable[[str, str, Mapping[str, Array]], Array]


def _domain(contains: Callable[[Array], Array], expected: str) -> Domain:
    """Where a parameter is in a set; `checked` raises where it is not."""

    def inside(function: str, name: str, parameters: Mapping[str, Array]) -> Array:
        x = parameters[name]
        _checks.inside(function, name, x, contains, expected)
        return contains(x)

    return inside


finite = _domain(jnp.isfinite, "be finite")
number = _domain(lambda x: ~jnp.isnan(x), "be a number")
positive = _domain(lambda x: x > 0, "be > 0")
non_negative = _domain(lambda x: x >= 0, "be >= 0")
probability = _domain(lambda x: (0 <= x) & (x <= 1), "be in [0, 1]")
positive_probability = _domain(lambda x: (0 < x) & (x <= 1), "be in (0, 1]")
below_1 = _domain(lambda x: (0 <= x) & (x < 1), "be in [0, 1)")
open_probability = _domain(lambda x: (0 < x) & (x < 1), "be in (0, 1)")
count = _domain(lambda x: (0 <= x) & (x == jnp.floor(x)), "be a whole number >= 0")


def above_low(function: str, name: str, parameters: Mapping[str, Array]) -> Array:
    """The upper end of an interval."""
    low = parameters[name.replace("high", "low")]
    above = _domain(lambda high: high - low > 0, "be above the lower end")
    return above(function, name, parameters)


def positive_diagonal(function: str, name: str, parameters: Mapping[str, Array]) -> Array:
    """A triangular matrix, row by row. `checked` refuses what is above its diagonal too: a
    covariance matrix is more often the reason than a factor with something there.
    """

    def contains(x: Array) -> Array:
        return (x == 0) | jnp.tril(jnp.ones_like(x, bool))

    expected = (
        "be a Cholesky factor, 0 above its diagonal; for a covariance matrix write "
        "jnp.linalg.cholesky(covariance)"
    )
    _checks.inside(function, name, parameters[name], contains, expected)
    diagonal = jnp.diagonal(parameters[name], axis1=-2, axis2=-1)
    name = f"the diagonal of {name}"
    return positive(function, name, {name: diagonal})


def degrees_of_freedom(function: str, name: str, parameters: Mapping[str, Array]) -> Array:
    """Those of a Wishart distribution: more than the rows of its matrices, less 1."""
    least = parameters[name.replace("df", "scale_tril")].shape[-1] - 1
    above = _domain(lambda df: (df > least) & (df < jnp.inf), f"be finite and > {least}")
    return above(function, name, parameters)


# Of a domain that 1/2 is not in, a member of it whatever the other parameters are.
_MEMBERS: dict[Domain, float] = {degrees_of_freedom: 2.0**20}


def direction(function: str, name: str, parameters: Mapping[str, Array]) -> Array:
    """A vector of which not all is 0."""

    def contains(x: Array) -> Array:
        return jnp.isfinite(x) & jnp.any(x != 0, -1, keepdims=True)

    inside = _domain(contains, "be finite and not all 0")
    return inside(function, name, parameters)


def masses(function: str, name: str, parameters: Mapping[str, Array]) -> Array:
    """Probabilities but for a factor of each row."""

    def contains(x: Array) -> Array:
        return (x >= 0) & (x < jnp.inf) & jnp.any(x > 0, -1, keepdims=True)

    inside = _domain(contains, "be finite, >= 0 and not all 0")
    return inside(function, name, parameters)


def closed_form(
    parameters: Callable[..., list[Array]] = _contracts.parameters,
    /,
    *,
    event_axes: int = 0,
    **domains: Domain,
) -> Callable[[Callable[P, Array]], Callable[P, Array]]:
    """Makes a public function of mathematics on arrays, those that `parameters` returns.

    Where one of them is outside its domain, given by its name without _p or _q, the result
    is nan with gradient 0, and `checked` raises. The parameter of the fewest axes has
    `event_axes` of one distribution: 1 of vectors, 0 where numbers stand beside them. All
    of it is one program, also outside `jit`.
    """

    def decorate(body: Callable[P, Array]) -> Callable[P, Array]:
        module = "parametric.cross" if body.__module__.endswith(".cross") else "parametric"
        function = f"{module}.{body.__name__}"
        signature = inspect.signature(body)
        names = list(signature.parameters)
        stems = [name.removesuffix("_p").removesuffix("_q") for name in names]
        of = {x: domains[y] for x, y in zip(names, stems, strict=True) if y in domains}
        mathematics: Callable[..., Array] = body

        @jax.jit
        @functools.wraps(body)
        def compiled(*given: Array) -> Array:
            named = dict(zip(names, given, strict=True))
            found = parameters(function, **named)
            named = dict(zip(names, found, strict=True))
            if event_axes:
                _contracts.same_rows(function, **{names[0]: found[0]})
            fewest = min(found, key=jnp.ndim)
            rows = fewest.ndim - event_axes
            conditions = [domain(function, name, named) for name, domain in of.items()]
            conditions = [jnp.all(x, tuple(range(rows, x.ndim))) for x in conditions]
            inside = functools.reduce(jnp.logical_and, conditions)
            # A slope that is inf or nan outside would reach a gradient through any mask, as
            # 0 * inf. So the mathematics gets 1/2 there, which is in nearly all domains,
            # and 0 for what has none: the lower end of an interval.
            member = {name: _MEMBERS.get(domain, 0.5) for name, domain in of.items()}
            safe = [
                jnp.where(_beside(inside, x), x, member.get(name, 0.0))
                for name, x in named.items()
            ]
            of_rows = mathematics
            if any(x.ndim > rows for x in safe):
                # JAX has no sharding rules for solves and Cholesky factors of sharded rows.
                of_rows = auto_sharded(mathematics, fewest, event_axes)
            return nan_where(~inside, of_rows(*safe))

        @functools.wraps(body)
        def public(*args: P.args, **kwargs: P.kwargs) -> Array:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f"{function}: {error}.") from None
            return compiled(*_contracts.operands(function, **given))

        return public

    return decorate


def _beside(condition: Array, x: Array) -> Array:
    """Of rows, for all that belongs to a row."""
    return condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim))


def arrays(*parameters: ArrayLike) -> tuple[Array, ...]:
    """The parameters in a body: arrays, as `closed_form` has seen to."""
    return cast("tuple[Array, ...]", parameters)
