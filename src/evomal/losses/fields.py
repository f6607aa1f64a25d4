"""The fields of a stored loss: each is there, of its type, and none is left over."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal.errors import InputError, quoted
from evomal.losses.form import FLOATS

Reader = Callable[[Any], Any]
"""The value of a field from its JSON value; raises an `InputError` that says what it must be."""

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}
"""The types of weights by their names in files."""

_DIGITS = {torch.float16: 5, torch.bfloat16: 4, torch.float32: 9, torch.float64: 17}
"""As many decimal digits tell any two numbers of a type apart."""


def read_fields(fields: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The value of every field, by the reader of its name.

    Raises
    ------
    InputError
        If a field is missing, unknown, or of another type than it must be.
    """
    for name in fields:
        if name not in readers:
            raise InputError(f"There is no field {quoted(name)}; known are {', '.join(readers)}.")
    values = {}
    for name, reader in readers.items():
        if name not in fields:
            raise InputError(f"The field {name!r} is missing.")
        try:
            values[name] = reader(fields[name])
        except InputError as error:
            raise InputError(f"The field {name!r} {error}") from error
    return values


def dtype_name(tensor: Tensor) -> str:
    """The type of weights as `dtype` reads it."""
    return str(tensor.dtype).removeprefix("torch.")


def anything(value: Any) -> Any:
    """What is checked by whom it is for."""
    return value


def text(value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise InputError(f"must be text, but is {quoted(value)}.")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise InputError(f"must be a list of texts, but is {quoted(value)}.")
    return tuple(value)


def integers(value: Any) -> tuple[int, ...]:
    """A list of whole numbers."""
    if not isinstance(value, list):
        raise InputError(f"must be a list of whole numbers, but is {quoted(value)}.")
    return tuple(map(integer, value))


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise InputError(f"must be true or false, but is {quoted(value)}.")
    return value


def integer(value: Any) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"must be a whole number, but is {quoted(value)}.")
    return value


def number(value: Any) -> float:
    """A finite number that is not rounded."""
    if not _is_number(value):
        raise InputError(f"must be a number, but is {quoted(value)}.")
    try:
        exact = float(value)
    except OverflowError:
        exact = math.inf
    if not math.isfinite(exact) or exact != value:
        raise InputError(f"has the number {quoted(value)}, which is not finite or too large.")
    return exact


def numbers(value: Any) -> list[float]:
    """A list of finite numbers."""
    if not (isinstance(value, list) and all(map(_is_number, value))):
        raise InputError(f"must be a list of numbers, but is {quoted(value)}.")
    return [number(one) for one in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def dtype(value: Any) -> torch.dtype:
    """A type of weights."""
    if not (isinstance(value, str) and value in DTYPES):
        raise InputError(f"must be one of {', '.join(DTYPES)}, but is {quoted(value)}.")
    return DTYPES[value]


def optional(reader: Reader) -> Reader:
    """What another reader reads, or None."""
    return lambda value: None if value is None else reader(value)


def tensor(values: list[float], dtype: torch.dtype) -> Tensor:
    """Numbers of a type: each is exact, or a decimal that the nearest one is written as.

    So 0.1 is a float32, and 0.123456789012 is none.

    Raises
    ------
    InputError
        If a number is not one of the type.
    """
    given = torch.tensor(values, dtype=torch.float64)
    found = given.to(dtype)
    for index in (found.double() != given).nonzero().flatten().tolist():
        near, value = float(found[index]), values[index]
        if all(float(f"{near:.{n}g}") != value for n in range(1, _DIGITS[dtype] + 1)):
            name = str(dtype).removeprefix("torch.")
            raise InputError(f"The weight {value!r} is no {name}; the nearest is {near!r}.")
    return found


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def packed_text(values: Tensor) -> str:
    """Numbers of a type as the base64 text of their little-endian bytes."""
    bits = values.detach().cpu().contiguous().view(_BITS[values.element_size()]).numpy()
    return base64.b64encode(bits.astype(bits.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def unpacked(text: str, dtype: torch.dtype) -> Tensor:
    """The finite numbers of a type that `packed_text` wrote, bit for bit.

    Raises
    ------
    InputError
        If the text is another, or a number is not finite.
    """
    try:
        given = base64.b64decode(text, validate=True)
        bits = np.frombuffer(given, f"<i{dtype.itemsize}")
    except ValueError as error:
        raise InputError("The field 'phi' is no base64 text of numbers of its type.") from error
    if base64.b64encode(given).decode("ascii") != text:
        raise InputError("The field 'phi' is no base64 text as evomal writes it.")
    values = torch.from_numpy(bits.astype(bits.dtype.newbyteorder("="))).view(dtype)
    if not values.isfinite().all():
        raise InputError("The field 'phi' has a number that is not finite.")
    return values
