"""What a task checks about the device and the model factory that it is given."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

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


def channels_last(learner: nn.Module) -> nn.Module:
    """The same network, the channels of its convolutions' weights the last in memory."""
    return learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def images_channels_last(images: Tensor) -> Tensor:
    """The same images (B, C, H, W), their channels the last in memory.

    With one channel, too: there both orders are the same memory, and ``torch.contiguous`` leaves
    strides that convolutions take for channels first, so that all that follows would be slow.
    """
    height, width = images.shape[2:]
    if images.shape[1] == 1:
        return images.reshape(len(images), height, width, 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def runs_channels_last(learner: nn.Module, inputs: Tensor) -> bool:
    """Whether a network of convolutions takes images whose channels are the last in memory.

    Not with dropout, which draws its masks in the order of the memory, so that two ways to compute
    the same would not draw the same; nor with group normalisation, whose rule for forward-mode
    differentiation takes the usual order only.
    """
    is_image = inputs.ndim == 4 and inputs.is_floating_point()
    kinds = [type(module) for module in learner.modules()]
    convolves = any(issubclass(kind, nn.Conv2d) for kind in kinds)
    drops = any("Dropout" in kind.__name__ for kind in kinds)
    groups = any(issubclass(kind, nn.GroupNorm) for kind in kinds)
    if not is_image or not convolves or drops or groups:
        return False
    try:
        twin = channels_last(copy.deepcopy(learner))
        twin.eval()(images_channels_last(inputs))
    except RuntimeError:
        return False
    return True


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
