"""What functions that a user gives are known by: names, and plain values in partial ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def function_name(function: Callable[..., Any]) -> str:
    """What a function, a partial one, or a callable object is called."""
    function = getattr(function, "func", function)
    return getattr(function, "__name__", type(function).__name__)


def identity(function: Callable[..., Any]) -> list[Any]:
    """A function's name, and the plain values that a partial one holds, as JSON values."""
    held = (getattr(function, "args", ()), *getattr(function, "keywords", {}).items())
    return [function_name(function), *_plain_values(held)]


def _plain_values(value: Any) -> list[Any]:
    """Numbers and texts in nested tuples; None for anything else, which has no stable form."""
    if isinstance(value, tuple | list):
        return [plain for part in value for plain in _plain_values(part)]
    return [value if isinstance(value, str | int | float) else None]
