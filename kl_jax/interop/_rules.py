"""Tables of closed forms, and what is done with one: look up a pair, list the pairs.

A library's table has a row for each closed form: the classes whose objects it takes, with
the parameters of each. Of two objects the first row that takes both is used.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array

from kl_jax import parametric
from kl_jax.interop import _forms

# What a closed form takes of an object, or None where it does not take this object.
Parameters = Callable[[Any], tuple[Any, ...] | None]
Members = Mapping[type, Parameters]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["rule"]
)
@dataclasses.dataclass(frozen=True)
class KLBetween:
    """What `kl_between` returns: a pytree of `value`, so that `jit` and `vmap` return it.

    Attributes:
      value: KL(p || q) in nats, of the batch shape that those of p and q broadcast to.
      rule: What computed it: a function of kl_jax, as "parametric.gamma" or
        "parametric.cross.normal_laplace"; one made of these in kl_jax/interop/_forms.py, as
        "interop.geometric_logits"; or the library whose own `kl_divergence` did, as
        "numpyro".
    """

    value: Array
    rule: str


class Family(NamedTuple):
    """A row: a closed form of p's parameters, then q's, and of whom it takes them."""

    rule: str
    function: Callable[..., Array]
    p: Members
    q: Members


def family(rule: str, members: Members, q: Members | None = None) -> Family:
    """A row of `kl_jax.parametric`; `q` where q is of other classes than p."""
    function = getattr(parametric, rule)
    return Family(f"parametric.{rule}", function, members, members if q is None else q)


def beside(rule: str, members: Members, others: Members) -> tuple[Family, ...]:
    """Rows of members, and of one of them and one other; two others are the library's."""
    return (
        family(rule, members),
        family(rule, members, others),
        family(rule, others, members),
    )


def composed(function: Callable[..., Array], p: Members, q: Members) -> Family:
    """A row of `kl_jax.interop._forms`."""
    return Family(f"interop.{function.__name__}", function, p, q)


def attributes(*names: str) -> Parameters:
    """Parameters that an object has under these names, none of which is None."""

    def parameters(x: Any) -> tuple[Any, ...] | None:
        found = tuple(getattr(x, name) for name in names)
        return None if any(value is None for value in found) else found

    return parameters


def converted(
    convert: Callable[[Any], Any], given: str = "probs", wanted: str = "logits"
) -> Callable[[Any], tuple[Any, ...]]:
    """The parameter `wanted`; where that is None, what `given` is converted to."""

    def parameters(x: Any) -> tuple[Any, ...]:
        found = getattr(x, wanted)
        return (convert(getattr(x, given)) if found is None else found,)

    return parameters


def counted(of_one: Callable[[Any], tuple[Any, ...]]) -> Parameters:
    """The number of trials, or of failures, and what a function returns."""
    return lambda x: (x.total_count, *of_one(x))


def with_matrix(of_diagonal: Parameters) -> Parameters:
    """loc and Cholesky factor of those for which a function returns loc and scale."""

    def parameters(x: Any) -> tuple[Any, ...] | None:
        found = of_diagonal(x)
        return found and (found[0], _forms.diagonal_matrix(found[1]))

    return parameters


def closed_form(table: Sequence[Family], p: Any, q: Any) -> KLBetween | None:
    """By the first row that takes both."""
    for row in table:
        of_p, of_q = _parameters(row.p, p), _parameters(row.q, q)
        if of_p is not None and of_q is not None:
            one_event_shape(row.rule, p, q)
            return KLBetween(row.function(*of_p, *of_q), row.rule)
    return None


def _parameters(members: Members, x: Any) -> tuple[Any, ...] | None:
    """By the most special class of an object that is a member, as the libraries do."""
    for cls in x.__class__.__mro__:
        if cls in members:
            return members[cls](x)
    return None


def both_are(cls: Any, p: Any, q: Any) -> bool:
    """Whether p and q are of a class, or of one of a tuple of them."""
    return isinstance(p, cls) and isinstance(q, cls)


def one_event_shape(rule: str, p: Any, q: Any) -> None:
    """`parametric` would broadcast one component to many. A Beta and a Dirichlet
    distribution of two, which distrax compares, have event shapes () and (2,).
    """
    of_p, of_q = tuple(p.event_shape), tuple(q.event_shape)
    if of_p and of_q and of_p != of_q:
        raise ValueError(f"{rule}: q must have the event_shape of p, {of_p}, found {of_q}.")


def pairs(table: Sequence[Family]) -> Iterator[tuple[type, type]]:
    """The pairs of classes that have a row."""
    found = (itertools.product(row.p, row.q) for row in table)
    yield from dict.fromkeys(itertools.chain.from_iterable(found))


class Registered:
    """What is registered for a pair: the table, and else what the library had."""

    def __init__(self, table: Sequence[Family], otherwise: Callable[..., Any] | None):
        self.table, self.otherwise = table, otherwise

    def __call__(self, p: Any, q: Any, **name: Any) -> Any:
        found = closed_form(self.table, p, q)
        if found is not None:
            return found.value
        if self.otherwise is None:
            raise no_closed_form(p, q)
        return self.otherwise(p, q, **name)


Between = Callable[[Any, Any], KLBetween]


class Library(NamedTuple):
    """What `kl_between` needs of a library."""

    name: str
    table: Callable[[], Sequence[Family]]
    # Of p and q that are made of others, by a function that returns KL of those.
    parts: Callable[[Any, Any, Between], KLBetween | None]
    kl_divergence: Callable[[Any, Any], Any]


def no_closed_form(p: Any, q: Any) -> NotImplementedError:
    of_p, of_q = (f"{x.__class__.__module__}.{x.__class__.__name__}" for x in (p, q))
    return NotImplementedError(
        f"KL(p || q): neither kl_jax nor their library has a closed form of p, a {of_p}, "
        f"and q, a {of_q}. In one dimension write kl_from_densities(p.log_prob, "
        "q.log_prob, low, high); else, for samples x of p, "
        "kl_estimate(p.log_prob(x), q.log_prob(x)).mean(0)."
    )


def required(function: str, module: str, package: str) -> Any:
    """The module of a library, imported now."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{function}: {module} cannot be imported ({error}). Install the extra "
            f'`interop`, pip install ".[interop]" inside a clone, or pip install {package}.'
        ) from error
