"""Checks of arguments by value, one function per kind of argument.

All raise an `InputError` of one sentence that begins with the name of the argument.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from evomal.errors import InputError, meant, quoted

T = TypeVar("T")


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """A 64-bit integer of Python or numpy, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"The {name} must be a whole number, got {quoted(value)}.")
    whole = int(value)
    if least is not None and whole < least:
        raise InputError(f"The {name} must be at least {least}, got {quoted(value)}.")
    if not -(2**63) <= whole < 2**63:
        raise InputError(f"The {name} must fit into 64 bits, got {quoted(value)}.")
    return whole


def whole_numbers(values: Any, name: str, least: int) -> list[int]:
    """A list of integers, each at least `least`; `name` is that of one element."""
    return [whole_number(value, name, least) for value in listed(values, f"{name}s")]


def number(value: Any, name: str) -> float:
    """A finite number of Python or numpy."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"The {name} must be a number, got {quoted(value)}.")
    try:
        converted = float(value)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise InputError(f"The {name} must be a finite number, got {quoted(value)}.")
    return converted


def positive(value: Any, name: str) -> float:
    """A finite number above 0."""
    converted = number(value, name)
    if converted <= 0:
        raise InputError(f"The {name} must be above 0, got {quoted(value)}.")
    return converted


def not_negative(value: Any, name: str) -> float:
    """A finite, non-negative number."""
    converted = number(value, name)
    if converted < 0:
        raise InputError(f"The {name} must be at least 0, got {quoted(value)}.")
    return converted


def flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"The {name} must be True or False, got {quoted(value)}.")
    return bool(value)


def increasing_shares(values: Any, name: str) -> tuple[float, ...]:
    """Increasing numbers between 0 and 1; `name` is that of one element."""
    shares = tuple(number(value, name) for value in listed(values, f"{name}s"))
    if not all(0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
        raise InputError(
            f"The {name}s must be increasing fractions between 0 and 1, got {quoted(values)}."
        )
    return shares


def text(value: Any, name: str) -> str:
    """A non-empty line of text."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InputError(f"The {name} must be a line of text, got {quoted(value)}.")
    return value


def function(value: Callable[..., T] | None, name: str, called: str) -> Callable[..., T] | None:
    """A function or another callable object, or None; `called` shows its arguments."""
    if isinstance(value, type):
        raise InputError(
            f"The {name} must be a function that is called as {called}, got {quoted(value)}; pass "
            f"an instance, {value.__name__}()."
        )
    if value is not None and not callable(value):
        raise InputError(
            f"The {name} must be a function that is called as {called}, got {quoted(value)}."
        )
    return value


def required_function(value: Callable[..., T], name: str, called: str) -> Callable[..., T]:
    """A function or another callable object; `called` shows its arguments."""
    checked = function(value, name, called)
    if checked is None:
        raise InputError(f"The {name} must be a function that is called as {called}, got None.")
    return checked


def listed(values: Any, name: str) -> list[Any]:
    """The elements of a list, a tuple, a range or a one-dimensional array."""
    is_array = isinstance(values, np.ndarray) and values.ndim == 1
    if not (is_array or isinstance(values, Sequence)) or isinstance(values, str | bytes):
        raise InputError(f"The {name} must be a list, got {quoted(values)}.")
    return list(values)


def mapping(value: Any, name: str) -> Mapping[Any, Any]:
    """A dict or the like."""
    if not isinstance(value, Mapping):
        raise InputError(f"The {name} must be a dict, got {quoted(value)}.")
    return value


def instance(value: Any, name: str, kind: type[T], remedy: str) -> T:
    """An instance of a class; `remedy` says how to create one."""
    if not isinstance(value, kind):
        raise InputError(f"The {name} must be {remedy}, got {quoted(value)}.")
    return value


def with_known_arguments(cls: type[T]) -> type[T]:
    """A class decorator: wrong arguments raise an `InputError` that lists the known ones.

    For unknown arguments, such as torch's ``lr``, and missing ones.
    """
    create: Callable[..., None] = cls.__init__
    signature = inspect.signature(create)
    known = list(signature.parameters)[1:]

    @functools.wraps(create)
    def checked(self: T, *args: Any, **kwargs: Any) -> None:
        takes = f"it takes {', '.join(known)}."
        for name in kwargs:
            if name not in known:
                remedy = meant(name, known) or takes
                raise InputError(f"{cls.__name__} has no argument {name!r}; {remedy}")
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise InputError(f"{cls.__name__}: {error}; {takes}") from error
        create(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[assignment]
    return cls
