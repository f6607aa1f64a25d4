"""How losses read what they are given: what the tasks of a search and its losses agree on."""

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
"""The types of predictions, of targets that are no classes, and of weights."""

IGNORE_INDEX = -100
"""The class index that torch's losses ignore by default."""


NO_INPUTS: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Form:
    """How a loss reads what it is given; a task fixes it for all losses that are learned on it.

    The fields are those of `Loss`, but that `weight` holds numbers.
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
            If a field is missing, unknown, or makes no sense.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or set(fields) != set(names):
            raise InputError(f"A form has the fields {', '.join(names)}, but is {quoted(fields)}.")
        link, inputs, weight = fields["link"], fields["inputs"], fields["weight"]
        require_name("link", link, get_args(Link))
        if weight is not None:
            class_weights(weight, link)
            weight = tuple(map(float, weight))
        index = require_ignore_index(fields["ignore_index"])
        return cls(link, input_names(inputs), weight, index)


def require_input_name(name: object) -> None:
    """Raise an `InputError` if a further input of a loss cannot be called so."""
    if not (isinstance(name, str) and is_input_name(name)):
        raise InputError(
            f"A further input of a loss cannot be called {quoted(name)}; choose a word that is no "
            "primitive, not y and not f."
        )


def input_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of further inputs, or an `InputError`."""
    if isinstance(names, str | Mapping) or not isinstance(names, Iterable):
        raise InputError(f"The inputs of a loss are a list of names, but are {quoted(names)}.")
    for name in (names := tuple(names)):
        require_input_name(name)
    return tuple(dict.fromkeys(names))


def class_weights(weight: Tensor | Sequence[float], link: Link) -> Tensor:
    """Class weights as a tensor of their own, (C,).

    Raises
    ------
    InputError
        If they are no finite numbers of at least 0, or the link is not ``"softmax"``.
    """
    if link != "softmax":
        raise InputError(f"Class weights need the link 'softmax', not {quoted(link)}.")
    tensor = real_numbers("class weights", weight)
    if tensor.ndim != 1 or not bool(((tensor >= 0) & tensor.isfinite()).all()):
        raise InputError("The class weights must be finite numbers of at least 0, one per class.")
    return tensor


def real_numbers(what: str, values: Any, like: Tensor | None = None) -> Tensor:
    """Numbers as a detached tensor of floating type of their own.

    It has the type and device of `like`; without it, a floating type that the values have is kept.

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


def require_number(name: str, value: object, what: str, holds: Any) -> float:
    """A finite number that `holds`; otherwise an `InputError` that says `what` it must be."""
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, Real):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number) or not holds(number):
        raise InputError(f"The {name} of a loss must be a number {what}, but is {quoted(value)}.")
    return number


def require_ignore_index(value: object) -> int:
    """An integer of 64 bits, or an `InputError`."""
    if not isinstance(value, bool) and isinstance(value, Integral):
        index = int(value)
        if -(2**63) <= index < 2**63:
            return index
    raise InputError(f"The ignore_index must be an integer of 64 bits, but is {quoted(value)}.")


def require_flag(name: str, value: object) -> bool:
    """True or False, or an `InputError`."""
    if not isinstance(value, bool):
        raise InputError(f"The setting {name} must be True or False, but is {quoted(value)}.")
    return value


def require_smoothing(value: object) -> float:
    """ξ, or an `InputError`."""
    return require_number("smoothing", value, "from 0 to below 1", lambda xi: 0 <= xi < 1)


def require_gamma(value: object) -> float:
    """γ, or an `InputError`."""
    return require_number("gamma", value, "of at least 0", lambda gamma: gamma >= 0)
