"""Checks of a task's device and model factory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from evomal.errors import InputError, first_line, named, quoted
from evomal.seeding import derive_seed, isolated_rng
from evomal.tasks.functions import function_name, required_arguments
from evomal.tasks.inputs import Inputs, arguments_of, mapped, shapes_of, tensors_of

OWN_CODE_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    OSError,
)
"""Errors that user code may raise on unexpected data."""


def available_device(device: str | torch.device) -> torch.device:
    """The device, if torch can use it; ``"auto"`` means a GPU if available."""
    if not isinstance(device, str | torch.device):
        raise InputError(f"The device must be text such as 'cuda:0', got {quoted(device)}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        if found.type in ("cpu", "cuda"):
            torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device {quoted(str(device))} cannot be used: {first_line(error)}"
        ) from error
    if found.type not in ("cpu", "cuda"):
        raise InputError(f"The device {quoted(str(device))} cannot be used; only cpu and cuda can.")
    return found


def model_factory(model: object) -> Callable[[], nn.Module]:
    """A function, class or other object that can be called without arguments."""
    if isinstance(model, nn.Module):
        raise InputError(
            f"The model is a network, {type(model).__name__}, but every training needs a new one: "
            "pass its class, functools.partial(Net, ...) or `lambda: Net(...)`."
        )
    if not callable(model):
        raise InputError(
            "The model must be a function that returns a new network, such as "
            f"`lambda: Net(...)`, got {quoted(model)}."
        )
    needed = required_arguments(model)
    if needed:
        name = function_name(model)
        raise InputError(
            f"The model is called without arguments, but {name} needs {', '.join(needed)}; pass "
            f"them with `lambda: Net(...)` or functools.partial(Net, ...)."
        )
    return model


def require_usable(learner: object) -> None:
    """Raise an `InputError` if a factory did not return a network that is ready to train."""
    if not isinstance(learner, nn.Module):
        raise InputError(
            "The model factory must return a new torch.nn.Module, "
            f"but returned a {type(learner).__name__}."
        )
    for module in learner.modules():
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise InputError(
                f"The model is wrapped in {type(module).__name__}; return the network itself: "
                "a search uses several devices through its workers."
            )
    if any(tensor.is_meta for tensor in [*learner.parameters(), *learner.buffers()]):
        raise InputError(
            "The model is on the meta device, where parameters have no values; create it on a CPU "
            "or GPU."
        )


def is_lazy(learner: nn.Module) -> bool:
    """Whether a network has lazy layers, whose shapes are not known yet."""
    tensors = [*learner.parameters(), *learner.buffers()]
    return any(nn.parameter.is_lazy(tensor) for tensor in tensors)


def materialise(learner: nn.Module, inputs: Inputs, seed: int) -> None:
    """Give lazy layers their shapes and parameters, with a pass in eval mode.

    Raises
    ------
    InputError
        If the pass fails, or does not reach all of them.
    """
    device = next(learner.parameters()).device  # the factory's choice, usually a CPU
    args, kwargs = arguments_of(mapped(lambda tensor: tensor.to(device, copy=True), inputs))
    try:
        with torch.no_grad(), isolated_rng(device, derive_seed(seed, "lazy layers")):
            learner.eval()(*args, **kwargs)
    except OWN_CODE_ERRORS as error:
        raise InputError(
            "The lazy layers of the model cannot take their shapes from two training rows of "
            f"{shapes_of(inputs)}: {named(error)}"
        ) from error
    if is_lazy(learner):
        raise InputError(
            "The model has lazy layers that a batch does not reach in eval mode, so that their "
            "shapes stay unknown; use layers with sizes, such as nn.Linear, for them."
        )


def require_separate(first: nn.Module, second: nn.Module) -> None:
    """Raise an `InputError` if two modules of a factory share memory, as a fixed backbone would."""
    tensors = [
        {t.data_ptr() for t in m.state_dict().values() if isinstance(t, Tensor) and t.numel()}
        for m in (first, second)
    ]
    if first is second or tensors[0] & tensors[1]:
        raise InputError(
            "The model factory must return a new module at every call, but two calls share "
            "parameters or buffers; use copy.deepcopy for reused modules in the factory."
        )


def channels_last(learner: nn.Module) -> nn.Module:
    """The same network, with the weights of convolutions in channels-last memory format."""
    return learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def images_channels_last(images: Tensor) -> Tensor:
    """The same images (B, C, H, W) in channels-last memory format; others are left alone.

    This includes images with one channel, for which ``torch.contiguous`` leaves channels-first
    strides, so that convolutions would be slow.
    """
    if images.ndim != 4 or not images.is_floating_point():
        return images
    height, width = images.shape[2:]
    if images.shape[1] == 1:
        return images.reshape(len(images), height, width, 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def runs_channels_last(learner: nn.Module, inputs: Inputs) -> bool:
    """Whether a convolutional network can use channels-last images.

    Not with dropout, whose masks depend on the memory format, so that engines would differ; nor
    with group normalisation, whose forward-mode rule supports only the default format.
    """
    is_image = any(one.ndim == 4 and one.is_floating_point() for one in tensors_of(inputs))
    kinds = [type(module) for module in learner.modules()]
    convolves = any(issubclass(kind, nn.Conv2d) for kind in kinds)
    drops = any("Dropout" in kind.__name__ for kind in kinds)
    groups = any(issubclass(kind, nn.GroupNorm) for kind in kinds)
    if not is_image or not convolves or drops or groups:
        return False
    try:
        twin = channels_last(copy.deepcopy(learner))
        args, kwargs = arguments_of(mapped(images_channels_last, inputs))
        twin.eval()(*args, **kwargs)
    except RuntimeError:
        return False
    return True
