"""Losses as the Python expressions that make them again."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal.losses.base import Loss
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.sparse import SparselySmoothedLoss
from evomal.losses.symbolic import SymbolicLoss


def python_form(loss: Loss) -> str | None:
    """What makes an equal loss again, such as ``evomal.SymbolicLoss("mul(y, f)", link="softmax")``.

    Weights have as many digits as their type needs; arguments that have their default are left out.
    The names are those after ``import evomal`` and, where the weights are not of torch's usual
    type, ``import torch``. None for a loss that no expression makes.
    """
    fields: dict[str, Any]
    if isinstance(loss, SymbolicLoss):
        plain = loss.phi.dtype == torch.float32 and bool((loss.phi == 1).all())
        fields = {
            "phi": None if plain else loss.phi,
            "link": loss.link,
            "activation": loss.activation,
            "inputs": loss.inputs,
        }
        arguments = [f'"{loss.expression}"']
    elif isinstance(loss, HandcraftedLoss) and not isinstance(loss, SparselySmoothedLoss):
        fields = {name: getattr(loss, name) for name in loss.setting_names}
        arguments = []
    else:
        return None
    fields |= {
        "reduction": loss.reduction,
        "weight": loss.weight,
        "ignore_index": loss.ignore_index,
    }
    known = inspect.signature(type(loss)).parameters
    arguments += [
        f"{name}={_written(value)}"
        for name, value in fields.items()
        if value is not None and (isinstance(value, Tensor) or value != known[name].default)
    ]
    return f"evomal.{type(loss).__name__}({', '.join(arguments)})"


def _written(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return str(list(value)).replace("'", '"')
    if not isinstance(value, Tensor):
        return repr(value)
    if value.dtype == torch.float32:
        return f"[{', '.join(map(_short, value.tolist()))}]"
    return f"torch.tensor({value.tolist()}, dtype={value.dtype})"


def _short(number: float) -> str:
    """The fewest digits that give the same number in single precision."""
    text = repr(float(str(np.float32(number))))
    return text if np.float32(float(text)) == np.float32(number) else repr(number)
