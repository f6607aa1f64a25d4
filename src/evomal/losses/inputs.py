"""The inputs of a loss: checks of tensors and the precision of its computation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal.arrays import read_array
from evomal.errors import InputError
from evomal.losses.form import FLOATS, HALVES


def computed(pred: Tensor, target: Tensor) -> tuple[Tensor, torch.dtype]:
    """`pred` in the precision of the computation, and the dtype of the result.

    As in torch's losses, the result has the promoted dtype of `pred` and a floating-point target,
    and at least float32 under autocast. It is computed in that dtype, or in float32 instead of
    float16 or bfloat16.

    Raises
    ------
    InputError
        If they are not tensors of supported dtypes on one device.
    """
    _require_tensor("pred", pred)
    _require_tensor("target", target)
    if pred.device != target.device:
        raise InputError(
            f"The target is on {target.device}, but pred is on {pred.device}; move it with "
            "target.to(pred.device)."
        )
    dtype, other = pred.dtype, target.dtype
    if dtype not in FLOATS:
        raise InputError(f"A loss needs pred with a real floating-point dtype, not {dtype}.")
    if other.is_complex or (other.is_floating_point and other not in FLOATS):
        raise InputError(
            f"A loss takes a target of integers or of a real floating type of 16 to 64 bits, but "
            f"it is of {other}."
        )
    if other != dtype and other.is_floating_point:
        dtype = torch.promote_types(dtype, other)
    if dtype not in HALVES:
        return (pred if pred.dtype == dtype else pred.to(dtype)), dtype
    return pred.float(), torch.float32 if _is_autocast(pred.device) else dtype


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which matrix products are not rounded to half precision."""
    return torch.autocast(device.type, enabled=False) if _is_autocast(device) else nullcontext()


def _is_autocast(device: torch.device) -> bool:
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _require_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise InputError(
            f"A loss takes tensors, but {name} is of type {type(value).__name__}; "
            f"convert arrays and lists with torch.as_tensor({name})."
        )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is an ordinary one, not traced by torch.func or a compiler."""
    if torch.compiler.is_compiling():
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:  # a wrapper of other tensors, without its own memory
        return False
    return True


def extra_input(name: str, given: Any, like: Tensor) -> Tensor:
    """An extra input of a loss as a tensor with the dtype and device of `like`.

    Raises
    ------
    InputError
        If it does not consist of real numbers.
    """
    dtype, device = like.dtype, like.device
    if isinstance(given, (int, float)) and torch.compiler.is_compiling():
        # Creating the tensor by a computation lets one compiled graph serve for all numbers.
        return torch.ones((), dtype=dtype, device=device) * given
    what = f"The values of the input {name!r} of the loss"
    if isinstance(given, Tensor):
        value = given
    elif torch.compiler.is_compiling():
        value = torch.as_tensor(np.array(given))
    else:
        value = read_array(given, what)
    if value.is_complex():
        raise InputError(f"{what} are complex; pass real and imaginary parts as two inputs.")
    return value.to(device, dtype)
