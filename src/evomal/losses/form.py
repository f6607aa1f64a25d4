"""How losses read what they are given: what the tasks of a search and its losses agree on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from evomal.errors import InputError
from evomal.expressions.primitives import is_input_name

Link = Literal["softmax", "sigmoid", "identity"]

IGNORE_INDEX = -100
"""The class index that torch's losses ignore by default."""

_LONGEST_QUOTE = 60

NO_INPUTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
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
        """The form that `to_dict` described."""
        weight = None if fields["weight"] is None else tuple(fields["weight"])
        return cls(**{**fields, "inputs": tuple(fields["inputs"]), "weight": weight})


def shown(value: object) -> str:
    """A value as a message quotes it: on one line, and cut off where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of thousands of digits
        return "a number"
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"


def require_input_name(name: object) -> None:
    """Raise an `InputError` if a further input of a loss cannot be called so."""
    if not (isinstance(name, str) and is_input_name(name)):
        raise InputError(
            f"A further input of a loss cannot be called {shown(name)}; choose a word that is no "
            "primitive, not y and not f."
        )


def class_weights(weight: Tensor | Sequence[float], link: Link) -> Tensor:
    """Class weights as a tensor of their own, (C,).

    Raises
    ------
    InputError
        If they are no finite numbers of at least 0, or the link is not ``"softmax"``.
    """
    if link != "softmax":
        raise InputError(f"Class weights need the link 'softmax', not {shown(link)}.")
    return real_numbers("class weights", weight, at_least_0=True)


def real_numbers(
    what: str, values: Tensor | Sequence[float], *, at_least_0: bool = False
) -> Tensor:
    """Numbers as a detached tensor of floating type of their own, which keeps its dtype.

    Raises
    ------
    InputError
        If they are not real numbers; with `at_least_0` also if they are not one-dimensional,
        finite and of at least 0.
    """
    try:
        tensor = torch.as_tensor(values).detach().clone()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"The {what} must be a tensor or a list of numbers, but are {shown(values)}."
        ) from error
    if tensor.is_complex():
        raise InputError(f"The {what} must be real numbers, but are of type {tensor.dtype}.")
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    if at_least_0 and not (tensor.ndim == 1 and bool(((tensor >= 0) & tensor.isfinite()).all())):
        raise InputError(f"The {what} must be finite numbers of at least 0, one per class.")
    return tensor


def require_number(name: str, value: object, what: str, holds: Any) -> float:
    """A finite number that `holds`; otherwise an `InputError` that says `what` it must be."""
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, Real):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number) or not holds(number):
        raise InputError(f"The {name} of a loss must be a number {what}, but is {shown(value)}.")
    return number


def require_class_index(name: str, value: object) -> int:
    """An integer of 64 bits, or an `InputError`."""
    if not isinstance(value, bool) and isinstance(value, Integral):
        index = int(value)
        if -(2**63) <= index < 2**63:
            return index
    raise InputError(f"The {name} must be an integer of 64 bits, but is {shown(value)}.")


def require_smoothing(value: object) -> float:
    """ξ, or an `InputError`."""
    return require_number("smoothing", value, "from 0 to below 1", lambda xi: 0 <= xi < 1)


def require_gamma(value: object) -> float:
    """γ, or an `InputError`."""
    return require_number("gamma", value, "of at least 0", lambda gamma: gamma >= 0)
