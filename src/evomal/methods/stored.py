"""Reading stored JSON values as their original types, with one-sentence errors."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from evomal.errors import InputError, quoted

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    tuple: "a list",
    Mapping: "an object",
    NoneType: "null",
}


def from_json(text: object, what: str) -> Any:
    """Parse a JSON text; NaN and infinities remain text.

    Raises
    ------
    InputError
        If it is not JSON, or nested too deeply; `what` names it.
    """
    try:
        return json.loads(typed(str, text, what), parse_constant=str)
    except RecursionError as error:
        raise InputError(f"{what} is nested too deeply") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{what} is {quoted(text)}, which is not JSON") from error


def typed(kind: Any, value: Any, what: str) -> Any:
    """Convert a stored value to its type.

    Parameters
    ----------
    kind
        ``int`` (without bool), ``float`` (finite, or an int), ``str``, ``bool``, ``None``, ``Any``,
        a literal, ``tuple[X, ...]`` or ``Mapping[str, X]`` (from a list or an object), a dataclass
        (from an object with exactly its fields), or a union of these.
    value
        A JSON value.
    what
        Name of the value in messages.

    Raises
    ------
    InputError
        If it has another type.
    """
    origin, kinds = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _one_of(kinds, value, what)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _record(kind, value, what)
    if origin is tuple and isinstance(value, list):
        return tuple(typed(kinds[0], item, f"{what}, item {i}") for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: typed(kinds[1], item, f"{what}, {key!r}") for key, item in value.items()}
    if origin is Literal and isinstance(value, str) and value in kinds:
        return value
    if kind is float and type(value) in (int, float):
        with_point = _as_float(value)
        if math.isfinite(with_point):
            return with_point
    elif kind in (int, str, bool, NoneType, None) and type(value) is (kind or NoneType):
        return value
    raise InputError(f"{what} is {quoted(value)}, not {_name(kind)}")


def require(condition: bool, message: str) -> None:
    """Raise an `InputError` unless the condition holds."""
    if not condition:
        raise InputError(message)


@dataclasses.dataclass(frozen=True)
class MethodState:
    """The state returned by `Method.state_dict`.

    Attributes
    ----------
    generation, candidates
        Number of finished generations and of their candidates.
    method
        The state of the subclass.
    """

    generation: int
    candidates: int
    method: Any


@dataclasses.dataclass(frozen=True)
class StoredStream:
    """The numbers of a stream of PCG64."""

    state: int
    inc: int


@dataclasses.dataclass(frozen=True)
class StoredGenerator:
    """The state of numpy's PCG64."""

    bit_generator: Literal["PCG64"]
    state: StoredStream
    has_uint32: int
    uinteger: int

    def checked(self) -> dict[str, Any]:
        """The state in NumPy's format."""
        require(
            0 <= self.state.state < 2**128
            and 0 <= self.state.inc < 2**128
            and self.state.inc % 2 == 1
            and self.has_uint32 in (0, 1)
            and 0 <= self.uinteger < 2**32,
            "the random generator of the method has an impossible state",
        )
        return dataclasses.asdict(self)


def _one_of(kinds: tuple[Any, ...], value: Any, what: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    if len(kinds) == 1:
        return typed(kinds[0], value, what)
    for kind in kinds:
        try:
            return typed(kind, value, what)
        except InputError:
            continue
    raise InputError(f"{what} is {quoted(value)}, not {' or '.join(map(_name, kinds))}")


def _record(kind: Any, fields: Mapping[str, Any], what: str) -> Any:
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    missing = next((name for name in names if name not in fields), None)
    require(missing is None, f"{what} lacks {missing!r}")
    unknown = next((name for name in fields if name not in names), None)
    require(unknown is None, f"{what} has the unknown field {quoted(unknown)}")
    return kind(**{name: typed(hints[name], fields[name], f"{what}, {name!r}") for name in names})


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if dataclasses.is_dataclass(kind):
        return _NAMES[Mapping]
    return _NAMES[get_origin(kind) or kind or NoneType]
