"""User functions: their names and required arguments, and plain arguments of partial ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def function_name(function: Callable[..., Any]) -> str:
    """The name of a function, a partial function, or a callable object."""
    function = getattr(function, "func", function)
    return getattr(function, "__name__", type(function).__name__)


def required_arguments(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments without defaults."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some C functions have no signature
        return []
    collects = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [p.name for p in parameters if p.default is p.empty and p.kind not in collects]


def default_of(function: object, argument: str) -> Any:
    """The default of an argument that can be given by name; None if there is none."""
    if not callable(function):
        return None
    try:
        parameter = inspect.signature(function).parameters.get(argument)
    except ValueError:
        return None
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return parameter.default if parameter is not None and parameter.kind in named else None


def identity(function: Callable[..., Any]) -> list[Any]:
    """A function's name, and the plain arguments of a partial function, as JSON values."""
    held = (getattr(function, "args", ()), *getattr(function, "keywords", {}).items())
    return [function_name(function), *_plain_values(held)]


def _plain_values(value: Any) -> list[Any]:
    """Numbers and strings in nested tuples; None for others, which have no stable form."""
    if isinstance(value, tuple | list):
        return [plain for part in value for plain in _plain_values(part)]
    return [value if isinstance(value, str | int | float) else None]
