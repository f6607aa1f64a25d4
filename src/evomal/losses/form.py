"""The form of losses: the settings that a task fixes for all of its losses."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from evomal.arrays import read_array
from evomal.errors import InputError, quoted, require_name
from evomal.expressions.primitives import is_input_name

Link = Literal["softmax", "sigmoid", "identity"]

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32, torch.float64)
"""The dtypes of predictions, of targets other than class indices, and of weights."""

IGNORE_INDEX = -100
"""The class index that torch's losses ignore by default."""


NO_INPUTS: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Form:
    """The link and inputs of a loss, fixed by a task for all losses learned on it.

    The fields are those of `Loss`, except that `weight` contains numbers.
    """

    link: Link
    inputs: tuple[str, ...] = ()
    weight: tuple[float, ...] | None = None
    ignore_index: int = IGNORE_INDEX

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        weight = None if self.weight is None else list(self.weight)
        return {**vars(self), "inputs": list(self.inputs), "weight": weight}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Form:
        """The form that `to_dict` described.

        Raises
        ------
        InputError
            If a field is missing, unknown, or invalid.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or set(fields) != set(names):
            raise InputError(
                f"A form must have the fields {', '.join(names)}, got {quoted(fields)}."
            )
        link, inputs, weight = fields["link"], fields["inputs"], fields["weight"]
        require_name("link", link, get_args(Link))
        if weight is not None:
            class_weights(weight, link)
            weight = tuple(map(float, weight))
        index = require_ignore_index(fields["ignore_index"])
        return cls(link, input_names(inputs), weight, index)


def require_input_name(name: object) -> None:
    """Raise an `InputError` if an extra input of a loss cannot have this name."""
    if not (isinstance(name, str) and is_input_name(name)):
        raise InputError(
            f"An extra input of a loss cannot be called {quoted(name)}; choose another word, but "
            "not y, f or a primitive."
        )


def input_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of extra inputs, or an `InputError`."""
    if isinstance(names, str | Mapping) or not isinstance(names, Iterable):
        raise InputError(f"The inputs of a loss must be a list of names, got {quoted(names)}.")
    for name in (names := tuple(names)):
        require_input_name(name)
    return tuple(dict.fromkeys(names))


def class_weights(weight: Tensor | Sequence[float], link: Link) -> Tensor:
    """Class weights as a new tensor, (C,).

    Raises
    ------
    InputError
        If they are not finite and at least 0, or the link is not ``"softmax"``.
    """
    if link != "softmax":
        raise InputError(f"Class weights need the link 'softmax', not {quoted(link)}.")
    tensor = real_numbers("class weights", weight)
    if tensor.ndim != 1 or not bool(((tensor >= 0) & tensor.isfinite()).all()):
        raise InputError("The class weights must be finite and at least 0, one per class.")
    return tensor


def real_numbers(what: str, values: Any, like: Tensor | None = None) -> Tensor:
    """Numbers as a new, detached floating-point tensor.

    It has the dtype and device of `like`; without it, a floating-point dtype is kept.

    Raises
    ------
    InputError
        If they are not real numbers.
    """
    has_dtype = isinstance(values, Tensor | np.ndarray)
    tensor = values if isinstance(values, Tensor) else read_array(values, f"The {what}")
    tensor = tensor.detach().clone()
    if not (tensor.is_floating_point() or tensor.is_complex()):
        tensor = tensor.to(torch.get_default_dtype())
    if tensor.dtype not in FLOATS:
        raise InputError(f"The {what} must be real numbers of 16 to 64 bits, not {tensor.dtype}.")
    if like is not None:
        return tensor.to(like.device, like.dtype)
    return tensor if has_dtype else tensor.to(torch.get_default_dtype())


def require_real(name: str, value: object, what: str, holds: Any) -> float:
    """A finite number that satisfies `holds`, or an `InputError`; `what` completes the message."""
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, Real):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number) or not holds(number):
        raise InputError(f"The {name} of a loss must be a number {what}, got {quoted(value)}.")
    return number


def positive(factor: object) -> float:
    """The factor of a loss, or an `InputError`."""
    return require_real("factor", factor, "above 0", lambda number: number > 0)


def require_ignore_index(value: object) -> int:
    """A 64-bit integer, or an `InputError`."""
    if not isinstance(value, bool) and isinstance(value, Integral):
        index = int(value)
        if -(2**63) <= index < 2**63:
            return index
    raise InputError(f"The ignore_index must be a 64-bit integer, got {quoted(value)}.")


def require_flag(name: str, value: object) -> bool:
    """True or False, or an `InputError`."""
    if not isinstance(value, bool):
        raise InputError(f"The setting {name} must be True or False, got {quoted(value)}.")
    return value


def require_smoothing(value: object) -> float:
    """ξ, or an `InputError`."""
    return require_real("smoothing", value, "from 0 to below 1", lambda xi: 0 <= xi < 1)


def require_gamma(value: object) -> float:
    """γ, or an `InputError`."""
    return require_real("gamma", value, "of at least 0", lambda gamma: gamma >= 0)
