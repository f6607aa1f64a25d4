"""Losses as Python expressions that recreate them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from evomal.losses.base import Loss


def call_text(loss: Loss, arguments: list[str], **settings: Any) -> str:
    """The call that creates a loss; see `Loss.python_form`.

    Parameters
    ----------
    loss
        The loss; its reduction, class weights and ignore_index are added.
    arguments
        Positional arguments, as text.
    settings
        Arguments by name; None and default values are left out.
    """
    settings |= {
        "reduction": loss.reduction,
        "weight": loss.weight,
        "ignore_index": loss.ignore_index,
    }
    known = inspect.signature(type(loss)).parameters
    named = [
        f"{name}={_written(value)}"
        for name, value in settings.items()
        if value is not None and (isinstance(value, Tensor) or value != known[name].default)
    ]
    module = type(loss).__module__
    home = "evomal" if module.startswith("evomal.") else module
    return f"{home}.{type(loss).__name__}({', '.join(arguments + named)})"


def _written(value: Any) -> str:
    """A setting as Python code."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return str(list(value)).replace("'", '"')
    if not isinstance(value, Tensor):
        return repr(value)
    if value.dtype == torch.float32:
        return f"[{', '.join(map(_short, value.tolist()))}]"
    return f"torch.tensor({value.tolist()}, dtype={value.dtype})"


def number_text(value: Tensor) -> str:
    """A number with few digits that reproduce it in its dtype."""
    text = _short(value.item()) if value.dtype == torch.float32 else repr(value.item())
    return text.removesuffix(".0")


def _short(number: float) -> str:
    """The fewest digits that reproduce the number in single precision."""
    text = repr(float(str(np.float32(number))))
    return text if np.float32(float(text)) == np.float32(number) else repr(number)
