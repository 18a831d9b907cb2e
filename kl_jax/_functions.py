"""What a transform knows of the function it transforms: its name, arguments and origin."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def wraps(
    transform: str,
    fun: Callable[..., Any],
    transformed: Callable[..., Any],
    does: str,
    adds: str | None = None,
    returns: str | None = None,
) -> Callable[..., Any]:
    """`transformed` with a name, a docstring and a signature that say what it is.

    `does` is the docstring's first sentence, `adds` a keyword that it takes and `fun` does
    not, `returns` the annotation where that is another one. Attributes of `fun` are not
    copied: what describes `fun` does not describe this.
    """
    inner = name_of(fun)
    transformed.__name__ = transformed.__qualname__ = f"{transform}({inner})"
    added = f", and the keyword `{adds}`" if adds else ""
    transformed.__doc__ = f"{does}\n\nTakes the arguments of `{inner}`{added}."
    transformed.__wrapped__ = fun  # pyrefly: ignore  (inspect.unwrap reads it)
    signature = _signature(fun)
    if signature is None:
        return transformed
    if adds is not None:
        if takes(fun, adds):
            raise ValueError(
                f"{transform}: the function to transform takes {adds}= already; combine "
                f"the two before they are passed."
            )
        parameters = list(signature.parameters.values())
        keyword = inspect.Parameter(adds, inspect.Parameter.KEYWORD_ONLY)
        at = len(parameters)
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            at -= 1
        parameters.insert(at, keyword)
        signature = signature.replace(parameters=parameters)
    if returns is not None:
        signature = signature.replace(return_annotation=returns)
    transformed.__signature__ = signature  # pyrefly: ignore  (inspect reads it)
    return transformed


def name_of(fun: Callable[..., Any]) -> str:
    """As it is written in a message or a name: `partial(kl_divergence)`."""
    if isinstance(fun, functools.partial):
        return f"partial({name_of(fun.func)})"
    return getattr(fun, "__name__", type(fun).__name__)


Arguments = tuple[Any, Any, tuple[Any, ...], dict[str, Any]]


def of_two_arguments(
    transform: str, fun: Callable[..., Any], instead: str
) -> Callable[..., Arguments]:
    """Refuses a `fun` that is no function of p and q; else finds these in its arguments.

    A function with any number but two of required positional parameters is refused: of
    normal(loc_p, scale_p, loc_q, scale_q) the first two are both p's. So is a function of
    this library whose two are no pair, as (mean, log_variance). Of others nothing more can
    be known. `instead` says what to write.

    What is returned takes the arguments of a call, by place or by name, to that of p, that
    of q, and the others, positional and keyword.
    """
    signature = _signature(fun)

    def arguments(*args: Any, **kwargs: Any) -> Arguments:
        if signature is not None:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{transform}({name_of(fun)}): {error}.") from None
            args, kwargs = bound.args, bound.kwargs
        if len(args) < 2:
            raise TypeError(
                f"{transform}({name_of(fun)}): the first two arguments must be p's and "
                f"q's, found {len(args)} of them."
            )
        return args[0], args[1], args[2:], kwargs

    if signature is not None:
        required = _required(signature)
        kinds = [x.kind for x in signature.parameters.values()]
        more = inspect.Parameter.VAR_POSITIONAL in kinds and len(required) < 2
        fits = len(required) == 2 or more
        if fits and is_ours(fun) and not more:
            fits = required[0][:-1] == required[1][:-1]
        if not fits:
            raise TypeError(
                f"{transform}: the function to transform must have exactly two required "
                f"positional parameters, p's and q's, found {described(fun)}. {instead}"
            )
    return arguments


def described(fun: Callable[..., Any]) -> str:
    """Its name and its required positional parameters."""
    signature = _signature(fun)
    return f"{name_of(fun)}({', '.join(_required(signature) if signature else ['...'])})"


def takes(fun: Callable[..., Any], name: str) -> bool:
    """Whether it has a parameter of that name."""
    signature = _signature(fun)
    return signature is not None and name in signature.parameters


def takes_logits(fun: Callable[..., Any]) -> bool:
    """Whether the two arguments are logits, as far as can be known."""
    of_logits = described(fun).endswith("(logits_p, logits_q)")
    return not is_ours(fun) or (is_ours(fun, "divergences") and of_logits)


def is_ours(fun: Callable[..., Any], module: str = "") -> bool:
    """Whether what jit, partial and transforms were put around is of kl_jax."""
    while True:
        if isinstance(fun, functools.partial):
            fun = fun.func
        elif hasattr(fun, "__wrapped__"):
            fun = fun.__wrapped__
        else:
            break
    found = (getattr(fun, "__module__", None) or "").split(".")
    return found[0] == "kl_jax" and module in ("", *found[1:])


def _required(signature: inspect.Signature) -> list[str]:
    parameters = signature.parameters.values()
    empty = inspect.Parameter.empty
    return [x.name for x in parameters if x.kind in _POSITIONAL and x.default is empty]


def _signature(fun: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fun)
    except (TypeError, ValueError):  # some callables written in C have none
        return None
