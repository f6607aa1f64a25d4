"""Validation of the fields of a stored loss: all are present, of their type, and known."""

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
"""Converts a JSON value to the value of a field, or raises an `InputError`."""

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}
"""The dtypes of weights by their names in files."""

_DIGITS = {torch.float16: 5, torch.bfloat16: 4, torch.float32: 9, torch.float64: 17}
"""Decimal digits that distinguish any two numbers of a dtype."""


def read_fields(fields: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Read every field with the reader of its name.

    Raises
    ------
    InputError
        If a field is missing, unknown, or of the wrong type.
    """
    for name in fields:
        if name not in readers:
            raise InputError(
                f"There is no field {quoted(name)}; known fields: {', '.join(readers)}."
            )
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
    """The name of a tensor's dtype, as `dtype` reads it."""
    return str(tensor.dtype).removeprefix("torch.")


def anything(value: Any) -> Any:
    """Any value, to be checked by its user."""
    return value


def text(value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise InputError(f"must be text, got {quoted(value)}.")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of strings."""
    if not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise InputError(f"must be a list of strings, got {quoted(value)}.")
    return tuple(value)


def integers(value: Any) -> tuple[int, ...]:
    """A list of whole numbers."""
    if not isinstance(value, list):
        raise InputError(f"must be a list of whole numbers, got {quoted(value)}.")
    return tuple(map(integer, value))


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise InputError(f"must be true or false, got {quoted(value)}.")
    return value


def integer(value: Any) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"must be a whole number, got {quoted(value)}.")
    return value


def number(value: Any) -> float:
    """A finite number, not rounded."""
    if not _is_number(value):
        raise InputError(f"must be a number, got {quoted(value)}.")
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
        raise InputError(f"must be a list of numbers, got {quoted(value)}.")
    return [number(one) for one in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def dtype(value: Any) -> torch.dtype:
    """A dtype of weights."""
    if not (isinstance(value, str) and value in DTYPES):
        raise InputError(f"must be one of {', '.join(DTYPES)}, got {quoted(value)}.")
    return DTYPES[value]


def optional(reader: Reader) -> Reader:
    """A reader that also accepts None."""
    return lambda value: None if value is None else reader(value)


def tensor(values: list[float], dtype: torch.dtype) -> Tensor:
    """Convert numbers to a dtype; each must be exact or the decimal form of the nearest number.

    So 0.1 is a float32, and 0.123456789012 is not.

    Raises
    ------
    InputError
        If a number does not belong to the dtype.
    """
    given = torch.tensor(values, dtype=torch.float64)
    found = given.to(dtype)
    for index in (found.double() != given).nonzero().flatten().tolist():
        near, value = float(found[index]), values[index]
        if all(float(f"{near:.{n}g}") != value for n in range(1, _DIGITS[dtype] + 1)):
            name = str(dtype).removeprefix("torch.")
            raise InputError(f"The weight {value!r} is not a {name}; the nearest is {near!r}.")
    return found


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def packed_text(values: Tensor) -> str:
    """A tensor as the base64 text of its little-endian bytes."""
    bits = values.detach().cpu().contiguous().view(_BITS[values.element_size()]).numpy()
    return base64.b64encode(bits.astype(bits.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def unpacked(text: str, dtype: torch.dtype) -> Tensor:
    """The finite numbers written by `packed_text`, bit for bit.

    Raises
    ------
    InputError
        If the text has another format, or a number is not finite.
    """
    try:
        given = base64.b64decode(text, validate=True)
        bits = np.frombuffer(given, f"<i{dtype.itemsize}")
    except ValueError as error:
        raise InputError("The field 'phi' is not base64 text of numbers of its dtype.") from error
    if base64.b64encode(given).decode("ascii") != text:
        raise InputError("The field 'phi' is not base64 text written by evomal.")
    values = torch.from_numpy(bits.astype(bits.dtype.newbyteorder("="))).view(dtype)
    if not values.isfinite().all():
        raise InputError("The field 'phi' has a number that is not finite.")
    return values
