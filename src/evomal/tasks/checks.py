"""What a task checks about the device and the model factory that it is given."""

from __future__ import annotations

import torch
from torch import nn

from evomal.errors import InputError


def available_device(device: str | torch.device) -> torch.device:
    """The device, if torch can compute on it; ``"auto"`` means a GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device {str(device)!r} cannot be used: {first_line(error)}"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"The device {str(device)!r} is not supported; use cpu or cuda.")
    return device


def require_separate(first: nn.Module, second: nn.Module) -> None:
    """Raise an `InputError` if two modules of a factory share memory, as a fixed backbone would."""
    tensors = [
        {t.data_ptr() for t in m.state_dict().values() if t.numel()} for m in (first, second)
    ]
    if first is second or tensors[0] & tensors[1]:
        raise InputError(
            "The model factory must return a new module at every call, but two calls share "
            "parameters or buffers; copy.deepcopy what is reused inside the factory."
        )


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
