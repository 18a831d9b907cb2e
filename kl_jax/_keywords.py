"""Keywords that take a Python number, string or bool, known while JAX traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def choice(function: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """A keyword that takes one of a few strings."""
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{function}: {name} must be one of {expected}, found {value!r}.")


def flag(function: str, name: str, value: Any) -> None:
    """A keyword that takes a Python bool, known while tracing."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: {name} must be a bool, found {value!r}.")


def number(function: str, name: str, value: Any) -> None:
    real = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, real):
        raise TypeError(f"{function}: {name} must be a number, found {value!r}.")


def real_number(function: str, name: str, value: Any) -> float:
    """A keyword that takes any Python number, nan and inf too, known while tracing."""
    number(function, name, value)
    return float(value)


def positive_number(function: str, name: str, value: Any) -> float:
    """A keyword that takes a Python number > 0, known while tracing."""
    number(function, name, value)
    float32 = np.finfo(np.float32)
    if not float(float32.smallest_normal) <= value <= float(float32.max):
        raise ValueError(
            f"{function}: {name} must be finite and > 0 in float32, found {value!r}."
        )
    return float(value)


def positive_integer(function: str, name: str, value: Any) -> int:
    """A keyword that takes a Python integer > 0, known while tracing."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{function}: {name} must be an integer, found {value!r}.")
    if value <= 0:
        raise ValueError(f"{function}: {name} must be > 0, found {value!r}.")
    return int(value)


def place(function: str, name: str, value: Any) -> int:
    """A keyword that takes a Python integer >= 0: an axis of arrays of any rank."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{function}: {name} must be an integer, found {value!r}.")
    if value < 0:
        raise ValueError(
            f"{function}: {name} must be >= 0, counted from the first in arguments and "
            f"results alike, found {value!r}."
        )
    return int(value)


def nodes(function: str, value: Any, least: int) -> int:
    """The number of quadrature nodes: odd, so that every second node is a rule again."""
    value = positive_integer(function, "order", value)
    if value < least or not value % 2:
        raise ValueError(
            f"{function}: order must be odd and at least {least}, found {value!r}."
        )
    return value


def fraction(function: str, name: str, value: Any) -> float:
    """A keyword that takes a Python number of [0, 1], known while tracing."""
    number(function, name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{function}: {name} must be in [0, 1], found {value!r}.")
    return float(value)
