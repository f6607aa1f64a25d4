"""How losses read what they are given: what the tasks of a search and its losses agree on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from evomal.errors import InputError
from evomal.expressions.primitives import is_input_name

Link = Literal["softmax", "sigmoid", "identity"]

IGNORE_INDEX = -100
"""The class index that torch's losses ignore by default."""

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


def require_input_name(name: object) -> None:
    """Raise an `InputError` if a further input of a loss cannot be called so."""
    if not (isinstance(name, str) and is_input_name(name)):
        raise InputError(
            f"A further input of a loss cannot be called {name!r}; choose a word that is no "
            "primitive, not y and not f."
        )


def class_weights(weight: Tensor | Sequence[float], link: Link) -> Tensor:
    """Class weights as a tensor of their own, (C,).

    Raises
    ------
    InputError
        If they are no finite numbers of at least 0, or the link is not ``"softmax"``.
    """
    tensor = torch.as_tensor(weight).detach().clone()
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    if link != "softmax":
        raise InputError(f"Class weights need the link 'softmax', not {link!r}.")
    if tensor.ndim != 1 or not bool((tensor >= 0).all()) or not bool(tensor.isfinite().all()):
        raise InputError("The class weights must be finite numbers of at least 0, one per class.")
    return tensor


def require_number(name: str, value: object, what: str, holds: Any) -> float:
    """A finite number that `holds`; otherwise an `InputError` that says `what` it must be."""
    if not isinstance(value, Real) or not math.isfinite(value) or not holds(value):
        raise InputError(f"The {name} of a loss must be a number {what}, but is {value!r}.")
    return float(value)


def require_smoothing(value: object) -> float:
    """ξ, or an `InputError`."""
    return require_number("smoothing", value, "from 0 to below 1", lambda xi: 0 <= xi < 1)


def require_gamma(value: object) -> float:
    """γ, or an `InputError`."""
    return require_number("gamma", value, "of at least 0", lambda gamma: gamma >= 0)
