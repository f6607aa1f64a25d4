"""What a model is called with: one tensor, or several in a tuple or a dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""One tensor for ``model(x)``, a tuple for ``model(*x)``, a dict for ``model(**x)``.

All tensors have one row per sample.
"""


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """All tensors, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values() if isinstance(inputs, dict) else inputs)


def labelled(inputs: Inputs) -> list[tuple[str, Tensor]]:
    """All tensors, each with the end of its name in messages: ``""``, ``" 0"`` or ``" 'key'"``."""
    if isinstance(inputs, Tensor):
        return [("", inputs)]
    pairs = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    return [(f" {key!r}", tensor) for key, tensor in pairs]


def mapped(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The results of a function of every tensor, in the same structure."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, dict):
        return {key: function(tensor) for key, tensor in inputs.items()}
    return tuple(function(tensor) for tensor in inputs)


def rows_of(inputs: Inputs, rows: Tensor | slice) -> Inputs:
    """Some rows; never a view, because a model may work in place."""
    if isinstance(rows, slice):
        return mapped(lambda tensor: tensor[rows].clone(), inputs)
    return mapped(lambda tensor: tensor[rows], inputs)


def count(inputs: Inputs) -> int:
    """Number of rows."""
    return len(tensors_of(inputs)[0])


def columns_of(rows: list[Any]) -> Any:
    """Inputs of single rows, each an array or a tuple or dict of arrays, collected by input."""
    first = rows[0] if rows else None
    if isinstance(first, tuple):
        return tuple(list(column) for column in zip(*rows, strict=True))
    if isinstance(first, Mapping):
        return {key: [row[key] for row in rows] for key in first}
    return rows


def is_inputs(value: object) -> TypeGuard[Inputs]:
    """Whether this is one tensor, or a tuple or dict (by name) of at least one."""
    if isinstance(value, dict):
        held, named = list(value.values()), all(isinstance(key, str) for key in value)
    else:
        held, named = list(value) if isinstance(value, tuple) else [value], True
    return named and bool(held) and all(isinstance(one, Tensor) for one in held)


def shapes_of(inputs: Inputs) -> str:
    """The shapes of all tensors, for messages: ``shape (2, 3)``, or ``shapes 'a': (2, 3), …``."""
    if isinstance(inputs, Tensor):
        return f"shape {tuple(inputs.shape)}"
    return "shapes " + ", ".join(f"{key.strip()}: {tuple(t.shape)}" for key, t in labelled(inputs))


def arguments_of(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The positional and keyword arguments with which a model is called."""
    if isinstance(inputs, dict):
        return (), inputs
    return ((inputs,) if isinstance(inputs, Tensor) else inputs), {}


def equal(one: Inputs, other: Inputs) -> bool:
    """Whether all tensors have the same values."""
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)
